use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::rules::{render, table};

fn service(value: serde_json::Value) -> Arc<Service> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn slice(value: serde_json::Value) -> Arc<EndpointSlice> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// Services of all kinds: two endpoints, one, none, only terminating ones, affinity, UDP, headless, external.
fn some() -> (Vec<Arc<Service>>, Vec<Arc<EndpointSlice>>) {
    let plain = |name: &str, ip: &str, extra: serde_json::Value| {
        let mut spec = json!({"clusterIP": ip, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        service(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}))
    };
    let of = |name: &str, ports: serde_json::Value, endpoints: serde_json::Value| {
        slice(json!({
            "metadata": {"name": format!("{name}-x"), "namespace": "default",
                "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        }))
    };
    let endpoint = |ip: &str, ready: bool, terminating: bool| {
        json!({"addresses": [ip], "conditions":
            {"ready": ready, "serving": ready || terminating, "terminating": terminating}})
    };
    let http = || json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    let services = vec![
        plain("web", "10.96.1.1", json!({})),
        plain("empty", "10.96.1.2", json!({})),
        plain("ending", "10.96.1.3", json!({})),
        plain("sticky", "10.96.1.4", json!({"sessionAffinity": "ClientIP"})),
        plain("headless", "None", json!({})),
        plain(
            "outside",
            "",
            json!({"type": "ExternalName", "externalName": "example.org"}),
        ),
        plain(
            "dns",
            "10.96.0.10",
            json!({"ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}),
        ),
    ];
    let slices = vec![
        of(
            "web",
            http(),
            json!([
                endpoint("10.244.1.2", true, false),
                endpoint("10.244.1.1", true, false),
                endpoint("10.244.1.3", false, false),
                endpoint("10.244.1.4", false, true)
            ]),
        ),
        of(
            "ending",
            http(),
            json!([
                endpoint("10.244.1.5", false, true),
                endpoint("10.244.1.6", false, false)
            ]),
        ),
        of(
            "sticky",
            http(),
            json!([endpoint("10.244.1.7", true, false), endpoint("10.244.1.8", true, false)]),
        ),
        of("headless", http(), json!([endpoint("10.244.1.9", true, false)])),
        of(
            "dns",
            json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]),
            json!([{"addresses": ["10.244.0.1"]}]),
        ),
    ];
    (services, slices)
}

#[test]
fn rules_of_all_kinds_of_services() {
    let (services, slices) = some();
    insta::assert_snapshot!(render(&table(&services, &slices)));
}

#[test]
fn the_order_of_objects_does_not_matter() {
    let (mut services, mut slices) = some();
    let text = render(&table(&services, &slices));
    services.reverse();
    slices.reverse();
    assert_eq!(render(&table(&services, &slices)), text);
}

/// The kernel takes the rules and they do what they say: a connection to a Service reaches its endpoint, one to a
/// Service without endpoints is refused, a pod reaches itself.
#[test]
fn the_kernel_agrees() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "needs root, or a user namespace (`unshare -r`), to make a network namespace"
    );
    // A thread of its own, since a namespace belongs to a thread.
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(try_rules());
    })
    .join()
    .unwrap();
}

fn ip(arguments: &str) {
    let status = std::process::Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

async fn try_rules() {
    use tokio::net::{TcpListener, TcpStream};
    ip("link set lo up");
    ip("link add weir0 type bridge");
    ip("addr add 10.244.0.1/16 dev weir0");
    ip("link set weir0 up");
    super::add_route().await.unwrap();
    super::add_route().await.unwrap();
    // Endpoints of this very host stand in for pods.
    for n in [1, 2, 5, 7, 8] {
        ip(&format!("addr add 10.244.1.{n}/32 dev weir0"));
    }
    let nft = super::nft::find().expect("nft not found: run `make tools`");
    let (services, slices) = some();
    let rules = render(&table(&services, &slices));
    super::nft::apply(&nft, &rules).await.unwrap();
    // Once more: it replaces itself.
    super::nft::apply(&nft, &rules).await.unwrap();

    let listener = TcpListener::bind(("0.0.0.0", 8080)).await.unwrap();
    let reached = async |service: &str| -> std::io::Result<Ipv4Addr> {
        let connect = TcpStream::connect((service.parse::<Ipv4Addr>().unwrap(), 80));
        let (client, server) = tokio::join!(connect, async {
            tokio::time::timeout(std::time::Duration::from_secs(2), listener.accept()).await
        });
        client?;
        let (server, _) = server.unwrap()?;
        match server.local_addr()?.ip() {
            std::net::IpAddr::V4(ip) => Ok(ip),
            std::net::IpAddr::V6(ip) => panic!("{ip}"),
        }
    };
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(reached("10.96.1.1").await.unwrap().octets()[3]);
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 1, 2, 2], "in turn, ready ones only");
    assert_eq!(
        reached("10.96.1.3").await.unwrap(),
        Ipv4Addr::new(10, 244, 1, 5),
        "terminating rather than none"
    );
    let first = reached("10.96.1.4").await.unwrap();
    for _ in 0..4 {
        assert_eq!(reached("10.96.1.4").await.unwrap(), first, "the same for this client");
    }
    for nobody in [("10.96.1.2", 80), ("10.96.1.1", 81)] {
        let error = TcpStream::connect(nobody).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{nobody:?}");
    }
    a_pod_reaches_itself(&nft).await;
    super::nft::apply(&nft, super::rules::REMOVE).await.unwrap();
    let left = std::process::Command::new(&nft)
        .args(["list", "tables"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    let error = super::nft::apply(&nft, "add rule ip nowhere x accept\n")
        .await
        .unwrap_err();
    assert!(matches!(error, super::Error::Refused(_)), "{error}");
}

/// A pod of its own namespace on the bridge, behind a Service.
async fn a_pod_reaches_itself(nft: &std::path::Path) {
    let service = service(json!({"metadata": {"name": "own", "namespace": "default"}, "spec": {
        "clusterIP": "10.96.1.9", "ports": [{"name": "http", "port": 80}]}}));
    let slice = slice(json!({
        "metadata": {"name": "own", "namespace": "default", "labels": {"kubernetes.io/service-name": "own"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.244.1.50"], "conditions": {"ready": true}}]}));
    super::nft::apply(nft, &render(&table(&[service], &[slice])))
        .await
        .unwrap();
    super::route_all();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    // It lives as long as this process.
    let mut pod = std::process::Command::new("unshare")
        .args(["-n", "sleep", "60"])
        .spawn()
        .unwrap();
    let namespace = format!("/proc/{}/ns/net", pod.id());
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    while std::fs::read_link(&namespace).unwrap() == own {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    ip(&format!("link add vpod type veth peer name eth0 netns {}", pod.id()));
    ip("link set vpod master weir0 up");
    let connected = std::thread::spawn(move || {
        nix::sched::setns(
            std::fs::File::open(namespace).unwrap(),
            nix::sched::CloneFlags::CLONE_NEWNET,
        )
        .unwrap();
        ip("link set lo up");
        ip("addr add 10.244.1.50/32 dev eth0");
        ip("link set eth0 up");
        ip("route add 10.244.0.1 dev eth0");
        ip("route add default via 10.244.0.1 onlink dev eth0");
        let _listener = std::net::TcpListener::bind(("0.0.0.0", 8080)).unwrap();
        let service = std::net::SocketAddr::from(([10, 96, 1, 9], 80));
        std::net::TcpStream::connect_timeout(&service, std::time::Duration::from_secs(5)).map(drop)
    });
    let connected = connected.join().unwrap();
    pod.kill().unwrap();
    pod.wait().unwrap();
    connected.unwrap();
}
