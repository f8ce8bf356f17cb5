"""What every end-to-end test uses: a running `weir up`, real kubectl, and waits that say what they wait for.

Nothing here knows how Weir works inside; it drives the released binary as a user would.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools" / "bin"
PROFILE_DIR = ROOT / "target" / os.environ.get("WEIR_E2E_PROFILE", "release")
WEIR = PROFILE_DIR / "weir"
SAMPLES = ROOT / "samples"


def tool(name: str) -> str:
    """The path of a program that the tests need. Its absence is an error, never a skip."""
    path = os.pathsep.join([str(TOOLS), os.environ["PATH"], "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if not found:
        raise RuntimeError(f"{name} is not installed: run `make tools`")
    return found


class Timeout(AssertionError):
    """A wait that ran out; the message says what it waited for and what it saw last."""


class Died(Exception):
    """`weir up` ended while a test needed it: no wait goes on."""


# What a wait may take is written down for a machine that does nothing else; on a busy one it takes longer, and that is no fault.
PATIENCE = 4


def wait_until(what: str, probe, timeout: float = 30.0, interval: float = 0.1):
    """Calls probe() until it returns something true and returns that. Exceptions count as "not yet".

    `timeout`: seconds that it may take on an idle machine.
    """
    timeout *= PATIENCE
    deadline = time.monotonic() + timeout
    last = None
    while True:
        try:
            result = probe()
            if result:
                return result
            last = result
        except (AssertionError, KeyError, IndexError, ValueError, OSError, subprocess.SubprocessError) as error:
            last = error
        if time.monotonic() > deadline:
            raise Timeout(f"waited {timeout:.0f} s for {what}; last seen: {str(last)[:2000]}")
        time.sleep(interval)


class CommandFailed(AssertionError):
    pass


class Mesh:
    """One `weir up` with its own data directory and ports."""

    def __init__(
        self, name: str, api_port: int, store_port: int, http_port: int, https_port: int,
        args: list[str] | None = None, user: str | None = None,
    ):
        self.directory = Path(tempfile.mkdtemp(prefix=f"weir-e2e-{name}-"))
        binary = WEIR
        if user:
            # The checkout may lie where other users cannot look.
            for program in ("weir", "bookinfo"):
                shutil.copy2(PROFILE_DIR / program, self.directory / program)
            binary = self.directory / "weir"
            shutil.chown(self.directory, user)
            self.directory.chmod(0o755)
        self.data_dir = self.directory / "data"
        self.api_port = api_port
        self.store_port = store_port
        self.http_port = http_port
        self.https_port = https_port
        self.kubeconfig = self.data_dir / "kubeconfig"
        self.output = open(self.directory / "up.log", "w+", encoding="utf-8")
        environment = dict(os.environ, PATH=os.pathsep.join([str(TOOLS), os.environ["PATH"], "/usr/sbin", "/sbin"]))
        environment.pop("KUBECONFIG", None)
        # kubectl remembers an address's resources for hours: another mesh at the same port must not be mistaken for this one.
        environment["KUBECACHEDIR"] = str(self.directory / "kubectl-cache")
        # Started again with these, it is the same place for everybody.
        self.place = [
            "--data-dir", str(self.data_dir),
            "--api-address", f"127.0.0.1:{api_port}",
            "--store-address", f"127.0.0.1:{store_port}",
            "--ingress-address", f"127.0.0.1:{http_port}",
            "--ingress-tls-address", f"127.0.0.1:{https_port}",
        ]
        command = [str(binary), "up", *self.place, *(args or [])]
        if user:
            command = [tool("setpriv"), "--reuid", user, "--regid", "nogroup", "--clear-groups", "--inh-caps=-all", *command]
            environment["HOME"] = str(self.directory)
        self.environment = environment
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, stdout=self.output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            cwd=self.directory, start_new_session=True,
        )

    # -- life cycle

    def log(self) -> str:
        return (self.directory / "up.log").read_text(encoding="utf-8", errors="replace")

    def assert_running(self):
        if self.process.poll() is not None:
            raise Died(f"weir up ended with {self.process.returncode}:\n{self.log()[-4000:]}")

    def wait_ready(self, timeout: float = 90):
        """Until the API server answers and every system pod is Ready."""

        def api():
            self.assert_running()
            return self.kubeconfig.exists() and self.raw("/readyz").strip() == "ok"

        wait_until("the API server", api, timeout)
        wait_until("the system pods", lambda: self.pods_ready("weir-system", 3), timeout)
        wait_until("the gateway", lambda: self.pods_ready("default", 1, "app=traffic-ingress"), timeout)
        return self

    def stop(self, how=signal.SIGINT, timeout: float = 40) -> int:
        """Ends `weir up` as Ctrl-C does and waits for it."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
                raise Timeout(f"weir up did not end within {timeout} s of {how.name}:\n{self.log()[-2000:]}")
        return self.process.returncode

    def remove(self):
        self.output.close()
        if not os.environ.get("WEIR_E2E_KEEP"):
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- kubectl

    def kubectl(self, *args: str, input: str | None = None, check: bool = True, timeout: float = 60) -> str:
        done = self.kubectl_process(*args, input=input, timeout=timeout)
        if check and done.returncode != 0:
            raise CommandFailed(f"kubectl {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def kubectl_process(self, *args: str, input: str | None = None, timeout: float = 60):
        return subprocess.run(
            [tool("kubectl"), "--kubeconfig", str(self.kubeconfig), *args],
            input=input, text=True, capture_output=True, timeout=timeout, env=self.environment,
        )

    def get(self, *args: str) -> dict:
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def raw(self, path: str) -> str:
        return self.kubectl("get", "--raw", path)

    def apply(self, manifest: str) -> str:
        return self.kubectl("apply", "-f", "-", input=manifest)

    def weir(self, *args: str, check: bool = True, timeout: float = 60):
        done = subprocess.run(
            [str(WEIR), *args], text=True, capture_output=True, timeout=timeout,
            env=dict(self.environment, KUBECONFIG=str(self.kubeconfig)),
        )
        if check and done.returncode != 0:
            raise CommandFailed(f"weir {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def traffic(self, *args: str, check: bool = True) -> str:
        """`kubectl traffic ...`: the plugin found in PATH, as users call it."""
        done = subprocess.run(
            [tool("kubectl"), "traffic", *args], text=True, capture_output=True, timeout=60,
            env=dict(self.environment, KUBECONFIG=str(self.kubeconfig), PATH=f"{PROFILE_DIR}:{self.environment['PATH']}"),
        )
        if check and done.returncode != 0:
            raise CommandFailed(f"kubectl traffic {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    # -- what tests ask again and again

    def pods(self, namespace: str, selector: str | None = None) -> list[dict]:
        """A namespace's pods; of `default` only the user's own, not the gateway's and the trace collector's."""
        pods = self.get("pods", "-n", namespace, *(["-l", selector] if selector else []))["items"]
        of_weir = lambda pod: pod["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") == "weir"
        return [pod for pod in pods if selector or namespace == "weir-system" or not of_weir(pod)]

    def pods_ready(self, namespace: str, at_least: int, selector: str | None = None) -> bool:
        pods = [pod for pod in self.pods(namespace, selector) if "deletionTimestamp" not in pod["metadata"]]
        ready = [pod for pod in pods if is_ready(pod)]
        if len(ready) < at_least or len(ready) != len(pods):
            raise AssertionError({pod["metadata"]["name"]: pod.get("status", {}).get("containerStatuses") for pod in pods})
        return True

    def proxy_id(self, namespace: str, pod: str) -> str:
        annotations = self.get("pod", pod, "-n", namespace)["metadata"].get("annotations", {})
        return annotations.get("traffic.envoy.proxy", "")

    def wait_proxied(self, namespace: str, pods: list[str], timeout: float = 30):
        for pod in pods:
            wait_until(f"the proxy of {namespace}/{pod}", lambda pod=pod: self.proxy_id(namespace, pod), timeout)

    def proxy_metrics(self, namespace: str, pod: str) -> str:
        return self.raw(f"/api/v1/namespaces/{namespace}/pods/{pod}:8900/proxy/metrics")

    def exec(self, namespace: str, pod: str, *command: str, check: bool = True, timeout: float = 60) -> str:
        return self.kubectl("exec", "-n", namespace, pod, "--", *command, check=check, timeout=timeout)

    def curl_status(self, namespace: str, pod: str, url: str) -> str:
        """The HTTP status that `curl` in the pod sees; 000 when there was no answer."""
        return self.exec(
            namespace, pod, "curl", "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", url, check=False
        ).strip()

    def query(self, promql: str, at: float | None = None) -> list[dict]:
        """An instant query at the embedded store through the host's port."""
        import urllib.parse
        import urllib.request

        form = {"query": promql}
        if at is not None:
            form["time"] = f"{at:.3f}"
        url = f"http://127.0.0.1:{self.store_port}/api/v1/query?{urllib.parse.urlencode(form)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        return body["data"]["result"]

    def value(self, promql: str) -> float:
        result = self.query(promql)
        return float(result[0]["value"][1]) if result else 0.0

    def processes(self, *words: str) -> list[int]:
        """Process ids below this `weir up` whose command line contains all words."""
        return [pid for pid in descendants(self.process.pid) if all(word in command_line(pid) for word in words)]


def is_ready(pod: dict) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(errors="replace")
            except OSError:
                continue
            parent = int(stat.rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


def parse_exposition(text: str) -> dict[tuple, float]:
    """Canonical series of a /metrics page: (name, frozenset of labels) -> value. A malformed line raises ValueError."""
    series = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        head, _, value = line.rpartition(" ")
        name, labels = head, {}
        if "{" in head:
            name, _, rest = head.partition("{")
            rest = rest.rstrip("}")
            while rest:
                key, _, rest = rest.partition('="')
                text_value, index = "", 0
                while rest[index] != '"':
                    if rest[index] == "\\":
                        index += 1
                    text_value += rest[index]
                    index += 1
                labels[key] = text_value
                rest = rest[index + 1:].lstrip(",")
        series[(name, frozenset(labels.items()))] = float(value)
    return series


def total(series: dict[tuple, float], name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for (series_name, pairs), value in series.items() if series_name == name and wanted <= pairs)
