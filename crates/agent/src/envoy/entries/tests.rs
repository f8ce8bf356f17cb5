use envoy_types::pb::envoy::config::core::v3::SocketAddress;
use envoy_types::pb::envoy::data::accesslog::v3::{
    ConnectionProperties, HttpRequestProperties, HttpResponseProperties,
};
use envoy_types::pb::google::protobuf::{Duration as Span, UInt32Value};

use weir_series::canonical::Recorder;

use super::*;

fn address(ip: &str) -> Option<Address> {
    let socket = SocketAddress {
        address: ip.into(),
        ..Default::default()
    };
    Some(Address {
        address: Some(Kind::SocketAddress(socket)),
    })
}

/// A request to a pod that was answered with 200 after 7 ms.
fn request(change: impl FnOnce(&mut AccessLogCommon, &mut ResponseFlags)) -> HttpAccessLogEntry {
    let tags = [
        ("namespace", "default"),
        ("pod", "b-1"),
        ("owner_kind", "deployment"),
        ("owner", "b"),
        ("service", "b"),
    ];
    let mut flags = ResponseFlags::default();
    let mut common = AccessLogCommon {
        route_name: "service".into(),
        upstream_remote_address: address("10.244.0.8"),
        downstream_direct_remote_address: address("10.244.0.5"),
        custom_tags: tags.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        time_to_last_downstream_tx_byte: Some(Span {
            seconds: 0,
            nanos: 7_000_000,
        }),
        upstream_request_attempt_count: 1,
        ..Default::default()
    };
    change(&mut common, &mut flags);
    common.response_flags = Some(flags);
    HttpAccessLogEntry {
        common_properties: Some(common),
        request: Some(HttpRequestProperties {
            authority: "B:9080".into(),
            ..Default::default()
        }),
        response: Some(HttpResponseProperties {
            response_code: Some(UInt32Value { value: 200 }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn with_status(mut entry: HttpAccessLogEntry, status: u32) -> HttpAccessLogEntry {
    entry.response.as_mut().unwrap().response_code = Some(UInt32Value { value: status });
    entry
}

/// The series that are not zero, without histogram buckets and HELP lines.
fn recorded(direction: Direction, record: impl FnOnce(&Entries)) -> Vec<String> {
    let recorder = Recorder::new(1);
    let entries = Entries::new(Measured::new(recorder.clone()), "10.244.0.1".parse().ok());
    record(&entries);
    let mut page = String::new();
    recorder.render(&mut page);
    let _ = direction;
    page.lines()
        .filter(|l| !l.starts_with('#') && !l.ends_with(" 0") && !l.contains("_bucket") && !l.contains("start_time"))
        .map(str::to_owned)
        .collect()
}

fn http(direction: Direction, entry: &HttpAccessLogEntry) -> Vec<String> {
    let source = || Peer {
        namespace: "default".into(),
        pod: "a-1".into(),
        ..Default::default()
    };
    recorded(direction, |entries| entries.http(direction, entry, source))
}

/// The value of the one series of a name whose labels hold all of `parts`; 0 when there is none.
fn value(lines: &[String], name: &str, parts: &[&str]) -> f64 {
    let fits = |l: &&String| l.starts_with(&format!("{name}{{")) && parts.iter().all(|p| l.contains(p));
    let found: Vec<_> = lines.iter().filter(fits).collect();
    assert!(found.len() <= 1, "{name} {parts:?}: {found:?}");
    found
        .first()
        .map_or(0.0, |l| l.rsplit(' ').next().unwrap().parse().unwrap())
}

const ENDPOINT: [&str; 4] = [
    "dst_pod=\"b-1\"",
    "dst_deployment=\"b\"",
    "dst_service=\"b\"",
    "authority=\"b:9080\"",
];

#[test]
fn outbound_requests() {
    let plain = http(Direction::Outbound, &request(|_, _| {}));
    for name in [
        "request_total",
        "response_total",
        "attempt_total",
        "response_latency_ms_count",
    ] {
        assert_eq!(value(&plain, name, &ENDPOINT), 1.0, "{name}: {plain:?}");
    }
    assert_eq!(value(&plain, "response_latency_ms_sum", &ENDPOINT), 7.0);
    assert_eq!(
        value(
            &plain,
            "response_total",
            &["classification=\"success\"", "status_code=\"200\""]
        ),
        1.0
    );

    let failed = http(Direction::Outbound, &with_status(request(|_, _| {}), 500));
    assert_eq!(
        value(
            &failed,
            "response_total",
            &["classification=\"failure\"", "status_code=\"500\""]
        ),
        1.0
    );

    let reset = http(Direction::Outbound, &request(|_, f| f.upstream_remote_reset = true));
    assert_eq!(
        value(
            &reset,
            "response_total",
            &["classification=\"failure\"", "dst_pod=\"b-1\""]
        ),
        1.0
    );

    let left = http(
        Direction::Outbound,
        &request(|_, f| f.downstream_connection_termination = true),
    );
    assert_eq!(
        value(
            &left,
            "response_total",
            &["classification=\"aborted\"", "dst_pod=\"b-1\""]
        ),
        1.0
    );
    assert_eq!(value(&left, "response_latency_ms_count", &[]), 0.0);

    let again = http(
        Direction::Outbound,
        &request(|c, _| c.upstream_request_attempt_count = 3),
    );
    assert_eq!(value(&again, "attempt_total", &ENDPOINT), 3.0);
    assert_eq!(value(&again, "retry_total", &ENDPOINT), 2.0);
    assert_eq!(value(&again, "request_total", &ENDPOINT), 1.0);
}

#[test]
fn answers_of_envoy_itself_have_no_endpoint() {
    let nobody = request(|c, f| {
        c.upstream_remote_address = None;
        c.custom_tags.clear();
        f.no_healthy_upstream = true;
    });
    let lines = http(Direction::Outbound, &with_status(nobody, 503));
    assert_eq!(
        value(
            &lines,
            "response_total",
            &["origin=\"proxy\"", "status_code=\"503\"", "failure"]
        ),
        1.0,
        "{lines:?}"
    );
    assert_eq!(value(&lines, "attempt_total", &[]), 0.0);
    assert!(!lines.iter().any(|l| l.contains("dst_pod=\"b-1\"")), "{lines:?}");

    let blocked = request(|c, _| {
        c.upstream_remote_address = None;
        c.route_name = "blocked".into();
    });
    let lines = http(Direction::Outbound, &with_status(blocked, 404));
    assert_eq!(
        value(
            &lines,
            "response_total",
            &["authority=\"other\"", "origin=\"proxy\"", "success"]
        ),
        1.0,
        "{lines:?}"
    );
}

#[test]
fn inbound_requests_and_probes() {
    let lines = http(Direction::Inbound, &request(|_, _| {}));
    assert_eq!(
        value(&lines, "response_total", &["direction=\"inbound\"", "src_pod=\"a-1\""]),
        1.0,
        "{lines:?}"
    );
    let mut probe = request(|c, _| c.downstream_direct_remote_address = address("10.244.0.1"));
    assert!(
        !http(Direction::Inbound, &probe).is_empty(),
        "only a kubelet's probes are left out"
    );
    probe.request.as_mut().unwrap().user_agent = "kube-probe/1.37".into();
    assert!(http(Direction::Inbound, &probe).is_empty());
    let mut forged = request(|_, _| {});
    forged.request.as_mut().unwrap().user_agent = "kube-probe/1.37".into();
    assert!(
        !http(Direction::Inbound, &forged).is_empty(),
        "only from the node's address"
    );
}

#[test]
fn grpc() {
    let call = |trailer: Option<&str>| {
        let mut entry = request(|_, _| {});
        let headers = &mut entry.request.as_mut().unwrap().request_headers;
        headers.insert("content-type".into(), "application/grpc+proto".into());
        if let Some(status) = trailer {
            entry
                .response
                .as_mut()
                .unwrap()
                .response_trailers
                .insert("grpc-status".into(), status.into());
        }
        http(Direction::Outbound, &entry)
    };
    assert_eq!(
        value(&call(Some("0")), "response_total", &["success", "grpc_status=\"0\""]),
        1.0
    );
    assert_eq!(
        value(&call(Some("5")), "response_total", &["success", "grpc_status=\"5\""]),
        1.0
    );
    assert_eq!(
        value(&call(Some("14")), "response_total", &["failure", "grpc_status=\"14\""]),
        1.0
    );
    assert_eq!(value(&call(None), "response_total", &["failure"]), 1.0);
}

fn connection(kind: AccessLogType, received: u64, sent: u64) -> TcpAccessLogEntry {
    let mut common = request(|_, _| {}).common_properties.unwrap();
    common.stream_id = "s1".into();
    common.access_log_type = kind as i32;
    TcpAccessLogEntry {
        common_properties: Some(common),
        connection_properties: Some(ConnectionProperties {
            received_bytes: received,
            sent_bytes: sent,
        }),
    }
}

#[test]
fn tcp_connections() {
    let run = |steps: &[(AccessLogType, u64, u64)]| {
        recorded(Direction::Outbound, |entries| {
            for (kind, received, sent) in steps {
                entries.tcp(Direction::Outbound, &connection(*kind, *received, *sent), Peer::default);
            }
        })
    };
    let pod = ["dst_pod=\"b-1\""];
    let open = run(&[
        (AccessLogType::TcpUpstreamConnected, 0, 0),
        (AccessLogType::TcpPeriodic, 3, 10),
    ]);
    assert_eq!(value(&open, "tcp_open_total", &pod), 1.0);
    assert_eq!(value(&open, "tcp_open_connections", &pod), 1.0);
    assert_eq!(value(&open, "tcp_read_bytes_total", &pod), 10.0);
    let closed = run(&[
        (AccessLogType::TcpPeriodic, 3, 10),
        (AccessLogType::TcpConnectionEnd, 5, 12),
    ]);
    assert_eq!(value(&closed, "tcp_open_total", &pod), 1.0);
    assert_eq!(value(&closed, "tcp_open_connections", &pod), 0.0);
    assert_eq!(value(&closed, "tcp_close_total", &pod), 1.0);
    assert_eq!(value(&closed, "tcp_read_bytes_total", &pod), 12.0);
    assert_eq!(value(&closed, "tcp_write_bytes_total", &pod), 5.0);
    let beyond = recorded(Direction::Outbound, |entries| {
        let step = |id: usize, kind, received| {
            let mut entry = connection(kind, received, 0);
            entry.common_properties.as_mut().unwrap().stream_id = id.to_string();
            entries.tcp(Direction::Outbound, &entry, Peer::default);
        };
        (0..CONNECTIONS_MAX).for_each(|id| step(id, AccessLogType::TcpUpstreamConnected, 0));
        step(CONNECTIONS_MAX, AccessLogType::TcpUpstreamConnected, 0);
        step(CONNECTIONS_MAX, AccessLogType::TcpPeriodic, 3);
        step(0, AccessLogType::TcpPeriodic, 1);
        step(CONNECTIONS_MAX, AccessLogType::TcpConnectionEnd, 7);
    });
    let all = 16384.0;
    assert_eq!(
        value(&beyond, "tcp_open_total", &pod),
        all + 1.0,
        "each is one, also beyond the limit"
    );
    assert_eq!(value(&beyond, "tcp_open_connections", &pod), all);
    assert_eq!(value(&beyond, "tcp_close_total", &pod), 1.0);
    assert_eq!(value(&beyond, "tcp_write_bytes_total", &pod), 8.0);
    let only_end = run(&[(AccessLogType::TcpConnectionEnd, 5, 12)]);
    assert_eq!(value(&only_end, "tcp_open_total", &pod), 1.0);
}
