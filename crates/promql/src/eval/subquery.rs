//! Subqueries: an instant vector evaluated at many times becomes a range vector.

use super::{Evaluator, Grid, Output, extended, selector::Shift, selector::millis};
use crate::engine::Error;
use crate::parse::{Expr, SubqueryExpr};
use weir_series::SeriesData;

/// Steps that a subquery may have, whatever the query's own limit is: windows of a range query overlap widely.
const MAX_STEPS: usize = 1_000_000;

impl Evaluator<'_> {
    /// The series of a subquery with the points of all its windows.
    pub(super) fn subquery(
        &mut self,
        subquery: &SubqueryExpr,
        shift: Shift,
        grid: &Grid,
    ) -> Result<Vec<SeriesData>, Error> {
        let inner = self.inner_grid(subquery, shift, grid)?;
        let columns = match self.eval(&subquery.expr, &inner)? {
            Output::Vector(columns) => columns,
            _ => return Err(Error::BadQuery("a subquery needs an instant vector".into())),
        };
        Ok(columns.into_iter().map(|c| c.into_series(&inner)).collect())
    }

    /// Steps lie at whole multiples of the step since 1970, the first after the open end of the first window.
    fn inner_grid(&self, subquery: &SubqueryExpr, shift: Shift, grid: &Grid) -> Result<Grid, Error> {
        let range_ms = subquery.range.ms;
        let step_ms = subquery
            .step
            .as_ref()
            .map_or_else(|| millis(self.options.default_step), |d| d.ms)
            .max(1);
        let (from, to) = (
            shift.apply(grid.start_ms).saturating_sub(range_ms),
            shift.apply(grid.end_ms()),
        );
        let first = from.div_euclid(step_ms).saturating_add(1).saturating_mul(step_ms);
        let steps = if grid.steps == 0 || to < first {
            0
        } else {
            usize::try_from(to.saturating_sub(first) / step_ms).map_or(usize::MAX, |n| n.saturating_add(1))
        };
        if steps > self.options.max_steps.max(MAX_STEPS) {
            return Err(Error::BadQuery(format!(
                "the subquery of {} has {steps} steps: take a longer step",
                subquery.expr
            )));
        }
        Ok(Grid {
            start_ms: first,
            step_ms,
            steps,
        })
    }

    /// The samples of `up[5m]` alone, which is all that an instant query may ask of a range vector.
    pub fn top_level_matrix(&mut self, expr: &Expr, grid: &Grid) -> Result<Option<Vec<SeriesData>>, Error> {
        match expr {
            Expr::Paren(p) => self.top_level_matrix(p, grid),
            Expr::MatrixSelector(m) => {
                let shift = Shift::new(m.vs.at, m.vs.offset.as_ref(), &self.query);
                let lookback_ms = millis(self.options.lookback);
                let (back_ms, ahead_ms) = extended::reach(m.vs.extension, lookback_ms);
                let reach = (m.range.ms.saturating_add(back_ms), ahead_ms);
                let end_ms = shift.apply(grid.start_ms);
                let mut out = Vec::new();
                self.visit(&m.vs, shift, reach, grid, &mut |budget, _, series| {
                    let mut data = SeriesData {
                        labels: series.identity.labels(),
                        samples: series.samples.to_vec(),
                        histograms: series.histograms.to_vec(),
                    };
                    data.samples.retain(|s| !weir_series::is_stale(s.value));
                    data.histograms.retain(|h| !h.value.is_stale());
                    if let Some(extension) = m.vs.extension {
                        let range = (end_ms.saturating_sub(m.range.ms), end_ms);
                        data.samples = extended::samples(&data.samples, data.histograms.len(), extension, range)?;
                    }
                    budget
                        .charge(data.samples.len() + data.histograms.iter().map(|h| h.value.weight()).sum::<usize>())?;
                    if !data.samples.is_empty() || !data.histograms.is_empty() {
                        out.push(data);
                    }
                    Ok(())
                })?;
                out.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
                Ok(Some(out))
            }
            Expr::Subquery(s) => {
                let shift = Shift::new(s.at, s.offset.as_ref(), &self.query);
                let mut out = self.subquery(s, shift, grid)?;
                out.retain(|s| !s.samples.is_empty() || !s.histograms.is_empty());
                out.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
                Ok(Some(out))
            }
            _ => Ok(None),
        }
    }
}
