//! HTTP/2 connections to endpoints, shared by many requests.
//!
//! One pool a worker. Enters: where to connect. Leaves: handles that open streams. A connection takes as many streams as
//! its endpoint allows, and no more than configured; beyond that another one is opened. Only one is opened at a time, so
//! that a burst of requests does not become a burst of connections.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::sync::Mutex;
use tokio::task::spawn_local;
use weir_series::canonical::Slot;

use crate::balance::{Held, Limit, Line};
use crate::config::{Cluster, ClusterSpec, Map};
use crate::http::attempts::Failure;
use crate::http::h1::head::HEAD_BYTES_MAX;
use crate::http::h1::pool::Origin;
use crate::worker::Worker;

/// Connections to one endpoint and worker.
const CONNECTIONS_MAX: usize = 64;
/// Unsent bytes of one stream.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// The connections of one worker.
#[derive(Default)]
pub struct Pool {
    by_origin: RefCell<Map<Origin, Rc<Connections>>>,
}

#[derive(Default)]
struct Connections {
    open: RefCell<Vec<Connection>>,
    /// Held by the one who opens another.
    opening: Mutex<()>,
    line: Rc<Line>,
}

struct Connection {
    sender: SendRequest<Bytes>,
    streams: Rc<Streams>,
    /// How long it may carry nothing; `None`: as long as the endpoint likes.
    idle: Option<Duration>,
}

/// The streams of one connection.
struct Streams {
    open: Cell<usize>,
    /// Opened so far.
    total: Cell<u32>,
    /// When the last one ended.
    idle_since: Cell<Instant>,
    line: Rc<Line>,
}

/// May open one stream; the connection counts it until this is dropped.
pub struct Handle {
    /// Opens the stream.
    pub sender: SendRequest<Bytes>,
    streams: Rc<Streams>,
}

impl Connection {
    fn handle(&self) -> Handle {
        self.streams.open.set(self.streams.open.get() + 1);
        self.streams.total.set(self.streams.total.get().saturating_add(1));
        Handle {
            sender: self.sender.clone(),
            streams: Rc::clone(&self.streams),
        }
    }

    /// It carries nothing, and has done so for longer than it may.
    fn is_over(&self) -> bool {
        let idle = self.idle.filter(|_| self.streams.open.get() == 0);
        idle.is_some_and(|idle| self.streams.idle_since.get().elapsed() >= idle)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let open = self.streams.open.get() - 1;
        self.streams.open.set(open);
        if open == 0 {
            self.streams.idle_since.set(Instant::now());
        }
        if self.streams.line.waiting.get() > 0 {
            self.streams.line.free.notify_one();
        }
    }
}

impl Connections {
    /// A connection that takes another stream now. Those that ended, or were used enough, are forgotten.
    fn ready(&self, cx: &mut Context<'_>, spec: &ClusterSpec) -> Option<Handle> {
        let streams_max = usize::try_from(spec.http2.max_concurrent_streams).unwrap_or(usize::MAX);
        let mut open = self.open.borrow_mut();
        let mut i = 0;
        while let Some(connection) = open.get_mut(i) {
            let used = spec
                .requests_per_connection
                .is_some_and(|n| connection.streams.total.get() >= n);
            if used || connection.is_over() {
                drop(open.swap_remove(i));
                continue;
            }
            match connection.sender.poll_ready(cx) {
                Poll::Ready(Err(_)) => drop(open.swap_remove(i)),
                Poll::Ready(Ok(())) => {
                    let limit = streams_max.min(connection.sender.current_max_send_streams());
                    if connection.streams.open.get() < limit {
                        return Some(connection.handle());
                    }
                    i += 1;
                }
                Poll::Pending => i += 1,
            }
        }
        None
    }
}

/// Somebody waits for a stream.
struct Waiting<'a>(&'a Line);

impl<'a> Waiting<'a> {
    fn new(line: &'a Line) -> Self {
        line.waiting.set(line.waiting.get() + 1);
        Self(line)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

impl Pool {
    /// A handle that may open a stream now.
    pub async fn take(
        &self,
        worker: &Rc<Worker>,
        cluster: &Cluster,
        origin: Origin,
        slot: impl Fn() -> Option<Slot>,
    ) -> Result<Handle, Failure> {
        let connections = Rc::clone(self.by_origin.borrow_mut().entry(origin).or_default());
        let limits = &cluster.spec.limits;
        let ready = async || poll_fn(|cx| Poll::Ready(connections.ready(cx, &cluster.spec))).await;
        if let Some(found) = ready().await {
            return Ok(found);
        }
        let mut _pending = None;
        if limits.pending.is_some() {
            _pending = cluster.breaker.pending(limits);
            if _pending.is_none() {
                cluster.stats.rq_overflow();
                return Err(Failure::Overflow(Limit::Pending));
            }
        }
        loop {
            {
                let _turn = connections.opening.lock().await;
                // The one before may have opened it for all.
                if let Some(found) = ready().await {
                    return Ok(found);
                }
                let held = match limits.connections {
                    None => None,
                    Some(_) => connections.line.open(&cluster.breaker, limits),
                };
                let room = connections.open.borrow().len() < CONNECTIONS_MAX;
                if room && held.is_some() == limits.connections.is_some() {
                    return connections.open(worker, cluster, origin.address, slot(), held).await;
                }
                cluster.stats.cx_overflow();
            }
            let _waiting = Waiting::new(&connections.line);
            tokio::select! {
                () = connections.line.free.notified() => {}
                () = cluster.breaker.closed(), if limits.connections.is_some() => {}
            }
        }
    }

    /// Forgets connections to addresses that are not kept, and those that nobody used for longer than they may be; they end
    /// when their streams have.
    pub fn sweep(&self, keep: impl Fn(&Origin) -> bool) {
        self.by_origin.borrow_mut().retain(|origin, connections| {
            connections.open.borrow_mut().retain(|connection| !connection.is_over());
            let held = !connections.open.borrow().is_empty() || Rc::strong_count(connections) > 1;
            keep(origin) && held
        });
    }
}

impl Connections {
    /// Opens another connection, and a stream on it.
    async fn open(
        &self,
        worker: &Rc<Worker>,
        cluster: &Cluster,
        address: SocketAddr,
        slot: Option<Slot>,
        held: Option<Held>,
    ) -> Result<Handle, Failure> {
        let wire = worker.connect(cluster, address, slot, held).await;
        let wire = wire.map_err(|_| Failure::Connect)?;
        let options = cluster.spec.http2;
        let handshake = Builder::new()
            .initial_window_size(options.initial_stream_window)
            .initial_connection_window_size(options.initial_connection_window)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .enable_push(false)
            .handshake::<_, Bytes>(wire.into_counted());
        let (sender, connection) = tokio::time::timeout(cluster.spec.connect_timeout, handshake)
            .await
            .map_err(|_| Failure::Connect)?
            .map_err(|_| Failure::Connect)?;
        spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "upstream HTTP/2 connection");
            }
        });
        let connection = Connection {
            sender: sender.ready().await.map_err(|_| Failure::Connect)?,
            streams: Rc::new(Streams {
                open: Cell::default(),
                total: Cell::default(),
                idle_since: Cell::new(Instant::now()),
                line: Rc::clone(&self.line),
            }),
            idle: cluster.spec.idle_timeout,
        };
        let handle = connection.handle();
        self.open.borrow_mut().push(connection);
        // Those who wait may find room on it.
        if self.line.waiting.get() > 0 {
            self.line.free.notify_one();
        }
        Ok(handle)
    }
}
