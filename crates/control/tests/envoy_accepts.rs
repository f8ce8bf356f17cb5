//! Stock Envoy as the judge of what is lowered and of how it is served.
//!
//! Each test runs itself again in a network namespace of its own, where a real Envoy has the ports 15001 and 15006, the
//! control plane's ADS server is on loopback behind TLS, and redirection is as in a pod. A missing Envoy fails the test.

#[path = "envoy/gateway.rs"]
mod gateway;
#[path = "envoy/harness.rs"]
mod harness;

use std::sync::Arc;
use std::time::Duration;

use harness::{Envoy, Protocol, in_own_namespace, wait_until};
use weir_api::labels::Engine;
use weir_control::lower::Lowered;
use weir_mesh::Key;
use weir_xds::{ResourceType, Snapshot};

const NODE: &str = "productpage-5df889bcff-aaaaa.default";

fn snapshot(objects: &weir_mesh::Objects, lowered: &mut Lowered) -> Snapshot {
    let (mesh, _) = weir_mesh::build(objects);
    *lowered = Lowered::new(&mesh, lowered);
    lowered.check().expect("consistent");
    let key = mesh.pods.iter().find(|(_, p)| p.enabled).expect("an enabled pod").0;
    lowered.snapshot(&mesh, key, Engine::Envoy, None).expect("a known pod")
}

/// Every golden mesh after another, so that each is also reached by additions and removals.
async fn every_mesh_is_taken(protocol: Protocol) {
    let envoy = Envoy::start(NODE, protocol).await;
    let mut lowered = Lowered::default();
    for (name, objects) in harness::golden_meshes() {
        let snapshot = snapshot(&objects, &mut lowered);
        envoy.publish(&snapshot);
        envoy.has(&snapshot, &name).await;
        assert_eq!(envoy.rejections(), Vec::<String>::new(), "{name}");
    }
    envoy.stop().await;
}

#[test]
fn every_golden_mesh_is_taken_by_delta() {
    in_own_namespace("every_golden_mesh_is_taken_by_delta", || {
        every_mesh_is_taken(Protocol::Delta)
    });
}

#[test]
fn every_golden_mesh_is_taken_by_state_of_the_world() {
    in_own_namespace("every_golden_mesh_is_taken_by_state_of_the_world", || {
        every_mesh_is_taken(Protocol::Sotw)
    });
}

/// Scenario 4: blocked is 404, labelled is 200, unlabelled again is 404; and what is not HTTP is reset.
#[test]
fn a_port_label_opens_and_closes_a_port() {
    in_own_namespace("a_port_label_opens_and_closes_a_port", || async {
        harness::pod_network();
        harness::serve_http("10.244.1.3:9080", "reviews").await;
        let envoy = Envoy::start(NODE, Protocol::Delta).await;
        let mut lowered = Lowered::default();
        let mut publish = |label: Option<&str>| {
            let mut objects = harness::golden_mesh("simple-http");
            harness::label_service(&mut objects, "reviews", "traffic.port.9080", label);
            let snapshot = snapshot(&objects, &mut lowered);
            envoy.publish(&snapshot);
            snapshot
        };
        envoy.has(&publish(None), "blocked").await;
        let (status, body) = harness::get("10.96.0.20:9080", "reviews:9080").await;
        assert_eq!(status, 404, "{body}");
        assert!(
            body.contains("10.96.0.20:9080") && body.contains("traffic.port.9080"),
            "{body}"
        );
        assert!(harness::is_reset("10.96.0.20:9080", b"\x16\x03\x01 not http\r\n\r\n").await);

        envoy.has(&publish(Some("http")), "http").await;
        let mut seen = 0;
        wait_until("a request is answered", Duration::from_secs(10), async || {
            let (status, body) = harness::get("10.96.0.20:9080", "reviews:9080").await;
            seen = status;
            (status == 200).then(|| assert_eq!(body, "reviews"))
        })
        .await;
        assert_eq!(seen, 200);

        envoy.has(&publish(None), "blocked again").await;
        assert_eq!(harness::get("10.96.0.20:9080", "reviews:9080").await.0, 404);
        assert_eq!(envoy.rejections(), Vec::<String>::new());
        envoy.stop().await;
    });
}

/// While a mesh changes around it, a destination under load loses no request.
#[test]
fn changes_elsewhere_lose_no_request() {
    in_own_namespace("changes_elsewhere_lose_no_request", || async {
        harness::pod_network();
        harness::serve_http("10.244.1.3:9080", "reviews").await;
        harness::serve_http("10.244.1.4:9080", "reviews").await;
        let envoy = Envoy::start(NODE, Protocol::Delta).await;
        let mut lowered = Lowered::default();
        let base = snapshot(&harness::golden_mesh("simple-http"), &mut lowered);
        envoy.publish(&base);
        envoy.has(&base, "base").await;
        let load = tokio::spawn(harness::load("10.96.0.20:9080", "reviews:9080"));
        for round in 0..20 {
            let mut objects = harness::golden_mesh("simple-http");
            let extra = ["tcp", "direct", "headless"][round % 3];
            if round % 2 == 0 {
                harness::add_services(&mut objects, extra);
            }
            let next = snapshot(&objects, &mut lowered);
            envoy.publish(&next);
            envoy.has(&next, extra).await;
        }
        harness::stop_load();
        let (good, bad) = load.await.expect("load");
        assert_eq!(bad, Vec::<String>::new());
        assert!(good > 100, "only {good} requests");
        envoy.stop().await;
    });
}

/// What Envoy rejects is told by name, is not sent again, costs nothing else, and is forgotten when it is right again.
#[test]
fn a_rejected_resource_is_named_and_the_last_good_one_stays() {
    in_own_namespace("a_rejected_resource_is_named_and_the_last_good_one_stays", || async {
        let envoy = Envoy::start(NODE, Protocol::Delta).await;
        let good = snapshot(&harness::golden_mesh("simple-http"), &mut Lowered::default());
        envoy.publish(&good);
        envoy.has(&good, "good").await;

        let name = "10.96.0.20_9080.outbound";
        let mut listeners = good.resources(ResourceType::Listener).to_map();
        listeners.insert(name.to_owned(), harness::listener_with_unknown_filter(name));
        envoy.publish(&good.clone().with(ResourceType::Listener, Arc::new(listeners)));
        wait_until("the rejection", Duration::from_secs(10), async || {
            (!envoy.rejections().is_empty()).then_some(())
        })
        .await;
        let rejections = envoy.rejections();
        assert!(
            rejections.len() == 1 && rejections[0].starts_with("lds 10.96.0.20_9080.outbound: "),
            "{rejections:?}"
        );
        envoy.lists(&good).await;
        assert_eq!(envoy.nacks(), 1, "it is not sent again");

        envoy.publish(&good);
        wait_until("forgotten", Duration::from_secs(10), async || {
            envoy.rejections().is_empty().then_some(())
        })
        .await;
        envoy.stop().await;
    });
}

/// Clients of HTTP/1.1 and of HTTP/2 both reach an application of HTTP/2, outbound and inbound, and one of HTTP/1.1.
#[test]
fn either_http_is_translated_to_what_the_application_speaks() {
    in_own_namespace("either_http_is_translated_to_what_the_application_speaks", || async {
        harness::pod_network();
        for address in ["10.244.1.2", "10.244.1.3"] {
            harness::serve_http2(&format!("{address}:9080"), "http2").await;
            harness::serve_http2(&format!("{address}:9090"), "grpc").await;
        }
        harness::serve_http("10.244.1.2:8080", "http1").await;
        let envoy = Envoy::start(NODE, Protocol::Delta).await;
        let snapshot = snapshot(&harness::golden_mesh("http2"), &mut Lowered::default());
        envoy.publish(&snapshot);
        envoy.has(&snapshot, "http2").await;
        for (address, text) in [
            ("10.96.0.20:9080", "http2"),
            ("10.96.0.20:9090", "grpc"),
            ("10.244.1.2:9080", "http2"),
            ("10.244.1.2:9090", "grpc"),
            ("10.96.0.21:80", "http1"),
            ("10.244.1.2:8080", "http1"),
        ] {
            let of_http1 = harness::get(address, "reviews").await;
            assert_eq!(of_http1, (200, text.to_owned()), "HTTP/1.1 to {address}");
            // Where Services disagree, the application gets what the client speaks: here that would be HTTP/2.
            if address != "10.244.1.2:8080" {
                let of_http2 = harness::get_http2(address, "reviews").await;
                assert_eq!(of_http2, (200, text.to_owned()), "HTTP/2 to {address}");
            }
        }
        let (status, _) = harness::get_http2("10.96.0.77:9080", "nobody").await;
        assert_eq!(status, 404, "a blocked request of HTTP/2 is told so too");
        assert_eq!(envoy.rejections(), Vec::<String>::new());
        envoy.stop().await;
    });
}

/// What is redirected of either family finds its listener, and its way on. IPv6 comes later, and costs IPv4 nothing.
#[test]
fn ipv6_and_ipv4_go_the_same_way() {
    in_own_namespace("ipv6_and_ipv4_go_the_same_way", || async {
        harness::pod_network();
        harness::serve_http("10.244.1.3:9080", "reviews").await;
        for port in [8080, 8081, 8082] {
            harness::serve_http(&format!("[fd00:10:244::2]:{port}"), "six").await;
        }
        let envoy = Envoy::start(NODE, Protocol::Delta).await;
        let mut objects = harness::golden_mesh("ipv6");
        // The one endpoint that answers here.
        let slice = objects.endpoint_slices.get_mut(&Key::new("default", "reviews-abcde"));
        let slice = Arc::make_mut(slice.expect("the slice"));
        slice.endpoints.get_or_insert_default().truncate(1);
        // A pod's addresses are not known before it runs; its proxy is there earlier.
        let mut early = objects.clone();
        for pod in early.pods.values_mut() {
            let status = Arc::make_mut(pod).status.get_or_insert_default();
            status.pod_ips = None;
        }
        let mut lowered = Lowered::default();
        let first = snapshot(&early, &mut lowered);
        envoy.publish(&first);
        envoy.has(&first, "IPv4").await;
        assert_eq!(harness::get("10.96.0.20:9080", "x").await.0, 200);
        let load = tokio::spawn(harness::load("10.96.0.20:9080", "reviews:9080"));
        let snapshot = snapshot(&objects, &mut lowered);
        envoy.publish(&snapshot);
        envoy.has(&snapshot, "both families").await;
        for (address, text) in [
            ("10.96.0.20:9080", "reviews"),
            ("[fd00:10:96::20]:9080", "reviews"),
            ("[fd00:10:96::21]:80", "six"),
            // Inbound.
            ("[fd00:10:244::2]:8080", "six"),
        ] {
            assert_eq!(harness::get(address, "x").await, (200, text.to_owned()), "{address}");
        }
        for stream in ["[fd00:10:96::21]:81", "[fd00:10:244::2]:8081"] {
            let answer = harness::first_bytes(stream, b"GET / HTTP/1.1\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{stream}: {answer}");
        }
        harness::stop_load();
        let (good, bad) = load.await.expect("load");
        assert!(good > 0 && bad.is_empty(), "{good} requests; {bad:?}");
        for blocked in ["10.96.0.77:80", "[fd00:10:96::77]:80"] {
            let (status, body) = harness::get(blocked, "x").await;
            assert!(status == 404 && body.contains(blocked), "{blocked}: {status} {body}");
        }
        assert_eq!(envoy.rejections(), Vec::<String>::new());
        envoy.stop().await;
    });
}

/// Labels act on requests, each by the one resource that it concerns, and are gone when they are removed.
#[test]
fn labels_act_on_requests_and_stop_when_removed() {
    in_own_namespace("labels_act_on_requests_and_stop_when_removed", || async {
        const WEB: &str = "10.96.0.20:9080";
        harness::pod_network();
        harness::serve_http("10.244.1.3:9080", "reviews").await;
        harness::serve_http("10.244.1.4:9080", "reviews").await;
        let envoy = Envoy::start(NODE, Protocol::Delta).await;
        let mut lowered = Lowered::default();
        let mut last = snapshot(&harness::golden_mesh("simple-http"), &mut lowered);
        envoy.publish(&last);
        envoy.has(&last, "base").await;
        assert_eq!(harness::get(WEB, "reviews").await.0, 200);
        let mut publish = async |labels: &[(&str, &str)], only: &[ResourceType]| {
            let mut objects = harness::golden_mesh("simple-http");
            for (key, value) in labels {
                harness::label_service(&mut objects, "reviews", key, Some(value));
            }
            let next = snapshot(&objects, &mut lowered);
            for ty in ResourceType::ALL {
                let changed = next.resources(ty) != last.resources(ty);
                assert_eq!(changed, only.contains(&ty), "{labels:?}: {ty}");
            }
            envoy.publish(&next);
            envoy.has(&next, &format!("{labels:?}")).await;
            last = next;
        };
        let status = async |expected: u16, what: &str| {
            wait_until(what, Duration::from_secs(10), async || {
                (harness::get(WEB, "reviews").await.0 == expected).then_some(())
            })
            .await;
        };

        let abort = [
            ("traffic.fault.abort.status", "505"),
            ("traffic.fault.abort.percentage", "100"),
        ];
        publish(&abort, &[ResourceType::Route]).await;
        status(505, "an abort").await;
        let delay = [
            ("traffic.fault.delay.time", "300ms"),
            ("traffic.fault.delay.percentage", "100"),
        ];
        publish(&[abort, delay].concat(), &[ResourceType::Route]).await;
        wait_until("a delay before the abort", Duration::from_secs(10), async || {
            let started = std::time::Instant::now();
            let (status, _) = harness::get(WEB, "reviews").await;
            (status == 505 && started.elapsed() >= Duration::from_millis(300)).then_some(())
        })
        .await;
        publish(&delay, &[ResourceType::Route]).await;
        status(200, "no abort any more").await;

        let hash = [
            ("traffic.lb.policy", "RING_HASH"),
            ("traffic.hash.cookie.name", "user"),
            ("traffic.hash.cookie.ttl", "100000"),
        ];
        publish(&hash, &[ResourceType::Route, ResourceType::Cluster]).await;
        wait_until("a cookie", Duration::from_secs(10), async || {
            let answer = harness::first_bytes(WEB, b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
            let cookie = answer.lines().find_map(|l| l.strip_prefix("set-cookie: user="))?;
            Some(assert!(cookie.contains("Max-Age=100000; HttpOnly"), "{cookie}"))
        })
        .await;
        publish(&[], &[ResourceType::Route, ResourceType::Cluster]).await;
        wait_until("no cookie any more", Duration::from_secs(10), async || {
            let answer = harness::first_bytes(WEB, b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
            (answer.starts_with("HTTP/1.1 200") && !answer.contains("set-cookie")).then_some(())
        })
        .await;
        assert_eq!(envoy.rejections(), Vec::<String>::new());
        envoy.stop().await;
    });
}

/// Scenario 10: shares by weight, the backend's own target port, nothing to the backend whose port does not match.
#[test]
fn a_split_shares_requests_by_weight() {
    in_own_namespace("a_split_shares_requests_by_weight", || async {
        harness::pod_network();
        harness::serve_http("10.244.1.3:8080", "v1").await;
        harness::serve_http2("10.244.1.4:8081", "v2").await;
        let envoy = Envoy::start("client.default", Protocol::Delta).await;
        let mut lowered = Lowered::default();
        let mut objects = harness::golden_mesh("splits");
        let split = |weight: u32| {
            serde_json::json!({"kind": "TrafficSplit", "metadata": {"namespace": "default", "name": "birds"}, "spec": {
                "service": "birds", "backends": [{"service": "birds-v1", "weight": 1000}, {"service": "birds-v2", "weight": weight}]}})
        };
        for (weight, share) in [(500, 1.0 / 3.0), (0, 0.0), (9000, 0.9_f64)] {
            objects.insert(split(weight)).expect("a split");
            let snapshot = snapshot(&objects, &mut lowered);
            envoy.publish(&snapshot);
            envoy.has(&snapshot, "the split").await;
            envoy.has_routes(&snapshot).await;
            let mut second = 0;
            for _ in 0..600 {
                let (status, body) = harness::get("10.96.0.20:80", "birds").await;
                assert_eq!(status, 200, "{body}");
                second += u32::from(body == "v2");
            }
            let deviation = (600.0 * share * (1.0 - share)).sqrt();
            assert!(
                (f64::from(second) - 600.0 * share).abs() <= 5.0 * deviation,
                "{second} of 600 at weight {weight}"
            );
        }
        assert_eq!(envoy.rejections(), Vec::<String>::new());
        envoy.stop().await;
    });
}
