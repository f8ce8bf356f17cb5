//! `envoy.config.cluster.v3.Cluster`.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::core::v3::socket_option::{SocketState, Value};
use envoy_types::pb::envoy::config::core::v3::{BindConfig, SocketOption};
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstreams;

use super::endpoint::{dns_endpoints, endpoints};
use super::{
    Decoded, Within, http2, message_name, nothing_left, optional_duration, parse, reject, telemetry, tls, unpack,
    upstream,
};
use crate::config::{ClusterSpec, EndpointSource, Http2Options, Protocol};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DNS_REFRESH: Duration = Duration::from_secs(5);
/// Envoy's own limit: names are not resolved without a pause.
const DNS_REFRESH_MIN: Duration = Duration::from_millis(1);
const SOL_SOCKET: i64 = 1;
const SO_MARK: i64 = 36;

/// Decodes a cluster.
pub fn cluster(body: &[u8]) -> Decoded<ClusterSpec> {
    use pb::cluster::{ClusterDiscoveryType, DiscoveryType};
    let mut rest: pb::Cluster = parse("cluster", body)?;
    let name: Arc<str> = take(&mut rest.name).into();
    let kind = match rest.cluster_discovery_type.take() {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(number)) => match DiscoveryType::try_from(number) {
            Ok(kind) => kind,
            Err(_) => return reject("type", format!("{number} is unknown")),
        },
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            return reject("cluster_type", "is not supported by this proxy; use type");
        }
    };
    let source = match kind {
        DiscoveryType::Static => {
            let assignment = rest.load_assignment.take().unwrap_or_default();
            EndpointSource::Static(Arc::new(endpoints(assignment).within("load_assignment")?))
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let assignment = rest.load_assignment.take().unwrap_or_default();
            // Its successor lives in an extension that Envoy's own users hardly write.
            #[allow(deprecated)]
            let refresh = optional_duration("dns_refresh_rate", &rest.dns_refresh_rate.take())?;
            if refresh.is_some_and(|d| d < DNS_REFRESH_MIN) {
                return reject("dns_refresh_rate", "must be at least 1 ms");
            }
            let targets = dns_endpoints(assignment).within("load_assignment")?;
            EndpointSource::Dns(Arc::new(targets), refresh.unwrap_or(DNS_REFRESH))
        }
        DiscoveryType::Eds => {
            let config = rest.eds_cluster_config.take().unwrap_or_default();
            let service = config.service_name;
            EndpointSource::Assignment(if service.is_empty() {
                Arc::clone(&name)
            } else {
                service.into()
            })
        }
        DiscoveryType::OriginalDst => {
            rest.cleanup_interval = None;
            EndpointSource::OriginalDst
        }
    };
    // Said of a cluster without names, it means nothing.
    if take(&mut rest.dns_lookup_family) == pb::cluster::DnsLookupFamily::V6Only as i32 {
        return reject("dns_lookup_family", "must be AUTO, ALL, V4_ONLY or V4_PREFERRED");
    }
    let metadata = rest.metadata.take();
    let policy = upstream::policy(&mut rest, kind, metadata.as_ref())?;
    let connect_timeout = optional_duration("connect_timeout", &rest.connect_timeout.take())?;
    let mark = rest
        .upstream_bind_config
        .take()
        .map(mark)
        .transpose()
        .within("upstream_bind_config")?;
    let Options {
        protocol,
        http2,
        idle_timeout,
        requests_per_connection,
    } = http_options(&mut rest)?;
    let tls = match rest.transport_socket.take() {
        None => None,
        Some(socket) => tls::upstream(socket, protocol == Protocol::Http2).within("transport_socket")?,
    };
    let telemetry = telemetry::telemetry(metadata).within("metadata")?;
    let limits = upstream::limits(rest.circuit_breakers.take()).within("circuit_breakers")?;
    let outlier = rest
        .outlier_detection
        .take()
        .map(upstream::outlier)
        .transpose()
        .within("outlier_detection")?;
    let panic_percent = upstream::panic_percent(&mut rest).within("common_lb_config")?;
    tuning(&mut rest);
    nothing_left(&rest)?;
    Ok(ClusterSpec {
        name,
        source,
        connect_timeout: connect_timeout.filter(|d| !d.is_zero()).unwrap_or(CONNECT_TIMEOUT),
        mark: mark.flatten(),
        protocol,
        http2,
        tls,
        telemetry,
        policy,
        limits,
        outlier,
        panic_percent,
        idle_timeout,
        requests_per_connection,
    })
}

/// Fields that change nothing that this proxy promises.
fn tuning(rest: &mut pb::Cluster) {
    rest.upstream_connection_options = None;
    rest.alt_stat_name.clear();
    rest.per_connection_buffer_limit_bytes = None;
    rest.wait_for_warm_on_init = None;
    rest.ignore_health_on_host_removal = false;
    rest.close_connections_on_host_health_failure = false;
}

fn mark(mut rest: BindConfig) -> Decoded<Option<u32>> {
    if let Some(source) = rest.source_address.take() {
        let any = matches!(source.address.as_str(), "" | "0.0.0.0" | "::");
        if !any {
            return reject(
                "source_address",
                "is not supported by this proxy; leave it unset or 0.0.0.0",
            );
        }
    }
    let mut mark = None;
    for (i, option) in take(&mut rest.socket_options).into_iter().enumerate() {
        mark = Some(socket_mark(&option).within(format_args!("socket_options[{i}]"))?);
    }
    nothing_left(&rest)?;
    Ok(mark)
}

fn socket_mark(option: &SocketOption) -> Decoded<u32> {
    if (option.level, option.name) != (SOL_SOCKET, SO_MARK) {
        let (level, name) = (option.level, option.name);
        return reject(
            "name",
            format!("level {level} name {name} is unknown; known is SO_MARK (level 1 name 36)"),
        );
    }
    if option.state != SocketState::StatePrebind as i32 {
        return reject("state", "must be STATE_PREBIND");
    }
    match option.value {
        Some(Value::IntValue(value)) => {
            u32::try_from(value).or_else(|_| reject("int_value", format!("{value} is no mark")))
        }
        _ => reject("int_value", "is missing"),
    }
}

/// What the endpoints speak, and for how long one connection is used.
#[derive(Default)]
struct Options {
    protocol: Protocol,
    http2: Http2Options,
    idle_timeout: Option<Duration>,
    requests_per_connection: Option<u32>,
}

/// What the endpoints speak: said by an extension, or by a field that is older than that.
fn http_options(rest: &mut pb::Cluster) -> Decoded<Options> {
    const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    #[allow(deprecated)]
    let older = rest.http2_protocol_options.take();
    let mut found = match older {
        None => Options::default(),
        Some(options) => Options {
            protocol: Protocol::Http2,
            http2: http2::options(Some(options)).within("http2_protocol_options")?,
            ..Options::default()
        },
    };
    for (key, any) in take(&mut rest.typed_extension_protocol_options) {
        let field = format!("typed_extension_protocol_options[{key:?}]");
        if message_name(&any.type_url) != HTTP {
            return reject(field, format!("must be {HTTP}"));
        }
        found = protocol(unpack(&any).within(&field)?).within(&field)?;
    }
    Ok(found)
}

fn protocol(mut rest: upstreams::HttpProtocolOptions) -> Decoded<Options> {
    use upstreams::http_protocol_options::UpstreamProtocolOptions;
    use upstreams::http_protocol_options::explicit_http_config::ProtocolConfig;
    let (protocol, http2) = match rest.upstream_protocol_options.take() {
        None => (Protocol::Http1, Http2Options::default()),
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
            if config.http3_protocol_options.is_some() {
                return reject(
                    "use_downstream_protocol_config.http3_protocol_options",
                    "is not supported by this proxy; leave it unset",
                );
            }
            let place = "use_downstream_protocol_config.http2_protocol_options";
            (
                Protocol::Downstream,
                http2::options(config.http2_protocol_options).within(place)?,
            )
        }
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => match config.protocol_config {
            None | Some(ProtocolConfig::HttpProtocolOptions(_)) => (Protocol::Http1, Http2Options::default()),
            Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                let place = "explicit_http_config.http2_protocol_options";
                (Protocol::Http2, http2::options(Some(options)).within(place)?)
            }
            Some(_) => {
                return reject(
                    "explicit_http_config",
                    "must be http_protocol_options or http2_protocol_options",
                );
            }
        },
        Some(UpstreamProtocolOptions::AutoConfig(_)) => {
            return reject(
                "auto_config",
                "is not supported by this proxy; use explicit_http_config",
            );
        }
    };
    let mut options = Options {
        protocol,
        http2,
        ..Options::default()
    };
    if let Some(mut common) = rest.common_http_protocol_options.take() {
        let place = "common_http_protocol_options";
        let idle = optional_duration("idle_timeout", &common.idle_timeout.take()).within(place)?;
        // Zero switches it off.
        options.idle_timeout = idle.map(|idle| if idle.is_zero() { Duration::MAX } else { idle });
        let requests = common.max_requests_per_connection.take().map(|n| n.value);
        options.requests_per_connection = requests.filter(|n| *n > 0);
        nothing_left(&common).within(place)?;
    }
    nothing_left(&rest)?;
    Ok(options)
}
