"""Small applications that the tests deploy."""


def deployment(name, args, *, app=None, replicas=1, labels=None, ports=None, probe=None, grace=10, folder=None):
    """A Deployment of the bookinfo image; labels stand on the Deployment itself, as users set traffic.* labels.

    `app`: the label by which a Service finds the pods, where it is not the name; `folder`: (on this machine, in the pod).
    """
    lines = "".join(f"\n    {key}: {value!r}" for key, value in (labels or {}).items())
    port_lines = "".join(f"\n        - {{name: {key}, containerPort: {value}}}" for key, value in (ports or {}).items())
    container = "" if not ports else "\n        ports:" + port_lines
    if probe:
        container += f"\n        readinessProbe: {{httpGet: {{path: /healthz, port: {probe}}}, periodSeconds: 1, timeoutSeconds: 3}}"
    volumes = ""
    if folder:
        volumes = f"\n      volumes: [{{name: folder, hostPath: {{path: {folder[0]}}}}}]"
        container += f"\n        volumeMounts: [{{name: folder, mountPath: {folder[1]}, readOnly: true}}]"
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels:
    app: {app or name}{lines}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {app or name}, name: {name}}}}}
  template:
    metadata: {{labels: {{app: {app or name}, name: {name}}}}}
    spec:
      terminationGracePeriodSeconds: {grace}{volumes}
      containers:
      - name: {name}
        image: bookinfo
        args: {args!r}{container}
---
"""


def service(name, port, target_port, *, app=None, workload=None, labels=None, headless=False):
    """A Service of the pods with this `app` label, or of one Deployment's."""
    lines = "".join(f"\n    {key}: {value!r}" for key, value in (labels or {}).items())
    return f"""
apiVersion: v1
kind: Service
metadata:
  name: {name}
  labels:
    app: {app or name}{lines}
spec:{chr(10) + '  clusterIP: None' if headless else ''}
  selector: {{{f"name: {workload}" if workload else f"app: {app or name}"}}}
  ports:
  - {{port: {port}, targetPort: {target_port}}}
---
"""


def meshed(engine):
    """The labels that put a proxy of this engine beside a workload's pods."""
    return {"traffic.envoy.enabled": "true", "traffic.proxy.engine": engine}
