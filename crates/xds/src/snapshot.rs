//! The immutable configuration of one node, and its consistency check.
//!
//! A snapshot holds a few layers of resources a type. Layers and resources are shared between the snapshots of many
//! nodes, so that a node costs little more than the listeners that are its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::transport_socket;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{RouteAction, RouteConfiguration};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy, tcp_proxy::ClusterSpecifier as TcpCluster,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use prost::{Message, Name};

use crate::layers::Layers;
pub use crate::layers::Resources;
use crate::types::{Resource, ResourceType, version_text};

/// The whole configuration of one node. Cloning copies a handful of pointers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    types: [Layers; ResourceType::ALL.len()],
}

/// What makes a snapshot inconsistent. Publishing such a snapshot would leave a client waiting or its traffic unanswered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// A resource refers to one that is not in the snapshot.
    #[error("{from} `{from_name}` refers to {to} `{to_name}`, which is not in the snapshot")]
    Missing {
        /// Type of the referring resource.
        from: ResourceType,
        /// Name of the referring resource.
        from_name: String,
        /// Type of the missing resource.
        to: ResourceType,
        /// Name of the missing resource.
        to_name: String,
    },
    /// Endpoints that no cluster refers to, or routes that no listener refers to.
    #[error("{ty} `{name}` is in the snapshot, but nothing refers to it")]
    Unreferenced {
        /// Type of the superfluous resource.
        ty: ResourceType,
        /// Its name.
        name: String,
    },
    /// A resource stands under another name or type than its own.
    #[error("{ty} `{key}` holds the resource {found}")]
    Misplaced {
        /// Type of the map.
        ty: ResourceType,
        /// Key in the map.
        key: String,
        /// What was found there.
        found: String,
    },
}

impl Snapshot {
    /// An empty snapshot; a client that gets it is told that nothing exists.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same snapshot with the resources of one type replaced.
    #[must_use]
    pub fn with(mut self, ty: ResourceType, resources: impl Into<Layers>) -> Self {
        self.types[ty.index()] = resources.into();
        self
    }

    /// The resources of one type by name.
    pub fn resources(&self, ty: ResourceType) -> &Layers {
        &self.types[ty.index()]
    }

    /// One version for all resources of a type: equal for equal content, on every replica.
    pub fn version(&self, ty: ResourceType) -> String {
        version_text(self.resources(ty).sum())
    }

    /// These are the very same layers: nothing changed.
    pub fn same(&self, other: &Self) -> bool {
        self.types.iter().zip(&other.types).all(|(a, b)| a.same(b))
    }

    /// One resource.
    pub fn get(&self, ty: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.types[ty.index()].get(name)
    }

    /// As [`Snapshot::check`], for a snapshot that came after a consistent one: where no name came or went and no reference
    /// changed, there is nothing to look for.
    pub fn check_since(&self, before: &Self) -> Result<(), Vec<Inconsistency>> {
        let alike = |ty: ResourceType| {
            let (old, new) = (before.resources(ty), self.resources(ty));
            let references = |layers: &Layers, name: &str| layers.get(name).map(|r| (r.ty, r.references.clone()));
            let lists = new.changes_since(old);
            lists.iter().flat_map(|names| names.iter()).all(|name| {
                let now = references(new, name);
                now.is_some() && now == references(old, name)
            })
        };
        if ResourceType::ALL.into_iter().all(alike) {
            return Ok(());
        }
        self.check()
    }

    /// All inconsistencies: every reference must have its resource; endpoints and routes must be referred to.
    pub fn check(&self) -> Result<(), Vec<Inconsistency>> {
        let mut found = Vec::new();
        let mut referred: BTreeSet<(ResourceType, &str)> = BTreeSet::new();
        for ty in ResourceType::ALL {
            for (key, resource) in self.resources(ty).iter() {
                if resource.ty != ty || resource.name != *key {
                    found.push(Inconsistency::Misplaced {
                        ty,
                        key: key.clone(),
                        found: format!("{}/{}", resource.ty, resource.name),
                    });
                }
                for (to, to_name) in &resource.references {
                    referred.insert((*to, to_name));
                    if self.get(*to, to_name).is_none() {
                        found.push(Inconsistency::Missing {
                            from: ty,
                            from_name: key.clone(),
                            to: *to,
                            to_name: to_name.clone(),
                        });
                    }
                }
            }
        }
        for ty in ResourceType::ALL {
            let mut names = BTreeSet::new();
            for key in self.resources(ty).keys().filter(|key| !names.insert(*key)) {
                found.push(Inconsistency::Misplaced {
                    ty,
                    key: key.clone(),
                    found: "of another layer too".to_owned(),
                });
            }
        }
        for ty in [ResourceType::Endpoint, ResourceType::Route] {
            for name in self.resources(ty).keys() {
                if !referred.contains(&(ty, name)) {
                    found.push(Inconsistency::Unreferenced { ty, name: name.clone() });
                }
            }
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }
}

/// The resources that an encoded resource refers to by name. What cannot be decoded refers to nothing.
pub(crate) fn references(ty: ResourceType, body: &[u8]) -> Vec<(ResourceType, String)> {
    let mut found = BTreeSet::new();
    match ty {
        ResourceType::Cluster => {
            if let Ok(cluster) = Cluster::decode(body)
                && let Some(name) = endpoints_of(&cluster)
            {
                found.insert((ResourceType::Endpoint, name));
            }
        }
        ResourceType::Listener => {
            if let Ok(listener) = Listener::decode(body) {
                listener
                    .filter_chains
                    .iter()
                    .chain(&listener.default_filter_chain)
                    .for_each(|chain| chain_references(chain, &mut found));
            }
        }
        ResourceType::Route => {
            if let Ok(routes) = RouteConfiguration::decode(body) {
                route_references(&routes, &mut found);
            }
        }
        ResourceType::Endpoint | ResourceType::Secret | ResourceType::Peer => {}
    }
    found.into_iter().collect()
}

/// The name of the assignment that an EDS cluster waits for; `None` for clusters of other types.
pub fn endpoints_of(cluster: &Cluster) -> Option<String> {
    let Some(ClusterDiscoveryType::Type(ty)) = cluster.cluster_discovery_type else {
        return None;
    };
    if ty != DiscoveryType::Eds as i32 {
        return None;
    }
    let service_name = cluster.eds_cluster_config.as_ref().map(|e| e.service_name.as_str());
    Some(
        service_name
            .filter(|n| !n.is_empty())
            .unwrap_or(&cluster.name)
            .to_owned(),
    )
}

fn chain_references(chain: &FilterChain, found: &mut BTreeSet<(ResourceType, String)>) {
    if let Some(transport_socket::ConfigType::TypedConfig(any)) =
        chain.transport_socket.as_ref().and_then(|s| s.config_type.as_ref())
        && any.type_url == DownstreamTlsContext::type_url()
        && let Ok(context) = DownstreamTlsContext::decode(any.value.as_slice())
    {
        let secrets = context
            .common_tls_context
            .unwrap_or_default()
            .tls_certificate_sds_secret_configs;
        // One without a source stands in the client's own bootstrap.
        let ours = secrets.into_iter().filter(|s| s.sds_config.is_some());
        found.extend(ours.map(|s| (ResourceType::Secret, s.name)));
    }
    for filter in &chain.filters {
        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
            continue;
        };
        if any.type_url == HttpConnectionManager::type_url() {
            match HttpConnectionManager::decode(any.value.as_slice())
                .ok()
                .and_then(|m| m.route_specifier)
            {
                Some(RouteSpecifier::Rds(rds)) => {
                    found.insert((ResourceType::Route, rds.route_config_name));
                }
                Some(RouteSpecifier::RouteConfig(routes)) => route_references(&routes, found),
                Some(RouteSpecifier::ScopedRoutes(_)) | None => {}
            }
        } else if any.type_url == TcpProxy::type_url() {
            match TcpProxy::decode(any.value.as_slice())
                .ok()
                .and_then(|p| p.cluster_specifier)
            {
                Some(TcpCluster::Cluster(name)) => {
                    found.insert((ResourceType::Cluster, name));
                }
                Some(TcpCluster::WeightedClusters(weighted)) => {
                    found.extend(weighted.clusters.into_iter().map(|c| (ResourceType::Cluster, c.name)));
                }
                None => {}
            }
        }
    }
}

/// The name of no cluster. A route whose share leads there answers as its `cluster_not_found_response_code` says.
pub const NO_CLUSTER: &str = "missing";

fn route_references(routes: &RouteConfiguration, found: &mut BTreeSet<(ResourceType, String)>) {
    let actions = routes
        .virtual_hosts
        .iter()
        .flat_map(|host| &host.routes)
        .filter_map(|r| r.action.as_ref());
    for action in actions {
        if let Action::Route(RouteAction {
            cluster_specifier: Some(specifier),
            request_mirror_policies,
            ..
        }) = action
        {
            let mirrors = request_mirror_policies.iter().filter(|m| !m.cluster.is_empty());
            found.extend(mirrors.map(|m| (ResourceType::Cluster, m.cluster.clone())));
            match specifier {
                ClusterSpecifier::Cluster(name) => {
                    found.insert((ResourceType::Cluster, name.clone()));
                }
                ClusterSpecifier::WeightedClusters(weighted) => found.extend(
                    weighted
                        .clusters
                        .iter()
                        .map(|c| (ResourceType::Cluster, c.name.clone())),
                ),
                _ => {}
            }
            found.remove(&(ResourceType::Cluster, NO_CLUSTER.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::config::cluster::v3::cluster::EdsClusterConfig;

    fn cluster(name: &str, service_name: &str) -> Arc<Resource> {
        let message = Cluster {
            name: name.into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
            eds_cluster_config: Some(EdsClusterConfig {
                service_name: service_name.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        Resource::new(ResourceType::Cluster, name, message.encode_to_vec())
    }

    fn map(resources: impl IntoIterator<Item = Arc<Resource>>) -> Arc<Resources> {
        Arc::new(resources.into_iter().map(|r| (r.name.clone(), r)).collect())
    }

    fn endpoints(name: &str) -> Arc<Resource> {
        Resource::new(ResourceType::Endpoint, name, name.as_bytes().to_vec())
    }

    #[test]
    fn a_cluster_needs_its_endpoints_and_endpoints_their_cluster() {
        let clusters = map([cluster("a", ""), cluster("b", "shared")]);
        let good = Snapshot::new()
            .with(ResourceType::Cluster, clusters.clone())
            .with(ResourceType::Endpoint, map([endpoints("a"), endpoints("shared")]));
        assert_eq!(good.check(), Ok(()));

        let bad = good.with(ResourceType::Endpoint, map([endpoints("a"), endpoints("b")]));
        let errors: Vec<String> = bad.check().unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "cds `b` refers to eds `shared`, which is not in the snapshot",
                "eds `b` is in the snapshot, but nothing refers to it",
            ]
        );
    }

    #[test]
    fn a_listener_needs_its_routes_and_a_route_its_cluster() {
        use envoy_types::pb::envoy::config::listener::v3::Filter;
        use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::Rds;
        let manager = HttpConnectionManager {
            route_specifier: Some(RouteSpecifier::Rds(Rds {
                route_config_name: "r".into(),
                config_source: None,
            })),
            ..Default::default()
        };
        let listener = Listener {
            name: "l".into(),
            filter_chains: vec![FilterChain {
                filters: vec![Filter {
                    name: "http".into(),
                    config_type: Some(ConfigType::TypedConfig(envoy_types::util::pack_any(manager))),
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let listener = Resource::new(ResourceType::Listener, "l", listener.encode_to_vec());
        assert_eq!(listener.references(), [(ResourceType::Route, "r".to_owned())]);
        let snapshot = Snapshot::new().with(ResourceType::Listener, map([listener]));
        assert_eq!(
            snapshot.check().unwrap_err()[0].to_string(),
            "lds `l` refers to rds `r`, which is not in the snapshot"
        );
    }

    #[test]
    fn a_listener_needs_the_secrets_that_it_does_not_bring() {
        use envoy_types::pb::envoy::config::core::v3::{ConfigSource, TransportSocket};
        use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{CommonTlsContext, SdsSecretConfig};
        let secret = |name: &str, source: Option<ConfigSource>| SdsSecretConfig {
            name: name.into(),
            sds_config: source,
        };
        let context = DownstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                tls_certificate_sds_secret_configs: vec![
                    secret("default/shop", Some(ConfigSource::default())),
                    secret("of the bootstrap", None),
                ],
                ..Default::default()
            }),
            ..Default::default()
        };
        let listener = Listener {
            name: "l".into(),
            filter_chains: vec![FilterChain {
                transport_socket: Some(TransportSocket {
                    name: "tls".into(),
                    config_type: Some(transport_socket::ConfigType::TypedConfig(envoy_types::util::pack_any(
                        context,
                    ))),
                }),
                ..Default::default()
            }],
            ..Default::default()
        };
        let listener = Resource::new(ResourceType::Listener, "l", listener.encode_to_vec());
        assert_eq!(
            listener.references(),
            [(ResourceType::Secret, "default/shop".to_owned())]
        );
        let snapshot = Snapshot::new().with(ResourceType::Listener, map([listener]));
        assert_eq!(
            snapshot.check().unwrap_err()[0].to_string(),
            "lds `l` refers to sds `default/shop`, which is not in the snapshot"
        );
    }

    #[test]
    fn garbage_refers_to_nothing() {
        for ty in ResourceType::ALL {
            assert!(references(ty, &[0xff, 0xff, 0xff]).is_empty());
        }
    }
}
