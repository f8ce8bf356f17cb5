//! `histogram_quantile` over classic buckets.

use super::{Column, Evaluator, Grid, Output};
use crate::engine::Error;
use promql_parser::parser::Call;
use rapidhash::RapidHashMap;
use weir_series::{Labels, names};

/// Relative differences of counts below this are noise of floating-point arithmetic.
const NOISE: f64 = 1e-12;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    upper: f64,
    count: f64,
}

impl Evaluator<'_> {
    pub fn histogram_quantile(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let quantiles = self.scalar(super::call::argument(call, 0)?, grid)?;
        let columns = self.vector(super::call::argument(call, 1)?, grid)?;
        // Histograms in the order in which they were first seen; series without a readable `le` are no buckets.
        let mut index: RapidHashMap<Labels, usize> = RapidHashMap::default();
        let mut histograms: Vec<(Labels, Vec<(f64, &Column)>)> = Vec::new();
        for column in &columns {
            let Some(upper) = bound(column.labels.get(names::LE)) else {
                continue;
            };
            let labels = column
                .labels
                .filter(|l| *l.name != *names::LE && *l.name != *names::METRIC_NAME);
            let at = *index.entry(labels).or_insert_with_key(|labels| {
                histograms.push((labels.clone(), Vec::new()));
                histograms.len() - 1
            });
            histograms[at].1.push((upper, column));
        }
        let mut out = Vec::with_capacity(histograms.len());
        for (labels, mut bounds) in histograms {
            self.check_time()?;
            bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut column = Column::absent(labels, grid);
            let mut buckets = Vec::with_capacity(bounds.len());
            for (step, value) in column.values.iter_mut().enumerate() {
                buckets.clear();
                let present = bounds.iter().filter(|(_, c)| c.is_present(step));
                buckets.extend(present.map(|(upper, c)| Bucket {
                    upper: *upper,
                    count: c.values[step],
                }));
                if !buckets.is_empty() {
                    *value = quantile(quantiles[step], &mut buckets);
                }
            }
            if !column.is_empty() {
                out.push(column);
            }
        }
        Ok(Output::Vector(out))
    }
}

fn bound(le: &str) -> Option<f64> {
    match le {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        le => le.parse().ok(),
    }
}

/// The quantile by linear interpolation inside the bucket that holds it. Buckets are cumulative and sorted.
fn quantile(q: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    join_equal(buckets);
    make_monotonic(buckets);
    let Some((last, finite)) = buckets.split_last() else {
        return f64::NAN;
    };
    if last.upper != f64::INFINITY || finite.is_empty() || last.count == 0.0 || last.count.is_nan() {
        return f64::NAN;
    }
    let rank = q * last.count;
    let at = finite.partition_point(|b| b.count < rank);
    let Some(bucket) = finite.get(at) else {
        // Beyond the last finite bound nothing is known but that bound.
        return finite[finite.len() - 1].upper;
    };
    if at == 0 && bucket.upper <= 0.0 {
        return bucket.upper;
    }
    let below = at
        .checked_sub(1)
        .map_or(Bucket { upper: 0.0, count: 0.0 }, |i| finite[i]);
    below.upper + (bucket.upper - below.upper) * ((rank - below.count) / (bucket.count - below.count))
}

fn join_equal(buckets: &mut Vec<Bucket>) {
    buckets.dedup_by(|later, first| {
        let same = later.upper == first.upper;
        if same {
            first.count += later.count;
        }
        same
    });
}

/// Scrapes are not atomic and floats are not exact: a count never falls below that of a smaller bucket.
fn make_monotonic(buckets: &mut [Bucket]) {
    let mut highest = f64::NEG_INFINITY;
    for bucket in buckets {
        let near = (bucket.count - highest).abs() < NOISE * highest.abs().max(bucket.count.abs());
        if bucket.count < highest || near {
            bucket.count = highest;
        } else {
            highest = bucket.count;
        }
    }
}
