//! A native histogram as text, and its buckets with their bounds as the API shows them.

use super::{buckets, is_custom};
use crate::format::value;
use std::fmt::Write;
use weir_series::Histogram;

/// Which bounds belong to a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// `(lower, upper]`
    UpperOnly,
    /// `[lower, upper)`
    LowerOnly,
    /// `[lower, upper]`
    Both,
}

impl Edge {
    /// The number that stands for it in Prometheus's API.
    pub fn code(self) -> u8 {
        match self {
            Edge::UpperOnly => 0,
            Edge::LowerOnly => 1,
            Edge::Both => 3,
        }
    }
}

/// Populated buckets in ascending order: which bounds belong to it, lower, upper, count.
pub fn edges(h: &Histogram) -> Vec<(Edge, f64, f64, f64)> {
    let edge = |lower: f64, upper: f64| {
        if is_custom(h) {
            if lower == f64::NEG_INFINITY {
                Edge::Both
            } else {
                Edge::UpperOnly
            }
        } else if lower < 0.0 && upper > 0.0 || (lower == 0.0 && upper == 0.0) {
            Edge::Both
        } else if upper <= 0.0 {
            Edge::LowerOnly
        } else {
            Edge::UpperOnly
        }
    };
    let with_edge = |b: super::Bucket| (edge(b.lower, b.upper), b.lower, b.upper, b.count);
    buckets(h).into_iter().map(with_edge).collect()
}

/// `{count:3, sum:4.5, (1,2]:3}`, which is how `count_values` names a histogram.
pub fn text(h: &Histogram) -> String {
    let mut out = format!("{{count:{}, sum:{}", value(h.count), value(h.sum));
    for (edge, lower, upper, count) in edges(h) {
        let (open, close) = match edge {
            Edge::UpperOnly => ('(', ']'),
            Edge::LowerOnly => ('[', ')'),
            Edge::Both => ('[', ']'),
        };
        // Writing to a String cannot fail.
        let _ = write!(out, ", {open}{},{}{close}:{}", value(lower), value(upper), value(count));
    }
    out.push('}');
    out
}
