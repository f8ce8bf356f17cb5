//! The samples that both sides get: counters with resets and gaps, gauges, classic and native histograms, series that
//! come and go with staleness markers, and values that are not finite. The same on every run.
//!
//! Where Prometheus 2 and 3 differ by design the data avoid it. Samples lie at odd milliseconds and queries at tenths of a
//! second, so that no sample is ever on the left edge of a window, which Prometheus 2 counts in. Counters begin far from
//! zero and have no gap right after a reset, for the two limit the extrapolation towards zero differently; those of native
//! histograms never come near zero.

use super::random::Random;
use std::{collections::BTreeMap, sync::Arc};
use weir_series::{
    Buckets, Histogram, HistogramSample, Labels, Sample, SeriesData, Span, remote_write::WriteRequest, stale_nan,
};

/// First sample; a whole multiple of nothing in particular.
pub const START_MS: i64 = 1_700_000_000_000;
const STEP_MS: i64 = 5_000;
const SAMPLES: i64 = 200;

#[derive(Default)]
struct Stream(BTreeMap<Labels, SeriesData>);

impl Stream {
    fn series(&mut self, labels: &[(&str, &str)]) -> &mut SeriesData {
        let labels = Labels::new(labels.iter().copied());
        self.0.entry(labels.clone()).or_insert_with(|| SeriesData {
            labels,
            ..SeriesData::default()
        })
    }

    fn float(&mut self, labels: &[(&str, &str)], ts_ms: i64, value: f64) {
        self.series(labels).samples.push(Sample { ts_ms, value });
    }

    fn histogram(&mut self, labels: &[(&str, &str)], ts_ms: i64, h: Histogram) {
        self.series(labels).histograms.push(HistogramSample {
            ts_ms,
            value: Arc::new(h),
        });
    }
}

const PODS: [(&str, &str, i64); 5] = [
    ("web-1", "web", 313),
    ("web-2", "web", 717),
    ("web-3", "web", 1129),
    ("db-1", "db", 523),
    ("db-2", "db", 941),
];

/// All series, sorted by labels, samples ascending in time.
pub fn series() -> Vec<SeriesData> {
    let mut random = Random(12345);
    let mut out = Stream::default();
    for (at, (pod, deployment, phase)) in PODS.into_iter().enumerate() {
        let time = |i: i64| START_MS + i * STEP_MS + phase;
        for class in ["success", "failure"] {
            counter(&mut out, &mut random, pod, deployment, class, phase);
        }
        classic(&mut out, &mut random, pod, deployment, phase);
        native(&mut out, &mut random, pod, deployment, phase, at);
        for i in 0..SAMPLES {
            let gauge = if i == 0 { 0 } else { random.below(12) };
            out.float(
                &[("__name__", "connections"), ("pod", pod), ("deployment", deployment)],
                time(i),
                gauge as f64,
            );
            let level = random.below(20_000) as f64 / 16.0 - 500.0;
            out.float(
                &[("__name__", "level"), ("pod", pod), ("deployment", deployment)],
                time(i),
                level,
            );
            let version = if at % 2 == 0 { "v1" } else { "v2" };
            let info = [
                ("__name__", "build_info"),
                ("pod", pod),
                ("deployment", deployment),
                ("version", version),
            ];
            out.float(&info, time(i), 1.0);
        }
    }
    churn(&mut out, &mut random);
    for i in (0..SAMPLES).filter(|i| i % 7 == 0) {
        out.float(
            &[("__name__", "sparse_total")],
            START_MS + i * STEP_MS + 727,
            (i * 3) as f64,
        );
    }
    for i in 0..90 {
        out.float(&[("__name__", "gone")], START_MS + i * STEP_MS + 311, (i as f64).sqrt());
    }
    let kinds = [
        ("nan", f64::NAN),
        ("inf", f64::INFINITY),
        ("minus", f64::NEG_INFINITY),
        ("small", 1e-300),
        ("large", 1.5e300),
    ];
    for (kind, value) in kinds {
        for i in 0..SAMPLES {
            out.float(
                &[("__name__", "special"), ("kind", kind)],
                START_MS + i * STEP_MS + 333,
                value,
            );
        }
    }
    out.0.into_values().collect()
}

fn counter(out: &mut Stream, random: &mut Random, pod: &str, deployment: &str, class: &str, phase: i64) {
    let labels = [
        ("__name__", "requests_total"),
        ("pod", pod),
        ("deployment", deployment),
        ("class", class),
    ];
    let mut count = 1000 + random.below(1000);
    let mut since_reset = 0;
    for i in 0..SAMPLES {
        since_reset += 1;
        if i > 0 && random.below(60) == 0 {
            (count, since_reset) = (random.below(3), 0);
        } else {
            count += random.below(20);
        }
        let gap = since_reset > 12 && random.below(15) == 0;
        if !gap {
            out.float(&labels, START_MS + i * STEP_MS + phase, count as f64);
        }
    }
}

fn classic(out: &mut Stream, random: &mut Random, pod: &str, deployment: &str, phase: i64) {
    let mut buckets = [1000u64, 2000, 1500, 500, 100];
    for i in 0..SAMPLES {
        for _ in 0..random.below(8) {
            buckets[random.below(5) as usize] += 1;
        }
        let (mut total, ts_ms) = (0, START_MS + i * STEP_MS + phase);
        for (le, count) in ["1", "5", "10", "100", "+Inf"].into_iter().zip(buckets) {
            total += count;
            let labels = [
                ("__name__", "latency_bucket"),
                ("pod", pod),
                ("deployment", deployment),
                ("le", le),
            ];
            out.float(&labels, ts_ms, total as f64);
        }
    }
}

/// A native histogram with resets, empty buckets, negative ones on one pod, and a coarser schema on another.
fn native(out: &mut Stream, random: &mut Random, pod: &str, deployment: &str, phase: i64, at: usize) {
    let labels = [
        ("__name__", "duration_seconds"),
        ("pod", pod),
        ("deployment", deployment),
    ];
    let (schema, offset) = if at == 3 { (1, -3) } else { (2, -6) };
    let mut counts = [0f64; 12];
    let (mut negative, mut zero, mut sum) = (0f64, 0f64, 6000f64);
    counts[0] = 5000.0;
    counts[11] = 1.0;
    for i in 0..SAMPLES {
        if i > 0 && random.below(70) == 0 {
            counts = [0.0; 12];
            // Far from zero again, yet less than there was.
            (counts[0], counts[11], negative, zero, sum) = (5000.0, 1.0, 0.0, 0.0, 5000.0);
        }
        for _ in 0..random.below(30) {
            // Some buckets stay empty.
            let bucket = [0, 1, 2, 5, 6, 7, 9, 11][random.below(8) as usize];
            counts[bucket] += 1.0;
            sum += (bucket as f64 + 1.0) / 4.0;
        }
        zero += random.below(3) as f64;
        if at == 1 {
            let lower = random.below(4) as f64;
            negative += lower;
            sum -= lower;
        }
        let spans = vec![Span { offset, length: 3 }, Span { offset: 2, length: 7 }];
        let present: Vec<f64> = counts[..3].iter().chain(&counts[5..]).copied().collect();
        let h = Histogram {
            schema,
            zero_threshold: 0.001,
            zero_count: zero,
            count: zero + negative + present.iter().sum::<f64>(),
            sum,
            positive: Buckets { spans, counts: present },
            negative: if at == 1 {
                Buckets {
                    spans: vec![Span { offset: 1, length: 1 }],
                    counts: vec![negative],
                }
            } else {
                Buckets::default()
            },
            ..Histogram::default()
        };
        if random.below(20) != 0 || i < 3 {
            out.histogram(&labels, START_MS + i * STEP_MS + phase, h);
        }
    }
    if at == 4 {
        // This pod's histogram ends early.
        let data = out.series(&labels);
        data.histograms.truncate(90);
        let last = data.histograms.last().map_or(START_MS, |h| h.ts_ms);
        out.histogram(&labels, last + STEP_MS, Histogram::stale());
    }
}

/// Pods that live for a while, one after another, each ended by a staleness marker.
fn churn(out: &mut Stream, random: &mut Random) {
    for generation in 0..12 {
        let pod = format!("job-{generation}");
        let labels = [
            ("__name__", "jobs_total"),
            ("pod", pod.as_str()),
            ("queue", ["a", "b"][generation as usize % 2]),
        ];
        let (mut count, first) = (2000 + random.below(50), generation * 16);
        for i in first..first + 22 {
            count += random.below(9);
            out.float(&labels, START_MS + i * STEP_MS + 417, count as f64);
        }
        out.float(&labels, START_MS + (first + 22) * STEP_MS + 417, stale_nan());
    }
}

/// The stream as remote-write requests, in the order of time.
pub fn requests(series: &[SeriesData]) -> Vec<WriteRequest> {
    let mut slices: BTreeMap<i64, BTreeMap<usize, SeriesData>> = BTreeMap::new();
    for (at, data) in series.iter().enumerate() {
        let slice = |ts_ms: i64| (ts_ms - START_MS).div_euclid(20 * STEP_MS);
        let empty = || SeriesData {
            labels: data.labels.clone(),
            ..SeriesData::default()
        };
        for sample in &data.samples {
            let slice = slices.entry(slice(sample.ts_ms)).or_default();
            slice.entry(at).or_insert_with(empty).samples.push(*sample);
        }
        for h in &data.histograms {
            let slice = slices.entry(slice(h.ts_ms)).or_default();
            slice.entry(at).or_insert_with(empty).histograms.push(h.clone());
        }
    }
    let request = |slice: BTreeMap<usize, SeriesData>| WriteRequest {
        series: slice.into_values().collect(),
        ..WriteRequest::default()
    };
    slices.into_values().map(request).collect()
}
