use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::server::{self, Answers};
use super::zone::Zone;

fn object<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// web (ClusterIP), db (headless; one endpoint with a host name, one without, one not ready), out (ExternalName),
/// near (ExternalName of web), wide (headless, with more endpoints than a packet takes).
fn zone() -> Zone {
    let service = |name: &str, spec: Value| {
        object::<Service>(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}))
    };
    let slice = |name: &str, endpoints: Value| {
        object::<EndpointSlice>(json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
            "endpoints": endpoints,
        }))
    };
    let many: Vec<Value> = (1..=200)
        .map(|n| json!({"addresses": [format!("10.244.9.{n}")]}))
        .collect();
    Zone::build(
        &[
            service(
                "web",
                json!({"clusterIP": "10.96.1.1", "ports": [{"name": "http", "port": 80}]}),
            ),
            service(
                "db",
                json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
            ),
            service("out", json!({"type": "ExternalName", "externalName": "example.org"})),
            service(
                "near",
                json!({"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"}),
            ),
            service("wide", json!({"clusterIP": "None"})),
        ],
        &[
            slice(
                "db",
                json!([
                    {"addresses": ["10.244.1.1"], "hostname": "db-0", "conditions": {"ready": true}},
                    {"addresses": ["10.244.1.2"], "conditions": {"ready": true}},
                    {"addresses": ["10.244.1.3"], "conditions": {"ready": false}},
                ]),
            ),
            slice("wide", json!(many)),
        ],
    )
}

/// The answer in short: code, and records as `TYPE data`.
fn look_up(zone: &Zone, name: &str, type_: RecordType) -> Option<(ResponseCode, Vec<String>)> {
    let answer = zone.answer(&Name::from_ascii(name).unwrap(), type_)?;
    assert_eq!(
        answer.answers.is_empty(),
        answer.soa.is_some(),
        "{name}: SOA goes with no records"
    );
    let records = answer.answers.iter().map(|record| {
        assert_eq!(record.ttl, 5);
        format!("{} {}", record.record_type(), record.data)
    });
    Some((answer.code, records.collect()))
}

#[test]
fn names_and_records() {
    let zone = zone();
    let ok = |name: &str, type_, records: &[&str]| {
        let expected = (ResponseCode::NoError, records.iter().map(|r| (*r).to_owned()).collect());
        assert_eq!(look_up(&zone, name, type_), Some(expected), "{name}");
    };
    ok("web.shop.svc.cluster.local.", RecordType::A, &["A 10.96.1.1"]);
    ok("WEB.Shop.svc.cluster.LOCAL.", RecordType::A, &["A 10.96.1.1"]);
    ok("web.shop.svc.cluster.local.", RecordType::AAAA, &[]);
    ok(
        "_http._tcp.web.shop.svc.cluster.local.",
        RecordType::SRV,
        &["SRV 0 100 80 web.shop.svc.cluster.local."],
    );
    ok("_tcp.web.shop.svc.cluster.local.", RecordType::A, &[]);
    ok("shop.svc.cluster.local.", RecordType::A, &[]);
    ok(
        "db.shop.svc.cluster.local.",
        RecordType::A,
        &["A 10.244.1.1", "A 10.244.1.2"],
    );
    ok("db-0.db.shop.svc.cluster.local.", RecordType::A, &["A 10.244.1.1"]);
    ok(
        "10-244-1-2.db.shop.svc.cluster.local.",
        RecordType::A,
        &["A 10.244.1.2"],
    );
    ok(
        "_sql._tcp.db.shop.svc.cluster.local.",
        RecordType::SRV,
        &[
            "SRV 0 100 5432 db-0.db.shop.svc.cluster.local.",
            "SRV 0 100 5432 10-244-1-2.db.shop.svc.cluster.local.",
        ],
    );
    ok(
        "near.shop.svc.cluster.local.",
        RecordType::A,
        &["CNAME web.shop.svc.cluster.local.", "A 10.96.1.1"],
    );
    ok("out.shop.svc.cluster.local.", RecordType::A, &["CNAME example.org."]);
    ok(
        "out.shop.svc.cluster.local.",
        RecordType::CNAME,
        &["CNAME example.org."],
    );
    ok("1-2-3-4.any.pod.cluster.local.", RecordType::A, &["A 1.2.3.4"]);
    ok(
        "1.1.96.10.in-addr.arpa.",
        RecordType::PTR,
        &["PTR web.shop.svc.cluster.local."],
    );
    ok(
        "1.1.244.10.in-addr.arpa.",
        RecordType::PTR,
        &["PTR db-0.db.shop.svc.cluster.local."],
    );
}

#[test]
fn what_does_not_exist() {
    let zone = zone();
    for name in [
        "nobody.shop.svc.cluster.local.",
        "db-1.db.shop.svc.cluster.local.",
        "10-244-1-3.db.shop.svc.cluster.local.",
        "1-2-3.any.pod.cluster.local.",
        "example.org.shop.svc.cluster.local.",
        "9.9.96.10.in-addr.arpa.",
    ] {
        assert_eq!(
            look_up(&zone, name, RecordType::A),
            Some((ResponseCode::NXDomain, vec![])),
            "{name}"
        );
    }
    for name in ["example.org.", "notcluster.local.", "1.0.0.127.in-addr.arpa.", "."] {
        assert_eq!(look_up(&zone, name, RecordType::A), None, "{name} is not ours");
    }
}

async fn start(zone: Option<Zone>, upstreams: Vec<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let sockets = server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addresses = sockets.addresses().unwrap();
    let zone = Arc::new(ArcSwapOption::from(zone.map(Arc::new)));
    tokio::spawn(server::serve(sockets, Arc::new(Answers::new(zone, upstreams))));
    addresses
}

fn query(name: &str, type_: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), type_));
    message
}

async fn ask(server: SocketAddr, bytes: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, server).await.unwrap();
    let mut buffer = vec![0; 4096];
    let received = tokio::time::timeout(std::time::Duration::from_secs(10), socket.recv(&mut buffer)).await;
    Message::from_vec(&buffer[..received.unwrap().unwrap()]).unwrap()
}

#[tokio::test]
async fn over_udp() {
    let (udp, _) = start(Some(zone()), vec![]).await;
    let answer = ask(
        udp,
        &query("web.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap(),
    )
    .await;
    assert_eq!(answer.metadata.id, 77);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(answer.queries.len(), 1);
    assert!(matches!(&answer.answers[0].data, RData::A(a) if a.0 == std::net::Ipv4Addr::new(10, 96, 1, 1)));

    let answer = ask(
        udp,
        &query("nobody.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap(),
    )
    .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);

    let answer = ask(udp, &query("example.org.", RecordType::A).to_vec().unwrap()).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "nobody to ask");

    let mut garbage = vec![0xff; 40];
    garbage[..4].copy_from_slice(&[0, 9, 0, 0]);
    let answer = ask(udp, &garbage).await;
    assert_eq!(
        (answer.metadata.id, answer.metadata.response_code),
        (9, ResponseCode::FormErr)
    );
}

#[tokio::test]
async fn what_is_too_large_comes_over_tcp() {
    let (udp, tcp) = start(Some(zone()), vec![]).await;
    let mut message = query("wide.shop.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    let bytes = message.to_vec().unwrap();
    let answer = ask(udp, &bytes).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());

    let mut stream = TcpStream::connect(tcp).await.unwrap();
    for _ in 0..2 {
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert!(!answer.metadata.truncation);
        assert_eq!(answer.answers.len(), 200);
        assert!(answer.edns.is_some());
    }
}

#[tokio::test]
async fn answers_take_turns() {
    let (udp, _) = start(Some(zone()), vec![]).await;
    let bytes = query("db.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let (first, second) = (ask(udp, &bytes).await, ask(udp, &bytes).await);
    assert_eq!(first.answers.len(), 2);
    assert_ne!(first.answers[0], second.answers[0]);
}

#[tokio::test]
async fn names_outside_are_forwarded() {
    // A server of the same kind stands in for the machine's resolver: it knows names that the first one does not.
    let (upstream, _) = start(Some(zone()), vec![]).await;
    let (udp, _) = start(Some(zone()), vec![upstream]).await;
    let answer = ask(udp, &query("example.org.", RecordType::A).to_vec().unwrap()).await;
    assert_eq!(
        answer.metadata.response_code,
        ResponseCode::Refused,
        "as the resolver said"
    );
    // An alias out of the cluster: what the resolver says (nothing) is appended to the alias.
    let answer = ask(
        udp,
        &query("out.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap(),
    )
    .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_eq!(answer.answers.len(), 1);

    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (udp, _) = start(Some(zone()), vec![nobody]).await;
    let answer = ask(udp, &query("example.org.", RecordType::A).to_vec().unwrap()).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn before_the_api_has_answered() {
    let (udp, _) = start(None, vec![]).await;
    let answer = ask(
        udp,
        &query("web.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap(),
    )
    .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}
