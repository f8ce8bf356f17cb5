use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, VirtualHost, route, route_action,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, Rds};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value};
use prost::Name;
use weir_api::telemetry::Buckets;
use weir_series::canonical::{Classification, Response};

use super::*;

const WEB: &str = "80|default|web.outbound";
const DB: &str = "5432|default|db.outbound";

fn metadata(reader: &str, fields: &[(&str, Kind)]) -> Option<Metadata> {
    let value = |kind: &Kind| Value {
        kind: Some(kind.clone()),
    };
    let fields = fields.iter().map(|(k, v)| ((*k).to_owned(), value(v))).collect();
    Some(Metadata {
        filter_metadata: [(reader.to_owned(), Struct { fields })].into(),
        ..Default::default()
    })
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

fn numbers(numbers: &[f64]) -> Kind {
    let values = numbers.iter().map(|n| Value {
        kind: Some(Kind::NumberValue(*n)),
    });
    Kind::ListValue(ListValue {
        values: values.collect(),
    })
}

fn endpoints(name: &str, pods: &[&str]) -> (String, ClusterLoadAssignment) {
    let endpoint = |pod: &&str| {
        let fields = [
            ("namespace", text("default")),
            ("pod", text(pod)),
            ("owner_kind", text("deployment")),
            ("owner", text("w")),
            ("service", text("web")),
        ];
        LbEndpoint {
            metadata: metadata("weir", &fields),
            ..Default::default()
        }
    };
    let assignment = ClusterLoadAssignment {
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: pods.iter().map(endpoint).collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    (name.to_owned(), assignment)
}

fn filter<T: Name>(message: &T) -> Filter {
    Filter {
        config_type: Some(filter::ConfigType::TypedConfig(Any {
            type_url: T::type_url(),
            value: message.encode_to_vec(),
        })),
        ..Default::default()
    }
}

fn listener(direction: i32, filter: Filter) -> Listener {
    Listener {
        traffic_direction: direction,
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn table(cluster: &str) -> RouteConfiguration {
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    };
    let route = Route {
        action: Some(route::Action::Route(action)),
        ..Default::default()
    };
    let host = |domains: &[&str]| VirtualHost {
        domains: domains.iter().map(|d| (*d).to_owned()).collect(),
        routes: vec![route.clone()],
        ..Default::default()
    };
    RouteConfiguration {
        virtual_hosts: vec![
            host(&["10.96.0.9", "web", "web:80", "web.default.svc", "web.default"]),
            host(&["*"]),
        ],
        ..Default::default()
    }
}

/// A Service of requests with two pods, one of TCP with one pod, an inbound port of requests.
fn configured(telemetry: &[(&str, Kind)], pods: &[&str]) -> Destinations {
    let cluster = |fields: &[(&str, Kind)]| Cluster {
        metadata: metadata("weir.telemetry", fields),
        ..Default::default()
    };
    let clusters = [
        (WEB.to_owned(), cluster(telemetry)),
        (DB.to_owned(), cluster(&[])),
        ("inbound".to_owned(), cluster(&[("buckets_ms", numbers(&[7.0]))])),
        ("inbound_own".to_owned(), cluster(telemetry)),
    ];
    let manager = |specifier| HttpConnectionManager {
        route_specifier: Some(specifier),
        ..Default::default()
    };
    let rds = Rds {
        route_config_name: WEB.to_owned(),
        ..Default::default()
    };
    let tcp = TcpProxy {
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(DB.to_owned())),
        ..Default::default()
    };
    let inbound = RouteSpecifier::RouteConfig(table("inbound_own"));
    let listeners = [
        ("web", listener(2, filter(&manager(RouteSpecifier::Rds(rds))))),
        ("db", listener(2, filter(&tcp))),
        ("inbound", listener(1, filter(&manager(inbound)))),
    ];
    let endpoints = [endpoints(WEB, pods), endpoints(DB, &["db-0"])];
    accepted::build(
        clusters.into(),
        endpoints.into(),
        listeners.map(|(name, listener)| (name.to_owned(), listener)).into(),
        &HashMap::from([(WEB.to_owned(), table(WEB))]),
    )
}

fn page(recorder: &Recorder) -> Vec<String> {
    let mut page = String::new();
    recorder.render(&mut page);
    page.lines()
        .filter(|l| !l.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// Whether some series of this name has all of these labels.
fn has(recorder: &Recorder, name: &str, labels: &[&str]) -> bool {
    page(recorder)
        .iter()
        .any(|line| line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label)))
}

fn answered(slot: &Slot) {
    slot.request();
    slot.response(&Response {
        status: 200,
        grpc_status: None,
        classification: Classification::Success,
        from_proxy: false,
        latency: Duration::from_millis(3),
    });
}

#[test]
fn series_exist_at_zero_from_the_start() {
    let recorder = Recorder::new(1);
    let measured = Measured::new(recorder.clone());
    measured.take(configured(&[], &["web-1", "web-2"]));
    for pod in ["dst_pod=\"web-1\"", "dst_pod=\"web-2\""] {
        let labels = ["direction=\"outbound\"", "authority=\"web.default.svc\"", pod, "} 0"];
        assert!(has(&recorder, "request_total", &labels), "{:#?}", page(&recorder));
    }
    assert!(has(&recorder, "tcp_open_total", &["dst_pod=\"db-0\"", "} 0"]));
    assert!(has(
        &recorder,
        "request_total",
        &["direction=\"inbound\"", "authority=\"web.default.svc\"", "} 0"]
    ));
    assert!(
        !has(&recorder, "request_total", &["authority=\"web\""]),
        "one name of a host is enough"
    );
}

#[test]
fn granularity_and_bounds_are_those_of_the_cluster() {
    let recorder = Recorder::new(1);
    let measured = Measured::new(recorder.clone());
    let telemetry = [("granularity", text("workload")), ("buckets_ms", numbers(&[2.0, 50.0]))];
    measured.take(configured(&telemetry, &["web-1", "web-2"]));
    let who = |pod: &str| Peer {
        namespace: "default".into(),
        pod: pod.into(),
        owner_kind: "deployment".into(),
        owner: "w".into(),
        service: "web".into(),
    };
    answered(&measured.slot(Direction::Outbound, "web.default.svc", who("web-1"), WEB));
    answered(&measured.slot(Direction::Outbound, "web.default.svc", who("web-2"), WEB));
    let outbound = [
        "direction=\"outbound\"",
        "authority=\"web.default.svc\"",
        "dst_deployment=\"w\"",
    ];
    let with = |label: &'static str| [outbound.as_slice(), &[label]].concat();
    assert!(has(&recorder, "request_total", &with("} 2")), "{:#?}", page(&recorder));
    assert!(has(&recorder, "response_latency_ms_bucket", &with("le=\"50\"} 2")));
    assert!(!has(&recorder, "response_latency_ms_bucket", &with("le=\"5\"")));
    assert!(!has(&recorder, "request_total", &["dst_pod=\"web"]));
    // Inbound: the port's own choice by its hosts, the mesh's for any other.
    let sender = Peer {
        service: String::new(),
        ..who("web-1")
    };
    answered(&measured.slot(Direction::Inbound, "web:80", sender.clone(), "inbound_own"));
    answered(&measured.slot(Direction::Inbound, "other", sender, "inbound_own"));
    let inbound =
        |authority: &'static str, le: &'static str| ["direction=\"inbound\"", authority, "src_deployment=\"w\"", le];
    assert!(has(
        &recorder,
        "response_latency_ms_bucket",
        &inbound("authority=\"web:80\"", "le=\"50\"} 1")
    ));
    assert!(has(
        &recorder,
        "response_latency_ms_bucket",
        &inbound("authority=\"other\"", "le=\"7\"} 1")
    ));
    assert!(!has(&recorder, "request_total", &["src_pod=\"web-1\""]));
    // Another configuration, while it runs: by service, with the usual bounds.
    measured.take(configured(&[("granularity", text("service"))], &["web-1", "web-2"]));
    answered(&measured.slot(Direction::Outbound, "web.default.svc", who("web-1"), WEB));
    let by_service = ["dst_namespace=\"default\",dst_service=\"web\"", "le=\"5\"} 1"];
    assert!(
        has(&recorder, "response_latency_ms_bucket", &by_service),
        "{:#?}",
        page(&recorder)
    );
}

#[test]
fn bounds_that_make_no_sense_are_not_used() {
    for wrong in [
        numbers(&[]),
        numbers(&[5.0, 5.0]),
        numbers(&[0.0, 5.0]),
        numbers(&[1.5]),
        numbers(&[f64::NAN]),
        text("coarse"),
        numbers(&(1..=65).map(f64::from).collect::<Vec<_>>()),
    ] {
        let found = configured(&[("buckets_ms", wrong.clone())], &["web-1"]);
        assert_eq!(found.clusters[WEB], *USUAL, "{wrong:?}");
    }
    assert_eq!(
        Buckets::Default.bounds_ms(),
        BUCKETS_MS,
        "control plane and recorder agree"
    );
}

#[test]
fn what_is_over_lingers_and_then_goes() {
    let recorder = Recorder::new(1);
    let measured = Measured::new(recorder.clone());
    let mut over = HashMap::new();
    let start = Instant::now();
    let sender = Peer {
        namespace: "default".into(),
        pod: "client-1".into(),
        owner: "client".into(),
        owner_kind: "deployment".into(),
        ..Default::default()
    };
    measured.take(configured(&[], &["web-1", "web-2"]));
    answered(&measured.slot(Direction::Inbound, "other", sender.clone(), "inbound"));
    measured.drop_old(&mut over, std::slice::from_ref(&sender), start);
    assert!(over.is_empty(), "{over:?}");
    measured.take(configured(&[], &["web-2"]));
    let shown = |part: &str| has(&recorder, "request_total", &[part]);
    measured.drop_old(&mut over, std::slice::from_ref(&sender), start);
    assert!(shown("dst_pod=\"web-1\"") && shown("src_pod=\"client-1\""));
    measured.drop_old(&mut over, &[], start + LINGER);
    assert!(!shown("dst_pod=\"web-1\"") && shown("dst_pod=\"web-2\""));
    assert!(shown("src_pod=\"client-1\""), "it has just gone");
    // It comes back before its time.
    measured.drop_old(&mut over, std::slice::from_ref(&sender), start + LINGER + SWEEP);
    measured.drop_old(&mut over, &[], start + LINGER * 2);
    assert!(shown("src_pod=\"client-1\""));
    measured.drop_old(&mut over, &[], start + LINGER * 3);
    assert!(!shown("src_pod=\"client-1\""));
    measured.take(Destinations::default());
    measured.drop_old(&mut over, &[], start + LINGER * 3);
    measured.drop_old(&mut over, &[], start + LINGER * 4);
    assert_eq!(page(&recorder).iter().filter(|l| l.contains("authority")).count(), 0);
}
