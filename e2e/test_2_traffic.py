"""The contract of the labels with real requests, on both engines; and no failed request during any change."""

import json
import re
import subprocess
import time
from collections import Counter

from harness import parse_exposition, tool, total, wait_until
from manifests import deployment, meshed, service

LOAD = ["--rate", "100", "--concurrency", "8", "--report", "1s", "--json"]


def summary(mesh, namespace, pod):
    """What the load generator counted so far: the sum of its report lines."""
    status, errors = Counter(), Counter()
    for line in mesh.kubectl("logs", pod, "-n", namespace).splitlines():
        if line.startswith("{"):
            report = json.loads(line)
            status.update(report["status"])
            errors.update(report["error"])
    return {"status": dict(status), "error": {reason: count for reason, count in errors.items() if count}}


def only_pod(mesh, namespace, app):
    pods = [pod for pod in mesh.pods(namespace, f"app={app}") if "deletionTimestamp" not in pod["metadata"]]
    assert len(pods) == 1, [pod["metadata"]["name"] for pod in pods]
    return pods[0]["metadata"]["name"]


def test_port_label_opens_and_closes(mesh, namespace, engine):
    """Scenario 4 (404 -> 200 -> 404) and 8 (service port 80 -> targetPort 8080, by number and by name)."""
    echo = ["http-echo", "--listen", "0.0.0.0:8080"]
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=(
        deployment("echo", echo, ports={"web": 8080}, probe=8080)
        + service("by-number", 80, 8080, app="echo")
        + service("by-name", 80, "web", app="echo")
        + deployment("client", ["http-echo", "--listen", "0.0.0.0:8081"], labels=meshed(engine))
    ))
    wait_until("the pods", lambda: mesh.pods_ready(namespace, 2), 60)
    client = only_pod(mesh, namespace, "client")
    mesh.wait_proxied(namespace, [client])

    for name in ("by-number", "by-name"):
        url = f"http://{name}/hello"
        assert mesh.curl_status(namespace, client, url) == "404", "an unlabelled port is blocked"
        mesh.kubectl("label", "service", name, "-n", namespace, "traffic.port.80=http")
        changed = time.monotonic()
        wait_until(f"200 from {url} after labelling", lambda: mesh.curl_status(namespace, client, url) == "200", 10)
        print(f"{engine} {name}: open after {time.monotonic() - changed:.2f} s")
        for host in (name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local"):
            assert mesh.curl_status(namespace, client, f"http://{host}/") == "200", host
        mesh.kubectl("label", "service", name, "-n", namespace, "traffic.port.80-")
        wait_until(f"404 from {url} after the label was removed", lambda: mesh.curl_status(namespace, client, url) == "404", 10)
    blocked = mesh.exec(namespace, client, "curl", "-s", "-m", "5", "http://by-name/")
    assert "traffic.port.80" in blocked, f"the answer says which label opens the port: {blocked!r}"


SETTINGS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: weir-mesh, namespace: weir-system}
data: {config.yaml: "accessLog: true"}
"""


def test_access_log(mesh, namespace, engine):
    """The mesh's `accessLog`: a request is one line of the same form on the output of either engine."""
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=(
        deployment("echo", ["http-echo", "--listen", "0.0.0.0:8080"], ports={"web": 8080}, probe=8080)
        + service("echo", 80, 8080, labels={"traffic.port.80": "http"})
        + deployment("client", ["http-echo", "--listen", "0.0.0.0:8081"], labels=meshed(engine))
    ))
    wait_until("the pods", lambda: mesh.pods_ready(namespace, 2), 60)
    client = only_pod(mesh, namespace, "client")
    mesh.wait_proxied(namespace, [client])
    wait_until("an answer", lambda: mesh.curl_status(namespace, client, "http://echo/") == "200", 30)
    line = re.compile(
        r'^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] "GET /logged\?n=\d+ HTTP/1\.1" 200 - 0 \d+ \d+ (\d+|-)'
        r' "-" "curl/[^"]+" "[0-9a-f-]+" "echo" "[0-9.]+:8080"$', re.MULTILINE)
    mesh.apply(SETTINGS)
    try:
        asked = 0

        def logged():
            nonlocal asked
            asked += 1
            assert mesh.curl_status(namespace, client, f"http://echo/logged?n={asked}") == "200"
            return line.search(mesh.weir("proxies", "logs", f"{client}.{namespace}").stdout)

        print(engine, wait_until("a line of a request in the proxy's log", logged, 60).group(0))
    finally:
        mesh.kubectl("delete", "configmap", "weir-mesh", "-n", "weir-system", "--ignore-not-found")


def ready_endpoints(mesh, namespace, service_name):
    slices = mesh.get("endpointslices", "-n", namespace, "-l", f"kubernetes.io/service-name={service_name}")["items"]
    return sum(endpoint["conditions"]["ready"] for item in slices for endpoint in item.get("endpoints") or [])


def load(mesh, namespace, engine=None, replicas=1):
    """An echo service (port opened for meshed clients) and a client that drives it with 100 requests a second."""
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=(
        deployment("echo", ["http-echo", "--listen", "0.0.0.0:8080"], replicas=replicas, probe=8080, grace=15)
        + service("echo", 80, 8080, labels={"traffic.port.80": "http"})
    ))
    wait_until("the echo endpoints", lambda: ready_endpoints(mesh, namespace, "echo") == replicas, 60)
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=(
        deployment("client", ["client", "--target", "http://echo/", "--keepalive", *LOAD],
                     labels=meshed(engine) if engine else None)
        + deployment("fresh", ["client", "--target", "http://echo/", *LOAD],
                     labels=meshed(engine) if engine else None)
    ))
    wait_until("the load's pods", lambda: mesh.pods_ready(namespace, replicas + 2), 60)
    client = only_pod(mesh, namespace, "client")
    if engine:
        mesh.wait_proxied(namespace, [client, only_pod(mesh, namespace, "fresh")])
    wait_until("requests", lambda: summary(mesh, namespace, client)["status"].get("200", 0) > 100, 30)
    return client


def assert_no_failures(mesh, namespace):
    """Neither the client that keeps connections nor the one that opens a fresh one for each request saw a failure."""
    seen = {app: summary(mesh, namespace, only_pod(mesh, namespace, app)) for app in ("client", "fresh")}
    for counts in seen.values():
        failed = {status: count for status, count in counts["status"].items() if not status.startswith("2")}
        assert not failed and not counts["error"] and counts["status"].get("200"), seen
    return seen


def progress(mesh, namespace, client, requests=150):
    """Lets the load go on for some requests: real time passes, measured in requests seen."""
    start = summary(mesh, namespace, client)["status"].get("200", 0)
    wait_until(f"{requests} more requests", lambda: summary(mesh, namespace, client)["status"].get("200", 0) >= start + requests, 30)


def test_enable_and_disable_under_load(mesh, namespace, engine):
    """A running deployment gets a proxy and loses it again, twice, on both sides, without a failed request."""
    client = load(mesh, namespace)
    echo = only_pod(mesh, namespace, "echo")
    fresh = only_pod(mesh, namespace, "fresh")
    for _ in range(2):
        mesh.kubectl("label", "deployment", "client", "fresh", "echo", "-n", namespace, "traffic.envoy.enabled=true", f"traffic.proxy.engine={engine}", "--overwrite")
        mesh.wait_proxied(namespace, [client, fresh, echo])
        progress(mesh, namespace, client)
        mesh.kubectl("label", "deployment", "client", "fresh", "echo", "-n", namespace, "traffic.envoy.enabled=false", "--overwrite")
        for pod in (client, fresh, echo):
            wait_until(f"{pod} without a proxy", lambda pod=pod: mesh.proxy_id(namespace, pod) == "", 60)
        progress(mesh, namespace, client)
    print(engine, assert_no_failures(mesh, namespace))


def test_scale_under_load(mesh, namespace, engine):
    """Endpoints come and go; a terminating pod finishes what it was given."""
    client = load(mesh, namespace, engine)
    for replicas in (4, 2, 5, 1):
        mesh.kubectl("scale", "deployment", "echo", "-n", namespace, f"--replicas={replicas}")
        wait_until(
            f"{replicas} echo pods",
            lambda: len(mesh.pods(namespace, "app=echo")) == replicas and mesh.pods_ready(namespace, replicas, "app=echo"),
            60,
        )
        progress(mesh, namespace, client)
    print(engine, assert_no_failures(mesh, namespace))


def test_tcp_streams_stay_with_the_draining_proxy(mesh, namespace, engine):
    """A long TCP stream goes on, byte for byte, while its proxy is taken away."""
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=(
        deployment("sink", ["tcp-echo", "--listen", "0.0.0.0:7000"])
        + service("sink", 7000, 7000, labels={"traffic.port.7000": "tcp"})
        + deployment("stream", ["http-echo", "--listen", "0.0.0.0:8081"], labels=meshed(engine))
    ))
    wait_until("the pods", lambda: mesh.pods_ready(namespace, 2), 60)
    pod = only_pod(mesh, namespace, "stream")
    mesh.wait_proxied(namespace, [pod])
    stream = subprocess.Popen(
        [tool("kubectl"), "--kubeconfig", str(mesh.kubeconfig), "exec", "-n", namespace, pod, "--",
         "bookinfo", "tcp-client", "--target", "sink:7000", "--duration", "12s"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=mesh.environment,
    )
    try:
        def open_streams():
            return total(parse_exposition(mesh.proxy_metrics(namespace, pod)), "tcp_open_connections", direction="outbound", dst_service="sink") >= 1

        wait_until("the stream in the proxy's figures", open_streams, 10)
        mesh.kubectl("label", "deployment", "stream", "-n", namespace, "traffic.envoy.enabled=false", "--overwrite")
        out, err = stream.communicate(timeout=60)
    finally:
        if stream.poll() is None:
            stream.kill()
            stream.communicate()
    assert stream.returncode == 0, out + err
    seen = json.loads(out.strip().splitlines()[-1])
    assert seen["bytes_sent"] == seen["bytes_verified"] > 0, seen
    wait_until("the proxy to be gone", lambda: mesh.proxy_id(namespace, pod) == "", 60)
    assert mesh.curl_status(namespace, pod, "http://sink:7000/") in ("000", "200"), "traffic flows without the proxy"


# An application of HTTP/2 that takes every request and answers none.
SILENT = """
import socket, threading
def hear(connection):
    connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    while connection.recv(65536):
        pass
listener = socket.create_server(("", 8080))
while True:
    threading.Thread(target=hear, args=(listener.accept()[0],), daemon=True).start()
"""


def test_a_call_lasts_as_long_as_its_caller_says(mesh, namespace, engine):
    """A caller that says how long it waits, and then waits on; a server that does not look. The proxy between them ends the call."""
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=(
        service("slow", 80, 8080, labels={"traffic.port.80": "grpc"})
        + deployment("caller", ["http-echo", "--listen", "0.0.0.0:8081"], labels=meshed(engine))
    ))
    mesh.kubectl("run", "slow", "-n", namespace, "--image=python", "--labels=app=slow", "--command", "--", "python3", "-c", SILENT)
    wait_until("the pods", lambda: mesh.pods_ready(namespace, 2), 60)
    caller = only_pod(mesh, namespace, "caller")
    mesh.wait_proxied(namespace, [caller])

    def call():
        answer = mesh.exec(
            namespace, caller, "curl", "-s", "-D", "-", "-m", "15", "--http2-prior-knowledge", "-H", "content-type: application/grpc",
            "-H", "te: trailers", "-H", "grpc-timeout: 400m", "--data-binary", "x", "http://slow/a.B/C", check=False,
        )
        assert "grpc-status: 4" in answer and "grpc-message: downstream duration timeout" in answer, answer
        return True

    wait_until("the call's end", call, 30)
    lines = parse_exposition(mesh.proxy_metrics(namespace, caller))
    assert any(("grpc_status", "4") in key[1] and ("classification", "failure") in key[1] for key in lines if key[0] == "response_total"), lines
