//! HTTP/2 on either side of a proxy.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::sides::*;
use crate::support::*;

fn head(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

/// Sends back what comes, with its trailers.
async fn echo(request: Request<h2::RecvStream>, respond: SendResponse<Bytes>) {
    let (body, trailers) = read_body(&mut request.into_body()).await.unwrap();
    answer_two(respond, head(200), &body, trailers).await;
}

#[tokio::test]
async fn bodies_and_trailers_pass_unchanged() {
    let server = serve_two(100, echo).await;
    let (_proxy, address) = before(&server, true, "").await;
    let sender = connect_two(address).await;
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let (response, mut stream) = sender.clone().send_request(request("POST", "/"), false).unwrap();
    send_body(&mut stream, content.clone().into(), false).await.unwrap();
    stream.send_trailers(fields(&[("sum", "1234")])).unwrap();
    let mut body = response.await.unwrap().into_body();
    let (back, trailers) = read_body(&mut body).await.unwrap();
    assert!(back == content, "{} bytes came back", back.len());
    assert_eq!(trailers.unwrap()["sum"], "1234");
    let reply = ask_two(&sender, request("GET", "/"), b"").await.unwrap();
    assert_eq!((reply.status, reply.body.len(), reply.trailers), (200, 0, None));
}

#[tokio::test]
async fn a_client_of_http1_reaches_endpoints_of_http2() {
    let server = serve_two(100, |request, respond| async move {
        let (parts, mut body) = request.into_parts();
        assert_eq!((parts.uri.host(), parts.uri.path()), (Some("svc"), "/path"));
        for gone in ["connection", "keep-alive", "host", "transfer-encoding", "te"] {
            assert!(!parts.headers.contains_key(gone), "{gone}: {:?}", parts.headers);
        }
        assert_eq!(parts.headers["x-kept"], "yes");
        let (body, trailers) = read_body(&mut body).await.unwrap();
        let trailers = trailers.unwrap_or_default();
        assert_eq!(
            trailers.get("sum").map(|v| v.as_bytes()),
            (body.len() == 10).then_some(&b"10"[..])
        );
        answer_two(respond, head(200), &body, Some(fields(&[("after", "all")]))).await;
    })
    .await;
    let (_proxy, address) = before(&server, true, "").await;
    let mut client = Client::connect(address).await;
    let shared = "Host: svc\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nX-Kept: yes\r\n";
    for _ in 0..2 {
        client
            .send(format!(
                "POST /path HTTP/1.1\r\n{shared}Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\nSum: 10\r\n\r\n"
            ))
            .await;
        assert_eq!(
            chunked_with_trailers(&mut client).await,
            (b"0123456789".to_vec(), "after: all".into())
        );
        client
            .send(format!("POST /path HTTP/1.1\r\n{shared}Content-Length: 3\r\n\r\nabc"))
            .await;
        assert_eq!(
            chunked_with_trailers(&mut client).await,
            (b"abc".to_vec(), "after: all".into())
        );
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

/// A response in one or more chunks, and the trailer behind it.
async fn chunked_with_trailers(client: &mut Client) -> (Vec<u8>, String) {
    let mut text = Vec::new();
    let read = async {
        while !(text.windows(5).any(|w| w == b"\r\n0\r\n") && text.ends_with(b"\r\n\r\n")) {
            assert!(client.stream.read_buf(&mut text).await.unwrap() > 0, "it ends early");
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("a response in time");
    let text = String::from_utf8(text).unwrap();
    let (head, mut rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("transfer-encoding: chunked"),
        "{head}"
    );
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (body.into_bytes(), after.trim_end().to_owned());
        }
        body += &after[..size];
        rest = &after[size + 2..];
    }
}

#[tokio::test]
async fn a_client_of_http2_reaches_endpoints_of_http1() {
    let server = Server::start(|stream| async move {
        let mut stream = BufReader::new(stream);
        while let Some((head, body)) = read_request(&mut stream).await {
            assert!(head.starts_with("POST /path?a=b HTTP/1.1\r\n"), "{head}");
            assert!(head.to_lowercase().contains("\r\nhost: svc\r\n"), "{head}");
            let mut answer = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n".to_vec();
            answer.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
            answer.extend_from_slice(&body);
            answer.extend_from_slice(b"\r\n0\r\nAfter: all\r\n\r\n");
            stream.get_mut().write_all(&answer).await.unwrap();
        }
    })
    .await;
    let (_proxy, address) = before(&server, false, "").await;
    let sender = connect_two(address).await;
    let sized = |length: usize| {
        let mut request = request("POST", "/path?a=b");
        request.headers_mut().insert("content-length", length.into());
        request
    };
    for (request, length) in [(request("POST", "/path?a=b"), 200_000), (sized(70_000), 70_000)] {
        let reply = ask_two(&sender, request, &vec![b'y'; length]).await.unwrap();
        assert_eq!((reply.status, reply.body), (200, vec![b'y'; length]));
        assert!(!reply.headers.contains_key("transfer-encoding") && !reply.headers.contains_key("connection"));
        assert_eq!(reply.trailers.unwrap()["after"], "all");
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1, "the connection was kept");
}

#[tokio::test]
async fn a_slow_reader_holds_its_own_sender_back_and_nobody_else() {
    const WHOLE: usize = 64 << 20;
    let (sent, count) = shared(AtomicU64::new(0));
    let server = serve_two(100, move |request, mut respond| {
        let count = Arc::clone(&count);
        async move {
            if request.uri().path() == "/small" {
                return answer_two(respond, head(200), b"small", None).await;
            }
            let mut stream = respond.send_response(head(200), false).unwrap();
            let piece = Bytes::from(vec![7; 64 << 10]);
            for _ in 0..WHOLE / piece.len() {
                send_body(&mut stream, piece.clone(), false).await.unwrap();
                count.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            stream.send_data(Bytes::new(), true).unwrap();
        }
    })
    .await;
    let (_proxy, address) = before(&server, true, "").await;
    let sender = connect_two(address).await;
    let (response, _) = sender.clone().send_request(request("GET", "/large"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    // Nothing is read of it until it stands still, while others pass.
    let mut before = u64::MAX;
    eventually("the sender stands still", async || {
        for _ in 0..20 {
            let reply = ask_two(&sender, request("GET", "/small"), b"").await.unwrap();
            assert_eq!(reply.body, b"small");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = sent.load(Ordering::Relaxed);
        std::mem::replace(&mut before, now) == now
    })
    .await;
    let held = sent.load(Ordering::Relaxed);
    assert!(held < 20 << 20, "{held} bytes were taken that nobody read");
    let (all, _) = read_body(&mut body).await.unwrap();
    assert_eq!(all.len(), WHOLE);
}

#[tokio::test]
async fn a_slow_endpoint_holds_its_client_back() {
    let (go, gate) = shared(Notify::new());
    let server = serve_two(100, move |request, respond| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            let (body, _) = read_body(&mut request.into_body()).await.unwrap();
            answer_two(respond, head(200), body.len().to_string().as_bytes(), None).await;
        }
    })
    .await;
    let (_proxy, address) = before(&server, true, "").await;
    let (response, mut stream) = connect_two(address)
        .await
        .send_request(request("POST", "/"), false)
        .unwrap();
    let (sent, count) = shared(AtomicU64::new(0));
    let upload = tokio::spawn(async move {
        for _ in 0..64 {
            send_body(&mut stream, vec![1; 1 << 20].into(), false).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
        stream.send_data(Bytes::new(), true).unwrap();
    });
    let mut before = u64::MAX;
    eventually("the client stands still", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = sent.load(Ordering::Relaxed);
        std::mem::replace(&mut before, now) == now
    })
    .await;
    assert!(sent.load(Ordering::Relaxed) < 20, "MiB taken that nobody read");
    go.notify_one();
    upload.await.unwrap();
    let (text, _) = read_body(response.await.unwrap().body_mut()).await.unwrap();
    assert_eq!(text, (64 << 20).to_string().as_bytes());
}

#[tokio::test]
async fn a_drain_says_goaway_and_lets_streams_finish() {
    for two in [true, false] {
        let (go, gate) = shared(Notify::new());
        let first = Arc::clone(&gate);
        let server = match two {
            true => {
                serve_two(100, move |_, mut respond| {
                    let gate = Arc::clone(&gate);
                    async move {
                        let mut stream = respond.send_response(head(200), false).unwrap();
                        send_body(&mut stream, Bytes::from_static(b"begin "), false)
                            .await
                            .unwrap();
                        gate.notified().await;
                        send_body(&mut stream, Bytes::from_static(b"end"), true).await.unwrap();
                    }
                })
                .await
            }
            false => {
                Server::start(move |stream| {
                    let gate = Arc::clone(&first);
                    async move {
                        let mut stream = BufReader::new(stream);
                        read_request(&mut stream).await.unwrap();
                        let begin = b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nbegin ";
                        stream.get_mut().write_all(begin).await.unwrap();
                        gate.notified().await;
                        stream.get_mut().write_all(b"end").await.unwrap();
                    }
                })
                .await
            }
        };
        let (proxy, address) = before(&server, two, "").await;
        let sender = connect_two(address).await;
        let (response, _) = sender.clone().send_request(request("GET", "/"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "begin ");
        proxy.shut_down();
        eventually("the connection takes no new streams", async || {
            sender.clone().ready().await.is_err()
        })
        .await;
        assert!(!proxy.has_ended(), "a stream is open");
        go.notify_one();
        assert_eq!(read_body(&mut body).await.unwrap().0, b"end");
        eventually("the proxy ends", async || proxy.has_ended()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_under_load_loses_no_stream() {
    let server = serve_two(200, echo).await;
    let (proxy, address) = before(&server, true, RETRY).await;
    let (done, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (done, answers) = (Arc::clone(&done), Arc::clone(&answers));
        clients.spawn(async move {
            // As a client behind a redirection that is taken away: it connects anew only while it is there.
            'connections: while !done.load(Ordering::Relaxed) {
                let sender = connect_two(address).await;
                while !done.load(Ordering::Relaxed) {
                    match ask_two(&sender, request("POST", "/"), b"content").await {
                        Ok(reply) => assert_eq!((reply.status, &reply.body[..]), (200, &b"content"[..])),
                        // Never sent, or named by GOAWAY as not seen: what a client may send again (RFC 9113, 8.7).
                        Err(error) if error.is_go_away() => {
                            assert_eq!(error.reason(), Some(Reason::NO_ERROR), "{error}");
                            continue 'connections;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    eventually("load", async || answers.load(Ordering::Relaxed) > 300).await;
    proxy.shut_down();
    let before = answers.load(Ordering::Relaxed);
    eventually("new connections are still served", async || {
        answers.load(Ordering::Relaxed) > before + 300
    })
    .await;
    done.store(true, Ordering::Relaxed);
    clients.join_all().await;
    eventually("all are recorded, or the proxy is gone", async || proxy.has_ended()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_connections() {
    let server = serve_two(200, echo).await;
    let (proxy, address) = before(&server, true, "").await;
    let sender = connect_two(address).await;
    let turns = Arc::new(tokio::sync::Semaphore::new(100));
    let mut streams = tokio::task::JoinSet::new();
    for i in 0..1000usize {
        let (sender, turns) = (sender.clone(), Arc::clone(&turns));
        streams.spawn(async move {
            let content = vec![(i % 256) as u8; i * 7];
            // Below every limit: at it a server may still count a stream that its client has seen end, and refuse the next.
            let _turn = turns.acquire().await.unwrap();
            let reply = ask_two(&sender, request("POST", "/"), &content).await.unwrap();
            assert!(
                reply.body == content,
                "stream {i}: {} {:?}",
                reply.status,
                reply.headers
            );
        });
    }
    streams.join_all().await;
    let connections = server.connections.load(Ordering::Relaxed);
    assert!(connections <= 6, "{connections} connections for 100 streams at a time");
    assert_eq!(proxy.sum("response_total", &["success"]).await, 1000.0);
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_ended() {
    let early = serve_two(100, |request, respond| async move {
        answer_two(respond, head(413), b"too much", None).await;
        drop(request);
    })
    .await;
    let early_one = Server::start(|stream| async move {
        let mut stream = BufReader::new(stream);
        let mut begin = [0; 100];
        stream.read_exact(&mut begin).await.unwrap();
        let answer = b"HTTP/1.1 413 X\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much";
        stream.get_mut().write_all(answer).await.unwrap();
        stream.get_mut().shutdown().await.unwrap();
        let mut sink = vec![0; 1 << 16];
        while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    for (server, two) in [(&early, true), (&early_one, false)] {
        let (proxy, address) = before(server, two, "").await;
        let sender = connect_two(address).await;
        let reply = ask_two(&sender, request("POST", "/"), &vec![1; 40 << 20])
            .await
            .unwrap();
        assert_eq!(
            (reply.status, &reply.body[..]),
            (413, &b"too much"[..]),
            "to HTTP/2: {two}"
        );
        let mut client = Client::connect(address).await;
        client
            .send("POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 1000000\r\n\r\n0123456789")
            .await;
        client.send(vec![b'0'; 10_000]).await;
        let answer = client.answer("POST").await;
        assert_eq!(
            (answer.status, &answer.body[..]),
            (413, &b"too much"[..]),
            "to HTTP/2: {two}"
        );
        // An exchange is counted when its body has come to its end too.
        eventually("both are counted", async || {
            proxy.sum("response_total", &["\"413\"", "success"]).await == 2.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_reset_of_the_client_reaches_the_endpoint() {
    let (resets, count) = shared(Mutex::new(Vec::new()));
    let server = serve_two(100, move |request, mut respond| {
        let count = Arc::clone(&count);
        async move {
            let begun = request.uri().path() == "/begun";
            let reason = if begun {
                let mut stream = respond.send_response(head(200), false).unwrap();
                std::future::poll_fn(|cx| stream.poll_reset(cx)).await
            } else {
                std::future::poll_fn(|cx| respond.poll_reset(cx)).await
            };
            count.lock().unwrap().push(reason.unwrap());
        }
    })
    .await;
    let (proxy, address) = before(&server, true, RETRY).await;
    let sender = connect_two(address).await;
    let (response, mut stream) = sender.clone().send_request(request("POST", "/"), false).unwrap();
    eventually("it is tried", async || proxy.sum("attempt_total", &[]).await == 1.0).await;
    stream.send_reset(Reason::CANCEL);
    drop(response);
    eventually("a reset", async || resets.lock().unwrap().len() == 1).await;
    let (response, mut stream) = sender.clone().send_request(request("POST", "/begun"), false).unwrap();
    let begun = response.await.unwrap();
    stream.send_reset(Reason::CANCEL);
    drop(begun);
    eventually("another reset", async || resets.lock().unwrap().len() == 2).await;
    assert_eq!(*resets.lock().unwrap(), [Reason::CANCEL; 2]);
    assert_eq!(proxy.sum("response_total", &["aborted"]).await, 2.0);

    // An endpoint of HTTP/1 sees its connection end.
    let (ended, end) = shared(AtomicBool::new(false));
    let server = Server::start(move |mut stream| {
        let end = Arc::clone(&end);
        async move {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).await;
            end.store(true, Ordering::Relaxed);
        }
    })
    .await;
    let (proxy, address) = before(&server, false, "").await;
    let (response, mut stream) = connect_two(address)
        .await
        .send_request(request("POST", "/"), false)
        .unwrap();
    eventually("it is tried", async || proxy.sum("attempt_total", &[]).await == 1.0).await;
    stream.send_reset(Reason::CANCEL);
    drop(response);
    eventually("the connection's end", async || ended.load(Ordering::Relaxed)).await;
}

#[tokio::test]
async fn a_refused_stream_is_tried_again_with_its_body() {
    let (hits, count) = shared(AtomicU64::new(0));
    let server = serve_two(100, move |request, mut respond| {
        let refused = count.fetch_add(1, Ordering::Relaxed) % 2 == 0;
        async move {
            match refused {
                true => respond.send_reset(Reason::REFUSED_STREAM),
                false => echo(request, respond).await,
            }
        }
    })
    .await;
    let (proxy, address) = before(&server, true, RETRY).await;
    let sender = connect_two(address).await;
    for _ in 0..10 {
        let mut request = request("POST", "/");
        request.headers_mut().insert("content-length", 7.into());
        let reply = ask_two(&sender, request, b"content").await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (200, &b"content"[..]));
    }
    assert_eq!(hits.load(Ordering::Relaxed), 20);
    assert_eq!(proxy.sum("response_total", &["success"]).await, 10.0);
}

#[tokio::test]
async fn no_more_streams_than_an_endpoint_allows() {
    let (open, count) = shared(AtomicU64::new(0));
    let (go, gate) = shared(Notify::new());
    let server = serve_two(2, move |_, respond| {
        let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            gate.notified().await;
            answer_two(respond, head(200), b"x", None).await;
        }
    })
    .await;
    let (_proxy, address) = before(&server, true, "").await;
    let sender = connect_two(address).await;
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let sender = sender.clone();
        streams.spawn(async move { ask_two(&sender, request("GET", "/"), b"").await.unwrap().status });
    }
    eventually("all six at a time", async || open.load(Ordering::Relaxed) == 6).await;
    assert_eq!(server.connections.load(Ordering::Relaxed), 3);
    go.notify_waiters();
    assert_eq!(streams.join_all().await, [200; 6]);
}

#[tokio::test]
async fn a_body_that_never_comes_is_not_waited_for() {
    let server = serve_two(100, echo).await;
    let port = free_port();
    let bootstrap = upstream_two(&http_bootstrap(port, &[(server.address, 1)], RETRY));
    let proxy = Proxy::start(&bootstrap.replacen("timeout: 0s", "timeout: 0.3s", 1)).await;
    let mut sender = connect_two(local(port)).await;
    let mut request = request("POST", "/");
    request.headers_mut().insert("content-length", 7.into());
    let (response, _stream) = sender.send_request(request, false).unwrap();
    let response = tokio::time::timeout(PATIENCE, response)
        .await
        .expect("an answer in time");
    assert_eq!(response.unwrap().status(), 504);
    assert_eq!(proxy.sum("response_total", &["\"504\"", "failure"]).await, 1.0);
}

#[tokio::test]
async fn tls_with_alpn_on_both_sides() {
    let certificate = rcgen::generate_simple_self_signed(vec!["svc".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cert = write(&directory.path().join("tls.crt"), &certificate.cert.pem());
    let key = write(
        &directory.path().join("tls.key"),
        &certificate.signing_key.serialize_pem(),
    );
    let der = certificate.cert.der().clone();
    let spoken: Arc<Mutex<HashSet<String>>> = Arc::default();

    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![der.clone()],
            certificate.signing_key.serialize_der().try_into().unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let heard = Arc::clone(&spoken);
    let server = Server::start(move |stream| {
        let (acceptor, heard) = (acceptor.clone(), Arc::clone(&heard));
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let alpn = stream.get_ref().1.alpn_protocol().unwrap_or_default();
            let name = stream.get_ref().1.server_name().unwrap_or_default();
            heard
                .lock()
                .unwrap()
                .insert(format!("{name} {}", String::from_utf8_lossy(alpn)));
            accept_two(stream, 100, echo).await;
        }
    })
    .await;

    let port = free_port();
    let (cert, key) = (cert.display(), key.display());
    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
    let upstream = format!(
        r#"    transport_socket: {{name: tls, typed_config: {{"@type": {tls}.UpstreamTlsContext, sni: svc,
      common_tls_context: {{validation_context: {{trusted_ca: {{filename: "{cert}"}}}}}}}}}}
    typed_extension"#
    );
    let downstream = format!(
        r#"    - transport_socket: {{name: tls, typed_config: {{"@type": {tls}.DownstreamTlsContext,
        common_tls_context: {{alpn_protocols: [h2, http/1.1],
          tls_certificates: [{{certificate_chain: {{filename: "{cert}"}}, private_key: {{filename: "{key}"}}}}]}}}}}}
      filters:"#
    );
    let bootstrap = upstream_two(&http_bootstrap(port, &[(server.address, 1)], ""))
        .replace("    typed_extension", &upstream)
        .replace("    - filters:", &downstream);
    let proxy = Proxy::start(&bootstrap).await;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(der).unwrap();
    let connect = async |alpn: &[&[u8]]| {
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        let stream = TcpStream::connect(local(port)).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect("svc".try_into().unwrap(), stream).await.unwrap()
    };
    let stream = connect(&[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let sender = open_two(stream).await;
    let content = vec![3; 500_000];
    let reply = ask_two(&sender, request("POST", "/"), &content).await.unwrap();
    assert!(reply.status == 200 && reply.body == content);

    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let mut stream = connect(alpn).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), alpn.first().copied());
        let request = b"POST / HTTP/1.1\r\nHost: svc\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        stream.write_all(request).await.unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("hi"), "{text}");
    }
    assert_eq!(*spoken.lock().unwrap(), ["svc h2".to_owned()].into());
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    eventually("all are recorded", async || {
        proxy.sum("response_total", &["success"]).await == 3.0
    })
    .await;
}
