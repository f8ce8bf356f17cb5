//! The delta variant: requests change a subscription, responses carry what changed and name what is gone.

use std::collections::BTreeMap;

use super::{Event, Nack, Outgoing, Session, TypeStatus};
use crate::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::snapshot::Snapshot;
use crate::types::ResourceType;

/// The name that subscribes to everything.
const WILDCARD: &str = "*";

/// A client's delta stream.
#[derive(Debug, Default)]
pub struct DeltaSession {
    session: Session,
}

impl DeltaSession {
    /// A stream that has just been opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a request: an answer to a response, a change of subscription, or both.
    pub fn on_request(&mut self, request: DeltaDiscoveryRequest) -> Vec<Event> {
        let Some(ty) = ResourceType::from_type_url(&request.type_url) else {
            return vec![Event::Ignored(format!("type {:?} is not served", request.type_url))];
        };
        let mut events = Vec::new();
        let state = self.session.state(ty);
        if !request.response_nonce.is_empty() {
            let current = state
                .in_flight
                .as_ref()
                .is_some_and(|r| r.nonce == request.response_nonce);
            events.push(if current {
                state.answered(ty, request.error_detail.map(|status| status.message))
            } else {
                Event::Ignored(format!("{ty}: stale nonce {:?}", request.response_nonce))
            });
        }
        let first = !state.subscribed;
        if first {
            state.subscribed = true;
            let all = ty.is_full_state() && request.resource_names_subscribe.is_empty();
            state.set_wildcard(all);
            state.first_due = all;
        }
        for name in &request.resource_names_subscribe {
            if name != WILDCARD {
                state.subscribe(name);
            } else if ty != ResourceType::Peer && !state.wildcard() {
                state.set_wildcard(true);
                state.first_due = first;
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                state.set_wildcard(false);
            } else {
                state.unsubscribe(name);
            }
        }
        if first {
            // A reconnecting client says what it has; only the rest is sent. Connections from before may still use clusters
            // that are gone meanwhile, and this server may be one that does not know since when they are.
            if matches!(ty, ResourceType::Cluster | ResourceType::Endpoint) {
                state.hold();
            }
            for (name, version) in request.initial_resource_versions {
                state.claim(ty, name, version);
            }
        }
        if first || !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty() {
            events.push(Event::Subscribed(ty));
        }
        events
    }

    /// The next response that the client should get now, if any. Call again until `None`.
    pub(in crate::server) fn advance(&mut self, snapshot: &Snapshot) -> Option<Outgoing<DeltaDiscoveryResponse>> {
        self.session.follow(snapshot);
        let step = self.session.next_addition().or_else(|| self.session.next_removal())?;
        if step.ty == ResourceType::Cluster {
            self.session.resend_endpoints(&step.resources, snapshot);
        }
        let nonce = self.session.next_nonce();
        let version = snapshot.version(step.ty);
        let head = DeltaDiscoveryResponse {
            system_version_info: version.clone(),
            type_url: step.ty.type_url().to_owned(),
            removed_resources: step.removed.clone(),
            nonce: nonce.clone(),
            ..Default::default()
        };
        let resources = step.resources.clone();
        self.session
            .state(step.ty)
            .sent(nonce, version, step.resources, &step.removed);
        Some(Outgoing { head, resources })
    }

    /// The same as one message.
    #[cfg(test)]
    pub(super) fn next(&mut self, snapshot: &Snapshot) -> Option<DeltaDiscoveryResponse> {
        let Outgoing { mut head, resources } = self.advance(snapshot)?;
        let wire = |r: &std::sync::Arc<crate::Resource>| crate::discovery::Resource {
            name: r.name.clone(),
            version: r.version.clone(),
            resource: Some(r.to_any()),
            ..Default::default()
        };
        head.resources = resources.iter().map(wire).collect();
        Some(head)
    }

    /// What a client that came back has of clusters, and is gone, goes from now on.
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
