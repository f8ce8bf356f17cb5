"""Real Prometheus with the shipped scrape configuration, as a pod of the cluster, answers as the embedded store does."""

import json
import urllib.parse

import yaml

from harness import ROOT, tool, wait_until
from manifests import deployment, meshed, service

QUERIES = [
    "sum(request_total)",
    "sum by (pod) (request_total)",
    "sum by (namespace, deployment) (response_total)",
    "sum by (direction, classification) (response_total)",
    "sum by (dst_deployment) (response_total{direction=\"outbound\"})",
    "count(response_latency_ms_bucket) by (le)",
    "histogram_quantile(0.99, sum by (le, pod) (response_latency_ms_bucket))",
    "topk(2, sum by (pod) (request_total))",
    "sum by (pod) (response_total{status_code=\"200\"}) / sum by (pod) (response_total)",
    "sum by (pod) (request_total) > 10",
    "max by (pod) (tcp_open_total)",
    "avg by (namespace) (response_latency_ms_sum)",
]


def test_same_answers(mesh, namespace):
    # Debian's Prometheus is built without Kubernetes discovery: of the two shipped configurations it takes the one by HTTP.
    shipped = (ROOT / "deploy" / "prometheus" / "scrape-http-sd.yml").read_text()
    config = "global: {scrape_interval: 5s}\n" + shipped
    manifest = "".join([
        deployment("server", ["http-echo", "--listen", "0.0.0.0:8080", "--fail", "0.1"], labels=meshed("weir"), probe=8080),
        service("server", 80, 8080, labels={"traffic.port.80": "http"}),
        deployment("caller", ["http-echo", "--listen", "0.0.0.0:8081"], labels=meshed("envoy")),
        yaml.safe_dump_all([
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prometheus"}, "data": {"prometheus.yml": config}},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": f"prometheus-{namespace}"},
             "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "weir-store-reader"},
             "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}]},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "prometheus"}, "spec": {
                "terminationGracePeriodSeconds": 5,
                "containers": [{"name": "prometheus", "image": "prometheus",
                                "command": [tool("prometheus"), "--config.file=/etc/weir-prometheus/prometheus.yml",
                                            "--storage.tsdb.path=/data", "--web.listen-address=0.0.0.0:9090", "--log.level=warn"],
                                "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 1},
                                "volumeMounts": [{"name": "config", "mountPath": "/etc/weir-prometheus"}, {"name": "data", "mountPath": "/data"}]}],
                "volumes": [{"name": "config", "configMap": {"name": "prometheus"}}, {"name": "data", "emptyDir": {}}]}},
        ]),
    ])
    mesh.kubectl("apply", "-n", namespace, "-f", "-", input=manifest)
    wait_until("the pods", lambda: mesh.pods_ready(namespace, 3), 60)
    names = {app: mesh.pods(namespace, f"app={app}")[0]["metadata"]["name"] for app in ("server", "caller")}
    mesh.wait_proxied(namespace, list(names.values()))
    wait_until("an open port", lambda: mesh.curl_status(namespace, names["caller"], "http://server/") in ("200", "500"), 15)
    mesh.exec(namespace, names["caller"], "bookinfo", "client", "--target", "http://server/", "--count", "500", "--json")

    def prometheus(query):
        path = f"/api/v1/namespaces/{namespace}/pods/prometheus:9090/proxy/api/v1/query?query={urllib.parse.quote(query)}"
        return json.loads(mesh.raw(path))["data"]["result"]

    def scoped(query):
        """The same query over this test's pods only, where the shared mesh has others."""
        return query.replace("{", f'{{namespace="{namespace}",').replace("_total)", f'_total{{namespace="{namespace}"}})') \
            .replace("_bucket)", f'_bucket{{namespace="{namespace}"}})').replace("_sum)", f'_sum{{namespace="{namespace}"}})')

    def rows(result):
        return {tuple(sorted(item["metric"].items())): float(item["value"][1]) for item in result}

    wait_until("Prometheus to have scraped the last of 500 requests",
               lambda: sum(rows(prometheus('request_total{direction="outbound",dst_deployment="server"}')).values()) >= 501, 30)
    def scraped(answer):
        return {item["metric"]["pod"] for item in answer}

    wait_until("both to scrape every proxy", lambda: scraped(mesh.query("up == 1")) == scraped(prometheus("up == 1")), 30, 0.5)
    assert set(names.values()) <= scraped(prometheus("up == 1"))
    for query in QUERIES:
        def same(query=scoped(query)):
            ours, theirs = rows(mesh.query(query)), rows(prometheus(query))
            assert theirs, f"{query}: empty in Prometheus"
            assert ours.keys() == theirs.keys(), (query, ours, theirs)
            for labels, value in theirs.items():
                assert abs(ours[labels] - value) <= 1e-9 * max(1.0, abs(value)), (query, labels, ours[labels], value)
            return True

        wait_until(f"equal answers to {query}", same, 20, 0.5)
