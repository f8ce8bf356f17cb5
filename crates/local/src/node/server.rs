//! The kubelet's HTTPS server: container logs and exec, for the API server only.
//!
//! Enters: requests with the API server's client certificate. Leaves: log text, and WebSocket streams of commands run in
//! containers (`v5.channel.k8s.io` and `v4.channel.k8s.io`).

mod log_stream;
mod stream;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::run::NodeError;
use super::state::PodRuntime;
use super::{KUBELET_PORT, NODE_IP, Node, tls};
use crate::apiserver::pki::Pki;

/// The only client, by its certificate's common name.
const CLIENT: &str = "kube-apiserver-kubelet-client";
/// Connections at a time.
const CONNECTIONS_MAX: usize = 256;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, std::io::Error>;

/// The listening socket with its TLS configuration.
pub struct Listening {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

/// Binds the kubelet's port.
pub async fn listen(pki: &Pki) -> Result<Listening, NodeError> {
    let acceptor = tls::acceptor(&pki.ca(), &pki.cert("kubelet-server"), &pki.key("kubelet-server"))?;
    let listener = TcpListener::bind((NODE_IP, KUBELET_PORT))
        .await
        .map_err(|source| NodeError::Io {
            what: "the kubelet's port",
            source,
        })?;
    Ok(Listening { listener, acceptor })
}

/// Serves until `shutdown`.
pub async fn run(node: Arc<Node>, listening: Listening, shutdown: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listening.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (node, acceptor) = (node.clone(), listening.acceptor.clone());
            tokio::spawn(async move {
                serve_connection(node, acceptor, stream).await;
                drop(permit);
            });
        }
    };
    shutdown.run_until_cancelled(accept).await;
}

async fn serve_connection(node: Arc<Node>, acceptor: TlsAcceptor, stream: TcpStream) {
    let Ok(Ok(stream)) = timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await else {
        return;
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let allowed = certificates
        .first()
        .is_some_and(|certificate| common_name(certificate).as_deref() == Some(CLIENT));
    let service = service_fn(move |request| {
        let node = node.clone();
        async move {
            let response = if allowed {
                route(&node, request).await
            } else {
                status(
                    StatusCode::FORBIDDEN,
                    "Forbidden",
                    "only the API server may ask the kubelet",
                )
            };
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection of the API server");
    }
}

fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    certificate
        .subject()
        .iter_common_name()
        .next()?
        .as_str()
        .ok()
        .map(String::from)
}

async fn route(node: &Arc<Node>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().trim_matches('/').to_string();
    let parts: Vec<&str> = path.split('/').collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["healthz"]) => text("ok"),
        (&Method::GET, ["containerLogs", namespace, pod, container]) => match find(node, namespace, pod) {
            Some(runtime) => log_stream::respond(node, &runtime, container, &query).await,
            None => not_found(namespace, pod),
        },
        (&Method::GET | &Method::POST, ["exec", namespace, pod, container]) => match find(node, namespace, pod) {
            Some(runtime) => stream::respond(node, runtime, container, &query, request).await,
            None => not_found(namespace, pod),
        },
        _ => status(
            StatusCode::NOT_FOUND,
            "NotFound",
            "this kubelet serves /healthz, /containerLogs and /exec",
        ),
    }
}

fn find(node: &Node, namespace: &str, pod: &str) -> Option<Arc<PodRuntime>> {
    let pods = node.pods();
    let mut found = pods
        .into_iter()
        .filter(|runtime| runtime.namespace == namespace && runtime.name == pod);
    let first = found.next()?;
    // Two only while one of them goes: the other is meant.
    Some(found.find(|runtime| runtime.stop.borrow().is_none()).unwrap_or(first))
}

fn not_found(namespace: &str, pod: &str) -> Response<Body> {
    status(
        StatusCode::NOT_FOUND,
        "NotFound",
        &format!("pod \"{namespace}/{pod}\" is not on this node"),
    )
}

fn text(text: &str) -> Response<Body> {
    Response::new(full(text.to_string()))
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": message, "code": code.as_u16()
    });
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// A decoded query string.
#[derive(Debug, Default)]
struct Query(HashMap<String, Vec<String>>);

impl Query {
    fn parse(text: &str) -> Self {
        let decode = |text: &str| {
            let text = text.replace('+', " ");
            percent_encoding::percent_decode_str(&text)
                .decode_utf8_lossy()
                .into_owned()
        };
        let mut map: HashMap<String, Vec<String>> = HashMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            map.entry(decode(key)).or_default().push(decode(value));
        }
        Self(map)
    }

    fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    fn one(&self, key: &str) -> Option<&str> {
        self.all(key).first().map(String::as_str)
    }

    fn flag(&self, key: &str) -> bool {
        self.one(key).is_some_and(|value| value == "true" || value == "1")
    }

    fn number(&self, key: &str) -> Result<Option<u64>, String> {
        self.one(key)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| format!("{key}: must be a number, is {value:?}"))
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%26b&stdin=true&tailLines=x");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a&b"]);
        assert!(query.flag("stdin") && !query.flag("tty"));
        assert_eq!(query.number("sinceSeconds"), Ok(None));
        assert!(query.number("tailLines").is_err());
    }
}
