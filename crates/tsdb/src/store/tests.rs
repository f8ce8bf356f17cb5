use super::*;
use crate::head::now_ms;
use std::time::Duration;
use weir_series::{Buckets, MatchOp, SeriesData, Span, stale_nan};

const HOUR_MS: i64 = 3_600_000;

fn series(name: &str, pod: &str) -> Labels {
    Labels::new([("__name__", name), ("pod", pod)])
}

fn put(db: &Tsdb, labels: &Labels, ts_ms: i64, value: f64) -> Result<(), AppendError> {
    let id = db.resolve(labels)?;
    let mut refused = Vec::new();
    db.append(&[(id, Sample { ts_ms, value })], &mut refused);
    refused.first().map_or(Ok(()), |(_, e)| Err(*e))
}

fn all(db: &Tsdb, start_ms: i64, end_ms: i64) -> Vec<(String, Vec<(i64, f64)>)> {
    let found = db
        .select(&[], start_ms, end_ms, usize::MAX)
        .unwrap_or_else(|e| panic!("{e}"));
    let pairs = |s: &SeriesData| s.samples.iter().map(|s| (s.ts_ms, s.value)).collect();
    found.iter().map(|s| (s.labels.to_string(), pairs(s))).collect()
}

#[test]
fn selects_the_time_asked_for_sorted_by_labels() {
    let db = Tsdb::new(Options::default());
    for i in 0..500 {
        for pod in ["b", "a"] {
            assert_eq!(put(&db, &series("x", pod), i * 1000, i as f64), Ok(()));
        }
    }
    let found = all(&db, 199_500, 202_000);
    let samples = vec![(200_000, 200.0), (201_000, 201.0), (202_000, 202.0)];
    assert_eq!(
        found,
        [
            ("x{pod=\"a\"}".into(), samples.clone()),
            ("x{pod=\"b\"}".into(), samples)
        ]
    );
    assert_eq!(all(&db, 600_000, 700_000), []);
    assert_eq!(all(&db, i64::MIN, i64::MAX)[0].1.len(), 500);
    let too_many = db.select(&[Matcher::equal("pod", "a")], 0, i64::MAX, 499);
    assert_eq!(too_many, Err(SelectError::TooManySamples { limit: 499 }));
}

#[test]
fn refuses_what_is_out_of_order_and_counts_it() {
    let db = Tsdb::new(Options::default());
    let x = series("x", "a");
    assert_eq!(put(&db, &x, 1000, 1.0), Ok(()));
    assert_eq!(put(&db, &x, 1000, 1.0), Ok(()));
    assert_eq!(put(&db, &x, 1000, 2.0), Err(AppendError::Duplicate));
    assert_eq!(put(&db, &x, 999, 1.0), Err(AppendError::OutOfOrder));
    assert_eq!(put(&db, &x, 2000, stale_nan()), Ok(()));
    assert_eq!(put(&db, &x, 2000, stale_nan()), Ok(()));
    let stats = db.stats();
    assert_eq!((stats.duplicates, stats.out_of_order, stats.series), (1, 1, 1));
    assert_eq!(all(&db, 0, 5000)[0].1.len(), 2);
}

#[test]
fn refuses_new_series_at_the_limit_only() {
    let db = Tsdb::new(Options {
        max_series: 2,
        ..Options::default()
    });
    assert_eq!(put(&db, &series("x", "a"), 1, 1.0), Ok(()));
    assert_eq!(put(&db, &series("x", "b"), 1, 1.0), Ok(()));
    assert_eq!(
        put(&db, &series("x", "c"), 1, 1.0),
        Err(AppendError::SeriesLimit { limit: 2 })
    );
    assert_eq!(put(&db, &series("x", "a"), 2, 1.0), Ok(()));
    assert_eq!(db.stats().series_refused, 1);
}

#[test]
fn forgets_what_is_older_than_the_retention() {
    let db = Tsdb::new(Options {
        retention: Duration::from_secs(3600),
        ..Options::default()
    });
    let (old, live) = (series("x", "old"), series("x", "live"));
    let handle = db.resolve(&old).unwrap_or_else(|e| panic!("{e}"));
    for i in 0..1000 {
        if i < 10 {
            assert_eq!(put(&db, &old, i * 10_000, 1.0), Ok(()));
        }
        assert_eq!(put(&db, &live, i * 10_000, 1.0), Ok(()));
    }
    db.maintain(1000 * 10_000);
    let left = all(&db, i64::MIN, i64::MAX);
    assert_eq!(left.len(), 1);
    // Whole chunks go: what is left begins within one chunk before the oldest time.
    let first = left[0].1[0].0;
    assert!(
        (10_000_000 - HOUR_MS - 1_200_000..=10_000_000 - HOUR_MS).contains(&first),
        "{first}"
    );
    let mut refused = Vec::new();
    db.append(
        &[(
            handle,
            Sample {
                ts_ms: 10_000_000,
                value: 1.0,
            },
        )],
        &mut refused,
    );
    assert_eq!(refused, [(0, AppendError::Unknown)]);
    assert_eq!(put(&db, &old, 1, 1.0), Err(AppendError::TooOld));
    assert_eq!(db.stats().series, 2);
    // Made anew for the sample that was refused, it is waited for once.
    db.maintain(1000 * 10_000);
    db.maintain(1000 * 10_000);
    assert_eq!(db.stats().series, 1);
    assert_eq!(db.label_values("pod", &[], 0, i64::MAX), Ok(vec!["live".to_owned()]));
}

#[test]
fn answers_about_labels() {
    let db = Tsdb::new(Options::default());
    for (name, pod) in [("x", "a"), ("y", "b"), ("y", "")] {
        assert_eq!(put(&db, &series(name, pod), 1000, 1.0), Ok(()));
    }
    let y = [Matcher::equal("__name__", "y")];
    assert_eq!(
        db.label_names(&[], 0, 9999),
        Ok(vec!["__name__".to_owned(), "pod".to_owned()])
    );
    assert_eq!(db.label_values("pod", &y, 0, 9999), Ok(vec!["b".to_owned()]));
    assert_eq!(db.label_values("pod", &y, 5000, 9999), Ok(vec![]));
    let matcher = Matcher::new(MatchOp::Regex, "pod", ".+").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(db.series(&[matcher], 0, 9999).map(|s| s.len()), Ok(2));
}

#[test]
fn a_new_series_is_kept_until_its_first_sample_can_have_come() {
    let db = Tsdb::new(Options::default());
    let sample = Sample { ts_ms: 1, value: 1.0 };
    let append = |id: SeriesRef| {
        let mut refused = Vec::new();
        db.append(&[(id, sample)], &mut refused);
        refused
    };
    let [in_time, late] = ["a", "b"].map(|pod| db.resolve(&series("x", pod)).unwrap_or_else(|e| panic!("{e}")));
    db.maintain(2);
    assert_eq!(append(in_time), []);
    db.maintain(2);
    assert_eq!(append(late), [(0, AppendError::Unknown)]);
    assert_eq!(db.stats().series, 1);
}

#[test]
fn writers_and_readers_at_once() {
    let db = Tsdb::new(Options::default());
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let db = &db;
            scope.spawn(move || {
                for i in 0..500 {
                    for pod in 0..10 {
                        let labels = series("x", &format!("{writer}-{pod}"));
                        // Dropped before its first sample came: resolved again, as the scraper does it.
                        let mut result = Err(AppendError::Unknown);
                        while result == Err(AppendError::Unknown) {
                            result = put(db, &labels, i, i as f64);
                        }
                        assert_eq!(result, Ok(()));
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..50 {
                for s in all(&db, 0, 1000) {
                    assert!(
                        s.1.iter().enumerate().all(|(i, (ts, _))| *ts == i as i64),
                        "a hole in {s:?}"
                    );
                }
                db.maintain(1000);
            }
        });
    });
    assert_eq!(db.stats().appended, 20_000);
    assert_eq!(all(&db, 0, 1000).iter().map(|s| s.1.len()).sum::<usize>(), 20_000);
}

#[test]
fn a_usual_series_is_small() {
    let db = Tsdb::new(Options::default());
    for n in 0..1000 {
        let labels = Labels::new([
            ("__name__".to_owned(), "response_latency_ms_bucket".to_owned()),
            ("le".to_owned(), (n % 26).to_string()),
            ("pod".to_owned(), format!("pod-{}", n / 26)),
        ]);
        for i in 0..720 {
            assert_eq!(put(&db, &labels, 1_700_000_000_000 + i * 5000, (i / 7) as f64), Ok(()));
        }
    }
    let stats = db.stats();
    let each = stats.heap_bytes / stats.series;
    assert!(each < 1200, "{each} bytes a series for 720 samples");
}

#[test]
fn bytes_beyond_the_limit_cost_the_oldest_samples() {
    let limit = 200_000;
    let db = Tsdb::new(Options {
        retention_bytes: Some(limit),
        ..Options::default()
    });
    let mut random = 1u64;
    for i in 0..700 {
        for pod in 0..50 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = f64::from_bits(random >> 4);
            assert_eq!(put(&db, &series("x", &pod.to_string()), i * 5000, value), Ok(()));
        }
    }
    assert!(db.stats().heap_bytes > limit);
    db.maintain(3_500_000);
    let stats = db.stats();
    assert!(
        stats.heap_bytes <= limit && stats.heap_bytes > limit / 2,
        "{} bytes are left",
        stats.heap_bytes
    );
    let left = all(&db, i64::MIN, i64::MAX);
    assert!(left.len() == 50 && left.iter().all(|(_, s)| s.last().is_some_and(|s| s.0 == 699 * 5000)));
}

#[test]
fn refuses_what_is_far_ahead_of_the_clock() {
    let db = Tsdb::new(Options::default());
    let (x, now) = (series("x", "a"), now_ms());
    assert_eq!(put(&db, &x, now + 3_600_000, 1.0), Err(AppendError::TooNew));
    assert_eq!(put(&db, &x, now + 60_000, 1.0), Ok(()));
    let mut text = String::new();
    db.render(&mut text);
    assert!(
        text.contains("weir_store_samples_refused_total{reason=\"too_new\"} 1\n"),
        "{text}"
    );
}

#[test]
fn keeps_histograms_and_what_is_told_about_families() {
    let db = Tsdb::new(Options::default());
    let id = db.resolve(&series("h", "a")).unwrap_or_else(|e| panic!("{e}"));
    let value = |count: f64| Histogram {
        schema: 3,
        count,
        sum: 1.5,
        positive: Buckets {
            spans: vec![Span { offset: 1, length: 1 }],
            counts: vec![count],
        },
        ..Histogram::default()
    };
    let mut refused = Vec::new();
    let batch = [
        (id, 1000, value(1.0)),
        (id, 2000, value(2.0)),
        (id, 2000, value(3.0)),
        (id, 500, value(1.0)),
    ];
    db.append_histograms(&batch, &mut refused);
    assert_eq!(refused, [(2, AppendError::Duplicate), (3, AppendError::OutOfOrder)]);
    let found = db.select(&[], 1500, 9000, 99).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].histograms[0].ts_ms, &*found[0].histograms[0].value),
        (2000, &value(2.0))
    );
    // Samples of the other kind keep the order too.
    assert_eq!(put(&db, &series("h", "a"), 2000, 1.0), Err(AppendError::OutOfOrder));
    assert_eq!(put(&db, &series("h", "a"), 3000, 1.0), Ok(()));
    let told = Metadata {
        kind: "histogram".into(),
        help: "Help.".into(),
        unit: String::new(),
    };
    db.describe("h", &told);
    assert_eq!(db.metadata(Some("h")), [("h".to_owned(), told.clone())]);
    assert_eq!((db.metadata(None).len(), db.metadata(Some("g")).len()), (1, 0));
}

#[test]
fn a_visit_shows_identities_and_ends_when_told() {
    let db = Tsdb::new(Options::default());
    for pod in 0..1000 {
        assert_eq!(
            put(&db, &series("x", &format!("p{pod:04}")), 1000, f64::from(pod)),
            Ok(())
        );
    }
    let mut seen = Vec::new();
    let result = db.visit(&[], 0, 2000, &mut |view| {
        assert_eq!((view.identity.get("__name__"), view.identity.get("none")), ("x", ""));
        assert_eq!(view.identity.labels(), series("x", view.identity.get("pod")));
        seen.push((view.identity.get("pod").to_owned(), view.samples[0].value));
        if seen.len() == 700 {
            std::ops::ControlFlow::Break(())
        } else {
            std::ops::ControlFlow::Continue(())
        }
    });
    assert!(result.is_ok() && seen.len() == 700);
    assert!(seen.iter().all(|(pod, value)| *pod == format!("p{value:04}")));
}

#[test]
fn borrowed_pairs_are_the_same_series() {
    let db = Tsdb::new(Options::default());
    let a = db.resolve(&series("x", "a"));
    assert!(a.is_ok() && a == db.resolve_pairs(&[("__name__", "x"), ("pod", "a")]));
    assert_ne!(a, db.resolve_pairs(&[("__name__", "x"), ("pod", "b")]));
    assert_eq!(db.resolve_pairs(&[]), Err(AppendError::Unsupported));
}
