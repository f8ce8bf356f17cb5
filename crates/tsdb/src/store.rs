//! The store as others know it: the two seams over the head.

use crate::head::Head;
use crate::options::Options;
use crate::stats::Stats;
use std::sync::Arc;
use weir_series::{
    Append, AppendError, Histogram, Labels, Matcher, Metadata, Sample, Select, SelectError, SeriesRef, Visitor,
};

/// The store. Share it by `Arc`.
#[derive(Debug)]
pub struct Tsdb {
    head: Arc<Head>,
}

impl Tsdb {
    /// An empty store in memory.
    pub fn new(options: Options) -> Self {
        let head = Arc::new(Head::new(options, None));
        Tsdb { head }
    }

    /// Drops what is older than the retention seen from `now_ms` (or beyond its bytes), and series without samples. Call it
    /// now and then; it goes in small steps and stops nobody.
    pub fn maintain(&self, now_ms: i64) {
        self.head.maintain(now_ms);
    }

    /// What the store holds and what it refused.
    pub fn stats(&self) -> Stats {
        self.head.stats()
    }

    /// The label names with the most values, and the pairs `name=value` with the most series; the largest first.
    pub fn largest(&self, limit: usize) -> (Vec<(String, usize)>, Vec<(String, usize)>) {
        self.head.index().largest(limit)
    }

    /// Appends the store's figures about itself as text format 0.0.4.
    pub fn render(&self, out: &mut String) {
        self.stats().render(out);
    }
}

impl Append for Tsdb {
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, AppendError> {
        self.head.resolve(labels.iter().map(|l| (&*l.name, &*l.value)))
    }

    fn resolve_pairs(&self, pairs: &[(&str, &str)]) -> Result<SeriesRef, AppendError> {
        self.head.resolve(pairs.iter().copied())
    }

    fn append(&self, batch: &[(SeriesRef, Sample)], refused: &mut Vec<(usize, AppendError)>) {
        self.head.append(batch, refused);
    }

    fn append_histograms(&self, batch: &[(SeriesRef, i64, Histogram)], refused: &mut Vec<(usize, AppendError)>) {
        self.head.append_histograms(batch, refused);
    }

    fn describe(&self, family: &str, metadata: &Metadata) {
        self.head.describe(family, metadata);
    }

    fn oldest_ms(&self, now_ms: i64) -> i64 {
        self.head.oldest_by_age(now_ms)
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
        self.head.visit(matchers, start_ms, end_ms, visitor);
        Ok(())
    }

    fn metadata(&self, family: Option<&str>) -> Vec<(String, Metadata)> {
        self.head.families().get(family)
    }

    fn series(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<Labels>, SelectError> {
        Ok(self.head.series(matchers, start_ms, end_ms))
    }

    fn label_names(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<String>, SelectError> {
        Ok(self.head.label_names(matchers, start_ms, end_ms))
    }

    fn label_values(
        &self,
        name: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<String>, SelectError> {
        Ok(self.head.label_values(name, matchers, start_ms, end_ms))
    }
}

#[cfg(test)]
mod tests;
