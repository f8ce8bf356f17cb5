//! The simplest store that can be, for tests.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};
use weir_series::{Append, AppendError, Histogram, Labels, Metadata, Sample, SeriesRef, is_stale};

#[derive(Debug, Default)]
pub(crate) struct Memory {
    series: Mutex<Vec<(Labels, Vec<Sample>)>>,
    limit: Option<usize>,
}

impl Memory {
    /// Takes only so many series.
    pub fn limited(limit: usize) -> Self {
        Memory {
            limit: Some(limit),
            ..Memory::default()
        }
    }

    /// Times (relative to `origin_ms`) and values of a series; a staleness marker shows as None.
    pub fn samples(&self, series: &str, origin_ms: i64) -> Vec<(i64, Option<f64>)> {
        let all = self.lock();
        let found = all.iter().find(|(labels, _)| labels.to_string() == series);
        let show = |s: &Sample| (s.ts_ms - origin_ms, (!is_stale(s.value)).then_some(s.value));
        found
            .map(|(_, samples)| samples.iter().map(show).collect())
            .unwrap_or_default()
    }

    pub fn names(&self) -> Vec<String> {
        let all = self.lock();
        let names: BTreeMap<String, ()> = all.iter().map(|(labels, _)| (labels.to_string(), ())).collect();
        names.into_keys().collect()
    }

    /// Forgets a series, as a store does after the retention; its number is never used again.
    pub fn forget(&self, series: &str) {
        for (labels, _) in self
            .lock()
            .iter_mut()
            .filter(|(labels, _)| labels.to_string() == series)
        {
            *labels = Labels::new([("gone", "gone")]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Labels, Vec<Sample>)>> {
        self.series.lock().unwrap_or_else(|e| panic!("{e}"))
    }
}

impl Append for Memory {
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, AppendError> {
        let mut all = self.lock();
        let at = match all.iter().position(|(l, _)| l == labels) {
            Some(at) => at,
            None if self.limit.is_some_and(|limit| all.len() >= limit) => {
                return Err(AppendError::SeriesLimit { limit: all.len() });
            }
            None => {
                all.push((labels.clone(), Vec::new()));
                all.len() - 1
            }
        };
        Ok(SeriesRef(at as u64))
    }

    fn append(&self, batch: &[(SeriesRef, Sample)], refused: &mut Vec<(usize, AppendError)>) {
        let mut all = self.lock();
        for (at, (series, sample)) in batch.iter().enumerate() {
            let (labels, samples) = &mut all[series.0 as usize];
            let last = samples.last();
            if labels.get("gone") == "gone" {
                refused.push((at, AppendError::Unknown));
            } else if last.is_some_and(|l| l.ts_ms > sample.ts_ms) {
                refused.push((at, AppendError::OutOfOrder));
            } else if last.is_some_and(|l| l.ts_ms == sample.ts_ms) {
                if last.is_some_and(|l| l.value.to_bits() != sample.value.to_bits()) {
                    refused.push((at, AppendError::Duplicate));
                }
            } else {
                samples.push(*sample);
            }
        }
    }

    fn append_histograms(&self, _: &[(SeriesRef, i64, Histogram)], _: &mut Vec<(usize, AppendError)>) {}

    fn describe(&self, _: &str, _: &Metadata) {}

    fn oldest_ms(&self, now_ms: i64) -> i64 {
        now_ms - 3_600_000
    }
}
