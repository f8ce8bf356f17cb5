//! How a cluster's endpoints are used: balancing, circuit breakers, outlier detection.

use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::ring_hash_lb_config::HashFunction;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{DiscoveryType, LbConfig};
use envoy_types::pb::envoy::config::core::v3::{Metadata, RoutingPriority};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{UInt32Value, UInt64Value};

use super::{Decoded, Within, flag, nothing_left, optional_duration, reject};
use crate::config::upstream::{LbPolicy, Limits, Outlier, RetryLimit};

/// A circuit breaker's threshold from here on is meant as "no limit".
const NO_LIMIT: u32 = 1_000_000;
/// The key of `filter_metadata` under which the control plane says what Envoy has no word for.
const WEIR: &str = "weir";
/// Envoy's defaults and limits.
const RING_MIN: u64 = 1024;
const RING_MAX: u64 = 8 << 20;
const MAGLEV_SIZE: u64 = 65_537;
const MAGLEV_SIZE_MAX: u64 = 5_000_011;
const PANIC_PERCENT: f64 = 50.0;
const BUDGET_PERCENT: f64 = 20.0;
const BUDGET_MIN: u32 = 3;
const CONSECUTIVE: u32 = 5;
const EJECTED_PERCENT: u32 = 10;
const INTERVAL: Duration = Duration::from_secs(10);
const EJECTION: Duration = Duration::from_secs(30);
const EJECTION_MAX: Duration = Duration::from_secs(300);

/// How the next endpoint is found.
pub(super) fn policy(rest: &mut pb::Cluster, kind: DiscoveryType, metadata: Option<&Metadata>) -> Decoded<LbPolicy> {
    use pb::cluster::LbPolicy as Pb;
    const KNOWN: &str = "must be ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH or MAGLEV, or CLUSTER_PROVIDED where the type is ORIGINAL_DST";
    let named = Pb::try_from(take(&mut rest.lb_policy));
    let config = rest.lb_config.take();
    let policy = match (kind, named) {
        (DiscoveryType::OriginalDst, Ok(Pb::ClusterProvided)) => LbPolicy::RoundRobin,
        (DiscoveryType::OriginalDst, _) => return reject("lb_policy", KNOWN),
        (_, Ok(Pb::RoundRobin)) => LbPolicy::RoundRobin,
        (_, Ok(Pb::LeastRequest)) => LbPolicy::LeastRequest { choices: 2 },
        (_, Ok(Pb::Random)) => LbPolicy::Random,
        (_, Ok(Pb::RingHash)) => LbPolicy::RingHash {
            min: RING_MIN,
            max: RING_MAX,
        },
        (_, Ok(Pb::Maglev)) => LbPolicy::Maglev {
            size: u32::try_from(MAGLEV_SIZE).unwrap_or(u32::MAX),
        },
        _ => return reject("lb_policy", KNOWN),
    };
    let policy = match (policy, config) {
        // Those of other policies say nothing, as in Envoy.
        (LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => {
            nothing_left(&config).within("round_robin_lb_config")?;
            policy
        }
        (LbPolicy::LeastRequest { .. }, Some(LbConfig::LeastRequestLbConfig(mut config))) => {
            let choices = config.choice_count.take().map_or(2, |n| n.value);
            if choices < 2 {
                return reject("least_request_lb_config.choice_count", "must be at least 2");
            }
            nothing_left(&config).within("least_request_lb_config")?;
            LbPolicy::LeastRequest { choices }
        }
        (LbPolicy::RingHash { .. }, Some(LbConfig::RingHashLbConfig(config))) => {
            ring(config).within("ring_hash_lb_config")?
        }
        (LbPolicy::Maglev { .. }, Some(LbConfig::MaglevLbConfig(config))) => {
            maglev(&config.table_size).within("maglev_lb_config")?
        }
        _ => policy,
    };
    match special(metadata)? {
        Some(special) if matches!(policy, LbPolicy::LeastRequest { .. }) => Ok(special),
        Some(_) => reject("lb_policy", "must be LEAST_REQUEST where metadata say PEAK_EWMA"),
        None => Ok(policy),
    }
}

/// A policy that Envoy does not have; it takes another one in its place.
fn special(metadata: Option<&Metadata>) -> Decoded<Option<LbPolicy>> {
    let fields = metadata.and_then(|m| m.filter_metadata.get(WEIR));
    let value = fields.and_then(|f| f.fields.get("lb_policy"));
    match value.and_then(|v| v.kind.as_ref()) {
        None => Ok(None),
        Some(Kind::StringValue(text)) if text == "PEAK_EWMA" => Ok(Some(LbPolicy::PeakEwma)),
        Some(other) => reject(
            format!("metadata.filter_metadata[{WEIR:?}].lb_policy"),
            format!("{other:?} must be \"PEAK_EWMA\""),
        ),
    }
}

fn ring(mut config: pb::cluster::RingHashLbConfig) -> Decoded<LbPolicy> {
    let value = |field: &Option<UInt64Value>, default| field.as_ref().map_or(default, |n| n.value);
    let (min, max) = (
        value(&config.minimum_ring_size.take(), RING_MIN),
        value(&config.maximum_ring_size.take(), RING_MAX),
    );
    if min == 0 || min > max || max > RING_MAX {
        let right = format!("{min} and {max} are no sizes; right would be 1 to {RING_MAX}, the minimum first");
        return reject("minimum_ring_size", right);
    }
    if take(&mut config.hash_function) != HashFunction::XxHash as i32 {
        return reject("hash_function", "is not supported by this proxy; use XX_HASH");
    }
    nothing_left(&config)?;
    Ok(LbPolicy::RingHash { min, max })
}

fn maglev(size: &Option<UInt64Value>) -> Decoded<LbPolicy> {
    let size = size.as_ref().map_or(MAGLEV_SIZE, |n| n.value);
    let prime = size >= 2 && (2..).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d));
    match u32::try_from(size) {
        Ok(size) if u64::from(size) <= MAGLEV_SIZE_MAX && size > 2 && prime => Ok(LbPolicy::Maglev { size }),
        _ => reject("table_size", format!("{size} is no prime up to {MAGLEV_SIZE_MAX}")),
    }
}

/// When all endpoints are used, however many are left out.
pub(super) fn panic_percent(rest: &mut pb::Cluster) -> Decoded<f64> {
    let Some(mut common) = rest.common_lb_config.take() else {
        return Ok(PANIC_PERCENT);
    };
    let percent = common.healthy_panic_threshold.take().map_or(PANIC_PERCENT, |p| p.value);
    if !(0.0..=100.0).contains(&percent) {
        return reject("healthy_panic_threshold", format!("{percent} must be 0 to 100"));
    }
    nothing_left(&common)?;
    Ok(percent)
}

/// The thresholds of the default priority: there are no requests of another one here. What they do not say is not limited.
pub(super) fn limits(breakers: Option<pb::CircuitBreakers>) -> Decoded<Limits> {
    let mut limits = Limits::default();
    let Some(mut breakers) = breakers else {
        return Ok(limits);
    };
    for (i, threshold) in take(&mut breakers.thresholds).into_iter().enumerate() {
        let default = threshold.priority == RoutingPriority::Default as i32;
        let found = thresholds(threshold).within(format_args!("thresholds[{i}]"))?;
        if default {
            limits = found;
        }
    }
    nothing_left(&breakers)?;
    Ok(limits)
}

fn thresholds(mut rest: pb::circuit_breakers::Thresholds) -> Decoded<Limits> {
    let limit = |value: Option<UInt32Value>| value.map(|v| v.value).filter(|v| *v < NO_LIMIT);
    let number = limit(rest.max_retries.take()).map(RetryLimit::Number);
    // It takes the number's place.
    let retries = match rest.retry_budget.take() {
        None => number,
        Some(mut budget) => {
            let percent = budget.budget_percent.take().map_or(BUDGET_PERCENT, |p| p.value);
            if !(0.0..=100.0).contains(&percent) {
                return reject("retry_budget.budget_percent", format!("{percent} must be 0 to 100"));
            }
            let min = budget.min_retry_concurrency.take().map_or(BUDGET_MIN, |n| n.value);
            nothing_left(&budget).within("retry_budget")?;
            (min < NO_LIMIT).then_some(RetryLimit::Budget { percent, min })
        }
    };
    let limits = Limits {
        connections: limit(rest.max_connections.take()),
        pending: limit(rest.max_pending_requests.take()),
        requests: limit(rest.max_requests.take()),
        retries,
        track: take(&mut rest.track_remaining),
    };
    rest.priority = 0;
    nothing_left(&rest)?;
    Ok(limits)
}

/// When an endpoint is left out. Rates of success and failure are not looked at, so nobody may count on them.
pub(super) fn outlier(mut rest: pb::OutlierDetection) -> Decoded<Outlier> {
    let number = |value: Option<UInt32Value>, default| value.map_or(default, |n| n.value);
    for (field, value) in [
        ("enforcing_success_rate", rest.enforcing_success_rate.take()),
        (
            "enforcing_local_origin_success_rate",
            rest.enforcing_local_origin_success_rate.take(),
        ),
        ("enforcing_failure_percentage", rest.enforcing_failure_percentage.take()),
        (
            "enforcing_failure_percentage_local_origin",
            rest.enforcing_failure_percentage_local_origin.take(),
        ),
    ] {
        if value.is_some_and(|v| v.value > 0) {
            return reject(field, "is not supported by this proxy; set it to 0");
        }
    }
    rest.success_rate_minimum_hosts = None;
    rest.success_rate_request_volume = None;
    rest.success_rate_stdev_factor = None;
    rest.failure_percentage_threshold = None;
    rest.failure_percentage_minimum_hosts = None;
    rest.failure_percentage_request_volume = None;
    let max_percent = number(rest.max_ejection_percent.take(), EJECTED_PERCENT);
    let enforcing = [
        ("enforcing_consecutive_5xx", rest.enforcing_consecutive_5xx.take(), 100),
        (
            "enforcing_consecutive_gateway_failure",
            rest.enforcing_consecutive_gateway_failure.take(),
            0,
        ),
        (
            "enforcing_consecutive_local_origin_failure",
            rest.enforcing_consecutive_local_origin_failure.take(),
            100,
        ),
        ("max_ejection_percent", Some(UInt32Value { value: max_percent }), 0),
    ];
    let mut percents = [0; 4];
    for (percent, (field, value, default)) in percents.iter_mut().zip(enforcing) {
        *percent = number(value, default);
        if *percent > 100 {
            return reject(field, format!("{percent} must be 0 to 100"));
        }
    }
    let span = |field: &str, value, default: Duration| -> Decoded<Duration> {
        match optional_duration(field, &value)? {
            Some(zero) if zero.is_zero() => reject(field, "must be more than 0"),
            some => Ok(some.unwrap_or(default)),
        }
    };
    let outlier = Outlier {
        server_errors: (number(rest.consecutive_5xx.take(), CONSECUTIVE), percents[0]),
        gateway_errors: (
            number(rest.consecutive_gateway_failure.take(), CONSECUTIVE),
            percents[1],
        ),
        local_errors: (
            number(rest.consecutive_local_origin_failure.take(), CONSECUTIVE),
            percents[2],
        ),
        split: take(&mut rest.split_external_local_origin_errors),
        interval: span("interval", rest.interval.take(), INTERVAL)?,
        base: span("base_ejection_time", rest.base_ejection_time.take(), EJECTION)?,
        max: span("max_ejection_time", rest.max_ejection_time.take(), EJECTION_MAX)?,
        max_percent,
        always_one: flag(&rest.always_eject_one_host.take(), false),
    };
    if optional_duration("max_ejection_time_jitter", &rest.max_ejection_time_jitter)?.is_some_and(|d| d.is_zero()) {
        rest.max_ejection_time_jitter = None;
    }
    // There is no active health checking that it could be about.
    rest.successful_active_health_check_uneject_host = None;
    nothing_left(&rest)?;
    Ok(outlier)
}
