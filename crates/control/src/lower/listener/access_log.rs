//! Access logs. For people, where the mesh's settings ask for it: a line a request or connection on the proxy's output.
//! For the supervisor beside Envoy: Envoy's own statistics know no latency or status by endpoint, so each request and
//! connection is told to it, and it records the canonical series. Weir's proxy records by itself, and is asked for lines only.

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::PathSegment;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_kind::{Host, Kind};
use envoy_types::pb::envoy::r#type::metadata::v3::{MetadataKey, MetadataKind};
use envoy_types::pb::envoy::r#type::tracing::v3::CustomTag;
use envoy_types::pb::envoy::r#type::tracing::v3::custom_tag::{Metadata, Type};
use envoy_types::pb::google::protobuf::Duration;
use weir_api::labels::Engine;

use super::super::endpoint::METADATA;
use super::super::{ACCESS_LOG_CLUSTER, any, number};

/// Entries wait at most this long.
const FLUSH_INTERVAL_NS: i32 = 100_000_000;
/// Entries that may wait; beyond it Envoy drops them, and numbers would be wrong.
const BUFFER_BYTES: u32 = 1 << 20;
/// What an entry tells of the endpoint.
const TAGS: [&str; 5] = ["namespace", "pod", "owner_kind", "owner", "service"];

/// Who is told.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Logs {
    pub(in super::super) engine: Engine,
    /// People are.
    pub(in super::super) shown: bool,
}

pub(in super::super) fn http(logs: Logs, log_name: &str) -> Vec<AccessLog> {
    let config = HttpGrpcAccessLogConfig {
        common_config: Some(common(log_name)),
        // Whether it is gRPC, and with which status.
        additional_request_headers_to_log: vec!["content-type".to_owned()],
        additional_response_headers_to_log: vec!["grpc-status".to_owned()],
        additional_response_trailers_to_log: vec!["grpc-status".to_owned()],
    };
    log(logs, "envoy.access_loggers.http_grpc", &config)
}

pub(super) fn tcp(logs: Logs, log_name: &str) -> Vec<AccessLog> {
    let config = TcpGrpcAccessLogConfig {
        common_config: Some(common(log_name)),
    };
    log(logs, "envoy.access_loggers.tcp_grpc", &config)
}

fn log<T: prost::Name>(logs: Logs, name: &str, config: &T) -> Vec<AccessLog> {
    let log = |name: &str, config| AccessLog {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    let told = (logs.engine == Engine::Envoy).then(|| log(name, any(config)));
    // In Envoy's own format, which its users know, and which Weir's proxy writes too.
    let shown = logs
        .shown
        .then(|| log("envoy.access_loggers.stdout", any(&StdoutAccessLog::default())));
    told.into_iter().chain(shown).collect()
}

fn common(log_name: &str) -> CommonGrpcAccessLogConfig {
    CommonGrpcAccessLogConfig {
        log_name: log_name.to_owned(),
        grpc_service: Some(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: ACCESS_LOG_CLUSTER.to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        }),
        transport_api_version: ApiVersion::V3 as i32,
        buffer_flush_interval: Some(Duration {
            seconds: 0,
            nanos: FLUSH_INTERVAL_NS,
        }),
        buffer_size_bytes: number(BUFFER_BYTES),
        custom_tags: TAGS.into_iter().map(of_endpoint).collect(),
        ..Default::default()
    }
}

/// A tag with a value from the metadata of the endpoint that was used last.
fn of_endpoint(tag: &str) -> CustomTag {
    CustomTag {
        tag: tag.to_owned(),
        r#type: Some(Type::Metadata(Metadata {
            kind: Some(MetadataKind {
                kind: Some(Kind::Host(Host {})),
            }),
            metadata_key: Some(MetadataKey {
                key: METADATA.to_owned(),
                path: vec![PathSegment {
                    segment: Some(Segment::Key(tag.to_owned())),
                }],
            }),
            default_value: String::new(),
        })),
    }
}
