//! xDS messages to the proxy's own model.
//!
//! Enters: one encoded resource. Leaves: its model, or a [`Rejection`] that names the field and says what would be right.
//! A field that is set and not supported is a rejection, never ignored; fields that only tune buffers or statistics are
//! accepted and listed here. Knows nothing of other resources. Certificates that a resource names by file are read here.

mod access_log;
mod cluster;
mod endpoint;
mod fault;
mod http2;
mod listener;
mod retry;
mod route;
mod telemetry;
mod tls;
mod trace;
mod upstream;

pub use cluster::cluster;
pub use endpoint::assignment;
pub use listener::listener;
pub use tls::secret;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf;
use prost::Message;

use super::{RouteTable, duration};

/// Why a resource is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Rejection {
    /// Path of the field within the resource.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

type Decoded<T> = Result<T, Rejection>;

/// Decodes a route configuration.
pub fn route_table(body: &[u8]) -> Decoded<RouteTable> {
    route::table(parse("route configuration", body)?)
}

fn reject<T>(field: impl Into<String>, message: impl Into<String>) -> Decoded<T> {
    Err(Rejection {
        field: field.into(),
        message: message.into(),
    })
}

/// Puts a rejection's field below another.
trait Within<T> {
    fn within(self, parent: impl fmt::Display) -> Decoded<T>;
}

impl<T> Within<T> for Decoded<T> {
    fn within(self, parent: impl fmt::Display) -> Decoded<T> {
        self.map_err(|r| {
            let field = if r.field.is_empty() {
                parent.to_string()
            } else {
                format!("{parent}.{}", r.field)
            };
            Rejection {
                field,
                message: r.message,
            }
        })
    }
}

fn parse<M: Message + Default>(what: &str, body: &[u8]) -> Decoded<M> {
    M::decode(body).or_else(|e| reject(what, format!("these bytes are no such message: {e}")))
}

/// Decodes the content of an `Any` whose type is known.
fn unpack<M: Message + Default>(any: &protobuf::Any) -> Decoded<M> {
    parse("typed_config", &any.value)
}

/// The message name of a type URL.
fn message_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// Refuses a message in which anything is still set. Callers take out what they support first.
fn nothing_left<M: Default + PartialEq + fmt::Debug>(rest: &M) -> Decoded<()> {
    if *rest == M::default() {
        return Ok(());
    }
    // Both print the same fields in the same order, so the first line that differs begins with the field's name.
    let (set, unset) = (format!("{rest:#?}"), format!("{:#?}", M::default()));
    let line = set
        .lines()
        .zip(unset.lines())
        .find(|(a, b)| a != b)
        .map_or("", |(a, _)| a);
    let field = line
        .trim()
        .split(':')
        .next()
        .unwrap_or_default()
        .trim_start_matches("r#");
    reject(field, "is not supported by this proxy; leave it unset")
}

fn flag(value: &Option<protobuf::BoolValue>, default: bool) -> bool {
    value.as_ref().map_or(default, |v| v.value)
}

fn optional_duration(field: &str, value: &Option<protobuf::Duration>) -> Decoded<Option<Duration>> {
    match value {
        None => Ok(None),
        Some(value) => duration::from_message(value).map(Some).or_else(|e| reject(field, e)),
    }
}

fn port(field: &str, value: u32) -> Decoded<u16> {
    u16::try_from(value).or_else(|_| reject(field, format!("{value} is no port; ports end at 65535")))
}

/// Host and port of an address; other kinds than TCP are refused.
pub(super) fn host_and_port(address: Option<core::Address>) -> Decoded<(String, u16)> {
    let Some(core::Address { address: Some(address) }) = address else {
        return reject("", "is missing; right would be socket_address {address, port_value}");
    };
    let core::address::Address::SocketAddress(mut socket) = address else {
        return reject("", "must be a socket_address");
    };
    let number = match socket.port_specifier.take() {
        Some(core::socket_address::PortSpecifier::PortValue(value)) => port("socket_address.port_value", value)?,
        _ => return reject("socket_address.port_value", "is missing"),
    };
    let host = std::mem::take(&mut socket.address);
    nothing_left(&socket).within("socket_address")?;
    Ok((host, number))
}

/// A literal socket address.
fn socket_address(address: Option<core::Address>) -> Decoded<SocketAddr> {
    let (host, port) = host_and_port(address)?;
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(SocketAddr::new(ip, port)),
        Err(_) => reject("socket_address.address", format!("{host:?} is no IP address")),
    }
}

#[cfg(test)]
mod tests;
