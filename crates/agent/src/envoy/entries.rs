//! Envoy's access log entries turned into the canonical series.
//!
//! Enters: one entry a request, up to a few a TCP connection. Leaves: counts in the recorder, by the same rules as Weir's
//! own proxy counts: once a request, with the last endpoint tried. Who the other side is stands in the entry's tags
//! (outbound) or is looked up by the caller (inbound).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Address;
use envoy_types::pb::envoy::config::core::v3::address::Address as Kind;
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, ResponseFlags, TcpAccessLogEntry,
};
use weir_series::canonical::{Classification, Direction, Peer, Response, Slot, classify};
use weir_series::names;

use super::destinations::Measured;

/// Name of routes to a configured host; requests by any other route count as `other`.
const SERVICE_ROUTE: &str = "service";
/// Beginning of a kubelet's user agent.
const PROBE: &str = "kube-probe/";
/// TCP connections that are followed at a time; of further ones only the end is seen.
const CONNECTIONS_MAX: usize = 16384;

/// Takes entries.
pub struct Entries {
    measured: Arc<Measured>,
    host_ip: Option<IpAddr>,
    /// Connections that have begun and not ended, by Envoy's name of the stream.
    open: Mutex<HashMap<String, Open>>,
}

struct Open {
    target: Slot,
    read: u64,
    written: u64,
}

impl Entries {
    /// Records what is measured; requests of the kubelet at `host_ip` are left out.
    pub fn new(measured: Arc<Measured>, host_ip: Option<IpAddr>) -> Self {
        Self {
            measured,
            host_ip,
            open: Mutex::default(),
        }
    }

    /// One request.
    pub fn http(&self, direction: Direction, entry: &HttpAccessLogEntry, source: impl FnOnce() -> Peer) {
        let common = entry.common_properties.clone().unwrap_or_default();
        let request = entry.request.clone().unwrap_or_default();
        if direction == Direction::Inbound && self.comes_from_host(&common) && request.user_agent.starts_with(PROBE) {
            return;
        }
        let response = entry.response.clone().unwrap_or_default();
        let flags = common.response_flags.unwrap_or_default();
        let tried = common.upstream_remote_address.is_some() && !answered_here(&flags);
        let authority = if common.route_name == SERVICE_ROUTE {
            request.authority.to_ascii_lowercase()
        } else {
            names::AUTHORITY_OTHER.to_owned()
        };
        let peer = match direction {
            Direction::Inbound => source(),
            Direction::Outbound if tried => tagged(&common),
            Direction::Outbound => Peer::default(),
        };
        let target = self
            .measured
            .slot(direction, &authority, peer, &common.upstream_cluster);
        target.request();
        if tried {
            let attempts = common.upstream_request_attempt_count.max(1);
            (0..attempts).for_each(|_| target.attempt());
            (1..attempts).for_each(|_| target.retry());
        }
        if flags.delay_injected {
            target.fault("delay");
        }
        if flags.fault_injected {
            target.fault("abort");
        }
        if flags.upstream_overflow {
            target.overflow("requests");
        }
        let status = response
            .response_code
            .and_then(|c| u16::try_from(c.value).ok())
            .unwrap_or(0);
        let header = |key: &str| {
            response
                .response_trailers
                .get(key)
                .or_else(|| response.response_headers.get(key))
        };
        let grpc_status = header("grpc-status").and_then(|s| s.trim().parse().ok());
        let grpc = request
            .request_headers
            .get("content-type")
            .is_some_and(|t| t.starts_with("application/grpc"));
        let classification = if flags.downstream_connection_termination || flags.downstream_remote_reset {
            Classification::Aborted
        } else if broken(&flags) {
            Classification::Failure
        } else {
            classify(status, grpc_status, grpc)
        };
        target.response(&Response {
            status,
            grpc_status,
            classification,
            from_proxy: !tried && classification != Classification::Aborted,
            latency: latency(&common),
        });
    }

    /// One step of a TCP connection.
    pub fn tcp(&self, direction: Direction, entry: &TcpAccessLogEntry, source: impl FnOnce() -> Peer) {
        let common = entry.common_properties.clone().unwrap_or_default();
        if direction == Direction::Inbound && self.comes_from_host(&common) {
            return;
        }
        let kind = AccessLogType::try_from(common.access_log_type).unwrap_or(AccessLogType::NotSet);
        let ends = !matches!(
            kind,
            AccessLogType::TcpConnectionStart | AccessLogType::TcpUpstreamConnected | AccessLogType::TcpPeriodic
        );
        if kind == AccessLogType::TcpConnectionStart {
            // The endpoint is not chosen yet.
            return;
        }
        let bytes = entry.connection_properties.unwrap_or_default();
        // Read from the other side: outbound that is the endpoint, inbound the client.
        let (read, written) = match direction {
            Direction::Inbound => (bytes.received_bytes, bytes.sent_bytes),
            Direction::Outbound => (bytes.sent_bytes, bytes.received_bytes),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.remove(&common.stream_id);
        let room = !common.stream_id.is_empty() && open.len() < CONNECTIONS_MAX;
        if known.is_none() && !room && !ends {
            // Its end tells all of it at once.
            return;
        }
        let mut connection = known.unwrap_or_else(|| {
            let peer = match direction {
                Direction::Inbound => source(),
                Direction::Outbound => tagged(&common),
            };
            let target = self.measured.slot(direction, "", peer, &common.upstream_cluster);
            target.tcp_open();
            Open {
                target,
                read: 0,
                written: 0,
            }
        });
        // Entries carry totals.
        let more = (
            read.saturating_sub(connection.read),
            written.saturating_sub(connection.written),
        );
        connection.target.tcp_bytes(more.0, more.1);
        (connection.read, connection.written) = (read, written);
        if ends {
            let flags = common.response_flags.unwrap_or_default();
            connection.target.tcp_close(broken(&flags) || answered_here(&flags));
        } else {
            open.insert(common.stream_id, connection);
        }
    }

    /// Envoy has died: no entry will tell of the end of its connections.
    pub fn envoy_ended(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, connection) in open.drain() {
            connection.target.tcp_close(true);
        }
    }

    fn comes_from_host(&self, common: &AccessLogCommon) -> bool {
        self.host_ip.is_some() && client(common) == self.host_ip
    }
}

/// The address at the other end of an accepted connection.
pub fn client(common: &AccessLogCommon) -> Option<IpAddr> {
    let of = |address: &Option<Address>| match address.as_ref()?.address.as_ref()? {
        Kind::SocketAddress(socket) => socket.address.parse().ok(),
        _ => None,
    };
    // The direct one cannot be made up by a header.
    of(&common.downstream_direct_remote_address).or_else(|| of(&common.downstream_remote_address))
}

/// The endpoint that was tried last, from what the control plane tells of each.
fn tagged(common: &AccessLogCommon) -> Peer {
    let of = |key: &str| common.custom_tags.get(key).cloned().unwrap_or_default();
    Peer {
        namespace: of("namespace"),
        pod: of("pod"),
        owner_kind: of("owner_kind"),
        owner: of("owner"),
        service: of("service"),
    }
}

/// Envoy answered by itself; no endpoint had a part in it.
fn answered_here(flags: &ResponseFlags) -> bool {
    flags.no_healthy_upstream
        || flags.no_route_found
        || flags.no_cluster_found
        || flags.upstream_overflow
        || flags.fault_injected
        || flags.rate_limited
        || flags.overload_manager
        || flags.downstream_protocol_error
        || flags.invalid_envoy_request_headers
        || flags.unauthorized_details.is_some()
}

/// The endpoint was reached badly or broke off, whatever the status says.
fn broken(flags: &ResponseFlags) -> bool {
    flags.upstream_connection_failure
        || flags.upstream_connection_termination
        || flags.upstream_remote_reset
        || flags.upstream_request_timeout
        || flags.upstream_protocol_error
        || flags.upstream_max_stream_duration_reached
        || flags.stream_idle_timeout
        || flags.duration_timeout
        || flags.local_reset
        || flags.dns_resolution_failure
}

/// To the last byte sent to the client.
fn latency(common: &AccessLogCommon) -> Duration {
    let time = common
        .time_to_last_downstream_tx_byte
        .or(common.duration)
        .unwrap_or_default();
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.nanos).unwrap_or(0))
}

#[cfg(test)]
mod tests;
