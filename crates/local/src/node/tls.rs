//! TLS of the kubelet: its server's configuration, and a client that verifies nothing for HTTPS probes.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weir_tls::ClientTls;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {source}")]
    Pem {
        path: String,
        source: rustls_pki_types::pem::Error,
    },
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    #[error(transparent)]
    Client(#[from] weir_tls::TlsError),
    #[error(transparent)]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A server that wants a client certificate of the cluster's CA.
pub fn acceptor(ca: &Path, cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| TlsError::Pem { path, source }
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).map_err(failed(ca))?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert).map_err(failed(cert))?.collect();
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.map_err(failed(cert))?, key_der)?;
    // Upgrades to WebSocket need HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A client that accepts any certificate, as kubelets do for probes.
pub fn unverified_connector() -> Result<TlsConnector, TlsError> {
    Ok(TlsConnector::from(Arc::new(ClientTls::of_anybody().config()?)))
}
