//! Selectors that are `anchored` (the last sample before a window belongs to it) or `smoothed` (values at the ends of a
//! window are interpolated). Their windows reach back by the look-back beyond the range, those that are smoothed also ahead.

use super::{
    Annotations, Cells, Evaluator, Grid, Point, feed::Sink, native, selector::Shift, selector::millis, window::Window,
};
use crate::engine::Error;
use crate::parse::{Extension, VectorSelector};
use weir_series::{Histogram, HistogramSample, ResetHint, Sample, is_stale};

/// Milliseconds that a window reaches beyond its range: back, and ahead.
pub(super) fn reach(extension: Option<Extension>, lookback_ms: i64) -> (i64, i64) {
    match extension {
        None => (0, 0),
        Some(Extension::Anchored) => (lookback_ms, 0),
        Some(Extension::Smoothed) => (lookback_ms, lookback_ms),
    }
}

/// Places of the samples that stand for the two ends of a window, whose times are `at`.
fn ends(count: usize, at: impl Fn(usize) -> i64, (start, end): (i64, i64), smoothed: bool) -> (usize, usize) {
    // The last one is not looked at: it stands for the end even if nothing is within the range.
    let inner = count.saturating_sub(1);
    let places: Vec<i64> = (0..inner).map(at).collect();
    let first = places.partition_point(|t| *t <= start).saturating_sub(1);
    let last = if smoothed {
        places.partition_point(|t| *t < end)
    } else {
        inner
    };
    (first, last)
}

/// The value on a line between two samples. A counter that began anew is taken to have begun at zero.
fn between(a: Sample, b: Sample, ts_ms: i64, is_counter: bool) -> f64 {
    let from = if is_counter && b.value < a.value { 0.0 } else { a.value };
    from + (b.value - from) * (ts_ms - a.ts_ms) as f64 / (b.ts_ms - a.ts_ms) as f64
}

/// Values at the two ends, and the samples between them. None: nothing lies in the window.
fn floats(
    samples: &[Sample],
    (start, end): (i64, i64),
    smoothed: bool,
    is_counter: bool,
) -> Option<(f64, &[Sample], f64)> {
    let (mut first, mut last) = ends(samples.len(), |i| samples[i].ts_ms, (start, end), smoothed);
    let (from, to) = (samples.get(first)?, samples.get(last)?);
    if to.ts_ms <= start || (smoothed && from.ts_ms > end) {
        return None;
    }
    let left = match samples.get(first + 1) {
        Some(next) if smoothed && from.ts_ms < start => between(*from, *next, start, is_counter),
        _ => from.value,
    };
    let right = if smoothed && last > 0 && to.ts_ms > end {
        between(samples[last - 1], *to, end, is_counter)
    } else {
        to.value
    };
    if from.ts_ms <= start {
        first += 1;
    }
    if to.ts_ms < end {
        last += 1;
    }
    Some((left, samples.get(first..last).unwrap_or_default(), right))
}

/// What rate, increase and delta are over such a window.
pub(super) fn difference(
    w: &Window,
    extension: Extension,
    is_counter: bool,
    per_second: bool,
    annotations: &mut Annotations,
) -> Option<Point> {
    let smoothed = extension == Extension::Smoothed;
    let range = (w.end_ms.saturating_sub(w.range_ms), w.end_ms);
    let seconds = if per_second { w.range_ms as f64 / 1000.0 } else { 1.0 };
    match (w.floats.is_empty(), w.histograms.is_empty()) {
        (false, true) => {
            let (left, between, right) = floats(w.floats, range, smoothed, is_counter)?;
            let mut difference = right - left;
            if is_counter {
                let mut before = left;
                for value in between.iter().map(|s| s.value).chain([right]) {
                    if value < before {
                        difference += before;
                    }
                    before = value;
                }
            }
            Some(Point::Float(difference / seconds))
        }
        (true, false) => {
            let difference = histograms(w, range, smoothed, is_counter, annotations);
            let mut h = match difference {
                Ok(h) => h?,
                Err(native::Incompatible) => {
                    annotations.mixed_schemas(w.metric());
                    return None;
                }
            };
            if per_second {
                h = native::scale(&h, 1.0 / seconds);
            }
            h.reset = ResetHint::Gauge;
            Some(Point::histogram(h))
        }
        (false, false) => {
            annotations.mixed_range(w.metric());
            None
        }
        (true, true) => None,
    }
}

fn combined(
    result: Result<native::Combined, native::Incompatible>,
    what: &str,
    annotations: &mut Annotations,
) -> Result<Histogram, native::Incompatible> {
    let result = result?;
    if result.reconciled {
        annotations.reconciled_bounds(what);
    }
    Ok(result.histogram)
}

fn histogram_between(
    a: &HistogramSample,
    b: &HistogramSample,
    ts_ms: i64,
    is_counter: bool,
    annotations: &mut Annotations,
) -> Result<Histogram, native::Incompatible> {
    let part = (ts_ms - a.ts_ms) as f64 / (b.ts_ms - a.ts_ms) as f64;
    if is_counter && native::is_reset(&b.value, &a.value) {
        return Ok(native::scale(&b.value, part));
    }
    let difference = combined(native::subtract(&b.value, &a.value), "subtraction", annotations)?;
    combined(
        native::add(&native::scale(&difference, part), &a.value),
        "addition",
        annotations,
    )
}

fn histograms(
    w: &Window,
    (start, end): (i64, i64),
    smoothed: bool,
    is_counter: bool,
    annotations: &mut Annotations,
) -> Result<Option<Histogram>, native::Incompatible> {
    let all = w.histograms;
    let (first, last) = ends(all.len(), |i| all[i].ts_ms, (start, end), smoothed);
    let (from, to) = (&all[first], &all[last]);
    if to.ts_ms <= start || (smoothed && from.ts_ms > end) {
        return Ok(None);
    }
    let is_gauge = |h: &Histogram| h.reset == ResetHint::Gauge;
    let looked_at = &all[first..=last];
    if looked_at
        .iter()
        .any(|h| native::is_custom(&h.value) != native::is_custom(&from.value))
    {
        return Err(native::Incompatible);
    }
    if is_counter && looked_at.iter().any(|h| is_gauge(&h.value)) {
        annotations.not_counter(w.metric());
    }
    let left = match all.get(first + 1) {
        Some(next) if smoothed && from.ts_ms < start => histogram_between(from, next, start, is_counter, annotations)?,
        _ => from.value.as_ref().clone(),
    };
    let right = if smoothed && last > 0 && to.ts_ms > end {
        histogram_between(&all[last - 1], to, end, is_counter, annotations)?
    } else {
        to.value.as_ref().clone()
    };
    let are_gauges = is_gauge(&left) && is_gauge(&right);
    if !is_counter && !are_gauges {
        annotations.not_gauge(w.metric());
    }
    let mut difference = combined(native::subtract(&right, &left), "subtraction", annotations)?;
    if !is_counter {
        return Ok(Some(difference));
    }
    // What resets took away; `left` stands for the first sample, `right` for the last.
    let mut before = &left;
    let mut inner = first + 1;
    if smoothed && from.ts_ms < start && inner < all.len() && native::is_reset(&all[inner].value, &from.value) {
        // The left end lies on the rise after this reset, which so is counted already.
        before = &all[inner].value;
        inner += 1;
    }
    if inner > last {
        return Ok(Some(difference));
    }
    for h in all[inner..last].iter().map(|h| h.value.as_ref()).chain([&right]) {
        if native::is_reset(h, before) {
            difference = combined(native::add(&difference, before), "addition", annotations)?;
        }
        before = h;
    }
    Ok(Some(difference))
}

/// The window that `changes` and `resets` look at: from the last sample before it, if it is anchored.
pub(super) fn anchored<'a>(w: &Window<'a>) -> (&'a [Sample], &'a [HistogramSample]) {
    if w.extension.is_none() {
        return (w.floats, w.histograms);
    }
    let range = (w.end_ms.saturating_sub(w.range_ms), w.end_ms);
    let (float, _) = ends(w.floats.len(), |i| w.floats[i].ts_ms, range, false);
    let (histogram, _) = ends(w.histograms.len(), |i| w.histograms[i].ts_ms, range, false);
    (&w.floats[float..], &w.histograms[histogram..])
}

/// The samples of `up[5m] anchored` alone: those at the ends are made up.
pub(super) fn samples(
    all: &[Sample],
    histograms: usize,
    extension: Extension,
    range: (i64, i64),
) -> Result<Vec<Sample>, Error> {
    if histograms > 0 {
        return Err(no_histograms(extension));
    }
    let Some((left, between, right)) = floats(all, range, extension == Extension::Smoothed, false) else {
        return Ok(Vec::new());
    };
    let end = |ts_ms, value| Sample { ts_ms, value };
    let inner = between
        .iter()
        .copied()
        .filter(|s| s.ts_ms > range.0 && s.ts_ms < range.1);
    Ok([end(range.0, left)]
        .into_iter()
        .chain(inner)
        .chain([end(range.1, right)])
        .collect())
}

fn no_histograms(extension: Extension) -> Error {
    let name = extension.name();
    Error::Execution(format!(
        "the {name} modifier works with native histograms only within rate, increase and delta"
    ))
}

impl Evaluator<'_> {
    /// `up smoothed`: the value on the line between the neighbours of each step, or the last one if none follows.
    pub(super) fn feed_smoothed(
        &mut self,
        selector: &VectorSelector,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), Error> {
        let lookback_ms = millis(self.options.lookback);
        let shift = Shift::new(selector.at, selector.offset.as_ref(), &self.query);
        let mut cells = Cells::default();
        self.visit(
            selector,
            shift,
            (lookback_ms, lookback_ms),
            grid,
            &mut |budget, _, series| {
                if series.histograms.iter().any(|h| !h.value.is_stale()) {
                    return Err(no_histograms(Extension::Smoothed));
                }
                let samples: Vec<Sample> = series.samples.iter().copied().filter(|s| !is_stale(s.value)).collect();
                cells.reset(grid.steps);
                for (step, time) in grid.times().enumerate() {
                    let at = shift.apply(time);
                    let next = samples.partition_point(|s| s.ts_ms < at);
                    let after = samples.get(next).filter(|s| s.ts_ms <= at.saturating_add(lookback_ms));
                    let before = next.checked_sub(1).map(|i| samples[i]);
                    let before = before.filter(|s| s.ts_ms > at.saturating_sub(lookback_ms));
                    cells.values[step] = match (before, after) {
                        (_, Some(exact)) if exact.ts_ms == at => exact.value,
                        (Some(before), Some(after)) => between(before, *after, at, false),
                        (Some(before), None) => before.value,
                        (None, _) => continue,
                    };
                }
                if cells.is_empty() {
                    return Ok(());
                }
                sink(budget, series.identity, &mut cells)
            },
        )
    }
}
