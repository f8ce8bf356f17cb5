"""The steps that scenarios are made of. Each does one thing with real programs, prints what it saw, and raises when it is not as expected.

A step is a mapping; its first key is the verb, and the verb's function below says which other keys it takes.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from harness import parse_exposition, tool, wait_until
from manifests import deployment, service
from scenarios.certificates import certificate
from scenarios.fetch import Order
from scenarios.traces import Collector, broken

FETCH = Path(__file__).with_name("fetch.py")
# Where pods find this folder.
IN_PODS = "/scenarios"
SIGMAS = 5


class Stage:
    """One scenario on one engine: a namespace of a mesh, what was learnt on the way, and the loads that run."""

    def __init__(self, mesh, engine: str, namespace: str, say):
        self.mesh, self.engine, self.namespace, self.say = mesh, engine, namespace, say
        self.words = {"engine": engine, "namespace": namespace}
        self.certificates: dict[str, str] = {}
        self.loads: list[Load] = []
        self.senders: dict[str, subprocess.Popen] = {}

    def fill(self, value):
        """`$engine`, `$namespace` and whatever an answer was kept as, wherever it stands. Other dollars stay."""
        if isinstance(value, str):
            return re.sub(r"\$(\w+)", lambda found: str(self.words.get(found[1], found[0])), value)
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if isinstance(value, dict):
            return {self.fill(key): self.fill(item) for key, item in value.items()}
        return value

    def kubectl(self, *words: str, input: str | None = None) -> str:
        namespaced = [] if "-n" in words or "--all-namespaces" in words else ["-n", self.namespace]
        return self.mesh.kubectl(*words, *namespaced, input=input)

    def pods(self, workload: str) -> list[str]:
        """The pods of a workload that are to stay."""
        pods = self.mesh.pods(self.namespace, f"name={workload}")
        return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def pod(self, workload: str) -> str:
        pods = self.pods(workload)
        assert len(pods) == 1, f"{workload} has {len(pods)} pods, not one: {pods}"
        return pods[0]

    def start(self, sender: str) -> subprocess.Popen:
        """A process that sends what it is ordered to: in a pod, or on the host."""
        command = [sys.executable, str(FETCH)]
        if sender != "outside":
            command = [
                tool("kubectl"), "--kubeconfig", str(self.mesh.kubeconfig), "exec", "-i", "-n", self.namespace, self.pod(sender), "--",
                "python3", f"{IN_PODS}/{FETCH.name}",
            ]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.mesh.environment,
        )

    def send(self, sender: str, order: Order) -> list[dict]:
        """The answers to an order."""
        if sender not in self.senders:
            self.senders[sender] = self.start(sender)
        process = self.senders[sender]
        process.stdin.write(json.dumps(asdict(order)) + "\n")
        process.stdin.flush()
        lines = list(itertools.takewhile(str.strip, process.stdout))
        assert len(lines) == order.count, f"{len(lines)} answers to {order.count} requests: {process.stderr.read() if process.poll() else ''}"
        return [json.loads(line) for line in lines]

    def order(self, step: dict, url: str) -> Order:
        keys = ("method", "headers", "body", "count", "concurrency", "keep", "rate", "timeout")
        order = Order(url=url, **{key: step[key] for key in keys if key in step})
        if step.get("from", "client") == "outside":
            order.to = f"127.0.0.1:{self.mesh.https_port if url.startswith('https:') else self.mesh.http_port}"
        return order

    def abandon(self):
        """Ends every process of the scenario."""
        for process in [*self.senders.values(), *(load.process for load in self.loads)]:
            if process.poll() is None:
                process.kill()
            process.communicate()


# -- what a scenario starts from


def given(stage: Stage, scenario: dict):
    """Workloads (Deployments of the sample application) and Services, ready, with their proxies."""
    workloads = stage.fill(scenario.get("workloads", {}))
    meshed = {"traffic.envoy.enabled": "true", "traffic.proxy.engine": stage.engine}
    text = ""
    for name, spec in workloads.items():
        labels = (meshed if spec.get("proxy") else {}) | spec.get("labels", {})
        args = shlex.split(spec["run"])
        port = spec.get("port") or next((int(word.rpartition(":")[2]) for word in args if re.fullmatch(r"[\d.]+:\d+", word)), 9080)
        text += deployment(
            name, args, app=spec.get("app", name), labels=labels, replicas=spec.get("replicas", 1), ports={"web": port},
            probe=None if spec.get("probe") is False else port, folder=(str(FETCH.parent), IN_PODS),
        )
    for name, spec in stage.fill(scenario.get("services", {})).items():
        port = spec.get("port", 9080)
        text += service(name, port, spec.get("to", port), app=spec.get("app", name), workload=spec.get("workload"), labels=spec.get("labels"))
    stage.kubectl("apply", "-f", "-", input=text)
    wanted = sum(spec.get("replicas", 1) for spec in workloads.values())
    wait_until(f"{wanted} pods of the scenario", lambda: stage.mesh.pods_ready(stage.namespace, wanted), 60)
    for name, spec in workloads.items():
        if spec.get("proxy"):
            stage.mesh.wait_proxied(stage.namespace, stage.pods(name))


def finish(stage: Stage):
    """Ends the loads: no request of theirs may have failed."""
    for load in stage.loads:
        load.end(stage)


# -- doing


def kubectl(stage: Stage, step: dict):
    """`kubectl: label service reviews traffic.port.9080=http`, in the scenario's namespace."""
    words = shlex.split(step["kubectl"])
    if words[0] in ("label", "annotate"):
        words.append("--overwrite")
    stage.kubectl(*words)
    stage.say(f"kubectl {step['kubectl']}")


def apply(stage: Stage, step: dict):
    """`apply: |` manifests."""
    for line in stage.kubectl("apply", "-f", "-", input=step["apply"]).splitlines():
        stage.say(f"kubectl apply: {line}")


def secret(stage: Stage, step: dict):
    """`secret: shop-tls`, `hosts: [..]`: makes or replaces a TLS Secret with a new certificate."""
    chain, key, digest = certificate(step["hosts"])
    text = json.dumps({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": step["secret"]},
        "stringData": {"tls.crt": chain, "tls.key": key},
    })
    stage.kubectl("apply", "-f", "-", input=text)
    stage.certificates[step["secret"]] = digest
    stage.say(f"Secret {step['secret']}: new certificate {digest[:12]} for {', '.join(step['hosts'])}")


def load(stage: Stage, step: dict):
    """`load: URL`, `from`, `rate`, `keep`: sends requests until the scenario's end; every one must be answered 200."""
    stage.loads.append(Load(stage, step))


class Load:
    def __init__(self, stage: Stage, step: dict):
        order = stage.order({"rate": 50, "concurrency": 2} | step, step["load"])
        order.until_closed = True
        self.what = f"{order.url} from {step.get('from', 'client')}, {'kept' if order.keep else 'fresh'} connections"
        self.answers: list[dict] = []
        self.process = stage.start(step.get("from", "client"))
        self.process.stdin.write(json.dumps(asdict(order)) + "\n")
        self.process.stdin.flush()
        self.first = self.process.stdout.readline()
        assert self.first.strip(), f"load {self.what}: {self.process.stderr.read()}"

    def end(self, stage: Stage):
        out, err = self.process.communicate("", timeout=30)
        answers = [json.loads(line) for line in [self.first, *out.splitlines()] if line]
        failed = [answer for answer in answers if answer["status"] != 200]
        stage.say(f"load {self.what}: {len(answers)} requests, {len(failed)} failed")
        assert not failed, f"{len(failed)} of {len(answers)} failed, first: {json.dumps(failed[0])[:1500]}\n{err}"
        assert self.process.returncode == 0, err


# -- seeing


def ask(stage: Stage, step: dict):
    """`ask: URL`, `from` (a workload, or `outside`: through the gateway), `count`, `concurrency`, `keep`, `headers`, `method`, `body`,
    `expect`, `within` (seconds in which the expectation must come true; without it at once), `after` (seconds that a change has been
    promised to take at most: it is asked then, once), `remember` (name: header and pattern)."""
    order = stage.order(step, step["ask"])
    time.sleep(step.get("after", 0))
    sender = step.get("from", "client")
    expected = step.get("expect", {"status": 200})

    def once():
        answers = stage.send(sender, order)
        seen = describe(answers)
        for kind, wanted in expected.items():
            try:
                EXPECTATIONS[kind](stage, answers, wanted)
            except AssertionError as error:
                raise AssertionError(f"{error}; seen: {seen}") from None
        return answers, seen

    what = f"{order.count} x {order.url} from {sender}"
    if "within" in step:
        answers, seen = wait_until(f"{what} as expected", once, step["within"], 0.05)
    else:
        answers, seen = once()
    for name, rule in step.get("remember", {}).items():
        text = " ".join(value for header, value in answers[0]["headers"] if header == rule["header"])
        found = re.search(rule["pattern"], text)
        assert found, f"no {rule['pattern']} in {rule['header']}: {text!r}"
        stage.words[name] = found[1]
    stage.say(f"{what}: {seen}")


def describe(answers: list[dict]) -> str:
    statuses = dict(sorted(Counter(answer["status"] for answer in answers).items()))
    text = ", ".join(f"{count} x {status}" for status, count in statuses.items())
    servers = dict(sorted(Counter(workload_of(answer) for answer in answers if served_by(answer)).items()))
    if servers and len(answers) > 1:
        text += f" by {servers}"
    seconds = [answer["seconds"] for answer in answers]
    text += f", {seconds[0]:.2f} s" if len(answers) == 1 else f", {min(seconds):.3f} to {max(seconds):.3f} s"
    errors = Counter(answer["error"] for answer in answers if "error" in answer)
    if errors:
        text += f", errors {dict(errors)}"
    elif len(answers) == 1 and answers[0]["status"] != 200:
        text += f", {answers[0]['body'].strip()[:200]!r}"
    return text


def served_by(answer: dict) -> str:
    return next((value for name, value in answer["headers"] if name == "x-served-by"), "")


def workload_of(answer: dict) -> str:
    """`reviews-v1-7c9d-x2x4` is a pod of `reviews-v1`."""
    return served_by(answer).rsplit("-", 2)[0]


def deviation(count: int, share: float) -> float:
    return SIGMAS * (count * share * (1 - share)) ** 0.5


def expect_status(_, answers, wanted):
    wrong = [answer for answer in answers if answer["status"] != wanted]
    assert not wrong, f"{len(wrong)} of {len(answers)} have not the status {wanted}"


def expect_statuses(_, answers, wanted):
    """`{200: {least: 1}, 503: {share: 0.5}}`; no other status may come."""
    counts = Counter(answer["status"] for answer in answers)
    for status, rule in wanted.items():
        check_count(f"status {status}", counts.pop(status, 0), len(answers), rule)
    assert not counts, f"unexpected statuses {dict(counts)}"


def check_count(what, count, total, rule):
    if "share" in rule:
        about, around = total * rule["share"], deviation(total, rule["share"])
        assert abs(count - about) <= around, f"{what}: {count}, not {about:.0f} +- {around:.0f}"
    least, most = rule.get("least", 0), rule.get("most", total)
    assert least <= count <= most, f"{what}: {count}, not from {least} to {most}"


def expect_shares(_, answers, wanted):
    """`{reviews-v1: 100, reviews-v2: 10}`: relative weights, within 5 sigma (or `give` requests); 0 gets nothing, nobody else anything."""
    weights = {workload: weight for workload, weight in wanted.items() if workload != "give"}
    counts, whole = Counter(workload_of(answer) for answer in answers), sum(weights.values())
    for workload, weight in weights.items():
        rule = {"share": weight / whole}
        if "give" in wanted:
            about = len(answers) * weight / whole
            rule = {"least": about - wanted["give"], "most": about + wanted["give"]}
        check_count(workload, counts.pop(workload, 0), len(answers), rule)
    assert not counts, f"answers came from {dict(counts)} too"


def expect_pods(_, answers, wanted):
    """How many pods answered; or `{least: 2}`."""
    pods = {served_by(answer) for answer in answers}
    rule = wanted if isinstance(wanted, dict) else {"least": wanted, "most": wanted}
    check_count("pods", len(pods), len(answers), rule)


def expect_headers(_, answers, wanted):
    """`{set-cookie: regular expression}`: one line of each answer has it; null: none has the header."""
    for name, pattern in wanted.items():
        for answer in answers:
            lines = [value for header, value in answer["headers"] if header == name]
            if pattern is None:
                assert not lines, f"there is {name}: {lines}"
            else:
                assert any(re.search(pattern, line) for line in lines), f"{name} is {lines}, not {pattern}"


def expect_body(_, answers, wanted):
    for text in [wanted] if isinstance(wanted, str) else wanted:
        for answer in answers:
            assert text in answer["body"], f"{text!r} is not in {answer['body'][:1500]!r}"


def expect_request(_, answers, wanted):
    """What the echo application got: `{path: regular expression, header-name: regular expression, or null}`."""
    for answer in answers:
        got = json.loads(answer["body"])
        for name, pattern in wanted.items():
            lines = [got["path"]] if name == "path" else got["headers"].get(name, [])
            if pattern is None:
                assert not lines, f"the application got {name}: {lines}"
            else:
                assert any(re.search(pattern, line) for line in lines), f"the application got {name} {lines}, not {pattern}"


def expect_seconds(_, answers, wanted):
    least, most = wanted
    for answer in answers:
        assert least <= answer["seconds"] <= most, f"it took {answer['seconds']} s, not {least} to {most} s"


def expect_certificate(stage, answers, wanted):
    """The Secret whose newest certificate the gateway serves."""
    for answer in answers:
        served = answer["certificate"] or "none"
        assert served == stage.certificates[wanted], f"certificate {served[:12]}, not {stage.certificates[wanted][:12]} of {wanted}"


EXPECTATIONS = {
    "status": expect_status, "statuses": expect_statuses, "shares": expect_shares, "pods": expect_pods, "headers": expect_headers,
    "body": expect_body, "request": expect_request, "seconds": expect_seconds, "certificate": expect_certificate,
}


def figure(stage: Stage, step: dict):
    """`figure: retry_total`, `of` (a workload: the sum over its pods), `where` (labels), `is` or `least` and `most`, `within` (default 5)."""
    page = "stats/prometheus" if step["figure"].startswith("envoy_") else "metrics"
    where = step.get("where", {})

    def once():
        value, others = 0.0, []
        for pod in stage.pods(step.get("of", "client")):
            text = stage.mesh.raw(f"/api/v1/namespaces/{stage.namespace}/pods/{pod}:8900/proxy/{page}")
            for (name, labels), number in parse_exposition(text).items():
                if name == step["figure"]:
                    value += number if set(where.items()) <= labels else 0
                    others.append(f"{number:g} {dict(labels)}")
        least, most = (step["is"], step["is"]) if "is" in step else (step.get("least", 0), step.get("most", float("inf")))
        assert least <= value <= most, f"{value:g}, not from {least} to {most}; there are {others}"
        return [value]

    labels = ", ".join(f"{key}={value}" for key, value in where.items())
    [value] = wait_until(f"{step['figure']}{{{labels}}} of {step.get('of', 'client')}", once, step.get("within", 5))
    stage.say(f"{step['figure']}{{{labels}}} of {step.get('of', 'client')}: {value:g}")


def event(stage: Stage, step: dict):
    """`event: regular expression` of its message, `about: kind/name`, `within` (default 10)."""
    kind, name = step["about"].split("/")

    def once():
        items = stage.mesh.get("events", "-n", stage.namespace)["items"]
        about = [item for item in items if item["involvedObject"]["kind"].lower() == kind.lower() and item["involvedObject"]["name"] == name]
        found = [item["message"] for item in about if re.search(step["event"], item["message"])]
        assert found, [item["message"] for item in about]
        return found

    found = wait_until(f"an Event on {step['about']} with {step['event']!r}", once, step.get("within", 10))
    stage.say(f"Event on {step['about']}: {found[0]}")


def field(stage: Stage, step: dict):
    """`field: status.loadBalancer.ingress.0.ip`, `of: ingress/shop`, `is: regular expression`, `within` (default 10)."""

    def once():
        value = stage.mesh.get(step["of"], "-n", stage.namespace)
        for part in split_path(step["field"]):
            if isinstance(value, list) and "=" in part:
                key, _, wanted = part.partition("=")
                value = next((item for item in value if str(item.get(key)) == wanted), None)
            elif isinstance(value, list):
                value = value[int(part)]
            else:
                value = (value or {}).get(part)
        assert re.search(step["is"], "" if value is None else str(value)), repr(value)
        return [value]

    [value] = wait_until(f"{step['field']} of {step['of']} to be {step['is']}", once, step.get("within", 10))
    stage.say(f"{step['of']}: {step['field']} is {value!r}")


def split_path(path: str) -> list[str]:
    """Parts between dots; `[traffic.envoy.proxy]` is one part."""
    return [bracketed or plain for bracketed, plain in re.findall(r"\[([^\]]*)\]|([^.\[\]]+)", path)]


def proxy(stage: Stage, step: dict):
    """`proxy: gone` or `running`, `of` (a workload): the annotation, the redirection in the pod's own network, and the list of proxies."""
    running = step["proxy"] == "running"

    def once():
        for pod in stage.pods(step["of"]):
            found = stage.mesh.get("pod", pod, "-n", stage.namespace)["metadata"].get("annotations", {}).get("traffic.envoy.proxy")
            assert bool(found) == running and found is not None, f"annotation traffic.envoy.proxy is {found!r}"
            rules = stage.mesh.exec(stage.namespace, pod, "/usr/sbin/nft", "list", "ruleset")
            assert ("redirect to" in rules) == running, f"redirection in the pod:\n{rules}"
            listed = stage.mesh.weir("proxies", "-n", stage.namespace).stdout
            assert (pod in listed) == running, listed
        return True

    wait_until(f"the proxy of {step['of']} {step['proxy']}", once, step.get("within", 20))
    stage.say(f"the proxy of {step['of']} is {step['proxy']}: annotation, redirection and `weir proxies` agree")


def tcp(stage: Stage, step: dict):
    """`tcp: host:port`, `connections`, `from`: streams to a tcp-echo for a second, each byte verified; `expect: {streams: 1, refused: 2}`
    says how many last and how many are closed or reset at once; `within`."""
    sender, wanted = step.get("from", "client"), step["expect"]

    def once():
        out = stage.mesh.exec(
            stage.namespace, stage.pod(sender), "bookinfo", "tcp-client", "--target", step["tcp"], "--connections", str(step["connections"]),
            "--interval", "50ms", "--duration", "1s", "--report", "0s",
        )
        counts = json.loads(out.strip().splitlines()[-1])
        refused = counts["closed_by_peer"] + counts["broken"] + counts["connect_failed"]
        seen = {"streams": step["connections"] - refused, "refused": refused}
        assert seen == wanted and counts["mismatched"] == 0 and (seen["streams"] == 0 or counts["bytes_verified"] > 0), counts
        return seen

    seen = wait_until(f"streams to {step['tcp']}: {wanted}", once, step.get("within", 5))
    stage.say(f"{step['connections']} streams to {step['tcp']} from {sender}: {seen}")


def traces(stage: Stage, step: dict):
    """`traces: URL`, `from`, `count`, `share`, `services`: of so many requests this share is traced, within 5 sigma; every trace is one
    connected tree with spans of these workloads."""
    sender, services = step.get("from", "client"), [f"{name}.{stage.namespace}" for name in step["services"]]
    collector = Collector(stage.mesh)

    def complete(trace):
        problem = broken(trace, services)
        assert not problem, problem
        return True

    def first():
        since = time.time()
        stage.send(sender, stage.order({"count": 10, "keep": True}, step["traces"]))
        return wait_until("a whole trace", lambda: any(complete(trace) for trace in collector.since(since, services[0])), 7, 0.5)

    wait_until("tracing by all proxies", first, 30)
    since = time.time()
    stage.send(sender, stage.order({"keep": True} | step, step["traces"]))

    def once():
        found = collector.since(since, services[0])
        check_count("traces", len(found), step["count"], {"share": step["share"]})
        assert all(complete(trace) for trace in found)
        return found

    found = wait_until(f"traces of a share of {step['share']} of {step['count']} requests, each whole", once, 15, 0.5)
    spans = sorted({len(trace) for trace in found})
    stage.say(f"{len(found)} of {step['count']} requests traced, each one tree of {spans} spans across {', '.join(step['services'])}")


STEPS = {
    "kubectl": kubectl, "apply": apply, "secret": secret, "load": load, "ask": ask, "figure": figure, "event": event, "field": field,
    "proxy": proxy, "tcp": tcp, "traces": traces,
}
