//! Where series come from, one by one: a selector, a function over the windows of a selector, or anything else that was
//! evaluated before. What takes them decides what is kept.

use super::{Annotations, Budget, Cells, Column, Evaluator, Grid, column, invariant, selector::Shift, window};
use crate::engine::Error;
use crate::parse::{Expr, VectorSelector};
use std::ops::ControlFlow;
use weir_series::{Identity, MatchOp, Matcher, SelectError, SeriesView, names};

/// Takes one series; the cells may be moved out.
pub(super) type Sink<'s> = dyn FnMut(&mut Budget<'_>, &dyn Identity, &mut Cells) -> Result<(), Error> + 's;

/// Takes the samples of one series.
pub(super) type Reader<'s> = dyn FnMut(&mut Budget<'_>, &mut Annotations, SeriesView<'_>) -> Result<(), Error> + 's;

/// An identity that has lost the metric's name.
pub(super) struct Nameless<'a>(pub &'a dyn Identity);

impl Identity for Nameless<'_> {
    fn get(&self, name: &str) -> &str {
        if name == names::METRIC_NAME {
            ""
        } else {
            self.0.get(name)
        }
    }

    fn labels(&self) -> weir_series::Labels {
        self.0.labels().without_name()
    }
}

impl Evaluator<'_> {
    /// Hands every series of an instant vector to `sink`, in no particular order.
    pub(super) fn feed(&mut self, expr: &Expr, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), Error> {
        let varies = grid.steps <= 1 || !invariant::is_worthwhile(expr);
        match expr {
            Expr::Paren(p) => self.feed(p, grid, sink),
            Expr::VectorSelector(selector) if varies && selector.extension.is_some() => {
                self.feed_smoothed(selector, grid, sink)
            }
            Expr::VectorSelector(selector) if varies => self.feed_newest(selector, grid, false, sink),
            Expr::Call(call) if varies && window::lookup(call.func.name).is_some() => {
                self.feed_window_call(call, grid, sink)
            }
            _ => {
                for mut column in self.vector(expr, grid)? {
                    self.budget.release(column.cells.weight());
                    sink(&mut self.budget, &column.labels, &mut column.cells)?;
                }
                Ok(())
            }
        }
    }

    /// All that [`Evaluator::feed`] gives, sorted by labels.
    pub(super) fn collect(&mut self, expr: &Expr, grid: &Grid) -> Result<Vec<Column>, Error> {
        let mut columns = Vec::new();
        self.feed(expr, grid, &mut into(&mut columns))?;
        columns.sort_unstable_by(|a: &Column, b| a.labels.cmp(&b.labels));
        Ok(columns)
    }

    /// The newest point within the look-back at each step, or the time of its sample.
    pub(super) fn feed_newest(
        &mut self,
        selector: &VectorSelector,
        grid: &Grid,
        times: bool,
        sink: &mut Sink<'_>,
    ) -> Result<(), Error> {
        let lookback_ms = super::selector::millis(self.options.lookback);
        let shift = Shift::new(selector.at, selector.offset.as_ref(), &self.query);
        let mut cells = Cells::default();
        self.visit(selector, shift, (lookback_ms, 0), grid, &mut |budget, _, series| {
            cells.reset(grid.steps);
            super::selector::newest(&series, shift, lookback_ms, grid, times, &mut cells);
            if cells.is_empty() {
                return Ok(());
            }
            sink(budget, series.identity, &mut cells)
        })
    }

    /// Shows each selected series with the samples of all steps, those of the window around each (so many milliseconds
    /// back, and ahead) included.
    pub(super) fn visit(
        &mut self,
        selector: &VectorSelector,
        shift: Shift,
        (back_ms, ahead_ms): (i64, i64),
        grid: &Grid,
        reader: &mut Reader<'_>,
    ) -> Result<(), Error> {
        self.budget.check_time()?;
        if grid.steps == 0 {
            return Ok(());
        }
        let matchers = selector.all_matchers();
        // Left-open: the first millisecond that counts.
        let start = shift.apply(grid.start_ms).saturating_sub(back_ms).saturating_add(1);
        let end = shift.apply(grid.end_ms()).saturating_add(ahead_ms);
        let (store, budget, annotations) = (self.store, &mut self.budget, &mut self.annotations);
        let mut failure = None;
        let visited = store.visit(&matchers, start, end, &mut |series| {
            let weight = series.samples.len() + series.histograms.iter().map(|h| h.value.weight()).sum::<usize>();
            let read = budget.tick().and_then(|()| budget.fits(weight));
            match read.and_then(|()| reader(budget, annotations, series)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        visited.map_err(|e: SelectError| Error::Execution(e.to_string()))
    }
}

/// A sink that keeps everything.
pub(super) fn into(
    columns: &mut Vec<Column>,
) -> impl FnMut(&mut Budget<'_>, &dyn Identity, &mut Cells) -> Result<(), Error> + '_ {
    |budget, identity, cells| {
        budget.charge(cells.weight())?;
        columns.push(Column {
            labels: identity.labels(),
            cells: std::mem::take(cells),
        });
        Ok(())
    }
}

/// Whether all that it selects has one name, so that two series still differ without it.
pub(super) fn pins_name(selector: &VectorSelector) -> bool {
    let by_matcher = |m: &Matcher| m.name() == names::METRIC_NAME && m.op() == MatchOp::Equal;
    selector.name.is_some() || selector.matchers.iter().any(by_matcher)
}

/// Sorted, and an error if two are the same series.
pub(super) fn distinct(mut columns: Vec<Column>) -> Result<Vec<Column>, Error> {
    columns.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
    column::must_differ(&columns)?;
    Ok(columns)
}
