//! One path, one function. Everything here blocks.

use super::{Api, answer, params::Params, query, scope::Scoped, series, status, targets};
use crate::{Engine, Error};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use weir_series::{exposition, names};

/// What the API counts about itself.
#[derive(Debug, Default)]
pub(super) struct Counts {
    queries: AtomicU64,
    failures: AtomicU64,
    pub written: AtomicU64,
    pub refused: AtomicU64,
}

/// An answer that says what was wrong.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub kind: &'static str,
    pub message: String,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (status, kind) = match &error {
            Error::BadQuery(_) => (StatusCode::BAD_REQUEST, "bad_data"),
            Error::Execution(_) => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
            Error::Timeout(_) => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
        };
        Refusal {
            status,
            kind,
            message: error.to_string(),
        }
    }
}

impl Refusal {
    pub fn answer(&self) -> Response<Full<Bytes>> {
        answer::error(self.status, self.kind, &self.message)
    }

    pub fn not_found(path: &str) -> Self {
        Refusal {
            status: StatusCode::NOT_FOUND,
            kind: "not_found",
            message: format!("there is nothing at {path}"),
        }
    }
}

pub(super) type Answer = Result<Response<Full<Bytes>>, Refusal>;

/// Answers a path. A caller with `namespaces` sees only their series, and nothing about the server.
pub(super) fn answer(
    api: &Api,
    engine: &Engine,
    counts: &Counts,
    path: &str,
    params: &Params,
    namespaces: Option<&[String]>,
) -> Response<Full<Bytes>> {
    let engine = match namespaces.map(|n| Scoped::namespaces(engine.store().clone(), n)) {
        None => engine.clone(),
        Some(Ok(scoped)) => engine.with(Arc::new(scoped), engine.options().clone()),
        Some(Err(error)) => return answer::error(StatusCode::FORBIDDEN, "forbidden", &error.to_string()),
    };
    let answered = match of_series(&engine, counts, path, params) {
        Some(answered) => answered,
        None if namespaces.is_some() && path != "/api/v1/status/buildinfo" => Err(Refusal {
            status: StatusCode::FORBIDDEN,
            kind: "forbidden",
            message: format!("{path} tells about all namespaces: that needs the right to get the path /api/v1"),
        }),
        None => of_server(api, &engine, counts, path, params).unwrap_or_else(|| Err(Refusal::not_found(path))),
    };
    answered.unwrap_or_else(|refusal| refusal.answer())
}

/// What is answered from series alone, and so may be asked for some namespaces.
fn of_series(engine: &Engine, counts: &Counts, path: &str, params: &Params) -> Option<Answer> {
    Some(match path {
        "/api/v1/query" => counted(counts, || query::instant(engine, params)),
        "/api/v1/query_range" => counted(counts, || query::range(engine, params)),
        "/api/v1/query_exemplars" => query::exemplars(params),
        "/api/v1/format_query" => query::format(params),
        "/api/v1/parse_query" => query::tree(params),
        "/api/v1/series" => series::series(engine, params),
        "/api/v1/labels" => series::labels(engine, params),
        "/api/v1/metadata" => series::metadata(engine, params),
        "/federate" => series::federate(engine, params),
        _ => {
            let name = path.strip_prefix("/api/v1/label/")?.strip_suffix("/values")?;
            if name.is_empty() || name.contains('/') {
                return None;
            }
            let name = percent_decode_str(name).decode_utf8_lossy();
            series::values(engine, &name, params)
        }
    })
}

fn of_server(api: &Api, engine: &Engine, counts: &Counts, path: &str, params: &Params) -> Option<Answer> {
    let rules = api.rules.as_ref();
    let data = match path {
        "/api/v1/targets" => targets::wanted((api.targets)(), params),
        "/api/v1/scrape_pools" => targets::pools(&(api.targets)()),
        "/api/v1/targets/metadata" => return Some(series::target_metadata(engine, &(api.targets)(), params)),
        "/api/v1/rules" => {
            let filter = params.rule_filter();
            let shown = match rules {
                Some(rules) => rules.to_json(&filter),
                None => filter.check().map(|()| json!({ "groups": [] })),
            };
            match shown {
                Ok(json) => json,
                Err(why) => return Some(Err(Error::BadQuery(why).into())),
            }
        }
        "/api/v1/alerts" => rules.map_or_else(|| json!({ "alerts": [] }), |r| r.alerts_json()),
        "/api/v1/alertmanagers" => rules.map_or_else(
            || json!({ "activeAlertmanagers": [], "droppedAlertmanagers": [] }),
            |r| r.alertmanagers_json(),
        ),
        "/sd/proxies" => {
            let json = (api.discovered)().to_string();
            return Some(Ok(answer::text(StatusCode::OK, "application/json", json)));
        }
        "/metrics" => return Some(Ok(metrics(api, counts))),
        _ => return status::status(api, engine, path.strip_prefix("/api/v1/status/")?, params),
    };
    Some(Ok(answer::success(data)))
}

fn counted(counts: &Counts, f: impl FnOnce() -> Answer) -> Answer {
    counts.queries.fetch_add(1, Relaxed);
    f().inspect_err(|_| {
        counts.failures.fetch_add(1, Relaxed);
    })
}

fn metrics(api: &Api, counts: &Counts) -> Response<Full<Bytes>> {
    let mut page = String::new();
    for (name, help, count) in [
        (names::QUERY_TOTAL, "Queries, instant and range.", &counts.queries),
        (
            names::QUERY_FAILURES_TOTAL,
            "Queries that were answered with an error.",
            &counts.failures,
        ),
        (
            names::RECEIVED_SAMPLES_TOTAL,
            "Samples that came by remote write and were stored.",
            &counts.written,
        ),
        (
            names::RECEIVED_REFUSED_TOTAL,
            "Samples that came by remote write and were refused.",
            &counts.refused,
        ),
    ] {
        exposition::write_header(&mut page, name, "counter", help);
        exposition::write_sample(&mut page, name, "", "", count.load(Relaxed) as f64);
    }
    if let Some(rules) = &api.rules {
        rules.render(&mut page);
    }
    (api.metrics)(&mut page);
    answer::text(StatusCode::OK, exposition::CONTENT_TYPE, page)
}
