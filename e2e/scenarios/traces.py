"""What the collector of `weir up` knows: traces in Zipkin's v2 form, and whether each is one tree."""

from __future__ import annotations

import json
import urllib.parse

# Of two clocks on one machine, and of rounding to microseconds.
SKEW_US = 2000


class Collector:
    """Pod `traffic-zipkin` of namespace `default`, asked through the API server."""

    LIMIT = 100_000

    def __init__(self, mesh):
        self.mesh = mesh
        self.pod = None

    def get(self, path: str, **query):
        if self.pod is None:
            pods = self.mesh.pods("default", "app=traffic-zipkin")
            self.pod = pods[0]["metadata"]["name"]
        text = urllib.parse.urlencode(query)
        return json.loads(self.mesh.raw(f"/api/v1/namespaces/default/pods/{self.pod}:9411/proxy/api/v2/{path}?{text}"))

    def since(self, when: float, root: str) -> list[list[dict]]:
        """The traces that began after that time (seconds since 1970) at this service."""
        found = []
        for trace in self.get("traces", limit=self.LIMIT):
            first = min(trace, key=lambda span: span.get("timestamp", 0))
            if first.get("timestamp", 0) >= when * 1e6 and any(service(span) == root for span in trace):
                found.append(trace)
        return found


def service(span: dict) -> str:
    return span.get("localEndpoint", {}).get("serviceName", "")


def broken(trace: list[dict], services: list[str]) -> str | None:
    """Why a trace is not one tree across these services: nothing if it is."""
    spans = {span["id"]: span for span in trace}
    story = ", ".join(f"{span['id']}<{span.get('parentId')} {span.get('kind')} {service(span)}" for span in trace)
    if len(spans) != len(trace):
        return f"span ids are used twice: {story}"
    if len({span["traceId"] for span in trace}) != 1:
        return f"more than one trace id: {story}"
    roots = [span for span in trace if not span.get("parentId")]
    if len(roots) != 1:
        return f"{len(roots)} roots: {story}"
    for span in trace:
        parent = spans.get(span.get("parentId"))
        if span is not roots[0] and parent is None:
            return f"the parent of {span['id']} is missing: {story}"
        if parent and span["timestamp"] + SKEW_US < parent["timestamp"]:
            return f"{span['id']} begins before its parent: {story}"
    missing = [name for name in services if not any(service(span) == name for span in trace)]
    return f"no spans of {', '.join(missing)}: {story}" if missing else None
