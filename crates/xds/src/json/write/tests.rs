//! Every field of the tables against the messages that are generated from Envoy's own files; and what is refused.

use std::fmt::Debug;

use envoy_types::pb::envoy::config as pb;
use envoy_types::pb::envoy::extensions as ext;
use prost::Message;
use serde_json::json;

use super::super::any;
use super::*;

/// A message as the generated code prints it, and as it encodes it anew.
type Seen = (String, Vec<u8>);

fn seen<M: Message + Default + Debug>(bytes: &[u8]) -> Seen {
    let message = M::decode(bytes).expect("the tables write such messages");
    (format!("{message:#?}"), message.encode_to_vec())
}

fn through_prost(name: &str, bytes: &[u8]) -> Option<Seen> {
    use ext::filters::network as net;
    use ext::transport_sockets::tls::v3 as tls;
    Some(match name.rsplit('.').next()? {
        "Cluster" => seen::<pb::cluster::v3::Cluster>(bytes),
        "ClusterLoadAssignment" => seen::<pb::endpoint::v3::ClusterLoadAssignment>(bytes),
        "Listener" => seen::<pb::listener::v3::Listener>(bytes),
        "RouteConfiguration" => seen::<pb::route::v3::RouteConfiguration>(bytes),
        "Address" => seen::<pb::core::v3::Address>(bytes),
        "HttpConnectionManager" => seen::<net::http_connection_manager::v3::HttpConnectionManager>(bytes),
        "TcpProxy" => seen::<net::tcp_proxy::v3::TcpProxy>(bytes),
        "Router" => seen::<ext::filters::http::router::v3::Router>(bytes),
        "HTTPFault" => seen::<ext::filters::http::fault::v3::HttpFault>(bytes),
        "FilterConfig" => seen::<pb::route::v3::FilterConfig>(bytes),
        "ZipkinConfig" => seen::<pb::trace::v3::ZipkinConfig>(bytes),
        "OpenTelemetryConfig" => seen::<pb::trace::v3::OpenTelemetryConfig>(bytes),
        "StdoutAccessLog" => seen::<ext::access_loggers::stream::v3::StdoutAccessLog>(bytes),
        "FileAccessLog" => seen::<ext::access_loggers::file::v3::FileAccessLog>(bytes),
        "HttpGrpcAccessLogConfig" => seen::<ext::access_loggers::grpc::v3::HttpGrpcAccessLogConfig>(bytes),
        "TcpGrpcAccessLogConfig" => seen::<ext::access_loggers::grpc::v3::TcpGrpcAccessLogConfig>(bytes),
        "HttpProtocolOptions" => seen::<ext::upstreams::http::v3::HttpProtocolOptions>(bytes),
        "TlsInspector" => seen::<ext::filters::listener::tls_inspector::v3::TlsInspector>(bytes),
        "Secret" => seen::<tls::Secret>(bytes),
        "DownstreamTlsContext" => seen::<tls::DownstreamTlsContext>(bytes),
        "UpstreamTlsContext" => seen::<tls::UpstreamTlsContext>(bytes),
        // They have no fields, or are Weir's own.
        "Peer" | "PreviousHostsPredicate" | "OriginalDst" | "HttpInspector" | "RawBuffer" => return None,
        other => panic!("{other} is compared with nothing"),
    })
}

/// A value that is none of the defaults.
fn sample(kind: Kind) -> Value {
    match kind {
        Kind::Bool => json!(true),
        Kind::Int | Kind::UInt64 => json!(7),
        Kind::Int32 | Kind::Int64 => json!(-7),
        Kind::Str => json!("some text"),
        Kind::Bytes => json!("c29tZSBieXRlcw=="),
        Kind::Enum(names) => json!(names[names.len() - 1]),
        Kind::Double => json!(0.5),
        Kind::Duration => json!("1.5s"),
        Kind::Msg(_) | Kind::Closed(_) | Kind::Empty => json!({}),
        Kind::Wrapped(kind) | Kind::Hidden(kind) => sample(*kind),
        Kind::Any => json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}),
        Kind::Struct => json!({"a": [1.5, "b", true, null, {"c": []}]}),
        Kind::StructValue => json!(1.5),
        Kind::StructList => json!([1.5]),
        Kind::MapOf(kind) => json!({ "key": sample(*kind) }),
        Kind::Redacted | Kind::Skipped => Value::Null,
    }
}

fn shown(kind: Kind, written: Value) -> Value {
    match kind {
        Kind::Bytes => json!("some bytes"),
        Kind::Hidden(_) => json!("[redacted]"),
        _ => written,
    }
}

fn squeeze(text: &str) -> String {
    text.chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase()
}

/// `wrap` makes a whole message of one of `fields`' kind.
fn walk(message: &str, path: &str, fields: &'static [Field], wrap: &dyn Fn(Value) -> Value, count: &mut usize) {
    for field in fields {
        let written = match sample(field.kind) {
            Value::Null => continue,
            value if field.repeated => json!([value]),
            value => value,
        };
        let path = format!("{path}.{}", field.name);
        let with = wrap(json!({ (field.name): written }));
        let bytes = encode(message, &with).unwrap_or_else(|e| panic!("{path}: {e}"));
        let expected = match field.repeated {
            true => json!([shown(field.kind, written[0].clone())]),
            false => shown(field.kind, written),
        };
        let expected = wrap(json!({ (field.name): expected }));
        let without = encode(message, &wrap(json!({}))).unwrap();
        let Some((text, again)) = through_prost(message, &bytes) else {
            assert_eq!(any(message, &bytes, 32), expected, "{path}");
            continue;
        };
        // Inside of a key nothing is shown.
        if !path.contains("private_key.") {
            assert_eq!(any(message, &again, 32), expected, "{path}: {text}");
        }
        let (plain, _) = through_prost(message, &without).unwrap();
        let differs = text.lines().zip(plain.lines()).find(|(a, b)| a != b);
        let line = differs.map_or("", |(a, _)| a);
        // A plain field by its name, a member of a oneof below the group, by its variant.
        let name = squeeze(field.name);
        let is_named = squeeze(line.split([':', '(']).next().unwrap_or_default()).ends_with(&name)
            || text.lines().any(|l| l.trim().ends_with('(') && squeeze(l) == name);
        assert!(is_named, "{path}: {line:?} in {text}");
        if let Kind::Enum(names) = field.kind {
            let last = squeeze(names[names.len() - 1]);
            let variant = squeeze(line.rsplit(':').next().unwrap_or_default());
            let member = text
                .lines()
                .any(|l| last.ends_with(&squeeze(l)) && !squeeze(l).is_empty());
            assert!(last.ends_with(&variant) || member, "{path}: {line:?} is not {last}");
        }
        *count += 1;
        let inner = match field.kind {
            Kind::Msg(inner) | Kind::Closed(inner) => inner,
            Kind::Hidden(Kind::Msg(inner)) => *inner,
            _ => continue,
        };
        let wrap_inner = |value: Value| {
            let value = if field.repeated { json!([value]) } else { value };
            wrap(json!({ (field.name): value }))
        };
        walk(message, &path, inner, &wrap_inner, count);
    }
}

#[test]
fn every_field_of_the_tables_is_that_of_envoys_messages() {
    let mut count = 0;
    for name in tables::names() {
        let fields = fields_of(name).unwrap();
        walk(name, name, fields, &|value| value, &mut count);
    }
    assert!(count > 300, "only {count} fields were compared");
}

/// What the control plane sends, as the golden files show it, is written and read again.
#[test]
fn what_is_shown_can_be_written() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../control/testdata/snapshots");
    let mut count = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let golden: Value = serde_json::from_str(text.splitn(3, "---\n").nth(2).unwrap()).unwrap();
        for types in [&golden["snapshot"], &golden["gateway"]] {
            for (ty, name) in [
                ("lds", "envoy.config.listener.v3.Listener"),
                ("cds", "envoy.config.cluster.v3.Cluster"),
                ("rds", "envoy.config.route.v3.RouteConfiguration"),
                ("eds", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
            ] {
                for (key, value) in types[ty].as_object().into_iter().flatten() {
                    let bytes = encode(name, value).unwrap_or_else(|e| panic!("{key}: {e}"));
                    assert_eq!(&any(name, &bytes, 32), value, "{key}");
                    let (_, again) = through_prost(name, &bytes).unwrap();
                    assert_eq!(&any(name, &again, 32), value, "{key}: through the messages");
                    count += 1;
                }
            }
        }
    }
    assert!(count > 100, "only {count} resources were compared");
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";

#[test]
fn a_value_may_be_written_in_more_than_one_way() {
    let cluster = |value: Value| encode(CLUSTER, &value).unwrap();
    let plain = cluster(json!({"type": "EDS", "connect_timeout": "1s", "per_connection_buffer_limit_bytes": 5}));
    for other in [
        json!({"type": 3, "connectTimeout": "1.000s", "perConnectionBufferLimitBytes": "5", "name": null}),
        json!({"type": "3", "connect_timeout": "1s", "per_connection_buffer_limit_bytes": 5.0}),
    ] {
        let Ok(other) = encode(CLUSTER, &other) else {
            assert_eq!(other["type"], "3", "a number as text is no name");
            continue;
        };
        let [plain, other] = [&plain, &other].map(|b| pb::cluster::v3::Cluster::decode(b.as_slice()).unwrap());
        assert_eq!(plain, other);
    }
    let five = json!({"outlier_detection": {"consecutive5xx": 5}});
    assert_eq!(
        cluster(five),
        cluster(json!({"outlier_detection": {"consecutive_5xx": 5}}))
    );
    let zipkin = |name: &str| encode("envoy.config.trace.v3.ZipkinConfig", &json!({ (name): true })).unwrap();
    assert_eq!(zipkin("traceId128bit"), zipkin("trace_id_128bit"));
    let data = |text: &str| {
        let header = json!({"header": {"key": "a", "raw_value": text}});
        encode(ROUTES, &json!({"request_headers_to_add": [header]})).unwrap()
    };
    assert_eq!(data("-_8="), data("+/8"));
}

#[test]
fn what_is_wrong_is_named() {
    let typed = |ty: &str| json!({"filter_chains": [{"filters": [{"typed_config": {"@type": ty}}]}]});
    let free = |depth: usize| {
        let nested = (0..depth).fold(json!(1), |value, _| json!([value]));
        json!({"metadata": {"filter_metadata": {"weir": {"a": nested}}}})
    };
    for (message, value, path, words) in [
        (CLUSTER, json!([]), "", "must be a message, not a list"),
        (
            CLUSTER,
            json!({"load_assignment": ["c"]}),
            "load_assignment",
            "must be a message, not a list",
        ),
        (
            LISTENER,
            json!({"filter_chains": {}}),
            "filter_chains",
            "must be a list, not a message",
        ),
        (
            LISTENER,
            json!({"filter_chains": [[]]}),
            "filter_chains[0]",
            "must be a message, not a list",
        ),
        (
            LISTENER,
            json!({"filter_chains": [null]}),
            "filter_chains[0]",
            "not null",
        ),
        (
            CLUSTER,
            json!({"nam": "c"}),
            "",
            "unknown field `nam`; known are name, type, eds_cluster_config",
        ),
        (CLUSTER, json!({"name": 5}), "name", "must be text, not a number"),
        (
            CLUSTER,
            json!({"type": "STATIK"}),
            "type",
            "\"STATIK\" is unknown; known are STATIC, STRICT_DNS",
        ),
        (
            CLUSTER,
            json!({"lb_policy": ""}),
            "lb_policy",
            "known are ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV",
        ),
        (
            CLUSTER,
            json!({"connect_timeout": 1}),
            "connect_timeout",
            "must be a duration such as \"0.25s\", not a number",
        ),
        (
            CLUSTER,
            json!({"connect_timeout": "1 s"}),
            "connect_timeout",
            "\"1 s\" is no duration",
        ),
        (
            CLUSTER,
            json!({"per_connection_buffer_limit_bytes": 4_294_967_296_u64}),
            "per_connection_buffer_limit_bytes",
            "must be a whole number from 0 to 4294967295, not 4294967296",
        ),
        (
            CLUSTER,
            json!({"per_connection_buffer_limit_bytes": -1}),
            "per_connection_buffer_limit_bytes",
            "not -1",
        ),
        (
            CLUSTER,
            json!({"per_connection_buffer_limit_bytes": 1.5}),
            "per_connection_buffer_limit_bytes",
            "not 1.5",
        ),
        (CLUSTER, json!({"name": "a", "Name": "b"}), "", "unknown field `Name`"),
        (
            CLUSTER,
            json!({"connect_timeout": "1s", "connectTimeout": "2s"}),
            "connect_timeout",
            "is there twice",
        ),
        (
            CLUSTER,
            json!({"maglev_lb_config": {}, "ring_hash_lb_config": {}}),
            "ring_hash_lb_config",
            "must not stand beside maglev_lb_config",
        ),
        (
            CLUSTER,
            json!({"typed_extension_protocol_options": {"x": {"max": 1}}}),
            "typed_extension_protocol_options[\"x\"].@type",
            "is missing",
        ),
        (
            LISTENER,
            typed("type.googleapis.com/envoy.extensions.filters.network.redis.v3.Redis"),
            "filter_chains[0].filters[0].typed_config",
            "redis.v3.Redis is unknown; known are envoy.extensions.filters.network.http_connection_manager",
        ),
        (
            CLUSTER,
            free(100),
            "metadata.filter_metadata",
            "stands more than 64 messages deep",
        ),
        (
            ROUTES,
            json!({"virtual_hosts": [{"domains": "a"}]}),
            "virtual_hosts[0].domains",
            "must be a list, not text",
        ),
        (
            ROUTES,
            json!({"validate_clusters": "yes"}),
            "validate_clusters",
            "must be true or false",
        ),
        (
            ROUTES,
            json!({"request_headers_to_add": [{"header": {"raw_value": "a b"}}]}),
            "request_headers_to_add[0].header.raw_value",
            "must be base64",
        ),
    ] {
        let error = encode(message, &value).unwrap_err();
        assert!(
            error.path.starts_with(path) && (!path.is_empty() || error.path.is_empty()),
            "{error}"
        );
        assert!(error.message.contains(words), "{error}");
    }
    assert!(encode(CLUSTER, &free(50)).is_ok());
    let error = encode("envoy.config.cluster.v3.Clutter", &json!({})).unwrap_err();
    assert!(
        error.message.contains("known are envoy.config.cluster.v3.Cluster"),
        "{error}"
    );
}

#[test]
fn errors_do_not_quote_keys() {
    let secret = |key: Value| {
        let value = json!({"name": "s", "tls_certificate": {"private_key": key}});
        encode("envoy.extensions.transport_sockets.tls.v3.Secret", &value)
            .unwrap_err()
            .to_string()
    };
    for key in [
        json!("s3cret"),
        json!({"inline_bytes": "s3cret!"}),
        json!({"inline_string": ["s3cret"]}),
    ] {
        let error = secret(key);
        assert!(
            error.starts_with("tls_certificate.private_key") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
