//! TLS as configured: certificates and trust are loaded, connections are not known here.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// How TLS of downstream connections ends.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Certificate, trust in clients, ALPN.
    pub config: Arc<rustls::ServerConfig>,
    /// The secrets that `config` shows; empty: its certificate came with it.
    pub secrets: Vec<Arc<SecretSlot>>,
}

/// How TLS is begun with an endpoint.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Trust, own certificate, ALPN.
    pub config: Arc<rustls::ClientConfig>,
    /// What is asked for, and what the endpoint's certificate must be for.
    pub server_name: ServerName<'static>,
}

/// A place for a certificate that comes, and changes, apart from the listener. Whoever owns the secrets fills it; each
/// handshake reads it.
pub struct SecretSlot {
    /// Name of the secret.
    pub name: Arc<str>,
    /// It must stand in the bootstrap; else the control plane is asked for it.
    pub fixed: bool,
    current: ArcSwapOption<CertifiedKey>,
}

impl SecretSlot {
    /// An empty place.
    pub fn new(name: Arc<str>, fixed: bool) -> Self {
        Self {
            name,
            fixed,
            current: ArcSwapOption::empty(),
        }
    }

    /// New handshakes show this certificate from now on.
    pub fn fill(&self, key: &Arc<CertifiedKey>) {
        if self.current.load().as_ref().is_none_or(|old| !Arc::ptr_eq(old, key)) {
            self.current.store(Some(Arc::clone(key)));
        }
    }
}

/// Keys are nobody's to read.
impl fmt::Debug for SecretSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSlot")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Shows the first certificate whose key signs in a way that the client knows.
#[derive(Debug)]
pub struct Shown(pub Vec<Arc<SecretSlot>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let usable = |key: &Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        self.0.iter().filter_map(|slot| slot.current.load_full()).find(usable)
    }
}
