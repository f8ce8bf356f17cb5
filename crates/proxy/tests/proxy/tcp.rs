//! TCP through a proxy, and protocols told apart.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

pub fn tcp_bootstrap(port: u16, endpoints: &[(SocketAddr, u32)]) -> String {
    let http = http_bootstrap(port, endpoints, "");
    let clusters = http.split("  clusters:").nth(1).unwrap();
    format!(
        r#"
node: {{id: client.default}}
static_resources:
  listeners:
  - name: tcp
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    traffic_direction: OUTBOUND
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          max_connect_attempts: 3
          cluster: svc
  clusters:{clusters}"#
    )
}

#[tokio::test]
async fn halves_are_closed_one_by_one_and_bytes_are_counted() {
    // Reads to the end, then answers: works only if each half is closed for itself.
    let server = Server::start(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream
            .write_all(format!("{} bytes", all.len()).as_bytes())
            .await
            .unwrap();
    })
    .await;
    let port = free_port();
    let proxy = Proxy::start(&tcp_bootstrap(port, &[(server.address, 1)])).await;
    let mut stream = TcpStream::connect(local(port)).await.unwrap();
    let sent = vec![7; 3_000_000];
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "3000000 bytes");
    eventually("closed", async || {
        proxy.sum("tcp_close_total", &["svc-0", "success"]).await == 1.0
    })
    .await;
    assert_eq!(proxy.sum("tcp_open_total", &["svc-0"]).await, 1.0);
    assert_eq!(proxy.sum("tcp_open_connections", &["svc-0"]).await, 0.0);
    assert_eq!(proxy.sum("tcp_write_bytes_total", &["svc-0"]).await, 3_000_000.0);
    assert_eq!(proxy.sum("tcp_read_bytes_total", &["svc-0"]).await, answer.len() as f64);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let server = Server::start(|mut stream| async move { stream.write_all(b"220 hello\r\n").await.unwrap() }).await;
    let port = free_port();
    let _proxy = Proxy::start(&tcp_bootstrap(port, &[(server.address, 1)])).await;
    let mut text = String::new();
    TcpStream::connect(local(port))
        .await
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert_eq!(text, "220 hello\r\n");
}

#[tokio::test]
async fn a_connection_goes_to_an_endpoint_that_is_there() {
    let server = Server::start(|mut stream| async move { stream.write_all(b"here").await.unwrap() }).await;
    let port = free_port();
    let dead = local(free_port());
    let _proxy = Proxy::start(&tcp_bootstrap(port, &[(dead, 3), (server.address, 1)])).await;
    for _ in 0..8 {
        let mut text = String::new();
        TcpStream::connect(local(port))
            .await
            .unwrap()
            .read_to_string(&mut text)
            .await
            .unwrap();
        assert_eq!(text, "here");
    }
}

/// The fallback listener of a meshed pod: HTTP is answered 404, anything else is reset after at most a second.
fn blocked_bootstrap(port: u16) -> String {
    format!(
        r#"
node: {{id: client.default}}
static_resources:
  listeners:
  - name: outbound
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    use_original_dst: true
    traffic_direction: OUTBOUND
    listener_filters_timeout: 0.3s
    continue_on_listener_filters_timeout: true
    listener_filters:
    - {{name: o, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}}}
    - {{name: h, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}}}
    filter_chains:
    - filter_chain_match: {{application_protocols: [http/1.0, http/1.1, h2c]}}
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: blocked
          route_config:
            virtual_hosts:
            - name: any
              domains: ["*"]
              routes:
              - {{name: other, match: {{prefix: /}}, direct_response: {{status: 404, body: {{inline_string: blocked}}}}}}
    - filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: blocked
          cluster: blocked
  clusters:
  - {{name: blocked, type: STATIC, connect_timeout: 1s}}
"#
    )
}

#[tokio::test]
async fn blocked_http_is_told_and_anything_else_is_reset() {
    let port = free_port();
    let proxy = Proxy::start(&blocked_bootstrap(port)).await;
    let mut client = Client::connect(local(port)).await;
    // In pieces: the request line counts, not the first packet.
    client.send("GE").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.send("T /x HTTP/1.1\r\nHost: out").await;
    client.send("side\r\n\r\n").await;
    let answer = client.answer("GET").await;
    assert_eq!((answer.status, answer.text().as_str()), (404, "blocked"));
    assert_eq!(client.get("other", "/").await.status, 404, "the connection is kept");
    eventually("recorded", async || {
        proxy
            .sum("response_total", &["authority=\"other\"", "origin=\"proxy\"", "404"])
            .await
            == 2.0
    })
    .await;

    let mut stream = TcpStream::connect(local(port)).await.unwrap();
    stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    let error = stream.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    // Silence: a server that would speak first.
    let begin = std::time::Instant::now();
    let mut stream = TcpStream::connect(local(port)).await.unwrap();
    let error = stream.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(begin.elapsed() >= Duration::from_millis(290));
}

#[tokio::test]
async fn a_connection_to_the_proxy_itself_does_not_go_round_in_circles() {
    let port = free_port();
    let bootstrap = tcp_bootstrap(port, &[]).split("  clusters:").next().unwrap().to_owned()
        + "  clusters:\n  - {name: svc, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 1s}\n";
    let proxy = Proxy::start(&bootstrap).await;
    // A reset may come as early as the connection itself.
    let error = async { TcpStream::connect(local(port)).await?.read(&mut [0; 10]).await }
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(proxy.sum("tcp_open_total", &[]).await, 1.0);
}

#[tokio::test]
async fn connections_are_shared_out_among_clusters_and_end_when_nothing_moves() {
    let speak = |word: &'static str| {
        Server::start(move |mut stream| async move {
            stream.write_all(word.as_bytes()).await.unwrap();
            std::future::pending().await
        })
    };
    let (one, other) = (speak("1").await, speak("2").await);
    let port = free_port();
    let text = tcp_bootstrap(port, &[(one.address, 1)]);
    let second = text.split("  clusters:\n").nth(1).unwrap();
    let second = second
        .replace("svc", "second")
        .replace(&one.address.port().to_string(), &other.address.port().to_string());
    let shares = "weighted_clusters: {clusters: [{name: svc, weight: 1}, {name: second, weight: 3}]}";
    let text = text.replace(
        "          cluster: svc\n",
        &format!("          {shares}\n          idle_timeout: 0.2s\n"),
    );
    let _proxy = Proxy::start(&(text + &second)).await;
    let mut counts = [0u32; 2];
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = Client::connect(local(port)).await;
        let word = client.stream.read_u8().await.unwrap();
        counts[usize::from(word - b'1')] += 1;
        clients.push(client);
    }
    assert!(
        (20..90).contains(&counts[0]) && counts[0] + counts[1] == 200,
        "{counts:?}"
    );
    for mut client in clients {
        assert!(client.is_closed().await);
    }
}
