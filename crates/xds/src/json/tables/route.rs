//! Routes: `envoy.config.route.v3`.

use super::super::Kind::{Any, Bool, Duration, Empty, Enum, Int, MapOf, Msg, Str};
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
        ]),
    ),
    one(7, "validate_clusters", BOOL),
    one(14, "ignore_port_in_host_matching", Bool),
];
const ROUTE: &[Field] = &[
    one(1, "match", Msg(MATCH)),
    one(2, "route", Msg(ROUTE_ACTION)),
    one(3, "redirect", Msg(REDIRECT)),
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
    ),
    many(9, "request_headers_to_add", Msg(HEADER_OPTION)),
    many(10, "response_headers_to_add", Msg(HEADER_OPTION)),
    many(11, "response_headers_to_remove", Str),
    many(12, "request_headers_to_remove", Str),
    one(13, "typed_per_filter_config", MapOf(&Any)),
    one(14, "name", Str),
];
const MATCH: &[Field] = &[
    one(1, "prefix", Str),
    one(2, "path", Str),
    one(4, "case_sensitive", BOOL),
    many(
        6,
        "headers",
        Msg(&[
            one(1, "name", Str),
            one(7, "present_match", Bool),
            one(8, "invert_match", Bool),
            one(13, "string_match", Msg(STRING)),
        ]),
    ),
    many(
        7,
        "query_parameters",
        Msg(&[
            one(1, "name", Str),
            one(5, "string_match", Msg(STRING)),
            one(6, "present_match", Bool),
        ]),
    ),
    one(10, "safe_regex", Msg(REGEX)),
    one(14, "path_separated_prefix", Str),
];
const STRING: &[Field] = &[
    one(1, "exact", Str),
    one(2, "prefix", Str),
    one(3, "suffix", Str),
    one(5, "safe_regex", Msg(REGEX)),
    one(6, "ignore_case", Bool),
    one(7, "contains", Str),
];
const REGEX: &[Field] = &[one(1, "google_re2", Empty), one(2, "regex", Str)];
const SUBSTITUTE: &[Field] = &[one(1, "pattern", Msg(REGEX)), one(2, "substitution", Str)];
const HEADER_OPTION: &[Field] = &[
    one(1, "header", Msg(&[one(1, "key", Str), one(2, "value", Str)])),
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
    one(1, "text_format", Str),
    one(4, "content_type", Str),
    one(5, "text_format_source", Msg(DATA)),
];
const REDIRECT: &[Field] = &[
    one(1, "host_redirect", Str),
    one(2, "path_redirect", Str),
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
    one(4, "https_redirect", Bool),
    one(5, "prefix_rewrite", Str),
    one(6, "strip_query", Bool),
    one(7, "scheme_redirect", Str),
    one(8, "port_redirect", Int),
    one(9, "regex_rewrite", Msg(SUBSTITUTE)),
];
const ROUTE_ACTION: &[Field] = &[
    one(1, "cluster", Str),
    one(3, "weighted_clusters", Msg(&[many(1, "clusters", Msg(CLUSTER_WEIGHT))])),
    one(5, "prefix_rewrite", Str),
    one(6, "host_rewrite_literal", Str),
    one(8, "timeout", Duration),
    one(9, "retry_policy", Msg(RETRY)),
    many(
        15,
        "hash_policy",
        Msg(&[
            one(1, "header", Msg(&[one(1, "header_name", Str)])),
            one(
                2,
                "cookie",
                Msg(&[one(1, "name", Str), one(2, "ttl", Duration), one(3, "path", Str)]),
            ),
            one(4, "terminal", Bool),
        ]),
    ),
    one(24, "idle_timeout", Duration),
    many(
        30,
        "request_mirror_policies",
        Msg(&[
            one(1, "cluster", Str),
            one(3, "runtime_fraction", Msg(&[one(1, "default_value", Msg(FRACTION))])),
        ]),
    ),
    one(32, "regex_rewrite", Msg(SUBSTITUTE)),
];
const CLUSTER_WEIGHT: &[Field] = &[
    one(1, "name", Str),
    one(2, "weight", U32),
    many(4, "request_headers_to_add", Msg(HEADER_OPTION)),
    many(5, "response_headers_to_add", Msg(HEADER_OPTION)),
    many(6, "response_headers_to_remove", Str),
    many(9, "request_headers_to_remove", Str),
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
    one(6, "host_selection_retry_max_attempts", Int),
    one(
        8,
        "retry_back_off",
        Msg(&[one(1, "base_interval", Duration), one(2, "max_interval", Duration)]),
    ),
    one(13, "per_try_idle_timeout", Duration),
];
