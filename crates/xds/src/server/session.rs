//! One client's stream as a pure state machine: requests and snapshots go in, responses come out. No I/O, no clock.
//!
//! Both protocol variants share the rules ([`Session`]) and differ only in how requests are read and responses written
//! (`delta`, `sotw`):
//! - At most one response a type is unanswered. What changes meanwhile is sent, once, after the answer.
//! - Additions and changes first: clusters, endpoints, then, once the client has taken the clusters (Envoy answers when
//!   they are warm), listeners and routes. Removals when nothing is unanswered, in reverse: routes, listeners, endpoints,
//!   clusters.
//! - After a cluster was sent its endpoints are sent again: a client warms a changed cluster only on a new assignment.
//! - Clusters that a client claims to have when it comes back, and their endpoints, are not removed before they are
//!   released: connections from before may need them for as long as they take to drain (delta).
//! - What a client rejected (NACK) is not sent again until it changes; the client keeps its last good one.
//! - What is large is sent in pieces, one a time. Listeners and routes wait for the last piece of the clusters.
//! - What a client asks for again is sent again; what it asks for and does not exist is named as removed (delta).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::snapshot::Snapshot;
use crate::types::{Resource, ResourceType};
use state::TypeState;

pub mod delta;
mod known;
pub mod sotw;
mod state;

#[cfg(test)]
mod tests;

/// What a client told us with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A first request or a changed subscription.
    Subscribed(ResourceType),
    /// The client took a response.
    Ack(ResourceType),
    /// The client rejected a response.
    Nack(ResourceType, Nack),
    /// An answer to something that is not the latest response, or a type that is not served: ignored.
    Ignored(String),
}

/// A rejection, as the client put it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Nack {
    /// Names of the rejected resources: those of the response that the message names, or else all of the response.
    pub resources: Vec<String>,
    /// The client's own words.
    pub message: String,
}

/// How a client stands with one type of resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TypeStatus {
    /// Version (a hash over all resources of the type) of the latest response.
    pub sent_version: String,
    /// The latest version that the client took; equal to `sent_version` when it is up to date.
    pub acked_version: String,
    /// How many resources of the type the client has.
    pub resources: usize,
    /// How many rejections this stream has seen.
    pub nacks: u64,
    /// The resources that the client rejects now, if any.
    pub last_nack: Option<Nack>,
    /// Where the client is not up to date, by name.
    #[serde(skip)]
    pub pending: BTreeMap<String, Pending>,
}

/// A resource of which the client has not taken what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Why not.
    pub state: PendingState,
    /// What it took last; `None` where it never took any.
    pub taken: Option<Arc<Resource>>,
}

/// How far a resource has come on its way to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingState {
    /// It was sent, and the client has not answered.
    Sent,
    /// It is to be sent, or to be taken away.
    Waiting,
    /// The client rejected it.
    Rejected,
}

/// A response: its head, and its resources as all streams share them.
#[derive(Debug)]
pub(super) struct Outgoing<H> {
    pub(super) head: H,
    pub(super) resources: Vec<Arc<Resource>>,
}

/// Whether a message names a resource: the name stands in it as a whole word, since `80_a` is no mention of `0_a`.
fn names_resource(message: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '|' | '_' | '-');
    !name.is_empty()
        && message.match_indices(name).any(|(at, _)| {
            !message[..at].chars().next_back().is_some_and(part)
                && !message[at + name.len()..].chars().next().is_some_and(part)
        })
}

/// What the next response holds.
#[derive(Debug)]
struct Step {
    ty: ResourceType,
    resources: Vec<Arc<Resource>>,
    removed: Vec<String>,
}

/// The rules that both variants of the protocol share.
#[derive(Debug, Default)]
struct Session {
    types: BTreeMap<ResourceType, TypeState>,
    responses: u64,
}

impl Session {
    fn state(&mut self, ty: ResourceType) -> &mut TypeState {
        self.types.entry(ty).or_default()
    }

    fn in_flight(&self, ty: ResourceType) -> bool {
        self.types.get(&ty).is_some_and(|s| s.in_flight.is_some())
    }

    /// Finds what is to be told since the snapshot before.
    fn follow(&mut self, snapshot: &Snapshot) {
        for (ty, state) in &mut self.types {
            state.follow(snapshot.resources(*ty));
        }
    }

    /// Additions and changes, in order, as far as the client has come.
    fn next_addition(&self) -> Option<Step> {
        for ty in ResourceType::ALL {
            // Routes and listeners may lead to new clusters: not before the client has those.
            let waits =
                matches!(ty, ResourceType::Listener | ResourceType::Route) && self.in_flight(ResourceType::Cluster);
            let Some(state) = self.types.get(&ty) else { continue };
            if !state.subscribed || state.in_flight.is_some() || waits {
                continue;
            }
            if let Some((resources, removed)) = state.additions() {
                return Some(Step { ty, resources, removed });
            }
        }
        None
    }

    /// Removals, in reverse order, when the client has taken all additions.
    fn next_removal(&self) -> Option<Step> {
        let settled = |state: &TypeState| state.in_flight.is_none();
        if !self
            .types
            .iter()
            .all(|(ty, state)| *ty == ResourceType::Peer || settled(state))
        {
            return None;
        }
        ResourceType::ALL.into_iter().rev().find_map(|ty| {
            let state = self.types.get(&ty).filter(|s| s.subscribed && settled(s))?;
            let removed = state.removals();
            (!removed.is_empty()).then(|| Step {
                ty,
                resources: Vec::new(),
                removed,
            })
        })
    }

    /// Endpoints of clusters that are being sent must follow, even if they did not change.
    fn resend_endpoints(&mut self, clusters: &[Arc<Resource>], snapshot: &Snapshot) {
        let Some(endpoints) = self.types.get_mut(&ResourceType::Endpoint) else {
            return;
        };
        for (ty, name) in clusters.iter().flat_map(|c| c.references()) {
            if *ty == ResourceType::Endpoint {
                endpoints.send_again(name);
            }
        }
        endpoints.follow(snapshot.resources(ResourceType::Endpoint));
    }

    fn next_nonce(&mut self) -> String {
        self.responses += 1;
        self.responses.to_string()
    }

    /// What a client that came back has, and is gone, goes from now on.
    fn release(&mut self) {
        self.types.values_mut().for_each(TypeState::release);
    }

    /// What the client rejects now.
    fn rejections(&self) -> Vec<Nack> {
        self.types.values().filter_map(|t| t.status.last_nack.clone()).collect()
    }

    fn status(&self) -> BTreeMap<ResourceType, TypeStatus> {
        self.types
            .iter()
            .map(|(ty, state)| {
                (
                    *ty,
                    TypeStatus {
                        resources: state.count(),
                        pending: state.pending(),
                        ..state.status.clone()
                    },
                )
            })
            .collect()
    }
}
