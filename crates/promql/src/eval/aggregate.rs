//! Aggregations: series are added to their groups as they come, so that only groups are held.

use super::{Column, Evaluator, Grid, Output, Point, group::Groups, math, native};
use crate::engine::Error;
use crate::parse::{AggregateExpr, Expr};
use rapidhash::RapidHashMap;
use std::sync::Arc;
use weir_series::{Histogram, Labels, is_stale};

/// What a group is at one step while floats are added.
trait Fold: Clone + Default {
    const HISTOGRAMS: Histograms;
    /// It keeps every value.
    const KEEPS: bool = false;
    fn add(&mut self, value: f64);
    fn total(&self, param: f64) -> f64;
}

/// What an aggregation makes of native histograms.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Histograms {
    Sum,
    Mean,
    Count,
    Ignore,
}

#[derive(Clone, Default)]
struct Sum(math::Sum);

impl Fold for Sum {
    const HISTOGRAMS: Histograms = Histograms::Sum;

    fn add(&mut self, value: f64) {
        self.0.add(value);
    }

    fn total(&self, _: f64) -> f64 {
        self.0.total()
    }
}

#[derive(Clone, Default)]
struct Avg(math::Mean);

impl Fold for Avg {
    const HISTOGRAMS: Histograms = Histograms::Mean;

    fn add(&mut self, value: f64) {
        self.0.add(value);
    }

    fn total(&self, _: f64) -> f64 {
        self.0.value()
    }
}

#[derive(Clone)]
struct Extreme<const LARGEST: bool>(f64);

impl<const LARGEST: bool> Default for Extreme<LARGEST> {
    fn default() -> Self {
        Extreme(f64::NAN)
    }
}

impl<const LARGEST: bool> Fold for Extreme<LARGEST> {
    const HISTOGRAMS: Histograms = Histograms::Ignore;

    fn add(&mut self, value: f64) {
        let beats = if LARGEST { value > self.0 } else { value < self.0 };
        if beats || self.0.is_nan() {
            self.0 = value;
        }
    }

    fn total(&self, _: f64) -> f64 {
        self.0
    }
}

#[derive(Clone, Default)]
struct Count(f64);

impl Fold for Count {
    const HISTOGRAMS: Histograms = Histograms::Count;

    fn add(&mut self, _: f64) {
        self.0 += 1.0;
    }

    fn total(&self, _: f64) -> f64 {
        self.0
    }
}

#[derive(Clone, Default)]
struct Presence;

impl Fold for Presence {
    const HISTOGRAMS: Histograms = Histograms::Count;

    fn add(&mut self, _: f64) {}

    fn total(&self, _: f64) -> f64 {
        1.0
    }
}

#[derive(Clone, Default)]
struct Spread<const ROOT: bool>(math::Variance);

impl<const ROOT: bool> Fold for Spread<ROOT> {
    const HISTOGRAMS: Histograms = Histograms::Ignore;

    fn add(&mut self, value: f64) {
        self.0.add(value);
    }

    fn total(&self, _: f64) -> f64 {
        if ROOT { self.0.value().sqrt() } else { self.0.value() }
    }
}

#[derive(Clone, Default)]
struct Quantile(Vec<f64>);

impl Fold for Quantile {
    const HISTOGRAMS: Histograms = Histograms::Ignore;
    const KEEPS: bool = true;

    fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    fn total(&self, q: f64) -> f64 {
        math::quantile(q, self.0.clone())
    }
}

/// A group over all steps.
struct Group<F> {
    /// Whether there was a float, and what came of them.
    floats: Vec<(bool, F)>,
    /// Empty, or one a step.
    histograms: Vec<Option<Native>>,
}

/// What became of a group's histograms at one step.
enum Native {
    Sum(Arc<Histogram>, f64),
    /// They do not fit together: the group has no result there.
    Failed,
}

impl Evaluator<'_> {
    pub(super) fn aggregate(&mut self, aggregate: &AggregateExpr, grid: &Grid) -> Result<Output, Error> {
        let name = aggregate.op;
        let columns = match name {
            "sum" => self.fold::<Sum>(aggregate, &[], grid)?,
            "avg" => self.fold::<Avg>(aggregate, &[], grid)?,
            "min" => self.fold::<Extreme<false>>(aggregate, &[], grid)?,
            "max" => self.fold::<Extreme<true>>(aggregate, &[], grid)?,
            "count" => self.fold::<Count>(aggregate, &[], grid)?,
            "group" => self.fold::<Presence>(aggregate, &[], grid)?,
            "stddev" => self.fold::<Spread<true>>(aggregate, &[], grid)?,
            "stdvar" => self.fold::<Spread<false>>(aggregate, &[], grid)?,
            "quantile" => {
                let q = self.scalar(parameter(aggregate, name)?, grid)?;
                q.iter().for_each(|q| self.annotations.quantile(*q));
                self.fold::<Quantile>(aggregate, &q, grid)?
            }
            "count_values" => self.count_values(aggregate, grid)?,
            "topk" | "bottomk" | "limitk" | "limit_ratio" => self.select(aggregate, name, grid)?,
            _ => return Err(Error::BadQuery(format!("the aggregation {name} is not supported"))),
        };
        Ok(Output::Vector(columns))
    }

    fn fold<F: Fold>(&mut self, aggregate: &AggregateExpr, params: &[f64], grid: &Grid) -> Result<Vec<Column>, Error> {
        let name = aggregate.op;
        let mut groups = Groups::new(aggregate.modifier.as_ref());
        let mut states: Vec<Group<F>> = Vec::new();
        let (mut ignored, mut failures, mut kept) = (false, Failures::default(), 0);
        self.feed(&aggregate.expr, grid, &mut |budget, identity, cells| {
            let at = groups.of(identity);
            if at == states.len() {
                budget.charge(grid.steps)?;
                states.push(Group {
                    floats: vec![(false, F::default()); grid.steps],
                    histograms: Vec::new(),
                });
            }
            let group = &mut states[at];
            for ((there, fold), value) in group.floats.iter_mut().zip(&cells.values) {
                if !is_stale(*value) {
                    *there = true;
                    fold.add(*value);
                }
            }
            if F::KEEPS {
                budget.charge(cells.values.len())?;
                kept += cells.values.len();
            }
            if cells.has_histograms() {
                for step in 0..grid.steps {
                    match cells.histogram(step) {
                        None => {}
                        Some(_) if F::HISTOGRAMS == Histograms::Ignore => ignored = true,
                        Some(_) if F::HISTOGRAMS == Histograms::Count => {
                            group.floats[step].0 = true;
                            group.floats[step].1.add(0.0);
                        }
                        Some(h) => add_histogram(group, step, grid.steps, h, &mut failures),
                    }
                }
            }
            Ok(())
        })?;
        self.budget.release(kept);
        if ignored {
            self.annotations.ignored_in_aggregation(name);
        }
        let mut columns = Vec::with_capacity(states.len());
        for (labels, group) in groups.labels.into_iter().zip(states) {
            let mut column = Column::absent(labels, grid);
            for (step, (there, fold)) in group.floats.iter().enumerate() {
                let native = group.histograms.get(step).and_then(Option::as_ref);
                match (there, native) {
                    (true, Some(_)) => failures.mixed = true,
                    (true, None) => {
                        column.cells.values[step] = fold.total(params.get(step).copied().unwrap_or(0.0));
                    }
                    (false, Some(Native::Sum(h, count))) => column.cells.set(
                        step,
                        match F::HISTOGRAMS {
                            Histograms::Mean => Point::histogram(native::scale(h, 1.0 / count)),
                            _ => Point::Histogram(h.clone()),
                        },
                    ),
                    (false, _) => {}
                }
            }
            if column.cells.is_empty() {
                self.budget.release(grid.steps);
            } else {
                columns.push(column);
            }
        }
        failures.note(&mut self.annotations);
        Ok(columns)
    }

    /// One series for each value that occurs, with the value as a label.
    fn count_values(&mut self, aggregate: &AggregateExpr, grid: &Grid) -> Result<Vec<Column>, Error> {
        let label = self.text(parameter(aggregate, "count_values")?, grid)?;
        if label.is_empty() {
            return Err(Error::BadQuery(
                "count_values needs the name of a label, not \"\"".into(),
            ));
        }
        let mut groups = Groups::new(aggregate.modifier.as_ref());
        let mut index: RapidHashMap<(usize, String), usize> = RapidHashMap::default();
        // Groups that differ in the label that is overwritten are one.
        let mut by_labels: RapidHashMap<Labels, usize> = RapidHashMap::default();
        let mut out: Vec<Column> = Vec::new();
        self.feed(&aggregate.expr, grid, &mut |budget, identity, cells| {
            let group = groups.of(identity);
            for step in 0..grid.steps {
                let value = match cells.point(step) {
                    None => continue,
                    Some(Point::Float(value)) => crate::format::digits(value),
                    Some(Point::Histogram(h)) => native::text(&h),
                };
                let at = match index.get(&(group, value.clone())) {
                    Some(at) => *at,
                    None => {
                        let mut labels = groups.labels[group].builder();
                        let labels = labels.set(label.as_str(), value.as_str()).build();
                        let at = match by_labels.get(&labels) {
                            Some(at) => *at,
                            None => {
                                budget.charge(grid.steps)?;
                                by_labels.insert(labels.clone(), out.len());
                                out.push(Column::absent(labels, grid));
                                out.len() - 1
                            }
                        };
                        index.insert((group, value), at);
                        at
                    }
                };
                let count = &mut out[at].cells.values[step];
                *count = if is_stale(*count) { 1.0 } else { *count + 1.0 };
            }
            Ok(())
        })?;
        Ok(out)
    }
}

/// What went wrong with histograms in any group.
#[derive(Default)]
struct Failures {
    mixed: bool,
    incompatible: bool,
    reconciled: bool,
    conflicting: bool,
}

impl Failures {
    fn note(&self, annotations: &mut super::Annotations) {
        if self.mixed {
            annotations.mixed_aggregation();
        }
        if self.incompatible {
            annotations.mixed_schemas("");
        }
        if self.reconciled {
            annotations.reconciled_bounds("aggregation");
        }
        if self.conflicting {
            annotations.conflicting_resets("aggregation");
        }
    }
}

fn add_histogram<F>(group: &mut Group<F>, step: usize, steps: usize, h: &Arc<Histogram>, failures: &mut Failures) {
    if group.histograms.is_empty() {
        group.histograms.resize_with(steps, || None);
    }
    let state = &mut group.histograms[step];
    *state = Some(match state.take() {
        None => Native::Sum(h.clone(), 1.0),
        Some(Native::Failed) => Native::Failed,
        Some(Native::Sum(sum, count)) => match native::add(&sum, h) {
            Ok(combined) => {
                failures.reconciled |= combined.reconciled;
                failures.conflicting |= combined.conflicting_resets;
                Native::Sum(Arc::new(combined.histogram), count + 1.0)
            }
            Err(native::Incompatible) => {
                failures.incompatible = true;
                Native::Failed
            }
        },
    });
}

pub(super) fn parameter<'e>(aggregate: &'e AggregateExpr, name: &str) -> Result<&'e Expr, Error> {
    let missing = || Error::BadQuery(format!("{name} needs a parameter, as in {name}(5, up)"));
    aggregate.param.as_deref().ok_or_else(missing)
}
