//! `envoy.config.route.v3.RetryPolicy`.

use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as pb;

use super::{Decoded, Within, nothing_left, optional_duration, reject};
use crate::config::retry::{BackOff, RetryOn, RetryPolicy};

const KNOWN: &str = "connect-failure, refused-stream, reset-before-request, reset, 5xx, gateway-error, retriable-4xx, \
                     retriable-status-codes, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable";

/// Decodes a retry policy.
pub(super) fn retry_policy(mut rest: pb::RetryPolicy) -> Decoded<RetryPolicy> {
    let mut on = RetryOn::default();
    let conditions = take(&mut rest.retry_on);
    for condition in conditions.split(',').map(str::trim).filter(|c| !c.is_empty()) {
        match condition {
            "connect-failure" => on.connect_failure = true,
            "reset-before-request" => on.reset_before_request = true,
            "refused-stream" => on.refused_stream = true,
            "reset" => broken(&mut on),
            "5xx" => {
                on.server_error = true;
                broken(&mut on);
            }
            "gateway-error" => {
                on.gateway_error = true;
                broken(&mut on);
            }
            "retriable-4xx" => on.conflict = true,
            "retriable-status-codes" => on.statuses = true,
            // By their numbers in gRPC.
            "cancelled" => on.grpc |= 1 << 1,
            "deadline-exceeded" => on.grpc |= 1 << 4,
            "resource-exhausted" => on.grpc |= 1 << 8,
            "internal" => on.grpc |= 1 << 13,
            "unavailable" => on.grpc |= 1 << 14,
            other => return reject("retry_on", format!("{other:?} is unknown; known are {KNOWN}")),
        }
    }
    let mut statuses = Vec::new();
    for status in take(&mut rest.retriable_status_codes) {
        match u16::try_from(status) {
            Ok(status) if (100..600).contains(&status) => statuses.push(status),
            _ => return reject("retriable_status_codes", format!("{status} is no status")),
        }
    }
    // Another endpoint than the last one is taken anyway.
    rest.retry_host_predicate.clear();
    rest.host_selection_retry_max_attempts = 0;
    let limit = rest.num_retries.take().map_or(1, |n| n.value);
    let per_try = optional_duration("per_try_timeout", &rest.per_try_timeout.take())?.filter(|d| !d.is_zero());
    let back_off = match rest.retry_back_off.take() {
        None => BackOff::default(),
        Some(back_off) => self::back_off(back_off).within("retry_back_off")?,
    };
    nothing_left(&rest)?;
    Ok(RetryPolicy {
        on,
        limit,
        per_try,
        back_off,
        statuses: statuses.into(),
    })
}

/// A connection that breaks at whatever moment.
fn broken(on: &mut RetryOn) {
    on.reset = true;
    on.connect_failure = true;
    on.reset_before_request = true;
    on.refused_stream = true;
}

fn back_off(mut rest: pb::retry_policy::RetryBackOff) -> Decoded<BackOff> {
    let Some(base) = optional_duration("base_interval", &rest.base_interval.take())? else {
        return reject("base_interval", "is missing");
    };
    let max = optional_duration("max_interval", &rest.max_interval.take())?;
    if base < Duration::from_millis(1) {
        return reject("base_interval", "must be at least 1 ms");
    }
    if max.is_some_and(|max| max < base) {
        return reject("max_interval", "must be at least base_interval");
    }
    nothing_left(&rest)?;
    Ok(BackOff::new(base, max))
}
