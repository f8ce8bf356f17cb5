//! A limit for the bytes of one response.
//!
//! Enters: the rate. Leaves: how many bytes may go now, or a wait. Bytes go in small pieces at even times; what a slow
//! source did not use is not made up for later.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The time between two pieces.
const TICK: Duration = Duration::from_millis(20);
/// So many pieces may go at once where the process was late.
const LATE_MAX: u32 = 5;

/// The limit of one response.
pub struct Bandwidth {
    /// Bytes a second.
    rate: u64,
    /// What may go now, in billionths of a byte.
    credit: u128,
    /// When that was true.
    at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Bandwidth {
    /// The first piece may go at once.
    pub fn new(rate: u64) -> Self {
        let now = Instant::now();
        Self {
            rate,
            credit: u128::from(rate) * TICK.as_nanos(),
            at: now,
            sleep: Box::pin(sleep_until(now)),
        }
    }

    /// How many bytes may go, at least one; else the task is woken when some may.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            let now = Instant::now();
            let room = self.room(now);
            if room > 0 {
                return Poll::Ready(room);
            }
            self.sleep.as_mut().reset(now + TICK);
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn room(&mut self, now: Instant) -> usize {
        let most = u128::from(self.rate) * (TICK * LATE_MAX).as_nanos();
        let more = u128::from(self.rate) * (now - self.at).as_nanos();
        (self.credit, self.at) = ((self.credit + more).min(most.max(BYTE)), now);
        usize::try_from(self.credit / BYTE).unwrap_or(usize::MAX)
    }

    /// So many went.
    pub fn took(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_sub(bytes as u128 * BYTE);
    }
}

const BYTE: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_rate_is_kept_to_the_byte_over_seconds() {
        for rate in [1024, 100 * 1024, 7 << 20] {
            let mut limit = Bandwidth::new(rate);
            let begin = limit.at;
            let (mut sent, mut late) = (0, 0);
            while limit.at - begin < Duration::from_secs(10) {
                let room = limit.room(limit.at + TICK + Duration::from_micros(late));
                limit.took(room);
                sent += room as u64;
                // A process is never woken quite in time.
                late = (late + 700) % 5_000;
            }
            let exact = rate * 10;
            assert!(sent.abs_diff(exact) <= exact / 200, "{sent} bytes of {exact}");
        }
    }

    #[tokio::test]
    async fn silence_earns_little() {
        let mut limit = Bandwidth::new(1_000_000);
        assert_eq!(limit.room(limit.at), 20_000);
        assert_eq!(limit.room(limit.at + Duration::from_secs(60)), 100_000);
    }
}
