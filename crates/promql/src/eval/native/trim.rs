//! A native histogram without the observations above, or below, a value.

use super::{Bucket, Pairs, from_pairs, is_custom, lower, pairs, statistics::share, upper};
use weir_series::{Buckets, Histogram};

/// Which observations stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Below,
    Above,
}

/// What stays of a bucket: how many observations, and the value that each is taken for in the sum.
type Part = (f64, f64);

/// The histogram cut off at a value. What is known of its sum is only that of the buckets' middles, once anything goes.
pub(crate) fn trim(h: &Histogram, at: f64, keep: Keep) -> Histogram {
    let (mut count, mut sum, mut cut) = (0.0, 0.0, false);
    let mut side = |buckets: &Buckets, negative: bool| -> Pairs {
        let part = |(index, all): (i32, f64)| {
            let (low, high) = (lower(h, index), upper(h, index));
            let (lower, upper) = if negative { (-high, -low) } else { (low, high) };
            let bucket = Bucket {
                lower,
                upper,
                count: all,
            };
            let (kept, place) = part_of_bucket(h, &bucket, at, keep);
            cut |= kept != all;
            count += kept;
            sum += place * kept;
            (index, kept)
        };
        pairs(buckets).into_iter().map(part).collect()
    };
    let (positive, negative) = (side(&h.positive, false), side(&h.negative, true));
    let mut zero_count = h.zero_count;
    if zero_count > 0.0 {
        let (kept, place) = part_of_zero(h, !positive.is_empty(), !negative.is_empty(), at, keep);
        cut |= kept != zero_count;
        count += kept;
        sum += place * kept;
        zero_count = kept;
    }
    if !cut {
        return h.clone();
    }
    Histogram {
        count,
        sum,
        zero_count,
        positive: from_pairs(positive),
        negative: from_pairs(negative),
        ..h.clone()
    }
}

fn part_of_bucket(h: &Histogram, b: &Bucket, at: f64, keep: Keep) -> Part {
    let (whole, some) = match keep {
        Keep::Below => (b.upper <= at, b.lower < at),
        Keep::Above => (b.lower >= at, b.upper > at),
    };
    if whole {
        return (b.count, middle(h, b.lower, b.upper));
    }
    if !some {
        return (0.0, 0.0);
    }
    if b.lower == f64::NEG_INFINITY {
        // Only of custom bounds. It is taken to begin at zero where it does not end below.
        return match keep {
            Keep::Below if b.upper <= 0.0 => (b.count, at),
            Keep::Below if at > 0.0 && b.upper.is_finite() => (b.count * at / b.upper, at / 2.0),
            Keep::Above if at >= 0.0 && b.upper.is_finite() => (b.count * (1.0 - at / b.upper), (at + b.upper) / 2.0),
            _ => (0.0, 0.0),
        };
    }
    if b.upper == f64::INFINITY {
        // How far up its observations lie nobody knows.
        return match keep {
            Keep::Below => (0.0, 0.0),
            Keep::Above => (b.count, at),
        };
    }
    let below = b.count * share(h, b, at);
    match keep {
        Keep::Below => (below, middle(h, b.lower, at)),
        Keep::Above => (b.count - below, middle(h, at, b.upper)),
    }
}

/// The zero bucket; beside buckets of one sign only it ends at zero on the other side.
fn part_of_zero(h: &Histogram, positive: bool, negative: bool, at: f64, keep: Keep) -> Part {
    let lower = if positive && !negative { 0.0 } else { -h.zero_threshold };
    let upper = if negative && !positive { 0.0 } else { h.zero_threshold };
    let (from, to) = match keep {
        Keep::Below => (lower, at.min(upper)),
        Keep::Above => (at.max(lower), upper),
    };
    if at.is_nan() || from > to || (from == to && lower != upper) {
        return (0.0, 0.0);
    }
    let part = if lower == upper {
        1.0
    } else {
        (to - from) / (upper - lower)
    };
    (h.zero_count * part, (from + to) / 2.0)
}

/// What an observation between two values is taken for.
fn middle(h: &Histogram, lower: f64, upper: f64) -> f64 {
    match (lower.is_finite(), upper.is_finite()) {
        (true, true) if is_custom(h) => (lower + upper) / 2.0,
        (true, true) => (lower * upper).abs().sqrt().copysign(lower + upper),
        (false, true) if upper > 0.0 => upper / 2.0,
        (false, true) => upper,
        (true, false) => lower,
        (false, false) => 0.0,
    }
}
