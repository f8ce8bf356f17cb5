"""The README's tour, typed in as it stands."""

import re
import subprocess

from conftest import start
from harness import PROFILE_DIR, ROOT, TOOLS, wait_until


def tour_blocks():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tour = text.split("<!-- tour: start -->")[1].split("<!-- tour: end -->")[0]
    return re.findall(r"```sh\n(.*?)```", tour, re.S)


def test_tour():
    blocks = tour_blocks()
    assert "weir up" in blocks[0] and len(blocks) > 8
    mesh = start("tour", ["-f", str(ROOT / "samples" / "bookinfo")])
    try:
        mesh.wait_ready()
        wait_until("bookinfo", lambda: mesh.pods_ready("default", 7), 60)
        wait_until("figures of productpage", lambda: "rps" in mesh.traffic("top", "deployments"), 60)
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
                script += "for _ in $(seq 150); do weir proxies | grep envoy && break; sleep 0.2; done\n"
        done = subprocess.run(["bash", "-x"], input=script, text=True, capture_output=True, env=environment, cwd=ROOT, timeout=180)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        out = done.stdout
        assert re.search(r"^200$", out, re.M), "the open port answers 200"
        assert "traffic.port.9080" in out, "the blocked answer and the event name the label"
        assert "envoy" in out and "9080|default|reviews.outbound" in out
    finally:
        try:
            mesh.stop()
        finally:
            mesh.remove()
