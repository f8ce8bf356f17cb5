//! What must hold for any bytes, as functions that a fuzzer calls.
//!
//! Enters: bytes of anybody. Leaves: nothing, or a panic that tells which invariant is broken. `fuzz/` drives them with
//! libFuzzer; the tests replay its corpus.

use crate::{Engine, Error, Options, Value};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use weir_series::memory::Memory;
use weir_series::{Buckets, Histogram, HistogramSample, Labels, Sample, SeriesData, Span};

/// One function to fuzz.
pub type Target = fn(&[u8]);

/// All of them; the name is that of the folder of its corpus.
pub const TARGETS: [(&str, Target); 1] = [("promql", query)];

/// Runs one target.
///
/// # Panics
/// Where an invariant is broken, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(n, _)| *n == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no fuzz target {name:?}"));
    target(bytes);
}

/// What a query is shown as is a query, and is shown so again, on one line or on several.
fn shown(text: &str) {
    let both = |text: &str| crate::engine::with_parsed(text, |expr| (expr.to_string(), expr.pretty(), expr.to_json()));
    let Ok((line, pretty, _)) = both(text) else {
        return;
    };
    // Decimal places of a time may be lost, and its last line may have one bracket more than is allowed.
    for again in [&line, &pretty] {
        match both(again) {
            Ok((same, ..)) => assert!(same == line || line.contains('@'), "{text}\n{line}\n{same}"),
            Err(why) => assert!(why.to_string().contains("at most"), "{text}\n{again}\n{why}"),
        }
    }
}

/// A query is answered or refused, by no panic, and as a range of one step as it is at one time.
fn query(bytes: &[u8]) {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| {
        let options = Options {
            timeout: Duration::from_millis(500),
            max_samples: 100_000,
            ..Options::default()
        };
        Engine::new(Arc::new(Memory(series())), options)
    });
    let text = String::from_utf8_lossy(bytes);
    shown(&text);
    let at = 120_400;
    let instant = engine.instant(&text, at);
    if let Err(Error::Execution(why)) = &instant {
        assert!(!why.contains("defect"), "{text}: {why}");
    }
    let range = engine.range(&text, at, at, 1000);
    if let Err(Error::Execution(why)) = &range {
        assert!(!why.contains("defect"), "{text}: {why}");
    }
    if let Err(Error::Execution(why)) = engine.range(&text, 0, at, 10_000) {
        assert!(!why.contains("defect"), "{text}: {why}");
    }
    if let (Ok(Value::Vector { samples, .. }), Ok(series)) = (&instant, &range) {
        // The step of a query may be part of it (`step()`), and is 0 of an instant one.
        let lower = text.to_ascii_lowercase();
        if !lower.contains("step") && !lower.contains("range") {
            assert_eq!(samples.len(), series.len(), "{text}: {samples:?} {series:?}");
        }
    }
}

/// Some of every kind.
fn series() -> Vec<SeriesData> {
    let mut out = Vec::new();
    for pod in ["a", "b"] {
        let samples = |start: f64, step: f64| -> Vec<Sample> {
            let value = |i: i64| start + step * (i % 9) as f64;
            (0..20)
                .map(|i| Sample {
                    ts_ms: i * 10_000,
                    value: value(i),
                })
                .collect()
        };
        for (le, start) in [("1", 10.0), ("5", 20.0), ("+Inf", 25.0)] {
            out.push(SeriesData {
                labels: Labels::new([("__name__", "l_bucket"), ("le", le), ("pod", pod)]),
                samples: samples(start, 3.0),
                ..SeriesData::default()
            });
        }
        out.push(SeriesData {
            labels: Labels::new([("__name__", "m"), ("pod", pod)]),
            samples: samples(-5.0, 1.5),
            ..SeriesData::default()
        });
        for (name, extra) in [("i", ""), (weir_series::names::TARGET_INFO, "1.0")] {
            let labels = [("__name__", name), ("instance", pod), ("job", "x"), ("version", extra)];
            out.push(SeriesData {
                labels: Labels::new(labels),
                samples: samples(1.0, 0.0),
                ..SeriesData::default()
            });
        }
        let histogram = |i: i64| Histogram {
            schema: if pod == "a" { 0 } else { 2 },
            count: (2 + i % 7) as f64,
            sum: i as f64,
            positive: Buckets {
                spans: vec![Span { offset: -1, length: 2 }],
                counts: vec![1.0, (1 + i % 7) as f64],
            },
            ..Histogram::default()
        };
        out.push(SeriesData {
            labels: Labels::new([("__name__", "h"), ("pod", pod)]),
            histograms: (0..20)
                .map(|i| HistogramSample {
                    ts_ms: i * 10_000,
                    value: Arc::new(histogram(i)),
                })
                .collect(),
            ..SeriesData::default()
        });
    }
    out
}

#[cfg(test)]
mod tests;
