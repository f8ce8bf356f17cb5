//! Original destinations: a proxy in a network namespace of its own, with its traffic redirected as the agent does it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_xds::types::Peer;
use weir_xds::{Resource, ResourceType};

use crate::plane::*;
use crate::support::*;

const RULES: &str = "
table ip weir_test {
  chain out { type nat hook output priority -100; policy accept;
    meta mark 0x539 return
    ip daddr 10.9.0.0/16 tcp dport { 80, 5000, 6000, 7000 } tcp flags & (fin|syn|rst|ack) == syn redirect to :15001
    ip daddr 10.8.0.1 tcp dport { 8080, 5432 } redirect to :15006
  }
}";

fn run(command: &str) {
    let done = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(done.success(), "{command}");
}

/// Runs a test on a thread with a network namespace of its own, which ends with the thread.
fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "needs root, or a user namespace (`unshare -r`), to redirect connections"
    );
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        run("ip link set lo up && ip addr add 10.9.0.1/32 dev lo && ip addr add 10.8.0.1/32 dev lo");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut nft = Command::new("nft")
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .args(["-f", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("nft not found: run `make tools`");
        std::io::Write::write_all(&mut nft.stdin.take().unwrap(), RULES.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn tcp(cluster: &str) -> listener::Filter {
    let proxy = tcp_proxy::TcpProxy {
        stat_prefix: cluster.into(),
        cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    listener::Filter {
        name: "tcp".into(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any(&proxy))),
    }
}

fn original_dst_filter() -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: "original_dst".into(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(
            &OriginalDst::default(),
        ))),
        ..Default::default()
    }
}

fn http_inspector() -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: "http_inspector".into(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(
            &HttpInspector::default(),
        ))),
        ..Default::default()
    }
}

fn seconds(seconds: i64) -> envoy_types::pb::google::protobuf::Duration {
    envoy_types::pb::google::protobuf::Duration { seconds, nanos: 0 }
}

fn resource(message: listener::Listener) -> std::sync::Arc<Resource> {
    let name = message.name.clone();
    Resource::new(ResourceType::Listener, name, message.encode_to_vec())
}

#[test]
fn redirected_connections_reach_what_their_destination_is_configured_for() {
    in_namespace(async || {
        let web = Server::http(|_, _| ok("a pod")).await;
        let echo = |greeting: &'static str| {
            move |mut stream: TcpStream| async move {
                stream.write_all(greeting.as_bytes()).await.unwrap();
                let _ = stream.shutdown().await;
            }
        };
        let direct = Server::at("10.9.0.1:6000".parse().unwrap(), echo("direct")).await;
        let app: SocketAddr = "10.8.0.1:8080".parse().unwrap();
        let app = Server::at(app, |stream| async move {
            let mut stream = tokio::io::BufReader::new(stream);
            while read_request(&mut stream).await.is_some() {
                stream.get_mut().write_all(&ok("the app")).await.unwrap();
            }
        })
        .await;
        let database = Server::at("10.8.0.1:5432".parse().unwrap(), echo("the database")).await;

        let any4 = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
        let mut outbound = listener_message("outbound", any4(15001), true, tcp("blocked"));
        outbound.use_original_dst = Some(BoolValue { value: true });
        // What it does itself it does only after a look at the first bytes; where others take over nobody waits for them.
        outbound.listener_filters = vec![original_dst_filter(), http_inspector()];
        outbound.listener_filters_timeout = Some(seconds(2));
        outbound.continue_on_listener_filters_timeout = true;
        let service = listener_message(
            "10.9.0.1_80.outbound",
            "10.9.0.1:80".parse().unwrap(),
            false,
            manager(named("svc")),
        );
        let free = listener_message("10.9.0.1_6000.outbound", direct.address, false, tcp("direct"));
        let inline = RouteSpecifier::RouteConfig(table("inbound_8080", &["app"], "inbound"));
        let mut inbound = listener_message("inbound", any4(15006), true, manager(inline));
        inbound.traffic_direction = TrafficDirection::Inbound.into();
        inbound.listener_filters = vec![original_dst_filter()];
        inbound.filter_chains[0].filter_chain_match = Some(listener::FilterChainMatch {
            destination_port: Some(UInt32Value { value: 8080 }),
            ..Default::default()
        });
        inbound.default_filter_chain = Some(listener::FilterChain {
            filters: vec![tcp("inbound")],
            ..Default::default()
        });
        let client = Peer {
            namespace: "default".into(),
            pod: "caller".into(),
            ..Default::default()
        };
        let plane = Plane::start().await;
        plane.publish(vec![
            cluster("svc"),
            cluster("blocked"),
            endpoints("blocked", &[]),
            original_dst("direct", 1337),
            original_dst("inbound", 1337),
            endpoints("svc", &[(web.address, "pod-a")]),
            routes("svc", &["svc"], "svc"),
            resource(outbound),
            resource(service),
            resource(free),
            resource(inbound),
            Resource::new(ResourceType::Peer, "10.8.0.1", client.encode_to_vec()),
        ]);
        let proxy = Proxy::start(&bootstrap(plane.address)).await;

        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mut client = Client::connect(address("10.9.0.1:80")).await;
        assert_eq!(client.get("svc", "/").await.text(), "a pod");
        let hear = async |to: &str| {
            let mut text = String::new();
            // A reset may come as early as that.
            let mut stream = TcpStream::connect(address(to)).await?;
            stream.read_to_string(&mut text).await.map(|_| text)
        };
        let begin = Instant::now();
        assert_eq!(hear("10.9.0.1:6000").await.unwrap(), "direct");
        let took = begin.elapsed();
        assert!(
            took < Duration::from_secs(1),
            "the endpoint speaks first, and was heard after {took:?}"
        );
        assert_eq!(
            hear("10.9.0.1:7000").await.unwrap_err().kind(),
            std::io::ErrorKind::ConnectionReset
        );
        let begin = Instant::now();
        assert_eq!(hear("10.8.0.1:5432").await.unwrap(), "the database");
        let took = begin.elapsed();
        assert!(
            took < Duration::from_secs(1),
            "the endpoint speaks first, and was heard after {took:?}"
        );
        assert_eq!(database.connections.load(std::sync::atomic::Ordering::Relaxed), 1);

        // Who the caller is, the control plane tells before the first request is recorded.
        let mut client = Client::connect(app.address).await;
        assert_eq!(client.get("app", "/").await.text(), "the app");
        let caller = ["inbound", "authority=\"app\"", "src_pod=\"caller\""];
        eventually("recorded", async || proxy.sum("response_total", &caller).await == 1.0).await;
        let page = get(proxy.metrics, "/metrics").await.text();
        assert_eq!(
            sum(
                &page,
                "response_total",
                &["outbound", "authority=\"svc\"", "dst_pod=\"pod-a\""]
            ),
            1.0
        );
        assert_eq!(sum(&page, "response_total", &["inbound"]), 1.0);
        assert_eq!(sum(&page, "tcp_open_total", &["inbound", "src_pod=\"caller\""]), 2.0);
        assert_eq!(
            sum(&page, "tcp_close_total", &["outbound", "failure"]),
            1.0,
            "the blocked one"
        );
    });
}
