//! Prometheus's HTTP API over an [`Engine`], on any HTTP/1.1 connection.
//!
//! `/api/v1/{query,query_range,series,labels,label/<name>/values,targets,status/buildinfo}` by GET or POST form, `/sd/proxies`,
//! `/-/ready`, `/-/healthy` and `/metrics`. What may call is decided by an [`Authorize`] hook that sees the bearer token;
//! this module knows neither Kubernetes nor the store behind the engine.

mod answer;
mod params;
mod routes;

use crate::{Engine, Error};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Whether a caller may read the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    Allow,
    /// Unknown caller (401), and why.
    Unauthenticated(String),
    /// Known caller without the right (403), and why.
    Forbidden(String),
}

/// Decides about a request: the bearer token, if there is one, goes in. Must answer within its own timeout.
pub type Authorize = Arc<dyn Fn(Option<String>) -> Pin<Box<dyn Future<Output = Access> + Send>> + Send + Sync>;

/// For listeners that are open to whoever reaches them (the host's loopback address of `weir up`).
pub fn allow_all() -> Authorize {
    Arc::new(|_| Box::pin(async { Access::Allow }))
}

/// What `/api/v1/targets` answers as its `data`; asked anew for each request.
pub type TargetsJson = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What `/metrics` answers besides the API's own figures: text format 0.0.4.
pub type SelfMetrics = Arc<dyn Fn(&mut String) + Send + Sync>;

/// Everything that the API serves from.
#[derive(Clone)]
pub struct Api {
    /// Answers the queries.
    pub engine: Engine,
    /// See [`TargetsJson`].
    pub targets: TargetsJson,
    /// What `/sd/proxies` answers: the targets in the format of Prometheus's HTTP discovery.
    pub discovered: TargetsJson,
    /// See [`SelfMetrics`].
    pub metrics: SelfMetrics,
}

/// Queries evaluated at the same time; further ones wait.
const MAX_QUERIES: usize = 4;
/// Connections at the same time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Bytes of a POST form.
const MAX_FORM_BYTES: usize = 1 << 20;
/// Time to read a request's head, and as much again for its body.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Time that open connections have after shutdown was ordered.
const DRAIN: Duration = Duration::from_secs(5);

struct Server {
    api: Api,
    authorize: Authorize,
    queries: Semaphore,
    counts: routes::Counts,
}

/// Serves until `shutdown`, then lets open requests finish within a few seconds.
pub async fn serve(listener: TcpListener, api: Api, authorize: Authorize, shutdown: CancellationToken) {
    let queries = Semaphore::new(MAX_QUERIES);
    let server = Arc::new(Server {
        api,
        authorize,
        queries,
        counts: Default::default(),
    });
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let Some((stream, permit)) = accepted else {
            continue;
        };
        let (server, shutdown) = (server.clone(), shutdown.clone());
        tasks.spawn(async move {
            let service = service_fn(|request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    // What is not finished by then is cut off.
                    let _ = timeout(DRAIN, connection).await;
                }
            }
            drop(permit);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            // Out of descriptors, mostly: wait for some to be given back.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

impl Server {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        // Probes carry no token, and what they learn is no secret.
        if matches!(path.as_str(), "/-/ready" | "/-/healthy") {
            return answer::text(StatusCode::OK, "text/plain; charset=utf-8", "Weir is ready.\n".into());
        }
        let token = bearer_token(&request);
        match (self.authorize)(token).await {
            Access::Allow => {}
            Access::Unauthenticated(why) => {
                let mut response = answer::error(StatusCode::UNAUTHORIZED, "unauthorized", &why);
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
                return response;
            }
            Access::Forbidden(why) => return answer::error(StatusCode::FORBIDDEN, "forbidden", &why),
        }
        let params = match read_params(request).await {
            Ok(params) => params,
            Err(response) => return *response,
        };
        let Ok(permit) = self.queries.acquire().await else {
            return answer::error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "shutting down");
        };
        let server = self.clone();
        // Evaluation blocks: keep it off the threads that serve connections.
        let answered =
            tokio::task::spawn_blocking(move || routes::answer(&server.api, &server.counts, &path, &params)).await;
        drop(permit);
        answered.unwrap_or_else(|_| answer::error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed"))
    }
}

fn bearer_token(request: &Request<Incoming>) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// Parameters of the query string, then those of a form.
async fn read_params(request: Request<Incoming>) -> Result<params::Params, Box<Response<Full<Bytes>>>> {
    let bad = |message: &str| Box::new(answer::error(StatusCode::BAD_REQUEST, "bad_data", message));
    let mut params = params::Params::default();
    params.add(request.uri().query().unwrap_or_default());
    match *request.method() {
        http::Method::GET | http::Method::HEAD => Ok(params),
        http::Method::POST => {
            let body = timeout(
                READ_TIMEOUT,
                Limited::new(request.into_body(), MAX_FORM_BYTES).collect(),
            )
            .await;
            let body = match body {
                Err(_) => return Err(bad("the form did not arrive in time")),
                Ok(Err(e)) if e.is::<LengthLimitError>() => return Err(bad("the form is larger than 1 MiB")),
                Ok(Err(_)) => return Err(bad("the form cannot be read")),
                Ok(Ok(body)) => body.to_bytes(),
            };
            params.add(std::str::from_utf8(&body).map_err(|_| bad("the form is not UTF-8"))?);
            Ok(params)
        }
        _ => Err(Box::new(answer::error(
            StatusCode::METHOD_NOT_ALLOWED,
            "bad_data",
            "use GET or POST",
        ))),
    }
}

fn status(error: &Error) -> (StatusCode, &'static str) {
    match error {
        Error::BadQuery(_) => (StatusCode::BAD_REQUEST, "bad_data"),
        Error::Execution(_) => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
        Error::Timeout(_) => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
    }
}
