//! Sums, differences and multiples of native histograms.

use super::{Pairs, at_bounds, at_schema, common_bounds, from_pairs, is_custom, pairs, with_zero_threshold};
use std::borrow::Cow;
use weir_series::{Buckets, Histogram, ResetHint};

/// Exponential and custom buckets know no common resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incompatible;

/// A result, and whether custom bounds had to be cut down to those that both sides have.
#[derive(Debug)]
pub(crate) struct Combined {
    pub histogram: Histogram,
    pub reconciled: bool,
    /// One side said that there was a counter reset, the other that there was none.
    pub conflicting_resets: bool,
}

pub(crate) fn add(a: &Histogram, b: &Histogram) -> Result<Combined, Incompatible> {
    let mut combined = combine(a, b, 1.0)?;
    combined.conflicting_resets = matches!(
        (a.reset, b.reset),
        (ResetHint::Reset, ResetHint::NotReset) | (ResetHint::NotReset, ResetHint::Reset)
    );
    combined.histogram.reset = match (a.reset, b.reset) {
        (a, b) if a == b => a,
        (ResetHint::Gauge, _) | (_, ResetHint::Gauge) => ResetHint::Gauge,
        _ => ResetHint::Unknown,
    };
    Ok(combined)
}

/// A difference is a gauge, whatever its parts were.
pub(crate) fn subtract(a: &Histogram, b: &Histogram) -> Result<Combined, Incompatible> {
    let mut combined = combine(a, b, -1.0)?;
    combined.histogram.reset = ResetHint::Gauge;
    Ok(combined)
}

/// Every count, and the sum, times a number.
pub(crate) fn scale(h: &Histogram, factor: f64) -> Histogram {
    let mut out = h.clone();
    let counts = |b: &mut Buckets| b.counts.iter_mut().for_each(|c| *c *= factor);
    counts(&mut out.positive);
    counts(&mut out.negative);
    out.zero_count *= factor;
    out.count *= factor;
    out.sum *= factor;
    if factor < 0.0 {
        out.reset = ResetHint::Gauge;
    }
    out
}

/// Not so of NaN, which no widening would make equal to anything.
fn differ(a: f64, b: f64) -> bool {
    a.partial_cmp(&b).is_some_and(|order| order.is_ne())
}

fn combine(a: &Histogram, b: &Histogram, sign: f64) -> Result<Combined, Incompatible> {
    if is_custom(a) != is_custom(b) {
        return Err(Incompatible);
    }
    let (mut left, mut right) = (Cow::Borrowed(a), Cow::Borrowed(b));
    let mut reconciled = false;
    if is_custom(a) {
        if a.custom_values != b.custom_values {
            let bounds = common_bounds(&a.custom_values, &b.custom_values);
            (left, right) = (Cow::Owned(at_bounds(a, &bounds)), Cow::Owned(at_bounds(b, &bounds)));
            reconciled = true;
        }
    } else {
        // Widening one zero bucket may cut a bucket of the other and widen that one further.
        while differ(left.zero_threshold, right.zero_threshold) {
            let threshold = left.zero_threshold.max(right.zero_threshold);
            left = Cow::Owned(with_zero_threshold(&left, threshold));
            right = Cow::Owned(with_zero_threshold(&right, threshold));
        }
        let schema = a.schema.min(b.schema);
        if left.schema != schema {
            left = Cow::Owned(at_schema(&left, schema));
        }
        if right.schema != schema {
            right = Cow::Owned(at_schema(&right, schema));
        }
    }
    let histogram = Histogram {
        schema: left.schema,
        zero_threshold: left.zero_threshold,
        zero_count: left.zero_count + sign * right.zero_count,
        count: left.count + sign * right.count,
        sum: left.sum + sign * right.sum,
        positive: merged(&left.positive, &right.positive, sign),
        negative: merged(&left.negative, &right.negative, sign),
        custom_values: left.custom_values.clone(),
        reset: ResetHint::Unknown,
    };
    Ok(Combined {
        histogram,
        reconciled,
        conflicting_resets: false,
    })
}

fn merged(a: &Buckets, b: &Buckets, sign: f64) -> Buckets {
    if a.spans == b.spans && a.counts.len() == b.counts.len() && sign > 0.0 {
        // The usual case by far: histograms of one metric.
        return Buckets {
            spans: a.spans.clone(),
            counts: a.counts.iter().zip(&b.counts).map(|(a, b)| a + b).collect(),
        };
    }
    let mut all: Pairs = pairs(a);
    all.extend(pairs(b).into_iter().map(|(i, c)| (i, sign * c)));
    all.sort_by_key(|(i, _)| *i);
    from_pairs(all)
}
