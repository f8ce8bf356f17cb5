//! The same resources for this proxy and for stock Envoy, where that is at hand: one expectation for both.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use prost::Message;
use weir_xds::{Resource, ResourceType};

use crate::plane::*;
use crate::support::*;

/// A proxy that serves the resources of a plane of its own.
pub struct Engine {
    pub name: &'static str,
    /// Where its listener is.
    pub address: SocketAddr,
    _plane: Plane,
    /// This proxy.
    pub weir: Option<Proxy>,
    envoy: Option<Child>,
    _directory: tempfile::TempDir,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(envoy) = &mut self.envoy {
            let _ = envoy.kill();
            let _ = envoy.wait();
        }
    }
}

/// Stock Envoy, as the tools of this repository have it.
fn envoy() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/envoy");
    path.exists().then_some(path)
}

/// All engines with one HTTP listener and these clusters, each of one server.
pub async fn engines(manager: &hcm::HttpConnectionManager, clusters: &[(&str, SocketAddr)]) -> Vec<Engine> {
    let mut engines = vec![start("weir", manager, clusters).await];
    if envoy().is_some() {
        engines.push(start("envoy", manager, clusters).await);
    }
    engines
}

/// This proxy alone.
pub async fn weir(manager: &hcm::HttpConnectionManager, clusters: &[(&str, SocketAddr)]) -> Engine {
    start("weir", manager, clusters).await
}

async fn start(name: &'static str, manager: &hcm::HttpConnectionManager, clusters: &[(&str, SocketAddr)]) -> Engine {
    let plane = Plane::start().await;
    let address = local(free_port());
    plane.publish(resources(manager, clusters, address));
    let directory = tempfile::tempdir().unwrap();
    let (mut weir, mut child) = (None, None);
    match name {
        "weir" => weir = Some(Proxy::start(&bootstrap(plane.address)).await),
        _ => {
            let file = write(&directory.path().join("envoy.yaml"), &envoy_bootstrap(plane.address));
            let mut command = Command::new(envoy().unwrap());
            command.arg("-c").arg(file);
            command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"]);
            child = Some(command.stdin(Stdio::null()).spawn().unwrap());
        }
    }
    eventually("the listener is open", async || {
        tokio::net::TcpStream::connect(address).await.is_ok()
    })
    .await;
    Engine {
        name,
        address,
        _plane: plane,
        weir,
        envoy: child,
        _directory: directory,
    }
}

fn resources(
    manager: &hcm::HttpConnectionManager,
    clusters: &[(&str, SocketAddr)],
    address: SocketAddr,
) -> Vec<Arc<Resource>> {
    let filter = listener::Filter {
        name: "hcm".into(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any(manager))),
    };
    let message = listener_message("web", address, true, filter);
    let mut all = vec![Resource::new(ResourceType::Listener, "web", message.encode_to_vec())];
    for (name, server) in clusters {
        all.extend([cluster(name), endpoints(name, &[(*server, name)])]);
    }
    all
}

fn envoy_bootstrap(plane: SocketAddr) -> String {
    format!(
        r#"
node: {{id: {NODE}, cluster: weir}}
dynamic_resources:
  lds_config: {{ads: {{}}, resource_api_version: V3}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{{envoy_grpc: {{cluster_name: plane}}}}]
static_resources:
  clusters:
  - name: plane
    connect_timeout: 1s
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: plane
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]
"#,
        plane.ip(),
        plane.port()
    )
}

/// An HTTP connection manager with the fault filter and these routes for every host.
pub fn http_with(routes: Vec<route::Route>) -> hcm::HttpConnectionManager {
    let host = route::VirtualHost {
        name: "all".into(),
        domains: vec!["*".into()],
        routes,
        ..Default::default()
    };
    http_of(route::RouteConfiguration {
        name: "web".into(),
        virtual_hosts: vec![host],
        ..Default::default()
    })
}

/// An HTTP connection manager with the fault filter and this table.
pub fn http_of(table: route::RouteConfiguration) -> hcm::HttpConnectionManager {
    let filter = |name: &str, config| hcm::HttpFilter {
        name: name.into(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    hcm::HttpConnectionManager {
        stat_prefix: "web".into(),
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(table)),
        http_filters: vec![
            filter("envoy.filters.http.fault", any(&fault::HttpFault::default())),
            filter("envoy.filters.http.router", any(&Router::default())),
        ],
        ..Default::default()
    }
}

/// For all paths that begin with this.
pub fn prefix(prefix: &str) -> route::RouteMatch {
    path(route::route_match::PathSpecifier::Prefix(prefix.into()))
}

pub fn path(specifier: route::route_match::PathSpecifier) -> route::RouteMatch {
    route::RouteMatch {
        path_specifier: Some(specifier),
        ..Default::default()
    }
}

/// A route to a cluster.
pub fn to(matching: route::RouteMatch, cluster: &str) -> route::Route {
    let specifier = route::route_action::ClusterSpecifier::Cluster(cluster.into());
    forward(
        matching,
        route::RouteAction {
            cluster_specifier: Some(specifier),
            ..Default::default()
        },
    )
}

pub fn forward(matching: route::RouteMatch, action: route::RouteAction) -> route::Route {
    route::Route {
        r#match: Some(matching),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

/// The action of a route to a cluster.
pub fn action(cluster: &str) -> route::RouteAction {
    match to(prefix("/"), cluster).action {
        Some(route::route::Action::Route(action)) => action,
        other => panic!("{other:?}"),
    }
}

pub fn header(
    key: &str,
    value: &str,
    append: core::header_value_option::HeaderAppendAction,
) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        }),
        append_action: append.into(),
        ..Default::default()
    }
}

/// A server that answers with its name, an empty line, and the head that it got in lower case.
pub async fn echo(name: &'static str) -> Server {
    Server::http(move |head, _| {
        let text = format!("{name}\n\n{}", head.to_lowercase());
        let length = text.len();
        format!("HTTP/1.1 200 OK\r\nX-From: {name}\r\nX-Kept: 1\r\nContent-Length: {length}\r\n\r\n{text}").into_bytes()
    })
    .await
}
