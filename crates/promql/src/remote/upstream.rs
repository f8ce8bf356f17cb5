//! One server with Prometheus's API: questions go in, the bodies of its answers come out.

use super::answer::{self, QueryData};
use super::breaker::Breaker;
use super::flight::Flights;
use super::http::{self, Client, Settings};
use crate::{Error, Value, format};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// How a server is used.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Time that one question may take, waiting for a place among it.
    pub timeout: Duration,
    /// Questions under way at the same time; further ones wait.
    pub concurrency: usize,
    /// How long an answer stands for the same question. Times of instant queries are rounded down to it.
    pub cache: Duration,
    /// Questions longer than this are sent by POST.
    pub max_get_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            timeout: Duration::from_secs(30),
            concurrency: 16,
            cache: Duration::from_secs(1),
            max_get_bytes: 1024,
        }
    }
}

/// A server. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    base: String,
    client: Client,
    limits: Limits,
    places: Semaphore,
    breaker: Breaker,
    flights: Flights,
}

/// Tells the breaker even where the question is given up.
struct Trial<'a> {
    breaker: &'a Breaker,
    told: bool,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.breaker.given_up();
        }
    }
}

impl Upstream {
    /// A server whose API is at `<url>/api/v1`. The error is about certificates or headers.
    pub fn new(url: &str, settings: &Settings, limits: Limits) -> Result<Self, http::Error> {
        let url = url.trim_end_matches('/');
        let base = url.strip_suffix("/api/v1").unwrap_or(url).to_owned();
        Ok(Upstream(Arc::new(Inner {
            client: Client::new(settings)?,
            places: Semaphore::new(limits.concurrency.max(1)),
            breaker: Breaker::default(),
            flights: Flights::default(),
            base,
            limits,
        })))
    }

    /// Its address, without `/api/v1`.
    pub fn url(&self) -> &str {
        &self.0.base
    }

    pub(super) async fn instant(&self, query: &str, at_ms: i64) -> Result<Value, Error> {
        let grain = i64::try_from(self.0.limits.cache.as_millis()).unwrap_or(1).max(1);
        let at_ms = at_ms - at_ms.rem_euclid(grain);
        self.data(query, at_ms).await?.value(at_ms)
    }

    /// The samples that a range selects, at exactly this time. Native histograms among them are an error: their buckets come
    /// in a form that nothing can be reckoned with, and without them the answer would be wrong.
    pub(super) async fn samples(&self, query: &str, at_ms: i64) -> Result<Value, Error> {
        let data = self.data(query, at_ms).await?;
        if data.has_histograms() {
            return Err(Error::Execution(format!(
                "{}: {query} selects native histograms, which are not read from one server of several: \
                 give that server a selector of its own, or ask a querier in front of all",
                self.0.base
            )));
        }
        data.value(at_ms)
    }

    async fn data(&self, query: &str, at_ms: i64) -> Result<QueryData, Error> {
        let form = [("query", query), ("time", &format::time(at_ms))];
        self.ask("query", &form).await
    }

    pub(super) async fn range(&self, query: &str, start_ms: i64, end_ms: i64, step_ms: i64) -> Result<Value, Error> {
        let [start, end, step] = [start_ms, end_ms, step_ms].map(format::time);
        let form = [("query", query), ("start", &start), ("end", &end), ("step", &step)];
        let data: QueryData = self.ask("query_range", &form).await?;
        data.value(end_ms)
    }

    /// A list, such as of series or of labels.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        selectors: &[String],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<T>, Error> {
        let (start, end) = (format::time(start_ms), format::time(end_ms));
        let mut form: Vec<(&str, &str)> = selectors.iter().map(|s| ("match[]", s.as_str())).collect();
        // Some servers do not take the ends of time.
        if start_ms > i64::MIN {
            form.push(("start", &start));
        }
        if end_ms < i64::MAX {
            form.push(("end", &end));
        }
        self.ask(path, &form).await
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, form: &[(&str, &str)]) -> Result<T, Error> {
        let mut encoded = String::new();
        for (name, value) in form {
            let and = if encoded.is_empty() { "" } else { "&" };
            let (name, value) = (escape(name), escape(value));
            let _ = write!(encoded, "{and}{name}={value}");
        }
        let question = format!("{path}?{encoded}");
        let asking = self.fetch(path, encoded);
        let body = self.0.flights.get(question, self.0.limits.cache, asking).await?;
        answer::data(&body)
    }

    async fn fetch(&self, path: &str, encoded: String) -> Result<Bytes, Error> {
        let Inner {
            base, client, limits, ..
        } = &*self.0;
        let until = Instant::now() + limits.timeout;
        if let Err(wait) = self.0.breaker.ask(Instant::now()) {
            let seconds = wait.as_secs_f64();
            return Err(Error::Execution(format!(
                "{base} failed again and again: it is tried again in {seconds:.1} s"
            )));
        }
        let mut trial = Trial {
            breaker: &self.0.breaker,
            told: false,
        };
        let place = tokio::time::timeout(limits.timeout, self.0.places.acquire()).await;
        let _place = place
            .map_err(|_| Error::Timeout(limits.timeout))?
            .map_err(|_| Error::Execution("shutting down".into()))?;
        let left = until.saturating_duration_since(Instant::now());
        let get_only = path.starts_with("label/") || encoded.len() <= limits.max_get_bytes;
        let answer = match get_only {
            true => client.get(&format!("{base}/api/v1/{path}?{encoded}"), left).await,
            false => {
                let form = [("content-type", "application/x-www-form-urlencoded")];
                client
                    .post(&format!("{base}/api/v1/{path}"), &form, encoded.into(), left)
                    .await
            }
        };
        trial.told = true;
        match answer {
            // These statuses carry an answer in the envelope, and none is a fault of the server's.
            Ok(answer) if answer.status.is_success() || matches!(answer.status.as_u16(), 400 | 422) => {
                self.0.breaker.succeeded();
                Ok(answer.body)
            }
            Ok(answer) => {
                match answer.status.is_server_error() {
                    true => self.0.breaker.failed(Instant::now()),
                    false => self.0.breaker.succeeded(),
                }
                let text = String::from_utf8_lossy(&answer.body);
                Err(Error::Execution(format!(
                    "{base} answers {}: {:.300}",
                    answer.status,
                    text.trim()
                )))
            }
            Err(error) => {
                self.0.breaker.failed(Instant::now());
                Err(match error {
                    http::Error::Timeout(_) => Error::Timeout(limits.timeout),
                    error => Error::Execution(format!("{base}: {error}")),
                })
            }
        }
    }
}

/// Characters that stand for something else in a path.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_');

/// Where the values of a label are asked for.
pub(super) fn values_path(label: &str) -> String {
    format!("label/{}/values", utf8_percent_encode(label, IN_PATH))
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
