//! The same samples in a real Prometheus and here must give the same answers.
//!
//! `promtool` makes a block of an OpenMetrics page, a real server serves it, and each query is asked of both. Samples lie
//! off the edges of all windows, because Prometheus 2 counts the left edge in and Prometheus 3 (and we) do not; counters
//! start far from zero, because the two limit the extrapolation towards zero differently; and topk meets no ties, whose
//! order is nobody's promise.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;
use std::{
    collections::BTreeMap,
    fmt::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use weir_promql::{Engine, Options, Value};
use weir_series::memory::Memory;
use weir_series::{Labels, Sample, SeriesData, exposition};

/// First sample; a whole multiple of nothing in particular.
const START_S: f64 = 1_700_000_000.0;
const STEP_S: f64 = 5.0;
const SAMPLES: u32 = 200;

const QUERIES: &[&str] = &[
    "response_total",
    "response_total{classification!=\"success\"}",
    "{__name__=~\"tcp_.*\",pod=~\"web-.|db-1\"}",
    "rate(response_total[1m])",
    "increase(response_total[30s])",
    "increase(response_total[17s])",
    "irate(response_total[1m])",
    "delta(tcp_open_connections[1m])",
    "idelta(tcp_open_connections[1m])",
    "deriv(tcp_open_connections[2m])",
    "predict_linear(tcp_open_connections[2m], 60)",
    "resets(response_total[5m])",
    "changes(tcp_open_connections[5m])",
    "rate(sparse_total[3m])",
    "increase(sparse_total[70s])",
    "sum(rate(response_total[1m]))",
    "sum by (deployment) (rate(response_total{classification=\"success\"}[1m])) / sum by (deployment) (rate(response_total[1m]))",
    "sum without (pod) (response_total)",
    "avg by (deployment) (tcp_open_connections)",
    "min(tcp_open_connections)",
    "max by (deployment) (tcp_open_connections)",
    "count by (classification) (response_total)",
    "group(response_total)",
    "stddev(tcp_open_connections)",
    "stdvar by (deployment) (tcp_open_connections)",
    "quantile(0.7, tcp_open_connections)",
    "quantile(-1, tcp_open_connections)",
    "topk(2, response_total)",
    "topk by (deployment) (1, response_total)",
    "bottomk(3, response_total)",
    "count_values(\"n\", count by (pod) (response_total))",
    "histogram_quantile(0.5, latency_bucket)",
    "histogram_quantile(0.99, sum by (le, deployment) (rate(latency_bucket[1m])))",
    "histogram_quantile(0.99, sum by (le) (rate(latency_bucket[1m])))",
    "histogram_quantile(0.2, sum by (le) (increase(latency_bucket[2m])))",
    "histogram_quantile(1.5, latency_bucket)",
    "tcp_open_connections > 5",
    "tcp_open_connections > bool 5",
    "5 < tcp_open_connections",
    "tcp_open_connections % 4",
    "-tcp_open_connections ^ 2",
    "2 ^ 3 ^ 2",
    "tcp_open_connections / on(pod) group_left(version) info",
    "info * on(pod) group_right(version) response_total",
    "tcp_open_connections * on(pod) sum by (pod) (response_total)",
    "tcp_open_connections + ignoring(deployment) tcp_open_connections",
    "tcp_open_connections and on(pod) info{version=\"v1\"}",
    "tcp_open_connections unless on(pod) info{version=\"v1\"}",
    "tcp_open_connections > 5 or tcp_open_connections * 100",
    "info or on(pod) tcp_open_connections",
    "response_total offset 1m",
    "rate(response_total[1m] offset 40s)",
    "response_total @ 1700000502",
    "rate(response_total[1m] @ 1700000502)",
    "last_over_time(response_total[30s]) - (response_total offset 30s or min_over_time(response_total[30s]))",
    "sum_over_time(tcp_open_connections[1m])",
    "avg_over_time(tcp_open_connections[1m])",
    "min_over_time(tcp_open_connections[1m])",
    "max_over_time(tcp_open_connections[1m])",
    "count_over_time(sparse_total[3m])",
    "stddev_over_time(tcp_open_connections[1m])",
    "stdvar_over_time(tcp_open_connections[1m])",
    "quantile_over_time(0.3, tcp_open_connections[1m])",
    "present_over_time(sparse_total[1m])",
    "absent_over_time(sparse_total[10s])",
    "absent(nothing{a=\"b\"})",
    "absent(response_total)",
    "clamp(tcp_open_connections, 3, 7)",
    "clamp_min(tcp_open_connections, 6)",
    "clamp_max(tcp_open_connections, 6)",
    "round(tcp_open_connections / 3, 0.5)",
    "ceil(tcp_open_connections / 3) - floor(tcp_open_connections / 3)",
    "abs(5 - tcp_open_connections) + sgn(5 - tcp_open_connections)",
    "sqrt(tcp_open_connections) + ln(tcp_open_connections + 1) + log2(tcp_open_connections + 1)",
    "scalar(sum(tcp_open_connections)) * 2",
    "vector(time())",
    "timestamp(sparse_total)",
    "timestamp(-sparse_total)",
    "label_replace(info, \"major\", \"$1\", \"version\", \"v(.)\")",
    "label_join(info, \"id\", \"/\", \"deployment\", \"pod\")",
    "sort(tcp_open_connections)",
    "max_over_time(rate(response_total[1m])[3m:30s])",
    "avg_over_time((tcp_open_connections * 2)[2m:7s] offset 300ms)",
    "sum_over_time(sum(tcp_open_connections)[1m:])",
    "gone",
    "rate(gone[10m])",
    "special",
    "max(special)",
    "special > 0",
];

/// Counters with resets and gaps, gauges, histograms and values that are not finite: the same on every run.
fn page() -> String {
    let mut random = 12345u64;
    let mut next = move |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut out = String::new();
    let mut line = |series: &str, value: &str, i: u32, offset_ms: u64| {
        let time = START_S + f64::from(i) * STEP_S + offset_ms as f64 / 1000.0;
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{series} {value} {time:.3}");
    };
    for (at, (pod, deployment)) in [("web-1", "web"), ("web-2", "web"), ("db-1", "db")]
        .into_iter()
        .enumerate()
    {
        let phase = 300 + 400 * at as u64;
        let labels = format!("deployment=\"{deployment}\",pod=\"{pod}\"");
        for class in ["success", "failure"] {
            let series = format!("response_total{{classification=\"{class}\",{labels}}}");
            let mut count = next(1000);
            for i in 0..SAMPLES {
                count = if next(60) == 0 { next(3) } else { count + next(20) };
                if next(15) != 0 {
                    line(&series, &count.to_string(), i, phase);
                }
            }
        }
        let mut buckets = [1000u64, 2000, 1500, 500, 100];
        for i in 0..SAMPLES {
            for _ in 0..next(8) {
                buckets[next(5) as usize] += 1;
            }
            let mut total = 0;
            for (le, count) in ["1", "5", "10", "100", "+Inf"].into_iter().zip(buckets) {
                total += count;
                line(
                    &format!("latency_bucket{{le=\"{le}\",{labels}}}"),
                    &total.to_string(),
                    i,
                    phase,
                );
            }
            line(
                &format!("tcp_open_connections{{{labels}}}"),
                &next(12).to_string(),
                i,
                phase,
            );
            line(&format!("info{{version=\"v{}\",{labels}}}", 1 + at % 2), "1", i, phase);
        }
    }
    for i in (0..SAMPLES).filter(|i| i % 7 == 0) {
        line("sparse_total", &(i * 3).to_string(), i, 700);
    }
    for i in 0..90 {
        line("gone", &f64::from(i).sqrt().to_string(), i, 300);
    }
    for (kind, value) in [
        ("nan", "NaN"),
        ("inf", "+Inf"),
        ("minus", "-Inf"),
        ("small", "1e-300"),
        ("large", "1.5e300"),
    ] {
        (0..SAMPLES).for_each(|i| line(&format!("special{{kind=\"{kind}\"}}"), value, i, 300));
    }
    // OpenMetrics wants the samples of a family together and in order.
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_by_key(|l| {
        l.rsplit_once(' ')
            .map_or("", |(series, _)| series.split([' ', '{']).next().unwrap_or(""))
    });
    lines.join("\n") + "\n# EOF\n"
}

fn memory(page: &str) -> Memory {
    let mut all: BTreeMap<Labels, Vec<Sample>> = BTreeMap::new();
    for entry in exposition::parse(page) {
        let entry = entry.unwrap_or_else(|e| panic!("{e}"));
        let pairs = entry.labels().map(|(n, v)| (n.to_owned(), v.into_owned()));
        let labels = Labels::new(pairs.chain([("__name__".into(), entry.name.to_owned())]));
        let ts_ms = entry.ts_ms.unwrap_or_else(|| panic!("{} has no time", entry.series));
        all.entry(labels).or_default().push(Sample {
            ts_ms,
            value: entry.value,
        });
    }
    Memory(
        all.into_iter()
            .map(|(labels, samples)| SeriesData {
                labels,
                samples,
                ..SeriesData::default()
            })
            .collect(),
    )
}

struct Prometheus {
    child: Child,
    port: u16,
    client: Client<hyper_util::client::legacy::connect::HttpConnector, Empty<Bytes>>,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    async fn start(folder: &Path, page: &str) -> Self {
        let (file, blocks, config) = (
            folder.join("page.om"),
            folder.join("blocks"),
            folder.join("prometheus.yml"),
        );
        std::fs::write(&file, page).unwrap_or_else(|e| panic!("{e}"));
        std::fs::write(&config, "scrape_configs: []\n").unwrap_or_else(|e| panic!("{e}"));
        let mut promtool = Command::new(tool("promtool"));
        promtool
            .args(["tsdb", "create-blocks-from", "openmetrics"])
            .arg(&file)
            .arg(&blocks);
        let made = promtool.output().unwrap_or_else(|e| panic!("{e}"));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let free = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .unwrap_or_else(|e| panic!("{e}"));
        let child = Command::new(tool("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", blocks.display()))
            .arg(format!("--web.listen-address={free}"))
            .args(["--storage.tsdb.retention.time=100y", "--log.level=error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{e}"));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let server = Prometheus {
            child,
            port: free.port(),
            client,
        };
        for _ in 0..300 {
            if server.get("/-/ready").await.is_some_and(|(status, _)| status == 200) {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("Prometheus did not get ready");
    }

    async fn get(&self, path: &str) -> Option<(u16, Bytes)> {
        let url = format!("http://127.0.0.1:{}{path}", self.port).parse().ok()?;
        let response = self.client.get(url).await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.into_body().collect().await.ok()?.to_bytes()))
    }

    async fn ask(&self, path: &str) -> Json {
        let (_, body) = self
            .get(path)
            .await
            .unwrap_or_else(|| panic!("Prometheus does not answer"));
        serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// Series -> time -> value.
type Answer = BTreeMap<String, BTreeMap<i64, f64>>;

fn theirs(answer: &Json) -> Answer {
    let data = &answer["data"];
    let number = |v: &Json| format_value(v.as_str().unwrap_or("?"));
    let point = |p: &Json| ((p[0].as_f64().unwrap_or(0.0) * 1000.0).round() as i64, number(&p[1]));
    if data["resultType"] == "scalar" {
        return BTreeMap::from([("scalar".into(), BTreeMap::from([point(&data["result"])]))]);
    }
    let mut out = Answer::new();
    for series in data["result"].as_array().into_iter().flatten() {
        let labels = series["metric"].as_object().into_iter().flatten();
        let labels = Labels::new(labels.map(|(n, v)| (n.as_str(), v.as_str().unwrap_or(""))));
        let points = match series.get("value") {
            Some(value) => BTreeMap::from([point(value)]),
            None => series["values"].as_array().into_iter().flatten().map(point).collect(),
        };
        out.insert(labels.to_string(), points);
    }
    out
}

fn format_value(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        text => text.parse().unwrap_or_else(|_| panic!("{text:?} is no number")),
    }
}

fn ours(value: Value) -> Answer {
    match value {
        Value::Scalar(s) => BTreeMap::from([("scalar".into(), BTreeMap::from([(s.ts_ms, s.value)]))]),
        Value::String { .. } => Answer::new(),
        Value::Vector { ts_ms, samples } => samples
            .into_iter()
            .map(|s| (s.labels.to_string(), BTreeMap::from([(ts_ms, s.value)])))
            .collect(),
        Value::Matrix(series) => {
            let points = |s: &SeriesData| s.samples.iter().map(|s| (s.ts_ms, s.value)).collect();
            series.iter().map(|s| (s.labels.to_string(), points(s))).collect()
        }
    }
}

fn same(a: &Answer, b: &Answer) -> bool {
    let near = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs());
    a.len() == b.len()
        && a.iter().zip(b).all(|((la, pa), (lb, pb))| {
            la == lb && pa.len() == pb.len() && pa.iter().zip(pb).all(|((ta, va), (tb, vb))| ta == tb && near(*va, *vb))
        })
}

/// A program that the tests use, installed by `make tools`.
fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("WEIR_TOOLS").map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = tools.into_iter().chain([workspace]).chain(std::env::split_paths(&path));
    let mut files = folders.chain(["/usr/sbin".into()]).map(|folder| folder.join(name));
    files
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} not found: run `make tools`"))
}

#[tokio::test]
async fn answers_as_a_real_prometheus() {
    let page = page();
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let prometheus = Prometheus::start(folder.path(), &page).await;
    let engine = Engine::new(Arc::new(memory(&page)), Options::default());
    let encode = |query: &str| utf8_percent_encode(query, NON_ALPHANUMERIC).to_string();

    let mut differences = Vec::new();
    for query in QUERIES {
        for after_s in [2.0, 333.0, 502.1, 761.0, 993.0, 1200.0] {
            let time = START_S + after_s;
            let got = engine.instant(query, (time * 1000.0) as i64).map(ours);
            let want = prometheus
                .ask(&format!("/api/v1/query?query={}&time={time:.3}", encode(query)))
                .await;
            compare(
                query,
                &format!("at {time}"),
                got.map_err(|e| e.to_string()),
                &want,
                &mut differences,
            );
        }
        let (start, end, step) = (START_S + 2.0, START_S + 1302.0, 20.0);
        let got = engine.range(
            query,
            (start * 1000.0) as i64,
            (end * 1000.0) as i64,
            (step * 1000.0) as i64,
        );
        let path = format!(
            "/api/v1/query_range?query={}&start={start}&end={end}&step={step}",
            encode(query)
        );
        let mut got = got.map(|s| ours(Value::Matrix(s)));
        if let Ok(answer) = &mut got {
            answer.retain(|_, points| !points.is_empty());
        }
        compare(
            query,
            "range",
            got.map_err(|e| e.to_string()),
            &prometheus.ask(&path).await,
            &mut differences,
        );
    }
    let shown = differences.iter().take(12).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(differences.is_empty(), "{} answers differ:\n{shown}", differences.len());
}

fn compare(query: &str, when: &str, got: Result<Answer, String>, want: &Json, differences: &mut Vec<String>) {
    match got {
        Err(error) if want["status"] == "error" => drop(error),
        Err(error) => differences.push(format!("{query} {when}: we fail: {error}; they say {want}")),
        Ok(_) if want["status"] == "error" => differences.push(format!("{query} {when}: they fail: {}", want["error"])),
        Ok(got) => {
            let want = theirs(want);
            if !same(&got, &want) {
                differences.push(format!("{query} {when}:\n  ours   {got:?}\n  theirs {want:?}"));
            }
        }
    }
}
