//! The serving certificate, and TLS that asks clients for a certificate without judging it: which certificate
//! authority counts is decided request by request (`authenticate`), since it may change while a connection lives.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

/// Where the serving certificate comes from.
#[derive(Clone, Debug)]
pub enum Serving {
    /// Made at start, signed by a certificate authority that is made at start too and lives only in memory.
    SelfSigned {
        /// Names and addresses that the certificate is for.
        names: Vec<String>,
    },
    /// PEM files, read again when they change.
    Files {
        /// Certificate chain.
        certificate: PathBuf,
        /// Private key.
        key: PathBuf,
    },
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate could not be made.
    #[error("cannot make a serving certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// The files could not be read.
    #[error("cannot read {path}: {reason}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificate and key cannot be used.
    #[error("cannot use the serving certificate: {0}")]
    Use(#[from] rustls::Error),
}

/// The certificate that is served now.
#[derive(Debug)]
pub struct ServingCertificate {
    current: arc_swap::ArcSwap<CertifiedKey>,
    files: Option<(PathBuf, PathBuf)>,
    /// PEM of the authority, where it was made here.
    pub ca_pem: Option<String>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl ServingCertificate {
    /// Makes or reads it.
    pub fn new(serving: &Serving) -> Result<Self, TlsError> {
        match serving {
            Serving::SelfSigned { names } => {
                let (chain, key, ca_pem) = generate(names)?;
                let current = arc_swap::ArcSwap::from_pointee(CertifiedKey::from_der(chain, key, &provider())?);
                Ok(ServingCertificate {
                    current,
                    files: None,
                    ca_pem: Some(ca_pem),
                })
            }
            Serving::Files { certificate, key } => {
                let current = arc_swap::ArcSwap::from_pointee(read(certificate, key)?);
                Ok(ServingCertificate {
                    current,
                    files: Some((certificate.clone(), key.clone())),
                    ca_pem: None,
                })
            }
        }
    }

    /// Reads the files again; a certificate that cannot be used leaves the last good one in place.
    pub fn reload(&self) -> Result<(), TlsError> {
        if let Some((certificate, key)) = &self.files {
            let new = read(certificate, key)?;
            if new.cert != self.current.load().cert {
                tracing::info!("serving certificate replaced");
                self.current.store(Arc::new(new));
            }
        }
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(certificate: &PathBuf, key: &PathBuf) -> Result<CertifiedKey, TlsError> {
    let error = |path: &PathBuf| {
        let path = path.clone();
        move |e: rustls::pki_types::pem::Error| TlsError::Read {
            path,
            reason: e.to_string(),
        }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(|certs| certs.collect::<Result<Vec<_>, _>>())
        .map_err(error(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(error(key))?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

type Generated = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, String);

fn generate(names: &[String]) -> Result<Generated, TlsError> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    // Two generations of authorities may stand in one bundle: their names must differ.
    let started = jiff::Timestamp::now().as_nanosecond();
    ca.distinguished_name
        .push(DnType::CommonName, format!("weir-serving-ca@{started}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(names.to_vec())?;
    leaf.distinguished_name
        .push(DnType::CommonName, names.first().map_or("weir", String::as_str));
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let certificate = leaf.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((vec![certificate.der().clone()], key, ca_pem))
}

/// TLS settings of the listener.
pub fn server_config(certificate: Arc<ServingCertificate>) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(Arc::new(ProofOnly { provider }))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Checks that the client holds the key of its certificate, not who signed it.
#[derive(Debug)]
struct ProofOnly {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ProofOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies client certificates against one set of authorities.
pub fn chain_verifier(ca_pem: &str) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots
            .add(certificate.map_err(|e| e.to_string())?)
            .map_err(|e| e.to_string())?;
    }
    if roots.is_empty() {
        return Ok(None);
    }
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    verifier.build().map(Some).map_err(|e| e.to_string())
}
