//! Transport sockets and secrets of the bootstrap file.

use std::path::PathBuf;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use serde::Deserialize;
use serde_json::Value;
use weir_xds::ResourceType;

use super::{Read, boolean, from_value, resource, wrong};
use crate::config::bootstrap::{StaticResource, Tls};

const RAW: &str = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const UPSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const DOWNSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TransportSocket {
    name: String,
    #[serde(default)]
    typed_config: Value,
}

/// Of both sides; the decoder refuses what a side does not have.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Context {
    #[serde(rename = "@type")]
    type_url: String,
    sni: Option<String>,
    require_client_certificate: Option<bool>,
    common_tls_context: Common,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Common {
    tls_certificates: Vec<Certificate>,
    tls_certificate_sds_secret_configs: Vec<SecretConfig>,
    validation_context: Option<Validation>,
    alpn_protocols: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretConfig {
    name: String,
    sds_config: Option<SecretSource>,
}

/// Where a secret comes from: the one stream.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretSource {
    #[serde(rename = "ads")]
    _ads: Value,
    #[serde(rename = "resource_api_version")]
    _resource_api_version: Option<String>,
    #[serde(rename = "initial_fetch_timeout")]
    _initial_fetch_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Secret {
    name: String,
    tls_certificate: Certificate,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Certificate {
    certificate_chain: Option<Source>,
    private_key: Option<Source>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Validation {
    trusted_ca: Option<Source>,
    match_typed_subject_alt_names: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Source {
    Filename(PathBuf),
    InlineString(String),
}

/// A secret of the file.
pub fn secret(at: &str, file: Value) -> Read<StaticResource> {
    let file: Secret = from_value(at, file)?;
    let certificate = certificate(&format!("{at}.tls_certificate"), file.tls_certificate)?;
    let message = pb::Secret {
        name: file.name.clone(),
        r#type: Some(pb::secret::Type::TlsCertificate(certificate)),
    };
    resource(at, ResourceType::Secret, file.name, &message)
}

/// What a control plane would send.
pub fn message(at: &str, file: TransportSocket) -> Read<core::TransportSocket> {
    let at = format!("{at}.typed_config");
    let context: Context = from_value(&at, file.typed_config)?;
    let sni = context.sni;
    let value = match context.type_url.as_str() {
        RAW => Vec::new(),
        DOWNSTREAM if sni.is_some() => return wrong(format!("{at}.sni"), "is for an UpstreamTlsContext"),
        DOWNSTREAM => pb::DownstreamTlsContext {
            common_tls_context: Some(common(&format!("{at}.common_tls_context"), context.common_tls_context)?),
            require_client_certificate: boolean(context.require_client_certificate),
            ..Default::default()
        }
        .encode_to_vec(),
        UPSTREAM if context.require_client_certificate.is_some() => {
            let field = format!("{at}.require_client_certificate");
            return wrong(field, "is for a DownstreamTlsContext");
        }
        UPSTREAM => pb::UpstreamTlsContext {
            common_tls_context: Some(common(&format!("{at}.common_tls_context"), context.common_tls_context)?),
            sni: sni.unwrap_or_default(),
            ..Default::default()
        }
        .encode_to_vec(),
        other => {
            let known = format!("must be {DOWNSTREAM}, {UPSTREAM} or {RAW}");
            return wrong(at, format!("@type {other:?} {known}"));
        }
    };
    let any = Any {
        type_url: context.type_url,
        value,
    };
    Ok(core::TransportSocket {
        name: file.name,
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any)),
    })
}

/// How the control plane proves itself.
pub fn of_control_plane(at: &str, file: TransportSocket) -> Read<Tls> {
    let context: Context = from_value(&format!("{at}.typed_config"), file.typed_config)?;
    if context.type_url != UPSTREAM {
        return wrong(at, "must be an UpstreamTlsContext");
    }
    let trusted = context.common_tls_context.validation_context.and_then(|v| v.trusted_ca);
    match trusted {
        Some(Source::Filename(ca_file)) => Ok(Tls {
            ca_file,
            server_name: context.sni,
        }),
        _ => wrong(at, "has no validation_context.trusted_ca.filename"),
    }
}

fn common(at: &str, file: Common) -> Read<pb::CommonTlsContext> {
    let validation_context_type = match file.validation_context {
        None => None,
        Some(validation) => {
            let at = format!("{at}.validation_context");
            if validation.match_typed_subject_alt_names.is_some() {
                let field = format!("{at}.match_typed_subject_alt_names");
                return wrong(field, "is only supported in the cluster of the control plane");
            }
            let context = pb::CertificateValidationContext {
                trusted_ca: source(&format!("{at}.trusted_ca"), validation.trusted_ca)?,
                ..Default::default()
            };
            Some(pb::common_tls_context::ValidationContextType::ValidationContext(
                context,
            ))
        }
    };
    let mut tls_certificates = Vec::with_capacity(file.tls_certificates.len());
    for (i, one) in file.tls_certificates.into_iter().enumerate() {
        tls_certificates.push(certificate(&format!("{at}.tls_certificates[{i}]"), one)?);
    }
    let ads = |_: SecretSource| core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
        ..Default::default()
    };
    let by_name = |config: SecretConfig| pb::SdsSecretConfig {
        name: config.name,
        sds_config: config.sds_config.map(ads),
    };
    Ok(pb::CommonTlsContext {
        tls_certificates,
        tls_certificate_sds_secret_configs: file
            .tls_certificate_sds_secret_configs
            .into_iter()
            .map(by_name)
            .collect(),
        validation_context_type,
        alpn_protocols: file.alpn_protocols,
        ..Default::default()
    })
}

fn certificate(at: &str, file: Certificate) -> Read<pb::TlsCertificate> {
    Ok(pb::TlsCertificate {
        certificate_chain: source(&format!("{at}.certificate_chain"), file.certificate_chain)?,
        private_key: source(&format!("{at}.private_key"), file.private_key)?,
        ..Default::default()
    })
}

fn source(at: &str, file: Option<Source>) -> Read<Option<core::DataSource>> {
    let specifier = match file {
        None => return Ok(None),
        Some(Source::InlineString(text)) => core::data_source::Specifier::InlineString(text),
        Some(Source::Filename(path)) => match path.into_os_string().into_string() {
            Ok(path) => core::data_source::Specifier::Filename(path),
            Err(path) => return wrong(at, format!("{path:?} is not UTF-8")),
        },
    };
    Ok(Some(core::DataSource {
        specifier: Some(specifier),
        ..Default::default()
    }))
}
