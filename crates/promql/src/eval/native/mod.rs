//! Native histograms as values: their buckets, their resolution, their zero bucket, what they are as text.
//!
//! Everything works on pairs of (index, count) of the populated buckets; spans are only read and written at the edges.

mod arithmetic;
mod reset;
mod statistics;
mod text;
mod trim;

pub(crate) use arithmetic::{Combined, Incompatible, add, scale, subtract};
pub(crate) use reset::is_reset;
pub(crate) use statistics::{fraction, mean, quantile, variance};
pub use text::{Edge, edges, text};
pub(crate) use trim::{Keep, trim};

use weir_series::{Buckets, CUSTOM_BUCKETS_SCHEMA, Histogram, Span};

/// Populated buckets of one sign, ascending by index.
type Pairs = Vec<(i32, f64)>;

/// A bucket with its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bucket {
    pub lower: f64,
    pub upper: f64,
    pub count: f64,
}

pub(crate) fn is_custom(h: &Histogram) -> bool {
    h.schema == CUSTOM_BUCKETS_SCHEMA
}

fn pairs(buckets: &Buckets) -> Pairs {
    let mut out = Vec::with_capacity(buckets.counts.len());
    let (mut counts, mut index) = (buckets.counts.iter(), 0i32);
    for span in &buckets.spans {
        index = index.saturating_add(span.offset);
        for count in counts.by_ref().take(span.length as usize) {
            if *count != 0.0 {
                out.push((index, *count));
            }
            index = index.saturating_add(1);
        }
    }
    out
}

/// Equal indexes join; empty buckets drop out.
fn from_pairs(pairs: impl IntoIterator<Item = (i32, f64)>) -> Buckets {
    let mut joined: Pairs = Vec::new();
    for (index, count) in pairs {
        match joined.last_mut() {
            Some((last, sum)) if *last == index => *sum += count,
            _ => joined.push((index, count)),
        }
    }
    let mut out = Buckets::default();
    let mut end = 0i32;
    for (index, count) in joined.into_iter().filter(|(_, count)| *count != 0.0) {
        match out.spans.last_mut() {
            Some(span) if index == end => span.length += 1,
            _ => out.spans.push(Span {
                offset: index.saturating_sub(end),
                length: 1,
            }),
        }
        out.counts.push(count);
        end = index.saturating_add(1);
    }
    out
}

/// The upper bound of an exponential bucket. The last finite one ends at the largest number.
fn exponential_upper(index: i32, schema: i8) -> f64 {
    let index = i64::from(index);
    let (fraction, exponent) = if schema < 0 {
        (1.0, index << u32::from(schema.unsigned_abs()).min(31))
    } else {
        let parts = 1i64 << schema.min(8);
        (
            ((index & (parts - 1)) as f64 / parts as f64).exp2(),
            index >> schema.min(8),
        )
    };
    match exponent {
        1024 if fraction == 1.0 => f64::MAX,
        e if e >= 1024 => f64::INFINITY,
        e if e < -1100 => 0.0,
        // Two steps reach the subnormal numbers.
        e => fraction * 2f64.powi((e / 2) as i32) * 2f64.powi((e - e / 2) as i32),
    }
}

fn upper(h: &Histogram, index: i32) -> f64 {
    if !is_custom(h) {
        return exponential_upper(index, h.schema);
    }
    let at = usize::try_from(index).unwrap_or(0);
    h.custom_values.get(at).copied().unwrap_or(f64::INFINITY)
}

fn lower(h: &Histogram, index: i32) -> f64 {
    match (is_custom(h), index) {
        (true, ..=0) => f64::NEG_INFINITY,
        _ => upper(h, index.saturating_sub(1)),
    }
}

/// All populated buckets, ascending.
pub(crate) fn buckets(h: &Histogram) -> Vec<Bucket> {
    let of = |(index, count): &(i32, f64)| Bucket {
        lower: lower(h, *index),
        upper: upper(h, *index),
        count: *count,
    };
    let mut out: Vec<Bucket> = Vec::new();
    if !is_custom(h) {
        out.extend(pairs(&h.negative).iter().rev().map(of).map(|b| Bucket {
            lower: -b.upper,
            upper: -b.lower,
            count: b.count,
        }));
        if h.zero_count != 0.0 {
            out.push(Bucket {
                lower: -h.zero_threshold,
                upper: h.zero_threshold,
                count: h.zero_count,
            });
        }
    }
    out.extend(pairs(&h.positive).iter().map(of));
    out
}

/// With no more than this resolution.
fn at_schema(h: &Histogram, schema: i8) -> Histogram {
    let mut out = h.clone();
    if is_custom(h) || h.schema <= schema {
        return out;
    }
    let shift = u32::from(h.schema.abs_diff(schema)).min(31);
    let reduce = |b: &Buckets| {
        from_pairs(
            pairs(b)
                .into_iter()
                .map(|(i, c)| ((i.saturating_sub(1) >> shift) + 1, c)),
        )
    };
    out.positive = reduce(&h.positive);
    out.negative = reduce(&h.negative);
    out.schema = schema;
    out
}

/// The zero bucket widened to at least `threshold`, and further to the end of a populated bucket that it would cut.
fn with_zero_threshold(h: &Histogram, threshold: f64) -> Histogram {
    let mut out = h.clone();
    if threshold <= h.zero_threshold {
        return out;
    }
    let (positive, negative) = (pairs(&h.positive), pairs(&h.negative));
    let mut limit = threshold;
    let all = || positive.iter().chain(&negative);
    while let Some((index, _)) = all().find(|(i, _)| lower(h, *i) < limit && upper(h, *i) > limit) {
        limit = upper(h, *index);
    }
    let inside = |(i, _): &(i32, f64)| upper(h, *i) <= limit;
    out.zero_count += all().filter(|p| inside(p)).map(|(_, count)| count).sum::<f64>();
    out.positive = from_pairs(positive.iter().copied().filter(|p| !inside(p)));
    out.negative = from_pairs(negative.iter().copied().filter(|p| !inside(p)));
    out.zero_threshold = limit;
    out
}

/// Custom buckets joined to coarser bounds, which all are among the histogram's own.
fn at_bounds(h: &Histogram, bounds: &[f64]) -> Histogram {
    let mut out = h.clone();
    let target = |index: i32| bounds.partition_point(|b| *b < upper(h, index)) as i32;
    out.positive = from_pairs(pairs(&h.positive).into_iter().map(|(i, c)| (target(i), c)));
    out.custom_values = bounds.into();
    out
}

/// The bounds that both have.
fn common_bounds(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().copied().filter(|x| b.contains(x)).collect()
}

/// The same distribution, whatever the spans look like.
pub(crate) fn equal(a: &Histogram, b: &Histogram) -> bool {
    a.schema == b.schema
        && a.count == b.count
        && (a.sum == b.sum || (a.sum.is_nan() && b.sum.is_nan()))
        && a.zero_threshold == b.zero_threshold
        && a.zero_count == b.zero_count
        && a.custom_values == b.custom_values
        && pairs(&a.positive) == pairs(&b.positive)
        && pairs(&a.negative) == pairs(&b.negative)
}

#[cfg(test)]
mod tests;
