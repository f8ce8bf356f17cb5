//! Clusters: where connections lead. Every socket that a proxy opens carries the mark that exempts it from redirection.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster, OutlierDetection};
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
use envoy_types::pb::envoy::r#type::v3::Percent;
use weir_api::labels::Protocol;
use weir_mesh::policy::{Balance, CONNECT_TIMEOUT, LbPolicy as Rule, Limits, Outlier};

use super::{BLOCKED, Destination, SOCKET_MARK, Upstream, any, duration, http2_options, number, seconds};

/// Retries may be this share of the requests under way where nobody says anything.
const RETRY_BUDGET_PERCENT: f64 = 50.0;
/// So many retries are always allowed, or a quiet destination would have none.
const RETRIES_ALWAYS: u32 = 25;
/// Endpoints that failed to be reached so often in a row are ejected, like those that answer gateway errors.
const LOCAL_ORIGIN_FAILURES: u32 = 5;
const OUTLIER_INTERVAL_S: i64 = 1;
/// However often an endpoint was ejected before, it comes back after this time.
const EJECTION_TIME_MAX: Duration = Duration::from_secs(300);
/// Of all that are found out to be failing, so many percent are ejected.
const ENFORCED: u32 = 100;
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

pub(super) fn base(name: &str, discovery: DiscoveryType) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery as i32)),
        connect_timeout: duration(CONNECT_TIMEOUT),
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
        circuit_breakers: Some(breakers(&Limits::default(), false)),
        ..Default::default()
    }
}

/// Envoy's own defaults (1024 connections and requests, 3 retries at a time) would turn requests away unasked. A number of
/// retries that somebody asks for stands in place of the budget.
fn breakers(limits: &Limits, retried: bool) -> CircuitBreakers {
    let most = |limit: Option<u32>| number(limit.unwrap_or(u32::MAX));
    let share = match (limits.retry_budget, limits.retries) {
        (Some(share), _) => Some(share.percent()),
        (None, Some(_)) => None,
        (None, None) => retried.then_some(RETRY_BUDGET_PERCENT),
    };
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: most(limits.connections),
            max_pending_requests: most(limits.pending),
            max_requests: most(limits.requests),
            max_retries: most(limits.retries),
            retry_budget: share.map(|value| RetryBudget {
                budget_percent: Some(Percent { value }),
                min_retry_concurrency: number(RETRIES_ALWAYS),
                ..Default::default()
            }),
            track_remaining: retried,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Endpoints that fail again and again are left out for a while.
fn outlier(outlier: &Outlier) -> OutlierDetection {
    let counted = |count: u32| match count {
        0 => (None, number(0)),
        count => (number(count), number(ENFORCED)),
    };
    let (gateway, enforcing_gateway) = counted(outlier.gateway_errors);
    let (server, enforcing_server) = counted(outlier.server_errors);
    OutlierDetection {
        consecutive_gateway_failure: gateway,
        enforcing_consecutive_gateway_failure: enforcing_gateway,
        consecutive_5xx: server,
        enforcing_consecutive_5xx: enforcing_server,
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: number(LOCAL_ORIGIN_FAILURES),
        enforcing_consecutive_local_origin_failure: number(ENFORCED),
        enforcing_success_rate: number(0),
        enforcing_local_origin_success_rate: number(0),
        interval: seconds(OUTLIER_INTERVAL_S),
        base_ejection_time: duration(outlier.ejection_time),
        max_ejection_time: duration(EJECTION_TIME_MAX.max(outlier.ejection_time)),
        max_ejection_percent: number(u32::from(outlier.ejected_percent_max)),
        ..Default::default()
    }
}

/// What Envoy knows nearest to a rule; the rest is in the cluster's metadata.
fn lb_policy(balance: &Balance) -> LbPolicy {
    match balance.policy {
        Rule::RoundRobin => LbPolicy::RoundRobin,
        Rule::LeastRequest | Rule::PeakEwma => LbPolicy::LeastRequest,
        Rule::RingHash => LbPolicy::RingHash,
        Rule::Random => LbPolicy::Random,
        Rule::Maglev => LbPolicy::Maglev,
    }
}

/// Says which HTTP the upstream is spoken to in.
pub(super) fn speaking(mut cluster: Cluster, upstream: Upstream) -> Cluster {
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

/// In turn over endpoints that are told separately.
pub(super) fn of_endpoints(name: &str) -> Cluster {
    Cluster {
        lb_policy: LbPolicy::RoundRobin as i32,
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            ..Default::default()
        }),
        ..base(name, DiscoveryType::Eds)
    }
}

/// Balanced over the endpoints of a destination, as its policy says.
pub(super) fn eds(destination: &Destination<'_>) -> Cluster {
    let policy = destination.policy;
    let panic_threshold = policy.balance.panic_percent.map(|percent| CommonLbConfig {
        healthy_panic_threshold: Some(Percent {
            value: f64::from(percent),
        }),
        ..Default::default()
    });
    let cluster = Cluster {
        lb_policy: lb_policy(&policy.balance) as i32,
        common_lb_config: panic_threshold,
        connect_timeout: duration(policy.connect_timeout.unwrap_or(CONNECT_TIMEOUT)),
        circuit_breakers: Some(breakers(&policy.limits, true)),
        // Where the client chose the address, there is no other to take its place.
        outlier_detection: (policy.outlier.enabled && !destination.single).then(|| outlier(&policy.outlier)),
        ..of_endpoints(&destination.name)
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
