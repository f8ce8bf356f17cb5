//! Selectors: which series, at which times. The store is asked once for all steps.

use super::{Column, Evaluator, Grid, Output};
use crate::engine::Error;
use promql_parser::{
    label::MatchOp as ParsedOp,
    parser::{AtModifier, Expr, MatrixSelector, Offset, SubqueryExpr, VectorSelector},
};
use std::time::{Duration, SystemTime};
use weir_series::{MatchOp, Matcher, Sample, SelectError, SeriesData, is_stale, names};

/// Where in time a selector looks, seen from a step.
#[derive(Clone, Copy)]
pub(super) struct Shift {
    at_ms: Option<i64>,
    offset_ms: i64,
}

impl Shift {
    fn new(at: &Option<AtModifier>, offset: &Option<Offset>, grid: &Grid) -> Self {
        let at_ms = at.as_ref().map(|at| match at {
            AtModifier::Start => grid.start_ms,
            AtModifier::End => grid.end_ms(),
            AtModifier::At(time) => unix_ms(*time),
        });
        let offset_ms = match offset {
            None => 0,
            Some(Offset::Pos(d)) => millis(*d),
            Some(Offset::Neg(d)) => -millis(*d),
        };
        Shift { at_ms, offset_ms }
    }

    pub fn apply(&self, step_ms: i64) -> i64 {
        self.at_ms.unwrap_or(step_ms).saturating_sub(self.offset_ms)
    }
}

/// Series with their samples, and the windows (left open) in which to look at them.
pub(super) struct Ranges {
    pub series: Vec<SeriesData>,
    pub shift: Shift,
    pub range_ms: i64,
}

impl Evaluator<'_> {
    /// The newest sample within the look-back at each step.
    pub fn instant_selector(&mut self, selector: &VectorSelector, grid: &Grid) -> Result<Vec<Column>, Error> {
        self.newest(selector, grid, |sample| sample.value)
    }

    /// As [`Evaluator::instant_selector`], but the times of the samples in seconds.
    pub fn instant_times(&mut self, selector: &VectorSelector, grid: &Grid) -> Result<Vec<Column>, Error> {
        self.newest(selector, grid, |sample| sample.ts_ms as f64 / 1000.0)
    }

    fn newest(
        &mut self,
        selector: &VectorSelector,
        grid: &Grid,
        take: impl Fn(&Sample) -> f64,
    ) -> Result<Vec<Column>, Error> {
        let lookback_ms = millis(self.options.lookback);
        let shift = Shift::new(&selector.at, &selector.offset, grid);
        let series = self.select(selector, shift, lookback_ms, grid)?;
        let mut columns = Vec::with_capacity(series.len());
        for SeriesData { labels, samples, .. } in series {
            let mut column = Column::absent(labels, grid);
            let mut next = 0;
            for (value, time) in column.values.iter_mut().zip(grid.times()) {
                let time = shift.apply(time);
                while samples.get(next).is_some_and(|s| s.ts_ms <= time) {
                    next += 1;
                }
                let newest = next
                    .checked_sub(1)
                    .map(|i| &samples[i])
                    .filter(|s| s.ts_ms > time - lookback_ms);
                if let Some(sample) = newest.filter(|s| !is_stale(s.value)) {
                    *value = take(sample);
                }
            }
            if !column.is_empty() {
                self.charge(grid.steps)?;
                columns.push(column);
            }
        }
        Ok(columns)
    }

    /// The samples behind a range vector, staleness markers removed.
    pub(super) fn ranges(&mut self, expr: &Expr, grid: &Grid) -> Result<Ranges, Error> {
        match expr {
            Expr::Paren(p) => self.ranges(&p.expr, grid),
            Expr::MatrixSelector(m) => self.matrix_selector(m, grid),
            Expr::Subquery(s) => self.subquery(s, grid),
            _ => Err(Error::BadQuery(format!("{expr} is not a range vector like up[5m]"))),
        }
    }

    fn matrix_selector(&mut self, matrix: &MatrixSelector, grid: &Grid) -> Result<Ranges, Error> {
        let range_ms = millis(matrix.range);
        let shift = Shift::new(&matrix.vs.at, &matrix.vs.offset, grid);
        let mut series = self.select(&matrix.vs, shift, range_ms, grid)?;
        series
            .iter_mut()
            .for_each(|s| s.samples.retain(|sample| !is_stale(sample.value)));
        Ok(Ranges {
            series,
            shift,
            range_ms,
        })
    }

    fn subquery(&mut self, subquery: &SubqueryExpr, grid: &Grid) -> Result<Ranges, Error> {
        let range_ms = millis(subquery.range);
        let shift = Shift::new(&subquery.at, &subquery.offset, grid);
        let step_ms = millis(subquery.step.unwrap_or(self.options.default_step)).max(1);
        let (from, to) = (
            shift.apply(grid.start_ms).saturating_sub(range_ms),
            shift.apply(grid.end_ms()),
        );
        // Steps lie at whole multiples of the step since 1970, the first after the open end.
        let first = from.div_euclid(step_ms).saturating_add(1).saturating_mul(step_ms);
        let steps = if to < first {
            0
        } else {
            ((to - first) / step_ms) as usize + 1
        };
        if steps > self.options.max_steps {
            return Err(Error::BadQuery(format!(
                "the subquery {subquery} has {steps} steps: take a longer step"
            )));
        }
        let inner = Grid {
            start_ms: first,
            step_ms,
            steps,
        };
        let series = match self.eval(&subquery.expr, &inner)? {
            Output::Vector(columns) => columns.into_iter().map(|c| c.into_series(&inner)).collect(),
            Output::Scalar(values) => {
                let samples = inner
                    .times()
                    .zip(values)
                    .map(|(ts_ms, value)| Sample { ts_ms, value })
                    .collect();
                vec![SeriesData {
                    labels: Default::default(),
                    samples,
                    ..SeriesData::default()
                }]
            }
            Output::String(_) => return Err(Error::BadQuery("a subquery needs an instant vector".into())),
        };
        Ok(Ranges {
            series,
            shift,
            range_ms,
        })
    }

    /// The samples of `up[5m]` alone, which is all that an instant query may ask of a range vector.
    pub fn top_level_matrix(&mut self, expr: &Expr, grid: &Grid) -> Result<Option<Vec<SeriesData>>, Error> {
        match expr {
            Expr::Paren(p) => self.top_level_matrix(&p.expr, grid),
            Expr::MatrixSelector(_) | Expr::Subquery(_) => {
                let mut ranges = self.ranges(expr, grid)?;
                let end = ranges.shift.apply(grid.start_ms);
                for series in &mut ranges.series {
                    series
                        .samples
                        .retain(|s| s.ts_ms <= end && s.ts_ms > end - ranges.range_ms);
                }
                ranges.series.retain(|s| !s.samples.is_empty());
                Ok(Some(ranges.series))
            }
            _ => Ok(None),
        }
    }

    fn select(
        &mut self,
        selector: &VectorSelector,
        shift: Shift,
        range_ms: i64,
        grid: &Grid,
    ) -> Result<Vec<SeriesData>, Error> {
        self.check_time()?;
        if grid.steps == 0 {
            return Ok(Vec::new());
        }
        let matchers = matchers(selector)?;
        // Left-open: the first millisecond that counts.
        let start = shift.apply(grid.start_ms).saturating_sub(range_ms).saturating_add(1);
        let end = shift.apply(grid.end_ms());
        let left = self.options.max_samples - self.loaded.min(self.options.max_samples);
        let series = self.store.select(&matchers, start, end, left).map_err(|e| match e {
            SelectError::TooManySamples { .. } => {
                let limit = self.options.max_samples;
                Error::Execution(format!(
                    "the query needs more than {limit} samples: ask for fewer series or a shorter time"
                ))
            }
            other => Error::Execution(other.to_string()),
        })?;
        self.charge(series.iter().map(|s| s.samples.len()).sum())?;
        Ok(series)
    }
}

/// A selector's conditions.
pub(crate) fn matchers(selector: &VectorSelector) -> Result<Vec<Matcher>, Error> {
    if !selector.matchers.or_matchers.is_empty() {
        return Err(Error::BadQuery(
            "`or` between label matchers is not supported: write it between selectors".into(),
        ));
    }
    let mut out = Vec::with_capacity(selector.matchers.matchers.len() + 1);
    if let Some(name) = &selector.name {
        out.push(Matcher::equal(names::METRIC_NAME, name));
    }
    for m in &selector.matchers.matchers {
        let op = match m.op {
            ParsedOp::Equal => MatchOp::Equal,
            ParsedOp::NotEqual => MatchOp::NotEqual,
            ParsedOp::Re(_) => MatchOp::Regex,
            ParsedOp::NotRe(_) => MatchOp::NotRegex,
        };
        out.push(Matcher::new(op, &m.name, &m.value).map_err(|e| Error::BadQuery(e.to_string()))?);
    }
    Ok(out)
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis())
        .unwrap_or(i64::MAX / 4)
        .min(i64::MAX / 4)
}

fn unix_ms(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => millis(after),
        Err(before) => -millis(before.duration()),
    }
}
