//! Reads the destinations out of the resources that Envoy has accepted. What cannot be read is left out: Envoy has judged
//! it already.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{Metadata, TrafficDirection};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier as TcpCluster;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, Struct};
use prost::{Message, Name};
use weir_series::canonical::{Direction, Peer};

use super::super::relay::{CLUSTER, ENDPOINTS, LISTENER, ROUTES, Relay};
use super::{Destinations, Telemetry, USUAL, trimmed};

/// Key of an endpoint's metadata by which the control plane says who it is.
const WHO: &str = "weir";
/// Key of a cluster's metadata by which it says how much to measure.
const HOW_MUCH: &str = "weir.telemetry";
/// Bounds that are taken; a longer list is refused as a whole.
const BOUNDS_MAX: usize = 64;

/// Everything that is accepted now.
pub(super) fn read(relay: &Relay) -> Destinations {
    let of = |type_url| relay.accepted(type_url);
    let (clusters, endpoints) = (
        decode::<Cluster>(of(CLUSTER)),
        decode::<ClusterLoadAssignment>(of(ENDPOINTS)),
    );
    let (listeners, routes) = (
        decode::<Listener>(of(LISTENER)),
        decode::<RouteConfiguration>(of(ROUTES)),
    );
    build(clusters, endpoints, listeners, &routes)
}

fn decode<T: Message + Default>(bodies: Vec<(String, Vec<u8>)>) -> HashMap<String, T> {
    let one = |(name, body): (String, Vec<u8>)| Some((name, T::decode(body.as_slice()).ok()?));
    bodies.into_iter().filter_map(one).collect()
}

/// Names of the endpoints and routes that clusters and listeners (name and encoded body) refer to.
pub fn references(
    clusters: &[(String, Vec<u8>)],
    listeners: &[(String, Vec<u8>)],
) -> (HashSet<String>, HashSet<String>) {
    let endpoints = clusters.iter().filter_map(|(name, body)| {
        let cluster = Cluster::decode(body.as_slice()).ok()?;
        Some(endpoints_of(name, &cluster).to_owned())
    });
    let mut routes = HashSet::new();
    for listener in listeners
        .iter()
        .filter_map(|(_, body)| Listener::decode(body.as_slice()).ok())
    {
        for config in configs(&listener) {
            let specifier = unpack::<HttpConnectionManager>(config).and_then(|manager| manager.route_specifier);
            if let Some(RouteSpecifier::Rds(rds)) = specifier {
                routes.insert(rds.route_config_name);
            }
        }
    }
    (endpoints.collect(), routes)
}

/// The name that a cluster's endpoints are asked for by.
fn endpoints_of<'a>(name: &'a str, cluster: &'a Cluster) -> &'a str {
    let eds = cluster.eds_cluster_config.as_ref().map(|eds| eds.service_name.as_str());
    eds.filter(|service| !service.is_empty()).unwrap_or(name)
}

/// What a listener's filters are configured with.
fn configs(listener: &Listener) -> impl Iterator<Item = &Any> {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    let filters = chains.flat_map(|chain| &chain.filters);
    filters.filter_map(|filter| match &filter.config_type {
        Some(ConfigType::TypedConfig(config)) => Some(config),
        _ => None,
    })
}

pub(super) fn build(
    clusters: HashMap<String, Cluster>,
    endpoints: HashMap<String, ClusterLoadAssignment>,
    listeners: HashMap<String, Listener>,
    routes: &HashMap<String, RouteConfiguration>,
) -> Destinations {
    let mut found = Destinations::default();
    let mut peers: HashMap<String, Vec<Peer>> = HashMap::new();
    for (name, cluster) in clusters {
        let telemetry = telemetry(cluster.metadata.as_ref());
        let assignment = cluster.load_assignment.as_ref();
        let assignment = assignment.or_else(|| endpoints.get(endpoints_of(&name, &cluster)));
        let endpoints = assignment
            .iter()
            .flat_map(|a| &a.endpoints)
            .flat_map(|l| &l.lb_endpoints);
        let of_cluster: Vec<Peer> = endpoints
            .map(|e| trimmed(telemetry.granularity, who(e.metadata.as_ref())))
            .filter(|peer| *peer != Peer::default())
            .collect();
        found.peers.extend(of_cluster.iter().cloned());
        peers.insert(name.clone(), of_cluster);
        found.clusters.insert(name, telemetry);
    }
    // In order, so that the same configuration always means the same.
    let mut listeners: Vec<(String, Listener)> = listeners.into_iter().collect();
    listeners.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, listener) in listeners {
        let direction = match listener.traffic_direction() {
            TrafficDirection::Inbound => Direction::Inbound,
            _ => Direction::Outbound,
        };
        for config in configs(&listener) {
            if let Some(TcpProxy {
                cluster_specifier: Some(TcpCluster::Cluster(cluster)),
                ..
            }) = unpack(config)
            {
                found.add(direction, "", &cluster, &peers);
            } else if let Some(manager) = unpack::<HttpConnectionManager>(config) {
                match &manager.route_specifier {
                    Some(RouteSpecifier::RouteConfig(table)) => found.add_routes(direction, table, &peers),
                    Some(RouteSpecifier::Rds(rds)) => {
                        if let Some(table) = routes.get(&rds.route_config_name) {
                            found.add_routes(direction, table, &peers);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    found
}

impl Destinations {
    fn add_routes(&mut self, direction: Direction, table: &RouteConfiguration, peers: &HashMap<String, Vec<Peer>>) {
        for host in &table.virtual_hosts {
            let domains = || {
                host.domains
                    .iter()
                    .filter(|d| *d != "*")
                    .map(|d| d.to_ascii_lowercase())
            };
            self.authorities.extend(domains().map(|domain| (direction, domain)));
            let actions = host.routes.iter().filter_map(|route| route.action.as_ref());
            let clusters = actions.filter_map(|action| match action {
                Action::Route(route) => match route.cluster_specifier.as_ref()? {
                    ClusterSpecifier::Cluster(cluster) => Some(cluster),
                    _ => None,
                },
                _ => None,
            });
            for cluster in clusters {
                if direction == Direction::Inbound {
                    let bounds = Arc::clone(&self.telemetry(direction, cluster).bounds_ms);
                    for domain in domains() {
                        self.inbound_hosts.entry(domain).or_insert_with(|| Arc::clone(&bounds));
                    }
                }
                if let Some(authority) = shown(host) {
                    self.add(direction, &authority, cluster, peers);
                }
            }
        }
    }

    fn add(&mut self, direction: Direction, authority: &str, cluster: &str, peers: &HashMap<String, Vec<Peer>>) {
        let mut add = |peer| {
            self.targets
                .push((cluster.to_owned(), direction, authority.to_owned(), peer));
        };
        match direction {
            // Who will come is not known in advance; the sum over everybody exists.
            Direction::Inbound => add(Peer::default()),
            Direction::Outbound => peers.get(cluster).into_iter().flatten().cloned().for_each(add),
        }
    }
}

/// The name under which a host's series exist from the start: its longest that is neither an address nor has a port, so
/// that not every spelling makes series of its own.
fn shown(host: &VirtualHost) -> Option<String> {
    let plain = |d: &&String| !d.contains(['*', ':']) && d.parse::<std::net::IpAddr>().is_err();
    let any = || host.domains.iter().find(|d| *d != "*");
    let longest = host.domains.iter().filter(plain).max_by_key(|d| d.len());
    longest.or_else(any).map(|d| d.to_ascii_lowercase())
}

fn unpack<T: Name + Default>(any: &Any) -> Option<T> {
    (any.type_url.rsplit('/').next() == Some(&T::full_name())).then(|| T::decode(any.value.as_slice()).ok())?
}

fn fields<'a>(metadata: Option<&'a Metadata>, key: &str) -> Option<&'a Struct> {
    metadata?.filter_metadata.get(key)
}

fn who(metadata: Option<&Metadata>) -> Peer {
    let text = |key: &str| match fields(metadata, WHO).and_then(|s| s.fields.get(key)?.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => String::new(),
    };
    Peer {
        namespace: text("namespace"),
        pod: text("pod"),
        owner_kind: text("owner_kind"),
        owner: text("owner"),
        service: text("service"),
    }
}

fn telemetry(metadata: Option<&Metadata>) -> Telemetry {
    let value = |key: &str| fields(metadata, HOW_MUCH)?.fields.get(key)?.kind.clone();
    let granularity = match value("granularity") {
        Some(Kind::StringValue(text)) => text.parse().unwrap_or_default(),
        _ => USUAL.granularity,
    };
    let bounds_ms = match value("buckets_ms") {
        Some(Kind::ListValue(list)) => bounds(list.values.iter().map(|v| v.kind.as_ref())),
        _ => None,
    };
    Telemetry {
        granularity,
        bounds_ms: bounds_ms.unwrap_or_else(|| Arc::clone(&USUAL.bounds_ms)),
    }
}

/// Whole numbers that increase; else none of them.
fn bounds<'a>(values: impl Iterator<Item = Option<&'a Kind>>) -> Option<Arc<[u64]>> {
    let mut bounds: Vec<u64> = Vec::new();
    for value in values {
        let Some(Kind::NumberValue(number)) = value else {
            return None;
        };
        if number.fract() != 0.0 || !(1.0..=9e15).contains(number) || bounds.len() == BOUNDS_MAX {
            return None;
        }
        // Whole and in range, as was just checked.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bound = *number as u64;
        if bounds.last().is_some_and(|last| *last >= bound) {
            return None;
        }
        bounds.push(bound);
    }
    (!bounds.is_empty()).then(|| bounds.into())
}
