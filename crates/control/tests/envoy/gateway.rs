//! The gateway on stock Envoy: hosts, paths, redirects, certificates by name, and a certificate that changes.

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use weir_api::labels::Engine;
use weir_control::lower::{GATEWAY_NODE, Lowered};
use weir_mesh::{Key, Objects};
use weir_xds::Snapshot;

use crate::harness::{self, Envoy, Protocol, in_own_namespace, wait_until};

fn snapshot(objects: &Objects, lowered: &mut Lowered) -> Snapshot {
    let (mesh, _) = weir_mesh::build(objects);
    *lowered = Lowered::new(&mesh, lowered);
    lowered.check().expect("consistent");
    lowered.gateway_snapshot(Engine::Envoy).expect("a gateway")
}

/// What curl prints of one request: `status body|location`, with the subject of the server's certificate in front.
async fn curl(url: &str) -> String {
    let mut command = Command::new(harness::tool("curl"));
    command.args([
        "-sk",
        "--max-time",
        "10",
        "-w",
        " %{http_code} %{redirect_url} h%{http_version}",
    ]);
    for host in [
        "shop.example.com",
        "a.example.org",
        "a.b.example.org",
        "other.example.net",
    ] {
        command.args(["--resolve", &format!("{host}:8080:127.0.0.1")]);
        command.args(["--resolve", &format!("{host}:8444:127.0.0.1")]);
    }
    command.arg(url);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("joined").expect("curl runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The subject of the certificate that is shown to clients that ask for a name.
async fn subject(name: &str) -> String {
    let mut command = Command::new(harness::tool("openssl"));
    command.args(["s_client", "-connect", "127.0.0.1:8444", "-servername", name]);
    command.stdin(std::process::Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("joined").expect("openssl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("subject="));
    line.unwrap_or_default().replace(' ', "")
}

async fn started(objects: &Objects, lowered: &mut Lowered, protocol: Protocol) -> Envoy {
    harness::pod_network();
    harness::serve_http("10.244.1.3:8000", "web").await;
    harness::serve_http("10.244.1.4:9080", "reviews").await;
    let envoy = Envoy::start(GATEWAY_NODE, protocol).await;
    let first = snapshot(objects, lowered);
    envoy.publish(&first);
    envoy.has(&first, "the gateway").await;
    envoy.has_routes(&first).await;
    assert_eq!(envoy.rejections(), Vec::<String>::new());
    envoy
}

#[test]
fn an_ingress_is_served() {
    in_own_namespace("gateway::an_ingress_is_served", || async {
        let (objects, mut lowered) = (harness::golden_mesh("ingress"), Lowered::default());
        let envoy = started(&objects, &mut lowered, Protocol::Delta).await;
        for (url, answer) in [
            (
                "http://shop.example.com:8080/.well-known/acme-challenge/token",
                "reviews 200  h1.1",
            ),
            (
                "http://shop.example.com:8080/a?b=c",
                "308 https://shop.example.com:8080/a?b=c h1.1",
            ),
            ("https://shop.example.com:8444/", "web 200  h2"),
            ("https://shop.example.com:8444/reviews", "web 200  h2"),
            ("https://shop.example.com:8444/reviews/1", "reviews 200  h2"),
            ("https://shop.example.com:8444/reviewsmore", "web 200  h2"),
            ("http://a.example.org:8080/wild", "web 200  h1.1"),
            ("https://a.example.org:8444/wild", "web 200  h2"),
            ("http://other.example.net:8080/anything", "web 200  h1.1"),
            ("http://other.example.net:8080/nobody/x", "503  h1.1"),
        ] {
            assert_eq!(curl(url).await, answer, "{url}");
        }
        assert_eq!(subject("shop.example.com").await, "CN=shop.example.com");
        assert_eq!(subject("x.example.org").await, "CN=*.example.org");
        assert_eq!(subject("unknown.example.net").await, "CN=fallback");
        envoy.stop().await;
    });
}

/// Scenario 7: a Secret that changes changes the certificate that new connections see, and drops none.
#[test]
fn a_certificate_is_swapped_live() {
    in_own_namespace("gateway::a_certificate_is_swapped_live", || async {
        let (mut objects, mut lowered) = (harness::golden_mesh("ingress"), Lowered::default());
        let envoy = started(&objects, &mut lowered, Protocol::Sotw).await;
        assert_eq!(subject("shop.example.com").await, "CN=shop.example.com");
        let load = tokio::spawn(harness::load("127.0.0.1:8080", "other.example.net"));
        let old = snapshot(&objects, &mut lowered);
        let other = objects.secrets[&Key::new("default", "fallback")].data.clone();
        objects
            .insert(json!({"kind": "Secret", "metadata": {"namespace": "default", "name": "shop"}, "data": other}))
            .expect("a Secret");
        let next = snapshot(&objects, &mut lowered);
        for ty in [weir_xds::ResourceType::Listener, weir_xds::ResourceType::Route] {
            assert_eq!(old.version(ty), next.version(ty), "only the Secret changes");
        }
        envoy.publish(&next);
        wait_until("the new certificate", Duration::from_secs(10), async || {
            (subject("shop.example.com").await == "CN=fallback").then_some(())
        })
        .await;
        harness::stop_load();
        let (good, bad) = load.await.expect("load");
        assert!(good > 0 && bad.is_empty(), "{good} good, bad: {bad:?}");
        envoy.stop().await;
    });
}

/// Hosts, precedence, rewrites, redirects and edits of HTTPRoutes, as stock Envoy understands them.
#[test]
fn http_routes_are_served() {
    in_own_namespace("gateway::http_routes_are_served", || async {
        let (objects, mut lowered) = (harness::golden_mesh("gateway-api"), Lowered::default());
        let envoy = started(&objects, &mut lowered, Protocol::Delta).await;
        for (url, answer) in [
            ("http://shop.example.com:8080/reviews/x", "reviews 200  h1.1"),
            ("http://shop.example.com:8080/reviews", "reviews 200  h1.1"),
            (
                "http://shop.example.com:8080/old?a=b",
                "301 http://new.example.com/new?a=b h1.1",
            ),
            ("http://shop.example.com:8080/v1/x?debug=1", "reviews 200  h1.1"),
            ("https://shop.example.com:8444/reviews", "reviews 200  h2"),
        ] {
            assert_eq!(curl(url).await, answer, "{url}");
        }
        envoy.stop().await;
    });
}
