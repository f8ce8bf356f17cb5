//! Several servers as one store: samples are fetched as they are and evaluated here, so that every query is right however
//! the series are spread. A series that two servers have (a pair for availability) is taken from the fuller one.
//!
//! The answers tell neither where a series ended nor, in a form that could be reckoned with, native histograms: the first
//! counts on for the look-back, the second fail the query.

use super::route::labels;
use super::upstream::Upstream;
use crate::{Error, Value, parse::selector};
use std::collections::{BTreeMap, BTreeSet};
use tokio::runtime::Handle;
use weir_series::{Labels, Matcher, Metadata, Select, SelectError, SeriesData, SeriesView, Visitor};

pub(super) struct Shards {
    upstreams: Vec<Upstream>,
    runtime: Handle,
}

impl Shards {
    pub fn new(upstreams: Vec<Upstream>) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|e| Error::Execution(e.to_string()))?;
        Ok(Shards { upstreams, runtime })
    }

    /// Asks all at once. Blocks: evaluation has threads of its own.
    fn all<T, F: Future<Output = Result<T, Error>>>(&self, ask: impl Fn(Upstream) -> F) -> Result<Vec<T>, SelectError> {
        let asked = self.upstreams.iter().map(|upstream| ask(upstream.clone()));
        let answers = self.runtime.block_on(futures::future::try_join_all(asked));
        // A part of the series would be a wrong answer: one server that fails fails the query.
        answers.map_err(|e| SelectError::Store(e.to_string()))
    }

    fn lists<T: Ord + serde::de::DeserializeOwned>(
        &self,
        path: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<BTreeSet<T>, SelectError> {
        let selectors: Vec<String> = (!matchers.is_empty()).then(|| selector(matchers)).into_iter().collect();
        let (path, selectors) = (path.to_owned(), &selectors);
        let lists = self.all(|upstream| {
            let path = path.clone();
            async move { upstream.list::<T>(&path, selectors, start_ms, end_ms).await }
        })?;
        Ok(lists.into_iter().flatten().collect())
    }
}

impl Select for Shards {
    fn visit(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), SelectError> {
        // One millisecond more: where ranges are open at their left end, the first sample would be missing.
        let query = format!(
            "{}[{}ms]",
            selector(matchers),
            end_ms.saturating_sub(start_ms).saturating_add(1)
        );
        let query = &query;
        let answers = self.all(|upstream| async move { upstream.samples(query, end_ms).await })?;
        let mut merged: BTreeMap<Labels, SeriesData> = BTreeMap::new();
        for answer in answers {
            let Value::Matrix(series) = answer else {
                return Err(SelectError::Store(
                    "the server's answer to a range of samples is no matrix".into(),
                ));
            };
            for mut one in series {
                one.samples.retain(|s| (start_ms..=end_ms).contains(&s.ts_ms));
                match merged.get_mut(&one.labels) {
                    Some(other) if other.samples.len() >= one.samples.len() => {}
                    Some(other) => *other = one,
                    None => drop(merged.insert(one.labels.clone(), one)),
                }
            }
        }
        for series in merged.values().filter(|s| !s.samples.is_empty()) {
            let view = SeriesView {
                identity: &series.labels,
                samples: &series.samples,
                histograms: &[],
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
        let found: BTreeSet<BTreeMap<String, String>> = self.lists("series", matchers, start_ms, end_ms)?;
        Ok(found.into_iter().map(labels).collect())
    }

    fn label_names(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<String>, SelectError> {
        Ok(self.lists("labels", matchers, start_ms, end_ms)?.into_iter().collect())
    }

    fn label_values(
        &self,
        name: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<String>, SelectError> {
        let path = super::upstream::values_path(name);
        Ok(self.lists(&path, matchers, start_ms, end_ms)?.into_iter().collect())
    }
}
