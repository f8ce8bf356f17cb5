//! Functions over range vectors: which there are, and how a window slides over the samples of a series.

use super::{
    Annotations, Cells, Evaluator, Grid, Output, Point,
    column::Column,
    extended,
    feed::{Nameless, Sink, distinct, into, pins_name},
    over_time, rate,
    selector::Shift,
};
use crate::engine::Error;
use crate::parse::{Call, Expr, Extension};
use weir_series::{HistogramSample, Identity, Sample, SeriesView, is_stale, names};

/// A window, left-open, and where it lies. It holds at least one sample, and no staleness markers.
pub(super) struct Window<'a> {
    pub floats: &'a [Sample],
    pub histograms: &'a [HistogramSample],
    pub identity: &'a dyn Identity,
    /// Time of the step.
    pub time_ms: i64,
    /// End of the window: the time of the step, moved by `@` and `offset`.
    pub end_ms: i64,
    pub range_ms: i64,
    /// The samples reach beyond the window, see [`extended`].
    pub extension: Option<Extension>,
    /// Scalar arguments at this step, where the function has any.
    pub params: [f64; 2],
    /// The float never falls, in this window or any other of the series. False if nobody asked.
    pub never_falls: bool,
}

impl Window<'_> {
    pub fn metric(&self) -> &str {
        self.identity.get(names::METRIC_NAME)
    }
}

pub(super) type WindowFn = fn(&Window, &mut Annotations) -> Option<Point>;

/// A function over a range vector.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub eval: WindowFn,
    pub keeps_name: bool,
    /// Place of the range vector among the arguments.
    range_at: usize,
    /// Places of scalars.
    params: &'static [usize],
    /// It asks whether the float ever falls.
    is_counter: bool,
}

/// The function of that name.
pub(super) fn lookup(name: &str) -> Option<Function> {
    let plain = |eval: WindowFn| Function {
        eval,
        keeps_name: false,
        range_at: 0,
        params: &[],
        is_counter: false,
    };
    Some(match name {
        "rate" => Function {
            is_counter: true,
            ..plain(rate::rate)
        },
        "increase" => Function {
            is_counter: true,
            ..plain(rate::increase)
        },
        "delta" => plain(rate::delta),
        "irate" => plain(rate::irate),
        "idelta" => plain(rate::idelta),
        "deriv" => plain(rate::deriv),
        "predict_linear" => Function {
            params: &[1],
            ..plain(rate::predict_linear)
        },
        "holt_winters" | "double_exponential_smoothing" => Function {
            params: &[1, 2],
            ..plain(rate::smooth)
        },
        "changes" => plain(over_time::changes),
        "resets" => plain(over_time::resets),
        "sum_over_time" => plain(over_time::sum),
        "avg_over_time" => plain(over_time::avg),
        "min_over_time" => plain(over_time::min),
        "max_over_time" => plain(over_time::max),
        "count_over_time" => plain(over_time::count),
        "stddev_over_time" => plain(over_time::stddev),
        "stdvar_over_time" => plain(over_time::stdvar),
        "mad_over_time" => plain(over_time::mad),
        "present_over_time" => plain(over_time::present),
        "last_over_time" => Function {
            keeps_name: true,
            ..plain(over_time::last)
        },
        "first_over_time" => Function {
            keeps_name: true,
            ..plain(over_time::first)
        },
        "ts_of_first_over_time" => plain(over_time::ts_of_first),
        "ts_of_last_over_time" => plain(over_time::ts_of_last),
        "ts_of_max_over_time" => plain(over_time::ts_of_max),
        "ts_of_min_over_time" => plain(over_time::ts_of_min),
        "quantile_over_time" => Function {
            range_at: 1,
            params: &[0],
            ..plain(over_time::quantile)
        },
        _ => return None,
    })
}

/// The windows of all steps.
#[derive(Clone, Copy)]
struct Windows<'a> {
    function: Function,
    params: &'a [Vec<f64>],
    shift: Shift,
    range_ms: i64,
    extension: Option<Extension>,
    /// Milliseconds beyond the range from which samples are taken, back and ahead.
    reach: (i64, i64),
    grid: &'a Grid,
}

impl Evaluator<'_> {
    /// Hands the result of a function over a range vector to `sink`, series by series.
    pub(super) fn feed_window_call(&mut self, call: &Call, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), Error> {
        let name = call.func.name;
        let function = lookup(name).ok_or_else(|| Error::BadQuery(format!("the function {name} is not supported")))?;
        let mut params = Vec::with_capacity(function.params.len());
        for at in function.params {
            params.push(self.scalar(super::call::argument(call, *at)?, grid)?);
        }
        let expr = super::call::argument(call, function.range_at)?;
        let invalid = invalid_factor(name, &params).map(Error::Execution);
        let (mut named, mut warned) = (String::new(), false);
        let is_rate = matches!(name, "rate" | "increase");
        let mut names_seen = Vec::new();
        let mut checked = |budget: &mut super::Budget<'_>, identity: &dyn Identity, cells: &mut Cells| {
            let metric = identity.get(names::METRIC_NAME);
            if is_rate && !cells.has_histograms() && (!warned || metric != named) {
                warned = true;
                named = metric.to_owned();
                names_seen.push(named.clone());
            }
            if function.keeps_name {
                sink(budget, identity, cells)
            } else {
                sink(budget, &Nameless(identity), cells)
            }
        };
        if let Some(error) = invalid {
            // Whether it matters: only where there is anything to smooth.
            let present = lookup("present_over_time").unwrap_or(function);
            return self.feed_windows(expr, present, &[], grid, &mut |_, _, _| Err(error.clone()));
        }
        if function.keeps_name || pins_series(expr) {
            self.feed_windows(expr, function, &params, grid, &mut checked)?;
        } else {
            // Without their names some may be the same series, which only all together show.
            let mut columns: Vec<Column> = Vec::new();
            self.feed_windows(expr, function, &params, grid, &mut into(&mut columns))?;
            let nameless = columns.iter().map(|c| Column {
                labels: c.labels.without_name(),
                cells: Cells::default(),
            });
            distinct(nameless.collect())?;
            for mut column in columns {
                self.budget.release(column.cells.weight());
                checked(&mut self.budget, &column.labels, &mut column.cells)?;
            }
        }
        names_seen
            .iter()
            .for_each(|name| self.annotations.possible_non_counter(name));
        if name == "quantile_over_time" {
            params.iter().flatten().for_each(|q| self.annotations.quantile(*q));
        }
        Ok(())
    }

    /// As [`Evaluator::feed_window_call`], names kept.
    fn feed_windows(
        &mut self,
        expr: &Expr,
        function: Function,
        params: &[Vec<f64>],
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), Error> {
        let mut scratch = Scratch::default();
        match expr {
            Expr::Paren(p) => self.feed_windows(p, function, params, grid, sink),
            Expr::MatrixSelector(m) => {
                let windows = Windows {
                    function,
                    params,
                    shift: Shift::new(m.vs.at, m.vs.offset.as_ref(), &self.query),
                    range_ms: m.range.ms,
                    extension: m.vs.extension,
                    reach: extended::reach(m.vs.extension, super::selector::millis(self.options.lookback)),
                    grid,
                };
                let (back_ms, ahead_ms) = windows.reach;
                self.visit(
                    &m.vs,
                    windows.shift,
                    (windows.range_ms.saturating_add(back_ms), ahead_ms),
                    grid,
                    &mut |budget, annotations, series| {
                        if scratch.slide(&windows, series, annotations) {
                            sink(budget, series.identity, &mut scratch.cells)?;
                        }
                        Ok(())
                    },
                )
            }
            Expr::Subquery(s) => {
                let windows = Windows {
                    function,
                    params,
                    shift: Shift::new(s.at, s.offset.as_ref(), &self.query),
                    range_ms: s.range.ms,
                    extension: None,
                    reach: (0, 0),
                    grid,
                };
                let series = self.subquery(s, windows.shift, grid)?;
                for data in series {
                    self.budget.tick()?;
                    let view = SeriesView {
                        identity: &data.labels,
                        samples: &data.samples,
                        histograms: &data.histograms,
                    };
                    if scratch.slide(&windows, view, &mut self.annotations) {
                        sink(&mut self.budget, &data.labels, &mut scratch.cells)?;
                    }
                    let weight = data.histograms.iter().map(|h| h.value.weight()).sum::<usize>();
                    self.budget.release(data.samples.len() + weight);
                }
                Ok(())
            }
            _ => Err(Error::BadQuery(format!("{expr} is not a range vector like up[5m]"))),
        }
    }

    /// 1 where no series has anything in its window.
    pub(super) fn absent_over_time(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let expr = super::call::argument(call, 0)?;
        let mut present = vec![false; grid.steps];
        if let Some(function) = lookup("present_over_time") {
            self.feed_windows(expr, function, &[], grid, &mut |_, _, cells| {
                let there = cells.values.iter().map(|v| !is_stale(*v));
                present.iter_mut().zip(there).for_each(|(p, there)| *p |= there);
                Ok(())
            })?;
        }
        Ok(super::label::absent(expr, &present, grid))
    }
}

/// Whether two of its series still differ without the metric's name.
fn pins_series(range: &Expr) -> bool {
    match range {
        Expr::Paren(p) => pins_series(p),
        Expr::MatrixSelector(m) => pins_name(&m.vs),
        _ => false,
    }
}

fn invalid_factor(name: &str, params: &[Vec<f64>]) -> Option<String> {
    let is_smoothing = matches!(name, "holt_winters" | "double_exponential_smoothing");
    let kinds = ["smoothing", "trend"];
    let of = |(kind, values): (&str, &Vec<f64>)| {
        let bad = values.iter().find(|v| **v <= 0.0 || **v >= 1.0)?;
        Some(format!("invalid {kind} factor: {bad} is not between 0 and 1"))
    };
    is_smoothing
        .then(|| kinds.into_iter().zip(params).find_map(of))
        .flatten()
}

/// Memory that is used again for each series.
#[derive(Default)]
struct Scratch {
    cells: Cells,
    floats: Vec<Sample>,
    histograms: Vec<HistogramSample>,
}

impl Scratch {
    /// Fills the cells; false if there is nothing at any step.
    fn slide(&mut self, windows: &Windows<'_>, series: SeriesView<'_>, annotations: &mut Annotations) -> bool {
        let mut floats = series.samples;
        if floats.iter().any(|s| is_stale(s.value)) {
            self.floats.clear();
            self.floats.extend(floats.iter().filter(|s| !is_stale(s.value)));
            floats = &self.floats;
        }
        let mut histograms = series.histograms;
        if histograms.iter().any(|h| h.value.is_stale()) {
            self.histograms.clear();
            self.histograms
                .extend(histograms.iter().filter(|h| !h.value.is_stale()).cloned());
            histograms = &self.histograms;
        }
        let never_falls = windows.function.is_counter && floats.is_sorted_by(|a, b| a.value <= b.value);
        self.cells.reset(windows.grid.steps);
        let mut any = false;
        // Both ends only move forward.
        let (mut from, mut to, mut first, mut end) = (0, 0, 0, 0);
        let (back_ms, ahead_ms) = windows.reach;
        for (step, time_ms) in windows.grid.times().enumerate() {
            let end_ms = windows.shift.apply(time_ms);
            let start_ms = end_ms.saturating_sub(windows.range_ms).saturating_sub(back_ms);
            let last_ms = end_ms.saturating_add(ahead_ms);
            while floats.get(to).is_some_and(|s| s.ts_ms <= last_ms) {
                to += 1;
            }
            while from < to && floats[from].ts_ms <= start_ms {
                from += 1;
            }
            while histograms.get(end).is_some_and(|h| h.ts_ms <= last_ms) {
                end += 1;
            }
            while first < end && histograms[first].ts_ms <= start_ms {
                first += 1;
            }
            if from == to && first == end {
                continue;
            }
            let param = |i: usize| windows.params.get(i).map_or(0.0, |p: &Vec<f64>| p[step]);
            let window = Window {
                floats: &floats[from..to],
                histograms: &histograms[first..end],
                identity: series.identity,
                time_ms,
                end_ms,
                range_ms: windows.range_ms,
                extension: windows.extension,
                params: [param(0), param(1)],
                never_falls,
            };
            if let Some(point) = (windows.function.eval)(&window, annotations) {
                self.cells.set(step, point);
                any = true;
            }
        }
        any
    }
}
