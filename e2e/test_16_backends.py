"""One mesh, three metric stores: embedded, Prometheus and VictoriaMetrics give the same TrafficMetrics once counters rest."""

import json
import os
import signal
import time
import urllib.parse
import urllib.request

import pytest
import yaml

from conftest import ready
from harness import ROOT, parse_exposition, tool, wait_until
from manifests import deployment, meshed, service

# Seconds of rest between the first requests and those that are measured. Every window begins in the middle of it, so that no answer
# depends on when it was asked for, by up to half of this.
REST = 40
# Of the measured ones.
COUNT = 2_000
SERIES = "{__name__=~'response_total|response_latency_ms_bucket'}"
MONITORING = "monitoring"


def scraper(name, command, port, config_argument, folder_argument, ready):
    """A server that scrapes by the shipped configuration, as docs/backends.md says, and a Service in front of it."""
    # Debian's builds have no discovery in Kubernetes: of the two shipped configurations the one by HTTP.
    shipped = (ROOT / "deploy" / "prometheus" / "scrape-http-sd.yml").read_text()
    labels = {"app": name}
    return yaml.safe_dump_all([
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"prometheus.yml": shipped}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": labels, "ports": [{"port": port}]}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{"name": name, "image": name,
                            "command": [*command, f"{config_argument}=/etc/scraper/prometheus.yml", f"{folder_argument}=/data"],
                            "readinessProbe": {"httpGet": {"path": ready, "port": port}, "periodSeconds": 1, "timeoutSeconds": 5},
                            "volumeMounts": [{"name": "config", "mountPath": "/etc/scraper"}, {"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "config", "configMap": {"name": name}}, {"name": "data", "emptyDir": {}}]}},
    ]) + "---\n"


PROMETHEUS = scraper("prometheus", [tool("prometheus"), "--web.listen-address=0.0.0.0:9090", "--log.level=warn"], 9090,
                     "--config.file", "--storage.tsdb.path", "/-/ready")
VICTORIA = scraper("victoria", [tool("victoria-metrics"), "-httpListenAddr=0.0.0.0:8428", "-search.latencyOffset=0s",
                                "-promscrape.config.strictParse=false", "-promscrape.httpSDCheckInterval=5s"], 8428,
                   "-promscrape.config", "-storageDataPath", "/health")
READER = yaml.safe_dump({
    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "monitoring-reads-the-store"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "weir-store-reader"},
    "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": MONITORING}]})

# As `weir up` starts it.
ARGUMENTS = ["metrics", "--rule-file=mesh"]
# What the metrics role is told for each back end, in the order in which they are asked. The embedded store is first: its samples end
# with it.
BACKENDS = {
    "embedded": [],
    "prometheus": ["--metrics-backend", "prometheus", "--metrics-url", f"http://prometheus.{MONITORING}:9090"],
    "victoria": ["--metrics-backend", "prometheus", "--metrics-url", f"http://victoria.{MONITORING}:8428"],
}

# All kinds of questions: what pods, deployments and namespaces received, and their edges; one, those of a namespace, and all.
QUESTIONS = [
    "deployments", "pods", "namespaces",
    "namespaces/shop/deployments", "namespaces/shop/pods", "namespaces/cart/deployments/back", "namespaces/shop/deployments/front",
    "namespaces/shop", "namespaces/cart",
    "namespaces/shop/deployments/*/edges", "namespaces/shop/deployments/front/edges", "namespaces/cart/deployments/back/edges",
    "namespaces/shop/pods/*/edges", "namespaces/cart/pods/*/edges", "namespaces/shop/edges", "namespaces/*/edges",
]


@pytest.fixture(scope="module")
def mesh():
    """A mesh of its own: nothing else may send a request in it, and its metrics server is started anew."""
    yield from ready("backends")


def counts(answer):
    """Successes and failures of each item."""
    shown = {}
    for item in answer.get("items", [answer]):
        values = {metric["name"]: int(metric["value"]) for metric in item["metrics"] if metric["name"].endswith("_count")}
        shown[json.dumps([item["resource"], item["edge"]])] = (values["success_count"], values["failure_count"])
    return shown


def rows(result):
    return {tuple(sorted(item["metric"].items())): float(item["value"][1]) for item in result}


def test_the_same_traffic_metrics(mesh):
    began = time.time()
    for namespace in ("shop", "cart", MONITORING):
        mesh.kubectl("create", "namespace", namespace)
    mesh.kubectl("apply", "-n", MONITORING, "-f", "-", input=PROMETHEUS + VICTORIA + READER)
    mesh.kubectl("apply", "-n", "shop", "-f", "-", input=(
        deployment("front", ["http-echo", "--listen", "0.0.0.0:8080", "--fail", "0.1"], labels=meshed("weir"), replicas=2, probe=8080)
        + service("front", 80, 8080, labels={"traffic.port.80": "http"})
        + deployment("caller", ["http-echo", "--listen", "0.0.0.0:8081"], labels=meshed("envoy"))
    ))
    mesh.kubectl("apply", "-n", "cart", "-f", "-", input=(
        deployment("back", ["http-echo", "--listen", "0.0.0.0:8080", "--fail", "0.2", "--delay", "7ms"], labels=meshed("envoy"), probe=8080)
        + service("back", 80, 8080, labels={"traffic.port.80": "http"})
    ))
    wait_until("the servers", lambda: mesh.pods_ready(MONITORING, 2), 90)
    wait_until("the pods of shop", lambda: mesh.pods_ready("shop", 3), 60)
    wait_until("the pod of cart", lambda: mesh.pods_ready("cart", 1), 60)
    pods = [(namespace, pod["metadata"]["name"]) for namespace in ("shop", "cart") for pod in mesh.pods(namespace)]
    for namespace, pod in pods:
        mesh.wait_proxied(namespace, [pod])
    caller = mesh.pods("shop", "app=caller")[0]["metadata"]["name"]
    front = mesh.pods("shop", "app=front")[0]["metadata"]["name"]

    # Who calls whom: through Envoy to Weir's proxy and to Envoy, and from Weir's proxy to Envoy.
    calls = [(caller, "http://front/"), (caller, "http://back.cart/"), (front, "http://back.cart/")]
    for pod, url in calls:
        wait_until(f"{url} to answer {pod}", lambda pod=pod, url=url: mesh.curl_status("shop", pod, url) in ("200", "500"), 30)

    def send(count):
        for pod, url in calls:
            out = mesh.exec("shop", pod, "bookinfo", "client", "--target", url, "--count", str(count), "--concurrency", "4", "--json", timeout=240)
            assert json.loads(out.strip().splitlines()[-1])["sent"] == count

    def at(server, query):
        """The rows of a query at one of the two servers."""
        path = f"/api/v1/namespaces/{MONITORING}/pods/{server}/proxy/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        return rows(json.loads(mesh.raw(path))["data"]["result"])

    def rest(timeout):
        """Waits until all three stores have every series of the proxies' pages at its last value; how many series that is."""
        def same():
            shown = {}
            for namespace, pod in pods:
                for (name, labels), value in parse_exposition(mesh.proxy_metrics(namespace, pod)).items():
                    if name in ("response_total", "response_latency_ms_bucket"):
                        shown[name] = shown.get(name, 0) + value
            for name, value in shown.items():
                query = f"sum({name}{{namespace=~'shop|cart'}})"
                seen = [rows(mesh.query(query)), at("prometheus:9090", query), at("victoria:8428", query)]
                assert seen == [{(): value}] * 3, f"{query}: {value} at the proxies, {seen} in the three stores"
            query = f"count({SERIES})"
            counts = [rows(mesh.query(query)), at("prometheus:9090", query), at("victoria:8428", query)]
            assert counts[0] == counts[1] == counts[2], f"{query}: {counts}"
            return counts[0][()]

        return wait_until("counters to rest in all three stores", same, timeout, 0.5)

    # Every series is made first. Windows that begin when all three stores have them are alike to the last digit; of those that begin
    # before the first request, only the counts: see docs/backends.md.
    send(60)
    before = rest(120)
    rested = time.time()
    wait_until("the rest to be over", lambda: time.time() >= rested + REST, 2 * REST, 1)
    window_start = rested + REST / 2
    send(COUNT)
    assert rest(120) == before, "the measured requests must not make series"

    # What the metrics server records by itself, from the start.
    with urllib.request.urlopen(f"http://127.0.0.1:{mesh.store_port}/api/v1/rules", timeout=30) as answer:
        groups = json.load(answer)["data"]["groups"]
    assert [group["name"] for group in groups] == ["mesh-deployment", "mesh-namespace", "mesh-edge", "mesh-alerts"], groups
    wait_until("the aggregates of the mesh",
               lambda: mesh.value(f'max_over_time(deployment:request_total:rate1m{{namespace="cart",deployment="back"}}[10m])') > 0, 60, 1)

    def ask(question, window_start=window_start):
        """One answer, without the time of asking; its window begins in the rest, unless told otherwise."""
        def quickly():
            """An answer that took long may be about a window that begins where requests were under way."""
            asked = time.time()
            text = mesh.raw(f"/apis/metrics.smi-spec.io/v1alpha1/{question}?t={int(asked - window_start)}s")
            assert time.time() - asked < REST / 4, f"answered after {time.time() - asked:.0f} s"
            return text

        answer = json.loads(wait_until(f"an answer to {question}", quickly, 120))
        if "items" in answer:
            # The metrics server's own pod is another one for each back end.
            answer["items"] = [item for item in answer["items"] if not item["metadata"]["name"].startswith("weir-metrics-")]
        for item in answer.get("items", [answer]):
            for part in ("timestamp", "window"):
                assert item.pop(part)
            assert item["metadata"].pop("creationTimestamp")
        return answer

    answers, totals = {}, {}
    for backend, arguments in BACKENDS.items():
        if arguments:
            patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": [*ARGUMENTS, *arguments]}]
            mesh.kubectl("patch", "deployment", "weir-metrics", "-n", "weir-system", "--type=json", "-p", json.dumps(patch))

            def switched(arguments=arguments):
                """Only the new pod is there, so that nobody else can have answered."""
                [pod] = mesh.pods("weir-system", "app=weir-metrics")
                assert pod["spec"]["containers"][0]["args"] == [*ARGUMENTS, *arguments], pod["spec"]["containers"][0]["args"]
                return mesh.pods_ready("weir-system", 1, "app=weir-metrics") and mesh.raw("/apis/metrics.smi-spec.io/v1alpha1/namespaces")

            wait_until(f"the metrics server to ask {backend}", switched, 90, 0.3)
        answers[backend] = {question: ask(question) for question in QUESTIONS}
        totals[backend] = {question: counts(ask(question, began)) for question in QUESTIONS}

    # The figures are those of the measured requests.
    values = {metric["name"]: metric["value"] for metric in answers["embedded"]["namespaces/cart/deployments/back"]["metrics"]}
    assert int(values["success_count"]) + int(values["failure_count"]) == 2 * COUNT, values
    assert int(values["failure_count"]) == 2 * COUNT * 0.2, values
    edges = answers["embedded"]["namespaces/shop/deployments/*/edges"]["items"]
    assert {(edge["resource"]["name"], edge["edge"]["direction"], edge["edge"]["resource"]["name"]) for edge in edges} == {
        ("caller", "to", "front"), ("caller", "to", "back"), ("front", "to", "back"), ("front", "from", "caller")}

    for backend in ("prometheus", "victoria"):
        for question in QUESTIONS:
            seen, expected = answers[backend][question], answers["embedded"][question]
            assert seen == expected, f"{question}:\n{backend}: {json.dumps(seen)}\nembedded: {json.dumps(expected)}"
            assert totals[backend][question] == totals["embedded"][question], question
    [back] = totals["embedded"]["namespaces/cart/deployments/back"].values()
    assert sum(back) >= 2 * (COUNT + 60), back


def test_what_is_kept_on_a_disk_outlives_the_metrics_server(mesh):
    """The patch of docs/store.md with another folder; then the process is killed."""
    text = (ROOT / "docs" / "store.md").read_text()
    [patch] = [block for block in text.split("```sh\n") if block.startswith("kubectl -n weir-system patch deployment weir-metrics")]
    patch = patch.split("'")[1].replace("/var/lib/weir-metrics", str(mesh.directory / "store"))
    mesh.kubectl("patch", "deployment", "weir-metrics", "-n", "weir-system", "--patch", patch)
    words = ("weir", "metrics", "--storage.path=/data")

    def serving():
        assert mesh.pods_ready("weir-system", 1, "app=weir-metrics")
        assert len(mesh.pods("weir-system", "app=weir-metrics")) == len(mesh.processes(*words)) == 1
        return True

    wait_until("the metrics server with a disk", serving, 90, 0.3)
    # Scraped several times: the first samples have been written for long.
    wait_until("samples", lambda: mesh.value("min(count_over_time(up[10m]))") >= 4, 90, 0.5)
    [first] = mesh.query("min(min_over_time(timestamp(up)[10m:1s]))")
    question = f"count by (pod) (last_over_time(up[1m] @ {float(first['value'][1]) + 1:.3f}))"
    before = rows(mesh.query(question))
    assert before
    [server] = mesh.processes(*words)
    os.kill(server, signal.SIGKILL)
    wait_until("another metrics server", lambda: serving() and mesh.processes(*words) != [server], 90, 0.3)
    wait_until("the answer from before", lambda: rows(mesh.query(question)) == before, 30, 0.5)
