//! HTTP/1.1 through a proxy with a static bootstrap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

use crate::support::*;

async fn through(server: &Server, route: &str) -> (Proxy, Client) {
    let port = free_port();
    let proxy = Proxy::start(&http_bootstrap(port, &[(server.address, 1)], route)).await;
    let client = Client::connect(local(port)).await;
    (proxy, client)
}

#[tokio::test]
async fn requests_and_responses_pass_with_their_headers() {
    let server = Server::http(|head, body| {
        let text = format!("{head}|{}", String::from_utf8_lossy(body));
        format!(
            "HTTP/1.1 203 X\r\nX-Case-Kept: Yes\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
        .into_bytes()
    })
    .await;
    let (_proxy, mut client) = through(&server, "").await;
    client
        .send("POST /a?b=c HTTP/1.1\r\nHost: svc\r\nX-Mixed-Case: 1\r\nConnection: keep-alive, x-drop\r\nX-Drop: 1\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    let answer = client.answer("POST").await;
    let seen = answer.text();
    assert_eq!(answer.status, 203);
    assert!(answer.head.contains("X-Case-Kept: Yes"), "{}", answer.head);
    assert!(!answer.head.to_lowercase().contains("x-hop"), "{}", answer.head);
    assert!(seen.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("X-Mixed-Case: 1") && seen.ends_with("|hello"), "{seen}");
    assert!(
        seen.contains("Host: svc\r\n") && !seen.to_lowercase().contains("x-drop"),
        "{seen}"
    );
    assert!(
        seen.contains("x-forwarded-proto: http\r\n") && seen.contains("x-request-id: "),
        "{seen}"
    );
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let server = Server::http(|_, _| ok("x")).await;
    let (_proxy, mut client) = through(&server, "").await;
    for _ in 0..50 {
        assert_eq!(client.get("svc", "/").await.status, 200);
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn chunked_bodies_pass_both_ways() {
    let server = Server::http(|head, body| {
        assert!(head.to_lowercase().contains("transfer-encoding: chunked"), "{head}");
        let half = body.len() / 2;
        let mut out = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in [&body[..half], &body[half..]] {
            out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            out.extend_from_slice(part);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    })
    .await;
    let (_proxy, mut client) = through(&server, "").await;
    for method in ["POST", "GET"] {
        client
            .send(format!(
                "{method} / HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n"
            ))
            .await;
        client.send("5\r\nhello\r\n").await;
        client.send("6\r\n world\r\n0\r\n\r\n").await;
        assert_eq!(client.answer(method).await.text(), "hello world");
    }
}

#[tokio::test]
async fn responses_without_a_body_leave_the_connection_usable() {
    let server = Server::http(|head, _| {
        if head.starts_with("HEAD") {
            b"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n".to_vec()
        } else if head.contains("/204") {
            b"HTTP/1.1 204 X\r\n\r\n".to_vec()
        } else if head.contains("/304") {
            b"HTTP/1.1 304 X\r\nETag: \"a\"\r\nContent-Length: 7\r\n\r\n".to_vec()
        } else {
            ok("body")
        }
    })
    .await;
    let (proxy, mut client) = through(&server, "").await;
    client.send("HEAD / HTTP/1.1\r\nHost: svc\r\n\r\n").await;
    assert_eq!(client.answer("HEAD").await.header("content-length"), Some("1000"));
    assert_eq!(client.get("svc", "/204").await.status, 204);
    assert_eq!(client.get("svc", "/304").await.status, 304);
    assert_eq!(client.get("svc", "/").await.text(), "body");
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    eventually("all are recorded", async || {
        proxy.sum("response_total", &["success"]).await == 4.0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_go_on_by_the_server() {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = socket.accept().await.unwrap();
        let mut seen = String::new();
        while !seen.ends_with("\r\n\r\n") {
            seen.push(char::from(stream.read_u8().await.unwrap()));
        }
        assert!(seen.contains("Expect: 100-continue"), "{seen}");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 3];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"abc");
        stream.write_all(&ok("thanks")).await.unwrap();
    });
    let port = free_port();
    let _proxy = Proxy::start(&http_bootstrap(port, &[(address, 1)], "")).await;
    let mut client = Client::connect(local(port)).await;
    client
        .send("POST / HTTP/1.1\r\nHost: svc\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        .await;
    assert_eq!(client.answer("POST").await.status, 100);
    client.send("abc").await;
    assert_eq!(client.answer("POST").await.text(), "thanks");
    served.await.unwrap();
}

#[tokio::test]
async fn old_clients_and_absolute_targets_are_served() {
    let server = Server::http(|head, _| ok(head)).await;
    let (_proxy, mut client) = through(&server, "").await;
    client
        .send("GET http://svc/abs?x HTTP/1.1\r\nHost: elsewhere\r\n\r\n")
        .await;
    let seen = client.answer("GET").await.text();
    assert!(
        seen.starts_with("GET /abs?x HTTP/1.1\r\n") && seen.contains(": svc\r\n"),
        "{seen}"
    );
    assert!(!seen.contains("elsewhere"));
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let answer = client.answer("GET").await;
    assert_eq!(answer.status, 200);
    assert!(client.is_closed().await, "HTTP/1.0 without keep-alive ends");
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let server = Server::http(|_, _| ok("x")).await;
    let (_proxy, _) = through(&server, "").await;
    let port = free_port();
    let _other = Proxy::start(&http_bootstrap(port, &[(server.address, 1)], "")).await;
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "CONNECT svc:80 HTTP/1.1\r\nHost: svc:80\r\n\r\n",
        "\x00\x01\x02\r\n\r\n",
    ] {
        let mut client = Client::connect(local(port)).await;
        client.send(bad).await;
        let answer = client.try_answer("GET").await;
        assert_eq!(answer.map(|a| a.status), Some(400), "{bad:?}");
    }
    let mut client = Client::connect(local(port)).await;
    client
        .send(format!(
            "GET / HTTP/1.1\r\nHost: svc\r\nX: {}\r\n\r\n",
            "a".repeat(200_000)
        ))
        .await;
    assert_eq!(client.try_answer("GET").await.map(|a| a.status), Some(431));
    assert_eq!(server.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_direct_response_is_blocked_here() {
    let server = Server::http(|_, _| ok("x")).await;
    let (proxy, mut client) = through(&server, "").await;
    let answer = client.get("svc", "/refused").await;
    assert_eq!((answer.status, answer.text().as_str()), (404, "blocked here\n"));
    assert_eq!(
        proxy
            .sum("response_total", &["origin=\"proxy\"", "status_code=\"404\""])
            .await,
        1.0
    );
}

#[tokio::test]
async fn large_bodies_stream_both_ways_and_push_back() {
    const SIZE: usize = 64 << 20;
    // Answers with as many bytes as it read, and begins to answer only then.
    let server = Server::start(|stream| async move {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            tokio::io::AsyncBufReadExt::read_line(&mut stream, &mut head)
                .await
                .unwrap();
        }
        let mut sink = vec![0; 1 << 20];
        let mut read = 0;
        while read < SIZE {
            read += stream.read(&mut sink).await.unwrap();
        }
        stream
            .get_mut()
            .write_all(format!("HTTP/1.1 200 X\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        for _ in 0..SIZE / sink.len() {
            stream.get_mut().write_all(&sink).await.unwrap();
        }
    })
    .await;
    let (proxy, mut client) = through(&server, "").await;
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: {SIZE}\r\n\r\n"
        ))
        .await;
    let block = vec![b'x'; 1 << 20];
    for _ in 0..SIZE / block.len() {
        client.send(&block).await;
    }
    let answer = client.answer("POST").await;
    assert_eq!(answer.body.len(), SIZE);
    eventually("recorded", async || {
        proxy.sum("response_total", &["success"]).await == 1.0
    })
    .await;
}

#[tokio::test]
async fn another_endpoint_is_tried_when_there_is_no_connection() {
    let server = Server::http(|_, _| ok("x")).await;
    let port = free_port();
    let dead = local(free_port());
    let proxy = Proxy::start(&http_bootstrap(port, &[(dead, 1), (server.address, 1)], RETRY)).await;
    let mut client = Client::connect(local(port)).await;
    for _ in 0..20 {
        client
            .send("POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 2\r\n\r\nab")
            .await;
        assert_eq!(client.answer("POST").await.status, 200);
    }
    eventually("all recorded", async || {
        proxy.sum("response_total", &["success"]).await == 20.0
    })
    .await;
    assert_eq!(proxy.sum("request_total", &[]).await, 20.0);
    let retries = proxy.sum("retry_total", &[]).await;
    assert!((5.0..=20.0).contains(&retries), "{retries} retries");
    assert_eq!(proxy.sum("attempt_total", &[]).await, 20.0 + retries);
    assert_eq!(proxy.sum("response_total", &["svc-0", "success"]).await, 0.0);
}

#[tokio::test]
async fn without_any_endpoint_the_proxy_says_so() {
    let port = free_port();
    let dead = local(free_port());
    let proxy = Proxy::start(&http_bootstrap(port, &[], RETRY)).await;
    let mut client = Client::connect(local(port)).await;
    let answer = client.get("svc", "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "no healthy upstream"));
    assert_eq!(proxy.sum("response_total", &["origin=\"proxy\"", "failure"]).await, 1.0);
    let port = free_port();
    let proxy = Proxy::start(&http_bootstrap(port, &[(dead, 1)], RETRY)).await;
    let mut client = Client::connect(local(port)).await;
    assert_eq!(client.get("svc", "/").await.status, 503);
    assert_eq!(
        proxy
            .sum("response_total", &["svc-0", "status_code=\"503\"", "failure"])
            .await,
        1.0
    );
    assert_eq!(proxy.sum("response_total", &["origin=\"proxy\""]).await, 0.0);
    assert_eq!(proxy.sum("attempt_total", &["svc-0"]).await, 3.0);
}

/// A server that answers one request a connection and then closes without a word.
async fn forgetful(delay: Duration) -> (Server, Arc<AtomicU64>) {
    let requests = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&requests);
    let server = Server::start(move |stream| {
        let count = Arc::clone(&count);
        async move {
            let mut stream = BufReader::new(stream);
            if read_request(&mut stream).await.is_some() {
                count.fetch_add(1, Ordering::Relaxed);
                stream.get_mut().write_all(&ok("x")).await.unwrap();
            }
            // The next request is read and never answered.
            if !delay.is_zero() {
                let _ = tokio::time::timeout(delay, read_request(&mut stream)).await;
            }
        }
    })
    .await;
    (server, requests)
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_nobody_a_request() {
    let (server, requests) = forgetful(Duration::ZERO).await;
    let (proxy, mut client) = through(&server, "").await;
    for _ in 0..200 {
        client
            .send("POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 2\r\n\r\nab")
            .await;
        assert_eq!(client.answer("POST").await.status, 200);
        // Lets the end of the connection arrive: a POST that was written is never sent twice.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(requests.load(Ordering::Relaxed), 200);
    eventually("all recorded", async || {
        proxy.sum("response_total", &["success"]).await == 200.0
    })
    .await;
}

#[tokio::test]
async fn a_request_that_may_be_repeated_survives_a_kept_connection_that_breaks_under_it() {
    let (server, requests) = forgetful(PATIENCE).await;
    let (proxy, mut client) = through(&server, "").await;
    for _ in 0..50 {
        assert_eq!(client.get("svc", "/").await.status, 200);
    }
    assert_eq!(requests.load(Ordering::Relaxed), 50);
    assert_eq!(
        proxy.sum("attempt_total", &[]).await,
        50.0,
        "these are not tries of their own"
    );
    // One that may not: the server has read it, so it must not be sent again.
    client
        .send("POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 2\r\n\r\nab")
        .await;
    assert_eq!(client.answer("POST").await.status, 503);
    assert_eq!(requests.load(Ordering::Relaxed), 50);
}

#[tokio::test]
async fn weights_are_exact() {
    let (a, b) = (Server::http(|_, _| ok("a")).await, Server::http(|_, _| ok("b")).await);
    let port = free_port();
    let proxy = Proxy::start(&http_bootstrap(port, &[(a.address, 100), (b.address, 10)], "")).await;
    let mut client = Client::connect(local(port)).await;
    let mut count = 0;
    for _ in 0..220 {
        count += usize::from(client.get("svc", "/").await.text() == "a");
    }
    assert_eq!(count, 200);
    assert_eq!(proxy.sum("attempt_total", &["svc-1"]).await, 20.0);
}

#[tokio::test]
async fn a_route_timeout_ends_a_slow_request() {
    let server = Server::start(|mut stream| async move {
        let mut sink = vec![0; 1000];
        while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let port = free_port();
    let bootstrap = http_bootstrap(port, &[(server.address, 1)], "").replacen("timeout: 0s", "timeout: 0.1s", 1);
    let proxy = Proxy::start(&bootstrap).await;
    let mut client = Client::connect(local(port)).await;
    let answer = client.get("svc", "/").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (504, "upstream request timeout")
    );
    assert_eq!(proxy.sum("response_total", &["svc-0", "504", "failure"]).await, 1.0);
}

#[tokio::test]
async fn server_errors_are_tried_again_where_the_route_says_so() {
    let hits = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&hits);
    let server = Server::http(move |_, _| match count.fetch_add(1, Ordering::Relaxed) % 3 {
        2 => ok("third"),
        _ => response(500, "broken"),
    })
    .await;
    let (proxy, mut client) = through(&server, ", retry_policy: {retry_on: 5xx, num_retries: 3}").await;
    for _ in 0..5 {
        assert_eq!(client.get("svc", "/").await.text(), "third");
    }
    assert_eq!(hits.load(Ordering::Relaxed), 15);
    eventually("all recorded", async || {
        proxy.sum("response_total", &["success"]).await == 5.0
    })
    .await;
    assert_eq!(proxy.sum("response_total", &["failure"]).await, 0.0);
    assert_eq!(proxy.sum("retry_total", &[]).await, 10.0);
}

#[tokio::test]
async fn websockets_pass() {
    let server = Server::start(|stream| async move {
        let mut stream = BufReader::new(stream);
        let (head, _) = read_request(&mut stream).await.unwrap();
        assert!(head.to_lowercase().contains("upgrade: websocket"), "{head}");
        let switch = b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";
        stream.get_mut().write_all(switch).await.unwrap();
        let mut frame = [0; 4];
        while stream.read_exact(&mut frame).await.is_ok() {
            stream.get_mut().write_all(&frame).await.unwrap();
        }
    })
    .await;
    let (proxy, mut client) = through(&server, "").await;
    client
        .send("GET /ws HTTP/1.1\r\nHost: svc\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n")
        .await;
    let answer = client.answer("GET").await;
    assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, Some("y")));
    for frame in ["ping", "pong"] {
        client.send(frame).await;
        let mut echo = [0; 4];
        client.stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, frame.as_bytes());
    }
    drop(client);
    eventually("recorded", async || {
        proxy.sum("response_total", &["status_code=\"101\""]).await == 1.0
    })
    .await;
}
