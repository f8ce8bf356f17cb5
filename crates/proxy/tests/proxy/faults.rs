//! Faults on purpose: delays, errors, slow responses, by this proxy and by stock Envoy alike.

use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as common;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::google::protobuf;
use http::Request;
use tokio::io::AsyncReadExt;

use crate::engines::*;
use crate::plane::any;
use crate::sides::*;
use crate::support::*;

/// So many of a million.
fn share(numerator: u32) -> Option<FractionalPercent> {
    Some(FractionalPercent {
        numerator,
        denominator: DenominatorType::Million.into(),
    })
}

fn delay(milliseconds: u32, percentage: Option<FractionalPercent>) -> Option<common::FaultDelay> {
    let seconds = i64::from(milliseconds / 1000);
    let nanos = (milliseconds % 1000 * 1_000_000).try_into().unwrap();
    Some(common::FaultDelay {
        percentage,
        fault_delay_secifier: Some(common::fault_delay::FaultDelaySecifier::FixedDelay(
            protobuf::Duration { seconds, nanos },
        )),
    })
}

fn abort(error: fault::fault_abort::ErrorType, percentage: Option<FractionalPercent>) -> Option<fault::FaultAbort> {
    Some(fault::FaultAbort {
        percentage,
        error_type: Some(error),
        ..Default::default()
    })
}

fn limit(kib: u64) -> Option<common::FaultRateLimit> {
    let fixed = common::fault_rate_limit::FixedLimit { limit_kbps: kib };
    Some(common::FaultRateLimit {
        percentage: share(1_000_000),
        limit_type: Some(common::fault_rate_limit::LimitType::FixedLimit(fixed)),
    })
}

/// A route to the server with a fault.
fn faulty(path: &str, fault: fault::HttpFault) -> pb::Route {
    pb::Route {
        typed_per_filter_config: [("envoy.filters.http.fault".to_owned(), any(&fault))].into(),
        ..to(prefix(path), "a")
    }
}

const ALL: u32 = 1_000_000;

#[tokio::test]
async fn requests_wait_and_are_aborted_by_share() {
    use fault::fault_abort::ErrorType::{GrpcStatus, HttpStatus};
    let server = echo("a").await;
    let http = |delay, abort| fault::HttpFault {
        delay,
        abort,
        ..Default::default()
    };
    let routes = vec![
        // The first that matches is taken: before what it begins with.
        faulty(
            "/late-bad",
            http(delay(200, share(ALL)), abort(HttpStatus(503), share(ALL))),
        ),
        faulty(
            "/never",
            http(delay(10_000, share(0)), abort(HttpStatus(500), share(0))),
        ),
        faulty("/bad", http(None, abort(HttpStatus(418), share(ALL)))),
        faulty("/late", http(delay(300, share(ALL)), None)),
        faulty("/grpc", http(None, abort(GrpcStatus(8), share(ALL)))),
        faulty("/half", http(None, abort(HttpStatus(502), share(ALL / 2)))),
        to(prefix("/"), "a"),
    ];
    for engine in engines(&http_with(routes), &[("a", server.address)]).await {
        let at = engine.name;
        // Envoy counts from when its loop woke up, which was before the request came.
        let early = Duration::from_millis(if engine.weir.is_some() { 0 } else { 20 });
        let mut client = Client::connect(engine.address).await;
        let before = server.connections.load(std::sync::atomic::Ordering::Relaxed);
        for (path, wait, status, text) in [
            ("/bad", 0, 418, "fault filter abort"),
            ("/late-bad", 200, 503, "fault filter abort"),
            ("/grpc", 0, 200, "fault filter abort"),
        ] {
            let begin = Instant::now();
            let answer = client.get("svc", path).await;
            assert_eq!((answer.status, &*answer.text()), (status, text), "{at} {path}");
            let time = begin.elapsed() + early;
            assert!(time >= Duration::from_millis(wait), "{at} {path}: {time:?}");
        }
        let after = server.connections.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(before, after, "{at}: nothing of it comes to the server");
        let begin = Instant::now();
        assert_eq!(client.get("svc", "/late").await.status, 200);
        let time = begin.elapsed() + early;
        assert!(time >= Duration::from_millis(300), "{at}: {time:?}");
        assert_eq!(client.get("svc", "/never").await.status, 200);
        let mut bad = 0;
        for _ in 0..400 {
            bad += u32::from(client.get("svc", "/half").await.status == 502);
        }
        assert!((150..=250).contains(&bad), "{at}: {bad} of 400 at a half");

        let sender = connect_two(engine.address).await;
        let begin = Instant::now();
        let reply = ask_two(&sender, request("GET", "/late-bad"), b"").await.unwrap();
        assert_eq!((reply.status, &*reply.body), (503, &b"fault filter abort"[..]), "{at}");
        let time = begin.elapsed() + early;
        assert!(time >= Duration::from_millis(200), "{at}: {time:?}");
        for (path, status) in [("/grpc", "8"), ("/late-bad", "14"), ("/bad", "2")] {
            let call = Request::post(format!("http://svc{path}")).header("content-type", "application/grpc");
            let reply = ask_two(&sender, call.body(()).unwrap(), b"").await.unwrap();
            assert_eq!(reply.status, 200, "{at} {path}");
            assert_eq!(reply.headers["grpc-status"], status, "{at} {path}");
            assert_eq!(reply.headers["content-type"], "application/grpc", "{at} {path}");
        }

        let Some(proxy) = &engine.weir else { continue };
        let of = async |kind: &str| proxy.sum("fault_total", &[&format!("kind=\"{kind}\"")]).await;
        assert_eq!(of("delay").await, 4.0);
        assert_eq!(of("abort").await, f64::from(7 + bad));
        let page = get(proxy.metrics, "/stats/prometheus").await.text();
        let named = |name: &str| sum(&page, name, &["envoy_http_conn_manager_prefix=\"web\""]);
        assert_eq!(named("envoy_http_fault_delays_injected"), 4.0);
        assert_eq!(named("envoy_http_fault_aborts_injected"), f64::from(7 + bad));
        // The time that a request was made to wait is part of its latency; nobody else made these replies.
        let local = ["origin=\"proxy\"", "status_code=\"503\""];
        let page = get(proxy.metrics, "/metrics").await.text();
        assert_eq!(sum(&page, "response_total", &local), 2.0, "{page}");
        assert!(sum(&page, "response_latency_ms_sum", &[]) >= 900.0, "{page}");
    }
}

#[tokio::test]
async fn a_wait_ends_when_the_client_leaves() {
    let server = echo("a").await;
    let wait = fault::HttpFault {
        delay: delay(600_000, share(ALL)),
        ..Default::default()
    };
    let engine = weir(&http_with(vec![faulty("/", wait)]), &[("a", server.address)]).await;
    let mut client = Client::connect(engine.address).await;
    client.send("GET / HTTP/1.1\r\nHost: svc\r\n\r\n").await;
    let sender = connect_two(engine.address).await;
    let mut sender = sender.ready().await.unwrap();
    let (response, mut stream) = sender.send_request(request("GET", "/"), true).unwrap();
    let proxy = engine.weir.as_ref().unwrap();
    eventually("both wait", async || proxy.sum("fault_total", &[]).await == 2.0).await;
    drop(client);
    stream.send_reset(h2::Reason::CANCEL);
    drop(response);
    eventually("both are given up", async || {
        proxy.sum("response_total", &["classification=\"aborted\""]).await == 2.0
    })
    .await;
    assert_eq!(server.connections.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn responses_come_as_slowly_as_they_should() {
    const LENGTH: usize = 150 * 1024;
    let server = Server::http(|head, _| {
        let body = vec![b'x'; LENGTH];
        let mut answer = match head.contains("/chunked") {
            true => format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{LENGTH:x}\r\n"),
            false => format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"),
        }
        .into_bytes();
        answer.extend_from_slice(&body);
        if head.contains("/chunked") {
            answer.extend_from_slice(b"\r\n0\r\n\r\n");
        }
        answer
    })
    .await;
    let slow = fault::HttpFault {
        response_rate_limit: limit(100),
        ..Default::default()
    };
    for engine in engines(&http_with(vec![faulty("/", slow)]), &[("a", server.address)]).await {
        let at = engine.name;
        let expected = Duration::from_millis(1500);
        let near = |time: Duration| time.abs_diff(expected) < Duration::from_millis(250);
        for path in ["/", "/chunked"] {
            let begin = Instant::now();
            let mut client = Client::connect(engine.address).await;
            client.send(format!("GET {path} HTTP/1.1\r\nHost: svc\r\n\r\n")).await;
            let mut head = vec![0; 30];
            client.stream.read_exact(&mut head).await.unwrap();
            let time = begin.elapsed();
            assert!(
                time < Duration::from_millis(500),
                "{at} {path}: the head is not held back"
            );
            drop(client);
            let begin = Instant::now();
            let answer = get(engine.address, path).await;
            assert_eq!(answer.body.len(), LENGTH);
            assert!(near(begin.elapsed()), "{at} {path}: {:?}", begin.elapsed());
            let sender = connect_two(engine.address).await;
            let begin = Instant::now();
            let reply = ask_two(&sender, request("GET", path), b"").await.unwrap();
            assert_eq!(reply.body.len(), LENGTH);
            assert!(near(begin.elapsed()), "{at} {path} over HTTP/2: {:?}", begin.elapsed());
        }
    }
}
