"""Honest numbers: what a client counted itself is what the proxy, the store and TrafficMetrics say, to the request."""

import json
import time

import pytest

from harness import parse_exposition, total, wait_until
from manifests import deployment, meshed, service

COUNT, SHARE = 10_000, 0.05
FAILURES = int(COUNT * SHARE)


@pytest.fixture
def run(mesh, namespace, engine):
    """A client with a proxy sends exactly COUNT requests to a server of which a known share fails."""
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=(
        deployment("server", ["http-echo", "--listen", "0.0.0.0:8080", "--fail", str(SHARE)], labels=meshed(engine), probe=8080)
        + service("server", 80, 8080, labels={"traffic.port.80": "http"})
        + deployment("idle", ["http-echo", "--listen", "0.0.0.0:8080"], labels=meshed(engine), probe=8080)
        + service("idle", 80, 8080, labels={"traffic.port.80": "http"})
        + deployment("caller", ["http-echo", "--listen", "0.0.0.0:8081"], labels=meshed(engine))
    ))
    wait_until("the pods", lambda: mesh.pods_ready(namespace, 3), 60)
    names = {app: mesh.pods(namespace, f"app={app}")[0]["metadata"]["name"] for app in ("server", "caller", "idle")}
    mesh.wait_proxied(namespace, list(names.values()))
    wait_until("an open port", lambda: mesh.curl_status(namespace, names["caller"], "http://idle/") == "200", 15)
    # Every proxy has been scraped once before the run: the figures of the run then start from a known zero.
    wait_until("a first scrape", lambda: len(mesh.query(f'up{{namespace="{namespace}"}} == 1')) == 3, 30)
    started = time.time()
    out = mesh.exec(namespace, names["caller"], "bookinfo", "client", "--target", "http://server/", "--count", str(COUNT),
                    "--concurrency", "16", "--json", timeout=240)
    client = json.loads(out.strip().splitlines()[-1])
    return {"names": names, "client": client, "started": started}


def test_every_stage_counts_the_same(mesh, namespace, engine, run):
    names, client = run["names"], run["client"]
    assert client["sent"] == COUNT and client["status"] == {"200": COUNT - FAILURES, "500": FAILURES}, client

    # The proxies: the client's by destination, the server's own.
    def proxies():
        outbound = parse_exposition(mesh.proxy_metrics(namespace, names["caller"]))
        inbound = parse_exposition(mesh.proxy_metrics(namespace, names["server"]))
        assert total(outbound, "response_total", dst_pod=names["server"]) == COUNT
        assert total(outbound, "response_total", dst_pod=names["server"], status_code="500", classification="failure") == FAILURES
        assert total(outbound, "request_total", dst_deployment="server") == COUNT
        assert total(inbound, "response_total", direction="inbound", status_code="200") == COUNT - FAILURES
        assert total(inbound, "response_total", direction="inbound", status_code="500") == FAILURES
        assert total(outbound, "response_latency_ms_count", dst_pod=names["server"]) == COUNT
        return True

    wait_until("the proxies' counters", proxies, 15)

    # The store, once the last scrape is in.
    outbound = f'response_total{{namespace="{namespace}",direction="outbound",dst_deployment="server"}}'
    wait_until("the store's sum", lambda: mesh.value(f"sum({outbound})") == COUNT, 20)
    assert mesh.value(f'sum({outbound[:-1]},classification="failure"}})') == FAILURES

    # TrafficMetrics over a window that covers the run.
    window = int(time.time() - run["started"]) + 15
    path = f"/apis/metrics.smi-spec.io/v1alpha1/namespaces/{namespace}"

    def counts(item):
        values = {metric["name"]: metric["value"] for metric in item["metrics"]}
        return int(values["success_count"]), int(values["failure_count"])

    expected = (COUNT - FAILURES, FAILURES)
    # Each proxy is scraped on its own beat: the server's last page may come some seconds after the client's. More is never shown.
    def settled(kind, name):
        window = int(time.time() - run["started"]) + 15
        got = counts(json.loads(mesh.raw(f"{path}/{kind}/{name}?t={window}s")))
        if got[0] > expected[0] or got[1] > expected[1]:
            pytest.fail(f"{kind}/{name} shows more than was sent: {got}")
        assert got == expected, got
        return True

    for kind, name in (("deployments", "server"), ("pods", names["server"])):
        wait_until(f"exact counts of {kind}/{name}", lambda kind=kind, name=name: settled(kind, name), 20, 0.5)
    window = int(time.time() - run["started"]) + 15

    # Edges: exactly the pairs that talked.
    def edges():
        items = json.loads(mesh.raw(f"{path}/deployments/caller/edges?t={window}s"))["items"]
        pairs = {(item["edge"]["direction"], item["edge"]["resource"]["name"]): counts(item) for item in items}
        assert pairs.pop(("to", "server")) == expected, items
        return pairs

    pairs = wait_until("exact counts of the edge caller -> server", edges, 10, 0.5)
    assert set(pairs) == {("to", "idle")}, f"only the opening curl beside it: {pairs}"
    idle = json.loads(mesh.raw(f"{path}/deployments/idle/edges?t={window}s"))["items"]
    assert {(item["edge"]["direction"], item["edge"]["resource"]["name"]) for item in idle} == {("from", "caller")}

    # Percentiles lie in the bucket of what the client measured itself (its figures include the proxy's own hop).
    got = json.loads(mesh.raw(f"{path}/deployments/server?t={window}s"))
    latency = {metric["name"]: quantity_ms(metric["value"]) for metric in got["metrics"] if "latency" in metric["name"]}
    assert latency["p50_response_latency"] <= latency["p90_response_latency"] <= latency["p99_response_latency"]
    assert 0 < latency["p50_response_latency"] <= bucket_above(client["latency_ms"]["p50"]), (latency, client)
    assert latency["p99_response_latency"] <= bucket_above(client["latency_ms"]["p99"]), (latency, client)


def test_latency_percentiles_are_in_the_right_buckets(mesh, namespace, engine):
    """A server that takes 120 ms: p50 and p99 lie between 100 and 200 ms, where the bucket bounds are."""
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=(
        deployment("slow", ["http-echo", "--listen", "0.0.0.0:8080", "--delay", "120ms"], labels=meshed(engine))
        + service("slow", 80, 8080, labels={"traffic.port.80": "http"})
        + deployment("caller", ["http-echo", "--listen", "0.0.0.0:8081"], labels=meshed(engine))
    ))
    wait_until("the pods", lambda: mesh.pods_ready(namespace, 2), 60)
    caller = mesh.pods(namespace, "app=caller")[0]["metadata"]["name"]
    slow = mesh.pods(namespace, "app=slow")[0]["metadata"]["name"]
    mesh.wait_proxied(namespace, [caller, slow])
    wait_until("a first scrape", lambda: len(mesh.query(f'up{{namespace="{namespace}"}} == 1')) == 2, 30)
    mesh.exec(namespace, caller, "bookinfo", "client", "--target", "http://slow/", "--count", "100", "--concurrency", "10", "--json")
    path = f"/apis/metrics.smi-spec.io/v1alpha1/namespaces/{namespace}/deployments/slow?t=60s"

    def figures():
        values = {metric["name"]: metric["value"] for metric in json.loads(mesh.raw(path))["metrics"]}
        assert values["success_count"] == "100", values
        return values

    values = wait_until("100 requests in TrafficMetrics", figures, 20)
    for name in ("p50_response_latency", "p99_response_latency"):
        assert 100 <= quantity_ms(values[name]) <= 200, values


def quantity_ms(text: str) -> float:
    """A Kubernetes quantity in seconds, as milliseconds."""
    return float(text[:-1]) if text.endswith("m") else float(text) * 1000


BUCKETS = [1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1000, 2000, 3000, 4000, 5000]


def bucket_above(milliseconds: float) -> float:
    return next(bound for bound in BUCKETS if bound > milliseconds)
