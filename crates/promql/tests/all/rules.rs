//! Rules at work: over a store of ours, against a real Prometheus that is sent what they record, and an Alertmanager.

use super::peers::{Ours, now_ms};
use super::traffic::{end_ms, traffic};
use serde_json::{Value as Json, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use weir_promql::{
    http_api,
    rules::{Alertmanager, Config, RuleFilter, Rules},
};
use weir_series::{Append, Labels, Matcher, Sample, Select};
use weir_tsdb::Tsdb;

const FILE: &str = r#"
groups:
- name: mesh
  interval: 10s
  labels: {team: net}
  rules:
  - record: deployment:response_total:rate1m
    expr: sum by (namespace, deployment) (rate(response_total[1m]))
  - record: namespace:response_total:rate1m
    expr: sum by (namespace) (deployment:response_total:rate1m)
    labels: {tier: x}
  - alert: Failing
    expr: |
      sum by (namespace, deployment) (rate(response_total{classification="failure"}[1m]))
        / on (namespace, deployment) deployment:response_total:rate1m > 0.05
    for: 20s
    keep_firing_for: 15s
    labels: {severity: '{{ if eq $labels.namespace "a" }}page{{ else }}ticket{{ end }}'}
    annotations:
      summary: '{{ $labels.deployment }} fails {{ $value | humanizePercentage }} of {{ printf "%.0f" (query "sum(namespace:response_total:rate1m)" | first | value) }}/s'
  - record: broken
    expr: response_total + on() response_total
"#;

fn filled(end: i64) -> Arc<Tsdb> {
    let store = Arc::new(Tsdb::new(weir_tsdb::Options::default()));
    for series in traffic(end).series {
        let id = store.resolve(&series.labels).unwrap_or_else(|e| panic!("{e}"));
        let batch: Vec<_> = series.samples.iter().map(|s| (id, *s)).collect();
        let mut refused = Vec::new();
        store.append(&batch, &mut refused);
        assert_eq!(refused, []);
    }
    store
}

fn engine(store: &Arc<Tsdb>) -> weir_promql::Engine {
    weir_promql::Engine::new(store.clone(), weir_promql::Options::default())
}

fn samples(store: &Tsdb, name: &str) -> BTreeMap<String, Vec<f64>> {
    let all = store.select(&[Matcher::equal("__name__", name)], 0, i64::MAX, usize::MAX);
    let all = all.unwrap_or_else(|e| panic!("{e}"));
    let values = |samples: &[Sample]| samples.iter().map(|s| (s.value * 1e6).round() / 1e6).collect();
    all.into_iter()
        .map(|s| (s.labels.to_string(), values(&s.samples)))
        .collect()
}

fn rules(config: Config, file: &str) -> Rules {
    let rules = Rules::new(config).unwrap_or_else(|e| panic!("{e}"));
    let loaded = rules.load(&[("mesh.yml".into(), file.into())]);
    loaded.unwrap_or_else(|problems| panic!("{problems:?}"));
    rules
}

#[test]
fn rules_record_in_their_order_and_alerts_ripen() {
    let end = end_ms(now_ms());
    let store = filled(end);
    let rules = rules(Config::default(), FILE);
    let engine = engine(&store);
    // The traffic's last minute, and then the time in which its rates fade.
    for at in (0..=12).map(|i| end - 60_000 + i * 10_000) {
        rules.evaluate_all(at, &engine, store.as_ref());
    }
    let recorded = samples(&store, "deployment:response_total:rate1m");
    let web = &recorded[r#"deployment:response_total:rate1m{deployment="web",namespace="a",team="net"}"#];
    assert_eq!(web[0], 3.3);
    assert!(web.last().is_some_and(|v| v.is_nan()), "no marker at the end: {web:?}");
    let by_namespace = samples(&store, "namespace:response_total:rate1m");
    let a = &by_namespace[r#"namespace:response_total:rate1m{namespace="a",team="net",tier="x"}"#];
    assert_eq!(a[0], 3.3, "the second rule reads what the first has just written");
    assert_eq!(a[..6], web[..6]);

    let alerts = samples(&store, "ALERTS");
    let state = |state: &str, severity: &str, namespace: &str, deployment: &str| {
        let labels = format!(
            r#"ALERTS{{alertname="Failing",alertstate="{state}",deployment="{deployment}",namespace="{namespace}",severity="{severity}",team="net"}}"#
        );
        alerts.get(&labels).map(Vec::len).unwrap_or_default()
    };
    // Two evaluations pending, and the marker.
    assert_eq!(state("pending", "page", "a", "web"), 3, "{alerts:?}");
    assert!(
        state("firing", "page", "a", "web") > 3 && state("firing", "ticket", "b", "db") > 3,
        "{alerts:?}"
    );

    let shown = rules.to_json(&RuleFilter::default()).unwrap_or_else(|e| panic!("{e}"));
    let group = &shown["groups"][0];
    assert_eq!(
        (group["name"].as_str(), group["interval"].as_f64()),
        (Some("mesh"), Some(10.0))
    );
    let broken = &group["rules"][3];
    assert_eq!(
        (broken["health"].as_str(), broken["type"].as_str()),
        (Some("err"), Some("recording"))
    );
    assert!(
        broken["lastError"].as_str().is_some_and(|e| e.contains("many-to-many")),
        "{broken}"
    );
    let only = RuleFilter {
        kind: "alert".into(),
        ..RuleFilter::default()
    };
    let only = rules.to_json(&only).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(only["groups"][0]["rules"].as_array().map(Vec::len), Some(1));
}

#[test]
fn an_alert_goes_on_after_a_restart() {
    let end = end_ms(now_ms());
    let store = filled(end);
    let engine = engine(&store);
    let file = FILE.replace("for: 20s", "for: 20m");
    let first = rules(Config::default(), &file);
    for at in (0..=4).map(|i| end - 60_000 + i * 10_000) {
        first.evaluate_all(at, &engine, store.as_ref());
    }
    let since = |rules: &Rules| {
        rules.alerts_json()["alerts"][0]["activeAt"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let before = since(&first);
    drop(first);
    let second = rules(Config::default(), &file);
    second.evaluate_all(end - 10_000, &engine, store.as_ref());
    // Ten seconds passed between the two, in which nobody looked: they do not count.
    let time = |text: &str| {
        text.parse::<jiff::Timestamp>()
            .map(|t| t.as_second())
            .unwrap_or_default()
    };
    assert_eq!(time(&since(&second)), time(&before) + 10);
    assert_eq!(second.alerts_json()["alerts"][0]["state"], "pending");
}

#[test]
fn a_group_that_is_read_again_keeps_its_state() {
    let end = end_ms(now_ms());
    let store = filled(end);
    let engine = engine(&store);
    let rules = rules(Config::default(), FILE);
    for at in (0..=3).map(|i| end - 60_000 + i * 10_000) {
        rules.evaluate_all(at, &engine, store.as_ref());
    }
    let firing = |rules: &Rules| rules.alerts_json()["alerts"][0]["state"] == "firing";
    assert!(firing(&rules));
    let bad = rules.load(&[("mesh.yml".into(), "groups: [{rules: 1}]".into())]);
    assert!(bad.is_err_and(|problems| !problems.is_empty()));
    assert!(firing(&rules), "a bad file changes nothing");
    let more = format!("{FILE}  - record: more\n    expr: vector(1)\n");
    assert_eq!(rules.load(&[("mesh.yml".into(), more)]), Ok(()));
    assert!(firing(&rules));
    rules.evaluate_all(end - 20_000, &engine, store.as_ref());
    assert_eq!(samples(&store, "more").len(), 1);
}

#[test]
fn native_histograms_are_recorded_as_such() {
    let end = end_ms(now_ms());
    let store = filled(end);
    let native = traffic(end).series.into_iter().find(|s| !s.histograms.is_empty());
    let native = native.unwrap_or_else(|| panic!("the traffic has no native histogram"));
    let id = store.resolve(&native.labels).unwrap_or_else(|e| panic!("{e}"));
    let all: Vec<_> = native
        .histograms
        .iter()
        .map(|h| (id, h.ts_ms, (*h.value).clone()))
        .collect();
    store.append_histograms(&all, &mut Vec::new());
    let rules = rules(
        Config::default(),
        "groups: [{name: g, rules: [{record: n, expr: native_seconds}]}]",
    );
    rules.evaluate_all(end, &engine(&store), store.as_ref());
    rules.evaluate_all(end + 600_000, &engine(&store), store.as_ref());
    let found = store.select(&[Matcher::equal("__name__", "n")], 0, i64::MAX, usize::MAX);
    let found = found.unwrap_or_else(|e| panic!("{e}"));
    let counts: Vec<_> = found[0]
        .histograms
        .iter()
        .map(|h| (h.value.count, h.value.is_stale()))
        .collect();
    assert_eq!(counts, [(413.0, false), (0.0, true)]);
    assert!(found[0].samples.is_empty());
}

#[test]
fn a_limit_refuses_the_rule() {
    let end = end_ms(now_ms());
    let store = filled(end);
    let file = "groups: [{name: g, limit: 2, rules: [{record: a, expr: response_total}, {alert: B, expr: response_total > 0}]}]";
    let rules = rules(Config::default(), file);
    rules.evaluate_all(end, &engine(&store), store.as_ref());
    let shown = rules.to_json(&RuleFilter::default()).unwrap_or_else(|e| panic!("{e}"));
    for rule in shown["groups"][0]["rules"].as_array().into_iter().flatten() {
        assert!(
            rule["lastError"].as_str().is_some_and(|e| e.contains("limit of 2")),
            "{rule}"
        );
    }
    assert!(samples(&store, "a").is_empty() && samples(&store, "ALERTS").is_empty());
}

/// A server that keeps what is posted to it.
async fn catcher() -> (String, Arc<Mutex<Vec<(String, Json)>>>) {
    use http_body_util::{BodyExt, Full};
    let caught: Arc<Mutex<Vec<(String, Json)>>> = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
    let kept = caught.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = kept.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let kept = kept.clone();
                async move {
                    let authorization = request.headers().get("authorization").cloned();
                    let authorization = authorization
                        .and_then(|v| v.to_str().map(str::to_owned).ok())
                        .unwrap_or_default();
                    let place = format!("{} {authorization}", request.uri().path());
                    let body = request
                        .into_body()
                        .collect()
                        .await
                        .map(|b| b.to_bytes())
                        .unwrap_or_default();
                    let json = serde_json::from_slice(&body).unwrap_or(Json::Null);
                    kept.lock().unwrap_or_else(|e| panic!("{e}")).push((place, json));
                    Ok::<_, Infallible>(http::Response::new(Full::new(bytes::Bytes::new())))
                }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    (format!("http://{address}"), caught)
}

#[tokio::test]
async fn alertmanager_hears_of_it() {
    use weir_promql::remote::http::{Credentials, Secret, Settings};
    let (url, caught) = catcher().await;
    let settings = Settings {
        credentials: Credentials::Basic {
            user: "u".into(),
            password: Secret::Text("p".into()),
        },
        ..Settings::default()
    };
    let config = Config {
        interval: Duration::from_millis(200),
        external_labels: Labels::new([("cluster", "x")]),
        external_url: "http://weir:9090".into(),
        alertmanagers: vec![Alertmanager {
            url: format!("{url}/prefix/"),
            http: settings,
            timeout: Duration::from_secs(10),
        }],
        ..Config::default()
    };
    let file = "groups: [{name: g, rules: [{alert: Now, expr: vector(time()) > 0, labels: {a: b}}, {alert: Gone, expr: gone == 1}]}]";
    let rules = rules(config, file);
    let shared = rules.clone();
    let ours = Ours::start_with(http_api::allow_all(), move |api| api.rules = Some(shared)).await;
    let gone = ours
        .store
        .resolve(&Labels::new([("__name__", "gone")]))
        .unwrap_or_else(|e| panic!("{e}"));
    let put = |value: f64| {
        let mut refused = Vec::new();
        ours.store
            .append(&[(gone, Sample { ts_ms: now_ms(), value })], &mut refused);
        assert_eq!(refused, []);
    };
    put(1.0);
    let stop = CancellationToken::new();
    let running = {
        let (rules, engine, store, stop) = (rules.clone(), ours.engine.clone(), ours.store.clone(), stop.clone());
        tokio::spawn(async move { rules.run(engine, store, stop).await })
    };
    let find = |name: &str, ended: bool| {
        let caught = caught.lock().unwrap_or_else(|e| panic!("{e}"));
        let all = caught
            .iter()
            .flat_map(|(place, body)| body.as_array().into_iter().flatten().map(move |a| (place, a)));
        let now = now_ms();
        let mut found = all.filter(|(_, alert)| {
            let ends: Option<jiff::Timestamp> = alert["endsAt"].as_str().and_then(|t| t.parse().ok());
            alert["labels"]["alertname"] == name && ends.is_some_and(|e| (e.as_millisecond() <= now) == ended)
        });
        found.next().map(|(place, alert)| (place.clone(), alert.clone()))
    };
    let wait = |name: &'static str, ended: bool| {
        let find = &find;
        async move {
            for _ in 0..300 {
                if let Some(found) = find(name, ended) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("Alertmanager did not hear of {name} (ended: {ended}) within 15 s");
        }
    };
    let (place, alert) = wait("Now", false).await;
    assert_eq!(place, "/prefix/api/v2/alerts Basic dTpw");
    assert_eq!(alert["labels"], json!({ "alertname": "Now", "a": "b", "cluster": "x" }));
    let generator = "http://weir:9090/graph?g0.expr=vector%28time%28%29%29+%3E+0&g0.tab=1";
    assert_eq!(alert["generatorURL"], generator);
    wait("Gone", false).await;
    put(0.0);
    wait("Gone", true).await;
    let (_, managers) = ours.ask.json("/api/v1/alertmanagers").await;
    let shown = &managers["data"]["activeAlertmanagers"][0]["url"];
    assert!(
        shown.as_str().is_some_and(|u| u.ends_with("/prefix/api/v2/alerts")),
        "{managers}"
    );
    let (_, alerts) = ours.ask.json("/api/v1/alerts").await;
    assert_eq!(alerts["data"]["alerts"][0]["labels"]["alertname"], "Now");
    let (_, page) = ours.ask.get("/metrics").await.unwrap_or_else(|e| panic!("{e}"));
    assert!(String::from_utf8_lossy(&page).contains("prometheus_notifications_sent_total "));
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(20), running).await;
    assert!(ended.is_ok_and(|joined| joined.is_ok()), "the evaluation did not end");
}

/// The rules that are shipped: understood here and by the real tool, and each gives something on the mesh's own series.
#[test]
fn the_shipped_rules_are_good() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/prometheus/mesh-rules.yml");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    assert_eq!(weir_promql::rules::check("mesh-rules.yml", &text), []);
    let output = std::process::Command::new(super::peers::tool("promtool"))
        .arg("check")
        .arg("rules")
        .arg(&file)
        .output();
    let output = output.unwrap_or_else(|e| panic!("{e}"));
    // `keep_firing_for` came with the very version that the tests have; a tool that is older may not know it.
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let end = end_ms(now_ms());
    let store = Arc::new(Tsdb::new(weir_tsdb::Options::default()));
    for series in traffic(end).series {
        for direction in ["inbound", "outbound"] {
            let more = [
                ("direction", direction),
                ("dst_namespace", "b"),
                ("dst_deployment", "db"),
            ];
            let mut labels = series.labels.builder();
            for (name, value) in more {
                labels.set(name, value);
            }
            let labels = labels.build();
            let mut all = vec![labels.clone()];
            if labels.metric_name() == "response_total" {
                all.push(labels.builder().set("__name__", "request_total").build());
            }
            for labels in all {
                let id = store.resolve(&labels).unwrap_or_else(|e| panic!("{e}"));
                let batch: Vec<_> = series.samples.iter().map(|s| (id, *s)).collect();
                store.append(&batch, &mut Vec::new());
            }
        }
    }
    let rules = rules(Config::default(), &text);
    rules.evaluate_all(end + 1, &engine(&store), store.as_ref());
    let shown = rules.to_json(&RuleFilter::default()).unwrap_or_else(|e| panic!("{e}"));
    let all = shown["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|g| g["rules"].as_array().into_iter().flatten());
    for rule in all.filter(|rule| rule["type"] == "recording") {
        let name = rule["name"].as_str().unwrap_or_default();
        assert_eq!(rule["health"], "ok", "{rule}");
        assert!(!samples(&store, name).is_empty(), "{name} gives nothing");
    }
    let ratio = samples(&store, "deployment:response_success:ratio_rate1m");
    assert!(ratio.values().all(|v| v == &[0.909091]), "{ratio:?}");
}
