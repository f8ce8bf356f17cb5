"""`weir store` follows a cluster by kubernetes_sd_configs: pods, Endpoints, EndpointSlices, Services and nodes that come and go."""

import json
import os
import signal

import pytest

from conftest import ready
from harness import Timeout, wait_until
from manifests import deployment, service
from test_15_store import Store

ROLES = ("pod", "endpoints", "endpointslice", "service", "node")
NAMESPACE = "shop"


@pytest.fixture(scope="module")
def mesh():
    """A mesh of its own: its API server is ended."""
    yield from ready("discovery")


def configuration(mesh):
    """A job for each role, of this cluster's namespace. Nobody answers there: from here the pods cannot be reached."""
    namespaces = f", namespaces: {{names: [{NAMESPACE}]}}"
    jobs = "".join(f"""
- job_name: {role}
  kubernetes_sd_configs: [{{role: {role}, kubeconfig_file: '{mesh.kubeconfig}'{namespaces if role != "node" else ""}}}]
  relabel_configs:
  - {{source_labels: [__meta_kubernetes_pod_phase], regex: Succeeded|Failed, action: drop}}
""" for role in ROLES)
    return f"global: {{scrape_interval: 30s, scrape_timeout: 1s}}\nscrape_configs:{jobs}"


def discovered(store, role):
    """The targets of a job: their labels before relabelling, by address."""
    active = json.loads(store.get("/api/v1/targets?state=active"))["data"]["activeTargets"]
    return {target["discoveredLabels"]["__address__"]: target["discoveredLabels"] for target in active if target["scrapePool"] == role}


def running(mesh):
    """Address -> name of the pods that serve, as the cluster knows them."""
    pods = [pod for pod in mesh.pods(NAMESPACE, "app=web") if "deletionTimestamp" not in pod["metadata"]]
    return {f"{pod['status']['podIP']}:8080": pod["metadata"]["name"] for pod in pods}


def follows(store, mesh, count):
    """Waits until the cluster has so many pods, and the store the same ones, by each way to find them."""
    wait_until(f"{count} pods", lambda: mesh.pods_ready(NAMESPACE, count) and len(running(mesh)) == count, 120)

    def same():
        pods = running(mesh)
        for role in ("pod", "endpointslice"):
            seen = {address: labels["__meta_kubernetes_pod_name"] for address, labels in discovered(store, role).items()}
            assert seen == pods, (role, seen, pods)
        return True

    try:
        wait_until(f"the store to follow to {count} pods", same, 60, 0.3)
    except Timeout as late:
        raise AssertionError(f"{late}\n{store.log.read_text()[-3000:]}") from late


def test_targets_follow_the_cluster(mesh, tmp_path):
    mesh.kubectl("create", "namespace", NAMESPACE)
    mesh.kubectl("apply", "-n", NAMESPACE, "-f", "-", input=(
        deployment("web", ["http-echo", "--listen", "0.0.0.0:8080"], replicas=2, probe=8080, ports={"http": 8080}, grace=2)
        + service("web", 80, 8080)
    ))
    store = Store(tmp_path, configuration(mesh))
    try:
        store.until("it is ready", lambda: store.get("/-/ready"))
        follows(store, mesh, 2)
        for address, labels in discovered(store, "pod").items():
            of_container = {name.removeprefix("__meta_kubernetes_pod_"): value for name, value in labels.items()}
            assert of_container["container_name"] == "web" and of_container["container_port_name"] == "http", labels
            assert labels["__meta_kubernetes_namespace"] == NAMESPACE and f"{of_container['ip']}:8080" == address
            assert of_container["controller_kind"] == "ReplicaSet" and of_container["label_app"] == "web", labels
        for labels in discovered(store, "endpointslice").values():
            assert labels["__meta_kubernetes_service_name"] == "web"
        # The slice says so a moment after the pod does.
        ready = "__meta_kubernetes_endpointslice_endpoint_conditions_ready"
        store.until("all to be ready", lambda: [labels[ready] for labels in discovered(store, "endpointslice").values()] == ["true", "true"])

        # A Service is one target, whatever stands behind it; a node its kubelet.
        store.until("the Service", lambda: list(discovered(store, "service")) == [f"web.{NAMESPACE}.svc:80"])
        [node] = mesh.get("nodes")["items"]
        store.until("the node", lambda: [labels["__meta_kubernetes_node_name"] for labels in discovered(store, "node").values()]
                    == [node["metadata"]["name"]])

        # Endpoints that somebody wrote by hand.
        mesh.apply(json.dumps({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "outside", "namespace": NAMESPACE},
            "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"name": "http", "port": 9100}]}]}))
        store.until("the Endpoints", lambda: list(discovered(store, "endpoints")) == ["192.0.2.7:9100"])
        mesh.kubectl("delete", "endpoints", "outside", "-n", NAMESPACE)
        store.until("the Endpoints to go", lambda: discovered(store, "endpoints") == {})

        # More of them; one that goes and is replaced.
        mesh.kubectl("scale", "deployment", "web", "-n", NAMESPACE, "--replicas=3")
        follows(store, mesh, 3)
        victim = sorted(running(mesh).values())[0]
        mesh.kubectl("delete", "pod", victim, "-n", NAMESPACE)
        follows(store, mesh, 3)
        assert victim not in [labels["__meta_kubernetes_pod_name"] for labels in discovered(store, "pod").values()]

        # The API server dies and comes back: the targets stay, and what happens afterwards is seen.
        before = {role: discovered(store, role).keys() for role in ROLES}
        [api_server] = mesh.processes("weir apiserver")
        os.kill(api_server, signal.SIGKILL)
        assert {role: discovered(store, role).keys() for role in ROLES} == before
        wait_until("the API server", lambda: mesh.raw("/readyz").strip() == "ok", 60)
        assert {role: discovered(store, role).keys() for role in ROLES} == before
        mesh.kubectl("scale", "deployment", "web", "-n", NAMESPACE, "--replicas=1")
        follows(store, mesh, 1)
        mesh.kubectl("delete", "service", "web", "-n", NAMESPACE)
        store.until("the Service to go", lambda: discovered(store, "service") == {} and discovered(store, "endpointslice") == {}, 60)
    finally:
        store.stop()
