//! One connection to a server, with TLS where the scheme asks for it.

use super::{FetchError, chain, tls};
use bytes::Bytes;
use http::{Request, Response, Uri, uri::Authority};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use weir_tls::ClientTls;

/// What a connection keeps between scrapes: there is one for each target.
const READ_BYTES_MAX: usize = 32 << 10;

pub(super) struct Connection {
    scheme: String,
    authority: Option<Authority>,
    requests: http1::SendRequest<Empty<Bytes>>,
}

impl Connection {
    pub async fn open(uri: &Uri, tls: &ClientTls) -> Result<Connection, FetchError> {
        let host = uri.host().unwrap_or_default();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port))
            .await
            .map_err(|e| FetchError::Connection(format!("cannot connect to {host}:{port}: {e}")))?;
        // Fails on a socket that is closed already, which the request will tell.
        let _ = stream.set_nodelay(true);
        let requests = if secure {
            let stream = tls::wrap(stream, bare, tls).await?;
            handshake(stream).await?
        } else {
            handshake(stream).await?
        };
        Ok(Connection {
            scheme: uri.scheme_str().unwrap_or_default().to_owned(),
            authority: uri.authority().cloned(),
            requests,
        })
    }

    /// Whether it is open and leads where a URL points.
    pub fn leads_to(&self, uri: &Uri) -> bool {
        !self.requests.is_closed()
            && uri.scheme_str() == Some(self.scheme.as_str())
            && uri.authority() == self.authority.as_ref()
    }

    pub async fn send(&mut self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.requests.ready().await?;
        self.requests.send_request(request).await
    }
}

async fn handshake<S>(stream: S) -> Result<http1::SendRequest<Empty<Bytes>>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(READ_BYTES_MAX);
    let (requests, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| FetchError::Connection(chain(&e)))?;
    // Ends when the handle or the connection does; what went wrong reaches whoever waits for the answer.
    tokio::spawn(async move { drop(connection.await) });
    Ok(requests)
}
