//! The same data by remote write into a real Prometheus and into ours: clients must not see a difference.

use super::peers::{Asker, Ours, Peer, now_ms, tool};
use super::traffic::{STEP_MS, end_ms, traffic};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use weir_series::remote_write::{self, Version, WriteRequest};

async fn write(to: &Asker, version: Version, request: &WriteRequest) -> http::Response<bytes::Bytes> {
    let headers = [
        ("content-type", version.content_type()),
        ("content-encoding", "snappy"),
        ("x-prometheus-remote-write-version", version.header()),
    ];
    to.post("/api/v1/write", &headers, remote_write::encode(version, request))
        .await
}

/// Lists whose order nobody promises, sorted; numbers in text to nine digits.
fn canonical(json: &Json) -> Json {
    match json {
        Json::Array(list) => {
            let mut list: Vec<Json> = list.iter().map(canonical).collect();
            // Pairs of time and value keep their order, everything else has none.
            if !list.first().is_some_and(Json::is_number) {
                list.sort_by_key(Json::to_string);
            }
            Json::Array(list)
        }
        Json::Object(members) => members.iter().map(|(k, v)| (k.clone(), canonical(v))).collect(),
        Json::String(text) => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => json!(format!("{number:.8e}")),
            _ => json.clone(),
        },
        other => other.clone(),
    }
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn answers_are_those_of_prometheus() {
    let (prometheus, ours) = (Peer::prometheus().await, Ours::start().await);
    let end = end_ms(now_ms());
    let data = traffic(end);
    for server in [&prometheus.ask, &ours.ask] {
        let response = write(server, Version::V1, &data).await;
        assert_eq!(response.status(), 204, "{response:?}");
    }
    // Off the samples: whether a range holds its left edge is what 2.x and 3.x disagree about.
    let (at, start) = ((end + 1000) / 1000, (end - 20 * STEP_MS + 1000) / 1000);
    let mut paths = Vec::new();
    for query in [
        // A data source's health check, panels, and what its explorer asks.
        "1+1",
        "vector(1)",
        "\"text\"",
        "response_total",
        "response_total[35s]",
        "sum(rate(response_total{classification=\"success\"}[1m])) by (namespace, deployment) / sum(rate(response_total[1m])) by (namespace, deployment)",
        "histogram_quantile(0.99, sum by (le, deployment) (rate(response_latency_ms_bucket[1m])))",
        "sum(tcp_open_connections) by (pod) / 0",
        "native_seconds",
        "rate(native_seconds[1m])",
        "histogram_quantile(0.5, rate(native_seconds[1m]))",
        // prometheus-adapter's custom metric of pods.
        "sum(rate(response_total{namespace=\"a\",pod=~\"web-0|web-1\"}[1m])) by (pod)",
        // Flagger's success rate.
        "sum(rate(response_total{namespace=\"a\",deployment=~\"web\",classification!=\"failure\"}[1m])) / sum(rate(response_total{namespace=\"a\",deployment=~\"web\"}[1m])) * 100",
        "absent(nothing)",
        "nothing",
    ] {
        paths.push(format!("/api/v1/query?query={}&time={at}", encode(query)));
        if !query.contains("[35s]") && !query.contains('"') || query.contains("by (") {
            paths.push(format!(
                "/api/v1/query_range?query={}&start={start}&end={at}&step=15",
                encode(query)
            ));
        }
    }
    let selector = encode("{__name__=~\"^response_.*\"}");
    paths.extend([
        format!("/api/v1/series?match[]={selector}&start={start}"),
        format!("/api/v1/series?match[]=up&match[]=tcp_open_connections&start={start}&end={at}"),
        "/api/v1/labels".into(),
        format!("/api/v1/labels?match[]=tcp_open_connections&start={start}&end={at}"),
        "/api/v1/label/__name__/values".into(),
        format!("/api/v1/label/namespace/values?match[]={selector}"),
        "/api/v1/label/nothing/values".into(),
        "/api/v1/rules".into(),
        "/api/v1/rules?type=alert".into(),
        "/api/v1/alerts".into(),
        "/api/v1/alertmanagers".into(),
        "/api/v1/query_exemplars?query=response_total&start=0&end=1".into(),
        "/api/v1/format_query?query=sum(up)by(job)".into(),
        "/api/v1/targets?state=any".into(),
        // What is wrong is wrong in the same way.
        "/api/v1/query".into(),
        "/api/v1/query?query=up{".into(),
        "/api/v1/query?query=up&time=yesterday".into(),
        "/api/v1/query?query=up&timeout=soon".into(),
        "/api/v1/query_range?query=up&start=10&end=0&step=1".into(),
        "/api/v1/query_range?query=up&start=0&end=10&step=0".into(),
        "/api/v1/query_range?query=up&start=0&end=100000&step=1".into(),
        "/api/v1/query_range?query=up[1m]&start=0&end=10&step=1".into(),
        format!(
            "/api/v1/query?query={}&time={at}",
            encode("response_total + on() response_total")
        ),
        "/api/v1/series".into(),
        "/api/v1/series?match[]=sum(up)".into(),
        "/api/v1/rules?type=x".into(),
        "/api/v1/query_exemplars?query=".into(),
    ]);
    let mut differences = Vec::new();
    for path in &paths {
        let ((status, theirs), (own_status, own)) = (prometheus.ask.json(path).await, ours.ask.json(path).await);
        let pick = |json: &Json| {
            (
                canonical(&json["data"]),
                json["status"].clone(),
                json["errorType"].clone(),
            )
        };
        if (status, pick(&theirs)) != (own_status, pick(&own)) {
            differences.push(format!(
                "{path}\n  theirs {status} {theirs}\n  ours   {own_status} {own}"
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {}:\n{}",
        differences.len(),
        paths.len(),
        differences.join("\n")
    );

    // A form is the same as a query string.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = format!("query={}&time={at}", encode("sum(response_total)"));
    let (theirs, own) = (
        prometheus.ask.post("/api/v1/query", &form, body.clone()).await,
        ours.ask.post("/api/v1/query", &form, body).await,
    );
    let parse = |body: &[u8]| serde_json::from_slice::<Json>(body).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(parse(theirs.body()), parse(own.body()));

    // Of what differs by nature, the members and their types are the same.
    for path in ["runtimeinfo", "buildinfo", "config", "tsdb", "walreplay"] {
        let path = format!("/api/v1/status/{path}");
        let ((_, theirs), (status, own)) = (prometheus.ask.json(&path).await, ours.ask.json(&path).await);
        assert_eq!(status, 200);
        for (name, value) in theirs["data"].as_object().into_iter().flatten() {
            let own = &own["data"][name];
            assert_eq!(
                std::mem::discriminant(value),
                std::mem::discriminant(own),
                "{path}: {name}: {value} {own}"
            );
        }
    }
    let (_, theirs) = prometheus.ask.json("/api/v1/status/flags").await;
    assert!(theirs["data"].is_object() && ours.ask.json("/api/v1/status/flags").await.1["data"].is_object());
    federate_alike(&prometheus, &ours).await;
}

async fn federate_alike(prometheus: &Peer, ours: &Ours) {
    let path = format!("/federate?match[]={}", encode("{__name__=~\"tcp_.*|response_total\"}"));
    let mut pages = Vec::new();
    for server in [&prometheus.ask, &ours.ask] {
        let (status, page) = server.get(&path).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(status, 200);
        let page = String::from_utf8_lossy(&page).into_owned();
        let lines: BTreeSet<String> = page
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| match line.split_once('{') {
                // Labels stand in no promised order.
                Some((name, rest)) => {
                    let (labels, value) = rest.split_once("} ").unwrap_or((rest, ""));
                    let labels: BTreeSet<&str> = labels.split(',').collect();
                    format!("{name}{labels:?}{value}")
                }
                None => line.to_owned(),
            })
            .collect();
        pages.push(lines);
    }
    assert_eq!(pages[0], pages[1]);
    assert!(pages[1].len() > 9, "{pages:?}");
}

#[tokio::test]
async fn the_receiver_tells_what_it_took() {
    let ours = Ours::start().await;
    let end = end_ms(now_ms());
    let data = traffic(end);
    let response = write(&ours.ask, Version::V2, &data).await;
    assert_eq!(response.status(), 204, "{response:?}");
    let header = |response: &http::Response<bytes::Bytes>, name: &str| {
        let name = format!("x-prometheus-remote-write-{name}-written");
        response
            .headers()
            .get(name)
            .map(|v| v.to_str().unwrap_or_default().to_owned())
    };
    let samples: usize = data.series.iter().map(|s| s.samples.len()).sum();
    assert_eq!(header(&response, "samples"), Some(samples.to_string()));
    assert_eq!(header(&response, "histograms"), Some("180".into()));
    assert_eq!(header(&response, "exemplars"), Some("0".into()));
    let (_, told) = ours.ask.json("/api/v1/metadata?metric=response_total").await;
    assert_eq!(told["data"]["response_total"][0]["type"], "counter");

    // What is old is refused and counted, what is new is taken all the same.
    let mut again = traffic(end + STEP_MS);
    again.series.truncate(1);
    again.series[0].samples[0].ts_ms = 1000;
    let response = write(&ours.ask, Version::V2, &again).await;
    assert_eq!(response.status(), 400);
    let text = String::from_utf8_lossy(response.body()).into_owned();
    assert!(text.contains("of 60 samples were refused"), "{text}");
    assert_eq!(header(&response, "samples"), Some("1".into()), "{text}");

    let headers = [("content-type", "application/json"), ("content-encoding", "snappy")];
    assert_eq!(ours.ask.post("/api/v1/write", &headers, "{}").await.status(), 415);
    let headers = [("content-type", "application/x-protobuf"), ("content-encoding", "gzip")];
    assert_eq!(ours.ask.post("/api/v1/write", &headers, "x").await.status(), 415);
    let headers = [
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "snappy"),
    ];
    assert_eq!(ours.ask.post("/api/v1/write", &headers, "garbage").await.status(), 400);
    let off = Ours::start_with(weir_promql::http_api::allow_all(), |api| api.receiver = None).await;
    assert_eq!(write(&off.ask, Version::V1, &data).await.status(), 404);
}

#[tokio::test]
async fn promtool_works_with_it() {
    let ours = Ours::start().await;
    let end = end_ms(now_ms());
    assert_eq!(write(&ours.ask, Version::V1, &traffic(end)).await.status(), 204);
    let (at, start) = ((end / 1000).to_string(), (end / 1000 - 60).to_string());
    let url = ours.ask.url.clone();
    let run = |arguments: Vec<String>| async move {
        let output = tokio::process::Command::new(tool("promtool")).args(&arguments).output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(30), output).await;
        let output = output
            .unwrap_or_else(|e| panic!("{e}"))
            .unwrap_or_else(|e| panic!("{e}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let query = "sum(response_total)by(namespace)";
    let (code, text) = run(words(&format!("query instant --time={at} {url} {query}"))).await;
    assert!(code == Some(0) && text.contains("{namespace=\"a\"} => "), "{text}");
    let (code, text) = run(words(&format!(
        "query range --start={start} --end={at} --step=20s {url} {query}"
    )))
    .await;
    assert!(code == Some(0) && text.matches('@').count() == 8, "{text}");
    let (code, text) = run(words(&format!(
        "query series --match=tcp_open_connections --start={start} {url}"
    )))
    .await;
    assert!(code == Some(0) && text.lines().count() == 3, "{text}");
    let (code, text) = run(words(&format!("query labels {url} namespace"))).await;
    assert_eq!((code, text.as_str()), (Some(0), "a\nb\n"));
    let (code, text) = run(words(&format!("query instant {url} up{{"))).await;
    assert!(code == Some(1) && text.contains("parse error"), "{text}");
    let (code, text) = run(words(&format!("check healthy --url={url}"))).await;
    assert!(code == Some(0), "{text}");
}
