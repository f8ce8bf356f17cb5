//! Functions over instant vectors and scalars.

use super::{Column, Evaluator, Grid, Output, drop_names, map, math, relabel};
use crate::engine::Error;
use promql_parser::{
    label::MatchOp,
    parser::{Call, Expr, VectorSelector},
};
use weir_series::{Labels, is_stale, names, stale_nan};

pub(super) fn argument(call: &Call, at: usize) -> Result<&Expr, Error> {
    let missing = || Error::BadQuery(format!("{} needs an argument more", call.func.name));
    call.args.args.get(at).map(Box::as_ref).ok_or_else(missing)
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
        "deg" => f64::to_degrees,
        "rad" => f64::to_radians,
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
    pub fn call(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        if let Some(output) = self.window_call(call, grid)? {
            return Ok(output);
        }
        let name = call.func.name;
        if let Some(f) = pointwise(name) {
            let columns = self.vector(argument(call, 0)?, grid)?;
            return Ok(Output::Vector(map(drop_names(columns)?, f)));
        }
        match name {
            "time" => Ok(Output::Scalar(grid.times().map(|t| t as f64 / 1000.0).collect())),
            "pi" => Ok(Output::Scalar(vec![std::f64::consts::PI; grid.steps])),
            "scalar" => self.vector_to_scalar(call, grid),
            "vector" => {
                let values = self.scalar(argument(call, 0)?, grid)?;
                Ok(Output::Vector(vec![Column {
                    labels: Labels::default(),
                    values,
                }]))
            }
            "timestamp" => self.timestamp(call, grid),
            "clamp" | "clamp_min" | "clamp_max" | "round" => self.with_numbers(call, grid),
            "sort" | "sort_desc" => self.sort(call, grid),
            "absent" => self.absent(call, grid),
            "label_replace" => self.label_replace(call, grid),
            "label_join" => self.label_join(call, grid),
            "histogram_quantile" => self.histogram_quantile(call, grid),
            _ => Err(Error::BadQuery(format!("the function {name} is not supported"))),
        }
    }

    fn vector_to_scalar(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let columns = self.vector(argument(call, 0)?, grid)?;
        let one = |step: usize| {
            let mut present = columns.iter().map(|c| c.values[step]).filter(|v| !is_stale(*v));
            match (present.next(), present.next()) {
                (Some(value), None) => value,
                _ => f64::NAN,
            }
        };
        Ok(Output::Scalar((0..grid.steps).map(one).collect()))
    }

    /// Of a selector: when the sample was taken. Of anything else: the time of the evaluation.
    fn timestamp(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let mut expr = argument(call, 0)?;
        while let Expr::Paren(p) = expr {
            expr = &p.expr;
        }
        if let Expr::VectorSelector(selector) = expr {
            return Ok(Output::Vector(drop_names(self.instant_times(selector, grid)?)?));
        }
        let mut columns = self.vector(expr, grid)?;
        for column in &mut columns {
            let values = column
                .values
                .iter_mut()
                .zip(grid.times())
                .filter(|(v, _)| !is_stale(**v));
            values.for_each(|(v, time)| *v = time as f64 / 1000.0);
        }
        Ok(Output::Vector(drop_names(columns)?))
    }

    /// A vector and one or two numbers, which may differ from step to step.
    fn with_numbers(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let mut columns = drop_names(self.vector(argument(call, 0)?, grid)?)?;
        let mut numbers = Vec::new();
        for at in 1..call.args.args.len() {
            numbers.push(self.scalar(argument(call, at)?, grid)?);
        }
        let name = call.func.name;
        let nan_or = |v: f64, limit: f64, clamped: f64| {
            if v.is_nan() || limit.is_nan() {
                f64::NAN
            } else {
                clamped
            }
        };
        for column in &mut columns {
            for (step, value) in column.values.iter_mut().enumerate().filter(|(_, v)| !is_stale(**v)) {
                let v = *value;
                let number = |i: usize| numbers.get(i).map_or(1.0, |n: &Vec<f64>| n[step]);
                *value = match name {
                    "clamp_min" => nan_or(v, number(0), v.max(number(0))),
                    "clamp_max" => nan_or(v, number(0), v.min(number(0))),
                    "clamp" if number(0) > number(1) => stale_nan(),
                    "clamp" => nan_or(v, number(0) + number(1), v.min(number(1)).max(number(0))),
                    _ => math::round(v, number(0)),
                };
            }
        }
        columns.retain(|c| !c.is_empty());
        Ok(Output::Vector(columns))
    }

    /// Orders an instant vector; a matrix is ordered by labels anyway.
    fn sort(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let mut columns = self.vector(argument(call, 0)?, grid)?;
        if grid.steps == 1 {
            let descending = call.func.name == "sort_desc";
            columns.sort_by(|a, b| {
                let (a, b) = (a.values[0], b.values[0]);
                match (a.is_nan(), b.is_nan()) {
                    (false, false) if descending => b.total_cmp(&a),
                    (false, false) => a.total_cmp(&b),
                    (a, b) => a.cmp(&b), // NaN last in either order
                }
            });
        }
        Ok(Output::Vector(columns))
    }

    fn absent(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let expr = argument(call, 0)?;
        let columns = self.vector(expr, grid)?;
        let mut column = Column::absent(absent_labels(expr), grid);
        for (step, value) in column.values.iter_mut().enumerate() {
            if !columns.iter().any(|c| c.is_present(step)) {
                *value = 1.0;
            }
        }
        Ok(Output::Vector(if column.is_empty() {
            Vec::new()
        } else {
            vec![column]
        }))
    }

    fn string(&mut self, call: &Call, at: usize, grid: &Grid) -> Result<String, Error> {
        match self.eval(argument(call, at)?, grid)? {
            Output::String(text) => Ok(text),
            _ => Err(Error::BadQuery(format!(
                "argument {} of {} must be a string",
                at + 1,
                call.func.name
            ))),
        }
    }

    fn label_name(&mut self, call: &Call, at: usize, grid: &Grid) -> Result<String, Error> {
        let name = self.string(call, at, grid)?;
        if name.is_empty() {
            return Err(Error::BadQuery(format!(
                "argument {} of {} must be a label name",
                at + 1,
                call.func.name
            )));
        }
        Ok(name)
    }

    /// label_replace(v, dst, replacement, src, regex)
    fn label_replace(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let columns = self.vector(argument(call, 0)?, grid)?;
        let dst = self.label_name(call, 1, grid)?;
        let replacement = self.string(call, 2, grid)?;
        let src = self.string(call, 3, grid)?;
        let pattern = self.string(call, 4, grid)?;
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
        Ok(Output::Vector(relabel(columns, change)?))
    }

    /// label_join(v, dst, separator, src...)
    fn label_join(&mut self, call: &Call, grid: &Grid) -> Result<Output, Error> {
        let columns = self.vector(argument(call, 0)?, grid)?;
        let dst = self.label_name(call, 1, grid)?;
        let separator = self.string(call, 2, grid)?;
        let mut sources = Vec::new();
        for at in 3..call.args.args.len() {
            sources.push(self.label_name(call, at, grid)?);
        }
        let join = |labels: &Labels| {
            let values: Vec<&str> = sources.iter().map(|s| labels.get(s)).collect();
            labels.builder().set(dst.as_str(), values.join(&separator)).build()
        };
        Ok(Output::Vector(relabel(columns, join)?))
    }
}

/// What a missing series would be called: the labels that its selector asks for with `=`, once each.
pub(super) fn absent_labels(expr: &Expr) -> Labels {
    match expr {
        Expr::Paren(p) => absent_labels(&p.expr),
        Expr::VectorSelector(selector) => of_selector(selector),
        Expr::MatrixSelector(matrix) => of_selector(&matrix.vs),
        _ => Labels::default(),
    }
}

fn of_selector(selector: &VectorSelector) -> Labels {
    let matchers = &selector.matchers.matchers;
    let once = |name: &str| matchers.iter().filter(|m| m.name == name).count() == 1;
    let equal = matchers
        .iter()
        .filter(|m| m.op == MatchOp::Equal && m.name != names::METRIC_NAME && once(&m.name));
    Labels::new(equal.map(|m| (m.name.as_str(), m.value.as_str())))
}
