//! One HTTP request over a Unix socket, as the admin interfaces of both engines take it.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Longest answer that is read, bytes. Envoy's configuration and statistics are the largest.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there, or the connection broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The body broke off or is too long.
    #[error("body: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The path is no path.
    #[error("{0}")]
    Request(#[from] http::Error),
    /// Too slow.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Sends a request without a body; the status, the content type and the body come back.
pub async fn send(
    socket: &Path,
    method: http::Method,
    path: &str,
    timeout: Duration,
) -> Result<(u16, String, Bytes), Error> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "weir")
            .body(Empty::<Bytes>::new())?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let kind = response
                .headers()
                .get("content-type")
                .and_then(|v| v.to_str().ok())
                .unwrap_or("");
            let kind = kind.to_owned();
            let body = Limited::new(response.into_body(), BODY_BYTES_MAX)
                .collect()
                .await
                .map_err(Error::Body)?;
            Ok((status, kind, body.to_bytes()))
        };
        let answer = answer.await;
        driver.abort();
        answer
    };
    tokio::time::timeout(timeout, exchange)
        .await
        .unwrap_or(Err(Error::Timeout(timeout)))
}
