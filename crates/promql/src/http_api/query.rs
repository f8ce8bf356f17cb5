//! Queries: an expression and its times go in, values come out.

use super::{Answer, answer, params::Params, params::now_ms, scope::Counted};
use crate::{Annotations, Engine, Error, Value, engine};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

/// `/api/v1/query`
pub(super) fn instant(engine: &Engine, params: &Params) -> Answer {
    let time = params.time("time", now_ms())?;
    let query = params.required("query")?;
    ask(engine, params, |engine| engine.instant_annotated(query, time))
}

/// `/api/v1/query_range`
pub(super) fn range(engine: &Engine, params: &Params) -> Answer {
    params.required("start")?;
    params.required("end")?;
    let (start, end) = (params.time("start", 0)?, params.time("end", 0)?);
    let (query, step) = (params.required("query")?, params.duration_ms("step")?);
    ask(engine, params, |engine| {
        let (series, annotations) = engine.range_annotated(query, start, end, step)?;
        Ok((Value::Matrix(series), annotations))
    })
}

/// Asks with the options of the request: `timeout`, `lookback_delta`, `stats`, `limit`.
fn ask(engine: &Engine, params: &Params, ask: impl FnOnce(&Engine) -> Result<(Value, Annotations), Error>) -> Answer {
    let mut options = engine.options().clone();
    if let Some(timeout) = params.optional_duration_ms("timeout")? {
        options.timeout = options.timeout.min(millis(timeout));
    }
    if let Some(lookback) = params.optional_duration_ms("lookback_delta")?.filter(|ms| *ms > 0) {
        options.lookback = millis(lookback);
    }
    let limit = params.limit("limit")?;
    let with_stats = params.get("stats").is_some_and(|s| !s.is_empty());
    let (counted, samples) = Counted::new(engine.store().clone());
    let started = Instant::now();
    let store = match with_stats {
        true => Arc::new(counted),
        false => engine.store().clone(),
    };
    let (mut value, annotations) = ask(&engine.with(store, options))?;
    let stats = with_stats.then(|| stats(started.elapsed(), samples.load(Relaxed)));
    let mut remarks = answer::Remarks::from(annotations);
    match &mut value {
        Value::Vector { samples, .. } => remarks.truncate(samples, limit),
        Value::Matrix(series) => remarks.truncate(series, limit),
        _ => {}
    }
    Ok(answer::success_with(answer::QueryData { value, stats }, remarks))
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn stats(took: Duration, samples: usize) -> serde_json::Value {
    let seconds = took.as_secs_f64();
    serde_json::json!({
        "timings": {
            "evalTotalTime": seconds,
            "resultSortTime": 0.0,
            "queryPreparationTime": 0.0,
            "innerEvalTime": seconds,
            "execQueueTime": 0.0,
            "execTotalTime": seconds,
        },
        "samples": { "totalQueryableSamples": samples, "peakSamples": samples },
    })
}

/// `/api/v1/query_exemplars`: none are kept, but the question is checked.
pub(super) fn exemplars(params: &Params) -> Answer {
    let (start, end) = (params.time("start", i64::MIN)?, params.time("end", i64::MAX)?);
    if end < start {
        return Err(Error::BadQuery("the end must not be before the start".into()).into());
    }
    engine::with_parsed(params.required("query")?, |_| ())?;
    Ok(answer::success([(); 0]))
}

/// `/api/v1/format_query`
pub(super) fn format(params: &Params) -> Answer {
    let pretty = engine::with_parsed(params.required("query")?, |expr| expr.pretty())?;
    Ok(answer::success(pretty))
}

/// `/api/v1/parse_query`: the tree of the expression.
pub(super) fn tree(params: &Params) -> Answer {
    let tree = engine::with_parsed(params.required("query")?, |expr| expr.to_json())?;
    Ok(answer::success(tree))
}
