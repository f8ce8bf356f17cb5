//! A control plane for the tests: the real server over resources that the tests make.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, Struct, UInt32Value, Value, value::Kind};
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use weir_xds::server::{AllowAll, Authorize, Cache, Credentials, NodeInfo, Refusal, ServerTls, serve};
use weir_xds::snapshot::Resources;
use weir_xds::{Resource, ResourceType, Snapshot};

use crate::support::*;

pub const NODE: &str = "client.default";

/// A running control plane.
pub struct Plane {
    pub address: SocketAddr,
    pub cache: Cache,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    current: tokio::sync::watch::Sender<Arc<Snapshot>>,
}

impl Plane {
    pub async fn start() -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), None, AllowAll).await
    }

    pub async fn at(address: SocketAddr, tls: Option<ServerTls>, authorize: impl Authorize) -> Self {
        let socket = TcpListener::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        let (cache, stop) = (Cache::new(), CancellationToken::new());
        let (served, stopped) = (cache.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let until = async move { stopped.cancelled().await };
            serve(socket, tls, served, authorize, until).await.unwrap();
        });
        // The cache keeps snapshots of connected nodes only: give the newest to whoever comes.
        let (current, mut newest) = tokio::sync::watch::channel(Arc::new(Snapshot::new()));
        newest.mark_unchanged();
        let (publishing, mut changes) = (cache.clone(), cache.changes());
        tokio::spawn(async move {
            let mut any = false;
            loop {
                tokio::select! {
                    changed = newest.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        any = true;
                    }
                    _ = changes.changed() => {}
                }
                if any {
                    publishing.publish(NODE, newest.borrow_and_update().clone());
                }
            }
        });
        Self {
            address,
            cache,
            stop,
            task,
            current,
        }
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        drop(self.current);
    }

    pub fn publish(&self, resources: Vec<Arc<Resource>>) {
        self.current.send_replace(Arc::new(snapshot(resources)));
    }

    /// What the proxy refused last, of one type.
    pub fn nack(&self, ty: ResourceType) -> Option<String> {
        let status = self.cache.status().into_iter().find(|s| s.node.id == NODE)?;
        status
            .types
            .get(&ty)?
            .last_nack
            .as_ref()
            .map(|nack| nack.message.clone())
    }
}

/// Lets in whoever has the right token; counts attempts.
#[derive(Clone)]
pub struct ByToken(pub &'static str, pub Arc<AtomicU64>);

impl Authorize for ByToken {
    async fn authorize(&self, credentials: &Credentials, _: &NodeInfo) -> Result<(), Refusal> {
        self.1.fetch_add(1, Ordering::Relaxed);
        match credentials.token.as_deref() == Some(self.0) {
            true => Ok(()),
            false => Err(Refusal::Denied("the token is wrong".into())),
        }
    }
}

pub fn snapshot(resources: Vec<Arc<Resource>>) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for ty in ResourceType::ALL {
        let of_type: Resources = resources
            .iter()
            .filter(|r| r.ty == ty)
            .map(|r| (r.name.clone(), Arc::clone(r)))
            .collect();
        snapshot = snapshot.with(ty, Arc::new(of_type));
    }
    snapshot
}

/// Delta, plain text.
pub fn bootstrap(plane: SocketAddr) -> String {
    bootstrap_with(plane, "DELTA_GRPC", "")
}

pub fn bootstrap_with(plane: SocketAddr, api: &str, credentials: &str) -> String {
    format!(
        r#"
node: {{id: {NODE}, cluster: weir, metadata: {{host_ip: 127.0.0.9, engine: weir}}}}
dynamic_resources:
  lds_config: {{ads: {{}}, resource_api_version: V3}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  ads_config:
    api_type: {api}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
    - google_grpc: {{target_uri: "{plane}", stat_prefix: ads{credentials}}}
"#
    )
}

fn address(to: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: to.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(to.port().into())),
            ..Default::default()
        })),
    }
}

pub fn any<T: prost::Name>(message: &T) -> Any {
    Any {
        type_url: T::type_url(),
        value: message.encode_to_vec(),
    }
}

pub fn cluster_message(name: &str) -> cluster::Cluster {
    cluster::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Eds.into(),
        )),
        connect_timeout: Some(Duration { seconds: 1, nanos: 0 }),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: Some(core::ConfigSource {
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn cluster(name: &str) -> Arc<Resource> {
    Resource::new(ResourceType::Cluster, name, cluster_message(name).encode_to_vec())
}

pub fn original_dst(name: &str, mark: i64) -> Arc<Resource> {
    let message = cluster::Cluster {
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::OriginalDst.into(),
        )),
        lb_policy: cluster::cluster::LbPolicy::ClusterProvided.into(),
        upstream_bind_config: Some(core::BindConfig {
            socket_options: vec![core::SocketOption {
                level: 1,
                name: 36,
                value: Some(core::socket_option::Value::IntValue(mark)),
                ..Default::default()
            }],
            ..Default::default()
        }),
        eds_cluster_config: None,
        ..cluster_message(name)
    };
    Resource::new(ResourceType::Cluster, name, message.encode_to_vec())
}

pub fn endpoints(name: &str, endpoints: &[(SocketAddr, &str)]) -> Arc<Resource> {
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.into())),
    };
    let one = |(to, pod): &(SocketAddr, &str)| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address(*to)),
            ..Default::default()
        })),
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        metadata: Some(core::Metadata {
            filter_metadata: [(
                "weir".to_owned(),
                Struct {
                    fields: [("pod".to_owned(), text(pod)), ("namespace".to_owned(), text("default"))].into(),
                },
            )]
            .into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let message = endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: endpoints.iter().map(one).collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    Resource::new(ResourceType::Endpoint, name, message.encode_to_vec())
}

fn virtual_host(name: &str, domains: &[&str], cluster: &str) -> route::VirtualHost {
    let retry = route::RetryPolicy {
        retry_on: "connect-failure,refused-stream,reset-before-request".into(),
        num_retries: Some(UInt32Value { value: 2 }),
        ..Default::default()
    };
    route::VirtualHost {
        name: name.into(),
        domains: domains.iter().map(|d| (*d).into()).collect(),
        routes: vec![route::Route {
            name: name.into(),
            r#match: Some(route::RouteMatch {
                path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".into())),
                ..Default::default()
            }),
            action: Some(route::route::Action::Route(route::RouteAction {
                cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster.into())),
                timeout: Some(Duration { seconds: 0, nanos: 0 }),
                retry_policy: Some(retry),
                ..Default::default()
            })),
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub fn table(name: &str, domains: &[&str], cluster: &str) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![
            virtual_host("service", domains, cluster),
            virtual_host("other", &["*"], cluster),
        ],
        ..Default::default()
    }
}

pub fn routes(name: &str, domains: &[&str], cluster: &str) -> Arc<Resource> {
    Resource::new(ResourceType::Route, name, table(name, domains, cluster).encode_to_vec())
}

pub fn manager(routes: hcm::http_connection_manager::RouteSpecifier) -> listener::Filter {
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "web".into(),
        route_specifier: Some(routes),
        http_filters: vec![hcm::HttpFilter {
            name: "envoy.filters.http.router".into(),
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(Any {
                type_url: "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router".into(),
                value: Vec::new(),
            })),
            ..Default::default()
        }],
        ..Default::default()
    };
    listener::Filter {
        name: "hcm".into(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any(&manager))),
    }
}

pub fn named(route: &str) -> hcm::http_connection_manager::RouteSpecifier {
    hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
        route_config_name: route.into(),
        config_source: None,
    })
}

pub fn listener_message(name: &str, at: SocketAddr, bind: bool, filter: listener::Filter) -> listener::Listener {
    listener::Listener {
        name: name.into(),
        address: Some(address(at)),
        bind_to_port: Some(BoolValue { value: bind }),
        traffic_direction: core::TrafficDirection::Outbound.into(),
        filter_chains: vec![listener::FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A listener whose routes are named as itself.
pub fn web(name: &str, port: u16) -> Arc<Resource> {
    let message = listener_message(name, local(port), true, manager(named(name)));
    Resource::new(ResourceType::Listener, name, message.encode_to_vec())
}

/// Everything for one service on one port.
pub fn service(port: u16, to: &[(SocketAddr, &str)]) -> Vec<Arc<Resource>> {
    vec![
        cluster("svc"),
        endpoints("svc", to),
        web("web", port),
        routes("web", &["svc"], "svc"),
    ]
}
