//! The evaluator: an expression and a [`Grid`] of times go in, columns come out.
//!
//! Every node is evaluated once for all steps: a series is one [`Column`] with a value (or none) a step, so labels are
//! matched and grouped once a query, not once a step. An instant query is a grid of one step. A missing value is the
//! staleness marker, which no operation yields.

mod aggregate;
mod binary;
mod call;
mod histogram;
mod math;
mod selector;
mod window;

use crate::engine::{Error, Options};
use promql_parser::parser::Expr;
use rapidhash::RapidHashMap;
use std::time::Instant;
use weir_series::{Labels, Sample, Select, SeriesData, is_stale, stale_nan};

pub(crate) use selector::matchers;

/// The times of an evaluation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub start_ms: i64,
    pub step_ms: i64,
    pub steps: usize,
}

impl Grid {
    pub fn time(&self, step: usize) -> i64 {
        self.start_ms + self.step_ms * step as i64
    }

    pub fn times(self) -> impl Iterator<Item = i64> {
        (0..self.steps).map(move |i| self.time(i))
    }

    pub fn end_ms(&self) -> i64 {
        self.time(self.steps.saturating_sub(1))
    }
}

/// A series over all steps.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub labels: Labels,
    /// One a step; the staleness marker where there is none.
    pub values: Vec<f64>,
}

impl Column {
    pub fn absent(labels: Labels, grid: &Grid) -> Self {
        Column {
            labels,
            values: vec![stale_nan(); grid.steps],
        }
    }

    pub fn is_present(&self, step: usize) -> bool {
        !is_stale(self.values[step])
    }

    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|v| is_stale(*v))
    }

    pub fn into_series(self, grid: &Grid) -> SeriesData {
        let present = grid.times().zip(self.values).filter(|(_, v)| !is_stale(*v));
        SeriesData {
            labels: self.labels,
            samples: present.map(|(ts_ms, value)| Sample { ts_ms, value }).collect(),
            ..SeriesData::default()
        }
    }
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
    started: Instant,
    /// Samples loaded so far.
    loaded: usize,
}

impl<'a> Evaluator<'a> {
    pub fn new(store: &'a dyn Select, options: &'a Options, started: Instant) -> Self {
        Evaluator {
            store,
            options,
            started,
            loaded: 0,
        }
    }

    pub fn eval(&mut self, expr: &Expr, grid: &Grid) -> Result<Output, Error> {
        self.check_time()?;
        match expr {
            Expr::NumberLiteral(n) => Ok(Output::Scalar(vec![n.val; grid.steps])),
            Expr::StringLiteral(s) => Ok(Output::String(s.val.clone())),
            Expr::Paren(p) => self.eval(&p.expr, grid),
            Expr::Unary(u) => self.negate(&u.expr, grid),
            Expr::VectorSelector(s) => Ok(Output::Vector(self.instant_selector(s, grid)?)),
            Expr::Aggregate(a) => self.aggregate(a, grid),
            Expr::Binary(b) => self.binary(b, grid),
            Expr::Call(c) => self.call(c, grid),
            Expr::MatrixSelector(_) | Expr::Subquery(_) => Err(Error::BadQuery(
                "a range vector like up[5m] stands where an instant vector is needed: put a function like rate() around it"
                    .into(),
            )),
            Expr::Extension(_) => Err(Error::BadQuery("extensions of the language are not supported".into())),
        }
    }

    fn negate(&mut self, expr: &Expr, grid: &Grid) -> Result<Output, Error> {
        Ok(match self.eval(expr, grid)? {
            Output::Scalar(values) => Output::Scalar(values.into_iter().map(|v| -v).collect()),
            Output::Vector(columns) => Output::Vector(map(drop_names(columns)?, |v| -v)),
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

    pub fn check_time(&self) -> Result<(), Error> {
        if self.started.elapsed() > self.options.timeout {
            return Err(Error::Timeout(self.options.timeout));
        }
        Ok(())
    }

    /// Counts samples that the query now holds.
    pub fn charge(&mut self, samples: usize) -> Result<(), Error> {
        self.loaded += samples;
        let limit = self.options.max_samples;
        if self.loaded > limit {
            let message = format!("the query needs more than {limit} samples: ask for fewer series or a shorter time");
            return Err(Error::Execution(message));
        }
        Ok(())
    }
}

/// Applies `f` to every value that is there.
pub(crate) fn map(mut columns: Vec<Column>, f: impl Fn(f64) -> f64) -> Vec<Column> {
    for column in &mut columns {
        column
            .values
            .iter_mut()
            .filter(|v| !is_stale(**v))
            .for_each(|v| *v = f(*v));
    }
    columns
}

/// Without metric names, as most functions and operators give their results.
pub(crate) fn drop_names(columns: Vec<Column>) -> Result<Vec<Column>, Error> {
    relabel(columns, Labels::without_name)
}

/// With other labels. Columns that become the same series join where only one of them has a value at a time.
pub(crate) fn relabel(columns: Vec<Column>, f: impl Fn(&Labels) -> Labels) -> Result<Vec<Column>, Error> {
    merge(
        columns
            .into_iter()
            .map(|c| Column {
                labels: f(&c.labels),
                values: c.values,
            })
            .collect(),
    )
}

/// Joins columns of equal labels; two values of one series at one time are an error.
pub(crate) fn merge(columns: Vec<Column>) -> Result<Vec<Column>, Error> {
    let mut index: RapidHashMap<Labels, usize> = RapidHashMap::default();
    let mut merged: Vec<Column> = Vec::with_capacity(columns.len());
    for column in columns {
        let Some(&at) = index.get(&column.labels) else {
            index.insert(column.labels.clone(), merged.len());
            merged.push(column);
            continue;
        };
        for (to, from) in merged[at].values.iter_mut().zip(column.values) {
            if is_stale(from) {
                continue;
            }
            if !is_stale(*to) {
                let labels = &column.labels;
                return Err(Error::Execution(format!(
                    "vector cannot contain metrics with the same labelset: {labels}"
                )));
            }
            *to = from;
        }
    }
    Ok(merged)
}
