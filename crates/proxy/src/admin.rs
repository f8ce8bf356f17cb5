//! What the proxy shows and obeys: a public page of metrics, a private socket for the rest.
//!
//! The address of the pod offers `/metrics`, `/stats/prometheus` and `/ready` only; configuration and orders are on the
//! bootstrap's admin address, which is a Unix socket of the node.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore};
use weir_xds::ResourceType;

use crate::config::route::{Clusters, Forward};
use crate::config::{Action, Active, EndpointSource};
use crate::envoy_page;
use crate::page::Body;
use crate::publish::Publisher;
use crate::shared::Shared;

/// Requests served at a time.
const CONNECTIONS_MAX: usize = 64;
/// Idle connections of a scraper are kept this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What an administration request may see and order.
#[derive(Clone)]
pub struct Admin {
    /// The proxy.
    pub shared: Arc<Shared>,
    /// Its configuration.
    pub publisher: Publisher,
    /// Ends the process after draining.
    pub quit: Arc<Notify>,
}

/// Serves the public page on a TCP address. Never ends.
pub async fn serve_public(admin: Admin, socket: TcpListener) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else {
            return;
        };
        match socket.accept().await {
            Ok((stream, _)) => {
                let admin = admin.clone();
                tokio::spawn(async move {
                    serve(stream, move |request| admin.public(request)).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves everything on a TCP address. Never ends.
pub async fn serve_private(admin: Admin, socket: TcpListener) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                let admin = admin.clone();
                tokio::spawn(serve(stream, move |request| admin.private(request)));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves everything on a Unix socket. Never ends.
pub async fn serve_pipe(admin: Admin, socket: UnixListener) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                let admin = admin.clone();
                tokio::spawn(serve(stream, move |request| admin.private(request)));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Binds a Unix socket that only its owner may use, in place of one that was left behind.
pub fn bind_pipe(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

type Reply = Response<Body>;

async fn serve<S>(stream: S, answer: impl Fn(&Request<Incoming>) -> Reply)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let reply = answer(&request);
        async move { Ok::<_, Infallible>(reply) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "administration connection");
    }
}

impl Admin {
    fn public(&self, request: &Request<Incoming>) -> Reply {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => {
                let recorder = Arc::clone(&self.shared.recorder);
                metrics_reply(move || {
                    let mut page = recorder.page();
                    move |out: &mut String, bytes| page.write(out, bytes)
                })
            }
            (&Method::GET | &Method::HEAD, "/stats/prometheus") => {
                let shared = Arc::clone(&self.shared);
                metrics_reply(move || envoy_page::page(&shared))
            }
            (&Method::GET | &Method::HEAD, "/ready") => match self.shared.ready() {
                true => text(StatusCode::OK, "LIVE\n"),
                false => text(StatusCode::SERVICE_UNAVAILABLE, "INITIALIZING\n"),
            },
            (_, "/metrics" | "/stats/prometheus" | "/ready") => text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n"),
            _ => text(
                StatusCode::NOT_FOUND,
                "here are /metrics, /stats/prometheus and /ready\n",
            ),
        }
    }

    fn private(&self, request: &Request<Incoming>) -> Reply {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/config_dump") => json_reply(&self.config_dump()),
            (&Method::GET, "/clusters") => json_reply(&clusters(&self.shared.active.load())),
            (&Method::GET, "/listeners") => json_reply(&self.listeners()),
            (&Method::POST, "/drain") => {
                self.shared.life.drain();
                text(StatusCode::OK, "draining\n")
            }
            (&Method::POST, "/drain_listeners") => self.drain_listeners(request.uri().query().unwrap_or("")),
            (&Method::POST, "/quitquitquit") => {
                self.quit.notify_one();
                text(StatusCode::OK, "draining, then ending\n")
            }
            (_, "/drain" | "/drain_listeners" | "/quitquitquit") => text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n"),
            _ => self.public(request),
        }
    }

    /// Envoy's call of this name, in the one form that leaves the listeners open.
    fn drain_listeners(&self, query: &str) -> Reply {
        let mut asked: Vec<&str> = query.split('&').collect();
        asked.sort_unstable();
        match asked[..] {
            ["graceful", "inboundonly", "skip_exit"] => self.shared.life.drain_inbound(),
            ["graceful", "skip_exit"] => self.shared.life.drain(),
            _ => {
                let known =
                    "use graceful&skip_exit, with inboundonly or without: listeners are never closed before the end\n";
                return text(StatusCode::BAD_REQUEST, known);
            }
        }
        text(StatusCode::OK, "draining\n")
    }

    /// What was received, what was refused, and what is in force.
    fn config_dump(&self) -> Value {
        let active = self.shared.active.load();
        let resource = |ty: ResourceType| -> Vec<Value> {
            let raw = self.publisher.raw();
            raw.iter()
                .filter(|r| r.ty == ty)
                .map(|r| json!({"name": r.name, "version": r.version, "bytes": r.body.len()}))
                .collect()
        };
        let rejected: Vec<Value> = self
            .publisher
            .rejections()
            .into_iter()
            .map(|(ty, name, why)| json!({"type": ty.short(), "name": name, "error": why}))
            .collect();
        json!({
            "version": active.version,
            "complete": active.complete,
            "connected": self.shared.connected.load(Ordering::Relaxed),
            "draining": self.shared.life.draining(),
            "connections": {
                "open": self.shared.connections.load(Ordering::Relaxed),
                "accepted": self.shared.accepted.load(Ordering::Relaxed),
                "refused": self.shared.refused.load(Ordering::Relaxed),
            },
            "spans": {
                "sent": self.shared.traces.sent.load(Ordering::Relaxed),
                "dropped": self.shared.traces.dropped.load(Ordering::Relaxed),
            },
            "access_log": {
                "dropped": self.shared.access_log.dropped(),
            },
            "received": {
                "clusters": resource(ResourceType::Cluster),
                "endpoints": resource(ResourceType::Endpoint),
                "listeners": resource(ResourceType::Listener),
                "routes": resource(ResourceType::Route),
                "secrets": resource(ResourceType::Secret),
            },
            "rejected": rejected,
            "active": {
                "listeners": self.listeners(),
                "routes": routes(&active),
                "clusters": clusters(&active),
            },
        })
    }

    fn listeners(&self) -> Value {
        let active = self.shared.active.load();
        let sockets = self.shared.sockets.all();
        let mut listeners: Vec<_> = active.listeners.values().collect();
        listeners.sort_by(|a, b| a.name.cmp(&b.name));
        let one = |listener: &Arc<crate::config::Listener>| {
            let socket = listener.bind.then(|| match sockets.get(&listener.address) {
                Some(Ok(workers)) => json!({"workers": workers}),
                Some(Err(error)) => json!({"error": error}),
                None => json!({"workers": 0}),
            });
            let chains: Vec<Value> = listener.all_chains().map(chain).collect();
            json!({
                "name": &*listener.name,
                "address": listener.address.to_string(),
                "direction": listener.direction.as_str(),
                "socket": socket,
                "chains": chains,
            })
        };
        Value::Array(listeners.into_iter().map(one).collect())
    }
}

fn chain(chain: &crate::config::FilterChain) -> Value {
    let filter = match &chain.filter {
        crate::config::Filter::Tcp(tcp) => {
            json!({"tcp": {"clusters": tcp.clusters().map(|c| &**c).collect::<Vec<_>>()}})
        }
        crate::config::Filter::Http(http) => match &http.routes {
            crate::config::RouteSource::Named(name) => json!({"http": {"routes": &**name}}),
            crate::config::RouteSource::Inline(table) => json!({"http": {"inline_routes": table_json(table)}}),
        },
    };
    json!({
        "destination_port": chain.destination_port,
        "server_names": chain.server_names,
        "secrets": chain.tls.iter().flat_map(|tls| &tls.secrets).map(|s| &*s.name).collect::<Vec<_>>(),
        "application_protocols": chain.application_protocols,
        "filter": filter,
    })
}

fn routes(active: &Active) -> Value {
    let mut tables: Vec<_> = active.routes.values().collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    let one =
        |table: &&Arc<crate::config::RouteTable>| json!({"name": &*table.name, "virtual_hosts": table_json(table)});
    Value::Array(tables.iter().map(one).collect())
}

fn table_json(table: &crate::config::RouteTable) -> Value {
    let action = |route: &Arc<crate::config::Route>| match &route.action {
        Action::Respond { status, .. } => json!({"name": &*route.name, "respond": status.as_u16()}),
        Action::Redirect(redirect) => json!({"name": &*route.name, "redirect": redirect.status}),
        Action::Forward(Forward {
            clusters: Clusters::One(name),
            ..
        }) => json!({"name": &*route.name, "cluster": &**name}),
        Action::Forward(Forward {
            clusters: Clusters::Split(split),
            ..
        }) => {
            let shares = std::iter::once(&split.first).chain(&split.rest);
            let weights: serde_json::Map<_, _> = shares.map(|s| (s.cluster.to_string(), s.weight.into())).collect();
            json!({"name": &*route.name, "weighted_clusters": weights})
        }
    };
    let host = |host: &crate::config::route::VirtualHost| {
        let domains: Vec<&str> = host.domains.iter().map(|d| &**d).collect();
        let routes: Vec<Value> = host.routes.iter().map(action).collect();
        json!({"name": &*host.name, "domains": domains, "routes": routes})
    };
    Value::Array(table.hosts.iter().map(host).collect())
}

fn clusters(active: &Active) -> Value {
    let mut clusters: Vec<_> = active.clusters.values().collect();
    clusters.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let endpoint = |e: &crate::config::Endpoint| {
        let p = &e.peer;
        json!({"address": e.address.to_string(), "weight": e.weight, "namespace": p.namespace, "pod": p.pod})
    };
    let source = |source: &EndpointSource| match source {
        EndpointSource::Static(_) => "static",
        EndpointSource::Assignment(_) => "eds",
        EndpointSource::Dns(..) => "dns",
        EndpointSource::OriginalDst => "original_dst",
    };
    let one = |cluster: &Arc<crate::config::Cluster>| {
        json!({
            "name": &*cluster.spec.name,
            "source": source(&cluster.spec.source),
            "endpoints": cluster.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        })
    };
    Value::Array(clusters.into_iter().map(one).collect())
}

fn json_reply(value: &Value) -> Reply {
    reply(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn text(status: StatusCode, body: &str) -> Reply {
    reply(status, "text/plain", body.to_owned())
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Reply {
    with_type(status, content_type, Body::Whole(Some(Bytes::from(body))))
}

fn metrics_reply<W>(begin: impl FnOnce() -> W + Send + 'static) -> Reply
where
    W: FnMut(&mut String, usize) -> bool,
{
    match Body::page(begin) {
        Ok(page) => with_type(StatusCode::OK, METRICS_TYPE, page),
        Err(error) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("no thread to write the page: {error}\n"),
        ),
    }
}

fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    reply
}
