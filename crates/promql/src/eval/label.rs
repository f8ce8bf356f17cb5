//! Functions that look at labels: label_replace, label_join, absent.

use super::{Column, Evaluator, Grid, Output, call::argument, column::relabel};
use crate::engine::Error;
use crate::parse::{Call, Expr, VectorSelector};
use weir_series::{Labels, MatchOp, names};

impl Evaluator<'_> {
    pub(super) fn absent(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let expr = argument(call, 0)?;
        let mut present = vec![false; grid.steps];
        self.feed(expr, grid, &mut |_, _, cells| {
            let steps = present.iter_mut().enumerate();
            steps.for_each(|(step, there)| *there |= cells.is_present(step));
            Ok(())
        })?;
        Ok(absent(expr, &present, grid))
    }

    fn label_name(&mut self, call: &Call, at: usize, grid: &Grid) -> Result<String, Error> {
        let name = self.text(argument(call, at)?, grid)?;
        if name.is_empty() {
            let function = call.func.name;
            return Err(Error::BadQuery(format!(
                "argument {} of {function} must be a label name, not \"\"",
                at + 1
            )));
        }
        Ok(name)
    }

    /// label_replace(v, dst, replacement, src, regex)
    pub(super) fn label_replace(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let columns = self.vector(argument(call, 0)?, grid)?;
        let dst = self.label_name(call, 1, grid)?;
        let replacement = self.text(argument(call, 2)?, grid)?;
        let src = self.text(argument(call, 3)?, grid)?;
        let pattern = self.text(argument(call, 4)?, grid)?;
        let regex = regex::Regex::new(&format!("^(?s:{pattern})$"))
            .map_err(|_| Error::BadQuery(format!("invalid regular expression in label_replace(): {pattern}")))?;
        let change = |labels: &Labels| match regex.captures(labels.get(&src)) {
            None => labels.clone(),
            Some(captures) => {
                let mut value = String::new();
                captures.expand(&replacement, &mut value);
                labels.builder().set(dst.as_str(), value).build()
            }
        };
        Ok(Output::Vector(relabel(columns, &mut self.budget, change)?))
    }

    /// label_join(v, dst, separator, src...)
    pub(super) fn label_join(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let columns = self.vector(argument(call, 0)?, grid)?;
        let dst = self.label_name(call, 1, grid)?;
        let separator = self.text(argument(call, 2)?, grid)?;
        let mut sources = Vec::new();
        for at in 3..call.args.len() {
            sources.push(self.label_name(call, at, grid)?);
        }
        let join = |labels: &Labels| {
            let values: Vec<&str> = sources.iter().map(|s| labels.get(s)).collect();
            labels.builder().set(dst.as_str(), values.join(&separator)).build()
        };
        Ok(Output::Vector(relabel(columns, &mut self.budget, join)?))
    }
}

/// 1 at the steps at which nothing is present, with the labels that the missing series would have.
pub(super) fn absent(expr: &Expr, present: &[bool], grid: &Grid) -> Output {
    let mut column = Column::absent(absent_labels(expr), grid);
    let absent = column
        .cells
        .values
        .iter_mut()
        .zip(present)
        .filter(|(_, there)| !**there);
    absent.for_each(|(value, _)| *value = 1.0);
    Output::Vector(if column.cells.is_empty() {
        Vec::new()
    } else {
        vec![column]
    })
}

/// The labels that a selector asks for with `=`, once each.
fn absent_labels(expr: &Expr) -> Labels {
    match expr {
        Expr::Paren(p) => absent_labels(p),
        Expr::VectorSelector(selector) => of_selector(selector),
        Expr::MatrixSelector(matrix) => of_selector(&matrix.vs),
        _ => Labels::default(),
    }
}

fn of_selector(selector: &VectorSelector) -> Labels {
    let matchers = &selector.matchers;
    let once = |name: &str| matchers.iter().filter(|m| m.name() == name).count() == 1;
    let equal = matchers
        .iter()
        .filter(|m| m.op() == MatchOp::Equal && m.name() != names::METRIC_NAME && once(m.name()));
    Labels::new(equal.map(|m| (m.name(), m.value())))
}
