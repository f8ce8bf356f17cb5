//! What is known of one endpoint: its requests of the moment, how quickly it answers, whether it is left out.
//!
//! Enters: how tries ended. Leaves: numbers to compare endpoints by, and ejections. Shared by all workers; nothing is
//! written while all goes well, but what a policy asks for.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::upstream::Outlier;
use crate::random;

/// Latencies lose half of their weight and more in this time.
const DECAY: Duration = Duration::from_secs(10);
/// What a try counts that brought no answer, if it was no slower than that.
const FAILED: Duration = Duration::from_secs(1);
/// What an endpoint costs that has requests and has never answered: more than any that has.
const UNKNOWN: f64 = 1e15;

/// Time since some moment before all others.
fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One endpoint of one cluster.
#[derive(Debug, Default)]
pub struct Host {
    /// Requests that it has now.
    active: AtomicU32,
    /// The latency that is expected, in nanoseconds, and when that was so (microseconds).
    latency_ns: AtomicU64,
    latency_at: AtomicU64,
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_errors: AtomicU32,
    /// Until when it is left out, in milliseconds; 0: it is not.
    until_ms: AtomicU64,
    past: Mutex<Past>,
}

/// Ejections so far.
#[derive(Debug, Default)]
struct Past {
    /// How many are remembered.
    count: u32,
    /// When the last one ended or ends, in milliseconds.
    end_ms: u64,
}

/// Why an endpoint is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Errors that it answered.
    Server,
    /// The same, of gateways.
    Gateway,
    /// Connections that failed, and the like.
    Local,
}

impl Cause {
    /// In words of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "consecutive_5xx",
            Self::Gateway => "consecutive_gateway_failure",
            Self::Local => "consecutive_local_origin_failure",
        }
    }
}

impl Host {
    /// A request was given to it. [`Host::end`] must follow.
    pub fn begin(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    /// A request is over.
    pub fn end(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    /// Requests that it has now.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// It took so long to answer, or not to.
    pub fn took(&self, latency: Duration, failed: bool) {
        let latency = if failed { latency.max(FAILED) } else { latency };
        let time = now();
        let expected = self.expected_ns(time);
        let seen = latency.as_nanos() as f64;
        // A peak counts at once, what is better only slowly.
        let new = if expected == 0.0 || seen > expected {
            seen
        } else {
            let since = time.saturating_sub(Duration::from_micros(self.latency_at.load(Relaxed)));
            let weight = (-since.as_secs_f64() / DECAY.as_secs_f64()).exp().min(0.9);
            expected * weight + seen * (1.0 - weight)
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a duration, at least 1
        self.latency_ns.store(new.max(1.0) as u64, Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.latency_at.store(micros, Relaxed);
    }

    /// The latency that is expected now; 0: it has never answered.
    #[allow(clippy::cast_precision_loss)]
    fn expected_ns(&self, time: Duration) -> f64 {
        let latency = self.latency_ns.load(Relaxed) as f64;
        let since = time.saturating_sub(Duration::from_micros(self.latency_at.load(Relaxed)));
        // It is forgotten in the end, so that an endpoint that was slow is tried again.
        latency * (-since.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    /// What one more request would cost here.
    pub fn cost(&self, weight: u32) -> f64 {
        let active = f64::from(self.active());
        let expected = self.expected_ns(now());
        let cost = match (expected > 0.0, active > 0.0) {
            (true, _) => expected * (active + 1.0),
            (false, true) => UNKNOWN * active,
            (false, false) => 0.0,
        };
        cost / f64::from(weight)
    }

    /// Whether it is left out.
    pub fn is_ejected(&self) -> bool {
        // In one order with the mark of the members: see there. A plain load on most machines.
        match self.until_ms.load(SeqCst) {
            0 => false,
            until => millis(now()) < until,
        }
    }

    /// It answered with a status. What that leads to, if anything.
    pub fn answered(&self, status: u16, outlier: &Outlier) -> Option<Cause> {
        clear(&self.local_errors);
        if status < 500 {
            clear(&self.server_errors);
            clear(&self.gateway_errors);
            return None;
        }
        let gateway = if matches!(status, 502..=504) {
            reaches(&self.gateway_errors, outlier.gateway_errors)
        } else {
            clear(&self.gateway_errors);
            false
        };
        let server = reaches(&self.server_errors, outlier.server_errors);
        match (gateway, server) {
            (true, _) => Some(Cause::Gateway),
            (false, true) => Some(Cause::Server),
            (false, false) => None,
        }
    }

    /// It did not answer: no connection, a broken one, or not in time.
    pub fn failed(&self, in_time: bool, outlier: &Outlier) -> Option<Cause> {
        if !outlier.split {
            return self.answered(if in_time { 503 } else { 504 }, outlier);
        }
        reaches(&self.local_errors, outlier.local_errors).then_some(Cause::Local)
    }

    /// A connection was opened, where nothing is known of answers.
    pub fn connected(&self, outlier: &Outlier) {
        if outlier.split {
            clear(&self.local_errors);
        } else {
            clear(&self.server_errors);
            clear(&self.gateway_errors);
        }
    }

    /// Leaves it out from now on, for as long as it deserves.
    pub fn eject(&self, outlier: &Outlier) -> Duration {
        let now = millis(now());
        let mut past = self.past();
        // For each interval in which all was well, one ejection is forgotten.
        let well = now.saturating_sub(past.end_ms) / millis(outlier.interval).max(1);
        past.count = past.count.saturating_sub(u32::try_from(well).unwrap_or(u32::MAX));
        past.count = past.count.saturating_add(1);
        let lasts = outlier
            .base
            .saturating_mul(past.count)
            .min(outlier.max.max(outlier.base));
        past.end_ms = now.saturating_add(millis(lasts)).max(1);
        self.until_ms.store(past.end_ms, SeqCst);
        // When it comes back, nothing is held against it.
        for errors in [&self.server_errors, &self.gateway_errors, &self.local_errors] {
            clear(errors);
        }
        lasts
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes only where there is something to write.
fn clear(errors: &AtomicU32) {
    if errors.load(Relaxed) != 0 {
        errors.store(0, Relaxed);
    }
}

/// Counts one more; whether that is the one that leads to an ejection.
fn reaches(errors: &AtomicU32, (limit, enforced): (u32, u32)) -> bool {
    let count = errors.fetch_add(1, Relaxed) + 1;
    if limit == 0 || count < limit {
        return false;
    }
    errors.store(0, Relaxed);
    enforced >= 100 || random::below(100) < u64::from(enforced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlier() -> Outlier {
        Outlier {
            server_errors: (3, 100),
            gateway_errors: (2, 100),
            local_errors: (2, 100),
            split: true,
            interval: Duration::from_secs(3600),
            base: Duration::from_secs(10),
            max: Duration::from_secs(25),
            max_percent: 50,
            always_one: false,
        }
    }

    #[test]
    fn errors_in_a_row_lead_to_an_ejection_and_others_do_not() {
        let (host, outlier) = (Host::default(), outlier());
        let answers = |statuses: &[u16]| statuses.iter().map(|s| host.answered(*s, &outlier)).collect::<Vec<_>>();
        assert_eq!(answers(&[500, 200, 500, 500]), [None; 4]);
        assert_eq!(host.answered(500, &outlier), Some(Cause::Server));
        assert_eq!(answers(&[503, 200, 503]), [None; 3]);
        assert_eq!(host.answered(502, &outlier), Some(Cause::Gateway));
        assert_eq!(host.failed(true, &outlier), None);
        assert_eq!(host.answered(404, &outlier), None);
        assert_eq!(host.failed(true, &outlier), None);
        assert_eq!(host.failed(false, &outlier), Some(Cause::Local));
        let together = Outlier {
            split: false,
            ..outlier
        };
        assert_eq!(host.failed(true, &together), None);
        assert_eq!(host.failed(true, &together), Some(Cause::Gateway));
        let off = Outlier {
            gateway_errors: (1, 0),
            server_errors: (0, 100),
            ..outlier
        };
        assert_eq!(host.answered(503, &off), None, "nothing is enforced");
    }

    #[test]
    fn ejections_become_longer_up_to_the_longest() {
        let (host, outlier) = (Host::default(), outlier());
        let lasts: Vec<u64> = (0..4).map(|_| host.eject(&outlier).as_secs()).collect();
        assert_eq!(lasts, [10, 20, 25, 25]);
        assert!(host.is_ejected());
    }

    #[test]
    fn an_endpoint_that_is_slow_or_busy_costs_more() {
        let (quick, slow) = (Host::default(), Host::default());
        quick.took(Duration::from_millis(1), false);
        slow.took(Duration::from_millis(20), false);
        assert!(quick.cost(1) < slow.cost(1));
        for _ in 0..100 {
            quick.begin();
        }
        assert!(quick.cost(1) > slow.cost(1) && quick.cost(100) < slow.cost(1));
        let (refuses, fresh) = (Host::default(), Host::default());
        refuses.took(Duration::from_micros(10), true);
        assert!(refuses.cost(1) > slow.cost(1));
        assert!(fresh.cost(1) < slow.cost(1), "somebody must be the first to try it");
        fresh.begin();
        assert!(fresh.cost(1) > refuses.cost(1));
    }
}
