"""Bad input: an error that names object and field, and nothing else changes."""

import json

import pytest

from harness import wait_until
from manifests import deployment, meshed, service


def problem_rows(mesh):
    return mesh.weir("check", check=False).stdout


@pytest.fixture
def client(mesh, namespace):
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=(
        deployment("good", ["http-echo", "--listen", "0.0.0.0:8080"], probe=8080)
        + service("good", 80, 8080, labels={"traffic.port.80": "http"})
        + deployment("client", ["http-echo", "--listen", "0.0.0.0:8081"], labels=meshed("weir"))
    ))
    wait_until("the pods", lambda: mesh.pods_ready(namespace, 2), 60)
    pod = mesh.pods(namespace, "app=client")[0]["metadata"]["name"]
    mesh.wait_proxied(namespace, [pod])
    wait_until("an open port", lambda: mesh.curl_status(namespace, pod, "http://good/") == "200", 15)
    yield pod
    assert mesh.curl_status(namespace, pod, "http://good/") == "200", "the good service is not disturbed"


def assert_reported(mesh, namespace, kind, name, field):
    def event():
        events = mesh.get("events", "-n", namespace)["items"]
        texts = [
            json.dumps(item) for item in events
            if (item.get("involvedObject") or item.get("regarding") or {}).get("name") == name
        ]
        return any(field in text for text in texts) or None

    wait_until(f"an Event on {kind} {name} that names {field}", event, 20, 0.5)
    rows = problem_rows(mesh)
    assert name in rows and field in rows, rows
    assert mesh.weir("check", check=False).returncode == 1


def test_unknown_protocol(mesh, namespace, client):
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=service("odd", 80, 8080, app="good", labels={"traffic.port.80": "quic"}))
    assert_reported(mesh, namespace, "Service", "odd", "traffic.port.80")
    assert mesh.curl_status(namespace, client, "http://odd/") == "404", "the port stays blocked"
    mesh.kubectl("delete", "service", "odd", "-n", namespace)
    wait_until("the row to go", lambda: "odd" not in problem_rows(mesh), 20, 0.5)


def test_weight_is_not_a_number(mesh, namespace, client):
    mesh.kubectl("label", "deployment", "good", "-n", namespace, "traffic.endpoint.weight=abc")
    def reported():
        rows = problem_rows(mesh)
        return "traffic.endpoint.weight" in rows and "abc" in rows
    wait_until("a row that names traffic.endpoint.weight", reported, 20, 0.5)
    assert mesh.curl_status(namespace, client, "http://good/") == "200", "the default weight applies"
    mesh.kubectl("label", "deployment", "good", "-n", namespace, "traffic.endpoint.weight-")


def test_service_without_selector(mesh, namespace, client):
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input="""
apiVersion: v1
kind: Service
metadata: {name: alone, labels: {traffic.port.80: http}}
spec: {ports: [{port: 80}]}
""")
    assert_reported(mesh, namespace, "Service", "alone", "spec.selector")
    mesh.kubectl("delete", "service", "alone", "-n", namespace)


def test_manifest_with_a_wrong_type(mesh, namespace, client):
    bad = mesh.kubectl_process("apply", "--validate=false", "-n", namespace, "-f", "-", input="""
apiVersion: v1
kind: Service
metadata: {name: broken}
spec: {ports: [{port: eighty}]}
""")
    assert bad.returncode != 0 and "port" in bad.stderr and "broken" in bad.stderr, bad.stderr
    assert mesh.kubectl_process("get", "service", "broken", "-n", namespace).returncode != 0


@pytest.mark.parametrize("behaviour", ["garbage", "endless"])
def test_broken_scrape_target(mesh, namespace, client, behaviour):
    """A pod that claims to have a proxy but answers garbage, or never ends: its target is down with a reason, others are not."""
    program = {
        "garbage": "self.wfile.write(b'<html>what{ }} is this\\n')",
        "endless": "[self.wfile.write(b'# a comment without end\\n' * 1000) for _ in range(10**9)]",
    }[behaviour]
    script = (
        "import http.server\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "  def do_GET(self):\n"
        "    self.send_response(200); self.end_headers()\n"
        f"    {program}\n"
        "http.server.ThreadingHTTPServer(('0.0.0.0', 8900), H).serve_forever()\n"
    )
    # The page's server, and a pod of another node that claims to have its proxy at that address: the agent of a pod's own node
    # would take a false claim back.
    mesh.apply(json.dumps({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "page", "namespace": namespace},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "python", "command": ["python3", "-c", script]}]},
    }))
    mesh.apply(json.dumps({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": behaviour, "namespace": namespace, "annotations": {"traffic.envoy.proxy": "pretender"}},
        "spec": {"nodeName": "elsewhere", "containers": [{"name": "main", "image": "python"}]},
    }))
    address = wait_until("the page's address", lambda: mesh.get("pod", "page", "-n", namespace)["status"].get("podIP"), 30)
    status = json.dumps({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}})
    mesh.kubectl("patch", "pod", behaviour, "-n", namespace, "--subresource=status", "--type=merge", "-p", status)
    wait_until("its target to be down", lambda: mesh.value(f'up{{namespace="{namespace}",pod="{behaviour}"}} == bool 0') == 1, 40, 0.5)
    wait_until("a row of weir check that names it", lambda: f"{namespace}/{behaviour}" in problem_rows(mesh) or behaviour in problem_rows(mesh), 20, 0.5)
    assert mesh.value(f'up{{namespace="{namespace}",pod="{client}"}}') == 1
    mesh.kubectl("delete", "pod", behaviour, "-n", namespace, "--grace-period=0", "--force")


def test_unknown_kind(mesh, namespace):
    """Told as by any Kubernetes, not as a fault of the server's schemas."""
    done = mesh.kubectl_process("apply", "-n", namespace, "-f", "-", input="""
apiVersion: nobody.example/v1
kind: Widget
metadata: {name: lonely}
""")
    assert done.returncode == 1
    assert 'no matches for kind "Widget" in version "nobody.example/v1"' in done.stderr, done.stderr
