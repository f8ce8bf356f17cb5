//! What the samples of a window are together: sums, extremes, counts, quantiles, the first and the last.

use super::{
    Annotations, Point,
    math::{self, Sum},
    native,
    window::Window,
};
use std::{cmp::Ordering, sync::Arc};
use weir_series::{Histogram, Sample};

type Answer = Option<Point>;

fn floats<'a>(w: &Window<'a>) -> impl ExactSizeIterator<Item = f64> + Clone + use<'a> {
    w.floats.iter().map(|s| s.value)
}

/// The floats, if there are any; that histograms beside them are ignored is noted.
fn only_floats<'a>(w: &Window<'a>, annotations: &mut Annotations) -> Option<&'a [Sample]> {
    if w.floats.is_empty() {
        return None;
    }
    if !w.histograms.is_empty() {
        annotations.ignored_in_range(w.metric());
    }
    Some(w.floats)
}

/// The sum of all histograms, or None (noted why) if there is none or they do not fit together.
fn histogram_sum(w: &Window, annotations: &mut Annotations) -> Option<Histogram> {
    let (first, rest) = w.histograms.split_first()?;
    let mut sum = first.value.as_ref().clone();
    for h in rest {
        match native::add(&sum, &h.value) {
            Ok(combined) => {
                if combined.reconciled {
                    annotations.reconciled_bounds("aggregation");
                }
                if combined.conflicting_resets {
                    annotations.conflicting_resets("aggregation");
                }
                sum = combined.histogram;
            }
            Err(native::Incompatible) => {
                annotations.mixed_schemas(w.metric());
                return None;
            }
        }
    }
    Some(sum)
}

fn is_mixed(w: &Window, annotations: &mut Annotations) -> bool {
    let mixed = !w.floats.is_empty() && !w.histograms.is_empty();
    if mixed {
        annotations.mixed_range(w.metric());
    }
    mixed
}

pub(super) fn sum(w: &Window, annotations: &mut Annotations) -> Answer {
    if is_mixed(w, annotations) {
        None
    } else if w.floats.is_empty() {
        histogram_sum(w, annotations).map(Point::histogram)
    } else {
        Some(Point::Float(floats(w).collect::<Sum>().total()))
    }
}

pub(super) fn avg(w: &Window, annotations: &mut Annotations) -> Answer {
    if is_mixed(w, annotations) {
        None
    } else if w.floats.is_empty() {
        let sum = histogram_sum(w, annotations)?;
        Some(Point::histogram(native::scale(&sum, 1.0 / w.histograms.len() as f64)))
    } else {
        Some(Point::Float(math::mean(floats(w))))
    }
}

pub(super) fn min(w: &Window, annotations: &mut Annotations) -> Answer {
    only_floats(w, annotations)?;
    floats(w)
        .reduce(|a, b| if b < a || a.is_nan() { b } else { a })
        .map(Point::Float)
}

pub(super) fn max(w: &Window, annotations: &mut Annotations) -> Answer {
    only_floats(w, annotations)?;
    floats(w)
        .reduce(|a, b| if b > a || a.is_nan() { b } else { a })
        .map(Point::Float)
}

pub(super) fn count(w: &Window, _: &mut Annotations) -> Answer {
    Some(Point::Float((w.floats.len() + w.histograms.len()) as f64))
}

pub(super) fn present(_: &Window, _: &mut Annotations) -> Answer {
    Some(Point::Float(1.0))
}

pub(super) fn stdvar(w: &Window, annotations: &mut Annotations) -> Answer {
    only_floats(w, annotations)?;
    Some(Point::Float(math::variance(floats(w))))
}

pub(super) fn stddev(w: &Window, annotations: &mut Annotations) -> Answer {
    only_floats(w, annotations)?;
    Some(Point::Float(math::variance(floats(w)).sqrt()))
}

pub(super) fn quantile(w: &Window, annotations: &mut Annotations) -> Answer {
    only_floats(w, annotations)?;
    Some(Point::Float(math::quantile(w.params[0], floats(w).collect())))
}

/// The median of the distances to the median.
pub(super) fn mad(w: &Window, annotations: &mut Annotations) -> Answer {
    only_floats(w, annotations)?;
    let median = math::quantile(0.5, floats(w).collect());
    let distances = floats(w).map(|v| (v - median).abs()).collect();
    Some(Point::Float(math::quantile(0.5, distances)))
}

pub(super) fn last(w: &Window, _: &mut Annotations) -> Answer {
    match (w.floats.last(), w.histograms.last()) {
        (Some(s), Some(h)) if h.ts_ms < s.ts_ms => Some(Point::Float(s.value)),
        (_, Some(h)) => Some(Point::Histogram(h.value.clone())),
        (s, None) => s.map(|s| Point::Float(s.value)),
    }
}

pub(super) fn first(w: &Window, _: &mut Annotations) -> Answer {
    match (w.floats.first(), w.histograms.first()) {
        (Some(s), Some(h)) if s.ts_ms < h.ts_ms => Some(Point::Float(s.value)),
        (_, Some(h)) => Some(Point::Histogram(h.value.clone())),
        (s, None) => s.map(|s| Point::Float(s.value)),
    }
}

fn time(ts_ms: i64) -> Answer {
    Some(Point::Float(ts_ms as f64 / 1000.0))
}

pub(super) fn ts_of_first(w: &Window, _: &mut Annotations) -> Answer {
    let times = [w.floats.first().map(|s| s.ts_ms), w.histograms.first().map(|h| h.ts_ms)];
    time(times.into_iter().flatten().min()?)
}

pub(super) fn ts_of_last(w: &Window, _: &mut Annotations) -> Answer {
    let times = [w.floats.last().map(|s| s.ts_ms), w.histograms.last().map(|h| h.ts_ms)];
    time(times.into_iter().flatten().max()?)
}

/// The time of the last sample that no other one beats.
fn ts_of_extreme(w: &Window, annotations: &mut Annotations, beats_or_ties: fn(f64, f64) -> bool) -> Answer {
    let samples = only_floats(w, annotations)?;
    let better = |a: Sample, b: Sample| {
        if beats_or_ties(b.value, a.value) || a.value.is_nan() {
            b
        } else {
            a
        }
    };
    time(samples.iter().copied().reduce(better)?.ts_ms)
}

pub(super) fn ts_of_max(w: &Window, annotations: &mut Annotations) -> Answer {
    ts_of_extreme(w, annotations, |new, old| new >= old)
}

pub(super) fn ts_of_min(w: &Window, annotations: &mut Annotations) -> Answer {
    ts_of_extreme(w, annotations, |new, old| new <= old)
}

pub(super) fn changes(w: &Window, _: &mut Annotations) -> Answer {
    let float = |a: f64, b: f64| a != b && !(a.is_nan() && b.is_nan());
    Some(pairs(w, float, |a, b| !native::equal(a, b)))
}

pub(super) fn resets(w: &Window, _: &mut Annotations) -> Answer {
    Some(pairs(w, |a, b| b < a, |a, b| native::is_reset(b, a)))
}

/// How many neighbours in time differ; a float beside a histogram always does.
fn pairs(w: &Window, floats: fn(f64, f64) -> bool, histograms: fn(&Histogram, &Histogram) -> bool) -> Point {
    let (samples, native) = super::extended::anchored(w);
    if native.is_empty() {
        let differ = samples.windows(2).filter(|p| floats(p[0].value, p[1].value));
        return Point::Float(differ.count() as f64);
    }
    enum Kind<'a> {
        Float(f64),
        Histogram(&'a Arc<Histogram>),
    }
    let mut all: Vec<(i64, Kind<'_>)> = samples.iter().map(|s| (s.ts_ms, Kind::Float(s.value))).collect();
    all.extend(native.iter().map(|h| (h.ts_ms, Kind::Histogram(&h.value))));
    all.sort_by(|a, b| a.0.cmp(&b.0).then(Ordering::Equal));
    let differ = all.windows(2).filter(|p| match (&p[0].1, &p[1].1) {
        (Kind::Float(a), Kind::Float(b)) => floats(*a, *b),
        (Kind::Histogram(a), Kind::Histogram(b)) => histograms(a, b),
        _ => true,
    });
    Point::Float(differ.count() as f64)
}
