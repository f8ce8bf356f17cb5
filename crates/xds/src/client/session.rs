//! The delta protocol from the client's side, as a pure state machine: what to send when, what is known.
//!
//! Enters: responses, verdicts, wanted names, the loss of a stream. Leaves: requests and updates. No clock, no network.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc::Status;

use super::{Changed, Known, Rejected, SUBSCRIBED, Update};
use crate::ResourceType;

/// gRPC's INVALID_ARGUMENT, the code of a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// A NACK's message is cut here: it travels in one header of some servers' logs.
const MESSAGE_BYTES_MAX: usize = 4096;

/// A request of the delta protocol.
pub type Request = DeltaDiscoveryRequest;

/// State over all streams to a control plane.
#[derive(Debug)]
pub struct Session {
    node: Node,
    node_sent: bool,
    types: BTreeMap<ResourceType, Subscription>,
}

#[derive(Debug, Default)]
struct Subscription {
    /// A request was sent on this stream.
    started: bool,
    /// Names asked for; unused for types of which everything is asked for.
    names: BTreeSet<String>,
    /// Versions that the consumer accepted.
    versions: BTreeMap<String, String>,
}

impl Session {
    /// A session that has no stream yet and knows what `known` says.
    pub fn new(node: Node, known: Known) -> Self {
        let mut types: BTreeMap<_, Subscription> = SUBSCRIBED.into_iter().map(|ty| (ty, Default::default())).collect();
        for (ty, name, version) in known {
            if let Some(subscription) = types.get_mut(&ty) {
                subscription.versions.insert(name, version);
            }
        }
        Self {
            node,
            node_sent: false,
            types,
        }
    }

    /// The first requests of a new stream: everything of some types, the wanted names of the others; with the versions
    /// that are known.
    pub fn start(&mut self, mut wanted: impl FnMut(ResourceType) -> BTreeSet<String>) -> Vec<Request> {
        self.node_sent = false;
        for subscription in self.types.values_mut() {
            subscription.started = false;
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
    pub fn subscribe(&mut self, ty: ResourceType, wanted: BTreeSet<String>) -> Option<Request> {
        let subscription = self.types.get_mut(&ty)?;
        if ty.is_full_state() {
            if std::mem::replace(&mut subscription.started, true) {
                return None;
            }
            let initial_resource_versions = subscription.versions.clone().into_iter().collect();
            return Some(self.request(DeltaDiscoveryRequest {
                type_url: ty.type_url().to_owned(),
                initial_resource_versions,
                ..Default::default()
            }));
        }
        let subscribe: Vec<String> = wanted.difference(&subscription.names).cloned().collect();
        let unsubscribe: Vec<String> = subscription.names.difference(&wanted).cloned().collect();
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        subscription.versions.retain(|name, _| wanted.contains(name));
        let first = !std::mem::replace(&mut subscription.started, true);
        let initial_resource_versions = if first {
            subscription.versions.clone().into_iter().collect()
        } else {
            Default::default()
        };
        subscription.names = wanted;
        Some(self.request(DeltaDiscoveryRequest {
            type_url: ty.type_url().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions,
            ..Default::default()
        }))
    }

    /// Reads a response. `Err` is the NACK of one that cannot even be judged.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Result<Update, Box<Request>> {
        let refuse = |message: String| DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(Status {
                code: INVALID_ARGUMENT,
                message,
                details: Vec::new(),
            }),
            ..Default::default()
        };
        let Some(ty) = ResourceType::from_type_url(&response.type_url) else {
            return Err(Box::new(refuse(format!(
                "resources of type {:?} were never asked for",
                response.type_url
            ))));
        };
        let mut seen = HashSet::new();
        if let Some(twice) = response.resources.iter().find(|r| !seen.insert(r.name.as_str())) {
            return Err(Box::new(refuse(format!(
                "resource {:?} stands twice in one response",
                twice.name
            ))));
        }
        let changed = |r: envoy_types::pb::envoy::service::discovery::v3::Resource| Changed {
            name: r.name,
            version: r.version,
            body: Bytes::from(r.resource.map(|any| any.value).unwrap_or_default()),
        };
        Ok(Update {
            ty,
            changed: response.resources.into_iter().map(changed).collect(),
            removed: response.removed_resources,
            nonce: response.nonce,
            version: response.system_version_info,
        })
    }

    /// The answer to an update: ACK without rejections, else NACK. What was not rejected counts as known.
    pub fn answer(&mut self, update: &Update, rejected: &[Rejected]) -> Request {
        if let Some(subscription) = self.types.get_mut(&update.ty) {
            for name in &update.removed {
                subscription.versions.remove(name);
            }
            for resource in &update.changed {
                if !rejected.iter().any(|r| r.name == resource.name) {
                    subscription
                        .versions
                        .insert(resource.name.clone(), resource.version.clone());
                }
            }
        }
        self.request(DeltaDiscoveryRequest {
            type_url: update.ty.type_url().to_owned(),
            response_nonce: update.nonce.clone(),
            error_detail: error_detail(rejected),
            ..Default::default()
        })
    }

    /// The node is named in the first request of a stream.
    fn request(&mut self, mut request: Request) -> Request {
        if !std::mem::replace(&mut self.node_sent, true) {
            request.node = Some(self.node.clone());
        }
        request
    }
}

/// What a NACK says: each resource and why. `None` without rejections.
pub(super) fn error_detail(rejected: &[Rejected]) -> Option<Status> {
    if rejected.is_empty() {
        return None;
    }
    let lines: Vec<String> = rejected.iter().map(|r| format!("{}: {}", r.name, r.message)).collect();
    let mut message = lines.join("; ");
    if message.len() > MESSAGE_BYTES_MAX {
        let cut = (0..=MESSAGE_BYTES_MAX)
            .rev()
            .find(|&i| message.is_char_boundary(i))
            .unwrap_or(0);
        message.truncate(cut);
    }
    Some(Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::service::discovery::v3::Resource;
    use envoy_types::pb::google::protobuf::Any;

    fn response(ty: ResourceType, nonce: &str, resources: &[(&str, &str)], removed: &[&str]) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            type_url: ty.type_url().into(),
            nonce: nonce.into(),
            resources: resources
                .iter()
                .map(|(name, version)| Resource {
                    name: (*name).into(),
                    version: (*version).into(),
                    resource: Some(Any {
                        type_url: ty.type_url().into(),
                        value: vec![1],
                    }),
                    ..Default::default()
                })
                .collect(),
            removed_resources: removed.iter().map(|r| (*r).into()).collect(),
            ..Default::default()
        }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).into()).collect()
    }

    fn session() -> Session {
        Session::new(
            Node {
                id: "a.b".into(),
                ..Default::default()
            },
            Vec::new(),
        )
    }

    #[test]
    fn a_stream_begins_with_everything_of_clusters_and_listeners_and_names_the_node_once() {
        let mut session = session();
        let requests = session.start(|_| BTreeSet::new());
        let types: Vec<_> = requests
            .iter()
            .map(|r| ResourceType::from_type_url(&r.type_url))
            .collect();
        assert_eq!(types, [Some(ResourceType::Cluster), Some(ResourceType::Listener)]);
        assert!(requests[0].node.is_some() && requests[1].node.is_none());
        assert!(
            requests
                .iter()
                .all(|r| r.resource_names_subscribe.is_empty() && r.response_nonce.is_empty())
        );
    }

    #[test]
    fn names_are_subscribed_and_unsubscribed_without_a_nonce() {
        let mut session = session();
        session.start(|_| BTreeSet::new());
        let first = session.subscribe(ResourceType::Endpoint, names(&["a", "b"])).unwrap();
        assert_eq!(first.resource_names_subscribe, ["a", "b"]);
        assert!(first.response_nonce.is_empty());
        assert_eq!(session.subscribe(ResourceType::Endpoint, names(&["a", "b"])), None);
        let next = session.subscribe(ResourceType::Endpoint, names(&["b", "c"])).unwrap();
        assert_eq!(
            (next.resource_names_subscribe, next.resource_names_unsubscribe),
            (vec!["c".into()], vec!["a".into()])
        );
    }

    #[test]
    fn a_nack_names_the_resource_and_keeps_its_last_good_version() {
        let mut session = session();
        session.start(|_| BTreeSet::new());
        let first = session
            .receive(response(
                ResourceType::Cluster,
                "1",
                &[("good", "v1"), ("bad", "v1")],
                &[],
            ))
            .unwrap();
        let ack = session.answer(&first, &[]);
        assert_eq!((ack.response_nonce.as_str(), &ack.error_detail), ("1", &None));
        let second = session
            .receive(response(
                ResourceType::Cluster,
                "2",
                &[("good", "v2"), ("bad", "v2")],
                &[],
            ))
            .unwrap();
        let rejected = Rejected {
            name: "bad".into(),
            message: "lb_policy: no".into(),
        };
        let nack = session.answer(&second, &[rejected]);
        assert_eq!(nack.response_nonce, "2");
        assert_eq!(nack.error_detail.unwrap().message, "bad: lb_policy: no");
        let again = session.start(|_| BTreeSet::new());
        let versions = &again[0].initial_resource_versions;
        assert_eq!((versions["good"].as_str(), versions["bad"].as_str()), ("v2", "v1"));
    }

    #[test]
    fn a_reconnect_tells_all_names_and_versions_and_forgets_what_was_removed() {
        let mut session = session();
        session.start(|_| BTreeSet::new());
        session.subscribe(ResourceType::Endpoint, names(&["a", "b"]));
        let update = session
            .receive(response(ResourceType::Endpoint, "1", &[("a", "1"), ("b", "1")], &[]))
            .unwrap();
        session.answer(&update, &[]);
        let update = session
            .receive(response(ResourceType::Endpoint, "2", &[], &["b"]))
            .unwrap();
        session.answer(&update, &[]);
        let requests = session.start(|ty| {
            if ty == ResourceType::Endpoint {
                names(&["a", "b"])
            } else {
                BTreeSet::new()
            }
        });
        let endpoints = requests
            .iter()
            .find(|r| r.type_url == ResourceType::Endpoint.type_url())
            .unwrap();
        assert_eq!(endpoints.resource_names_subscribe, ["a", "b"]);
        assert_eq!(endpoints.initial_resource_versions.keys().collect::<Vec<_>>(), ["a"]);
        assert!(requests[0].node.is_some());
    }

    #[test]
    fn what_cannot_be_judged_is_refused_whole() {
        let mut session = session();
        session.start(|_| BTreeSet::new());
        let twice = response(ResourceType::Cluster, "7", &[("a", "1"), ("a", "2")], &[]);
        let nack = session.receive(twice).unwrap_err();
        assert_eq!(nack.response_nonce, "7");
        assert!(nack.error_detail.unwrap().message.contains("\"a\""));
        let unknown = DeltaDiscoveryResponse {
            type_url: "x".into(),
            nonce: "8".into(),
            ..Default::default()
        };
        assert_eq!(session.receive(unknown).unwrap_err().response_nonce, "8");
    }

    #[test]
    fn known_versions_from_elsewhere_are_told_at_first() {
        let known = vec![(ResourceType::Cluster, "a".to_owned(), "v9".to_owned())];
        let mut session = Session::new(Node::default(), known);
        let requests = session.start(|_| BTreeSet::new());
        assert_eq!(requests[0].initial_resource_versions["a"], "v9");
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let rejected = vec![Rejected {
            name: "n".into(),
            message: "ä".repeat(MESSAGE_BYTES_MAX),
        }];
        assert!(error_detail(&rejected).unwrap().message.len() <= MESSAGE_BYTES_MAX);
    }
}
