//! The connection to the control plane: TLS, a marked socket, the token of the moment.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::Uri;
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Streaming};

use super::MESSAGE_BYTES_MAX;
use super::bootstrap::Control;
use crate::redirect::MARK;

/// Longest wait for a connection and for the beginning of a stream on it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A silent connection is asked whether it lives, and given up when it does not answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests on their way up.
const QUEUE: usize = 64;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A credentials file cannot be read.
    #[error("{0}: {1}")]
    File(std::path::PathBuf, std::io::Error),
    /// The token or its header cannot be sent.
    #[error("the token cannot be sent as a header")]
    Token,
    /// No connection.
    #[error("{0}: {1}")]
    Connect(String, tonic::transport::Error),
    /// Refused.
    #[error("{0}")]
    Refused(#[from] tonic::Status),
    /// Too slow.
    #[error("no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
}

/// An open stream.
pub struct Stream {
    /// To the control plane.
    pub requests: mpsc::Sender<DeltaDiscoveryRequest>,
    /// From it.
    pub responses: Streaming<DeltaDiscoveryResponse>,
}

/// Opens a delta stream whose first request is `first`.
pub async fn open(control: &Control, first: DeltaDiscoveryRequest) -> Result<Stream, Error> {
    let opening = async {
        let channel = connect(control).await?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (requests, queue) = mpsc::channel(QUEUE);
        let mut request = Request::new(ReceiverStream::new(queue));
        if let Some((file, header, prefix)) = &control.token {
            // Read anew each time: tokens are renewed.
            let token = std::fs::read_to_string(file).map_err(|e| Error::File(file.clone(), e))?;
            let value = MetadataValue::try_from(format!("{prefix}{}", token.trim())).map_err(|_| Error::Token)?;
            let key = MetadataKey::from_bytes(header.as_bytes()).map_err(|_| Error::Token)?;
            request.metadata_mut().insert(key, value);
        }
        // Before the call: a server may send its headers only with its first response.
        requests.send(first).await.map_err(|_| Error::Timeout)?;
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        Ok(Stream { requests, responses })
    };
    tokio::time::timeout(CONNECT_TIMEOUT, opening)
        .await
        .unwrap_or(Err(Error::Timeout))
}

async fn connect(control: &Control) -> Result<Channel, Error> {
    let failed = |error| Error::Connect(control.target.clone(), error);
    let scheme = if control.tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", control.target)).map_err(failed)?;
    if let Some((ca, name)) = &control.tls {
        let pem = std::fs::read(ca).map_err(|e| Error::File(ca.clone(), e))?;
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        if let Some(name) = name {
            tls = tls.domain_name(name);
        }
        endpoint = endpoint.tls_config(tls).map_err(failed)?;
    }
    let endpoint = endpoint
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    endpoint
        .connect_with_connector(Connector(control.target.clone()))
        .await
        .map_err(failed)
}

/// Connects with the mark that keeps a socket out of redirection.
struct Connector(String);

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = futures::future::BoxFuture<'static, std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let target = self.0.clone();
        Box::pin(async move {
            let mut last = std::io::Error::other(format!("{target} has no address"));
            for address in tokio::net::lookup_host(&target).await? {
                match marked(address).await {
                    Ok(stream) => return Ok(TokioIo::new(stream)),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}

async fn marked(address: SocketAddr) -> std::io::Result<TcpStream> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    if let Err(error) = socket.set_mark(MARK) {
        // Without the right to do so nobody redirects us either.
        tracing::debug!(%error, "socket not marked");
    }
    socket.set_nonblocking(true)?;
    let stream = tokio::net::TcpSocket::from_std_stream(socket.into())
        .connect(address)
        .await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
