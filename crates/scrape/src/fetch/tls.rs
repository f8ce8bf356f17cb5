//! TLS over a connection, as `tls_config` asks for it.

use super::FetchError;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use weir_tls::{ClientTls, TlsError};

/// Files are read for each connection: certificates are renewed while we run.
pub(super) async fn wrap(stream: TcpStream, host: &str, tls: &ClientTls) -> Result<TlsStream<TcpStream>, FetchError> {
    let wrong = |e: TlsError| FetchError::Credentials(format!("tls_config: {e}"));
    let name = tls.name_of(host).map_err(wrong)?;
    let connector = TlsConnector::from(Arc::new(tls.config().map_err(wrong)?));
    let connected = connector.connect(name, stream).await;
    connected.map_err(|e| FetchError::Connection(format!("TLS with {host}: {e}")))
}
