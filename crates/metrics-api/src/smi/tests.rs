//! Figures against synthetic series: an in-memory store, the real PromQL engine, exact expectations.

use std::collections::BTreeMap;

use weir_promql::{Engine, InstantSample, Options};
use weir_series::memory::Memory;
use weir_series::{Labels, Sample, SeriesData, names};

use super::*;
use crate::aggregated::{FieldSelector, LabelSelector};

/// End of the window: 2026-01-01T00:00:00Z.
const NOW_S: i64 = 1_767_225_600;

/// What a test asks, and how it fills it.
trait Fill {
    fn add(&mut self, name: &str, labels: &[(&str, &str)], samples: &[(i64, f64)]);
    fn responses(&mut self, labels: &[(&str, &str)], classification: &str, n: f64);
    fn latencies(&mut self, labels: &[(&str, &str)], n: f64);
}

impl Fill for Memory {
    /// A series with samples at seconds relative to the end of the window.
    fn add(&mut self, name: &str, labels: &[(&str, &str)], samples: &[(i64, f64)]) {
        let labels = Labels::new(labels.iter().copied().chain([(names::METRIC_NAME, name)]));
        let sample = |&(at_s, value): &(i64, f64)| Sample {
            ts_ms: (NOW_S + at_s) * 1000,
            value,
        };
        self.0.push(SeriesData {
            labels,
            samples: samples.iter().map(sample).collect(),
            ..SeriesData::default()
        });
    }

    /// `n` responses of 1.5 ms each, counted between the start and the end of the window.
    fn responses(&mut self, labels: &[(&str, &str)], classification: &str, n: f64) {
        let counted = [labels, &[(names::CLASSIFICATION, classification)]].concat();
        let samples = [(-60, 7.0), (-31, 7.0), (-15, 7.0 + n / 2.0), (-1, 7.0 + n)];
        self.add(names::RESPONSE_TOTAL, &counted, &samples);
    }

    fn latencies(&mut self, labels: &[(&str, &str)], n: f64) {
        for (le, count) in [("1", 0.0), ("2", n), ("3", n), ("+Inf", n)] {
            let bucket = [labels, &[(names::LE, le)]].concat();
            self.add(names::RESPONSE_LATENCY_MS_BUCKET, &bucket, &[(-31, 0.0), (-1, count)]);
        }
    }
}

const NS: &str = "default";

fn inventory() -> Inventory {
    let objects = |namespace: &str, names: &[&str]| {
        Objects::fixed(names.iter().map(|n| {
            let labels: BTreeMap<String, String> =
                [("app".to_owned(), n.split('-').next().unwrap_or("").to_owned())].into();
            ((namespace.to_owned(), (*n).to_owned()), labels)
        }))
    };
    Inventory {
        pods: objects(NS, &["productpage-1", "reviews-1", "reviews-2", "idle-1"]),
        deployments: objects(NS, &["productpage", "reviews", "idle"]),
        namespaces: objects("", &[NS, "empty"]),
    }
}

fn smi(memory: Memory) -> Smi {
    let engine = Engine::new(Arc::new(memory), Options::default());
    Smi::new(Arc::new(engine), inventory(), Duration::from_secs(30))
        .with_clock(|| jiff::Timestamp::from_second(NOW_S).unwrap())
}

fn request(resource: &'static str, namespace: Option<&str>, name: Option<&str>) -> ResourceRequest {
    ResourceRequest {
        version: V1ALPHA1,
        resource,
        subresource: None,
        verb: if name.is_some() { Verb::Get } else { Verb::List },
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        labels: LabelSelector::default(),
        fields: FieldSelector::default(),
        parameters: Vec::new(),
    }
}

fn edges(resource: &'static str, namespace: Option<&str>, name: &str) -> ResourceRequest {
    ResourceRequest {
        subresource: Some("edges".into()),
        ..request(resource, namespace, Some(name))
    }
}

async fn list(smi: &Smi, request: ResourceRequest) -> TrafficMetricsList {
    serde_json::from_value(smi.answer(request).await.unwrap().object).unwrap()
}

async fn get(smi: &Smi, request: ResourceRequest) -> TrafficMetrics {
    serde_json::from_value(smi.answer(request).await.unwrap().object).unwrap()
}

fn inbound<'a>(pod: &'a str, deployment: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("direction", "inbound"),
        ("namespace", NS),
        ("pod", pod),
        ("deployment", deployment),
    ]
}

fn outbound<'a>(from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Vec<(&'a str, &'a str)> {
    vec![
        ("direction", "outbound"),
        ("namespace", NS),
        ("pod", from.0),
        ("deployment", from.1),
        ("dst_namespace", NS),
        ("dst_pod", to.0),
        ("dst_deployment", to.1),
    ]
}

const PRODUCTPAGE: (&str, &str) = ("productpage-1", "productpage");
const REVIEWS_1: (&str, &str) = ("reviews-1", "reviews");
const REVIEWS_2: (&str, &str) = ("reviews-2", "reviews");

fn counts(item: &TrafficMetrics) -> (u64, u64) {
    (item.figures().success, item.figures().failure)
}

#[tokio::test]
async fn pods_show_exact_differences_and_aggregates_add_up() {
    let mut memory = Memory::default();
    memory.responses(&inbound("reviews-1", "reviews"), "success", 9_000.0);
    memory.responses(&inbound("reviews-1", "reviews"), "failure", 1_000.0);
    memory.responses(&inbound("reviews-1", "reviews"), "aborted", 3.0);
    memory.latencies(&inbound("reviews-1", "reviews"), 10_000.0);
    memory.responses(&inbound("reviews-2", "reviews"), "success", 50.0);
    // The senders see retries too; the receiver's own figures win.
    memory.responses(&outbound(PRODUCTPAGE, REVIEWS_1), "success", 11_111.0);
    let smi = smi(memory);

    let pods = list(&smi, request("pods", Some(NS), None)).await;
    let shown: Vec<_> = pods
        .items
        .iter()
        .map(|i| (i.resource.name.as_str(), counts(i)))
        .collect();
    let expected = [
        ("idle-1", (0, 0)),
        ("productpage-1", (0, 0)),
        ("reviews-1", (9_000, 1_000)),
        ("reviews-2", (50, 0)),
    ];
    assert_eq!(shown, expected);
    let reviews = &pods.items[2];
    assert_eq!(reviews.edge.side, Side::Server);
    assert_eq!(reviews.edge.resource, ResourceRef::default());
    let names: Vec<_> = reviews
        .metrics
        .iter()
        .map(|m| (m.name.as_str(), m.value.as_str()))
        .collect();
    // 1.99 ms and 1.9 ms, rounded up.
    let latencies = [
        ("p99_response_latency", "2m"),
        ("p90_response_latency", "2m"),
        ("p50_response_latency", "2m"),
    ];
    assert_eq!(names[..3], latencies);
    assert_eq!(pods.items[0].metrics.len(), 2, "no latency without traffic");

    let deployment = get(&smi, request("deployments", Some(NS), Some("reviews"))).await;
    assert_eq!(counts(&deployment), (9_050, 1_000));
    let namespace = get(&smi, request("namespaces", Some(NS), Some(NS))).await;
    assert_eq!(counts(&namespace), (9_050, 1_000));
    let namespaces = list(&smi, request("namespaces", None, None)).await;
    assert_eq!(
        namespaces.items.iter().map(counts).collect::<Vec<_>>(),
        [(9_050, 1_000), (0, 0)]
    );
    assert_eq!(namespaces.items[1].metadata.namespace, None);
}

#[tokio::test]
async fn a_resource_without_a_proxy_is_seen_by_its_clients() {
    let mut memory = Memory::default();
    memory.responses(&outbound(PRODUCTPAGE, REVIEWS_2), "success", 5.0);
    let smi = smi(memory);
    let item = get(&smi, request("pods", Some(NS), Some("reviews-2"))).await;
    assert_eq!((counts(&item), item.edge.side), ((5, 0), Side::Client));
}

#[tokio::test]
async fn resets_and_new_counters_are_exact() {
    let series = |pod: &'static str| {
        let mut labels = inbound(pod, "reviews");
        labels.push(("classification", "success"));
        labels
    };
    let mut memory = Memory::default();
    // 100 -> 150, restarted, 0 -> 20: 70 requests.
    let reset = [(-40, 100.0), (-31, 100.0), (-20, 150.0), (-10, 0.0), (-1, 20.0)];
    memory.add(names::RESPONSE_TOTAL, &series("reviews-1"), &reset);
    // Younger than the window; the scraper put a zero before its first sample.
    memory.add(
        names::RESPONSE_TOTAL,
        &series("reviews-2"),
        &[(-10, 0.0), (-5, 12.0), (-1, 30.0)],
    );
    // Restarted and beyond the former value: the second life counts.
    memory.add(
        names::RESPONSE_TOTAL,
        &series("idle-1"),
        &[(-31, 10.0), (-10, 2.0), (-1, 40.0)],
    );
    // Gone in the middle of the window, but its requests were served.
    memory.add(
        names::RESPONSE_TOTAL,
        &series("productpage-1"),
        &[(-31, 1.0), (-20, 9.0), (-15, weir_series::stale_nan())],
    );
    let smi = smi(memory);
    let pods = list(&smi, request("pods", Some(NS), None)).await;
    let shown: Vec<_> = pods
        .items
        .iter()
        .map(|i| (i.resource.name.as_str(), counts(i).0))
        .collect();
    assert_eq!(
        shown,
        [
            ("idle-1", 40),
            ("productpage-1", 8),
            ("reviews-1", 70),
            ("reviews-2", 30)
        ]
    );
}

#[tokio::test]
async fn edges_are_the_pairs_that_talked_in_both_directions() {
    let mut memory = Memory::default();
    memory.responses(&outbound(PRODUCTPAGE, REVIEWS_1), "success", 10.0);
    memory.responses(&outbound(PRODUCTPAGE, REVIEWS_2), "failure", 4.0);
    memory.responses(&outbound(REVIEWS_1, PRODUCTPAGE), "success", 3.0);
    // Configured, but nobody used it; and replies of the proxy itself, which have no destination.
    memory.responses(&outbound(REVIEWS_2, PRODUCTPAGE), "success", 0.0);
    let mut own = outbound(PRODUCTPAGE, ("", ""));
    own.push(("origin", "proxy"));
    memory.responses(&own, "failure", 99.0);
    let smi = smi(memory);

    let edges_of = |list: &TrafficMetricsList| -> Vec<(EdgeDirection, String, u64, u64)> {
        let edge = |i: &TrafficMetrics| {
            (
                i.edge.direction,
                i.edge.resource.name.clone(),
                i.figures().success,
                i.figures().failure,
            )
        };
        list.items.iter().map(edge).collect()
    };
    let (to, from) = (EdgeDirection::To, EdgeDirection::From);
    let pod = list(&smi, edges("pods", Some(NS), "productpage-1")).await;
    assert_eq!(
        edges_of(&pod),
        [
            (to, "reviews-1".into(), 10, 0),
            (to, "reviews-2".into(), 0, 4),
            (from, "reviews-1".into(), 3, 0)
        ]
    );
    assert_eq!(
        pod.resource,
        ResourceRef {
            kind: "Pod".into(),
            namespace: NS.into(),
            name: "productpage-1".into()
        }
    );
    let deployment = list(&smi, edges("deployments", Some(NS), "reviews")).await;
    assert_eq!(
        edges_of(&deployment),
        [(to, "productpage".into(), 3, 0), (from, "productpage".into(), 10, 4)]
    );
    let namespace = list(&smi, edges("namespaces", Some(NS), NS)).await;
    assert_eq!(edges_of(&namespace), [(to, NS.into(), 13, 4), (from, NS.into(), 13, 4)]);
    assert!(
        list(&smi, edges("deployments", Some(NS), "idle"))
            .await
            .items
            .is_empty()
    );
    let everybody = list(&smi, edges("deployments", None, "*")).await;
    assert_eq!(everybody.items.len(), 4);
}

/// Proxies that measure by workload do not name the other side's pods: aggregates and their edges stay whole, edges
/// between pods are empty.
#[tokio::test]
async fn without_names_of_pods_aggregates_stay_whole() {
    let mut memory = Memory::default();
    memory.responses(&outbound(PRODUCTPAGE, ("", "reviews")), "success", 10.0);
    memory.responses(&outbound(REVIEWS_1, ("", "")), "success", 5.0);
    let smi = smi(memory);
    let seen = |list: &TrafficMetricsList| -> Vec<(String, u64)> {
        let items = list.items.iter();
        items
            .map(|i| (i.edge.resource.name.clone(), i.figures().success))
            .collect()
    };
    for (kind, name, expected) in [
        ("deployments", "productpage", vec![("reviews".to_owned(), 10)]),
        ("deployments", "reviews", vec![("productpage".to_owned(), 10)]),
        ("namespaces", NS, vec![(NS.to_owned(), 15), (NS.to_owned(), 15)]),
        ("pods", "productpage-1", vec![]),
        ("pods", "reviews-1", vec![]),
    ] {
        let found = list(&smi, edges(kind, Some(NS), name)).await;
        assert_eq!(seen(&found), expected, "{kind} {name}");
    }
    let deployments = list(&smi, request("deployments", Some(NS), None)).await;
    let reviews = deployments.items.iter().find(|i| i.resource.name == "reviews");
    assert_eq!(reviews.map(counts), Some((10, 0)), "as the senders saw it");
}

#[tokio::test]
async fn senders_without_a_proxy_are_seen_by_the_receiver() {
    let mut memory = Memory::default();
    let mut labels = inbound("reviews-1", "reviews");
    labels.extend([("src_namespace", NS), ("src_pod", "idle-1"), ("src_deployment", "idle")]);
    memory.responses(&labels, "success", 6.0);
    let smi = smi(memory);
    let found = list(&smi, edges("pods", Some(NS), "reviews-1")).await;
    assert_eq!(found.items.len(), 1);
    let edge = &found.items[0].edge;
    assert_eq!(
        (edge.direction, edge.side, edge.resource.name.as_str()),
        (EdgeDirection::From, Side::Server, "idle-1")
    );
}

#[tokio::test]
async fn selectors_choose_items_and_the_window_is_the_clients() {
    let mut memory = Memory::default();
    memory.responses(&inbound("reviews-1", "reviews"), "success", 10.0);
    let smi = smi(memory);
    let selected = ResourceRequest {
        labels: LabelSelector::parse("app=reviews").unwrap(),
        parameters: vec![("t".into(), "10s".into())],
        ..request("pods", Some(NS), None)
    };
    let found = list(&smi, selected).await;
    assert_eq!(found.items.iter().map(|i| counts(i).0).collect::<Vec<_>>(), [5, 0]);
    assert_eq!(found.items[0].window, "10s");
    assert_eq!(found.selector.unwrap().match_labels["app"], "reviews");
    assert!(
        list(&smi, request("pods", Some("elsewhere"), None))
            .await
            .items
            .is_empty()
    );

    let bad = ResourceRequest {
        parameters: vec![("t".into(), "2d".into())],
        ..request("pods", None, None)
    };
    let status = smi.answer(bad).await.unwrap_err();
    assert_eq!(status.code, 400);
    assert!(status.message.contains("30s or 5m"), "{status}");
}

#[tokio::test]
async fn unknown_objects_and_unlisted_kinds() {
    let store = smi(Memory::default());
    let status = store.answer(request("pods", Some(NS), Some("x"))).await.unwrap_err();
    assert_eq!(
        (status.code, status.message.as_str()),
        (404, "pods.metrics.smi-spec.io \"x\" not found")
    );
    let engine = Engine::new(Arc::new(Memory::default()), Options::default());
    let starting = Smi::new(Arc::new(engine), Inventory::default(), Duration::from_secs(30));
    assert_eq!(
        starting.answer(request("pods", None, None)).await.unwrap_err().code,
        503
    );
}

#[tokio::test]
async fn the_table_reads_like_the_specifications() {
    let mut memory = Memory::default();
    memory.responses(&inbound("reviews-1", "reviews"), "success", 54.0);
    memory.latencies(&inbound("reviews-1", "reviews"), 54.0);
    let table = smi(memory)
        .answer(request("pods", Some(NS), None))
        .await
        .unwrap()
        .table
        .unwrap();
    let columns: Vec<_> = table
        .column_definitions
        .iter()
        .map(|c| (c.name.as_str(), c.priority))
        .collect();
    assert_eq!(
        columns[..4],
        [("Name", 0), ("Success", 0), ("RPS", 0), ("Latency_P99", 0)]
    );
    let cells = |row: usize| serde_json::to_string(&table.rows[row].cells).unwrap();
    assert_eq!(cells(0), r#"["idle-1","-","-","-","-","-","0","0"]"#);
    assert_eq!(
        cells(2),
        r#"["reviews-1","100.00%","1.8rps","2ms","2ms","2ms","54","0"]"#
    );
    assert_eq!(table.rows[2].object["metadata"]["namespace"], NS);
}

#[test]
fn windows() {
    assert_eq!(parse_window("1m30s"), Ok(Duration::from_secs(90)));
    assert_eq!(parse_window("1500ms"), Ok(Duration::from_millis(1500)));
    for bad in ["", "30", "s", "0s", "2h", "1d", "-5s", "99999999999999999999h"] {
        assert!(parse_window(bad).is_err(), "{bad}");
    }
    let text = |s| format_window(Duration::from_secs(s));
    assert_eq!([text(30), text(90), text(3600)], ["30s", "1m30s", "1h0m0s"]);
}

/// A store whose scraper is not Weir's.
struct Elsewhere(Engine);

impl Metrics for Elsewhere {
    fn instant<'a>(&'a self, expression: &'a str, at_ms: i64) -> BoxFuture<'a, Result<Vec<InstantSample>, QueryError>> {
        Metrics::instant(&self.0, expression, at_ms)
    }

    fn has_zeros(&self) -> bool {
        false
    }
}

/// How many successes a pod shows whose counter, and whose target, have these samples.
async fn elsewhere(counter: &[(i64, f64)], scraped: &[(i64, f64)], started_s: i64) -> u64 {
    let mut memory = Memory::default();
    let target = [
        ("job", "weir-proxies"),
        ("namespace", NS),
        ("pod", "reviews-1"),
        ("instance", "10.0.0.1:8900"),
    ];
    let of_counter = [&target[..], &[("direction", "inbound"), ("classification", "success")]].concat();
    #[allow(clippy::cast_precision_loss)]
    let started: Vec<_> = scraped
        .iter()
        .map(|(at, _)| (*at, (NOW_S + started_s) as f64))
        .collect();
    memory.add(names::UP, &target, scraped);
    memory.add(names::PROCESS_START_TIME_SECONDS, &target, &started);
    memory.add(names::RESPONSE_TOTAL, &of_counter, counter);
    let engine = Engine::new(Arc::new(memory), Options::default());
    let smi = Smi::new(Arc::new(Elsewhere(engine)), inventory(), Duration::from_secs(30))
        .with_clock(|| jiff::Timestamp::from_second(NOW_S).unwrap());
    counts(&get(&smi, request("pods", Some(NS), Some("reviews-1"))).await).0
}

#[tokio::test]
async fn the_zero_of_a_new_counter_is_found_where_nobody_wrote_it() {
    let scraped: Vec<_> = (-12..0).map(|n| (n * 5, 1.0)).collect();
    // It was there when the window began.
    assert_eq!(
        elsewhere(&[(-60, 7.0), (-35, 7.0), (-5, 9.0)], &scraped, -3600).await,
        2
    );
    // Its target was scraped before without it.
    assert_eq!(elsewhere(&[(-10, 3.0), (-5, 4.0)], &scraped, -3600).await, 4);
    // The first scrapes failed: nobody knows what it had then.
    let after_failures = [(-25, 0.0), (-20, 0.0), (-15, 1.0), (-10, 1.0), (-5, 1.0)];
    let old = [(-15, 100.0), (-10, 103.0), (-5, 104.0)];
    assert_eq!(elsewhere(&old, &after_failures, -3600).await, 4);
    // Target and counter appeared together: it may be old, unless the process is not.
    let late = [(-15, 1.0), (-10, 1.0), (-5, 1.0)];
    assert_eq!(elsewhere(&old, &late, -3600).await, 4);
    assert_eq!(elsewhere(&[(-15, 3.0), (-10, 3.0), (-5, 4.0)], &late, -20).await, 4);
}
