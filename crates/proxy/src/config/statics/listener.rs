//! Listeners of the bootstrap file, with their filters and inline routes.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use serde::Deserialize;
use serde_json::Value;
use weir_xds::ResourceType;

use super::tls::{self, TransportSocket};
use super::trace::{self, Tracing};
use super::upstream::{HashPolicy, RetryPolicy, hash_policy, retry_policy};
use super::{Read, address, boolean, http2, number, resource, timespan, type_url};
use crate::config::bootstrap::{StaticResource, from_value, wrong};

const TYPE_PREFIX: &str = "type.googleapis.com/";
const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Listener {
    name: String,
    address: Value,
    filter_chains: Vec<FilterChain>,
    default_filter_chain: Option<FilterChain>,
    listener_filters: Vec<Filter>,
    listener_filters_timeout: Option<String>,
    continue_on_listener_filters_timeout: bool,
    use_original_dst: Option<bool>,
    bind_to_port: Option<bool>,
    traffic_direction: Option<String>,
    #[serde(rename = "enable_reuse_port")]
    _enable_reuse_port: Option<bool>,
    #[serde(rename = "per_connection_buffer_limit_bytes")]
    _per_connection_buffer_limit_bytes: Option<u32>,
    #[serde(rename = "stat_prefix")]
    _stat_prefix: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct FilterChain {
    #[serde(rename = "name")]
    _name: String,
    filter_chain_match: Option<ChainMatch>,
    filters: Vec<Filter>,
    transport_socket: Option<TransportSocket>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ChainMatch {
    destination_port: Option<u32>,
    server_names: Vec<String>,
    application_protocols: Vec<String>,
    transport_protocol: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Filter {
    name: String,
    typed_config: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct TcpProxy {
    stat_prefix: String,
    cluster: String,
    weighted_clusters: Option<WeightedClusters>,
    idle_timeout: Option<String>,
    max_connect_attempts: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct WeightedClusters {
    clusters: Vec<Weighted>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Weighted {
    name: String,
    weight: u32,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct HttpConnectionManager {
    stat_prefix: String,
    codec_type: Option<String>,
    http2_protocol_options: Option<Value>,
    route_config: Option<RouteConfiguration>,
    rds: Option<Rds>,
    http_filters: Vec<Filter>,
    generate_request_id: Option<bool>,
    stream_idle_timeout: Option<String>,
    request_timeout: Option<String>,
    request_headers_timeout: Option<String>,
    use_remote_address: Option<bool>,
    upgrade_configs: Vec<UpgradeConfig>,
    tracing: Option<Tracing>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct UpgradeConfig {
    upgrade_type: String,
    enabled: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Rds {
    route_config_name: String,
    #[serde(rename = "config_source")]
    _config_source: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RouteConfiguration {
    name: String,
    virtual_hosts: Vec<VirtualHost>,
    #[serde(rename = "validate_clusters")]
    _validate_clusters: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct VirtualHost {
    name: String,
    domains: Vec<String>,
    routes: Vec<Route>,
    retry_policy: Option<RetryPolicy>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Route {
    name: String,
    #[serde(rename = "match")]
    path: RouteMatch,
    route: Option<RouteAction>,
    direct_response: Option<DirectResponse>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RouteMatch {
    prefix: Option<String>,
    path: Option<String>,
    path_separated_prefix: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RouteAction {
    cluster: String,
    timeout: Option<String>,
    retry_policy: Option<RetryPolicy>,
    hash_policy: Vec<HashPolicy>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct DirectResponse {
    status: u32,
    body: Option<Body>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    inline_string: String,
}

/// A listener of the file.
pub fn listener(at: &str, value: Value) -> Read<StaticResource> {
    let file: Listener = from_value(at, value)?;
    let traffic_direction = match file.traffic_direction.as_deref().unwrap_or("UNSPECIFIED") {
        "UNSPECIFIED" => core::TrafficDirection::Unspecified,
        "INBOUND" => core::TrafficDirection::Inbound,
        "OUTBOUND" => core::TrafficDirection::Outbound,
        other => {
            return wrong(
                format!("{at}.traffic_direction"),
                format!("{other:?} must be INBOUND or OUTBOUND"),
            );
        }
    };
    let mut filter_chains = Vec::new();
    for (i, chain) in file.filter_chains.into_iter().enumerate() {
        filter_chains.push(filter_chain(&format!("{at}.filter_chains[{i}]"), chain)?);
    }
    let default_filter_chain = file
        .default_filter_chain
        .map(|chain| filter_chain(&format!("{at}.default_filter_chain"), chain))
        .transpose()?;
    let listener_filters = file
        .listener_filters
        .into_iter()
        .map(|f| pb::ListenerFilter {
            name: f.name,
            config_type: Some(pb::listener_filter::ConfigType::TypedConfig(Any {
                type_url: type_url(&f.typed_config),
                value: Vec::new(),
            })),
            ..Default::default()
        })
        .collect();
    let message = pb::Listener {
        name: file.name.clone(),
        address: Some(address(&format!("{at}.address"), &file.address)?),
        filter_chains,
        default_filter_chain,
        listener_filters,
        listener_filters_timeout: timespan(&format!("{at}.listener_filters_timeout"), file.listener_filters_timeout)?,
        continue_on_listener_filters_timeout: file.continue_on_listener_filters_timeout,
        use_original_dst: boolean(file.use_original_dst),
        bind_to_port: boolean(file.bind_to_port),
        traffic_direction: traffic_direction.into(),
        ..Default::default()
    };
    resource(at, ResourceType::Listener, file.name, &message)
}

fn filter_chain(at: &str, file: FilterChain) -> Read<pb::FilterChain> {
    let mut filters = Vec::new();
    for (i, one) in file.filters.into_iter().enumerate() {
        filters.push(filter(&format!("{at}.filters[{i}]"), one)?);
    }
    let filter_chain_match = file.filter_chain_match.map(|m| pb::FilterChainMatch {
        destination_port: number(m.destination_port),
        server_names: m.server_names,
        application_protocols: m.application_protocols,
        transport_protocol: m.transport_protocol,
        ..Default::default()
    });
    let transport_socket = file
        .transport_socket
        .map(|t| tls::message(&format!("{at}.transport_socket"), t))
        .transpose()?;
    Ok(pb::FilterChain {
        filter_chain_match,
        filters,
        transport_socket,
        ..Default::default()
    })
}

fn filter(at: &str, file: Filter) -> Read<pb::Filter> {
    let at = format!("{at}.typed_config");
    let type_url = type_url(&file.typed_config);
    let mut config = file.typed_config;
    if let Value::Object(fields) = &mut config {
        fields.remove("@type");
    }
    let value = match type_url.strip_prefix(TYPE_PREFIX) {
        Some(HCM) => http(&at, from_value(&at, config)?)?.encode_to_vec(),
        Some(TCP) => tcp(&at, from_value(&at, config)?)?.encode_to_vec(),
        _ => {
            return wrong(
                at,
                format!("@type {type_url:?} must be {TYPE_PREFIX}{HCM} or {TYPE_PREFIX}{TCP}"),
            );
        }
    };
    Ok(pb::Filter {
        name: file.name,
        config_type: Some(pb::filter::ConfigType::TypedConfig(Any { type_url, value })),
    })
}

fn tcp(at: &str, file: TcpProxy) -> Read<tcp_proxy::TcpProxy> {
    use tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};
    let weighted = |one: Weighted| ClusterWeight {
        name: one.name,
        weight: one.weight,
        ..Default::default()
    };
    let cluster_specifier = match file.weighted_clusters {
        None => ClusterSpecifier::Cluster(file.cluster),
        Some(weights) if file.cluster.is_empty() => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: weights.clusters.into_iter().map(weighted).collect(),
        }),
        Some(_) => return wrong(at, "must have either cluster or weighted_clusters"),
    };
    Ok(tcp_proxy::TcpProxy {
        stat_prefix: file.stat_prefix,
        cluster_specifier: Some(cluster_specifier),
        idle_timeout: timespan(&format!("{at}.idle_timeout"), file.idle_timeout)?,
        max_connect_attempts: number(file.max_connect_attempts),
        ..Default::default()
    })
}

fn http(at: &str, file: HttpConnectionManager) -> Read<hcm::HttpConnectionManager> {
    use hcm::http_connection_manager::{CodecType, RouteSpecifier};
    let codec_type = match file.codec_type.as_deref().unwrap_or("AUTO") {
        "AUTO" => CodecType::Auto,
        "HTTP1" => CodecType::Http1,
        "HTTP2" => CodecType::Http2,
        other => {
            return wrong(
                format!("{at}.codec_type"),
                format!("{other:?} must be AUTO, HTTP1 or HTTP2"),
            );
        }
    };
    let http2_protocol_options = file
        .http2_protocol_options
        .map(|options| http2::options(&format!("{at}.http2_protocol_options"), options))
        .transpose()?;
    let route_specifier = match (file.rds, file.route_config) {
        (Some(rds), None) => Some(RouteSpecifier::Rds(hcm::Rds {
            route_config_name: rds.route_config_name,
            config_source: None,
        })),
        (None, Some(table)) => Some(RouteSpecifier::RouteConfig(routes(
            &format!("{at}.route_config"),
            table,
        )?)),
        _ => return wrong(at, "must have either rds or route_config"),
    };
    let http_filters = file
        .http_filters
        .into_iter()
        .map(|f| hcm::HttpFilter {
            name: f.name,
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(Any {
                type_url: type_url(&f.typed_config),
                value: Vec::new(),
            })),
            ..Default::default()
        })
        .collect();
    let tracing = file
        .tracing
        .map(|tracing| trace::message(&format!("{at}.tracing"), tracing))
        .transpose()?;
    let upgrade = |u: UpgradeConfig| hcm::http_connection_manager::UpgradeConfig {
        upgrade_type: u.upgrade_type,
        enabled: boolean(u.enabled),
        ..Default::default()
    };
    Ok(hcm::HttpConnectionManager {
        stat_prefix: file.stat_prefix,
        codec_type: codec_type.into(),
        http2_protocol_options,
        route_specifier,
        http_filters,
        generate_request_id: boolean(file.generate_request_id),
        stream_idle_timeout: timespan(&format!("{at}.stream_idle_timeout"), file.stream_idle_timeout)?,
        request_timeout: timespan(&format!("{at}.request_timeout"), file.request_timeout)?,
        request_headers_timeout: timespan(&format!("{at}.request_headers_timeout"), file.request_headers_timeout)?,
        use_remote_address: boolean(file.use_remote_address),
        upgrade_configs: file.upgrade_configs.into_iter().map(upgrade).collect(),
        tracing,
        ..Default::default()
    })
}

fn routes(at: &str, file: RouteConfiguration) -> Read<route::RouteConfiguration> {
    let mut virtual_hosts = Vec::new();
    for (i, host) in file.virtual_hosts.into_iter().enumerate() {
        let at = format!("{at}.virtual_hosts[{i}]");
        let mut routes = Vec::new();
        for (j, one) in host.routes.into_iter().enumerate() {
            routes.push(one_route(&format!("{at}.routes[{j}]"), one)?);
        }
        virtual_hosts.push(route::VirtualHost {
            name: host.name,
            domains: host.domains,
            routes,
            retry_policy: host
                .retry_policy
                .map(|policy| retry_policy(&format!("{at}.retry_policy"), policy))
                .transpose()?,
            ..Default::default()
        });
    }
    Ok(route::RouteConfiguration {
        name: file.name,
        virtual_hosts,
        ..Default::default()
    })
}

fn one_route(at: &str, file: Route) -> Read<route::Route> {
    use route::route_match::PathSpecifier;
    let path_specifier = match (file.path.prefix, file.path.path, file.path.path_separated_prefix) {
        (Some(prefix), None, None) => PathSpecifier::Prefix(prefix),
        (None, Some(path), None) => PathSpecifier::Path(path),
        (None, None, Some(prefix)) => PathSpecifier::PathSeparatedPrefix(prefix),
        _ => {
            return wrong(
                format!("{at}.match"),
                "must have one of prefix, path, path_separated_prefix",
            );
        }
    };
    let action = match (file.route, file.direct_response) {
        (Some(action), None) => route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(action.cluster)),
            timeout: timespan(&format!("{at}.route.timeout"), action.timeout)?,
            retry_policy: action
                .retry_policy
                .map(|policy| retry_policy(&format!("{at}.route.retry_policy"), policy))
                .transpose()?,
            hash_policy: action
                .hash_policy
                .into_iter()
                .map(|policy| hash_policy(&format!("{at}.route.hash_policy"), policy))
                .collect::<Read<_>>()?,
            ..Default::default()
        }),
        (None, Some(response)) => route::route::Action::DirectResponse(route::DirectResponseAction {
            status: response.status,
            body: response.body.map(|b| core::DataSource {
                specifier: Some(core::data_source::Specifier::InlineString(b.inline_string)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        _ => return wrong(at, "must have either route or direct_response"),
    };
    Ok(route::Route {
        name: file.name,
        r#match: Some(route::RouteMatch {
            path_specifier: Some(path_specifier),
            ..Default::default()
        }),
        action: Some(action),
        ..Default::default()
    })
}
