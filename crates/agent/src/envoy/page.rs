//! What the supervisor serves: metrics and readiness on the pod's address, and the admin interface, which is Envoy's own
//! with our readiness, on a Unix socket.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use weir_series::canonical::Recorder;

use super::relay::Relay;
use crate::http_unix;

/// Connections at a time, on each of the two.
const CONNECTIONS_MAX: usize = 64;
/// A client has this long to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for Envoy's answer.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// As Prometheus expects it.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is served.
pub struct Pages {
    /// The canonical series.
    pub recorder: Arc<Recorder>,
    /// Whether Envoy has a configuration.
    pub relay: Arc<Relay>,
    /// Envoy's admin socket.
    pub envoy_admin: PathBuf,
}

impl Pages {
    /// Serves `/metrics`, `/stats/prometheus` and `/ready` at an address. Never ends.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let pages = self.clone();
                    tokio::spawn(async move {
                        connection(stream, pages, false).await;
                        drop(place);
                    });
                }
                Err(error) => refused(&error).await,
            }
        }
    }

    /// Serves the admin interface on a Unix socket. Never ends.
    pub async fn serve_unix(self: Arc<Self>, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let pages = self.clone();
                    tokio::spawn(async move {
                        connection(stream, pages, true).await;
                        drop(place);
                    });
                }
                Err(error) => refused(&error).await,
            }
        }
    }

    async fn answer(&self, method: &Method, path: &str, admin: bool) -> Response<Full<Bytes>> {
        match (method, path) {
            (&Method::GET, "/metrics") => {
                let mut page = String::new();
                self.recorder.render(&mut page);
                reply(200, METRICS_TYPE, page.into())
            }
            (&Method::GET, "/ready") => self.ready().await,
            (&Method::GET, "/stats/prometheus") => self.pass(Method::GET, "/stats/prometheus").await,
            _ if admin && matches!(*method, Method::GET | Method::POST) => self.pass(method.clone(), path).await,
            _ => reply(
                404,
                "text/plain",
                "there are /metrics, /stats/prometheus and /ready\n".into(),
            ),
        }
    }

    /// 200 once Envoy serves with a whole configuration.
    async fn ready(&self) -> Response<Full<Bytes>> {
        if !self.relay.configured() {
            return reply(
                503,
                "text/plain",
                "waiting for the configuration from the control plane\n".into(),
            );
        }
        self.pass(Method::GET, "/ready").await
    }

    async fn pass(&self, method: Method, path: &str) -> Response<Full<Bytes>> {
        match http_unix::send(&self.envoy_admin, method, path, ADMIN_TIMEOUT).await {
            Ok((status, kind, body)) => reply(status, &kind, body),
            Err(error) => reply(503, "text/plain", format!("Envoy: {error}\n").into()),
        }
    }
}

async fn refused(error: &std::io::Error) {
    tracing::warn!(%error, "accept");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(stream: S, pages: Arc<Pages>, admin: bool) {
    let service = service_fn(|request: Request<Incoming>| {
        let pages = pages.clone();
        async move {
            let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
            Ok::<_, Infallible>(pages.answer(request.method(), path, admin).await)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "metrics connection");
    }
}

fn reply(status: u16, kind: &str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    }
    response
}
