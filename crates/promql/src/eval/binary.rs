//! Binary operators: between numbers, between a vector and a number, and between vectors by matching labels.

use super::{Column, Evaluator, Grid, Output, drop_names, merge};
use crate::engine::Error;
use promql_parser::parser::{BinModifier, BinaryExpr, LabelModifier, VectorMatchCardinality as Cardinality};
use rapidhash::RapidHashMap;
use weir_series::{Labels, LabelsBuilder, is_stale, names};

#[derive(Clone, Copy)]
enum Op {
    Arithmetic(fn(f64, f64) -> f64),
    Comparison(fn(&f64, &f64) -> bool),
    And,
    Or,
    Unless,
}

impl Op {
    fn parse(name: &str) -> Option<Op> {
        Some(match name {
            "+" => Op::Arithmetic(|a, b| a + b),
            "-" => Op::Arithmetic(|a, b| a - b),
            "*" => Op::Arithmetic(|a, b| a * b),
            "/" => Op::Arithmetic(|a, b| a / b),
            "%" => Op::Arithmetic(|a, b| a % b),
            "^" => Op::Arithmetic(f64::powf),
            "atan2" => Op::Arithmetic(f64::atan2),
            "==" => Op::Comparison(f64::eq),
            "!=" => Op::Comparison(f64::ne),
            ">" => Op::Comparison(f64::gt),
            "<" => Op::Comparison(f64::lt),
            ">=" => Op::Comparison(f64::ge),
            "<=" => Op::Comparison(f64::le),
            "and" => Op::And,
            "or" => Op::Or,
            "unless" => Op::Unless,
            _ => return None,
        })
    }

    /// None: the comparison filters the pair out. `keep` is what a comparison without `bool` lets through.
    fn apply(self, a: f64, b: f64, keep: f64, return_bool: bool) -> Option<f64> {
        match self {
            Op::Arithmetic(f) => Some(f(a, b)),
            Op::Comparison(f) if return_bool => Some(f64::from(u8::from(f(&a, &b)))),
            Op::Comparison(f) => f(&a, &b).then_some(keep),
            Op::And | Op::Or | Op::Unless => None,
        }
    }
}

impl Evaluator<'_> {
    pub fn binary(&mut self, binary: &BinaryExpr, grid: &Grid) -> Result<Output, Error> {
        let name = binary.op.to_string();
        let op = Op::parse(&name).ok_or_else(|| Error::BadQuery(format!("the operator {name} is not supported")))?;
        let modifier = binary.modifier.clone().unwrap_or(BinModifier {
            card: Cardinality::OneToOne,
            matching: None,
            return_bool: false,
            fill_values: Default::default(),
        });
        if modifier.fill_values != Default::default() {
            return Err(Error::BadQuery("the modifier fill is not supported".into()));
        }
        let lhs = self.eval(&binary.lhs, grid)?;
        let rhs = self.eval(&binary.rhs, grid)?;
        self.check_time()?;
        let output = match (lhs, rhs) {
            (Output::Scalar(a), Output::Scalar(b)) => {
                if matches!(op, Op::Comparison(_)) && !modifier.return_bool {
                    return Err(Error::BadQuery(
                        "comparisons between scalars must use bool: 1 >bool 2".into(),
                    ));
                }
                let pair = |(a, b)| op.apply(a, b, a, true).unwrap_or(f64::NAN);
                Output::Scalar(a.into_iter().zip(b).map(pair).collect())
            }
            (Output::Vector(columns), Output::Scalar(numbers)) => {
                let f = |v: f64, number: f64| op.apply(v, number, v, modifier.return_bool);
                Output::Vector(with_scalar(columns, &numbers, op, modifier.return_bool, f)?)
            }
            (Output::Scalar(numbers), Output::Vector(columns)) => {
                let f = |v: f64, number: f64| op.apply(number, v, v, modifier.return_bool);
                Output::Vector(with_scalar(columns, &numbers, op, modifier.return_bool, f)?)
            }
            (Output::Vector(lhs), Output::Vector(rhs)) => Output::Vector(match op {
                Op::And | Op::Or | Op::Unless => set_operation(op, lhs, rhs, &modifier.matching, grid)?,
                _ => Matching {
                    op,
                    modifier: &modifier,
                    grid,
                }
                .apply(lhs, rhs)?,
            }),
            _ => return Err(Error::BadQuery(format!("a string cannot stand beside {name}"))),
        };
        if let Output::Vector(columns) = &output {
            self.charge(columns.len() * grid.steps)?;
        }
        Ok(output)
    }
}

fn with_scalar(
    mut columns: Vec<Column>,
    numbers: &[f64],
    op: Op,
    return_bool: bool,
    f: impl Fn(f64, f64) -> Option<f64>,
) -> Result<Vec<Column>, Error> {
    for column in &mut columns {
        for (value, number) in column.values.iter_mut().zip(numbers).filter(|(v, _)| !is_stale(**v)) {
            *value = f(*value, *number).unwrap_or(weir_series::stale_nan());
        }
    }
    columns.retain(|c| !c.is_empty());
    match op {
        Op::Comparison(_) if !return_bool => Ok(columns),
        _ => drop_names(columns),
    }
}

/// The labels by which two sides find each other.
fn signature(labels: &Labels, matching: &Option<LabelModifier>) -> Labels {
    match matching {
        Some(LabelModifier::Include(on)) => labels.filter(|l| on.labels.iter().any(|o| **o == *l.name)),
        Some(LabelModifier::Exclude(ignoring)) => {
            labels.filter(|l| *l.name != *names::METRIC_NAME && !ignoring.labels.iter().any(|i| **i == *l.name))
        }
        None => labels.without_name(),
    }
}

fn set_operation(
    op: Op,
    mut lhs: Vec<Column>,
    mut rhs: Vec<Column>,
    matching: &Option<LabelModifier>,
    grid: &Grid,
) -> Result<Vec<Column>, Error> {
    // Which signatures the deciding side has at which steps.
    let deciding = if matches!(op, Op::Or) { &lhs } else { &rhs };
    let mut presence: RapidHashMap<Labels, Vec<bool>> = RapidHashMap::default();
    for column in deciding {
        let steps = presence
            .entry(signature(&column.labels, matching))
            .or_insert_with(|| vec![false; grid.steps]);
        steps
            .iter_mut()
            .zip(&column.values)
            .for_each(|(there, v)| *there |= !is_stale(*v));
    }
    let keep_where = |columns: &mut Vec<Column>, wanted: bool| {
        for column in columns.iter_mut() {
            let steps = presence.get(&signature(&column.labels, matching));
            for (step, value) in column.values.iter_mut().enumerate() {
                if steps.is_some_and(|s| s[step]) != wanted {
                    *value = weir_series::stale_nan();
                }
            }
        }
        columns.retain(|c| !c.is_empty());
    };
    match op {
        Op::Or => {
            keep_where(&mut rhs, false);
            lhs.append(&mut rhs);
            merge(lhs)
        }
        _ => {
            keep_where(&mut lhs, matches!(op, Op::And));
            Ok(lhs)
        }
    }
}

/// Arithmetic and comparison between two vectors.
struct Matching<'a> {
    op: Op,
    modifier: &'a BinModifier,
    grid: &'a Grid,
}

impl Matching<'_> {
    fn apply(&self, lhs: Vec<Column>, rhs: Vec<Column>) -> Result<Vec<Column>, Error> {
        let swapped = matches!(self.modifier.card, Cardinality::OneToMany(_));
        let (many, one) = if swapped { (rhs, lhs) } else { (lhs, rhs) };
        let ones = self.index(&one, if swapped { "left" } else { "right" })?;

        let mut results: RapidHashMap<Labels, usize> = RapidHashMap::default();
        let mut out: Vec<Column> = Vec::new();
        // One-to-one: which column of the many side has used a signature at a step.
        let mut used: RapidHashMap<Labels, Vec<bool>> = RapidHashMap::default();
        for column in &many {
            let signature = signature(&column.labels, &self.modifier.matching);
            let Some(partners) = ones.get(&signature) else {
                continue;
            };
            for partner in partners.iter().map(|i| &one[*i]) {
                let labels = self.result_labels(&column.labels, &partner.labels);
                for step in (0..self.grid.steps).filter(|s| column.is_present(*s) && partner.is_present(*s)) {
                    let (m, o) = (column.values[step], partner.values[step]);
                    let (a, b) = if swapped { (o, m) } else { (m, o) };
                    // A comparison lets the left value through, whichever side is the many side.
                    let Some(value) = self.op.apply(a, b, a, self.modifier.return_bool) else {
                        continue;
                    };
                    if self.modifier.card == Cardinality::OneToOne {
                        let used = used
                            .entry(signature.clone())
                            .or_insert_with(|| vec![false; self.grid.steps]);
                        if std::mem::replace(&mut used[step], true) {
                            return Err(Error::Execution(format!(
                                "multiple matches for labels {signature}: many-to-one matching must be explicit (group_left/group_right)"
                            )));
                        }
                    }
                    let at = *results.entry(labels.clone()).or_insert_with(|| {
                        out.push(Column::absent(labels.clone(), self.grid));
                        out.len() - 1
                    });
                    if !is_stale(out[at].values[step]) {
                        return Err(Error::Execution(format!(
                            "multiple matches for labels {labels}: grouping labels must ensure unique matches"
                        )));
                    }
                    out[at].values[step] = value;
                }
            }
        }
        Ok(out)
    }

    /// The one side by signature; at any step only one of a signature may have a value.
    fn index(&self, one: &[Column], side: &str) -> Result<RapidHashMap<Labels, Vec<usize>>, Error> {
        let mut index: RapidHashMap<Labels, Vec<usize>> = RapidHashMap::default();
        for (i, column) in one.iter().enumerate() {
            let signature = signature(&column.labels, &self.modifier.matching);
            let others = index.entry(signature).or_default();
            for other in others.iter().map(|o| &one[*o]) {
                if (0..self.grid.steps).any(|s| column.is_present(s) && other.is_present(s)) {
                    return Err(Error::Execution(format!(
                        "found duplicate series for the match group on the {side} hand-side of the operation: {} and {}; \
                         many-to-many matching not allowed: matching labels must be unique on one side",
                        other.labels, column.labels
                    )));
                }
            }
            others.push(i);
        }
        Ok(index)
    }

    fn result_labels(&self, many: &Labels, one: &Labels) -> Labels {
        let mut labels = many.clone();
        if !matches!(self.op, Op::Comparison(_)) || self.modifier.return_bool {
            labels = labels.without_name();
        }
        match &self.modifier.card {
            Cardinality::OneToOne => match &self.modifier.matching {
                Some(LabelModifier::Include(on)) => labels.filter(|l| on.labels.iter().any(|o| **o == *l.name)),
                Some(LabelModifier::Exclude(ignoring)) => {
                    labels.filter(|l| !ignoring.labels.iter().any(|i| **i == *l.name))
                }
                None => labels,
            },
            Cardinality::ManyToOne(include) | Cardinality::OneToMany(include) => {
                let mut builder = labels.builder();
                include
                    .labels
                    .iter()
                    .for_each(|name| include_label(&mut builder, name, one));
                builder.build()
            }
            Cardinality::ManyToMany => labels,
        }
    }
}

fn include_label(builder: &mut LabelsBuilder, name: &str, one: &Labels) {
    builder.set(name, one.get(name));
}
