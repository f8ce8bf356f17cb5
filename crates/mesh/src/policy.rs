//! What labels ask for the traffic to one destination: how it is balanced, how long it may take, when it is tried again,
//! what breaks it off, and what is done to it for a test.
//!
//! Values only; [`read`] makes them from labels. A destination is a Service, or a single address: then the Pod's labels
//! stand above those of the Service. What a proxy does per request (timeouts, retries, hashes, faults, traces) follows the
//! destination that the client named; what it does per endpoint follows the destination that takes the request.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use weir_api::labels::InvalidValue;
use weir_api::percent::Percent;

pub(crate) mod read;

/// See the module. The default is what holds where nobody says anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Which endpoint takes a request.
    pub balance: Balance,
    /// How long a connection may take to open; `None`: the proxies' default, [`CONNECT_TIMEOUT`].
    pub connect_timeout: Option<Duration>,
    /// What may go on at a time.
    pub limits: Limits,
    /// When an endpoint is left out for a while.
    pub outlier: Outlier,
    /// How long a request may take.
    pub timeouts: Timeouts,
    /// When a request is tried again.
    pub retries: Retries,
    /// What is done to requests on purpose.
    pub fault: Fault,
    /// Which requests leave a trace.
    pub tracing: Tracing,
}

/// How long a connection may take to open where nobody says.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Which endpoint takes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// The rule.
    pub policy: LbPolicy,
    /// What of a request is hashed: the cookie first, then the header. Only the policies that hash look at it.
    pub hash: Vec<HashOn>,
    /// Below this share of healthy endpoints all are used, healthy or not; `None`: 50 %.
    pub panic_percent: Option<u8>,
}

/// A rule that chooses an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LbPolicy {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// Of two at random the one with fewer requests.
    LeastRequest,
    /// By hash on a ring: few requests move when endpoints come and go.
    RingHash,
    /// At random, by weight.
    Random,
    /// By hash in a table: evener than a ring.
    Maglev,
    /// Of two at random the one with the smaller product of latency and requests.
    PeakEwma,
}

impl LbPolicy {
    const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::LeastRequest,
        Self::RingHash,
        Self::Random,
        Self::Maglev,
        Self::PeakEwma,
    ];

    /// The label's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "ROUND_ROBIN",
            Self::LeastRequest => "LEAST_REQUEST",
            Self::RingHash => "RING_HASH",
            Self::Random => "RANDOM",
            Self::Maglev => "MAGLEV",
            Self::PeakEwma => "PEAK_EWMA",
        }
    }

    /// It looks at what [`Balance::hash`] names.
    pub fn hashes(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

impl FromStr for LbPolicy {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|p| p.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::as_str).join(", ");
                InvalidValue(format!("{text:?} is not a load balancing policy; write one of {known}"))
            })
    }
}

/// What of a request is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HashOn {
    /// A cookie.
    Cookie {
        /// Its name.
        name: String,
        /// Requests without it get one that lives this long (zero: as long as the browser); `None`: they get none.
        ttl: Option<Duration>,
    },
    /// A request header.
    Header(String),
}

/// What may go on at a time, over all endpoints; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Retries.
    pub retries: Option<u32>,
    /// Connections.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending: Option<u32>,
    /// Requests.
    pub requests: Option<u32>,
    /// Share of the requests under way that may be retries; where it is set, [`Self::retries`] does not count.
    pub retry_budget: Option<Percent>,
}

/// When an endpoint is left out for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Outlier {
    /// At all.
    pub enabled: bool,
    /// After so many in a row of: 502, 503, 504, no connection; 0: these do not count.
    pub gateway_errors: u32,
    /// After so many answers of 5xx in a row; 0: these do not count.
    pub server_errors: u32,
    /// For how long the first time; the nth time n times as long.
    pub ejection_time: Duration,
    /// At most this share of the endpoints at a time.
    pub ejected_percent_max: u8,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            enabled: true,
            gateway_errors: 5,
            server_errors: 0,
            ejection_time: Duration::from_secs(10),
            ejected_percent_max: 50,
        }
    }
}

/// How long a request may take; `None`: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// From its last byte to the end of the answer, with all tries.
    pub request: Option<Duration>,
    /// The same for each try.
    pub per_try: Option<Duration>,
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
}

/// What makes a try worth another. In the order in which proxies are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// No connection to the endpoint.
    ConnectFailure,
    /// The endpoint refused the HTTP/2 stream before it looked at it.
    RefusedStream,
    /// The connection broke before the request was sent.
    ResetBeforeRequest,
    /// 502, 503 or 504.
    GatewayError,
    /// Any 5xx, or no answer.
    #[serde(rename = "5xx")]
    ServerError,
}

impl RetryOn {
    /// No application has seen such a request: a retry cannot execute it twice.
    pub const NEVER_SENT: [Self; 3] = [Self::ConnectFailure, Self::RefusedStream, Self::ResetBeforeRequest];

    /// The word of xDS.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailure => "connect-failure",
            Self::RefusedStream => "refused-stream",
            Self::ResetBeforeRequest => "reset-before-request",
            Self::GatewayError => "gateway-error",
            Self::ServerError => "5xx",
        }
    }
}

/// Retries of requests that no application has seen, where nobody says anything.
const RETRIES_DEFAULT: u32 = 2;

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Retries {
    /// After what; empty: never.
    pub on: BTreeSet<RetryOn>,
    /// How often, beside the first try.
    pub limit: u32,
}

impl Default for Retries {
    fn default() -> Self {
        RetryCounts::default().combined()
    }
}

/// How often a request is tried again after what, as somebody says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RetryCounts {
    /// After any 5xx.
    pub server_error: Option<u32>,
    /// After no connection; 0 takes the default retries away.
    pub connect_failure: Option<u32>,
    /// After 502, 503 or 504.
    pub gateway_error: Option<u32>,
}

impl RetryCounts {
    /// One list of conditions with one number, the largest. What no application has seen is tried again beside it.
    pub fn combined(&self) -> Retries {
        let asked = |count: Option<u32>| count.unwrap_or_default();
        let mut on = BTreeSet::new();
        if asked(self.server_error) > 0 {
            on.insert(RetryOn::ServerError);
        }
        if asked(self.gateway_error) > 0 {
            on.insert(RetryOn::GatewayError);
        }
        let largest = asked(self.server_error)
            .max(asked(self.gateway_error))
            .max(asked(self.connect_failure));
        if self.connect_failure != Some(0) {
            on.extend(RetryOn::NEVER_SENT);
        }
        let limit = match (largest, on.is_empty()) {
            (_, true) => 0,
            (0, false) => RETRIES_DEFAULT,
            (largest, false) => largest,
        };
        Retries { on, limit }
    }
}

/// What is done to requests on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// So many wait this long.
    pub delay: Option<(Duration, Percent)>,
    /// So many are answered this status, after the delay if both hit.
    pub abort: Option<(u16, Percent)>,
    /// The body of an answer comes no faster than this, KiB a second.
    pub rate_kib_s: Option<u32>,
}

/// Which requests leave a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Tracing {
    /// This share of those that come without a decision; `None`: there is no tracing here.
    pub sampling: Option<Percent>,
}

impl Tracing {
    /// What holds where both have a say: the one that traces more.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        self.max(other)
    }
}

impl fmt::Display for LbPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
