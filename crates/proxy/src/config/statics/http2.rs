//! HTTP/2 options of the bootstrap file, and what endpoints speak.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use serde::Deserialize;
use serde_json::Value;

use super::{Read, from_value, number, timespan, wrong};

const HTTP: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Http2 {
    max_concurrent_streams: Option<u32>,
    initial_stream_window_size: Option<u32>,
    initial_connection_window_size: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct HttpProtocolOptions {
    #[serde(rename = "@type")]
    type_url: String,
    explicit_http_config: Option<Versions>,
    use_downstream_protocol_config: Option<Versions>,
    common_http_protocol_options: Option<Common>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Common {
    idle_timeout: Option<String>,
    max_requests_per_connection: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Versions {
    http_protocol_options: Option<Http1>,
    http2_protocol_options: Option<Value>,
}

/// None of its options is known here.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Http1 {}

/// `Http2ProtocolOptions`.
pub fn options(at: &str, value: Value) -> Read<core::Http2ProtocolOptions> {
    let file: Http2 = from_value(at, value)?;
    Ok(core::Http2ProtocolOptions {
        max_concurrent_streams: number(file.max_concurrent_streams),
        initial_stream_window_size: number(file.initial_stream_window_size),
        initial_connection_window_size: number(file.initial_connection_window_size),
        ..Default::default()
    })
}

/// An entry of a cluster's `typed_extension_protocol_options`.
pub fn upstream(at: &str, value: Value) -> Read<Any> {
    use pb::http_protocol_options::explicit_http_config::ProtocolConfig;
    use pb::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig};
    let file: HttpProtocolOptions = from_value(at, value)?;
    if file.type_url != HTTP {
        return wrong(at, format!("@type {:?} must be {HTTP}", file.type_url));
    }
    let read = |what: &str, value: Option<Value>| {
        let at = format!("{at}.{what}.http2_protocol_options");
        value.map(|value| options(&at, value)).transpose()
    };
    let upstream_protocol_options = match (file.explicit_http_config, file.use_downstream_protocol_config) {
        (Some(explicit), None) => {
            let http2 = read("explicit_http_config", explicit.http2_protocol_options)?;
            let protocol_config = match (explicit.http_protocol_options, http2) {
                (Some(Http1 {}), None) => ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default()),
                (None, Some(options)) => ProtocolConfig::Http2ProtocolOptions(options),
                _ => {
                    let field = format!("{at}.explicit_http_config");
                    return wrong(
                        field,
                        "must have either http_protocol_options or http2_protocol_options",
                    );
                }
            };
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                protocol_config: Some(protocol_config),
            }))
        }
        (None, Some(same)) => Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            UseDownstreamHttpConfig {
                http2_protocol_options: read("use_downstream_protocol_config", same.http2_protocol_options)?,
                ..Default::default()
            },
        )),
        (None, None) => None,
        (Some(_), Some(_)) => {
            return wrong(
                at,
                "must have either explicit_http_config or use_downstream_protocol_config",
            );
        }
    };
    let common_http_protocol_options = match file.common_http_protocol_options {
        None => None,
        Some(common) => Some(core::HttpProtocolOptions {
            idle_timeout: timespan(
                &format!("{at}.common_http_protocol_options.idle_timeout"),
                common.idle_timeout,
            )?,
            max_requests_per_connection: number(common.max_requests_per_connection),
            ..Default::default()
        }),
    };
    let message = pb::HttpProtocolOptions {
        upstream_protocol_options,
        common_http_protocol_options,
        ..Default::default()
    };
    Ok(Any {
        type_url: file.type_url,
        value: message.encode_to_vec(),
    })
}
