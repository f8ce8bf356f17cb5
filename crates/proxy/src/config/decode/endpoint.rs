//! `envoy.config.endpoint.v3.ClusterLoadAssignment`.

use std::mem::take;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use envoy_types::pb::envoy::config::core::v3::{HealthStatus, Metadata};
use envoy_types::pb::envoy::config::endpoint::v3 as pb;
use envoy_types::pb::google::protobuf::value::Kind;
use weir_series::canonical::Peer;

use super::{Decoded, Within, host_and_port, nothing_left, parse, reject};
use crate::config::{DnsEndpoint, Endpoint};

/// The key of `filter_metadata` under which the control plane says who an endpoint is.
const PEER_KEY: &str = "weir";
/// Shared by all endpoints of which nothing is said.
static UNKNOWN: LazyLock<Arc<Peer>> = LazyLock::new(Arc::default);

/// Decodes a load assignment: its cluster's name and its endpoints.
pub fn assignment(body: &[u8]) -> Decoded<(Arc<str>, Vec<Endpoint>)> {
    let mut message: pb::ClusterLoadAssignment = parse("load assignment", body)?;
    let name = take(&mut message.cluster_name).into();
    Ok((name, endpoints(message)?))
}

/// The healthy endpoints of an assignment, all localities together; their addresses must be literal.
pub(super) fn endpoints(assignment: pb::ClusterLoadAssignment) -> Decoded<Vec<Endpoint>> {
    let mut found = Vec::new();
    each(assignment, |(host, port), weight, peer| {
        let Ok(ip) = host.parse() else {
            return reject(
                "endpoint.address.socket_address.address",
                format!("{host:?} is no IP address"),
            );
        };
        found.push(Endpoint {
            address: SocketAddr::new(ip, port),
            weight,
            peer,
        });
        Ok(())
    })?;
    Ok(found)
}

/// The endpoints of an assignment whose addresses are to be resolved.
pub(super) fn dns_endpoints(assignment: pb::ClusterLoadAssignment) -> Decoded<Vec<DnsEndpoint>> {
    let mut found = Vec::new();
    each(assignment, |(host, port), weight, peer| {
        found.push(DnsEndpoint {
            host,
            port,
            weight,
            peer,
        });
        Ok(())
    })?;
    Ok(found)
}

type Visit<'a> = dyn FnMut((String, u16), u32, Arc<Peer>) -> Decoded<()> + 'a;

fn each(
    mut rest: pb::ClusterLoadAssignment,
    mut visit: impl FnMut((String, u16), u32, Arc<Peer>) -> Decoded<()>,
) -> Decoded<()> {
    rest.cluster_name.clear();
    for (i, mut locality) in take(&mut rest.endpoints).into_iter().enumerate() {
        let field = format!("endpoints[{i}]");
        for (j, endpoint) in take(&mut locality.lb_endpoints).into_iter().enumerate() {
            one(endpoint, &mut visit).within(format_args!("{field}.lb_endpoints[{j}]"))?;
        }
        // Localities are one set here; their weights only matter where they would be balanced separately.
        locality.locality = None;
        locality.load_balancing_weight = None;
        locality.metadata = None;
        nothing_left(&locality).within(field)?;
    }
    nothing_left(&rest)
}

fn one(mut rest: pb::LbEndpoint, visit: &mut Visit<'_>) -> Decoded<()> {
    let health = HealthStatus::try_from(take(&mut rest.health_status)).unwrap_or(HealthStatus::Unknown);
    let weight = rest.load_balancing_weight.take().map_or(1, |w| w.value);
    if weight == 0 {
        return reject(
            "load_balancing_weight",
            "must be at least 1; leave an endpoint without share out",
        );
    }
    let peer = match peer(rest.metadata.take()) {
        unknown if unknown == Peer::default() => Arc::clone(&UNKNOWN),
        known => Arc::new(known),
    };
    let mut endpoint = match rest.host_identifier.take() {
        Some(pb::lb_endpoint::HostIdentifier::Endpoint(endpoint)) => endpoint,
        _ => return reject("endpoint", "is missing"),
    };
    let place = host_and_port(endpoint.address.take()).within("endpoint.address")?;
    endpoint.hostname.clear();
    nothing_left(&endpoint).within("endpoint")?;
    nothing_left(&rest)?;
    match health {
        HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded => visit(place, weight, peer),
        HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => Ok(()),
    }
}

fn peer(metadata: Option<Metadata>) -> Peer {
    let mut peer = Peer::default();
    let Some(mut fields) = metadata.and_then(|mut m| m.filter_metadata.remove(PEER_KEY)) else {
        return peer;
    };
    let mut text = |key: &str| match fields.fields.remove(key).and_then(|v| v.kind) {
        Some(Kind::StringValue(text)) => text,
        _ => String::new(),
    };
    peer.namespace = text("namespace");
    peer.pod = text("pod");
    peer.owner_kind = text("owner_kind");
    peer.owner = text("owner");
    peer.service = text("service");
    peer
}
