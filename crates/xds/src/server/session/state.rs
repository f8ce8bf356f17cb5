//! Subscription and knowledge of one type of resources, and what is still to be told.
//!
//! A client that has thousands of resources costs nothing while they stay as they are: only names that were asked for,
//! answered, or that differ from one snapshot to the next are looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::known::{ByName, Known};
use super::{Event, Nack, Pending, PendingState, TypeStatus, names_resource};
use crate::layers::Layers;
use crate::types::{Resource, ResourceType};

/// What one response holds at most, unless a single resource is larger: a slow client is sent one piece after the other.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// A response that waits for its answer.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: String,
    version: String,
    resources: Vec<Arc<Resource>>,
    /// What the client had of these before, to fall back on when it rejects them.
    before: BTreeSet<ByName>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TypeState {
    /// The client asked for this type at all.
    pub(super) subscribed: bool,
    wildcard: bool,
    /// Names that were asked for. Without a wildcard only those that the client does not have: the others are `known`.
    names: BTreeSet<String>,
    /// What the client has.
    known: Known,
    /// Names that the client was told do not exist.
    told_absent: BTreeSet<String>,
    /// Versions that the client rejected, by name.
    rejected: BTreeMap<String, String>,
    /// Known, but to be sent again.
    again: BTreeSet<String>,
    /// The first response is due even if it is empty.
    pub(super) first_due: bool,
    pub(super) in_flight: Option<InFlight>,
    /// The nonce of the latest response.
    pub(super) nonce: String,
    pub(super) status: TypeStatus,
    /// What the sets below follow from; everything is looked at while there is nothing.
    seen: Option<Layers>,
    /// Names to look at again.
    stale: BTreeSet<String>,
    /// To be sent.
    changed: BTreeSet<ByName>,
    /// Known and gone.
    removed: BTreeSet<String>,
    /// What a client that came back has and did not exist any more then: gone too, but the client keeps it for a while.
    held: BTreeSet<String>,
    /// The client says what it has, and is to keep for a while what is gone of it.
    holds: bool,
    /// Asked for, never had, and not there.
    absent: BTreeSet<String>,
}

impl TypeState {
    /// The client subscribed to all there is.
    pub(super) fn wildcard(&self) -> bool {
        self.wildcard
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name) || self.known.contains(name)
    }

    /// How many resources the client has.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// What the client has of a resource.
    pub(super) fn known(&self, name: &str) -> Option<&Arc<Resource>> {
        self.known.get(name)
    }

    /// All that the client has.
    pub(super) fn all_known(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.known.iter()
    }

    pub(super) fn is_rejected(&self, resource: &Resource) -> bool {
        self.rejected.get(&resource.name) == Some(&resource.version)
    }

    /// The resources there are that the client wants.
    pub(super) fn wanted(&self, layers: &Layers) -> Vec<Arc<Resource>> {
        if self.wildcard {
            return layers.values().cloned().collect();
        }
        let known = self.known.iter().map(|known| known.name.as_str());
        let names = self.names.iter().map(String::as_str).chain(known);
        names.filter_map(|name| layers.get(name)).cloned().collect()
    }

    /// Subscribes to all there is, or no more.
    pub(super) fn set_wildcard(&mut self, wildcard: bool) {
        if wildcard == self.wildcard {
            return;
        }
        self.wildcard = wildcard;
        if wildcard {
            self.names.extend(self.known.iter().map(|known| known.name.clone()));
        } else {
            self.known.retain(|name| self.names.contains(name));
            self.names.retain(|name| !self.known.contains(name));
        }
        self.seen = None;
    }

    /// Subscribes to these names and no others, as the state-of-the-world protocol does. True when that is a change.
    pub(super) fn set_names(&mut self, names: BTreeSet<String>, wildcard: bool) -> bool {
        let same = wildcard == self.wildcard
            && if wildcard {
                names == self.names
            } else {
                names.len() == self.names.len() + self.known.len() && names.iter().all(|name| self.wants(name))
            };
        if same {
            return false;
        }
        self.wildcard = wildcard;
        let wanted = |name: &str| wildcard || names.contains(name);
        self.known.retain(wanted);
        self.rejected.retain(|name, _| wanted(name));
        self.told_absent.retain(|name| wanted(name));
        self.again.retain(|name| wanted(name));
        self.names = names;
        if !wildcard {
            self.names.retain(|name| !self.known.contains(name));
        }
        self.seen = None;
        true
    }

    /// Asked for again means sent again.
    pub(super) fn subscribe(&mut self, name: &str) {
        self.names.insert(name.to_owned());
        self.known.remove(name);
        self.told_absent.remove(name);
        self.rejected.remove(name);
        self.stale.insert(name.to_owned());
    }

    pub(super) fn unsubscribe(&mut self, name: &str) {
        self.names.remove(name);
        self.told_absent.remove(name);
        if !self.wildcard {
            self.known.remove(name);
            self.rejected.remove(name);
            self.again.remove(name);
        }
        self.stale.insert(name.to_owned());
    }

    /// The client says that it has this version of a resource.
    pub(super) fn claim(&mut self, ty: ResourceType, name: String, version: String) {
        if self.wants(&name) {
            self.stale.insert(name.clone());
            self.learn(Resource::claimed(ty, name, version));
        }
    }

    /// What the client claims to have and does not exist any more is kept until [`Self::release`].
    pub(super) fn hold(&mut self) {
        self.holds = true;
    }

    /// Nothing is kept any more that is gone.
    pub(super) fn release(&mut self) {
        self.holds = false;
        self.stale.append(&mut self.held);
    }

    /// A known resource is sent again.
    pub(super) fn send_again(&mut self, name: &str) {
        if self.wants(name) {
            self.again.insert(name.to_owned());
            self.stale.insert(name.to_owned());
        }
    }

    fn learn(&mut self, resource: Arc<Resource>) -> Option<Arc<Resource>> {
        if !self.wildcard {
            self.names.remove(&resource.name);
        }
        self.known.replace(resource)
    }

    fn forget(&mut self, name: &str) {
        if self.known.remove(name) && !self.wildcard {
            self.names.insert(name.to_owned());
        }
    }

    /// Brings what is to be told up to date with what there is.
    pub(super) fn follow(&mut self, layers: &Layers) {
        let rejecting = !self.rejected.is_empty();
        let stale = std::mem::take(&mut self.stale);
        match self.seen.replace(layers.clone()) {
            None => {
                self.examine_all(layers);
                if std::mem::take(&mut self.holds) {
                    self.held = std::mem::take(&mut self.removed);
                }
            }
            Some(seen) => {
                if !seen.same(layers) {
                    for names in layers.changes_since(&seen) {
                        names.iter().for_each(|name| self.examine(name, layers));
                    }
                }
                stale.iter().for_each(|name| self.examine(name, layers));
            }
        }
        if rejecting && self.rejected.is_empty() {
            self.status.last_nack = None;
        }
        let told = self.changed.is_empty() && self.removed.is_empty() && self.rejected.is_empty();
        if told && self.known.len() == layers.len() {
            self.known.stands_for(layers);
        }
    }

    fn examine_all(&mut self, layers: &Layers) {
        self.changed.clear();
        self.removed.clear();
        self.absent.clear();
        let known: Vec<Arc<Resource>> = self.known.iter().cloned().collect();
        known.iter().for_each(|known| self.examine(&known.name, layers));
        let names: Vec<String> = self.names.iter().cloned().collect();
        names.iter().for_each(|name| self.examine(name, layers));
        if self.wildcard {
            layers.keys().for_each(|name| self.examine(name, layers));
        }
    }

    fn examine(&mut self, name: &str, layers: &Layers) {
        self.changed.remove(name);
        self.removed.remove(name);
        self.absent.remove(name);
        let Some(resource) = layers.get(name) else {
            self.rejected.remove(name);
            if self.known.contains(name) {
                if !self.held.contains(name) {
                    self.removed.insert(name.to_owned());
                }
            } else if self.names.contains(name) && !self.told_absent.contains(name) {
                self.absent.insert(name.to_owned());
            }
            return;
        };
        self.held.remove(name);
        // A rejection holds only for the version that was rejected.
        if self
            .rejected
            .get(name)
            .is_some_and(|version| *version != resource.version)
        {
            self.rejected.remove(name);
        }
        if !self.wants(name) || self.rejected.contains_key(name) {
            return;
        }
        let has = self.known(name).is_some_and(|known| known.version == resource.version);
        if has && !self.again.contains(name) {
            // One allocation for all that have it.
            self.known.replace(Arc::clone(resource));
        } else {
            self.changed.insert(ByName(Arc::clone(resource)));
        }
    }

    /// Where the client has not taken what there is.
    pub(super) fn pending(&self) -> BTreeMap<String, Pending> {
        let mut pending = BTreeMap::new();
        let waiting = self
            .changed
            .iter()
            .map(|c| &c.0.name)
            .chain(&self.removed)
            .chain(&self.held);
        let of_known = waiting.map(|name| (name, PendingState::Waiting));
        let rejected = self.rejected.keys().map(|name| (name, PendingState::Rejected));
        for (name, state) in of_known.chain(rejected) {
            let taken = self.known(name).cloned();
            pending.insert(name.clone(), Pending { state, taken });
        }
        if let Some(response) = &self.in_flight {
            for resource in &response.resources {
                let state = PendingState::Sent;
                let taken = response
                    .before
                    .get(resource.name.as_str())
                    .map(|old| Arc::clone(&old.0));
                pending.insert(resource.name.clone(), Pending { state, taken });
            }
        }
        pending
    }

    /// What is to be sent now, and names that are asked for and not there.
    pub(super) fn additions(&self) -> Option<(Vec<Arc<Resource>>, Vec<String>)> {
        if self.changed.is_empty() && self.absent.is_empty() && !self.first_due {
            return None;
        }
        let (mut bytes, mut resources) = (0, Vec::new());
        for ByName(resource) in &self.changed {
            bytes += resource.body.len() + resource.name.len();
            if bytes > RESPONSE_BYTES_MAX && !resources.is_empty() {
                break;
            }
            resources.push(Arc::clone(resource));
        }
        Some((resources, self.absent.iter().cloned().collect()))
    }

    /// Names of what the client has and exists no more.
    pub(super) fn removals(&self) -> Vec<String> {
        self.removed.iter().cloned().collect()
    }

    /// The client understands without words that these do not exist.
    pub(super) fn told_absent(&mut self, names: &[String]) {
        for name in names {
            self.forget(name);
            self.removed.remove(name);
            self.absent.remove(name);
            self.told_absent.insert(name.clone());
        }
    }

    /// Takes note of a response: from here on the client is believed to have it, until it says otherwise.
    pub(super) fn sent(&mut self, nonce: String, version: String, resources: Vec<Arc<Resource>>, removed: &[String]) {
        let mut before = BTreeSet::new();
        for resource in &resources {
            before.extend(self.learn(Arc::clone(resource)).map(ByName));
            if !self.changed.remove(resource.name.as_str()) {
                // It is not what there is now: the last good one, or one that goes later.
                self.stale.insert(resource.name.clone());
            }
            self.again.remove(&resource.name);
            self.told_absent.remove(&resource.name);
        }
        for name in removed {
            self.forget(name);
            self.rejected.remove(name);
            self.again.remove(name);
            self.removed.remove(name);
            self.absent.remove(name);
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
    pub(super) fn answered(&mut self, ty: ResourceType, error: Option<String>) -> Event {
        let Some(response) = self.in_flight.take() else {
            return Event::Ignored(format!("{ty}: an answer, but nothing waits for one"));
        };
        let Some(message) = error else {
            for resource in &response.resources {
                if self.is_rejected(resource) {
                    self.rejected.remove(&resource.name);
                }
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
            let name = resource.name.as_str();
            self.rejected.insert(name.to_owned(), resource.version.clone());
            match before.take(name) {
                Some(ByName(old)) if self.wants(name) => drop(self.learn(old)),
                _ => self.forget(name),
            }
            self.stale.insert(name.to_owned());
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
