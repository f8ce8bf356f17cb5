//! The ADS server: gRPC streams in, snapshots out.
//!
//! Each stream is one task that owns its [`session`] and writes to a bounded queue. The first request must name the
//! node and pass [`Authorize`]; afterwards the task sends whatever its session finds to differ between the client and
//! the node's snapshot in the [`cache`]. This module knows neither who builds snapshots nor how a peer proves who it is.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::value::Kind;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Status};

use crate::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use crate::snapshot::Snapshot;
use crate::types::ResourceType;

pub mod cache;
mod incoming;
mod message;
mod requests;
pub mod session;

pub use cache::{Cache, NodeInfo, NodeStatus};
use cache::{Connection, Standing};
use incoming::{Info, incoming};
use message::{Message, ResponseBody};
use requests::Requests;
use session::delta::DeltaSession;
use session::sotw::SotwSession;
use session::{Event, Nack, TypeStatus};

/// The service that is served, and its two methods.
const SERVICE: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const STATE_OF_THE_WORLD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
/// Responses that may wait for a slow client before its task waits too. Of each type one is on its way at most.
const RESPONSES_QUEUED: usize = 8;
/// Connections that may wait to be accepted; the system may allow fewer.
const CONNECTIONS_WAITING: u32 = 16_384;
/// A connection of which no stream was authorized within this time is closed: longer than handshakes take when a whole fleet
/// comes at once.
const STREAM_TIMEOUT: Duration = Duration::from_secs(60);
/// A client must say who it is within this time.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The check of an identity (a call to the Kubernetes API) may take this long.
const AUTHORIZE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes nothing for this long is disconnected; it will come back with what it has.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Dead peers are found by HTTP/2 pings.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Connections of a listener that was changed have drained after this time, whichever proxy: so long they may need the
/// clusters of the listener as it was.
pub const DRAINED: Duration = Duration::from_secs(60);

/// What a client presents to prove who it is.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The token of an `authorization: Bearer` header.
    pub token: Option<String>,
    /// Address of the client.
    pub remote: Option<std::net::SocketAddr>,
}

/// Why a client is turned away, in words that its log will show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It did not prove that it is the node: PERMISSION_DENIED.
    Denied(String),
    /// That could not be found out now: UNAVAILABLE, it may try again.
    Unavailable(String),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(why) => Status::permission_denied(why),
            Refusal::Unavailable(why) => Status::unavailable(why),
        }
    }
}

/// Decides whether a client may have a node's configuration.
pub trait Authorize: Send + Sync + 'static {
    /// Whether the client's credentials prove that it is this node.
    fn authorize(&self, credentials: &Credentials, node: &NodeInfo)
    -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// Lets everybody in: for tests and for a socket that only the right peer can reach.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Authorize for AllowAll {
    async fn authorize(&self, _: &Credentials, _: &NodeInfo) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Certificate chain and key of the server, PEM.
#[derive(Clone)]
pub struct ServerTls {
    /// Certificate chain.
    pub cert_pem: String,
    /// Private key.
    pub key_pem: String,
}

/// Binds the address that clients come to. A whole fleet may come at once, when a control plane comes back: none of them is to
/// be dropped and to wait for its next try.
pub fn listen(address: std::net::SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        std::net::SocketAddr::V4(_) => TcpSocket::new_v4(),
        std::net::SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(CONNECTIONS_WAITING)
}

/// Serves ADS on a bound socket until the shutdown future is done. `tls: None` serves clear text.
pub async fn serve<A: Authorize>(
    listener: TcpListener,
    tls: Option<ServerTls>,
    cache: Cache,
    authorize: A,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    serve_within(STREAM_TIMEOUT, listener, tls, cache, authorize, shutdown).await
}

async fn serve_within<A: Authorize>(
    limit: Duration,
    listener: TcpListener,
    tls: Option<ServerTls>,
    cache: Cache,
    authorize: A,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let ads = Ads {
        shared: Arc::new(Shared {
            cache,
            authorize,
            stopped,
        }),
    };
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE));
    if let Some(tls) = tls {
        server = server.tls_config(ServerTlsConfig::new().identity(Identity::from_pem(tls.cert_pem, tls.key_pem)))?;
    }
    let shutdown = async move {
        shutdown.await;
        // Streams never end by themselves: end them, so that the server can.
        let _ = stop.send(true);
    };
    server
        .add_service(ads)
        .serve_with_incoming_shutdown(incoming(listener, limit), shutdown)
        .await
}

struct Shared<A> {
    cache: Cache,
    authorize: A,
    stopped: tokio::sync::watch::Receiver<bool>,
}

struct Ads<A> {
    shared: Arc<Shared<A>>,
}

impl<A> Clone for Ads<A> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<A> NamedService for Ads<A> {
    const NAME: &'static str = SERVICE;
}

impl<A: Authorize> tower_service::Service<http::Request<Body>> for Ads<A> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // Each has come by a connection of `incoming`; without, nobody could say that it is to stay.
        let Some(connection) = Info::of(request.extensions()).cloned() else {
            return ready(Ok(Status::internal("the connection is not known").into_http()));
        };
        let body = match request.uri().path() {
            DELTA => self.open::<DeltaSession>(Request::from_http(request), connection),
            STATE_OF_THE_WORLD => self.open::<SotwSession>(Request::from_http(request), connection),
            _ => return ready(Ok(Status::unimplemented("only ADS is served").into_http())),
        };
        let mut response = http::Response::new(Body::new(body));
        let content = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, content);
        ready(Ok(response))
    }
}

/// What a stream's task needs of either variant of the protocol.
trait Variant: Default + std::fmt::Debug + Send + 'static {
    type Request: prost::Message + Default + 'static;
    const NAME: &'static str;
    fn node(request: &Self::Request) -> Option<&Node>;
    fn on_request(&mut self, request: Self::Request) -> Vec<Event>;
    fn next(&mut self, snapshot: &Snapshot) -> Option<Message>;
    fn release(&mut self);
    fn rejections(&self) -> Vec<Nack>;
    fn status(&self) -> BTreeMap<ResourceType, TypeStatus>;
}

macro_rules! variant {
    ($session:ty, $request:ty, $name:literal) => {
        impl Variant for $session {
            type Request = $request;
            const NAME: &'static str = $name;
            fn node(request: &$request) -> Option<&Node> {
                request.node.as_ref()
            }
            fn on_request(&mut self, request: $request) -> Vec<Event> {
                Self::on_request(self, request)
            }
            fn next(&mut self, snapshot: &Snapshot) -> Option<Message> {
                self.advance(snapshot).map(Message::from)
            }
            fn release(&mut self) {
                Self::release(self);
            }
            fn rejections(&self) -> Vec<Nack> {
                Self::rejections(self)
            }
            fn status(&self) -> BTreeMap<ResourceType, TypeStatus> {
                Self::status(self)
            }
        }
    };
}
variant!(DeltaSession, DeltaDiscoveryRequest, "delta");
variant!(SotwSession, DiscoveryRequest, "sotw");

/// A session belongs to its stream's task; others look at it for a moment.
impl<V: Variant> Standing for Mutex<V> {
    fn status(&self) -> BTreeMap<ResourceType, TypeStatus> {
        locked(self).status()
    }
}

fn locked<V>(session: &Mutex<V>) -> MutexGuard<'_, V> {
    // Should the session have panicked half-way, its stream has ended.
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

type Queue = mpsc::Sender<Result<Message, Status>>;

impl<A: Authorize> Ads<A> {
    fn open<V: Variant>(&self, request: Request<Body>, connection: Info) -> ResponseBody {
        let credentials = Credentials {
            token: bearer_token(&request),
            remote: connection.remote,
        };
        let requests = Requests::new(request.into_inner());
        let (queue, responses) = mpsc::channel(RESPONSES_QUEUED);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            if let Err(status) = shared.stream::<V>(credentials, connection, requests, &queue).await {
                tracing::debug!(%status, "xDS stream ended");
                let _ = tokio::time::timeout(SEND_TIMEOUT, queue.send(Err(status))).await;
            }
        });
        ResponseBody::new(responses)
    }
}

fn bearer_token<T>(request: &Request<T>) -> Option<String> {
    let header = request.metadata().get("authorization")?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn node_info(node: &Node) -> NodeInfo {
    let text = |key: &str| match node.metadata.as_ref().and_then(|m| m.fields.get(key)?.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => String::new(),
    };
    NodeInfo {
        id: node.id.clone(),
        engine: text("engine"),
        host_ip: text("host_ip"),
        user_agent: node.user_agent_name.clone(),
    }
}

impl<A: Authorize> Shared<A> {
    /// The life of one stream: who is it, then requests and snapshots until either side ends it.
    async fn stream<V: Variant>(
        &self,
        credentials: Credentials,
        connection: Info,
        mut requests: Requests<V::Request>,
        queue: &Queue,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_REQUEST_TIMEOUT, requests.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no request came after the stream was opened"))??;
        let Some(first) = first else { return Ok(()) };
        let node = V::node(&first)
            .map(node_info)
            .filter(|node| !node.id.is_empty())
            .ok_or_else(|| Status::invalid_argument("the first request must carry node.id"))?;
        tokio::time::timeout(AUTHORIZE_TIMEOUT, self.authorize.authorize(&credentials, &node))
            .await
            .map_err(|_| Status::unavailable("the identity could not be checked in time"))?
            .map_err(Status::from)?;
        connection.authorized();
        tracing::info!(
            node = node.id,
            engine = node.engine,
            protocol = V::NAME,
            "xDS client connected"
        );

        let session = Arc::new(Mutex::new(V::default()));
        let mut connection = self
            .cache
            .connect(node, V::NAME, Arc::clone(&session) as Arc<dyn Standing>);
        let result = self
            .converse(&session, first, &mut requests, &mut connection, queue)
            .await;
        tracing::info!("xDS client gone");
        result
    }

    async fn converse<V: Variant>(
        &self,
        session: &Mutex<V>,
        first: V::Request,
        requests: &mut Requests<V::Request>,
        connection: &mut Connection,
        queue: &Queue,
    ) -> Result<(), Status> {
        let mut stopped = self.stopped.clone();
        // Requests wait until there is something to compare them with: a fleet that comes back lists all it has.
        tokio::select! {
            configured = connection.snapshots.wait_for(Option::is_some) => {
                configured.map_err(|_| Status::unavailable("the node was dropped"))?;
            }
            () = queue.closed() => return Ok(()),
            _ = stopped.wait_for(|stopped| *stopped) => return Err(shutting_down()),
        }
        let mut drained = pin!(tokio::time::sleep(DRAINED));
        let mut holds = true;
        let mut events = locked(session).on_request(first);
        loop {
            push(session, &events, connection, queue).await?;
            events = tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => locked(session).on_request(request),
                    None => return Ok(()),
                },
                changed = connection.snapshots.changed() => {
                    // The sender lives in the cache as long as this connection does.
                    changed.map_err(|_| Status::unavailable("the node was dropped"))?;
                    Vec::new()
                }
                () = &mut drained, if holds => {
                    holds = false;
                    locked(session).release();
                    Vec::new()
                }
                _ = stopped.wait_for(|stopped| *stopped) => return Err(shutting_down()),
            };
        }
    }
}

fn shutting_down() -> Status {
    Status::unavailable("the control plane is shutting down")
}

/// Sends all that the client should get now and shows how it stands.
async fn push<V: Variant>(
    session: &Mutex<V>,
    events: &[Event],
    connection: &mut Connection,
    queue: &Queue,
) -> Result<(), Status> {
    for event in events {
        match event {
            Event::Nack(ty, nack) => {
                tracing::warn!(%ty, resources = ?nack.resources, message = nack.message, "xDS client rejected resources");
            }
            Event::Ignored(why) => tracing::debug!(why, "xDS request ignored"),
            Event::Ack(_) | Event::Subscribed(_) => {}
        }
    }
    // Nothing is sent before the first snapshot: a client keeps what it has.
    let snapshot = connection.snapshots.borrow_and_update().clone();
    if let Some(snapshot) = snapshot {
        loop {
            let next = locked(session).next(&snapshot);
            let Some(response) = next else { break };
            tokio::time::timeout(SEND_TIMEOUT, queue.send(Ok(response)))
                .await
                .map_err(|_| Status::deadline_exceeded("the client takes no responses"))?
                .map_err(|_| Status::cancelled("the client is gone"))?;
        }
    }
    // Not while the session is held: who looks at all clients holds the cache and then each session.
    let rejections = locked(session).rejections();
    connection.report(rejections);
    Ok(())
}
