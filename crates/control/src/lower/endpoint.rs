//! Endpoints: who takes a destination's traffic, with which weight, and who that is.
//!
//! The messages are written here once more, with ordered maps: the generated ones keep an endpoint's metadata in hash
//! maps, whose order, and with it the version of the resource, would change from one encoding to the next.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::endpoint::v3::Endpoint;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{UInt32Value, Value};

use super::listener::socket_address;
use super::{Destination, number};

/// Key of the endpoint's metadata under which a proxy finds who an endpoint is.
pub const METADATA: &str = "weir";

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Assignment {
    #[prost(string, tag = "1")]
    cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<Locality>,
}

/// `envoy.config.endpoint.v3.LocalityLbEndpoints`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Locality {
    #[prost(message, repeated, tag = "2")]
    lb_endpoints: Vec<LbEndpoint>,
}

/// `envoy.config.endpoint.v3.LbEndpoint`
#[derive(Clone, PartialEq, prost::Message)]
pub struct LbEndpoint {
    #[prost(message, optional, tag = "1")]
    endpoint: Option<Endpoint>,
    #[prost(message, optional, tag = "3")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "4")]
    load_balancing_weight: Option<UInt32Value>,
}

/// `envoy.config.core.v3.Metadata`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    #[prost(btree_map = "string, message", tag = "1")]
    filter_metadata: BTreeMap<String, Struct>,
}

impl Metadata {
    /// What one reader is told.
    pub(super) fn of(reader: &str, fields: BTreeMap<String, Value>) -> Self {
        Self::default().and(reader, fields)
    }

    /// What another reader is told beside it.
    pub(super) fn and(mut self, reader: &str, fields: BTreeMap<String, Value>) -> Self {
        self.filter_metadata.insert(reader.to_owned(), Struct { fields });
        self
    }
}

/// `google.protobuf.Struct`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

/// The endpoints of a destination that take traffic: ready, with a weight. There may be none; the assignment exists
/// nevertheless, or the cluster would wait for it.
pub(super) fn assignment(destination: &Destination<'_>) -> Assignment {
    let takes_traffic = |e: &&&weir_mesh::Endpoint| destination.single || (e.ready && e.weight > 0);
    let lb_endpoints: Vec<LbEndpoint> = destination
        .endpoints
        .iter()
        .filter(takes_traffic)
        .map(|endpoint| lb_endpoint(endpoint, destination.service))
        .collect();
    named(&destination.name, lb_endpoints)
}

/// Endpoints that are no destination of the mesh's traffic: whoever is ready takes its part.
pub(super) fn assignment_of(name: &str, endpoints: &[weir_mesh::Endpoint]) -> Assignment {
    let ready = endpoints.iter().filter(|e| e.ready);
    named(name, ready.map(|endpoint| lb_endpoint(endpoint, "")).collect())
}

fn named(name: &str, lb_endpoints: Vec<LbEndpoint>) -> Assignment {
    let endpoints = if lb_endpoints.is_empty() {
        Vec::new()
    } else {
        vec![Locality { lb_endpoints }]
    };
    Assignment {
        cluster_name: name.to_owned(),
        endpoints,
    }
}

fn lb_endpoint(endpoint: &weir_mesh::Endpoint, service: &str) -> LbEndpoint {
    LbEndpoint {
        endpoint: Some(Endpoint {
            address: Some(socket_address(endpoint.ip, u32::from(endpoint.port))),
            ..Default::default()
        }),
        metadata: Some(metadata(endpoint, service)),
        load_balancing_weight: number(endpoint.weight.max(1)),
    }
}

fn metadata(endpoint: &weir_mesh::Endpoint, service: &str) -> Metadata {
    let who = endpoint.identity.as_deref().cloned().unwrap_or_default();
    let fields = [
        ("namespace", who.namespace),
        ("pod", who.pod),
        ("owner_kind", who.owner_kind),
        ("owner", who.owner),
        ("service", service.to_owned()),
    ];
    let fields = fields
        .into_iter()
        .map(|(key, text)| {
            (
                key.to_owned(),
                Value {
                    kind: Some(Kind::StringValue(text)),
                },
            )
        })
        .collect();
    Metadata::of(METADATA, fields)
}
