//! What a cluster has at a time, so that it does not become more than it may.
//!
//! Enters: limits. Leaves: permits, which are given back when they are dropped. Shared by all workers, because limits hold
//! over all of them; what is not limited is not counted here.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::config::upstream::{Limits, RetryLimit};

/// The counts of one cluster.
#[derive(Debug, Default)]
pub struct Breaker {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    /// A connection was closed, so that another one may be opened.
    closed: Notify,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Of connections.
    Connections,
    /// Of requests that wait for one.
    Pending,
    /// Of requests.
    Requests,
    /// Of tries after the first.
    Retries,
    /// The same, as a part of the requests.
    RetryBudget,
}

impl Limit {
    /// Its name in series.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "max_connections",
            Self::Pending => "max_pending",
            Self::Requests => "max_requests",
            Self::Retries => "max_retries",
            Self::RetryBudget => "retry_budget",
        }
    }
}

/// One of what is counted.
#[derive(Debug)]
pub struct Permit {
    breaker: Arc<Breaker>,
    of: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Connection,
    Pending,
    Request,
    Retry,
}

impl Breaker {
    fn count(&self, of: Kind) -> &AtomicU32 {
        match of {
            Kind::Connection => &self.connections,
            Kind::Pending => &self.pending,
            Kind::Request => &self.requests,
            Kind::Retry => &self.retries,
        }
    }

    /// One more, if there are fewer than `limit`.
    fn take(self: &Arc<Self>, of: Kind, limit: u32) -> Option<Permit> {
        let count = self.count(of);
        let taken = count.fetch_update(Relaxed, Relaxed, |n| (n < limit).then(|| n + 1));
        taken.ok().map(|_| Permit {
            breaker: Arc::clone(self),
            of,
        })
    }

    /// A connection may be opened. `first`: nobody else here has one to the endpoint, and so it may in any case.
    pub fn connection(self: &Arc<Self>, limits: &Limits, first: bool) -> Option<Permit> {
        let limit = limits.connections.unwrap_or(u32::MAX);
        self.take(Kind::Connection, if first { u32::MAX } else { limit })
    }

    /// A request may wait for a connection.
    pub fn pending(self: &Arc<Self>, limits: &Limits) -> Option<Permit> {
        self.take(Kind::Pending, limits.pending.unwrap_or(u32::MAX))
    }

    /// A request may be sent.
    pub fn request(self: &Arc<Self>, limits: &Limits) -> Option<Permit> {
        self.take(Kind::Request, limits.requests.unwrap_or(u32::MAX))
    }

    /// A request, of which there are `requests` now, may be tried once more.
    pub fn retry(self: &Arc<Self>, limits: &Limits, requests: u64) -> Result<Option<Permit>, Limit> {
        let Some(limit) = limits.retries else { return Ok(None) };
        let name = match limit {
            RetryLimit::Number(_) => Limit::Retries,
            RetryLimit::Budget { .. } => Limit::RetryBudget,
        };
        let limit = limit.of(requests);
        self.take(Kind::Retry, limit).map(Some).ok_or(name)
    }

    /// Until a connection was closed.
    pub async fn closed(&self) {
        self.closed.notified().await;
    }

    /// What there is now, as (connections, pending, requests, retries).
    pub fn counts(&self) -> [u32; 4] {
        [&self.connections, &self.pending, &self.requests, &self.retries].map(|n| n.load(Relaxed))
    }
}

/// The connections of one worker to one endpoint, where they are limited, and those who wait for one.
#[derive(Debug, Default)]
pub struct Line {
    open: Cell<u32>,
    /// How many wait.
    pub waiting: Cell<u32>,
    /// A connection, or a place on one, can be had.
    pub free: Notify,
}

/// A limited connection, as long as it is open.
#[derive(Debug)]
pub struct Held {
    _permit: Permit,
    line: Rc<Line>,
}

impl Line {
    /// May another connection be opened? The first one here always may: nobody could wait for any other.
    pub fn open(self: &Rc<Self>, breaker: &Arc<Breaker>, limits: &Limits) -> Option<Held> {
        self.hold(breaker.connection(limits, self.open.get() == 0)?)
    }

    /// The same, where nobody waits.
    pub fn open_more(self: &Rc<Self>, breaker: &Arc<Breaker>, limits: &Limits) -> Option<Held> {
        self.hold(breaker.connection(limits, false)?)
    }

    #[allow(clippy::unnecessary_wraps)] // what both end with
    fn hold(self: &Rc<Self>, permit: Permit) -> Option<Held> {
        self.open.set(self.open.get() + 1);
        Some(Held {
            _permit: permit,
            line: Rc::clone(self),
        })
    }

    /// Whether it is of use to anybody.
    pub fn is_idle(&self) -> bool {
        self.open.get() == 0 && self.waiting.get() == 0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.line.open.set(self.line.open.get() - 1);
        // A line without connections may open one whatever the limit, but whom the permit wakes may be of another line.
        if self.line.waiting.get() > 0 {
            self.line.free.notify_one();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.breaker.count(self.of).fetch_sub(1, Relaxed);
        if let Kind::Connection = self.of {
            self.breaker.closed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_the_limit() {
        let breaker = Arc::new(Breaker::default());
        let limits = Limits {
            connections: Some(2),
            retries: Some(RetryLimit::Number(1)),
            ..Limits::default()
        };
        let two = [breaker.connection(&limits, false), breaker.connection(&limits, false)];
        assert!(two.iter().all(Option::is_some) && breaker.connection(&limits, false).is_none());
        let first = breaker.connection(&limits, true);
        assert!(first.is_some() && breaker.counts()[0] == 3);
        drop(two);
        assert!(breaker.connection(&limits, false).is_some());
        let retry = breaker.retry(&limits, 100).unwrap();
        assert_eq!(breaker.retry(&limits, 100).unwrap_err(), Limit::Retries);
        drop(retry);
        assert!(breaker.retry(&limits, 100).is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_an_endpoint_hears_of_its_own_connection_that_closed() {
        let breaker = Arc::new(Breaker::default());
        let limits = Limits {
            connections: Some(1),
            ..Limits::default()
        };
        let [here, there] = [(); 2].map(|()| Rc::new(Line::default()));
        let first = here.open(&breaker, &limits).unwrap();
        let _other = there.open(&breaker, &limits).unwrap();
        here.waiting.set(1);
        // One who waits for the other endpoint is before it in the breaker's queue, and can do nothing.
        let before = breaker.closed();
        tokio::pin!(before);
        assert!(futures::poll!(before.as_mut()).is_pending());
        drop(first);
        let woken = tokio::time::timeout(std::time::Duration::from_secs(20), here.free.notified());
        woken.await.expect("woken by its own line");
        assert!(here.open(&breaker, &limits).is_some());
    }

    #[test]
    fn a_budget_is_a_part_of_the_requests_but_never_less_than_its_least() {
        let breaker = Arc::new(Breaker::default());
        let limits = Limits {
            retries: Some(RetryLimit::Budget { percent: 20.0, min: 2 }),
            ..Limits::default()
        };
        let mut held = Vec::new();
        while let Ok(permit) = breaker.retry(&limits, 5) {
            held.push(permit);
        }
        assert_eq!(held.len(), 2);
        while let Ok(permit) = breaker.retry(&limits, 50) {
            held.push(permit);
        }
        assert_eq!(held.len(), 10);
        assert_eq!(breaker.retry(&limits, 50).unwrap_err(), Limit::RetryBudget);
    }
}
