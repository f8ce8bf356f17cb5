//! The model's rules, from objects as they come from a cluster.

use serde_json::{Value, json};
use weir_api::labels::{Engine, Protocol};

use super::*;

mod in_front;

fn objects(list: impl IntoIterator<Item = Value>) -> Objects {
    let mut objects = Objects::default();
    for object in list {
        assert!(objects.insert(object.clone()).unwrap(), "{object}");
    }
    objects
}

fn service(name: &str, labels: Value, spec: Value) -> Value {
    json!({"kind": "Service", "metadata": {"namespace": "default", "name": name, "uid": name, "labels": labels}, "spec": spec})
}

fn web(labels: Value) -> Value {
    service(
        "web",
        labels,
        json!({"clusterIP": "10.96.0.20", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}),
    )
}

fn slice(service: &str, port: Value, endpoints: &[(&str, &str, bool)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, pod, ready)| {
            json!({"addresses": [ip], "conditions": {"ready": ready},
                   "targetRef": {"kind": "Pod", "namespace": "default", "name": pod}})
        })
        .collect();
    json!({"kind": "EndpointSlice", "addressType": "IPv4", "ports": [port], "endpoints": endpoints,
           "metadata": {"namespace": "default", "name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}}})
}

fn pod(name: &str, ip: &str, labels: Value, owner: Option<(&str, &str)>) -> Value {
    let owners: Vec<Value> = owner
        .map(|(kind, name)| json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": true}))
        .into_iter()
        .collect();
    json!({"kind": "Pod", "metadata": {"namespace": "default", "name": name, "uid": name, "labels": labels, "ownerReferences": owners},
           "spec": {"containers": []}, "status": {"phase": "Running", "podIP": ip, "hostIP": "10.244.0.1"}})
}

fn deployment(name: &str, labels: Value) -> [Value; 2] {
    [
        json!({"kind": "Deployment", "metadata": {"namespace": "default", "name": name, "uid": name, "labels": labels}}),
        json!({"kind": "ReplicaSet", "metadata": {"namespace": "default", "name": format!("{name}-abc"), "ownerReferences":
            [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": name, "controller": true}]}}),
    ]
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_labelled_service_with_its_endpoints() {
    let (mesh, problems) = build(&objects([
        web(json!({"traffic.port.80": "http"})),
        slice(
            "web",
            json!({"port": 8080}),
            &[("10.244.0.7", "web-1", true), ("10.244.0.8", "web-2", false)],
        ),
        pod("web-1", "10.244.0.7", json!({}), None),
    ]));
    assert_eq!(problems, []);
    let service = &mesh.services[&key("web")];
    let port = &service.ports[&80];
    assert_eq!(port.protocol, Some(Protocol::Http));
    assert_eq!(
        port.endpoints.iter().map(|e| (e.port, e.ready)).collect::<Vec<_>>(),
        [(8080, true), (8080, false)]
    );
    assert!(service.domains(80).contains("web.default.svc.cluster.local:80"));
    assert!(service.domains(80).contains("10.96.0.20"));
    let inbound = &mesh.pods[&key("web-1")].inbound;
    assert_eq!(inbound[&8080].protocol, Protocol::Http);
    assert!(
        inbound[&8080].domains.contains("web"),
        "the target port knows the service's names"
    );
}

#[test]
fn unlabelled_ports_are_blocked_but_dns_and_the_api_are_not() {
    let dns = json!({"kind": "Service", "metadata": {"namespace": "kube-system", "name": "kube-dns"},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}});
    let api = service(
        "kubernetes",
        json!({}),
        json!({"clusterIP": "10.96.0.1", "ports": [{"port": 443}]}),
    );
    let (mesh, problems) = build(&objects([web(json!({})), dns, api]));
    assert_eq!(problems, []);
    assert_eq!(mesh.services[&key("web")].ports[&80].protocol, None);
    assert_eq!(
        mesh.services[&key("kubernetes")].ports[&443].protocol,
        Some(Protocol::Direct)
    );
    let dns = &mesh.services[&Key::new("kube-system", "kube-dns")];
    assert_eq!(dns.ports[&53].protocol, Some(Protocol::Direct));
    assert_eq!(dns.ports[&53].name, "dns-tcp");
}

#[test]
fn an_annotation_wins_over_a_label() {
    let mut object = web(json!({"traffic.port.80": "tcp"}));
    object["metadata"]["annotations"] = json!({"traffic.port.80": "http"});
    let (mesh, _) = build(&objects([object]));
    assert_eq!(mesh.services[&key("web")].ports[&80].protocol, Some(Protocol::Http));
}

#[test]
fn bad_port_labels_are_problems_and_the_port_stays_blocked() {
    let (mesh, problems) = build(&objects([
        web(json!({"traffic.port.80": "htpp", "traffic.port.8080": "http", "traffic.port.x": "http"})),
        slice("web", json!({"port": 8080}), &[]),
    ]));
    assert_eq!(mesh.services[&key("web")].ports[&80].protocol, None);
    assert_eq!(
        texts(&problems),
        [
            "Service default/web: metadata.labels[traffic.port.8080]: the Service has no TCP port 8080; its TCP ports: 80 (label the Service's port, not the container's)",
            "Service default/web: metadata.labels[traffic.port.80]: \"htpp\" is not a protocol; write http, http2, grpc, tcp or direct (the port stays blocked until then)",
            "Service default/web: metadata.labels[traffic.port.x]: \"x\" is not a port; write traffic.port.N with N from 1 to 65535",
        ]
    );
    assert_eq!(problems[0].object.uid, "web");
}

#[test]
fn a_label_on_a_service_that_leads_nowhere_is_a_problem() {
    let bare = || {
        service(
            "bare",
            json!({"traffic.port.80": "http"}),
            json!({"clusterIP": "10.96.0.21", "ports": [{"port": 80}]}),
        )
    };
    let (_, problems) = build(&objects([bare()]));
    assert_eq!(texts(&problems).len(), 1);
    assert!(
        texts(&problems)[0].starts_with("Service default/bare: spec.selector: the Service selects no pods"),
        "{problems:?}"
    );
    // Somebody else may write its slices.
    let (_, problems) = build(&objects([bare(), slice("bare", json!({"port": 80}), &[])]));
    assert_eq!(problems, []);
    let external = service(
        "out",
        json!({"traffic.port.80": "http"}),
        json!({"type": "ExternalName", "externalName": "x.org", "ports": [{"port": 80}]}),
    );
    let (mesh, problems) = build(&objects([external]));
    assert!(texts(&problems)[0].contains("ExternalName"), "{problems:?}");
    assert!(!mesh.services[&key("out")].headless);
}

#[test]
fn target_ports_by_number_and_by_name() {
    let two = service(
        "two",
        json!({"traffic.port.80": "http", "traffic.port.81": "tcp"}),
        json!({"clusterIP": "10.96.0.22", "selector": {"a": "b"}, "ports": [
            {"name": "web", "port": 80, "targetPort": "http"}, {"name": "raw", "port": 81, "targetPort": 9000}]}),
    );
    let mut slice = slice(
        "two",
        json!({"name": "web", "port": 8080}),
        &[("10.244.0.7", "p", true)],
    );
    slice["ports"] = json!([{"name": "web", "port": 8080}, {"name": "raw", "port": 9000}]);
    let (mesh, problems) = build(&objects([two, slice, pod("p", "10.244.0.7", json!({}), None)]));
    assert_eq!(problems, []);
    let ports = &mesh.services[&key("two")].ports;
    assert_eq!(
        (ports[&80].endpoints[0].port, ports[&81].endpoints[0].port),
        (8080, 9000)
    );
    let inbound = &mesh.pods[&key("p")].inbound;
    assert_eq!(
        (inbound[&8080].protocol, inbound[&9000].protocol),
        (Protocol::Http, Protocol::Tcp)
    );
}

#[test]
fn the_strongest_protocol_of_a_shared_target_port_counts() {
    let ports = json!([{"port": 80, "targetPort": 8080}]);
    let named = |name: &str, protocol: &str| {
        service(
            name,
            json!({"traffic.port.80": protocol}),
            json!({"clusterIP": "10.96.0.30", "selector": {"a": "b"}, "ports": ports}),
        )
    };
    let (mesh, _) = build(&objects([
        named("a", "tcp"),
        named("b", "http"),
        slice("a", json!({"port": 8080}), &[("10.244.0.7", "p", true)]),
        slice("b", json!({"port": 8080}), &[("10.244.0.7", "p", true)]),
        pod("p", "10.244.0.7", json!({}), None),
    ]));
    let inbound = &mesh.pods[&key("p")].inbound[&8080];
    assert_eq!(inbound.protocol, Protocol::Http);
    assert!(inbound.domains.contains("a") && inbound.domains.contains("b"));
}

#[test]
fn weights_reach_endpoints_pod_over_workload() {
    let [deployment, replica_set] = deployment("web", json!({"traffic.endpoint.weight": "50"}));
    let (mesh, problems) = build(&objects([
        web(json!({"traffic.port.80": "http"})),
        slice(
            "web",
            json!({"port": 8080}),
            &[
                ("10.244.0.7", "p1", true),
                ("10.244.0.8", "p2", true),
                ("10.244.0.9", "p3", true),
            ],
        ),
        deployment,
        replica_set,
        pod("p1", "10.244.0.7", json!({}), Some(("ReplicaSet", "web-abc"))),
        pod(
            "p2",
            "10.244.0.8",
            json!({"traffic.endpoint.weight": "0"}),
            Some(("ReplicaSet", "web-abc")),
        ),
        pod("p3", "10.244.0.9", json!({}), None),
    ]));
    assert_eq!(problems, []);
    let weights: Vec<u32> = mesh.services[&key("web")].ports[&80]
        .endpoints
        .iter()
        .map(|e| e.weight)
        .collect();
    assert_eq!(weights, [50, 0, 100]);
}

#[test]
fn a_bad_weight_is_reported_once_where_it_stands() {
    let [deployment, replica_set] = deployment("web", json!({"traffic.endpoint.weight": "abc"}));
    let owner = Some(("ReplicaSet", "web-abc"));
    let (mesh, problems) = build(&objects([
        deployment,
        replica_set,
        pod("p1", "10.244.0.7", json!({}), owner),
        pod("p2", "10.244.0.8", json!({}), owner),
        pod("p3", "10.244.0.9", json!({"traffic.endpoint.weight": "200"}), owner),
    ]));
    assert_eq!(
        mesh.pods.values().map(|p| p.weight).collect::<Vec<_>>(),
        [100, 100, 128]
    );
    let texts = texts(&problems);
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[1].starts_with("Pod default/p3: metadata.labels[traffic.endpoint.weight]: 200 is above"));
    assert!(texts[0].starts_with("Deployment default/web: metadata.labels[traffic.endpoint.weight]: \"abc\""));
}

#[test]
fn pods_know_their_workload_engine_and_whether_they_are_enabled() {
    let [deployment, replica_set] = deployment("web", json!({"traffic.envoy.enabled": "true"}));
    let owner = Some(("ReplicaSet", "web-abc"));
    let namespace =
        json!({"kind": "Namespace", "metadata": {"name": "default", "labels": {"traffic.proxy.engine": "envoy"}}});
    let (mesh, problems) = build(&objects([
        namespace,
        deployment,
        replica_set,
        pod("p1", "10.244.0.7", json!({}), owner),
        pod(
            "p2",
            "10.244.0.8",
            json!({"traffic.envoy.enabled": "false", "traffic.proxy.engine": "weir"}),
            owner,
        ),
        pod("p3", "10.244.0.9", json!({"traffic.envoy.enabled": "yes"}), owner),
    ]));
    let p = |name| &mesh.pods[&key(name)];
    assert_eq!((p("p1").enabled, p("p1").engine), (true, Engine::Envoy));
    assert_eq!((p("p2").enabled, p("p2").engine), (false, Engine::Weir));
    assert!(!p("p3").enabled);
    assert_eq!(
        (p("p1").identity.owner_kind.as_str(), p("p1").identity.owner.as_str()),
        ("deployment", "web")
    );
    assert_eq!(texts(&problems).len(), 1);
    assert!(
        texts(&problems)[0].contains("Pod default/p3: metadata.labels[traffic.envoy.enabled]"),
        "{problems:?}"
    );
    assert_eq!(
        mesh.identities[&"10.244.0.7".parse::<std::net::IpAddr>().unwrap()].pod,
        "p1"
    );
}

#[test]
fn ended_terminating_and_host_network_pods() {
    let mut ended = pod("ended", "10.244.0.7", json!({}), None);
    ended["status"]["phase"] = json!("Succeeded");
    let mut going = pod("going", "10.244.0.8", json!({}), None);
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut host = pod("host", "10.244.0.1", json!({"traffic.envoy.enabled": "true"}), None);
    host["spec"]["hostNetwork"] = json!(true);
    let (mesh, problems) = build(&objects([
        web(json!({"traffic.port.80": "http"})),
        slice(
            "web",
            json!({"port": 8080}),
            &[("10.244.0.8", "going", true), ("10.244.0.7", "new", true)],
        ),
        ended,
        going,
        host,
        pod("new", "10.244.0.7", json!({}), None),
    ]));
    assert!(!mesh.pods.contains_key(&key("ended")));
    let ready: Vec<_> = mesh.services[&key("web")].ports[&80]
        .endpoints
        .iter()
        .map(|e| e.ready)
        .collect();
    assert_eq!(ready, [true, false], "a pod that is being deleted takes no new traffic");
    let at = |ip: &str| {
        mesh.identities
            .get(&ip.parse::<IpAddr>().unwrap())
            .map(|i| i.pod.as_str())
    };
    assert_eq!((at("10.244.0.7"), at("10.244.0.1")), (Some("new"), None));
    assert!(!mesh.pods[&key("host")].enabled);
    assert!(texts(&problems)[0].contains("hostNetwork"), "{problems:?}");
}

#[test]
fn headless_services_offer_their_pods_addresses() {
    let headless = service(
        "db",
        json!({"traffic.port.5432": "tcp"}),
        json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 5432, "targetPort": 6000}]}),
    );
    let mut slice = slice("db", json!({"port": 6000}), &[("10.244.0.7", "db-0", false)]);
    slice["endpoints"][0]["hostname"] = json!("db-0");
    let (mesh, problems) = build(&objects([
        headless,
        slice,
        pod(
            "db-0",
            "10.244.0.7",
            json!({"traffic.target.port.9090": "http"}),
            Some(("StatefulSet", "db")),
        ),
    ]));
    assert_eq!(problems, []);
    assert!(mesh.services[&key("db")].headless);
    let ip: IpAddr = "10.244.0.7".parse().unwrap();
    let db = &mesh.addresses[&(ip, 6000)];
    assert_eq!((db.protocol, db.service.as_str()), (Protocol::Tcp, "db"));
    assert!(db.domains.contains("db-0.db.default.svc.cluster.local:6000"));
    assert_eq!(db.endpoint.identity.as_ref().unwrap().owner_kind, "statefulset");
    let own = &mesh.addresses[&(ip, 9090)];
    assert_eq!((own.protocol, own.service.as_str()), (Protocol::Http, ""));
    assert_eq!(mesh.pods[&key("db-0")].inbound[&9090].protocol, Protocol::Http);
}

#[test]
fn node_ids() {
    let key = Key::from_node_id("reviews-v3-5df889bcff-f2hgh.default").unwrap();
    assert_eq!(key, Key::new("default", "reviews-v3-5df889bcff-f2hgh"));
    assert_eq!(key.node_id(), "reviews-v3-5df889bcff-f2hgh.default");
    assert_eq!(Key::from_node_id("a.b.default").unwrap().name, "a.b");
    assert_eq!(Key::from_node_id("traffic-ingress"), None);
}

fn mesh_config(text: &str) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"namespace": "weir-system", "name": "weir-mesh", "uid": "c"}, "data": {"config.yaml": text}})
}

#[test]
fn what_is_measured_is_said_by_the_mesh_and_by_service() {
    let (mesh, problems) = build(&objects([
        mesh_config("metrics:\n  granularity: workload\n  buckets: [5, 50, 500]\n"),
        json!({"kind": "ConfigMap", "metadata": {"namespace": "default", "name": "weir-mesh"}, "data": {"config.yaml": "metrics: {granularity: service}"}}),
        web(json!({"traffic.port.80": "http", "traffic.metrics.buckets": "coarse"})),
        slice("web", json!({"port": 8080}), &[("10.244.0.7", "p", true)]),
        pod("p", "10.244.0.7", json!({}), None),
    ]));
    assert_eq!(problems, []);
    let shown = |telemetry: &Telemetry| serde_json::to_value(telemetry).unwrap();
    assert_eq!(
        shown(&mesh.telemetry),
        json!({"granularity": "workload", "buckets": "5,50,500"})
    );
    let of_service = &mesh.services[&key("web")].telemetry;
    assert_eq!(shown(of_service), json!({"buckets": "coarse"}));
    assert_eq!(&mesh.pods[&key("p")].inbound[&8080].telemetry, of_service);
    assert_eq!(
        shown(&of_service.or(&mesh.telemetry)),
        json!({"granularity": "workload", "buckets": "coarse"})
    );
}

#[test]
fn bad_settings_are_problems_and_the_last_good_ones_stay() {
    let good = "metrics: {granularity: service, buckets: fine}";
    let (first, problems) = build(&objects([mesh_config(good)]));
    assert_eq!(problems, []);
    for (text, field, kept) in [
        (
            "metrics: {granularity: pods, buckets: coarse}",
            ".metrics.granularity",
            json!({"granularity": "service", "buckets": "coarse"}),
        ),
        (
            "metrics: {buckets: [5, 1]}",
            ".metrics.buckets",
            json!({"buckets": "fine"}),
        ),
        (
            "metrics: {buckets: [5, a]}",
            ".metrics.buckets",
            json!({"buckets": "fine"}),
        ),
        (
            "metrics: {buckets: 7.5}",
            ".metrics.buckets",
            json!({"buckets": "fine"}),
        ),
        (
            "metrics: pod",
            ".metrics",
            json!({"granularity": "service", "buckets": "fine"}),
        ),
        ("- a", "", json!({"granularity": "service", "buckets": "fine"})),
        ("metrics: {", "", json!({"granularity": "service", "buckets": "fine"})),
        ("metrics: {granularty: pod}", ".metrics.granularty", json!({})),
    ] {
        let (mesh, problems) = rebuild(&objects([mesh_config(text)]), &first);
        assert_eq!(texts(&problems).len(), 1, "{text}: {problems:?}");
        assert_eq!(
            (problems[0].object.kind.as_str(), problems[0].object.uid.as_str()),
            ("ConfigMap", "c")
        );
        assert_eq!(problems[0].field, format!("data[config.yaml]{field}"), "{text}");
        assert_eq!(serde_json::to_value(&mesh.telemetry).unwrap(), kept, "{text}");
    }
    let (without, problems) = rebuild(&objects([]), &first);
    assert_eq!(
        (without.telemetry, problems),
        (Telemetry::default(), vec![]),
        "a ConfigMap that goes says nothing any more"
    );
    let (empty, problems) = rebuild(&objects([mesh_config("# nothing yet\n")]), &first);
    assert_eq!((empty.telemetry, problems), (Telemetry::default(), vec![]));
}

#[test]
fn a_service_with_wrong_words_is_measured_as_the_mesh_is() {
    let (mesh, problems) = build(&objects([
        web(
            json!({"traffic.port.80": "http", "traffic.metrics.granularity": "replica", "traffic.metrics.buckets": "5-10"}),
        ),
        slice("web", json!({"port": 8080}), &[]),
    ]));
    assert_eq!(mesh.services[&key("web")].telemetry, Telemetry::default());
    let texts = texts(&problems);
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts[0].starts_with("Service default/web: metadata.labels[traffic.metrics.buckets]: \"5-10\""),
        "{texts:?}"
    );
    assert!(texts[1].contains("pod, workload or service"), "{texts:?}");
}

#[test]
fn each_bad_setting_is_a_problem_and_its_last_good_value_stays() {
    let good = r#"
outboundDefault: allow
engine: envoy
accessLog: true
timeouts: {connect: 5s, request: 15s, perTry: 2s, idle: 5m}
retries: {5xx: 1, connectFailure: 2, gatewayError: 3, budget: 20}
outlier: {enabled: false, consecutiveGatewayErrors: 7, consecutive5xx: 9, ejectionTime: 30s, maxEjectionPercent: 10}
tracing: {backend: otlp, address: "otel.example.com:4318", sampling: 12.5}
"#;
    let (first, problems) = build(&objects([mesh_config(good)]));
    assert_eq!(problems, []);
    let settings = &first.settings;
    assert_eq!(settings.outbound_default, settings::OutboundDefault::Allow);
    assert_eq!((settings.engine, settings.access_log), (Some(Engine::Envoy), true));
    assert_eq!(settings.tracing.address, Some(("otel.example.com".to_owned(), 4318)));
    assert_eq!(settings.defaults.sampling, "12.5".parse().ok());
    for bad in [
        "outboundDefault: maybe",
        "engine: nginx",
        "accessLog: often",
        "timeouts: {connect: soon}",
        "timeouts: {request: [1]}",
        "timeouts: {perTry: -1s}",
        "timeouts: {idle: x}",
        "timeouts: 3s",
        "retries: {5xx: -1}",
        "retries: {connectFailure: x}",
        "retries: {gatewayError: 1.5}",
        "retries: {budget: 101}",
        "retries: [a]",
        "outlier: {enabled: 1}",
        "outlier: {consecutiveGatewayErrors: x}",
        "outlier: {consecutive5xx: x}",
        "outlier: {ejectionTime: x}",
        "outlier: {maxEjectionPercent: 200}",
        "tracing: {backend: jaeger}",
        "tracing: {address: otel.example.com}",
        "tracing: {address: 'otel:0'}",
        "tracing: {sampling: all}",
    ] {
        let (name, _) = bad.split_once(':').unwrap();
        let (second, problems) = rebuild(&objects([mesh_config(bad)]), &first);
        assert!(problems.len() == 1, "{bad}: {problems:?}");
        let field = format!("data[config.yaml].{name}");
        assert!(problems[0].field.starts_with(&field), "{bad}: {}", problems[0]);
        let now = serde_json::to_value(&second.settings).unwrap();
        let before = serde_json::to_value(&first.settings).unwrap();
        let kept = kept_leaves(&now, &before);
        assert!(kept > 0, "{bad}: nothing was kept: {now}");
    }
    let (none, problems) = rebuild(&objects([]), &first);
    assert_eq!((none.settings, problems), (Settings::default(), vec![]));
}

/// In how many leaves two settings agree on something that is not the default.
fn kept_leaves(now: &Value, before: &Value) -> usize {
    fn count(now: &Value, before: &Value, usual: &Value) -> usize {
        match (now, before) {
            (Value::Object(now), Value::Object(before)) => now
                .iter()
                .map(|(key, value)| count(value, &before[key], usual.get(key).unwrap_or(&Value::Null)))
                .sum(),
            _ => usize::from(now == before && now != usual),
        }
    }
    count(now, before, &serde_json::to_value(Settings::default()).unwrap())
}

#[test]
fn ports_are_detected_only_where_the_mesh_says_so() {
    let service = || {
        let ports = json!([{"port": 80, "name": "http-web"}, {"port": 81, "name": "x", "appProtocol": "kubernetes.io/h2c"},
            {"port": 82, "name": "grpc-web"}, {"port": 83, "name": "grpc-api"}, {"port": 84, "name": "https"}, {"port": 85, "name": "web"}]);
        service(
            "web",
            json!({"traffic.port.80": "htp"}),
            json!({"clusterIP": "10.96.0.20", "selector": {"a": "b"}, "ports": ports}),
        )
    };
    let seen = |settings: &str| {
        let (mesh, problems) = build(&objects([service(), mesh_config(settings)]));
        let ports = mesh.services[&key("web")].ports.values();
        (ports.map(|p| p.protocol).collect::<Vec<_>>(), problems.len())
    };
    assert_eq!(seen("outboundDefault: allow"), (vec![None; 6], 1));
    let (protocols, _) = seen("outboundDefault: detect");
    use Protocol::{Grpc, Http, Http2, Tcp};
    assert_eq!(protocols, [Http, Http2, Http, Grpc, Tcp, Tcp].map(Some));
}
