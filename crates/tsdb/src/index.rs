//! Which series there are and how to find them: interned strings, series by fingerprint, postings by label.

use rapidhash::{RapidHashMap, RapidHashSet};
use std::{collections::BTreeMap, sync::Arc};
use weir_series::{Label, Labels, Matcher};

/// Number of a series, in the order of their making; never used twice.
pub(crate) type Id = u64;

#[derive(Debug, Default)]
pub(crate) struct Index {
    next: Id,
    labels: RapidHashMap<Id, Labels>,
    ids: RapidHashMap<Labels, Id>,
    /// Label name -> value -> series, ascending.
    postings: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Vec<Id>>>,
    /// Every string that a series uses, once.
    strings: RapidHashSet<Arc<str>>,
}

impl Index {
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn find(&self, labels: &Labels) -> Option<Id> {
        self.ids.get(labels).copied()
    }

    pub fn labels(&self, id: Id) -> Option<&Labels> {
        self.labels.get(&id)
    }

    pub fn insert(&mut self, labels: &Labels) -> Id {
        let id = self.next;
        self.next += 1;
        let interned = labels
            .iter()
            .map(|l| Label {
                name: self.intern(&l.name),
                value: self.intern(&l.value),
            })
            .collect();
        let labels = Labels::from_vec(interned);
        for label in labels.iter() {
            let values = self.postings.entry(label.name.clone()).or_default();
            values.entry(label.value.clone()).or_default().push(id); // ids ascend, so postings stay sorted
        }
        self.labels.insert(id, labels.clone());
        self.ids.insert(labels, id);
        id
    }

    fn intern(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(held) = self.strings.get(text) {
            return held.clone();
        }
        self.strings.insert(text.clone());
        text.clone()
    }

    /// Forgets series. All at once, because each posting that they touch is rebuilt only once.
    pub fn remove(&mut self, gone: &[Id]) {
        let set: RapidHashSet<Id> = gone.iter().copied().collect();
        let mut touched: RapidHashSet<Label> = RapidHashSet::default();
        for id in gone {
            if let Some(labels) = self.labels.remove(id) {
                touched.extend(labels.iter().cloned());
                self.ids.remove(&labels);
            }
        }
        for Label { name, value } in touched {
            let Some(values) = self.postings.get_mut(&name) else {
                continue;
            };
            if let Some(ids) = values.get_mut(&value) {
                ids.retain(|id| !set.contains(id));
                ids.shrink_to_fit();
                if ids.is_empty() {
                    values.remove(&value);
                }
            }
            if values.is_empty() {
                self.postings.remove(&name);
            }
        }
        // Strings that only the gone series used are held here alone.
        self.strings.retain(|s| Arc::strong_count(s) > 1);
        if self.ids.len() * 4 < self.ids.capacity() {
            self.ids.shrink_to_fit();
            self.labels.shrink_to_fit();
            self.strings.shrink_to_fit();
        }
    }

    /// The series that satisfy all matchers, ascending by id; all of them without matchers.
    pub fn matching(&self, matchers: &[Matcher]) -> Vec<Id> {
        // The narrowest list of candidates that some matcher gives; the other matchers check labels.
        let mut best: Option<(usize, Vec<Id>)> = None;
        for (at, matcher) in matchers.iter().enumerate().filter(|(_, m)| !m.matches("")) {
            let candidates = self.candidates(matcher);
            if best.as_ref().is_none_or(|(_, ids)| candidates.len() < ids.len()) {
                best = Some((at, candidates));
            }
            if best.as_ref().is_some_and(|(_, ids)| ids.is_empty()) {
                return Vec::new();
            }
        }
        let (done, mut ids) = match best {
            Some((at, ids)) => (Some(at), ids),
            None => {
                let mut all: Vec<Id> = self.labels.keys().copied().collect();
                all.sort_unstable();
                (None, all)
            }
        };
        let rest: Vec<&Matcher> = matchers
            .iter()
            .enumerate()
            .filter(|(i, _)| Some(*i) != done)
            .map(|(_, m)| m)
            .collect();
        ids.retain(|id| {
            self.labels
                .get(id)
                .is_some_and(|labels| rest.iter().all(|m| m.matches_labels(labels)))
        });
        ids
    }

    /// The series with the label and a value that matches (only for matchers that do not match "").
    fn candidates(&self, matcher: &Matcher) -> Vec<Id> {
        let Some(values) = self.postings.get(matcher.name()) else {
            return Vec::new();
        };
        if let Some(exact) = matcher.exact_values() {
            let mut exact = exact;
            exact.sort_unstable();
            exact.dedup();
            return union(exact.into_iter().filter_map(|v| values.get(v)));
        }
        union(
            values
                .iter()
                .filter(|(value, _)| matcher.matches(value))
                .map(|(_, ids)| ids),
        )
    }

    pub fn label_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.postings.keys()
    }

    pub fn label_values(&self, name: &str) -> impl Iterator<Item = (&Arc<str>, &Vec<Id>)> {
        self.postings.get(name).into_iter().flatten()
    }

    /// Bytes on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        let strings: usize = self.strings.iter().map(|s| s.len() + 32).sum();
        let labels: usize = self.labels.values().map(|l| 16 + l.len() * size_of::<Label>()).sum();
        let postings: usize = self
            .postings
            .values()
            .flat_map(BTreeMap::values)
            .map(|ids| 48 + ids.capacity() * 8)
            .sum();
        strings + labels + postings + (self.ids.capacity() + self.labels.capacity()) * 28
    }
}

/// Postings of different values of one label never share a series.
fn union<'a>(lists: impl Iterator<Item = &'a Vec<Id>>) -> Vec<Id> {
    let mut ids: Vec<Id> = lists.flatten().copied().collect();
    ids.sort_unstable();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_series::MatchOp;

    fn index() -> Index {
        let mut index = Index::default();
        for (name, pod) in [("a", "x"), ("a", "y"), ("b", "x"), ("b", "")] {
            index.insert(&Labels::new([("__name__", name), ("pod", pod)]));
        }
        index
    }

    fn find(index: &Index, matchers: &[(MatchOp, &str, &str)]) -> Vec<Id> {
        let matchers: Vec<_> = matchers
            .iter()
            .map(|(op, n, v)| Matcher::new(*op, *n, *v).unwrap_or_else(|e| panic!("{e}")))
            .collect();
        index.matching(&matchers)
    }

    #[test]
    fn finds_series() {
        let index = index();
        use MatchOp::*;
        assert_eq!(find(&index, &[(Equal, "__name__", "a")]), [0, 1]);
        assert_eq!(find(&index, &[(Equal, "__name__", "a"), (NotEqual, "pod", "x")]), [1]);
        assert_eq!(find(&index, &[(NotEqual, "pod", "x")]), [1, 3]);
        assert_eq!(find(&index, &[(Regex, "pod", "x|y"), (Equal, "__name__", "b")]), [2]);
        assert_eq!(find(&index, &[(Regex, "pod", ".+")]), [0, 1, 2]);
        assert_eq!(find(&index, &[(Regex, "pod", ".*")]), [0, 1, 2, 3]);
        assert_eq!(find(&index, &[(NotRegex, "pod", ".+")]), [3]);
        assert_eq!(find(&index, &[(Equal, "pod", "")]), [3]);
        assert_eq!(find(&index, &[(Equal, "nothing", "x")]), [0; 0]);
        assert_eq!(find(&index, &[]), [0, 1, 2, 3]);
    }

    #[test]
    fn forgets_series_and_their_strings() {
        let mut index = index();
        index.remove(&[1, 3]);
        assert_eq!(index.len(), 2);
        assert_eq!(find(&index, &[(MatchOp::Equal, "pod", "y")]), [0; 0]);
        assert!(!index.strings.contains("y") && index.strings.contains("x"));
        assert_eq!(index.label_values("pod").count(), 1);
        index.remove(&[0, 2]);
        assert!(index.strings.is_empty() && index.postings.is_empty());
    }
}
