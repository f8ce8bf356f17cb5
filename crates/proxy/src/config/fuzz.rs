//! What must hold for any resource and any bootstrap file.
//!
//! Enters: bytes. Leaves: nothing, or a panic. A resource means what its message says, however that is encoded; what is
//! accepted can be used; what is refused is refused with the name of a field.

use std::fmt::Debug;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use prost::Message;
use weir_xds::ResourceType;

use super::bootstrap::Bootstrap;
use super::decode::{self, Rejection};
use super::route::Target;
use super::route::matching::{PathMatch, path_of};
use super::{Action, EndpointSource, Filter, FilterChain, RouteSource, RouteTable, proto_json};

/// A listener, with all that stands in it.
pub fn listener(bytes: &[u8]) {
    let Some(listener) = decoded::<Listener, _>(bytes, decode::listener) else {
        return;
    };
    for chain in listener.all_chains() {
        match &chain.filter {
            Filter::Tcp(tcp) => assert!(tcp.connect_attempts >= 1),
            Filter::Http(http) => {
                if let RouteSource::Inline(table) = &http.routes {
                    check_table(table);
                }
            }
        }
    }
    let ports = listener.chains.iter().filter_map(|c| c.destination_port);
    for port in ports.chain([0, 80, u16::MAX]) {
        // Its bytes are waited for only if they decide something.
        let decides = |c: &FilterChain| !c.application_protocols.is_empty() || !c.server_names.is_empty();
        assert!(listener.candidates(port).any(decides) || !listener.must_inspect(port));
        let names = listener.chains.iter().flat_map(|c| &c.server_names);
        for name in names
            .map(|n| Some(n.trim_start_matches('*')))
            .chain([None, Some("a.b")])
        {
            for protocol in [None, Some("http/1.1"), Some("h2c"), Some("tls")] {
                let Some(chain) = listener.chain(port, name, protocol) else {
                    continue;
                };
                let default = listener.default_chain.as_ref().is_some_and(|d| std::ptr::eq(d, chain));
                assert!(default || chain.destination_port.is_none_or(|p| p == port));
                assert!(default || name.is_some() || chain.server_names.is_empty());
            }
        }
    }
}

/// A cluster.
pub fn cluster(bytes: &[u8]) {
    let Some(cluster) = decoded::<Cluster, _>(bytes, decode::cluster) else {
        return;
    };
    match &cluster.source {
        EndpointSource::Static(endpoints) => assert!(endpoints.iter().all(|e| e.weight >= 1)),
        EndpointSource::Dns(endpoints, refresh) => {
            assert!(endpoints.iter().all(|e| e.weight >= 1));
            assert!(!refresh.is_zero(), "names would be resolved without a pause");
        }
        EndpointSource::Assignment(_) | EndpointSource::OriginalDst => {}
    }
}

/// A route configuration.
pub fn route_table(bytes: &[u8]) {
    if let Some(table) = decoded::<RouteConfiguration, _>(bytes, decode::route_table) {
        check_table(&table);
    }
}

/// A load assignment.
pub fn assignment(bytes: &[u8]) {
    if let Some((_, endpoints)) = decoded::<ClusterLoadAssignment, _>(bytes, decode::assignment) {
        assert!(endpoints.iter().all(|e| e.weight >= 1));
    }
}

/// A bootstrap file: YAML and JSON of the same say the same, and its resources can be judged.
pub fn bootstrap(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(file) = Bootstrap::parse(text) else { return };
    for resource in &file.resources {
        match resource.ty {
            ResourceType::Cluster => cluster(&resource.body),
            ResourceType::Listener => listener(&resource.body),
            other => panic!("a static resource of type {other:?}"),
        }
    }
    let value = proto_json::parse(text).expect("it was parsed before");
    // JSON nests less deep than YAML, and not more than any bootstrap does.
    let Ok(again) = Bootstrap::parse(&value.to_string()) else {
        assert!(depth(&value) > 100 || !value.is_object(), "as JSON it is refused");
        return;
    };
    assert_eq!(again.node.id, file.node.id);
    assert_eq!(again.node.cluster, file.node.cluster);
    assert_eq!(again.admin, file.admin);
    assert_eq!(again.ads, file.ads);
    assert_eq!(again.resources.len(), file.resources.len());
    for (again, before) in again.resources.iter().zip(&file.resources) {
        // Maps are encoded in any order: only what has none is the same byte for byte.
        assert_eq!((again.ty, &again.name), (before.ty, &before.name));
        assert_eq!(again.body.len(), before.body.len());
    }
}

fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Decodes a resource as it came and as its message is encoded by ourselves: the model is the same.
fn decoded<M, T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, Rejection>) -> Option<T>
where
    M: Message + Default,
    T: Debug,
{
    let first = decode(bytes);
    let Ok(message) = M::decode(bytes) else {
        assert!(first.is_err(), "accepted what is no message");
        return None;
    };
    match (first, decode(&message.encode_to_vec())) {
        (Ok(first), Ok(again)) => {
            // Maps print in any order, so only that is left open.
            let sorted = |model: &T| {
                let mut text = format!("{model:?}").into_bytes();
                text.sort_unstable();
                text
            };
            assert!(sorted(&first) == sorted(&again), "{first:?}\n{again:?}");
            Some(first)
        }
        (Err(rejection), Err(_)) => {
            assert!(!rejection.field.is_empty(), "no field is named: {rejection}");
            None
        }
        (first, again) => panic!("{:?}, but encoded anew: {:?}", first.err(), again.err()),
    }
}

/// What is configured can be reached.
fn check_table(table: &RouteTable) {
    for host in &table.hosts {
        for domain in host.domains.iter().filter(|d| d.contains('*')) {
            let fixed = domain.strip_prefix('*').or_else(|| domain.strip_suffix('*'));
            assert!(fixed.is_some_and(|f| !f.contains('*')), "{domain:?} matches nothing");
        }
        let Some(first) = host.routes.first() else { continue };
        let (PathMatch::Prefix(path) | PathMatch::Exact(path) | PathMatch::SeparatedPrefix(path)) =
            &first.matching.path
        else {
            continue;
        };
        if first.matching.more.is_some() || !first.matching.path.matches(path_of(path), false) {
            continue;
        }
        for domain in host.domains.iter().filter(|d| !d.contains('*')) {
            assert!(
                table.find(&Target(domain, path)).is_some(),
                "nobody gets to {domain:?} {path:?}"
            );
        }
    }
    for (_, route) in table.destinations() {
        match &route.action {
            Action::Respond { status, .. } => assert!((200..=599).contains(&status.as_u16())),
            Action::Redirect(redirect) => assert!(matches!(redirect.status, 301..=303 | 307 | 308)),
            Action::Forward(forward) => {
                let drawn = forward.draw().0;
                assert!(
                    forward.clusters().any(|c| c == drawn),
                    "{drawn:?} is no cluster of the route"
                );
            }
        }
    }
    // A host of any kind is looked up without a panic.
    let _ = table.find(&Target("", ""));
    let _ = table.find(&Target("Ä:80", "?"));
}
