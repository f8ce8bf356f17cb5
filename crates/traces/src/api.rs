//! Zipkin's HTTP API, second version.
//!
//! `POST /api/v2/spans`; `GET /api/v2/{traces, trace/<id>, traceMany, services, spans, remoteServices, dependencies}`; `/health`
//! and `/metrics`. Under `/zipkin` as well, as Zipkin's own user interface asks. Everybody who reaches the port may call.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_bodies::{Refused, Room};

use crate::links::Linker;
use crate::query::{Parameters, Query, Window, Wrong};
use crate::store::{Limits, Store, Trace, begin};
use crate::{gzip, span};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;
/// A body has so many bytes at most,
const BODY_BYTES_MAX: usize = 5 << 20;
/// and, unpacked, so many.
const CONTENT_BYTES_MAX: usize = 32 << 20;
/// Bytes of all bodies that are being received or read.
const ROOM_BYTES: usize = 64 << 20;
/// Bodies being unpacked and read at a time; more wait.
const POSTS_MAX: usize = 8;
/// Questions that are answered at a time; more wait.
const READS_MAX: usize = 4;
/// Traces that one request may ask for by name.
const MANY_MAX: usize = 1000;
/// An idle connection is kept so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Time that open connections have after shutdown was ordered.
const DRAIN: Duration = Duration::from_secs(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const HELP: &str = "Zipkin's API: POST /api/v2/spans; GET /api/v2/traces, /api/v2/trace/ID, /api/v2/traceMany, \
/api/v2/services, /api/v2/spans, /api/v2/remoteServices, /api/v2/dependencies; /health, /metrics\n";

struct Server {
    store: Mutex<Store>,
    room: Room,
    posts: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// Spans taken, bodies taken, bodies refused, bytes of bodies.
    spans: AtomicU64,
    messages: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
}

type Reply = Response<Full<Bytes>>;

/// Serves until `shutdown`.
pub async fn serve(listener: TcpListener, limits: Limits, shutdown: CancellationToken) {
    let server = Arc::new(Server {
        store: Mutex::new(Store::new(limits)),
        room: Room::new(ROOM_BYTES),
        posts: Arc::new(Semaphore::new(POSTS_MAX)),
        reads: Arc::new(Semaphore::new(READS_MAX)),
        spans: AtomicU64::new(0),
        messages: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    });
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            break;
        };
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (server, shutdown) = (Arc::clone(&server), shutdown.clone());
        tasks.spawn(async move {
            connection(server, stream, shutdown).await;
            drop(permit);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn connection(server: Arc<Server>, stream: TcpStream, shutdown: CancellationToken) {
    let service = service_fn(|request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => if let Err(error) = ended {
            tracing::debug!(%error, "connection");
        },
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // What is not finished by then is cut off.
            let _ = timeout(DRAIN, connection).await;
        }
    }
}

/// Why a request is not answered.
struct Refusal(StatusCode, String);

impl From<Wrong> for Refusal {
    fn from(wrong: Wrong) -> Self {
        Self(StatusCode::BAD_REQUEST, wrong.to_string())
    }
}

fn bad<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(StatusCode::BAD_REQUEST, why.into()))
}

impl Server {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        let path = parts
            .uri
            .path()
            .strip_prefix("/zipkin")
            .unwrap_or(parts.uri.path())
            .to_owned();
        if (&parts.method, &*path) == (&Method::POST, "/api/v2/spans") {
            return match self.take(&parts.headers, body).await {
                Ok(()) => reply(StatusCode::ACCEPTED, "text/plain", ""),
                Err(Refusal(status, why)) => {
                    self.refused.fetch_add(1, Relaxed);
                    text(status, &why)
                }
            };
        }
        let parameters = parameters(parts.uri.query().unwrap_or_default());
        let asked = match is_plain(&path) {
            true => self.get(&parts.method, &path, &parameters),
            false => self.look(parts.method, path, parameters).await,
        };
        match asked {
            Ok(reply) => reply,
            Err(Refusal(status, why)) => text(status, &why),
        }
    }

    /// As `get`, on a thread of its own: to look through all traces takes a while.
    async fn look(self: Arc<Self>, method: Method, path: String, parameters: Parameters) -> Result<Reply, Refusal> {
        let Ok(permit) = Arc::clone(&self.reads).acquire_owned().await else {
            return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, "shutting down".into()));
        };
        let looked = tokio::task::spawn_blocking(move || {
            // Until this has ended, whoever still waits for it.
            let _permit = permit;
            self.get(&method, &path, &parameters)
        });
        match looked.await {
            Ok(reply) => reply,
            Err(error) => Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        }
    }

    /// Takes the spans of a body.
    async fn take(&self, headers: &HeaderMap, body: Incoming) -> Result<(), Refusal> {
        let is = |name: header::HeaderName, what: &[&str]| {
            let value = headers
                .get(name)?
                .to_str()
                .unwrap_or("?")
                .split(';')
                .next()?
                .trim()
                .to_owned();
            (!what.iter().any(|w| value.eq_ignore_ascii_case(w))).then_some(value)
        };
        if let Some(odd) = is(header::CONTENT_TYPE, &["application/json", "text/json", "text/plain"]) {
            let why = format!("content-type {odd} is not supported; send spans as application/json (Zipkin v2)");
            return Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        if let Some(odd) = is(header::CONTENT_ENCODING, &["gzip", "x-gzip", "identity"]) {
            let why = format!("content-encoding {odd} is not supported; right would be gzip or none");
            return Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        let packed = headers.get(header::CONTENT_ENCODING).is_some_and(|v| v != "identity");
        let too_large = || {
            let why = format!("the body has more than {BODY_BYTES_MAX} bytes, or {CONTENT_BYTES_MAX} unpacked");
            Refusal(StatusCode::PAYLOAD_TOO_LARGE, why)
        };
        let body = match self.room.read(body, BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(Refused::TooLarge(_)) => return Err(too_large()),
            Err(why @ Refused::Full) => return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, why.to_string())),
            Err(why @ Refused::Late) => return Err(Refusal(StatusCode::REQUEST_TIMEOUT, why.to_string())),
            Err(why @ Refused::Broken(_)) => return bad(why.to_string()),
        };
        // Not before the body is here: who sends slowly must not keep others from sending.
        let Ok(permit) = Arc::clone(&self.posts).acquire_owned().await else {
            return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, "shutting down".into()));
        };
        let size = body.bytes.len();
        // Large ones take a while, and others are to be answered meanwhile.
        let read = tokio::task::spawn_blocking(move || {
            // Both until this has ended, whoever still waits for it.
            let (body, _permit) = (body, permit);
            let unpacked = match packed {
                true => gzip::content(&body.bytes, CONTENT_BYTES_MAX).map_err(|error| match error {
                    gzip::Refused::TooLarge => None,
                    malformed => Some(malformed.to_string()),
                })?,
                false => body.bytes.to_vec(),
            };
            span::read(&unpacked).map_err(|error| Some(error.to_string()))
        });
        let spans = match read.await {
            Ok(Ok(spans)) => spans,
            Ok(Err(None)) => return Err(too_large()),
            Ok(Err(Some(why))) => return bad(why),
            Err(error) => return Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        };
        self.messages.fetch_add(1, Relaxed);
        self.bytes.fetch_add(u64::try_from(size).unwrap_or(0), Relaxed);
        self.spans.fetch_add(u64::try_from(spans.len()).unwrap_or(0), Relaxed);
        self.store().add(spans);
        Ok(())
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, method: &Method, path: &str, parameters: &Parameters) -> Result<Reply, Refusal> {
        let service = || match parameters.get("serviceName").filter(|name| !name.is_empty()) {
            Some(name) => Ok(name.to_lowercase()),
            None => bad("serviceName: is missing"),
        };
        let known = [
            "traces",
            "traceMany",
            "services",
            "spans",
            "remoteServices",
            "dependencies",
        ];
        let name = path.strip_prefix("/api/v2/").unwrap_or_default();
        let one = name.strip_prefix("trace/");
        if !is_plain(path) && one.is_none() && !known.contains(&name) {
            return Err(Refusal(StatusCode::NOT_FOUND, HELP.trim_end().into()));
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let why = if name == "spans" { "use POST or GET" } else { "use GET" };
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, why.into()));
        }
        Ok(match (path, name, one) {
            ("/" | "", ..) => reply(StatusCode::OK, "text/plain", HELP),
            ("/health", ..) => json(&json!({"status": "UP", "zipkin": {"status": "UP"}})),
            ("/metrics", ..) => reply(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.metrics(),
            ),
            (.., Some(id)) => {
                let id = span::trace_id(id).or_else(|why| bad(format!("trace id {why}")))?;
                let trace = self.store().trace(&id).cloned();
                match trace {
                    Some(trace) => json(&spans(&trace)),
                    None => return Err(Refusal(StatusCode::NOT_FOUND, format!("trace {id} is not here"))),
                }
            }
            (_, "traces", _) => self.traces(&Query::read(parameters, now_ms())?),
            (_, "traceMany", _) => self.many(parameters)?,
            (_, "services", _) => json(&self.store().services()),
            (_, "spans", _) => json(&self.store().span_names(&service()?)),
            (_, "remoteServices", _) => json(&self.store().remote_services(&service()?)),
            (_, "dependencies", _) => self.dependencies(&Window::read(parameters, None)?),
            _ => return Err(Refusal(StatusCode::NOT_FOUND, HELP.trim_end().into())),
        })
    }

    /// All traces as they are now. They are looked at when the store is free for others again.
    fn all(&self) -> Vec<Trace> {
        self.store().traces().cloned().collect()
    }

    /// The newest traces that are asked for.
    fn traces(&self, query: &Query) -> Reply {
        let mut found = self.all();
        found.retain(|trace| query.holds(trace));
        found.sort_by_key(|trace| std::cmp::Reverse(begin(trace)));
        found.truncate(query.limit);
        json(&found.iter().map(|trace| spans(trace)).collect::<Vec<_>>())
    }

    fn many(&self, parameters: &Parameters) -> Result<Reply, Refusal> {
        let text = parameters.get("traceIds").map(String::as_str).unwrap_or_default();
        let mut ids = BTreeSet::new();
        for id in text.split(',').map(str::trim).filter(|id| !id.is_empty()) {
            ids.insert(span::trace_id(id).or_else(|why| bad(format!("traceIds: {why}")))?);
        }
        if ids.is_empty() || ids.len() > MANY_MAX {
            return bad(format!(
                "traceIds: must be 1 to {MANY_MAX} identifiers with commas between them"
            ));
        }
        let found: Vec<Trace> = {
            let store = self.store();
            ids.iter().filter_map(|id| store.trace(id).cloned()).collect()
        };
        Ok(json(&found.iter().map(|trace| spans(trace)).collect::<Vec<_>>()))
    }

    fn dependencies(&self, window: &Window) -> Reply {
        let mut linker = Linker::default();
        let all = self.all();
        let wanted = all.iter().filter(|trace| window.holds(trace));
        wanted.for_each(|trace| linker.add(trace));
        json(&linker.links())
    }

    /// Figures, named as Zipkin names them.
    fn metrics(&self) -> String {
        let (traces, spans, bytes, evicted) = self.store().figures();
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        [
            ("zipkin_collector_spans_total", "counter", load(&self.spans)),
            ("zipkin_collector_messages_total", "counter", load(&self.messages)),
            (
                "zipkin_collector_messages_dropped_total",
                "counter",
                load(&self.refused),
            ),
            ("zipkin_collector_bytes_total", "counter", load(&self.bytes)),
            ("zipkin_storage_spans_evicted_total", "counter", evicted),
            ("zipkin_storage_traces", "gauge", count(traces)),
            ("zipkin_storage_spans", "gauge", count(spans)),
            ("zipkin_storage_bytes", "gauge", count(bytes)),
        ]
        .map(|(name, kind, value)| format!("# TYPE {name} {kind}\n{name} {value}\n"))
        .concat()
    }
}

/// Paths that are answered at once.
fn is_plain(path: &str) -> bool {
    matches!(path, "/" | "" | "/health" | "/metrics")
}

/// A trace as it is shown: in order of time.
fn spans(trace: &Trace) -> Vec<&span::Span> {
    let mut spans: Vec<&span::Span> = trace.iter().map(Arc::as_ref).collect();
    spans.sort_by_key(|s| s.timestamp.unwrap_or(u64::MAX));
    spans
}

fn parameters(query: &str) -> Parameters {
    let text = |text: &str| {
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn json<T: Serialize + ?Sized>(value: &T) -> Reply {
    let text = serde_json::to_string(value).unwrap_or_else(|_| Value::Null.to_string());
    reply(StatusCode::OK, "application/json", text)
}

fn text(status: StatusCode, why: &str) -> Reply {
    reply(status, "text/plain", format!("{why}\n"))
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let value = header::HeaderValue::from_static(content_type);
    reply.headers_mut().insert(header::CONTENT_TYPE, value);
    reply
}
