//! From a page to samples: knows which series a target had, so that it can begin them at zero and end them.
//!
//! - Labels of the target win (unless the job honours those of the page); a scraped label of the same name keeps its value as
//!   `exported_<name>`. Then come the job's rules for series.
//! - A series that is gone, and every series of a target that is down or gone, gets the staleness marker.
//! - Where the job says so, a counter that appears on a target that was scraped before gets a 0 at the time of that scrape; on
//!   the first scrape, at the start of the process: whatever it counted, it counted since then. Differences over time are then
//!   exact.
//!
//! A page that is wrong anywhere, or beyond a limit, is not stored at all.

mod describe;
mod identity;
mod order;
mod report;
mod scrape;

use crate::{Target, config::Job};
pub(crate) use identity::IdentityError;
use order::Order;
use rapidhash::RapidHashMap;
pub(crate) use report::Report;
use scrape::{Birth, Scrape};
use std::sync::Arc;
use weir_series::{
    Append, AppendError, Histogram, Labels, Sample, SeriesRef,
    exposition::{Format, ParseError},
    stale_nan,
};

/// Why a page was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error("the page cannot be read: {0}")]
    Parse(#[from] ParseError),
    #[error("the page is not UTF-8 in line {0}")]
    NotText(usize),
    #[error("the page has more than the {0} samples that sample_limit allows")]
    TooManySamples(u64),
    #[error("a native histogram of {0} has more buckets than the {1} that native_histogram_bucket_limit allows")]
    TooManyBuckets(String, u64),
    #[error("{0}")]
    Identity(#[from] IdentityError),
}

/// What became of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Samples of the page.
    pub samples: usize,
    /// Those that relabelling left.
    pub kept: usize,
    /// Series that the page before did not have.
    pub added: usize,
    /// Samples that were not stored, and why the first one was not.
    pub refused: usize,
    pub first_refusal: Option<AppendError>,
}

/// What is remembered of one target between scrapes.
pub(crate) struct Pages {
    labels: Labels,
    job: Arc<Job>,
    order: Order,
    /// All series were ended because the target was down; they are not new when it comes back.
    ended: bool,
    own: RapidHashMap<&'static str, SeriesRef>,
    /// Of the comments of the last page.
    described: u64,
    last_success_ms: Option<i64>,
}

impl Pages {
    pub fn new(target: &Target, job: Arc<Job>) -> Self {
        Pages {
            labels: target.labels.clone(),
            job,
            order: Order::default(),
            ended: false,
            own: RapidHashMap::default(),
            described: 0,
            last_success_ms: None,
        }
    }

    /// Stores a page that was scraped at `now_ms`, or nothing of it.
    pub fn store(&mut self, page: &[u8], format: Format, now_ms: i64, store: &dyn Append) -> Result<Stored, PageError> {
        let mut result = self.store_once(page, format, now_ms, store, true)?;
        if result.first_refusal == Some(AppendError::Unknown) {
            // The store has dropped series that are back after a time longer than the retention: all are resolved again.
            // What was stored a moment ago is the same sample again, which is no error.
            self.order.clear();
            let added = result.added;
            result = self.store_once(page, format, now_ms, store, false)?;
            result.added = added;
        }
        self.last_success_ms = Some(now_ms);
        self.ended = false;
        Ok(result)
    }

    fn store_once(
        &mut self,
        page: &[u8],
        format: Format,
        now_ms: i64,
        store: &dyn Append,
        first: bool,
    ) -> Result<Stored, PageError> {
        let capacity = self.order.len();
        let mut order = std::mem::take(&mut self.order);
        let mut scrape = Scrape {
            now_ms,
            labels: &self.labels,
            job: &self.job,
            walk: order.walk(),
            batch: Vec::with_capacity(capacity),
            histograms: Vec::new(),
            fresh: Vec::new(),
            started_s: None,
            comments: 0,
            result: Stored::default(),
            error: None,
        };
        let read = match format {
            Format::Proto => scrape.proto(page),
            Format::Text | Format::OpenMetrics => scrape.text(page, format),
        };
        let done = read.and_then(|()| {
            let birth = Birth {
                last_success_ms: self.last_success_ms,
                wanted: self.job.exact && first,
            };
            let zeros = scrape.resolve_fresh(&birth, store)?;
            Ok(zeros)
        });
        let zeros = match done {
            Ok(zeros) => zeros,
            Err(error) => {
                // What the page was before still holds.
                drop(scrape);
                self.order = order;
                return Err(error);
            }
        };
        let Scrape {
            walk,
            mut batch,
            mut histograms,
            mut result,
            comments,
            ..
        } = scrape;
        let difference = walk.finish();
        if !self.ended {
            let stale = stale_nan();
            for known in difference
                .vanished
                .iter()
                .filter(|k| !k.timed || self.job.track_timestamps_staleness)
            {
                match known.native {
                    true => histograms.push((known.series, now_ms, Histogram::stale())),
                    false => batch.push((
                        known.series,
                        Sample {
                            ts_ms: now_ms,
                            value: stale,
                        },
                    )),
                }
            }
        }
        order.replace(difference);
        self.order = order;
        append(&zeros, &batch, &histograms, store, &mut result);
        if comments != self.described {
            self.described = comments;
            describe::describe(page, format, store);
        }
        Ok(result)
    }

    /// The scrape at `now_ms` failed: all series of the target end for the time being.
    pub fn fail(&mut self, now_ms: i64, store: &dyn Append) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let track = self.job.track_timestamps_staleness;
        let open = || self.order.iter().filter(move |k| k.is_stored() && (!k.timed || track));
        let marker = Sample {
            ts_ms: now_ms,
            value: stale_nan(),
        };
        let batch: Vec<_> = open()
            .filter(|k| !k.native)
            .map(|known| (known.series, marker))
            .collect();
        let native = open()
            .filter(|k| k.native)
            .map(|known| (known.series, now_ms, Histogram::stale()));
        // What is refused is gone from the store, and so has ended as well.
        store.append(&batch, &mut Vec::new());
        store.append_histograms(&native.collect::<Vec<_>>(), &mut Vec::new());
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
}

fn append(
    zeros: &[(SeriesRef, Sample)],
    batch: &[(SeriesRef, Sample)],
    histograms: &[(SeriesRef, i64, Histogram)],
    store: &dyn Append,
    result: &mut Stored,
) {
    let mut refused = Vec::new();
    if !zeros.is_empty() {
        store.append(zeros, &mut refused);
        // A marker may stand at that very time, where a series ended and begins anew: then a moment later.
        let taken = refused
            .iter()
            .filter(|(_, e)| *e == AppendError::Duplicate)
            .map(|(at, _)| zeros[*at]);
        let later: Vec<_> = taken
            .map(|(series, zero)| {
                (
                    series,
                    Sample {
                        ts_ms: zero.ts_ms + 1,
                        ..zero
                    },
                )
            })
            .collect();
        store.append(&later, &mut refused);
        refused.clear();
    }
    store.append(batch, &mut refused);
    if !histograms.is_empty() {
        store.append_histograms(histograms, &mut refused);
    }
    if refused.iter().any(|(_, why)| *why == AppendError::Unknown) {
        result.first_refusal = Some(AppendError::Unknown);
        return;
    }
    refused.into_iter().for_each(|(_, refusal)| result.refuse(refusal));
}

impl Stored {
    fn refuse(&mut self, refusal: AppendError) {
        self.refused += 1;
        self.first_refusal.get_or_insert(refusal);
    }
}

#[cfg(test)]
mod tests;
