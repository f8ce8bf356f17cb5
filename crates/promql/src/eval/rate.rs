//! How fast something changes: differences extended to the ends of a window, between the last two samples, and lines
//! through all of them.

use super::{Annotations, Point, math::Sum, native, window::Window};
use weir_series::{Histogram, HistogramSample, ResetHint, Sample};

pub(super) fn rate(w: &Window, annotations: &mut Annotations) -> Option<Point> {
    extrapolate(w, true, true, annotations)
}

pub(super) fn increase(w: &Window, annotations: &mut Annotations) -> Option<Point> {
    extrapolate(w, true, false, annotations)
}

pub(super) fn delta(w: &Window, annotations: &mut Annotations) -> Option<Point> {
    extrapolate(w, false, false, annotations)
}

pub(super) fn irate(w: &Window, annotations: &mut Annotations) -> Option<Point> {
    last_two(w, true, annotations)
}

pub(super) fn idelta(w: &Window, annotations: &mut Annotations) -> Option<Point> {
    last_two(w, false, annotations)
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// The difference over the window, extended towards its ends where the samples seem to go on that far.
fn extrapolate(w: &Window, is_counter: bool, per_second: bool, annotations: &mut Annotations) -> Option<Point> {
    if let Some(extension) = w.extension {
        return super::extended::difference(w, extension, is_counter, per_second, annotations);
    }
    match (w.floats, w.histograms) {
        ([first, .., last], []) => {
            let mut difference = last.value - first.value;
            if is_counter && !w.never_falls {
                // After a reset the counter began anew at zero.
                let resets = w.floats.windows(2).filter(|p| p[1].value < p[0].value);
                difference += resets.map(|p| p[0].value).sum::<f64>();
            }
            let zero = (is_counter && difference > 0.0 && first.value >= 0.0).then_some(first.value / difference);
            let samples = (w.floats.len(), first.ts_ms, last.ts_ms);
            Some(Point::Float(difference * factor(w, samples, zero, per_second)))
        }
        ([], [first, .., last]) => {
            let difference = histogram_difference(w, is_counter, annotations)?;
            let begins_at = first.value.count / difference.count;
            let zero = (is_counter && difference.count > 0.0 && first.value.count >= 0.0).then_some(begins_at);
            let samples = (w.histograms.len(), first.ts_ms, last.ts_ms);
            let factor = factor(w, samples, zero, per_second);
            Some(Point::histogram(native::scale(&difference, factor)))
        }
        ([_, ..], [_, ..]) => {
            annotations.mixed_range(w.metric());
            None
        }
        _ => None,
    }
}

/// By how much a difference between the first and the last of some samples must be extended.
///
/// The rule is Prometheus's: to the very end when the gap is below 1.1 times the mean distance of samples, else by half
/// that distance; and a counter is never extended below zero. `zero` is how far before the first sample the counter was
/// zero, in parts of the sampled time.
fn factor(w: &Window, (count, first_ms, last_ms): (usize, i64, i64), zero: Option<f64>, per_second: bool) -> f64 {
    let sampled = seconds(last_ms - first_ms);
    let distance = sampled / (count - 1) as f64;
    let threshold = distance * 1.1;
    let mut before = seconds(first_ms - (w.end_ms - w.range_ms));
    let mut after = seconds(w.end_ms - last_ms);
    if before >= threshold {
        before = distance / 2.0;
    }
    if let Some(zero) = zero {
        let to_zero = sampled * zero;
        if to_zero < before {
            before = to_zero;
        }
    }
    if after >= threshold {
        after = distance / 2.0;
    }
    let factor = (sampled + before + after) / sampled;
    if per_second {
        factor / seconds(w.range_ms)
    } else {
        factor
    }
}

/// The last histogram without the first, and with what resets between them took away.
fn histogram_difference(w: &Window, is_counter: bool, annotations: &mut Annotations) -> Option<Histogram> {
    let [first, second, ..] = w.histograms else {
        return None;
    };
    let last = &w.histograms[w.histograms.len() - 1].value;
    let gauge = |h: &HistogramSample| h.value.reset == ResetHint::Gauge;
    if is_counter && w.histograms.iter().any(gauge) {
        annotations.not_counter(w.metric());
    }
    let both_gauges = gauge(first) && last.reset == ResetHint::Gauge;
    if !is_counter && !both_gauges {
        annotations.not_gauge(w.metric());
    }
    let custom = native::is_custom(last);
    // The first one does not matter when the counter began anew right after it.
    let skips_first = is_counter && native::is_reset(&second.value, &first.value);
    let relevant = if skips_first { &w.histograms[1..] } else { w.histograms };
    let looked_at = if is_counter { relevant } else { &relevant[..1] };
    if looked_at.iter().any(|h| native::is_custom(&h.value) != custom) {
        annotations.mixed_schemas(w.metric());
        return None;
    }
    let mut combine = |combined: Result<native::Combined, native::Incompatible>, what: &str| match combined {
        Ok(combined) => {
            if combined.reconciled {
                annotations.reconciled_bounds(what);
            }
            Some(combined.histogram)
        }
        Err(native::Incompatible) => {
            annotations.mixed_schemas(w.metric());
            None
        }
    };
    let mut difference = if skips_first {
        last.as_ref().clone()
    } else {
        combine(native::subtract(last, &first.value), "subtraction")?
    };
    if is_counter {
        for pair in relevant.windows(2) {
            if native::is_reset(&pair[1].value, &pair[0].value) {
                difference = combine(native::add(&difference, &pair[0].value), "addition")?;
            }
        }
        // The result is no finer than the coarsest that was looked at.
        let zero = Histogram {
            schema: relevant
                .iter()
                .map(|h| h.value.schema)
                .min()
                .unwrap_or(difference.schema),
            zero_threshold: difference.zero_threshold,
            custom_values: difference.custom_values.clone(),
            ..Histogram::default()
        };
        if zero.schema < difference.schema {
            difference = combine(native::add(&difference, &zero), "addition")?;
        }
    }
    difference.reset = ResetHint::Gauge;
    Some(difference)
}

/// One of the two newest samples.
#[derive(Clone, Copy)]
enum Either<'a> {
    Float(&'a Sample),
    Histogram(&'a HistogramSample),
}

impl Either<'_> {
    fn ts_ms(&self) -> i64 {
        match self {
            Either::Float(s) => s.ts_ms,
            Either::Histogram(h) => h.ts_ms,
        }
    }
}

fn last_two(w: &Window, per_second: bool, annotations: &mut Annotations) -> Option<Point> {
    let floats = w.floats.iter().rev().take(2).map(Either::Float);
    let mut newest: Vec<Either<'_>> = floats
        .chain(w.histograms.iter().rev().take(2).map(Either::Histogram))
        .collect();
    newest.sort_by_key(|e| std::cmp::Reverse(e.ts_ms()));
    let [last, before, ..] = newest[..] else {
        return None;
    };
    let interval = last.ts_ms() - before.ts_ms();
    if interval == 0 {
        return None;
    }
    match (before, last) {
        (Either::Float(before), Either::Float(last)) => {
            let reset = per_second && last.value < before.value;
            let difference = if reset { last.value } else { last.value - before.value };
            Some(Point::Float(if per_second {
                difference / seconds(interval)
            } else {
                difference
            }))
        }
        (Either::Histogram(before), Either::Histogram(last)) => {
            let gauges = [before, last].map(|h| h.value.reset == ResetHint::Gauge);
            if per_second && gauges.contains(&true) {
                annotations.not_counter(w.metric());
            }
            if !per_second && gauges.contains(&false) {
                annotations.not_gauge(w.metric());
            }
            let mut difference = if per_second && native::is_reset(&last.value, &before.value) {
                last.value.as_ref().clone()
            } else {
                match native::subtract(&last.value, &before.value) {
                    Ok(combined) => {
                        if combined.reconciled {
                            annotations.reconciled_bounds("subtraction");
                        }
                        combined.histogram
                    }
                    Err(native::Incompatible) => {
                        annotations.mixed_schemas(w.metric());
                        return None;
                    }
                }
            };
            if per_second {
                difference = native::scale(&difference, 1.0 / seconds(interval));
            }
            difference.reset = ResetHint::Gauge;
            Some(Point::histogram(difference))
        }
        _ => {
            annotations.mixed_range(w.metric());
            None
        }
    }
}

/// The floats, if there are two; that histograms beside them are ignored is noted.
fn line<'a>(w: &Window<'a>, annotations: &mut Annotations) -> Option<&'a [Sample]> {
    if !w.floats.is_empty() && !w.histograms.is_empty() {
        annotations.ignored_in_range(w.metric());
    }
    (w.floats.len() > 1).then_some(w.floats)
}

pub(super) fn deriv(w: &Window, annotations: &mut Annotations) -> Option<Point> {
    let samples = line(w, annotations)?;
    Some(Point::Float(regression(samples, samples[0].ts_ms).0))
}

pub(super) fn predict_linear(w: &Window, annotations: &mut Annotations) -> Option<Point> {
    let (slope, intercept) = regression(line(w, annotations)?, w.time_ms);
    Some(Point::Float(slope * w.params[0] + intercept))
}

/// Slope a second and value at `origin_ms` of the least-squares line.
fn regression(samples: &[Sample], origin_ms: i64) -> (f64, f64) {
    let first = samples[0].value;
    if samples.iter().all(|s| s.value == first) {
        return if first.is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, first)
        };
    }
    let n = samples.len() as f64;
    let points = || samples.iter().map(|s| (seconds(s.ts_ms - origin_ms), s.value));
    let sum_x = points().map(|(x, _)| x).collect::<Sum>().total();
    let sum_y = points().map(|(_, y)| y).collect::<Sum>().total();
    let sum_xy = points().map(|(x, y)| x * y).collect::<Sum>().total();
    let sum_xx = points().map(|(x, _)| x * x).collect::<Sum>().total();
    let slope = (sum_xy - sum_x * sum_y / n) / (sum_xx - sum_x * sum_x / n);
    (slope, sum_y / n - slope * sum_x / n)
}

/// Double exponential smoothing; the factors of level and trend were checked before.
pub(super) fn smooth(w: &Window, annotations: &mut Annotations) -> Option<Point> {
    let samples = line(w, annotations)?;
    let [level_factor, trend_factor] = w.params;
    let mut level = samples[0].value;
    let mut trend = samples[1].value - samples[0].value;
    let mut before = None;
    for sample in &samples[1..] {
        if let Some(before) = before {
            trend = trend_factor * (level - before) + (1.0 - trend_factor) * trend;
        }
        before = Some(level);
        level = level_factor * sample.value + (1.0 - level_factor) * (level + trend);
    }
    Some(Point::Float(level))
}
