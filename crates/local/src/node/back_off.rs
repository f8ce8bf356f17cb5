//! The waiting times between attempts.

use std::time::Duration;

/// First waiting time of a crashing container.
const CRASH_FIRST: Duration = Duration::from_secs(10);
/// Longest waiting time of a crashing container.
const CRASH_MAX: Duration = Duration::from_secs(300);
/// A container that ran this long starts afresh.
const CRASH_RESET: Duration = Duration::from_secs(600);

/// Doubles from `first` to `max`; starts afresh after a run of `reset`.
#[derive(Clone, Debug)]
pub struct BackOff {
    first: Duration,
    max: Duration,
    reset: Duration,
    next: Duration,
    /// The first failure is retried at once.
    free: bool,
}

impl BackOff {
    /// As the kubelet restarts containers: at once, then 10 s doubling to 5 min.
    pub fn crash_loop() -> Self {
        Self {
            first: CRASH_FIRST,
            max: CRASH_MAX,
            reset: CRASH_RESET,
            next: CRASH_FIRST,
            free: true,
        }
    }

    /// For retries of the node's own work.
    pub fn retry(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            reset: Duration::MAX,
            next: first,
            free: false,
        }
    }

    /// How long to wait after a failure that followed a run of `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= self.reset {
            self.next = self.first;
        }
        if std::mem::take(&mut self.free) {
            return Duration::ZERO;
        }
        let wait = self.next;
        self.next = (self.next * 2).min(self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crash_loop_doubles_to_five_minutes_and_resets_after_ten() {
        let mut back_off = BackOff::crash_loop();
        let waits: Vec<u64> = (0..8)
            .map(|_| back_off.after(Duration::from_secs(1)).as_secs())
            .collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(back_off.after(Duration::from_secs(600)).as_secs(), 10);
    }
}
