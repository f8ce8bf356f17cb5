//! Requests passed on to another server: a kubelet, a service, an aggregated API server.
//! One connection a request; bodies stream both ways, upgraded connections are spliced.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weir_tls::{ClientTls, Pem};

use super::error::{ApiError, Result};
use super::http::Body;
use super::pki::Pki;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the head of the response is there.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {message}")]
    File { path: PathBuf, message: String },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("TLS: {0}")]
    Client(#[from] weir_tls::TlsError),
    #[error("the CA bundle: {0}")]
    Bundle(String),
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate chain with its key, as PEM files.
pub fn load(
    pki: &Pki,
    name: &str,
) -> std::result::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let error = |path: &PathBuf, e: &dyn std::fmt::Display| TlsError::File {
        path: path.clone(),
        message: e.to_string(),
    };
    let (cert, key) = (pki.cert(name), pki.key(name));
    let pem = fs::read(&cert).map_err(|e| error(&cert, &e))?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| error(&cert, &e))?;
    let key_pem = fs::read(&key).map_err(|e| error(&key, &e))?;
    let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|e| error(&key, &e))?;
    Ok((chain, key))
}

pub fn roots(pem: &[u8]) -> std::result::Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem) {
        let cert = cert.map_err(|e| TlsError::Bundle(e.to_string()))?;
        store.add(cert)?;
    }
    if store.is_empty() {
        return Err(TlsError::Bundle("it holds no certificate".to_owned()));
    }
    Ok(store)
}

/// How the other side is trusted.
pub enum Trust {
    /// PEM.
    Bundle(Vec<u8>),
    Anyone,
}

/// A TLS client, with a client certificate or without.
pub fn client(trust: &Trust, identity: Option<(&Pki, &str)>) -> std::result::Result<Arc<ClientConfig>, TlsError> {
    let mut tls = match trust {
        Trust::Bundle(pem) => ClientTls {
            ca: Some(Pem::Inline(String::from_utf8_lossy(pem).into_owned())),
            ..ClientTls::default()
        },
        Trust::Anyone => ClientTls::of_anybody(),
    };
    if let Some((pki, name)) = identity {
        tls.cert = Some(Pem::File(pki.cert(name)));
        tls.key = Some(Pem::File(pki.key(name)));
    }
    let mut config = tls.config()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Where a request goes.
pub struct Destination {
    pub address: SocketAddr,
    /// TLS with this configuration and server name; plain without.
    pub tls: Option<(Arc<ClientConfig>, String)>,
    /// The `Host` header.
    pub host: String,
}

fn failed(what: &str, e: impl std::fmt::Display) -> ApiError {
    ApiError::unavailable(format!("error trying to reach service: {what}: {e}"))
}

fn timed_out(what: &str) -> ApiError {
    failed(what, "timed out")
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(to: &Destination) -> Result<Box<dyn Stream>> {
    let dial = format!("dial tcp {}", to.address);
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to.address))
        .await
        .map_err(|_| timed_out(&dial))?
        .map_err(|e| failed(&dial, e))?;
    tcp.set_nodelay(true).map_err(|e| failed(&dial, e))?;
    let Some((config, name)) = &to.tls else {
        return Ok(Box::new(tcp));
    };
    let handshake = format!("TLS with {} as {name}", to.address);
    let server = ServerName::try_from(name.clone()).map_err(|e| failed(&handshake, e))?;
    let tls = tokio::time::timeout(CONNECT_TIMEOUT, TlsConnector::from(config.clone()).connect(server, tcp))
        .await
        .map_err(|_| timed_out(&handshake))?
        .map_err(|e| failed(&handshake, e))?;
    Ok(Box::new(tls))
}

/// Sends a request over a connection of its own; the connection lives as long as the response's body.
async fn send<B>(to: &Destination, request: Request<B>) -> Result<Response<Incoming>>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = connect(to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed("http", e))?;
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!("connection to another server: {e}");
        }
    });
    tokio::time::timeout(RESPONSE_TIMEOUT, sender.send_request(request))
        .await
        .map_err(|_| timed_out("http response"))?
        .map_err(|e| failed("http", e))
}

/// A GET of our own; the whole body, at most `limit` bytes of it.
pub async fn fetch(to: &Destination, path: &str, headers: HeaderMap, limit: usize) -> Result<(StatusCode, Bytes)> {
    let uri: Uri = path.parse().map_err(|e| failed("path", e))?;
    let mut request = Request::new(http_body_util::Empty::<Bytes>::new());
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    set_host(request.headers_mut(), &to.host);
    let response = send(to, request).await?;
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), limit);
    let body = tokio::time::timeout(RESPONSE_TIMEOUT, body.collect())
        .await
        .map_err(|_| timed_out("http body"))?
        .map_err(|e| failed("http body", e))?;
    Ok((status, body.to_bytes()))
}

fn set_host(headers: &mut HeaderMap, host: &str) {
    if let Ok(value) = HeaderValue::from_str(host) {
        headers.insert(header::HOST, value);
    }
}

/// Headers of the connection, not of the message.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Passes a request on with another path and returns the response; bodies are streamed, upgrades spliced.
/// `change` adjusts the headers.
pub async fn forward(
    to: &Destination,
    mut request: Request<Incoming>,
    path_and_query: &str,
    change: impl FnOnce(&mut HeaderMap),
) -> Result<Response<Body>> {
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    let ours = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    parts.uri = path_and_query
        .parse()
        .map_err(|e| ApiError::bad_request(format!("invalid path: {e}")))?;
    parts.version = http::Version::HTTP_11;
    for name in HOP_BY_HOP {
        parts.headers.remove(name);
    }
    set_host(&mut parts.headers, &to.host);
    change(&mut parts.headers);
    if let Some(protocol) = &upgrade {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(header::UPGRADE, protocol.clone());
    }
    let mut response = send(to, Request::from_parts(parts, body)).await?;
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let (true, Some(ours)) = (switching, ours) {
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (Ok(a), Ok(b)) = (ours.await, theirs.await) else {
                return;
            };
            let (mut a, mut b) = (TokioIo::new(a), TokioIo::new(b));
            if let Err(e) = tokio::io::copy_bidirectional(&mut a, &mut b).await {
                tracing::debug!("upgraded connection: {e}");
            }
        });
    } else {
        for name in HOP_BY_HOP {
            response.headers_mut().remove(name);
        }
    }
    Ok(response.map(|b| b.map_err(io::Error::other).boxed_unsync()))
}
