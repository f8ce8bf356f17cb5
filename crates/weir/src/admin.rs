//! The admin port of a role: `/livez`, `/readyz` and, where it has some, `/metrics`.
//!
//! Enters: GET requests of the kubelet and of scrapers. Leaves: 200 or 503 with a reason. It changes nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a role tells about itself.
pub struct Health {
    /// `Err` says what it still waits for.
    pub ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Its own metrics in the text format.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, health: Health, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {address} (admin): {error}"))?;
    let health = Arc::new(health);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return Ok(());
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "admin: accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => return Ok(()),
        };
        let health = health.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let health = health.clone();
                async move { Ok::<_, Infallible>(answer(&health, &request)) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "admin: connection");
            }
            drop(slot);
        });
    }
}

fn answer<B>(health: &Health, request: &http::Request<B>) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/livez" | "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match (health.ready)() {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
            Err(waits_for) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {waits_for}\n")),
        },
        "/metrics" => (StatusCode::OK, (health.metrics)()),
        path => (
            StatusCode::NOT_FOUND,
            format!("{path}: there are /livez, /readyz and /metrics\n"),
        ),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
