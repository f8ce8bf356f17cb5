//! info(): the labels of info metrics (`target_info`) join the series of the same target.

use super::{Column, Evaluator, Grid, Output, call::argument, column::merge, selector::Shift};
use crate::engine::Error;
use crate::parse::{AtModifier, Call, Duration, Expr, VectorSelector};
use rapidhash::RapidHashMap;
use std::collections::BTreeMap;
use weir_series::{Labels, Matcher, names};

/// The labels by which an info metric and a series are of the same target.
const IDENTITY: [&str; 2] = [names::INSTANCE, names::JOB];

type Target = [String; 2];

/// A series of an info metric: its labels, and the time of its newest sample at each step.
struct Info {
    labels: Labels,
    times: super::Cells,
}

/// Which info series there are for one target, by their metric.
type OfTarget = BTreeMap<String, Vec<usize>>;

fn target(get: impl Fn(&str) -> String) -> Option<Target> {
    let target = IDENTITY.map(get);
    target.iter().any(|v| !v.is_empty()).then_some(target)
}

impl Evaluator<'_> {
    pub(super) fn info(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let first = argument(call, 0)?;
        let base = self.vector(first, grid)?;
        let mut asked = match call.args.get(1) {
            Some(Expr::VectorSelector(conditions)) => conditions.all_matchers(),
            Some(other) => {
                return Err(Error::BadQuery(format!(
                    "{other} is no list of conditions like {{a=\"b\"}}"
                )));
            }
            None => vec![Matcher::equal(names::METRIC_NAME, names::TARGET_INFO)],
        };
        let by_name: Vec<Matcher> = asked
            .iter()
            .filter(|m| m.name() == names::METRIC_NAME)
            .cloned()
            .collect();
        if by_name.is_empty() {
            asked.push(Matcher::equal(names::METRIC_NAME, names::TARGET_INFO));
        }
        let (infos, targets) = self.infos(first, &base, asked.clone(), grid)?;
        asked.retain(|m| m.name() != names::METRIC_NAME);
        let is_info = |labels: &Labels| !by_name.is_empty() && by_name.iter().all(|m| m.matches(labels.metric_name()));
        let mut out = Vec::with_capacity(base.len());
        for column in base {
            self.budget.tick()?;
            if is_info(&column.labels) {
                out.push(column);
                continue;
            }
            let found = target(|name| column.labels.get(name).to_owned()).and_then(|t| targets.get(&t));
            self.budget.release(column.cells.weight());
            let joined = join(column, found, &infos, &asked, grid)?;
            self.charge(&joined)?;
            out.extend(joined);
        }
        self.budget.release(infos.len() * grid.steps);
        let mut out = merge(out, &mut self.budget)?;
        out.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        Ok(Output::Vector(out))
    }

    /// The info series of the targets of `base`, looked up when the first selector within `expr` looks.
    fn infos(
        &mut self,
        expr: &Expr,
        base: &[Column],
        matchers: Vec<Matcher>,
        grid: &Grid,
    ) -> Result<(Vec<Info>, RapidHashMap<Target, OfTarget>), Error> {
        let mut targets: RapidHashMap<Target, OfTarget> = RapidHashMap::default();
        for column in base {
            if let Some(target) = target(|name| column.labels.get(name).to_owned()) {
                targets.entry(target).or_default();
            }
        }
        let mut infos: Vec<Info> = Vec::new();
        if targets.is_empty() {
            return Ok((infos, targets));
        }
        let (at, offset) = moved(expr).unwrap_or_default();
        let shift = Shift::new(at, offset, &self.query);
        let lookback_ms = super::selector::millis(self.options.lookback);
        let selector = VectorSelector::of(matchers);
        self.visit(&selector, shift, (lookback_ms, 0), grid, &mut |budget, _, series| {
            let target = target(|name| series.identity.get(name).to_owned());
            let Some(of_target) = target.and_then(|t| targets.get_mut(&t)) else {
                return Ok(());
            };
            let labels = series.identity.labels();
            if !series.histograms.is_empty() {
                return Err(Error::Execution(format!(
                    "info sample should be float, {labels} is a histogram"
                )));
            }
            let mut times = super::Cells::absent(grid);
            super::selector::newest(&series, shift, lookback_ms, grid, true, &mut times);
            if times.is_empty() {
                return Ok(());
            }
            budget.charge(grid.steps)?;
            of_target
                .entry(labels.metric_name().to_owned())
                .or_default()
                .push(infos.len());
            infos.push(Info { labels, times });
            Ok(())
        })?;
        Ok((infos, targets))
    }
}

/// `@` and `offset` of the first selector.
fn moved(expr: &Expr) -> Option<(Option<AtModifier>, Option<&Duration>)> {
    match expr {
        Expr::VectorSelector(vs) => Some((vs.at, vs.offset.as_ref())),
        Expr::MatrixSelector(m) => Some((m.vs.at, m.vs.offset.as_ref())),
        Expr::Paren(inner) => moved(inner),
        Expr::Unary(u) => moved(&u.expr),
        Expr::Binary(b) => moved(&b.lhs).or_else(|| moved(&b.rhs)),
        Expr::Subquery(s) => moved(&s.expr),
        Expr::Aggregate(a) => moved(&a.expr),
        Expr::Call(c) => c.args.iter().find_map(moved),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => None,
    }
}

/// The series with what the info metrics say at each step, which may make several of it.
fn join(
    column: Column,
    found: Option<&OfTarget>,
    infos: &[Info],
    asked: &[Matcher],
    grid: &Grid,
) -> Result<Vec<Column>, Error> {
    let mut places: RapidHashMap<Vec<usize>, Option<usize>> = RapidHashMap::default();
    let mut out: Vec<Column> = Vec::new();
    for step in 0..grid.steps {
        let Some(point) = column.cells.point(step) else {
            continue;
        };
        let mut chosen = Vec::new();
        for of_metric in found.into_iter().flat_map(BTreeMap::values) {
            chosen.extend(newest(of_metric, infos, step)?);
        }
        let place = match places.get(&chosen) {
            Some(place) => *place,
            None => {
                let labels = enriched(&column.labels, &chosen, infos, asked)?;
                let place = labels.map(|labels| {
                    out.push(Column::absent(labels, grid));
                    out.len() - 1
                });
                places.insert(chosen, place);
                place
            }
        };
        if let Some(place) = place {
            out[place].cells.set(step, point);
        }
    }
    Ok(out)
}

/// Of the series of one info metric, that whose sample is the newest.
fn newest(of_metric: &[usize], infos: &[Info], step: usize) -> Result<Option<usize>, Error> {
    let mut best: Option<(f64, usize)> = None;
    for at in of_metric {
        let Some(time) = infos[*at].times.float(step) else {
            continue;
        };
        match best {
            Some((newest, _)) if newest > time => {}
            Some((newest, other)) if newest == time => {
                let (a, b) = (&infos[other].labels, &infos[*at].labels);
                return Err(Error::Execution(format!(
                    "found duplicate series for info metric: {a} and {b}"
                )));
            }
            _ => best = Some((time, *at)),
        }
    }
    Ok(best.map(|(_, at)| at))
}

/// The labels with those that were asked for (all, if none were). None: a condition was not met.
fn enriched(base: &Labels, chosen: &[usize], infos: &[Info], asked: &[Matcher]) -> Result<Option<Labels>, Error> {
    if chosen.is_empty() {
        return Ok(asked.iter().all(|m| m.matches("")).then(|| base.clone()));
    }
    let mut added: BTreeMap<&str, &str> = BTreeMap::new();
    for label in chosen.iter().flat_map(|at| infos[*at].labels.iter()) {
        let wanted = asked.is_empty() || asked.iter().any(|m| *m.name() == *label.name);
        if *label.name == *names::METRIC_NAME || !wanted {
            continue;
        }
        if added.get(&*label.name).is_some_and(|v| **v != *label.value) {
            return Err(Error::Execution(format!(
                "conflicting label: {} has different values in the info metrics for {base}",
                label.name
            )));
        }
        if base.get(&label.name).is_empty() {
            added.insert(&label.name, &label.value);
        }
    }
    let mut builder = base.builder();
    for (name, value) in added {
        builder.set(name, value);
    }
    Ok(Some(builder.build()))
}
