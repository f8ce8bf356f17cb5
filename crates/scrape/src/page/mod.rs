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

mod identity;
mod order;
mod report;

use crate::{Target, config::Job};
pub(crate) use identity::IdentityError;
use identity::Scraped;
use order::{DROPPED, Known, Order, UNRESOLVED, Walk};
use rapidhash::RapidHashMap;
pub(crate) use report::Report;
use std::{borrow::Cow, sync::Arc};
use weir_series::{
    Append, AppendError, Histogram, Labels, Metadata, Sample, SeriesRef,
    exposition::{
        Format, ParseError, proto, series,
        text::{Comment, Item, Lines, Mark},
    },
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
    #[error("the page is not UTF-8 in line {0}")]
    NotText(usize),
    #[error("the page has more than the {0} samples that sample_limit allows")]
    TooManySamples(u64),
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
            describe(page, format, store);
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

/// When counters that are new on a page were zero.
struct Birth {
    last_success_ms: Option<i64>,
    wanted: bool,
}

impl Birth {
    fn at_ms(&self, now_ms: i64, started_s: Option<f64>, store: &dyn Append) -> Option<i64> {
        if !self.wanted {
            return None;
        }
        if self.last_success_ms.is_some() {
            return self.last_success_ms;
        }
        #[allow(clippy::cast_possible_truncation)]
        let start_ms = (started_s? * 1000.0).round() as i64;
        // A process in its first moments, or with a clock a little ahead: it began before it answered. One that is far ahead
        // tells nothing about its start.
        let known = start_ms <= now_ms + CLOCK_SLACK_MS && start_ms >= store.oldest_ms(now_ms);
        known.then_some(start_ms.min(now_ms - 1))
    }
}

/// A series that the page before did not have.
struct Fresh<'a> {
    scraped: Scraped<'a>,
    /// In the walk.
    place: usize,
    /// In the batch of samples, or of histograms.
    at: usize,
    native: bool,
}

/// One page on its way.
struct Scrape<'a, 'p> {
    now_ms: i64,
    labels: &'a Labels,
    job: &'a Job,
    walk: Walk<'a>,
    batch: Vec<(SeriesRef, Sample)>,
    histograms: Vec<(SeriesRef, i64, Histogram)>,
    fresh: Vec<Fresh<'p>>,
    /// When the process says that it started, in seconds since 1970.
    started_s: Option<f64>,
    /// Changes with what the page says of its families.
    comments: u64,
    result: Stored,
    /// What a sink cannot return.
    error: Option<PageError>,
}

impl<'p> Scrape<'_, 'p> {
    fn text(&mut self, page: &'p [u8], format: Format) -> Result<(), PageError> {
        let page = std::str::from_utf8(page).map_err(|e| {
            let before = &page[..e.valid_up_to()];
            PageError::NotText(before.iter().filter(|b| **b == b'\n').count() + 1)
        })?;
        let mut lines = match format {
            Format::OpenMetrics => Lines::open_metrics(page),
            _ => Lines::text(page),
        };
        while let Some(item) = lines.next(self.walk.expected())? {
            match item {
                Item::Comment(comment) => {
                    let hash = Mark::of(comment.raw.as_bytes()).hash;
                    self.comments = self.comments.rotate_left(1) ^ hash;
                }
                Item::Line(line) => {
                    let Some(ts_ms) = self.time(line.ts_ms)? else { continue };
                    let sample = Sample {
                        ts_ms,
                        value: line.value,
                    };
                    let timed = line.ts_ms.is_some() && self.job.honor_timestamps;
                    let known = match line.expected {
                        true => Some(self.walk.advance(timed)),
                        false => self.walk.find(line.mark, timed),
                    };
                    if let Some(known) = known {
                        self.push(known.series, sample)?;
                        continue;
                    }
                    let name = series::name(line.series);
                    let scraped = Scraped {
                        labels: series::labels(line.series).collect(),
                        metric_type: lines.kind_of(&name),
                        name,
                    };
                    self.fresh(line.mark, timed, scraped, sample)?;
                }
            }
        }
        Ok(())
    }

    fn proto(&mut self, page: &'p [u8]) -> Result<(), PageError> {
        let options = proto::Options {
            native: self.job.native_histograms,
            classic_too: self.job.classic_histograms,
        };
        proto::read(page, options, self)?;
        self.error.take().map_or(Ok(()), Err)
    }

    /// The time of a sample; None where it is too far ahead.
    fn time(&mut self, given: Option<i64>) -> Result<Option<i64>, PageError> {
        self.result.samples += 1;
        let ts_ms = given.filter(|_| self.job.honor_timestamps).unwrap_or(self.now_ms);
        if ts_ms > self.now_ms + MAX_AHEAD_MS {
            self.result.kept += 1;
            self.result.refuse(AppendError::TooNew);
            return Ok(None);
        }
        Ok(Some(ts_ms))
    }

    fn push(&mut self, series: SeriesRef, sample: Sample) -> Result<(), PageError> {
        if series != DROPPED {
            self.count_kept()?;
            self.batch.push((series, sample));
        }
        Ok(())
    }

    fn count_kept(&mut self) -> Result<(), PageError> {
        self.result.kept += 1;
        match self.result.kept as u64 > self.job.limits.samples {
            true => Err(PageError::TooManySamples(self.job.limits.samples)),
            false => Ok(()),
        }
    }

    fn fresh(&mut self, mark: Mark, timed: bool, scraped: Scraped<'p>, sample: Sample) -> Result<(), PageError> {
        if scraped.name == names::PROCESS_START_TIME_SECONDS {
            self.started_s.get_or_insert(sample.value);
        }
        // Whether it stays is seen when its labels are made; until then it counts, unless rules may drop it.
        if self.job.metric_relabel.is_empty() {
            self.count_kept()?;
        }
        let place = self.walk.push(Known::new(mark, timed, false));
        let at = self.batch.len();
        self.fresh.push(Fresh {
            scraped,
            place,
            at,
            native: false,
        });
        self.batch.push((UNRESOLVED, sample));
        Ok(())
    }

    /// Gives every new series its place in the store. Returns the zeros with which counters among them begin.
    fn resolve_fresh(&mut self, birth: &Birth, store: &dyn Append) -> Result<Vec<(SeriesRef, Sample)>, PageError> {
        let mut zeros = Vec::new();
        if self.fresh.is_empty() {
            return Ok(zeros);
        }
        let born_ms = birth.at_ms(self.now_ms, self.started_s, store);
        for fresh in std::mem::take(&mut self.fresh) {
            let starts_at_zero = fresh.scraped.metric_type.starts_at_zero(&fresh.scraped.name);
            let resolve = |pairs: &[(&str, &str)]| store.resolve_pairs(pairs);
            let series = match identity::with(fresh.scraped, self.labels, self.job, resolve)? {
                None => DROPPED,
                Some(resolved) => {
                    if !self.job.metric_relabel.is_empty() {
                        self.count_kept()?;
                    }
                    resolved.unwrap_or_else(|refusal| {
                        self.result.refuse(refusal);
                        UNRESOLVED
                    })
                }
            };
            self.walk.resolved(fresh.place, series);
            self.result.added += usize::from(series != DROPPED && series != UNRESOLVED);
            if fresh.native {
                self.histograms[fresh.at].0 = series;
                continue;
            }
            let (place, sample) = &mut self.batch[fresh.at];
            *place = series;
            if let Some(ts_ms) = born_ms.filter(|born| starts_at_zero && sample.value != 0.0 && *born < sample.ts_ms)
                && series != DROPPED
                && series != UNRESOLVED
            {
                zeros.push((series, Sample { ts_ms, value: 0.0 }));
            }
        }
        let stored = |series: &SeriesRef| *series != DROPPED && *series != UNRESOLVED;
        self.batch.retain(|(series, _)| stored(series));
        self.histograms.retain(|(series, ..)| stored(series));
        Ok(zeros)
    }

    fn keep_error(&mut self, done: Result<(), PageError>) {
        if let Err(error) = done {
            self.error.get_or_insert(error);
        }
    }

    fn proto_series(series: &proto::Series<'_>) -> Scraped<'static> {
        let labels = series
            .labels
            .iter()
            .map(|(n, v)| (Cow::Owned((*n).to_owned()), Cow::Owned((*v).to_owned())));
        let bound = series
            .bound
            .map(|(n, bound)| (Cow::Borrowed(n), Cow::Owned(identity::bound_text(bound))));
        Scraped {
            name: Cow::Owned(format!("{}{}", series.family, series.suffix)),
            labels: labels.chain(bound).collect(),
            metric_type: series.metric_type,
        }
    }
}

impl proto::Sink for Scrape<'_, '_> {
    fn family(&mut self, family: &proto::Family<'_>) {
        for text in [family.name, family.help, family.unit, family.kind] {
            self.comments = self.comments.rotate_left(1) ^ Mark::of(text.as_bytes()).hash;
        }
    }

    fn sample(&mut self, series: &proto::Series<'_>, value: f64, ts_ms: Option<i64>) {
        if self.error.is_some() {
            return;
        }
        let timed = ts_ms.is_some() && self.job.honor_timestamps;
        let mut take = || {
            let Some(ts_ms) = self.time(ts_ms)? else { return Ok(()) };
            let (mark, sample) = (series.mark(), Sample { ts_ms, value });
            let known = match self.walk.expected() == Some(mark) {
                true => Some(self.walk.advance(timed)),
                false => self.walk.find(mark, timed),
            };
            match known {
                Some(known) => self.push(known.series, sample),
                None => self.fresh(mark, timed, Self::proto_series(series), sample),
            }
        };
        let done = take();
        self.keep_error(done);
    }

    fn histogram(&mut self, series: &proto::Series<'_>, value: Histogram, ts_ms: Option<i64>) {
        if self.error.is_some() {
            return;
        }
        let timed = ts_ms.is_some() && self.job.honor_timestamps;
        let take = || {
            let Some(ts_ms) = self.time(ts_ms)? else { return Ok(()) };
            let mark = series.mark();
            let known = match self.walk.expected() == Some(mark) {
                true => Some(self.walk.advance(timed)),
                false => self.walk.find(mark, timed),
            };
            match known {
                Some(known) if known.series == DROPPED => {}
                Some(known) => {
                    self.count_kept()?;
                    self.histograms.push((known.series, ts_ms, value));
                }
                None => {
                    if self.job.metric_relabel.is_empty() {
                        self.count_kept()?;
                    }
                    let place = self.walk.push(Known::new(mark, timed, true));
                    let (scraped, at) = (Self::proto_series(series), self.histograms.len());
                    self.fresh.push(Fresh {
                        scraped,
                        place,
                        at,
                        native: true,
                    });
                    self.histograms.push((UNRESOLVED, ts_ms, value));
                }
            }
            Ok(())
        };
        let done = take();
        self.keep_error(done);
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

/// Tells the store what the families of a page are.
fn describe(page: &[u8], format: Format, store: &dyn Append) {
    struct Families<'a>(&'a dyn Append);
    impl proto::Sink for Families<'_> {
        fn family(&mut self, family: &proto::Family<'_>) {
            let metadata = Metadata {
                kind: family.kind.to_owned(),
                help: family.help.to_owned(),
                unit: family.unit.to_owned(),
            };
            self.0.describe(family.name, &metadata);
        }
        fn sample(&mut self, _: &proto::Series<'_>, _: f64, _: Option<i64>) {}
        fn histogram(&mut self, _: &proto::Series<'_>, _: Histogram, _: Option<i64>) {}
    }
    let mut lines = match (format, std::str::from_utf8(page)) {
        (Format::Proto, _) => {
            // The page was read once already.
            let _ = proto::read(page, proto::Options::default(), &mut Families(store));
            return;
        }
        (Format::OpenMetrics, Ok(page)) => Lines::open_metrics(page),
        (Format::Text, Ok(page)) => Lines::text(page),
        (_, Err(_)) => return,
    };
    let mut families: Vec<(&str, Metadata)> = Vec::new();
    while let Ok(Some(item)) = lines.next(None) {
        let Item::Comment(Comment { what, family, said, .. }) = item else {
            continue;
        };
        let family = family.trim_matches('"');
        if families.last().is_none_or(|(last, _)| *last != family) {
            let kind = "unknown".to_owned();
            families.push((
                family,
                Metadata {
                    kind,
                    ..Metadata::default()
                },
            ));
        }
        let Some((_, metadata)) = families.last_mut() else {
            continue;
        };
        match what {
            "TYPE" if said != "untyped" => metadata.kind = said.to_owned(),
            "HELP" => metadata.help = said.replace("\\n", "\n").replace("\\\\", "\\"),
            "UNIT" => metadata.unit = said.to_owned(),
            _ => {}
        }
    }
    for (family, metadata) in &families {
        store.describe(family, metadata);
    }
}

impl Stored {
    fn refuse(&mut self, refusal: AppendError) {
        self.refused += 1;
        self.first_refusal.get_or_insert(refusal);
    }
}

#[cfg(test)]
mod tests;
