//! The same samples in a real Prometheus and here must give the same answers.
//!
//! Both get one stream ([`data`]), Prometheus by remote write. Each query of `testdata/differential.promql`, and random ones
//! from a [grammar](random), are asked of both, at single times and over a range. `WEIR_PROMQL_RANDOM` says how many random
//! ones, `WEIR_PROMQL_SEED` where chance begins (`make promql-diff SEED=..`).

mod answer;
mod data;
mod prometheus;
pub mod random;

use answer::Answer;
use data::START_MS;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prometheus::Prometheus;
use std::{sync::Arc, time::Duration};
use weir_promql::{Engine, Options, Value};
use weir_series::memory::Memory;

const TABLE: &str = include_str!("../../../testdata/differential.promql");
/// Random queries when nobody asks for more.
const RANDOM: u64 = 200;
const SEED: u64 = 1;
/// Milliseconds after the first sample: before most of it, in the midst, at its end, after it.
const TIMES: [i64; 5] = [2_400, 333_400, 502_400, 761_400, 1_200_400];

struct Both {
    prometheus: Prometheus,
    engine: Engine,
    differences: Vec<String>,
    asked: usize,
    /// Of these both sides failed, or both found nothing.
    failed: usize,
    empty: usize,
}

impl Both {
    async fn instant(&mut self, query: &str, after_ms: i64) {
        let time = START_MS + after_ms;
        let got = self.engine.instant(query, time).map(Answer::ours);
        let form = format!("query={}&time={}", encode(query), seconds(time));
        let want = self.prometheus.ask("/api/v1/query", form).await;
        let ordered = query.starts_with("sort") || query.starts_with("topk") || query.starts_with("bottomk");
        self.compare(query, &format!("at {}", seconds(time)), got, &want, ordered);
    }

    async fn range(&mut self, query: &str, after_ms: i64, length_ms: i64, step_ms: i64) {
        let (start, end) = (START_MS + after_ms, START_MS + after_ms + length_ms);
        let got = self.engine.range(query, start, end, step_ms);
        let got = got.map(|series| Answer::ours(Value::Matrix(series)));
        let form = format!(
            "query={}&start={}&end={}&step={}",
            encode(query),
            seconds(start),
            seconds(end),
            seconds(step_ms)
        );
        let want = self.prometheus.ask("/api/v1/query_range", form).await;
        let when = format!("from {} to {} by {}", seconds(start), seconds(end), seconds(step_ms));
        self.compare(query, &when, got, &want, false);
    }

    fn compare(
        &mut self,
        query: &str,
        when: &str,
        got: Result<Answer, weir_promql::Error>,
        want: &serde_json::Value,
        ordered: bool,
    ) {
        self.asked += 1;
        let failed = want["status"] == "error";
        let difference = match got {
            Err(_) if failed => {
                self.failed += 1;
                return;
            }
            Err(error) => format!("we fail: {error}"),
            Ok(_) if failed => format!("they fail: {}", want["error"]),
            Ok(got) => {
                let Some(difference) = got.difference(&Answer::theirs(want), ordered) else {
                    self.empty += usize::from(got.is_empty());
                    return;
                };
                difference
            }
        };
        self.differences.push(format!("{query}\n  {when}\n  {difference}"));
    }
}

fn encode(query: &str) -> String {
    utf8_percent_encode(query, NON_ALPHANUMERIC).to_string()
}

fn seconds(ms: i64) -> String {
    weir_promql::format::time(ms)
}

fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok().filter(|v| !v.is_empty());
    given.map_or(default, |v| {
        v.parse().unwrap_or_else(|_| panic!("{name}={v} is no number"))
    })
}

#[tokio::test]
async fn answers_as_a_real_prometheus() {
    let series = data::series();
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let prometheus = Prometheus::start(folder.path()).await;
    for request in data::requests(&series) {
        prometheus.write(&request).await;
    }
    let options = Options {
        timeout: Duration::from_secs(120),
        ..Options::default()
    };
    let mut both = Both {
        prometheus,
        engine: Engine::new(Arc::new(Memory(series)), options),
        differences: Vec::new(),
        asked: 0,
        failed: 0,
        empty: 0,
    };
    let table = TABLE
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    let mut queries = 0;
    for query in table {
        queries += 1;
        for after_ms in TIMES {
            both.instant(query, after_ms).await;
        }
        both.range(query, 2_400, 1_300_000, 20_000).await;
    }
    println!("{queries} queries of the table");
    let (count, seed) = (setting("WEIR_PROMQL_RANDOM", RANDOM), setting("WEIR_PROMQL_SEED", SEED));
    println!("{count} random queries, SEED={seed}");
    let mut random = random::Random(seed);
    for _ in 0..count {
        let query = random::query(&mut random);
        let after_ms = 400 + 1000 * random.below(1_100) as i64;
        let is_noise = random::is_noise(&query);
        if !is_noise {
            both.instant(&query, after_ms).await;
        }
        let (length, step) = (10_000 * random.below(60) as i64, 1_000 * (1 + random.below(40) as i64));
        if random::has_ranges(&query) && !is_noise {
            both.range(&query, after_ms, length, step).await;
        }
    }
    let (asked, failed, empty) = (both.asked, both.failed, both.empty);
    println!("{asked} answers compared; in {failed} both fail, in {empty} both are empty");
    let differences = both.differences;
    let cut = |text: &String| text.chars().take(1500).collect::<String>();
    let show = setting("WEIR_PROMQL_SHOW", 12) as usize;
    let shown = differences.iter().take(show).map(cut).collect::<Vec<_>>().join("\n\n");
    let number = differences.len();
    assert!(
        differences.is_empty(),
        "{number} of {asked} answers differ, SEED={seed}:\n{shown}"
    );
}
