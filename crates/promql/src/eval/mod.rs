//! The evaluator: an expression and a [`Grid`] of times go in, columns come out.
//!
//! Every node is evaluated once for all steps: a series is one [`Column`] with a point (or none) a step, so labels are
//! matched and grouped once a query, not once a step. An instant query is a grid of one step. Selectors, and functions
//! over their windows, hand series one by one to whoever takes them ([`Evaluator::feed`]), so that an aggregation over
//! them holds its groups and one series. What is the same at every step is evaluated once.

mod aggregate;
mod annotations;
mod binary;
mod budget;
mod call;
mod column;
mod extended;
mod feed;
mod group;
mod histogram;
mod info;
mod invariant;
mod label;
mod matching;
mod math;
pub(crate) mod native;
mod over_time;
mod rank;
mod rate;
mod selector;
mod sort;
mod subquery;
mod time;
mod window;

use crate::engine::{Error, Options};
use crate::parse::Expr;
use tokio_util::sync::CancellationToken;
use weir_series::Select;

pub use annotations::Annotations;
pub(crate) use budget::Budget;
pub(crate) use column::{Cells, Column, Point};

/// The times of an evaluation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub start_ms: i64,
    pub step_ms: i64,
    pub steps: usize,
}

impl Grid {
    pub fn time(&self, step: usize) -> i64 {
        let offset = self.step_ms.saturating_mul(i64::try_from(step).unwrap_or(i64::MAX));
        self.start_ms.saturating_add(offset)
    }

    pub fn times(self) -> impl ExactSizeIterator<Item = i64> + Clone {
        (0..self.steps).map(move |i| self.time(i))
    }

    pub fn end_ms(&self) -> i64 {
        self.time(self.steps.saturating_sub(1))
    }
}

/// The times that were asked for; the last step may lie before the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub start_ms: i64,
    pub end_ms: i64,
    /// 0 of an instant query.
    pub step_ms: i64,
}

/// What a node yields.
pub(crate) enum Output {
    Scalar(Vec<f64>),
    Vector(Vec<Column>),
    String(String),
}

pub(crate) struct Evaluator<'a> {
    store: &'a dyn Select,
    options: &'a Options,
    budget: Budget<'a>,
    /// The times of the whole query, whatever subquery is evaluated now: what `start()` and `end()` mean.
    query: Asked,
    pub annotations: Annotations,
}

impl<'a> Evaluator<'a> {
    pub fn new(store: &'a dyn Select, options: &'a Options, cancelled: &'a CancellationToken, query: Asked) -> Self {
        Evaluator {
            store,
            options,
            budget: Budget::new(options, cancelled),
            query,
            annotations: Annotations::default(),
        }
    }

    pub fn eval(&mut self, expr: &Expr, grid: &Grid) -> Result<Output, Error> {
        self.budget.check_time()?;
        if grid.steps > 1 && invariant::is_worthwhile(expr) {
            return self.once(expr, grid);
        }
        match expr {
            Expr::NumberLiteral(n) => Ok(Output::Scalar(vec![n.val; grid.steps])),
            Expr::StringLiteral(s) => Ok(Output::String(s.clone())),
            Expr::Paren(p) => self.eval(p, grid),
            Expr::Unary(u) if u.negative => self.negate(&u.expr, grid),
            Expr::Unary(u) => self.eval(&u.expr, grid),
            Expr::VectorSelector(_) => Ok(Output::Vector(self.collect(expr, grid)?)),
            Expr::Aggregate(a) => self.aggregate(a, grid),
            Expr::Binary(b) => self.binary(b, grid),
            Expr::Call(c) => self.call(c, grid),
            Expr::MatrixSelector(_) | Expr::Subquery(_) => Err(Error::BadQuery(
                "a range vector like up[5m] stands where an instant vector is needed: put a function like rate() around it"
                    .into(),
            )),
        }
    }

    /// At the first step, and the same at all others.
    fn once(&mut self, expr: &Expr, grid: &Grid) -> Result<Output, Error> {
        let first = Grid { steps: 1, ..*grid };
        Ok(match self.eval(expr, &first)? {
            Output::Scalar(values) => Output::Scalar(values.repeat(grid.steps)),
            Output::Vector(columns) => {
                self.budget.charge(columns.len() * (grid.steps - 1))?;
                Output::Vector(columns.into_iter().map(|c| c.repeated(grid.steps)).collect())
            }
            text => text,
        })
    }

    fn negate(&mut self, expr: &Expr, grid: &Grid) -> Result<Output, Error> {
        Ok(match self.eval(expr, grid)? {
            Output::Scalar(values) => Output::Scalar(values.into_iter().map(|v| -v).collect()),
            Output::Vector(mut columns) => {
                for column in &mut columns {
                    column.labels = column.labels.without_name();
                    for step in 0..grid.steps {
                        match column.cells.point(step) {
                            Some(Point::Float(v)) => column.cells.values[step] = -v,
                            Some(Point::Histogram(h)) => {
                                column.cells.set(step, Point::histogram(native::scale(&h, -1.0)));
                            }
                            None => {}
                        }
                    }
                }
                column::must_differ(&columns)?;
                Output::Vector(columns)
            }
            Output::String(_) => return Err(Error::BadQuery("a string cannot be negated".into())),
        })
    }

    pub fn vector(&mut self, expr: &Expr, grid: &Grid) -> Result<Vec<Column>, Error> {
        match self.eval(expr, grid)? {
            Output::Vector(columns) => Ok(columns),
            _ => Err(Error::BadQuery(format!("{expr} is not an instant vector"))),
        }
    }

    pub fn scalar(&mut self, expr: &Expr, grid: &Grid) -> Result<Vec<f64>, Error> {
        match self.eval(expr, grid)? {
            Output::Scalar(values) => Ok(values),
            _ => Err(Error::BadQuery(format!("{expr} is not a scalar"))),
        }
    }

    pub fn text(&mut self, expr: &Expr, grid: &Grid) -> Result<String, Error> {
        match self.eval(expr, grid)? {
            Output::String(text) => Ok(text),
            _ => Err(Error::BadQuery(format!("{expr} is not a string"))),
        }
    }

    /// The columns are used up: what they held is free again.
    fn release(&mut self, columns: &[Column]) {
        self.budget.release(columns.iter().map(|c| c.cells.weight()).sum());
    }

    fn charge(&mut self, columns: &[Column]) -> Result<(), Error> {
        self.budget.charge(columns.iter().map(|c| c.cells.weight()).sum())
    }
}
