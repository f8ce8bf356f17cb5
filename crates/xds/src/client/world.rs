//! The state-of-the-world protocol from the client's side, as a pure state machine.
//!
//! Enters: responses, verdicts, wanted names, the loss of a stream. Leaves: requests and updates in the same shape as the
//! delta protocol's: absence of a listener or a cluster is a removal, absence of anything else is nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::rpc::Status;
use prost::Message;

use super::session::error_detail;
use super::{Changed, Known, Rejected, SUBSCRIBED, Update};
use crate::ResourceType;
use crate::types::version_of;

/// State over all streams to a control plane.
#[derive(Debug)]
pub struct World {
    node: Node,
    node_sent: bool,
    types: BTreeMap<ResourceType, Subscription>,
}

#[derive(Debug, Default)]
struct Subscription {
    started: bool,
    names: BTreeSet<String>,
    /// The last version of which everything was accepted.
    version: String,
    /// Nonce of this stream's last response.
    nonce: String,
    /// Versions of single resources, by content, so that only changes are told.
    held: BTreeMap<String, String>,
}

/// Names of all types are field 1 of their messages.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

impl World {
    /// A session that has no stream yet.
    pub fn new(node: Node, known: Known) -> Self {
        let mut types: BTreeMap<_, Subscription> = SUBSCRIBED.into_iter().map(|ty| (ty, Default::default())).collect();
        for (ty, name, version) in known {
            if let Some(subscription) = types.get_mut(&ty) {
                subscription.held.insert(name, version);
            }
        }
        Self {
            node,
            node_sent: false,
            types,
        }
    }

    /// The first requests of a new stream.
    pub fn start(&mut self, mut wanted: impl FnMut(ResourceType) -> BTreeSet<String>) -> Vec<DiscoveryRequest> {
        self.node_sent = false;
        for subscription in self.types.values_mut() {
            subscription.started = false;
            subscription.nonce.clear();
            subscription.names.clear();
        }
        let mut requests = Vec::new();
        for ty in SUBSCRIBED {
            let names = if ty.is_full_state() {
                BTreeSet::new()
            } else {
                wanted(ty)
            };
            requests.extend(self.subscribe(ty, names));
        }
        requests
    }

    /// The request that makes the subscription equal to `wanted`, if there is anything to say.
    pub fn subscribe(&mut self, ty: ResourceType, wanted: BTreeSet<String>) -> Option<DiscoveryRequest> {
        let subscription = self.types.get_mut(&ty)?;
        let first = !subscription.started;
        let nothing_new = if ty.is_full_state() {
            !first
        } else {
            subscription.names == wanted
        };
        if nothing_new {
            return None;
        }
        subscription.started = true;
        if !ty.is_full_state() {
            subscription.held.retain(|name, _| wanted.contains(name));
        }
        subscription.names = wanted;
        Some(self.request(ty, None))
    }

    /// Reads a response. `Err` is the NACK of one that cannot even be judged.
    pub fn receive(&mut self, response: DiscoveryResponse) -> Result<Update, Box<DiscoveryRequest>> {
        let refuse = |message: &str| DiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(Status {
                code: 3,
                message: message.to_owned(),
                details: Vec::new(),
            }),
            ..Default::default()
        };
        let Some(ty) = ResourceType::from_type_url(&response.type_url) else {
            return Err(Box::new(refuse("resources of this type were never asked for")));
        };
        let Some(subscription) = self.types.get_mut(&ty) else {
            return Err(Box::new(refuse("resources of this type were never asked for")));
        };
        subscription.nonce.clone_from(&response.nonce);
        let mut names = HashSet::new();
        let mut changed = Vec::new();
        for any in response.resources {
            let Ok(Named { name }) = Named::decode(any.value.as_slice()) else {
                return Err(Box::new(self.request(ty, status("a resource is no such message"))));
            };
            if !names.insert(name.clone()) {
                return Err(Box::new(self.request(
                    ty,
                    status(&format!("resource {name:?} stands twice in one response")),
                )));
            }
            let version = version_of(&any.value);
            if subscription.held.get(&name) != Some(&version) {
                changed.push(Changed {
                    name,
                    version,
                    body: Bytes::from(any.value),
                });
            }
        }
        let gone = |name: &&String| ty.is_full_state() && !names.contains(*name);
        let removed = subscription.held.keys().filter(gone).cloned().collect();
        Ok(Update {
            ty,
            changed,
            removed,
            nonce: response.nonce,
            version: response.version_info,
        })
    }

    /// The answer to an update. The version of a NACK is the last that was accepted whole.
    pub fn answer(&mut self, update: &Update, rejected: &[Rejected]) -> DiscoveryRequest {
        if let Some(subscription) = self.types.get_mut(&update.ty) {
            for name in &update.removed {
                subscription.held.remove(name);
            }
            for resource in &update.changed {
                if !rejected.iter().any(|r| r.name == resource.name) {
                    subscription
                        .held
                        .insert(resource.name.clone(), resource.version.clone());
                }
            }
            if rejected.is_empty() {
                subscription.version.clone_from(&update.version);
            }
        }
        self.request(update.ty, error_detail(rejected))
    }

    fn request(&mut self, ty: ResourceType, error_detail: Option<Status>) -> DiscoveryRequest {
        let node = (!std::mem::replace(&mut self.node_sent, true)).then(|| self.node.clone());
        let subscription = self.types.entry(ty).or_default();
        DiscoveryRequest {
            version_info: subscription.version.clone(),
            node,
            resource_names: subscription.names.iter().cloned().collect(),
            type_url: ty.type_url().to_owned(),
            response_nonce: subscription.nonce.clone(),
            error_detail,
            ..Default::default()
        }
    }
}

fn status(message: &str) -> Option<Status> {
    Some(Status {
        code: 3,
        message: message.to_owned(),
        details: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::google::protobuf::Any;

    fn response(ty: ResourceType, version: &str, names: &[&str]) -> DiscoveryResponse {
        let any = |name: &&str| Any {
            type_url: ty.type_url().into(),
            value: Named { name: (*name).into() }.encode_to_vec(),
        };
        DiscoveryResponse {
            version_info: version.into(),
            nonce: format!("n{version}"),
            type_url: ty.type_url().into(),
            resources: names.iter().map(any).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn absence_removes_clusters_but_not_endpoints() {
        let mut world = World::new(Node::default(), Vec::new());
        world.start(|_| BTreeSet::new());
        for ty in [ResourceType::Cluster, ResourceType::Endpoint] {
            let update = world.receive(response(ty, "1", &["a", "b"])).unwrap();
            assert_eq!(update.changed.len(), 2);
            world.answer(&update, &[]);
            let update = world.receive(response(ty, "2", &["a"])).unwrap();
            assert!(update.changed.is_empty(), "an unchanged resource is no change");
            assert_eq!(update.removed.len(), usize::from(ty == ResourceType::Cluster));
        }
    }

    #[test]
    fn a_nack_repeats_the_last_good_version_and_the_new_nonce() {
        let mut world = World::new(Node::default(), Vec::new());
        world.start(|_| BTreeSet::new());
        let update = world.receive(response(ResourceType::Cluster, "1", &["a"])).unwrap();
        assert_eq!(world.answer(&update, &[]).version_info, "1");
        let update = world
            .receive(response(ResourceType::Cluster, "2", &["a", "b"]))
            .unwrap();
        let nack = world.answer(
            &update,
            &[Rejected {
                name: "b".into(),
                message: "x: y".into(),
            }],
        );
        assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("1", "n2"));
        assert_eq!(nack.error_detail.unwrap().message, "b: x: y");
        let restart = world.start(|_| BTreeSet::new());
        assert!(
            restart.iter().all(|r| r.response_nonce.is_empty()),
            "a nonce belongs to one stream"
        );
    }

    #[test]
    fn a_response_that_is_nonsense_is_refused() {
        let mut world = World::new(Node::default(), Vec::new());
        world.start(|_| BTreeSet::new());
        assert!(
            world
                .receive(response(ResourceType::Cluster, "1", &["a", "a"]))
                .is_err()
        );
        let mut broken = response(ResourceType::Cluster, "1", &["a"]);
        broken.resources[0].value = vec![0x0a, 0xff];
        assert!(world.receive(broken).is_err());
    }
}
