//! How a service misbehaves on order: a share of failures and a delay, changeable while it runs.
//!
//! Failures are spread by error diffusion, not by chance: of N requests exactly `floor(N * share)` fail, so that a
//! test knows what it must see.

use std::cell::Cell;
use std::str::FromStr;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use crate::duration;

/// A share from 0 to 1, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share(u64);

const WHOLE: u64 = 1_000_000;

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self((share * WHOLE as f64).round() as u64)),
            _ => Err(format!(
                "`{text}` is not a share; write a number from 0 to 1, like 0.05"
            )),
        }
    }
}

/// The orders of one service. Lives on the service's only thread.
pub struct Behaviour {
    fail: Cell<Share>,
    status: Cell<StatusCode>,
    delay: Cell<Duration>,
    /// Requests decided since the share was set.
    decided: Cell<u64>,
    failed: Cell<u64>,
}

impl Behaviour {
    pub fn new(fail: Share, status: StatusCode, delay: Duration) -> Self {
        Self {
            fail: Cell::new(fail),
            status: Cell::new(status),
            delay: Cell::new(delay),
            decided: Cell::new(0),
            failed: Cell::new(0),
        }
    }

    /// Decides the fate of the next request: the status to fail it with, if it is its turn.
    pub fn next(&self) -> Option<StatusCode> {
        let n = self.decided.get();
        self.decided.set(n + 1);
        let failures = |n: u64| u128::from(n) * u128::from(self.fail.get().0) / u128::from(WHOLE);
        if failures(n + 1) == failures(n) {
            return None;
        }
        self.failed.set(self.failed.get() + 1);
        Some(self.status.get())
    }

    pub fn delay(&self) -> Duration {
        self.delay.get()
    }

    /// Applies `fail=0.2&delay=50ms&status=503`. All of it or, with an error, none; the count of requests starts anew.
    pub fn change(&self, query: &str) -> Result<(), String> {
        let (mut fail, mut status, mut delay) = (self.fail.get(), self.status.get(), self.delay.get());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "fail" => fail = value.parse()?,
                "delay" => delay = duration::parse(value)?,
                "status" => status = parse_status(value)?,
                _ => return Err(format!("`{key}` is unknown; known are fail, status and delay")),
            }
        }
        self.fail.set(fail);
        self.status.set(status);
        self.delay.set(delay);
        self.decided.set(0);
        self.failed.set(0);
        Ok(())
    }

    pub fn describe(&self) -> Value {
        json!({
            "fail": self.fail.get().0 as f64 / WHOLE as f64,
            "status": self.status.get().as_u16(),
            "delay_ms": self.delay.get().as_secs_f64() * 1e3,
            "requests": self.decided.get(),
            "failed": self.failed.get(),
        })
    }
}

/// A status that a final response may have.
pub fn parse_status(text: &str) -> Result<StatusCode, String> {
    text.parse::<StatusCode>()
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| format!("`{text}` is not a response status; write one from 200 to 599"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(share: &str, requests: usize) -> usize {
        let behaviour = Behaviour::new(
            share.parse().unwrap(),
            StatusCode::INTERNAL_SERVER_ERROR,
            Duration::ZERO,
        );
        (0..requests).filter(|_| behaviour.next().is_some()).count()
    }

    #[test]
    fn shares_are_exact() {
        assert_eq!(failures("0.05", 10_000), 500);
        assert_eq!(failures("0.333", 10_000), 3330);
        assert_eq!(failures("1", 17), 17);
        assert_eq!(failures("0", 10_000), 0);
    }

    #[test]
    fn failures_are_spread_evenly() {
        let behaviour = Behaviour::new("0.25".parse().unwrap(), StatusCode::BAD_GATEWAY, Duration::ZERO);
        let turns: Vec<bool> = (0..8).map(|_| behaviour.next().is_some()).collect();
        assert_eq!(turns, [false, false, false, true, false, false, false, true]);
    }

    #[test]
    fn a_wrong_change_changes_nothing() {
        let behaviour = Behaviour::new(Share::default(), StatusCode::INTERNAL_SERVER_ERROR, Duration::ZERO);
        assert!(behaviour.change("fail=0.5&delay=soon").is_err());
        assert_eq!(behaviour.describe()["fail"], 0.0);
        assert!(behaviour.change("fail=0.5&delay=5ms&status=503").is_ok());
        assert_eq!(behaviour.describe()["fail"], 0.5);
        assert_eq!(behaviour.describe()["delay_ms"], 5.0);
        assert_eq!(behaviour.next(), None);
        assert_eq!(behaviour.next(), Some(StatusCode::SERVICE_UNAVAILABLE));
    }
}
