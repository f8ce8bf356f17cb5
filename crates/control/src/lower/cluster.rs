//! Clusters: where connections lead. Every socket that a proxy opens carries the mark that exempts it from redirection.

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_option::Value;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, BindConfig, ConfigSource, Http1ProtocolOptions, SocketOption,
};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use weir_api::labels::Protocol;

use super::{BLOCKED, Destination, SOCKET_MARK, Upstream, any, http2_options, number, seconds};

/// Default of `traffic.connection.timeout`, seconds.
const CONNECT_TIMEOUT_S: i64 = 60;
/// Linux: SOL_SOCKET, SO_MARK.
const SOL_SOCKET: i64 = 1;
const SO_MARK: i64 = 36;

/// Resources that come over the stream that this one came over.
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

fn base(name: &str, discovery: DiscoveryType) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery as i32)),
        connect_timeout: seconds(CONNECT_TIMEOUT_S),
        upstream_bind_config: Some(BindConfig {
            socket_options: vec![SocketOption {
                description: "not redirected".to_owned(),
                level: SOL_SOCKET,
                name: SO_MARK,
                value: Some(Value::IntValue(SOCKET_MARK)),
                ..Default::default()
            }],
            ..Default::default()
        }),
        circuit_breakers: Some(unlimited()),
        ..Default::default()
    }
}

/// Envoy's own defaults (1024 connections and requests, 3 retries at a time) would turn requests away unasked.
fn unlimited() -> CircuitBreakers {
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: number(u32::MAX),
            max_pending_requests: number(u32::MAX),
            max_requests: number(u32::MAX),
            max_retries: number(u32::MAX),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Says which HTTP the upstream is spoken to in.
fn speaking(mut cluster: Cluster, upstream: Upstream) -> Cluster {
    let http1 = Http1ProtocolOptions::default;
    let explicitly = |config| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })
    };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(match upstream {
            Upstream::AsDownstream => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(http1()),
                http2_protocol_options: Some(http2_options()),
                ..Default::default()
            }),
            Upstream::Http1 => explicitly(ProtocolConfig::HttpProtocolOptions(http1())),
            Upstream::Http2 => explicitly(ProtocolConfig::Http2ProtocolOptions(http2_options())),
        }),
        ..Default::default()
    };
    cluster.typed_extension_protocol_options.insert(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
        any(&options),
    );
    cluster
}

/// Balanced over endpoints that are told separately.
pub(super) fn eds(destination: &Destination<'_>) -> Cluster {
    let cluster = Cluster {
        lb_policy: LbPolicy::RoundRobin as i32,
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            ..Default::default()
        }),
        ..base(&destination.name, DiscoveryType::Eds)
    };
    match destination.protocol {
        Protocol::Http => speaking(cluster, Upstream::Http1),
        Protocol::Http2 | Protocol::Grpc => speaking(cluster, Upstream::Http2),
        Protocol::Tcp | Protocol::Direct => cluster,
    }
}

/// To where the client wanted to go.
pub(super) fn original_dst(name: &str, upstream: Upstream) -> Cluster {
    let cluster = Cluster {
        lb_policy: LbPolicy::ClusterProvided as i32,
        ..base(name, DiscoveryType::OriginalDst)
    };
    speaking(cluster, upstream)
}

/// To nowhere: connections are reset.
pub(super) fn blocked() -> Cluster {
    Cluster {
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: BLOCKED.to_owned(),
            ..Default::default()
        }),
        ..base(BLOCKED, DiscoveryType::Static)
    }
}
