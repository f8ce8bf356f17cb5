//! Selectors: which series, and at which times to look at them.

use super::{Asked, Cells, Grid, Point};
use crate::parse::{AtModifier, Duration};
use weir_series::{SeriesView, is_stale};

/// Where in time a selector looks, seen from a step.
#[derive(Clone, Copy)]
pub(super) struct Shift {
    at_ms: Option<i64>,
    offset_ms: i64,
}

impl Shift {
    /// `query` are the times of the whole query, which `start()` and `end()` mean even within a subquery.
    pub fn new(at: Option<AtModifier>, offset: Option<&Duration>, query: &Asked) -> Self {
        let at_ms = at.map(|at| match at {
            AtModifier::Start => query.start_ms,
            AtModifier::End => query.end_ms,
            AtModifier::At(ms) => ms,
        });
        let offset_ms = offset.map_or(0, |d| d.ms);
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

pub(super) fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis())
        .unwrap_or(i64::MAX / 4)
        .min(i64::MAX / 4)
}
