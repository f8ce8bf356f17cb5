//! Resource types, their URLs and order of use; one versioned resource.
//!
//! Enters: encoded protobuf messages. Leaves: `Resource`s whose version is a hash of the bytes, so that equal content has
//! equal versions on every control plane replica and over restarts.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::google::protobuf::Any;
use serde::{Deserialize, Serialize};

use crate::snapshot::references;

/// The types of resources that Weir sends and reads, in the order in which additions are sent ("make before break").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoint,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`: certificates with their keys. Only the nodes that use one get it.
    Secret,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
    /// [`Peer`]: who has an address. Asked for by address, on demand; never sent unasked and never by wildcard.
    Peer,
}

impl ResourceType {
    /// Every type, in the order of additions.
    pub const ALL: [ResourceType; 6] = [
        Self::Cluster,
        Self::Endpoint,
        Self::Secret,
        Self::Listener,
        Self::Route,
        Self::Peer,
    ];

    /// The type URL in requests, responses and `Any` bodies.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Peer => "type.googleapis.com/weir.v1.Peer",
        }
    }

    /// The type of a type URL; `None` for one that Weir does not serve.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.type_url() == url)
    }

    /// The short name of its discovery service, as users of Envoy know it.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoint => "eds",
            Self::Secret => "sds",
            Self::Listener => "lds",
            Self::Route => "rds",
            Self::Peer => "peer",
        }
    }

    /// Listeners and clusters: a first request without names subscribes to all, and in the state-of-the-world protocol
    /// a resource absent from a response is deleted.
    pub const fn is_full_state(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// One resource: its name, its version (a hash of the body) and its encoded body. Immutable, shared by `Arc`.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// Type of the resource.
    pub ty: ResourceType,
    /// Name, unique within its type.
    pub name: String,
    /// Hexadecimal hash of the body.
    pub version: String,
    /// The encoded message (the `value` of an `Any`).
    pub body: Bytes,
    /// The resources that this one refers to by name.
    pub(crate) references: Vec<(ResourceType, String)>,
}

impl Resource {
    /// Wraps an encoded body. A body that cannot be decoded has no references; the client will reject it.
    pub fn new(ty: ResourceType, name: impl Into<String>, body: impl Into<Bytes>) -> Arc<Self> {
        let body = body.into();
        Arc::new(Self {
            ty,
            name: name.into(),
            version: version_of(&body),
            references: references(ty, &body),
            body,
        })
    }

    /// As [`Resource::new`], but returns `previous` when it has the same name and content: equal resources stay the same
    /// allocation over rebuilds and are not decoded again.
    pub fn renew(previous: Option<&Arc<Self>>, ty: ResourceType, name: &str, body: impl Into<Bytes>) -> Arc<Self> {
        let body = body.into();
        match previous {
            Some(p) if p.ty == ty && p.name == name && p.body == body => Arc::clone(p),
            _ => Self::new(ty, name, body),
        }
    }

    /// What a client says it has: name and version, no content.
    pub(crate) fn claimed(ty: ResourceType, name: String, version: String) -> Arc<Self> {
        Arc::new(Self {
            ty,
            name,
            version,
            body: Bytes::new(),
            references: Vec::new(),
        })
    }

    /// The resource as it stands in a response.
    pub fn to_any(&self) -> Any {
        Any {
            type_url: self.ty.type_url().to_owned(),
            value: self.body.to_vec(),
        }
    }

    /// The resources that this one refers to by name (type and name).
    pub fn references(&self) -> &[(ResourceType, String)] {
        &self.references
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}@{} ({} bytes)",
            self.ty,
            self.name,
            self.version,
            self.body.len()
        )
    }
}

/// The version of a body: a hash that is the same in every process and over restarts.
pub fn version_of(body: &[u8]) -> String {
    version_text(hash_of(body))
}

/// The hash behind all versions.
pub(crate) fn hash_of(bytes: &[u8]) -> u64 {
    rapidhash::v3::rapidhash_v3(bytes)
}

pub(crate) fn version_text(hash: u64) -> String {
    format!("{hash:016x}")
}

/// Who has an address (resource type [`ResourceType::Peer`], named by the IP address). The encoding is this message:
/// Weir's own, since xDS has none.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Peer {
    /// Namespace of the pod.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Name of the pod.
    #[prost(string, tag = "2")]
    pub pod: String,
    /// Lower-case kind of the workload that owns the pod: `deployment`, `statefulset`, ...; empty when unknown.
    #[prost(string, tag = "3")]
    pub owner_kind: String,
    /// Name of that workload.
    #[prost(string, tag = "4")]
    pub owner: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_urls_round_trip() {
        for ty in ResourceType::ALL {
            assert_eq!(ResourceType::from_type_url(ty.type_url()), Some(ty));
        }
        assert_eq!(ResourceType::from_type_url("type.googleapis.com/other"), None);
    }

    #[test]
    fn versions_follow_content() {
        let a = Resource::new(ResourceType::Peer, "10.0.0.1", vec![1, 2]);
        let same = Resource::renew(Some(&a), ResourceType::Peer, "10.0.0.1", vec![1, 2]);
        assert!(Arc::ptr_eq(&a, &same));
        let other = Resource::renew(Some(&a), ResourceType::Peer, "10.0.0.1", vec![1, 3]);
        assert_ne!(a.version, other.version);
    }

    /// The version of fixed bytes is fixed: replicas and restarts agree.
    #[test]
    fn versions_are_stable() {
        assert_eq!(version_of(b"weir"), version_of(b"weir"));
        assert_eq!(version_of(b"").len(), 16);
    }
}
