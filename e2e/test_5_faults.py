"""Parts die under load: no failed request, and everything resumes by itself."""

import json
import os
import signal
import subprocess
import time

import pytest

from harness import command_line, tool, wait_until
from manifests import deployment, meshed, service
from test_2_traffic import assert_no_failures, load, only_pod, progress


def kill(mesh, *words):
    pids = mesh.processes(*words)
    assert pids, f"no process with {words}"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(f"the end of {pids}", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 10, 0.02)
    return pids


@pytest.fixture
def loaded(mesh, namespace, engine):
    """A meshed client and server under load; their proxies' processes must be the same at the end."""
    client = load(mesh, namespace, engine, replicas=2)
    words = ("proxy", "-c") if engine == "weir" else ("envoy-supervisor",)
    uids = [pod["metadata"]["uid"] for app in ("client", "fresh") for pod in mesh.pods(namespace, f"app={app}")]
    before = [mesh.processes(*words, uid) for uid in uids]
    assert all(len(pids) == 1 for pids in before), before
    yield namespace, client
    assert before == [mesh.processes(*words, uid) for uid in uids], "proxies are adopted, not restarted"


def still_configurable(mesh, namespace, client):
    """The control loop works again, from label to behaviour."""
    mesh.kubectl("label", "service", "echo", "-n", namespace, "traffic.port.81=http")
    mesh.kubectl("patch", "service", "echo", "-n", namespace, "--type=json",
                 "-p", '[{"op":"add","path":"/spec/ports/-","value":{"name":"again","port":81,"targetPort":8080}},{"op":"add","path":"/spec/ports/0/name","value":"first"}]')
    wait_until("port 81 to open", lambda: mesh.curl_status(namespace, client, "http://echo:81/") == "200", 30, 0.5)


def figures(mesh, namespace):
    """Fresh figures arrive: the count over the last seconds is above zero."""
    def recent():
        got = json.loads(mesh.raw(f"/apis/metrics.smi-spec.io/v1alpha1/namespaces/{namespace}/deployments/client/edges?t=15s"))
        return any(int(metric["value"]) > 0 for item in got["items"] for metric in item["metrics"] if metric["name"] == "success_count")
    wait_until("fresh figures", recent, 60, 0.5)


def test_control_plane_killed(mesh, loaded):
    namespace, client = loaded
    kill(mesh, "weir control")
    progress(mesh, namespace, client, 200)
    still_configurable(mesh, namespace, client)
    assert_no_failures(mesh, namespace)


# One connection, a request for each line that is read.
KEPT = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 8080, timeout=5)
for line in sys.stdin:
    connection.request("GET", "/")
    own = connection.sock.getsockname()
    answer = connection.getresponse()
    answer.read()
    print(answer.status, own, flush=True)
"""


def test_a_connection_outlives_its_listener_and_the_control_plane(mesh, namespace, engine):
    """A changed listener leaves its connections be; the clusters that these lead to stay, also for a control plane that never knew of them."""
    own = {"traffic.port.80": "http", "traffic.metrics.granularity": "service"}
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=(
        deployment("echo", ["http-echo", "--listen", "0.0.0.0:8080"], labels=meshed(engine), probe=8080)
        + service("echo", 80, 8080, labels=own)
        + deployment("caller", ["http-echo", "--listen", "0.0.0.0:8081"])
    ))
    wait_until("the pods", lambda: mesh.pods_ready(namespace, 2), 60)
    echo, caller = (only_pod(mesh, namespace, name) for name in ("echo", "caller"))
    mesh.wait_proxied(namespace, [echo])
    node = f"{echo}.{namespace}"

    def leads_to_own():
        return "inbound_service" in mesh.weir("config", node, "--type", "lds", "-o", "json").stdout

    def taken():
        [state] = [item["status"] for item in json.loads(mesh.raw("/apis/weir.dev/v1alpha1/proxies"))["items"] if item["status"]["nodeId"] == node]
        # Nothing stands there before anything was sent.
        return state["connected"] and state["synced"].get("lds") and all(state["synced"].values())

    wait_until("the port's own cluster", lambda: leads_to_own() and taken(), 15)
    address = mesh.get("pod", echo, "-n", namespace)["status"]["podIP"]
    client = subprocess.Popen(
        [tool("kubectl"), "--kubeconfig", str(mesh.kubeconfig), "exec", "-i", "-n", namespace, caller, "--", "python3", "-c", KEPT, address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=mesh.environment,
    )
    try:
        print("first", file=client.stdin, flush=True)
        first = client.stdout.readline()
        assert first.startswith("200 "), first
        mesh.kubectl("label", "service", "echo", "-n", namespace, "traffic.metrics.granularity-")
        wait_until("the change", lambda: not leads_to_own() and taken(), 15)
        # Not killed: a container that was killed before stays away for longer than connections take to drain.
        ended = set(mesh.processes("weir control"))
        mesh.kubectl("delete", "pod", "-n", "weir-system", "-l", "app=weir-control", "--wait=false")
        wait_until("the next control plane", lambda: mesh.processes("weir control") and not ended & set(mesh.processes("weir control")) and taken(), 30)
        print("second", file=client.stdin, flush=True)
        assert client.stdout.readline() == first, "the same connection, and no failure"
    finally:
        client.kill()
        client.wait()


def test_agent_killed(mesh, loaded):
    namespace, client = loaded
    kill(mesh, "weir agent")
    progress(mesh, namespace, client, 200)
    wait_until("the agent", lambda: mesh.pods_ready("weir-system", 3), 60)
    still_configurable(mesh, namespace, client)
    assert_no_failures(mesh, namespace)


def test_metrics_server_killed(mesh, loaded):
    namespace, client = loaded
    kill(mesh, "weir metrics")
    progress(mesh, namespace, client, 200)
    figures(mesh, namespace)
    assert_no_failures(mesh, namespace)


def test_api_server_restarted(mesh, loaded):
    namespace, client = loaded
    kill(mesh, "weir apiserver")
    wait_until("the API server", lambda: mesh.raw("/readyz").strip() == "ok", 30)
    progress(mesh, namespace, client, 200)
    still_configurable(mesh, namespace, client)
    figures(mesh, namespace)
    assert_no_failures(mesh, namespace)


def test_proxy_killed(mesh, namespace, engine):
    """Serving again within a second; measured with a request every few milliseconds."""
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=(
        deployment("echo", ["http-echo", "--listen", "0.0.0.0:8080"], probe=8080)
        + service("echo", 80, 8080, labels={"traffic.port.80": "http"})
        + deployment("caller", ["http-echo", "--listen", "0.0.0.0:8081"], labels=meshed(engine))
    ))
    wait_until("the pods", lambda: mesh.pods_ready(namespace, 2), 60)
    caller = only_pod(mesh, namespace, "caller")
    mesh.wait_proxied(namespace, [caller])
    wait_until("an open port", lambda: mesh.curl_status(namespace, caller, "http://echo/") == "200", 15)
    uid = mesh.get("pod", caller, "-n", namespace)["metadata"]["uid"]
    (victim,) = kill_one(mesh, uid, engine)
    died = time.monotonic()
    wait_until("service through the new proxy", lambda: mesh.curl_status(namespace, caller, "http://echo/") == "200", 10, 0.01)
    took = time.monotonic() - died
    print(f"{engine}: serving again {took:.2f} s after SIGKILL of {victim}")
    assert took < 5, "far beyond what a restart takes, whatever the machine's load"


def kill_one(mesh, uid, engine):
    if engine == "envoy":
        pids = [pid for pid in mesh.processes("envoy", uid) if "envoy-supervisor" not in command_line(pid)]
    else:
        pids = mesh.processes("proxy", "-c", uid)
    assert len(pids) == 1, pids
    os.kill(pids[0], signal.SIGKILL)
    return pids
