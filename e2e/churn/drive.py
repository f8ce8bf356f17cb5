"""Steady load through the mesh while random changes are made; every failed request is told with what happened around it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from churn.changes import Changes
from churn.cluster import FOLDER, Api, application, clients
from harness import tool, wait_until

CLIENTS = ("north", "south")
# By which the gateway knows the application.
HOST = "churn.test"
# What a proxy's log said from so long before a failure until so long after it.
BEFORE, AFTER = 1.5, 0.5
LOG_LINES = 12
# Changes are shown from so many seconds before a failure on: as long as a server that was ended may have served.
SHOWN = 12.0


@dataclass
class Result:
    engine: str
    seed: int
    # When, of which kind, and what.
    changes: list[tuple[float, str, str]] = field(default_factory=list)
    totals: dict[str, Counter] = field(default_factory=dict)
    failures: list[dict] = field(default_factory=list)

    def good(self) -> bool:
        return not self.failures and all(counts["good"] and not counts["failed"] for counts in self.totals.values())


class Logs:
    """The lines that proxies, the agent and the control plane write, with the time at which they were seen; also of those that go."""

    def __init__(self, mesh):
        node = mesh.data_dir / "node"
        self.patterns = (
            (node / "root/run/weir/proxies", "*/proxy.log"), (node / "logs", "weir-system_*/*/*.log"),
            (node / "logs", "default_traffic-ingress*/*/*.log"),
        )
        self.lines: list[tuple[float, str, str]] = []
        self.read: dict[Path, int] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self):
        while not self.over.wait(0.2):
            for folder, pattern in self.patterns:
                for path in folder.glob(pattern):
                    try:
                        with path.open("rb") as file:
                            file.seek(self.read.get(path, 0))
                            text = file.read()
                    except OSError:
                        continue
                    whole = text[: text.rfind(b"\n") + 1]
                    self.read[path] = self.read.get(path, 0) + len(whole)
                    now, name = time.time(), str(path.relative_to(folder))
                    self.lines += [(now, name, line) for line in whole.decode(errors="replace").splitlines()]

    def around(self, when: float, *words: str) -> list[str]:
        found = [
            f"{at - when:+.1f} s {name[:60]}: {line[:300]}" for at, name, line in list(self.lines)
            if when - BEFORE <= at <= when + AFTER and any(word in name for word in words)
        ]
        return found[-LOG_LINES:]

    def end(self):
        self.over.set()
        self.thread.join()


class Load:
    """The client pods, and clients on the host that come in by the gateway."""

    def __init__(self, mesh, namespace: str, rate: float):
        self.mesh, self.namespace = mesh, namespace
        self.outside: dict[str, subprocess.Popen] = {}
        self.lines: dict[str, list[str]] = {}
        for name, port, more in (("outside", mesh.http_port, []), ("outside by TLS", mesh.https_port, ["--tls"])):
            process = subprocess.Popen(
                [sys.executable, str(FOLDER / "load.py"), "--kinds", "kept,fresh,http2", "--rate", str(rate), "--web", f"127.0.0.1:{port}",
                 "--host", HOST, *more],
                stdout=subprocess.PIPE, text=True,
            )
            self.outside[name], self.lines[name] = process, []
            threading.Thread(target=self.lines[name].extend, args=(process.stdout,), daemon=True).start()

    def reports(self) -> dict[str, list[dict]]:
        """What each client told so far."""
        told = {}
        for name in CLIENTS:
            [pod] = [pod["metadata"]["name"] for pod in self.mesh.pods(self.namespace, f"name={name}") if "deletionTimestamp" not in pod["metadata"]]
            told[name] = self.mesh.kubectl("logs", pod, "-n", self.namespace).splitlines()
        for name, process in self.outside.items():
            assert process.poll() is None, f"the client {name} ended"
            told[name] = list(self.lines[name])
        return {name: [json.loads(line) for line in lines if line.startswith("{") and line.rstrip().endswith("}")] for name, lines in told.items()}

    def totals(self) -> dict[str, Counter]:
        return {
            f"{name} {kind}": Counter(counts)
            for name, reports in self.reports().items()
            for kind, counts in next((report["totals"] for report in reversed(reports) if "totals" in report), {}).items()
        }

    def quiet(self) -> bool:
        """Nothing is open for long: what was under way during the last change has ended. Streams are open all the time."""
        reports = self.reports()
        return all(next(report["oldest"] for report in reversed(lines) if "oldest" in report) < 16 for lines in reports.values())

    def end(self):
        for process in self.outside.values():
            process.kill()
            process.wait()


def churn(mesh, engine: str, seconds: float, seed: int, rate: int = 20, changes_a_second: float = 5.0, say=print) -> Result:
    """Runs load and changes on a mesh that is there; the namespace is left for the caller's end of the mesh."""
    namespace = f"churn-{engine}"
    result = Result(engine, seed)
    say(f"[{engine}] seed {seed}")
    mesh.kubectl("create", "namespace", namespace)
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=application(engine))
    wait_until("the servers", lambda: mesh.pods_ready(namespace, 7), 60)
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=clients(engine, rate))
    wait_until("the clients", lambda: mesh.pods_ready(namespace, 9), 60)
    mesh.wait_proxied(namespace, [pod["metadata"]["name"] for pod in mesh.pods(namespace)])
    changes = Changes(mesh, Api(mesh.kubeconfig), namespace, engine, seed)
    changes.secret()
    entrance(mesh, namespace)
    logs, load = Logs(mesh), Load(mesh, namespace, rate / 2)
    try:
        def flowing():
            totals = load.totals()
            assert len(totals) == 15 and all(counts["good"] or "tcp" in kind for kind, counts in totals.items()), totals
            return True

        wait_until("load of every kind", flowing, 20, 0.3)
        begin, number = time.time(), int(seconds * changes_a_second)
        for position in range(number):
            due = begin + position * seconds / number
            time.sleep(max(due - time.time(), 0))
            mesh.assert_running()
            result.changes.append((time.time(), *changes.make()))
        say(f"[{engine}] {len(result.changes)} changes in {time.time() - begin:.1f} s")
        over = time.time()
        # Requests that were under way have until their own timeout; then every failure has been told.
        wait_until("an end of what is under way", lambda: time.time() - over > 3 and load.quiet(), 30, 0.5)
        result.totals = load.totals()
        result.failures = sorted(
            ({"client": name, **report["failure"]} for name, reports in load.reports().items() for report in reports if "failure" in report),
            key=lambda failure: failure["at"],
        )
        tell(result, begin, mesh, namespace, logs, say)
    finally:
        load.end()
        logs.end()
    return result


def entrance(mesh, namespace: str):
    """An Ingress to `web`, by TLS and in clear text."""
    manifest = f"""
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: web, annotations: {{traffic.ingress.ssl-redirect: "false"}}}}
spec:
  ingressClassName: weir
  tls: [{{hosts: [{HOST}], secretName: churn-tls}}]
  rules:
  - host: {HOST}
    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}
"""
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=manifest)

    def lets_in():
        for scheme, port in (("http", mesh.http_port), ("https", mesh.https_port)):
            command = [
                tool("curl"), "-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "--connect-to", f"::127.0.0.1:{port}", f"{scheme}://{HOST}/",
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
            assert done.stdout == "200", f"{scheme}: {done.stdout} {done.stderr}"
        return True

    wait_until("the gateway to let requests in", lets_in, 20)


def tell(result: Result, begin: float, mesh, namespace: str, logs: Logs, say):
    """The totals, and each failure with the changes before it and what the proxies logged."""
    engine = result.engine
    kinds = Counter(kind for _, kind, _ in result.changes)
    say(f"[{engine}] changes: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    for kind, counts in sorted(result.totals.items()):
        say(f"[{engine}] {kind}: {counts['sent']} sent, {counts['good']} good, {counts['failed']} failed" + (f", {counts['again']} sent again" if counts["again"] else ""))
    uids = {name: [pod["metadata"]["uid"] for pod in mesh.pods(namespace, f"name={name}")] for name in CLIENTS}
    for failure in result.failures:
        at = failure["at"]
        say(f"[{engine}] FAILED at {at - begin:.2f} s after {at - failure['began']:.2f} s: {json.dumps(failure)[:1200]}")
        for when, _, text in [change for change in result.changes if at - SHOWN <= change[0] < at]:
            say(f"[{engine}]   change {when - at:+.2f} s: {text}")
        for line in logs.around(at, *uids.get(failure["client"], ["default_traffic-ingress"]), "weir-control", "weir-agent"):
            say(f"[{engine}]   log {line}")
    verdict = "passed" if result.good() else f"{len(result.failures)} FAILURES"
    say(f"[{engine}] seed {result.seed}: {sum(counts['sent'] for counts in result.totals.values())} requests, {len(result.changes)} changes, {verdict}")
