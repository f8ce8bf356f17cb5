//! Binary operators: what they make of two points, and of a vector and a number.

use super::{Annotations, Column, Evaluator, Grid, Output, Point, column::drop_names, matching::Matching, native};
use crate::engine::Error;
use crate::parse::BinaryExpr;
use weir_series::is_stale;

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Arithmetic(fn(f64, f64) -> f64),
    Comparison(fn(&f64, &f64) -> bool),
    /// Of a native histogram, at a number.
    Trim,
    And,
    Or,
    Unless,
}

/// An operator with its name.
#[derive(Clone, Copy)]
pub(super) struct Op {
    pub name: &'static str,
    pub kind: Kind,
    pub return_bool: bool,
}

impl Op {
    fn parse(name: &str, return_bool: bool) -> Option<Op> {
        let (name, kind) = match name {
            "+" => ("+", Kind::Arithmetic(|a, b| a + b)),
            "-" => ("-", Kind::Arithmetic(|a, b| a - b)),
            "*" => ("*", Kind::Arithmetic(|a, b| a * b)),
            "/" => ("/", Kind::Arithmetic(|a, b| a / b)),
            "%" => ("%", Kind::Arithmetic(|a, b| a % b)),
            "^" => ("^", Kind::Arithmetic(f64::powf)),
            "atan2" => ("atan2", Kind::Arithmetic(f64::atan2)),
            "==" => ("==", Kind::Comparison(f64::eq)),
            "!=" => ("!=", Kind::Comparison(f64::ne)),
            ">" => (">", Kind::Comparison(f64::gt)),
            "<" => ("<", Kind::Comparison(f64::lt)),
            ">=" => (">=", Kind::Comparison(f64::ge)),
            "<=" => ("<=", Kind::Comparison(f64::le)),
            "</" => ("</", Kind::Trim),
            ">/" => (">/", Kind::Trim),
            "and" => ("and", Kind::And),
            "or" => ("or", Kind::Or),
            "unless" => ("unless", Kind::Unless),
            _ => return None,
        };
        Some(Op {
            name,
            kind,
            return_bool,
        })
    }

    pub fn keeps_name(&self) -> bool {
        matches!(self.kind, Kind::Trim) || (matches!(self.kind, Kind::Comparison(_)) && !self.return_bool)
    }

    /// None: the comparison filters the pair out. `keep` is what a comparison without `bool` lets through.
    pub fn floats(&self, a: f64, b: f64, keep: f64) -> Option<f64> {
        match self.kind {
            Kind::Arithmetic(f) => Some(f(a, b)),
            Kind::Comparison(f) if self.return_bool => Some(f64::from(u8::from(f(&a, &b)))),
            Kind::Comparison(f) => f(&a, &b).then_some(keep),
            Kind::Trim | Kind::And | Kind::Or | Kind::Unless => None,
        }
    }

    /// As [`Op::floats`]; what makes no sense with a histogram has no result and is noted.
    pub fn points(&self, a: &Point, b: &Point, keep: &Point, annotations: &mut Annotations) -> Option<Point> {
        match (a, b) {
            (Point::Float(_), Point::Float(_)) if matches!(self.kind, Kind::Trim) => {
                annotations.incompatible_types("float", self.name, "float");
                None
            }
            (Point::Float(x), Point::Float(y)) => match keep {
                Point::Float(keep) => self.floats(*x, *y, *keep).map(Point::Float),
                Point::Histogram(_) => None,
            },
            (Point::Histogram(h), Point::Float(number)) => match self.name {
                "</" => Some(Point::histogram(native::trim(h, *number, native::Keep::Below))),
                ">/" => Some(Point::histogram(native::trim(h, *number, native::Keep::Above))),
                "*" => Some(Point::histogram(native::scale(h, *number))),
                "/" => Some(Point::histogram(native::scale(h, 1.0 / number))),
                _ => {
                    annotations.incompatible_types("histogram", self.name, "float");
                    None
                }
            },
            (Point::Float(number), Point::Histogram(h)) => {
                if self.name == "*" {
                    return Some(Point::histogram(native::scale(h, *number)));
                }
                annotations.incompatible_types("float", self.name, "histogram");
                None
            }
            (Point::Histogram(x), Point::Histogram(y)) => {
                let combined = match self.name {
                    "+" => native::add(x, y),
                    "-" => native::subtract(x, y),
                    "==" | "!=" => {
                        let holds = native::equal(x, y) == (self.name == "==");
                        return match self.return_bool {
                            true => Some(Point::Float(f64::from(u8::from(holds)))),
                            false => holds.then(|| keep.clone()),
                        };
                    }
                    _ => {
                        annotations.incompatible_types("histogram", self.name, "histogram");
                        return None;
                    }
                };
                match combined {
                    Ok(combined) => {
                        let what = if self.name == "+" { "addition" } else { "subtraction" };
                        if combined.reconciled {
                            annotations.reconciled_bounds(what);
                        }
                        if combined.conflicting_resets {
                            annotations.conflicting_resets(what);
                        }
                        Some(Point::histogram(combined.histogram))
                    }
                    Err(native::Incompatible) => {
                        annotations.incompatible_buckets(self.name);
                        None
                    }
                }
            }
        }
    }
}

impl Evaluator<'_> {
    pub(super) fn binary(&mut self, binary: &BinaryExpr, grid: &Grid) -> Result<Output, Error> {
        let name = binary.op;
        let unsupported = || Error::BadQuery(format!("the operator {name} is not supported"));
        let op = Op::parse(name, binary.modifier.return_bool).ok_or_else(unsupported)?;
        let modifier = &binary.modifier;
        let lhs = self.eval(&binary.lhs, grid)?;
        let rhs = self.eval(&binary.rhs, grid)?;
        self.budget.check_time()?;
        Ok(match (lhs, rhs) {
            (Output::Scalar(a), Output::Scalar(b)) => {
                if matches!(op.kind, Kind::Comparison(_)) && !op.return_bool {
                    return Err(Error::BadQuery(
                        "comparisons between scalars must use bool: 1 >bool 2".into(),
                    ));
                }
                let pair = |(a, b)| op.floats(a, b, a).unwrap_or(f64::NAN);
                Output::Scalar(a.into_iter().zip(b).map(pair).collect())
            }
            (Output::Vector(columns), Output::Scalar(numbers)) => {
                Output::Vector(self.with_scalar(columns, &numbers, op, false)?)
            }
            (Output::Scalar(numbers), Output::Vector(columns)) => {
                Output::Vector(self.with_scalar(columns, &numbers, op, true)?)
            }
            (Output::Vector(lhs), Output::Vector(rhs)) => {
                let matching = Matching { op, modifier, grid };
                Output::Vector(match op.kind {
                    Kind::And | Kind::Or | Kind::Unless => self.set_operation(&matching, lhs, rhs)?,
                    _ => self.matched(&matching, lhs, rhs)?,
                })
            }
            _ => return Err(Error::BadQuery(format!("a string cannot stand beside {name}"))),
        })
    }

    fn with_scalar(
        &mut self,
        mut columns: Vec<Column>,
        numbers: &[f64],
        op: Op,
        scalar_first: bool,
    ) -> Result<Vec<Column>, Error> {
        let trims = matches!(op.kind, Kind::Trim);
        for column in &mut columns {
            if trims && column.cells.values.iter().any(|v| !is_stale(*v)) {
                self.annotations.incompatible_types("float", op.name, "float");
            }
            let values = column.cells.values.iter_mut().zip(numbers);
            for (value, number) in values.filter(|(v, _)| !is_stale(**v)) {
                let (a, b) = if scalar_first {
                    (*number, *value)
                } else {
                    (*value, *number)
                };
                *value = op.floats(a, b, *value).unwrap_or(weir_series::stale_nan());
            }
            if !column.cells.has_histograms() {
                continue;
            }
            for (step, number) in numbers.iter().enumerate() {
                let Some(h) = column.cells.histogram(step).cloned() else {
                    continue;
                };
                let (h, number) = (Point::Histogram(h), Point::Float(*number));
                let (a, b) = if scalar_first { (&number, &h) } else { (&h, &number) };
                let result = op.points(a, b, &h, &mut self.annotations);
                column.cells.clear(step);
                if let Some(point) = result {
                    column.cells.set(step, point);
                }
            }
        }
        columns.retain(|c| !c.cells.is_empty());
        if op.keeps_name() {
            return Ok(columns);
        }
        drop_names(columns, &mut self.budget)
    }
}
