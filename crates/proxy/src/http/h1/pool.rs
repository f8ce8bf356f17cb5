//! HTTP/1 connections to endpoints, kept for the next request.
//!
//! One pool a worker. Enters: where to connect. Leaves: a [`Wire`], new or used. Idle connections are bounded in number
//! and age.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::task::Context;
use std::time::{Duration, Instant};

use crate::config::Map;
use crate::wire::Wire;

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

/// The idle connections of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<Map<Origin, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    wire: Wire,
    since: Instant,
}

impl Pool {
    /// A used connection that is still open, if there is one.
    pub fn take(&self, cx: &mut Context<'_>, origin: &Origin) -> Option<Wire> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(origin)?;
        while let Some(mut last) = connections.pop() {
            if last.wire.is_quiet(cx) {
                return Some(last.wire);
            }
        }
        None
    }

    /// Keeps a connection whose last message ended.
    pub fn put(&self, origin: Origin, wire: Wire, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(origin).or_default();
        if connections.len() < IDLE_MAX {
            connections.push(Idle { wire, since: now });
        }
    }

    /// Closes connections that were idle for long or that the other side closed, and those to addresses that are not kept.
    pub fn sweep(&self, keep: impl Fn(&Origin) -> bool) {
        // Nobody waits for these connections: the one who takes one registers anew.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.idle.borrow_mut().retain(|origin, connections| {
            if !keep(origin) {
                return false;
            }
            connections.retain_mut(|idle| idle.since.elapsed() < IDLE_TIMEOUT && idle.wire.is_quiet(&mut cx));
            !connections.is_empty()
        });
    }
}
