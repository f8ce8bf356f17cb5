//! Functions over histograms: native ones, and classic ones whose buckets are series of their own.

use super::{
    Column, Evaluator, Grid, Output, Point,
    call::argument,
    column::{drop_names, merge},
    native,
};
use crate::engine::Error;
use crate::parse::Call;
use rapidhash::RapidHashMap;
use weir_series::{Histogram, Labels, names};

/// Relative differences of counts below this are noise of floating-point arithmetic.
const NOISE: f64 = 1e-12;

/// A cumulative bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    upper: f64,
    count: f64,
}

/// What is asked of a histogram at one step.
#[derive(Clone, Copy)]
enum Question {
    Quantile(f64),
    Fraction(f64, f64),
}

/// A histogram over all steps.
#[derive(Default)]
struct Source<'a> {
    /// Bounds and series of a classic histogram.
    classic: Vec<(f64, &'a Column)>,
    native: Option<&'a Column>,
}

impl Evaluator<'_> {
    /// histogram_count and its kin; floats are no histograms and drop out.
    pub(super) fn histogram_statistic(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let statistic: fn(&Histogram) -> f64 = match call.func.name {
            "histogram_count" => |h| h.count,
            "histogram_sum" => |h| h.sum,
            "histogram_avg" => native::mean,
            "histogram_stdvar" => native::variance,
            _ => |h| native::variance(h).sqrt(),
        };
        let mut out = Vec::new();
        self.feed(argument(call, 0)?, grid, &mut |budget, identity, cells| {
            if !cells.has_histograms() {
                return Ok(());
            }
            let mut column = Column::absent(identity.labels(), grid);
            for (step, value) in column.cells.values.iter_mut().enumerate() {
                if let Some(h) = cells.histogram(step) {
                    *value = statistic(h);
                }
            }
            budget.charge(column.cells.weight())?;
            out.push(column);
            Ok(())
        })?;
        out.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        out.retain(|c| !c.cells.is_empty());
        Ok(Output::Vector(drop_names(out, &mut self.budget)?))
    }

    /// histogram_quantile(q, v), histogram_quantiles(v, label, q...), histogram_fraction(lower, upper, v)
    pub(super) fn histogram_share(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let name = call.func.name;
        let mut questions: Vec<(Option<String>, Vec<Question>)> = Vec::new();
        let (vector_at, label) = match name {
            "histogram_quantile" => {
                let q = self.quantiles(call, 0, grid)?;
                questions.push((None, q.into_iter().map(Question::Quantile).collect()));
                (1, String::new())
            }
            "histogram_quantiles" => {
                for at in 2..call.args.len() {
                    let q = self.quantiles(call, at, grid)?;
                    let text = q.first().map(|q| crate::format::value(*q));
                    questions.push((text, q.into_iter().map(Question::Quantile).collect()));
                }
                (0, self.text(argument(call, 1)?, grid)?)
            }
            _ => {
                let lower = self.scalar(argument(call, 0)?, grid)?;
                let upper = self.scalar(argument(call, 1)?, grid)?;
                let pairs = lower.into_iter().zip(upper);
                questions.push((None, pairs.map(|(l, u)| Question::Fraction(l, u)).collect()));
                (2, String::new())
            }
        };
        let columns = self.vector(argument(call, vector_at)?, grid)?;
        let sources = self.sources(&columns);
        let mut out = Vec::with_capacity(sources.len() * questions.len());
        for (quantile, questions) in &questions {
            for (labels, source) in &sources {
                self.budget.tick()?;
                let mut labels = labels.without_name();
                if let Some(quantile) = quantile {
                    labels = labels.builder().set(label.as_str(), quantile.as_str()).build();
                }
                let mut column = Column::absent(labels, grid);
                for (step, question) in questions.iter().enumerate() {
                    if let Some(value) = self.answer(*question, source, step, name) {
                        column.cells.set(step, Point::Float(value));
                    }
                }
                if !column.cells.is_empty() {
                    out.push(column);
                }
            }
        }
        self.charge(&out)?;
        self.release(&columns);
        Ok(Output::Vector(merge(out, &mut self.budget)?))
    }

    fn quantiles(&mut self, call: &Call, at: usize, grid: &Grid) -> Result<Vec<f64>, Error> {
        let values = self.scalar(argument(call, at)?, grid)?;
        values.iter().for_each(|q| self.annotations.quantile(*q));
        Ok(values)
    }

    /// Histograms in the order in which they were first seen; floats without a readable `le` are no buckets.
    fn sources<'c>(&mut self, columns: &'c [Column]) -> Vec<(Labels, Source<'c>)> {
        let mut index: RapidHashMap<Labels, usize> = RapidHashMap::default();
        let mut out: Vec<(Labels, Source<'c>)> = Vec::new();
        let mut entry = |labels: Labels, out: &mut Vec<(Labels, Source<'c>)>| {
            *index.entry(labels).or_insert_with_key(|labels| {
                out.push((labels.clone(), Source::default()));
                out.len() - 1
            })
        };
        for column in columns {
            if column.cells.has_histograms() {
                let at = entry(column.labels.clone(), &mut out);
                out[at].1.native = Some(column);
                if column.cells.values.iter().all(|v| weir_series::is_stale(*v)) {
                    continue;
                }
            }
            let le = column.labels.get(names::LE);
            let Some(upper) = bound(le) else {
                self.annotations.bad_bucket_label(column.labels.metric_name(), le);
                continue;
            };
            let at = entry(column.labels.filter(|l| *l.name != *names::LE), &mut out);
            out[at].1.classic.push((upper, column));
        }
        out.iter_mut()
            .for_each(|(_, s)| s.classic.sort_by(|a, b| a.0.total_cmp(&b.0)));
        out
    }

    fn answer(&mut self, question: Question, source: &Source<'_>, step: usize, function: &str) -> Option<f64> {
        let native = source.native.and_then(|c| c.cells.histogram(step));
        let present = source.classic.iter().filter_map(|(upper, c)| {
            let count = c.cells.float(step)?;
            Some(Bucket { upper: *upper, count })
        });
        let mut buckets: Vec<Bucket> = present.collect();
        match (native, buckets.is_empty()) {
            (None, true) => None,
            (Some(_), false) => {
                let metric = source.native.map_or("", |c| c.labels.metric_name());
                self.annotations.mixed_classic_native(metric);
                None
            }
            (Some(h), true) => {
                if h.sum.is_nan() && h.count > 0.0 {
                    self.annotations.nan_observations(function);
                }
                Some(match question {
                    Question::Quantile(q) => native::quantile(q, h),
                    Question::Fraction(lower, upper) => native::fraction(lower, upper, h),
                })
            }
            (None, false) => Some(match question {
                Question::Quantile(q) => {
                    let (value, forced) = quantile(q, &mut buckets);
                    if forced {
                        self.annotations.forced_monotonic();
                    }
                    value
                }
                Question::Fraction(lower, upper) => fraction(lower, upper, &mut buckets),
            }),
        }
    }
}

fn bound(le: &str) -> Option<f64> {
    match le {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        le => le.parse().ok(),
    }
}

/// The quantile by linear interpolation inside the bucket that holds it, and whether counts had to be corrected.
fn quantile(q: f64, buckets: &mut Vec<Bucket>) -> (f64, bool) {
    if q.is_nan() {
        return (f64::NAN, false);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, false);
    }
    if q > 1.0 {
        return (f64::INFINITY, false);
    }
    if buckets.last().is_none_or(|b| b.upper != f64::INFINITY) {
        return (f64::NAN, false);
    }
    join_equal(buckets);
    let forced = make_monotonic(buckets);
    let Some((last, finite)) = buckets.split_last() else {
        return (f64::NAN, forced);
    };
    if finite.is_empty() || last.count == 0.0 || last.count.is_nan() {
        return (f64::NAN, forced);
    }
    let rank = q * last.count;
    let at = finite.partition_point(|b| b.count < rank);
    let Some(bucket) = finite.get(at) else {
        // Beyond the last finite bound nothing is known but that bound.
        return (finite[finite.len() - 1].upper, forced);
    };
    if at == 0 && bucket.upper <= 0.0 {
        return (bucket.upper, forced);
    }
    let first = Bucket { upper: 0.0, count: 0.0 };
    let below = at.checked_sub(1).map_or(first, |i| finite[i]);
    let share = (rank - below.count) / (bucket.count - below.count);
    (below.upper + (bucket.upper - below.upper) * share, forced)
}

/// The share of observations between two values.
fn fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    join_equal(buckets);
    make_monotonic(buckets);
    let Some(total) = buckets.last().filter(|b| b.upper == f64::INFINITY).map(|b| b.count) else {
        return f64::NAN;
    };
    if total == 0.0 || total.is_nan() || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    (rank_of(upper, buckets, total) - rank_of(lower, buckets, total)) / total
}

/// How many observations lie below a value.
fn rank_of(value: f64, buckets: &[Bucket], total: f64) -> f64 {
    let (mut below, mut rank) = (f64::NEG_INFINITY, 0.0);
    for bucket in buckets {
        if below >= value {
            return rank;
        }
        if bucket.upper > value {
            // The first bucket begins at zero, unless it lies below it altogether.
            let start = if below == f64::NEG_INFINITY && bucket.upper > 0.0 {
                0.0
            } else {
                below
            };
            let share = match start {
                f64::NEG_INFINITY => 1.0,
                start => (value - start) / (bucket.upper - start),
            };
            return (rank + (bucket.count - rank) * share).min(total);
        }
        (below, rank) = (bucket.upper, bucket.count);
    }
    total
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

/// Scrapes are not atomic and floats are not exact: a count never falls below that of a smaller bucket. True if one did,
/// by more than noise.
fn make_monotonic(buckets: &mut [Bucket]) -> bool {
    let mut highest = f64::NEG_INFINITY;
    let mut forced = false;
    for bucket in buckets {
        let near = (bucket.count - highest).abs() < NOISE * highest.abs().max(bucket.count.abs());
        if bucket.count < highest || near {
            forced |= !near;
            bucket.count = highest;
        } else {
            highest = bucket.count;
        }
    }
    forced
}
