//! From a page to samples: knows which series a target had, so that it can begin them at zero and end them.
//!
//! - Labels of the target win; a scraped label of the same name keeps its value as `exported_<name>`.
//! - A counter that appears on a target that was scraped before gets a 0 at the time of that scrape; on the first
//!   scrape, at the start of the process: whatever it counted, it counted since then. Differences over time are then exact.
//! - A series that is gone, and every series of a target that is down or gone, gets the staleness marker.

use crate::Target;
use rapidhash::RapidHashMap;
use weir_series::{
    Append, AppendError, Labels, Sample, SeriesRef,
    exposition::{self, Entry, ParseError},
    names, stale_nan,
};

/// A process that says it started this much after now, at most, has just started.
const CLOCK_SLACK_MS: i64 = 1000;

/// How far ahead of the scrape a sample's own timestamp may be.
const MAX_AHEAD_MS: i64 = 600_000;

/// Why a page was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error("the page cannot be read: {0}")]
    Parse(#[from] ParseError),
    #[error("the page has more than {0} samples")]
    TooManySamples(usize),
}

/// What became of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub samples: usize,
    /// Samples that were not stored, and why the first one was not.
    pub refused: usize,
    pub first_refusal: Option<AppendError>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    series: SeriesRef,
    /// Number of the scrape that saw it last.
    seen: u64,
    /// Ended by a marker because the target was down; it is not new when it comes back.
    ended: bool,
}

/// What is remembered of one target between scrapes.
pub(crate) struct Pages {
    labels: Labels,
    max_samples: usize,
    /// By name and labels exactly as the page writes them.
    known: RapidHashMap<Box<str>, Known>,
    own: RapidHashMap<&'static str, SeriesRef>,
    scrape: u64,
    last_success_ms: Option<i64>,
}

impl Pages {
    pub fn new(target: &Target, max_samples: usize) -> Self {
        Pages {
            labels: target.labels.clone(),
            max_samples,
            known: RapidHashMap::default(),
            own: RapidHashMap::default(),
            scrape: 0,
            last_success_ms: None,
        }
    }

    /// Stores a page that was scraped at `now_ms`, or nothing of it.
    pub fn store(&mut self, page: &str, now_ms: i64, store: &dyn Append) -> Result<Stored, PageError> {
        let mut entries = Vec::new();
        for entry in exposition::parse(page) {
            if entries.len() >= self.max_samples {
                return Err(PageError::TooManySamples(self.max_samples));
            }
            entries.push(entry?);
        }
        self.scrape += 1;
        let mut batch = Batch::default();
        let mut result = Stored {
            samples: entries.len(),
            ..Stored::default()
        };
        let born_ms = self.born_ms(&entries, now_ms, store);
        for entry in &entries {
            match self.sample(entry, now_ms, born_ms, store, &mut batch) {
                Ok(()) => {}
                Err(refusal) => result.refuse(refusal),
            }
        }
        self.end_vanished(now_ms, &mut batch);
        self.append(&entries, &batch, now_ms, store, &mut result);
        self.last_success_ms = Some(now_ms);
        Ok(result)
    }

    /// When counters that are new on this page were zero.
    fn born_ms(&self, entries: &[Entry], now_ms: i64, store: &dyn Append) -> Option<i64> {
        if self.last_success_ms.is_some() {
            return self.last_success_ms;
        }
        let start = entries.iter().find(|e| e.name == names::PROCESS_START_TIME_SECONDS)?;
        let start_ms = (start.value * 1000.0).round() as i64;
        // A process in its first moments, or with a clock a little ahead: it began before it answered. One that is far ahead
        // tells nothing about its start.
        let known = start_ms <= now_ms + CLOCK_SLACK_MS && start_ms >= store.oldest_ms(now_ms);
        known.then_some(start_ms.min(now_ms - 1))
    }

    fn sample(
        &mut self,
        entry: &Entry,
        now_ms: i64,
        born_ms: Option<i64>,
        store: &dyn Append,
        batch: &mut Batch,
    ) -> Result<(), AppendError> {
        let ts_ms = entry.ts_ms.unwrap_or(now_ms);
        if ts_ms > now_ms + MAX_AHEAD_MS {
            return Err(AppendError::OutOfOrder);
        }
        let sample = Sample {
            ts_ms,
            value: entry.value,
        };
        if let Some(known) = self.known.get_mut(entry.series) {
            (known.seen, known.ended) = (self.scrape, false);
            batch.samples.push((known.series, sample));
            return Ok(());
        }
        let series = store.resolve(&self.series_labels(entry))?;
        if entry.ts_ms.is_none() {
            // Who gives timestamps says by them when a series ended; markers would be in the way.
            self.known.insert(
                entry.series.into(),
                Known {
                    series,
                    seen: self.scrape,
                    ended: false,
                },
            );
        }
        let zero_at = born_ms.filter(|born| entry.starts_at_zero() && entry.value != 0.0 && *born < ts_ms);
        if let Some(born_ms) = zero_at {
            batch.zeros.push((
                series,
                Sample {
                    ts_ms: born_ms,
                    value: 0.0,
                },
            ));
        }
        batch.samples.push((series, sample));
        Ok(())
    }

    fn series_labels(&self, entry: &Entry) -> Labels {
        let mut pairs: Vec<(String, String)> = vec![(names::METRIC_NAME.into(), entry.name.into())];
        let scraped: Vec<_> = entry.labels().collect();
        for (name, value) in &scraped {
            let mut name = (*name).to_owned();
            while !self.labels.get(&name).is_empty() && !value.is_empty() {
                name = format!("{}{name}", names::EXPORTED_PREFIX);
                while scraped.iter().any(|(other, _)| *other == name) {
                    name = format!("{}{name}", names::EXPORTED_PREFIX);
                }
            }
            pairs.push((name, value.clone().into_owned()));
        }
        // Later pairs win: the labels of the target stay as they are.
        pairs.extend(self.labels.iter().map(|l| (l.name.to_string(), l.value.to_string())));
        Labels::new(pairs)
    }

    fn end_vanished(&mut self, now_ms: i64, batch: &mut Batch) {
        let scrape = self.scrape;
        self.known.retain(|_, known| {
            let vanished = known.seen != scrape;
            if vanished && !known.ended {
                batch.samples.push((
                    known.series,
                    Sample {
                        ts_ms: now_ms,
                        value: stale_nan(),
                    },
                ));
            }
            !vanished
        });
        if self.known.len() * 4 < self.known.capacity() {
            self.known.shrink_to_fit();
        }
    }

    fn append(&mut self, entries: &[Entry], batch: &Batch, now_ms: i64, store: &dyn Append, result: &mut Stored) {
        let mut refused = Vec::new();
        store.append(&batch.zeros, &mut refused);
        // A marker may stand at that very time, where a series ended and begins anew: then a moment later.
        let taken = refused
            .iter()
            .filter(|(_, e)| *e == AppendError::Duplicate)
            .map(|(at, _)| batch.zeros[*at]);
        let later: Vec<_> = taken
            .map(|(series, s)| {
                (
                    series,
                    Sample {
                        ts_ms: s.ts_ms + 1,
                        ..s
                    },
                )
            })
            .collect();
        store.append(&later, &mut refused);
        refused.clear();

        store.append(&batch.samples, &mut refused);
        if refused.iter().any(|(_, e)| *e == AppendError::Unknown) {
            refused.clear();
            self.append_anew(entries, now_ms, store, &mut refused);
        }
        refused.into_iter().for_each(|(_, refusal)| result.refuse(refusal));
    }

    /// The store has dropped series that are back after a time longer than the retention: resolves all of them again.
    /// What was stored a moment ago is the same sample again, which is no error.
    fn append_anew(
        &mut self,
        entries: &[Entry],
        now_ms: i64,
        store: &dyn Append,
        refused: &mut Vec<(usize, AppendError)>,
    ) {
        let mut batch = Vec::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            match store.resolve(&self.series_labels(entry)) {
                Ok(series) => {
                    if let Some(known) = self.known.get_mut(entry.series) {
                        known.series = series;
                    }
                    batch.push((
                        series,
                        Sample {
                            ts_ms: entry.ts_ms.unwrap_or(now_ms),
                            value: entry.value,
                        },
                    ));
                }
                Err(refusal) => refused.push((at, refusal)),
            }
        }
        store.append(&batch, refused);
    }

    /// The scrape at `now_ms` failed: all series of the target end for the time being.
    pub fn fail(&mut self, now_ms: i64, store: &dyn Append) {
        let open = self.known.values_mut().filter(|k| !k.ended);
        let marker = Sample {
            ts_ms: now_ms,
            value: stale_nan(),
        };
        let batch: Vec<_> = open
            .map(|known| {
                known.ended = true;
                (known.series, marker)
            })
            .collect();
        // What is refused is gone from the store, and so has ended as well.
        store.append(&batch, &mut Vec::new());
    }

    /// The target is gone: its series and those about its scrapes end.
    pub fn end(&mut self, now_ms: i64, store: &dyn Append) {
        self.fail(now_ms, store);
        let marker = Sample {
            ts_ms: now_ms,
            value: stale_nan(),
        };
        let batch: Vec<_> = self.own.values().map(|series| (*series, marker)).collect();
        store.append(&batch, &mut Vec::new());
    }

    /// Stores the series about the scrape itself.
    pub fn report(&mut self, now_ms: i64, up: bool, duration_s: f64, samples: usize, store: &dyn Append) {
        let figures = [
            (names::UP, f64::from(u8::from(up))),
            (names::SCRAPE_DURATION_SECONDS, duration_s),
            (names::SCRAPE_SAMPLES_SCRAPED, samples as f64),
        ];
        for (name, value) in figures {
            // Twice at most: a handle may have gone stale with its series.
            for _ in 0..2 {
                let series = match self.own.get(name) {
                    Some(series) => *series,
                    None => match store.resolve(&self.labels.builder().set(names::METRIC_NAME, name).build()) {
                        Ok(series) => series,
                        Err(_) => break, // counted by the store
                    },
                };
                self.own.insert(name, series);
                let mut refused = Vec::new();
                store.append(&[(series, Sample { ts_ms: now_ms, value })], &mut refused);
                match refused.first() {
                    Some((_, AppendError::Unknown)) => self.own.remove(name),
                    _ => break,
                };
            }
        }
    }
}

#[derive(Default)]
struct Batch {
    /// Beginnings of new counters; before the samples of this scrape.
    zeros: Vec<(SeriesRef, Sample)>,
    samples: Vec<(SeriesRef, Sample)>,
}

impl Stored {
    fn refuse(&mut self, refusal: AppendError) {
        self.refused += 1;
        self.first_refusal.get_or_insert(refusal);
    }
}

#[cfg(test)]
mod tests;
