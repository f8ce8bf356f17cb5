//! Samples sent to real servers, and questions put to them: the figures must be those of our own store.

use super::peers::{Asker, Ours, Peer, now_ms};
use super::traffic::{end_ms, traffic};
use http_body_util::Full;
use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use weir_promql::{
    Error, Options, Value,
    remote::{
        Backend, Limits, Remote, Route, Upstream,
        http::Settings,
        write::{Config, Sender, Tee},
    },
};
use weir_series::{Append, AppendError, Labels, Sample, SeriesData, remote_write::WriteRequest};

fn send(into: &dyn Append, data: &WriteRequest) {
    for (family, metadata) in &data.metadata {
        into.describe(family, metadata);
    }
    for series in &data.series {
        let id = into.resolve(&series.labels).unwrap_or_else(|e| panic!("{e}"));
        let mut refused: Vec<(usize, AppendError)> = Vec::new();
        let samples: Vec<_> = series.samples.iter().map(|s| (id, *s)).collect();
        into.append(&samples, &mut refused);
        let histograms: Vec<_> = series
            .histograms
            .iter()
            .map(|h| (id, h.ts_ms, (*h.value).clone()))
            .collect();
        into.append_histograms(&histograms, &mut refused);
        assert_eq!(refused, []);
    }
}

fn quick(url: String) -> Config {
    Config {
        batch_deadline: Duration::from_millis(100),
        metadata_interval: Some(Duration::from_millis(200)),
        ..Config::new(url)
    }
}

fn upstream(url: &str) -> Upstream {
    Upstream::new(url, &Settings::default(), Limits::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn remote(routes: Vec<(Option<&str>, &str)>) -> Remote {
    let routes = routes.into_iter().map(|(rule, url)| Route {
        rule: rule.map(str::to_owned),
        upstream: upstream(url),
    });
    Remote::new(routes.collect(), Options::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// Series and values, to nine digits.
fn figures(value: Result<Value, Error>) -> Vec<String> {
    let Value::Vector { samples, .. } = value.unwrap_or_else(|e| panic!("{e}")) else {
        panic!("no vector");
    };
    let mut rows: Vec<String> = samples
        .iter()
        .map(|s| format!("{} {:.8e}", s.labels, s.value))
        .collect();
    rows.sort();
    rows
}

/// What rests gives the same everywhere: the counters have their last value, the windows lie before it.
const QUESTIONS: &[&str] = &[
    "sum by (namespace, deployment) (response_total)",
    "sum by (deployment) (last_over_time(response_total{classification=\"success\"}[1m])) / sum by (deployment) (last_over_time(response_total[1m]))",
    "last_over_time(response_total[30s]) - (response_total offset 30s or min_over_time(response_total[30s]))",
    "histogram_quantile(0.99, sum by (le, deployment) (response_latency_ms_bucket - response_latency_ms_bucket offset 1m))",
    "max by (pod) (tcp_open_connections)",
    "count(response_total)",
];

#[tokio::test(flavor = "multi_thread")]
async fn real_servers_take_what_is_sent_and_answer_the_same() {
    let (prometheus, victoria, ours) = (
        Peer::prometheus().await,
        Peer::victoria_metrics().await,
        Ours::start().await,
    );
    let end = end_ms(now_ms());
    let data = traffic(end);
    let relabel = |labels: &Labels| (labels.get("pod") != "nobody").then(|| labels.clone());
    let senders = [&prometheus.ask, &victoria.ask].map(|peer| {
        let config = Config {
            name: "peer".into(),
            relabel: Some(Arc::new(relabel)),
            external_labels: Labels::new([("cluster", "x"), ("namespace", "never")]),
            ..quick(format!("{}/api/v1/write", peer.url))
        };
        Sender::new(config).unwrap_or_else(|e| panic!("{e}"))
    });
    let stop = CancellationToken::new();
    let running: Vec<_> = senders
        .iter()
        .map(|sender| {
            let (sender, stop) = (sender.clone(), stop.clone());
            tokio::spawn(async move { sender.run(stop).await })
        })
        .collect();
    let tee = Tee::new(ours.store.clone(), senders.to_vec());
    send(&tee, &data);
    let nobody = tee
        .resolve(&Labels::new([("__name__", "x"), ("pod", "nobody")]))
        .unwrap_or_else(|e| panic!("{e}"));
    tee.append(&[(nobody, Sample { ts_ms: end, value: 1.0 })], &mut Vec::new());

    let at = end + 1000;
    for peer in [&prometheus, &victoria] {
        let path = format!(
            "/api/v1/query?query=count(response_total%7Bcluster=%22x%22%7D)&time={}",
            at / 1000
        );
        peer.ask
            .until(&path, |_, body| String::from_utf8_lossy(body).contains("\"6\"]"))
            .await;
        let path = format!(
            "/api/v1/query?query=sum(response_total%7Bcluster=%22x%22%7D)&time={}",
            at / 1000
        );
        let wanted = figures(ours.engine.instant("sum(response_total)", at));
        let wanted: f64 = wanted[0]
            .trim_start_matches("{} ")
            .parse()
            .unwrap_or_else(|e| panic!("{e}"));
        peer.ask
            .until(&path, |_, body| {
                String::from_utf8_lossy(body).contains(&format!("\"{wanted}\"]"))
            })
            .await;
    }
    for sender in &senders {
        until(sender, "prometheus_remote_storage_samples_total", 21.0 * 60.0).await;
        until(sender, "prometheus_remote_storage_histograms_total", 180.0).await;
        until(sender, "prometheus_remote_storage_samples_pending", 0.0).await;
        let mut page = String::new();
        sender.render(&mut page, true);
        assert!(page.contains("reason=\"dropped_series\"} 1\n"), "{page}");
    }

    // The native histograms came as such.
    let path = format!("/api/v1/query?query=histogram_count(native_seconds)&time={}", at / 1000);
    prometheus
        .ask
        .until(&path, |_, body| String::from_utf8_lossy(body).contains("\"413\"]"))
        .await;
    prometheus
        .ask
        .until("/api/v1/metadata?metric=response_total", |_, _| true)
        .await;

    for (peer, name) in [(&prometheus, "Prometheus"), (&victoria, "VictoriaMetrics")] {
        let remote = remote(vec![(None, &peer.ask.url)]);
        for question in QUESTIONS {
            let wanted = figures(ours.engine.instant(question, at));
            assert!(!wanted.is_empty(), "{question}");
            // VictoriaMetrics takes the newest sample from a shorter look-back; the label that we add is summed away.
            let strip =
                |rows: Vec<String>| -> Vec<String> { rows.iter().map(|r| r.replace("cluster=\"x\",", "")).collect() };
            assert_eq!(
                strip(figures(remote.instant(question, at).await)),
                wanted,
                "{name}: {question}"
            );
        }
        let names = remote
            .label_values("deployment", &["response_total".into()], end - 60_000, at)
            .await;
        assert_eq!(names, Ok(vec!["db".to_owned(), "web".to_owned()]), "{name}");
        let series = remote.series(&["tcp_open_connections".into()], end - 60_000, at).await;
        assert_eq!(series.map(|s| s.len()), Ok(3), "{name}");
        let labels = remote
            .label_names(&["tcp_open_connections".into()], end - 60_000, at)
            .await;
        assert!(labels.is_ok_and(|l| l.contains(&"pod".to_owned())), "{name}");
        let rows = remote.range("sum(response_total)", end - 60_000, end, 20_000).await;
        assert_eq!(rows.map(|r| r[0].samples.len()), Ok(4), "{name}");
        let long = format!("sum(response_total{{pod!~\"{}\"}})", "x".repeat(5000));
        assert!(
            remote.instant(&long, at).await.is_ok(),
            "{name}: a long query goes by POST"
        );
        let bad = remote.instant("sum(", at).await;
        assert!(
            matches!(bad, Err(Error::BadQuery(_) | Error::Execution(_))),
            "{name}: {bad:?}"
        );
    }
    stop.cancel();
    for task in running {
        let ended = tokio::time::timeout(Duration::from_secs(20), task).await;
        assert!(ended.is_ok_and(|joined| joined.is_ok()), "a sender did not end");
    }
}

/// Waits until a figure of the sender has this value.
async fn until(sender: &Sender, name: &str, wanted: f64) {
    let mut page = String::new();
    for _ in 0..300 {
        page.clear();
        sender.render(&mut page, false);
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        if line.rsplit(' ').next().and_then(|v| v.parse().ok()) == Some(wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{name} was not {wanted} within 15 s:\n{page}");
}

/// Half of the series in each of two servers, and one of their pods in both.
#[tokio::test(flavor = "multi_thread")]
async fn shards_are_one_store_and_rules_choose() {
    let (left, right, all) = (Ours::start().await, Ours::start().await, Ours::start().await);
    let end = end_ms(now_ms());
    let mut data = traffic(end);
    data.series.retain(|s| s.histograms.is_empty());
    let part = |wanted: &dyn Fn(&str) -> bool| WriteRequest {
        series: data
            .series
            .iter()
            .filter(|s| wanted(s.labels.get("pod")))
            .cloned()
            .collect(),
        ..WriteRequest::default()
    };
    send(all.store.as_ref(), &data);
    send(left.store.as_ref(), &part(&|pod| pod != "db-0"));
    send(right.store.as_ref(), &part(&|pod| pod != "web-0"));
    let shards = remote(vec![(None, &left.ask.url), (None, &right.ask.url)]);
    for question in QUESTIONS {
        assert_eq!(
            figures(shards.instant(question, end + 1000).await),
            figures(all.engine.instant(question, end + 1000)),
            "{question}"
        );
    }
    let values = shards.label_values("pod", &[], 0, end).await;
    assert_eq!(values.map(|v| v.len()), Ok(3));

    let ruled = remote(vec![
        (Some("{namespace=~\"b|c\"}"), &right.ask.url),
        (None, &left.ask.url),
    ]);
    let pods = |query: &'static str| {
        let ruled = &ruled;
        async move { figures(ruled.instant(query, end + 1000).await).len() }
    };
    assert_eq!(pods("tcp_open_connections{namespace=\"b\"}").await, 1);
    assert_eq!(pods("tcp_open_connections{namespace=\"a\"}").await, 2);
    assert_eq!(pods("tcp_open_connections").await, 2);
    assert_eq!(
        pods("tcp_open_connections{namespace=\"b\"} or tcp_open_connections{namespace=\"a\"}").await,
        2
    );
}

/// A server that takes connections and answers nothing.
#[tokio::test]
async fn a_receiver_that_hangs_does_not_hold_up_the_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.unwrap_or_else(|e| panic!("{e}"));
    let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
    let config = Config {
        shards: 1,
        // Longer than any test.
        timeout: Duration::from_secs(24 * 3600),
        metadata_interval: Some(Duration::from_millis(1)),
        ..quick(format!("http://{address}/write"))
    };
    let sender = Sender::new(config).unwrap_or_else(|e| panic!("{e}"));
    let store = Arc::new(weir_tsdb::Tsdb::new(weir_tsdb::Options::default()));
    let tee = Tee::new(store, vec![sender.clone()]);
    tee.describe("x", &weir_series::Metadata::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (sender, stop) = (sender.clone(), stop.clone());
        async move { sender.run(stop).await }
    });
    let id = tee
        .resolve(&Labels::new([("__name__", "x")]))
        .unwrap_or_else(|e| panic!("{e}"));
    let sample = Sample {
        ts_ms: now_ms(),
        value: 1.0,
    };
    tee.append(&[(id, sample)], &mut Vec::new());
    // One for the samples, one for the metadata.
    let mut asked = Vec::new();
    for _ in 0..2 {
        let accepted = tokio::time::timeout(Duration::from_secs(60), listener.accept()).await;
        asked.push(accepted.expect("a request in time").unwrap_or_else(|e| panic!("{e}")));
    }
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(120), running).await;
    assert!(ended.is_ok_and(|joined| joined.is_ok()), "the sender did not end");
}

/// Native histograms cannot be put together of parts: that is said, and not left out.
#[tokio::test(flavor = "multi_thread")]
async fn shards_say_what_they_cannot_read_and_quote_what_needs_it() {
    let (left, right) = (Ours::start().await, Ours::start().await);
    let end = end_ms(now_ms());
    let mut data = traffic(end);
    data.series.retain(|s| !s.histograms.is_empty());
    let name = data.series[0].labels.metric_name().to_owned();
    send(left.store.as_ref(), &data);
    let sample = Sample { ts_ms: end, value: 7.0 };
    let odd = SeriesData {
        labels: Labels::new([("__name__", "odd"), ("service.name", "a\"b")]),
        samples: vec![sample],
        ..SeriesData::default()
    };
    let odd = WriteRequest {
        series: vec![odd],
        ..WriteRequest::default()
    };
    send(right.store.as_ref(), &odd);
    let shards = remote(vec![(None, &left.ask.url), (None, &right.ask.url)]);
    let refused = shards.instant(&name, end).await;
    assert!(
        matches!(&refused, Err(error) if error.to_string().contains("selects native histograms")),
        "{refused:?}"
    );
    let found = figures(shards.instant(r#"odd{"service.name"="a\"b"}"#, end).await);
    assert_eq!(found, figures(right.engine.instant("odd", end)));
    assert_eq!(found.len(), 1);
    let values = shards.label_values("service.name", &[], 0, end).await;
    assert_eq!(values, Ok(vec!["a\"b".to_owned()]));
}

/// A server that answers by number.
async fn scripted(answers: Vec<(u16, &'static str)>) -> (Asker, Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) {
    let count = Arc::new(AtomicUsize::new(0));
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
    let (counted, kept) = (count.clone(), heads.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (count, kept, answers) = (counted.clone(), kept.clone(), answers.clone());
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                kept.lock()
                    .unwrap_or_else(|e| panic!("{e}"))
                    .push(format!("{:?}", request.headers()));
                let at = count.fetch_add(1, Relaxed).min(answers.len() - 1);
                let (status, body) = answers[at];
                let response = http::Response::builder()
                    .status(status)
                    .header("retry-after", "0")
                    .body(Full::new(bytes::Bytes::from(body)));
                async move { Ok::<_, Infallible>(response.unwrap_or_else(|e| panic!("{e}"))) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    (Asker::new(address), count, heads)
}

#[tokio::test]
async fn a_sender_tries_again_or_gives_up() {
    let (server, _, heads) = scripted(vec![(503, "later"), (429, "slowly"), (204, ""), (400, "bad")]).await;
    let config = Config {
        shards: 1,
        metadata_interval: None,
        ..quick(format!("{}/write", server.url))
    };
    let sender = Sender::new(config).unwrap_or_else(|e| panic!("{e}"));
    let store = Arc::new(weir_tsdb::Tsdb::new(weir_tsdb::Options::default()));
    let tee = Tee::new(store, vec![sender.clone()]);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (sender, stop) = (sender.clone(), stop.clone());
        async move { sender.run(stop).await }
    });
    let id = tee
        .resolve(&Labels::new([("__name__", "x")]))
        .unwrap_or_else(|e| panic!("{e}"));
    let now = now_ms();
    tee.append(&[(id, Sample { ts_ms: now, value: 1.0 })], &mut Vec::new());
    until(&sender, "prometheus_remote_storage_samples_total", 1.0).await;
    until(&sender, "prometheus_remote_storage_samples_retried_total", 2.0).await;
    // What is refused for good is not sent again.
    tee.append(
        &[(
            id,
            Sample {
                ts_ms: now + 1,
                value: 2.0,
            },
        )],
        &mut Vec::new(),
    );
    until(&sender, "prometheus_remote_storage_samples_failed_total", 1.0).await;
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(20), running).await;
    assert!(ended.is_ok_and(|joined| joined.is_ok()), "the sender did not end");
    let heads = heads.lock().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(heads.len(), 4);
    assert!(heads[0].contains("\"content-encoding\": \"snappy\""), "{}", heads[0]);
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone_for_a_while() {
    let answer = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
    let (server, count, _) = scripted(vec![
        (500, ""),
        (500, ""),
        (500, ""),
        (500, ""),
        (500, ""),
        (200, answer),
    ])
    .await;
    let remote = remote(vec![(None, &server.url)]);
    // Questions that differ: equal ones would be asked once.
    let ask = |at: i64| remote.instant("up", at * 10_000);
    for at in 0..5 {
        assert!(ask(at).await.is_err());
    }
    let refused = ask(5).await;
    assert!(
        matches!(&refused, Err(Error::Execution(why)) if why.contains("again and again")),
        "{refused:?}"
    );
    assert_eq!(count.load(Relaxed), 5);
    for at in 6..100 {
        if ask(at).await.is_ok() {
            assert!(ask(at + 1000).await.is_ok());
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the server was not tried again within 9 s");
}
