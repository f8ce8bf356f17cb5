//! Columns: a series over all steps of a [`Grid`](super::Grid), floats and native histograms.

use super::{Budget, Grid};
use crate::engine::Error;
use rapidhash::RapidHashMap;
use std::sync::Arc;
use weir_series::{Histogram, HistogramSample, Labels, Sample, SeriesData, is_stale, stale_nan};

/// What a series is at one time.
#[derive(Clone, Debug)]
pub(crate) enum Point {
    Float(f64),
    Histogram(Arc<Histogram>),
}

impl Point {
    pub fn histogram(h: Histogram) -> Self {
        Point::Histogram(Arc::new(h))
    }
}

/// The points of a series over all steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cells {
    /// One a step; the staleness marker where there is no float.
    pub values: Vec<f64>,
    /// Empty, or one a step. No step has both a float and a histogram.
    histograms: Vec<Option<Arc<Histogram>>>,
}

impl Cells {
    pub fn absent(grid: &Grid) -> Self {
        let mut cells = Cells::default();
        cells.reset(grid.steps);
        cells
    }

    pub fn floats(values: Vec<f64>) -> Self {
        Cells {
            values,
            histograms: Vec::new(),
        }
    }

    /// Nothing at any step.
    pub fn reset(&mut self, steps: usize) {
        self.values.clear();
        self.values.resize(steps, stale_nan());
        self.histograms.clear();
    }

    pub fn has_histograms(&self) -> bool {
        !self.histograms.is_empty()
    }

    pub fn histogram(&self, step: usize) -> Option<&Arc<Histogram>> {
        self.histograms.get(step)?.as_ref()
    }

    /// The float of a step.
    pub fn float(&self, step: usize) -> Option<f64> {
        self.values.get(step).copied().filter(|v| !is_stale(*v))
    }

    pub fn point(&self, step: usize) -> Option<Point> {
        match self.float(step) {
            Some(value) => Some(Point::Float(value)),
            None => self.histogram(step).cloned().map(Point::Histogram),
        }
    }

    pub fn set(&mut self, step: usize, point: Point) {
        match point {
            Point::Float(value) => self.values[step] = value,
            Point::Histogram(h) => {
                self.histograms.resize(self.values.len(), None);
                self.histograms[step] = Some(h);
            }
        }
    }

    pub fn clear(&mut self, step: usize) {
        self.values[step] = stale_nan();
        if let Some(h) = self.histograms.get_mut(step) {
            *h = None;
        }
    }

    pub fn is_present(&self, step: usize) -> bool {
        !is_stale(self.values[step]) || self.histogram(step).is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|v| is_stale(*v)) && self.histograms.iter().all(Option::is_none)
    }

    pub fn drop_histograms(&mut self) {
        self.histograms = Vec::new();
    }

    /// What it counts for in the limit of samples.
    pub fn weight(&self) -> usize {
        let histograms = self.histograms.iter().flatten();
        self.values.len() + histograms.map(|h| h.weight()).sum::<usize>()
    }

    /// The same point, that of the only step, at all of `steps`.
    fn repeated(self, steps: usize) -> Self {
        let one = self.histograms.into_iter().next().flatten();
        Cells {
            values: vec![self.values.first().copied().unwrap_or_else(stale_nan); steps],
            histograms: one.map_or_else(Vec::new, |h| vec![Some(h); steps]),
        }
    }
}

/// A series over all steps.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub labels: Labels,
    pub cells: Cells,
}

impl Column {
    pub fn absent(labels: Labels, grid: &Grid) -> Self {
        Column {
            labels,
            cells: Cells::absent(grid),
        }
    }

    pub fn repeated(self, steps: usize) -> Self {
        Column {
            labels: self.labels,
            cells: self.cells.repeated(steps),
        }
    }

    pub fn into_series(self, grid: &Grid) -> SeriesData {
        let present = grid.times().zip(self.cells.values).filter(|(_, v)| !is_stale(*v));
        let histograms = grid.times().zip(self.cells.histograms);
        SeriesData {
            labels: self.labels,
            samples: present.map(|(ts_ms, value)| Sample { ts_ms, value }).collect(),
            histograms: histograms
                .filter_map(|(ts_ms, h)| h.map(|value| HistogramSample { ts_ms, value }))
                .collect(),
        }
    }
}

/// Applies `f` to every float; histograms, of which `f` knows nothing, drop out.
pub(crate) fn map_floats(mut columns: Vec<Column>, f: impl Fn(f64) -> f64) -> Vec<Column> {
    for column in &mut columns {
        column.cells.drop_histograms();
        let there = column.cells.values.iter_mut().filter(|v| !is_stale(**v));
        there.for_each(|v| *v = f(*v));
    }
    columns.retain(|c| !c.cells.is_empty());
    columns
}

/// Without metric names, as most functions and operators give their results.
pub(crate) fn drop_names(columns: Vec<Column>, budget: &mut Budget) -> Result<Vec<Column>, Error> {
    relabel(columns, budget, Labels::without_name)
}

/// With other labels. Columns that become the same series join where only one of them has a value at a time.
pub(crate) fn relabel(
    mut columns: Vec<Column>,
    budget: &mut Budget,
    f: impl Fn(&Labels) -> Labels,
) -> Result<Vec<Column>, Error> {
    columns.iter_mut().for_each(|c| c.labels = f(&c.labels));
    merge(columns, budget)
}

pub(crate) fn duplicate(labels: &Labels) -> Error {
    Error::Execution(format!(
        "vector cannot contain metrics with the same labelset: {labels}"
    ))
}

/// Joins columns of equal labels; two points of one series at one time are an error.
pub(crate) fn merge(columns: Vec<Column>, budget: &mut Budget) -> Result<Vec<Column>, Error> {
    let mut index: RapidHashMap<Labels, usize> = RapidHashMap::default();
    let mut merged: Vec<Column> = Vec::with_capacity(columns.len());
    for column in columns {
        let Some(&at) = index.get(&column.labels) else {
            index.insert(column.labels.clone(), merged.len());
            merged.push(column);
            continue;
        };
        budget.check_time()?;
        let cells = &mut merged[at].cells;
        for step in 0..column.cells.values.len() {
            let Some(point) = column.cells.point(step) else {
                continue;
            };
            if cells.is_present(step) {
                return Err(duplicate(&column.labels));
            }
            cells.set(step, point);
        }
        budget.release(column.cells.weight());
    }
    Ok(merged)
}

/// An error if two columns are the same series at any time.
pub(crate) fn must_differ(columns: &[Column]) -> Result<(), Error> {
    let mut seen: RapidHashMap<&Labels, ()> = RapidHashMap::default();
    match columns.iter().find(|c| seen.insert(&c.labels, ()).is_some()) {
        Some(twice) => Err(duplicate(&twice.labels)),
        None => Ok(()),
    }
}
