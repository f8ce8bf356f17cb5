//! Certificates as secrets, which only the gateway's node is sent.

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, TlsCertificate};
use weir_mesh::Certificate;

/// A certificate with its key.
pub(super) fn certificate(name: &str, certificate: &Certificate) -> Secret {
    let inline = |bytes: &[u8]| DataSource {
        specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
        ..Default::default()
    };
    Secret {
        name: name.to_owned(),
        r#type: Some(Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(&certificate.chain)),
            private_key: Some(inline(&certificate.key)),
            ..Default::default()
        })),
    }
}
