use envoy_types::pb::envoy::config::cluster::v3 as cluster_pb;
use envoy_types::pb::envoy::config::listener::v3 as listener_pb;
use envoy_types::pb::envoy::config::route::v3 as route_pb;
use proptest::prelude::*;

use super::*;
use crate::config::{Action, EndpointSource};

fn bytes(message: impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

fn at(ip: &str, port: u32) -> Option<core::Address> {
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: ip.into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    })
}

/// A change of a good cluster that must be refused, and the field that the refusal names.
type Spoil = (fn(&mut cluster_pb::Cluster), &'static str);

#[test]
fn what_a_cluster_may_not_say_is_named() {
    let good = || cluster_pb::Cluster {
        name: "c".into(),
        ..Default::default()
    };
    assert!(matches!(
        cluster(&bytes(good())).unwrap().source,
        EndpointSource::Static(_)
    ));
    let spoils: [Spoil; 8] = [
        (|c| c.lb_policy = 3, "lb_policy"),
        (|c| c.health_checks.push(Default::default()), "health_checks"),
        (|c| c.outlier_detection = Some(Default::default()), "outlier_detection"),
        (|c| c.transport_socket = Some(Default::default()), "transport_socket"),
        (|c| c.cleanup_interval = Some(Default::default()), "cleanup_interval"),
        (
            |c| c.connect_timeout = Some(protobuf::Duration { seconds: -1, nanos: 0 }),
            "connect_timeout",
        ),
        (
            |c| {
                let limit = Some(protobuf::UInt32Value { value: 5 });
                let threshold = cluster_pb::circuit_breakers::Thresholds {
                    max_requests: limit,
                    ..Default::default()
                };
                c.circuit_breakers = Some(cluster_pb::CircuitBreakers {
                    thresholds: vec![threshold],
                    ..Default::default()
                });
            },
            "circuit_breakers.thresholds[0].max_requests",
        ),
        (
            |c| {
                let option = core::SocketOption {
                    level: 6,
                    name: 1,
                    ..Default::default()
                };
                c.upstream_bind_config = Some(core::BindConfig {
                    socket_options: vec![option],
                    ..Default::default()
                });
            },
            "upstream_bind_config.socket_options[0].name",
        ),
    ];
    for (spoil, field) in spoils {
        let mut message = good();
        spoil(&mut message);
        assert_eq!(cluster(&bytes(message)).unwrap_err().field, field);
    }
}

#[test]
fn what_a_route_may_not_say_is_named() {
    let action = route_pb::RouteAction {
        cluster_specifier: Some(route_pb::route_action::ClusterSpecifier::Cluster("c".into())),
        ..Default::default()
    };
    let with = |action: route_pb::RouteAction| {
        let route = route_pb::Route {
            r#match: Some(route_pb::RouteMatch {
                path_specifier: Some(route_pb::route_match::PathSpecifier::Prefix("/".into())),
                ..Default::default()
            }),
            action: Some(route_pb::route::Action::Route(action)),
            ..Default::default()
        };
        let host = route_pb::VirtualHost {
            domains: vec!["*".into()],
            routes: vec![route],
            ..Default::default()
        };
        bytes(route_pb::RouteConfiguration {
            virtual_hosts: vec![host],
            ..Default::default()
        })
    };
    let table = route_table(&with(action.clone())).unwrap();
    let Action::Forward(forward) = &table.hosts[0].routes[0].action else {
        panic!("a forward")
    };
    assert_eq!(forward.timeout, Some(Duration::from_secs(15)), "Envoy's default");
    assert_eq!(forward.retry.limit, 0);
    let place = "virtual_hosts[0].routes[0].route";
    let rewrite = route_pb::RouteAction {
        prefix_rewrite: "/x".into(),
        ..action.clone()
    };
    assert_eq!(
        route_table(&with(rewrite)).unwrap_err().field,
        format!("{place}.prefix_rewrite")
    );
    let policy = route_pb::RetryPolicy {
        retry_on: "5xx, sometimes".into(),
        ..Default::default()
    };
    let error = route_table(&with(route_pb::RouteAction {
        retry_policy: Some(policy),
        ..action
    }))
    .unwrap_err();
    assert_eq!(error.field, format!("{place}.retry_policy.retry_on"));
    assert!(error.message.contains("\"sometimes\""), "{error}");
}

#[test]
fn a_response_text_is_put_together_for_each_connection() {
    let source = |text: &str| core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.into())),
        ..Default::default()
    };
    let with = |format: &str| {
        let response = route_pb::DirectResponseAction {
            status: 404,
            body: Some(source("fixed")),
            body_format: Some(core::SubstitutionFormatString {
                content_type: "text/plain".into(),
                format: Some(core::substitution_format_string::Format::TextFormatSource(source(
                    format,
                ))),
                ..Default::default()
            }),
        };
        let route = route_pb::Route {
            r#match: Some(route_pb::RouteMatch {
                path_specifier: Some(route_pb::route_match::PathSpecifier::Prefix("/".into())),
                ..Default::default()
            }),
            action: Some(route_pb::route::Action::DirectResponse(response)),
            ..Default::default()
        };
        let host = route_pb::VirtualHost {
            domains: vec!["*".into()],
            routes: vec![route],
            ..Default::default()
        };
        route_table(&bytes(route_pb::RouteConfiguration {
            virtual_hosts: vec![host],
            ..Default::default()
        }))
    };
    let table = with("%DOWNSTREAM_LOCAL_ADDRESS% is shut, port %DOWNSTREAM_LOCAL_PORT%, 100%%").unwrap();
    let Action::Respond { body, .. } = &table.hosts[0].routes[0].action else {
        panic!("a response")
    };
    assert_eq!(
        body.render(([10, 96, 0, 7], 80).into()),
        "10.96.0.7:80 is shut, port 80, 100%"
    );
    assert!(with("%REQ(:path)%").unwrap_err().message.contains("REQ(:path)"));
}

#[test]
fn ports_without_inspection() {
    use listener_pb::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let range = |start, end| listener_pb::ListenerFilterChainMatchPredicate {
        rule: Some(Rule::DestinationPortRange(
            envoy_types::pb::envoy::r#type::v3::Int32Range { start, end },
        )),
    };
    let with = |predicate| {
        let filter = listener_pb::ListenerFilter {
            name: "i".into(),
            filter_disabled: Some(predicate),
            config_type: Some(listener_pb::listener_filter::ConfigType::TypedConfig(protobuf::Any {
                type_url: "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
                    .into(),
                value: Vec::new(),
            })),
        };
        listener(&bytes(listener_pb::Listener {
            name: "l".into(),
            address: at("0.0.0.0", 15001),
            listener_filters: vec![filter],
            ..Default::default()
        }))
    };
    let either = listener_pb::ListenerFilterChainMatchPredicate {
        rule: Some(Rule::OrMatch(MatchSet {
            rules: vec![range(22, 23), range(5432, 5440)],
        })),
    };
    assert_eq!(with(either).unwrap().uninspected, [(22, 22), (5432, 5439)]);
    let error = with(range(70_000, 70_001)).unwrap_err();
    assert_eq!(
        error.field,
        "listener_filters[0].filter_disabled.destination_port_range"
    );
    assert!(with(range(i32::MIN, i32::MIN)).is_err());
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    for decode in [
        |b: &[u8]| cluster(b).map(drop),
        |b: &[u8]| listener(b).map(drop),
        |b: &[u8]| route_table(b).map(drop),
        |b: &[u8]| assignment(b).map(drop),
    ] {
        assert!(
            decode(&[0x0a, 0xff, 0xff])
                .unwrap_err()
                .message
                .contains("no such message")
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = cluster(&bytes);
        let _ = listener(&bytes);
        let _ = route_table(&bytes);
        let _ = assignment(&bytes);
    }

    /// Nearly right messages reach deeper than noise.
    #[test]
    fn no_damage_makes_a_decoder_panic(at_byte in 0usize..400, value: u8, cut in 0usize..400) {
        let file = include_str!("../../../testdata/envoy.yaml");
        let bootstrap = crate::config::bootstrap::Bootstrap::parse(file).unwrap();
        for resource in bootstrap.resources {
            let mut body = resource.body;
            let place = at_byte % body.len();
            body[place] = value;
            body.truncate(cut.max(10));
            let _ = cluster(&body);
            let _ = listener(&body);
        }
    }
}
