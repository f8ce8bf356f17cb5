//! The HTTP/1.1 server under every service: connections in, one `answer` function a service, a graceful end.
//!
//! It keeps `/healthz`, `/admin/behaviour` (loopback only) and the ordered misbehaviour to itself, so that a service
//! is only its own answer.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::LocalSet;

use crate::ServerOptions;
use crate::behaviour::Behaviour;
use crate::shutdown::Shutdown;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
const REQUEST_BODY_BYTES_MAX: usize = 1 << 20;
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// One request, its body read.
pub struct Call {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub peer: SocketAddr,
}

impl Call {
    /// The path's parts between slashes.
    pub fn path(&self) -> Vec<&str> {
        self.uri.path().split('/').filter(|part| !part.is_empty()).collect()
    }

    /// The value of `key` in the query.
    pub fn query(&self, key: &str) -> Option<&str> {
        self.uri.query()?.split('&').find_map(|pair| {
            pair.split_once('=')
                .filter(|(name, _)| *name == key)
                .map(|(_, value)| value)
        })
    }
}

pub type Answer = Response<Full<Bytes>>;

/// The name that answers carry: the pod's.
pub fn pod_name() -> String {
    std::env::var("HOSTNAME")
        .ok()
        .filter(|name| !name.is_empty())
        .or_else(|| Some(std::fs::read_to_string("/etc/hostname").ok()?.trim().to_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}

pub fn json(status: StatusCode, body: &Value) -> Answer {
    answer(status, "application/json", body.to_string())
}

pub fn not_found(call: &Call) -> Answer {
    json(
        StatusCode::NOT_FOUND,
        &json!({"error": format!("nothing is at {}", call.uri.path())}),
    )
}

pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

struct Server<F> {
    answer: F,
    behaviour: Behaviour,
    served_by: HeaderValue,
    /// After SIGTERM: unready, connections end with their current request.
    lame: Cell<bool>,
}

/// Serves until SIGTERM; then a lame duck for a while, then only what is in flight.
pub async fn run<F, A>(options: ServerOptions, answer: F) -> anyhow::Result<()>
where
    F: Fn(Call) -> A + 'static,
    A: Future<Output = Answer> + 'static,
{
    let shutdown = Shutdown::install()?;
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("listening on {}", options.listen))?;
    say!("listening on {}", listener.local_addr()?);
    let fail_status = crate::behaviour::parse_status(&options.fail_status.to_string()).map_err(anyhow::Error::msg)?;
    let server = Rc::new(Server {
        answer,
        behaviour: Behaviour::new(options.fail, fail_status, options.delay),
        served_by: HeaderValue::from_str(&pod_name()).unwrap_or(HeaderValue::from_static("unknown")),
        lame: Cell::new(false),
    });
    LocalSet::new()
        .run_until(serve(server, listener, options, shutdown))
        .await;
    Ok(())
}

async fn serve<F, A>(server: Rc<Server<F>>, listener: TcpListener, options: ServerOptions, mut shutdown: Shutdown)
where
    F: Fn(Call) -> A + 'static,
    A: Future<Output = Answer> + 'static,
{
    let slots = Rc::new(Semaphore::new(CONNECTIONS_MAX));
    let (finish, finishing) = watch::channel(false);
    tokio::select! {
        () = accept(&server, &listener, &slots, &finishing) => {}
        () = shutdown.recv() => {}
    }
    server.lame.set(true);
    say!("asked to stop: unready, serving for {:?} more", options.lame_duck);
    tokio::select! {
        () = accept(&server, &listener, &slots, &finishing) => {}
        () = tokio::time::sleep(options.lame_duck) => {}
    }
    drop(listener);
    // Idle connections close, busy ones after their request.
    let _ = finish.send(true);
    let all = slots.acquire_many(CONNECTIONS_MAX as u32);
    match tokio::time::timeout(options.drain, all).await {
        Ok(_) => say!("stopped"),
        Err(_) => say!(
            "stopped; {} connections had not finished",
            CONNECTIONS_MAX - slots.available_permits()
        ),
    }
}

async fn accept<F, A>(
    server: &Rc<Server<F>>,
    listener: &TcpListener,
    slots: &Rc<Semaphore>,
    finishing: &watch::Receiver<bool>,
) where
    F: Fn(Call) -> A + 'static,
    A: Future<Output = Answer> + 'static,
{
    loop {
        let Ok(permit) = slots.acquire().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                permit.forget();
                let (server, slots) = (server.clone(), slots.clone());
                let finishing = finishing.clone();
                tokio::task::spawn_local(async move {
                    connection(server, stream, peer, finishing).await;
                    slots.add_permits(1);
                });
            }
            // Out of descriptors, or the peer was gone already: let others finish.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection<F, A>(
    server: Rc<Server<F>>,
    stream: TcpStream,
    peer: SocketAddr,
    mut finishing: watch::Receiver<bool>,
) where
    F: Fn(Call) -> A + 'static,
    A: Future<Output = Answer> + 'static,
{
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.respond(request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How a connection ends is the peer's business; whatever it asked has been answered.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = finishing.wait_for(|finish| *finish) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

impl<F, A> Server<F>
where
    F: Fn(Call) -> A,
    A: Future<Output = Answer>,
{
    async fn respond(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let mut answer = match request.uri().path() {
            "/healthz" if self.lame.get() => answer(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "stopping\n"),
            "/healthz" => answer(StatusCode::OK, "text/plain", "ok\n"),
            "/admin/behaviour" => self.administer(&request, peer),
            _ => self.work(request, peer).await,
        };
        answer.headers_mut().insert("x-served-by", self.served_by.clone());
        if self.lame.get() {
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    fn administer(&self, request: &Request<Incoming>, peer: SocketAddr) -> Answer {
        if !peer.ip().to_canonical().is_loopback() {
            let error = "only the loopback address may ask this";
            return json(StatusCode::FORBIDDEN, &json!({"error": error}));
        }
        let changed = match *request.method() {
            Method::POST => self.behaviour.change(request.uri().query().unwrap_or_default()),
            _ => Ok(()),
        };
        match changed {
            Ok(()) => json(StatusCode::OK, &self.behaviour.describe()),
            Err(error) => json(StatusCode::BAD_REQUEST, &json!({"error": error})),
        }
    }

    async fn work(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, REQUEST_BODY_BYTES_MAX).collect().await else {
            let error = "the body is broken or larger than 1 MiB";
            return json(StatusCode::BAD_REQUEST, &json!({"error": error}));
        };
        let failure = self.behaviour.next();
        let delay = self.behaviour.delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(status) = failure {
            return json(status, &json!({"error": "failed on order"}));
        }
        let call = Call {
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            body: body.to_bytes(),
            peer,
        };
        (self.answer)(call).await
    }
}
