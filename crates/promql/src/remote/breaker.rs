//! A circuit breaker: a server that fails again and again is left alone for a while, then tried by one request.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// How long it stays open at first; twice as long each time that the trial fails.
const OPEN_MIN: Duration = Duration::from_secs(1);
/// How long it stays open at most.
const OPEN_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
    open_for: Duration,
    trying: bool,
}

/// One server's.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

impl Breaker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request may go out; else how long it is to wait.
    pub fn ask(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.lock();
        match state.open_until {
            None => Ok(()),
            Some(until) if now < until => Err(until - now),
            Some(_) if state.trying => Err(state.open_for),
            Some(_) => {
                state.trying = true;
                Ok(())
            }
        }
    }

    pub fn succeeded(&self) {
        *self.lock() = State::default();
    }

    pub fn failed(&self, now: Instant) {
        let mut state = self.lock();
        state.failures += 1;
        state.trying = false;
        if state.failures >= FAILURES {
            state.open_for = (state.open_for * 2).clamp(OPEN_MIN, OPEN_MAX);
            state.open_until = Some(now + state.open_for);
        }
    }

    /// A request that was given up says nothing about the server.
    pub fn given_up(&self) {
        self.lock().trying = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_tries_and_closes() {
        let breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..FAILURES {
            assert_eq!(breaker.ask(start), Ok(()));
            breaker.failed(start);
        }
        assert_eq!(breaker.ask(start), Err(OPEN_MIN));
        let later = start + OPEN_MIN;
        assert_eq!(breaker.ask(later), Ok(()));
        assert!(breaker.ask(later).is_err());
        breaker.failed(later);
        assert_eq!(breaker.ask(later), Err(OPEN_MIN * 2));
        let later = later + OPEN_MIN * 2;
        assert_eq!(breaker.ask(later), Ok(()));
        breaker.given_up();
        assert_eq!(breaker.ask(later), Ok(()));
        breaker.succeeded();
        assert_eq!((breaker.ask(later), breaker.ask(later)), (Ok(()), Ok(())));
    }
}
