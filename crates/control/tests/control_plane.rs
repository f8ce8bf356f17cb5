//! The whole control plane between a small Kubernetes API in memory and a real ADS client over TLS.

#[path = "plane/kubernetes.rs"]
mod kubernetes;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use kubernetes::Kubernetes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Status, Streaming};
use weir_control::{Config, Control, ControlHandle};
use weir_mesh::Key;
use weir_xds::ResourceType;
use weir_xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

const PODS: &str = "/api/v1/pods";
const SERVICES: &str = "/api/v1/services";
const NODE: &str = "client.default";
const CLUSTER: &str = "80|default|web.outbound";

fn pod(name: &str, ip: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "default", "name": name, "uid": name,
           "labels": {"traffic.envoy.enabled": "true"}}, "spec": {"containers": []},
           "status": {"phase": "Running", "podIP": ip, "hostIP": "10.244.0.1"}})
}

fn service(protocol: &str) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"namespace": "default", "name": "web", "uid": "web",
           "labels": {"traffic.port.80": protocol}},
           "spec": {"clusterIP": "10.96.0.9", "selector": {"app": "web"}, "ports": [{"port": 80}]}})
}

struct Plane {
    kubernetes: Kubernetes,
    handle: ControlHandle,
    address: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), weir_control::Error>>,
}

impl Plane {
    fn start(kubernetes: &Kubernetes) -> Self {
        // A free port: bound, noted, released.
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let config = Config {
            client: kubernetes.client(),
            xds_listen: address,
            namespace: "weir-system".into(),
            extra_names: vec![],
            gateway_account: Key::new("default", "traffic-ingress"),
        };
        let (control, handle) = Control::new(config);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(control.run(shutdown.clone()));
        Self {
            kubernetes: kubernetes.clone(),
            handle,
            address,
            shutdown,
            task,
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .expect("stops")
            .unwrap()
            .expect("no error");
    }

    /// A client that subscribed to all clusters, with this token.
    async fn connect(&self, node: &str, token: Option<&str>) -> Result<Client, Status> {
        let ca = until("the authority is published", || {
            let maps = self.kubernetes.objects("/api/v1/namespaces/weir-system/configmaps");
            maps.first()
                .and_then(|m| m["data"]["ca.crt"].as_str().map(str::to_owned))
        })
        .await;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .domain_name("weir-control.weir-system.svc");
        let endpoint = Channel::from_shared(format!("https://{}", self.address))
            .unwrap()
            .tls_config(tls)
            .unwrap();
        let mut channel = endpoint.connect().await;
        let started = Instant::now();
        while channel.is_err() && started.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            channel = endpoint.connect().await;
        }
        let (requests, queue) = mpsc::channel(16);
        let subscribe = DeltaDiscoveryRequest {
            node: Some(Node {
                id: node.into(),
                ..Default::default()
            }),
            type_url: ResourceType::Cluster.type_url().into(),
            ..Default::default()
        };
        requests.send(subscribe).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(queue));
        if let Some(token) = token {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel.expect("connected"));
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        Ok(Client { requests, responses })
    }
}

struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    /// The next response, acknowledged: names added, names removed.
    async fn next(&mut self) -> Result<(Vec<String>, Vec<String>), Status> {
        let response = tokio::time::timeout(Duration::from_secs(10), self.responses.message())
            .await
            .expect("a response in time")?
            .ok_or_else(|| Status::cancelled("the stream ended"))?;
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        self.requests.send(ack).await.expect("the stream is open");
        Ok((
            response.resources.into_iter().map(|r| r.name).collect(),
            response.removed_resources,
        ))
    }

    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.responses.message())
            .await
            .is_err()
    }
}

async fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "waited in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_label_to_a_cluster_and_back() {
    let kubernetes = Kubernetes::default();
    kubernetes.put(PODS, pod("client", "10.244.1.2"));
    kubernetes.put(SERVICES, service("http"));
    let plane = Plane::start(&kubernetes);
    let mut client = plane.connect(NODE, Some("good:default:client")).await.unwrap();
    let (added, _) = client.next().await.unwrap();
    assert_eq!(added, [CLUSTER, "blocked", "direct", "inbound", "inbound_http2"]);
    until("the proxy is in step", || {
        plane.handle.proxies().first().filter(|p| p.synced).map(drop)
    })
    .await;
    let proxy = &plane.handle.proxies()[0];
    assert_eq!(
        (
            proxy.node.as_str(),
            proxy.connected,
            proxy.enabled,
            proxy.protocol.as_str()
        ),
        (NODE, true, true, "delta")
    );
    let mut running = pod("client", "10.244.1.2");
    running["metadata"]["annotations"] = json!({"traffic.envoy.proxy": "weir-1a2b"});
    running["spec"]["nodeName"] = json!("machine-1");
    kubernetes.put(PODS, running);
    until("the id of the proxy is shown", || {
        let proxies = plane.handle.proxies();
        let proxy = proxies.first()?;
        (proxy.id == "weir-1a2b" && proxy.machine == "machine-1").then_some(())
    })
    .await;
    let config = plane.handle.config(NODE).unwrap();
    assert_eq!(config["rds"][CLUSTER]["virtual_hosts"][0]["name"], "service");
    assert_eq!(plane.handle.config("nobody.default"), None);

    // A bad value: the port is blocked again, an Event says why; twice the same is one Event.
    let changed = Instant::now();
    kubernetes.put(SERVICES, service("htpp"));
    assert_eq!(client.next().await.unwrap(), (vec![], vec![CLUSTER.to_owned()]));
    assert!(
        changed.elapsed() < Duration::from_secs(1),
        "took {:?}",
        changed.elapsed()
    );
    assert_eq!(plane.handle.problems().len(), 1);
    let events = "/api/v1/namespaces/default/events";
    let event = until("the Event is written", || kubernetes.objects(events).into_iter().next()).await;
    assert_eq!(
        (&event["type"], &event["involvedObject"]["name"]),
        (&json!("Warning"), &json!("web"))
    );
    assert!(
        event["message"]
            .as_str()
            .unwrap()
            .contains("http, http2, grpc, tcp or direct"),
        "{event}"
    );
    kubernetes.put(SERVICES, service("http"));
    assert_eq!(client.next().await.unwrap().0, [CLUSTER]);
    assert_eq!(plane.handle.problems(), []);
    kubernetes.put(SERVICES, service("htpp"));
    until("the Event counts up", || {
        kubernetes.objects(events).iter().find(|e| e["count"] == 2).map(drop)
    })
    .await;
    assert_eq!(kubernetes.objects(events).len(), 1);
    plane.stop().await;
}

/// What is measured changes with the ConfigMap, while everything runs; a bad value is told and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn mesh_wide_settings_are_read_again_when_they_change() {
    const CONFIG_MAPS: &str = "/api/v1/namespaces/weir-system/configmaps";
    let config = |text: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"config.yaml": text},
               "metadata": {"namespace": "weir-system", "name": "weir-mesh", "uid": "c"}})
    };
    let kubernetes = Kubernetes::default();
    kubernetes.put(PODS, pod("client", "10.244.1.2"));
    kubernetes.put(SERVICES, service("http"));
    let plane = Plane::start(&kubernetes);
    let mut client = plane.connect(NODE, Some("good:default:client")).await.unwrap();
    let every = client.next().await.unwrap().0;
    let measured = || plane.handle.config(NODE).unwrap()["cds"][CLUSTER]["metadata"]["filter_metadata"].clone();
    assert_eq!(measured(), serde_json::Value::Null);
    kubernetes.put(
        CONFIG_MAPS,
        config("metrics: {granularity: workload, buckets: [10, 100]}"),
    );
    let changed: Vec<String> = every.into_iter().filter(|name| name != "blocked").collect();
    assert_eq!(client.next().await.unwrap().0, changed);
    let good = json!({"weir.telemetry": {"granularity": "workload", "buckets_ms": [10.0, 100.0]}});
    assert_eq!(measured(), good);

    kubernetes.put(
        CONFIG_MAPS,
        config("metrics: {granularity: replica, buckets: [10, 100]}"),
    );
    let events = "/api/v1/namespaces/weir-system/events";
    let event = until("the Event is written", || kubernetes.objects(events).into_iter().next()).await;
    assert_eq!(
        (&event["involvedObject"]["name"], &event["reason"]),
        (&json!("weir-mesh"), &json!("InvalidMeshConfiguration"))
    );
    assert_eq!(plane.handle.problems().len(), 1);
    assert!(
        client.is_silent().await && measured() == good,
        "the last good value stays"
    );
    kubernetes.put(CONFIG_MAPS, config(""));
    assert_eq!(client.next().await.unwrap().0, changed);
    assert_eq!(
        (measured(), plane.handle.problems().len()),
        (serde_json::Value::Null, 0)
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_before_everything_was_listed() {
    let kubernetes = Kubernetes::default();
    kubernetes.put(PODS, pod("client", "10.244.1.2"));
    kubernetes.withhold(SERVICES, true);
    let plane = Plane::start(&kubernetes);
    let mut client = plane.connect(NODE, Some("good:default:client")).await.unwrap();
    assert!(client.is_silent().await, "a proxy would lose its services");
    assert!(!plane.handle.ready());
    kubernetes.withhold(SERVICES, false);
    assert_eq!(client.next().await.unwrap().0.len(), 4);
    assert!(plane.handle.ready());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_its_own_node_only() {
    let kubernetes = Kubernetes::default();
    kubernetes.put(PODS, pod("client", "10.244.1.2"));
    let plane = Plane::start(&kubernetes);
    for (token, why) in [
        (None, "no token"),
        (Some("forged"), "bad token"),
        (Some("good:default:other"), "belongs to pod default/other"),
        (Some("good:elsewhere:client"), "belongs to pod elsewhere/client"),
    ] {
        let refused = async { plane.connect(NODE, token).await?.next().await };
        let status = refused.await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
        assert!(status.message().contains(why), "{status}");
    }
    assert!(plane.handle.proxies().iter().all(|p| !p.connected));
    plane.stop().await;
}

/// The API server goes and comes back with changes: streams stay open and quiet, then get the changes. A second control
/// plane takes the same authority.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_api_server_and_a_second_replica() {
    let kubernetes = Kubernetes::default();
    kubernetes.put(PODS, pod("client", "10.244.1.2"));
    kubernetes.put(SERVICES, service("http"));
    let plane = Plane::start(&kubernetes);
    let mut client = plane.connect(NODE, Some("good:default:client")).await.unwrap();
    assert_eq!(client.next().await.unwrap().0.len(), 5);
    kubernetes.away(true);
    assert!(client.is_silent().await);
    kubernetes.put(SERVICES, service("tcp"));
    kubernetes.away(false);
    assert_eq!(client.next().await.unwrap().0, [CLUSTER]);
    let secret = kubernetes.objects("/api/v1/namespaces/weir-system/secrets");

    let second = Plane::start(&kubernetes);
    let mut other = second.connect(NODE, Some("good:default:client")).await.unwrap();
    assert_eq!(other.next().await.unwrap().0.len(), 5);
    assert_eq!(kubernetes.objects("/api/v1/namespaces/weir-system/secrets"), secret);
    plane.stop().await;
    second.stop().await;
}
