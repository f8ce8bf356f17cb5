//! The head: the index behind one lock, the series in pages behind locks of their own.
//!
//! Appending to known series takes the lock of a page only; the index is locked for writing when series come or go.
//! Nobody holds two pages; who needs both takes the index before a page.

use crate::index::{Id, Index, PairId};
use crate::log::queue::{Event, Queue};
use crate::metadata::Families;
use crate::options::Options;
use crate::pages::{Cursor, PAGE, Pages, lock};
use crate::series::Series;
use crate::stats::{Counters, Stats};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir_series::{AppendError, Histogram, Metadata, Sample, SeriesRef};

/// Everything in memory.
#[derive(Debug)]
pub(crate) struct Head {
    pub options: Options,
    index: RwLock<Index>,
    pub pages: Pages,
    families: RwLock<Families>,
    pub counters: Counters,
    /// Oldest time that is kept; moved by maintenance.
    pub oldest_ms: AtomicI64,
    /// Where what changes is told, if it is kept on a disk.
    pub log: Option<Queue>,
}

impl Head {
    pub fn new(options: Options, log: Option<Queue>) -> Self {
        Head {
            options,
            index: RwLock::default(),
            pages: Pages::default(),
            families: RwLock::default(),
            counters: Counters::default(),
            oldest_ms: AtomicI64::new(i64::MIN),
            log,
        }
    }

    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn families(&self) -> RwLockReadGuard<'_, Families> {
        self.families.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The series with these labels (sorted, unique, no value empty), which is made if it is new.
    pub fn resolve<'a>(
        &self,
        labels: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<SeriesRef, AppendError> {
        let mut pairs: Vec<PairId> = Vec::with_capacity(32);
        let looked_at = {
            let index = self.index();
            if index.find_pairs(labels.clone(), &mut pairs)
                && let Some(id) = index.find(&pairs)
            {
                return Ok(SeriesRef(id));
            }
            index.next()
        };
        let mut index = self.index_mut();
        // Another thread may have been faster.
        if index.next() != looked_at
            && index.find_pairs(labels.clone(), &mut pairs)
            && let Some(id) = index.find(&pairs)
        {
            return Ok(SeriesRef(id));
        }
        let limit = self.options.max_series;
        if index.len() >= limit {
            let refused = AppendError::SeriesLimit { limit };
            self.counters.refuse(refused);
            return Err(refused);
        }
        index.intern(labels, &mut pairs);
        if pairs.is_empty() {
            return Err(AppendError::Unsupported);
        }
        let id = index.insert(&pairs);
        self.pages.insert(id, Series::default());
        if let Some(log) = &self.log {
            log.push(Event::Series(id..id + 1));
        }
        Ok(SeriesRef(id))
    }

    pub fn append(&self, batch: &[(SeriesRef, Sample)], refused: &mut Vec<(usize, AppendError)>) {
        self.put(
            batch,
            refused,
            |(id, sample)| (id.0, sample.ts_ms),
            |series, (_, sample)| series.push(*sample),
            Event::Samples,
        );
    }

    pub fn append_histograms(&self, batch: &[(SeriesRef, i64, Histogram)], refused: &mut Vec<(usize, AppendError)>) {
        self.put(
            batch,
            refused,
            |(id, ts_ms, _)| (id.0, *ts_ms),
            |series, (_, ts_ms, value)| series.push_histogram(*ts_ms, value),
            Event::Histograms,
        );
    }

    /// Appends each of a batch; the refused ones by their index in it.
    fn put<T: Clone>(
        &self,
        batch: &[T],
        refused: &mut Vec<(usize, AppendError)>,
        key: impl Fn(&T) -> (Id, i64),
        push: impl Fn(&mut Series, &T) -> Result<(), AppendError>,
        event: impl Fn(Vec<T>) -> Event,
    ) {
        let before = refused.len();
        let oldest_ms = self.oldest_ms.load(Relaxed);
        let ahead = self.options.ahead.map(millis);
        let newest_ms = ahead.map_or(i64::MAX, |ahead| now_ms().saturating_add(ahead));
        let log = self.log.as_ref().filter(|log| log.accepts());
        let mut cursor = Cursor::default();
        let mut at = 0;
        while at < batch.len() {
            let (first, _) = key(&batch[at]);
            let in_page = |one: &&T| key(one).0 / PAGE == first / PAGE;
            // All that follow in the same page, under one lock.
            let run = &batch[at..at + batch[at..].iter().take_while(in_page).count()];
            let logged = log.map(|log| (log, run.to_vec()));
            let before = refused.len();
            let mut page = cursor.page(&self.pages, first).map(lock);
            for (offset, one) in run.iter().enumerate() {
                let (id, ts_ms) = key(one);
                let result = match page.as_mut().and_then(|page| page.get_mut(id)) {
                    None => Err(AppendError::Unknown),
                    Some(_) if ts_ms < oldest_ms => Err(AppendError::TooOld),
                    Some(_) if ts_ms > newest_ms => Err(AppendError::TooNew),
                    Some(series) => push(series, one),
                };
                if let Err(reason) = result {
                    self.counters.refuse(reason);
                    refused.push((at + offset, reason));
                }
            }
            if let Some((log, mut accepted)) = logged {
                remove_refused(&mut accepted, &refused[before..], at);
                // The page is still locked: the log tells a series' samples in the order in which the series took them.
                log.push(event(accepted));
            }
            drop(page);
            at += run.len();
        }
        let appended = batch.len() - (refused.len() - before);
        self.counters.appended.fetch_add(appended as u64, Relaxed);
    }

    pub fn describe(&self, family: &str, metadata: &Metadata) {
        if self.families().knows(family, metadata) {
            return;
        }
        let changed = {
            let mut families = self.families.write().unwrap_or_else(PoisonError::into_inner);
            families.put(family, metadata)
        };
        if let Some(log) = self.log.as_ref().filter(|_| changed) {
            log.push(Event::Family(family.to_owned(), metadata.clone()));
        }
    }

    pub fn stats(&self) -> Stats {
        let (series, mut bytes) = {
            let index = self.index();
            (index.len() as u64, index.heap_bytes())
        };
        self.pages.each(|_, page| bytes += page.heap_bytes());
        bytes += self.families().heap_bytes();
        self.counters.stats(series, bytes as u64)
    }
}

/// `first` is the index of the batch's first element, as `refused` counts.
fn remove_refused<T>(batch: &mut Vec<T>, refused: &[(usize, AppendError)], first: usize) {
    if refused.is_empty() {
        return;
    }
    let mut refused = refused.iter().map(|(at, _)| *at).peekable();
    let mut at = first;
    batch.retain(|_| {
        at += 1;
        refused.next_if_eq(&(at - 1)).is_none()
    });
}

pub(crate) fn now_ms() -> i64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
