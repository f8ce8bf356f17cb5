//! What a route may not say, and where the refusal points.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, HashPolicy, RequestMirrorPolicy};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as common;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf;
use prost::{Message, Name};

use crate::config::decode::route_table;
use crate::config::route::{Action, Forward, HashOn, Longest, OfCall};

/// A route that is accepted.
fn good() -> pb::Route {
    pb::Route {
        r#match: Some(pb::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(pb::route::Action::Route(action())),
        ..Default::default()
    }
}

fn action() -> pb::RouteAction {
    pb::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster("c".into())),
        ..Default::default()
    }
}

fn decode(route: pb::Route) -> Result<Forward, String> {
    let host = pb::VirtualHost {
        domains: vec!["*".into()],
        routes: vec![route],
        ..Default::default()
    };
    let table = pb::RouteConfiguration {
        virtual_hosts: vec![host],
        ..Default::default()
    };
    let mut table = route_table(&table.encode_to_vec()).map_err(|rejection| rejection.to_string())?;
    let route = std::sync::Arc::into_inner(table.hosts.remove(0).routes.remove(0)).unwrap();
    match route.action {
        Action::Forward(forward) => Ok(forward),
        other => panic!("{other:?}"),
    }
}

fn lasting(max: Option<i64>, of_call: Option<i64>, less: Option<i64>) -> pb::Route {
    let seconds = |number: Option<i64>| number.map(|seconds| protobuf::Duration { seconds, nanos: 0 });
    acting(|a| {
        a.max_stream_duration = Some(pb::route_action::MaxStreamDuration {
            max_stream_duration: seconds(max),
            grpc_timeout_header_max: seconds(of_call),
            grpc_timeout_header_offset: seconds(less),
        });
    })
}

#[test]
fn requests_may_say_how_long_they_last() {
    let longest = |route| decode(route).unwrap().longest.map(|longest| *longest);
    let limits = |silent: Option<u64>, grpc| {
        let silent = silent.map(Duration::from_secs);
        Some(Longest { silent, grpc })
    };
    let of_call = |most: Option<u64>, less| {
        let (most, less) = (most.map(Duration::from_secs), Duration::from_secs(less));
        Some(OfCall { most, less })
    };
    assert_eq!(longest(lasting(None, None, None)), None);
    assert_eq!(longest(lasting(Some(0), None, None)), None, "no limit");
    assert_eq!(longest(lasting(Some(5), None, None)), limits(Some(5), None));
    assert_eq!(longest(lasting(None, Some(0), None)), limits(None, of_call(None, 0)));
    assert_eq!(
        longest(lasting(Some(0), Some(60), Some(2))),
        limits(None, of_call(Some(60), 2))
    );
}

fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: text.into(),
        ..Default::default()
    }
}

fn matching(change: impl FnOnce(&mut pb::RouteMatch)) -> pb::Route {
    let mut route = good();
    change(route.r#match.as_mut().unwrap());
    route
}

fn acting(change: impl FnOnce(&mut pb::RouteAction)) -> pb::Route {
    let mut action = action();
    change(&mut action);
    pb::Route {
        action: Some(pb::route::Action::Route(action)),
        ..good()
    }
}

fn redirecting(redirect: pb::RedirectAction) -> pb::Route {
    pb::Route {
        action: Some(pb::route::Action::Redirect(redirect)),
        ..good()
    }
}

fn adding(key: &str, value: &str) -> pb::Route {
    pb::Route {
        request_headers_to_add: vec![core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: key.into(),
                value: value.into(),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..good()
    }
}

fn faulty(fault: fault::HttpFault) -> pb::Route {
    filtered("envoy.filters.http.fault", &fault)
}

fn filtered<T: Name>(name: &str, config: &T) -> pb::Route {
    let any = protobuf::Any {
        type_url: T::type_url(),
        value: config.encode_to_vec(),
    };
    pb::Route {
        typed_per_filter_config: [(name.to_owned(), any)].into(),
        ..good()
    }
}

fn substituting(pattern: &str, substitution: &str) -> pb::Route {
    acting(|action| {
        action.regex_rewrite = Some(matcher::RegexMatchAndSubstitute {
            pattern: Some(regex(pattern)),
            substitution: substitution.into(),
        });
    })
}

#[test]
fn what_a_route_may_not_say_is_named() {
    let weighted = |weights: &[u32]| {
        let weight = |value: &u32| pb::weighted_cluster::ClusterWeight {
            name: "c".into(),
            weight: Some(protobuf::UInt32Value { value: *value }),
            ..Default::default()
        };
        let clusters = pb::WeightedCluster {
            clusters: weights.iter().map(weight).collect(),
            ..Default::default()
        };
        acting(|action| action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(clusters)))
    };
    let header_match = |name: &str, is| {
        let name = name.to_owned();
        matching(|m| {
            m.headers.push(pb::HeaderMatcher {
                name,
                header_match_specifier: Some(is),
                ..Default::default()
            });
        })
    };
    let no_text = HeaderMatchSpecifier::StringMatch(matcher::StringMatcher::default());
    let at = "virtual_hosts[0].routes[0]";
    let fault_at = "typed_per_filter_config[\"envoy.filters.http.fault\"]";
    let of_fault = |field: &str| format!("{fault_at}.{field}");
    let rows: Vec<(pb::Route, String, &str)> = vec![
        (
            matching(|m| m.path_specifier = Some(PathSpecifier::SafeRegex(regex("(")))),
            "match.safe_regex.regex".into(),
            "unclosed",
        ),
        (
            header_match("a b", no_text.clone()),
            "match.headers[0].name".into(),
            "\"a b\"",
        ),
        (
            header_match("x", no_text),
            "match.headers[0].string_match.match_pattern".into(),
            "one of exact",
        ),
        (
            matching(|m| m.query_parameters.push(Default::default())),
            "match.query_parameters[0].name".into(),
            "missing",
        ),
        (
            matching(|m| m.tls_context = Some(Default::default())),
            "match.tls_context".into(),
            "leave it unset",
        ),
        (
            weighted(&[0, 0]),
            "route.weighted_clusters.clusters".into(),
            "sum of the weights is 0",
        ),
        (
            weighted(&[u32::MAX, 1]),
            "route.weighted_clusters.clusters".into(),
            "4294967296",
        ),
        (weighted(&[]), "route.weighted_clusters.clusters".into(), "is 0"),
        (
            acting(|a| a.cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x".into()))),
            "route.cluster_specifier".into(),
            "weighted_clusters",
        ),
        (
            lasting(None, Some(-1), None),
            "route.max_stream_duration.grpc_timeout_header_max".into(),
            "-1",
        ),
        (
            lasting(None, None, Some(1)),
            "route.max_stream_duration.grpc_timeout_header_offset".into(),
            "",
        ),
        (
            acting(|a| a.prefix_rewrite = "/a b".into()),
            "route.prefix_rewrite".into(),
            "characters",
        ),
        (
            acting(|a| {
                a.host_rewrite_specifier =
                    Some(pb::route_action::HostRewriteSpecifier::HostRewriteLiteral("a b".into()));
            }),
            "route.host_rewrite_literal".into(),
            "no host",
        ),
        (
            substituting("(a)", r"\2"),
            "route.regex_rewrite.substitution".into(),
            r"\0 to \1",
        ),
        (
            substituting("(", "a"),
            "route.regex_rewrite.pattern.regex".into(),
            "unclosed",
        ),
        (
            acting(|a| a.hash_policy.push(HashPolicy::default())),
            "route.hash_policy[0].policy_specifier".into(),
            "header or cookie",
        ),
        (
            acting(|a| a.request_mirror_policies.push(RequestMirrorPolicy::default())),
            "route.request_mirror_policies[0].cluster".into(),
            "missing",
        ),
        (
            redirecting(pb::RedirectAction {
                port_redirect: 70_000,
                ..Default::default()
            }),
            "redirect.port_redirect".into(),
            "70000 is no port",
        ),
        (
            redirecting(pb::RedirectAction {
                host_redirect: "a b".into(),
                ..Default::default()
            }),
            "redirect.host_redirect".into(),
            "no host",
        ),
        (
            adding("host", "x"),
            "request_headers_to_add[0].header.key".into(),
            "host_rewrite_literal",
        ),
        (
            adding(":path", "x"),
            "request_headers_to_add[0].header.key".into(),
            "may not be changed",
        ),
        (
            adding("Content-Length", "1"),
            "request_headers_to_add[0].header.key".into(),
            "belongs to the connection",
        ),
        (
            adding("x", "%REQ(y)% z"),
            "request_headers_to_add[0].header.value".into(),
            "\"%REQ(y)%\"",
        ),
        (
            adding("x", "100%"),
            "request_headers_to_add[0].header.value".into(),
            "%% for the sign",
        ),
        (
            adding("x", "a\nb"),
            "request_headers_to_add[0].header.value".into(),
            "characters",
        ),
        (
            filtered("cors", &fault::HttpFault::default()),
            "typed_per_filter_config[\"cors\"]".into(),
            "unknown filter",
        ),
        (
            faulty(fault::HttpFault {
                max_active_faults: Some(protobuf::UInt32Value { value: 1 }),
                ..Default::default()
            }),
            of_fault("max_active_faults"),
            "leave it unset",
        ),
        (
            faulty(fault::HttpFault {
                delay: Some(Default::default()),
                ..Default::default()
            }),
            of_fault("delay.fixed_delay"),
            "above 0 s",
        ),
        (
            faulty(fault::HttpFault {
                abort: Some(fault::FaultAbort {
                    error_type: Some(fault::fault_abort::ErrorType::HttpStatus(100)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            of_fault("abort.http_status"),
            "200 to 599",
        ),
        (
            faulty(fault::HttpFault {
                response_rate_limit: Some(common::FaultRateLimit {
                    limit_type: Some(common::fault_rate_limit::LimitType::FixedLimit(Default::default())),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            of_fault("response_rate_limit.fixed_limit.limit_kbps"),
            "1 KiB/s",
        ),
    ];
    assert!(decode(good()).is_ok());
    for (route, field, words) in rows {
        let error = decode(route).unwrap_err();
        assert!(error.starts_with(&format!("{at}.{field}: ")), "{field}: {error}");
        assert!(error.contains(words), "{words:?}: {error}");
    }
}

#[test]
fn what_routes_hash_by() {
    let policy = |specifier, terminal| HashPolicy {
        terminal,
        policy_specifier: Some(specifier),
    };
    use pb::route_action::hash_policy::{Cookie, Header, PolicySpecifier};
    let route = acting(|action| {
        action.hash_policy = vec![
            policy(
                PolicySpecifier::Cookie(Cookie {
                    name: "session".into(),
                    ttl: Some(protobuf::Duration { seconds: 60, nanos: 0 }),
                    path: "/".into(),
                    ..Default::default()
                }),
                true,
            ),
            policy(
                PolicySpecifier::Header(Header {
                    header_name: "X-User".into(),
                    ..Default::default()
                }),
                false,
            ),
        ];
    });
    let expected = [
        HashOn::Cookie {
            name: "session".into(),
            ttl: Some(std::time::Duration::from_secs(60)),
            path: "/".into(),
            terminal: true,
        },
        HashOn::Header {
            name: "x-user".into(),
            terminal: false,
        },
    ];
    assert_eq!(*decode(route).unwrap().hash, expected);
}
