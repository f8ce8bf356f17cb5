"""Random changes, each of which a good mesh makes without a failed request. A seed decides all of them.

A change that would order failures is not made: a server is only ended while another of its kind is ready, and no share is sent to nobody.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import time

from churn.cluster import Api, Refused
from harness import is_ready
from scenarios.certificates import certificate

POLICIES = ("ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV", "PEAK_EWMA")
SERVICES = ("web", "web-a", "web-b", "calls")
SERVERS = ("web-a", "web-b", "calls")
# The proxies that requests of the load enter by: of the clients' pods, where they have one, and the gateway.
CLIENTS = ("north-", "south-")
GATEWAY = "traffic-ingress"
# Labels with values that no request of the load is troubled by; None takes the label away.
GENEROUS = {
    "traffic.request.timeout": ("20s", "30s", None),
    "traffic.connection.timeout": ("5s", "10s", None),
    "traffic.retries.5xx": ("1", "2", None),
    "traffic.retries.connect-failure": ("2", "4", None),
    "traffic.retries.gateway-error": ("1", None),
    "traffic.retries.max": ("50", None),
    "traffic.request.max": ("500", "1000", None),
    "traffic.request.max-pending": ("500", None),
    "traffic.connection.max": ("500", None),
    "traffic.outlier.enabled": ("false", "true", None),
    "traffic.outlier.ejection-time": ("1s", None),
    "traffic.tracing.enabled": ("true", "false", None),
    "traffic.tracing.sampling": ("10", "0.5", None),
    "traffic.fault.delay.time": ("20ms", None),
    "traffic.fault.delay.percentage": ("5", None),
    "traffic.metrics.granularity": ("service", "workload", None),
    "traffic.hash.cookie.name": ("churn", None),
    "traffic.hash.cookie.ttl": ("100", None),
    "traffic.hash.header.name": ("x-number", None),
}
# At least so long between two ends of the control plane.
CONTROL_SECONDS = 12.0
# So long after the end of a server the control plane stays at least, to tell of it; and so long that is waited for at most.
TOLD_SECONDS, TOLD_SECONDS_MAX = 1.0, 4.0


class NotNow(Exception):
    """This change would order failures at the moment."""


class Changes:
    def __init__(self, mesh, api: Api, namespace: str, engine: str, seed: int):
        self.mesh, self.api, self.namespace, self.engine = mesh, api, namespace, engine
        self.random = random.Random(seed)
        self.control_ended = self.server_ended = 0.0
        # Since the control plane was ended, the proxies of the load have had word from the next one.
        self.control_back = True
        self.killed: set[str] = set()
        self.noise = 0
        self.made: set[str] = set()

    CHOICES = (
        ("policy", 10), ("generous", 22), ("weight", 14), ("scale", 10), ("kill", 9), ("split", 9), ("route", 6), ("secret", 3), ("toggle", 6),
        ("engines", 4), ("neighbour", 5), ("settings", 3), ("control", 2),
    )

    def make(self) -> tuple[str, str]:
        """Makes one change; its kind, and what it was."""
        names, weights = zip(*self.CHOICES)
        while True:
            [name] = self.random.choices(names, weights)
            try:
                return name, getattr(self, name)()
            except NotNow:
                continue
            except Refused as error:
                # Somebody else was faster: the object is gone, or is there by now.
                if error.status not in (404, 409):
                    raise

    # -- paths

    def core(self, kind: str, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/{kind}/{name}"

    def workload(self, name: str) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{name}"

    def label(self, path: str, labels: dict[str, str | None]):
        self.api.merge(path, {"metadata": {"labels": labels}})

    # -- changes

    def policy(self):
        name, policy = self.random.choice(SERVICES), self.random.choice((*POLICIES, None))
        self.label(self.core("services", name), {"traffic.lb.policy": policy})
        return f"service {name}: traffic.lb.policy={policy}"

    def generous(self):
        name, key = self.random.choice(SERVICES), self.random.choice(list(GENEROUS))
        value = self.random.choice(GENEROUS[key])
        self.label(self.core("services", name), {key: value})
        return f"service {name}: {key}={value}"

    def weight(self):
        name, weight = self.random.choice(SERVERS), self.random.choice(("1", "30", "100", "128", None))
        self.label(self.workload(name), {"traffic.endpoint.weight": weight})
        return f"deployment {name}: traffic.endpoint.weight={weight}"

    def pods(self, name: str) -> list[dict]:
        """The ready ones that are to stay."""
        items = self.api.get(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=name%3D{name}")["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"] and is_ready(pod)]

    def control_pods(self) -> list[dict]:
        pods = self.api.get("/api/v1/namespaces/weir-system/pods?labelSelector=app%3Dweir-control")["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def told(self) -> bool:
        """Whether the control plane is there, and the proxies that the load passes have from it what there is."""
        if not any(is_ready(pod) for pod in self.control_pods()):
            return False
        try:
            proxies = self.api.get("/apis/weir.dev/v1alpha1/proxies")["items"]
        except (Refused, OSError, http.client.HTTPException):
            return False
        states = {proxy["status"]["nodeId"]: proxy["status"] for proxy in proxies}
        passed = [
            state for node, state in states.items()
            if node == GATEWAY or (node.startswith(CLIENTS) and node.endswith(f".{self.namespace}") and state["id"])
        ]
        return GATEWAY in states and all(state["connected"] and all(state["synced"].values()) for state in passed)

    def spare(self, name: str) -> list[dict]:
        """The ready pods, when one may be ended: the control plane is there to say so, and another serves."""
        self.control_back = self.control_back or self.told()
        if not self.control_back:
            raise NotNow
        pods = self.pods(name)
        if len(pods) < 2:
            raise NotNow
        return pods

    def scale(self):
        name, replicas = self.random.choice(SERVERS), self.random.choice((2, 3, 4))
        if replicas < self.api.get(self.workload(name))["spec"]["replicas"]:
            if len(self.spare(name)) <= replicas:
                raise NotNow
            self.server_ended = time.monotonic()
        self.api.merge(self.workload(name), {"spec": {"replicas": replicas}})
        return f"deployment {name}: {replicas} replicas"

    def kill(self):
        pod = self.random.choice(self.spare(self.random.choice(SERVERS)))["metadata"]["name"]
        self.server_ended = time.monotonic()
        self.api.delete(self.core("pods", pod))
        return f"pod {pod} deleted"

    def split(self):
        path = f"/apis/split.smi-spec.io/v1alpha4/namespaces/{self.namespace}/trafficsplits/web"
        if "split" in self.made and self.random.random() < 0.3:
            self.made.discard("split")
            self.api.delete(path)
            return "TrafficSplit web deleted"
        a, b = self.random.choice(((1000, 500), (1, 9), (0, 1), (1, 0), (50, 50)))
        self.api.apply(path, {
            "apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit", "metadata": {"name": "web"},
            "spec": {"service": "web", "backends": [{"service": "web-a", "weight": a}, {"service": "web-b", "weight": b}]},
        })
        self.made.add("split")
        return f"TrafficSplit web: {a} to web-a, {b} to web-b"

    def route(self):
        path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{self.namespace}/httproutes/web"
        if "route" in self.made and self.random.random() < 0.3:
            self.made.discard("route")
            self.api.delete(path)
            return "HTTPRoute web deleted"
        a, b = self.random.choice(((1, 1), (9, 1), (0, 5)))
        # The body of the answer tells the path: no filter may change what the load verifies.
        self.api.apply(path, {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
                "rules": [
                    {"matches": [{"method": "POST"}], "backendRefs": [{"name": "web-b", "port": 80}]},
                    {
                        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-churn", "value": "yes"}]}}],
                        "timeouts": {"request": "20s"},
                        "backendRefs": [{"name": "web-a", "port": 80, "weight": a}, {"name": "web-b", "port": 80, "weight": b}],
                    },
                ],
            },
        })
        self.made.add("route")
        return f"HTTPRoute web: {a} to web-a, {b} to web-b, POST to web-b"

    def secret(self):
        chain, key, digest = certificate(["churn.test"])
        self.api.apply(self.core("secrets", "churn-tls"), {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "churn-tls"}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": chain, "tls.key": key},
        })
        return f"Secret churn-tls: certificate {digest[:8]}"

    def toggle(self):
        name = self.random.choice(("south", *SERVERS, "sink"))
        now = self.api.get(self.workload(name))["metadata"]["labels"].get("traffic.envoy.enabled")
        wanted = "false" if now == "true" else "true"
        self.label(self.workload(name), {"traffic.envoy.enabled": wanted})
        return f"deployment {name}: traffic.envoy.enabled={wanted}"

    def engines(self):
        """A workload gets the other engine, and later its own again."""
        name = self.random.choice(("south", *SERVERS, "sink"))
        now = self.api.get(self.workload(name))["metadata"]["labels"].get("traffic.proxy.engine")
        wanted = self.engine if now != self.engine else {"weir": "envoy", "envoy": "weir"}[self.engine]
        self.label(self.workload(name), {"traffic.proxy.engine": wanted})
        return f"deployment {name}: traffic.proxy.engine={wanted}"

    def neighbour(self):
        """A Service that nobody asks comes, changes or goes."""
        self.noise += 1
        name = f"neighbour-{self.noise % 3}"
        if name in self.made:
            self.made.discard(name)
            self.api.delete(self.core("services", name))
            return f"service {name} deleted"
        self.made.add(name)
        protocol = self.random.choice(("http", "tcp", "grpc"))
        self.api.apply(self.core("services", name), {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"traffic.port.80": protocol}},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]} if protocol == "http" else
                    {"selector": {"app": "nobody"}, "ports": [{"port": 80, "targetPort": 8080}]},
        })
        return f"service {name}: {protocol}"

    def settings(self):
        """The mesh's own settings: listeners of all proxies may change with them."""
        text = self.random.choice(("outboundDefault: deny", "outboundDefault: detect", "tracing: {sampling: 1}", "retries: {connectFailure: 3}", "accessLog: true"))
        self.api.apply("/api/v1/namespaces/weir-system/configmaps/weir-mesh", {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "weir-mesh"}, "data": {"config.yaml": text},
        })
        return f"ConfigMap weir-mesh: {text}"

    def control(self):
        """The control plane is killed, or its pod deleted; not so fast that it is not there in between.

        A container that is killed a second time is started again after 10 s only: it is killed once, and then its pod is deleted.
        """
        now = time.monotonic()
        if now - self.control_ended < CONTROL_SECONDS:
            raise NotNow
        while time.monotonic() - self.server_ended < TOLD_SECONDS or not self.told():
            if time.monotonic() - now > TOLD_SECONDS_MAX:
                raise NotNow
            time.sleep(0.1)
        names = {pod["metadata"]["name"] for pod in self.control_pods()}
        self.control_ended, self.control_back = time.monotonic(), False
        if names & self.killed or self.random.random() < 0.5:
            for name in names:
                self.api.delete(f"/api/v1/namespaces/weir-system/pods/{name}")
            return f"control plane's pod deleted: {', '.join(names)}"
        self.killed |= names
        pids = self.mesh.processes("weir control")
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return f"control plane killed: {pids}"
