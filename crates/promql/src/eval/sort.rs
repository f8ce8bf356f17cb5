//! The order of an instant vector; a matrix is ordered by labels anyway.

use super::{Column, Evaluator, Grid, Output, call::argument};
use crate::engine::Error;
use crate::parse::Call;
use std::cmp::Ordering;

impl Evaluator<'_> {
    fn warn_in_range(&mut self, call: &Call) {
        if self.query.step_ms > 0 {
            self.annotations.sort_in_range(call.func.name);
        }
    }

    /// By value; NaN last in either direction. Histograms have no order and drop out.
    pub(super) fn sort(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        self.warn_in_range(call);
        let mut columns = self.vector(argument(call, 0)?, grid)?;
        columns.iter_mut().for_each(|c| c.cells.drop_histograms());
        columns.retain(|c| !c.cells.is_empty());
        if grid.steps == 1 {
            let descending = call.func.name == "sort_desc";
            columns.sort_by(|a, b| {
                let (a, b) = (a.cells.values[0], b.cells.values[0]);
                match (a.is_nan(), b.is_nan()) {
                    (false, false) if descending => b.total_cmp(&a),
                    (false, false) => a.total_cmp(&b),
                    (a, b) => a.cmp(&b),
                }
            });
        }
        Ok(Output::Vector(columns))
    }

    /// By the values of labels, numbers in them by what they are worth.
    pub(super) fn sort_by_label(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        self.warn_in_range(call);
        let mut columns = self.vector(argument(call, 0)?, grid)?;
        let mut names = Vec::new();
        for at in 1..call.args.len() {
            names.push(self.text(argument(call, at)?, grid)?);
        }
        if grid.steps == 1 {
            let by_labels = |a: &Column, b: &Column| {
                let by_name = |name: &String| natural(a.labels.get(name), b.labels.get(name));
                let first = names.iter().map(by_name).find(|o| *o != Ordering::Equal);
                first.unwrap_or_else(|| a.labels.cmp(&b.labels))
            };
            columns.sort_by(by_labels);
            if call.func.name == "sort_by_label_desc" {
                columns.reverse();
            }
        }
        Ok(Output::Vector(columns))
    }
}

/// `a2` before `a10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    while !a.is_empty() && !b.is_empty() {
        let ((x, rest_a), (y, rest_b)) = (chunk(a), chunk(b));
        let order = match (x.parse::<u128>(), y.parse::<u128>()) {
            (Ok(x), Ok(y)) => x.cmp(&y),
            _ => x.cmp(y),
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    a.len().cmp(&b.len())
}

/// Digits, or anything but digits, up to where the other begins.
fn chunk(text: &str) -> (&str, &str) {
    let is_digit = |c: char| c.is_ascii_digit();
    let first = text.chars().next().is_some_and(is_digit);
    text.split_at(text.find(|c| is_digit(c) != first).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_text_count_as_numbers() {
        assert_eq!(natural("pod-2", "pod-10"), Ordering::Less);
        assert_eq!(natural("pod-2b", "pod-2a"), Ordering::Greater);
        assert_eq!(natural("10", "a"), Ordering::Less);
        assert_eq!(natural("x", "x1"), Ordering::Less);
        assert_eq!(natural("", ""), Ordering::Equal);
    }
}
