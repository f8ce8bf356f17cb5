//! Operators between two vectors: series find each other by labels once, then go through all steps together.

use super::{
    Cells, Column, Evaluator, Grid,
    binary::{Kind, Op},
    column::merge,
};
use crate::engine::Error;
use crate::parse::{BinModifier, Cardinality, LabelModifier};
use rapidhash::RapidHashMap;
use weir_series::{Labels, LabelsBuilder, names};

/// An operator and how its sides find each other.
pub(super) struct Matching<'a> {
    pub op: Op,
    pub modifier: &'a BinModifier,
    pub grid: &'a Grid,
}

impl Evaluator<'_> {
    /// `and`, `or`, `unless`.
    pub(super) fn set_operation(
        &mut self,
        matching: &Matching<'_>,
        mut lhs: Vec<Column>,
        mut rhs: Vec<Column>,
    ) -> Result<Vec<Column>, Error> {
        let is_or = matches!(matching.op.kind, Kind::Or);
        // Which signatures the deciding side has at which steps.
        let mut presence: RapidHashMap<Labels, Vec<bool>> = RapidHashMap::default();
        for column in if is_or { &lhs } else { &rhs } {
            let steps = presence
                .entry(matching.signature(&column.labels))
                .or_insert_with(|| vec![false; matching.grid.steps]);
            for (step, there) in steps.iter_mut().enumerate() {
                *there |= column.cells.is_present(step);
            }
        }
        self.budget.check_time()?;
        let keep_where = |columns: &mut Vec<Column>, wanted: bool| {
            for column in columns.iter_mut() {
                let steps = presence.get(&matching.signature(&column.labels));
                (0..matching.grid.steps)
                    .filter(|step| steps.is_some_and(|s| s[*step]) != wanted)
                    .for_each(|step| column.cells.clear(step));
            }
            columns.retain(|c| !c.cells.is_empty());
        };
        if is_or {
            keep_where(&mut rhs, false);
            lhs.append(&mut rhs);
            return merge(lhs, &mut self.budget);
        }
        keep_where(&mut lhs, matches!(matching.op.kind, Kind::And));
        self.release(&rhs);
        Ok(lhs)
    }

    /// Arithmetic and comparison.
    pub(super) fn matched(
        &mut self,
        matching: &Matching<'_>,
        lhs: Vec<Column>,
        rhs: Vec<Column>,
    ) -> Result<Vec<Column>, Error> {
        let swapped = matches!(matching.modifier.card, Cardinality::OneToMany(_));
        let (mut many, mut one) = if swapped { (rhs, lhs) } else { (lhs, rhs) };
        let (left, right) = (matching.modifier.fill_left, matching.modifier.fill_right);
        let (fill_many, fill_one) = if swapped { (right, left) } else { (left, right) };
        if fill_many.is_some() || fill_one.is_some() {
            let for_one = fill_one
                .map(|value| matching.missing(&many, &one, value))
                .unwrap_or_default();
            let for_many = fill_many
                .map(|value| matching.missing(&one, &many, value))
                .unwrap_or_default();
            one.extend(for_one);
            many.extend(for_many);
        }
        // Where one side is empty nothing is matched, and nothing is wrong.
        let mut matched = vec![false; matching.grid.steps];
        for (step, matched) in matched.iter_mut().enumerate() {
            *matched = many.iter().any(|c| c.cells.is_present(step));
        }
        let ones = matching.index(&one, &matched, if swapped { "left" } else { "right" })?;
        let mut results: RapidHashMap<Labels, usize> = RapidHashMap::default();
        let mut out: Vec<Column> = Vec::new();
        // One-to-one: at which steps a signature has been used.
        let mut used: RapidHashMap<Labels, Vec<bool>> = RapidHashMap::default();
        for column in &many {
            self.budget.tick()?;
            let signature = matching.signature(&column.labels);
            let Some(partners) = ones.get(&signature) else {
                continue;
            };
            for partner in partners.iter().map(|i| &one[*i]) {
                let result = self.pair(matching, swapped, &column.cells, &partner.cells);
                if result.is_empty() {
                    continue;
                }
                if matching.modifier.card == Cardinality::OneToOne {
                    let used = used
                        .entry(signature.clone())
                        .or_insert_with(|| vec![false; matching.grid.steps]);
                    for step in (0..matching.grid.steps).filter(|step| result.is_present(*step)) {
                        if std::mem::replace(&mut used[step], true) {
                            return Err(Error::Execution(format!(
                                "multiple matches for labels {signature}: \
                                 many-to-one matching must be explicit (group_left/group_right)"
                            )));
                        }
                    }
                }
                let labels = matching.result_labels(&column.labels, &partner.labels);
                let Some(at) = results.get(&labels) else {
                    self.budget.charge(result.weight())?;
                    results.insert(labels.clone(), out.len());
                    out.push(Column { labels, cells: result });
                    continue;
                };
                for step in 0..matching.grid.steps {
                    let Some(point) = result.point(step) else {
                        continue;
                    };
                    if out[*at].cells.is_present(step) {
                        return Err(Error::Execution(format!(
                            "multiple matches for labels {labels}: grouping labels must ensure unique matches"
                        )));
                    }
                    out[*at].cells.set(step, point);
                }
            }
        }
        self.release(&many);
        self.release(&one);
        Ok(out)
    }

    fn pair(&mut self, matching: &Matching<'_>, swapped: bool, many: &Cells, one: &Cells) -> Cells {
        let mut out = Cells::absent(matching.grid);
        let histograms = many.has_histograms() || one.has_histograms() || matches!(matching.op.kind, Kind::Trim);
        let (left, right) = if swapped { (one, many) } else { (many, one) };
        for step in 0..matching.grid.steps {
            // A comparison lets the left value through, whichever side is the many side.
            if !histograms {
                if let (Some(a), Some(b)) = (left.float(step), right.float(step))
                    && let Some(value) = matching.op.floats(a, b, a)
                {
                    out.values[step] = value;
                }
            } else if let (Some(a), Some(b)) = (left.point(step), right.point(step))
                && let Some(point) = matching.op.points(&a, &b, &a, &mut self.annotations)
            {
                out.set(step, point);
            }
        }
        out
    }
}

impl Matching<'_> {
    /// The labels by which two sides find each other.
    fn signature(&self, labels: &Labels) -> Labels {
        match &self.modifier.matching {
            Some(LabelModifier::Include(on)) => labels.filter(|l| on.iter().any(|o| **o == *l.name)),
            Some(LabelModifier::Exclude(ignoring)) => {
                labels.filter(|l| *l.name != *names::METRIC_NAME && !ignoring.iter().any(|i| **i == *l.name))
            }
            None => labels.without_name(),
        }
    }

    /// Columns of one value for the signatures of `present` at the steps at which `absent` has nothing.
    fn missing(&self, present: &[Column], absent: &[Column], value: f64) -> Vec<Column> {
        let mut filled: RapidHashMap<Labels, usize> = RapidHashMap::default();
        let mut out: Vec<Column> = Vec::new();
        for column in present {
            let signature = self.signature(&column.labels);
            let at = *filled.entry(signature.clone()).or_insert_with(|| {
                out.push(Column::absent(signature, self.grid));
                out.len() - 1
            });
            (0..self.grid.steps)
                .filter(|step| column.cells.is_present(*step))
                .for_each(|step| out[at].cells.values[step] = value);
        }
        for column in absent {
            if let Some(at) = filled.get(&self.signature(&column.labels)) {
                (0..self.grid.steps)
                    .filter(|step| column.cells.is_present(*step))
                    .for_each(|step| out[*at].cells.clear(step));
            }
        }
        out.retain(|c| !c.cells.is_empty());
        out
    }

    /// The one side by signature; at a step at which anything is matched only one of a signature may be present.
    fn index(&self, one: &[Column], matched: &[bool], side: &str) -> Result<RapidHashMap<Labels, Vec<usize>>, Error> {
        let mut index: RapidHashMap<Labels, Vec<usize>> = RapidHashMap::default();
        // Those that are alone in their group, which is the rule, need no look at their steps.
        let mut taken: RapidHashMap<Labels, Vec<Option<usize>>> = RapidHashMap::default();
        for (i, column) in one.iter().enumerate() {
            let signature = self.signature(&column.labels);
            let others = index.entry(signature.clone()).or_default();
            if let [first, ..] = others[..] {
                let taken = taken.entry(signature).or_insert_with(|| {
                    let first_at = |step| one[first].cells.is_present(step).then_some(first);
                    (0..self.grid.steps).map(first_at).collect()
                });
                for (step, taken) in taken.iter_mut().enumerate() {
                    if !matched[step] || !column.cells.is_present(step) {
                        continue;
                    }
                    if let Some(other) = taken.replace(i) {
                        return Err(Error::Execution(format!(
                            "found duplicate series for the match group on the {side} hand-side of the operation: \
                             {} and {}; many-to-many matching not allowed: matching labels must be unique on one side",
                            one[other].labels, column.labels
                        )));
                    }
                }
            }
            others.push(i);
        }
        Ok(index)
    }

    fn result_labels(&self, many: &Labels, one: &Labels) -> Labels {
        let mut labels = many.clone();
        if !self.op.keeps_name() {
            labels = labels.without_name();
        }
        match &self.modifier.card {
            Cardinality::OneToOne => match &self.modifier.matching {
                Some(LabelModifier::Include(on)) => labels.filter(|l| on.iter().any(|o| **o == *l.name)),
                Some(LabelModifier::Exclude(ignoring)) => labels.filter(|l| !ignoring.iter().any(|i| **i == *l.name)),
                None => labels,
            },
            Cardinality::ManyToOne(include) | Cardinality::OneToMany(include) => {
                let mut builder = labels.builder();
                include.iter().for_each(|name| include_label(&mut builder, name, one));
                builder.build()
            }
        }
    }
}

fn include_label(builder: &mut LabelsBuilder, name: &str, one: &Labels) {
    builder.set(name, one.get(name));
}
