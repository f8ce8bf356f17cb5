//! Functions over range vectors: a window of samples in, at most one value out.

use super::{
    Column, Evaluator, Grid, Output,
    math::{Sum, quantile, variance},
    merge,
};
use crate::engine::Error;
use promql_parser::parser::Call;
use weir_series::Sample;

/// A window, left-open, and where it lies.
pub(super) struct Window<'a> {
    pub samples: &'a [Sample],
    pub end_ms: i64,
    pub range_ms: i64,
    /// The scalar argument at this step, where the function has one.
    pub param: f64,
}

type WindowFn = fn(&Window) -> Option<f64>;

/// The function of that name, whether the result keeps the metric's name, and the places of range vector and scalar.
fn lookup(name: &str) -> Option<(WindowFn, bool, usize, Option<usize>)> {
    let plain = |f: WindowFn| Some((f, false, 0, None));
    match name {
        "rate" => plain(|w| extrapolate(w, true, true)),
        "increase" => plain(|w| extrapolate(w, true, false)),
        "delta" => plain(|w| extrapolate(w, false, false)),
        "irate" => plain(|w| last_two(w, true)),
        "idelta" => plain(|w| last_two(w, false)),
        "deriv" => plain(|w| regression(w, w.samples.first()?.ts_ms).map(|(slope, _)| slope)),
        "predict_linear" => Some((
            |w| regression(w, w.end_ms).map(|(s, i)| s * w.param + i),
            false,
            0,
            Some(1),
        )),
        "changes" => plain(|w| pairs(w, |a, b| a != b && !(a.is_nan() && b.is_nan()))),
        "resets" => plain(|w| pairs(w, |a, b| b < a)),
        "sum_over_time" => plain(|w| values(w).map(|v| v.collect::<Sum>().total())),
        "avg_over_time" => plain(|w| values(w).map(|v| v.collect::<Sum>().total() / w.samples.len() as f64)),
        "min_over_time" => plain(|w| values(w)?.reduce(|a, b| if b < a || a.is_nan() { b } else { a })),
        "max_over_time" => plain(|w| values(w)?.reduce(|a, b| if b > a || a.is_nan() { b } else { a })),
        "count_over_time" => plain(|w| values(w).map(|v| v.len() as f64)),
        "stddev_over_time" => plain(|w| values(w).map(|v| variance(v).sqrt())),
        "stdvar_over_time" => plain(|w| values(w).map(variance)),
        "present_over_time" => plain(|w| values(w).map(|_| 1.0)),
        "last_over_time" => Some((|w| w.samples.last().map(|s| s.value), true, 0, None)),
        "quantile_over_time" => Some((|w| values(w).map(|v| quantile(w.param, v.collect())), false, 1, Some(0))),
        _ => None,
    }
}

impl Evaluator<'_> {
    /// None when there is no function of that name over range vectors.
    pub fn window_call(&mut self, call: &Call, grid: &Grid) -> Result<Option<Output>, Error> {
        let name = call.func.name;
        if name == "absent_over_time" {
            return self.absent_over_time(call, grid).map(Some);
        }
        let Some((f, keeps_name, range_at, param_at)) = lookup(name) else {
            return Ok(None);
        };
        let params = match param_at {
            Some(at) => Some(self.scalar(super::call::argument(call, at)?, grid)?),
            None => None,
        };
        let ranges = self.ranges(super::call::argument(call, range_at)?, grid)?;
        let mut columns = Vec::with_capacity(ranges.series.len());
        for series in &ranges.series {
            self.check_time()?;
            let labels = if keeps_name {
                series.labels.clone()
            } else {
                series.labels.without_name()
            };
            let mut column = Column::absent(labels, grid);
            // Both ends only move forward.
            let (mut from, mut to) = (0, 0);
            for (step, time) in grid.times().enumerate() {
                let end_ms = ranges.shift.apply(time);
                while series.samples.get(to).is_some_and(|s| s.ts_ms <= end_ms) {
                    to += 1;
                }
                while from < to && series.samples[from].ts_ms <= end_ms - ranges.range_ms {
                    from += 1;
                }
                let param = params.as_ref().map_or(0.0, |p| p[step]);
                let window = Window {
                    samples: &series.samples[from..to],
                    end_ms,
                    range_ms: ranges.range_ms,
                    param,
                };
                if let Some(value) = f(&window) {
                    column.values[step] = value;
                }
            }
            if !column.is_empty() {
                self.charge(grid.steps)?;
                columns.push(column);
            }
        }
        Ok(Some(Output::Vector(merge(columns)?)))
    }

    fn absent_over_time(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let expr = super::call::argument(call, 0)?;
        let ranges = self.ranges(expr, grid)?;
        let mut column = Column::absent(super::call::absent_labels(expr), grid);
        for (value, time) in column.values.iter_mut().zip(grid.times()) {
            let end = ranges.shift.apply(time);
            let within = |s: &Sample| s.ts_ms <= end && s.ts_ms > end - ranges.range_ms;
            if !ranges.series.iter().any(|s| s.samples.iter().any(within)) {
                *value = 1.0;
            }
        }
        Ok(Output::Vector(if column.is_empty() {
            Vec::new()
        } else {
            vec![column]
        }))
    }
}

fn values<'a>(w: &Window<'a>) -> Option<impl ExactSizeIterator<Item = f64> + Clone + use<'a>> {
    let samples = w.samples;
    (!samples.is_empty()).then(|| samples.iter().map(|s| s.value))
}

fn pairs(w: &Window, differs: fn(f64, f64) -> bool) -> Option<f64> {
    w.samples.first()?;
    Some(w.samples.windows(2).filter(|p| differs(p[0].value, p[1].value)).count() as f64)
}

/// The difference over the window, extended towards its ends where the samples seem to go on that far.
///
/// The rule is Prometheus's: to the very end when the gap is below 1.1 times the mean distance of samples, else by half
/// that distance; and a counter is never extended below zero.
fn extrapolate(w: &Window, is_counter: bool, per_second: bool) -> Option<f64> {
    let (first, last) = (w.samples.first()?, w.samples.last()?);
    if w.samples.len() < 2 {
        return None;
    }
    let mut difference = last.value - first.value;
    if is_counter {
        // After a reset the counter began anew at zero.
        difference += w
            .samples
            .windows(2)
            .filter(|p| p[1].value < p[0].value)
            .map(|p| p[0].value)
            .sum::<f64>();
    }
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let sampled = seconds(last.ts_ms - first.ts_ms);
    let distance = sampled / (w.samples.len() - 1) as f64;
    let threshold = distance * 1.1;
    let mut before = seconds(first.ts_ms - (w.end_ms - w.range_ms));
    let mut after = seconds(w.end_ms - last.ts_ms);
    if before >= threshold {
        before = distance / 2.0;
    }
    if is_counter && difference > 0.0 && first.value >= 0.0 {
        before = before.min(sampled * (first.value / difference));
    }
    if after >= threshold {
        after = distance / 2.0;
    }
    let mut factor = (sampled + before + after) / sampled;
    if per_second {
        factor /= seconds(w.range_ms);
    }
    Some(difference * factor)
}

fn last_two(w: &Window, per_second: bool) -> Option<f64> {
    let [.., before, last] = w.samples else {
        return None;
    };
    if !per_second {
        return Some(last.value - before.value);
    }
    let reset = last.value < before.value;
    let difference = if reset { last.value } else { last.value - before.value };
    Some(difference / ((last.ts_ms - before.ts_ms) as f64 / 1000.0))
}

/// Slope a second and value at `origin_ms` of the least-squares line.
fn regression(w: &Window, origin_ms: i64) -> Option<(f64, f64)> {
    if w.samples.len() < 2 {
        return None;
    }
    let first = w.samples[0].value;
    if w.samples.iter().all(|s| s.value == first) {
        return Some(if first.is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, first)
        });
    }
    let n = w.samples.len() as f64;
    let points = || {
        w.samples
            .iter()
            .map(|s| ((s.ts_ms - origin_ms) as f64 / 1000.0, s.value))
    };
    let sum_x = points().map(|(x, _)| x).collect::<Sum>().total();
    let sum_y = points().map(|(_, y)| y).collect::<Sum>().total();
    let sum_xy = points().map(|(x, y)| x * y).collect::<Sum>().total();
    let sum_xx = points().map(|(x, _)| x * x).collect::<Sum>().total();
    let slope = (sum_xy - sum_x * sum_y / n) / (sum_xx - sum_x * sum_x / n);
    Some((slope, sum_y / n - slope * sum_x / n))
}
