//! Limits: what counts where, what is refused, and that nothing is forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::sides::*;
use crate::support::*;

/// A server that answers each request when it is told to.
struct Gate {
    server: Server,
    open: Arc<Semaphore>,
    /// Requests that wait for their answer.
    waiting: Arc<AtomicUsize>,
}

impl Gate {
    async fn start() -> Self {
        let (open, waiting) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let (opened, counted) = (Arc::clone(&open), Arc::clone(&waiting));
        let server = Server::start(move |stream| {
            let (open, waiting) = (Arc::clone(&opened), Arc::clone(&counted));
            async move {
                let mut stream = tokio::io::BufReader::new(stream);
                while read_request(&mut stream).await.is_some() {
                    waiting.fetch_add(1, Ordering::Relaxed);
                    open.acquire().await.unwrap().forget();
                    waiting.fetch_sub(1, Ordering::Relaxed);
                    if stream.get_mut().write_all(&ok("x")).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { server, open, waiting }
    }

    async fn has(&self, count: usize) {
        eventually("so many requests are at the server", async || {
            self.waiting.load(Ordering::Relaxed) == count
        })
        .await;
    }
}

async fn behind(gate: &Gate, thresholds: &str) -> (Proxy, u16) {
    let port = free_port();
    let text = http_bootstrap(port, &[(gate.server.address, 1)], "");
    let cluster = format!("circuit_breakers: {{thresholds: [{{{thresholds}, track_remaining: true}}]}}");
    (Proxy::start(&with_cluster(&text, &cluster)).await, port)
}

async fn begin(port: u16) -> Client {
    let mut client = Client::connect(local(port)).await;
    client.send("GET / HTTP/1.1\r\nHost: svc\r\n\r\n").await;
    client
}

async fn envoy(proxy: &Proxy, series: &str) -> f64 {
    let page = get(proxy.metrics, "/stats/prometheus").await.text();
    sum(&page, series, &["envoy_cluster_name=\"svc\""])
}

async fn is_refused(port: u16) {
    let answer = begin(port).await.answer("GET").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("x-envoy-overloaded"), Some("true"));
    assert!(answer.text().ends_with("reset reason: overflow"), "{answer:?}");
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_and_counted() {
    let gate = Gate::start().await;
    let (proxy, port) = behind(&gate, "max_requests: 2").await;
    let mut held = [begin(port).await, begin(port).await];
    gate.has(2).await;
    assert_eq!(
        envoy(&proxy, "envoy_cluster_circuit_breakers_default_rq_open").await,
        1.0
    );
    for _ in 0..3 {
        is_refused(port).await;
    }
    assert_eq!(envoy(&proxy, "envoy_cluster_upstream_rq_pending_overflow").await, 3.0);
    gate.open.add_permits(2);
    for client in &mut held {
        assert_eq!(client.answer("GET").await.status, 200);
    }
    gate.open.add_permits(1);
    assert_eq!(begin(port).await.answer("GET").await.status, 200);
    eventually("all is counted", async || proxy.sum("response_total", &[]).await == 6.0).await;
    assert_eq!(proxy.sum("overflow_total", &["reason=\"max_requests\""]).await, 3.0);
    assert_eq!(proxy.sum("attempt_total", &[]).await, 3.0, "what is refused is no try");
    let refused = ["status_code=\"503\"", "origin=\"proxy\""];
    assert_eq!(proxy.sum("response_total", &refused).await, 3.0);
    let room = "envoy_cluster_circuit_breakers_default_remaining_rq";
    eventually("nothing is left over", async || envoy(&proxy, room).await == 2.0).await;
}

#[tokio::test]
async fn requests_wait_for_a_connection_and_no_more_than_may() {
    let gate = Gate::start().await;
    let (proxy, port) = behind(&gate, "max_connections: 1, max_pending_requests: 2").await;
    let mut clients = vec![begin(port).await];
    gate.has(1).await;
    let pending = "envoy_cluster_upstream_rq_pending_active";
    for count in [1.0, 2.0] {
        clients.push(begin(port).await);
        eventually("it waits", async || envoy(&proxy, pending).await == count).await;
    }
    is_refused(port).await;
    // A client that leaves makes room for another one.
    drop(clients.pop());
    eventually("it waits no more", async || envoy(&proxy, pending).await == 1.0).await;
    clients.push(begin(port).await);
    eventually("another waits", async || envoy(&proxy, pending).await == 2.0).await;
    for client in &mut clients {
        gate.open.add_permits(1);
        assert_eq!(
            client.answer("GET").await.status,
            200,
            "in the order in which they came"
        );
    }
    assert_eq!(gate.server.connections.load(Ordering::Relaxed), 1);
    assert_eq!(proxy.sum("overflow_total", &["reason=\"max_pending\""]).await, 1.0);
    eventually("nobody waits", async || envoy(&proxy, pending).await == 0.0).await;
}

#[tokio::test]
async fn streams_of_http2_are_limited_as_requests() {
    let gate = Gate::start().await;
    let (proxy, port) = behind(&gate, "max_requests: 1").await;
    let sender = connect_two(local(port)).await;
    let first = tokio::spawn({
        let sender = sender.clone();
        async move { ask_two(&sender, request("GET", "/"), b"").await.unwrap().status }
    });
    gate.has(1).await;
    let second = ask_two(&sender, request("GET", "/"), b"").await.unwrap();
    assert_eq!(
        (second.status, &second.headers["x-envoy-overloaded"]),
        (503, &"true".parse().unwrap())
    );
    gate.open.add_permits(1);
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(proxy.sum("overflow_total", &["reason=\"max_requests\""]).await, 1.0);
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    let server = Server::http(|_, _| response(503, "no")).await;
    for (limit, tried) in [("max_retries: 0", 1.0), ("max_retries: 100", 3.0)] {
        let port = free_port();
        let route = ", retry_policy: {retry_on: 5xx, num_retries: 2}";
        let cluster = format!("circuit_breakers: {{thresholds: [{{{limit}}}]}}");
        let text = http_bootstrap(port, &[(server.address, 1)], route);
        let proxy = Proxy::start(&with_cluster(&text, &cluster)).await;
        assert_eq!(begin(port).await.answer("GET").await.status, 503);
        eventually("it is counted", async || proxy.sum("response_total", &[]).await == 1.0).await;
        assert_eq!(proxy.sum("attempt_total", &[]).await, tried);
        let overflows = proxy.sum("overflow_total", &["reason=\"max_retries\""]).await;
        assert_eq!(overflows, f64::from(u8::from(tried == 1.0)));
        let exceeded = envoy(&proxy, "envoy_cluster_upstream_rq_retry_limit_exceeded").await;
        assert_eq!(exceeded, 1.0 - overflows);
    }
}

#[tokio::test]
async fn the_excess_connection_of_tcp_is_closed() {
    let server = Server::start(|mut stream| async move {
        let mut byte = [0; 1];
        while let Ok(1) = stream.read(&mut byte).await {
            stream.write_all(&byte).await.unwrap();
        }
    })
    .await;
    let port = free_port();
    let text = crate::tcp::tcp_bootstrap(port, &[(server.address, 1)]);
    let cluster = "circuit_breakers: {thresholds: [{max_connections: 1}]}";
    let proxy = Proxy::start(&with_cluster(&text, cluster)).await;
    let mut first = Client::connect(local(port)).await;
    first.send("a").await;
    assert_eq!(first.stream.read_u8().await.unwrap(), b'a');
    if let Ok(mut second) = Client::try_connect(local(port)).await {
        assert!(second.is_closed().await);
    }
    assert_eq!(proxy.sum("overflow_total", &["reason=\"max_connections\""]).await, 1.0);
    assert_eq!(envoy(&proxy, "envoy_cluster_upstream_cx_overflow").await, 1.0);
    drop(first);
    eventually("there is room again", async || {
        let Ok(mut next) = Client::try_connect(local(port)).await else {
            return false;
        };
        let sent = next.stream.get_mut().write_all(b"b").await;
        sent.is_ok() && next.stream.read_u8().await.is_ok()
    })
    .await;
}
