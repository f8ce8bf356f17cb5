//! The head: the index behind one lock, the samples in shards behind locks of their own.
//!
//! Appending to known series takes the lock of a shard only; the index is locked for writing when series come or go.
//! A reader copies what it needs of one shard at a time, so that it never holds two locks and never stops a scrape for long.

use crate::{
    index::{Id, Index},
    series::Series,
};
use rapidhash::RapidHashMap;
use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use weir_series::exposition::encode::{push_label, write_header, write_sample};
use weir_series::names;
use weir_series::{
    Append, AppendError, Histogram, Labels, Matcher, Metadata, Sample, Select, SelectError, SeriesRef, SeriesView,
    Visitor,
};

/// What the store keeps.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long samples are kept; the newest chunk of a series may hold them somewhat longer.
    pub retention: Duration,
    /// Series at a time; new ones beyond it are refused and counted, existing ones go on.
    pub max_series: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            retention: Duration::from_secs(3600),
            max_series: 500_000,
        }
    }
}

/// What the store holds and what it refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Series now.
    pub series: u64,
    /// Samples appended since the start.
    pub appended: u64,
    /// Samples refused as older than the newest of their series.
    pub out_of_order: u64,
    /// Samples refused because their time has another value already.
    pub duplicates: u64,
    /// Samples refused as older than the retention.
    pub too_old: u64,
    /// New series refused at the limit.
    pub series_refused: u64,
    /// Bytes of series and samples on the heap, roughly.
    pub heap_bytes: u64,
}

/// More than there are cores: two writers rarely meet.
const SHARDS: usize = 16;

type Shard = RapidHashMap<Id, Series>;

/// The store. Share it by `Arc`.
#[derive(Debug)]
pub struct Tsdb {
    options: Options,
    index: RwLock<Index>,
    shards: [Mutex<Shard>; SHARDS],
    appended: AtomicU64,
    out_of_order: AtomicU64,
    duplicates: AtomicU64,
    too_old: AtomicU64,
    series_refused: AtomicU64,
    /// Oldest time that is kept; moved by [`Tsdb::maintain`].
    oldest_ms: std::sync::atomic::AtomicI64,
}

impl Stats {
    /// Appends the figures as text format 0.0.4.
    pub fn render(&self, out: &mut String) {
        let single = [
            (names::STORE_SERIES, "gauge", "Series in the store.", self.series),
            (
                names::STORE_BYTES,
                "gauge",
                "Bytes of series and samples, roughly.",
                self.heap_bytes,
            ),
            (
                names::STORE_SAMPLES_APPENDED_TOTAL,
                "counter",
                "Samples appended.",
                self.appended,
            ),
            (
                names::STORE_SERIES_REFUSED_TOTAL,
                "counter",
                "New series refused at the limit.",
                self.series_refused,
            ),
        ];
        for (name, kind, help, value) in single {
            write_header(out, name, kind, help);
            write_sample(out, name, "", "", value as f64);
        }
        write_header(out, names::STORE_SAMPLES_REFUSED_TOTAL, "counter", "Samples refused.");
        let reasons = [
            ("out_of_order", self.out_of_order),
            ("duplicate", self.duplicates),
            ("too_old", self.too_old),
        ];
        for (reason, value) in reasons {
            let mut label = String::new();
            push_label(&mut label, names::REASON, reason);
            write_sample(out, names::STORE_SAMPLES_REFUSED_TOTAL, &label, "", value as f64);
        }
    }
}

impl Tsdb {
    /// An empty store.
    pub fn new(options: Options) -> Self {
        Tsdb {
            options,
            index: RwLock::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            appended: AtomicU64::new(0),
            out_of_order: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            too_old: AtomicU64::new(0),
            series_refused: AtomicU64::new(0),
            oldest_ms: std::sync::atomic::AtomicI64::new(i64::MIN),
        }
    }

    /// Drops what is older than the retention seen from `now_ms`, and series without samples. Call it now and then.
    pub fn maintain(&self, now_ms: i64) {
        let oldest_ms = self.oldest_ms(now_ms);
        self.oldest_ms.store(oldest_ms, Relaxed);
        // The index first: between the two a new sample of a series that is about to go must not be lost unseen, so
        // series are removed under both locks.
        let mut index = self.index_mut();
        let mut gone = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.retain(|id, series| {
                series.drop_before(oldest_ms);
                let over = series.is_over();
                if over {
                    gone.push(*id);
                }
                !over
            });
            if shard.len() * 4 < shard.capacity() {
                shard.shrink_to_fit();
            }
        }
        if !gone.is_empty() {
            index.remove(&gone);
        }
    }

    /// What the store holds and what it refused.
    pub fn stats(&self) -> Stats {
        let (series, index_bytes) = {
            let index = self.index();
            (index.len() as u64, index.heap_bytes())
        };
        let shard_bytes = |shard: &Mutex<Shard>| {
            let shard = lock(shard);
            shard.capacity() * (size_of::<Series>() + 9) + shard.values().map(Series::heap_bytes).sum::<usize>()
        };
        let bytes = index_bytes + self.shards.iter().map(shard_bytes).sum::<usize>();
        Stats {
            series,
            appended: self.appended.load(Relaxed),
            out_of_order: self.out_of_order.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            too_old: self.too_old.load(Relaxed),
            series_refused: self.series_refused.load(Relaxed),
            heap_bytes: bytes as u64,
        }
    }

    /// Appends the store's figures about itself as text format 0.0.4.
    pub fn render(&self, out: &mut String) {
        self.stats().render(out);
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, id: Id) -> &Mutex<Shard> {
        &self.shards[(id as usize) % SHARDS]
    }

    fn push(&self, shard: &mut Shard, id: Id, sample: Sample) -> Result<(), AppendError> {
        if sample.ts_ms < self.oldest_ms.load(Relaxed) {
            self.too_old.fetch_add(1, Relaxed);
            return Err(AppendError::TooOld);
        }
        let series = shard.get_mut(&id).ok_or(AppendError::Unknown)?;
        series.push(sample).inspect_err(|e| {
            let counter = if *e == AppendError::Duplicate {
                &self.duplicates
            } else {
                &self.out_of_order
            };
            counter.fetch_add(1, Relaxed);
        })
    }

    /// Ids that match and overlap the time, with their labels.
    fn overlapping(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Vec<(Id, Labels)> {
        let mut found: Vec<(Id, Labels)> = {
            let index = self.index();
            let ids = index.matching(matchers);
            ids.into_iter()
                .filter_map(|id| Some((id, index.labels(id)?.clone())))
                .collect()
        };
        found.retain(|(id, _)| {
            lock(self.shard(*id))
                .get(id)
                .is_some_and(|s| s.overlaps(start_ms, end_ms))
        });
        found
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Append for Tsdb {
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, AppendError> {
        if let Some(id) = self.index().find(labels) {
            return Ok(SeriesRef(id));
        }
        let mut index = self.index_mut();
        if let Some(id) = index.find(labels) {
            return Ok(SeriesRef(id));
        }
        if index.len() >= self.options.max_series {
            self.series_refused.fetch_add(1, Relaxed);
            return Err(AppendError::SeriesLimit {
                limit: self.options.max_series,
            });
        }
        let id = index.insert(labels);
        lock(self.shard(id)).insert(id, Series::new());
        Ok(SeriesRef(id))
    }

    fn append(&self, batch: &[(SeriesRef, Sample)], refused: &mut Vec<(usize, AppendError)>) {
        let before = refused.len();
        // One lock a shard and batch, not one a sample.
        for (number, shard) in self.shards.iter().enumerate() {
            let mut mine = batch
                .iter()
                .enumerate()
                .filter(|(_, (s, _))| s.0 as usize % SHARDS == number)
                .peekable();
            if mine.peek().is_none() {
                continue;
            }
            let mut shard = lock(shard);
            for (at, (series, sample)) in mine {
                if let Err(error) = self.push(&mut shard, series.0, *sample) {
                    refused.push((at, error));
                }
            }
        }
        self.appended
            .fetch_add((batch.len() - (refused.len() - before)) as u64, Relaxed);
    }

    fn append_histograms(&self, batch: &[(SeriesRef, i64, Histogram)], refused: &mut Vec<(usize, AppendError)>) {
        refused.extend((0..batch.len()).map(|at| (at, AppendError::Unsupported)));
    }

    fn describe(&self, _: &str, _: &Metadata) {}

    fn oldest_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(i64::try_from(self.options.retention.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Select for Tsdb {
    fn visit(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), SelectError> {
        let mut samples = Vec::new();
        for (id, labels) in self.overlapping(matchers, start_ms, end_ms) {
            samples.clear();
            if let Some(series) = lock(self.shard(id)).get(&id) {
                series.read(start_ms, end_ms, &mut samples);
            }
            if samples.is_empty() {
                continue;
            }
            let view = SeriesView {
                identity: &labels,
                samples: &samples,
                histograms: &[],
            };
            if visitor(view).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn metadata(&self, _: Option<&str>) -> Vec<(String, Metadata)> {
        Vec::new()
    }

    fn series(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<Labels>, SelectError> {
        let mut labels: Vec<Labels> = self
            .overlapping(matchers, start_ms, end_ms)
            .into_iter()
            .map(|(_, labels)| labels)
            .collect();
        labels.sort_unstable();
        Ok(labels)
    }

    fn label_names(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<String>, SelectError> {
        if matchers.is_empty() {
            return Ok(self.index().label_names().map(|n| n.to_string()).collect());
        }
        let series = self.overlapping(matchers, start_ms, end_ms);
        let names: BTreeSet<&str> = series
            .iter()
            .flat_map(|(_, l)| l.iter().map(|l| l.name.as_ref()))
            .collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn label_values(
        &self,
        name: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<String>, SelectError> {
        if matchers.is_empty() {
            return Ok(self.index().label_values(name).map(|(v, _)| v.to_string()).collect());
        }
        let series = self.overlapping(matchers, start_ms, end_ms);
        let values: BTreeSet<&str> = series
            .iter()
            .map(|(_, l)| l.get(name))
            .filter(|v| !v.is_empty())
            .collect();
        Ok(values.into_iter().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests;
