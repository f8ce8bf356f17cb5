//! Configuration from a control plane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use weir_xds::server::{AllowAll, ServerTls};
use weir_xds::{Resource, ResourceType};

use crate::plane::*;
use crate::sides::*;
use crate::support::*;

#[tokio::test]
async fn a_service_is_served_and_follows_its_endpoints_and_routes() {
    let (a, b) = (Server::http(|_, _| ok("a")).await, Server::http(|_, _| ok("b")).await);
    for api in ["DELTA_GRPC", "GRPC"] {
        let plane = Plane::start().await;
        let port = free_port();
        let directory = tempfile::tempdir().unwrap();
        let proxy = Proxy::launch(
            &bootstrap_with(plane.address, api, ""),
            directory,
            Duration::from_secs(5),
        );
        eventually("it answers", async || {
            tokio::net::TcpStream::connect(proxy.metrics).await.is_ok()
        })
        .await;
        assert!(!proxy.is_ready().await, "not before the first configuration");
        plane.publish(service(port, &[(a.address, "a")]));
        proxy.wait_ready().await;
        let mut client = Client::connect(local(port)).await;
        assert_eq!(client.get("svc", "/").await.text(), "a");
        plane.publish(service(port, &[(b.address, "b")]));
        eventually("the other endpoint", async || {
            client.get("svc", "/").await.text() == "b"
        })
        .await;
        // Without the service's listener nothing new is accepted; the old connection is told to end.
        plane.publish(vec![]);
        eventually("the socket is closed", async || {
            tokio::net::TcpStream::connect(local(port)).await.is_err()
        })
        .await;
        plane.end().await;
    }
}

#[tokio::test]
async fn a_bad_resource_is_refused_alone_and_by_field() {
    let server = Server::http(|_, _| ok("fine")).await;
    let plane = Plane::start().await;
    let port = free_port();
    plane.publish(service(port, &[(server.address, "a")]));
    let proxy = Proxy::start(&bootstrap(plane.address)).await;
    let mut client = Client::connect(local(port)).await;
    assert_eq!(client.get("svc", "/").await.text(), "fine");

    // The cluster turns bad, and at the same time another good one and a bad listener appear.
    let mut bad = cluster_message("svc");
    bad.lb_policy = 6;
    let mut resources = service(port, &[(server.address, "a")]);
    resources[0] = Resource::new(ResourceType::Cluster, "svc", bad.encode_to_vec());
    resources.push(cluster("late"));
    resources.push(endpoints("late", &[(server.address, "a")]));
    let mut refused = listener_message("refused", local(free_port()), true, manager(named("web")));
    refused.filter_chains[0].filters.clear();
    resources.push(Resource::new(
        ResourceType::Listener,
        "refused",
        refused.encode_to_vec(),
    ));
    plane.publish(resources);
    eventually("the cluster is refused", async || {
        plane.nack(ResourceType::Cluster).is_some()
    })
    .await;
    let message = plane.nack(ResourceType::Cluster).unwrap();
    assert!(message.starts_with("svc: lb_policy: must be ROUND_ROBIN"), "{message}");
    eventually("the listener is refused", async || {
        plane.nack(ResourceType::Listener).is_some()
    })
    .await;
    let message = plane.nack(ResourceType::Listener).unwrap();
    assert!(
        message.starts_with("refused: filter_chains[0].filters: must be exactly one"),
        "{message}"
    );
    eventually("the good one of the same response is in force", async || {
        let page = get(proxy.metrics, "/stats/prometheus").await.text();
        page.contains("envoy_cluster_membership_total{envoy_cluster_name=\"late\"} 1\n")
    })
    .await;
    assert_eq!(client.get("svc", "/").await.text(), "fine", "the last good state stays");
}

#[tokio::test]
async fn without_its_control_plane_a_proxy_goes_on_and_starts_again() {
    let (a, b) = (Server::http(|_, _| ok("a")).await, Server::http(|_, _| ok("b")).await);
    let plane = Plane::start().await;
    let (port, address) = (free_port(), plane.address);
    plane.publish(service(port, &[(a.address, "a")]));
    let proxy = Proxy::start(&bootstrap(address)).await;
    assert_eq!(Client::connect(local(port)).await.get("svc", "/").await.text(), "a");
    let kept = proxy.directory.path().join("state/resources.bin");
    eventually("it is kept on disk", async || kept.exists()).await;
    plane.end().await;
    assert_eq!(Client::connect(local(port)).await.get("svc", "/").await.text(), "a");
    let directory = proxy.end();

    let proxy = Proxy::launch(&bootstrap(address), directory, Duration::from_secs(5));
    proxy.wait_ready().await;
    assert_eq!(Client::connect(local(port)).await.get("svc", "/").await.text(), "a");

    // The control plane comes back with other endpoints and without knowing this client.
    let plane = Plane::at(address, None, AllowAll).await;
    plane.publish(service(port, &[(b.address, "b")]));
    eventually("it is heard", async || {
        Client::connect(local(port)).await.get("svc", "/").await.text() == "b"
    })
    .await;
}

#[tokio::test]
async fn the_control_plane_is_verified_and_the_token_read_at_each_connect() {
    let server = Server::http(|_, _| ok("fine")).await;
    let name = "weir-control.weir-system.svc";
    let certificate = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let tls = ServerTls {
        cert_pem: certificate.cert.pem(),
        key_pem: certificate.signing_key.serialize_pem(),
    };
    let attempts = Arc::new(AtomicU64::new(0));
    let authorize = ByToken("right", Arc::clone(&attempts));
    let plane = Plane::at(([127, 0, 0, 1], 0).into(), Some(tls), authorize).await;
    let port = free_port();
    plane.publish(service(port, &[(server.address, "a")]));
    let directory = tempfile::tempdir().unwrap();
    let ca = write(&directory.path().join("ca.crt"), &certificate.cert.pem());
    let token = write(&directory.path().join("token"), "wrong\n");
    let credentials = |server_name: &str| {
        format!(
            r#", channel_credentials: {{ssl_credentials: {{root_certs: {{filename: "{}"}}}}}},
      channel_args: {{args: {{grpc.ssl_target_name_override: {{string_value: {server_name}}}}}}},
      credentials_factory_name: envoy.grpc_credentials.file_based_metadata,
      call_credentials: [{{from_plugin: {{name: envoy.grpc_credentials.file_based_metadata, typed_config: {{
        "@type": type.googleapis.com/envoy.config.grpc_credential.v3.FileBasedMetadataConfig,
        secret_data: {{filename: "{}"}}, header_key: authorization, header_prefix: "Bearer "}}}}}}]"#,
            ca.display(),
            token.display()
        )
    };
    let text = bootstrap_with(plane.address, "DELTA_GRPC", &credentials("another.name"));
    let stranger = Proxy::launch(&text, tempfile::tempdir().unwrap(), Duration::from_secs(1));
    let text = bootstrap_with(plane.address, "DELTA_GRPC", &credentials(name));
    let proxy = Proxy::launch(&text, tempfile::tempdir().unwrap(), Duration::from_secs(1));
    eventually("it is turned away", async || attempts.load(Ordering::Relaxed) > 1).await;
    assert!(!proxy.is_ready().await);
    write(&token, "right\n");
    proxy.wait_ready().await;
    assert_eq!(Client::connect(local(port)).await.get("svc", "/").await.text(), "fine");
    assert!(
        !stranger.is_ready().await,
        "a certificate for another name is not accepted"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_updates_under_load_fail_no_request() {
    const UPDATES: usize = 500;
    let servers = [Server::http(|_, _| ok("a")).await, Server::http(|_, _| ok("b")).await];
    let (a, b) = (servers[0].address, servers[1].address);
    let plane = Plane::start().await;
    let port = free_port();
    plane.publish(service(port, &[(a, "a")]));
    let proxy = Proxy::start(&bootstrap(plane.address)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut client = Client::connect(local(port)).await;
            let mut requests = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let answer = client.get("svc", "/").await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                requests += 1;
            }
            requests
        });
    }
    for _ in 0..4 {
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let sender = connect_two(local(port)).await;
            let mut requests = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let reply = ask_two(&sender, request("GET", "/"), b"").await.unwrap();
                assert_eq!(reply.status, 200, "{reply:?}");
                requests += 1;
            }
            requests
        });
    }
    for i in 0..UPDATES {
        let to: &[_] = match i % 3 {
            0 => &[(a, "a")],
            1 => &[(a, "a"), (b, "b")],
            _ => &[(b, "b")],
        };
        let mut resources = service(port, to);
        // Routes and other clusters change as well.
        let extra = format!("extra-{}", i % 7);
        resources.push(cluster(&extra));
        resources.push(endpoints(&extra, to));
        resources[3] = routes("web", &["svc", &extra], "svc");
        plane.publish(resources);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let sent: u64 = clients.join_all().await.into_iter().sum();
    eventually("all are recorded", async || {
        proxy.sum("response_total", &[]).await == sent as f64
    })
    .await;
    assert_eq!(proxy.sum("response_total", &["success"]).await, sent as f64);
    assert!(sent > 2 * UPDATES as u64, "{sent} requests");
}

#[tokio::test]
async fn a_destination_has_series_at_zero_as_soon_as_it_is_configured() {
    let server = Server::http(|_, _| ok("x")).await;
    let plane = Plane::start().await;
    let port = free_port();
    plane.publish(service(port, &[(server.address, "pod-a")]));
    let proxy = Proxy::start(&bootstrap(plane.address)).await;
    let has = async |pod: &str| {
        let page = get(proxy.metrics, "/metrics").await.text();
        page.lines()
            .any(|l| l.starts_with("request_total{") && l.contains(&format!("dst_pod=\"{pod}\"")) && l.ends_with(" 0"))
    };
    assert!(has("pod-a").await);
    plane.publish(service(port, &[(server.address, "pod-a"), (local(1), "pod-b")]));
    eventually("the new one is there", async || has("pod-b").await).await;
}
