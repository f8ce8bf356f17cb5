//! Which requests are tried again, with their bodies, and how often that is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use crate::sides::*;
use crate::support::*;

/// A server that fails so many times, in its way, and then says what it got.
async fn failing(times: u64, failure: &'static str) -> (Server, Arc<AtomicU64>) {
    let hits = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&hits);
    let server = Server::start(move |stream| {
        let hits = Arc::clone(&counted);
        async move {
            let mut stream = tokio::io::BufReader::new(stream);
            while let Some((_, body)) = read_request(&mut stream).await {
                let fails = hits.fetch_add(1, Ordering::Relaxed) < times;
                let answer = match failure {
                    _ if !fails => ok(&format!("{} bytes", body.len())),
                    "reset" => return,
                    "silence" => std::future::pending().await,
                    status => response(status.parse().unwrap(), "no"),
                };
                if stream.get_mut().write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (server, hits)
}

async fn through(server: &Server, policy: &str) -> (Proxy, u16) {
    let port = free_port();
    let route = format!(", retry_policy: {{{policy}}}");
    let proxy = Proxy::start(&http_bootstrap(port, &[(server.address, 1)], &route)).await;
    (proxy, port)
}

#[tokio::test]
async fn conditions_decide_what_is_tried_again() {
    let often = "num_retries: 2, retry_back_off: {base_interval: 0.001s}";
    for (failure, policy, tries, status) in [
        ("503", "retry_on: 5xx", 3, 200),
        ("503", "retry_on: gateway-error", 3, 200),
        ("500", "retry_on: gateway-error", 1, 500),
        (
            "503",
            "retry_on: \"connect-failure,refused-stream,reset-before-request\"",
            1,
            503,
        ),
        ("409", "retry_on: retriable-4xx", 3, 200),
        (
            "418",
            "retry_on: retriable-status-codes, retriable_status_codes: [418]",
            3,
            200,
        ),
        (
            "417",
            "retry_on: retriable-status-codes, retriable_status_codes: [418]",
            1,
            417,
        ),
        ("reset", "retry_on: reset", 3, 200),
        ("reset", "retry_on: gateway-error", 3, 200),
        ("reset", "retry_on: connect-failure", 1, 503),
        ("silence", "retry_on: reset, per_try_timeout: 0.1s", 3, 200),
        ("silence", "retry_on: connect-failure, per_try_timeout: 0.1s", 1, 504),
    ] {
        let what = format!("{failure} {policy}");
        let (server, hits) = failing(2, failure).await;
        let (proxy, port) = through(&server, &format!("{policy}, {often}")).await;
        let mut client = Client::connect(local(port)).await;
        client
            .send("POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 5\r\n\r\nhello")
            .await;
        let answer = client.answer("POST").await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        if status == 200 {
            assert_eq!(answer.text(), "5 bytes", "{what}");
        }
        assert_eq!(hits.load(Ordering::Relaxed), tries, "{what}");
        eventually("it is counted", async || proxy.sum("response_total", &[]).await == 1.0).await;
        assert_eq!(proxy.sum("attempt_total", &[]).await, tries as f64, "{what}");
        assert_eq!(proxy.sum("retry_total", &[]).await, tries as f64 - 1.0, "{what}");
    }
}

#[tokio::test]
async fn bodies_are_sent_again_whatever_their_framing_up_to_a_bound() {
    let policy = "retry_on: 5xx, num_retries: 1, retry_back_off: {base_interval: 0.001s}";
    for (size, status) in [(60_000, 200), (1_000_000, 503)] {
        let body = "x".repeat(size);
        let (server, _) = failing(1, "503").await;
        let (_proxy, port) = through(&server, policy).await;
        let mut client = Client::connect(local(port)).await;
        let head = "POST / HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{size:x}\r\n{body}\r\n0\r\n\r\n")).await;
        let answer = client.answer("POST").await;
        assert_eq!(answer.status, status, "chunked, {size}");
        if status == 200 {
            assert_eq!(answer.text(), format!("{size} bytes"));
        }
        let (server, _) = failing(1, "503").await;
        let (_proxy, port) = through(&server, policy).await;
        let sender = connect_two(local(port)).await;
        let reply = ask_two(&sender, request("POST", "/"), body.as_bytes()).await.unwrap();
        assert_eq!(reply.status, status, "HTTP/2 without a length, {size}");
        if status == 200 {
            assert_eq!(reply.body, format!("{size} bytes").as_bytes());
        }
    }
}

#[tokio::test]
async fn a_body_goes_on_while_it_may_still_be_wanted_again() {
    // The client sends the second half only once the server has answered the first.
    let server = serve_two(100, |request, mut respond| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            stream.send_data(data, false).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let port = free_port();
    let route = ", retry_policy: {retry_on: 5xx, num_retries: 2}";
    let text = upstream_two(&http_bootstrap(port, &[(server.address, 1)], route));
    let _proxy = Proxy::start(&text).await;
    let sender = connect_two(local(port)).await;
    let (response, mut up) = sender.clone().send_request(request("POST", "/"), false).unwrap();
    up.send_data(Bytes::from_static(b"one"), false).unwrap();
    let mut down = tokio::time::timeout(PATIENCE, response)
        .await
        .unwrap()
        .unwrap()
        .into_body();
    let mut next = async || tokio::time::timeout(PATIENCE, down.data()).await.unwrap();
    assert_eq!(next().await.unwrap().unwrap(), "one");
    up.send_data(Bytes::from_static(b"two"), true).unwrap();
    assert_eq!(next().await.unwrap().unwrap(), "two");
}

#[tokio::test]
async fn tries_wait_longer_and_longer_but_no_longer_than_said() {
    let (server, hits) = failing(4, "503").await;
    let policy = "retry_on: 5xx, num_retries: 4, retry_back_off: {base_interval: 0.04s, max_interval: 0.08s}";
    let (_proxy, port) = through(&server, policy).await;
    let begun = std::time::Instant::now();
    assert_eq!(Client::connect(local(port)).await.get("svc", "/").await.status, 200);
    assert_eq!(hits.load(Ordering::Relaxed), 5);
    // 40, 80, 80, 80 ms, of each at least half.
    assert!(begun.elapsed() >= Duration::from_millis(140), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn connections_carry_as_many_requests_and_are_idle_as_long_as_said() {
    let server = Server::http(|_, _| ok("x")).await;
    let options = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                   {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
                   common_http_protocol_options: {OPTION}, explicit_http_config: {http_protocol_options: {}}}}";
    let begin = async |option: &str| {
        let port = free_port();
        let text = http_bootstrap(port, &[(server.address, 1)], "");
        let proxy = Proxy::start(&with_cluster(&text, &options.replace("OPTION", option))).await;
        (
            proxy,
            Client::connect(local(port)).await,
            server.connections.load(Ordering::Relaxed),
        )
    };
    let (_proxy, mut client, before) = begin("max_requests_per_connection: 3").await;
    for _ in 0..9 {
        assert_eq!(client.get("svc", "/").await.status, 200);
    }
    assert_eq!(server.connections.load(Ordering::Relaxed) - before, 3);
    let (_proxy, mut client, before) = begin("idle_timeout: 0.05s").await;
    for _ in 0..2 {
        assert_eq!(client.get("svc", "/").await.status, 200);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(server.connections.load(Ordering::Relaxed) - before, 2);
}
