//! Golden files: `testdata/<name>.yaml` (Kubernetes objects) -> problems and snapshot as JSON. And properties that hold
//! for any mesh.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use weir_mesh::Objects;

use super::*;

/// The objects of a YAML file. The first meshed pod in it is the node whose snapshot is shown.
fn load(text: &str) -> Objects {
    let mut objects = Objects::default();
    for document in serde_saphyr::from_multiple::<Value>(text).expect("valid YAML") {
        assert!(
            objects.insert(document.clone()).expect("a Kubernetes object"),
            "unknown kind: {document}"
        );
    }
    objects
}

fn snapshot_json(snapshot: &Snapshot) -> Value {
    let of_type = |ty: ResourceType| -> Value {
        let resources = snapshot.resources(ty).values();
        Value::Object(
            resources
                .map(|r| (r.name.clone(), weir_xds::json::resource(r)))
                .collect::<Map<_, _>>(),
        )
    };
    Value::Object(
        ResourceType::ALL
            .into_iter()
            .map(|ty| (ty.short().to_owned(), of_type(ty)))
            .collect(),
    )
}

#[test]
fn golden_files() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    assert!(files.len() >= 10, "golden files are missing: {files:?}");
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let (mesh, problems) = weir_mesh::build(&load(&std::fs::read_to_string(&file).unwrap()));
        let lowered = Lowered::new(&mesh, &Lowered::default());
        let (key, pod) = mesh.pods.iter().find(|(_, p)| p.enabled).expect("an enabled pod");
        let snapshot = lowered.snapshot(&mesh, key, pod.engine, None).unwrap();
        assert_eq!(snapshot.check(), Ok(()), "{name}");
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let mut shown = json!({"node": key.node_id(), "problems": problems, "snapshot": snapshot_json(&snapshot)});
        if mesh.gateway != weir_mesh::Gateway::default() {
            let gateway = lowered.gateway_snapshot(pod.engine).unwrap();
            assert_eq!(gateway.check(), Ok(()), "{name}: gateway");
            let mut gateway = snapshot_json(&gateway);
            assert_eq!(
                gateway["cds"], shown["snapshot"]["cds"],
                "the gateway is sent the same clusters"
            );
            if let Some(types) = gateway.as_object_mut() {
                types.retain(|ty, _| ["lds", "rds", "sds"].contains(&ty.as_str()));
            }
            shown["gateway"] = gateway;
        }
        insta::with_settings!({snapshot_path => directory.join("snapshots"), prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_json_snapshot!(name, shown);
        });
    }
}

/// Keys of policies, each with good values and bad ones.
const KEYS: [(&str, [&str; 4]); 30] = [
    ("traffic.lb.policy", ["RING_HASH", "MAGLEV", "PEAK_EWMA", "x"]),
    ("traffic.lb.panic-threshold", ["0", "100", "101", "-1"]),
    ("traffic.hash.cookie.name", ["user", "", "a b", "u"]),
    ("traffic.hash.cookie.ttl", ["0", "100000", "1h", "x"]),
    ("traffic.hash.header.name", ["x-user", ":path", "", "é"]),
    ("traffic.fault.delay.time", ["3s", "1ns", "3000", "x"]),
    ("traffic.fault.delay.percentage", ["100", "0.0001", "0", "101"]),
    ("traffic.fault.abort.status", ["505", "200", "99", "600"]),
    ("traffic.fault.abort.percentage", ["100", "33.3333", "0", "%"]),
    ("traffic.rate.limit", ["1", "0", "4294967295", "4294967296"]),
    ("traffic.tracing.enabled", ["true", "true", "false", "yes"]),
    ("traffic.tracing.sampling", ["0", "50", "0.01", "x"]),
    ("traffic.request.timeout", ["3s", "0", "8760h", "9999h"]),
    ("traffic.request.per-try-timeout", ["1ms", "0s", "1", "."]),
    ("traffic.request.idle-timeout", ["1m30s", "0", "1000000", "s"]),
    ("traffic.retries.5xx", ["3", "0", "4294967295", "-1"]),
    ("traffic.retries.connect-failure", ["0", "0", "1", "x"]),
    ("traffic.retries.gateway-error", ["2", "0", "1", "x"]),
    ("traffic.retries.max", ["1", "0", "4294967295", "x"]),
    ("traffic.retries.budget", ["0", "12.5", "100", "x"]),
    ("traffic.connection.max", ["1", "0", "4294967295", "x"]),
    ("traffic.request.max-pending", ["1", "0", "4294967295", "x"]),
    ("traffic.request.max", ["1", "0", "4294967295", "x"]),
    ("traffic.connection.timeout", ["1ms", "0", "60", "x"]),
    ("traffic.outlier.enabled", ["true", "false", "", "x"]),
    (
        "traffic.outlier.consecutive-gateway-errors",
        ["0", "1", "4294967295", "x"],
    ),
    ("traffic.outlier.consecutive-5xx", ["0", "1", "4294967295", "x"]),
    ("traffic.outlier.ejection-time", ["0", "1s", "8760h", "x"]),
    ("traffic.outlier.max-ejection-percent", ["0", "100", "1", "x"]),
    ("traffic.metrics.granularity", ["pod", "service", "workload", "x"]),
];

/// A few of these keys on an object.
fn any_policy() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec((0..KEYS.len(), 0..4usize), 0..8).prop_map(|chosen| {
        let said = |(key, value): (usize, usize)| (KEYS[key].0.to_owned(), json!(KEYS[key].1[value]));
        chosen.into_iter().map(said).collect()
    })
}

/// What the mesh's settings say, good and bad.
fn any_settings() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "outboundDefault: allow\ntracing: {address: \"10.0.0.9:9411\"}",
        "outboundDefault: detect\naccessLog: true\ntracing: {backend: otlp, address: \"s1.default:80\"}",
        "outboundDefault: x\nengine: x\ntracing: {backend: zipkin, address: \"zipkin.example.com:9411\", sampling: 1}",
        "timeouts: {request: 1s, perTry: x}\nretries: {5xx: 3, budget: 0}\noutlier: {maxEjectionPercent: 0}",
        "tracing: {backend: none}\nmetrics: {buckets: coarse}",
    ])
}

/// A mesh of a few services and pods in which anything may refer to anything.
pub(super) fn any_objects() -> impl Strategy<Value = Objects> {
    let protocol = prop_oneof![
        Just(None),
        Just(Some("http")),
        Just(Some("http2")),
        Just(Some("grpc")),
        Just(Some("tcp")),
        Just(Some("direct")),
        Just(Some("x"))
    ];
    let service = (
        0u8..6,
        prop::bool::weighted(0.3),
        prop::collection::vec((0u16..4, protocol, 0u16..4), 0..4),
        any_policy(),
    );
    let pod = (
        0u8..8,
        0u8..8,
        prop::option::of(0u32..200),
        prop::bool::ANY,
        prop::collection::vec(0u8..6, 0..3),
        any_policy(),
    );
    let services = prop::collection::vec(service, 0..6);
    (services, prop::collection::vec(pod, 1..8), any_settings()).prop_map(|(services, pods, settings)| {
        let mut objects = Objects::default();
        objects
            .insert(json!({"kind": "ConfigMap", "metadata": {"namespace": "weir-system", "name": "weir-mesh"},
                "data": {"config.yaml": settings}}))
            .unwrap();
        for (n, headless, ports, policy) in &services {
            let mut labels = Map::new();
            let mut specs = BTreeMap::new();
            for (port, protocol, target) in ports {
                let port = 80 + port;
                if let Some(protocol) = protocol {
                    labels.insert(format!("traffic.port.{port}"), json!(protocol));
                    if target % 2 == 1 {
                        labels.insert("traffic.metrics.buckets".to_owned(), json!("coarse"));
                        labels.insert("traffic.metrics.granularity".to_owned(), json!("service"));
                    }
                }
                specs.insert(port, json!({"name": format!("p{port}"), "port": port, "targetPort": 8080 + target}));
            }
            let ip = if *headless { "None".to_owned() } else { format!("10.96.0.{}", n + 1) };
            let specs: Vec<Value> = specs.into_values().collect();
            objects
                .insert(json!({"kind": "Service", "metadata": {"namespace": "default", "name": format!("s{n}"), "labels": labels, "annotations": policy},
                    "spec": {"clusterIP": ip, "selector": {"s": n.to_string()}, "ports": specs}}))
                .unwrap();
            let ports: Vec<Value> = ports
                .iter()
                .map(|(port, _, target)| json!({"name": format!("p{}", 80 + port), "port": 8080 + target}))
                .collect();
            let endpoints: Vec<Value> = pods
                .iter()
                .filter(|(_, _, _, _, member_of, _)| member_of.contains(n))
                .map(|(p, ip, _, ready, ..)| {
                    json!({"addresses": [format!("10.244.0.{}", ip + 2)], "conditions": {"ready": ready},
                           "targetRef": {"kind": "Pod", "name": format!("p{p}"), "namespace": "default"}})
                })
                .collect();
            objects
                .insert(json!({"kind": "EndpointSlice", "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
                    "metadata": {"namespace": "default", "name": format!("s{n}-x"), "labels": {"kubernetes.io/service-name": format!("s{n}")}}}))
                .unwrap();
        }
        for (p, ip, weight, _, _, policy) in &pods {
            let mut labels = Map::new();
            labels.insert("traffic.envoy.enabled".to_owned(), json!("true"));
            if let Some(weight) = weight {
                labels.insert("traffic.endpoint.weight".to_owned(), json!(weight.to_string()));
                labels.insert(format!("traffic.target.port.{}", 8080 + weight % 6), json!("http"));
            }
            objects
                .insert(json!({"kind": "Pod", "metadata": {"namespace": "default", "name": format!("p{p}"), "labels": labels, "annotations": policy},
                    "spec": {"containers": []}, "status": {"phase": "Running", "podIP": format!("10.244.0.{}", ip + 2)}}))
                .unwrap();
        }
        objects
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is in the cluster, what is published is consistent, the same each time, and no endpoint weighs 0.
    #[test]
    fn any_snapshot_is_consistent_and_reproducible(objects in any_objects()) {
        let (mesh, _) = weir_mesh::build(&objects);
        let lowered = Lowered::new(&mesh, &Lowered::default());
        let again = Lowered::new(&mesh, &Lowered::default());
        let reused = Lowered::new(&mesh, &lowered);
        for key in mesh.pods.keys() {
            for engine in [Engine::Weir, Engine::Envoy] {
                let snapshot = lowered.snapshot(&mesh, key, engine, None).unwrap();
                prop_assert_eq!(snapshot.check(), Ok(()));
                prop_assert_eq!(&snapshot, &again.snapshot(&mesh, key, engine, None).unwrap());
                let next = reused.snapshot(&mesh, key, engine, Some(&snapshot)).unwrap();
                for ty in ResourceType::ALL {
                    prop_assert!(snapshot.resources(ty).same(next.resources(ty)), "{} was made anew", ty);
                }
                let text = snapshot_json(&snapshot).to_string();
                prop_assert!(!text.contains("\"load_balancing_weight\":0"));
                prop_assert!(!text.contains("\"fixed_delay\":\"0s\""), "Envoy refuses a delay of nothing");
                prop_assert!(!text.contains("field_"), "a field is missing in the JSON tables: {}", text);
            }
        }
    }
}

#[test]
fn nodes_share_all_but_their_listeners() {
    let (mesh, _) = weir_mesh::build(&load(include_str!("../../testdata/simple-http.yaml")));
    let lowered = Lowered::new(&mesh, &Lowered::default());
    let snapshots: Vec<Snapshot> = mesh
        .pods
        .keys()
        .map(|key| lowered.snapshot(&mesh, key, Engine::Weir, None).unwrap())
        .collect();
    assert!(snapshots.len() > 1);
    for ty in [
        ResourceType::Cluster,
        ResourceType::Endpoint,
        ResourceType::Route,
        ResourceType::Peer,
    ] {
        assert!(
            snapshots
                .windows(2)
                .all(|w| w[0].resources(ty).same(w[1].resources(ty)))
        );
    }
    let outbound = |s: &Snapshot| Arc::clone(s.get(ResourceType::Listener, OUTBOUND).unwrap());
    assert!(Arc::ptr_eq(&outbound(&snapshots[0]), &outbound(&snapshots[1])));
}

/// Only pods that have IPv6 listen there: in a network without it the address cannot be bound. The listeners of IPv4 are
/// the same either way.
#[test]
fn pods_with_ipv6_have_listeners_for_it_beside_the_others() {
    let (mut mesh, _) = weir_mesh::build(&load(include_str!("../../testdata/ipv6.yaml")));
    let key = mesh.pods.keys().next().cloned().unwrap();
    let lower = |mesh: &Mesh| Lowered::new(mesh, &Lowered::default()).snapshot(mesh, &key, Engine::Weir, None);
    let listeners = |mesh: &Mesh| snapshot_json(&lower(mesh).unwrap())["lds"].clone();
    let both = listeners(&mesh);
    for (name, ip, port) in [
        (OUTBOUND, "0.0.0.0", OUTBOUND_PORT),
        (INBOUND, "0.0.0.0", INBOUND_PORT),
        (OUTBOUND_IPV6, "::", OUTBOUND_PORT),
        (INBOUND_IPV6, "::", INBOUND_PORT),
    ] {
        let address = &both[name]["address"]["socket_address"];
        assert_eq!(*address, json!({"address": ip, "port_value": port}), "{name}");
    }
    mesh.pods.get_mut(&key).unwrap().ips.retain(IpAddr::is_ipv4);
    let one = listeners(&mesh);
    assert_eq!((&one[OUTBOUND], &one[INBOUND]), (&both[OUTBOUND], &both[INBOUND]));
    assert_eq!((one.get(OUTBOUND_IPV6), one.get(INBOUND_IPV6)), (None, None));
}

/// A Service chooses what is measured, and chooses again: the cluster of the first choice can stay for a while, and does not
/// come between those that are the same.
#[test]
fn inbound_clusters_that_nothing_leads_to_any_more_can_be_kept() {
    let objects = |granularity: Option<&str>| {
        let mut objects = load(include_str!("../../testdata/simple-http.yaml"));
        for service in objects.services.values_mut() {
            let labels = Arc::make_mut(service).metadata.labels.get_or_insert_default();
            if let Some(word) = granularity {
                labels.insert("traffic.metrics.granularity".to_owned(), word.to_owned());
            }
        }
        weir_mesh::build(&objects).0
    };
    let (chosen, usual) = (objects(Some("service")), objects(None));
    let first = Lowered::new(&chosen, &Lowered::default());
    let second = Lowered::renew(&usual, &first, &chosen);
    let retired = second.retired(&first);
    let names: Vec<&String> = retired.iter().collect();
    assert!(
        matches!(names[..], [name] if name.starts_with("inbound_service_")),
        "{names:?}"
    );
    let key = usual.pods.keys().next().unwrap();
    let clusters = |lowered: &Lowered| {
        let snapshot = lowered.snapshot(&usual, key, Engine::Envoy, None).unwrap();
        assert_eq!(snapshot.check(), Ok(()));
        snapshot.resources(ResourceType::Cluster).clone()
    };
    assert!(!clusters(&second).contains_key(names[0]));
    let kept = second.clone().keeping(&retired, &first);
    assert!(clusters(&kept).contains_key(names[0]));
    let again = Lowered::renew(&usual, &kept, &usual).keeping(&retired, &kept);
    assert!(clusters(&again).same(&clusters(&kept)));
    assert!(
        second
            .clone()
            .keeping(&BTreeSet::new(), &first)
            .retired(&second)
            .is_empty()
    );
}

#[test]
fn an_unknown_pod_gets_nothing() {
    let lowered = Lowered::new(&Mesh::default(), &Lowered::default());
    assert!(
        lowered
            .snapshot(&Mesh::default(), &Key::new("a", "b"), Engine::Weir, None)
            .is_none()
    );
}
