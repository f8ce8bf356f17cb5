//! Clients and servers of HTTP/2, and proxies between them.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::support::*;

/// Options of a cluster whose endpoints speak HTTP/2.
const UPSTREAM_TWO: &str = r#"    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"#;

/// The same bootstrap with endpoints that speak HTTP/2.
pub fn upstream_two(bootstrap: &str) -> String {
    let changed = bootstrap.replace("    type: STATIC\n", UPSTREAM_TWO);
    assert_ne!(changed, bootstrap);
    changed
}

/// A server of HTTP/2; each stream has a task of its own.
pub async fn serve_two<F, Fut>(streams_max: u32, serve: F) -> Server
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Server::start(move |stream| accept_two(stream, streams_max, serve.clone())).await
}

/// Serves one connection.
pub async fn accept_two<F, Fut>(stream: impl AsyncRead + AsyncWrite + Unpin, streams_max: u32, serve: F)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    let Ok(mut connection) = builder.max_concurrent_streams(streams_max).handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(serve(request, respond));
    }
}

/// A connection of HTTP/2 to an address.
pub async fn connect_two(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    open_two(stream).await
}

/// The client's side of HTTP/2 on a connection.
pub async fn open_two(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    // Streams that nobody reads must not take all of the connection's window.
    builder
        .initial_window_size(256 << 10)
        .initial_connection_window_size(16 << 20);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A request for host `svc`.
pub fn request(method: &str, path: &str) -> Request<()> {
    let uri = format!("http://svc{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

/// A response, read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

/// Reads a body to its end.
pub async fn read_body(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((all, body.trailers().await?))
}

/// Sends all of a body, as fast as the other side takes it.
pub async fn send_body(stream: &mut SendStream<Bytes>, mut body: Bytes, end: bool) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(capacity) => {
                let piece = body.split_to(capacity?.min(body.len()));
                stream.send_data(piece, end && body.is_empty())?;
            }
            None => return Err(h2::Reason::CANCEL.into()),
        }
    }
    Ok(())
}

/// Sends a request and reads the response whole.
pub async fn ask_two(sender: &SendRequest<Bytes>, request: Request<()>, body: &[u8]) -> Result<Reply, h2::Error> {
    let exchange = async {
        let mut sender = sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, body.is_empty())?;
        let body = Bytes::copy_from_slice(body);
        // A server may answer before it has read everything, and want no more.
        let upload = tokio::spawn(async move { send_body(&mut stream, body, true).await });
        let (head, mut body) = response.await?.into_parts();
        let (content, trailers) = read_body(&mut body).await?;
        upload.abort();
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: content,
            trailers,
        })
    };
    let timed = tokio::time::timeout(PATIENCE, exchange).await;
    timed.expect("a response in time")
}

/// Answers with a body and perhaps trailers.
pub async fn answer_two(
    mut respond: SendResponse<Bytes>,
    head: Response<()>,
    body: &[u8],
    trailers: Option<HeaderMap>,
) {
    let ends = body.is_empty() && trailers.is_none();
    let Ok(mut stream) = respond.send_response(head, ends) else {
        return;
    };
    if send_body(&mut stream, Bytes::copy_from_slice(body), trailers.is_none())
        .await
        .is_ok()
        && let Some(trailers) = trailers
    {
        let _ = stream.send_trailers(trailers);
    }
}

/// Fields by name.
pub fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let one = |(name, value): &(&'static str, &str)| (http::HeaderName::from_static(name), value.parse().unwrap());
    pairs.iter().map(one).collect()
}

/// A proxy before an endpoint of either version; `two`: it speaks HTTP/2.
pub async fn before(server: &Server, two: bool, route: &str) -> (Proxy, SocketAddr) {
    let port = free_port();
    let one = http_bootstrap(port, &[(server.address, 1)], route);
    let proxy = Proxy::start(&if two { upstream_two(&one) } else { one }).await;
    (proxy, local(port))
}

/// Something that tests share with servers.
pub fn shared<T>(value: T) -> (Arc<T>, Arc<T>) {
    let value = Arc::new(value);
    (Arc::clone(&value), value)
}
