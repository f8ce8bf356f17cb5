//! What the server tells about itself.

use super::{Answer, Api, answer, params::Params, params::now_ms};
use crate::Engine;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};
use std::{collections::BTreeMap, ops::ControlFlow};
use weir_series::names;

/// The version of Prometheus's API that this one follows; clients decide by it what they may ask.
const SPOKEN_VERSION: &str = "3.5.0";
/// Entries of each list of `tsdb` where no limit is given.
const TOP_DEFAULT: usize = 10;

/// `/api/v1/status/<what>`; none if there is no such status.
pub(super) fn status(api: &Api, engine: &Engine, what: &str, params: &Params) -> Option<Answer> {
    Some(match what {
        "buildinfo" => Ok(build_info()),
        "config" => Ok(answer::success(json!({ "yaml": (api.status.config)() }))),
        "flags" => Ok(answer::success(&api.status.flags)),
        "runtimeinfo" => Ok(answer::success(runtime_info(api))),
        "tsdb" => tsdb(api, engine, params),
        "walreplay" => Ok(answer::success(json!({ "min": 0, "max": 0, "current": 0 }))),
        _ => return None,
    })
}

fn build_info() -> Response<Full<Bytes>> {
    answer::success(json!({
        "version": SPOKEN_VERSION,
        // Tells clients that ask whether this is Prometheus itself that it is not.
        "application": "weir",
        "applicationVersion": env!("CARGO_PKG_VERSION"),
        "revision": "",
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
    }))
}

fn over(base: Json, replacing: Json) -> Json {
    let mut members = match base {
        Json::Object(members) => members,
        _ => Map::new(),
    };
    if let Json::Object(replacing) = replacing {
        members.extend(replacing);
    }
    Json::Object(members)
}

fn runtime_info(api: &Api) -> Json {
    let time = |t: std::time::SystemTime| Timestamp::try_from(t).unwrap_or_default().to_string();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let base = json!({
        "startTime": time(api.status.started),
        "serverTime": time(std::time::SystemTime::now()),
        "CWD": std::env::current_dir().unwrap_or_default(),
        "hostname": "",
        "reloadConfigSuccess": true,
        "lastConfigTime": time(api.status.started),
        "corruptionCount": 0,
        "goroutineCount": 0,
        "GOMAXPROCS": processors,
        "GOMEMLIMIT": 0,
        "GOGC": "",
        "GODEBUG": "",
        "storageRetention": "",
    });
    over(base, (api.status.runtime)())
}

/// Counts over the series that have a sample within the look-back; memory for the names only.
fn tsdb(api: &Api, engine: &Engine, params: &Params) -> Answer {
    let limit = match params.limit("limit")? {
        0 => TOP_DEFAULT,
        limit => limit,
    };
    let now = now_ms();
    let lookback = i64::try_from(engine.options().lookback.as_millis()).unwrap_or(i64::MAX);
    let mut by_metric: BTreeMap<String, u64> = BTreeMap::new();
    let mut by_pair: BTreeMap<String, u64> = BTreeMap::new();
    let (mut series_count, mut oldest, mut newest) = (0u64, i64::MAX, i64::MIN);
    let visited = engine.store().visit(&[], now - lookback, now, &mut |series| {
        series_count += 1;
        for label in series.identity.labels().iter() {
            if &*label.name == names::METRIC_NAME {
                *by_metric.entry(label.value.to_string()).or_default() += 1;
            }
            *by_pair.entry(format!("{}={}", label.name, label.value)).or_default() += 1;
        }
        oldest = series.samples.first().map_or(oldest, |s| s.ts_ms.min(oldest));
        newest = series.samples.last().map_or(newest, |s| s.ts_ms.max(newest));
        ControlFlow::Continue(())
    });
    visited.map_err(|e| crate::Error::Execution(e.to_string()))?;
    let mut values: BTreeMap<String, u64> = BTreeMap::new();
    let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
    for pair in by_pair.keys() {
        if let Some((name, value)) = pair.split_once('=') {
            *values.entry(name.to_owned()).or_default() += 1;
            *bytes.entry(name.to_owned()).or_default() += value.len() as u64;
        }
    }
    let base = json!({
        "headStats": {
            "numSeries": series_count,
            "numLabelPairs": by_pair.len(),
            "chunkCount": series_count,
            "minTime": if series_count == 0 { 0 } else { oldest },
            "maxTime": if series_count == 0 { 0 } else { newest },
        },
        "seriesCountByMetricName": top(by_metric, limit),
        "labelValueCountByLabelName": top(values, limit),
        "memoryInBytesByLabelName": top(bytes, limit),
        "seriesCountByLabelValuePair": top(by_pair, limit),
    });
    Ok(answer::success(over(base, (api.status.tsdb)())))
}

fn top(counts: BTreeMap<String, u64>, limit: usize) -> Vec<Json> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.truncate(limit);
    counts
        .into_iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect()
}

/// What `/-/healthy` and `/-/ready` answer.
pub(super) fn alive(ready: bool) -> Response<Full<Bytes>> {
    use http::StatusCode;
    let (status, text) = match ready {
        true => (StatusCode::OK, "Weir is ready.\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "Weir is not ready yet.\n"),
    };
    answer::text(status, "text/plain; charset=utf-8", text.into())
}
