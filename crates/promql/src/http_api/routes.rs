//! One function a path. Everything here blocks.

use super::{Api, answer, params::Params, params::now_ms, status};
use crate::{Error, Value, engine};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use weir_series::{Labels, Matcher, exposition, names};

/// What the API counts about itself.
#[derive(Debug, Default)]
pub(super) struct Counts {
    queries: AtomicU64,
    failures: AtomicU64,
}

pub(super) fn answer(api: &Api, counts: &Counts, path: &str, params: &Params) -> Response<Full<Bytes>> {
    let answered = match path {
        "/api/v1/query" => counted(counts, || query(api, params)),
        "/api/v1/query_range" => counted(counts, || query_range(api, params)),
        "/api/v1/series" => series(api, params),
        "/api/v1/labels" => labels(api, params),
        "/api/v1/targets" => Ok(answer::success((api.targets)())),
        "/sd/proxies" => Ok(answer::text(
            StatusCode::OK,
            "application/json",
            (api.discovered)().to_string(),
        )),
        "/api/v1/status/buildinfo" => Ok(build_info()),
        "/metrics" => Ok(metrics(api, counts)),
        _ => match path
            .strip_prefix("/api/v1/label/")
            .and_then(|p| p.strip_suffix("/values"))
        {
            Some(name) if !name.is_empty() && !name.contains('/') => label_values(api, name, params),
            _ => {
                return answer::error(
                    StatusCode::NOT_FOUND,
                    "not_found",
                    &format!("there is nothing at {path}"),
                );
            }
        },
    };
    answered.unwrap_or_else(|error| {
        let (code, kind) = status(&error);
        answer::error(code, kind, &error.to_string())
    })
}

type Answer = Result<Response<Full<Bytes>>, Error>;

fn counted(counts: &Counts, f: impl FnOnce() -> Answer) -> Answer {
    counts.queries.fetch_add(1, Relaxed);
    f().inspect_err(|_| {
        counts.failures.fetch_add(1, Relaxed);
    })
}

fn query(api: &Api, params: &Params) -> Answer {
    let time = params.time("time", now_ms())?;
    let value = api.engine.instant(params.required("query")?, time)?;
    Ok(answer::success(answer::QueryData(value)))
}

fn query_range(api: &Api, params: &Params) -> Answer {
    params.required("start")?;
    params.required("end")?;
    let (start, end) = (params.time("start", 0)?, params.time("end", 0)?);
    let series = api
        .engine
        .range(params.required("query")?, start, end, params.duration_ms("step")?)?;
    Ok(answer::success(answer::QueryData(Value::Matrix(series))))
}

/// The selectors of `match[]`, and the time, which by default is all there is.
fn scope(params: &Params) -> Result<(Vec<Vec<Matcher>>, i64, i64), Error> {
    let selectors = params.all("match[]").map(engine::selector).collect::<Result<_, _>>()?;
    Ok((
        selectors,
        params.time("start", i64::MIN)?,
        params.time("end", i64::MAX)?,
    ))
}

fn series(api: &Api, params: &Params) -> Answer {
    let (selectors, start, end) = scope(params)?;
    if selectors.is_empty() {
        return Err(Error::BadQuery("the parameter match[] is missing".into()));
    }
    let mut found: BTreeSet<Labels> = BTreeSet::new();
    for matchers in selectors {
        found.extend(api.engine.store().series(&matchers, start, end).map_err(store_error)?);
    }
    Ok(answer::success(found))
}

fn labels(api: &Api, params: &Params) -> Answer {
    let names = union(params, |matchers, start, end| {
        api.engine
            .store()
            .label_names(matchers, start, end)
            .map_err(store_error)
    })?;
    Ok(answer::success(names))
}

fn label_values(api: &Api, name: &str, params: &Params) -> Answer {
    let values = union(params, |matchers, start, end| {
        api.engine
            .store()
            .label_values(name, matchers, start, end)
            .map_err(store_error)
    })?;
    Ok(answer::success(values))
}

/// What all selectors give together; without any, what the store gives without conditions.
fn union(
    params: &Params,
    ask: impl Fn(&[Matcher], i64, i64) -> Result<Vec<String>, Error>,
) -> Result<BTreeSet<String>, Error> {
    let (selectors, start, end) = scope(params)?;
    if selectors.is_empty() {
        return Ok(ask(&[], start, end)?.into_iter().collect());
    }
    let mut found = BTreeSet::new();
    for matchers in selectors {
        found.extend(ask(&matchers, start, end)?);
    }
    Ok(found)
}

fn store_error(error: weir_series::SelectError) -> Error {
    Error::Execution(error.to_string())
}

fn build_info() -> Response<Full<Bytes>> {
    // `application` tells clients that ask whether this is Prometheus itself that it is not.
    answer::success(serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "application": "weir" }))
}

fn metrics(api: &Api, counts: &Counts) -> Response<Full<Bytes>> {
    let mut page = String::new();
    let own = [
        (names::QUERY_TOTAL, "Queries, instant and range.", &counts.queries),
        (
            "weir_query_failures_total",
            "Queries that were answered with an error.",
            &counts.failures,
        ),
    ];
    for (name, help, count) in own {
        exposition::write_header(&mut page, name, "counter", help);
        exposition::write_sample(&mut page, name, "", "", count.load(Relaxed) as f64);
    }
    (api.metrics)(&mut page);
    answer::text(StatusCode::OK, exposition::CONTENT_TYPE, page)
}
