//! The simplest store that can be: a list. What tests ask instead of a real one.

use crate::{Labels, Matcher, Metadata, Select, SelectError, SeriesData, SeriesView, Visitor};

/// Series in any order; each one's samples ascending in time.
#[derive(Clone, Debug, Default)]
pub struct Memory(pub Vec<SeriesData>);

impl Memory {
    fn matching(&self, matchers: &[Matcher]) -> impl Iterator<Item = &SeriesData> {
        let matches = move |s: &&SeriesData| matchers.iter().all(|m| m.matches_labels(&s.labels));
        self.0.iter().filter(matches)
    }
}

impl Select for Memory {
    fn visit(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), SelectError> {
        for series in self.matching(matchers) {
            let samples = within(&series.samples, start_ms, end_ms, |s| s.ts_ms);
            let histograms = within(&series.histograms, start_ms, end_ms, |h| h.ts_ms);
            if samples.is_empty() && histograms.is_empty() {
                continue;
            }
            let view = SeriesView {
                identity: &series.labels,
                samples,
                histograms,
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
        let found = self.select(matchers, start_ms, end_ms, usize::MAX)?;
        Ok(found.into_iter().map(|s| s.labels).collect())
    }

    fn label_names(&self, matchers: &[Matcher], _: i64, _: i64) -> Result<Vec<String>, SelectError> {
        let labels = self.matching(matchers).flat_map(|s| s.labels.iter());
        Ok(sorted(labels.map(|l| l.name.to_string()).collect()))
    }

    fn label_values(&self, name: &str, matchers: &[Matcher], _: i64, _: i64) -> Result<Vec<String>, SelectError> {
        let values = self.matching(matchers).map(|s| s.labels.get(name).to_owned());
        Ok(sorted(values.filter(|v| !v.is_empty()).collect()))
    }
}

fn within<T>(all: &[T], start_ms: i64, end_ms: i64, time: impl Fn(&T) -> i64) -> &[T] {
    let first = all.partition_point(|s| time(s) < start_ms);
    let end = all.partition_point(|s| time(s) <= end_ms);
    &all[first..end.max(first)]
}

fn sorted(mut all: Vec<String>) -> Vec<String> {
    all.sort();
    all.dedup();
    all
}
