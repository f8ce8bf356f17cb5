//! The gateway's own listeners and routes: clear text and TLS, straight to the endpoints of the Services it leads to.

use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{TrafficDirection, TransportSocket};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, Rds};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
};
use weir_api::labels::{Engine, Protocol};
use weir_mesh::policy::Tracing;
use weir_mesh::routes::{Rule, Share};
use weir_mesh::{ANY_HOST, Chain, Host, Mesh, Policy};

use super::listener::{self, Shared, access_log};
use super::{
    Family, INGRESS_HTTP, INGRESS_HTTP_PORT, INGRESS_HTTPS, INGRESS_HTTPS_PORT, OUTBOUND, ROUTE_OTHER, ROUTE_SERVICE,
    action, any, cluster, no, rule, seconds, yes,
};

/// What counts of all its traffic.
const STAT_PREFIX: &str = "ingress";
/// A client that does not say within this time which host it wants is let go.
const INSPECTION_TIMEOUT_S: i64 = 15;

/// Where requests in clear text arrive.
pub(super) fn http(engine: Engine, mesh: &Mesh, shared: &Shared<'_>) -> Listener {
    let chain = FilterChain {
        filters: vec![listener::http_filter(&manager(engine, mesh, shared, INGRESS_HTTP))],
        name: INGRESS_HTTP.to_owned(),
        ..Default::default()
    };
    Listener {
        filter_chains: vec![chain],
        ..bound(INGRESS_HTTP, INGRESS_HTTP_PORT)
    }
}

/// Where TLS arrives; `None` while there is no certificate, for a listener without a chain is none.
pub(super) fn https(engine: Engine, mesh: &Mesh, shared: &Shared<'_>) -> Option<Listener> {
    let manager = manager(engine, mesh, shared, INGRESS_HTTPS);
    let chain = |chain: &Chain| FilterChain {
        filter_chain_match: (!chain.server_names.is_empty()).then(|| FilterChainMatch {
            server_names: chain.server_names.clone(),
            ..Default::default()
        }),
        filters: vec![listener::http_filter(&manager)],
        transport_socket: Some(transport_socket(&chain.certificate)),
        name: match chain.server_names.is_empty() {
            true => format!("{}|{ANY_HOST}", chain.certificate),
            false => chain.certificate.clone(),
        },
        ..Default::default()
    };
    let filter_chains: Vec<FilterChain> = mesh.gateway.chains.iter().map(chain).collect();
    let inspector = listener::listener_filter("envoy.filters.listener.tls_inspector", &TlsInspector::default());
    (!filter_chains.is_empty()).then(|| Listener {
        filter_chains,
        listener_filters: vec![inspector],
        listener_filters_timeout: seconds(INSPECTION_TIMEOUT_S),
        ..bound(INGRESS_HTTPS, INGRESS_HTTPS_PORT)
    })
}

fn bound(name: &str, port: u32) -> Listener {
    Listener {
        name: name.to_owned(),
        address: listener::every_address(Family::Ipv4, port),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Default::default()
    }
}

/// As for any requests, but for what a stranger could do by a path or a header of the kind that proxies set.
fn manager(engine: Engine, mesh: &Mesh, shared: &Shared<'_>, routes: &str) -> HttpConnectionManager {
    let rds = RouteSpecifier::Rds(Rds {
        config_source: Some(cluster::ads()),
        route_config_name: routes.to_owned(),
    });
    let logs = access_log::http(shared.logs(engine), OUTBOUND);
    let manager = HttpConnectionManager {
        use_remote_address: yes(),
        xff_num_trusted_hops: mesh.settings.ingress.trusted_hops,
        skip_xff_append: false,
        normalize_path: yes(),
        merge_slashes: true,
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        ..listener::manager(STAT_PREFIX, rds, logs)
    };
    shared.traced_on_both_sides(manager, tracing(mesh))
}

/// A gateway traces as much as the Service of its own that asks for the most.
fn tracing(mesh: &Mesh) -> Tracing {
    let hosts = mesh.gateway.http.iter().chain(&mesh.gateway.https);
    let rules = hosts.flat_map(|host| &host.rules);
    let asked = rules.flat_map(Rule::shares).filter_map(|share| policy(share, mesh));
    asked.fold(Tracing::default(), |most, policy| most.or(policy.tracing))
}

fn policy<'a>(share: &Share, mesh: &'a Mesh) -> Option<&'a Policy> {
    let service = mesh.services.get(share.service.as_ref()?)?;
    Some(&service.policy)
}

fn protocol(share: &Share, mesh: &Mesh) -> Option<Protocol> {
    let service = mesh.services.get(share.service.as_ref()?)?;
    service.ports.get(&share.port)?.carried()
}

/// A rule's routes, as the labels of the Service ask that it leads to (the apex of a split; else the first, of several). What is done to requests on
/// purpose is not done here: it would hit strangers.
fn ruled(rule: &Rule, shown: &str, mesh: &Mesh) -> Vec<Route> {
    let usual = Policy::default();
    let first = rule.shares().first();
    let asked = rule.policy_of.as_ref().and_then(|key| mesh.services.get(key));
    let asked = asked.map(|service| &service.policy);
    let policy = asked
        .or_else(|| first.and_then(|share| policy(share, mesh)))
        .unwrap_or(&usual);
    let action = action::forward("", policy, &policy.timeouts);
    let action = match first.and_then(|share| protocol(share, mesh)) {
        Some(protocol) => action::of_protocol(action, protocol),
        None => action,
    };
    let mut routes: Vec<Route> = rule::routes(rule, shown, &action).collect();
    if let Some((share, key)) = first.and_then(|share| Some((share, share.service.as_ref()?))) {
        let operation = format!("{}.{}:{}/*", key.name, key.namespace, share.port);
        routes.iter_mut().for_each(|route| action::decorate(route, &operation));
    }
    routes
}

fn transport_socket(certificate: &str) -> TransportSocket {
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![SdsSecretConfig {
                name: certificate.to_owned(),
                sds_config: Some(cluster::ads()),
            }],
            alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
            ..Default::default()
        }),
        ..Default::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&context))),
    }
}

/// The routes of clear text or of TLS. The port in a host header says how a client came here, not what it wants. Figures
/// show hosts by name only where they are names, not where they are whatever a client writes.
pub(super) fn routes(name: &str, hosts: &[Host], mesh: &Mesh) -> RouteConfiguration {
    let host = |host: &Host| {
        let shown = match host.domain.starts_with('*') {
            true => ROUTE_OTHER,
            false => ROUTE_SERVICE,
        };
        VirtualHost {
            name: host.domain.clone(),
            domains: vec![host.domain.clone()],
            routes: host.rules.iter().flat_map(|r| ruled(r, shown, mesh)).collect(),
            ..Default::default()
        }
    };
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: hosts.iter().map(host).collect(),
        validate_clusters: no(),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}
