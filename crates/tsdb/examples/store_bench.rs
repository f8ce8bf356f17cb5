//! What the store costs: memory a series, time a sample and a new series, time to read everything, log a sample.
//!
//! `cargo run --release -p weir-tsdb --example store_bench [-- SERIES [SCRAPES [DIRECTORY]]]`. The series are those of a
//! mesh: 26 buckets of latency a destination, 12 labels, most counters at rest.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use weir_series::{Append, Matcher, Sample, Select, SeriesRef};
use weir_tsdb::{Options, Storage, Tsdb};

/// Series of one target, which are scraped in one batch.
const TARGET: usize = 1000;
const STEP_MS: i64 = 5000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(default, |a| a.parse().expect("a number"));
    let (count, scrapes) = (number(100_000), number(36));
    let storage = arguments.next().map(Storage::new);
    let log_path = storage.as_ref().map(|s| s.path.clone());
    let options = Options {
        max_series: count,
        ..Options::default()
    };
    let before = memory();
    let db = match storage {
        None => Tsdb::new(options),
        Some(storage) => Tsdb::open(options, storage).expect("the store opens"),
    };
    let begin = Instant::now();
    let refs: Vec<SeriesRef> = (0..count).map(|n| resolve(&db, n)).collect();
    report("new series, each", begin.elapsed(), count);

    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock")
        .as_millis() as i64;
    let first = now - scrapes as i64 * STEP_MS;
    let mut refused = Vec::new();
    let mut batch = Vec::with_capacity(TARGET);
    let mut spent = Duration::ZERO;
    let cpu = cpu_time();
    for scrape in 0..scrapes {
        for target in refs.chunks(TARGET) {
            batch.clear();
            for id in target {
                // One counter in eight moves, by a few.
                let moves = if id.0.is_multiple_of(8) {
                    scrape as u64 * (id.0 % 13 + 1)
                } else {
                    0
                };
                let sample = Sample {
                    ts_ms: first + scrape as i64 * STEP_MS,
                    value: (id.0 % 1000 + moves) as f64,
                };
                batch.push((*id, sample));
            }
            let begin = Instant::now();
            db.append(&batch, &mut refused);
            spent += begin.elapsed();
        }
    }
    assert!(refused.is_empty(), "refused: {:?}", refused[0]);
    report("append, a sample", spent, count * scrapes);
    if log_path.is_some() {
        assert!(
            db.flush(Duration::from_secs(60)),
            "the log was not written: {:?}",
            db.status()
        );
        report("append and log, CPU a sample", cpu_time() - cpu, count * scrapes);
    }
    drop(batch);
    let after = memory();
    let bytes = (after - before) as f64 - (refs.len() * 8) as f64;
    println!("{:<34} {:>10.0} B", "memory, a series (PSS)", bytes / count as f64);
    println!(
        "{:<34} {:>10.0} B",
        "memory, a series (own count)",
        db.stats().heap_bytes as f64 / count as f64
    );

    let begin = Instant::now();
    let (mut series, mut samples) = (0, 0);
    db.visit(
        &[Matcher::equal("__name__", "latency_bucket")],
        now - 180_000,
        now,
        &mut |view| {
            series += 1;
            samples += view.samples.len();
            black_box(view.identity.get("deployment").len() + view.identity.get("le").len());
            ControlFlow::Continue(())
        },
    )
    .expect("a visit");
    let taken = begin.elapsed();
    println!(
        "{:<34} {:>10.1} ms",
        format!("visit of {series} series x 3 min"),
        taken.as_secs_f64() * 1e3
    );
    report("visit, a sample", taken, samples);
    let begin = Instant::now();
    let values = db.label_values("pod", &[], now - 180_000, now).expect("values").len();
    println!(
        "{:<34} {:>10.1} ms",
        format!("{values} label values"),
        begin.elapsed().as_secs_f64() * 1e3
    );
    println!(
        "{:<34} {:>10.0} B",
        "memory after queries, a series",
        (memory() - before) as f64 / count as f64
    );

    if let Some(path) = log_path {
        let status = db.status().expect("a store on a disk");
        let samples = count * scrapes;
        println!(
            "{:<34} {:>10.2} B",
            "log with new series, a sample",
            status.logged_bytes as f64 / samples as f64
        );
        println!(
            "{:<34} {:>10.2} B",
            "log, a sample",
            status.sample_bytes as f64 / samples as f64
        );
        let begin = Instant::now();
        assert!(db.close(Duration::from_secs(120)), "no snapshot: {:?}", db.status());
        println!("{:<34} {:>10.1} ms", "snapshot", begin.elapsed().as_secs_f64() * 1e3);
        drop(db);
        let begin = Instant::now();
        let again = Tsdb::open(Options::default(), Storage::new(path)).expect("the store opens again");
        println!(
            "{:<34} {:>10.1} ms",
            "start from the snapshot",
            begin.elapsed().as_secs_f64() * 1e3
        );
        println!("{:<34} {:>10}", "series found again", again.stats().series);
    }
}

fn resolve(db: &Tsdb, n: usize) -> SeriesRef {
    let (le, pod, destination) = (n % 26, n / TARGET, n / 26);
    let (le, pod_name) = (format!("{}", 1 << (le / 2)), format!("web-{pod}-6d4cf56db6-x{pod:04}"));
    let (deployment, dst) = (format!("web-{}", pod / 10), format!("svc-{}", destination % 500));
    let dst_pod = format!("{dst}-7f9d9c7bdc-{destination}");
    let half = if n.is_multiple_of(2) { "outbound" } else { "inbound" };
    let mut pairs = [
        ("__name__", "latency_bucket"),
        ("authority", &dst),
        ("deployment", &deployment),
        ("direction", half),
        ("dst_deployment", &dst),
        ("dst_namespace", "default"),
        ("dst_pod", &dst_pod),
        ("dst_service", &dst),
        ("instance", &pod_name),
        ("job", "weir-proxies"),
        ("le", &le),
        ("namespace", "default"),
        ("pod", &pod_name),
    ];
    pairs.sort_unstable();
    db.resolve_pairs(&pairs).expect("a new series")
}

fn report(what: &str, time: Duration, count: usize) {
    println!("{what:<34} {:>10.1} ns", time.as_secs_f64() * 1e9 / count as f64);
}

/// Proportional memory of this process in bytes.
fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("Pss:")).unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<usize>().ok())
        .unwrap_or(0)
        * 1024
}

/// CPU time of all threads.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2);
    Duration::from_millis(ticks.filter_map(|n| n.parse::<u64>().ok()).sum::<u64>() * 10)
}
