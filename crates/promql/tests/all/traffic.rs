//! Ten minutes of traffic up to now, as a mesh's proxies show it, for tests that compare servers.

use std::sync::Arc;
use weir_series::{
    Buckets, Histogram, HistogramSample, Labels, Metadata, Sample, SeriesData, Span, remote_write::WriteRequest,
};

/// Between two samples.
pub const STEP_MS: i64 = 10_000;
/// Samples of each series.
pub const SAMPLES: i64 = 60;

/// The last whole step that lies well in the past.
pub fn end_ms(now_ms: i64) -> i64 {
    now_ms - now_ms.rem_euclid(STEP_MS) - STEP_MS
}

fn series(pairs: &[(&str, &str)], end_ms: i64, value: impl Fn(i64) -> f64) -> SeriesData {
    let samples = (0..SAMPLES).map(|i| Sample {
        ts_ms: end_ms - (SAMPLES - 1 - i) * STEP_MS,
        value: value(i),
    });
    SeriesData {
        labels: Labels::new(pairs.iter().copied()),
        samples: samples.collect(),
        ..SeriesData::default()
    }
}

fn native(pairs: &[(&str, &str)], end_ms: i64) -> SeriesData {
    let histograms = (0..SAMPLES).map(|i| HistogramSample {
        ts_ms: end_ms - (SAMPLES - 1 - i) * STEP_MS,
        value: Arc::new(Histogram {
            schema: 1,
            zero_threshold: 0.001,
            zero_count: i as f64,
            count: (7 * i) as f64,
            sum: 18.5 * i as f64,
            positive: Buckets {
                spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 1 }],
                counts: vec![i as f64, 2.0 * i as f64, 2.0 * i as f64],
            },
            negative: Buckets {
                spans: vec![Span { offset: -1, length: 1 }],
                counts: vec![i as f64],
            },
            ..Histogram::default()
        }),
    });
    SeriesData {
        labels: Labels::new(pairs.iter().copied()),
        histograms: histograms.collect(),
        ..SeriesData::default()
    }
}

/// Requests, latencies, connections and a native histogram of two namespaces.
pub fn traffic(end_ms: i64) -> WriteRequest {
    let mut out = Vec::new();
    let pods = [("a", "web", "web-0"), ("a", "web", "web-1"), ("b", "db", "db-0")];
    for (n, (namespace, deployment, pod)) in pods.into_iter().enumerate() {
        let own = [
            ("namespace", namespace),
            ("deployment", deployment),
            ("pod", pod),
            ("job", "mesh"),
        ];
        let with = |name, more: &[(&'static str, &'static str)]| {
            let own = own.iter().copied();
            own.chain([("__name__", name)])
                .chain(more.iter().copied())
                .collect::<Vec<_>>()
        };
        let n = n as f64 + 1.0;
        for (class, rate) in [("success", 10.0), ("failure", 1.0)] {
            let pairs = with("response_total", &[("classification", class)]);
            out.push(series(&pairs, end_ms, |i| 1000.0 + rate * n * i as f64));
        }
        for (le, share) in [("1", 1.0), ("10", 7.0), ("100", 9.5), ("+Inf", 10.0)] {
            let pairs = with("response_latency_ms_bucket", &[("le", le)]);
            out.push(series(&pairs, end_ms, |i| 1000.0 + share * n * i as f64));
        }
        out.push(series(&with("tcp_open_connections", &[]), end_ms, |i| {
            n * (i % 7) as f64
        }));
        out.push(native(&with("native_seconds", &[]), end_ms));
    }
    let told = |kind: &str, help: &str| Metadata {
        kind: kind.into(),
        help: help.into(),
        unit: String::new(),
    };
    WriteRequest {
        series: out,
        metadata: vec![
            ("response_total".into(), told("counter", "Responses.")),
            ("response_latency_ms".into(), told("histogram", "Latency.")),
            ("tcp_open_connections".into(), told("gauge", "Connections.")),
        ],
        exemplars: 0,
    }
}
