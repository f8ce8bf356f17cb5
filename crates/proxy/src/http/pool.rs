//! Connections to endpoints, kept for the next request.
//!
//! One pool a worker. Enters: an address and a mark. Leaves: a [`Lease`] on a connection, new or used; given back when its
//! response has ended. Idle connections are bounded in number and age.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use weir_series::canonical::Target;

use super::body::RequestBody;
use super::{BUFFER_BYTES_MAX, HEADERS_MAX};
use crate::config::Map;
use crate::socket::{self, Counted};

/// Idle connections of one endpoint and worker.
const IDLE_MAX: usize = 1024;
/// After this time an idle connection is closed: shorter than most servers' own limits, so that requests rarely meet a
/// connection that is about to close.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often idle connections are looked through.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// A connection that does not become free within this time after its response is closed.
const FREE_TIMEOUT: Duration = Duration::from_secs(5);

/// What tells connections apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The other end.
    pub address: SocketAddr,
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// The client chose the address, not a cluster's endpoints.
    pub original: bool,
}

/// The idle connections of one worker.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<Map<Origin, Vec<Idle>>>,
}

struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

/// A connection in use. Dropped without [`Lease::release`] it is closed.
pub struct Lease {
    /// Sends one request.
    pub sender: SendRequest<RequestBody>,
    /// It has served a request before: the endpoint may have closed it meanwhile.
    pub reused: bool,
    key: Origin,
    pool: Rc<Pool>,
}

impl Pool {
    /// A used connection that is still open, if there is one.
    pub fn take(self: &Rc<Self>, key: Origin) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&key)?;
        while let Some(Idle { sender, since }) = connections.pop() {
            if sender.is_ready() && since.elapsed() < IDLE_TIMEOUT {
                return Some(Lease {
                    sender,
                    reused: true,
                    key,
                    pool: Rc::clone(self),
                });
            }
        }
        idle.remove(&key);
        None
    }

    /// A new connection.
    pub async fn connect(
        self: &Rc<Self>,
        key: Origin,
        limit: Duration,
        target: Option<Arc<Target>>,
    ) -> io::Result<Lease> {
        let stream = socket::connect(key.address, key.mark, limit).await?;
        let io = TokioIo::new(Counted::new(stream, Bytes::new(), target));
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .max_headers(HEADERS_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(address = %key.address, %error, "upstream connection");
            }
        });
        Ok(Lease {
            sender,
            reused: false,
            key,
            pool: Rc::clone(self),
        })
    }

    /// Closes connections that were idle for long, and those to addresses that are not kept.
    pub fn sweep(&self, keep: impl Fn(&Origin) -> bool) {
        self.idle.borrow_mut().retain(|origin, connections| {
            if !keep(origin) {
                return false;
            }
            connections.retain(|idle| idle.since.elapsed() < IDLE_TIMEOUT && !idle.sender.is_closed());
            !connections.is_empty()
        });
    }

    fn put(&self, key: Origin, sender: SendRequest<RequestBody>) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(key).or_default();
        if connections.len() < IDLE_MAX {
            connections.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
    }
}

impl Lease {
    /// Gives the connection back as soon as it can take another request.
    pub fn release(mut self) {
        if self.sender.is_ready() {
            self.pool.put(self.key, self.sender);
        } else if !self.sender.is_closed() {
            tokio::task::spawn_local(async move {
                let ready = tokio::time::timeout(FREE_TIMEOUT, self.sender.ready()).await;
                if matches!(ready, Ok(Ok(()))) {
                    self.pool.put(self.key, self.sender);
                }
            });
        }
    }
}
