//! Resources that stand in the bootstrap file: from protobuf's JSON to the messages that a control plane would send.
//!
//! So both come to the same decoder, and a field means the same in both. Only the fields that the decoder supports are
//! known here; any other is refused by name.

use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::google::protobuf;
use prost::Message;
use serde::Deserialize;
use serde_json::Value;
use weir_xds::ResourceType;

use super::bootstrap::{BootstrapError, StaticResource, Tls, from_value, wrong};
use super::{duration, node};

mod http2;
mod listener;
mod tls;
mod trace;
mod upstream;

pub use listener::listener;
pub use tls::secret;

type Read<T> = Result<T, BootstrapError>;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Cluster {
    name: String,
    #[serde(rename = "type")]
    ty: Option<String>,
    connect_timeout: Option<String>,
    dns_lookup_family: Option<String>,
    dns_refresh_rate: Option<String>,
    load_assignment: Option<LoadAssignment>,
    eds_cluster_config: Option<EdsClusterConfig>,
    upstream_bind_config: Option<BindConfig>,
    transport_socket: Option<tls::TransportSocket>,
    typed_extension_protocol_options: BTreeMap<String, Value>,
    http2_protocol_options: Option<Value>,
    metadata: Option<Metadata>,
    #[serde(rename = "upstream_connection_options")]
    _upstream_connection_options: Option<Value>,
    /// How its endpoints are used.
    #[serde(skip)]
    upstream: cluster::Cluster,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct EdsClusterConfig {
    #[serde(rename = "eds_config")]
    _eds_config: Option<Value>,
    service_name: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LoadAssignment {
    cluster_name: String,
    endpoints: Vec<Locality>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Locality {
    lb_endpoints: Vec<LbEndpoint>,
    #[serde(rename = "locality")]
    _locality: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LbEndpoint {
    endpoint: EndpointAddress,
    load_balancing_weight: Option<u32>,
    metadata: Option<Metadata>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct EndpointAddress {
    address: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Metadata {
    filter_metadata: BTreeMap<String, BTreeMap<String, Value>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct BindConfig {
    source_address: Option<Value>,
    socket_options: Vec<SocketOption>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct SocketOption {
    description: String,
    level: i64,
    name: i64,
    int_value: i64,
    state: Option<String>,
}

/// The fields of a cluster, of which some are read elsewhere.
fn from_cluster(at: &str, mut value: Value) -> Read<Cluster> {
    let mut fields = serde_json::Map::new();
    if let Value::Object(all) = &mut value {
        let (others, own) = std::mem::take(all)
            .into_iter()
            .partition(|(name, _)| !upstream::is_field(name));
        (*all, fields) = (others, own);
    }
    let mut file: Cluster = from_value(at, value)?;
    file.upstream = upstream::upstream(at, Value::Object(fields))?;
    Ok(file)
}

/// A cluster of the file.
pub fn cluster(at: &str, value: Value) -> Read<StaticResource> {
    let file: Cluster = from_cluster(at, value)?;
    let kind = match file.ty.as_deref().unwrap_or("STATIC") {
        "STATIC" => cluster::cluster::DiscoveryType::Static,
        "STRICT_DNS" => cluster::cluster::DiscoveryType::StrictDns,
        "LOGICAL_DNS" => cluster::cluster::DiscoveryType::LogicalDns,
        "EDS" => cluster::cluster::DiscoveryType::Eds,
        "ORIGINAL_DST" => cluster::cluster::DiscoveryType::OriginalDst,
        other => return wrong(format!("{at}.type"), format!("{other:?} is unknown")),
    };
    if !matches!(
        file.dns_lookup_family.as_deref(),
        None | Some("AUTO" | "V4_ONLY" | "V4_PREFERRED" | "ALL")
    ) {
        return wrong(
            format!("{at}.dns_lookup_family"),
            "must be AUTO, ALL, V4_ONLY or V4_PREFERRED",
        );
    }
    let mut protocol_options = HashMap::new();
    for (key, options) in file.typed_extension_protocol_options {
        let at = format!("{at}.typed_extension_protocol_options[{key:?}]");
        protocol_options.insert(key, http2::upstream(&at, options)?);
    }
    let http2_protocol_options = match file.http2_protocol_options {
        None => None,
        Some(options) => Some(http2::options(&format!("{at}.http2_protocol_options"), options)?),
    };
    #[allow(deprecated)]
    let message = cluster::Cluster {
        name: file.name.clone(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(kind.into())),
        connect_timeout: timespan(&format!("{at}.connect_timeout"), file.connect_timeout)?,
        dns_refresh_rate: timespan(&format!("{at}.dns_refresh_rate"), file.dns_refresh_rate)?,
        load_assignment: match file.load_assignment {
            None => None,
            Some(a) => Some(load_assignment(&format!("{at}.load_assignment"), a)?),
        },
        eds_cluster_config: file.eds_cluster_config.map(|e| cluster::cluster::EdsClusterConfig {
            eds_config: None,
            service_name: e.service_name,
        }),
        upstream_bind_config: file
            .upstream_bind_config
            .map(|b| bind_config(&format!("{at}.upstream_bind_config"), b))
            .transpose()?,
        transport_socket: file
            .transport_socket
            .map(|t| tls::message(&format!("{at}.transport_socket"), t))
            .transpose()?,
        typed_extension_protocol_options: protocol_options,
        http2_protocol_options,
        metadata: file.metadata.map(metadata),
        ..file.upstream
    };
    resource(at, ResourceType::Cluster, file.name, &message)
}

/// The cluster of the control plane: one address, and how it proves itself.
pub fn ads_cluster(value: Value) -> Read<(String, Option<Tls>)> {
    let at = "the cluster of the control plane";
    let file: Cluster = from_cluster(at, value)?;
    let assignment = file.load_assignment.unwrap_or_default();
    let first = assignment.endpoints.iter().flat_map(|l| &l.lb_endpoints).next();
    let Some(first) = first else {
        return wrong(at, "has no endpoint in load_assignment");
    };
    let (host, port) = host_and_port(at, &first.endpoint.address)?;
    let tls = match file.transport_socket {
        None => None,
        Some(socket) => Some(tls::of_control_plane(&format!("{at}.transport_socket"), socket)?),
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok((format!("{host}:{port}"), tls))
}

fn load_assignment(at: &str, file: LoadAssignment) -> Read<endpoint::ClusterLoadAssignment> {
    let mut endpoints = Vec::new();
    for (i, locality) in file.endpoints.into_iter().enumerate() {
        let mut lb_endpoints = Vec::new();
        for (j, one) in locality.lb_endpoints.into_iter().enumerate() {
            let at = format!("{at}.endpoints[{i}].lb_endpoints[{j}]");
            lb_endpoints.push(endpoint::LbEndpoint {
                load_balancing_weight: one.load_balancing_weight.map(|value| protobuf::UInt32Value { value }),
                metadata: one.metadata.map(metadata),
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                    address: Some(address(&format!("{at}.endpoint.address"), &one.endpoint.address)?),
                    ..Default::default()
                })),
                ..Default::default()
            });
        }
        endpoints.push(endpoint::LocalityLbEndpoints {
            lb_endpoints,
            ..Default::default()
        });
    }
    Ok(endpoint::ClusterLoadAssignment {
        cluster_name: file.cluster_name,
        endpoints,
        ..Default::default()
    })
}

fn metadata(file: Metadata) -> core::Metadata {
    let object = |fields: BTreeMap<String, Value>| protobuf::Struct {
        fields: fields.into_iter().map(|(k, v)| (k, node::message(&v))).collect(),
    };
    core::Metadata {
        filter_metadata: file.filter_metadata.into_iter().map(|(k, v)| (k, object(v))).collect(),
        ..Default::default()
    }
}

fn bind_config(at: &str, file: BindConfig) -> Read<core::BindConfig> {
    if !matches!(
        file.socket_options.iter().find_map(|o| o.state.as_deref()),
        None | Some("STATE_PREBIND")
    ) {
        return wrong(format!("{at}.socket_options"), "must have state STATE_PREBIND");
    }
    let source_address = match file.source_address {
        None => None,
        Some(value) => {
            let host = value
                .get("address")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            Some(core::SocketAddress {
                address: host,
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
                ..Default::default()
            })
        }
    };
    let option = |o: SocketOption| core::SocketOption {
        description: o.description,
        level: o.level,
        name: o.name,
        value: Some(core::socket_option::Value::IntValue(o.int_value)),
        ..Default::default()
    };
    let socket_options = file.socket_options.into_iter().map(option).collect();
    Ok(core::BindConfig {
        source_address,
        socket_options,
        ..Default::default()
    })
}

/// Host and port of `{"socket_address": {"address", "port_value"}}`.
pub fn host_and_port(at: &str, value: &Value) -> Read<(String, u16)> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Address {
        socket_address: SocketAddress,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct SocketAddress {
        #[serde(default)]
        protocol: Option<String>,
        address: String,
        port_value: u16,
    }
    let Address { socket_address: socket } = from_value(at, value.clone())?;
    if !matches!(socket.protocol.as_deref(), None | Some("TCP")) {
        return wrong(format!("{at}.socket_address.protocol"), "must be TCP");
    }
    Ok((socket.address, socket.port_value))
}

fn address(at: &str, value: &Value) -> Read<core::Address> {
    let (address, port) = host_and_port(at, value)?;
    Ok(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address,
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    })
}

fn timespan(at: &str, text: Option<String>) -> Read<Option<protobuf::Duration>> {
    match text {
        None => Ok(None),
        Some(text) => duration::parse(&text).map(Some).or_else(|e| wrong(at, e)),
    }
}

/// What an `Any` holds, by its own word.
fn type_url(config: &Value) -> String {
    config
        .get("@type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn boolean(value: Option<bool>) -> Option<protobuf::BoolValue> {
    value.map(|value| protobuf::BoolValue { value })
}

fn number(value: Option<u32>) -> Option<protobuf::UInt32Value> {
    value.map(|value| protobuf::UInt32Value { value })
}

fn resource(at: &str, ty: ResourceType, name: String, message: &impl Message) -> Read<StaticResource> {
    if name.is_empty() {
        return wrong(format!("{at}.name"), "is missing");
    }
    Ok(StaticResource {
        ty,
        name,
        body: message.encode_to_vec(),
    })
}
