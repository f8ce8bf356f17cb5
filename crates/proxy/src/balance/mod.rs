//! Which endpoint is next.
//!
//! Enters: the endpoints of a cluster, a hash of the request, the endpoints to avoid, how tries ended. Leaves: one of the
//! endpoints. Knows nothing of how a try is made.
//!
//! A rotation is a worker's own. [`Members`] is made anew with each set of endpoints, by the one who brings configurations
//! into force, and then only read; what it knows of an endpoint stays while the endpoint does.

mod breaker;
mod host;
mod rotation;
mod table;
mod xxhash;

pub use breaker::{Breaker, Held, Limit, Line, Permit};
pub use host::{Cause, Host};
pub use xxhash::xxh64;

use std::net::SocketAddr;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rotation::Rotation;
use table::Table;

use crate::config::upstream::{LbPolicy, Outlier};
use crate::config::{Cluster, ClusterSpec, Endpoint, Map};
use crate::random;

/// Weights of endpoints with requests are divided by their number; this keeps them whole numbers.
const FINE: i64 = 1 << 20;
/// Draws before endpoints that may be had are listed one by one.
const DRAWS_MAX: u32 = 8;

/// What a policy needs beside the endpoints themselves.
#[derive(Debug, Default)]
pub struct Members {
    /// In the order of the endpoints; none where nothing must be known of them.
    hosts: Box<[Arc<Host>]>,
    table: Option<Arc<Table>>,
    /// All weights are the same.
    even: bool,
    health: Arc<Health>,
}

/// Whether endpoints of a cluster are left out.
#[derive(Debug, Default)]
struct Health {
    /// Some may be. Whoever takes the mark away looks again afterwards; whoever leaves one out marks afterwards. All four steps
    /// are in one order for everybody (`SeqCst`), so that one of the two sees what the other did.
    marked: AtomicBool,
    /// Held by the one who leaves one out.
    deciding: Mutex<()>,
}

/// An endpoint that was chosen.
#[derive(Debug)]
pub struct Chosen {
    /// Itself.
    pub endpoint: Endpoint,
    /// Its place among the members.
    pub place: usize,
}

/// Which endpoints may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// Any.
    All,
    /// Those that are not left out.
    Healthy,
}

impl Members {
    /// What `spec` needs for `endpoints`; what `before` knows of those that stay is kept.
    pub fn new(spec: &ClusterSpec, endpoints: &[Endpoint], before: Option<&Cluster>) -> Self {
        let watched = spec.policy.counts_requests() || spec.outlier.is_some();
        let mut known: Map<SocketAddr, &Arc<Host>> = Map::default();
        if let Some(before) = before.filter(|_| watched) {
            let addresses = before.endpoints.iter().map(|e| e.address);
            known.extend(addresses.zip(&before.members.hosts));
        }
        let host = |e: &Endpoint| known.get(&e.address).map_or_else(Arc::default, |h| Arc::clone(h));
        let hosts: Box<[Arc<Host>]> = match watched {
            true => endpoints.iter().map(host).collect(),
            false => Box::default(),
        };
        let health = before.filter(|c| spec.outlier.is_some() && c.spec.outlier.is_some());
        let same = |cluster: &&Cluster| {
            let pairs = cluster.endpoints.iter().zip(endpoints);
            cluster.spec.policy == spec.policy
                && cluster.endpoints.len() == endpoints.len()
                && pairs
                    .clone()
                    .all(|(a, b)| (a.address, a.weight) == (b.address, b.weight))
        };
        let kept = before.filter(same).and_then(|c| c.members.table.clone());
        let table = kept.or_else(|| Table::new(spec.policy, endpoints).map(Arc::new));
        Self {
            hosts,
            table,
            even: endpoints.windows(2).all(|pair| pair[0].weight == pair[1].weight),
            health: health.map_or_else(Arc::default, |c| Arc::clone(&c.members.health)),
        }
    }

    /// What is known of an endpoint.
    pub fn host(&self, place: usize) -> Option<&Host> {
        self.hosts.get(place).map(Arc::as_ref)
    }

    /// How many endpoints are left out now.
    pub fn ejected(&self) -> usize {
        if !self.health.marked.load(Relaxed) {
            return 0;
        }
        let count = || self.hosts.iter().filter(|h| h.is_ejected()).count();
        match count() {
            0 => {
                self.health.marked.store(false, SeqCst);
                // Somebody may have left one out meanwhile.
                let count = count();
                if count > 0 {
                    self.health.marked.store(true, SeqCst);
                }
                count
            }
            some => some,
        }
    }

    /// All are used when too many are left out.
    fn view(&self, panic_percent: f64) -> View {
        let ejected = self.ejected();
        if ejected == 0 {
            return View::All;
        }
        let healthy = self.hosts.len() - ejected;
        #[allow(clippy::cast_precision_loss)]
        let percent = 100.0 * healthy as f64 / self.hosts.len() as f64;
        match percent < panic_percent {
            true => View::All,
            false => View::Healthy,
        }
    }

    /// Leaves an endpoint out, if that may be; for how long.
    pub fn eject(&self, place: usize, outlier: &Outlier) -> Result<Duration, Refusal> {
        let Some(host) = self.hosts.get(place) else {
            return Err(Refusal::Out);
        };
        let _only = self.health.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        if host.is_ejected() {
            return Err(Refusal::Out);
        }
        let ejected = self.ejected();
        let allowed = (ejected + 1) * 100 <= self.hosts.len() * outlier.max_percent as usize;
        if !(allowed || outlier.always_one && ejected == 0) {
            return Err(Refusal::TooMany);
        }
        let lasts = host.eject(outlier);
        self.health.marked.store(true, SeqCst);
        Ok(lasts)
    }
}

/// Why an endpoint is not left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is already, or is no endpoint any more.
    Out,
    /// Too many are.
    TooMany,
}

/// A worker's state of one cluster.
#[derive(Debug, Default)]
pub struct Balancer {
    rotation: Rotation,
}

impl Balancer {
    /// The next endpoint that is not in `avoid`; when all are, the next that is not the last one avoided; `None` without
    /// endpoints that may be had. `hash` is for policies that follow one.
    pub fn next(&mut self, cluster: &Cluster, hash: Option<u64>, avoid: &[SocketAddr]) -> Option<Chosen> {
        let (members, endpoints) = (&*cluster.members, &cluster.endpoints);
        let view = members.view(cluster.spec.panic_percent);
        let healthy = |i: usize| view == View::All || members.host(i).is_none_or(|h| !h.is_ejected());
        let place = if avoid.is_empty() {
            match view {
                View::All => self.pick(cluster, hash, None::<fn(usize) -> bool>),
                View::Healthy => self.pick(cluster, hash, Some(healthy)),
            }
        } else {
            let is = |i: usize, address: &SocketAddr| endpoints.get(i).is_some_and(|e| e.address == *address);
            let new = |i: usize| healthy(i) && !avoid.iter().any(|a| is(i, a));
            let other = |i: usize| healthy(i) && !avoid.last().is_some_and(|a| is(i, a));
            self.pick(cluster, hash, Some(new))
                .or_else(|| self.pick(cluster, hash, Some(other)))
                .or_else(|| self.pick(cluster, hash, Some(healthy)))
        }?;
        let endpoint = endpoints.get(place)?.clone();
        Some(Chosen { endpoint, place })
    }

    /// One of those that are allowed; without `allowed`, of all.
    fn pick(&mut self, cluster: &Cluster, hash: Option<u64>, allowed: Option<impl Fn(usize) -> bool>) -> Option<usize> {
        let (members, endpoints) = (&*cluster.members, &cluster.endpoints);
        let may = |i: usize| allowed.as_ref().is_none_or(|allowed| allowed(i));
        match cluster.spec.policy {
            LbPolicy::RoundRobin => {
                self.rotation.follow(endpoints);
                self.rotation.next(may, |_, weight| i64::from(weight))
            }
            LbPolicy::LeastRequest { .. } if !members.even => {
                self.rotation.follow(endpoints);
                self.rotation.next(may, |i, weight| {
                    let active = members.host(i).map_or(0, Host::active);
                    i64::from(weight) * FINE / (i64::from(active) + 1)
                })
            }
            LbPolicy::LeastRequest { choices } => {
                let mut best = draw(endpoints.len(), may)?;
                for _ in 1..choices {
                    let other = draw(endpoints.len(), may)?;
                    let active = |i| members.host(i).map_or(0, Host::active);
                    if active(other) < active(best) {
                        best = other;
                    }
                }
                Some(best)
            }
            LbPolicy::PeakEwma => {
                let one = draw(endpoints.len(), may)?;
                let other = draw(endpoints.len(), |i| i != one && may(i)).unwrap_or(one);
                let cost = |i: usize| members.host(i).map_or(0.0, |h| h.cost(endpoints[i].weight));
                Some(if cost(other) < cost(one) { other } else { one })
            }
            LbPolicy::Random => {
                let share = |i: usize, e: &Endpoint| if may(i) { u64::from(e.weight) } else { 0 };
                let shares = || endpoints.iter().enumerate().map(|(i, e)| share(i, e));
                let mut left = random::below(shares().sum());
                shares().position(|share| {
                    let found = left < share;
                    left = left.saturating_sub(share);
                    found
                })
            }
            LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } => {
                let hash = hash.unwrap_or_else(random::random);
                members.table.as_ref()?.find(hash, may)
            }
        }
    }
}

/// Any of those that may be had.
fn draw(count: usize, may: impl Fn(usize) -> bool) -> Option<usize> {
    let any = |count: usize| usize::try_from(random::below(count as u64)).unwrap_or(0);
    if count > 0
        && let Some(found) = (0..DRAWS_MAX).map(|_| any(count)).find(|i| may(*i))
    {
        return Some(found);
    }
    let all: Vec<usize> = (0..count).filter(|i| may(*i)).collect();
    all.get(any(all.len())).copied()
}

#[cfg(test)]
mod tests;
