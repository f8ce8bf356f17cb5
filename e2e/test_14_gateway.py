"""The ingress gateway as a workload, and the objects around it as kubectl makes them. What it does with traffic: test_13."""

import json
import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request

import pytest

from conftest import start
from harness import ROOT, wait_until
from scenarios.certificates import certificate


@pytest.fixture(scope="module", params=["weir", "envoy"])
def mesh(request):
    """A mesh with the book shop and the sample Ingresses, all of one engine."""
    samples = [word for path in ("bookinfo", "ingress.yaml") for word in ("-f", str(ROOT / "samples" / path))]
    running = start(f"gateway-{request.param}", ["--proxy", request.param, *samples])
    try:
        running.wait_ready()
        wait_until("bookinfo", lambda: running.pods_ready("default", 7), 60)
        wait_until("the gateway", lambda: running.pods_ready("default", 1, "app=traffic-ingress"), 60)
        yield running
    finally:
        try:
            running.stop()
        finally:
            running.remove()


def ask(mesh, path, timeout=5.0):
    """Status and body of a GET from the machine."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{mesh.http_port}{path}", timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_walkthrough(mesh):
    """Three backends by one address: scenario 1, from the machine's own curl."""
    wait_until("productpage", lambda: ask(mesh, "/productpage")[0] == 200)
    assert "<html" in ask(mesh, "/productpage")[1]
    assert json.loads(ask(mesh, "/reviews/0")[1])["id"] == "0"
    assert json.loads(ask(mesh, "/api/v1/products")[1])[0]["title"]
    # The store asks for a token, here as everywhere.
    status, _ = ask(mesh, "/api/v1/label/__name__/values")
    assert status == 401, status
    assert ask(mesh, "/nothing")[0] == 404


def test_it_is_measured_as_a_pod(mesh):
    pod = mesh.pods("default", "app=traffic-ingress")[0]["metadata"]["name"]
    query = f'sum(request_total{{pod="{pod}",deployment="traffic-ingress",direction="outbound",dst_service="productpage"}})'

    def counted():
        ask(mesh, "/productpage")
        return mesh.value(query) > 0

    wait_until("the gateway's requests in the store", counted, 60, 0.5)
    assert f"default   {pod}" in mesh.kubectl("get", "targets", "-A") or pod in mesh.kubectl("get", "targets", "-n", "default")
    edges = lambda: re.search(r"^traffic-ingress\s+productpage-v1\s", mesh.traffic("edges", "deployments"), re.M)
    wait_until("the edge from the gateway", edges, 60, 0.5)
    assert mesh.weir("check", check=False).returncode == 0


def test_an_update_costs_no_request(mesh):
    """`rollout restart` under load: a new pod takes over before the old one ends."""
    stop, failed, sent = threading.Event(), [], [0]

    def load():
        while not stop.is_set():
            try:
                status, _ = ask(mesh, "/reviews/0")
                if status != 200:
                    failed.append(status)
            except OSError as error:
                failed.append(repr(error))
            sent[0] += 1

    loader = threading.Thread(target=load)
    loader.start()
    try:
        mesh.kubectl("rollout", "restart", "deployment/traffic-ingress")
        mesh.kubectl("rollout", "status", "deployment/traffic-ingress", "--timeout=60s", timeout=90)
        wait_until("one pod", lambda: len(mesh.pods("default", "app=traffic-ingress")) == 1, 60)
    finally:
        stop.set()
        loader.join()
    assert sent[0] > 50 and not failed, f"{len(failed)} of {sent[0]}: {failed[:5]}"


def test_a_restart_needs_no_control_plane(mesh):
    """The container dies while the control plane is away: it goes on with what is on its volume."""
    pod = mesh.pods("default", "app=traffic-ingress")[0]
    name = pod["metadata"]["name"]
    mesh.kubectl("scale", "deployment", "weir-control", "-n", "weir-system", "--replicas=0")
    try:
        wait_until("the end of the control plane", lambda: not mesh.pods("weir-system", "app=weir-control"), 60)
        for pid in mesh.processes("gateway", "--drain-seconds=30"):
            os.kill(pid, signal.SIGKILL)

        def again():
            status = mesh.get("pod", name)["status"]["containerStatuses"][0]
            return status["restartCount"] > 0 and status["ready"]

        wait_until("the container's second run", again, 60)
        wait_until("an answer", lambda: ask(mesh, "/productpage")[0] == 200)
    finally:
        mesh.kubectl("scale", "deployment", "weir-control", "-n", "weir-system", "--replicas=1")
    wait_until("the control plane", lambda: mesh.pods_ready("weir-system", 3), 60)


def test_load_balancers_have_the_address_that_is_reached(mesh, namespace):
    """No port of the machine is the Service's own: the ClusterIP, and pods reach it there."""
    service = mesh.get("service", "traffic-ingress")
    assert service["status"]["loadBalancer"]["ingress"] == [{"ip": service["spec"]["clusterIP"], "ipMode": "VIP"}], service["status"]
    row = mesh.kubectl("get", "service", "traffic-ingress").splitlines()[1].split()
    assert row[1] == "LoadBalancer" and row[3] == service["spec"]["clusterIP"], row
    mesh.kubectl("create", "service", "loadbalancer", "web", "-n", namespace, "--tcp=80:8080")
    address = lambda: mesh.get("service", "web", "-n", namespace)["status"]["loadBalancer"].get("ingress")
    wait_until("an address", address)
    mesh.kubectl("patch", "service", "web", "-n", namespace, "-p", '{"spec":{"type":"ClusterIP"}}')
    wait_until("no address any more", lambda: not address())


def test_ingresses_as_kubectl_makes_them(mesh, namespace):
    table = lambda *args: mesh.kubectl("get", "ingress", "-n", namespace, *args)
    mesh.kubectl("create", "ingress", "simple", "-n", namespace, "--class=weir", "--rule=shop.test/reviews*=reviews:9080,tls=cert")
    header, row = table().splitlines()
    assert header.split() == ["NAME", "CLASS", "HOSTS", "ADDRESS", "PORTS", "AGE"], header
    assert row.split()[:3] == ["simple", "weir", "shop.test"] and "80, 443" in row, row
    bad = mesh.kubectl_process("create", "ingress", "bad", "-n", namespace, "--rule=shop_test/=web:80")
    assert 'spec.rules[0].host: Invalid value: "shop_test"' in bad.stderr, bad.stderr
    chain, key, _ = certificate(["shop.test"])
    folder = mesh.directory
    (folder / "tls.crt").write_text(chain)
    (folder / "tls.key").write_text(key)
    mesh.kubectl("create", "secret", "tls", "cert", "-n", namespace, f"--cert={folder}/tls.crt", f"--key={folder}/tls.key")
    half = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "half", "namespace": namespace}, "type": "kubernetes.io/tls", "data": {"tls.crt": ""}}
    refused = mesh.kubectl_process("apply", "-f", "-", input=json.dumps(half))
    assert "data[tls.key]: Required value" in refused.stderr, refused.stderr
    mesh.kubectl("annotate", "ingressclass", "weir", "ingressclass.kubernetes.io/is-default-class=true")
    try:
        mesh.kubectl("create", "ingress", "classless", "-n", namespace, "--rule=any.test/=web:80")
        assert mesh.get("ingress", "classless", "-n", namespace)["spec"]["ingressClassName"] == "weir"
    finally:
        mesh.kubectl("annotate", "ingressclass", "weir", "ingressclass.kubernetes.io/is-default-class-")


def test_acme_sample(mesh):
    """Seed walkthrough: the challenge is answered in clear text, also once the host has TLS and redirects all else."""
    samples = ROOT / "samples"
    chain, key, _ = certificate(["shop.example.com"])
    (mesh.directory / "acme.crt").write_text(chain)
    (mesh.directory / "acme.key").write_text(key)
    mesh.kubectl("apply", "-f", str(samples / "http-text-response.yaml"), "-f", str(samples / "acme" / "10-challenge.yaml"))
    wait_until("the text's server", lambda: mesh.pods_ready("default", 1, "app=http-text-response"), 30)
    path = "/.well-known/acme-challenge/jLpYJvXE4mP32AgP42O4Ws-iT7_Z9St2pOjdlbqhkhA"

    def curl(url, *options):
        port = {"https": mesh.https_port, "http": mesh.http_port}[url.split(":")[0]]
        done = subprocess.run(
            ["curl", "-s", "-m", "5", "--connect-to", f"::127.0.0.1:{port}", "-w", "\n%{http_code}", *options, url],
            capture_output=True, text=True, timeout=15,
        )
        body, _, status = done.stdout.rpartition("\n")
        return status, body

    answered = lambda: curl(f"http://shop.example.com{path}") == ("200", path.rsplit("/", 1)[1] + ".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI")
    wait_until("the challenge's answer", answered)
    mesh.kubectl("create", "secret", "tls", "ingressgateway-certs", f"--cert={mesh.directory}/acme.crt", f"--key={mesh.directory}/acme.key")
    mesh.kubectl("apply", "-f", str(samples / "acme" / "20-https.yaml"))
    try:
        page = lambda: curl("https://shop.example.com/productpage", "--cacert", f"{mesh.directory}/acme.crt")
        wait_until("the page with a certificate that curl trusts", lambda: page()[0] == "200" and "<html" in page()[1])
        assert curl("http://shop.example.com/productpage")[0] == "308"
        assert answered(), "the challenge is still answered in clear text"
    finally:
        mesh.kubectl("delete", "-f", str(samples / "acme" / "20-https.yaml"), "-f", str(samples / "acme" / "10-challenge.yaml"))
        mesh.kubectl("delete", "secret", "ingressgateway-certs")
