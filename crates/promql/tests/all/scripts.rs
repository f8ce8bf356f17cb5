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
//! A number alone stands for a scalar. `#` begins a comment line. Values agree to a relative 1e-9.

use std::{path::Path, sync::Arc};
use weir_promql::{Engine, Options, Value, format};
use weir_series::memory::Memory;
use weir_series::{Labels, Sample, SeriesData, exposition, stale_nan};

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
    let samples = values.into_iter().enumerate().filter_map(|(i, v)| {
        Some(Sample {
            ts_ms: i as i64 * step_ms,
            value: v?,
        })
    });
    store.0.push(SeriesData {
        labels,
        samples: samples.collect(),
        ..SeriesData::default()
    });
}

/// Labels and values of a line; None for `_`.
fn series(line: &str) -> (Labels, Vec<Option<f64>>) {
    let end = line
        .find('}')
        .map_or_else(|| line.find(' ').unwrap_or(line.len()), |brace| brace + 1);
    let (head, values) = line.split_at(end);
    // A label set alone is no line of a page: lend it a name.
    let (page, lent) = if head.starts_with('{') {
        (format!("x{head} 0"), true)
    } else {
        (format!("{head} 0"), false)
    };
    let entry = exposition::parse(&page).next();
    let entry = entry
        .unwrap_or_else(|| panic!("no series in {line:?}"))
        .unwrap_or_else(|e| panic!("{line:?}: {e}"));
    let name = if lent { "" } else { entry.name };
    let pairs = entry.labels().map(|(n, v)| (n.to_owned(), v.into_owned()));
    let labels = Labels::new(pairs.chain([("__name__".into(), name.to_owned())]));
    (labels, values.split_whitespace().flat_map(expand).collect())
}

fn expand(word: &str) -> Vec<Option<f64>> {
    match word {
        "_" => return vec![None],
        "stale" => return vec![Some(stale_nan())],
        _ => {}
    }
    let Some((term, times)) = word.split_once('x') else {
        return vec![Some(number(word))];
    };
    let times: usize = times
        .parse()
        .unwrap_or_else(|_| panic!("{word:?}: a count must follow x"));
    if term == "_" {
        return vec![None; times];
    }
    let sign = term.rfind(['+', '-']).filter(|at| *at > 0);
    let (start, step) = sign.map_or_else(|| (number(term), 0.0), |at| (number(&term[..at]), number(&term[at..])));
    (0..=times).map(|i| Some(start + step * i as f64)).collect()
}

fn number(text: &str) -> f64 {
    match text {
        "NaN" => f64::NAN,
        "+Inf" | "Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        text => text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number")),
    }
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
        let got = engine.range(query, from, to, step).map_err(|e| e.to_string())?;
        let times = (to - from) / step + 1;
        let values = |s: &SeriesData| {
            let at = |time| s.samples.iter().find(|s| s.ts_ms == time).map(|s| s.value);
            (0..times).map(|i| at(from + i * step)).collect()
        };
        return compare(got.iter().map(|s| (s.labels.clone(), values(s))).collect(), body, false);
    }
    let (time, query) = rest
        .strip_prefix("at ")
        .and_then(|r| r.split_once(' '))
        .ok_or("at TIME QUERY?")?;
    let answer = engine.instant(query, millis(time));
    if kind == "fail" {
        let error = answer.map(|v| format!("no error but {v:?}")).map_err(|e| e.to_string());
        let part = body.first().copied().unwrap_or_default();
        return match error {
            Err(error) if error.contains(part) => Ok(()),
            Ok(other) | Err(other) => Err(format!("wanted an error with {part:?}, got: {other}")),
        };
    }
    match answer.map_err(|e| e.to_string())? {
        Value::Scalar(s) => {
            let want = number(body.first().copied().unwrap_or_default());
            if same(s.value, want) {
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
        Value::Vector { samples, .. } => compare(
            samples.into_iter().map(|s| (s.labels, vec![Some(s.value)])).collect(),
            body,
            kind == "ordered",
        ),
        Value::Matrix(series) => {
            let values = |s: &SeriesData| s.samples.iter().map(|s| Some(s.value)).collect();
            compare(
                series.iter().map(|s| (s.labels.clone(), values(s))).collect(),
                body,
                false,
            )
        }
    }
}

type Rows = Vec<(Labels, Vec<Option<f64>>)>;

fn compare(mut got: Rows, body: &[&str], ordered: bool) -> Result<(), String> {
    let mut want: Rows = body.iter().map(|line| series(line)).collect();
    if !ordered {
        got.sort_by(|a, b| a.0.cmp(&b.0));
        want.sort_by(|a, b| a.0.cmp(&b.0));
    }
    let equal = got.len() == want.len()
        && got.iter().zip(&want).all(|(g, w)| {
            let pair = |(g, w): (&Option<f64>, &Option<f64>)| match (g, w) {
                (Some(g), Some(w)) => same(*g, *w),
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

fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}
