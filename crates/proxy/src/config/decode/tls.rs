//! `envoy.extensions.transport_sockets.tls.v3`: TLS towards clients and towards endpoints.
//!
//! Certificates are inline or in files, which are read when the resource comes, or are secrets of their own, which are
//! known here by name. What an endpoint shows is always checked: against `trusted_ca`, and against the name in `sni`.

use std::io::Read;
use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::{ConfigSource, DataSource, TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::{Decoded, Within, flag, message_name, nothing_left, parse, reject, unpack};
use crate::config::tls::{SecretSlot, Shown};
use crate::config::{ClientTls, ServerTls};

const PACKAGE: &str = "envoy.extensions.transport_sockets";
const H2: &[u8] = b"h2";
/// A file of certificates, or of a key, has so many bytes at most.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What is common to both sides, loaded.
#[derive(Default)]
struct Common {
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    trusted: Option<RootCertStore>,
    alpn: Vec<Vec<u8>>,
}

/// TLS that clients begin; `None`: the socket is said to be plain.
pub(super) fn downstream(socket: TransportSocket) -> Decoded<Option<Arc<ServerTls>>> {
    let Some(any) = typed(socket, "DownstreamTlsContext")? else {
        return Ok(None);
    };
    server(unpack(&any)?).within("typed_config").map(Some)
}

/// TLS that this proxy begins. `http2`: the endpoints speak nothing else.
pub(super) fn upstream(socket: TransportSocket, http2: bool) -> Decoded<Option<Arc<ClientTls>>> {
    let Some(any) = typed(socket, "UpstreamTlsContext")? else {
        return Ok(None);
    };
    client(unpack(&any)?, http2).within("typed_config").map(Some)
}

fn typed(socket: TransportSocket, wanted: &str) -> Decoded<Option<envoy_types::pb::google::protobuf::Any>> {
    let Some(transport_socket::ConfigType::TypedConfig(any)) = socket.config_type else {
        return reject("typed_config", "is missing");
    };
    let name = message_name(&any.type_url);
    if name == format!("{PACKAGE}.raw_buffer.v3.RawBuffer") {
        return Ok(None);
    }
    if name == format!("{PACKAGE}.tls.v3.{wanted}") {
        return Ok(Some(any));
    }
    reject(
        "typed_config",
        format!("{name} is unknown; known are {wanted} and RawBuffer"),
    )
}

/// Decodes a secret: its name and its certificate. Other kinds of secrets are of no use here.
pub fn secret(body: &[u8]) -> Decoded<(String, Arc<CertifiedKey>)> {
    let mut rest: pb::Secret = parse("secret", body)?;
    let name = take(&mut rest.name);
    let pair = match rest.r#type.take() {
        Some(pb::secret::Type::TlsCertificate(pair)) => pair,
        _ => return reject("tls_certificate", "is missing; this proxy uses no other kind of secret"),
    };
    nothing_left(&rest)?;
    let (chain, key) = certificate(pair).within("tls_certificate")?;
    certified(chain, key).within("tls_certificate").map(|key| (name, key))
}

fn server(mut rest: pb::DownstreamTlsContext) -> Decoded<Arc<ServerTls>> {
    let mut context = rest.common_tls_context.take().unwrap_or_default();
    let names = take(&mut context.tls_certificate_sds_secret_configs);
    let common = common(context).within("common_tls_context")?;
    let required = flag(&rest.require_client_certificate.take(), false);
    nothing_left(&rest)?;
    let mut secrets = Vec::with_capacity(names.len());
    for (i, name) in names.into_iter().enumerate() {
        let place = format!("common_tls_context.tls_certificate_sds_secret_configs[{i}]");
        secrets.push(Arc::new(secret_slot(name).within(place)?));
    }
    let shown = match (common.own, secrets.is_empty()) {
        (Some((chain, key)), true) => {
            let inline = SecretSlot::new("".into(), true);
            inline.fill(&certified(chain, key).within("common_tls_context.tls_certificates[0]")?);
            vec![Arc::new(inline)]
        }
        (None, false) => secrets.clone(),
        (Some(_), false) => {
            return reject(
                "common_tls_context.tls_certificates",
                "stands beside tls_certificate_sds_secret_configs; right is one of the two",
            );
        }
        (None, true) => return reject("common_tls_context.tls_certificates", "is missing"),
    };
    let place = "common_tls_context.validation_context";
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .or_else(|e| reject("", e.to_string()))?;
    let builder = match common.trusted {
        None if required => return reject(place, "is missing, but require_client_certificate is set"),
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if required {
                verifier
            } else {
                verifier.allow_unauthenticated()
            };
            builder.with_client_cert_verifier(verifier.build().or_else(|e| reject(place, e.to_string()))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Shown(shown)));
    config.alpn_protocols = common.alpn;
    Ok(Arc::new(ServerTls {
        config: Arc::new(config),
        secrets,
    }))
}

/// The name of a secret, and whose it is: the control plane's where `sds_config` says so, else the bootstrap's.
fn secret_slot(mut rest: pb::SdsSecretConfig) -> Decoded<SecretSlot> {
    let name = take(&mut rest.name);
    let source = rest.sds_config.take();
    nothing_left(&rest)?;
    if name.is_empty() {
        return reject("name", "is missing");
    }
    let fixed = source.is_none();
    if let Some(ConfigSource {
        config_source_specifier: specifier,
        ..
    }) = source
        && !matches!(
            specifier,
            Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_))
        )
    {
        return reject("sds_config", "must be ads: secrets come on the one stream");
    }
    Ok(SecretSlot::new(name.into(), fixed))
}

/// A chain with its key, which must be for the chain's first certificate.
fn certified(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Decoded<Arc<CertifiedKey>> {
    match CertifiedKey::from_der(chain, key, &provider()) {
        Ok(key) => Ok(Arc::new(key)),
        Err(rustls::Error::InconsistentKeys(_)) => reject("private_key", "is not the key of the certificate"),
        Err(error) => reject("", error.to_string()),
    }
}

fn client(mut rest: pb::UpstreamTlsContext, http2: bool) -> Decoded<Arc<ClientTls>> {
    let common = common(rest.common_tls_context.take().unwrap_or_default()).within("common_tls_context")?;
    let sni = take(&mut rest.sni);
    nothing_left(&rest)?;
    let Ok(server_name) = ServerName::try_from(sni.clone()) else {
        let message = format!("{sni:?} is no host name; the endpoint's certificate is checked against it");
        return reject("sni", message);
    };
    let Some(roots) = common.trusted else {
        return reject(
            "common_tls_context.validation_context.trusted_ca",
            "is missing; the endpoint's certificate is checked against it",
        );
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .or_else(|e| reject("", e.to_string()))?
        .with_root_certificates(roots);
    let mut config = match common.own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .or_else(|e| reject("common_tls_context.tls_certificates[0]", e.to_string()))?,
    };
    config.alpn_protocols = common.alpn;
    // Servers speak HTTP/2 over TLS only to those that ask for it (RFC 9113, section 3.2).
    if http2 && config.alpn_protocols.is_empty() {
        config.alpn_protocols.push(H2.to_vec());
    }
    Ok(Arc::new(ClientTls {
        config: Arc::new(config),
        server_name,
    }))
}

fn common(mut rest: pb::CommonTlsContext) -> Decoded<Common> {
    use pb::common_tls_context::ValidationContextType;
    let mut found = Common::default();
    let certificates = take(&mut rest.tls_certificates);
    if certificates.len() > 1 {
        return reject(
            "tls_certificates",
            format!("must be one at most, not {}", certificates.len()),
        );
    }
    if let Some(one) = certificates.into_iter().next() {
        found.own = Some(certificate(one).within("tls_certificates[0]")?);
    }
    match rest.validation_context_type.take() {
        None => {}
        Some(ValidationContextType::ValidationContext(context)) => {
            found.trusted = trusted(context).within("validation_context")?;
        }
        Some(_) => {
            return reject(
                "validation_context_type",
                "is not supported by this proxy; use validation_context",
            );
        }
    }
    for (i, name) in take(&mut rest.alpn_protocols).into_iter().enumerate() {
        if name.is_empty() || name.len() > 255 {
            return reject(format!("alpn_protocols[{i}]"), "must have 1 to 255 bytes");
        }
        found.alpn.push(name.into_bytes());
    }
    nothing_left(&rest)?;
    Ok(found)
}

fn certificate(mut rest: pb::TlsCertificate) -> Decoded<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates(rest.certificate_chain.take()).within("certificate_chain")?;
    let pem = content(rest.private_key.take()).within("private_key")?;
    // The parser's words may quote what it read, and this is a secret.
    let Ok(key) = PrivateKeyDer::from_pem_slice(&pem) else {
        return reject("private_key", "holds no private key in PEM");
    };
    nothing_left(&rest)?;
    Ok((chain, key))
}

fn trusted(mut rest: pb::CertificateValidationContext) -> Decoded<Option<RootCertStore>> {
    let Some(source) = rest.trusted_ca.take() else {
        nothing_left(&rest)?;
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(Some(source)).within("trusted_ca")? {
        roots
            .add(certificate)
            .or_else(|e| reject("trusted_ca", e.to_string()))?;
    }
    nothing_left(&rest)?;
    Ok(Some(roots))
}

fn certificates(source: Option<DataSource>) -> Decoded<Vec<CertificateDer<'static>>> {
    let pem = content(source)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => reject("", "holds no certificate in PEM"),
        Err(e) => reject("", format!("holds no certificate in PEM: {e}")),
    }
}

fn content(source: Option<DataSource>) -> Decoded<Vec<u8>> {
    match source.and_then(|s| s.specifier) {
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::Filename(path)) => {
            read(&path).or_else(|e| reject("filename", format!("{path:?} cannot be read: {e}")))
        }
        Some(Specifier::EnvironmentVariable(_)) => reject(
            "environment_variable",
            "is not supported by this proxy; use filename or inline_string",
        ),
        None => reject("", "is missing; right would be filename or inline_string"),
    }
}

/// Reads a file, which is neither a device nor endless.
fn read(path: &str) -> std::io::Result<Vec<u8>> {
    let length = match std::fs::metadata(path)? {
        file if !file.is_file() => return Err(std::io::Error::other("it is no regular file")),
        file => file.len(),
    };
    if length > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "it is larger than {FILE_BYTES_MAX} bytes"
        )));
    }
    let mut content = Vec::new();
    std::fs::File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut content)?;
    Ok(content)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
