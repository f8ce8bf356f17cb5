//! How a cluster's endpoints are used, as configured: the policy of balancing, limits, and when one is left out.

use std::time::Duration;

/// How the next endpoint is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LbPolicy {
    /// One after the other, by weight.
    #[default]
    RoundRobin,
    /// Of so many that are drawn, the one with the fewest requests.
    LeastRequest {
        /// How many are drawn, at least 2.
        choices: u32,
    },
    /// Any, by weight.
    Random,
    /// By a hash of the request, on a ring.
    RingHash {
        /// Entries of the ring, at least.
        min: u64,
        /// Entries of the ring, at most.
        max: u64,
    },
    /// By a hash of the request, in a table.
    Maglev {
        /// Entries of the table, a prime.
        size: u32,
    },
    /// Of two that are drawn, the one that answers sooner, by its latencies and its requests.
    PeakEwma,
}

impl LbPolicy {
    /// Whether it needs the number of each endpoint's requests.
    pub fn counts_requests(self) -> bool {
        matches!(self, Self::LeastRequest { .. } | Self::PeakEwma)
    }
}

/// What a cluster may have at a time, over all workers. What is not said is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Connections.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending: Option<u32>,
    /// Requests.
    pub requests: Option<u32>,
    /// Tries after the first.
    pub retries: Option<RetryLimit>,
    /// The remaining room is shown.
    pub track: bool,
}

/// How many tries after the first there may be at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RetryLimit {
    /// So many.
    Number(u32),
    /// A part of the requests.
    Budget {
        /// So many in a hundred.
        percent: f64,
        /// So many always.
        min: u32,
    },
}

impl RetryLimit {
    /// The limit while there are so many requests.
    pub fn of(&self, requests: u64) -> u32 {
        match self {
            Self::Number(limit) => *limit,
            Self::Budget { percent, min } => {
                #[allow(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss
                )]
                let part = (requests as f64 * percent / 100.0) as u32;
                part.max(*min)
            }
        }
    }
}

impl Limits {
    /// Whether anything of it stands between a request and a connection.
    pub fn of_requests(&self) -> bool {
        self.connections.is_some() || self.pending.is_some() || self.requests.is_some()
    }
}

/// When an endpoint is left out for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlier {
    /// So many errors of the server (500-599) in a row, and how often in a hundred that leads to an ejection.
    pub server_errors: (u32, u32),
    /// The same for 502, 503 and 504.
    pub gateway_errors: (u32, u32),
    /// The same for failed connections, broken ones and time-outs.
    pub local_errors: (u32, u32),
    /// Whether those are told apart from errors that the endpoint answers.
    pub split: bool,
    /// How long an endpoint must have been well to have one ejection forgotten.
    pub interval: Duration,
    /// How long the first ejection lasts; the second twice as long, and so on.
    pub base: Duration,
    /// The longest ejection.
    pub max: Duration,
    /// How many endpoints in a hundred may be left out.
    pub max_percent: u32,
    /// One may always be.
    pub always_one: bool,
}
