//! Which labels each series has: numbers of name/value pairs in the order of the names, page by page without gaps.

use super::Id;
use crate::pages::PAGE;
use rapidhash::RapidHashMap;

/// Number of a name/value pair.
pub(crate) type PairId = u32;

#[derive(Debug, Default)]
pub(crate) struct Identities(RapidHashMap<u64, Page>);

/// The pairs of consecutive series one after another.
#[derive(Debug, Default)]
struct Page {
    pairs: Vec<PairId>,
    /// Where the pairs of each series end; a series that is gone has none.
    ends: Vec<u32>,
    live: u32,
    /// Pairs that belong to nobody.
    gone: usize,
}

impl Page {
    fn range(&self, slot: usize) -> Option<std::ops::Range<usize>> {
        let end = *self.ends.get(slot)? as usize;
        let begin = if slot == 0 { 0 } else { self.ends[slot - 1] as usize };
        Some(begin..end)
    }
}

/// Marks the first pair of a series that is gone until its page is written anew.
const GONE: PairId = PairId::MAX;

impl Identities {
    /// Appends a series with a number above all others.
    pub fn push(&mut self, id: Id, pairs: &[PairId]) {
        let page = self.0.entry(id / PAGE).or_default();
        let slot = (id % PAGE) as usize;
        // Numbers may be left out where a store was read from a disk.
        let end = page.pairs.len() as u32;
        page.ends.resize(slot, end);
        if page.pairs.capacity() - page.pairs.len() < pairs.len() {
            let left = PAGE as usize - slot;
            page.pairs.reserve_exact(pairs.len().max(1) * left.min(64));
        }
        page.pairs.extend_from_slice(pairs);
        page.ends.push(page.pairs.len() as u32);
        page.live += 1;
        if slot + 1 == PAGE as usize {
            page.pairs.shrink_to_fit();
        }
    }

    /// The pairs of a series; none when it is gone.
    pub fn get(&self, id: Id) -> Option<&[PairId]> {
        let page = self.0.get(&(id / PAGE))?;
        let pairs = page.pairs.get(page.range((id % PAGE) as usize)?)?;
        (pairs.first() != Some(&GONE) && !pairs.is_empty()).then_some(pairs)
    }

    /// Forgets a series; its pairs.
    pub fn remove(&mut self, id: Id) -> Vec<PairId> {
        let Some(pairs) = self.get(id).map(<[PairId]>::to_vec) else {
            return Vec::new();
        };
        let Some(page) = self.0.get_mut(&(id / PAGE)) else {
            return pairs;
        };
        page.live -= 1;
        page.gone += pairs.len();
        if let Some(range) = page.range((id % PAGE) as usize) {
            page.pairs[range.start] = GONE;
        }
        if page.live == 0 && page.ends.len() == PAGE as usize {
            self.0.remove(&(id / PAGE));
        } else if page.gone * 2 > page.pairs.len() {
            page.compact();
        }
        pairs
    }

    /// All series, ascending.
    pub fn ids(&self) -> Vec<Id> {
        let mut numbers: Vec<u64> = self.0.keys().copied().collect();
        numbers.sort_unstable();
        let all = numbers
            .into_iter()
            .flat_map(|number| number * PAGE..(number + 1) * PAGE);
        all.filter(|id| self.get(*id).is_some()).collect()
    }

    pub fn heap_bytes(&self) -> usize {
        let page = |p: &Page| (p.pairs.capacity() + p.ends.capacity()) * 4;
        self.0.capacity() * (size_of::<Page>() + 9) + self.0.values().map(page).sum::<usize>()
    }
}

impl Page {
    fn compact(&mut self) {
        let mut pairs = Vec::with_capacity(self.pairs.len() - self.gone);
        let mut ends = Vec::with_capacity(self.ends.len());
        for slot in 0..self.ends.len() {
            let old = self
                .range(slot)
                .and_then(|range| self.pairs.get(range))
                .unwrap_or_default();
            if old.first() != Some(&GONE) {
                pairs.extend_from_slice(old);
            }
            ends.push(pairs.len() as u32);
        }
        (self.pairs, self.ends, self.gone) = (pairs, ends, 0);
    }
}
