//! `envoy.extensions.filters.http.fault.v3.HTTPFault`, and the percentages of others.

use std::collections::HashMap;
use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as common;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as pb;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf;

use super::{Decoded, Within, message_name, nothing_left, optional_duration, reject, unpack};
use crate::config::fault::{Abort, Fault, Percent};

/// The filter's name, which is the key of what routes say to it.
pub(super) const FILTER: &str = "envoy.filters.http.fault";
/// The message's name.
pub(super) const MESSAGE: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
const ROUTE_CONFIG: &str = "envoy.config.route.v3.FilterConfig";

/// What one place of a route configuration says to the fault filter; `None`: nothing.
#[derive(Default, Clone)]
pub(super) struct PerFilter(pub Option<Arc<Fault>>);

impl PerFilter {
    /// What is said here, else `outer`.
    pub fn or(self, outer: &Self) -> Self {
        Self(self.0.or_else(|| outer.0.clone()))
    }
}

/// `typed_per_filter_config`.
pub(super) fn per_filter(configs: HashMap<String, protobuf::Any>) -> Decoded<PerFilter> {
    let mut found = PerFilter::default();
    for (name, any) in configs {
        let at = format!("typed_per_filter_config[{name:?}]");
        if name != FILTER {
            return reject(at, format!("is of an unknown filter; known is {FILTER}"));
        }
        found = one_filter(any).within(at)?;
    }
    Ok(found)
}

fn one_filter(any: protobuf::Any) -> Decoded<PerFilter> {
    match message_name(&any.type_url) {
        MESSAGE => Ok(PerFilter(Some(Arc::new(unpack(&any).and_then(fault)?)))),
        ROUTE_CONFIG => {
            let mut config: FilterConfig = unpack(&any)?;
            let disabled = take(&mut config.disabled);
            let inner = config.config.take();
            config.is_optional = false;
            nothing_left(&config)?;
            match inner {
                _ if disabled => Ok(PerFilter(Some(Arc::default()))),
                Some(inner) => one_filter(inner).within("config"),
                None => reject("config", "is missing"),
            }
        }
        other => reject("", format!("{other} is unknown; known is HTTPFault for {FILTER}")),
    }
}

/// The filter's own configuration, or that of a route.
pub(super) fn fault(mut rest: pb::HttpFault) -> Decoded<Fault> {
    let fault = Fault {
        delay: rest.delay.take().map(delay).transpose().within("delay")?,
        abort: rest.abort.take().map(abort).transpose().within("abort")?,
        limit: rest
            .response_rate_limit
            .take()
            .map(limit)
            .transpose()
            .within("response_rate_limit")?,
    };
    // Figures by the client's cluster are not kept.
    rest.disable_downstream_cluster_stats = false;
    nothing_left(&rest)?;
    Ok(fault)
}

fn delay(mut rest: common::FaultDelay) -> Decoded<(std::time::Duration, Percent)> {
    use common::fault_delay::FaultDelaySecifier;
    let share = percent(rest.percentage.take()).within("percentage")?;
    let time = match rest.fault_delay_secifier.take() {
        Some(FaultDelaySecifier::FixedDelay(time)) => {
            optional_duration("fixed_delay", &Some(time))?.filter(|d| !d.is_zero())
        }
        Some(FaultDelaySecifier::HeaderDelay(_)) => {
            return reject("header_delay", "is not supported by this proxy; use fixed_delay");
        }
        None => None,
    };
    nothing_left(&rest)?;
    match time {
        Some(time) => Ok((time, share)),
        None => reject("fixed_delay", "is missing; it must be above 0 s"),
    }
}

fn abort(mut rest: pb::FaultAbort) -> Decoded<(Abort, Percent)> {
    use pb::fault_abort::ErrorType;
    let share = percent(rest.percentage.take()).within("percentage")?;
    let abort = match rest.error_type.take() {
        Some(ErrorType::HttpStatus(status)) => match u16::try_from(status) {
            Ok(status @ 200..=599) => Abort::Http(status),
            _ => {
                return reject(
                    "http_status",
                    format!("{status} is no status; right would be 200 to 599"),
                );
            }
        },
        Some(ErrorType::GrpcStatus(status)) => match u16::try_from(status) {
            Ok(status @ 0..=16) => Abort::Grpc(status),
            _ => return reject("grpc_status", format!("{status} is no status; right would be 0 to 16")),
        },
        Some(ErrorType::HeaderAbort(_)) => {
            return reject(
                "header_abort",
                "is not supported by this proxy; use http_status or grpc_status",
            );
        }
        None => return reject("http_status", "is missing; http_status or grpc_status must be set"),
    };
    nothing_left(&rest)?;
    Ok((abort, share))
}

fn limit(mut rest: common::FaultRateLimit) -> Decoded<(u64, Percent)> {
    use common::fault_rate_limit::LimitType;
    let share = percent(rest.percentage.take()).within("percentage")?;
    let rate = match rest.limit_type.take() {
        Some(LimitType::FixedLimit(fixed)) => fixed.limit_kbps,
        Some(LimitType::HeaderLimit(_)) => {
            return reject("header_limit", "is not supported by this proxy; use fixed_limit");
        }
        None => return reject("fixed_limit", "is missing"),
    };
    nothing_left(&rest)?;
    match rate.checked_mul(1024) {
        Some(rate) if rate > 0 => Ok((rate, share)),
        _ => reject(
            "fixed_limit.limit_kbps",
            format!("{rate} is no rate; it must be at least 1 KiB/s"),
        ),
    }
}

/// A share of requests, in Envoy's forms; nothing is none of them.
pub(super) fn percent(value: Option<FractionalPercent>) -> Decoded<Percent> {
    use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
    let Some(value) = value else {
        return Ok(Percent::default());
    };
    let factor = match DenominatorType::try_from(value.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return reject("denominator", "must be HUNDRED, TEN_THOUSAND or MILLION"),
    };
    // More than all are all.
    Ok(Percent(value.numerator.saturating_mul(factor)).min(Percent::ALL))
}

/// A share whose run-time key nobody sets: the default.
pub(super) fn runtime_percent(mut rest: RuntimeFractionalPercent) -> Decoded<Percent> {
    rest.runtime_key.clear();
    let share = percent(rest.default_value.take()).within("default_value")?;
    nothing_left(&rest)?;
    Ok(share)
}
