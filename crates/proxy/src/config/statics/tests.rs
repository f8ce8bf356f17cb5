//! What a control plane sends is taken from a file as well.

use serde_json::json;

use super::super::bootstrap::Bootstrap;
use super::super::{Action, ClusterSpec, Filter, Listener, RouteSource};
use super::*;

const TYPES: &str = "type.googleapis.com/envoy.extensions.filters";

/// The listeners and clusters of a file, as the decoder has them.
fn loaded(file: &str) -> (Vec<Listener>, Vec<ClusterSpec>) {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for resource in Bootstrap::parse(file).unwrap_or_else(|e| panic!("{e}")).resources {
        let name = &resource.name;
        match resource.ty {
            ResourceType::Listener => {
                listeners.push(decode::listener(&resource.body).unwrap_or_else(|e| panic!("{name}: {e}")));
            }
            _ => clusters.push(decode::cluster(&resource.body).unwrap_or_else(|e| panic!("{name}: {e}"))),
        }
    }
    (listeners, clusters)
}

fn file(listeners: &[Value], clusters: &[Value]) -> String {
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}}).to_string()
}

/// A listener with routes of its own.
fn around(routes: &Value) -> Value {
    json!({
        "name": "around",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": {
            "@type": format!("{TYPES}.network.http_connection_manager.v3.HttpConnectionManager"),
            "route_config": routes,
        }}]}],
    })
}

/// The golden files of the control plane.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../control/testdata/snapshots");

fn golden(path: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(text.splitn(3, "---\n").nth(2).unwrap()).unwrap()
}

fn values(types: &Value, ty: &str) -> Vec<Value> {
    types[ty]
        .as_object()
        .into_iter()
        .flat_map(|o| o.values().cloned())
        .collect()
}

#[test]
fn what_the_control_plane_sends_stands_in_a_file() {
    let mut count = 0;
    for entry in std::fs::read_dir(GOLDEN).unwrap() {
        let golden = golden(&entry.unwrap().path());
        // Access logs by gRPC are what it has Envoy write in place of figures.
        if golden.to_string().contains("GrpcAccessLogConfig") {
            continue;
        }
        for types in [&golden["snapshot"], &golden["gateway"]] {
            let mut listeners = values(types, "lds");
            listeners.extend(values(types, "rds").iter().map(around));
            let mut clusters = values(types, "cds");
            for endpoints in values(types, "eds") {
                clusters.push(json!({"name": "of these endpoints", "load_assignment": endpoints}));
            }
            let (listeners_found, clusters_found) = loaded(&file(&listeners, &clusters));
            assert_eq!(
                (listeners_found.len(), clusters_found.len()),
                (listeners.len(), clusters.len())
            );
            count += listeners.len() + clusters.len();
        }
    }
    assert!(count > 100, "only {count} resources were loaded");
}

/// What one Service of one pod is sent, with a socket, routes and endpoints in the file: what the comparison of proxies
/// writes.
#[test]
fn one_service_stands_in_a_file() {
    let golden = golden(&std::path::Path::new(GOLDEN).join("simple-http.snap"));
    let only = |ty: &str| golden["snapshot"][ty]["9080|default|reviews.outbound"].clone();
    let (mut cluster, endpoints) = (only("cds"), only("eds"));
    let endpoints = &endpoints["endpoints"][0]["lb_endpoints"][0];
    cluster["type"] = json!("STATIC");
    cluster["load_assignment"] = json!({"cluster_name": "c", "endpoints": [{"lb_endpoints": [endpoints]}]});
    cluster.as_object_mut().unwrap().remove("eds_cluster_config");
    let (listeners, clusters) = loaded(&file(&[around(&only("rds"))], &[cluster]));
    let Filter::Http(http) = &listeners[0].chains[0].filter else {
        panic!("an HTTP chain");
    };
    let RouteSource::Inline(table) = &http.routes else {
        panic!("routes in the file");
    };
    let operations: Vec<_> = table
        .destinations()
        .filter_map(|(_, route)| route.operation.as_deref())
        .collect();
    assert!(!operations.is_empty(), "the decorators are gone");
    assert_eq!(clusters.len(), 1);
}

#[test]
fn what_the_decoder_supports_stands_in_a_file() {
    let (listeners, clusters) = loaded(include_str!("../../../testdata/features.yaml"));
    let Filter::Http(http) = &listeners[0].chains[0].filter else {
        panic!("an HTTP chain");
    };
    assert!(http.fault.is_some() && !http.original_path && http.edge.is_some() && http.tracing.is_some());
    let RouteSource::Inline(table) = &http.routes else {
        panic!("routes in the file");
    };
    assert!(table.ignore_port);
    let routes: Vec<_> = table.destinations().map(|(_, route)| route).collect();
    let [matched, split, redirect, respond] = routes.as_slice() else {
        panic!("{routes:?}");
    };
    let more = matched.matching.more.as_ref().expect("conditions");
    assert_eq!(
        (more.headers.len(), more.query.len(), more.grpc, more.fraction.is_some()),
        (9, 2, true, true)
    );
    assert!(matched.matching.ignore_case && matched.edits.is_some() && matched.fault.is_some());
    assert_eq!(matched.operation.as_deref(), Some("an operation"));
    assert!(matched.tracing.is_some());
    let Action::Forward(forward) = &matched.action else {
        panic!("{matched:?}");
    };
    assert_eq!(
        (forward.hash.len(), forward.mirrors.len(), forward.missing),
        (2, 1, 404)
    );
    assert!(forward.rewrite.is_some());
    let Action::Forward(forward) = &split.action else {
        panic!("{split:?}");
    };
    assert_eq!(forward.clusters().count(), 2);
    assert!(matches!(&redirect.action, Action::Redirect(to) if to.status == 307 && to.strip_query));
    assert!(matches!(&respond.action, Action::Respond { status, .. } if status.as_u16() == 418));
    assert_eq!(clusters.len(), 4);
    assert!(clusters[0].outlier.is_some() && clusters[0].limits.track);
}

#[test]
fn a_list_is_no_message() {
    for (text, expected) in [
        ("[]", "bootstrap: must be a message"),
        ("node: [a, b]", "bootstrap.node: must be a message"),
        ("admin: {address: [a]}", "bootstrap.admin.address: must be a message"),
        (
            "dynamic_resources: {ads_config: [GRPC]}",
            "bootstrap.dynamic_resources.ads_config: must be a message",
        ),
        (
            "static_resources: [[], []]",
            "bootstrap.static_resources: must be a message",
        ),
        (
            "static_resources: {clusters: [[c]]}",
            "static_resources.clusters[0]: must be a message",
        ),
        (
            "static_resources: {clusters: [{name: c, load_assignment: [c]}]}",
            "static_resources.clusters[0].load_assignment: must be a message, not a list",
        ),
    ] {
        let error = Bootstrap::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}
