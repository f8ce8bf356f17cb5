//! Functions over instant vectors and scalars.

use super::{
    Cells, Column, Evaluator, Grid, Output,
    column::{drop_names, map_floats, must_differ},
    math, time,
};
use crate::engine::Error;
use crate::parse::{Call, Expr};
use weir_series::{Labels, is_stale, stale_nan};

pub(super) fn argument(call: &Call, at: usize) -> Result<&Expr, Error> {
    let missing = || Error::BadQuery(format!("{} needs an argument more", call.func.name));
    call.args.get(at).ok_or_else(missing)
}

/// Functions of one number.
fn pointwise(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "ceil" => f64::ceil,
        "floor" => f64::floor,
        "sqrt" => f64::sqrt,
        "exp" => f64::exp,
        "ln" => f64::ln,
        "log2" => f64::log2,
        "log10" => f64::log10,
        "sgn" => |v| if v == 0.0 || v.is_nan() { v } else { v.signum() },
        "deg" => |v| v * 180.0 / std::f64::consts::PI,
        "rad" => |v| v * std::f64::consts::PI / 180.0,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "asin" => f64::asin,
        "acos" => f64::acos,
        "atan" => f64::atan,
        "sinh" => f64::sinh,
        "cosh" => f64::cosh,
        "tanh" => f64::tanh,
        "asinh" => f64::asinh,
        "acosh" => f64::acosh,
        "atanh" => f64::atanh,
        _ => return None,
    })
}

impl Evaluator<'_> {
    pub(super) fn call(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let name = call.func.name;
        if super::window::lookup(name).is_some() {
            let mut columns = Vec::new();
            self.feed_window_call(call, grid, &mut super::feed::into(&mut columns))?;
            columns.sort_unstable_by(|a: &Column, b| a.labels.cmp(&b.labels));
            return Ok(Output::Vector(columns));
        }
        if let Some(f) = pointwise(name) {
            let columns = self.vector(argument(call, 0)?, grid)?;
            return Ok(Output::Vector(drop_names(map_floats(columns, f), &mut self.budget)?));
        }
        if let Some(f) = time::part(name) {
            return self.part_of_time(call, grid, f);
        }
        if let Some(output) = self.times_of_query(call, grid)? {
            return Ok(output);
        }
        match name {
            "time" => Ok(Output::Scalar(grid.times().map(|t| t as f64 / 1000.0).collect())),
            "pi" => Ok(Output::Scalar(vec![std::f64::consts::PI; grid.steps])),
            "scalar" => self.vector_to_scalar(call, grid),
            "vector" => {
                let values = self.scalar(argument(call, 0)?, grid)?;
                Ok(Output::Vector(vec![Column {
                    labels: Labels::default(),
                    cells: Cells::floats(values),
                }]))
            }
            "timestamp" => self.timestamp(call, grid),
            "clamp" | "clamp_min" | "clamp_max" | "round" => self.with_numbers(call, grid),
            "sort" | "sort_desc" => self.sort(call, grid),
            "sort_by_label" | "sort_by_label_desc" => self.sort_by_label(call, grid),
            "absent" => self.absent(call, grid),
            "info" => self.info(call, grid),
            "absent_over_time" => self.absent_over_time(call, grid),
            "label_replace" => self.label_replace(call, grid),
            "label_join" => self.label_join(call, grid),
            "histogram_quantile" | "histogram_quantiles" | "histogram_fraction" => self.histogram_share(call, grid),
            "histogram_count" | "histogram_sum" | "histogram_avg" | "histogram_stddev" | "histogram_stdvar" => {
                self.histogram_statistic(call, grid)
            }
            _ => Err(Error::BadQuery(format!("the function {name} is not supported"))),
        }
    }

    /// Start, end, length and step of the query, and the larger or smaller of two scalars.
    fn times_of_query(&mut self, call: &Call, grid: &Grid) -> Result<Option<Output>, Error> {
        let (start, end) = (self.query.start_ms, self.query.end_ms);
        let ms = match call.func.name {
            "start" => start,
            "end" => end,
            "range" => end.saturating_sub(start),
            "step" => self.query.step_ms,
            name @ ("max_of" | "min_of") => {
                let a = self.scalar(argument(call, 0)?, grid)?;
                let b = self.scalar(argument(call, 1)?, grid)?;
                let choose = |(a, b): (f64, f64)| match name {
                    _ if a.is_nan() || b.is_nan() => f64::NAN,
                    "max_of" => a.max(b),
                    _ => a.min(b),
                };
                return Ok(Some(Output::Scalar(a.into_iter().zip(b).map(choose).collect())));
            }
            _ => return Ok(None),
        };
        Ok(Some(Output::Scalar(vec![ms as f64 / 1000.0; grid.steps])))
    }

    fn vector_to_scalar(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let columns = self.vector(argument(call, 0)?, grid)?;
        let one = |step: usize| {
            let mut present = columns.iter().filter_map(|c| c.cells.float(step));
            match (present.next(), present.next()) {
                (Some(value), None) => value,
                _ => f64::NAN,
            }
        };
        let values = (0..grid.steps).map(one).collect();
        self.release(&columns);
        Ok(Output::Scalar(values))
    }

    /// Of a selector: when the sample was taken. Of anything else: the time of the evaluation.
    fn timestamp(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let expr = argument(call, 0)?.bare();
        if let Expr::VectorSelector(selector) = expr {
            let mut columns = Vec::new();
            self.feed_newest(selector, grid, true, &mut super::feed::into(&mut columns))?;
            return Ok(Output::Vector(drop_names(columns, &mut self.budget)?));
        }
        let mut columns = self.vector(expr, grid)?;
        for column in &mut columns {
            for (step, time) in grid.times().enumerate() {
                if column.cells.is_present(step) {
                    column.cells.clear(step);
                    column.cells.values[step] = time as f64 / 1000.0;
                }
            }
        }
        Ok(Output::Vector(drop_names(columns, &mut self.budget)?))
    }

    /// A vector and one or two numbers, which may differ from step to step.
    fn with_numbers(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let mut columns = drop_names(self.vector(argument(call, 0)?, grid)?, &mut self.budget)?;
        let mut numbers = Vec::new();
        for at in 1..call.args.len() {
            numbers.push(self.scalar(argument(call, at)?, grid)?);
        }
        let name = call.func.name;
        let clamp = |v: f64, min: f64, max: f64| {
            if max < min {
                stale_nan()
            } else if v.is_nan() || min.is_nan() || max.is_nan() {
                f64::NAN
            } else {
                v.min(max).max(min)
            }
        };
        for column in &mut columns {
            column.cells.drop_histograms();
            let values = column.cells.values.iter_mut().enumerate();
            for (step, value) in values.filter(|(_, v)| !is_stale(**v)) {
                let number = |i: usize| numbers.get(i).map_or(1.0, |n: &Vec<f64>| n[step]);
                *value = match name {
                    "clamp_min" => clamp(*value, number(0), f64::INFINITY),
                    "clamp_max" => clamp(*value, f64::NEG_INFINITY, number(0)),
                    "clamp" => clamp(*value, number(0), number(1)),
                    _ => math::round(*value, number(0)),
                };
            }
        }
        columns.retain(|c| !c.cells.is_empty());
        Ok(Output::Vector(columns))
    }

    fn part_of_time(&mut self, call: &Call, grid: &Grid, part: fn(f64) -> f64) -> Result<Output, Error> {
        if call.args.is_empty() {
            let values = grid.times().map(|t| part((t.div_euclid(1000)) as f64)).collect();
            return Ok(Output::Vector(vec![Column {
                labels: Labels::default(),
                cells: Cells::floats(values),
            }]));
        }
        let columns = self.vector(argument(call, 0)?, grid)?;
        let columns = drop_names(map_floats(columns, part), &mut self.budget)?;
        must_differ(&columns)?;
        Ok(Output::Vector(columns))
    }
}
