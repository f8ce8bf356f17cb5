//! Which series, labels, values and families there are, and their newest samples for another server to collect.

use super::{Answer, answer, params::Params, params::now_ms, scope::is_of_family};
use crate::{Engine, Error, engine, format};
use http::StatusCode;
use serde_json::{Value as Json, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    ops::ControlFlow,
    time::Instant,
};
use weir_series::{Label, Labels, Matcher, Metadata, exposition, is_stale, names};

/// Selectors that one request may have.
const MAX_SELECTORS: usize = 1000;

/// The selectors of `match[]`, and the time, which by default is all there is.
struct Wanted {
    selectors: Vec<Vec<Matcher>>,
    start_ms: i64,
    end_ms: i64,
    limit: usize,
}

impl Wanted {
    fn of(params: &Params) -> Result<Self, Error> {
        if params.all("match[]").nth(MAX_SELECTORS).is_some() {
            let why = format!("there are more than {MAX_SELECTORS} match[] parameters: ask for some after the others");
            return Err(Error::BadQuery(why));
        }
        let wanted = Wanted {
            selectors: params.all("match[]").map(engine::selector).collect::<Result<_, _>>()?,
            start_ms: params.time("start", i64::MIN)?,
            end_ms: params.time("end", i64::MAX)?,
            limit: params.limit("limit")?,
        };
        if wanted.end_ms < wanted.start_ms {
            return Err(Error::BadQuery("the end must not be before the start".into()));
        }
        Ok(wanted)
    }

    /// What all selectors give together; without any, what the store gives without conditions.
    fn union<T: Ord>(
        &self,
        engine: &Engine,
        ask: impl Fn(&[Matcher], i64, i64) -> Result<Vec<T>, weir_series::SelectError>,
    ) -> Result<Vec<T>, Error> {
        let mut found = BTreeSet::new();
        let everything = [Vec::new()];
        let selectors = if self.selectors.is_empty() {
            &everything[..]
        } else {
            &self.selectors
        };
        let started = Instant::now();
        for matchers in selectors {
            engine.check(started)?;
            found.extend(ask(matchers, self.start_ms, self.end_ms).map_err(store_error)?);
        }
        Ok(found.into_iter().collect())
    }

    fn answer(&self, mut found: Vec<impl serde::Serialize>) -> Answer {
        let mut remarks = answer::Remarks::default();
        remarks.truncate(&mut found, self.limit);
        Ok(answer::success_with(found, remarks))
    }
}

fn store_error(error: weir_series::SelectError) -> Error {
    Error::Execution(error.to_string())
}

/// `/api/v1/series`
pub(super) fn series(engine: &Engine, params: &Params) -> Answer {
    let wanted = Wanted::of(params)?;
    if wanted.selectors.is_empty() {
        return Err(Error::BadQuery("no match[] parameter provided: give a series selector".into()).into());
    }
    wanted.answer(wanted.union(engine, |m, start, end| engine.store().series(m, start, end))?)
}

/// `/api/v1/labels`
pub(super) fn labels(engine: &Engine, params: &Params) -> Answer {
    let wanted = Wanted::of(params)?;
    wanted.answer(wanted.union(engine, |m, start, end| engine.store().label_names(m, start, end))?)
}

/// `/api/v1/label/<name>/values`
pub(super) fn values(engine: &Engine, name: &str, params: &Params) -> Answer {
    let wanted = Wanted::of(params)?;
    wanted.answer(wanted.union(engine, |m, start, end| engine.store().label_values(name, m, start, end))?)
}

fn told(metadata: &Metadata) -> Json {
    json!({ "type": metadata.kind, "help": metadata.help, "unit": metadata.unit })
}

/// `/api/v1/metadata`
pub(super) fn metadata(engine: &Engine, params: &Params) -> Answer {
    let limit = params.limit("limit")?;
    let mut families = engine.store().metadata(params.get("metric").filter(|m| !m.is_empty()));
    if limit > 0 {
        families.truncate(limit);
    }
    let data: BTreeMap<String, [Json; 1]> = families.iter().map(|(f, m)| (f.clone(), [told(m)])).collect();
    Ok(answer::success(data))
}

/// `/api/v1/targets/metadata`: of each active target, the families that it has series of.
pub(super) fn target_metadata(engine: &Engine, targets: &Json, params: &Params) -> Answer {
    let limit = params.limit("limit")?;
    let matching = match params.get("match_target").filter(|m| !m.is_empty()) {
        Some(selector) => engine::selector(selector)?,
        None => Vec::new(),
    };
    let families = engine.store().metadata(params.get("metric").filter(|m| !m.is_empty()));
    let mut out = Vec::new();
    for target in targets["activeTargets"].as_array().into_iter().flatten() {
        let pairs = target["labels"].as_object().into_iter().flatten();
        let labels = Labels::new(pairs.map(|(n, v)| (n.as_str(), v.as_str().unwrap_or_default())));
        if !matching.iter().all(|m| m.matches_labels(&labels)) {
            continue;
        }
        let own: Vec<Matcher> = [names::JOB, names::INSTANCE]
            .map(|l| Matcher::equal(l, labels.get(l)))
            .into();
        let names = engine
            .store()
            .label_values(names::METRIC_NAME, &own, i64::MIN, i64::MAX);
        let names = names.map_err(store_error)?;
        for (family, metadata) in &families {
            if !names.iter().any(|name| is_of_family(name, family)) {
                continue;
            }
            if limit > 0 && out.len() == limit {
                break;
            }
            let mut entry = told(metadata);
            entry["target"] = json!(labels);
            entry["metric"] = json!(family);
            out.push(entry);
        }
    }
    Ok(answer::success(out))
}

/// `/federate`: the newest sample of each series within the look-back, in the text format.
pub(super) fn federate(engine: &Engine, params: &Params) -> Answer {
    let wanted = Wanted::of(params)?;
    let end_ms = now_ms();
    let lookback = i64::try_from(engine.options().lookback.as_millis()).unwrap_or(i64::MAX);
    let mut newest: BTreeMap<Labels, (i64, f64)> = BTreeMap::new();
    let started = Instant::now();
    for matchers in &wanted.selectors {
        engine.check(started)?;
        let visited = engine
            .store()
            .visit(matchers, end_ms - lookback, end_ms, &mut |series| {
                // Native histograms have no form in text.
                if let Some(sample) = series.samples.last().filter(|s| !is_stale(s.value)) {
                    newest.insert(series.identity.labels(), (sample.ts_ms, sample.value));
                }
                ControlFlow::Continue(())
            });
        visited.map_err(store_error)?;
    }
    // By name first: the labels' own order would not keep names together.
    let mut rows: Vec<_> = newest
        .into_iter()
        .filter(|(l, _)| !l.metric_name().is_empty())
        .collect();
    rows.sort_by(|(a, _), (b, _)| a.metric_name().cmp(b.metric_name()));
    let mut page = String::new();
    let mut last = String::new();
    let mut content_type = exposition::CONTENT_TYPE;
    for (labels, (ts_ms, value)) in rows {
        let name = labels.metric_name();
        if name != last {
            let _ = writeln!(page, "# TYPE {} untyped", exposition::quoted_metric(name));
            last = name.to_owned();
        }
        // Who collects this must not add an instance of its own: an empty one keeps its own from being set.
        let instance = if labels.get(names::INSTANCE).is_empty() {
            "instance=\"\""
        } else {
            ""
        };
        let in_quotes = |l: &Label| !exposition::is_plain_name(&l.name, false);
        if !exposition::is_plain_name(name, true) || labels.iter().any(in_quotes) {
            content_type = exposition::CONTENT_TYPE_UTF8;
        }
        let shown = labels.to_string();
        let shown = shown.strip_suffix('}').unwrap_or(&shown);
        let comma = if instance.is_empty() || shown.ends_with('{') {
            ""
        } else {
            ","
        };
        let _ = writeln!(page, "{shown}{comma}{instance}}} {} {ts_ms}", format::value(value));
    }
    Ok(answer::text(StatusCode::OK, content_type, page))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use std::sync::Arc;
    use weir_series::{Sample, SeriesData, memory::Memory};

    /// The content type and the page, with `T` for the time of the samples.
    fn federated(series: &[&[(&str, &str)]]) -> (String, String) {
        let ts_ms = now_ms();
        let one = |labels: &&[(&str, &str)]| SeriesData {
            labels: Labels::new(labels.iter().copied()),
            samples: vec![Sample { ts_ms, value: 1.5 }],
            ..SeriesData::default()
        };
        let engine = Engine::new(Arc::new(Memory(series.iter().map(one).collect())), Options::default());
        let mut params = Params::default();
        params.add("match[]={__name__=~'.%2B'}");
        let response = federate(&engine, &params).unwrap_or_else(|e| panic!("{e:?}"));
        let (head, body) = response.into_parts();
        let content_type = head.headers[http::header::CONTENT_TYPE]
            .to_str()
            .unwrap_or_default()
            .to_owned();
        let body = futures::executor::block_on(http_body_util::BodyExt::collect(body));
        let page = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned());
        let page = page.unwrap_or_else(|e| panic!("{e}"));
        (content_type, page.replace(&format!(" {ts_ms}\n"), " T\n"))
    }

    #[test]
    fn federated_names_stand_in_quotes_where_they_must() {
        let plain: &[_] = &[("__name__", "a:b"), ("instance", "i"), ("job", "x")];
        let (content_type, page) = federated(&[plain]);
        assert_eq!(content_type, exposition::CONTENT_TYPE);
        assert_eq!(page, "# TYPE a:b untyped\na:b{instance=\"i\",job=\"x\"} 1.5 T\n");
        let (content_type, page) = federated(&[plain, &[("__name__", "a.c"), ("d.e", "\"")], &[("__name__", "é")]]);
        assert_eq!(content_type, exposition::CONTENT_TYPE_UTF8);
        let expected = r#"# TYPE "a.c" untyped
{"a.c","d.e"="\"",instance=""} 1.5 T
# TYPE a:b untyped
a:b{instance="i",job="x"} 1.5 T
# TYPE "é" untyped
{"é",instance=""} 1.5 T
"#;
        assert_eq!(page, expected);
        let read: Vec<_> = exposition::parse(&page.replace(" T\n", " 1\n"))
            .map(|entry| entry.map(|entry| entry.name.to_owned()))
            .collect::<Result<_, _>>()
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(read, ["a.c", "a:b", "é"]);
    }
}
