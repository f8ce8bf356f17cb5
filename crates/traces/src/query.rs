//! Which traces are asked for.
//!
//! Enters: the parameters of a request, as Zipkin names them. Leaves: a [`Query`] that judges traces, or which parameter is
//! wrong. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::span::Span;
use crate::store::begin;

/// How many traces are answered where nothing is said.
const LIMIT: usize = 10;
/// How many at most.
const LIMIT_MAX: usize = 1000;
/// How far back is looked where nothing is said, in milliseconds: a day.
const LOOKBACK_MS: u64 = 86_400_000;

/// Parameters by name; of two with one name the last counts.
pub type Parameters = BTreeMap<String, String>;

/// Which parameter is wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {message}")]
pub struct Wrong {
    /// Its name.
    pub name: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// A time in which a trace begins, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    first: u64,
    last: u64,
}

/// Which traces are asked for.
#[derive(Debug)]
pub struct Query {
    service: Option<String>,
    remote: Option<String>,
    name: Option<String>,
    /// Annotations and tags by name; an empty value stands for any.
    notes: Vec<(String, String)>,
    duration: Option<(u64, u64)>,
    window: Window,
    /// Traces at most.
    pub limit: usize,
}

fn wrong<T>(name: &'static str, message: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        name,
        message: message.into(),
    })
}

fn number(parameters: &Parameters, name: &'static str) -> Result<Option<u64>, Wrong> {
    match parameters.get(name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(0) | Err(_) => wrong(name, format!("{text:?} must be a whole number above 0")),
            Ok(number) => Ok(Some(number)),
        },
    }
}

impl Window {
    /// `endTs` (milliseconds; `now` where it may be left out) and `lookback`.
    pub fn read(parameters: &Parameters, now_ms: Option<u64>) -> Result<Self, Wrong> {
        let Some(end) = number(parameters, "endTs")?.or(now_ms) else {
            return wrong("endTs", "is missing; right would be milliseconds since 1970");
        };
        let lookback = number(parameters, "lookback")?.unwrap_or(LOOKBACK_MS);
        Ok(Self {
            first: end.saturating_sub(lookback).saturating_mul(1000),
            // The whole last millisecond belongs to it.
            last: end.saturating_mul(1000).saturating_add(999),
        })
    }

    /// Whether a trace begins in it.
    pub fn holds(&self, trace: &[Arc<Span>]) -> bool {
        begin(trace).is_some_and(|at| (self.first..=self.last).contains(&at))
    }
}

impl Query {
    /// Reads the parameters of `GET /api/v2/traces`.
    pub fn read(parameters: &Parameters, now_ms: u64) -> Result<Self, Wrong> {
        let name = |key: &str| {
            let text = parameters.get(key)?.to_lowercase();
            // As clients say that they want no particular one.
            (!text.is_empty() && text != "all").then_some(text)
        };
        let (shortest, longest) = (number(parameters, "minDuration")?, number(parameters, "maxDuration")?);
        let duration = match (shortest, longest) {
            (None, None) => None,
            (None, Some(_)) => return wrong("maxDuration", "needs a minDuration beside it"),
            (Some(min), max) => {
                let max = max.unwrap_or(u64::MAX);
                if max < min {
                    return wrong("maxDuration", format!("{max} is less than minDuration, {min}"));
                }
                Some((min, max))
            }
        };
        let limit = number(parameters, "limit")?.map_or(LIMIT, |n| usize::try_from(n).unwrap_or(LIMIT_MAX));
        let notes = parameters
            .get("annotationQuery")
            .map(String::as_str)
            .unwrap_or_default();
        let notes = notes.split(" and ").map(str::trim).filter(|note| !note.is_empty());
        Ok(Self {
            service: name("serviceName"),
            remote: name("remoteServiceName"),
            name: name("spanName"),
            notes: notes
                .map(|note| note.split_once('=').unwrap_or((note, "")))
                .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
                .collect(),
            duration,
            window: Window::read(parameters, Some(now_ms))?,
            limit: limit.min(LIMIT_MAX),
        })
    }

    /// Whether a trace is asked for. All that is asked must be found in spans of the service, if one is named, though not
    /// all in one span.
    pub fn holds(&self, trace: &[Arc<Span>]) -> bool {
        if !self.window.holds(trace) {
            return false;
        }
        let own = || {
            trace
                .iter()
                .filter(|s| self.service.is_none() || s.service() == self.service.as_deref())
        };
        let noted = |(key, value): &(String, String)| {
            own().any(|s| {
                let tagged = s.tags.get(key).is_some_and(|found| value.is_empty() || found == value);
                tagged || (value.is_empty() && s.annotations.iter().any(|a| a.value == *key))
            })
        };
        own().next().is_some()
            && (self.name.is_none() || own().any(|s| s.name == self.name))
            && (self.remote.is_none() || own().any(|s| s.remote_service() == self.remote.as_deref()))
            && self.notes.iter().all(noted)
            && self
                .duration
                .is_none_or(|(min, max)| own().any(|s| s.duration.is_some_and(|d| (min..=max).contains(&d))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn parameters(list: &[(&str, &str)]) -> Parameters {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn trace() -> Vec<Arc<Span>> {
        let at = NOW_MS * 1000 - 5_000_000;
        let text = format!(
            r#"[{{"traceId":"a","id":"1","kind":"CLIENT","name":"get /","timestamp":{at},"duration":900,
                 "localEndpoint":{{"serviceName":"web"}},"remoteEndpoint":{{"serviceName":"reviews"}},
                 "annotations":[{{"timestamp":{at},"value":"retry"}}],"tags":{{"http.method":"GET"}}}},
                {{"traceId":"a","id":"2","parentId":"1","kind":"SERVER","name":"reviews","timestamp":{at},"duration":300,
                 "localEndpoint":{{"serviceName":"reviews"}},"tags":{{"error":"500"}}}}]"#
        );
        crate::span::read(text.as_bytes())
            .unwrap()
            .into_iter()
            .map(Arc::new)
            .collect()
    }

    #[test]
    fn traces_are_judged() {
        let holds = |list: &[(&str, &str)]| Query::read(&parameters(list), NOW_MS).unwrap().holds(&trace());
        for yes in [
            &[][..],
            &[("serviceName", "WEB")],
            &[
                ("serviceName", "web"),
                ("spanName", "get /"),
                ("remoteServiceName", "reviews"),
            ],
            &[("serviceName", "all"), ("spanName", "all")],
            &[("annotationQuery", "error and http.method=GET and retry")],
            &[("minDuration", "900")],
            &[
                ("minDuration", "200"),
                ("maxDuration", "400"),
                ("serviceName", "reviews"),
            ],
            &[("endTs", "1700000000000"), ("lookback", "5000")],
        ] {
            assert!(holds(yes), "{yes:?}");
        }
        for no in [
            &[("serviceName", "ratings")][..],
            &[("serviceName", "reviews"), ("spanName", "get /")],
            &[("serviceName", "web"), ("annotationQuery", "error")],
            &[("annotationQuery", "http.method=POST")],
            &[("minDuration", "901")],
            &[("minDuration", "301"), ("maxDuration", "899")],
            &[("endTs", "1700000000000"), ("lookback", "4999")],
            &[("endTs", "1699999994999")],
        ] {
            assert!(!holds(no), "{no:?}");
        }
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (list, name) in [
            (&[("limit", "0")][..], "limit"),
            (&[("limit", "ten")], "limit"),
            (&[("endTs", "-1")], "endTs"),
            (&[("lookback", "x")], "lookback"),
            (&[("maxDuration", "5")], "maxDuration"),
            (&[("minDuration", "6"), ("maxDuration", "5")], "maxDuration"),
        ] {
            assert_eq!(
                Query::read(&parameters(list), NOW_MS).unwrap_err().name,
                name,
                "{list:?}"
            );
        }
        assert_eq!(Window::read(&parameters(&[]), None).unwrap_err().name, "endTs");
        assert_eq!(
            Query::read(&parameters(&[("limit", "99999")]), NOW_MS).unwrap().limit,
            LIMIT_MAX
        );
    }
}
