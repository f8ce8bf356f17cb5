//! What is counted: exactly what happened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_with_a_known_share_of_errors() {
    const CLIENTS: usize = 20;
    const EACH: usize = 500;
    let hits = AtomicU64::new(0);
    let server = Server::http(move |_, _| match hits.fetch_add(1, Ordering::Relaxed) % 10 {
        9 => response(500, "broken"),
        _ => ok("fine"),
    })
    .await;
    let port = free_port();
    let proxy = Proxy::start(&http_bootstrap(port, &[(server.address, 1)], RETRY)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        tasks.spawn(async move {
            let mut client = Client::connect(local(port)).await;
            let mut errors = 0;
            for _ in 0..EACH {
                errors += usize::from(client.get("svc", "/").await.status == 500);
            }
            errors
        });
    }
    let errors: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(errors, CLIENTS * EACH / 10);
    let total = (CLIENTS * EACH) as f64;
    eventually("the last response is recorded", async || {
        proxy.sum("response_total", &[]).await >= total
    })
    .await;
    let page = get(proxy.metrics, "/metrics").await.text();
    let svc = [
        "direction=\"outbound\"",
        "authority=\"svc\"",
        "dst_pod=\"svc-0\"",
        "dst_deployment=\"svc\"",
        "dst_service=\"svc\"",
    ];
    let with = |more: &[&'static str]| [&svc[..], more].concat();
    assert_eq!(sum(&page, "request_total", &svc), total);
    assert_eq!(sum(&page, "attempt_total", &svc), total);
    assert_eq!(sum(&page, "response_total", &[]), total);
    assert_eq!(
        sum(&page, "response_total", &with(&["status_code=\"200\"", "success"])),
        total * 0.9
    );
    assert_eq!(
        sum(&page, "response_total", &with(&["status_code=\"500\"", "failure"])),
        total * 0.1
    );
    assert_eq!(sum(&page, "response_latency_ms_count", &svc), total);
    assert_eq!(sum(&page, "response_latency_ms_bucket", &with(&["le=\"+Inf\""])), total);
    assert_eq!(sum(&page, "retry_total", &[]), 0.0);
}

#[tokio::test]
async fn series_exist_at_zero_and_strangers_cannot_make_any() {
    let server = Server::http(|_, _| ok("x")).await;
    let port = free_port();
    let proxy = Proxy::start(&http_bootstrap(port, &[(server.address, 1)], "")).await;
    let page = get(proxy.metrics, "/metrics").await.text();
    assert!(
        page.lines()
            .any(|l| l.starts_with("request_total{") && l.contains("authority=\"svc\"") && l.ends_with(" 0"))
    );
    let mut client = Client::connect(local(port)).await;
    for host in ["a.invalid", "b.invalid", "svc:81"] {
        assert_eq!(client.get(host, "/").await.status, 200);
    }
    assert_eq!(client.get("SVC:80", "/").await.status, 200);
    eventually("recorded", async || proxy.sum("response_total", &[]).await == 4.0).await;
    let page = get(proxy.metrics, "/metrics").await.text();
    assert_eq!(sum(&page, "request_total", &["authority=\"other\""]), 3.0);
    assert_eq!(sum(&page, "request_total", &["authority=\"svc:80\""]), 1.0);
    assert!(!page.contains("invalid") && !page.contains("svc:81"));
}

#[tokio::test]
async fn a_client_that_leaves_is_neither_success_nor_failure() {
    // Begins an answer that never ends, or none at all.
    let server = Server::start(|mut stream| async move {
        let mut sink = vec![0; 1000];
        let n = stream.read(&mut sink).await.unwrap();
        if String::from_utf8_lossy(&sink[..n]).contains("/begin") {
            stream
                .write_all(b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\nx")
                .await
                .unwrap();
        }
        while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let port = free_port();
    let proxy = Proxy::start(&http_bootstrap(port, &[(server.address, 1)], "")).await;
    let mut client = Client::connect(local(port)).await;
    client.send("GET /never HTTP/1.1\r\nHost: svc\r\n\r\n").await;
    eventually("it is tried", async || proxy.sum("attempt_total", &[]).await == 1.0).await;
    drop(client);
    eventually("the abort is counted", async || {
        proxy.sum("response_total", &["aborted"]).await == 1.0
    })
    .await;
    let mut client = Client::connect(local(port)).await;
    client.send("GET /begin HTTP/1.1\r\nHost: svc\r\n\r\n").await;
    let mut byte = [0; 20];
    client.stream.read_exact(&mut byte).await.unwrap();
    drop(client);
    eventually("the abort is counted", async || {
        proxy.sum("response_total", &["aborted", "status_code=\"200\""]).await == 1.0
    })
    .await;
    assert_eq!(proxy.sum("response_total", &["failure"]).await, 0.0);
    assert_eq!(proxy.sum("request_total", &["svc-0"]).await, 2.0);
}

#[tokio::test]
async fn an_endpoint_that_breaks_off_is_a_failure() {
    let server = Server::start(|mut stream| async move {
        let mut sink = vec![0; 1000];
        let n = stream.read(&mut sink).await.unwrap();
        if String::from_utf8_lossy(&sink[..n]).contains("/begin") {
            stream
                .write_all(b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\nx")
                .await
                .unwrap();
        }
    })
    .await;
    let port = free_port();
    let proxy = Proxy::start(&http_bootstrap(port, &[(server.address, 1)], "")).await;
    let mut client = Client::connect(local(port)).await;
    assert_eq!(client.get("svc", "/").await.status, 503);
    assert_eq!(proxy.sum("response_total", &["svc-0", "503", "failure"]).await, 1.0);
    client.send("GET /begin HTTP/1.1\r\nHost: svc\r\n\r\n").await;
    assert!(
        client.try_answer("GET").await.is_none(),
        "the client sees that the body is cut"
    );
    eventually("counted", async || {
        proxy.sum("response_total", &["svc-0", "\"200\"", "failure"]).await == 1.0
    })
    .await;
}

#[tokio::test]
async fn latency_runs_to_the_end_of_the_response() {
    let server = Server::start(|mut stream| async move {
        let mut sink = vec![0; 1000];
        assert!(stream.read(&mut sink).await.unwrap() > 0);
        stream
            .write_all(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nx")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        stream.write_all(b"y").await.unwrap();
    })
    .await;
    let port = free_port();
    let proxy = Proxy::start(&http_bootstrap(port, &[(server.address, 1)], "")).await;
    assert_eq!(Client::connect(local(port)).await.get("svc", "/").await.text(), "xy");
    eventually("counted", async || {
        proxy.sum("response_latency_ms_count", &["svc-0"]).await == 1.0
    })
    .await;
    assert_eq!(proxy.sum("response_latency_ms_bucket", &["le=\"100\""]).await, 0.0);
    assert!(proxy.sum("response_latency_ms_sum", &[]).await >= 150.0);
}

#[tokio::test]
async fn envoys_names_show_the_same_counters() {
    let server = Server::http(|_, _| ok("x")).await;
    let port = free_port();
    let proxy = Proxy::start(&http_bootstrap(port, &[(server.address, 1)], "")).await;
    let mut client = Client::connect(local(port)).await;
    for _ in 0..3 {
        client.get("svc", "/").await;
    }
    let page = get(proxy.metrics, "/stats/prometheus").await.text();
    assert!(
        page.contains("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"svc\"} 3\n"),
        "{page}"
    );
    assert!(
        page.contains("envoy_cluster_membership_total{envoy_cluster_name=\"svc\"} 1\n"),
        "{page}"
    );
    assert_eq!(
        get(proxy.metrics, "/config_dump").await.status,
        404,
        "nothing else is on this address"
    );
}

#[tokio::test]
async fn probes_of_the_node_are_forwarded_and_not_recorded() {
    let server = Server::http(|_, _| ok("x")).await;
    let port = free_port();
    let bootstrap = http_bootstrap(port, &[(server.address, 1)], "").replace("127.0.0.9", "127.0.0.1");
    let proxy = Proxy::start(&bootstrap).await;
    let mut client = Client::connect(local(port)).await;
    client
        .send("GET / HTTP/1.1\r\nHost: svc\r\nUser-Agent: kube-probe/1.37\r\n\r\n")
        .await;
    assert_eq!(client.answer("GET").await.status, 200);
    assert_eq!(client.get("svc", "/").await.status, 200);
    eventually("the other is recorded", async || {
        proxy.sum("response_total", &[]).await == 1.0
    })
    .await;
    assert_eq!(proxy.sum("request_total", &[]).await, 1.0);
}
