//! The connections that clients come by.
//!
//! Enters: a bound socket. Leaves: connections that end by themselves unless one of their streams is authorized in time:
//! whoever reaches the port holds a socket no longer, by a handshake that never ends or a connection without a stream.
//! Once one was, a connection lasts as long as both sides like.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use http::Extensions;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TlsConnectInfo};

/// Pause after a connection could not be accepted, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection's streams know of it.
#[derive(Clone, Debug)]
pub(super) struct Info {
    /// The address of the client.
    pub(super) remote: Option<SocketAddr>,
    authorized: Arc<AtomicBool>,
}

impl Info {
    /// That of the connection that a request came by.
    pub(super) fn of(extensions: &Extensions) -> Option<&Self> {
        let tls = extensions.get::<TlsConnectInfo<Self>>().map(TlsConnectInfo::get_ref);
        tls.or_else(|| extensions.get())
    }

    /// A stream of it has proved who it is.
    pub(super) fn authorized(&self) {
        self.authorized.store(true, Relaxed);
    }
}

/// A connection of a client.
pub(super) struct Client {
    stream: TcpStream,
    info: Info,
    /// `None` once a stream was authorized.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Client {
    fn new(stream: TcpStream, limit: Duration) -> Self {
        let info = Info {
            remote: stream.peer_addr().ok(),
            authorized: Arc::default(),
        };
        let deadline = Some(Box::pin(tokio::time::sleep(limit)));
        Self { stream, info, deadline }
    }
}

/// Accepts connections, each of which has `limit` for its first authorized stream. Never ends.
pub(super) fn incoming(listener: TcpListener, limit: Duration) -> impl Stream<Item = io::Result<Client>> {
    futures::stream::unfold(listener, move |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let nodelay = stream.set_nodelay(true);
                    return Some((nodelay.map(|()| Client::new(stream, limit)), listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection now");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

impl Connected for Client {
    type ConnectInfo = Info;

    fn connect_info(&self) -> Info {
        self.info.clone()
    }
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.info.authorized.load(Relaxed) {
            this.deadline = None;
        }
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no stream was authorized in time",
            )));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::*;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn pair(limit: Duration) -> (TcpStream, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut accepted = Box::pin(incoming(listener, limit));
        let server = futures::StreamExt::next(&mut accepted).await.unwrap().unwrap();
        (client, server)
    }

    #[tokio::test]
    async fn a_connection_of_nobody_ends_and_one_of_somebody_does_not() {
        let mut byte = [0; 1];
        let (_client, mut server) = pair(Duration::ZERO).await;
        let read = tokio::time::timeout(PATIENCE, server.read(&mut byte)).await;
        assert_eq!(
            read.expect("it is still open").unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );

        let (mut client, mut server) = pair(Duration::ZERO).await;
        server.connect_info().authorized();
        client.write_all(b"x").await.unwrap();
        let read = tokio::time::timeout(PATIENCE, server.read(&mut byte)).await;
        assert_eq!(read.expect("nothing comes").unwrap(), 1);
    }

    /// Notes what each client presents.
    struct Notes(mpsc::UnboundedSender<Credentials>);

    impl Authorize for Notes {
        async fn authorize(&self, credentials: &Credentials, _: &NodeInfo) -> Result<(), Refusal> {
            let _ = self.0.send(credentials.clone());
            Ok(())
        }
    }

    /// A connection without a stream is closed, and a stream finds the connection that it came by.
    #[tokio::test]
    async fn served_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (notes, mut noted) = mpsc::unbounded_channel();
        let cache = Cache::new();
        cache.publish("a.default", Arc::default());
        let serve = |listener, limit, notes| {
            let serving = serve_within(
                limit,
                listener,
                None,
                cache.clone(),
                Notes(notes),
                std::future::pending(),
            );
            tokio::spawn(serving)
        };
        let server = serve(listener, PATIENCE * 60, notes.clone());
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = channel.connect().await.unwrap();
        let first = DeltaDiscoveryRequest {
            node: Some(Node {
                id: "a.default".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let requests = futures::stream::iter([first]);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let _stream = client.delta_aggregated_resources(requests).await.unwrap();
        let credentials = tokio::time::timeout(PATIENCE, noted.recv())
            .await
            .expect("nobody asked")
            .unwrap();
        let remote = credentials.remote.expect("the client's address is known");
        assert!(remote.ip().is_loopback() && remote.port() != address.port());
        server.abort();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = serve(listener, Duration::from_millis(10), notes);
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut rest = Vec::new();
        // Whatever the server says first, it comes to an end.
        let ended = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await;
        let _ = ended.expect("a connection without a stream is still open");
        server.abort();
    }
}
