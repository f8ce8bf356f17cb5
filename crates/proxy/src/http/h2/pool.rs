//! HTTP/2 connections to endpoints, shared by many requests.
//!
//! One pool a worker. Enters: where to connect. Leaves: handles that open streams. A connection takes as many streams as
//! its endpoint allows, and no more than configured; beyond that another one is opened. Only one is opened at a time, so
//! that a burst of requests does not become a burst of connections.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::sync::Mutex;
use tokio::task::spawn_local;
use weir_series::canonical::Slot;

use crate::config::{Cluster, Map};
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
    /// Held by the one that opens another.
    opening: Mutex<()>,
}

struct Connection {
    sender: SendRequest<Bytes>,
    streams: Rc<Cell<usize>>,
}

/// May open one stream; the connection counts it until this is dropped.
pub struct Handle {
    /// Opens the stream.
    pub sender: SendRequest<Bytes>,
    streams: Rc<Cell<usize>>,
}

impl Connection {
    fn handle(&self) -> Handle {
        self.streams.set(self.streams.get() + 1);
        Handle {
            sender: self.sender.clone(),
            streams: Rc::clone(&self.streams),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.streams.set(self.streams.get() - 1);
    }
}

impl Connections {
    /// A connection that takes another stream now. Those that ended are forgotten.
    fn ready(&self, cx: &mut Context<'_>, streams_max: usize) -> Option<Handle> {
        let mut open = self.open.borrow_mut();
        let mut i = 0;
        while let Some(connection) = open.get_mut(i) {
            match connection.sender.poll_ready(cx) {
                Poll::Ready(Err(_)) => drop(open.swap_remove(i)),
                Poll::Ready(Ok(())) => {
                    let limit = streams_max.min(connection.sender.current_max_send_streams());
                    if connection.streams.get() < limit {
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

impl Pool {
    /// A handle that may open a stream now.
    pub async fn take(
        &self,
        worker: &Rc<Worker>,
        cluster: &Cluster,
        origin: Origin,
        address: SocketAddr,
        slot: impl FnOnce() -> Option<Slot>,
    ) -> io::Result<Handle> {
        let connections = Rc::clone(self.by_origin.borrow_mut().entry(origin).or_default());
        let streams_max = usize::try_from(cluster.spec.http2.max_concurrent_streams).unwrap_or(usize::MAX);
        let ready = |connections: Rc<Connections>| async move {
            poll_fn(|cx| Poll::Ready(connections.ready(cx, streams_max))).await
        };
        if let Some(found) = ready(Rc::clone(&connections)).await {
            return Ok(found);
        }
        let _turn = connections.opening.lock().await;
        // The one before may have opened it for all.
        if let Some(found) = ready(Rc::clone(&connections)).await {
            return Ok(found);
        }
        if connections.open.borrow().len() >= CONNECTIONS_MAX {
            cluster.stats.cx_overflow();
            if let Some(slot) = slot() {
                slot.overflow("connections");
            }
            return Err(io::Error::other("too many connections to this endpoint"));
        }
        let wire = worker.connect(cluster, address, slot()).await?;
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
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            .map_err(io::Error::other)?;
        spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "upstream HTTP/2 connection");
            }
        });
        let connection = Connection {
            sender: sender.ready().await.map_err(io::Error::other)?,
            streams: Rc::default(),
        };
        let handle = connection.handle();
        connections.open.borrow_mut().push(connection);
        Ok(handle)
    }

    /// Forgets connections to addresses that are not kept; they end when their streams have.
    pub fn sweep(&self, keep: impl Fn(&Origin) -> bool) {
        self.by_origin.borrow_mut().retain(|origin, connections| {
            let held = !connections.open.borrow().is_empty() || Rc::strong_count(connections) > 1;
            keep(origin) && held
        });
    }
}

/// The key of a cluster's connections to an endpoint.
pub fn origin(cluster: &Cluster, address: SocketAddr, original: bool) -> Origin {
    Origin {
        address,
        mark: cluster.spec.mark,
        original,
        tls: cluster.spec.tls.as_ref().map_or(0, |tls| Arc::as_ptr(tls) as usize),
    }
}
