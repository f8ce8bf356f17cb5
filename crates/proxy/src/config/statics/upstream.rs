//! Of a cluster of the bootstrap file: balancing, circuit breakers, outlier detection. Of its routes: retry policies and
//! what hashes are made of.

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{LbConfig, LbPolicy};
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::UInt64Value;
use serde::Deserialize;
use serde_json::Value;

use super::{Read, boolean, from_value, number, timespan, wrong};

/// The fields of a cluster that are read here.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    lb_policy: Option<String>,
    least_request_lb_config: Option<LeastRequest>,
    ring_hash_lb_config: Option<RingHash>,
    maglev_lb_config: Option<Maglev>,
    common_lb_config: Option<Common>,
    circuit_breakers: Option<CircuitBreakers>,
    outlier_detection: Option<Outlier>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LeastRequest {
    choice_count: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RingHash {
    minimum_ring_size: Option<u64>,
    maximum_ring_size: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Maglev {
    table_size: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Common {
    healthy_panic_threshold: Option<Share>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Share {
    value: f64,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct CircuitBreakers {
    thresholds: Vec<Thresholds>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Thresholds {
    max_connections: Option<u32>,
    max_pending_requests: Option<u32>,
    max_requests: Option<u32>,
    max_retries: Option<u32>,
    retry_budget: Option<RetryBudget>,
    track_remaining: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RetryBudget {
    budget_percent: Option<Share>,
    min_retry_concurrency: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Outlier {
    consecutive_5xx: Option<u32>,
    consecutive_gateway_failure: Option<u32>,
    consecutive_local_origin_failure: Option<u32>,
    enforcing_consecutive_5xx: Option<u32>,
    enforcing_consecutive_gateway_failure: Option<u32>,
    enforcing_consecutive_local_origin_failure: Option<u32>,
    enforcing_success_rate: Option<u32>,
    enforcing_failure_percentage: Option<u32>,
    enforcing_local_origin_success_rate: Option<u32>,
    split_external_local_origin_errors: bool,
    interval: Option<String>,
    base_ejection_time: Option<String>,
    max_ejection_time: Option<String>,
    max_ejection_percent: Option<u32>,
    always_eject_one_host: Option<bool>,
}

/// Whether a field of a cluster is read here; it may be written either way.
pub fn is_field(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| *c != '_').collect();
    matches!(
        plain.to_ascii_lowercase().as_str(),
        "lbpolicy"
            | "leastrequestlbconfig"
            | "ringhashlbconfig"
            | "maglevlbconfig"
            | "commonlbconfig"
            | "circuitbreakers"
            | "outlierdetection"
    )
}

/// Reads them.
pub fn upstream(at: &str, fields: Value) -> Read<pb::Cluster> {
    let file: Upstream = from_value(at, fields)?;
    let lb_policy = match file.lb_policy.as_deref().unwrap_or("ROUND_ROBIN") {
        "ROUND_ROBIN" => LbPolicy::RoundRobin,
        "LEAST_REQUEST" => LbPolicy::LeastRequest,
        "RANDOM" => LbPolicy::Random,
        "RING_HASH" => LbPolicy::RingHash,
        "MAGLEV" => LbPolicy::Maglev,
        "CLUSTER_PROVIDED" => LbPolicy::ClusterProvided,
        other => {
            return wrong(
                format!("{at}.lb_policy"),
                format!("{other:?} must be ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH, MAGLEV or CLUSTER_PROVIDED"),
            );
        }
    };
    let wide = |value: Option<u64>| value.map(|value| UInt64Value { value });
    let mut configs = Vec::new();
    configs.extend(file.least_request_lb_config.map(|config| {
        LbConfig::LeastRequestLbConfig(pb::cluster::LeastRequestLbConfig {
            choice_count: number(config.choice_count),
            ..Default::default()
        })
    }));
    configs.extend(file.ring_hash_lb_config.map(|config| {
        LbConfig::RingHashLbConfig(pb::cluster::RingHashLbConfig {
            minimum_ring_size: wide(config.minimum_ring_size),
            maximum_ring_size: wide(config.maximum_ring_size),
            ..Default::default()
        })
    }));
    configs.extend(file.maglev_lb_config.map(|config| {
        LbConfig::MaglevLbConfig(pb::cluster::MaglevLbConfig {
            table_size: wide(config.table_size),
        })
    }));
    if configs.len() > 1 {
        return wrong(at, "must have the options of one policy only");
    }
    let outlier = file
        .outlier_detection
        .map(|o| outlier(&format!("{at}.outlier_detection"), o));
    Ok(pb::Cluster {
        lb_policy: lb_policy.into(),
        lb_config: configs.pop(),
        common_lb_config: file.common_lb_config.map(|common| pb::cluster::CommonLbConfig {
            healthy_panic_threshold: percent(common.healthy_panic_threshold),
            ..Default::default()
        }),
        circuit_breakers: file.circuit_breakers.map(|breakers| pb::CircuitBreakers {
            thresholds: breakers.thresholds.into_iter().map(thresholds).collect(),
            ..Default::default()
        }),
        outlier_detection: outlier.transpose()?,
        ..Default::default()
    })
}

fn percent(share: Option<Share>) -> Option<Percent> {
    share.map(|share| Percent { value: share.value })
}

fn thresholds(file: Thresholds) -> pb::circuit_breakers::Thresholds {
    pb::circuit_breakers::Thresholds {
        max_connections: number(file.max_connections),
        max_pending_requests: number(file.max_pending_requests),
        max_requests: number(file.max_requests),
        max_retries: number(file.max_retries),
        retry_budget: file
            .retry_budget
            .map(|budget| pb::circuit_breakers::thresholds::RetryBudget {
                budget_percent: percent(budget.budget_percent),
                min_retry_concurrency: number(budget.min_retry_concurrency),
                ..Default::default()
            }),
        track_remaining: file.track_remaining,
        ..Default::default()
    }
}

fn outlier(at: &str, file: Outlier) -> Read<pb::OutlierDetection> {
    let span = |field: &str, text| timespan(&format!("{at}.{field}"), text);
    Ok(pb::OutlierDetection {
        consecutive_5xx: number(file.consecutive_5xx),
        consecutive_gateway_failure: number(file.consecutive_gateway_failure),
        consecutive_local_origin_failure: number(file.consecutive_local_origin_failure),
        enforcing_consecutive_5xx: number(file.enforcing_consecutive_5xx),
        enforcing_consecutive_gateway_failure: number(file.enforcing_consecutive_gateway_failure),
        enforcing_consecutive_local_origin_failure: number(file.enforcing_consecutive_local_origin_failure),
        enforcing_success_rate: number(file.enforcing_success_rate),
        enforcing_failure_percentage: number(file.enforcing_failure_percentage),
        enforcing_local_origin_success_rate: number(file.enforcing_local_origin_success_rate),
        split_external_local_origin_errors: file.split_external_local_origin_errors,
        interval: span("interval", file.interval)?,
        base_ejection_time: span("base_ejection_time", file.base_ejection_time)?,
        max_ejection_time: span("max_ejection_time", file.max_ejection_time)?,
        max_ejection_percent: number(file.max_ejection_percent),
        always_eject_one_host: boolean(file.always_eject_one_host),
        ..Default::default()
    })
}

/// A retry policy of a route.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    retry_on: String,
    num_retries: Option<u32>,
    per_try_timeout: Option<String>,
    retriable_status_codes: Vec<u32>,
    retry_back_off: Option<BackOff>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct BackOff {
    base_interval: Option<String>,
    max_interval: Option<String>,
}

/// Reads a retry policy.
pub fn retry_policy(at: &str, file: RetryPolicy) -> Read<route::RetryPolicy> {
    let retry_back_off = match file.retry_back_off {
        None => None,
        Some(back_off) => Some(route::retry_policy::RetryBackOff {
            base_interval: timespan(&format!("{at}.retry_back_off.base_interval"), back_off.base_interval)?,
            max_interval: timespan(&format!("{at}.retry_back_off.max_interval"), back_off.max_interval)?,
        }),
    };
    Ok(route::RetryPolicy {
        retry_on: file.retry_on,
        num_retries: number(file.num_retries),
        per_try_timeout: timespan(&format!("{at}.per_try_timeout"), file.per_try_timeout)?,
        retriable_status_codes: file.retriable_status_codes,
        retry_back_off,
        ..Default::default()
    })
}

/// What a hash is made of.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct HashPolicy {
    header: Option<Header>,
    cookie: Option<Cookie>,
    terminal: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Header {
    header_name: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Cookie {
    name: String,
    ttl: Option<String>,
    path: String,
}

/// Reads it.
pub fn hash_policy(at: &str, file: HashPolicy) -> Read<route::route_action::HashPolicy> {
    use route::route_action::hash_policy as hash;
    let specifier = match (file.header, file.cookie) {
        (Some(header), None) => hash::PolicySpecifier::Header(hash::Header {
            header_name: header.header_name,
            ..Default::default()
        }),
        (None, Some(cookie)) => hash::PolicySpecifier::Cookie(hash::Cookie {
            name: cookie.name,
            ttl: timespan(&format!("{at}.cookie.ttl"), cookie.ttl)?,
            path: cookie.path,
            ..Default::default()
        }),
        _ => return wrong(at, "must have either header or cookie"),
    };
    Ok(route::route_action::HashPolicy {
        terminal: file.terminal,
        policy_specifier: Some(specifier),
    })
}
