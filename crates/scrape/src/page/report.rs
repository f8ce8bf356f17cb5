//! The series about scrapes themselves.

use super::{Pages, Stored};
use weir_series::{Append, AppendError, Sample, names};

/// What is told about a scrape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub up: bool,
    pub duration_s: f64,
    /// Bytes of the page, after decompression.
    pub body_bytes: usize,
    pub stored: Stored,
}

impl Pages {
    /// Stores the series about the scrape itself.
    pub fn report(&mut self, now_ms: i64, report: &Report, store: &dyn Append) {
        let Report {
            up,
            duration_s,
            body_bytes,
            stored,
        } = *report;
        self.figure(names::UP, f64::from(u8::from(up)), now_ms, store);
        self.figure(names::SCRAPE_DURATION_SECONDS, duration_s, now_ms, store);
        self.figure(names::SCRAPE_SAMPLES_SCRAPED, stored.samples as f64, now_ms, store);
        self.figure(
            names::SCRAPE_SAMPLES_POST_METRIC_RELABELING,
            stored.kept as f64,
            now_ms,
            store,
        );
        self.figure(names::SCRAPE_SERIES_ADDED, stored.added as f64, now_ms, store);
        if self.job.extra_metrics {
            let limit = self.job.limits.samples;
            let limit = if limit == u64::MAX { 0.0 } else { limit as f64 };
            self.figure(
                names::SCRAPE_TIMEOUT_SECONDS,
                self.job.timeout.as_secs_f64(),
                now_ms,
                store,
            );
            self.figure(names::SCRAPE_SAMPLE_LIMIT, limit, now_ms, store);
            self.figure(names::SCRAPE_BODY_SIZE_BYTES, body_bytes as f64, now_ms, store);
        }
    }

    fn figure(&mut self, name: &'static str, value: f64, now_ms: i64, store: &dyn Append) {
        // Twice at most: a handle may have gone stale with its series.
        for _ in 0..2 {
            let series = match self.own.get(name) {
                Some(series) => *series,
                None => match store.resolve(&self.labels.builder().set(names::METRIC_NAME, name).build()) {
                    Ok(series) => series,
                    Err(_) => return, // counted by the store
                },
            };
            self.own.insert(name, series);
            let mut refused = Vec::new();
            store.append(&[(series, Sample { ts_ms: now_ms, value })], &mut refused);
            match refused.first() {
                Some((_, AppendError::Unknown)) => self.own.remove(name),
                _ => return,
            };
        }
    }
}
