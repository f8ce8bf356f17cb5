//! Native histograms: one sample that holds a whole distribution in buckets of exponentially growing (or explicit) bounds.

use std::sync::Arc;

/// The schema of histograms with explicit bounds (native histograms with custom buckets).
pub const CUSTOM_BUCKETS_SCHEMA: i8 = -53;

/// What a writer knows about counter resets between this histogram and the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResetHint {
    /// Nothing: the reader compares the two.
    #[default]
    Unknown,
    /// There was a reset.
    Reset,
    /// There was none.
    NotReset,
    /// The histogram is a gauge: resets mean nothing.
    Gauge,
}

/// A run of buckets without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Distance to the end of the span before; of the first span the index of its first bucket.
    pub offset: i32,
    /// Number of buckets.
    pub length: u32,
}

/// The populated buckets of one sign.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    /// Where the buckets lie; lengths add up to `counts.len()`.
    pub spans: Vec<Span>,
    /// Observations in each bucket (absolute, not cumulative, not differences).
    pub counts: Vec<f64>,
}

/// A native histogram. Counts are floats, as in evaluation; integers of the wire are exact up to 2^53.
///
/// Bucket `i` of the positive side ends at `2^(i * 2^-schema)` for schemas -4 to 8; with [`CUSTOM_BUCKETS_SCHEMA`] the bounds
/// stand in `custom_values` and only the positive side is used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Resolution: -4 to 8, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i8,
    /// Half the width of the bucket around zero.
    pub zero_threshold: f64,
    /// Observations in that bucket.
    pub zero_count: f64,
    /// All observations, NaN among them.
    pub count: f64,
    /// Their sum. The staleness marker here means that the series has ended.
    pub sum: f64,
    /// Observations above the zero bucket.
    pub positive: Buckets,
    /// Observations below it, by absolute value.
    pub negative: Buckets,
    /// Upper bounds, ascending, without +Inf; empty but for [`CUSTOM_BUCKETS_SCHEMA`].
    pub custom_values: Arc<[f64]>,
    /// Resets since the sample before.
    pub reset: ResetHint,
}

/// A histogram at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSample {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub ts_ms: i64,
    /// Shared, for histograms are large and readers seldom change them.
    pub value: Arc<Histogram>,
}

impl Histogram {
    /// The histogram that marks the end of a series.
    pub fn stale() -> Self {
        Histogram {
            sum: crate::stale_nan(),
            ..Histogram::default()
        }
    }

    /// How many samples it counts for in limits: one a bucket, and one for the rest.
    pub fn weight(&self) -> usize {
        1 + self.positive.counts.len() + self.negative.counts.len()
    }

    /// Whether it marks the end of a series.
    pub fn is_stale(&self) -> bool {
        crate::is_stale(self.sum)
    }
}
