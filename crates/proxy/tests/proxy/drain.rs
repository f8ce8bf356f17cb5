//! Ending without failing anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_fails_no_request() {
    let server = Server::http(|_, _| ok("x")).await;
    let port = free_port();
    let proxy = Proxy::start(&http_bootstrap(port, &[(server.address, 1)], "")).await;
    let ended = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (ended, answers) = (Arc::clone(&ended), Arc::clone(&answers));
        clients.spawn(async move {
            // As a client behind a redirection that is taken away: it connects anew only while it is there.
            'connections: while !ended.load(Ordering::Relaxed) {
                let mut client = Client::connect(local(port)).await;
                loop {
                    let answer = client.get("svc", "/").await;
                    assert_eq!(answer.status, 200);
                    answers.fetch_add(1, Ordering::Relaxed);
                    if answer
                        .header("connection")
                        .is_some_and(|c| c.eq_ignore_ascii_case("close"))
                    {
                        continue 'connections;
                    }
                    if ended.load(Ordering::Relaxed) {
                        break 'connections;
                    }
                }
            }
        });
    }
    eventually("load", async || answers.load(Ordering::Relaxed) > 500).await;
    proxy.shut_down();
    let before = answers.load(Ordering::Relaxed);
    eventually("new connections are still served", async || {
        answers.load(Ordering::Relaxed) > before + 500
    })
    .await;
    assert!(!proxy.has_ended());
    ended.store(true, Ordering::Relaxed);
    clients.join_all().await;
    let begin = Instant::now();
    proxy.end();
    assert!(begin.elapsed() < Duration::from_secs(4), "nothing was left to wait for");
}

#[tokio::test]
async fn an_idle_connection_is_told_with_its_next_response() {
    let server = Server::http(|_, _| ok("x")).await;
    let port = free_port();
    let proxy = Proxy::start(&http_bootstrap(port, &[(server.address, 1)], "")).await;
    let mut client = Client::connect(local(port)).await;
    assert_eq!(client.get("svc", "/").await.header("connection"), None);
    proxy.shut_down();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = client.get("svc", "/").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn streams_stay_until_they_end_or_the_deadline() {
    let server = Server::start(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let port = free_port();
    let yaml = format!(
        r#"
static_resources:
  listeners:
  - name: tcp
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}
  clusters:
  - name: c
    type: STATIC
    load_assignment:
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]
"#,
        server.address.port()
    );
    let proxy = Proxy::launch(&yaml, tempfile::tempdir().unwrap(), Duration::from_secs(3));
    proxy.wait_ready().await;
    let mut stream = TcpStream::connect(local(port)).await.unwrap();
    let mut echo = async |text: &[u8]| {
        stream.write_all(text).await?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await?;
        assert_eq!(back, text);
        Ok::<(), std::io::Error>(())
    };
    echo(b"before").await.unwrap();
    let begin = Instant::now();
    proxy.shut_down();
    while begin.elapsed() < Duration::from_millis(2500) {
        echo(b"still there").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!proxy.has_ended());
    proxy.end();
    let took = begin.elapsed();
    assert!(
        (Duration::from_secs(3)..Duration::from_secs(6)).contains(&took),
        "{took:?}"
    );
    assert!(echo(b"after").await.is_err());
}

#[tokio::test]
async fn the_administration_socket_shows_and_drains() {
    let server = Server::http(|_, _| ok("x")).await;
    let port = free_port();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let bootstrap = format!(
        "admin: {{address: {{pipe: {{path: \"{}\"}}}}}}\n{}",
        socket.display(),
        http_bootstrap(port, &[(server.address, 1)], "")
    );
    let proxy = Proxy::launch(&bootstrap, directory, Duration::from_secs(5));
    proxy.wait_ready().await;
    let ask = async |request: &str| {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream
            .write_all(format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let dump = ask("GET /config_dump").await;
    let dump: serde_json::Value = serde_json::from_str(dump.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(dump["active"]["clusters"][0]["endpoints"][0]["pod"], "svc-0");
    assert_eq!(dump["active"]["listeners"][0]["socket"]["workers"], 1);
    assert!(ask("GET /clusters").await.contains("svc-0"));
    assert!(ask("GET /listeners").await.contains("\"web\""));
    assert!(ask("GET /ready").await.starts_with("HTTP/1.1 200"));
    assert!(ask("GET /drain").await.starts_with("HTTP/1.1 405"));
    assert!(ask("POST /drain").await.starts_with("HTTP/1.1 200"));
    let answer = get(local(port), "/").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(!proxy.has_ended(), "a drain alone ends nothing");
    assert!(ask("POST /quitquitquit").await.starts_with("HTTP/1.1 200"));
    eventually("it ends", async || proxy.has_ended()).await;
    assert!(!socket.exists());
}

/// The pod is leaving: clients from outside are to come back elsewhere, and the application's own requests go on.
#[tokio::test]
async fn a_drain_of_the_inbound_side_leaves_the_other_alone() {
    let server = Server::http(|_, _| ok("x")).await;
    let (inbound, outbound) = (free_port(), free_port());
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let listener = |name: &str, port, direction| {
        format!(
            "  - {{name: {name}, traffic_direction: {direction}, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, \
             filter_chains: [{{filters: [{{name: http, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: {name}, \
             http_filters: [{{name: router, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}], \
             route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{cluster: svc}}}}]}}]}}}}}}]}}]}}\n"
        )
    };
    let bootstrap = format!(
        "admin: {{address: {{pipe: {{path: \"{}\"}}}}}}\nstatic_resources:\n  listeners:\n{}{}  clusters:\n  - {{name: svc, type: STATIC, \
         load_assignment: {{cluster_name: svc, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, \
         port_value: {}}}}}}}}}]}}]}}}}\n",
        socket.display(),
        listener("in", inbound, "INBOUND"),
        listener("out", outbound, "OUTBOUND"),
        server.address.port(),
    );
    let proxy = Proxy::launch(&bootstrap, directory, Duration::from_secs(5));
    proxy.wait_ready().await;
    let post = async |path: &str| {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let closes = async |port| get(local(port), "/").await.header("connection") == Some("close");
    let unsupported = post("/drain_listeners").await;
    assert!(
        unsupported.starts_with("HTTP/1.1 400") && unsupported.contains("graceful&skip_exit"),
        "{unsupported}"
    );
    assert_eq!((closes(inbound).await, closes(outbound).await), (false, false));
    let told = post("/drain_listeners?graceful&skip_exit&inboundonly").await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert_eq!((closes(inbound).await, closes(outbound).await), (true, false));
    let told = post("/drain_listeners?graceful&skip_exit").await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert!(closes(outbound).await && !proxy.has_ended());
}
