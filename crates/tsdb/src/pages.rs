//! Where the series lie: in pages of consecutive numbers, each behind a lock of its own.
//!
//! The series of one target are made one after another, so that a batch of its samples locks a few pages and walks through
//! each from front to back. Whoever appends or reads holds one page at a time and nothing else.

use crate::{index::Id, series::Series};
use rapidhash::RapidHashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Series of a page.
pub(crate) const PAGE: u64 = 256;

/// A run of numbers, some of which may be gone.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Numbers within the page, ascending.
    slots: Vec<u8>,
    series: Vec<Series>,
}

impl Page {
    fn at(&self, id: Id) -> Option<usize> {
        let slot = (id % PAGE) as u8;
        // Nothing is gone from most pages.
        if self.slots.get(usize::from(slot)) == Some(&slot) {
            return Some(usize::from(slot));
        }
        self.slots.binary_search(&slot).ok()
    }

    #[inline]
    pub fn get_mut(&mut self, id: Id) -> Option<&mut Series> {
        let at = self.at(id)?;
        self.series.get_mut(at)
    }

    pub fn get(&self, id: Id) -> Option<&Series> {
        self.series.get(self.at(id)?)
    }

    fn insert(&mut self, id: Id, series: Series) {
        let slot = (id % PAGE) as u8;
        if let Err(at) = self.slots.binary_search(&slot) {
            self.slots.insert(at, slot);
            self.series.insert(at, series);
        }
    }

    /// All series with their number within the page.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u8, &mut Series)> {
        self.slots.iter().copied().zip(&mut self.series)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u8, &Series)> {
        self.slots.iter().copied().zip(&self.series)
    }

    /// Keeps the series for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(u8, &Series) -> bool) {
        let mut at = 0;
        let kept: Vec<bool> = self.iter().map(|(slot, series)| keep(slot, series)).collect();
        self.slots.retain(|_| {
            at += 1;
            kept[at - 1]
        });
        at = 0;
        self.series.retain(|_| {
            at += 1;
            kept[at - 1]
        });
        if self.series.len() * 2 < self.series.capacity() {
            self.slots.shrink_to_fit();
            self.series.shrink_to_fit();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    pub fn heap_bytes(&self) -> usize {
        let own = self.series.capacity() * size_of::<Series>() + self.slots.capacity();
        own + self.series.iter().map(Series::heap_bytes).sum::<usize>()
    }
}

/// All pages.
#[derive(Debug, Default)]
pub(crate) struct Pages(RwLock<RapidHashMap<u64, Arc<Mutex<Page>>>>);

impl Pages {
    /// The page that holds a series, if it holds any.
    pub fn of(&self, id: Id) -> Option<Arc<Mutex<Page>>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(id / PAGE))
            .cloned()
    }

    pub fn insert(&self, id: Id, series: Series) {
        let page = self.of(id).unwrap_or_else(|| {
            let mut pages = self.0.write().unwrap_or_else(PoisonError::into_inner);
            pages.entry(id / PAGE).or_default().clone()
        });
        lock(&page).insert(id, series);
    }

    /// Drops a page if nothing is left in it. Only for those who hold the index, through which series come.
    pub fn drop_empty(&self, number: u64) {
        let mut pages = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if pages.get(&number).is_some_and(|page| lock(page).is_empty()) {
            pages.remove(&number);
        }
    }

    /// The numbers of all pages, ascending; the first series of a page is its number times [`PAGE`].
    pub fn numbers(&self) -> Vec<u64> {
        let pages = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut numbers: Vec<u64> = pages.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// Calls with each page, one after another; pages that come meanwhile may be left out.
    pub fn each(&self, mut with: impl FnMut(u64, &mut Page)) {
        for number in self.numbers() {
            if let Some(page) = self.of(number * PAGE) {
                with(number, &mut lock(&page));
            }
        }
    }
}

pub(crate) fn lock(page: &Mutex<Page>) -> MutexGuard<'_, Page> {
    page.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The page that was looked up last, for those who go through series in order.
#[derive(Default)]
pub(crate) struct Cursor {
    number: u64,
    page: Option<Arc<Mutex<Page>>>,
}

impl Cursor {
    pub fn page(&mut self, pages: &Pages, id: Id) -> Option<&Mutex<Page>> {
        if self.page.is_none() || self.number != id / PAGE {
            self.number = id / PAGE;
            self.page = pages.of(id);
        }
        self.page.as_deref()
    }
}
