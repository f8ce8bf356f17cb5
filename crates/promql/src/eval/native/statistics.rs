//! What a native histogram says about its observations: quantiles, fractions, mean and variance.
//!
//! Inside an exponential bucket observations are taken as spread evenly on a logarithmic scale, in the zero bucket and in
//! custom buckets on a linear one.

use super::{Bucket, buckets, is_custom};
use weir_series::Histogram;

pub(crate) fn mean(h: &Histogram) -> f64 {
    h.sum / h.count
}

/// Of the observations, each taken as its bucket's middle.
pub(crate) fn variance(h: &Histogram) -> f64 {
    let mean = mean(h);
    let squares = buckets(h).into_iter().map(|b| {
        let middle = if is_custom(h) {
            (b.lower + b.upper) / 2.0
        } else if b.lower <= 0.0 && b.upper >= 0.0 {
            0.0
        } else {
            (b.lower * b.upper).sqrt().copysign(b.upper)
        };
        b.count * (middle - mean).powi(2)
    });
    squares.collect::<crate::eval::math::Sum>().total() / h.count
}

/// A zero bucket beside buckets of one sign only ends at zero on the other side.
fn narrowed(h: &Histogram, mut b: Bucket) -> Bucket {
    if !is_custom(h) && b.lower < 0.0 && b.upper > 0.0 {
        let (negative, positive) = (!h.negative.counts.is_empty(), !h.positive.counts.is_empty());
        if positive && !negative {
            b.lower = 0.0;
        }
        if negative && !positive {
            b.upper = 0.0;
        }
    }
    b
}

fn is_linear(h: &Histogram, b: &Bucket) -> bool {
    is_custom(h) || (b.lower <= 0.0 && b.upper >= 0.0)
}

/// The q-quantile. Observations of NaN (then the sum is NaN) lie above all others.
pub(crate) fn quantile(q: f64, h: &Histogram) -> f64 {
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    if h.count == 0.0 || q.is_nan() {
        return f64::NAN;
    }
    // From the nearer end, so that less is added up; but NaN is at no end.
    let forwards = h.sum.is_nan() || q < 0.5;
    let mut all = buckets(h);
    if !forwards {
        all.reverse();
    }
    let mut rank = if forwards { q * h.count } else { (1.0 - q) * h.count };
    let (mut found, mut count) = (None, 0.0);
    for bucket in all {
        count += bucket.count;
        found = Some(bucket);
        if count >= rank {
            break;
        }
    }
    let Some(bucket) = found else {
        return f64::NAN;
    };
    let mut b = narrowed(h, bucket);
    if is_custom(h) {
        if b.lower == f64::NEG_INFINITY {
            if b.upper <= 0.0 {
                return b.upper;
            }
            b.lower = 0.0;
        } else if b.upper == f64::INFINITY {
            return b.lower;
        }
    }
    let count = count.min(h.count);
    if count < rank {
        return if h.sum.is_nan() { f64::NAN } else { b.upper };
    }
    rank = if forwards {
        rank - (count - b.count)
    } else {
        count - rank
    };
    let fraction = rank / b.count;
    if is_linear(h, &b) {
        return b.lower + (b.upper - b.lower) * fraction;
    }
    let (low, high) = (b.lower.abs().log2(), b.upper.abs().log2());
    if b.lower > 0.0 {
        (low + (high - low) * fraction).exp2()
    } else {
        -(high + (low - high) * (1.0 - fraction)).exp2()
    }
}

/// The share of observations between two values.
pub(crate) fn fraction(lower: f64, upper: f64, h: &Histogram) -> f64 {
    if h.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    (rank_of(upper, h) - rank_of(lower, h)) / h.count
}

/// How many observations lie below a value.
fn rank_of(value: f64, h: &Histogram) -> f64 {
    let mut rank = 0.0;
    for bucket in buckets(h) {
        let mut b = narrowed(h, bucket);
        if is_custom(h) && b.lower == f64::NEG_INFINITY && b.upper > 0.0 {
            b.lower = 0.0;
        }
        if b.lower >= value {
            return f64::min(rank, h.count);
        }
        if b.upper > value {
            return f64::min(rank + b.count * share(h, &b, value), h.count);
        }
        rank += b.count;
    }
    // Of observations of NaN none lies below anything.
    if h.sum.is_nan() { rank } else { h.count }
}

/// The share of a bucket's observations below a value within it.
pub(super) fn share(h: &Histogram, b: &Bucket, value: f64) -> f64 {
    if is_linear(h, b) {
        return if b.lower == f64::NEG_INFINITY || b.upper == f64::INFINITY {
            // Nothing is known about where in such a bucket its observations lie.
            if b.lower == f64::NEG_INFINITY { 1.0 } else { 0.0 }
        } else {
            (value - b.lower) / (b.upper - b.lower)
        };
    }
    let (low, high, at) = (b.lower.abs().log2(), b.upper.abs().log2(), value.abs().log2());
    if value > 0.0 {
        (at - low) / (high - low)
    } else {
        1.0 - (at - high) / (low - high)
    }
}
