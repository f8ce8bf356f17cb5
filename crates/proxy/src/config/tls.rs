//! TLS as configured: certificates and trust are loaded, connections are not known here.

use std::sync::Arc;

use rustls::pki_types::ServerName;

/// How TLS of downstream connections ends.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Certificate, trust in clients, ALPN.
    pub config: Arc<rustls::ServerConfig>,
}

/// How TLS is begun with an endpoint.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Trust, own certificate, ALPN.
    pub config: Arc<rustls::ClientConfig>,
    /// What is asked for, and what the endpoint's certificate must be for.
    pub server_name: ServerName<'static>,
}
