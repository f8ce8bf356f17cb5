"""The README's tour and the examples of every page of the documentation, typed in as they stand."""

import re
import subprocess

import pytest

from conftest import start
from harness import PROFILE_DIR, ROOT, TOOLS, wait_until
from pages import Command, File, Scene, Shell, read

# A report of measurements: its commands take minutes, and the benchmarks that they start have tests of their own.
WITHOUT = {"performance"}
PAGES = sorted(page.stem for page in (ROOT / "docs").glob("*.md") if page.stem not in WITHOUT)


@pytest.fixture(scope="module")
def mesh():
    """The mesh that every page begins with: `weir up -f samples/bookinfo`."""
    running = start("docs", ["-f", str(ROOT / "samples" / "bookinfo")])
    try:
        running.wait_ready()
        wait_until("bookinfo", lambda: running.pods_ready("default", 7), 60)
        wait_until("figures of productpage", lambda: "rps" in running.traffic("top", "deployments"), 60)
        yield running
    finally:
        try:
            running.stop()
        finally:
            running.remove()


@pytest.fixture(scope="module")
def scene(mesh):
    return Scene(mesh)


@pytest.fixture
def page_mesh(mesh, scene):
    """The mesh, which is put back afterwards to what it was."""
    wait_until("bookinfo", lambda: mesh.pods_ready("default", 7), 60)
    yield mesh
    scene.restore()


def tour_blocks():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tour = text.split("<!-- tour: start -->")[1].split("<!-- tour: end -->")[0]
    return re.findall(r"```sh\n(.*?)```", tour, re.S)


def test_tour(page_mesh):
    mesh = page_mesh
    blocks = tour_blocks()
    assert "weir up" in blocks[0] and len(blocks) > 8
    environment = dict(
        mesh.environment, PATH=f"{PROFILE_DIR}:{TOOLS}:{mesh.environment['PATH']}:/usr/sbin", KUBECONFIG=str(mesh.kubeconfig),
    )
    # One shell for all blocks, so that what one sets the next can use. Only the addresses differ from the text:
    # this mesh has a data directory and ports of its own.
    script = "set -eu -o pipefail\n"
    for number, block in enumerate(blocks[1:], 1):
        block = re.sub(r"^export KUBECONFIG=.*\n", "", block, flags=re.M)
        for of_text, here in (("9090", mesh.store_port), ("8080", mesh.http_port)):
            block = block.replace(f"127.0.0.1:{of_text}", f"127.0.0.1:{here}")
        script += f"echo '== block {number}'\n{block}\n"
        if "traffic.proxy.engine=envoy" in block:
            # A reader takes the second that the change needs; the script asks until it is there.
            # The row is there a moment before the new proxy has found the control plane.
            script += "for _ in $(seq 300); do weir proxies | grep envoy && weir check >/dev/null && break; sleep 0.2; done\n"
    done = subprocess.run(["bash", "-x"], input=script, text=True, capture_output=True, env=environment, cwd=ROOT, timeout=180)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    out = done.stdout
    assert re.search(r"^200$", out, re.M), "the open port answers 200"
    assert "traffic.port.9080" in out, "the blocked answer and the event name the label"
    assert "envoy" in out and "9080|default|reviews.outbound" in out


@pytest.mark.parametrize("name", PAGES)
def test_page(name, page_mesh):
    steps = read(ROOT / "docs" / f"{name}.md")
    assert any(isinstance(step, Command) and step.shown for step in steps), f"docs/{name}.md has no example whose output is shown"
    shell = Shell(page_mesh)
    try:
        for step in steps:
            shell.write(step) if isinstance(step, File) else shell.type(step)
    except AssertionError as error:
        raise AssertionError(f"docs/{name}.md: {error}\n{shell.output()[-3000:]}") from None
    finally:
        shell.end()
