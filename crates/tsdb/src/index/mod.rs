//! Which series there are and how to find them: each name/value pair once, each series as the numbers of its pairs, and
//! for each pair the series that have it.
//!
//! Enters: label names and values. Leaves: numbers of series, ascending, and their labels. It knows no samples and no time.

mod identities;
mod matching;
mod postings;

use hashbrown::HashTable;
use identities::Identities;
pub(crate) use identities::PairId;
use postings::Postings;
use rapidhash::fast::RandomState;
use std::hash::BuildHasher;

/// Number of a series, in the order of their making; never used twice.
pub(crate) type Id = u64;

/// What there is most of, the largest first.
pub type Counts = Vec<(String, usize)>;

/// A table is grown in one go: many small ones never stop anybody for long.
const TABLES: usize = 64;

#[derive(Debug)]
pub(crate) struct Index {
    next: Id,
    live: usize,
    names: Vec<Name>,
    by_name: HashTable<u32>,
    free_names: Vec<u32>,
    pairs: Vec<Pair>,
    free_pairs: Vec<PairId>,
    identities: Identities,
    /// Series by the hash of their pairs.
    tables: [HashTable<Id>; TABLES],
    /// Pairs whose lists are half of series that are gone.
    littered: Vec<PairId>,
    /// Changes whenever a number of a pair may come to mean another one.
    removals: u64,
    hasher: RandomState,
    pair_bytes: usize,
}

#[derive(Debug, Default)]
struct Name {
    text: Box<str>,
    /// Pairs of this name by the hash of their value.
    values: HashTable<PairId>,
}

#[derive(Debug, Default)]
struct Pair {
    name: u32,
    /// How many of its series are gone.
    gone: u32,
    value: Box<str>,
    postings: Postings,
}

impl Default for Index {
    fn default() -> Self {
        Index {
            next: 0,
            live: 0,
            names: Vec::new(),
            by_name: HashTable::new(),
            free_names: Vec::new(),
            pairs: Vec::new(),
            free_pairs: Vec::new(),
            identities: Identities::default(),
            tables: std::array::from_fn(|_| HashTable::new()),
            littered: Vec::new(),
            removals: 0,
            hasher: RandomState::default(),
            pair_bytes: 0,
        }
    }
}

/// The highest bits choose the table; the table itself uses the others.
fn table_of(hash: u64) -> usize {
    (hash >> 40) as usize % TABLES
}

impl Index {
    pub fn len(&self) -> usize {
        self.live
    }

    pub fn next(&self) -> Id {
        self.next
    }

    /// See [`Index::pair`]: while this is the same, so is what each number of a pair means.
    pub fn removals(&self) -> u64 {
        self.removals
    }

    /// The numbers of the pairs, if all of them are known.
    pub fn find_pairs<'a>(&self, labels: impl Iterator<Item = (&'a str, &'a str)>, out: &mut Vec<PairId>) -> bool {
        out.clear();
        for (name, value) in labels {
            let Some(pair) = self.name_id(name).and_then(|n| self.find_pair(n, value)) else {
                return false;
            };
            out.push(pair);
        }
        true
    }

    /// The series with exactly these pairs.
    pub fn find(&self, pairs: &[PairId]) -> Option<Id> {
        let hash = self.hasher.hash_one(pairs);
        let same = |id: &Id| self.identities.get(*id) == Some(pairs);
        self.tables[table_of(hash)].find(hash, same).copied()
    }

    pub fn name_id(&self, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        let same = |id: &u32| *self.names[*id as usize].text == *name;
        self.by_name.find(hash, same).copied()
    }

    fn find_pair(&self, name: u32, value: &str) -> Option<PairId> {
        let hash = self.hasher.hash_one(value);
        let same = |id: &PairId| *self.pairs[*id as usize].value == *value;
        self.names[name as usize].values.find(hash, same).copied()
    }

    /// The numbers of the pairs, which are made where they are new.
    pub fn intern<'a>(&mut self, labels: impl Iterator<Item = (&'a str, &'a str)>, out: &mut Vec<PairId>) {
        out.clear();
        for (name, value) in labels {
            let name = self.name_id(name).unwrap_or_else(|| self.insert_name(name));
            let pair = self
                .find_pair(name, value)
                .unwrap_or_else(|| self.insert_pair(name, value));
            out.push(pair);
        }
    }

    fn insert_name(&mut self, text: &str) -> u32 {
        let name = Name {
            text: text.into(),
            values: HashTable::new(),
        };
        let id = reuse(&mut self.names, &mut self.free_names, name);
        let (names, hasher) = (&self.names, &self.hasher);
        let rehash = |id: &u32| hasher.hash_one(&*names[*id as usize].text);
        self.by_name.insert_unique(hasher.hash_one(text), id, rehash);
        id
    }

    fn insert_pair(&mut self, name: u32, value: &str) -> PairId {
        self.pair_bytes += value.len().next_multiple_of(8);
        let pair = Pair {
            name,
            gone: 0,
            value: value.into(),
            postings: Postings::default(),
        };
        let id = reuse(&mut self.pairs, &mut self.free_pairs, pair);
        let (pairs, hasher) = (&self.pairs, &self.hasher);
        let rehash = |id: &PairId| hasher.hash_one(&*pairs[*id as usize].value);
        let values = &mut self.names[name as usize].values;
        values.insert_unique(hasher.hash_one(value), id, rehash);
        id
    }

    /// A new series of interned pairs.
    pub fn insert(&mut self, pairs: &[PairId]) -> Id {
        let id = self.next;
        self.insert_as(id, pairs);
        id
    }

    /// As [`Index::insert`], with a number that must be at least [`Index::next`].
    pub fn insert_as(&mut self, id: Id, pairs: &[PairId]) {
        self.next = id + 1;
        self.live += 1;
        for pair in pairs {
            let postings = &mut self.pairs[*pair as usize].postings;
            let before = postings.heap_bytes();
            postings.push(id);
            self.pair_bytes += postings.heap_bytes() - before;
        }
        self.identities.push(id, pairs);
        let (identities, hasher) = (&self.identities, &self.hasher);
        let rehash = |id: &Id| hasher.hash_one(identities.get(*id).unwrap_or_default());
        let hash = hasher.hash_one(pairs);
        self.tables[table_of(hash)].insert_unique(hash, id, rehash);
    }

    /// Numbers below are never given out again, whether or not they are used.
    pub fn skip_to(&mut self, next: Id) {
        self.next = self.next.max(next);
    }

    /// Forgets series. They stay in the lists of their pairs until [`Index::sweep`].
    pub fn remove(&mut self, gone: &[Id]) {
        for id in gone {
            let Some(pairs) = self.identities.get(*id) else {
                continue;
            };
            let hash = self.hasher.hash_one(pairs);
            let table = &mut self.tables[table_of(hash)];
            if let Ok(entry) = table.find_entry(hash, |other| other == id) {
                entry.remove();
            }
            for pair in self.identities.remove(*id) {
                self.lose(pair);
            }
            self.live -= 1;
        }
    }

    /// One of a pair's series is gone; without any the pair goes too.
    fn lose(&mut self, id: PairId) {
        let pair = &mut self.pairs[id as usize];
        pair.gone += 1;
        let all = pair.postings.len();
        if pair.gone as usize == all {
            self.remove_pair(id);
        } else if pair.gone as usize * 2 == (all & !1) {
            self.littered.push(id);
        }
    }

    fn remove_pair(&mut self, id: PairId) {
        let pair = std::mem::take(&mut self.pairs[id as usize]);
        self.pair_bytes -= pair.value.len().next_multiple_of(8) + pair.postings.heap_bytes();
        self.removals += 1;
        self.free_pairs.push(id);
        let values = &mut self.names[pair.name as usize].values;
        if let Ok(entry) = values.find_entry(self.hasher.hash_one(&*pair.value), |other| *other == id) {
            entry.remove();
        }
        if values.is_empty() {
            let name = std::mem::take(&mut self.names[pair.name as usize]);
            if let Ok(entry) = self
                .by_name
                .find_entry(self.hasher.hash_one(&*name.text), |n| *n == pair.name)
            {
                entry.remove();
            }
            self.free_names.push(pair.name);
        } else if values.len() * 8 < values.capacity() {
            let (pairs, hasher) = (&self.pairs, &self.hasher);
            values.shrink_to_fit(|id| hasher.hash_one(&*pairs[*id as usize].value));
        }
    }

    /// Writes one list anew that is half of series that are gone; whether there was one. Each takes time as its length,
    /// and each number is moved a few times in its life.
    pub fn sweep(&mut self) -> bool {
        let Some(id) = self.littered.pop() else {
            return false;
        };
        let pair = &mut self.pairs[id as usize];
        if pair.gone > 0 {
            let before = pair.postings.heap_bytes();
            pair.postings.retain(|id| self.identities.get(id).is_some());
            pair.gone = 0;
            self.pair_bytes = self.pair_bytes + pair.postings.heap_bytes() - before;
        }
        true
    }

    /// The labels of a series, by the numbers of its pairs.
    pub fn pairs_of(&self, id: Id) -> Option<&[PairId]> {
        self.identities.get(id)
    }

    /// Name and value of a pair.
    pub fn pair(&self, id: PairId) -> (&str, &str) {
        let pair = &self.pairs[id as usize];
        (&self.names[pair.name as usize].text, &pair.value)
    }

    pub fn name_of(&self, id: PairId) -> u32 {
        self.pairs[id as usize].name
    }

    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter(|n| !n.values.is_empty()).map(|n| &*n.text)
    }

    /// The values of a label, each with its series; some of those may be gone.
    pub fn label_values(&self, name: &str) -> impl Iterator<Item = (&str, impl Iterator<Item = Id>)> {
        let name = self.name_id(name).map(|n| &self.names[n as usize]);
        name.into_iter().flat_map(|n| n.values.iter()).map(|id| {
            let pair = &self.pairs[*id as usize];
            (&*pair.value, pair.postings.iter())
        })
    }

    /// Label names and values with the most series, the largest first, for those who look for what costs most.
    pub fn largest(&self, limit: usize) -> (Counts, Counts) {
        let values = self.names.iter().map(|n| (n.text.to_string(), n.values.len()));
        let pairs = self.pairs.iter().filter(|p| p.postings.len() > 0).map(|p| {
            let series = p.postings.len() - p.gone as usize;
            (format!("{}={}", self.names[p.name as usize].text, p.value), series)
        });
        (top(values.collect(), limit), top(pairs.collect(), limit))
    }

    /// Bytes on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        let tables: usize = self.tables.iter().map(|t| t.allocation_size()).sum();
        let names: usize = self
            .names
            .iter()
            .map(|n| n.text.len() + n.values.allocation_size())
            .sum();
        let own = self.pairs.capacity() * size_of::<Pair>() + self.names.capacity() * size_of::<Name>();
        tables + names + own + self.pair_bytes + self.identities.heap_bytes()
    }
}

fn top(mut all: Counts, limit: usize) -> Counts {
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(limit);
    all
}

fn reuse<T>(all: &mut Vec<T>, free: &mut Vec<u32>, new: T) -> u32 {
    if let Some(id) = free.pop() {
        all[id as usize] = new;
        return id;
    }
    all.push(new);
    all.len() as u32 - 1
}

#[cfg(test)]
mod tests;
