//! When a request is tried again, as configured.

use std::time::Duration;

/// Envoy's default wait before the second try.
const BASE: Duration = Duration::from_millis(25);
/// The longest wait where none is said, in first waits.
const LONGEST: u32 = 10;

/// When to try again.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Conditions.
    pub on: RetryOn,
    /// Tries after the first, at most.
    pub limit: u32,
    /// A try that brought no head of a response in this time is over; `None`: no limit of its own.
    pub per_try: Option<Duration>,
    /// Waits between tries.
    pub back_off: BackOff,
    /// Statuses that are tried again.
    pub statuses: Box<[u16]>,
}

/// Waits between tries: each twice as long as the one before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackOff {
    /// The first.
    pub base: Duration,
    /// The longest.
    pub max: Duration,
}

impl BackOff {
    /// From the first one, and the longest where that is said.
    pub fn new(base: Duration, max: Option<Duration>) -> Self {
        let max = max.unwrap_or(base.saturating_mul(LONGEST));
        Self { base, max }
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self::new(BASE, None)
    }
}

/// The conditions of a retry, named as in Envoy's `retry_on`.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct RetryOn {
    /// No connection to the endpoint.
    pub connect_failure: bool,
    /// The connection broke before any byte of the request was sent.
    pub reset_before_request: bool,
    /// The endpoint did not take the stream.
    pub refused_stream: bool,
    /// The connection broke before any byte of the response came, or nothing came in the time of a try.
    pub reset: bool,
    /// Any response 500-599, or no response.
    pub server_error: bool,
    /// 502, 503, 504, or no response.
    pub gateway_error: bool,
    /// 409.
    pub conflict: bool,
    /// The statuses of the policy.
    pub statuses: bool,
    /// gRPC statuses that stand in the head of a response, a bit each.
    pub grpc: u32,
}

impl RetryPolicy {
    /// Whether a response of this status is to be tried again.
    pub fn answer(&self, status: u16, grpc: Option<u16>) -> bool {
        let on = &self.on;
        (on.server_error && (500..600).contains(&status))
            || (on.gateway_error && matches!(status, 502..=504))
            || (on.conflict && status == 409)
            || (on.statuses && self.statuses.contains(&status))
            || grpc.is_some_and(|grpc| grpc < 32 && on.grpc & (1 << grpc) != 0)
    }

    /// Whether a request may be wanted again of which the endpoint saw some.
    pub fn resends(&self) -> bool {
        let on = &self.on;
        self.limit > 0
            && (on.reset || on.server_error || on.gateway_error || on.conflict || on.statuses || on.grpc != 0)
    }
}
