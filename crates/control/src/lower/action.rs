//! What a policy asks of each request: timeouts, retries and hashes of a route's action, and the faults beside it.
//!
//! Enters: the [`Policy`] of the destination that the client named. Leaves: parts of a route; hosts, matches and where it
//! leads are not known here.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_host_predicate::ConfigType as PredicateConfig;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{RetryBackOff, RetryHostPredicate};
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{Cookie, Header, PolicySpecifier};
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, HashPolicy, MaxStreamDuration};
use envoy_types::pb::envoy::config::route::v3::{Decorator, RetryPolicy, Route, RouteAction};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_rate_limit::{FixedLimit, LimitType};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, FaultRateLimit};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::google::protobuf::Any;
use weir_api::labels::Protocol;
use weir_api::percent::Percent;
use weir_mesh::policy::{Fault, HashOn, Policy, Retries, RetryOn, Timeouts};

use super::{any, duration, number};

/// Name of the filter, in listeners and on routes.
pub(super) const FAULT: &str = "envoy.filters.http.fault";
/// Pause before the first retry at most; it doubles from one to the next.
const BACK_OFF_MIN: Duration = Duration::from_millis(25);
const BACK_OFF_MAX: Duration = Duration::from_millis(250);
/// How often another endpoint is looked for instead of one that just failed.
const OTHER_ENDPOINT_ATTEMPTS: i64 = 5;

/// To a cluster, as a policy asks; `timeouts` in place of the policy's own, where somebody nearer to the route says them.
pub(super) fn forward(cluster: &str, policy: &Policy, timeouts: &Timeouts) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        // No limit unless somebody asks for one.
        timeout: duration(timeouts.request.unwrap_or_default()),
        idle_timeout: timeouts.idle.and_then(duration),
        retry_policy: retry(&policy.retries, timeouts.per_try),
        hash_policy: policy.balance.hash.iter().map(hash).collect(),
        ..Default::default()
    }
}

/// The same for what speaks this: a call of gRPC lasts as long as its caller says.
pub(super) fn of_protocol(action: RouteAction, protocol: Protocol) -> RouteAction {
    RouteAction {
        max_stream_duration: (protocol == Protocol::Grpc).then(|| MaxStreamDuration {
            // As it stands, however long.
            grpc_timeout_header_max: duration(Duration::ZERO),
            ..Default::default()
        }),
        ..action
    }
}

/// To the application itself, without a limit and without another try.
pub(super) fn pass_on(cluster: &str) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: duration(Duration::ZERO),
        ..Default::default()
    }
}

/// Puts what is done to requests on purpose onto a route.
pub(super) fn inject(route: &mut Route, fault: &Fault) {
    if *fault != Fault::default() {
        route.typed_per_filter_config = HashMap::from([(FAULT.to_owned(), fault_config(fault))]);
    }
}

/// What spans of a route are called.
pub(super) fn decorate(route: &mut Route, operation: &str) {
    route.decorator = Some(Decorator {
        operation: operation.to_owned(),
        ..Default::default()
    });
}

fn retry(retries: &Retries, per_try: Option<Duration>) -> Option<RetryPolicy> {
    // The limit of a try stands in the policy of retries, also where there are none.
    if retries.on.is_empty() {
        return per_try.map(|limit| RetryPolicy {
            num_retries: number(0),
            per_try_timeout: duration(limit),
            ..Default::default()
        });
    }
    let predicate = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(PredicateConfig::TypedConfig(any(&PreviousHostsPredicate {}))),
    };
    let on: Vec<&str> = retries.on.iter().copied().map(RetryOn::as_str).collect();
    Some(RetryPolicy {
        retry_on: on.join(","),
        num_retries: number(retries.limit),
        per_try_timeout: per_try.and_then(duration),
        retry_back_off: Some(RetryBackOff {
            base_interval: duration(BACK_OFF_MIN),
            max_interval: duration(BACK_OFF_MAX),
        }),
        retry_host_predicate: vec![predicate],
        host_selection_retry_max_attempts: OTHER_ENDPOINT_ATTEMPTS,
        ..Default::default()
    })
}

fn hash(on: &HashOn) -> HashPolicy {
    let specifier = match on {
        HashOn::Cookie { name, ttl } => PolicySpecifier::Cookie(Cookie {
            name: name.clone(),
            ttl: ttl.and_then(duration),
            ..Default::default()
        }),
        HashOn::Header(name) => PolicySpecifier::Header(Header {
            header_name: name.clone(),
            ..Default::default()
        }),
    };
    HashPolicy {
        policy_specifier: Some(specifier),
        ..Default::default()
    }
}

fn fault_config(fault: &Fault) -> Any {
    any(&HttpFault {
        delay: fault.delay.map(|(time, share)| FaultDelay {
            percentage: Some(fraction(share)),
            fault_delay_secifier: duration(time).map(FaultDelaySecifier::FixedDelay),
        }),
        abort: fault.abort.map(|(status, share)| FaultAbort {
            percentage: Some(fraction(share)),
            error_type: Some(ErrorType::HttpStatus(u32::from(status))),
            ..Default::default()
        }),
        // Without a percentage Envoy would limit nothing.
        response_rate_limit: fault.rate_kib_s.map(|rate| FaultRateLimit {
            percentage: Some(fraction(Percent::ALL)),
            limit_type: Some(LimitType::FixedLimit(FixedLimit {
                limit_kbps: u64::from(rate),
            })),
        }),
        ..Default::default()
    })
}

fn fraction(share: Percent) -> FractionalPercent {
    FractionalPercent {
        numerator: share.millionths(),
        denominator: DenominatorType::Million as i32,
    }
}
