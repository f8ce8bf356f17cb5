//! Stores seen through a condition or a counter. Whatever a query asks for passes through here, so nothing escapes it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use weir_series::{Labels, MatchOp, Matcher, MatcherError, Metadata, Select, SelectError, Visitor, names};

/// A store of which only the series of some namespaces are seen: every selection has one matcher more.
pub struct Scoped {
    store: Arc<dyn Select>,
    matcher: Matcher,
}

impl Scoped {
    /// Only series whose label `namespace` is one of these.
    pub fn namespaces(store: Arc<dyn Select>, namespaces: &[String]) -> Result<Self, MatcherError> {
        let pattern = namespaces
            .iter()
            .map(|n| regex::escape(n))
            .collect::<Vec<_>>()
            .join("|");
        // Of no namespaces the pattern would be empty, which series without the label satisfy.
        let pattern = if namespaces.is_empty() { "[^\\s\\S]" } else { &pattern };
        let matcher = Matcher::new(MatchOp::Regex, names::NAMESPACE, pattern)?;
        Ok(Scoped { store, matcher })
    }

    fn with(&self, matchers: &[Matcher]) -> Vec<Matcher> {
        matchers.iter().chain([&self.matcher]).cloned().collect()
    }
}

impl Select for Scoped {
    fn visit(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), SelectError> {
        self.store.visit(&self.with(matchers), start_ms, end_ms, visitor)
    }

    /// Of families that have series in sight.
    fn metadata(&self, family: Option<&str>) -> Vec<(String, Metadata)> {
        let names = self.label_values(names::METRIC_NAME, &[], i64::MIN, i64::MAX);
        let names = names.unwrap_or_default();
        let mut told = self.store.metadata(family);
        told.retain(|(family, _)| names.iter().any(|name| is_of_family(name, family)));
        told
    }

    fn series(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<Labels>, SelectError> {
        self.store.series(&self.with(matchers), start_ms, end_ms)
    }

    fn label_names(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<String>, SelectError> {
        self.store.label_names(&self.with(matchers), start_ms, end_ms)
    }

    fn label_values(
        &self,
        name: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<String>, SelectError> {
        self.store.label_values(name, &self.with(matchers), start_ms, end_ms)
    }
}

/// Whether a series of this name belongs to a family.
pub(super) fn is_of_family(name: &str, family: &str) -> bool {
    let suffixes = ["", "_bucket", "_count", "_sum", "_total", "_created", "_info"];
    name.strip_prefix(family).is_some_and(|rest| suffixes.contains(&rest))
}

/// A store that counts the samples it shows.
pub(super) struct Counted {
    store: Arc<dyn Select>,
    samples: Arc<AtomicUsize>,
}

impl Counted {
    pub fn new(store: Arc<dyn Select>) -> (Self, Arc<AtomicUsize>) {
        let samples = Arc::new(AtomicUsize::new(0));
        let counter = samples.clone();
        (Counted { store, samples }, counter)
    }
}

impl Select for Counted {
    fn visit(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), SelectError> {
        self.store.visit(matchers, start_ms, end_ms, &mut |series| {
            self.samples
                .fetch_add(series.samples.len() + series.histograms.len(), Relaxed);
            visitor(series)
        })
    }

    fn metadata(&self, family: Option<&str>) -> Vec<(String, Metadata)> {
        self.store.metadata(family)
    }

    fn series(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<Labels>, SelectError> {
        self.store.series(matchers, start_ms, end_ms)
    }

    fn label_names(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<String>, SelectError> {
        self.store.label_names(matchers, start_ms, end_ms)
    }

    fn label_values(
        &self,
        name: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<String>, SelectError> {
        self.store.label_values(name, matchers, start_ms, end_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_series::{Sample, SeriesData, memory::Memory};

    fn store() -> Arc<dyn Select> {
        let series = |namespace: &str| SeriesData {
            labels: Labels::new([("__name__", "m"), ("namespace", namespace)]),
            samples: vec![Sample { ts_ms: 0, value: 1.0 }],
            ..SeriesData::default()
        };
        Arc::new(Memory(vec![series("a"), series("b"), series("")]))
    }

    #[test]
    fn only_the_namespaces_are_seen() {
        let seen = |namespaces: &[&str]| {
            let namespaces: Vec<String> = namespaces.iter().map(|n| (*n).to_owned()).collect();
            let scoped = Scoped::namespaces(store(), &namespaces).unwrap_or_else(|e| panic!("{e}"));
            let series = scoped
                .series(&[Matcher::equal("__name__", "m")], 0, 1)
                .unwrap_or_default();
            let values = scoped.label_values("namespace", &[], 0, 1).unwrap_or_default();
            (series.len(), values.join(","))
        };
        assert_eq!(seen(&["a", "b"]), (2, "a,b".into()));
        assert_eq!(seen(&["b"]), (1, "b".into()));
        assert_eq!(seen(&["."]), (0, String::new()));
        assert_eq!(seen(&[]), (0, String::new()));
    }
}
