//! Routes: `envoy.config.route.v3`.

use super::super::Kind::{Any, Bool, Bytes, Duration, Empty, Enum, Int, Int64, MapOf, Msg, Str};
use super::super::{Field, many, one};
use super::{BOOL, DATA, FRACTION, METADATA, U32};

pub(super) const ROUTES: &[Field] = &[
    one(1, "name", Str),
    many(
        2,
        "virtual_hosts",
        Msg(&[
            one(1, "name", Str),
            many(2, "domains", Str),
            many(3, "routes", Msg(ROUTE)),
            many(7, "request_headers_to_add", Msg(HEADER_OPTION)),
            many(10, "response_headers_to_add", Msg(HEADER_OPTION)),
            many(11, "response_headers_to_remove", Str),
            many(13, "request_headers_to_remove", Str),
            one(15, "typed_per_filter_config", MapOf(&Any)),
            one(16, "retry_policy", Msg(RETRY)),
            many(22, "request_mirror_policies", Msg(MIRROR)),
            one(24, "metadata", Msg(METADATA)),
        ]),
    ),
    many(4, "response_headers_to_add", Msg(HEADER_OPTION)),
    many(5, "response_headers_to_remove", Str),
    many(6, "request_headers_to_add", Msg(HEADER_OPTION)),
    one(7, "validate_clusters", BOOL),
    many(8, "request_headers_to_remove", Str),
    one(10, "most_specific_header_mutations_wins", Bool),
    one(11, "max_direct_response_body_size_bytes", U32),
    many(13, "request_mirror_policies", Msg(MIRROR)),
    one(14, "ignore_port_in_host_matching", Bool),
    one(16, "typed_per_filter_config", MapOf(&Any)),
    one(17, "metadata", Msg(METADATA)),
];
/// What a place of a route configuration says to a filter, with whether it says it at all.
pub(super) const FILTER_CONFIG: &[Field] = &[
    one(1, "config", Any),
    one(2, "is_optional", Bool),
    one(3, "disabled", Bool),
];
const ROUTE: &[Field] = &[
    one(1, "match", Msg(MATCH)),
    one(2, "route", Msg(ROUTE_ACTION)).of("action"),
    one(3, "redirect", Msg(REDIRECT)).of("action"),
    one(4, "metadata", Msg(METADATA)),
    one(
        5,
        "decorator",
        Msg(&[one(1, "operation", Str), one(2, "propagate", BOOL)]),
    ),
    one(
        7,
        "direct_response",
        Msg(&[
            one(1, "status", Int),
            one(2, "body", Msg(DATA)),
            one(3, "body_format", Msg(BODY_FORMAT)),
        ]),
    )
    .of("action"),
    many(9, "request_headers_to_add", Msg(HEADER_OPTION)),
    many(10, "response_headers_to_add", Msg(HEADER_OPTION)),
    many(11, "response_headers_to_remove", Str),
    many(12, "request_headers_to_remove", Str),
    one(13, "typed_per_filter_config", MapOf(&Any)),
    one(14, "name", Str),
    one(
        15,
        "tracing",
        Msg(&[
            one(1, "client_sampling", Msg(FRACTION)),
            one(2, "random_sampling", Msg(FRACTION)),
            one(3, "overall_sampling", Msg(FRACTION)),
        ]),
    ),
    one(19, "stat_prefix", Str),
];
const RUNTIME_FRACTION: &[Field] = &[one(1, "default_value", Msg(FRACTION)), one(2, "runtime_key", Str)];
const MATCH: &[Field] = &[
    one(1, "prefix", Str).of("path_specifier"),
    one(2, "path", Str).of("path_specifier"),
    one(4, "case_sensitive", BOOL),
    many(
        6,
        "headers",
        Msg(&[
            one(1, "name", Str),
            one(4, "exact_match", Str).of("header_match_specifier"),
            one(6, "range_match", Msg(&[one(1, "start", Int64), one(2, "end", Int64)])).of("header_match_specifier"),
            one(7, "present_match", Bool).of("header_match_specifier"),
            one(8, "invert_match", Bool),
            one(9, "prefix_match", Str).of("header_match_specifier"),
            one(10, "suffix_match", Str).of("header_match_specifier"),
            one(11, "safe_regex_match", Msg(REGEX)).of("header_match_specifier"),
            one(12, "contains_match", Str).of("header_match_specifier"),
            one(13, "string_match", Msg(STRING)).of("header_match_specifier"),
            one(14, "treat_missing_header_as_empty", Bool),
        ]),
    ),
    many(
        7,
        "query_parameters",
        Msg(&[
            one(1, "name", Str),
            one(5, "string_match", Msg(STRING)).of("query_parameter_match_specifier"),
            one(6, "present_match", Bool).of("query_parameter_match_specifier"),
        ]),
    ),
    one(8, "grpc", Empty),
    one(9, "runtime_fraction", Msg(RUNTIME_FRACTION)),
    one(10, "safe_regex", Msg(REGEX)).of("path_specifier"),
    one(14, "path_separated_prefix", Str).of("path_specifier"),
];
pub(super) const STRING: &[Field] = &[
    one(1, "exact", Str).of("match_pattern"),
    one(2, "prefix", Str).of("match_pattern"),
    one(3, "suffix", Str).of("match_pattern"),
    one(5, "safe_regex", Msg(REGEX)).of("match_pattern"),
    one(6, "ignore_case", Bool),
    one(7, "contains", Str).of("match_pattern"),
];
const REGEX: &[Field] = &[one(1, "google_re2", Empty), one(2, "regex", Str)];
const SUBSTITUTE: &[Field] = &[one(1, "pattern", Msg(REGEX)), one(2, "substitution", Str)];
const HEADER_OPTION: &[Field] = &[
    one(
        1,
        "header",
        Msg(&[one(1, "key", Str), one(2, "value", Str), one(3, "raw_value", Bytes)]),
    ),
    one(2, "append", BOOL),
    one(
        3,
        "append_action",
        Enum(&[
            "APPEND_IF_EXISTS_OR_ADD",
            "ADD_IF_ABSENT",
            "OVERWRITE_IF_EXISTS_OR_ADD",
            "OVERWRITE_IF_EXISTS",
        ]),
    ),
    one(4, "keep_empty_value", Bool),
];
const BODY_FORMAT: &[Field] = &[
    one(1, "text_format", Str).of("format"),
    one(4, "content_type", Str),
    one(5, "text_format_source", Msg(DATA)).of("format"),
];
const REDIRECT: &[Field] = &[
    one(1, "host_redirect", Str),
    one(2, "path_redirect", Str).of("path_rewrite_specifier"),
    one(
        3,
        "response_code",
        Enum(&[
            "MOVED_PERMANENTLY",
            "FOUND",
            "SEE_OTHER",
            "TEMPORARY_REDIRECT",
            "PERMANENT_REDIRECT",
        ]),
    ),
    one(4, "https_redirect", Bool).of("scheme_rewrite_specifier"),
    one(5, "prefix_rewrite", Str).of("path_rewrite_specifier"),
    one(6, "strip_query", Bool),
    one(7, "scheme_redirect", Str).of("scheme_rewrite_specifier"),
    one(8, "port_redirect", Int),
    one(9, "regex_rewrite", Msg(SUBSTITUTE)).of("path_rewrite_specifier"),
];
const ROUTE_ACTION: &[Field] = &[
    one(1, "cluster", Str).of("cluster_specifier"),
    one(
        3,
        "weighted_clusters",
        Msg(&[
            many(1, "clusters", Msg(CLUSTER_WEIGHT)),
            one(2, "runtime_key_prefix", Str),
            one(3, "total_weight", U32),
        ]),
    )
    .of("cluster_specifier"),
    one(5, "prefix_rewrite", Str),
    one(6, "host_rewrite_literal", Str),
    one(8, "timeout", Duration),
    one(9, "retry_policy", Msg(RETRY)),
    many(
        15,
        "hash_policy",
        Msg(&[
            one(1, "header", Msg(&[one(1, "header_name", Str)])).of("policy_specifier"),
            one(
                2,
                "cookie",
                Msg(&[one(1, "name", Str), one(2, "ttl", Duration), one(3, "path", Str)]),
            )
            .of("policy_specifier"),
            one(4, "terminal", Bool),
        ]),
    ),
    one(
        20,
        "cluster_not_found_response_code",
        Enum(&["SERVICE_UNAVAILABLE", "NOT_FOUND", "INTERNAL_SERVER_ERROR"]),
    ),
    one(24, "idle_timeout", Duration),
    many(30, "request_mirror_policies", Msg(MIRROR)),
    one(32, "regex_rewrite", Msg(SUBSTITUTE)),
    one(
        36,
        "max_stream_duration",
        Msg(&[
            one(1, "max_stream_duration", Duration),
            one(2, "grpc_timeout_header_max", Duration),
            one(3, "grpc_timeout_header_offset", Duration),
        ]),
    ),
];
const MIRROR: &[Field] = &[
    one(1, "cluster", Str),
    one(3, "runtime_fraction", Msg(RUNTIME_FRACTION)),
    one(4, "trace_sampled", BOOL),
    one(6, "disable_shadow_host_suffix_append", Bool),
    one(8, "host_rewrite_literal", Str),
];
const CLUSTER_WEIGHT: &[Field] = &[
    one(1, "name", Str),
    one(2, "weight", U32),
    many(4, "request_headers_to_add", Msg(HEADER_OPTION)),
    many(5, "response_headers_to_add", Msg(HEADER_OPTION)),
    many(6, "response_headers_to_remove", Str),
    many(9, "request_headers_to_remove", Str),
    one(10, "typed_per_filter_config", MapOf(&Any)),
    one(11, "host_rewrite_literal", Str),
];
const RETRY: &[Field] = &[
    one(1, "retry_on", Str),
    one(2, "num_retries", U32),
    one(3, "per_try_timeout", Duration),
    many(
        5,
        "retry_host_predicate",
        Msg(&[one(1, "name", Str), one(3, "typed_config", Any)]),
    ),
    one(6, "host_selection_retry_max_attempts", Int64),
    many(7, "retriable_status_codes", Int),
    one(
        8,
        "retry_back_off",
        Msg(&[one(1, "base_interval", Duration), one(2, "max_interval", Duration)]),
    ),
    one(13, "per_try_idle_timeout", Duration),
];
