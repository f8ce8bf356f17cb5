"""What a newcomer sees first: objects, figures, tables."""

import json
import re
import time

from harness import wait_until


def test_figures_appear(mesh):
    def figures():
        items = json.loads(mesh.raw("/apis/metrics.smi-spec.io/v1alpha1/namespaces/default/deployments"))["items"]
        counts = {
            item["resource"]["name"]: int(next(m["value"] for m in item["metrics"] if m["name"] == "success_count"))
            for item in items
        }
        missing = [name for name in ("productpage-v1", "details-v1", "reviews-v1", "ratings-v1") if not counts.get(name)]
        assert not missing, counts
        return counts

    wait_until("non-zero TrafficMetrics of all bookinfo workloads", figures, 60)
    print(f"figures {time.monotonic() - mesh.started:.1f} s after the start of weir up")


def test_top_and_edges_tables(mesh):
    table = wait_until(
        "productpage with a rate in `kubectl traffic top`",
        lambda: (text := mesh.traffic("top", "deployments")) and re.search(r"productpage-v1 .*rps", text) and text,
    )
    header = table.splitlines()[0].split()
    assert header[:3] == ["NAME", "SUCCESS", "RPS"] and header[-1] == "LATENCY_P99", table
    assert re.search(r"^productpage-v1\s+\d+\.\d\d%\s+\d+\.\drps\s+\d+ms$", table, re.M), table

    pairs = [("traffic-client", "productpage-v1"), ("productpage-v1", "details-v1"), ("reviews-v2", "ratings-v1")]
    shown = lambda edges: all(re.search(rf"^{source}\s+{destination}\s", edges, re.M) for source, destination in pairs)
    edges = wait_until("all pairs in `kubectl traffic edges`", lambda: (text := mesh.traffic("edges", "deployments")) and shown(text) and text)
    assert not re.search(r"^reviews-v1\s+ratings-v1\s", edges, re.M), f"reviews-v1 never calls ratings:\n{edges}"

    everything = mesh.traffic("top", "pods", "-A", "-o", "json")
    assert json.loads(everything)["kind"] == "TrafficMetricsList"
    selected = lambda: json.loads(mesh.traffic("top", "pods", "-l", "app=reviews", "-o", "json"))["items"]
    versions = {"reviews-v1", "reviews-v2", "reviews-v3"}
    wait_until("all reviews, and nobody else", lambda: {item["resource"]["name"].rsplit("-", 2)[0] for item in selected()} == versions)


def test_traffic_metrics_as_kubernetes_objects(mesh):
    got = json.loads(mesh.raw("/apis/metrics.smi-spec.io/v1alpha1/namespaces/default/deployments/reviews-v1"))
    assert got["kind"] == "TrafficMetrics" and got["apiVersion"] == "metrics.smi-spec.io/v1alpha1"
    assert got["edge"]["direction"] == "from" and got["resource"]["name"] == "reviews-v1"
    assert {metric["name"] for metric in got["metrics"]} >= {"success_count", "failure_count"}
    # Discovery, Table and errors as every other Kubernetes API has them.
    assert "trafficmetrics" in mesh.kubectl("api-resources", "--api-group=metrics.smi-spec.io").lower()
    table = mesh.kubectl("get", "deployments.metrics.smi-spec.io", "-n", "default")
    assert table.splitlines()[0].split()[0] == "NAME" and "reviews-v1" in table
    missing = mesh.kubectl_process("get", "--raw", "/apis/metrics.smi-spec.io/v1alpha1/namespaces/default/pods/nobody")
    assert missing.returncode != 0 and 'pods.metrics.smi-spec.io "nobody" not found' in missing.stderr, missing.stderr
    path = "/apis/metrics.smi-spec.io/v1alpha1/namespaces/default/deployments/productpage-v1/edges"
    directions = lambda: {(item["edge"]["direction"], item["edge"]["resource"]["name"]) for item in json.loads(mesh.raw(path))["items"]}
    wait_until("edges of productpage both ways", lambda: {("to", "details-v1"), ("from", "traffic-client")} <= directions())


def test_traffic_metrics_obey_rbac(mesh):
    """A service account sees only what its role says; `pods/edges` alone does not open `pods`."""
    mesh.kubectl("create", "namespace", "rbac-look")
    mesh.kubectl("create", "serviceaccount", "viewer", "-n", "rbac-look")
    token = mesh.kubectl("create", "token", "viewer", "-n", "rbac-look").strip()
    path = "/apis/metrics.smi-spec.io/v1alpha1/namespaces/default/pods"
    pod = mesh.pods("default", "app=details")[0]["metadata"]["name"]
    server = f"https://127.0.0.1:{mesh.api_port}"

    def as_viewer(url):
        return mesh.kubectl_process("--kubeconfig", "/dev/null", "--server", server, "--insecure-skip-tls-verify", "--token", token, "get", "--raw", url)

    assert "forbidden" in as_viewer(path).stderr.lower()
    mesh.apply("""
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: edges, namespace: default}
rules: [{apiGroups: [metrics.smi-spec.io], resources: [pods/edges], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: edges, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: edges}
subjects: [{kind: ServiceAccount, name: viewer, namespace: rbac-look}]
""")
    try:
        wait_until("the role to open pods/edges", lambda: as_viewer(f"{path}/{pod}/edges").returncode == 0, 30, 0.5)
        assert "forbidden" in as_viewer(path).stderr.lower(), "pods/edges must not open pods"
    finally:
        mesh.kubectl("delete", "rolebinding,role", "edges", "-n", "default")
        mesh.kubectl("delete", "namespace", "rbac-look", "--wait=false")


def test_check_says_all_is_well(mesh):
    def well():
        """The last proxy connects a moment after its pod is ready."""
        done = mesh.weir("check", check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return True

    wait_until("all to be well", well, 20, 0.5)
    proxies = mesh.weir("proxies").stdout
    pods = [pod["metadata"]["name"] for pod in mesh.pods("default")]
    for pod in pods:
        assert pod in proxies, proxies
    node = f"{pods[0]}.default"
    assert "9080|default|reviews.outbound" in mesh.weir("config", node).stdout


def test_plain_kubectl(mesh):
    """get, describe, logs, exec, label, annotate, scale, rollout, delete: the commands of a working day."""
    mesh.kubectl("create", "namespace", "plain")
    try:
        mesh.kubectl("create", "deployment", "sleeper", "-n", "plain", "--image=anything", "--", "sh", "-c",
                     "trap 'exit 0' TERM; echo hello from $HOSTNAME; while :; do sleep 0.2; done")
        wait_until("the sleeper", lambda: mesh.pods_ready("plain", 1), 30)
        mesh.kubectl("rollout", "status", "deployment/sleeper", "-n", "plain", "--timeout=30s")
        name = mesh.pods("plain")[0]["metadata"]["name"]
        wait_until("the log line", lambda: mesh.kubectl("logs", name, "-n", "plain").strip() == f"hello from {name}")
        failed = mesh.kubectl_process("exec", "-n", "plain", name, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
        assert (failed.returncode, failed.stdout.strip()) == (7, "out") and "err" in failed.stderr
        assert "nameserver 10.96.0.10" in mesh.exec("plain", name, "cat", "/etc/resolv.conf")
        mesh.kubectl("label", "deployment", "sleeper", "-n", "plain", "color=blue")
        assert mesh.kubectl("get", "deployment", "-n", "plain", "-l", "color=blue", "-o", "name").strip() == "deployment.apps/sleeper"
        mesh.kubectl("scale", "deployment", "sleeper", "-n", "plain", "--replicas=3")
        wait_until("three pods", lambda: mesh.pods_ready("plain", 3), 30)
        mesh.kubectl("rollout", "restart", "deployment/sleeper", "-n", "plain")
        mesh.kubectl("rollout", "status", "deployment/sleeper", "-n", "plain", "--timeout=60s")
        assert name not in [pod["metadata"]["name"] for pod in mesh.pods("plain") if "deletionTimestamp" not in pod["metadata"]]
        assert "sleeper" in mesh.kubectl("describe", "deployment", "sleeper", "-n", "plain")
        mesh.kubectl("create", "deployment", "nothing", "-n", "plain", "--image=nowhere/nothing:1")
        wait_until(
            "ErrImagePull in the status",
            lambda: "ErrImagePull" in mesh.kubectl("get", "pods", "-n", "plain") or "ImagePullBackOff" in mesh.kubectl("get", "pods", "-n", "plain"),
        )
    finally:
        mesh.kubectl("delete", "namespace", "plain", "--timeout=60s", timeout=90)
    assert "not found" in mesh.kubectl_process("get", "namespace", "plain").stderr.lower()
