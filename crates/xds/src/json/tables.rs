//! The fields of the messages that Weir writes or reads, by their numbers in Envoy's API.

use super::Kind::{
    self, Any, Bool, Bytes, Closed, Double, Duration, Empty, Enum, Hidden, Int, Int32, Int64, MapOf, Msg, Redacted,
    Skipped, Str, Struct, UInt64, Wrapped,
};
use super::{Field, many, one};

mod route;

use route::{FILTER_CONFIG, ROUTES, STRING};

const U32: Kind = Wrapped(&Int);
const U64: Kind = Wrapped(&UInt64);
const BOOL: Kind = Wrapped(&Bool);

/// What is known of a message by its full name.
pub(super) fn message(name: &str) -> Option<Kind> {
    MESSAGES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

/// The names of all messages that are known.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    MESSAGES.iter().map(|(name, _)| *name)
}

const MESSAGES: &[(&str, Kind)] = &[
    ("envoy.config.cluster.v3.Cluster", Msg(CLUSTER)),
    ("envoy.config.endpoint.v3.ClusterLoadAssignment", Msg(ASSIGNMENT)),
    ("envoy.config.listener.v3.Listener", Msg(LISTENER)),
    ("envoy.config.route.v3.RouteConfiguration", Msg(ROUTES)),
    ("weir.v1.Peer", Msg(PEER)),
    ("envoy.config.core.v3.Address", Msg(ADDRESS)),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        Msg(MANAGER),
    ),
    ("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", Msg(TCP_PROXY)),
    ("envoy.extensions.filters.http.router.v3.Router", Msg(ROUTER)),
    ("envoy.extensions.filters.http.fault.v3.HTTPFault", Msg(FAULT)),
    ("envoy.config.route.v3.FilterConfig", Msg(FILTER_CONFIG)),
    (
        "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        Msg(&[]),
    ),
    ("envoy.config.trace.v3.ZipkinConfig", Msg(ZIPKIN)),
    ("envoy.config.trace.v3.OpenTelemetryConfig", Msg(OPEN_TELEMETRY)),
    (
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        Msg(STDOUT_LOG),
    ),
    (
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        Msg(&[one(1, "path", Str)]),
    ),
    (
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        Msg(&[]),
    ),
    (
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
        Msg(&[]),
    ),
    (
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        Msg(TLS_INSPECTOR),
    ),
    (
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        Msg(HTTP_LOG),
    ),
    (
        "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
        Msg(TCP_LOG),
    ),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        Msg(HTTP_OPTIONS),
    ),
    ("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", Msg(&[])),
    ("envoy.extensions.transport_sockets.tls.v3.Secret", Closed(SECRET)),
    (
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        Closed(DOWNSTREAM_TLS),
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        Closed(UPSTREAM_TLS),
    ),
];

const PEER: &[Field] = &[
    one(1, "namespace", Str),
    one(2, "pod", Str),
    one(3, "owner_kind", Str),
    one(4, "owner", Str),
];

// envoy.config.core.v3
const SOCKET_ADDRESS: &[Field] = &[
    one(1, "protocol", Enum(&["TCP", "UDP"])),
    one(2, "address", Str),
    one(3, "port_value", Int),
    one(6, "ipv4_compat", Bool),
];
const ADDRESS: &[Field] = &[
    one(1, "socket_address", Msg(SOCKET_ADDRESS)).of("address"),
    one(2, "pipe", Msg(&[one(1, "path", Str), one(2, "mode", Int)])).of("address"),
];
const BIND: &[Field] = &[
    one(1, "source_address", Msg(SOCKET_ADDRESS)),
    many(
        3,
        "socket_options",
        Msg(&[
            one(1, "description", Str),
            one(2, "level", Int64),
            one(3, "name", Int64),
            one(4, "int_value", Int64),
            one(6, "state", Enum(&["STATE_PREBIND", "STATE_BOUND", "STATE_LISTENING"])),
        ]),
    ),
];
const API_VERSION: Kind = Enum(&["AUTO", "V2", "V3"]);
/// Where Weir's proxy gets what it names is always the one stream.
const SOURCE: &[Field] = &[
    one(1, "path", Skipped).of("source"),
    one(2, "api_config_source", Skipped).of("source"),
    one(3, "ads", Empty).of("source"),
    one(4, "initial_fetch_timeout", Duration),
    one(5, "self", Msg(&[one(1, "transport_api_version", API_VERSION)])).of("source"),
    one(6, "resource_api_version", API_VERSION),
    one(8, "path_config_source", Skipped).of("source"),
];
const METADATA: &[Field] = &[one(1, "filter_metadata", MapOf(&Struct))];
const DATA: &[Field] = &[
    one(1, "filename", Str).of("specifier"),
    one(2, "inline_bytes", Bytes).of("specifier"),
    one(3, "inline_string", Str).of("specifier"),
];
const GRPC_SERVICE: &[Field] = &[
    one(1, "envoy_grpc", Msg(&[one(1, "cluster_name", Str)])),
    one(3, "timeout", Duration),
];

// envoy.extensions.transport_sockets.tls.v3
const TRANSPORT_SOCKET: &[Field] = &[one(1, "name", Str), one(3, "typed_config", Any)];
const SECRET: &[Field] = &[
    one(1, "name", Str),
    one(2, "tls_certificate", Closed(CERTIFICATE)),
    one(3, "session_ticket_keys", Redacted),
    one(4, "validation_context", Msg(VALIDATION)),
    one(5, "generic_secret", Redacted),
];
const CERTIFICATE: &[Field] = &[
    one(1, "certificate_chain", Msg(DATA)),
    one(2, "private_key", Hidden(&Msg(DATA))),
    one(3, "password", Redacted),
    one(6, "private_key_provider", Redacted),
    one(8, "pkcs12", Redacted),
];
const VALIDATION: &[Field] = &[
    one(1, "trusted_ca", Msg(DATA)),
    many(
        15,
        "match_typed_subject_alt_names",
        Msg(&[
            one(
                1,
                "san_type",
                Enum(&[
                    "SAN_TYPE_UNSPECIFIED",
                    "EMAIL",
                    "DNS",
                    "URI",
                    "IP_ADDRESS",
                    "OTHER_NAME",
                ]),
            ),
            one(2, "matcher", Msg(STRING)),
            one(3, "oid", Str),
        ]),
    ),
];
const SECRET_CONFIG: &[Field] = &[one(1, "name", Str), one(2, "sds_config", Msg(SOURCE))];
const COMMON_TLS: &[Field] = &[
    many(2, "tls_certificates", Closed(CERTIFICATE)),
    one(3, "validation_context", Msg(VALIDATION)),
    many(4, "alpn_protocols", Str),
    many(6, "tls_certificate_sds_secret_configs", Msg(SECRET_CONFIG)),
];
const DOWNSTREAM_TLS: &[Field] = &[
    one(1, "common_tls_context", Closed(COMMON_TLS)),
    one(2, "require_client_certificate", BOOL),
    one(4, "session_ticket_keys", Redacted),
];
const UPSTREAM_TLS: &[Field] = &[one(1, "common_tls_context", Closed(COMMON_TLS)), one(2, "sni", Str)];

// envoy.config.cluster.v3
const CLUSTER: &[Field] = &[
    one(1, "name", Str),
    one(
        2,
        "type",
        Enum(&["STATIC", "STRICT_DNS", "LOGICAL_DNS", "EDS", "ORIGINAL_DST"]),
    ),
    one(
        3,
        "eds_cluster_config",
        Msg(&[one(1, "eds_config", Msg(SOURCE)), one(2, "service_name", Str)]),
    ),
    one(4, "connect_timeout", Duration),
    one(5, "per_connection_buffer_limit_bytes", U32),
    one(
        6,
        "lb_policy",
        Enum(&[
            "ROUND_ROBIN",
            "LEAST_REQUEST",
            "RING_HASH",
            "RANDOM",
            "",
            "MAGLEV",
            "CLUSTER_PROVIDED",
        ]),
    ),
    one(10, "circuit_breakers", Msg(&[many(1, "thresholds", Msg(THRESHOLDS))])),
    one(14, "http2_protocol_options", Msg(HTTP2)),
    one(16, "dns_refresh_rate", Duration),
    one(
        17,
        "dns_lookup_family",
        Enum(&["AUTO", "V4_ONLY", "V6_ONLY", "V4_PREFERRED", "ALL"]),
    ),
    one(19, "outlier_detection", Msg(OUTLIER)),
    one(20, "cleanup_interval", Duration),
    one(21, "upstream_bind_config", Msg(BIND)),
    one(23, "ring_hash_lb_config", Msg(RING_HASH)).of("lb_config"),
    one(24, "transport_socket", Msg(TRANSPORT_SOCKET)),
    one(25, "metadata", Msg(METADATA)),
    one(
        27,
        "common_lb_config",
        Msg(&[one(1, "healthy_panic_threshold", Msg(&[one(1, "value", Double)]))]),
    ),
    one(28, "alt_stat_name", Str),
    one(30, "upstream_connection_options", Msg(CONNECTION_OPTIONS)),
    one(31, "close_connections_on_host_health_failure", Bool),
    one(32, "ignore_health_on_host_removal", Bool),
    one(33, "load_assignment", Msg(ASSIGNMENT)),
    one(36, "typed_extension_protocol_options", MapOf(&Any)),
    one(37, "least_request_lb_config", Msg(&[one(1, "choice_count", U32)])).of("lb_config"),
    one(52, "maglev_lb_config", Msg(&[one(1, "table_size", U64)])).of("lb_config"),
    one(54, "wait_for_warm_on_init", BOOL),
    one(56, "round_robin_lb_config", Empty).of("lb_config"),
];
const RING_HASH: &[Field] = &[
    one(1, "minimum_ring_size", U64),
    one(3, "hash_function", Enum(&["XX_HASH", "MURMUR_HASH_2"])),
    one(4, "maximum_ring_size", U64),
];
const CONNECTION_OPTIONS: &[Field] = &[
    one(
        1,
        "tcp_keepalive",
        Msg(&[
            one(1, "keepalive_probes", U32),
            one(2, "keepalive_time", U32),
            one(3, "keepalive_interval", U32),
        ]),
    ),
    one(2, "set_local_interface_name_on_upstream_connections", Bool),
];
const THRESHOLDS: &[Field] = &[
    one(1, "priority", Enum(&["DEFAULT", "HIGH"])),
    one(2, "max_connections", U32),
    one(3, "max_pending_requests", U32),
    one(4, "max_requests", U32),
    one(5, "max_retries", U32),
    one(6, "track_remaining", Bool),
    one(
        8,
        "retry_budget",
        Msg(&[
            one(1, "budget_percent", Msg(PERCENT)),
            one(2, "min_retry_concurrency", U32),
        ]),
    ),
];
const PERCENT: &[Field] = &[one(1, "value", Double)];
const FRACTION: &[Field] = &[
    one(1, "numerator", Int),
    one(2, "denominator", Enum(&["HUNDRED", "TEN_THOUSAND", "MILLION"])),
];
const OUTLIER: &[Field] = &[
    one(1, "consecutive_5xx", U32),
    one(2, "interval", Duration),
    one(3, "base_ejection_time", Duration),
    one(4, "max_ejection_percent", U32),
    one(5, "enforcing_consecutive_5xx", U32),
    one(6, "enforcing_success_rate", U32),
    one(7, "success_rate_minimum_hosts", U32),
    one(8, "success_rate_request_volume", U32),
    one(9, "success_rate_stdev_factor", U32),
    one(10, "consecutive_gateway_failure", U32),
    one(11, "enforcing_consecutive_gateway_failure", U32),
    one(12, "split_external_local_origin_errors", Bool),
    one(13, "consecutive_local_origin_failure", U32),
    one(14, "enforcing_consecutive_local_origin_failure", U32),
    one(15, "enforcing_local_origin_success_rate", U32),
    one(16, "failure_percentage_threshold", U32),
    one(17, "enforcing_failure_percentage", U32),
    one(18, "enforcing_failure_percentage_local_origin", U32),
    one(19, "failure_percentage_minimum_hosts", U32),
    one(20, "failure_percentage_request_volume", U32),
    one(21, "max_ejection_time", Duration),
    one(22, "max_ejection_time_jitter", Duration),
    one(23, "successful_active_health_check_uneject_host", BOOL),
    one(25, "always_eject_one_host", BOOL),
];
const HTTP2: &[Field] = &[
    one(2, "max_concurrent_streams", U32),
    one(3, "initial_stream_window_size", U32),
    one(4, "initial_connection_window_size", U32),
];
const HTTP1: &[Field] = &[
    one(1, "allow_absolute_url", BOOL),
    one(2, "accept_http_10", Bool),
    one(4, "header_key_format", Msg(&[one(1, "proper_case_words", Empty)])),
    one(5, "enable_trailers", Bool),
];
const HTTP_OPTIONS: &[Field] = &[
    one(
        1,
        "common_http_protocol_options",
        Msg(&[
            one(1, "idle_timeout", Duration),
            one(6, "max_requests_per_connection", U32),
        ]),
    ),
    one(
        3,
        "explicit_http_config",
        Msg(&[
            one(1, "http_protocol_options", Msg(HTTP1)).of("protocol_config"),
            one(2, "http2_protocol_options", Msg(HTTP2)).of("protocol_config"),
        ]),
    )
    .of("upstream_protocol_options"),
    one(
        4,
        "use_downstream_protocol_config",
        Msg(&[
            one(1, "http_protocol_options", Msg(HTTP1)),
            one(2, "http2_protocol_options", Msg(HTTP2)),
        ]),
    )
    .of("upstream_protocol_options"),
];

// envoy.config.endpoint.v3
const ASSIGNMENT: &[Field] = &[
    one(1, "cluster_name", Str),
    many(
        2,
        "endpoints",
        Msg(&[
            one(
                1,
                "locality",
                Msg(&[one(1, "region", Str), one(2, "zone", Str), one(3, "sub_zone", Str)]),
            ),
            many(2, "lb_endpoints", Msg(LB_ENDPOINT)),
            one(3, "load_balancing_weight", U32),
            one(5, "priority", Int),
            one(9, "metadata", Msg(METADATA)),
        ]),
    ),
];
const LB_ENDPOINT: &[Field] = &[
    one(
        1,
        "endpoint",
        Msg(&[one(1, "address", Msg(ADDRESS)), one(3, "hostname", Str)]),
    ),
    one(
        2,
        "health_status",
        Enum(&["UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED"]),
    ),
    one(3, "metadata", Msg(METADATA)),
    one(4, "load_balancing_weight", U32),
];

// envoy.config.listener.v3
const LISTENER: &[Field] = &[
    one(1, "name", Str),
    one(2, "address", Msg(ADDRESS)),
    many(3, "filter_chains", Msg(CHAIN)),
    one(4, "use_original_dst", BOOL),
    one(5, "per_connection_buffer_limit_bytes", U32),
    one(6, "metadata", Msg(METADATA)),
    one(7, "deprecated_v1", Msg(&[one(1, "bind_to_port", BOOL)])),
    one(8, "drain_type", Enum(&["DEFAULT", "MODIFY_ONLY"])),
    many(
        9,
        "listener_filters",
        Msg(&[
            one(1, "name", Str),
            one(3, "typed_config", Any),
            one(4, "filter_disabled", Msg(PREDICATE)),
        ]),
    ),
    one(15, "listener_filters_timeout", Duration),
    one(16, "traffic_direction", Enum(&["UNSPECIFIED", "INBOUND", "OUTBOUND"])),
    one(17, "continue_on_listener_filters_timeout", Bool),
    one(21, "reuse_port", Bool),
    one(24, "tcp_backlog_size", U32),
    one(25, "default_filter_chain", Msg(CHAIN)),
    one(26, "bind_to_port", BOOL),
    one(28, "stat_prefix", Str),
    one(29, "enable_reuse_port", BOOL),
    one(31, "ignore_global_conn_limit", Bool),
];
/// Weir's proxy looks as far as it needs to.
const TLS_INSPECTOR: &[Field] = &[
    one(1, "enable_ja3_fingerprinting", BOOL),
    one(2, "initial_read_buffer_size", U32),
    one(3, "enable_ja4_fingerprinting", BOOL),
];
const PREDICATE: &[Field] = &[
    one(1, "or_match", Msg(&[many(1, "rules", Msg(PORT_RULE))])).of("rule"),
    PORT_RULE[0],
];
const PORT_RULE: &[Field] = &[one(
    5,
    "destination_port_range",
    Msg(&[one(1, "start", Int32), one(2, "end", Int32)]),
)
.of("rule")];
const CHAIN: &[Field] = &[
    one(
        1,
        "filter_chain_match",
        Msg(&[
            many(
                3,
                "prefix_ranges",
                Msg(&[one(1, "address_prefix", Str), one(2, "prefix_len", U32)]),
            ),
            one(8, "destination_port", U32),
            one(9, "transport_protocol", Str),
            many(10, "application_protocols", Str),
            many(11, "server_names", Str),
        ]),
    ),
    many(3, "filters", Msg(&[one(1, "name", Str), one(4, "typed_config", Any)])),
    one(5, "metadata", Msg(METADATA)),
    one(6, "transport_socket", Msg(TRANSPORT_SOCKET)),
    one(7, "name", Str),
];
const ACCESS_LOG: &[Field] = &[one(1, "name", Str), one(4, "typed_config", Any)];
const MANAGER: &[Field] = &[
    one(1, "codec_type", Enum(&["AUTO", "HTTP1", "HTTP2", "HTTP3"])),
    one(2, "stat_prefix", Str),
    one(
        3,
        "rds",
        Msg(&[one(1, "config_source", Msg(SOURCE)), one(2, "route_config_name", Str)]),
    )
    .of("route_specifier"),
    one(4, "route_config", Msg(ROUTES)).of("route_specifier"),
    many(
        5,
        "http_filters",
        Msg(&[
            one(1, "name", Str),
            one(4, "typed_config", Any),
            one(6, "is_optional", Bool),
        ]),
    ),
    one(
        7,
        "tracing",
        Msg(&[
            one(3, "client_sampling", Msg(PERCENT)),
            one(4, "random_sampling", Msg(PERCENT)),
            one(5, "overall_sampling", Msg(PERCENT)),
            one(6, "verbose", Bool),
            one(7, "max_path_tag_length", U32),
            one(9, "provider", Msg(&[one(1, "name", Str), one(3, "typed_config", Any)])),
            one(10, "spawn_upstream_span", BOOL),
        ]),
    ),
    one(8, "http_protocol_options", Msg(HTTP1)),
    one(9, "http2_protocol_options", Msg(HTTP2)),
    one(10, "server_name", Str),
    one(12, "drain_timeout", Duration),
    many(13, "access_log", Msg(ACCESS_LOG)),
    one(14, "use_remote_address", BOOL),
    one(15, "generate_request_id", BOOL),
    one(19, "xff_num_trusted_hops", Int),
    one(21, "skip_xff_append", Bool),
    many(
        23,
        "upgrade_configs",
        Msg(&[one(1, "upgrade_type", Str), one(3, "enabled", BOOL)]),
    ),
    one(24, "stream_idle_timeout", Duration),
    one(26, "delayed_close_timeout", Duration),
    one(28, "request_timeout", Duration),
    one(30, "normalize_path", BOOL),
    one(32, "preserve_external_request_id", Bool),
    one(33, "merge_slashes", Bool),
    one(
        34,
        "server_header_transformation",
        Enum(&["OVERWRITE", "APPEND_IF_ABSENT", "PASS_THROUGH"]),
    ),
    one(
        35,
        "common_http_protocol_options",
        Msg(&[one(1, "idle_timeout", Duration)]),
    ),
    one(39, "strip_matching_host_port", Bool),
    one(41, "request_headers_timeout", Duration),
    one(42, "strip_any_host_port", Bool),
    one(
        45,
        "path_with_escaped_slashes_action",
        Enum(&[
            "IMPLEMENTATION_SPECIFIC_DEFAULT",
            "KEEP_UNCHANGED",
            "REJECT_REQUEST",
            "UNESCAPE_AND_REDIRECT",
            "UNESCAPE_AND_FORWARD",
        ]),
    ),
    one(47, "strip_trailing_host_dot", Bool),
];
const FAULT: &[Field] = &[
    one(
        1,
        "delay",
        Msg(&[one(3, "fixed_delay", Duration), one(4, "percentage", Msg(FRACTION))]),
    ),
    one(
        2,
        "abort",
        Msg(&[
            one(2, "http_status", Int).of("error_type"),
            one(3, "percentage", Msg(FRACTION)),
            one(5, "grpc_status", Int).of("error_type"),
        ]),
    ),
    one(
        7,
        "response_rate_limit",
        Msg(&[
            one(1, "fixed_limit", Msg(&[one(1, "limit_kbps", UInt64)])),
            one(2, "percentage", Msg(FRACTION)),
        ]),
    ),
    one(15, "disable_downstream_cluster_stats", Bool),
];
const ZIPKIN: &[Field] = &[
    one(1, "collector_cluster", Str),
    one(2, "collector_endpoint", Str),
    one(3, "trace_id_128bit", Bool),
    one(4, "shared_span_context", BOOL),
    one(
        5,
        "collector_endpoint_version",
        Enum(&[
            "DEPRECATED_AND_UNAVAILABLE_DO_NOT_USE",
            "HTTP_JSON",
            "HTTP_PROTO",
            "GRPC",
        ]),
    ),
    one(6, "collector_hostname", Str),
    one(7, "split_spans_for_request", Bool),
    one(
        8,
        "trace_context_option",
        Enum(&["USE_B3", "USE_B3_WITH_W3C_PROPAGATION"]),
    ),
];
const OPEN_TELEMETRY: &[Field] = &[
    one(2, "service_name", Str),
    one(
        3,
        "http_service",
        Msg(&[one(
            1,
            "http_uri",
            Msg(&[one(1, "uri", Str), one(2, "cluster", Str), one(3, "timeout", Duration)]),
        )]),
    ),
    one(6, "max_cache_size", U32),
    one(7, "set_telemetry_sdk_resource_attributes", BOOL),
    one(8, "set_service_name_resource_attribute", BOOL),
    one(9, "set_instrumentation_scope", BOOL),
];
const STDOUT_LOG: &[Field] = &[one(
    1,
    "log_format",
    Msg(&[
        one(2, "json_format", Struct).of("format"),
        one(5, "text_format_source", Msg(DATA)).of("format"),
    ]),
)];
const ROUTER: &[Field] = &[one(1, "dynamic_stats", BOOL), one(4, "suppress_envoy_headers", Bool)];
const TCP_PROXY: &[Field] = &[
    one(1, "stat_prefix", Str),
    one(2, "cluster", Str).of("cluster_specifier"),
    many(5, "access_log", Msg(ACCESS_LOG)),
    one(7, "max_connect_attempts", U32),
    one(8, "idle_timeout", Duration),
    one(
        10,
        "weighted_clusters",
        Msg(&[many(1, "clusters", Msg(&[one(1, "name", Str), one(2, "weight", Int)]))]),
    )
    .of("cluster_specifier"),
    one(
        17,
        "access_log_options",
        Msg(&[
            one(1, "access_log_flush_interval", Duration),
            one(2, "flush_access_log_on_connected", Bool),
            one(3, "flush_access_log_on_start", Bool),
        ]),
    ),
];

// envoy.extensions.access_loggers.grpc.v3
const HTTP_LOG: &[Field] = &[
    one(1, "common_config", Msg(COMMON_LOG)),
    many(2, "additional_request_headers_to_log", Str),
    many(3, "additional_response_headers_to_log", Str),
    many(4, "additional_response_trailers_to_log", Str),
];
const TCP_LOG: &[Field] = &[one(1, "common_config", Msg(COMMON_LOG))];
const COMMON_LOG: &[Field] = &[
    one(1, "log_name", Str),
    one(2, "grpc_service", Msg(GRPC_SERVICE)),
    one(3, "buffer_flush_interval", Duration),
    one(4, "buffer_size_bytes", U32),
    one(6, "transport_api_version", API_VERSION),
    many(8, "custom_tags", Msg(CUSTOM_TAG)),
];
const CUSTOM_TAG: &[Field] = &[
    one(1, "tag", Str),
    one(
        5,
        "metadata",
        Msg(&[
            one(
                1,
                "kind",
                Msg(&[
                    one(1, "request", Empty).of("kind"),
                    one(2, "route", Empty).of("kind"),
                    one(3, "cluster", Empty).of("kind"),
                    one(4, "host", Empty).of("kind"),
                ]),
            ),
            one(
                2,
                "metadata_key",
                Msg(&[one(1, "key", Str), many(2, "path", Msg(&[one(1, "key", Str)]))]),
            ),
            one(3, "default_value", Str),
        ]),
    ),
    one(6, "value", Str),
];
