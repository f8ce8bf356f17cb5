//! Listeners: where connections arrive and which filters they meet.
//!
//! One listener an address: a change of one Service touches no connection of another. The two listeners with a socket,
//! `outbound` and `inbound`, take what is redirected; `outbound` hands each connection on by where it wanted to go.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, Http1ProtocolOptions, SocketAddress, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::listener_filter::ConfigType as ListenerFilterConfig;
use envoy_types::pb::envoy::config::listener::v3::listener_filter_chain_match_predicate::{MatchSet, Rule};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, ListenerFilterChainMatchPredicate,
};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, TcpAccessLogOptions, WeightedCluster,
};
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use weir_api::labels::{Engine, Protocol};
use weir_mesh::policy::Tracing;
use weir_mesh::routes::Share;
use weir_mesh::{InboundPort, Mesh, Pod};

use super::tracing::Tracer;
use super::{
    BLOCKED, Bound, DIRECT, Family, INBOUND, INBOUND_PORT, OUTBOUND, OUTBOUND_PORT, Variant, action, any, cluster_name,
    http2_options, no, number, route, seconds, telemetry, yes,
};

pub(super) mod access_log;

use access_log::Logs;

/// A blocked connection that says nothing for this long is reset.
const INSPECTION_TIMEOUT_S: i64 = 1;
/// A TCP connection is offered to this many endpoints before it is given up.
const CONNECT_ATTEMPTS: u32 = 3;

/// What of a mesh all listeners depend on.
pub(super) struct Shared<'a> {
    pub(super) mesh: &'a Mesh,
    /// Ports on which Envoy must not wait for a client's first bytes.
    uninspected: BTreeSet<u16>,
    tracer: Option<Tracer>,
}

impl<'a> Shared<'a> {
    pub(super) fn of(mesh: &'a Mesh) -> Self {
        Self {
            uninspected: uninspected_ports(mesh),
            ..Self::of_inbound(mesh)
        }
    }

    /// As far as inbound listeners are concerned.
    pub(super) fn of_inbound(mesh: &'a Mesh) -> Self {
        Self {
            mesh,
            uninspected: BTreeSet::new(),
            tracer: Tracer::of(mesh),
        }
    }

    pub(super) fn logs(&self, engine: Engine) -> Logs {
        Logs {
            engine,
            shown: self.mesh.settings.access_log,
        }
    }

    fn traced(&self, mut manager: HttpConnectionManager, tracing: Tracing) -> HttpConnectionManager {
        self.trace(&mut manager, tracing, false);
        manager
    }

    fn trace(&self, manager: &mut HttpConnectionManager, tracing: Tracing, both_sides: bool) {
        if let Some((tracer, sampling)) = self.tracer.as_ref().zip(tracing.sampling) {
            manager.tracing = Some(tracer.listener(sampling, both_sides));
            // Envoy decides by it who is traced; without one nobody is.
            manager.generate_request_id = yes();
        }
    }

    /// For a proxy that is a server to its clients and a client to its servers.
    pub(super) fn traced_on_both_sides(
        &self,
        mut manager: HttpConnectionManager,
        tracing: Tracing,
    ) -> HttpConnectionManager {
        self.trace(&mut manager, tracing, true);
        manager
    }
}

pub(super) fn socket_address(ip: IpAddr, port: u32) -> Address {
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: ip.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    }
}

/// The address on which redirected connections of a family arrive. Each family has a listener of its own: that of IPv6
/// comes when the pod turns out to have IPv6, and touches no connection of the other.
pub(super) fn every_address(family: Family, port: u32) -> Option<Address> {
    let ip: IpAddr = match family {
        Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    Some(socket_address(ip, port))
}

/// Where redirected outbound connections arrive. What no other listener takes is blocked, or passed on as it is, as the
/// mesh's settings say. Blocked: an HTTP request is answered 404, anything else is reset.
pub(super) fn outbound(engine: Engine, family: Family, shared: &Shared<'_>) -> Listener {
    let base = Listener {
        name: family.outbound().to_owned(),
        address: every_address(family, OUTBOUND_PORT),
        use_original_dst: yes(),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Default::default()
    };
    let to = |cluster: &str| FilterChain {
        filters: vec![tcp_filter(shared.logs(engine), OUTBOUND, cluster)],
        name: cluster.to_owned(),
        ..Default::default()
    };
    if shared.mesh.settings.outbound_default.passes_on() {
        return Listener {
            listener_filters: vec![original_dst()],
            default_filter_chain: Some(to(DIRECT)),
            ..base
        };
    }
    let logs = access_log::http(shared.logs(engine), OUTBOUND);
    let answer = manager(BLOCKED, RouteSpecifier::RouteConfig(route::blocked()), logs);
    let http = FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            application_protocols: ["http/1.0", "http/1.1", "h2c"].map(str::to_owned).to_vec(),
            ..Default::default()
        }),
        filters: vec![http_filter(&answer)],
        name: "blocked_http".to_owned(),
        ..Default::default()
    };
    let mut inspector = listener_filter("envoy.filters.listener.http_inspector", &HttpInspector::default());
    // Weir's proxy hands on first and inspects then: it needs no exceptions.
    inspector.filter_disabled = if engine == Engine::Envoy {
        ports(&shared.uninspected)
    } else {
        None
    };
    Listener {
        listener_filters: vec![original_dst(), inspector],
        listener_filters_timeout: seconds(INSPECTION_TIMEOUT_S),
        continue_on_listener_filters_timeout: true,
        filter_chains: vec![http],
        default_filter_chain: Some(to(BLOCKED)),
        ..base
    }
}

/// Ports on which Envoy must not wait for a client's first bytes. It does so for every connection before it hands it on,
/// and where the server speaks first that would cost a second. Ports that also have a blocked or http address keep the
/// inspection, for a blocked HTTP request is to be answered.
fn uninspected_ports(mesh: &Mesh) -> BTreeSet<u16> {
    let services = mesh.services.values().filter(|s| !s.headless);
    let of_services = services.flat_map(|s| s.ports.iter().map(|(number, port)| (*number, port.protocol)));
    let of_addresses = mesh
        .addresses
        .iter()
        .map(|((_, port), address)| (*port, Some(address.protocol)));
    let (mut silent, mut inspected) = (BTreeSet::new(), BTreeSet::new());
    for (port, protocol) in of_services.chain(of_addresses) {
        match protocol {
            Some(Protocol::Tcp | Protocol::Direct) => silent.insert(port),
            Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc) | None => inspected.insert(port),
        };
    }
    &silent - &inspected
}

/// True for connections to one of these ports; no predicate when there are none.
fn ports(ports: &BTreeSet<u16>) -> Option<ListenerFilterChainMatchPredicate> {
    let one = |port: &u16| ListenerFilterChainMatchPredicate {
        rule: Some(Rule::DestinationPortRange(Int32Range {
            start: i32::from(*port),
            end: i32::from(*port) + 1,
        })),
    };
    let mut rules: Vec<_> = ports.iter().map(one).collect();
    match rules.len() {
        0 | 1 => rules.pop(),
        _ => Some(ListenerFilterChainMatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet { rules })),
        }),
    }
}

/// The listener of one address: no socket, connections are handed to it.
pub(super) fn address(variant: Variant, name: &str, bound: &Bound<'_>, shared: &Shared<'_>) -> Listener {
    let filter = if bound.protocol.has_requests() {
        let rds = Rds {
            config_source: Some(super::cluster::ads()),
            route_config_name: bound.cluster.to_owned(),
        };
        let logs = access_log::http(shared.logs(variant.engine), OUTBOUND);
        let mut manager = manager(bound.cluster, RouteSpecifier::Rds(rds), logs);
        manager.http_filters.insert(0, faults());
        let manager = shared.traced(manager, bound.tracing.or(variant.tracing));
        http_filter(&with_upgrades(manager, bound.protocol))
    } else {
        shared_tcp_filter(shared.logs(variant.engine), bound)
    };
    Listener {
        name: name.to_owned(),
        address: Some(socket_address(bound.ip, u32::from(bound.port))),
        bind_to_port: no(),
        traffic_direction: TrafficDirection::Outbound as i32,
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Where redirected inbound connections arrive. Nothing is blocked: ports that Services lead to with a protocol of
/// requests are read as that, all else is passed on as it is.
pub(super) fn inbound(engine: Engine, family: Family, shared: &Shared<'_>, pod: &Pod) -> Listener {
    let logs = shared.logs(engine);
    let chain = |(port, inbound): (&u16, &InboundPort)| {
        let cluster = telemetry::inbound_cluster(&shared.mesh.telemetry, inbound);
        let filter = match inbound.protocol.has_requests() {
            true => {
                let manager = inbound_http(logs, *port, inbound, &cluster);
                http_filter(&shared.traced(manager, inbound.tracing.or(pod.tracing)))
            }
            false if cluster == INBOUND => return None,
            false => tcp_filter(logs, INBOUND, &cluster),
        };
        Some(FilterChain {
            filter_chain_match: Some(FilterChainMatch {
                destination_port: number(u32::from(*port)),
                ..Default::default()
            }),
            filters: vec![filter],
            name: format!("{INBOUND}_{port}"),
            ..Default::default()
        })
    };
    let filter_chains = pod.inbound.iter().filter_map(chain).collect();
    Listener {
        name: family.inbound().to_owned(),
        address: every_address(family, INBOUND_PORT),
        traffic_direction: TrafficDirection::Inbound as i32,
        listener_filters: vec![original_dst()],
        filter_chains,
        default_filter_chain: Some(FilterChain {
            filters: vec![tcp_filter(logs, INBOUND, INBOUND)],
            name: INBOUND.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn inbound_http(logs: Logs, port: u16, inbound: &InboundPort, cluster: &str) -> HttpConnectionManager {
    let routes: RouteConfiguration = route::inbound(port, inbound.domains.iter().cloned().collect(), cluster);
    let logs = access_log::http(logs, INBOUND);
    let manager = manager(&routes.name.clone(), RouteSpecifier::RouteConfig(routes), logs);
    with_upgrades(manager, inbound.protocol)
}

/// WebSocket leads to applications of HTTP/1.1 only: those of HTTP/2 hardly ever know how to take one.
fn with_upgrades(mut manager: HttpConnectionManager, protocol: Protocol) -> HttpConnectionManager {
    if !protocol.is_http2() {
        manager.upgrade_configs = vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }];
    }
    manager
}

/// Does nothing by itself: routes say what it does to their requests, so that a fault changes a route alone.
fn faults() -> HttpFilter {
    HttpFilter {
        name: action::FAULT.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&HttpFault::default()))),
        ..Default::default()
    }
}

/// Reads requests, in HTTP/1 or HTTP/2 as the client begins, and passes them on.
pub(super) fn manager(stat_prefix: &str, routes: RouteSpecifier, access_log: Vec<AccessLog>) -> HttpConnectionManager {
    let router = Router {
        suppress_envoy_headers: true,
        ..Default::default()
    };
    HttpConnectionManager {
        codec_type: CodecType::Auto as i32,
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(routes),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(any(&router))),
            ..Default::default()
        }],
        http_protocol_options: Some(Http1ProtocolOptions {
            accept_http_10: true,
            ..Default::default()
        }),
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        use_remote_address: no(),
        skip_xff_append: true,
        generate_request_id: no(),
        // Long silences are the application's business.
        stream_idle_timeout: seconds(0),
        http2_protocol_options: Some(http2_options()),
        access_log,
        ..Default::default()
    }
}

pub(super) fn http_filter(manager: &HttpConnectionManager) -> Filter {
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(manager))),
    }
}

fn tcp_filter(logs: Logs, log_name: &str, cluster: &str) -> Filter {
    let to = ClusterSpecifier::Cluster(cluster.to_owned());
    tcp_filter_to(logs, log_name, cluster, to)
}

/// Connections shared between clusters by weight, where a rule asks for it.
fn shared_tcp_filter(logs: Logs, bound: &Bound<'_>) -> Filter {
    let weight = |share: &Share| {
        let key = share.service.as_ref()?;
        Some(ClusterWeight {
            name: cluster_name(share.port, &key.namespace, &key.name),
            weight: share.weight,
            ..Default::default()
        })
    };
    let clusters: Vec<ClusterWeight> = bound
        .shares
        .iter()
        .filter(|share| share.weight > 0)
        .filter_map(weight)
        .collect();
    match clusters.is_empty() {
        true => tcp_filter(logs, OUTBOUND, bound.cluster),
        false => {
            let to = ClusterSpecifier::WeightedClusters(WeightedCluster { clusters });
            tcp_filter_to(logs, OUTBOUND, bound.cluster, to)
        }
    }
}

fn tcp_filter_to(logs: Logs, log_name: &str, name: &str, to: ClusterSpecifier) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(to),
        max_connect_attempts: number(CONNECT_ATTEMPTS),
        idle_timeout: seconds(0),
        // A stream may last for days: it is told when it opens and while it lasts, not only when it ends.
        access_log_options: (logs.engine == Engine::Envoy).then(|| TcpAccessLogOptions {
            flush_access_log_on_connected: true,
            flush_access_log_on_start: false,
            access_log_flush_interval: seconds(1),
        }),
        access_log: access_log::tcp(logs, log_name),
        ..Default::default()
    };
    Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&proxy))),
    }
}

pub(super) fn listener_filter<T: prost::Name>(name: &str, config: &T) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(ListenerFilterConfig::TypedConfig(any(config))),
        ..Default::default()
    }
}

fn original_dst() -> ListenerFilter {
    listener_filter("envoy.filters.listener.original_dst", &OriginalDst::default())
}
