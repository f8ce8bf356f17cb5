//! From matchers to series: the shortest list first, then a look at the pairs of each candidate.

use super::{Id, Index, PairId};
use rapidhash::RapidHashMap;
use weir_series::Matcher;

/// A list of that many times the candidates is not walked through: looking at each candidate is cheaper.
const WALK: usize = 32;

/// What a matcher asks of a series, in terms of pairs.
enum Test<'a> {
    /// Has one of these pairs.
    Has(PairSet),
    /// Has none of these pairs.
    HasNot(PairSet),
    /// Decided value by value, as they are met: there are more values of that label than series to look at.
    Value {
        matcher: &'a Matcher,
        name: u32,
        known: RapidHashMap<PairId, bool>,
    },
}

enum PairSet {
    One(PairId),
    /// One bit a pair.
    Many(Vec<u64>),
}

impl PairSet {
    fn of(pairs: &[PairId]) -> PairSet {
        if let [one] = pairs {
            return PairSet::One(*one);
        }
        let words = pairs.iter().max().map_or(0, |max| *max as usize / 64 + 1);
        let mut bits = vec![0u64; words];
        pairs.iter().for_each(|p| bits[*p as usize / 64] |= 1 << (p % 64));
        PairSet::Many(bits)
    }

    fn any(&self, pairs: &[PairId]) -> bool {
        match self {
            PairSet::One(one) => pairs.contains(one),
            PairSet::Many(bits) => pairs
                .iter()
                .any(|p| bits.get(*p as usize / 64).is_some_and(|word| word >> (p % 64) & 1 == 1)),
        }
    }
}

impl Test<'_> {
    fn passes(&mut self, index: &Index, pairs: &[PairId]) -> bool {
        match self {
            Test::Has(set) => set.any(pairs),
            Test::HasNot(set) => !set.any(pairs),
            Test::Value { matcher, name, known } => {
                match pairs.iter().find(|p| index.pairs[**p as usize].name == *name) {
                    None => matcher.matches(""),
                    Some(pair) => *known
                        .entry(*pair)
                        .or_insert_with(|| matcher.matches(&index.pairs[*pair as usize].value)),
                }
            }
        }
    }
}

impl Index {
    /// The series that satisfy all matchers, ascending; all of them without matchers. Series that are just going may be
    /// among them.
    pub fn matching(&self, matchers: &[Matcher]) -> Vec<Id> {
        // Those that name their values narrow the search before those that must be tried on values.
        let (mut narrow, mut wide): (Vec<&Matcher>, Vec<&Matcher>) = (Vec::new(), Vec::new());
        for matcher in matchers {
            let exact = matcher.exact_values().is_some() && !matcher.matches("");
            if exact { &mut narrow } else { &mut wide }.push(matcher);
        }
        let mut lists = Vec::new();
        for matcher in narrow {
            let pairs = self.exact_pairs(matcher);
            if pairs.is_empty() {
                return Vec::new();
            }
            lists.push(pairs);
        }
        let mut tests = Vec::new();
        for matcher in wide {
            let positive = !matcher.matches("");
            let Some(name) = self.name_id(matcher.name()) else {
                if positive {
                    return Vec::new();
                }
                continue;
            };
            let fewest = lists.iter().map(|pairs| self.weight(pairs)).min().unwrap_or(usize::MAX);
            if self.names[name as usize].values.len() > fewest {
                let known = RapidHashMap::default();
                tests.push(Test::Value { matcher, name, known });
                continue;
            }
            let values = self.names[name as usize].values.iter().copied();
            let pairs: Vec<PairId> = values
                .filter(|p| matcher.matches(&self.pairs[*p as usize].value) == positive)
                .collect();
            if !positive {
                tests.push(Test::HasNot(PairSet::of(&pairs)));
            } else if pairs.is_empty() {
                return Vec::new();
            } else {
                lists.push(pairs);
            }
        }
        self.intersect(lists, tests)
    }

    /// The pairs of a matcher that names its values.
    fn exact_pairs(&self, matcher: &Matcher) -> Vec<PairId> {
        let Some(name) = self.name_id(matcher.name()) else {
            return Vec::new();
        };
        let values = matcher.exact_values().unwrap_or_default();
        let mut pairs: Vec<PairId> = values.into_iter().filter_map(|v| self.find_pair(name, v)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    fn weight(&self, pairs: &[PairId]) -> usize {
        pairs.iter().map(|p| self.pairs[*p as usize].postings.len()).sum()
    }

    fn intersect(&self, mut lists: Vec<Vec<PairId>>, mut tests: Vec<Test<'_>>) -> Vec<Id> {
        lists.sort_by_key(|pairs| self.weight(pairs));
        let mut lists = lists.into_iter();
        let mut ids = match lists.next() {
            Some(pairs) => self.union(&pairs),
            None => self.identities.ids(),
        };
        for pairs in lists {
            match pairs[..] {
                [one] if self.weight(&pairs) <= ids.len().saturating_mul(WALK) => {
                    keep_common(&mut ids, self.pairs[one as usize].postings.iter());
                }
                _ => tests.push(Test::Has(PairSet::of(&pairs))),
            }
        }
        if !tests.is_empty() {
            ids.retain(|id| {
                let pairs = self.identities.get(*id);
                pairs.is_some_and(|pairs| tests.iter_mut().all(|test| test.passes(self, pairs)))
            });
        }
        ids
    }

    /// Lists of different values of one label never share a series.
    fn union(&self, pairs: &[PairId]) -> Vec<Id> {
        let mut ids = Vec::with_capacity(self.weight(pairs));
        pairs
            .iter()
            .for_each(|p| ids.extend(self.pairs[*p as usize].postings.iter()));
        if pairs.len() > 1 {
            ids.sort_unstable();
        }
        ids
    }
}

/// Keeps the numbers that are in both ascending lists.
fn keep_common(ids: &mut Vec<Id>, mut other: impl Iterator<Item = Id>) {
    let mut next = other.next();
    ids.retain(|id| {
        while next.is_some_and(|n| n < *id) {
            next = other.next();
        }
        next == Some(*id)
    });
}
