//! A client's side of TLS: certificates and keys (PEM) -> the configuration of a TLS client.
//!
//! Whom we trust, who we are, and under which name the server has its certificate. Knows nothing of connections, nor of what is
//! spoken over them.

mod anybody;

use anybody::Anybody;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// PEM text, as it stands or in a file.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// The text.
    Inline(String),
    /// The file, which is read whenever a configuration is made.
    File(PathBuf),
}

impl std::fmt::Debug for Pem {
    /// Keys must not get into logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pem::Inline(_) => f.write_str("<PEM>"),
            Pem::File(path) => write!(f, "<PEM of {}>", path.display()),
        }
    }
}

/// What a client's TLS is made of. The default trusts the authorities of the system and has no certificate of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Certificates of authorities; none: those of the system.
    pub ca: Option<Pem>,
    /// Our certificate, with those that lead to its authority.
    pub cert: Option<Pem>,
    /// The key of our certificate.
    pub key: Option<Pem>,
    /// The name that the server's certificate must have; none: the host that is asked.
    pub server_name: Option<String>,
    /// Take any certificate.
    pub insecure_skip_verify: bool,
}

/// Why there is no configuration. `part` is `ca`, `cert` or `key`.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or not for us.
    #[error("{part}: {} cannot be read: {source}", .path.display())]
    File {
        /// Which of the three.
        part: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// What is there cannot be used.
    #[error("{part}: {}{reason}", .path.as_ref().map_or(String::new(), |p| format!("{}: ", p.display())))]
    Content {
        /// Which of the three.
        part: &'static str,
        /// Where it is, unless inline.
        path: Option<PathBuf>,
        /// What is wrong with it.
        reason: String,
    },
    /// One without the other proves nothing.
    #[error("a certificate needs its key, and a key its certificate")]
    Half,
    /// Neither a host name nor an address.
    #[error("{0:?} is no name that a certificate can have")]
    Name(String),
    /// The library refuses.
    #[error("{0}")]
    Library(#[from] rustls::Error),
}

impl ClientTls {
    /// Takes any certificate and has none.
    pub fn of_anybody() -> Self {
        ClientTls {
            insecure_skip_verify: true,
            ..ClientTls::default()
        }
    }

    /// Reads the files and makes the configuration. Says nothing about application protocols (ALPN).
    pub fn config(&self) -> Result<ClientConfig, TlsError> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match self.insecure_skip_verify {
            true => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody::new(provider))),
            false => builder.with_root_certificates(self.roots()?),
        };
        let (cert, key) = match (&self.cert, &self.key) {
            (None, None) => return Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => (cert, key),
            _ => return Err(TlsError::Half),
        };
        let chain = certificates("cert", cert)?;
        let of_key = key.read("key")?;
        let secret = PrivateKeyDer::from_pem_slice(&of_key).map_err(|e| key.wrong("key", e))?;
        builder
            .with_client_auth_cert(chain, secret)
            .map_err(|e| cert.wrong("cert", e))
    }

    /// The name that the certificate of `host` must have.
    pub fn name_of(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))
    }

    /// When the files were written. As long as it is the same, so is the configuration.
    pub fn written(&self) -> [Option<SystemTime>; 3] {
        [&self.ca, &self.cert, &self.key].map(|pem| match pem {
            Some(Pem::File(path)) => std::fs::metadata(path).and_then(|m| m.modified()).ok(),
            _ => None,
        })
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        // Hundreds of certificates, which every connection of a scraper would parse anew.
        static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
        let Some(ca) = &self.ca else {
            let load = || {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                Arc::new(roots)
            };
            return Ok(SYSTEM.get_or_init(load).clone());
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates("ca", ca)? {
            roots.add(certificate).map_err(|e| ca.wrong("ca", e))?;
        }
        Ok(Arc::new(roots))
    }
}

impl Pem {
    fn read(&self, part: &'static str) -> Result<Vec<u8>, TlsError> {
        match self {
            Pem::Inline(text) => Ok(text.clone().into_bytes()),
            Pem::File(path) => std::fs::read(path).map_err(|source| TlsError::File {
                part,
                path: path.clone(),
                source,
            }),
        }
    }

    fn wrong(&self, part: &'static str, reason: impl std::fmt::Display) -> TlsError {
        let path = match self {
            Pem::Inline(_) => None,
            Pem::File(path) => Some(path.clone()),
        };
        TlsError::Content {
            part,
            path,
            reason: reason.to_string(),
        }
    }
}

fn certificates(part: &'static str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = pem.read(part)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|e| pem.wrong(part, e))?;
    if all.is_empty() {
        return Err(pem.wrong(part, "there is no certificate in it"));
    }
    Ok(all)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests;
