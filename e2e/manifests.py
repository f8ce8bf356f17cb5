"""Small applications that the tests deploy."""


def deployment(name, args, *, replicas=1, labels=None, ports=None, probe=None, grace=10):
    """A Deployment of the bookinfo image; labels stand on the Deployment itself, as users set traffic.* labels."""
    lines = "".join(f"\n    {key}: {value!r}" for key, value in (labels or {}).items())
    port_lines = "".join(f"\n        - {{name: {key}, containerPort: {value}}}" for key, value in (ports or {}).items())
    probe_lines = (
        f"\n        readinessProbe: {{httpGet: {{path: /healthz, port: {probe}}}, periodSeconds: 1, timeoutSeconds: 3}}"
        if probe
        else ""
    )
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels:
    app: {name}{lines}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: {grace}
      containers:
      - name: {name}
        image: bookinfo
        args: {args!r}{' ' if not ports else chr(10) + '        ports:' + port_lines}{probe_lines}
---
"""


def service(name, port, target_port, *, app=None, labels=None, headless=False):
    lines = "".join(f"\n    {key}: {value!r}" for key, value in (labels or {}).items())
    return f"""
apiVersion: v1
kind: Service
metadata:
  name: {name}
  labels:
    app: {app or name}{lines}
spec:{chr(10) + '  clusterIP: None' if headless else ''}
  selector: {{app: {app or name}}}
  ports:
  - {{port: {port}, targetPort: {target_port}}}
---
"""


def meshed(engine):
    """The labels that put a proxy of this engine beside a workload's pods."""
    return {"traffic.envoy.enabled": "true", "traffic.proxy.engine": engine}
