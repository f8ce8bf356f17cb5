//! Listeners, TLS and connections: HTTP/1.1 and HTTP/2, client certificates optional.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::auth::User;
use super::pki::Pki;
use super::upstream::{self, TlsError};
use super::{Api, Config, Error, handlers};

const CONNECTIONS_MAX: usize = 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const STREAMS_MAX: u32 = 250;
const WINDOW_BYTES: u32 = 256 << 10;
/// What open connections get at shutdown to finish.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Before accepting again after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens the configured listeners.
pub fn bind(config: &Config) -> Result<Vec<TcpListener>, Error> {
    let wrap = |address: String| move |source| Error::Listen { address, source };
    let mut found = Vec::new();
    if let Some(host) = &config.host_listener {
        let name = "the inherited host listener".to_owned();
        let listener = host.try_clone().and_then(|l| {
            l.set_nonblocking(true)?;
            TcpListener::from_std(l)
        });
        found.push(listener.map_err(wrap(name))?);
    }
    if let Some(address) = config.listen {
        let listener = std::net::TcpListener::bind(address).and_then(|l| {
            l.set_nonblocking(true)?;
            TcpListener::from_std(l)
        });
        found.push(listener.map_err(wrap(address.to_string()))?);
    }
    Ok(found)
}

pub fn tls(pki: &Pki) -> Result<Arc<ServerConfig>, Error> {
    let ca = std::fs::read(pki.ca()).map_err(|source| Error::File { path: pki.ca(), source })?;
    let provider = upstream::provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(upstream::roots(&ca)?), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| TlsError::Bundle(e.to_string()))?;
    let (chain, key) = upstream::load(pki, "apiserver")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::from)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(TlsError::from)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts connections until shutdown, then lets the open ones finish.
pub async fn accept(api: Arc<Api>, listener: TcpListener, tls: Arc<ServerConfig>) {
    let acceptor = TlsAcceptor::from(tls);
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let open = tokio_util::task::TaskTracker::new();
    loop {
        let Ok(permit) = free.clone().acquire_owned().await else {
            break;
        };
        let tcp = tokio::select! {
            () = api.shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => tcp,
                Err(e) => {
                    tracing::warn!("accepting a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (api, acceptor) = (api.clone(), acceptor.clone());
        open.spawn(async move {
            if let Err(e) = serve(api, acceptor, tcp).await {
                tracing::debug!("connection: {e}");
            }
            drop(permit);
        });
    }
    open.close();
    if tokio::time::timeout(SHUTDOWN_GRACE, open.wait()).await.is_err() {
        tracing::debug!(open = open.len(), "connections are cut at shutdown");
    }
}

async fn serve(
    api: Arc<Api>,
    acceptor: TlsAcceptor,
    tcp: TcpStream,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    tcp.set_nodelay(true)?;
    let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "TLS handshake"))??;
    let certificate = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|cert| User::from_certificate(cert))
        .map(Arc::new);
    let shutdown = api.shutdown.clone();
    let service = service_fn(move |request| {
        let (api, certificate) = (api.clone(), certificate.clone());
        async move { Ok::<_, std::convert::Infallible>(handlers::handle(api, certificate, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 2)
        .max_send_buf_size(64 << 10);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    tokio::pin!(connection);
    tokio::select! {
        done = connection.as_mut() => return done,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
