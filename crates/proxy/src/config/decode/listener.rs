//! `envoy.config.listener.v3.Listener`.

use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HttpProtocolOptions, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use envoy_types::pb::google::protobuf;
use weir_series::canonical::Direction;

use super::{
    Decoded, Within, access_log, fault, flag, http2, message_name, nothing_left, optional_duration, parse, port,
    reject, route, socket_address, tls, trace, unpack,
};
use crate::config::edge::{Edge, EscapedSlashes, Strangers, StripPort};
use crate::config::fault::Fault;
use crate::config::{Codec, Filter, FilterChain, Http, Listener, RouteSource, Tcp};

/// Envoy's default for waiting on listener filters.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Envoy's default for downstream connections without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Envoy's default for streams on which nothing moves.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);
/// How long heads of requests may take where nothing is said; Envoy would wait for ever.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
const PROTOCOLS: [&str; 4] = ["http/1.0", "http/1.1", "h2", "h2c"];
/// A chain for TLS is chosen by the first bytes, like one for a protocol.
const TLS: &str = "tls";

/// Decodes a listener.
pub fn listener(body: &[u8]) -> Decoded<Listener> {
    let mut rest: pb::Listener = parse("listener", body)?;
    let name: Arc<str> = take(&mut rest.name).into();
    let address = socket_address(take(&mut rest.address)).within("address")?;
    #[allow(deprecated)]
    let deprecated = rest.deprecated_v1.take().and_then(|d| d.bind_to_port);
    let bind = flag(&rest.bind_to_port.take().or(deprecated), true);
    let hand_over = flag(&rest.use_original_dst.take(), false);
    let inspect_timeout = match rest.listener_filters_timeout.take() {
        None => INSPECT_TIMEOUT,
        some => optional_duration("listener_filters_timeout", &some)?.unwrap_or(INSPECT_TIMEOUT),
    };
    let direction = match TrafficDirection::try_from(take(&mut rest.traffic_direction)) {
        Ok(TrafficDirection::Inbound) => Direction::Inbound,
        _ => Direction::Outbound,
    };
    let mut original_dst = false;
    let mut uninspected = Vec::new();
    for (i, filter) in take(&mut rest.listener_filters).into_iter().enumerate() {
        match listener_filter(filter).within(format_args!("listener_filters[{i}]"))? {
            ListenerFilter::OriginalDst => original_dst = true,
            ListenerFilter::Inspector { disabled } => uninspected.extend(disabled),
        }
    }
    let continue_on_timeout = take(&mut rest.continue_on_listener_filters_timeout);
    let mut chains = Vec::with_capacity(rest.filter_chains.len());
    for (i, filter_chain) in take(&mut rest.filter_chains).into_iter().enumerate() {
        chains.push(chain(filter_chain).within(format_args!("filter_chains[{i}]"))?);
    }
    let default_chain = rest
        .default_filter_chain
        .take()
        .map(chain)
        .transpose()
        .within("default_filter_chain")?;
    tuning(&mut rest);
    nothing_left(&rest)?;
    distinct(&chains)?;
    Ok(Listener {
        name,
        address,
        bind,
        hand_over,
        original_dst: original_dst || hand_over,
        direction,
        uninspected,
        inspect_timeout,
        continue_on_timeout,
        chains,
        default_chain,
    })
}

/// Fields that change nothing that this proxy promises: buffers, statistics, notes.
fn tuning(rest: &mut pb::Listener) {
    rest.stat_prefix.clear();
    rest.per_connection_buffer_limit_bytes = None;
    rest.metadata = None;
    #[allow(deprecated)]
    (rest.reuse_port = false);
    rest.enable_reuse_port = None;
    rest.tcp_backlog_size = None;
    rest.drain_type = 0;
    rest.ignore_global_conn_limit = false;
}

enum ListenerFilter {
    OriginalDst,
    /// Inspection happens wherever a chain needs it, but for these ports.
    Inspector {
        disabled: Vec<(u16, u16)>,
    },
}

fn listener_filter(mut filter: pb::ListenerFilter) -> Decoded<ListenerFilter> {
    let disabled = filter
        .filter_disabled
        .take()
        .map(ports)
        .transpose()
        .within("filter_disabled")?;
    let kind = match &filter.config_type {
        Some(pb::listener_filter::ConfigType::TypedConfig(any)) => message_name(&any.type_url),
        _ => return reject("typed_config", "is missing"),
    };
    match kind {
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" if disabled.is_some() => {
            reject("filter_disabled", "is not supported by this proxy; leave it unset")
        }
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => Ok(ListenerFilter::OriginalDst),
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => Ok(ListenerFilter::Inspector {
            disabled: disabled.unwrap_or_default(),
        }),
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => Ok(ListenerFilter::Inspector {
            disabled: disabled.unwrap_or_default(),
        }),
        other => reject(
            "typed_config",
            format!("{other} is unknown; known are OriginalDst, HttpInspector and TlsInspector"),
        ),
    }
}

/// The port ranges of a predicate, which may be a range or an `or_match` of ranges.
fn ports(predicate: pb::ListenerFilterChainMatchPredicate) -> Decoded<Vec<(u16, u16)>> {
    use pb::listener_filter_chain_match_predicate::Rule;
    match predicate.rule {
        Some(Rule::DestinationPortRange(range)) => {
            // The end is exclusive.
            let (first, end) = (u16::try_from(range.start), u16::try_from(range.end.saturating_sub(1)));
            match (first, end) {
                (Ok(first), Ok(last)) if first <= last => Ok(vec![(first, last)]),
                _ => reject(
                    "destination_port_range",
                    format!("{}..{} is no range of ports", range.start, range.end),
                ),
            }
        }
        Some(Rule::OrMatch(set)) => {
            let mut all = Vec::new();
            for (i, rule) in set.rules.into_iter().enumerate() {
                all.extend(ports(rule).within(format_args!("or_match.rules[{i}]"))?);
            }
            Ok(all)
        }
        _ => reject("rule", "must be destination_port_range or or_match"),
    }
}

fn chain(mut rest: pb::FilterChain) -> Decoded<FilterChain> {
    let ChainMatch {
        destination_port,
        server_names,
        application_protocols,
    } = match rest.filter_chain_match.take() {
        None => ChainMatch::default(),
        Some(m) => chain_match(m).within("filter_chain_match")?,
    };
    let filters = take(&mut rest.filters);
    let filter = match <[pb::Filter; 1]>::try_from(filters) {
        Ok([only]) => filter(only).within("filters[0]")?,
        Err(filters) => {
            return reject(
                "filters",
                format!("must be exactly one (an HTTP or TCP proxy), not {}", filters.len()),
            );
        }
    };
    let tls = match rest.transport_socket.take() {
        None => None,
        Some(socket) => tls::downstream(socket).within("transport_socket")?,
    };
    rest.name.clear();
    rest.metadata = None;
    nothing_left(&rest)?;
    Ok(FilterChain {
        destination_port,
        server_names,
        application_protocols,
        tls,
        filter,
    })
}

#[derive(Default)]
struct ChainMatch {
    destination_port: Option<u16>,
    server_names: Vec<Box<str>>,
    application_protocols: Vec<Box<str>>,
}

/// Two chains for the same connections would leave the choice to chance.
fn distinct(chains: &[FilterChain]) -> Decoded<()> {
    let mut seen = BTreeMap::new();
    for (i, chain) in chains.iter().enumerate() {
        let any = [Box::default()];
        let all = |names: &[Box<str>]| if names.is_empty() { any.to_vec() } else { names.to_vec() };
        for name in all(&chain.server_names) {
            for protocol in all(&chain.application_protocols) {
                let key = (chain.destination_port, name.clone(), protocol);
                if let Some(first) = seen.insert(key, i)
                    && first != i
                {
                    let what = if name.is_empty() {
                        String::new()
                    } else {
                        format!(" for {name:?}")
                    };
                    return reject(
                        format!("filter_chains[{i}].filter_chain_match"),
                        format!("applies to the same connections{what} as filter_chains[{first}]"),
                    );
                }
            }
        }
    }
    Ok(())
}

/// A name of a TLS handshake: exact, or `*.` and a suffix.
fn server_name(name: &str) -> Decoded<Box<str>> {
    let plain = name.strip_prefix("*.").unwrap_or(name);
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if plain.is_empty() || !plain.bytes().all(letter) {
        return reject("", format!("{name:?} must be a host name, or *. and a suffix"));
    }
    Ok(name.to_ascii_lowercase().into())
}

fn chain_match(mut rest: pb::FilterChainMatch) -> Decoded<ChainMatch> {
    let destination_port = rest
        .destination_port
        .take()
        .map(|p| port("destination_port", p.value))
        .transpose()?;
    let mut server_names = Vec::with_capacity(rest.server_names.len());
    for (i, name) in take(&mut rest.server_names).iter().enumerate() {
        server_names.push(server_name(name).within(format_args!("server_names[{i}]"))?);
    }
    let mut protocols = take(&mut rest.application_protocols);
    if let Some(odd) = protocols.iter().find(|p| !PROTOCOLS.contains(&p.as_str())) {
        return reject(
            "application_protocols",
            format!("{odd:?} is unknown; known are http/1.0, http/1.1, h2, h2c"),
        );
    }
    match take(&mut rest.transport_protocol).as_str() {
        "" | "raw_buffer" => {}
        TLS if protocols.is_empty() => protocols.push(TLS.to_owned()),
        TLS => {
            return reject(
                "application_protocols",
                "is not supported by this proxy together with transport_protocol tls; leave it unset",
            );
        }
        other => {
            return reject(
                "transport_protocol",
                format!("{other:?} is unknown; known are raw_buffer and tls"),
            );
        }
    }
    nothing_left(&rest)?;
    Ok(ChainMatch {
        destination_port,
        server_names,
        application_protocols: protocols.into_iter().map(Into::into).collect(),
    })
}

fn filter(filter: pb::Filter) -> Decoded<Filter> {
    let Some(pb::filter::ConfigType::TypedConfig(any)) = filter.config_type else {
        return reject("typed_config", "is missing");
    };
    match message_name(&any.type_url) {
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => Ok(Filter::Http(
            Arc::new(unpack(&any).and_then(http).within("typed_config")?),
        )),
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => Ok(Filter::Tcp(Arc::new(
            unpack(&any).and_then(tcp).within("typed_config")?,
        ))),
        other => reject(
            "typed_config",
            format!("{other} is unknown; known are HttpConnectionManager and TcpProxy"),
        ),
    }
}

fn tcp(mut rest: tcp_proxy::TcpProxy) -> Decoded<Tcp> {
    let stat_prefix = take(&mut rest.stat_prefix).into();
    let (cluster, shares) = match rest.cluster_specifier.take() {
        Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(name)) => (name.into(), Box::default()),
        Some(tcp_proxy::tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => {
            shares(weighted).within("weighted_clusters")?
        }
        None => return reject("cluster", "is missing"),
    };
    // Zero switches it off.
    let idle_timeout = optional_duration("idle_timeout", &rest.idle_timeout.take())?.filter(|d| !d.is_zero());
    let connect_attempts = rest.max_connect_attempts.take().map_or(1, |n| n.value.max(1));
    let access_log = access_log::asked(take(&mut rest.access_log))?;
    nothing_left(&rest)?;
    Ok(Tcp {
        stat_prefix,
        cluster,
        shares,
        idle_timeout,
        connect_attempts,
        access_log,
    })
}

type Shares = (Arc<str>, Box<[(Arc<str>, u32)]>);

fn shares(mut rest: tcp_proxy::tcp_proxy::WeightedCluster) -> Decoded<Shares> {
    let mut shares: Vec<(Arc<str>, u32)> = Vec::new();
    for (i, mut one) in take(&mut rest.clusters).into_iter().enumerate() {
        shares.push((take(&mut one.name).into(), take(&mut one.weight)));
        nothing_left(&one).within(format_args!("clusters[{i}]"))?;
    }
    nothing_left(&rest)?;
    match shares.first() {
        Some((first, _)) if shares.iter().any(|(_, weight)| *weight > 0) => Ok((Arc::clone(first), shares.into())),
        _ => reject("clusters", "must have one with a weight of at least 1"),
    }
}

fn http(mut rest: hcm::HttpConnectionManager) -> Decoded<Http> {
    use hcm::http_connection_manager::{CodecType, RouteSpecifier};
    let stat_prefix = take(&mut rest.stat_prefix).into();
    let codec = match CodecType::try_from(take(&mut rest.codec_type)) {
        Ok(CodecType::Auto) => Codec::Auto,
        Ok(CodecType::Http1) => Codec::Http1,
        Ok(CodecType::Http2) => Codec::Http2,
        _ => return reject("codec_type", "must be AUTO, HTTP1 or HTTP2"),
    };
    let http2 = http2::options(rest.http2_protocol_options.take()).within("http2_protocol_options")?;
    let routes = match rest.route_specifier.take() {
        Some(RouteSpecifier::Rds(rds)) if !rds.route_config_name.is_empty() => {
            RouteSource::Named(rds.route_config_name.into())
        }
        Some(RouteSpecifier::RouteConfig(table)) => {
            RouteSource::Inline(Arc::new(route::table(table).within("route_config")?))
        }
        Some(RouteSpecifier::Rds(_)) => return reject("rds.route_config_name", "is missing"),
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            return reject(
                "scoped_routes",
                "is not supported by this proxy; use rds or route_config",
            );
        }
        None => return reject("route_config", "is missing; either rds or route_config must be set"),
    };
    let filters = http_filters(take(&mut rest.http_filters))?;
    let generate_request_id = flag(&rest.generate_request_id.take(), true);
    let websocket = upgrades(take(&mut rest.upgrade_configs))?;
    let idle_timeout = match rest.common_http_protocol_options.take() {
        None => IDLE_TIMEOUT,
        Some(options) => idle_timeout(options).within("common_http_protocol_options")?,
    };
    let tracing = rest.tracing.take().map(trace::tracing).transpose().within("tracing")?;
    http1_options(&mut rest).within("http_protocol_options")?;
    // Zero switches each of them off.
    let limit = |field, value: Option<protobuf::Duration>| -> Decoded<Option<Duration>> {
        Ok(optional_duration(field, &value)?.filter(|d| !d.is_zero()))
    };
    let stream_idle = rest.stream_idle_timeout.take();
    let stall_timeout = match stream_idle {
        None => Some(STALL_TIMEOUT),
        some => limit("stream_idle_timeout", some)?,
    };
    let headers = rest.request_headers_timeout.take();
    let head_timeout = match headers {
        None => Some(HEAD_TIMEOUT),
        some => limit("request_headers_timeout", some)?,
    };
    if limit("request_timeout", rest.request_timeout)?.is_none() {
        rest.request_timeout = None;
    }
    let edge = edge(&mut rest)?;
    let access_log = access_log::asked(take(&mut rest.access_log))?;
    // Headers about servers pass through unchanged, requests keep their identifiers.
    rest.server_name.clear();
    rest.server_header_transformation = 0;
    rest.drain_timeout = None;
    rest.delayed_close_timeout = None;
    nothing_left(&rest)?;
    Ok(Http {
        stat_prefix,
        codec,
        http2,
        routes,
        fault: filters.fault,
        tracing,
        edge,
        original_path: filters.original_path,
        generate_request_id,
        websocket,
        idle_timeout,
        head_timeout,
        stall_timeout,
        access_log,
    })
}

/// What is made of requests of strangers.
fn edge(rest: &mut hcm::HttpConnectionManager) -> Decoded<Option<Box<Edge>>> {
    use hcm::http_connection_manager::{PathWithEscapedSlashesAction as Action, StripPortMode};
    let (hops, append) = (take(&mut rest.xff_num_trusted_hops), !take(&mut rest.skip_xff_append));
    let keep_id = take(&mut rest.preserve_external_request_id);
    // Else all of it is what the mesh itself says.
    let strangers = flag(&rest.use_remote_address.take(), false).then_some(Strangers { hops, append, keep_id });
    let escaped_slashes = match Action::try_from(take(&mut rest.path_with_escaped_slashes_action)) {
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => EscapedSlashes::Keep,
        Ok(Action::RejectRequest) => EscapedSlashes::Reject,
        Ok(Action::UnescapeAndRedirect) => EscapedSlashes::Redirect,
        Ok(Action::UnescapeAndForward) => EscapedSlashes::Unescape,
        Err(_) => return reject("path_with_escaped_slashes_action", "is unknown"),
    };
    let strip_port = match (rest.strip_port_mode.take(), take(&mut rest.strip_matching_host_port)) {
        (Some(StripPortMode::StripAnyHostPort(true)), true) => {
            return reject("strip_matching_host_port", "must not stand beside strip_any_host_port");
        }
        (Some(StripPortMode::StripAnyHostPort(true)), false) => StripPort::Any,
        (_, true) => StripPort::Matching,
        (_, false) => StripPort::No,
    };
    let edge = Edge {
        strangers,
        normalize: flag(&rest.normalize_path.take(), false),
        merge_slashes: take(&mut rest.merge_slashes),
        escaped_slashes,
        strip_port,
        strip_dot: take(&mut rest.strip_trailing_host_dot),
    };
    Ok(edge.some())
}

/// What the HTTP filters say; they stand in one order.
struct HttpFilters {
    fault: Option<Arc<Fault>>,
    original_path: bool,
}

fn http_filters(filters: Vec<hcm::HttpFilter>) -> Decoded<HttpFilters> {
    let mut found = HttpFilters {
        fault: None,
        original_path: true,
    };
    let mut routed = false;
    for (i, filter) in filters.into_iter().enumerate() {
        let at = format!("http_filters[{i}]");
        if std::mem::replace(&mut routed, false) {
            return reject(at, "stands behind the router, where nothing is reached");
        }
        routed = http_filter(filter, &mut found).within(at)?;
    }
    Ok(found)
}

/// `true`: it is the router.
fn http_filter(mut rest: hcm::HttpFilter, found: &mut HttpFilters) -> Decoded<bool> {
    let any = match rest.config_type.take() {
        Some(hcm::http_filter::ConfigType::TypedConfig(any)) => any,
        None if rest.name == "envoy.filters.http.router" => return Ok(true),
        _ => return reject("typed_config", "is missing"),
    };
    let name = take(&mut rest.name);
    rest.is_optional = false;
    nothing_left(&rest)?;
    match message_name(&any.type_url) {
        "envoy.extensions.filters.http.router.v3.Router" => {
            let mut router: Router = unpack(&any).within("typed_config")?;
            found.original_path = !take(&mut router.suppress_envoy_headers);
            router.dynamic_stats = None;
            nothing_left(&router).within("typed_config")?;
            Ok(true)
        }
        fault::MESSAGE if found.fault.is_some() => reject("typed_config", "is a second fault filter"),
        // Routes speak to it by its name.
        fault::MESSAGE if name != fault::FILTER => reject("name", format!("must be {}", fault::FILTER)),
        fault::MESSAGE => {
            let fault = unpack(&any).and_then(fault::fault).within("typed_config")?;
            found.fault = Some(Arc::new(fault));
            Ok(false)
        }
        other => reject(
            "typed_config",
            format!("{other} is unknown; known are Router and HTTPFault"),
        ),
    }
}

fn upgrades(configs: Vec<hcm::http_connection_manager::UpgradeConfig>) -> Decoded<bool> {
    let mut websocket = false;
    for (i, config) in configs.into_iter().enumerate() {
        let field = format!("upgrade_configs[{i}]");
        if !config.upgrade_type.eq_ignore_ascii_case("websocket") {
            return reject(
                field,
                format!("{:?} is unknown; known is websocket", config.upgrade_type),
            );
        }
        if !config.filters.is_empty() {
            return reject(
                format!("{field}.filters"),
                "is not supported by this proxy; leave it unset",
            );
        }
        websocket |= flag(&config.enabled, true);
    }
    Ok(websocket)
}

fn idle_timeout(mut rest: HttpProtocolOptions) -> Decoded<Duration> {
    let idle = optional_duration("idle_timeout", &rest.idle_timeout.take())?;
    nothing_left(&rest)?;
    Ok(idle.filter(|d| !d.is_zero()).unwrap_or(IDLE_TIMEOUT))
}

/// HTTP/1.0, absolute URLs and the case of header names are always as these options would have them.
fn http1_options(rest: &mut hcm::HttpConnectionManager) -> Decoded<()> {
    let Some(mut options) = rest.http_protocol_options.take() else {
        return Ok(());
    };
    options.accept_http_10 = false;
    options.allow_absolute_url = None;
    options.header_key_format = None;
    options.enable_trailers = false;
    nothing_left(&options)
}
