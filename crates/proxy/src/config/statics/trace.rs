//! Tracing of the bootstrap file's listeners.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::trace::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as hcm;
use envoy_types::pb::envoy::r#type::v3::Percent as PbPercent;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use serde::Deserialize;
use serde_json::Value;

use super::{Read, boolean, from_value, number, timespan, wrong};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tracing {
    client_sampling: Option<Percent>,
    random_sampling: Option<Percent>,
    overall_sampling: Option<Percent>,
    max_path_tag_length: Option<u32>,
    provider: Provider,
    spawn_upstream_span: Option<bool>,
    #[serde(rename = "verbose")]
    _verbose: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Percent {
    value: f64,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Provider {
    name: String,
    typed_config: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Zipkin {
    collector_cluster: String,
    collector_endpoint: String,
    collector_endpoint_version: String,
    collector_hostname: String,
    shared_span_context: Option<bool>,
    trace_id_128bit: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct OpenTelemetry {
    http_service: HttpService,
    service_name: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct HttpService {
    http_uri: HttpUri,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct HttpUri {
    uri: String,
    cluster: String,
    timeout: Option<String>,
}

/// What a control plane would send.
pub(super) fn message(at: &str, file: Tracing) -> Read<hcm::Tracing> {
    let percent = |share: Option<Percent>| share.map(|Percent { value }| PbPercent { value });
    let at = format!("{at}.provider.typed_config");
    let provider = pb::tracing::Http {
        name: file.provider.name,
        config_type: Some(pb::tracing::http::ConfigType::TypedConfig(provider(
            &at,
            file.provider.typed_config,
        )?)),
    };
    Ok(hcm::Tracing {
        client_sampling: percent(file.client_sampling),
        random_sampling: percent(file.random_sampling),
        overall_sampling: percent(file.overall_sampling),
        max_path_tag_length: number(file.max_path_tag_length),
        spawn_upstream_span: boolean(file.spawn_upstream_span),
        provider: Some(provider),
        ..Default::default()
    })
}

fn provider(at: &str, mut config: Value) -> Read<Any> {
    let type_url = super::type_url(&config);
    if let Value::Object(fields) = &mut config {
        fields.remove("@type");
    }
    let value = if type_url == pb::ZipkinConfig::type_url() {
        zipkin(at, from_value(at, config)?)?.encode_to_vec()
    } else if type_url == pb::OpenTelemetryConfig::type_url() {
        opentelemetry(at, from_value(at, config)?)?.encode_to_vec()
    } else {
        let known = [pb::ZipkinConfig::type_url(), pb::OpenTelemetryConfig::type_url()].join(" or ");
        return wrong(at, format!("@type {type_url:?} must be {known}"));
    };
    Ok(Any { type_url, value })
}

fn zipkin(at: &str, file: Zipkin) -> Read<pb::ZipkinConfig> {
    use pb::zipkin_config::CollectorEndpointVersion as Version;
    let Some(version) = Version::from_str_name(&file.collector_endpoint_version) else {
        let message = format!("{:?} must be HTTP_JSON", file.collector_endpoint_version);
        return wrong(format!("{at}.collector_endpoint_version"), message);
    };
    Ok(pb::ZipkinConfig {
        collector_cluster: file.collector_cluster,
        collector_endpoint: file.collector_endpoint,
        collector_endpoint_version: version.into(),
        collector_hostname: file.collector_hostname,
        shared_span_context: boolean(file.shared_span_context),
        trace_id_128bit: file.trace_id_128bit,
        ..Default::default()
    })
}

fn opentelemetry(at: &str, file: OpenTelemetry) -> Read<pb::OpenTelemetryConfig> {
    let uri = file.http_service.http_uri;
    let http_uri = core::HttpUri {
        uri: uri.uri,
        timeout: timespan(&format!("{at}.http_service.http_uri.timeout"), uri.timeout)?,
        http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(uri.cluster)),
    };
    Ok(pb::OpenTelemetryConfig {
        http_service: Some(core::HttpService {
            http_uri: Some(http_uri),
            ..Default::default()
        }),
        service_name: file.service_name,
        ..Default::default()
    })
}
