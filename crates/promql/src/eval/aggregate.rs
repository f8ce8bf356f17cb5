//! Aggregations: columns are put into groups once, then each group is folded step by step.

use super::{
    Column, Evaluator, Grid, Output,
    math::{Sum, nan_first, quantile, variance},
    merge,
};
use crate::engine::Error;
use promql_parser::parser::{AggregateExpr, LabelModifier};
use rapidhash::RapidHashMap;
use weir_series::{Labels, is_stale, names};

type Fold = fn(&[f64]) -> f64;

fn fold(name: &str) -> Option<Fold> {
    Some(match name {
        "sum" => |v| v.iter().copied().collect::<Sum>().total(),
        "avg" => |v| v.iter().copied().collect::<Sum>().total() / v.len() as f64,
        "min" => |v| {
            v.iter()
                .copied()
                .fold(f64::NAN, |a, b| if b < a || a.is_nan() { b } else { a })
        },
        "max" => |v| {
            v.iter()
                .copied()
                .fold(f64::NAN, |a, b| if b > a || a.is_nan() { b } else { a })
        },
        "count" => |v| v.len() as f64,
        "group" => |_| 1.0,
        "stddev" => |v| variance(v.iter().copied()).sqrt(),
        "stdvar" => |v| variance(v.iter().copied()),
        _ => return None,
    })
}

/// Columns that share a group, in the order in which groups were first seen.
struct Group {
    labels: Labels,
    members: Vec<usize>,
}

impl Evaluator<'_> {
    pub fn aggregate(&mut self, aggregate: &AggregateExpr, grid: &Grid) -> Result<Output, Error> {
        let name = aggregate.op.to_string();
        let name = name.as_str();
        let columns = self.vector(&aggregate.expr, grid)?;
        let groups = group(&columns, &aggregate.modifier);
        let param = |evaluator: &mut Self| match &aggregate.param {
            Some(param) => evaluator.scalar(param, grid),
            None => Err(Error::BadQuery(format!(
                "{name} needs a parameter, as in {name}(5, up)"
            ))),
        };
        let result = match name {
            "topk" | "bottomk" => {
                let k = param(self)?;
                self.check_time()?;
                select_k(columns, &groups, &k, name == "topk", grid)
            }
            "quantile" => {
                let q = param(self)?;
                fold_groups(&columns, &groups, grid, |step, values| {
                    quantile(q[step], values.to_vec())
                })
            }
            "count_values" => self.count_values(aggregate, &columns, &groups, grid)?,
            _ => {
                let fold =
                    fold(name).ok_or_else(|| Error::BadQuery(format!("the aggregation {name} is not supported")))?;
                fold_groups(&columns, &groups, grid, |_, values| fold(values))
            }
        };
        self.check_time()?;
        Ok(Output::Vector(result))
    }

    /// One series for each value that occurs, with the value as a label.
    fn count_values(
        &mut self,
        aggregate: &AggregateExpr,
        columns: &[Column],
        groups: &[Group],
        grid: &Grid,
    ) -> Result<Vec<Column>, Error> {
        let label = match aggregate.param.as_deref().map(|p| self.eval(p, grid)).transpose()? {
            Some(Output::String(label)) => label,
            _ => {
                return Err(Error::BadQuery(
                    "count_values needs a label name: count_values(\"version\", build_info)".into(),
                ));
            }
        };
        let mut out: Vec<Column> = Vec::new();
        for group in groups {
            let mut index: RapidHashMap<u64, usize> = RapidHashMap::default();
            for step in 0..grid.steps {
                for value in group
                    .members
                    .iter()
                    .map(|m| columns[*m].values[step])
                    .filter(|v| !is_stale(*v))
                {
                    let at = *index.entry(value.to_bits()).or_insert_with(|| {
                        let labels = group
                            .labels
                            .builder()
                            .set(label.as_str(), crate::format::value(value))
                            .build();
                        out.push(Column::absent(labels, grid));
                        out.len() - 1
                    });
                    let count = &mut out[at].values[step];
                    *count = if is_stale(*count) { 1.0 } else { *count + 1.0 };
                }
            }
            self.charge(out.len() * grid.steps)?;
        }
        merge(out)
    }
}

fn group(columns: &[Column], modifier: &Option<LabelModifier>) -> Vec<Group> {
    let mut index: RapidHashMap<Labels, usize> = RapidHashMap::default();
    let mut groups: Vec<Group> = Vec::new();
    for (member, column) in columns.iter().enumerate() {
        let labels = group_labels(&column.labels, modifier);
        let at = *index.entry(labels).or_insert_with_key(|labels| {
            groups.push(Group {
                labels: labels.clone(),
                members: Vec::new(),
            });
            groups.len() - 1
        });
        groups[at].members.push(member);
    }
    groups
}

fn group_labels(labels: &Labels, modifier: &Option<LabelModifier>) -> Labels {
    match modifier {
        None => Labels::default(),
        Some(LabelModifier::Include(by)) => labels.filter(|l| by.labels.iter().any(|b| **b == *l.name)),
        Some(LabelModifier::Exclude(without)) => {
            labels.filter(|l| *l.name != *names::METRIC_NAME && !without.labels.iter().any(|w| **w == *l.name))
        }
    }
}

fn fold_groups(columns: &[Column], groups: &[Group], grid: &Grid, f: impl Fn(usize, &[f64]) -> f64) -> Vec<Column> {
    let mut values = Vec::new();
    let fold_group = |group: &Group| {
        let mut column = Column::absent(group.labels.clone(), grid);
        for step in 0..grid.steps {
            values.clear();
            values.extend(
                group
                    .members
                    .iter()
                    .map(|m| columns[*m].values[step])
                    .filter(|v| !is_stale(*v)),
            );
            if !values.is_empty() {
                column.values[step] = f(step, &values);
            }
        }
        column
    };
    groups.iter().map(fold_group).filter(|c| !c.is_empty()).collect()
}

/// The k largest (or smallest) of each group at each step, under their own labels. With one step they come out ordered.
fn select_k(columns: Vec<Column>, groups: &[Group], k: &[f64], largest: bool, grid: &Grid) -> Vec<Column> {
    let mut chosen: Vec<Column> = columns.iter().map(|c| Column::absent(c.labels.clone(), grid)).collect();
    let mut order = Vec::new();
    for group in groups {
        for (step, &k) in k.iter().enumerate() {
            let mut ranked: Vec<usize> = group
                .members
                .iter()
                .copied()
                .filter(|m| columns[*m].is_present(step))
                .collect();
            ranked.sort_by(|a, b| {
                let (a, b) = (columns[*a].values[step], columns[*b].values[step]);
                match (a.is_nan(), b.is_nan()) {
                    (true, _) | (_, true) => a.is_nan().cmp(&b.is_nan()),
                    _ if largest => nan_first(&b, &a),
                    _ => nan_first(&a, &b),
                }
            });
            // `as` saturates: NaN and negative numbers become 0.
            ranked.truncate(k as usize);
            ranked
                .iter()
                .for_each(|m| chosen[*m].values[step] = columns[*m].values[step]);
            if grid.steps == 1 {
                order.extend(ranked);
            }
        }
    }
    if grid.steps == 1 {
        return order.into_iter().map(|m| chosen[m].clone()).collect();
    }
    chosen.retain(|c| !c.is_empty());
    chosen
}
