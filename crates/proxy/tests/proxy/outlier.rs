//! Endpoints that fail are left out for a while, and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::*;

const DETECTION: &str = "outlier_detection: {consecutive_gateway_failure: 3, enforcing_consecutive_gateway_failure: 100, \
     consecutive_5xx: 4, enforcing_consecutive_5xx: 100, consecutive_local_origin_failure: 2, \
     split_external_local_origin_errors: true, interval: 1s, base_ejection_time: 3s, max_ejection_percent: 50, \
     enforcing_success_rate: 0}";

struct Pair {
    _servers: [Server; 2],
    hits: Arc<AtomicU64>,
    bad: Arc<AtomicBool>,
    proxy: Proxy,
    client: Client,
}

/// A server that answers with `status` as long as it is bad, beside one that is always good.
async fn pair(status: u16, detection: &str) -> Pair {
    let (hits, bad) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
    let (counted, asked) = (Arc::clone(&hits), Arc::clone(&bad));
    let flaky = Server::http(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        match asked.load(Ordering::Relaxed) {
            true => response(status, "bad"),
            false => ok("flaky"),
        }
    })
    .await;
    let good = Server::http(|_, _| ok("good")).await;
    let port = free_port();
    let text = http_bootstrap(port, &[(flaky.address, 1), (good.address, 1)], "");
    let proxy = Proxy::start(&with_cluster(&text, detection)).await;
    Pair {
        _servers: [flaky, good],
        hits,
        bad,
        proxy,
        client: Client::connect(local(port)).await,
    }
}

impl Pair {
    async fn ask(&mut self, times: u32) {
        for _ in 0..times {
            self.client.get("svc", "/").await;
        }
    }

    async fn envoy(&self, series: &str) -> f64 {
        let page = get(self.proxy.metrics, "/stats/prometheus").await.text();
        sum(&page, series, &["envoy_cluster_name=\"svc\""])
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_in_a_row_is_left_out_and_comes_back() {
    for (status, errors, reason) in [(503, 3, "consecutive_gateway_failure"), (500, 4, "consecutive_5xx")] {
        let mut pair = pair(status, DETECTION).await;
        pair.ask(40).await;
        assert_eq!(pair.hits.load(Ordering::Relaxed), errors, "{status}");
        let label = format!("reason=\"{reason}\"");
        assert_eq!(pair.proxy.sum("ejection_total", &["svc-0", &label]).await, 1.0);
        assert_eq!(pair.proxy.sum("ejected_endpoints", &["svc-0"]).await, 1.0);
        let prefix = "envoy_cluster_outlier_detection_ejections";
        assert_eq!(pair.envoy(&format!("{prefix}_active")).await, 1.0);
        assert_eq!(pair.envoy(&format!("{prefix}_enforced_{reason}")).await, 1.0);
        assert_eq!(pair.envoy("envoy_cluster_membership_healthy").await, 1.0);
        pair.bad.store(false, Ordering::Relaxed);
        let end = std::time::Instant::now() + PATIENCE;
        while pair.client.get("svc", "/").await.text() != "flaky" {
            assert!(std::time::Instant::now() < end, "it never comes back");
        }
        eventually("the series say so too", async || {
            pair.proxy.sum("ejected_endpoints", &[]).await == 0.0
        })
        .await;
        assert_eq!(pair.envoy(&format!("{prefix}_active")).await, 0.0);
    }
}

#[tokio::test]
async fn errors_that_are_not_enforced_leave_nobody_out() {
    let detection = "outlier_detection: {consecutive_5xx: 1, enforcing_consecutive_5xx: 0}";
    let mut pair = pair(503, detection).await;
    pair.ask(20).await;
    assert_eq!(pair.hits.load(Ordering::Relaxed), 10);
    assert_eq!(pair.proxy.sum("ejection_total", &[]).await, 0.0);
}

#[tokio::test]
async fn nobody_is_left_out_where_that_would_be_too_many() {
    let mut pair = pair(
        503,
        &DETECTION.replace("max_ejection_percent: 50", "max_ejection_percent: 40"),
    )
    .await;
    pair.ask(20).await;
    assert_eq!(pair.hits.load(Ordering::Relaxed), 10);
    let refused = "envoy_cluster_outlier_detection_ejections_overflow";
    assert!(pair.envoy(refused).await >= 2.0);
}

#[tokio::test]
async fn an_endpoint_that_nobody_can_connect_to_is_left_out_for_http_and_tcp() {
    let good = Server::http(|_, _| ok("good")).await;
    for tcp in [false, true] {
        let (port, dead) = (free_port(), local(free_port()));
        let endpoints = [(dead, 1), (good.address, 1)];
        let text = match tcp {
            true => crate::tcp::tcp_bootstrap(port, &endpoints),
            false => http_bootstrap(port, &endpoints, RETRY),
        };
        let detection = DETECTION.replace("base_ejection_time: 3s", "base_ejection_time: 60s");
        let proxy = Proxy::start(&with_cluster(&text, &detection)).await;
        for _ in 0..20 {
            let answer = Client::connect(local(port)).await.get("svc", "/").await;
            assert_eq!(answer.text(), "good");
        }
        let reason = "reason=\"consecutive_local_origin_failure\"";
        assert_eq!(proxy.sum("ejection_total", &["svc-0", reason]).await, 1.0, "tcp: {tcp}");
        let page = get(proxy.metrics, "/stats/prometheus").await.text();
        let svc = ["envoy_cluster_name=\"svc\""];
        assert_eq!(sum(&page, "envoy_cluster_upstream_cx_connect_fail", &svc), 2.0);
    }
}

#[tokio::test]
async fn all_are_used_when_too_few_are_left() {
    let detection = DETECTION.replace("max_ejection_percent: 50", "max_ejection_percent: 100");
    let detection = detection.replace("base_ejection_time: 3s", "base_ejection_time: 60s");
    for (panic, hits) in [(50, 3..4), (51, 10..30)] {
        let fields = format!("{detection}\n    common_lb_config: {{healthy_panic_threshold: {{value: {panic}}}}}");
        let mut pair = pair(503, &fields).await;
        pair.ask(40).await;
        let seen = pair.hits.load(Ordering::Relaxed);
        assert!(hits.contains(&seen), "threshold {panic}: {seen}");
    }
}
