//! Groups of an aggregation: which one a series belongs to, looked up without copying its labels.

use crate::parse::LabelModifier;
use rapidhash::RapidHashMap;
use weir_series::{Identity, Labels, names};

/// Groups in the order in which they were first seen.
pub(super) struct Groups<'q> {
    by: By<'q>,
    /// Of `by`: the values of the labels, each followed by a byte that is in no UTF-8.
    by_values: RapidHashMap<Box<[u8]>, usize>,
    key: Vec<u8>,
    /// Of `without`.
    by_labels: RapidHashMap<Labels, usize>,
    pub labels: Vec<Labels>,
}

enum By<'q> {
    Only(Vec<&'q str>),
    Without(Vec<&'q str>),
}

impl<'q> Groups<'q> {
    pub fn new(modifier: Option<&'q LabelModifier>) -> Self {
        let sorted = |labels: &'q [String]| {
            let mut names: Vec<&str> = labels.iter().map(String::as_str).collect();
            names.sort_unstable();
            names.dedup();
            names
        };
        let by = match modifier {
            None => By::Only(Vec::new()),
            Some(LabelModifier::Include(labels)) => By::Only(sorted(labels)),
            Some(LabelModifier::Exclude(labels)) => By::Without(sorted(labels)),
        };
        Groups {
            by,
            by_values: RapidHashMap::default(),
            key: Vec::new(),
            by_labels: RapidHashMap::default(),
            labels: Vec::new(),
        }
    }

    /// The group's place; groups are numbered as they come.
    pub fn of(&mut self, identity: &dyn Identity) -> usize {
        match &self.by {
            By::Only(names) => {
                self.key.clear();
                for name in names {
                    self.key.extend_from_slice(identity.get(name).as_bytes());
                    self.key.push(0xff);
                }
                if let Some(at) = self.by_values.get(self.key.as_slice()) {
                    return *at;
                }
                self.by_values.insert(self.key.as_slice().into(), self.labels.len());
                self.labels
                    .push(Labels::new(names.iter().map(|name| (*name, identity.get(name)))));
                self.labels.len() - 1
            }
            By::Without(names) => {
                let labels = identity.labels();
                let kept = labels.filter(|l| *l.name != *names::METRIC_NAME && !names.contains(&&*l.name));
                let all = &mut self.labels;
                *self.by_labels.entry(kept).or_insert_with_key(|kept| {
                    all.push(kept.clone());
                    all.len() - 1
                })
            }
        }
    }
}
