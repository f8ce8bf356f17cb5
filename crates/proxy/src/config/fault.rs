//! Faults that are injected on purpose: delays, errors, slow responses.
//!
//! Enters: what a fault filter or a route says. Leaves: the lot that one request draws.

use std::time::Duration;

use crate::random;

/// A share of requests, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Percent(pub u32);

impl Percent {
    /// All of them.
    pub const ALL: Self = Self(1_000_000);

    /// Draws whether one request is among them.
    pub fn hit(self) -> bool {
        match self {
            Self(0) => false,
            all if all >= Self::ALL => true,
            Self(share) => random::below(1_000_000) < u64::from(share),
        }
    }
}

/// What is done to some of the requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fault {
    /// They wait.
    pub delay: Option<(Duration, Percent)>,
    /// They are answered with an error, after the wait if there is one.
    pub abort: Option<(Abort, Percent)>,
    /// Their responses come with so many bytes a second.
    pub limit: Option<(u64, Percent)>,
}

/// The error of an aborted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// HTTP status.
    Http(u16),
    /// gRPC status.
    Grpc(u16),
}

/// What one request drew.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Lot {
    /// It waits so long.
    pub delay: Option<Duration>,
    /// It is answered with this.
    pub abort: Option<Abort>,
    /// Its response comes with so many bytes a second.
    pub limit: Option<u64>,
}

impl Fault {
    /// Whether nothing is done to anybody.
    pub fn is_none(&self) -> bool {
        self.delay.is_none() && self.abort.is_none() && self.limit.is_none()
    }

    /// Draws for one request.
    pub fn draw(&self) -> Lot {
        fn drawn<T: Copy>(fault: Option<(T, Percent)>) -> Option<T> {
            fault.filter(|(_, share)| share.hit()).map(|(what, _)| what)
        }
        Lot {
            delay: drawn(self.delay),
            abort: drawn(self.abort),
            limit: drawn(self.limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_drawn_to_the_millionth() {
        assert!((0..1000).all(|_| Percent::ALL.hit() && !Percent(0).hit()));
        let hits = (0..1_000_000).filter(|_| Percent(1_000).hit()).count();
        assert!((800..1_200).contains(&hits), "{hits} of a million at a thousandth");
    }
}
