//! Aggregations that choose among the series of a group and leave them as they are: topk, bottomk, limitk, limit_ratio.

use super::{Column, Evaluator, Grid, group::Groups, math::nan_first};
use crate::engine::Error;
use crate::parse::AggregateExpr;
use std::cmp::Ordering;

impl Evaluator<'_> {
    pub(super) fn select(&mut self, aggregate: &AggregateExpr, name: &str, grid: &Grid) -> Result<Vec<Column>, Error> {
        let params = self.scalar(super::aggregate::parameter(aggregate, name)?, grid)?;
        let columns = self.vector(&aggregate.expr, grid)?;
        let mut groups = Groups::new(aggregate.modifier.as_ref());
        let mut members: Vec<Vec<usize>> = Vec::new();
        for (at, column) in columns.iter().enumerate() {
            let group = groups.of(&column.labels);
            members.resize(groups.labels.len(), Vec::new());
            members[group].push(at);
        }
        if name == "limit_ratio" {
            if params.iter().any(|ratio| ratio.is_nan()) {
                return Err(Error::Execution("limit_ratio: NaN is no ratio between -1 and 1".into()));
            }
            return Ok(self.sample(columns, &params));
        }
        if let Some(bad) = params.iter().find(|k| k.is_nan() || k.abs() >= i64::MAX as f64) {
            return Err(Error::Execution(format!("{name}: {bad} is not a number of series")));
        }
        self.budget.check_time()?;
        if name != "limitk" && columns.iter().any(|c| c.cells.has_histograms()) {
            self.annotations.ignored_in_aggregation(name);
        }
        let mut kept = vec![false; columns.len() * grid.steps];
        let mut order = Vec::new();
        for group in &members {
            self.budget.check_time()?;
            for (step, k) in params.iter().enumerate() {
                // `as` saturates: negative numbers become 0.
                let chosen = match name {
                    "limitk" => first_k(&columns, group, step, *k as usize),
                    _ => best_k(&columns, group, step, *k as usize, name == "topk"),
                };
                chosen.iter().for_each(|at| kept[at * grid.steps + step] = true);
                if grid.steps == 1 {
                    order.extend(chosen);
                }
            }
        }
        let mut columns = columns;
        for (at, column) in columns.iter_mut().enumerate() {
            (0..grid.steps)
                .filter(|step| !kept[at * grid.steps + step])
                .for_each(|step| column.cells.clear(step));
        }
        if grid.steps == 1 {
            // An instant query shows them in the order of their values.
            return Ok(order.into_iter().map(|at| columns[at].clone()).collect());
        }
        columns.retain(|c| !c.cells.is_empty());
        Ok(columns)
    }

    /// Each series or not, by a number between 0 and 1 that its labels alone decide.
    fn sample(&mut self, mut columns: Vec<Column>, ratios: &[f64]) -> Vec<Column> {
        for (step, ratio) in ratios.iter().enumerate() {
            let mut limit = *ratio;
            if !(-1.0..=1.0).contains(&limit) {
                limit = if limit > 1.0 { 1.0 } else { -1.0 };
                self.annotations.ratio(*ratio, limit);
            }
            for column in &mut columns {
                let place = column.labels.fingerprint() as f64 / u64::MAX as f64;
                let chosen = if limit >= 0.0 {
                    place < limit
                } else {
                    place >= 1.0 + limit
                };
                if !chosen {
                    column.cells.clear(step);
                }
            }
        }
        columns.retain(|c| !c.cells.is_empty());
        columns
    }
}

fn first_k(columns: &[Column], group: &[usize], step: usize, k: usize) -> Vec<usize> {
    let present = group.iter().copied().filter(|m| columns[*m].cells.is_present(step));
    present.take(k).collect()
}

/// Best first; NaN is worse than any number.
fn best_k(columns: &[Column], group: &[usize], step: usize, k: usize, largest: bool) -> Vec<usize> {
    let mut ranked: Vec<(f64, usize)> = group
        .iter()
        .filter_map(|m| Some((columns[*m].cells.float(step)?, *m)))
        .collect();
    let by_value = |(a, _): &(f64, usize), (b, _): &(f64, usize)| match (a.is_nan(), b.is_nan()) {
        (false, false) if largest => nan_first(b, a),
        (false, false) => nan_first(a, b),
        (a, b) => a.cmp(&b),
    };
    let order = |a: &(f64, usize), b: &(f64, usize)| -> Ordering { by_value(a, b).then(a.1.cmp(&b.1)) };
    if k < ranked.len() {
        if k > 0 {
            ranked.select_nth_unstable_by(k - 1, order);
        }
        ranked.truncate(k);
    }
    ranked.sort_unstable_by(order);
    ranked.into_iter().map(|(_, m)| m).collect()
}
