//! An [`Append`] that stores, and hands on what was stored.

use super::{
    Sender,
    queue::{Item, Point},
};
use rapidhash::RapidHashMap;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use weir_series::{Append, AppendError, Histogram, HistogramSample, Labels, Metadata, Sample, SeriesRef};

/// Series that nobody has written to for this long are forgotten; whoever still holds their handle resolves it again.
const FORGET: Duration = Duration::from_secs(2 * 60 * 60);

/// A store and those who hear of its samples.
pub struct Tee {
    store: Arc<dyn Append>,
    senders: Vec<Sender>,
    known: Mutex<Known>,
}

/// The labels behind handles, as each sender sends them.
struct Known {
    series: RapidHashMap<SeriesRef, Series>,
    swept: Instant,
}

struct Series {
    outgoing: Arc<[Option<Labels>]>,
    used: Instant,
}

impl Tee {
    /// What `store` takes goes to `senders` too.
    pub fn new(store: Arc<dyn Append>, senders: Vec<Sender>) -> Self {
        Tee {
            store,
            senders,
            known: Mutex::new(Known {
                series: RapidHashMap::default(),
                swept: Instant::now(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The labels behind each element's handle; those that are not known are refused, as a store would.
    fn known(
        &self,
        handles: impl Iterator<Item = SeriesRef>,
        refused: &mut Vec<(usize, AppendError)>,
    ) -> Vec<Option<Arc<[Option<Labels>]>>> {
        let now = Instant::now();
        let mut known = self.lock();
        if now - known.swept > FORGET {
            known.series.retain(|_, series| now - series.used <= FORGET);
            known.swept = now;
        }
        let outgoing = handles.enumerate().map(|(at, id)| match known.series.get_mut(&id) {
            Some(series) => {
                series.used = now;
                Some(series.outgoing.clone())
            }
            None => {
                refused.push((at, AppendError::Unknown));
                None
            }
        });
        outgoing.collect()
    }

    /// Appends those elements that are known, and sends on those that the store took.
    fn tee<T: Clone>(
        &self,
        batch: &[T],
        handle: impl Fn(&T) -> SeriesRef,
        point: impl Fn(&T) -> Point,
        append: impl FnOnce(&[T], &mut Vec<(usize, AppendError)>),
        refused: &mut Vec<(usize, AppendError)>,
    ) {
        let outgoing = self.known(batch.iter().map(&handle), refused);
        let mut taken = vec![true; batch.len()];
        if outgoing.iter().all(Option::is_some) {
            let first = refused.len();
            append(batch, refused);
            refused[first..].iter().for_each(|(at, _)| taken[*at] = false);
        } else {
            let places: Vec<usize> = (0..batch.len()).filter(|at| outgoing[*at].is_some()).collect();
            let rest: Vec<T> = places.iter().map(|at| batch[*at].clone()).collect();
            let mut of_rest = Vec::new();
            append(&rest, &mut of_rest);
            for (at, error) in of_rest {
                taken[places[at]] = false;
                refused.push((places[at], error));
            }
        }
        // The store has dropped these series: their handles mean nothing any more.
        let gone = refused.iter().filter(|(_, error)| *error == AppendError::Unknown);
        let gone: Vec<SeriesRef> = gone.map(|(at, _)| handle(&batch[*at])).collect();
        if !gone.is_empty() {
            let mut known = self.lock();
            gone.iter().for_each(|id| drop(known.series.remove(id)));
        }
        for (number, sender) in self.senders.iter().enumerate() {
            let mut items = Vec::with_capacity(batch.len());
            let mut dropped = 0;
            for ((element, outgoing), taken) in batch.iter().zip(&outgoing).zip(&taken) {
                let Some(outgoing) = outgoing.as_ref().filter(|_| *taken) else {
                    continue;
                };
                match &outgoing[number] {
                    Some(labels) => items.push(Item {
                        labels: labels.clone(),
                        point: point(element),
                    }),
                    None => dropped += 1,
                }
            }
            sender.0.counts.dropped_series.fetch_add(dropped, Relaxed);
            sender.push(items);
        }
    }
}

impl Append for Tee {
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, AppendError> {
        let id = self.store.resolve(labels)?;
        let now = Instant::now();
        if let Some(series) = self.lock().series.get_mut(&id) {
            series.used = now;
            return Ok(id);
        }
        // Rules for what goes out take their time: nobody waits for that.
        let outgoing = self.senders.iter().map(|s| s.outgoing(labels)).collect();
        let new = Series { outgoing, used: now };
        self.lock().series.entry(id).or_insert(new);
        Ok(id)
    }

    fn append(&self, batch: &[(SeriesRef, Sample)], refused: &mut Vec<(usize, AppendError)>) {
        let append = |batch: &[_], refused: &mut Vec<_>| self.store.append(batch, refused);
        self.tee(
            batch,
            |(id, _)| *id,
            |(_, sample)| Point::Float(*sample),
            append,
            refused,
        );
    }

    fn append_histograms(&self, batch: &[(SeriesRef, i64, Histogram)], refused: &mut Vec<(usize, AppendError)>) {
        let point = |(_, ts_ms, histogram): &(SeriesRef, i64, Histogram)| {
            Point::Histogram(HistogramSample {
                ts_ms: *ts_ms,
                value: Arc::new(histogram.clone()),
            })
        };
        let append = |batch: &[_], refused: &mut Vec<_>| self.store.append_histograms(batch, refused);
        self.tee(batch, |(id, ..)| *id, point, append, refused);
    }

    fn describe(&self, family: &str, metadata: &Metadata) {
        self.store.describe(family, metadata);
        self.senders.iter().for_each(|sender| sender.describe(family, metadata));
    }

    fn oldest_ms(&self, now_ms: i64) -> i64 {
        self.store.oldest_ms(now_ms)
    }
}
