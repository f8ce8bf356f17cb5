//! The supervisor with a real Envoy, against a control plane of a few lines.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, ApiVersion, GrpcService, Http2ProtocolOptions, Metadata, SocketAddress, address,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::{PathSegment, path_segment::Segment};
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_kind::{Host, Kind as MetadataFrom};
use envoy_types::pb::envoy::r#type::metadata::v3::{MetadataKey, MetadataKind};
use envoy_types::pb::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, Duration as Span, ListValue, Struct, Value};
use futures::stream::BoxStream;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::http_unix;

/// Key of the metadata by which the control plane describes an endpoint.
const METADATA: &str = "weir";

fn any<T: prost::Name>(message: &T) -> Any {
    Any {
        type_url: T::type_url(),
        value: message.encode_to_vec(),
    }
}

fn at(address: SocketAddr) -> Option<Address> {
    let port = Some(PortSpecifier::PortValue(u32::from(address.port())));
    let socket = SocketAddress {
        address: address.ip().to_string(),
        port_specifier: port,
        ..Default::default()
    };
    Some(Address {
        address: Some(address::Address::SocketAddress(socket)),
    })
}

fn string(text: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    }
}

/// A cluster of one endpoint, which says who it is.
fn cluster(backend: SocketAddr) -> Cluster {
    let fields = [("namespace", "default"), ("pod", "b-1")].map(|(k, v)| (k.to_owned(), string(v)));
    let described = [(METADATA.to_owned(), Struct { fields: fields.into() })];
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: at(backend),
            ..Default::default()
        })),
        metadata: Some(Metadata {
            filter_metadata: described.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let http2 = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())),
        })),
        ..Default::default()
    };
    let bound = |ms: f64| Value {
        kind: Some(Kind::NumberValue(ms)),
    };
    let bounds = Kind::ListValue(ListValue {
        values: vec![bound(20.0), bound(10_000.0)],
    });
    let measured = [("buckets_ms".to_owned(), Value { kind: Some(bounds) })];
    Cluster {
        name: "b".into(),
        metadata: Some(Metadata {
            filter_metadata: [(
                "weir.telemetry".to_owned(),
                Struct {
                    fields: measured.into(),
                },
            )]
            .into(),
            ..Default::default()
        }),
        typed_extension_protocol_options: [(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            any(&http2),
        )]
        .into(),
        connect_timeout: Some(Span { seconds: 1, nanos: 0 }),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static as i32,
        )),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: "b".into(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn tag(name: &str) -> CustomTag {
    let segment = PathSegment {
        segment: Some(Segment::Key(name.to_owned())),
    };
    let metadata = custom_tag::Metadata {
        kind: Some(MetadataKind {
            kind: Some(MetadataFrom::Host(Host {})),
        }),
        metadata_key: Some(MetadataKey {
            key: METADATA.to_owned(),
            path: vec![segment],
        }),
        default_value: String::new(),
    };
    CustomTag {
        tag: name.to_owned(),
        r#type: Some(custom_tag::Type::Metadata(metadata)),
    }
}

/// A listener that sends everything to the cluster and logs to the supervisor.
fn listener(address: SocketAddr) -> Listener {
    let service = EnvoyGrpc {
        cluster_name: "weir_als".into(),
        ..Default::default()
    };
    let log = HttpGrpcAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig {
            log_name: "outbound".into(),
            grpc_service: Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(service)),
                ..Default::default()
            }),
            transport_api_version: ApiVersion::V3 as i32,
            buffer_flush_interval: Some(Span {
                seconds: 0,
                nanos: 50_000_000,
            }),
            custom_tags: vec![tag("namespace"), tag("pod")],
            ..Default::default()
        }),
        additional_request_headers_to_log: vec!["content-type".into()],
        additional_response_headers_to_log: vec!["grpc-status".into()],
        additional_response_trailers_to_log: vec!["grpc-status".into()],
    };
    let route = Route {
        name: "service".into(),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster("b".into())),
            ..Default::default()
        })),
        ..Default::default()
    };
    let host = VirtualHost {
        name: "b".into(),
        domains: vec!["b:9080".into(), "b".into()],
        routes: vec![route],
        ..Default::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: "b".into(),
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            name: "b".into(),
            virtual_hosts: vec![host],
            ..Default::default()
        })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
            ..Default::default()
        }],
        access_log: vec![AccessLog {
            name: "envoy.access_loggers.http_grpc".into(),
            config_type: Some(access_log::ConfigType::TypedConfig(any(&log))),
            ..Default::default()
        }],
        ..Default::default()
    };
    let filter = Filter {
        name: "envoy.filters.network.http_connection_manager".into(),
        config_type: Some(filter::ConfigType::TypedConfig(any(&manager))),
    };
    Listener {
        name: "b".into(),
        address: at(address),
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A control plane that knows one cluster and one listener.
struct ControlPlane {
    resources: HashMap<String, (String, Any)>,
    tokens: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for ControlPlane {
    type StreamAggregatedResourcesStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
            .to_owned();
        self.tokens.lock().unwrap().push(token);
        let mut requests = request.into_inner();
        let (responses, stream) = mpsc::channel(16);
        let resources = self.resources.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let Some((name, body)) = resources.get(&request.type_url) else {
                    continue;
                };
                let mut held = request.initial_resource_versions;
                let known =
                    !request.response_nonce.is_empty() || held.remove(name).is_some_and(|version| version == "1");
                if known {
                    continue;
                }
                let resource = Resource {
                    name: name.clone(),
                    version: "1".into(),
                    resource: Some(body.clone()),
                    ..Default::default()
                };
                let response = DeltaDiscoveryResponse {
                    type_url: request.type_url,
                    resources: vec![resource],
                    removed_resources: held.into_keys().collect(),
                    nonce: "n".into(),
                    ..Default::default()
                };
                let _ = responses.send(Ok(response)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Answers `/fail` with 500, everything else with 200; `/grpc` with a gRPC status, and that in the trailers. In HTTP/2.
async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let status = if request.uri().path() == "/fail" { 500 } else { 200 };
                let mut trailers = http::HeaderMap::new();
                if request.uri().path() == "/grpc" {
                    trailers.insert("grpc-status", "14".parse().unwrap());
                }
                let body = Full::new(Bytes::from("hello")).with_trailers(async move { Some(Ok(trailers)) });
                let response = http::Response::builder().status(status).body(body);
                Ok::<_, std::convert::Infallible>(response.unwrap())
            });
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(served.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    let kind = if path == "/grpc" {
        "application/grpc"
    } else {
        "text/plain"
    };
    let request = http::Request::get(path)
        .header("host", "b:9080")
        .header("content-type", kind)
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
    let status = response.status().as_u16();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(std::io::Error::other)?
        .to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Asks again until it is so.
async fn until<F: Future<Output = bool>>(what: &str, seconds: u64, mut is: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !is().await {
        assert!(Instant::now() < deadline, "after {seconds} s not: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A program that the tests use, installed by `make tools`.
fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("WEIR_TOOLS").map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = tools.into_iter().chain([workspace]).chain(std::env::split_paths(&path));
    let mut files = folders.chain(["/usr/sbin".into()]).map(|folder| folder.join(name));
    files
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} not found: run `make tools`"))
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// The process that was started with a file of ours.
fn process_of(argument: &Path) -> Option<i32> {
    let argument = argument.to_string_lossy().into_owned();
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        line.split(|b| *b == 0).any(|a| a == argument.as_bytes()).then_some(pid)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_is_configured_measured_restarted_and_drained() {
    let envoy = tool("envoy");
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (inlet, metrics) = (free_address(), free_address());

    let control_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let control_address = control_listener.local_addr().unwrap();
    let (cluster, listener) = (any(&cluster(backend().await)), any(&listener(inlet)));
    // A cluster that an Envoy before this one had, and that was deleted while none ran.
    let deleted = |name: &str| Resource {
        name: name.to_owned(),
        version: "1".into(),
        resource: Some(cluster.clone()),
        ..Default::default()
    };
    let kept = DeltaDiscoveryResponse {
        type_url: cluster.type_url.clone(),
        resources: vec![deleted("b"), deleted("deleted-meanwhile")],
        ..Default::default()
    };
    std::fs::create_dir(path("state")).unwrap();
    std::fs::write(
        path("state/xds.pb"),
        prost::Message::encode_length_delimited_to_vec(&kept),
    )
    .unwrap();
    let resources = [cluster, listener].map(|body| (body.type_url.clone(), ("b".to_owned(), body)));
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let control = ControlPlane {
        resources: resources.into(),
        tokens: tokens.clone(),
    };
    let server = tonic::transport::Server::builder()
        .add_service(AggregatedDiscoveryServiceServer::new(control))
        .serve_with_incoming(TcpListenerStream::new(control_listener));
    let control = tokio::spawn(server);

    std::fs::write(path("token"), "secret\n").unwrap();
    let bootstrap = serde_json::json!({
        "node": {"id": "a.default", "cluster": "weir", "metadata": {"engine": "envoy"}},
        "admin": {"address": {"pipe": {"path": path("admin.sock")}}},
        "dynamic_resources": {"ads_config": {"grpc_services": [{"google_grpc": {
            "target_uri": control_address.to_string(),
            "call_credentials": [{"from_plugin": {"typed_config": {
                "secret_data": {"filename": path("token")}, "header_key": "authorization", "header_prefix": "Bearer "}}}],
        }}]}},
    });
    std::fs::write(path("bootstrap.json"), bootstrap.to_string()).unwrap();
    let config = EnvoyConfig {
        bootstrap: path("bootstrap.json"),
        metrics_address: Some(metrics),
        state_dir: path("state"),
        drain: Duration::from_secs(5),
        envoy: envoy.into(),
    };
    let shutdown = CancellationToken::new();
    let supervisor = tokio::spawn(run(config, shutdown.clone()));

    let ready = || async {
        let answer = http_unix::send(&path("admin.sock"), http::Method::GET, "/ready", Duration::from_secs(2)).await;
        matches!(answer, Ok((200, ..)))
    };
    until("ready", 30, ready).await;
    assert_eq!(get(metrics, "/ready").await.unwrap().0, 200);
    assert!(tokens.lock().unwrap().iter().all(|t| t == "Bearer secret"));

    let zero = "authority=\"b\",dst_namespace=\"default\",dst_pod=\"b-1\"} 0";
    let page = get(metrics, "/metrics").await.unwrap().1;
    assert!(
        page.contains(&format!("request_total{{direction=\"outbound\",{zero}")),
        "series exist before the first request: {page}"
    );

    let failures = AtomicU32::new(0);
    for number in 0..200u32 {
        let path = if number.is_multiple_of(4) { "/fail" } else { "/" };
        if get(inlet, path).await.unwrap().0 == 500 {
            failures.fetch_add(1, Ordering::Relaxed);
        }
    }
    assert_eq!(failures.into_inner(), 50);
    let count = |page: &str, name: &str, part: &str| -> u64 {
        let lines = page
            .lines()
            .filter(|l| l.starts_with(&format!("{name}{{")) && l.contains(part));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    until("200 requests counted", 10, || async {
        count(&get(metrics, "/metrics").await.unwrap().1, "response_total", "") >= 200
    })
    .await;
    let page = get(metrics, "/metrics").await.unwrap().1;
    let labels = "authority=\"b:9080\",dst_namespace=\"default\",dst_pod=\"b-1\"";
    assert_eq!(count(&page, "request_total", labels), 200, "{page}");
    assert_eq!(count(&page, "response_total", "classification=\"success\""), 150);
    assert_eq!(count(&page, "response_total", "classification=\"failure\""), 50);
    assert_eq!(count(&page, "response_latency_ms_count", ""), 200);
    let bounds = page
        .lines()
        .filter(|l| l.starts_with("response_latency_ms_bucket{") && l.contains(labels));
    let bounds: Vec<&str> = bounds
        .filter_map(|l| l.split("le=\"").nth(1)?.split('"').next())
        .collect();
    assert_eq!(bounds, ["20", "10000", "+Inf"], "as the cluster asks for");
    assert_eq!(get(inlet, "/grpc").await.unwrap().0, 200);
    let grpc = "status_code=\"200\",classification=\"failure\",grpc_status=\"14\"";
    until("the gRPC status counted", 10, || async {
        count(&get(metrics, "/metrics").await.unwrap().1, "response_total", grpc) == 1
    })
    .await;
    assert!(
        get(metrics, "/stats/prometheus")
            .await
            .unwrap()
            .1
            .contains("envoy_cluster_upstream_rq_total")
    );
    assert_eq!(
        get(metrics, "/config_dump").await.unwrap().0,
        404,
        "the admin interface is not for the pod's address"
    );

    // The control plane goes, then Envoy dies: the next one starts from what was kept.
    let keeps = |name: &str| {
        let bytes = std::fs::read(path("state/xds.pb")).unwrap();
        bytes.windows(name.len()).any(|part| part == name.as_bytes())
    };
    let listeners = "envoy.config.listener.v3.Listener";
    until("configuration kept, without what is gone", 30, || async {
        keeps(listeners) && !keeps("deleted-meanwhile")
    })
    .await;
    control.abort();
    let first = process_of(&path("state/envoy.json")).expect("envoy runs");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL).unwrap();
    until("served by another envoy", 10, || async {
        process_of(&path("state/envoy.json")).is_some_and(|p| p != first)
            && get(inlet, "/").await.is_ok_and(|a| a.0 == 200)
    })
    .await;
    until("ready again", 10, ready).await;

    let asked = Instant::now();
    shutdown.cancel();
    supervisor.await.unwrap().unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "nothing was open: {:?}",
        asked.elapsed()
    );
    assert_eq!(process_of(&path("state/envoy.json")), None);
}
