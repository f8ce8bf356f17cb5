//! The state-of-the-world variant: each request names everything wanted; a response for listeners or clusters carries
//! everything there is (absence deletes), one for endpoints or routes what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::state::TypeState;
use super::{Event, Nack, Outgoing, Session, Step, TypeStatus};
use crate::discovery::{DiscoveryRequest, DiscoveryResponse};
use crate::layers::sum_of;
use crate::snapshot::Snapshot;
use crate::types::{Resource, ResourceType, version_text};

/// The name that subscribes to everything.
const WILDCARD: &str = "*";

/// A client's state-of-the-world stream.
#[derive(Debug, Default)]
pub struct SotwSession {
    session: Session,
}

impl SotwSession {
    /// A stream that has just been opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a request: an answer to the latest response of its type and the names that the client wants from now on.
    pub fn on_request(&mut self, request: DiscoveryRequest) -> Vec<Event> {
        let Some(ty) = ResourceType::from_type_url(&request.type_url) else {
            return vec![Event::Ignored(format!("type {:?} is not served", request.type_url))];
        };
        let mut events = Vec::new();
        let state = self.session.state(ty);
        if !request.response_nonce.is_empty() {
            // The latest response was not seen by the client when it wrote this; it will answer that one too.
            if request.response_nonce != state.nonce {
                return vec![Event::Ignored(format!(
                    "{ty}: stale nonce {:?}",
                    request.response_nonce
                ))];
            }
            if state.in_flight.is_some() {
                events.push(state.answered(ty, request.error_detail.map(|status| status.message)));
            }
        }
        let names: BTreeSet<String> = request
            .resource_names
            .iter()
            .filter(|n| *n != WILDCARD)
            .cloned()
            .collect();
        let first = !state.subscribed;
        let wildcard = ty != ResourceType::Peer
            && (request.resource_names.iter().any(|n| n == WILDCARD)
                // No name ever asked for means all; none any more means none.
                || (ty.is_full_state() && names.is_empty() && (first || state.wildcard())));
        state.subscribed = true;
        state.first_due |= first && wildcard;
        if state.set_names(names, wildcard) || first {
            events.push(Event::Subscribed(ty));
        }
        events
    }

    /// The next response that the client should get now, if any. Call again until `None`.
    pub(in crate::server) fn advance(&mut self, snapshot: &Snapshot) -> Option<Outgoing<DiscoveryResponse>> {
        loop {
            self.session.follow(snapshot);
            let step = match self.session.next_addition() {
                Some(step) => self.addition(step, snapshot),
                None => {
                    let step = self.session.next_removal()?;
                    self.removal(step, snapshot)
                }
            };
            if let Some(step) = step {
                return Some(self.respond(step, snapshot));
            }
        }
    }

    /// The same as one message.
    #[cfg(test)]
    pub(super) fn next(&mut self, snapshot: &Snapshot) -> Option<DiscoveryResponse> {
        let Outgoing { mut head, resources } = self.advance(snapshot)?;
        head.resources = resources.iter().map(|r| r.to_any()).collect();
        Some(head)
    }

    fn respond(&mut self, step: Step, snapshot: &Snapshot) -> Outgoing<DiscoveryResponse> {
        if step.ty == ResourceType::Cluster {
            // Only what is new to the client warms anew.
            let clusters = self.session.state(ResourceType::Cluster);
            let is_fresh = |r: &&Arc<Resource>| clusters.known(&r.name).is_none_or(|k| k.version != r.version);
            let fresh: Vec<_> = step.resources.iter().filter(is_fresh).cloned().collect();
            self.session.resend_endpoints(&fresh, snapshot);
        }
        let nonce = self.session.next_nonce();
        let version = self.version(&step, snapshot);
        let head = DiscoveryResponse {
            version_info: version.clone(),
            type_url: step.ty.type_url().to_owned(),
            nonce: nonce.clone(),
            ..Default::default()
        };
        let resources = step.resources.clone();
        self.session
            .state(step.ty)
            .sent(nonce, version, step.resources, &step.removed);
        Outgoing { head, resources }
    }

    /// A change: for listeners and clusters with everything else that the client has, so that nothing is deleted yet.
    /// `None` when there turned out to be nothing to say.
    fn addition(&mut self, mut step: Step, snapshot: &Snapshot) -> Option<Step> {
        let state = self.session.state(step.ty);
        // The variant has no words for "does not exist": absence is understood, or the client times out.
        state.told_absent(&std::mem::take(&mut step.removed));
        if step.resources.is_empty() && !state.first_due {
            return None;
        }
        if step.ty.is_full_state() {
            step.resources = full_state(step.ty, state, snapshot, true);
        }
        Some(step)
    }

    /// A removal: for listeners and clusters everything that remains; endpoints and routes go without a word, when
    /// nothing refers to them any more.
    fn removal(&mut self, mut step: Step, snapshot: &Snapshot) -> Option<Step> {
        let state = self.session.state(step.ty);
        if !step.ty.is_full_state() {
            state.told_absent(&step.removed);
            return None;
        }
        step.resources = full_state(step.ty, state, snapshot, false);
        Some(step)
    }

    fn version(&self, step: &Step, snapshot: &Snapshot) -> String {
        if step.ty.is_full_state() {
            return version_text(sum_of(&step.resources));
        }
        let state = self.session.types.get(&step.ty);
        let wanted = state.map(|s| s.wanted(snapshot.resources(step.ty))).unwrap_or_default();
        version_text(sum_of(&wanted))
    }

    /// As of the other variant; a client of this one does not say what it has, so nothing was held.
    pub(in crate::server) fn release(&mut self) {
        self.session.release();
    }

    /// What the client rejects now.
    pub(in crate::server) fn rejections(&self) -> Vec<Nack> {
        self.session.rejections()
    }

    /// How the client stands, by type.
    pub fn status(&self) -> BTreeMap<ResourceType, TypeStatus> {
        self.session.status()
    }
}

/// Everything that the client should have now: the snapshot's resources, the last good one in place of a rejected one,
/// and (`keep`) those that are to be removed later.
fn full_state(ty: ResourceType, state: &TypeState, snapshot: &Snapshot, keep: bool) -> Vec<Arc<Resource>> {
    let mut all: BTreeMap<String, Arc<Resource>> = BTreeMap::new();
    for resource in state.wanted(snapshot.resources(ty)) {
        if !state.is_rejected(&resource) {
            all.insert(resource.name.clone(), resource);
        } else if let Some(good) = state.known(&resource.name) {
            all.insert(resource.name.clone(), Arc::clone(good));
        }
    }
    if keep {
        for old in state
            .all_known()
            .filter(|old| !snapshot.resources(ty).contains_key(&old.name))
        {
            all.insert(old.name.clone(), Arc::clone(old));
        }
    }
    all.into_values().collect()
}
