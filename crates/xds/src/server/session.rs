//! One client's stream as a pure state machine: requests and snapshots go in, responses come out. No I/O, no clock.
//!
//! Both protocol variants share the rules ([`Session`]) and differ only in how requests are read and responses written
//! (`delta`, `sotw`):
//! - At most one response a type is unanswered. What changes meanwhile is sent, once, after the answer.
//! - Additions and changes first: clusters, endpoints, then, once the client has taken the clusters (Envoy answers when
//!   they are warm), listeners and routes. Removals when nothing is unanswered, in reverse: routes, listeners, endpoints,
//!   clusters.
//! - After a cluster was sent its endpoints are sent again: a client warms a changed cluster only on a new assignment.
//! - What a client rejected (NACK) is not sent again until it changes; the client keeps its last good one.
//! - What a client asks for again is sent again; what it asks for and does not exist is named as removed (delta).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::snapshot::Snapshot;
use crate::types::{Resource, ResourceType};

pub mod delta;
pub mod sotw;

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
}

/// What a client has of a resource: its version, and the resource itself where we have sent it on this stream.
#[derive(Clone, Debug)]
struct Known {
    version: String,
    resource: Option<Arc<Resource>>,
}

/// A response that waits for its answer.
#[derive(Debug)]
struct InFlight {
    nonce: String,
    version: String,
    resources: Vec<Arc<Resource>>,
    /// What the client had of these before, to fall back on when it rejects them.
    before: BTreeMap<String, Known>,
}

/// Subscription and knowledge of one type.
#[derive(Debug, Default)]
struct TypeState {
    /// The client asked for this type at all.
    subscribed: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    known: BTreeMap<String, Known>,
    /// Names that the client was told do not exist.
    told_absent: BTreeSet<String>,
    /// Versions that the client rejected, by name.
    rejected: BTreeMap<String, String>,
    /// Known, but to be sent again.
    again: BTreeSet<String>,
    /// The first response is due even if it is empty.
    first_due: bool,
    in_flight: Option<InFlight>,
    /// The nonce of the latest response.
    nonce: String,
    status: TypeStatus,
}

impl TypeState {
    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// The resources of the snapshot that the client wants.
    fn wanted<'a>(&'a self, ty: ResourceType, snapshot: &'a Snapshot) -> Vec<&'a Arc<Resource>> {
        let all = snapshot.resources(ty);
        if self.wildcard {
            return all.values().collect();
        }
        self.names.iter().filter_map(|name| all.get(name)).collect()
    }

    /// Wanted resources that the client does not have in this version and did not reject in this version.
    fn changed(&self, ty: ResourceType, snapshot: &Snapshot) -> Vec<Arc<Resource>> {
        self.wanted(ty, snapshot)
            .into_iter()
            .filter(|r| self.rejected.get(&r.name) != Some(&r.version))
            .filter(|r| {
                self.again.contains(&r.name) || self.known.get(&r.name).is_none_or(|known| known.version != r.version)
            })
            .cloned()
            .collect()
    }

    /// Names that the client has or asked for, that exist no more and of which it was not told so. `had` chooses those
    /// that it has (removals) or those that it never had (they can be answered at once).
    fn gone(&self, ty: ResourceType, snapshot: &Snapshot, had: bool) -> Vec<String> {
        let absent = |name: &&String| !snapshot.resources(ty).contains_key(*name);
        if had {
            return self.known.keys().filter(absent).cloned().collect();
        }
        self.names
            .iter()
            .filter(absent)
            .filter(|n| !self.known.contains_key(*n) && !self.told_absent.contains(*n))
            .cloned()
            .collect()
    }

    fn subscribe(&mut self, name: &str) {
        self.names.insert(name.to_owned());
        // Asked for again means sent again.
        self.known.remove(name);
        self.told_absent.remove(name);
        self.rejected.remove(name);
    }

    fn unsubscribe(&mut self, name: &str) {
        self.names.remove(name);
        self.told_absent.remove(name);
        if !self.wildcard {
            self.known.remove(name);
            self.rejected.remove(name);
            self.again.remove(name);
        }
    }

    /// Takes note of a response: from here on the client is believed to have it, until it says otherwise.
    fn sent(&mut self, nonce: String, version: String, resources: Vec<Arc<Resource>>, removed: &[String]) {
        let mut before = BTreeMap::new();
        for resource in &resources {
            let known = Known {
                version: resource.version.clone(),
                resource: Some(Arc::clone(resource)),
            };
            if let Some(old) = self.known.insert(resource.name.clone(), known) {
                before.insert(resource.name.clone(), old);
            }
            self.again.remove(&resource.name);
            self.told_absent.remove(&resource.name);
        }
        for name in removed {
            self.known.remove(name);
            self.rejected.remove(name);
            self.again.remove(name);
            if self.names.contains(name) {
                self.told_absent.insert(name.clone());
            }
        }
        self.first_due = false;
        self.nonce.clone_from(&nonce);
        self.status.sent_version.clone_from(&version);
        self.in_flight = Some(InFlight {
            nonce,
            version,
            resources,
            before,
        });
    }

    /// The client's answer to the response in flight.
    fn answered(&mut self, ty: ResourceType, error: Option<String>) -> Event {
        let Some(response) = self.in_flight.take() else {
            return Event::Ignored(format!("{ty}: an answer, but nothing waits for one"));
        };
        let Some(message) = error else {
            for resource in &response.resources {
                self.rejected.remove(&resource.name);
            }
            if self.rejected.is_empty() {
                self.status.last_nack = None;
            }
            self.status.acked_version = response.version;
            return Event::Ack(ty);
        };
        let named: Vec<_> = response
            .resources
            .iter()
            .filter(|r| names_resource(&message, &r.name))
            .collect();
        let bad = if named.is_empty() {
            response.resources.iter().collect()
        } else {
            named
        };
        let mut before = response.before;
        for resource in &bad {
            self.rejected.insert(resource.name.clone(), resource.version.clone());
            match before.remove(&resource.name) {
                Some(old) => self.known.insert(resource.name.clone(), old),
                None => self.known.remove(&resource.name),
            };
        }
        let nack = Nack {
            resources: bad.iter().map(|r| r.name.clone()).collect(),
            message,
        };
        self.status.nacks += 1;
        self.status.last_nack = Some(nack.clone());
        Event::Nack(ty, nack)
    }
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

    /// Additions and changes, in order, as far as the client has come.
    fn next_addition(&self, snapshot: &Snapshot) -> Option<Step> {
        for ty in ResourceType::ALL {
            // Routes and listeners may lead to new clusters: not before the client has those.
            let waits =
                matches!(ty, ResourceType::Listener | ResourceType::Route) && self.in_flight(ResourceType::Cluster);
            let Some(state) = self.types.get(&ty) else { continue };
            if !state.subscribed || state.in_flight.is_some() || waits {
                continue;
            }
            let resources = state.changed(ty, snapshot);
            let removed = state.gone(ty, snapshot, false);
            if !resources.is_empty() || !removed.is_empty() || state.first_due {
                return Some(Step { ty, resources, removed });
            }
        }
        None
    }

    /// Removals, in reverse order, when the client has taken all additions.
    fn next_removal(&self, snapshot: &Snapshot) -> Option<Step> {
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
            let removed = state.gone(ty, snapshot, true);
            (!removed.is_empty()).then(|| Step {
                ty,
                resources: Vec::new(),
                removed,
            })
        })
    }

    /// Endpoints of clusters that are being sent must follow, even if they did not change.
    fn resend_endpoints(&mut self, clusters: &[Arc<Resource>]) {
        let Some(endpoints) = self.types.get_mut(&ResourceType::Endpoint) else {
            return;
        };
        for (ty, name) in clusters.iter().flat_map(|c| c.references()) {
            if *ty == ResourceType::Endpoint && endpoints.wants(name) {
                endpoints.again.insert(name.clone());
            }
        }
    }

    /// A rejection holds only for the version that was rejected.
    fn forget_obsolete_rejections(&mut self, snapshot: &Snapshot) {
        for (ty, state) in &mut self.types {
            if state.rejected.is_empty() {
                continue;
            }
            state
                .rejected
                .retain(|name, v| snapshot.get(*ty, name).is_some_and(|r| r.version == *v));
            if state.rejected.is_empty() {
                state.status.last_nack = None;
            }
        }
    }

    fn next_nonce(&mut self) -> String {
        self.responses += 1;
        self.responses.to_string()
    }

    fn status(&self) -> BTreeMap<ResourceType, TypeStatus> {
        self.types
            .iter()
            .map(|(ty, state)| {
                (
                    *ty,
                    TypeStatus {
                        resources: state.known.len(),
                        ..state.status.clone()
                    },
                )
            })
            .collect()
    }
}
