//! Sockets to the control plane: marked, so that the pod's redirection leaves them alone, and encrypted where asked for.
//!
//! Enters: [`Config`]. Leaves: a channel, and the metadata of a stream. Certificates and token are read at each connect.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::{Config, Tls, Token};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead control plane is noticed within twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0} cannot be read: {1}")]
    File(String, io::Error),
    #[error("{0} holds no certificate that can be used")]
    Certificates(String),
    #[error("{0:?} is no name of a server")]
    ServerName(String),
    #[error("the token in {0} cannot be sent in a header")]
    Token(String),
    #[error("the target {0:?} must be host:port")]
    Target(String),
    #[error("no connection to {0}: {1}")]
    Connect(String, tonic::transport::Error),
    #[error("the stream was refused: {0}")]
    Refused(tonic::Status),
}

/// Opens a channel.
pub(super) async fn channel(config: &Config) -> Result<Channel, Error> {
    let target = &config.target;
    let endpoint = Endpoint::from_shared(format!("http://{target}"))
        .map_err(|_| Error::Target(target.clone()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let tls = config.tls.as_ref().map(|tls| encryption(tls, target)).transpose()?;
    let connector = Connector {
        target: target.clone(),
        mark: config.mark,
        tls,
    };
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|e| Error::Connect(target.clone(), e))
}

/// The header that carries the token.
pub(super) fn authorization(token: &Token) -> Result<(AsciiMetadataKey, AsciiMetadataValue), Error> {
    let file = token.file.display().to_string();
    let text = std::fs::read_to_string(&token.file).map_err(|e| Error::File(file.clone(), e))?;
    let value = format!("{}{}", token.prefix, text.trim())
        .parse()
        .map_err(|_| Error::Token(file.clone()))?;
    let key = token
        .header
        .to_ascii_lowercase()
        .parse()
        .map_err(|_| Error::Token(file))?;
    Ok((key, value))
}

#[derive(Clone)]
struct Encryption {
    connector: TlsConnector,
    name: ServerName<'static>,
}

fn encryption(tls: &Tls, target: &str) -> Result<Encryption, Error> {
    let file = tls.ca_file.display().to_string();
    let pem = std::fs::read(&tls.ca_file).map_err(|e| Error::File(file.clone(), e))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| Error::Certificates(file.clone()))?;
        roots.add(certificate).map_err(|_| Error::Certificates(file.clone()))?;
    }
    if roots.is_empty() {
        return Err(Error::Certificates(file));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::Certificates(file))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let host = target
        .rsplit_once(':')
        .map_or(target, |(host, _)| host)
        .trim_matches(['[', ']']);
    let name = tls.server_name.clone().unwrap_or_else(|| host.to_owned());
    let name = ServerName::try_from(name.clone()).map_err(|_| Error::ServerName(name))?;
    Ok(Encryption {
        connector: TlsConnector::from(Arc::new(config)),
        name,
    })
}

#[derive(Clone)]
struct Connector {
    target: String,
    mark: Option<u32>,
    tls: Option<Encryption>,
}

/// A connection, encrypted or not.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Connector { target, mark, tls } = self.clone();
        Box::pin(async move {
            let stream = tcp(&target, mark).await?;
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(stream),
                Some(tls) => Box::new(tls.connector.connect(tls.name, stream).await?),
            };
            Ok(TokioIo::new(stream))
        })
    }
}

/// Tries the target's addresses one after the other.
async fn tcp(target: &str, mark: Option<u32>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{target} has no address"));
    for address in tokio::net::lookup_host(target).await? {
        match tcp_to(address, mark).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn tcp_to(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(mark) = mark {
        match socket2::SockRef::from(&socket).set_mark(mark) {
            // Whoever may not mark a socket may not redirect either, so nothing loops.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            marked => marked?,
        }
    }
    socket.set_nodelay(true)?;
    socket.connect(address).await
}
