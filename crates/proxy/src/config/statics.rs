//! Resources that stand in the bootstrap file: from protobuf's JSON to the messages that a control plane would send.
//!
//! So both come to the same decoder, and a field means the same in both. Whether a field may be set is that decoder's to
//! say; a field that is not known at all is refused here, by its path and name.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use prost::{Message, Name};
use serde_json::Value;
use weir_xds::{ResourceType, json};

use super::bootstrap::{AdminAddress, BootstrapError, StaticResource, Tls, wrong};
use super::decode;

type Read<T> = Result<T, BootstrapError>;

/// A listener, cluster or secret of the file.
pub fn resource(at: &str, ty: ResourceType, value: &Value) -> Read<StaticResource> {
    let body = encoded(at, ty.type_url(), value)?;
    match value.get("name").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => Ok(StaticResource {
            ty,
            name: name.to_owned(),
            body,
        }),
        _ => wrong(format!("{at}.name"), "is missing"),
    }
}

fn encoded(at: &str, message: &str, value: &Value) -> Read<Vec<u8>> {
    json::encode(message, value).or_else(|error| {
        let json::Error { path, message } = error.below(at);
        wrong(path, message)
    })
}

fn message<M: Message + Name + Default>(at: &str, value: &Value) -> Read<M> {
    M::decode(&*encoded(at, &M::full_name(), value)?).or_else(|e| wrong(at, e.to_string()))
}

/// The cluster of the control plane: one address, and how it proves itself.
pub fn ads_cluster(value: &Value) -> Read<(String, Option<Tls>)> {
    let at = "the cluster of the control plane";
    let cluster: Cluster = message(at, value)?;
    let localities = cluster.load_assignment.unwrap_or_default().endpoints;
    let first = localities.into_iter().flat_map(|l| l.lb_endpoints).next();
    let Some(first) = first else {
        return wrong(at, "has no endpoint in load_assignment");
    };
    let address = match first.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint.address,
        _ => None,
    };
    let (host, port) = host_and_port(&format!("{at}: the endpoint's address"), address)?;
    let tls = match cluster.transport_socket {
        None => None,
        Some(socket) => Some(of_control_plane(&format!("{at}.transport_socket"), socket)?),
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok((format!("{host}:{port}"), tls))
}

/// How the control plane proves itself.
fn of_control_plane(at: &str, socket: core::TransportSocket) -> Read<Tls> {
    let context = match socket.config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any))
            if any.type_url == tls::UpstreamTlsContext::type_url() =>
        {
            tls::UpstreamTlsContext::decode(&*any.value).or_else(|e| wrong(at, e.to_string()))?
        }
        _ => return wrong(at, "must be an UpstreamTlsContext"),
    };
    use tls::common_tls_context::ValidationContextType::ValidationContext;
    let trusted = match context.common_tls_context.and_then(|c| c.validation_context_type) {
        Some(ValidationContext(context)) => context.trusted_ca.and_then(|source| source.specifier),
        _ => None,
    };
    match trusted {
        Some(core::data_source::Specifier::Filename(ca_file)) => Ok(Tls {
            ca_file: ca_file.into(),
            server_name: (!context.sni.is_empty()).then_some(context.sni),
        }),
        _ => wrong(at, "has no validation_context.trusted_ca.filename"),
    }
}

fn host_and_port(at: &str, address: Option<core::Address>) -> Read<(String, u16)> {
    decode::host_and_port(address).or_else(|rejection| {
        let field = match rejection.field.as_str() {
            "" => at.to_owned(),
            field => format!("{at}.{field}"),
        };
        wrong(field, rejection.message)
    })
}

/// Where the administration interface listens.
pub fn admin(value: &Value) -> Read<AdminAddress> {
    let at = "admin.address";
    let address: core::Address = message(at, value)?;
    if let Some(core::address::Address::Pipe(pipe)) = address.address {
        return Ok(AdminAddress::Pipe(pipe.path.into()));
    }
    let (host, port) = host_and_port(at, Some(address))?;
    match host.parse() {
        Ok(ip) => Ok(AdminAddress::Tcp(std::net::SocketAddr::new(ip, port))),
        Err(_) => wrong(at, format!("{host:?} is no IP address")),
    }
}

#[cfg(test)]
mod tests;
