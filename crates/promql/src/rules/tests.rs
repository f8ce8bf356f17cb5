//! What reading the files again does to groups that are at work.

use super::*;
use crate::Options;
use weir_series::{Matcher, Sample, Select, is_stale};
use weir_tsdb::Tsdb;

const START_MS: i64 = 1_000_000;

/// Groups of these recording rules, each of which records one.
fn load(rules: &Rules, names: &[&str], interval: Duration) {
    let rule = |name: &&str| format!("{{record: {name}, expr: vector(1)}}");
    let all: Vec<String> = names.iter().map(rule).collect();
    let text = format!("groups: [{{name: g, rules: [{}]}}]", all.join(", "));
    let loaded = rules.load_every(interval, &[("f.yml".to_owned(), text)]);
    loaded.unwrap_or_else(|problems| panic!("{problems:?}"));
}

/// Times of what was recorded under a name, beginning with zero, and whether the last of it is a staleness marker.
fn recorded(store: &Tsdb, name: &str) -> (Vec<i64>, bool) {
    let found = store.select(&[Matcher::equal("__name__", name)], 0, i64::MAX, usize::MAX);
    let samples: Vec<Sample> = found
        .unwrap_or_else(|e| panic!("{e}"))
        .into_iter()
        .flat_map(|s| s.samples)
        .collect();
    let ended = samples.last().is_some_and(|s| is_stale(s.value));
    (samples.iter().map(|s| s.ts_ms - START_MS).collect(), ended)
}

fn start() -> (Rules, Arc<Tsdb>, Engine) {
    let store = Arc::new(Tsdb::new(weir_tsdb::Options::default()));
    let rules = Rules::new(Config::default()).unwrap_or_else(|e| panic!("{e}"));
    let engine = Engine::new(store.clone(), Options::default());
    (rules, store, engine)
}

#[test]
fn a_group_that_another_inherited_from_is_not_evaluated_again() {
    let (rules, store, engine) = start();
    load(&rules, &["kept", "gone"], Duration::from_secs(60));
    rules.evaluate_all(START_MS, &engine, store.as_ref());
    let old = lock(&rules.0.groups)[0].clone();
    load(&rules, &["kept"], Duration::from_secs(60));
    // Its beat came once more before it was told to stop.
    rules.evaluate(&old, START_MS + 1, &engine, store.as_ref());
    assert_eq!(recorded(&store, "kept"), (vec![0], false));
    rules.end_replaced(START_MS + 2, store.as_ref());
    assert_eq!(recorded(&store, "kept"), (vec![0], false));
    assert_eq!(recorded(&store, "gone"), (vec![0, 2], true));
    rules.evaluate_all(START_MS + 3, &engine, store.as_ref());
    assert_eq!(recorded(&store, "kept"), (vec![0, 3], false));
}

#[test]
fn what_leaves_ends_however_many_loads_come_at_once() {
    let (rules, store, engine) = start();
    load(&rules, &["kept", "gone"], Duration::from_secs(60));
    rules.evaluate_all(START_MS, &engine, store.as_ref());
    load(&rules, &["kept", "gone", "new"], Duration::from_secs(60));
    load(&rules, &["kept"], Duration::from_secs(60));
    rules.end_replaced(START_MS + 1, store.as_ref());
    rules.end_replaced(START_MS + 2, store.as_ref());
    assert_eq!(recorded(&store, "gone"), (vec![0, 1], true));
    assert_eq!(recorded(&store, "kept"), (vec![0], false));
}

#[test]
fn another_interval_counts_from_the_next_load_on() {
    let (rules, ..) = start();
    load(&rules, &["r"], Duration::from_secs(60));
    load(&rules, &["r"], Duration::from_secs(5));
    let shown = rules.to_json(&RuleFilter::default()).unwrap_or_default();
    assert_eq!(shown["groups"][0]["interval"], json!(5.0));
}

#[test]
fn what_is_told_does_not_wait_for_a_load_that_waits() {
    let (rules, ..) = start();
    load(&rules, &["r"], Duration::from_secs(60));
    let group = lock(&rules.0.groups)[0].clone();
    let evaluating = lock(&group.running);
    std::thread::scope(|threads| {
        let loading = threads.spawn(|| load(&rules, &["r"], Duration::from_secs(5)));
        // It may not have begun yet: then nothing stands in the way either.
        while lock_is_free(&rules.0.loading) && !loading.is_finished() {
            std::thread::yield_now();
        }
        let shown = rules.to_json(&RuleFilter::default()).unwrap_or_default();
        assert_eq!(shown["groups"][0]["interval"], json!(60.0));
        drop(evaluating);
    });
    let shown = rules.to_json(&RuleFilter::default()).unwrap_or_default();
    assert_eq!(shown["groups"][0]["interval"], json!(5.0));
}

fn lock_is_free(mutex: &Mutex<()>) -> bool {
    mutex.try_lock().is_ok()
}
