use super::*;
use crate::exposition::{Entry, parse};

fn peer() -> Peer {
    Peer {
        namespace: "default".into(),
        pod: "ratings-v1-abc".into(),
        owner_kind: "deployment".into(),
        owner: "ratings-v1".into(),
        service: "ratings".into(),
    }
}

fn ok(status: u16, ms: f64) -> Response {
    Response {
        status,
        grpc_status: None,
        classification: classify(status, None, false),
        from_proxy: false,
        latency: Duration::from_secs_f64(ms / 1000.0),
    }
}

fn page(recorder: &Recorder) -> String {
    let mut out = String::new();
    recorder.render(&mut out);
    out
}

fn value(page: &str, series: &str) -> Option<f64> {
    let entries: Vec<Entry> = parse(page)
        .collect::<Result<_, _>>()
        .unwrap_or_else(|e| panic!("{e}\n{page}"));
    let found: Vec<_> = entries.iter().filter(|e| e.series == series).collect();
    assert!(found.len() < 2, "{series} stands twice");
    found.first().map(|e| e.value)
}

const OUT: &str = r#"direction="outbound",authority="ratings:9080",dst_namespace="default",dst_pod="ratings-v1-abc",dst_service="ratings",dst_deployment="ratings-v1""#;

#[test]
fn series_exist_at_zero_and_go_with_their_target() {
    let recorder = Recorder::new(1);
    let target = recorder.target(Direction::Outbound, "ratings:9080", &peer());
    let before = page(&recorder);
    assert_eq!(value(&before, &format!("request_total{{{OUT}}}")), Some(0.0));
    let success = format!(r#"response_total{{{OUT},status_code="200",classification="success"}}"#);
    assert_eq!(value(&before, &success), Some(0.0));
    assert_eq!(
        value(&before, &format!("response_latency_ms_bucket{{{OUT},le=\"+Inf\"}}")),
        Some(0.0)
    );
    assert!(value(&before, "process_start_time_seconds").is_some_and(|v| v > 1.6e9));

    assert!(Arc::ptr_eq(
        &target,
        &recorder.target(Direction::Outbound, "ratings:9080", &peer())
    ));
    recorder.retain(|direction, authority, peer| {
        assert_eq!(
            (direction, authority, peer.pod.as_str()),
            (Direction::Outbound, "ratings:9080", "ratings-v1-abc")
        );
        false
    });
    target.request();
    assert_eq!(value(&page(&recorder), &format!("request_total{{{OUT}}}")), None);
}

#[test]
fn counts_requests_responses_and_latency() {
    let recorder = Recorder::new(1);
    let target = recorder.target(Direction::Outbound, "ratings:9080", &peer());
    for _ in 0..3 {
        target.request();
        target.attempt();
    }
    target.attempt();
    target.retry();
    target.response(&ok(200, 1.0));
    target.response(&ok(500, 1.2));
    target.response(&ok(200, 60_000.0));
    target.response(&Response {
        classification: Classification::Aborted,
        ..ok(200, 7.0)
    });
    target.response(&Response {
        grpc_status: Some(14),
        classification: classify(200, Some(14), true),
        ..ok(200, 3.0)
    });
    let page = page(&recorder);
    let v = |series: String| value(&page, &series).unwrap_or_else(|| panic!("{series} is missing in\n{page}"));
    assert_eq!(v(format!("request_total{{{OUT}}}")), 3.0);
    assert_eq!(v(format!("attempt_total{{{OUT}}}")), 4.0);
    assert_eq!(v(format!("retry_total{{{OUT}}}")), 1.0);
    assert_eq!(
        v(format!(
            r#"response_total{{{OUT},status_code="200",classification="success"}}"#
        )),
        2.0
    );
    assert_eq!(
        v(format!(
            r#"response_total{{{OUT},status_code="500",classification="failure"}}"#
        )),
        1.0
    );
    assert_eq!(
        v(format!(
            r#"response_total{{{OUT},status_code="200",classification="aborted"}}"#
        )),
        1.0
    );
    let grpc = r#"status_code="200",classification="failure",grpc_status="14""#;
    assert_eq!(v(format!("response_total{{{OUT},{grpc}}}")), 1.0);
    let bucket = |le: &str| v(format!("response_latency_ms_bucket{{{OUT},le=\"{le}\"}}"));
    assert_eq!(
        (bucket("1"), bucket("2"), bucket("3"), bucket("50000"), bucket("+Inf")),
        (1.0, 2.0, 3.0, 3.0, 4.0)
    );
    assert_eq!(v(format!("response_latency_ms_count{{{OUT}}}")), 4.0);
    assert_eq!(v(format!("response_latency_ms_sum{{{OUT}}}")), 60_005.2);
}

#[test]
fn inbound_names_the_source_and_local_replies_their_origin() {
    let recorder = Recorder::new(1);
    recorder.target(Direction::Inbound, "a\"b", &peer()).request();
    let local = recorder.target(Direction::Outbound, "other", &Peer::default());
    local.response(&Response {
        from_proxy: true,
        ..ok(404, 0.1)
    });
    local.overflow("max_requests");
    local.fault("delay");
    local.fault("delay");
    let page = page(&recorder);
    let inbound = r#"request_total{direction="inbound",authority="a\"b",src_namespace="default",src_pod="ratings-v1-abc",src_deployment="ratings-v1"}"#;
    assert_eq!(value(&page, inbound), Some(1.0));
    let other = r#"direction="outbound",authority="other""#;
    let reply = format!(r#"response_total{{{other},status_code="404",classification="success",origin="proxy"}}"#);
    assert_eq!(value(&page, &reply), Some(1.0));
    assert_eq!(
        value(&page, &format!(r#"overflow_total{{{other},reason="max_requests"}}"#)),
        Some(1.0)
    );
    assert_eq!(
        value(&page, &format!(r#"fault_total{{{other},kind="delay"}}"#)),
        Some(2.0)
    );
}

#[test]
fn tcp_alone_shows_no_http() {
    let recorder = Recorder::new(1);
    let target = recorder.target(Direction::Outbound, "", &peer());
    target.tcp_open();
    target.tcp_open();
    target.tcp_close(true);
    target.tcp_bytes(10, 20);
    let page = page(&recorder);
    assert!(!page.contains("request_total"), "{page}");
    let labels = OUT.replace(r#"authority="ratings:9080","#, "");
    assert_eq!(value(&page, &format!("tcp_open_connections{{{labels}}}")), Some(1.0));
    assert_eq!(
        value(
            &page,
            &format!("tcp_close_total{{{labels},classification=\"failure\"}}")
        ),
        Some(1.0)
    );
    assert_eq!(value(&page, &format!("tcp_write_bytes_total{{{labels}}}")), Some(20.0));
}

#[test]
fn a_peer_cannot_make_series_without_end() {
    let recorder = Recorder::new(1);
    let target = recorder.target(Direction::Outbound, "ratings:9080", &peer());
    for status in 100..=599 {
        target.response(&ok(status, 1.0));
    }
    for i in 0..100 {
        target.fault(&format!("fault-{i}"));
    }
    let page = page(&recorder);
    let lines = page.lines().filter(|l| l.starts_with("response_total")).count();
    assert!(lines <= MAX_RESPONSE_KINDS + 6, "{lines} series");
    let sum = |name: &str| -> f64 { parse(&page).flatten().filter(|e| e.name == name).map(|e| e.value).sum() };
    assert_eq!(sum("response_total"), 500.0);
    assert_eq!(sum("fault_total"), 100.0);
    assert!(
        value(
            &page,
            &format!(r#"response_total{{{OUT},status_code="other",classification="failure"}}"#)
        )
        .is_some()
    );
}

#[test]
fn threads_lose_nothing() {
    let recorder = Recorder::new(1);
    std::thread::scope(|scope| {
        for i in 0..4u16 {
            let recorder = &recorder;
            scope.spawn(move || {
                for n in 0..1000u16 {
                    let target = recorder.target(Direction::Outbound, "ratings:9080", &peer());
                    target.request();
                    target.response(&ok(200 + (n * (i + 1)) % 10, 1.0));
                }
            });
        }
    });
    let page = page(&recorder);
    let sum: f64 = parse(&page)
        .flatten()
        .filter(|e| e.name == "response_total")
        .map(|e| e.value)
        .sum();
    assert_eq!(sum, 4000.0);
    assert_eq!(value(&page, &format!("request_total{{{OUT}}}")), Some(4000.0));
}

#[test]
fn classifies() {
    use Classification::*;
    assert_eq!(classify(404, None, false), Success);
    assert_eq!(classify(503, None, false), Failure);
    assert_eq!(classify(200, Some(0), true), Success);
    assert_eq!(classify(200, Some(5), true), Success);
    assert_eq!(classify(200, Some(7), true), Failure);
    assert_eq!(classify(200, None, true), Failure);
}

#[test]
fn workers_count_apart_and_are_summed() {
    let recorder = Recorder::new(3);
    let (peer, bounds) = (Arc::new(peer()), Arc::from([10_u64, 20]));
    let slot = |worker| recorder.slot(worker, Direction::Outbound, "ratings:9080", &peer, &bounds);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let slot = slot(worker);
            scope.spawn(move || {
                for n in 0..1000 {
                    slot.request();
                    slot.response(&ok(if n % 2 == 0 { 200 } else { 503 }, 15.0));
                    slot.tcp_bytes(1, 2);
                    slot.overflow("max_requests");
                }
            });
        }
    });
    assert!(Arc::ptr_eq(
        slot(0).target.as_ref().unwrap(),
        &recorder.target(Direction::Outbound, "ratings:9080", &peer)
    ));
    let page = page(&recorder);
    for (series, expected) in [
        (format!("request_total{{{OUT}}}"), 3000.0),
        (
            format!(r#"response_total{{{OUT},status_code="503",classification="failure"}}"#),
            1500.0,
        ),
        (format!(r#"response_latency_ms_bucket{{{OUT},le="10"}}"#), 0.0),
        (format!(r#"response_latency_ms_bucket{{{OUT},le="20"}}"#), 3000.0),
        (format!(r#"response_latency_ms_bucket{{{OUT},le="+Inf"}}"#), 3000.0),
        (format!("response_latency_ms_sum{{{OUT}}}"), 45_000.0),
        (format!("tcp_write_bytes_total{{{OUT}}}"), 6000.0),
        (format!(r#"overflow_total{{{OUT},reason="max_requests"}}"#), 3000.0),
    ] {
        assert_eq!(value(&page, &series), Some(expected), "{series}");
    }
    let buckets = page.matches("response_latency_ms_bucket{").count();
    assert_eq!(buckets, 3, "two bounds and +Inf");
}

#[test]
fn a_silent_recorder_counts_nothing() {
    for (recorder, shown) in [(Recorder::new(1), true), (Recorder::silent(), false)] {
        let slot = recorder.slot(
            0,
            Direction::Outbound,
            "ratings:9080",
            &Arc::new(peer()),
            &[1, 2].into(),
        );
        slot.request();
        slot.response(&ok(200, 1.0));
        slot.tcp_open();
        assert_eq!(page(&recorder).contains("ratings:9080"), shown);
    }
}

#[test]
fn other_bounds_begin_a_new_target() {
    let recorder = Recorder::new(1);
    let peer = Arc::new(peer());
    let slot = |bounds: &[u64]| recorder.slot(0, Direction::Outbound, "ratings:9080", &peer, &bounds.into());
    let before = slot(&[1, 2]);
    before.request();
    assert!(Arc::ptr_eq(
        before.target.as_ref().unwrap(),
        slot(&[1, 2]).target.as_ref().unwrap()
    ));
    slot(&[1, 3]).request();
    let page = page(&recorder);
    assert_eq!(value(&page, &format!("request_total{{{OUT}}}")), Some(1.0));
    let bound = format!(r#"response_latency_ms_bucket{{{OUT},le="3"}}"#);
    assert_eq!(value(&page, &bound), Some(0.0));
}

#[test]
fn a_target_is_small() {
    let recorder = Recorder::new(1);
    let idle = recorder.target(Direction::Outbound, "", &peer());
    let http = recorder.target(Direction::Outbound, "ratings:9080", &peer());
    for (what, target, most) in [("TCP", idle, 300), ("HTTP", http, 700)] {
        let bytes = target.bytes() + target.labels.len();
        assert!(bytes <= most, "an idle {what} target holds {bytes} bytes");
    }
}

#[test]
fn a_page_in_slices_is_the_page_and_later_targets_are_not_in_it() {
    let recorder = Recorder::new(1);
    for n in 0..1000 {
        let peer = Peer {
            pod: format!("p-{n:04}"),
            ..peer()
        };
        recorder.target(Direction::Outbound, "a", &peer).request();
    }
    let whole = page(&recorder);
    let mut page = recorder.page();
    recorder.target(Direction::Inbound, "late", &peer());
    let (mut out, mut slices) = (String::new(), 0);
    loop {
        let before = out.len();
        let more = page.write(&mut out, 10_000);
        assert!(out.len() - before < 20_000, "a slice is bounded");
        slices += 1;
        if !more {
            break;
        }
    }
    assert!(slices > 100, "{slices} slices");
    assert_eq!(out, whole);
    assert!(parse(&whole).all(|e| e.is_ok()));
}

mod properties {
    use super::*;
    use crate::canonical::BUCKETS_MS;
    use proptest::prelude::*;

    proptest! {
        /// What is recorded can be read from the page, whatever the labels are.
        #[test]
        fn what_is_recorded_is_read_again(
            authority in "[a-z\\\\\"\n{},=]{1,12}",
            pod in ".{0,12}",
            bytes in any::<u32>(),
            micros in prop::collection::vec(0_u64..100_000_000, 0..50),
        ) {
            let recorder = Recorder::new(2);
            let peer = Arc::new(Peer { pod: pod.clone(), ..Peer::default() });
            let bounds = Arc::from(BUCKETS_MS.as_slice());
            let slot = |worker| recorder.slot(worker, Direction::Outbound, &authority, &peer, &bounds);
            slot(0).tcp_bytes(bytes.into(), 0);
            for (i, micros) in micros.iter().enumerate() {
                slot(i % 2).response(&Response { latency: Duration::from_micros(*micros), ..ok(200, 0.0) });
            }
            let page = page(&recorder);
            let entries: Vec<Entry> = parse(&page)
                .collect::<Result<_, _>>()
                .map_err(|e| TestCaseError::fail(e.to_string()))?;
            let of = |name: &str| entries.iter().filter(|e| e.name == name).collect::<Vec<_>>();
            let read = of(names::TCP_READ_BYTES_TOTAL);
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(read[0].value, f64::from(bytes));
            let label = |name: &str| read[0].labels().find(|(n, _)| *n == name).map(|(_, v)| v.into_owned());
            prop_assert_eq!(label(names::AUTHORITY), Some(authority.clone()));
            prop_assert_eq!(label(names::DST_POD).unwrap_or_default(), pod);
            let buckets = of(names::RESPONSE_LATENCY_MS_BUCKET);
            prop_assert_eq!(buckets.len(), BUCKETS_MS.len() + 1);
            for (i, entry) in buckets.iter().enumerate() {
                let below = micros.iter().filter(|m| BUCKETS_MS.get(i).is_none_or(|b| **m <= b * 1000)).count();
                prop_assert_eq!(entry.value, below as f64);
            }
            let sum: u64 = micros.iter().sum();
            prop_assert_eq!(of(names::RESPONSE_LATENCY_MS_SUM)[0].value, sum as f64 / 1000.0);
        }
    }
}
