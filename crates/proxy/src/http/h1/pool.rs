//! HTTP/1 connections to endpoints, kept for the next request.
//!
//! One pool a worker. Enters: where to connect. Leaves: a [`Wire`], new or used. Idle connections are bounded in number
//! and age. Where a cluster limits its connections, requests wait in line for one, and whoever comes later does not
//! overtake them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use weir_series::canonical::Slot;

use crate::balance::{Limit, Line};
use crate::config::{Cluster, EndpointSource, Map};
use crate::http::attempts::Failure;
use crate::wire::Wire;
use crate::worker::Worker;

/// Idle connections of one endpoint and worker.
const IDLE_MAX: usize = 1024;
/// After this time an idle connection is closed: shorter than most servers' own limits, so that requests rarely meet a
/// connection that is about to close.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often idle connections are looked through.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What tells connections apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The other end.
    pub address: SocketAddr,
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// The client chose the address, not a cluster's endpoints.
    pub original: bool,
    /// Which TLS settings it was opened with; 0: none. Compared only.
    pub tls: usize,
}

impl Origin {
    /// Of a cluster's connections to an address.
    pub fn new(cluster: &Cluster, address: SocketAddr) -> Self {
        let spec = &cluster.spec;
        Self {
            address,
            mark: spec.mark,
            original: matches!(spec.source, EndpointSource::OriginalDst),
            tls: spec.tls.as_ref().map_or(0, |tls| Arc::as_ptr(tls) as usize),
        }
    }
}

/// By cluster and endpoint.
type Lines = Map<(Arc<str>, Origin), Rc<Line>>;

/// The idle connections of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<Map<Origin, Vec<Idle>>>,
    /// Of clusters whose connections are limited.
    lines: RefCell<Lines>,
    /// How many wait in all lines.
    waiting: Cell<u32>,
}

#[derive(Debug)]
struct Idle {
    wire: Wire,
    /// `None`: for ever.
    until: Option<Instant>,
    /// That is configured, and so it is looked at whenever the connection is wanted.
    strict: bool,
}

impl Idle {
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }
}

/// Somebody waits for a connection.
struct Waiting<'a> {
    pool: &'a Pool,
    line: &'a Line,
}

impl<'a> Waiting<'a> {
    fn new(pool: &'a Pool, line: &'a Line) -> Self {
        pool.waiting.set(pool.waiting.get() + 1);
        line.waiting.set(line.waiting.get() + 1);
        Self { pool, line }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pool.waiting.set(self.pool.waiting.get() - 1);
        self.line.waiting.set(self.line.waiting.get() - 1);
    }
}

impl Pool {
    /// A used connection that is still open, if there is one, and nobody waits for it.
    pub fn take(&self, cx: &mut Context<'_>, cluster: &Cluster, origin: &Origin) -> Option<Wire> {
        if self.waiting.get() > 0 && self.line(cluster, origin).waiting.get() > 0 {
            return None;
        }
        self.take_any(cx, origin)
    }

    fn take_any(&self, cx: &mut Context<'_>, origin: &Origin) -> Option<Wire> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(origin)?;
        while let Some(mut last) = connections.pop() {
            if !(last.strict && last.is_over()) && last.wire.is_quiet(cx) {
                return Some(last.wire);
            }
        }
        None
    }

    /// Keeps a connection whose last message ended.
    pub fn put(&self, cluster: &Cluster, origin: Origin, mut wire: Wire, now: Instant) {
        wire.served = wire.served.saturating_add(1);
        let spec = &cluster.spec;
        if spec.requests_per_connection.is_some_and(|most| wire.served >= most) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(origin).or_default();
        if connections.len() < IDLE_MAX {
            connections.push(Idle {
                wire,
                until: now.checked_add(spec.idle_timeout.unwrap_or(IDLE_TIMEOUT)),
                strict: spec.idle_timeout.is_some(),
            });
        }
        drop(idle);
        if self.waiting.get() > 0 {
            self.line(cluster, &origin).free.notify_one();
        }
    }

    fn line(&self, cluster: &Cluster, origin: &Origin) -> Rc<Line> {
        let key = (Arc::clone(&cluster.spec.name), *origin);
        Rc::clone(self.lines.borrow_mut().entry(key).or_default())
    }

    /// A connection where none is kept: a new one, or, where there may be no more, the next that somebody gives back (then
    /// the flag is set).
    pub async fn obtain(
        &self,
        worker: &Worker,
        cluster: &Cluster,
        origin: &Origin,
        slot: impl FnOnce() -> Option<Slot>,
    ) -> Result<(Wire, bool), Failure> {
        let limits = &cluster.spec.limits;
        let connect = async |held| match worker.connect(cluster, origin.address, slot(), held).await {
            Ok(wire) => Ok((wire, false)),
            Err(_) => Err(Failure::Connect),
        };
        if limits.connections.is_none() && limits.pending.is_none() {
            return connect(None).await;
        }
        let Some(_pending) = cluster.breaker.pending(limits) else {
            cluster.stats.rq_overflow();
            return Err(Failure::Overflow(Limit::Pending));
        };
        let line = self.line(cluster, origin);
        let mut turn = line.waiting.get() == 0;
        let waiting = loop {
            let held = if turn {
                line.open(&cluster.breaker, limits)
            } else {
                None
            };
            if held.is_some() {
                break held;
            }
            if turn {
                cluster.stats.cx_overflow();
            }
            let _waiting = Waiting::new(self, &line);
            tokio::select! {
                () = line.free.notified() => {}
                () = cluster.breaker.closed() => {}
            }
            if let Some(wire) = poll_fn(|cx| Poll::Ready(self.take_any(cx, origin))).await {
                return Ok((wire, true));
            }
            turn = true;
        };
        connect(waiting).await
    }

    /// Closes connections that were idle for long or that the other side closed, and those to addresses that are not kept.
    pub fn sweep(&self, keep: impl Fn(&Origin) -> bool) {
        // Nobody waits for these connections: the one who takes one registers anew.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.idle.borrow_mut().retain(|origin, connections| {
            if !keep(origin) {
                return false;
            }
            connections.retain_mut(|idle| !idle.is_over() && idle.wire.is_quiet(&mut cx));
            !connections.is_empty()
        });
        self.lines.borrow_mut().retain(|_, line| !line.is_idle());
    }
}
