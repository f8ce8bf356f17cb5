//! `filter_metadata["weir.telemetry"]` of a cluster.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Value};

use super::{Decoded, Within, reject};
use crate::config::{Granularity, Telemetry};

const KEY: &str = "weir.telemetry";
/// More buckets than this are refused: each costs a series.
const BUCKETS_MAX: usize = 64;
/// Whole numbers are exact in a double up to here.
const BOUND_MAX: f64 = 9e15;

/// What a cluster's metadata say about telemetry. Metadata of others are none of this proxy's business.
pub(super) fn telemetry(metadata: Option<Metadata>) -> Decoded<Arc<Telemetry>> {
    let usual = Telemetry::usual();
    let Some(fields) = metadata.and_then(|mut m| m.filter_metadata.remove(KEY)) else {
        return Ok(usual);
    };
    let mut telemetry = (*usual).clone();
    let mut fields: Vec<_> = fields.fields.into_iter().collect();
    // One and the same message is always refused with the same words.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, value) in fields {
        let done = match name.as_str() {
            "granularity" => granularity(value).map(|found| telemetry.granularity = found),
            "buckets_ms" => buckets(value).map(|found| telemetry.buckets_ms = found),
            _ => reject("", "is unknown; known are granularity and buckets_ms"),
        };
        done.within(format_args!("filter_metadata[{KEY:?}].{name}"))?;
    }
    if telemetry == *usual {
        return Ok(usual);
    }
    Ok(Arc::new(telemetry))
}

fn granularity(value: Value) -> Decoded<Granularity> {
    match value.kind {
        Some(Kind::StringValue(text)) => match text.as_str() {
            "pod" => Ok(Granularity::Pod),
            "workload" => Ok(Granularity::Workload),
            "service" => Ok(Granularity::Service),
            other => reject("", format!("{other:?} must be pod, workload or service")),
        },
        _ => reject("", "must be a string: pod, workload or service"),
    }
}

fn buckets(value: Value) -> Decoded<Arc<[u64]>> {
    let Some(Kind::ListValue(ListValue { values })) = value.kind else {
        return reject("", "must be a list of numbers");
    };
    if values.is_empty() || values.len() > BUCKETS_MAX {
        return reject("", format!("must be 1 to {BUCKETS_MAX} numbers, not {}", values.len()));
    }
    let mut bounds: Vec<u64> = Vec::with_capacity(values.len());
    for value in values {
        let number = match value.kind {
            Some(Kind::NumberValue(number)) if number.fract() == 0.0 && (1.0..=BOUND_MAX).contains(&number) => number,
            other => return reject("", format!("{other:?} is no whole number of milliseconds above 0")),
        };
        // Whole and in range, as was just checked.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bound = number as u64;
        if bounds.last().is_some_and(|last| *last >= bound) {
            return reject(
                "",
                format!("must increase strictly, but {bound} follows {:?}", bounds.last()),
            );
        }
        bounds.push(bound);
    }
    Ok(bounds.into())
}
