//! How long the usual questions take over many series: success rate and p99 by deployment, now and over three minutes.
//!
//! `cargo run --release -p weir-promql --example many_series -- [SERIES]`

use std::{sync::Arc, time::Instant};
use weir_promql::{Engine, Options};
use weir_series::memory::Memory;
use weir_series::{Labels, Sample, SeriesData};

const BUCKETS: usize = 26;
const STEP_MS: i64 = 5_000;
const SAMPLES: i64 = 60;

const QUERIES: [&str; 4] = [
    "sum by (deployment) (rate(latency_bucket{le=\"+Inf\"}[1m]))",
    "sum by (deployment) (rate(latency_bucket[1m]))",
    "histogram_quantile(0.99, sum by (deployment, le) (rate(latency_bucket[1m])))",
    "topk(5, rate(latency_bucket[1m]))",
];

fn series(count: usize) -> Vec<SeriesData> {
    let one = |at: usize| {
        let (pod, bucket) = (at / BUCKETS, at % BUCKETS);
        let le = if bucket + 1 == BUCKETS {
            "+Inf".into()
        } else {
            format!("{}", 1u64 << bucket)
        };
        let labels = [
            ("__name__", "latency_bucket".to_owned()),
            ("le", le),
            ("deployment", format!("deployment-{}", pod % 6)),
            ("pod", format!("pod-{pod}")),
            ("namespace", "default".to_owned()),
            ("direction", "inbound".to_owned()),
        ];
        let samples = (0..SAMPLES).map(|i| Sample {
            ts_ms: i * STEP_MS + at as i64 % STEP_MS,
            value: (1000 + i * (bucket as i64 + 1)) as f64,
        });
        SeriesData {
            labels: Labels::new(labels),
            samples: samples.collect(),
            ..SeriesData::default()
        }
    };
    (0..count).map(one).collect()
}

fn main() {
    let count = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let engine = Engine::new(Arc::new(Memory(series(count))), Options::default());
    let end = SAMPLES * STEP_MS;
    for query in QUERIES {
        let best = |f: &dyn Fn() -> String| {
            let times = (0..3).map(|_| {
                let started = Instant::now();
                let result = f();
                (started.elapsed().as_secs_f64() * 1000.0, result)
            });
            times.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
        };
        let answer = |result: Result<usize, weir_promql::Error>| match result {
            Ok(n) => format!("{n} series"),
            Err(e) => e.to_string(),
        };
        let (instant, found) = best(&|| answer(engine.instant(query, end).map(|v| v.into_vector().len())));
        let (range, _) = best(&|| answer(engine.range(query, end - 180_000, end, STEP_MS).map(|s| s.len())));
        println!("{instant:8.1} ms instant {range:8.1} ms range of 3 min  {found:>12}  {query}");
    }
}
