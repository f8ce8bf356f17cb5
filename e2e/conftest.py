"""The meshes that tests share. Each `weir up` is ended as a user would end it, also when a test failed."""

import itertools
import re
import socket

import pytest

from harness import ROOT, Mesh

PORTS = itertools.count(17443)


def free_port():
    """A loopback port that nobody listens on."""
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def start(name, args=None, user=None):
    ports = {which: free_port() for which in ("api_port", "store_port", "http_port", "https_port")}
    return Mesh(name, **ports, args=args, user=user)


def ready(name, args=None):
    """For fixtures: a mesh that is ready, and gone afterwards."""
    running = start(name, args)
    try:
        yield running.wait_ready()
    finally:
        try:
            running.stop()
        finally:
            running.remove()


@pytest.fixture(scope="session")
def mesh():
    """One mesh with bookinfo for all tests that do not break it."""
    yield from ready("shared", ["-f", str(ROOT / "samples" / "bookinfo")])


@pytest.fixture(params=["weir", "envoy"])
def engine(request):
    """The two data planes: what holds for one must hold for the other."""
    return request.param


@pytest.fixture
def namespace(request, mesh):
    """A namespace of the test's own, deleted afterwards (in the background: deletion has its own test)."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_")).strip("-")
    assert len(name) <= 63, f"{name}: too long for a namespace"
    mesh.kubectl("create", "namespace", name)
    yield name
    mesh.kubectl("delete", "namespace", name, "--wait=false", check=False)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of what `weir up` printed."""
    outcome = yield
    report = outcome.get_result()
    mesh = getattr(item, "funcargs", {}).get("mesh")
    if report.when == "call" and report.failed and mesh is not None:
        report.sections.append(("weir up", mesh.log()[-3000:]))
