//! Traces: what requests carry on, which of them are told of, and what a collector hears.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::config::trace::v3 as trace;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::r#type::v3 as percent;
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use prost::Message;
use serde_json::Value;
use tokio::net::TcpListener;
use weir_xds::{Resource, ResourceType};

use crate::plane::*;
use crate::sides::*;
use crate::support::*;

/// A collector: the bodies that it was sent.
struct Collector {
    server: Server,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    async fn start() -> Self {
        let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let kept = Arc::clone(&bodies);
        let server = Server::http(move |head, body| {
            assert!(head.starts_with("POST /"), "{head}");
            kept.lock().unwrap().push(body.to_vec());
            response(202, "")
        })
        .await;
        Self { server, bodies }
    }

    /// Every span so far, as Zipkin has them.
    fn spans(&self) -> Vec<Value> {
        let bodies = self.bodies.lock().unwrap();
        let lists = bodies
            .iter()
            .map(|b| serde_json::from_slice::<Vec<Value>>(b).expect("a JSON list"));
        lists.flatten().collect()
    }

    async fn wait(&self, count: usize) -> Vec<Value> {
        eventually("all spans came", async || self.spans().len() >= count).await;
        self.spans()
    }
}

/// A server that keeps the heads of its requests.
async fn application() -> (Server, Arc<Mutex<Vec<String>>>) {
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&heads);
    let server = Server::http(move |head, _| {
        kept.lock().unwrap().push(head.to_owned());
        ok("fine")
    })
    .await;
    (server, heads)
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut found = head.lines().filter_map(|line| {
        let (n, value) = line.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    });
    let first = found.next();
    assert_eq!(found.next(), None, "{name} stands twice in {head}");
    first
}

fn zipkin() -> Any {
    any(&trace::ZipkinConfig {
        collector_cluster: "tracing".into(),
        collector_endpoint: "/api/v2/spans".into(),
        collector_endpoint_version: trace::zipkin_config::CollectorEndpointVersion::HttpJson.into(),
        shared_span_context: Some(BoolValue { value: false }),
        trace_id_128bit: true,
        ..Default::default()
    })
}

fn otlp() -> Any {
    any(&trace::OpenTelemetryConfig {
        http_service: Some(core::HttpService {
            http_uri: Some(core::HttpUri {
                uri: "http://collector:4318/v1/traces".into(),
                http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster("tracing".into())),
                ..Default::default()
            }),
            ..Default::default()
        }),
        service_name: "named.default".into(),
        ..Default::default()
    })
}

/// The resources of [`service`] with tracing.
struct Traced {
    port: u16,
    provider: Any,
    direction: core::TrafficDirection,
    percent: f64,
    split: bool,
    /// What the route says.
    route: Option<route::Tracing>,
}

impl Traced {
    fn new(port: u16, direction: core::TrafficDirection) -> Self {
        Self {
            port,
            provider: zipkin(),
            direction,
            percent: 100.0,
            split: false,
            route: None,
        }
    }

    fn resources(&self, to: &Server, collector: std::net::SocketAddr) -> Vec<Arc<Resource>> {
        let mut filter = manager(named("web"));
        if let Some(listener::filter::ConfigType::TypedConfig(any)) = &mut filter.config_type {
            let mut manager = hcm::HttpConnectionManager::decode(any.value.as_slice()).unwrap();
            manager.tracing = Some(hcm::http_connection_manager::Tracing {
                provider: Some(trace::tracing::Http {
                    name: "tracer".into(),
                    config_type: Some(trace::tracing::http::ConfigType::TypedConfig(self.provider.clone())),
                }),
                random_sampling: Some(percent::Percent { value: self.percent }),
                spawn_upstream_span: Some(BoolValue { value: self.split }),
                ..Default::default()
            });
            any.value = manager.encode_to_vec();
        }
        let mut listener = listener_message("web", local(self.port), true, filter);
        listener.traffic_direction = self.direction.into();
        let mut table = table("web", &["svc"], "svc");
        let first = &mut table.virtual_hosts[0].routes[0];
        first.decorator = Some(route::Decorator {
            operation: "svc.default:80/*".into(),
            ..Default::default()
        });
        first.tracing = self.route.clone();
        vec![
            cluster("svc"),
            endpoints("svc", &[(to.address, "pod-b")]),
            cluster("tracing"),
            endpoints("tracing", &[(collector, "zipkin")]),
            Resource::new(ResourceType::Listener, "web", listener.encode_to_vec()),
            Resource::new(ResourceType::Route, "web", table.encode_to_vec()),
        ]
    }

    /// A proxy with these, called `name`.
    async fn proxy(&self, name: &str, to: &Server, collector: std::net::SocketAddr) -> (Plane, Proxy) {
        let plane = Plane::start().await;
        plane.publish(self.resources(to, collector));
        let text = bootstrap(plane.address).replace("cluster: weir", &format!("cluster: {name}"));
        let proxy = Proxy::start(&text).await;
        (plane, proxy)
    }
}

use core::TrafficDirection::{Inbound, Outbound};

#[tokio::test]
async fn a_request_through_two_proxies_is_one_tree() {
    let collector = Collector::start().await;
    let (application, heads) = application().await;
    let (inner, outer) = (free_port(), free_port());
    let at = collector.server.address;
    let (_plane, _inbound) = Traced::new(inner, Inbound)
        .proxy("server.default", &application, at)
        .await;
    // The outbound proxy's endpoint is the inbound one.
    let behind = Server::at(([127, 0, 0, 1], 0).into(), move |mut stream| async move {
        let mut to = tokio::net::TcpStream::connect(local(inner)).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
    })
    .await;
    let (_plane, _outbound) = Traced::new(outer, Outbound).proxy("caller.default", &behind, at).await;
    let answer = Client::connect(local(outer)).await.get("svc", "/a?b=c").await;
    assert_eq!(answer.status, 200);
    let two = connect_two(local(outer)).await;
    assert_eq!(ask_two(&two, request("GET", "/two"), b"").await.unwrap().status, 200);

    let spans = collector.wait(4).await;
    assert_eq!(spans.len(), 4);
    for (head, path) in heads.lock().unwrap().iter().zip(["/a", "/two"]) {
        let side = |kind: &str| {
            let found: Vec<_> = spans
                .iter()
                .filter(|s| s["kind"] == kind && s["tags"]["http.path"] == path)
                .collect();
            assert_eq!(found.len(), 1, "{kind} {path}: {spans:#?}");
            found[0].clone()
        };
        let (client, server) = (side("CLIENT"), side("SERVER"));
        assert_eq!(client.get("parentId"), None);
        assert_eq!(server["parentId"], client["id"]);
        assert_eq!(server["traceId"], client["traceId"]);
        assert_eq!(client["traceId"].as_str().unwrap().len(), 32);
        assert_eq!(client["localEndpoint"]["serviceName"], "caller.default");
        assert_eq!(server["localEndpoint"]["serviceName"], "server.default");
        assert_eq!(client["remoteEndpoint"]["serviceName"], "pod-b.default");
        assert_eq!(
            (&client["name"], &server["name"]),
            (&"svc.default:80/*".into(), &"svc.default:80/*".into())
        );
        assert_eq!(client["tags"]["http.status_code"], "200");
        assert_eq!(client["tags"]["upstream_cluster"], "svc");
        assert_eq!(client["tags"]["node_id"], NODE);
        assert_eq!(client["tags"]["guid:x-request-id"], server["tags"]["guid:x-request-id"]);
        assert!(client["tags"].get("error").is_none());
        assert!(
            client["duration"].as_u64() >= server["duration"].as_u64(),
            "one holds the other"
        );
        let text = |name| header(head, name).unwrap_or_else(|| panic!("no {name} in {head}"));
        assert_eq!(text("x-b3-traceid"), server["traceId"]);
        assert_eq!(
            text("x-b3-spanid"),
            server["id"],
            "what the application calls belongs to this span"
        );
        assert_eq!(text("x-b3-parentspanid"), client["id"]);
        assert_eq!(text("x-b3-sampled"), "1");
        let (trace, span) = (text("x-b3-traceid"), text("x-b3-spanid"));
        assert_eq!(text("traceparent"), format!("00-{trace}-{span}-01"));
        assert_eq!(header(head, "b3"), None);
    }
}

/// What a real collector makes of it: who called whom, and each trace whole.
#[tokio::test]
async fn the_collector_knows_who_called_whom() {
    const REQUESTS: usize = 40;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let limits = weir_traces::Limits {
        spans: 1000,
        bytes: 16 << 20,
    };
    let collector = tokio::spawn(weir_traces::serve(listener, limits, stop.clone()));
    let application = Server::http(|head, _| match head.starts_with("GET /bad") {
        true => response(500, "bad"),
        false => ok("fine"),
    })
    .await;
    let (inner, outer) = (free_port(), free_port());
    let (_plane, _inbound) = Traced::new(inner, Inbound)
        .proxy("server.default", &application, at)
        .await;
    let behind = Server::at(([127, 0, 0, 1], 0).into(), move |mut stream| async move {
        let mut to = tokio::net::TcpStream::connect(local(inner)).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
    })
    .await;
    let (_plane, _outbound) = Traced::new(outer, Outbound).proxy("caller.default", &behind, at).await;
    let mut client = Client::connect(local(outer)).await;
    for n in 0..REQUESTS {
        let path = if n % 4 == 0 { "/bad" } else { "/good" };
        client.get("svc", path).await;
    }
    let question = async |target: &str| -> Value { serde_json::from_slice(&get(at, target).await.body).unwrap() };
    eventually("all spans are there", async || {
        let traces = question("/api/v2/traces?limit=1000").await;
        let whole = |trace: &&Value| trace.as_array().is_some_and(|spans| spans.len() == 2);
        traces.as_array().unwrap().iter().filter(whole).count() == REQUESTS
    })
    .await;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let links = question(&format!("/api/v2/dependencies?endTs={}", now.as_millis())).await;
    let expected = serde_json::json!([{
        "parent": "caller.default", "child": "server.default", "callCount": REQUESTS, "errorCount": REQUESTS / 4}]);
    assert_eq!(links, expected);
    let failed = question(
        "/api/v2/traces?serviceName=server.default&annotationQuery=error+and+http.status_code%3D500&limit=100",
    );
    assert_eq!(failed.await.as_array().unwrap().len(), REQUESTS / 4);
    stop.cancel();
    tokio::time::timeout(PATIENCE, collector)
        .await
        .expect("it ends")
        .unwrap();
}

#[tokio::test]
async fn what_comes_with_a_request_is_obeyed_in_each_format() {
    let collector = Collector::start().await;
    let (application, heads) = application().await;
    let port = free_port();
    let mut traced = Traced::new(port, Inbound);
    // Nothing would be recorded if nobody asked for it.
    traced.percent = 0.0;
    let (_plane, _proxy) = traced
        .proxy("server.default", &application, collector.server.address)
        .await;
    let trace = "80f198ee56343ba864fe8b2a57d3eff7";
    let span = "e457b5a2e4d86bd1";
    let single = |state: &str| format!("b3: {trace}-{span}-{state}-05e3ac9a4f6e3b90\r\n");
    let several = |sampled: &str| {
        format!(
            "X-B3-TraceId: {trace}\r\nX-B3-SpanId: {span}\r\nX-B3-ParentSpanId: 05e3ac9a4f6e3b90\r\nX-B3-Sampled: {sampled}\r\n"
        )
    };
    let w3c = |flags: &str| format!("traceparent: 00-{trace}-{span}-{flags}\r\ntracestate: vendor=x,other=y\r\n");
    let cases = [
        (single("1"), true),
        (single("0"), false),
        (single("d"), true),
        (several("1"), true),
        (several("0"), false),
        (w3c("01"), true),
        (w3c("00"), false),
        ("b3: 0\r\n".to_owned(), false),
        (String::new(), false),
    ];
    let mut client = Client::connect(local(port)).await;
    for (n, (headers, sampled)) in cases.iter().enumerate() {
        client
            .send(format!("GET /{n} HTTP/1.1\r\nHost: svc\r\n{headers}\r\n"))
            .await;
        assert_eq!(client.answer("GET").await.status, 200);
        let head = heads.lock().unwrap().last().unwrap().clone();
        let text = |name| header(&head, name).unwrap_or_else(|| panic!("no {name} in {head}"));
        let known = headers.contains(trace);
        assert_eq!(text("x-b3-traceid") == trace, known, "{head}");
        let bit = u8::from(*sampled);
        let (own, name) = (text("x-b3-spanid"), text("x-b3-traceid"));
        assert_eq!(text("traceparent"), format!("00-{name}-{own}-0{bit}"));
        match sampled {
            true => {
                assert_ne!(own, span, "it has a span of its own");
                assert_eq!(text("x-b3-parentspanid"), span);
            }
            // Nobody tells of this hop, so nothing may belong to it.
            false => assert_eq!(own == span, known),
        }
        match headers.contains("-d-") {
            true => assert_eq!(text("x-b3-flags"), "1"),
            false => assert_eq!(text("x-b3-sampled"), bit.to_string()),
        }
        assert_eq!(header(&head, "b3").is_some(), headers.starts_with("b3"), "{head}");
        assert_eq!(header(&head, "tracestate").is_some(), headers.contains("tracestate"));
        if headers.contains("tracestate") {
            assert_eq!(text("tracestate"), "vendor=x,other=y");
        }
    }
    let spans = collector.wait(4).await;
    let mut paths: Vec<_> = spans.iter().map(|s| s["tags"]["http.path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        ["/0", "/2", "/3", "/5"],
        "those that were to be recorded, and no others"
    );
    assert!(spans.iter().all(|s| s["traceId"] == trace && s["parentId"] == span));
    assert_eq!(spans.iter().filter(|s| s["debug"] == true).count(), 1);
}

#[tokio::test]
async fn the_share_of_recorded_requests_is_as_said_and_a_route_may_say_otherwise() {
    const REQUESTS: usize = 3000;
    let collector = Collector::start().await;
    let (application, heads) = application().await;
    let port = free_port();
    let mut traced = Traced::new(port, Outbound);
    let (plane, _proxy) = traced
        .proxy("caller.default", &application, collector.server.address)
        .await;
    let part = |numerator: u32| route::Tracing {
        random_sampling: Some(percent::FractionalPercent {
            numerator,
            denominator: percent::fractional_percent::DenominatorType::Million.into(),
        }),
        ..Default::default()
    };
    let mut client = Client::connect(local(port)).await;
    for (percent, route, share) in [
        (30.0, None, 0.3),
        (0.0, None, 0.0),
        (0.0, Some(125_000), 0.125),
        (100.0, Some(0), 0.0),
    ] {
        (traced.percent, traced.route) = (percent, route.map(part));
        plane.publish(traced.resources(&application, collector.server.address));
        // A change comes into force some time after it was published.
        let marked = format!("{percent} {route:?}");
        eventually(&marked, async || {
            heads.lock().unwrap().clear();
            for _ in 0..120 {
                client.get("svc", "/").await;
            }
            let heads = heads.lock().unwrap();
            let hits = heads
                .iter()
                .filter(|h| header(h, "x-b3-sampled").as_deref() == Some("1"))
                .count();
            // Far from what was before, whichever that was.
            (hits as f64 / 120.0 - share).abs() < 0.2 && (share > 0.0) == (hits > 0)
        })
        .await;
        heads.lock().unwrap().clear();
        for _ in 0..REQUESTS {
            assert_eq!(client.get("svc", "/").await.status, 200);
        }
        let heads = heads.lock().unwrap();
        let hits = heads
            .iter()
            .filter(|h| header(h, "x-b3-sampled").as_deref() == Some("1"))
            .count();
        let (expected, sigma) = (
            share * REQUESTS as f64,
            (REQUESTS as f64 * share * (1.0 - share)).sqrt(),
        );
        assert!(
            (hits as f64 - expected).abs() <= 5.0 * sigma,
            "{marked}: {hits} of {REQUESTS}, not {expected}"
        );
    }
}

#[tokio::test]
async fn a_gateway_tells_of_both_sides_and_failures_are_marked() {
    let collector = Collector::start().await;
    let (application, heads) = application().await;
    let port = free_port();
    let mut traced = Traced::new(port, Outbound);
    traced.split = true;
    let (plane, _proxy) = traced
        .proxy("gateway.default", &application, collector.server.address)
        .await;
    let mut client = Client::connect(local(port)).await;
    assert_eq!(client.get("svc", "/").await.status, 200);
    let spans = collector.wait(2).await;
    let of = |kind: &str| spans.iter().find(|s| s["kind"] == kind).unwrap();
    assert_eq!(of("CLIENT")["parentId"], of("SERVER")["id"]);
    assert_eq!(of("SERVER").get("parentId"), None);
    let head = heads.lock().unwrap()[0].clone();
    assert_eq!(header(&head, "x-b3-spanid").unwrap(), of("CLIENT")["id"]);

    // No endpoint is left.
    let mut resources = traced.resources(&application, collector.server.address);
    resources[1] = endpoints("svc", &[]);
    plane.publish(resources);
    eventually("it is refused", async || client.get("svc", "/").await.status == 503).await;
    eventually("the failure is told", async || {
        collector.spans().iter().any(|s| {
            let tags = &s["tags"];
            tags["response_flags"] == "UH" && tags["error"] == "true" && tags["http.status_code"] == "503"
        })
    })
    .await;
}

#[tokio::test]
async fn spans_go_out_by_opentelemetry_too() {
    let collector = Collector::start().await;
    let (application, heads) = application().await;
    let port = free_port();
    let mut traced = Traced::new(port, Outbound);
    traced.provider = otlp();
    let (_plane, _proxy) = traced
        .proxy("caller.default", &application, collector.server.address)
        .await;
    assert_eq!(Client::connect(local(port)).await.get("svc", "/").await.status, 200);
    eventually("a span came", async || !collector.bodies.lock().unwrap().is_empty()).await;
    let body = collector.bodies.lock().unwrap()[0].clone();
    let head = heads.lock().unwrap()[0].clone();
    let holds = |bytes: &[u8]| body.windows(bytes.len()).any(|w| w == bytes);
    let trace = u128::from_str_radix(&header(&head, "x-b3-traceid").unwrap(), 16).unwrap();
    let span = u64::from_str_radix(&header(&head, "x-b3-spanid").unwrap(), 16).unwrap();
    // Identifiers are bytes there, behind the numbers of their fields and their lengths.
    assert!(holds(&[&[0x0a, 16][..], &trace.to_be_bytes()].concat()), "the trace");
    assert!(holds(&[&[0x12, 8][..], &span.to_be_bytes()].concat()), "the span");
    assert!(holds(b"service.name") && holds(b"named.default") && holds(b"svc.default:80/*"));
}

#[tokio::test]
async fn a_dead_collector_harms_nobody() {
    let (application, _) = application().await;
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for collector in [local(free_port()), silent.local_addr().unwrap()] {
        let port = free_port();
        let (_plane, proxy) = Traced::new(port, Outbound)
            .proxy("caller.default", &application, collector)
            .await;
        let mut client = Client::connect(local(port)).await;
        let begin = Instant::now();
        // More than the queue holds.
        for _ in 0..6000 {
            assert_eq!(client.get("svc", "/").await.status, 200);
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
        let lost = async || {
            let page = get(proxy.metrics, "/stats/prometheus").await.text();
            let value = |name: &str| {
                let line = page.lines().find(|l| l.starts_with(&format!("{name}{{}} ")));
                line.unwrap_or_else(|| panic!("no {name}"))
                    .rsplit(' ')
                    .next()
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            };
            assert_eq!(value("envoy_tracing_spans_sent"), 0);
            value("envoy_tracing_spans_dropped")
        };
        eventually("spans are dropped and counted", async || lost().await > 0).await;
        assert!(lost().await <= 6000);
    }
}

#[tokio::test]
async fn tracing_of_a_bootstrap() {
    let collector = Collector::start().await;
    let (application, heads) = application().await;
    let (port, at) = (free_port(), collector.server.address.port());
    let tracing = r#"stat_prefix: web
          tracing:
            random_sampling: {value: 100}
            provider:
              name: envoy.tracers.zipkin
              typed_config:
                "@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig
                collector_cluster: tracing
                collector_endpoint: /api/v2/spans
                collector_endpoint_version: HTTP_JSON
                shared_span_context: false
                trace_id_128bit: true
"#;
    let clusters = format!(
        r#"  clusters:
  - name: tracing
    load_assignment: {{cluster_name: tracing, endpoints: [{{lb_endpoints: [{{endpoint: {{address:
      {{socket_address: {{address: 127.0.0.1, port_value: {at}}}}}}}}}]}}]}}
"#
    );
    let text = http_bootstrap(port, &[(application.address, 1)], "")
        .replace("stat_prefix: web\n", tracing)
        .replace("  clusters:\n", &clusters);
    let _proxy = Proxy::start(&text).await;
    assert_eq!(Client::connect(local(port)).await.get("svc", "/").await.status, 200);
    let spans = collector.wait(1).await;
    assert_eq!(
        spans[0]["localEndpoint"]["serviceName"], "client.default",
        "the node's own name"
    );
    assert_eq!(spans[0]["name"], "svc", "the host, as no route says otherwise");
    let head = heads.lock().unwrap()[0].clone();
    assert_eq!(header(&head, "x-b3-spanid").unwrap(), spans[0]["id"]);
}
