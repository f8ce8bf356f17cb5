//! Rules that stand in front of a destination or at the gateway: which requests, what is done to them, where they go.
//!
//! Types only, in the words of the Gateway API. TrafficSplit, HTTPRoute and Ingress are all read into these; whoever
//! writes a proxy's configuration needs to know no other form.

use std::time::Duration;

use serde::Serialize;
use weir_api::problem::ObjectRef;

use crate::objects::Key;

/// One rule. The first rule of a list that takes a request decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// A name for people: the object and which rule of it.
    pub name: String,
    /// The object that asks for it.
    pub origin: ObjectRef,
    /// It takes requests that satisfy any of them; empty: every request.
    pub matches: Vec<RequestMatch>,
    /// What is done to requests and responses.
    pub filters: Filters,
    /// Where requests go.
    pub action: RuleAction,
    /// How long they may take.
    pub timeouts: RuleTimeouts,
    /// At the gateway: the Service whose labels say how requests are tried, timed and hashed; `None`: nobody's. In front of a
    /// Service it is that one.
    pub policy_of: Option<Key>,
}

impl Rule {
    /// It takes every request.
    pub fn takes_all(&self) -> bool {
        self.matches.is_empty() || self.matches.iter().any(RequestMatch::takes_all)
    }

    /// The shares of a rule that forwards.
    pub fn shares(&self) -> &[Share] {
        match &self.action {
            RuleAction::Forward(shares) => shares,
            RuleAction::Redirect(_) | RuleAction::Respond { .. } => &[],
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum RuleAction {
    /// To one of these by weight; at least one, and the sum of weights is above 0.
    Forward(Vec<Share>),
    /// The client is told to ask elsewhere.
    Redirect(Redirect),
    /// The proxy answers.
    Respond {
        /// Status of the answer.
        status: u16,
        /// Its text.
        body: String,
    },
}

impl Default for RuleAction {
    fn default() -> Self {
        Self::Respond {
            status: 500,
            body: String::new(),
        }
    }
}

/// A destination that gets a share of a rule's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The Service; `None`: a destination that does not exist, whose share is answered 500.
    pub service: Option<Key>,
    /// Its port.
    pub port: u16,
    /// Relative to the sum of all.
    pub weight: u32,
    /// What is done to this share's requests and responses, after what the rule does.
    pub filters: Filters,
}

/// A condition on requests; all parts that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestMatch {
    /// The path, without its query.
    pub path: Option<PathMatch>,
    /// The method.
    pub method: Option<String>,
    /// Headers by name.
    pub headers: Vec<(String, TextMatch)>,
    /// Parameters of the query by name.
    pub query: Vec<(String, TextMatch)>,
}

impl RequestMatch {
    /// Every request satisfies it.
    pub fn takes_all(&self) -> bool {
        let any_path = match &self.path {
            None => true,
            Some(PathMatch::Prefix(prefix)) => prefix == "/",
            Some(_) => false,
        };
        any_path && self.method.is_none() && self.headers.is_empty() && self.query.is_empty()
    }
}

/// A condition on a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PathMatch {
    /// This very path.
    Exact(String),
    /// These segments first: `/a` takes `/a`, `/a/` and `/a/b`, not `/ab`. Never ends in a slash, but for `/` alone.
    Prefix(String),
    /// The whole path matches.
    Regex(String),
}

/// A condition on a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TextMatch {
    /// This very text.
    Exact(String),
    /// The whole text matches.
    Regex(String),
}

/// What is done to requests and responses on their way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filters {
    /// Headers of requests.
    pub request_headers: HeaderEdits,
    /// Headers of responses.
    pub response_headers: HeaderEdits,
    /// Path and host.
    pub rewrite: Option<Rewrite>,
    /// Copies of requests, whose answers nobody waits for.
    pub mirrors: Vec<Mirror>,
}

/// Edits of headers: set, then add, then remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderEdits {
    /// In place of what was there.
    pub set: Vec<(String, String)>,
    /// Beside what was there.
    pub add: Vec<(String, String)>,
    /// Taken away.
    pub remove: Vec<String>,
}

/// Another path or host for the request that is passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathRewrite>,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PathRewrite {
    /// All of it; the query stays.
    Full(String),
    /// The prefix that the rule matched.
    Prefix(String),
}

/// A copy of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// The Service that gets the copies.
    pub service: Key,
    /// Its port.
    pub port: u16,
    /// How many of a million requests are copied.
    pub per_million: u32,
}

/// Where a client is told to go. What is not given stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub hostname: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathRewrite>,
    /// Status of the answer.
    pub status: u16,
}

/// How long a rule's requests may take; `None`: whatever holds without the rule. Zero: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuleTimeouts {
    /// The request with all its tries.
    pub request: Option<Duration>,
    /// One try.
    pub backend_request: Option<Duration>,
}

/// Weights as a proxy takes them: the same ratios, in 32 bits together; what was above 0 stays above 0.
pub(crate) fn scaled(weights: &[u64]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let sum = |by: u128| -> u128 { weights.iter().map(|w| (u128::from(*w) / by).max(1)).sum() };
    let mut by = u128::from(divisor);
    while sum(by) > u128::from(u32::MAX) {
        by *= 2;
    }
    let scale = |weight: &u64| match weight {
        0 => 0,
        weight => u32::try_from((u128::from(*weight) / by).max(1)).unwrap_or(u32::MAX),
    };
    weights.iter().map(scale).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_ratios() {
        assert_eq!(scaled(&[1_000_000, 500_000]), [2, 1]);
        assert_eq!(scaled(&[900, 100, 0]), [9, 1, 0]);
        assert_eq!(scaled(&[0, 0]), [0, 0]);
        assert_eq!(scaled(&[]), [0; 0]);
        let huge = scaled(&[u64::from(u32::MAX) * 1000, u64::from(u32::MAX) * 1000 - 1, 1]);
        assert_eq!(huge[2], 1, "what asked for something gets something");
        assert!(huge.iter().map(|w| u64::from(*w)).sum::<u64>() <= u64::from(u32::MAX));
        assert!(huge[0].abs_diff(huge[1]) <= 1 && huge[0] > 1 << 29, "{huge:?}");
    }

    #[test]
    fn a_rule_takes_all_where_nothing_is_asked() {
        let of = |path| RequestMatch {
            path,
            ..Default::default()
        };
        assert!(of(None).takes_all());
        assert!(of(Some(PathMatch::Prefix("/".into()))).takes_all());
        assert!(!of(Some(PathMatch::Exact("/".into()))).takes_all());
        let method = RequestMatch {
            method: Some("GET".into()),
            ..Default::default()
        };
        assert!(!method.takes_all());
    }
}
