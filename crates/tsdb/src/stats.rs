//! What the store tells about itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use weir_series::AppendError;
use weir_series::exposition::encode::{push_label, write_header, write_sample};
use weir_series::names;

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
    /// Samples refused as too far ahead of the clock.
    pub too_new: u64,
    /// Samples refused because their series was dropped; their source resolves it again.
    pub unknown: u64,
    /// New series refused at the limit.
    pub series_refused: u64,
    /// Bytes of series and samples on the heap, roughly.
    pub heap_bytes: u64,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub appended: AtomicU64,
    pub out_of_order: AtomicU64,
    pub duplicates: AtomicU64,
    pub too_old: AtomicU64,
    pub too_new: AtomicU64,
    pub unknown: AtomicU64,
    pub series_refused: AtomicU64,
}

impl Counters {
    pub fn refuse(&self, reason: AppendError) {
        let counter = match reason {
            AppendError::OutOfOrder => &self.out_of_order,
            AppendError::Duplicate => &self.duplicates,
            AppendError::TooOld => &self.too_old,
            AppendError::TooNew => &self.too_new,
            AppendError::Unknown | AppendError::Unsupported => &self.unknown,
            AppendError::SeriesLimit { .. } => &self.series_refused,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub fn stats(&self, series: u64, heap_bytes: u64) -> Stats {
        Stats {
            series,
            appended: self.appended.load(Relaxed),
            out_of_order: self.out_of_order.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            too_old: self.too_old.load(Relaxed),
            too_new: self.too_new.load(Relaxed),
            unknown: self.unknown.load(Relaxed),
            series_refused: self.series_refused.load(Relaxed),
            heap_bytes,
        }
    }
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
            render_one(out, name, kind, help, value as f64);
        }
        write_header(out, names::STORE_SAMPLES_REFUSED_TOTAL, "counter", "Samples refused.");
        let reasons = [
            ("out_of_order", self.out_of_order),
            ("duplicate", self.duplicates),
            ("too_old", self.too_old),
            ("too_new", self.too_new),
            ("unknown_series", self.unknown),
        ];
        for (reason, value) in reasons {
            let mut label = String::new();
            push_label(&mut label, names::REASON, reason);
            write_sample(out, names::STORE_SAMPLES_REFUSED_TOTAL, &label, "", value as f64);
        }
    }
}

/// A family of one series without labels.
pub(crate) fn render_one(out: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    write_header(out, name, kind, help);
    write_sample(out, name, "", "", value);
}
