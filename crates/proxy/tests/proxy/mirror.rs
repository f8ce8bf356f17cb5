//! Copies of requests, by this proxy and by stock Envoy alike.

use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use http::Request;

use crate::engines::*;
use crate::sides::*;
use crate::support::*;

type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A server that remembers heads and bodies.
async fn remembering() -> (Server, Seen) {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let server = Server::http(move |head, body| {
        kept.lock().unwrap().push((head.to_lowercase(), body.to_vec()));
        response(500, "of the copy")
    })
    .await;
    (server, seen)
}

fn mirror(cluster: &str) -> pb::route_action::RequestMirrorPolicy {
    pb::route_action::RequestMirrorPolicy {
        cluster: cluster.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn others_get_copies_and_nobody_waits_for_them() {
    let original = Server::http(|_, body| ok(&format!("{} bytes", body.len()))).await;
    let (copy, seen) = remembering().await;
    // Accepts, and says nothing ever.
    let silent = Server::start(|stream| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    let mut never = mirror("copy");
    never.runtime_fraction = Some(RuntimeFractionalPercent {
        default_value: Some(FractionalPercent::default()),
        ..Default::default()
    });
    let mut named = mirror("copy");
    named.disable_shadow_host_suffix_append = true;
    let with = |path: &str, mirrors| {
        let action = pb::RouteAction {
            request_mirror_policies: mirrors,
            prefix_rewrite: path.into(),
            ..action("original")
        };
        pb::Route {
            request_headers_to_add: vec![header("x-added", "1", Default::default())],
            ..forward(prefix(path), action)
        }
    };
    let routes = vec![
        with("/named", vec![named]),
        with("/none", vec![never]),
        with("/", vec![mirror("silent"), mirror("copy"), mirror("nobody")]),
    ];
    let clusters = [
        ("original", original.address),
        ("copy", copy.address),
        ("silent", silent.address),
        ("nobody", local(free_port())),
    ];
    for engine in engines(&http_with(routes), &clusters).await {
        let at = engine.name;
        let copied = async |count: usize| {
            eventually("the copies come", async || seen.lock().unwrap().len() >= count).await;
            let found = std::mem::take(&mut *seen.lock().unwrap());
            assert_eq!(found.len(), count, "{at}: {found:?}");
            found
        };
        let mut client = Client::connect(engine.address).await;
        assert_eq!(client.get("svc:80", "/one?q").await.text(), "0 bytes");
        let (head, _) = &copied(1).await[0];
        assert!(head.starts_with("get /one?q http/1.1\r\n"), "{at}: {head}");
        assert!(head.contains("\r\nhost: svc-shadow:80\r\n"), "{at}: {head}");
        assert!(head.contains("\r\nx-added: 1\r\n"), "{at}: {head}");
        client
            .send("POST /two HTTP/1.1\r\nHost: svc\r\nContent-Length: 5\r\n\r\nhello")
            .await;
        assert_eq!(client.answer("POST").await.text(), "5 bytes");
        let (head, body) = &copied(1).await[0];
        assert!(head.starts_with("post /two ") && body == b"hello", "{at}: {head}");

        // Bodies that nobody keeps: of unknown length, longer than what is kept, after an invitation.
        client
            .send("POST /chunks HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await;
        client.send("1\r\n!\r\n0\r\n\r\n").await;
        assert_eq!(client.answer("POST").await.text(), "6 bytes", "{at}");
        let (head, body) = &copied(1).await[0];
        assert!(head.starts_with("post /chunks ") && body == b"hello!", "{at}: {head}");
        let long = "x".repeat(200_000);
        client
            .send(&format!(
                "PUT /long HTTP/1.1\r\nHost: svc\r\nContent-Length: {}\r\n\r\n{long}",
                long.len()
            ))
            .await;
        assert_eq!(client.answer("PUT").await.text(), "200000 bytes", "{at}");
        let (head, body) = &copied(1).await[0];
        assert!(head.starts_with("put /long ") && body.len() == 200_000, "{at}: {head}");
        client
            .send("POST /asked HTTP/1.1\r\nHost: svc\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            .await;
        assert_eq!(client.answer("POST").await.status, 100, "{at}");
        client.send("me").await;
        assert_eq!(client.answer("POST").await.text(), "2 bytes", "{at}");
        let (head, body) = &copied(1).await[0];
        assert!(head.starts_with("post /asked ") && body == b"me", "{at}: {head}");
        assert!(!head.contains("expect:"), "{at}: {head}");

        let sender = connect_two(engine.address).await;
        let post = Request::post("http://svc/three").body(()).unwrap();
        let reply = ask_two(&sender, post, &[b'x'; 10_000]).await.unwrap();
        assert_eq!(reply.body, b"10000 bytes");
        let (head, body) = &copied(1).await[0];
        assert!(head.starts_with("post /three ") && body.len() == 10_000, "{at}: {head}");
        assert_eq!(client.get("svc", "/none").await.status, 200);
        assert_eq!(client.get("svc", "/named").await.status, 200);
        let (head, _) = &copied(1).await[0];
        assert!(
            head.starts_with("get /named ") && head.contains("\r\nhost: svc\r\n"),
            "{at}: {head}"
        );

        let Some(proxy) = &engine.weir else { continue };
        eventually("tries of copies are counted", async || {
            proxy.sum("attempt_total", &["dst_pod=\"copy\""]).await == 7.0
        })
        .await;
        let page = get(proxy.metrics, "/metrics").await.text();
        assert_eq!(sum(&page, "request_total", &[]), 8.0, "{page}");
        assert_eq!(
            sum(&page, "response_total", &["classification=\"success\""]),
            8.0,
            "{page}"
        );
        assert_eq!(sum(&page, "attempt_total", &["dst_pod=\"silent\""]), 6.0, "{page}");
        let page = get(proxy.metrics, "/stats/prometheus").await.text();
        let failed = ["envoy_cluster_name=\"copy\"", "envoy_response_code_class=\"5\""];
        eventually("their responses count for their cluster", async || {
            let page = get(proxy.metrics, "/stats/prometheus").await.text();
            sum(&page, "envoy_cluster_upstream_rq_xx", &failed) == 7.0
        })
        .await;
        assert_eq!(sum(&page, "envoy_http_downstream_rq_total", &[]), 8.0);
    }
}
