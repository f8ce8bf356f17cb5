"""`weir up` leaves nothing behind, however it ends; and it runs without root."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from conftest import start
from harness import ROOT, WEIR, command_line, descendants, tool, wait_until
from manifests import deployment, meshed, service


def machine_state():
    """What `weir up` must not change: mounts, network namespaces, interfaces, firewall, routes, control groups."""
    def run(*command):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    cgroups = sorted(str(path) for path in Path("/sys/fs/cgroup").rglob("*") if path.is_dir() and "weir" in str(path))
    return {
        "mounts": Path("/proc/self/mounts").read_text(),
        "links": sorted(line.split(":")[1].strip() for line in run(tool("ip"), "-o", "link").splitlines()),
        "routes": run(tool("ip"), "route"),
        "firewall": run(tool("nft"), "list", "ruleset") if os.getuid() == 0 else "",
        "namespaces": sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else [],
        "cgroups": cgroups,
    }


def processes_of(data_dir: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and str(data_dir) in command_line(int(entry.name)):
            found.append(f"{entry.name} {command_line(int(entry.name))[:120]}")
    return found


@pytest.fixture
def lone():
    """A mesh of the test's own, which the test ends in its own way."""
    meshes = []

    def make(name, args=None, user=None):
        meshes.append(start(name, args, user))
        return meshes[-1]

    yield make
    for mesh in meshes:
        try:
            mesh.stop()
        finally:
            mesh.remove()


@pytest.mark.parametrize("how", ["interrupt", "terminate", "kill-outer", "kill-inner"])
def test_nothing_is_left(lone, how):
    before = machine_state()
    mesh = lone(how, ["-f", str(ROOT / "samples" / "bookinfo")]).wait_ready()
    wait_until("a bookinfo proxy", lambda: any(mesh.proxy_id("default", pod["metadata"]["name"]) for pod in mesh.pods("default")), 60)
    family = descendants(mesh.process.pid)
    assert len(family) > 8
    assert machine_state() == before, "the machine is not touched while it runs either"
    if how == "interrupt":
        assert mesh.stop(signal.SIGINT) == 0
    elif how == "terminate":
        assert mesh.stop(signal.SIGTERM) == 0
    elif how == "kill-outer":
        mesh.stop(signal.SIGKILL)
    else:
        os.kill(mesh.processes("weir", "node")[0], signal.SIGKILL)
        assert mesh.process.wait(20) != 0
        assert "ended unexpectedly" in mesh.log(), mesh.log()[-1000:]
    wait_until("the end of every process", lambda: not processes_of(mesh.data_dir) and not any(os.path.exists(f"/proc/{pid}") for pid in family), 20)
    assert machine_state() == before
    if how != "kill-outer":
        assert not mesh.data_dir.exists(), list(mesh.data_dir.rglob("*"))[:10]
        return
    # After a crash the next start cleans up and works.
    again = subprocess.Popen(
        [str(WEIR), "up", *mesh.place],
        stdout=mesh.output, stderr=subprocess.STDOUT, env=mesh.environment, cwd=mesh.directory, start_new_session=True,
    )
    mesh.process = again
    mesh.wait_ready()
    assert not any(pod for pod in mesh.pods("default")), "nothing of the crashed one came back"
    assert mesh.stop() == 0
    assert not mesh.data_dir.exists()
    assert machine_state() == before


@pytest.mark.parametrize("option", ["--api-address", "--ingress-address", "--ingress-tls-address"])
def test_failure_says_what_to_do(tmp_path, option):
    """A port that is taken: an error that names it and the option that changes it, exit code 1, nothing left."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        places = {
            "--api-address": "127.0.0.1:0", "--store-address": "127.0.0.1:0", "--ingress-address": "off", "--ingress-tls-address": "off",
            option: f"127.0.0.1:{port}",
        }
        done = subprocess.run(
            [str(WEIR), "up", "--data-dir", str(tmp_path / "data"), *(word for place in places.items() for word in place)],
            capture_output=True, text=True, timeout=30,
        )
    assert done.returncode == 1 and str(port) in done.stderr and "in use" in done.stderr.lower(), done.stderr
    assert option in done.stderr, done.stderr
    assert not (tmp_path / "data").exists()


def test_without_root(lone):
    """The short form as an unprivileged user: two meshed pods, a request through both proxies, figures, nothing left."""
    if os.getuid() != 0:
        pytest.fail("this test starts as root and steps down to an unprivileged user")
    user = "nobody"
    before = machine_state()
    mesh = lone("rootless", user=user).wait_ready(120)
    mesh.apply(
        deployment("echo", ["http-echo", "--listen", "0.0.0.0:8080"], labels=meshed("weir"), probe=8080)
        + service("echo", 80, 8080, labels={"traffic.port.80": "http"})
        + deployment("caller", ["client", "--target", "http://echo/", "--rate", "20"], labels=meshed("weir"))
    )
    wait_until("the pods", lambda: mesh.pods_ready("default", 2), 60)
    names = [pod["metadata"]["name"] for pod in mesh.pods("default")]
    mesh.wait_proxied("default", names)

    def figures():
        got = json.loads(mesh.raw("/apis/metrics.smi-spec.io/v1alpha1/namespaces/default/deployments/echo"))
        return int(next(metric["value"] for metric in got["metrics"] if metric["name"] == "success_count")) > 0

    wait_until("figures", figures, 60, 0.5)
    family = descendants(mesh.process.pid)
    assert mesh.stop() == 0
    wait_until("the end of every process", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in family), 20)
    assert machine_state() == before and not mesh.data_dir.exists()
