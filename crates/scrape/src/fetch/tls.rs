//! TLS to a server: whom we trust, and who we are.

use super::{FetchError, Roots};
use crate::config::{Pem, TlsConfig};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(super) async fn wrap(
    stream: TcpStream,
    host: &str,
    config: &TlsConfig,
) -> Result<TlsStream<TcpStream>, FetchError> {
    let name = config.server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| FetchError::Credentials(format!("{name:?} is no name that a certificate can have")))?;
    let connector = TlsConnector::from(Arc::new(client(config)?));
    let connected = connector.connect(name, stream).await;
    connected.map_err(|e| FetchError::Connection(format!("TLS with {host}: {e}")))
}

fn client(config: &TlsConfig) -> Result<ClientConfig, FetchError> {
    let wrong = |what: &str, why: String| FetchError::Credentials(format!("tls_config: {what}: {why}"));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong("protocol", e.to_string()))?;
    let builder = if config.insecure_skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        builder.with_root_certificates(roots(config)?)
    };
    let (Some(cert), Some(key)) = (&config.cert, &config.key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(cert)?).collect();
    let chain = chain.map_err(|e| wrong("cert", e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| wrong("key", e.to_string()))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|e| wrong("cert", e.to_string()))
}

fn roots(config: &TlsConfig) -> Result<Roots, FetchError> {
    static SYSTEM: OnceLock<Roots> = OnceLock::new();
    let Some(ca) = &config.ca else {
        let load = || {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(roots)
        };
        return Ok(SYSTEM.get_or_init(load).clone());
    };
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&read(ca)?) {
        let added = cert
            .map_err(|e| e.to_string())
            .and_then(|c| roots.add(c).map_err(|e| e.to_string()));
        added.map_err(|e| FetchError::Credentials(format!("tls_config: ca: {e}")))?;
    }
    if roots.is_empty() {
        return Err(FetchError::Credentials(
            "tls_config: ca: there is no certificate in it".to_owned(),
        ));
    }
    Ok(Arc::new(roots))
}

fn read(pem: &Pem) -> Result<Vec<u8>, FetchError> {
    match pem {
        Pem::Inline(text) => Ok(text.clone().into_bytes()),
        Pem::File(path) => std::fs::read(path)
            .map_err(|e| FetchError::Credentials(format!("tls_config: {} cannot be read: {e}", path.display()))),
    }
}

/// Takes any certificate, as `insecure_skip_verify` asks; that the server has the key of it is still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
