use envoy_types::pb::envoy::config::cluster::v3 as cluster_pb;
use envoy_types::pb::envoy::config::listener::v3 as listener_pb;
use envoy_types::pb::envoy::config::route::v3 as route_pb;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_pb;
use proptest::prelude::*;

use super::*;
use std::sync::Arc;

use crate::config::{Action, ClusterSpec, EndpointSource, Granularity, Http2Options, Listener, Protocol, Telemetry};

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
        (|c| c.lb_policy = 6, "lb_policy"),
        (|c| c.health_checks.push(Default::default()), "health_checks"),
        (
            |c| {
                c.outlier_detection = Some(cluster_pb::OutlierDetection {
                    enforcing_success_rate: Some(protobuf::UInt32Value { value: 5 }),
                    ..Default::default()
                });
            },
            "outlier_detection.enforcing_success_rate",
        ),
        (
            |c| c.transport_socket = Some(Default::default()),
            "transport_socket.typed_config",
        ),
        (|c| c.cleanup_interval = Some(Default::default()), "cleanup_interval"),
        (
            |c| c.connect_timeout = Some(protobuf::Duration { seconds: -1, nanos: 0 }),
            "connect_timeout",
        ),
        (
            |c| {
                let limit = Some(protobuf::UInt32Value { value: 5 });
                let threshold = cluster_pb::circuit_breakers::Thresholds {
                    max_connection_pools: limit,
                    ..Default::default()
                };
                c.circuit_breakers = Some(cluster_pb::CircuitBreakers {
                    thresholds: vec![threshold],
                    ..Default::default()
                });
            },
            "circuit_breakers.thresholds[0].max_connection_pools",
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
        path_rewrite: "/x".into(),
        ..action.clone()
    };
    assert_eq!(
        route_table(&with(rewrite)).unwrap_err().field,
        format!("{place}.path_rewrite")
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
fn a_domain_has_one_star_at_an_end() {
    let with = |domain: &str| {
        let host = route_pb::VirtualHost {
            domains: vec![domain.into()],
            ..Default::default()
        };
        route_table(&bytes(route_pb::RouteConfiguration {
            virtual_hosts: vec![host],
            ..Default::default()
        }))
    };
    for good in ["*", "*.a", "a.*", "A"] {
        assert!(with(good).is_ok(), "{good}");
    }
    for bad in ["", "**", "*a*", "a*b", "**a"] {
        assert_eq!(with(bad).unwrap_err().field, "virtual_hosts[0].domains", "{bad}");
    }
}

#[test]
fn names_are_not_resolved_without_a_pause() {
    let with = |nanos: i32| {
        let mut message = cluster_pb::Cluster {
            cluster_discovery_type: Some(cluster_pb::cluster::ClusterDiscoveryType::Type(
                cluster_pb::cluster::DiscoveryType::StrictDns as i32,
            )),
            ..Default::default()
        };
        #[allow(deprecated)]
        (message.dns_refresh_rate = Some(protobuf::Duration { seconds: 0, nanos }));
        cluster(&bytes(message))
    };
    assert_eq!(with(999_999).unwrap_err().field, "dns_refresh_rate");
    assert!(with(1_000_000).is_ok());
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
    for open in ["%DOWNSTREAM_LOCAL_PORT", "50% off", "%%%"] {
        let error = with(open).unwrap_err();
        assert!(error.message.contains("has no end"), "{open}: {error}");
    }
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
fn what_endpoints_speak() {
    let spec = |text: &str| {
        let file = format!("static_resources: {{clusters: [{{name: c, {text}}}]}}");
        let bootstrap = crate::config::bootstrap::Bootstrap::parse(&file).map_err(|e| e.to_string())?;
        cluster(&bootstrap.resources[0].body).map_err(|e| e.to_string())
    };
    let typed = |config: &str| {
        let options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        spec(&format!(
            "typed_extension_protocol_options: {{x: {{\"@type\": {options}, {config}}}}}"
        ))
    };
    let usual = Http2Options::default();
    let found = |spec: Result<ClusterSpec, String>| spec.map(|s| (s.protocol, s.http2)).unwrap();
    assert_eq!(found(spec("")), (Protocol::Http1, usual));
    assert_eq!(found(spec("http2_protocol_options: {}")), (Protocol::Http2, usual));
    let explicit = "explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 7}}";
    let seven = Http2Options {
        max_concurrent_streams: 7,
        ..usual
    };
    assert_eq!(found(typed(explicit)), (Protocol::Http2, seven));
    let explicit = "explicit_http_config: {http_protocol_options: {}}";
    assert_eq!(found(typed(explicit)), (Protocol::Http1, usual));
    let same = "use_downstream_protocol_config: {http2_protocol_options: {initial_stream_window_size: 65535}}";
    let small = Http2Options {
        initial_stream_window: 65_535,
        ..usual
    };
    assert_eq!(found(typed(same)), (Protocol::Downstream, small));
    let error = spec("http2_protocol_options: {initial_stream_window_size: 100}").unwrap_err();
    let expected = "http2_protocol_options.initial_stream_window_size: 100 must be 65535 to 2147483647";
    assert_eq!(error, expected);
    let error = typed("explicit_http_config: {http2_protocol_options: {allow_connect: true}}").unwrap_err();
    assert!(error.contains("allow_connect"), "{error}");
}

#[test]
fn what_is_measured_about_a_cluster() {
    let telemetry = |text: &str| {
        let file = format!(
            "static_resources: {{clusters: [{{name: c, metadata: {{filter_metadata: {{weir.telemetry: {{{text}}}}}}}}}]}}"
        );
        let bootstrap = crate::config::bootstrap::Bootstrap::parse(&file).unwrap();
        cluster(&bootstrap.resources[0].body).map(|s| s.telemetry)
    };
    assert!(Arc::ptr_eq(&telemetry("").unwrap(), &Telemetry::usual()));
    let found = telemetry("granularity: service, buckets_ms: [1, 5, 250]").unwrap();
    assert_eq!(found.granularity, Granularity::Service);
    assert_eq!(*found.buckets_ms, [1, 5, 250]);
    let place = "metadata.filter_metadata[\"weir.telemetry\"]";
    let many = format!("buckets_ms: {:?}", (1..=65).collect::<Vec<u64>>());
    for (text, field, words) in [
        ("granularity: node", "granularity", "pod, workload or service"),
        ("granularity: 1", "granularity", "must be a string"),
        ("buckets_ms: [5, 5]", "buckets_ms", "5 follows Some(5)"),
        ("buckets_ms: [0]", "buckets_ms", "above 0"),
        ("buckets_ms: [1.5]", "buckets_ms", "no whole number"),
        ("buckets_ms: []", "buckets_ms", "1 to 64 numbers"),
        (&many, "buckets_ms", "not 65"),
        ("bucket_ms: [1]", "bucket_ms", "known are"),
    ] {
        let error = telemetry(text).unwrap_err();
        assert_eq!(error.field, format!("{place}.{field}"));
        assert!(error.message.contains(words), "{error}");
    }
}

/// A certificate for `localhost`, signed by itself, and its key.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A source of the text, in JSON.
fn inline(text: &str) -> String {
    serde_json::json!({ "inline_string": text }).to_string()
}

#[test]
fn certificates_towards_clients() {
    let (cert, key) = certificate();
    let chain = |matching: &str, context: &str| {
        let file = format!(
            r#"{{"static_resources": {{"listeners": [{{
              "name": "l", "address": {{"socket_address": {{"address": "127.0.0.1", "port_value": 1}}}},
              "filter_chains": [{{"filter_chain_match": {{{matching}}},
                "filters": [{{"name": "t", "typed_config": {{
                  "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                  "cluster": "c"}}}}],
                "transport_socket": {{"name": "tls", "typed_config": {{
                  "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                  {context}}}}}}}]}}]}}}}"#
        );
        let bootstrap = crate::config::bootstrap::Bootstrap::parse(&file).map_err(|e| e.to_string())?;
        let mut found = listener(&bootstrap.resources[0].body).map_err(|e| e.to_string())?;
        Ok::<_, String>(found.chains.remove(0))
    };
    let pair = format!(
        r#""tls_certificates": [{{"certificate_chain": {}, "private_key": {}}}]"#,
        inline(&cert),
        inline(&key)
    );
    let found = chain(
        r#""transport_protocol": "tls""#,
        &format!(r#""common_tls_context": {{{pair}, "alpn_protocols": ["h2", "http/1.1"]}}"#),
    )
    .unwrap();
    assert_eq!(found.application_protocols, ["tls".into()]);
    let config = &found.tls.unwrap().config;
    assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);

    let both = format!(
        r#""require_client_certificate": true, "common_tls_context": {{{pair},
           "validation_context": {{"trusted_ca": {}}}}}"#,
        inline(&cert)
    );
    assert!(chain("", &both).is_ok());
    let place = "filter_chains[0].transport_socket.typed_config";
    for (context, field) in [
        (
            r#""common_tls_context": {}"#.to_owned(),
            "common_tls_context.tls_certificates",
        ),
        (
            format!(r#""require_client_certificate": true, "common_tls_context": {{{pair}}}"#),
            "common_tls_context.validation_context",
        ),
        (
            format!(
                r#""common_tls_context": {{"tls_certificates": [{{"certificate_chain": {}, "private_key": {}}}]}}"#,
                inline("none"),
                inline(&key)
            ),
            "common_tls_context.tls_certificates[0].certificate_chain",
        ),
        (
            r#""common_tls_context": {"tls_certificates": [{"certificate_chain": {"filename": "/nowhere"}}]}"#
                .to_owned(),
            "common_tls_context.tls_certificates[0].certificate_chain.filename",
        ),
    ] {
        let error = chain("", &context).unwrap_err();
        assert!(error.starts_with(&format!("{place}.{field}: ")), "{error}");
    }
    let (_, other) = certificate();
    let error = chain(
        "",
        &format!(
            r#""common_tls_context": {{{}}}"#,
            pair.replace(&inline(&key), &inline(&other))
        ),
    );
    assert!(error.unwrap_err().contains("tls_certificates[0].private_key: "));
}

#[test]
fn certificates_of_endpoints() {
    let (cert, _) = certificate();
    let spec = |context: &str, http2: bool| {
        let more = if http2 { r#""http2_protocol_options": {},"# } else { "" };
        let file = format!(
            r#"{{"static_resources": {{"clusters": [{{"name": "c", {more} "transport_socket": {{"name": "tls", "typed_config": {{
              "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
              {context}}}}}}}]}}}}"#
        );
        let bootstrap = crate::config::bootstrap::Bootstrap::parse(&file).map_err(|e| e.to_string())?;
        cluster(&bootstrap.resources[0].body).map_err(|e| e.to_string())
    };
    let trust = format!(
        r#""common_tls_context": {{"validation_context": {{"trusted_ca": {}}}}}"#,
        inline(&cert)
    );
    let tls = |http2| {
        spec(&format!(r#""sni": "localhost", {trust}"#), http2)
            .unwrap()
            .tls
            .unwrap()
    };
    assert_eq!(tls(false).server_name.to_str(), "localhost");
    assert!(tls(false).config.alpn_protocols.is_empty());
    assert_eq!(tls(true).config.alpn_protocols, [b"h2".to_vec()]);
    let place = "transport_socket.typed_config";
    let error = spec(&trust, false).unwrap_err();
    assert!(error.starts_with(&format!("{place}.sni: ")), "{error}");
    let error = spec(r#""sni": "localhost""#, false).unwrap_err();
    let field = "common_tls_context.validation_context.trusted_ca";
    assert!(error.starts_with(&format!("{place}.{field}: ")), "{error}");
    // A file without an end must not be read to its end.
    let device = r#""common_tls_context": {"validation_context": {"trusted_ca": {"filename": "/dev/zero"}}}"#;
    let error = spec(&format!(r#""sni": "localhost", {device}"#), false).unwrap_err();
    assert!(error.contains("it is no regular file"), "{error}");
}

/// The certificate that the proxy itself shows to endpoints is none that a control plane sends.
#[test]
fn secrets_towards_endpoints_are_refused() {
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls_pb;
    let context = tls_pb::UpstreamTlsContext {
        sni: "localhost".into(),
        common_tls_context: Some(tls_pb::CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![tls_pb::SdsSecretConfig::default()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let socket = core::TransportSocket {
        name: "tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(protobuf::Any {
            type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext".into(),
            value: bytes(context),
        })),
    };
    let message = cluster_pb::Cluster {
        name: "c".into(),
        transport_socket: Some(socket),
        ..Default::default()
    };
    assert_eq!(
        cluster(&bytes(message)).unwrap_err().field,
        "transport_socket.typed_config.common_tls_context.tls_certificate_sds_secret_configs"
    );
}

/// A listener with chains for these (names, port).
fn named_chains(chains: &[(&[&str], Option<u32>)]) -> Result<Listener, Rejection> {
    let tcp = || listener_pb::Filter {
        name: "tcp".into(),
        config_type: Some(listener_pb::filter::ConfigType::TypedConfig(protobuf::Any {
            type_url: "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy".into(),
            value: bytes(tcp_pb::TcpProxy {
                cluster_specifier: Some(tcp_pb::tcp_proxy::ClusterSpecifier::Cluster("c".into())),
                ..Default::default()
            }),
        })),
    };
    let chain = |(names, port): &(&[&str], Option<u32>)| listener_pb::FilterChain {
        filter_chain_match: Some(listener_pb::FilterChainMatch {
            server_names: names.iter().map(|n| (*n).into()).collect(),
            destination_port: port.map(|value| protobuf::UInt32Value { value }),
            ..Default::default()
        }),
        filters: vec![tcp()],
        ..Default::default()
    };
    let address = core::address::Address::SocketAddress(core::SocketAddress {
        address: "127.0.0.1".into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(1)),
        ..Default::default()
    });
    listener(&bytes(listener_pb::Listener {
        name: "l".into(),
        address: Some(core::Address { address: Some(address) }),
        filter_chains: chains.iter().map(chain).collect(),
        ..Default::default()
    }))
}

#[test]
fn names_of_handshakes() {
    let listener = named_chains(&[(&["A.b", "*.c"], None), (&["a.b"], Some(1)), (&[], None)]).unwrap();
    assert_eq!(listener.chains[0].server_names, ["a.b".into(), "*.c".into()]);
    let field = "filter_chains[0].filter_chain_match.server_names[0]";
    for bad in ["", "*", "*.", "a*.b", "*a.b", "a b", "a.*"] {
        assert_eq!(named_chains(&[(&[bad], None)]).unwrap_err().field, field, "{bad:?}");
    }
    let twice = named_chains(&[(&["a.b", "c.d"], None), (&["x.y", "A.B"], None)]).unwrap_err();
    assert_eq!(twice.field, "filter_chains[1].filter_chain_match");
    assert!(twice.message.contains("\"a.b\" as filter_chains[0]"), "{twice}");
    assert!(named_chains(&[(&[], None), (&[], None)]).is_err());
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    for decode in [
        |b: &[u8]| secret(b).map(drop),
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
        let _ = secret(&bytes);
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

#[test]
fn how_endpoints_are_used_is_what_a_cluster_says() {
    use crate::config::upstream::{LbPolicy, RetryLimit};
    let number = |value| Some(protobuf::UInt32Value { value });
    let plain = cluster(&bytes(cluster_pb::Cluster::default())).unwrap();
    assert_eq!((plain.policy, plain.panic_percent), (LbPolicy::RoundRobin, 50.0));
    assert!(plain.outlier.is_none() && !plain.limits.of_requests() && plain.limits.retries.is_none());
    let budget = cluster_pb::circuit_breakers::thresholds::RetryBudget {
        min_retry_concurrency: number(7),
        ..Default::default()
    };
    let threshold = cluster_pb::circuit_breakers::Thresholds {
        max_connections: number(u32::MAX),
        max_requests: number(12),
        max_retries: number(1),
        retry_budget: Some(budget),
        ..Default::default()
    };
    let high = cluster_pb::circuit_breakers::Thresholds {
        priority: 1,
        max_connections: number(1),
        ..Default::default()
    };
    let fields = [("lb_policy", "PEAK_EWMA")].map(|(name, text)| {
        let kind = Some(protobuf::value::Kind::StringValue(text.into()));
        (name.to_owned(), protobuf::Value { kind })
    });
    let weir = protobuf::Struct {
        fields: fields.into_iter().collect(),
    };
    let spec = cluster(&bytes(cluster_pb::Cluster {
        lb_policy: cluster_pb::cluster::LbPolicy::LeastRequest.into(),
        metadata: Some(core::Metadata {
            filter_metadata: std::iter::once(("weir".to_owned(), weir)).collect(),
            ..Default::default()
        }),
        circuit_breakers: Some(cluster_pb::CircuitBreakers {
            thresholds: vec![threshold, high],
            ..Default::default()
        }),
        outlier_detection: Some(Default::default()),
        ..Default::default()
    }))
    .unwrap();
    assert_eq!(spec.policy, LbPolicy::PeakEwma);
    assert_eq!((spec.limits.connections, spec.limits.requests), (None, Some(12)));
    let budget = RetryLimit::Budget { percent: 20.0, min: 7 };
    assert_eq!(spec.limits.retries, Some(budget));
    let outlier = spec.outlier.unwrap();
    assert_eq!(outlier.server_errors, (5, 100));
    assert_eq!((outlier.gateway_errors, outlier.local_errors), ((5, 0), (5, 100)));
    assert_eq!(
        (outlier.max_percent, outlier.split, outlier.always_one),
        (10, false, false)
    );
}
