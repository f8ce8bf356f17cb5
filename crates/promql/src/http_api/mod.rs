//! Prometheus's HTTP API over an [`Engine`], on any HTTP/1.1 connection.
//!
//! Queries, series, labels, metadata, `/federate`, targets, rules, alerts and status by GET or POST form, the receiver of
//! remote write, `/sd/proxies`, `/-/ready`, `/-/healthy` and `/metrics`. Who may call, and of which namespaces, is decided
//! by an [`Authorize`] hook that sees the bearer token; this module knows neither Kubernetes nor the store behind the engine.

mod answer;
mod api;
mod compress;
mod native;
mod params;
mod query;
mod receive;
mod routes;
mod scope;
mod series;
mod status;
mod targets;

pub use api::{Api, Control, JsonSource, Obeyed, SelfMetrics, Status, TargetsJson, any_origin};
pub use scope::Scoped;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use routes::{Answer, Refusal};
use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use weir_bodies::{Refused, Room};

/// Whether a caller may read the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Yes, and write, where writing is on.
    Allow,
    /// Only the series of these namespaces; nothing about the server, no writing.
    Namespaces(Vec<String>),
    /// Unknown caller (401), and why.
    Unauthenticated(String),
    /// Known caller without the right (403), and why.
    Forbidden(String),
    /// Nobody can tell now (503), and why.
    Unavailable(String),
}

/// Decides about a request: the bearer token, if there is one, goes in. Must answer within its own timeout.
pub type Authorize = Arc<dyn Fn(Option<String>) -> Pin<Box<dyn Future<Output = Access> + Send>> + Send + Sync>;

/// For listeners that are open to whoever reaches them (the host's loopback address of `weir up`).
pub fn allow_all() -> Authorize {
    Arc::new(|_| Box::pin(async { Access::Allow }))
}

/// Queries evaluated at the same time; further ones wait.
const MAX_QUERIES: usize = 4;
/// Bodies of remote write that are stored at the same time; further ones wait.
const MAX_WRITES: usize = 2;
/// Connections at the same time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Answers of so many bytes are compressed on a thread of their own.
const COMPRESSED_APART: usize = 64 << 10;
/// Bytes of a POST form.
const MAX_FORM_BYTES: usize = 1 << 20;
/// Bytes of all bodies that are being read or worked off.
const ROOM_BYTES: usize = 64 << 20;
/// Time that the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Time that open connections have after shutdown was ordered.
const DRAIN: Duration = Duration::from_secs(5);

struct Server {
    api: Api,
    authorize: Authorize,
    queries: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    room: Room,
    counts: routes::Counts,
}

/// Serves until `shutdown`, then lets open requests finish within a few seconds.
pub async fn serve(listener: TcpListener, api: Api, authorize: Authorize, shutdown: CancellationToken) {
    let server = Arc::new(Server {
        api,
        authorize,
        queries: Arc::new(Semaphore::new(MAX_QUERIES)),
        writes: Arc::new(Semaphore::new(MAX_WRITES)),
        room: Room::new(ROOM_BYTES),
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
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
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
        let zip = compress::accepted(request.headers());
        let origin = request.headers().get(header::ORIGIN).cloned();
        let mut response = match *request.method() {
            // What a browser asks before the request proper.
            Method::OPTIONS => empty(StatusCode::NO_CONTENT),
            _ => self.route(request).await.unwrap_or_else(|refusal| refusal.answer()),
        };
        if let Some(origin) = origin {
            self.share(&origin, response.headers_mut());
        }
        if !zip || response.headers().contains_key(header::CONTENT_ENCODING) {
            return response;
        }
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap_or_default().to_bytes();
        let response = Response::from_parts(head, body);
        if response.body().len() < COMPRESSED_APART {
            return compress::compress(response);
        }
        let compressed = tokio::task::spawn_blocking(|| compress::compress(response)).await;
        compressed.unwrap_or_else(|_| failed().answer())
    }

    async fn route(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        // Probes carry no token, and what they learn is no secret.
        match path.as_str() {
            "/-/healthy" => return Ok(status::alive(true)),
            "/-/ready" => return Ok(status::alive((self.api.ready)())),
            _ => {}
        }
        let namespaces = match (self.authorize)(bearer_token(&request)).await {
            Access::Allow => None,
            Access::Namespaces(namespaces) => Some(namespaces),
            Access::Unauthenticated(why) => {
                let mut response = answer::error(StatusCode::UNAUTHORIZED, "unauthorized", &why);
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                return Ok(response);
            }
            Access::Forbidden(message) => return Err(forbidden(message)),
            Access::Unavailable(message) => return Err(unavailable(message)),
        };
        if let Some(order) = path.strip_prefix("/-/") {
            return match namespaces {
                None => self.obey(order.to_owned(), request.method()).await,
                Some(_) => Err(forbidden("orders need the right to get the path /api/v1".into())),
            };
        }
        if path == "/api/v1/write" {
            return match namespaces {
                None => self.write(request).await,
                Some(_) => Err(forbidden("writing needs the right to get the path /api/v1".into())),
            };
        }
        let params = self.read_params(request).await?;
        let permit = self
            .queries
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| shutting_down())?;
        let server = self.clone();
        // Whoever hangs up does not want the answer any more: this future is dropped, and the evaluation ends.
        let cancelled = CancellationToken::new();
        let _guard = cancelled.clone().drop_guard();
        let engine = self.api.engine.until(cancelled);
        // Evaluation blocks: keep it off the threads that serve connections.
        let answered = tokio::task::spawn_blocking(move || {
            // Not before its end is this evaluation none of those at the same time, whoever still waits for it.
            let (server, _permit) = (&server, permit);
            routes::answer(
                &server.api,
                &engine,
                &server.counts,
                &path,
                &params,
                namespaces.as_deref(),
            )
        });
        answered.await.map_err(|_| failed())
    }

    async fn obey(&self, order: String, method: &Method) -> Answer {
        let text = |status, text: String| Ok(answer::text(status, "text/plain; charset=utf-8", text));
        if !matches!(*method, Method::POST | Method::PUT) {
            let why = "Only POST or PUT requests allowed".to_owned();
            return text(StatusCode::METHOD_NOT_ALLOWED, why);
        }
        let control = self.api.control.clone();
        let path = format!("/-/{order}");
        let obeyed = tokio::task::spawn_blocking(move || control(&order));
        match obeyed.await.map_err(|_| failed())? {
            Obeyed::Done => Ok(empty(StatusCode::OK)),
            Obeyed::Failed(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
            Obeyed::Off => text(StatusCode::FORBIDDEN, "Lifecycle API is not enabled.".to_owned()),
            Obeyed::Unknown => Err(Refusal::not_found(&path)),
        }
    }

    async fn write(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        let Some(store) = self.api.receiver.clone() else {
            return Err(Refusal {
                status: StatusCode::NOT_FOUND,
                kind: "not_found",
                message: "remote write is off here: start with --web.enable-remote-write-receiver".into(),
            });
        };
        if request.method() != Method::POST {
            return Err(not_allowed("use POST"));
        }
        let version = match receive::version(request.headers()) {
            Ok(version) => version,
            Err(response) => return Ok(*response),
        };
        // First the body, then the turn: who sends slowly must not keep others from storing.
        let body = self.room.read(request.into_body(), receive::MAX_BODY_BYTES).await?;
        let permit = self.writes.clone().acquire_owned().await.map_err(|_| shutting_down())?;
        let stored = tokio::task::spawn_blocking(move || {
            // Until it is stored, whoever still waits for it.
            let (body, _permit) = (body, permit);
            receive::receive(version, &body.bytes, store.as_ref())
        });
        let (response, received) = stored.await.map_err(|_| failed())?;
        self.counts
            .written
            .fetch_add((received.samples + received.histograms) as u64, Relaxed);
        self.counts.refused.fetch_add(received.refused as u64, Relaxed);
        Ok(response)
    }

    /// Parameters of a form, then those of the query string: where both have one, the form's counts.
    async fn read_params(&self, request: Request<Incoming>) -> Result<params::Params, Refusal> {
        let mut params = params::Params::default();
        let query = request.uri().query().unwrap_or_default().to_owned();
        match *request.method() {
            Method::GET | Method::HEAD => {}
            Method::POST => {
                let form = self.room.read(request.into_body(), MAX_FORM_BYTES).await?;
                params.add(std::str::from_utf8(&form.bytes).map_err(|_| bad("the form is not UTF-8".into()))?);
            }
            _ => return Err(not_allowed("use GET or POST")),
        }
        params.add(&query);
        Ok(params)
    }

    /// Lets a page of this origin read the answer, if it may.
    fn share(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        for (name, value) in [
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "Accept, Authorization, Content-Type, Origin",
            ),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
            (header::VARY, "Origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let pattern = &self.api.cors_origin;
        if pattern.as_str() == any_origin().as_str() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else if let Ok(text) = origin.to_str()
            && pattern.find(text).is_some_and(|found| found.len() == text.len())
        {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
    }
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn forbidden(message: String) -> Refusal {
    Refusal {
        status: StatusCode::FORBIDDEN,
        kind: "forbidden",
        message,
    }
}

fn not_allowed(message: &str) -> Refusal {
    Refusal {
        status: StatusCode::METHOD_NOT_ALLOWED,
        kind: "bad_data",
        message: message.into(),
    }
}

fn unavailable(message: String) -> Refusal {
    Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        kind: "unavailable",
        message,
    }
}

impl From<Refused> for Refusal {
    fn from(why: Refused) -> Self {
        match why {
            Refused::TooLarge(_) | Refused::Broken(_) => bad(why.to_string()),
            // Senders of remote write try again after a 503, and drop what was refused by any other code.
            Refused::Full | Refused::Late => unavailable(why.to_string()),
        }
    }
}

fn shutting_down() -> Refusal {
    unavailable("shutting down".into())
}

fn failed() -> Refusal {
    Refusal {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        kind: "internal",
        message: "the request failed".into(),
    }
}

fn bearer_token(request: &Request<Incoming>) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn bad(message: String) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        kind: "bad_data",
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_refused_for_good_or_for_now() {
        for (why, status) in [
            (Refused::TooLarge(10), 400),
            (Refused::Broken("reset".into()), 400),
            (Refused::Full, 503),
            (Refused::Late, 503),
        ] {
            let text = why.to_string();
            let refusal = Refusal::from(why);
            assert_eq!((refusal.status.as_u16(), refusal.message), (status, text));
        }
    }
}
