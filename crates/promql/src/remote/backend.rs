//! Whatever answers PromQL: an engine over a store of our own, or servers elsewhere.

use crate::{Engine, Error, Value, engine};
use std::{collections::BTreeSet, future::Future, pin::Pin};
use weir_series::{Labels, Matcher, SelectError, SeriesData};

/// An answer that is still to come.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Answers PromQL. All times are milliseconds since 1970.
pub trait Backend: Send + Sync + 'static {
    /// The value at one time.
    fn instant<'a>(&'a self, query: &'a str, at_ms: i64) -> BoxFuture<'a, Value>;

    /// The values from `start_ms` to `end_ms`.
    fn range<'a>(&'a self, query: &'a str, start_ms: i64, end_ms: i64, step_ms: i64) -> BoxFuture<'a, Vec<SeriesData>>;

    /// The series that one of the selectors selects.
    fn series<'a>(&'a self, selectors: &'a [String], start_ms: i64, end_ms: i64) -> BoxFuture<'a, Vec<Labels>>;

    /// Names of labels, of all series or of those that one of the selectors selects.
    fn label_names<'a>(&'a self, selectors: &'a [String], start_ms: i64, end_ms: i64) -> BoxFuture<'a, Vec<String>>;

    /// Values of a label, likewise.
    fn label_values<'a>(
        &'a self,
        name: &'a str,
        selectors: &'a [String],
        start_ms: i64,
        end_ms: i64,
    ) -> BoxFuture<'a, Vec<String>>;
}

/// The engine computes; the runtime's own threads must not wait for that.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(f).await;
    done.unwrap_or_else(|e| Err(Error::Execution(e.to_string())))
}

/// What all selectors give together; of no selectors what there is at all.
fn union<T: Ord>(
    selectors: &[String],
    ask: impl Fn(&[Matcher]) -> Result<Vec<T>, SelectError>,
) -> Result<Vec<T>, Error> {
    let mut found = BTreeSet::new();
    let mut parsed = selectors
        .iter()
        .map(|s| engine::selector(s))
        .collect::<Result<Vec<_>, _>>()?;
    if parsed.is_empty() {
        parsed.push(Vec::new());
    }
    for matchers in parsed {
        found.extend(ask(&matchers).map_err(|e| Error::Execution(e.to_string()))?);
    }
    Ok(found.into_iter().collect())
}

impl Backend for Engine {
    fn instant<'a>(&'a self, query: &'a str, at_ms: i64) -> BoxFuture<'a, Value> {
        let (engine, query) = (self.clone(), query.to_owned());
        Box::pin(blocking(move || engine.instant(&query, at_ms)))
    }

    fn range<'a>(&'a self, query: &'a str, start_ms: i64, end_ms: i64, step_ms: i64) -> BoxFuture<'a, Vec<SeriesData>> {
        let (engine, query) = (self.clone(), query.to_owned());
        Box::pin(blocking(move || engine.range(&query, start_ms, end_ms, step_ms)))
    }

    fn series<'a>(&'a self, selectors: &'a [String], start_ms: i64, end_ms: i64) -> BoxFuture<'a, Vec<Labels>> {
        let (engine, selectors) = (self.clone(), selectors.to_vec());
        Box::pin(blocking(move || {
            union(&selectors, |m| engine.store().series(m, start_ms, end_ms))
        }))
    }

    fn label_names<'a>(&'a self, selectors: &'a [String], start_ms: i64, end_ms: i64) -> BoxFuture<'a, Vec<String>> {
        let (engine, selectors) = (self.clone(), selectors.to_vec());
        Box::pin(blocking(move || {
            union(&selectors, |m| engine.store().label_names(m, start_ms, end_ms))
        }))
    }

    fn label_values<'a>(
        &'a self,
        name: &'a str,
        selectors: &'a [String],
        start_ms: i64,
        end_ms: i64,
    ) -> BoxFuture<'a, Vec<String>> {
        let (engine, name, selectors) = (self.clone(), name.to_owned(), selectors.to_vec());
        Box::pin(blocking(move || {
            union(&selectors, |m| engine.store().label_values(&name, m, start_ms, end_ms))
        }))
    }
}
