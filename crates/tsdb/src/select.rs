//! The way of a query: matchers -> numbers of series -> one series after another, decoded into the same room.
//!
//! The index is held for a few series at a time, a page while one series is decoded, so that a long query stops nobody.

use crate::head::Head;
use crate::index::{Id, Index, PairId};
use crate::pages::{Cursor, lock};
use rapidhash::RapidHashMap;
use std::cell::RefCell;
use std::collections::BTreeSet;
use weir_series::{Identity, Label, Labels, Matcher, SeriesView, Visitor};

/// Series that are visited under one lock of the index.
const STEP: usize = 64;

/// What one visit remembers of the index, because its series have most of it in common.
#[derive(Default)]
struct Remembered {
    /// Names that were asked for, with their numbers.
    names: Vec<(String, Option<u32>)>,
    /// Pairs as labels, shared by all that are copied.
    labels: RapidHashMap<PairId, Label>,
    removals: u64,
}

/// One series, seen in the index.
struct Seen<'a> {
    index: &'a Index,
    pairs: &'a [PairId],
    remembered: &'a RefCell<Remembered>,
}

impl Identity for Seen<'_> {
    fn get(&self, name: &str) -> &str {
        let mut remembered = self.remembered.borrow_mut();
        let id = match remembered.names.iter().find(|(n, _)| n == name) {
            Some((_, id)) => *id,
            None => {
                let id = self.index.name_id(name);
                remembered.names.push((name.to_owned(), id));
                id
            }
        };
        let pair = id.and_then(|id| self.pairs.iter().find(|p| self.index.name_of(**p) == id));
        pair.map_or("", |pair| self.index.pair(*pair).1)
    }

    fn labels(&self) -> Labels {
        let mut remembered = self.remembered.borrow_mut();
        let label = |pair: &PairId| {
            let label = remembered.labels.entry(*pair).or_insert_with(|| {
                let (name, value) = self.index.pair(*pair);
                Label {
                    name: name.into(),
                    value: value.into(),
                }
            });
            label.clone()
        };
        Labels::from_vec(self.pairs.iter().map(label).collect())
    }
}

impl Head {
    pub fn visit(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64, visitor: &mut Visitor<'_>) {
        let (mut samples, mut histograms, mut bits) = (Vec::new(), Vec::new(), Vec::new());
        self.walk(matchers, |head, cursor, id, identity| {
            samples.clear();
            histograms.clear();
            if let Some(page) = cursor.page(&head.pages, id)
                && let Some(series) = lock(page).get(id)
            {
                series.read(start_ms, end_ms, &mut bits, &mut samples);
                series.read_histograms(start_ms, end_ms, &mut histograms);
            }
            if samples.is_empty() && histograms.is_empty() {
                return true;
            }
            let view = SeriesView {
                identity,
                samples: &samples,
                histograms: &histograms,
            };
            visitor(view).is_continue()
        });
    }

    /// Calls with each series that matches until that says no.
    fn walk(&self, matchers: &[Matcher], mut with: impl FnMut(&Head, &mut Cursor, Id, &Seen<'_>) -> bool) {
        let ids = self.index().matching(matchers);
        let remembered = RefCell::new(Remembered::default());
        let mut cursor = Cursor::default();
        for step in ids.chunks(STEP) {
            let index = self.index();
            {
                let mut remembered = remembered.borrow_mut();
                if remembered.removals != index.removals() {
                    *remembered = Remembered {
                        removals: index.removals(),
                        ..Remembered::default()
                    };
                }
            }
            for id in step {
                let Some(pairs) = index.pairs_of(*id) else {
                    continue;
                };
                let seen = Seen {
                    index: &index,
                    pairs,
                    remembered: &remembered,
                };
                if !with(self, &mut cursor, *id, &seen) {
                    return;
                }
            }
        }
    }

    /// As [`Head::walk`], of the series with a chunk in the time.
    fn walk_overlapping(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64, mut with: impl FnMut(&Seen<'_>)) {
        self.walk(matchers, |head, cursor, id, seen| {
            if head.overlaps(cursor, id, start_ms, end_ms) {
                with(seen);
            }
            true
        });
    }

    fn overlaps(&self, cursor: &mut Cursor, id: Id, start_ms: i64, end_ms: i64) -> bool {
        let page = cursor.page(&self.pages, id).map(lock);
        page.is_some_and(|page| page.get(id).is_some_and(|s| s.overlaps(start_ms, end_ms)))
    }

    pub fn series(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Vec<Labels> {
        let mut all = Vec::new();
        self.walk_overlapping(matchers, start_ms, end_ms, |seen| all.push(seen.labels()));
        all.sort_unstable();
        all
    }

    /// Without matchers of all series there are, whatever the time.
    pub fn label_names(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Vec<String> {
        let mut names = BTreeSet::new();
        if matchers.is_empty() {
            names.extend(self.index().label_names().map(str::to_owned));
            return names.into_iter().collect();
        }
        self.walk_overlapping(matchers, start_ms, end_ms, |seen| {
            for pair in seen.pairs {
                let (name, _) = seen.index.pair(*pair);
                if !names.contains(name) {
                    names.insert(name.to_owned());
                }
            }
        });
        names.into_iter().collect()
    }

    pub fn label_values(&self, name: &str, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Vec<String> {
        let mut values = BTreeSet::new();
        if matchers.is_empty() {
            // Nearly every value has a series in the time among its first.
            let mut cursor = Cursor::default();
            let index = self.index();
            for (value, mut ids) in index.label_values(name) {
                if ids.any(|id| self.overlaps(&mut cursor, id, start_ms, end_ms)) {
                    values.insert(value.to_owned());
                }
            }
            return values.into_iter().collect();
        }
        self.walk_overlapping(matchers, start_ms, end_ms, |seen| {
            let value = seen.get(name);
            if !value.is_empty() && !values.contains(value) {
                values.insert(value.to_owned());
            }
        });
        values.into_iter().collect()
    }
}
