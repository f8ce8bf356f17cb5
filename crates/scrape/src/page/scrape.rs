//! One page on its way into the store: lines, or messages, become samples of known series and series that are new.

use super::{
    PageError, Stored,
    identity::{self, Scraped},
    order::{DROPPED, Known, UNRESOLVED, Walk},
};
use crate::config::Job;
use std::borrow::Cow;
use weir_series::{
    Append, AppendError, Histogram, Labels, Sample, SeriesRef,
    exposition::{
        Format, proto, series,
        text::{Item, Lines, Mark},
    },
    names,
};

/// A process that says it started this much after now, at most, has just started.
const CLOCK_SLACK_MS: i64 = 1000;

/// How far ahead of the scrape a sample's own timestamp may be.
const MAX_AHEAD_MS: i64 = 600_000;

/// When counters that are new on a page were zero.
pub(super) struct Birth {
    pub last_success_ms: Option<i64>,
    pub wanted: bool,
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
pub(super) struct Fresh<'a> {
    scraped: Scraped<'a>,
    /// In the walk.
    place: usize,
    /// In the batch of samples, or of histograms.
    at: usize,
    native: bool,
}

/// One page on its way.
pub(super) struct Scrape<'a, 'p> {
    pub now_ms: i64,
    pub labels: &'a Labels,
    pub job: &'a Job,
    pub walk: Walk<'a>,
    pub batch: Vec<(SeriesRef, Sample)>,
    pub histograms: Vec<(SeriesRef, i64, Histogram)>,
    pub fresh: Vec<Fresh<'p>>,
    /// When the process says that it started, in seconds since 1970.
    pub started_s: Option<f64>,
    /// Changes with what the page says of its families.
    pub comments: u64,
    pub result: Stored,
    /// What a sink cannot return.
    pub error: Option<PageError>,
}

impl<'p> Scrape<'_, 'p> {
    pub fn text(&mut self, page: &'p [u8], format: Format) -> Result<(), PageError> {
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
                    let timed = line.ts_ms.is_some() && self.job.honor_timestamps;
                    let known = match line.expected {
                        true => Some(self.walk.advance(timed)),
                        false => self.walk.find(line.mark, timed),
                    };
                    let Some(ts_ms) = self.time(line.ts_ms) else {
                        continue;
                    };
                    let sample = Sample {
                        ts_ms,
                        value: line.value,
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

    pub fn proto(&mut self, page: &'p [u8]) -> Result<(), PageError> {
        let options = proto::Options {
            native: self.job.native_histograms,
            classic_too: self.job.classic_histograms,
        };
        proto::read(page, options, self)?;
        self.error.take().map_or(Ok(()), Err)
    }

    /// The time of a sample; None where it is too far ahead.
    fn time(&mut self, given: Option<i64>) -> Option<i64> {
        self.result.samples += 1;
        let ts_ms = given.filter(|_| self.job.honor_timestamps).unwrap_or(self.now_ms);
        if ts_ms > self.now_ms + MAX_AHEAD_MS {
            self.result.kept += 1;
            self.result.refuse(AppendError::TooNew);
            return None;
        }
        Some(ts_ms)
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

    /// Whether it stays is seen when its labels are made; until then it counts, unless rules may drop it.
    fn count_fresh(&mut self) -> Result<(), PageError> {
        let limit = self.job.samples_max();
        match self.job.metric_relabel.is_empty() {
            true => self.count_kept(),
            false if self.fresh.len() as u64 >= limit => Err(PageError::TooManySamples(limit)),
            false => Ok(()),
        }
    }

    fn fresh(&mut self, mark: Mark, timed: bool, scraped: Scraped<'p>, sample: Sample) -> Result<(), PageError> {
        if scraped.name == names::PROCESS_START_TIME_SECONDS {
            self.started_s.get_or_insert(sample.value);
        }
        self.count_fresh()?;
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
    pub fn resolve_fresh(&mut self, birth: &Birth, store: &dyn Append) -> Result<Vec<(SeriesRef, Sample)>, PageError> {
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

    /// What the last page had of that mark.
    fn known(&mut self, mark: Mark, timed: bool) -> Option<Known> {
        match self.walk.expected() == Some(mark) {
            true => Some(self.walk.advance(timed)),
            false => self.walk.find(mark, timed),
        }
    }

    fn push_histogram(
        &mut self,
        known: Option<Known>,
        series: &proto::Series<'_>,
        mark: Mark,
        timed: bool,
        (ts_ms, value): (i64, Histogram),
    ) -> Result<(), PageError> {
        let limit = self.job.limits.buckets;
        if (value.positive.counts.len() + value.negative.counts.len()) as u64 > limit {
            return Err(PageError::TooManyBuckets(
                series.family.chars().take(60).collect(),
                limit,
            ));
        }
        match known {
            Some(known) if known.series == DROPPED => return Ok(()),
            Some(known) => {
                self.count_kept()?;
                self.histograms.push((known.series, ts_ms, value));
                return Ok(());
            }
            None => {}
        }
        self.count_fresh()?;
        let place = self.walk.push(Known::new(mark, timed, true));
        let at = self.histograms.len();
        self.fresh.push(Fresh {
            scraped: proto_series(series),
            place,
            at,
            native: true,
        });
        self.histograms.push((UNRESOLVED, ts_ms, value));
        Ok(())
    }

    fn keep_error(&mut self, done: Result<(), PageError>) {
        if let Err(error) = done {
            self.error.get_or_insert(error);
        }
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
        let (mark, timed) = (series.mark(), ts_ms.is_some() && self.job.honor_timestamps);
        let known = self.known(mark, timed);
        let Some(ts_ms) = self.time(ts_ms) else { return };
        let sample = Sample { ts_ms, value };
        let done = match known {
            Some(known) => self.push(known.series, sample),
            None => self.fresh(mark, timed, proto_series(series), sample),
        };
        self.keep_error(done);
    }

    fn histogram(&mut self, series: &proto::Series<'_>, value: Histogram, ts_ms: Option<i64>) {
        if self.error.is_some() {
            return;
        }
        let (mark, timed) = (series.mark(), ts_ms.is_some() && self.job.honor_timestamps);
        let known = self.known(mark, timed);
        let Some(ts_ms) = self.time(ts_ms) else { return };
        let done = self.push_histogram(known, series, mark, timed, (ts_ms, value));
        self.keep_error(done);
    }
}
