//! Selectors: which series, and at which times to look at them.

use super::{Asked, Cells, Grid, Point};
use crate::engine::Error;
use promql_parser::{
    label::MatchOp as ParsedOp,
    parser::{AtModifier, Offset, VectorSelector},
};
use std::time::{Duration, SystemTime};
use weir_series::{MatchOp, Matcher, SeriesView, is_stale, names};

/// Where in time a selector looks, seen from a step.
#[derive(Clone, Copy)]
pub(super) struct Shift {
    at_ms: Option<i64>,
    offset_ms: i64,
}

impl Shift {
    /// `query` are the times of the whole query, which `start()` and `end()` mean even within a subquery.
    pub fn new(at: &Option<AtModifier>, offset: &Option<Offset>, query: &Asked) -> Self {
        let at_ms = at.as_ref().map(|at| match at {
            AtModifier::Start => query.start_ms,
            AtModifier::End => query.end_ms,
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

/// Fills in the newest point (or its time) within the look-back, left open, at each step.
pub(super) fn newest(
    series: &SeriesView<'_>,
    shift: Shift,
    lookback_ms: i64,
    grid: &Grid,
    times: bool,
    cells: &mut Cells,
) {
    let (mut float, mut histogram) = (0, 0);
    for (step, time) in grid.times().enumerate() {
        let end = shift.apply(time);
        while series.samples.get(float).is_some_and(|s| s.ts_ms <= end) {
            float += 1;
        }
        while series.histograms.get(histogram).is_some_and(|h| h.ts_ms <= end) {
            histogram += 1;
        }
        let oldest = end.saturating_sub(lookback_ms);
        let sample = float
            .checked_sub(1)
            .map(|i| series.samples[i])
            .filter(|s| s.ts_ms > oldest);
        let native = histogram.checked_sub(1).map(|i| &series.histograms[i]);
        let native = native.filter(|h| h.ts_ms > oldest && sample.is_none_or(|s| s.ts_ms <= h.ts_ms));
        let (ts_ms, point) = match (native, sample) {
            (Some(h), _) if !h.value.is_stale() => (h.ts_ms, Point::Histogram(h.value.clone())),
            (None, Some(s)) if !is_stale(s.value) => (s.ts_ms, Point::Float(s.value)),
            _ => continue,
        };
        if times {
            cells.values[step] = ts_ms as f64 / 1000.0;
        } else {
            cells.set(step, point);
        }
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
