"""The churn's own way to the Kubernetes API: no process a change, so that changes can come fast. And the application that is changed."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

from harness import ROOT
from manifests import deployment, meshed, service

FOLDER = Path(__file__).parent
# What the client pods run needs packages of the tests' own environment.
PYTHON = ROOT / ".tools" / "venv"


class Refused(AssertionError):
    """The API server said no."""

    def __init__(self, status: int, text: str):
        super().__init__(f"{status}: {text[:500]}")
        self.status = status


class Api:
    """Requests to the API server with the kubeconfig's certificate, over one connection."""

    def __init__(self, kubeconfig: Path):
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.address = urlsplit(cluster["server"]).netloc
        self.context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]) + b"\n" + base64.b64decode(user["client-key-data"]))
            pair.flush()
            self.context.load_cert_chain(pair.name)
        self.connection: http.client.HTTPSConnection | None = None
        self.lock = threading.Lock()

    def ask(self, method: str, path: str, body=None, kind: str = "application/json"):
        text = None if body is None else json.dumps(body)
        with self.lock:
            for attempt in (1, 2):
                if self.connection is None:
                    self.connection = http.client.HTTPSConnection(self.address, context=self.context, timeout=20)
                try:
                    self.connection.request(method, path, text, {"Content-Type": kind, "Accept": "application/json"})
                    response = self.connection.getresponse()
                    answer = response.read().decode()
                    break
                except (OSError, http.client.HTTPException):
                    self.connection.close()
                    self.connection = None
                    if attempt == 2:
                        raise
        if response.status >= 400:
            raise Refused(response.status, answer)
        return json.loads(answer)

    def get(self, path: str):
        return self.ask("GET", path)

    def merge(self, path: str, body):
        return self.ask("PATCH", path, body, "application/merge-patch+json")

    def apply(self, path: str, body):
        """Made or replaced as a whole."""
        return self.ask("PATCH", f"{path}?fieldManager=churn&force=true", body, "application/apply-patch+yaml")

    def delete(self, path: str, seconds: int | None = None):
        return self.ask("DELETE", path, None if seconds is None else {"gracePeriodSeconds": seconds})


def python_workload(name: str, command: list[str], labels: dict[str, str], replicas=1, port=None, grace=10) -> str:
    """A Deployment that runs a program of this folder; the port is that of its probe."""
    lines = "".join(f"\n    {key}: {value!r}" for key, value in labels.items())
    probe = f"\n        readinessProbe: {{httpGet: {{path: /healthz, port: {port}}}, periodSeconds: 1, timeoutSeconds: 3}}" if port else ""
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels:
    app: {name}{lines}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}, name: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}, name: {name}}}}}
    spec:
      terminationGracePeriodSeconds: {grace}
      volumes:
      - {{name: churn, hostPath: {{path: {FOLDER}}}}}
      - {{name: python, hostPath: {{path: {PYTHON.resolve()}}}}}
      containers:
      - name: {name}
        image: python
        command: {["/python/bin/python", *command]!r}
        volumeMounts: [{{name: churn, mountPath: /churn, readOnly: true}}, {{name: python, mountPath: /python, readOnly: true}}]{probe}
---
"""


def application(engine: str) -> str:
    """Servers that serve on after SIGTERM until their end, and the Services that lead to them."""
    proxied = meshed(engine)
    # Unready at once, then as long as it takes until nobody sends any more; the grace period is longer than both together.
    echo = ["http-echo", "--listen", "0.0.0.0:8080", "--lame-duck", "6s", "--drain", "3s"]
    text = ""
    for name in ("web-a", "web-b"):
        text += deployment(name, echo, app="web", labels=proxied, replicas=2, ports={"http": 8080}, probe=8080, grace=12)
        text += service(name, 80, 8080, workload=name, labels={"traffic.port.80": "http"})
    text += service("web", 80, 8080, labels={"traffic.port.80": "http"})
    text += python_workload("calls", ["/churn/calls.py"], proxied, replicas=2, port=8080, grace=12)
    text += service("calls", 50051, 50051, labels={"traffic.port.50051": "grpc"})
    text += deployment("sink", ["tcp-echo", "--listen", "0.0.0.0:7000"], labels=proxied)
    text += service("sink", 7000, 7000, labels={"traffic.port.7000": "tcp"})
    return text


def clients(engine: str, rate: int) -> str:
    """`north` keeps its proxy (its HTTP/2 to a server of HTTP/1.1 needs it); that of `south` comes and goes."""
    kinds = "kept,fresh,grpc,tcp"
    return "".join(
        python_workload(name, ["/churn/load.py", "--kinds", kinds + more, "--rate", str(rate)], meshed(engine), grace=1)
        for name, more in (("north", ",http2"), ("south", ""))
    )
