"""Traces across four services: as many as the sampling says, each one connected tree, on both engines and mixed."""

import json
import time

import pytest

from conftest import ready
from harness import wait_until
from scenarios import play, steps
from scenarios.traces import Collector, broken, service as service_of

REQUESTS = 2000
SHARE = 0.5
SERVICES = ["client", "productpage", "details", "reviews", "ratings"]
# Which engine each workload has: client and server of every hop are of both kinds in the mixed one.
ENGINES = {
    "weir": {},
    "envoy": {},
    "mixed": {"client": "weir", "productpage": "envoy", "details": "weir", "reviews": "weir", "ratings": "envoy"},
}
URL = "http://productpage:9080/productpage"


@pytest.fixture(scope="module")
def mesh():
    yield from ready("traces")


@pytest.fixture(params=ENGINES)
def stage(request, mesh):
    """The shop of scenario 6, each proxy of the engine it is to have, traced as the parameter's name says."""
    namespace = f"traces-{request.param}"
    mesh.kubectl("create", "namespace", namespace)
    scenario = json.loads(json.dumps(play.load()["6"]))
    chosen = ENGINES[request.param]
    for name, spec in scenario["workloads"].items():
        spec["labels"] = {"traffic.proxy.engine": chosen.get(name, request.param)}
    for spec in scenario["services"].values():
        spec["labels"] |= {"traffic.tracing.enabled": "true", "traffic.tracing.sampling": str(SHARE * 100)}
    made = steps.Stage(mesh, request.param, namespace, print)
    steps.given(made, scenario)
    try:
        yield made
    finally:
        made.abandon()
        mesh.kubectl("delete", "namespace", namespace, "--wait=false", check=False)


def names(stage):
    return [f"{name}.{stage.namespace}" for name in SERVICES]


def test_half_of_the_requests_are_whole_trees(stage):
    steps.ask(stage, {"ask": URL, "within": 10, "expect": {"status": 200, "body": "Reviewer1"}})
    steps.traces(stage, {"traces": URL, "count": REQUESTS, "concurrency": 4, "share": SHARE, "services": SERVICES})


# What a client may send, and what becomes of it: (headers, whether there is a trace).
GIVEN = {
    "b3": ({"b3": "{trace}-{span}-1"}, True),
    "b3-not-sampled": ({"b3": "{trace}-{span}-0"}, False),
    "b3-multi": ({"x-b3-traceid": "{trace}", "x-b3-spanid": "{span}", "x-b3-sampled": "1"}, True),
    "b3-multi-not-sampled": ({"x-b3-traceid": "{trace}", "x-b3-spanid": "{span}", "x-b3-sampled": "0"}, False),
    "w3c": ({"traceparent": "00-{trace}-{span}-01"}, True),
    "w3c-not-sampled": ({"traceparent": "00-{trace}-{span}-00"}, False),
}


def test_decisions_that_come_with_requests_are_obeyed(stage):
    """Each form of context: the trace goes on under its id, as its sampling decision says, whatever the percentage."""
    collector, found = Collector(stage.mesh), {}
    if stage.engine != "weir":
        # Envoy's Zipkin tracer reads B3 alone, unless it is told otherwise.
        given = {name: case for name, case in GIVEN.items() if not name.startswith("w3c")}
    else:
        given = GIVEN
    steps.ask(stage, {"ask": URL, "within": 10, "expect": {"status": 200, "body": "Reviewer1"}})
    for position, (name, (headers, _)) in enumerate(given.items()):
        for turn in range(6):
            trace, span = f"{int(time.time()):08x}{position:04x}{turn:04x}{0xabcdef0123456789:016x}", f"{position * 16 + turn + 1:016x}"
            found.setdefault(name, []).append(trace)
            steps.ask(stage, {"ask": URL, "headers": {key: value.format(trace=trace, span=span) for key, value in headers.items()}})

    def told():
        known = {trace[0]["traceId"]: trace for trace in collector.get("traces", limit=Collector.LIMIT)}
        for name, (_, sampled) in given.items():
            for number in found[name]:
                trace = known.get(number)
                assert (trace is not None) == sampled, f"{name}: trace {number} is {'missing' if sampled else 'there'}"
                if trace:
                    seen = {service_of(span) for span in trace}
                    assert set(names(stage)) <= seen, f"{name}: spans of {seen} only"
        return True

    wait_until("exactly the traces that were asked for", told, 15, 0.5)
    print(f"{stage.engine}: {sum(len(ids) for ids in found.values())} requests with a context, {len(given)} forms, all obeyed")


def test_the_collector_answers_as_zipkin_does(stage):
    """Services, dependencies and one trace by its id, of the same requests."""
    collector = Collector(stage.mesh)
    steps.traces(stage, {"traces": URL, "count": 60, "share": SHARE, "services": SERVICES})
    known = collector.get("services")
    assert set(names(stage)) <= set(known), known
    links = collector.get("dependencies", endTs=int(time.time() * 1000), lookback=600_000)
    edges = {(link["parent"], link["child"]) for link in links if link["callCount"] > 0}
    productpage, reviews = f"productpage.{stage.namespace}", f"reviews.{stage.namespace}"
    assert {(productpage, reviews), (reviews, f"ratings.{stage.namespace}")} <= edges, edges
    trace = next(trace for trace in collector.get("traces", serviceName=productpage, limit=5) if not broken(trace, names(stage)))
    assert {span["id"] for span in collector.get(f"trace/{trace[0]['traceId']}")} == {span["id"] for span in trace}
    print(f"{stage.engine}: {len(known)} services, {len(edges)} edges")
