//! Runs `testdata/*.test`. A script is lines:
//!
//! ```text
//! clear                                       forget all series
//! load 10s                                    then one series a line, one value each 10 s from time 0
//!   name{label="value"} 1 2 _ stale 0+5x3     `_` no sample, `stale` the marker, a+bx3 = a, a+b, a+2b, a+3b
//! eval instant at 50s QUERY                   then the whole answer, one series a line, in any order
//!   {label="value"} 12
//! eval ordered at 50s QUERY                   in this order
//! eval range from 0s to 20s step 10s QUERY    then values a step, `_` where there is none
//!   {label="value"} 1 _ 3
//! eval fail at 50s QUERY                      then a part of the error
//!   many-to-many
//! ```
//! A native histogram is `{{schema:0 sum:5 count:4 z_bucket:1 z_bucket_w:0.001 offset:1 buckets:[1 2] n_buckets:[1]}}`,
//! perhaps with `n_offset`, `custom_values:[..]` and `reset:gauge|reset|none`, repeated as in `{{..}}x3` (four times).
//! Of what is wanted, a line `warning: TEXT` or `info: TEXT` is part of an annotation of the answer.
//!
//! A number alone stands for a scalar. `#` begins a comment line. Values agree to a relative 1e-9.

use crate::literal::{self, Cell};
use std::{path::Path, sync::Arc};
use weir_promql::{Annotations, Engine, Options, Value, format};
use weir_series::memory::Memory;
use weir_series::{HistogramSample, Labels, Sample, SeriesData, exposition};

#[test]
fn all_scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "test"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut failures = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        run(
            &file.file_name().unwrap_or_default().to_string_lossy(),
            &text,
            &mut failures,
        );
    }
    assert!(
        failures.is_empty(),
        "{} of the evaluations differ:\n\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}

fn run(file: &str, text: &str, failures: &mut Vec<String>) {
    let mut store = Memory::default();
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        let number = at + 1;
        let command = lines[at].trim();
        at += 1;
        if command.is_empty() || command.starts_with('#') {
            continue;
        }
        let first = at;
        while at < lines.len() && lines[at].starts_with(' ') && !lines[at].trim().is_empty() {
            at += 1;
        }
        let body: Vec<&str> = lines[first..at]
            .iter()
            .map(|l| l.trim())
            .filter(|l| !l.starts_with('#'))
            .collect();
        if command == "clear" {
            store = Memory::default();
        } else if let Some(step) = command.strip_prefix("load ") {
            body.iter().for_each(|line| load(&mut store, millis(step), line));
        } else if let Some(rest) = command.strip_prefix("eval ") {
            if let Err(why) = eval(&store, rest, &body) {
                failures.push(format!("{file}:{number}: {command}\n{why}"));
            }
        } else {
            panic!("{file}:{number}: {command:?} is no command");
        }
    }
}

fn millis(text: &str) -> i64 {
    let duration = format::parse_duration(text).unwrap_or_else(|| panic!("{text:?} is not a duration"));
    duration.as_millis() as i64
}

fn load(store: &mut Memory, step_ms: i64, line: &str) {
    let (labels, values) = series(line);
    let mut data = SeriesData {
        labels,
        ..SeriesData::default()
    };
    for (i, cell) in values.into_iter().enumerate() {
        let ts_ms = i as i64 * step_ms;
        match cell {
            None => {}
            Some(Cell::Float(value)) => data.samples.push(Sample { ts_ms, value }),
            Some(Cell::Histogram(value)) => data.histograms.push(HistogramSample { ts_ms, value }),
        }
    }
    store.0.push(data);
}

/// Labels and values of a line; None for `_`.
fn series(line: &str) -> (Labels, Vec<Option<Cell>>) {
    let end = match (line.find(' '), line.find('{'), line.find('}')) {
        // Labels begin before the first blank, or the line has none.
        (space, Some(open), Some(close)) if space.is_none_or(|s| open < s) && !line.starts_with("{{") => close + 1,
        (space, ..) => space.unwrap_or(line.len()),
    };
    let (head, values) = line.split_at(end);
    // A label set alone is no line of a page: lend it a name.
    let (page, lent) = (format!("{head} 0"), format!("x{head} 0"));
    let own = exposition::parse(&page).next().and_then(Result::ok);
    let (entry, name) = match own {
        Some(entry) if !entry.name.is_empty() => (entry, entry.name),
        _ => match exposition::parse(&lent).next() {
            Some(Ok(entry)) => (entry, ""),
            other => panic!("{line:?}: {:?}", other.map(|e| e.err())),
        },
    };
    let pairs = entry.labels().map(|(n, v)| (n.into_owned(), v.into_owned()));
    let labels = Labels::new(pairs.chain([("__name__".to_owned(), name.to_owned())]));
    (labels, literal::cells(values))
}

/// Every annotation that is wanted must be there; the lines that are left are the answer.
fn annotated<'a>(body: &[&'a str], annotations: &Annotations) -> Result<Vec<&'a str>, String> {
    let mut rest = Vec::new();
    for line in body {
        let (all, part) = match line.split_once(": ") {
            Some(("warning", part)) => (&annotations.warnings, part),
            Some(("info", part)) => (&annotations.infos, part),
            _ => {
                rest.push(*line);
                continue;
            }
        };
        if !all.iter().any(|text| text.contains(part)) {
            return Err(format!("wanted {line}, got {annotations:?}"));
        }
    }
    Ok(rest)
}

fn eval(store: &Memory, rest: &str, body: &[&str]) -> Result<(), String> {
    let engine = Engine::new(Arc::new(store.clone()), Options::default());
    let (kind, rest) = rest.split_once(' ').ok_or("eval what?")?;
    if kind == "range" {
        let words: Vec<&str> = rest.splitn(7, ' ').collect();
        let [_, from, _, to, _, step, query] = words[..] else {
            return Err("eval range from A to B step C QUERY".into());
        };
        let (from, to, step) = (millis(from), millis(to), millis(step));
        let got = engine.range_annotated(query, from, to, step);
        let (got, annotations) = got.map_err(|e| e.to_string())?;
        let times = (to - from) / step + 1;
        let values = |s: &SeriesData| {
            let float = |time| s.samples.iter().find(|s| s.ts_ms == time).map(|s| Cell::Float(s.value));
            let native = |time| s.histograms.iter().find(|h| h.ts_ms == time);
            let at = |time| float(time).or_else(|| native(time).map(|h| Cell::Histogram(h.value.clone())));
            (0..times).map(|i| at(from + i * step)).collect()
        };
        let body = annotated(body, &annotations)?;
        return compare(
            got.iter().map(|s| (s.labels.clone(), values(s))).collect(),
            &body,
            false,
        );
    }
    let (time, query) = rest
        .strip_prefix("at ")
        .and_then(|r| r.split_once(' '))
        .ok_or("at TIME QUERY?")?;
    let answer = engine.instant_annotated(query, millis(time));
    if kind == "fail" {
        let error = answer
            .map(|(v, _)| format!("no error but {v:?}"))
            .map_err(|e| e.to_string());
        let part = body.first().copied().unwrap_or_default();
        return match error {
            Err(error) if error.contains(part) => Ok(()),
            Ok(other) | Err(other) => Err(format!("wanted an error with {part:?}, got: {other}")),
        };
    }
    let (answer, annotations) = answer.map_err(|e| e.to_string())?;
    let body = annotated(body, &annotations)?;
    match answer {
        Value::Scalar(s) => {
            let want = literal::number(body.first().copied().unwrap_or_default());
            if literal::near(s.value, want) {
                Ok(())
            } else {
                Err(format!("wanted {want}, got {}", s.value))
            }
        }
        Value::String { value, .. } => {
            if body == [value.as_str()] {
                Ok(())
            } else {
                Err(value)
            }
        }
        Value::Vector { samples, .. } => {
            let cell = |s: &weir_promql::InstantSample| match &s.histogram {
                Some(h) => Cell::Histogram(h.clone()),
                None => Cell::Float(s.value),
            };
            let rows = samples.into_iter().map(|s| (s.labels.clone(), vec![Some(cell(&s))]));
            compare(rows.collect(), &body, kind == "ordered")
        }
        Value::Matrix(series) => {
            let values = |s: &SeriesData| s.samples.iter().map(|s| Some(Cell::Float(s.value))).collect();
            let rows = series.iter().map(|s| (s.labels.clone(), values(s)));
            compare(rows.collect(), &body, false)
        }
    }
}

type Rows = Vec<(Labels, Vec<Option<Cell>>)>;

fn compare(mut got: Rows, body: &[&str], ordered: bool) -> Result<(), String> {
    let mut want: Rows = body.iter().map(|line| series(line)).collect();
    if !ordered {
        got.sort_by(|a, b| a.0.cmp(&b.0));
        want.sort_by(|a, b| a.0.cmp(&b.0));
    }
    let equal = got.len() == want.len()
        && got.iter().zip(&want).all(|(g, w)| {
            let pair = |(g, w): (&Option<Cell>, &Option<Cell>)| match (g, w) {
                (Some(g), Some(w)) => g.is_near(w),
                (g, w) => g.is_none() && w.is_none(),
            };
            g.0 == w.0 && g.1.len() == w.1.len() && g.1.iter().zip(&w.1).all(pair)
        });
    let show = |rows: &Rows| {
        rows.iter()
            .map(|(l, v)| format!("  {l} {v:?}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    if equal {
        Ok(())
    } else {
        Err(format!("wanted\n{}\ngot\n{}", show(&want), show(&got)))
    }
}
