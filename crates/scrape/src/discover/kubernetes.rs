//! Pods that carry an annotation, or a label, are targets, under the names of their namespace, node and owner.
//!
//! Reads pods and the owners of ReplicaSets; keeps a few strings of each. When the API is away the last list stays.

use super::Sender;
use crate::Target;
use futures::{StreamExt, stream::select};
use k8s_openapi::{
    api::{apps::v1::ReplicaSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weir_series::{Labels, names};

pub(crate) mod sd;

/// Which pods are targets.
#[derive(Clone, Debug)]
pub struct Config {
    /// Annotation that a target carries with any value but "".
    pub annotation: String,
    /// Label that makes a pod a target too, with any value but "".
    pub label: String,
    /// Port that is scraped.
    pub port: u16,
    /// Path that is scraped.
    pub path: String,
    /// Value of the `job` label.
    pub job: String,
}

/// Changes that come this close together are published once.
const SETTLE: Duration = Duration::from_millis(50);
/// Objects a page when lists are read.
const PAGE_SIZE: u32 = 500;
/// The label by which a Deployment's controller ties pods to ReplicaSets.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// Watches until `shutdown` and publishes every change. Ends early only when nobody listens any more.
pub async fn run(client: Client, config: Config, out: Sender, shutdown: CancellationToken) {
    let watching = || watcher::Config::default().page_size(PAGE_SIZE);
    let pods = watcher(Api::<Pod>::all(client.clone()), watching())
        .default_backoff()
        .map(|e| e.map(|e| Change::Pod(Box::new(e))));
    let replicasets = watcher(Api::<PartialObjectMeta<ReplicaSet>>::all(client), watching());
    let replicasets = replicasets
        .default_backoff()
        .map(|e| e.map(|e| Change::ReplicaSet(Box::new(e))));
    let mut changes = std::pin::pin!(select(pods, replicasets));

    let mut state = State::default();
    let mut publish_at: Option<Instant> = None;
    loop {
        let due = publish_at;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = out.closed() => return,
            () = async move { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                publish_at = None;
                state.publish(&config, &out);
            }
            change = changes.next() => match change {
                Some(Ok(change)) => {
                    state.apply(change, &config);
                    if state.is_complete() {
                        publish_at.get_or_insert(Instant::now() + SETTLE);
                    }
                }
                // The watcher tries again by itself, with a back-off.
                Some(Err(error)) => tracing::warn!(%error, "cannot watch pods for scraping"),
                None => return,
            }
        }
    }
}

enum Change {
    Pod(Box<Event<Pod>>),
    ReplicaSet(Box<Event<PartialObjectMeta<ReplicaSet>>>),
}

/// (namespace, name)
type Key = (String, String);

#[derive(Default)]
struct State {
    pods: Cache<PodFacts>,
    /// ReplicaSet -> the Deployment that controls it.
    replicasets: Cache<Option<String>>,
}

/// What is kept of a pod that is a target.
#[derive(Clone, Debug, PartialEq)]
struct PodFacts {
    ip: String,
    node: String,
    owner: Option<(String, String)>,
    template_hash: Option<String>,
}

/// Objects of one kind; a new list replaces the old one when it is complete.
struct Cache<T> {
    objects: BTreeMap<Key, T>,
    listing: BTreeMap<Key, T>,
    complete: bool,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Cache {
            objects: BTreeMap::new(),
            listing: BTreeMap::new(),
            complete: false,
        }
    }
}

impl<T> Cache<T> {
    /// `facts` gives what is kept of an object, None when it is of no interest (any more).
    fn apply<K>(&mut self, event: Event<K>, meta: impl Fn(&K) -> &ObjectMeta, facts: impl Fn(&K) -> Option<T>) {
        let key = |object: &K| {
            let meta = meta(object);
            (
                meta.namespace.clone().unwrap_or_default(),
                meta.name.clone().unwrap_or_default(),
            )
        };
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => {
                if let Some(facts) = facts(&object) {
                    self.listing.insert(key(&object), facts);
                }
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.listing);
                self.complete = true;
            }
            Event::Apply(object) => match facts(&object) {
                Some(facts) => {
                    self.objects.insert(key(&object), facts);
                }
                None => {
                    self.objects.remove(&key(&object));
                }
            },
            Event::Delete(object) => {
                self.objects.remove(&key(&object));
            }
        }
    }
}

impl State {
    fn apply(&mut self, change: Change, config: &Config) {
        match change {
            Change::Pod(event) => self
                .pods
                .apply(*event, |pod| &pod.metadata, |pod| pod_facts(pod, config)),
            Change::ReplicaSet(event) => self.replicasets.apply(
                *event,
                |object| &object.metadata,
                |object| {
                    let owner = controller(&object.metadata);
                    Some(owner.filter(|(kind, _)| kind == "deployment").map(|(_, name)| name))
                },
            ),
        }
    }

    /// Owners must be known before the first target is: labels that change make other series.
    fn is_complete(&self) -> bool {
        self.pods.complete && self.replicasets.complete
    }

    fn publish(&self, config: &Config, out: &Sender) {
        let targets: Arc<[Target]> = self
            .pods
            .objects
            .iter()
            .map(|(key, pod)| self.target(key, pod, config))
            .collect();
        out.send_if_modified(|current| {
            let changed = *current != targets;
            *current = targets;
            changed
        });
    }

    fn target(&self, (namespace, name): &Key, pod: &PodFacts, config: &Config) -> Target {
        let host = if pod.ip.contains(':') {
            format!("[{}]", pod.ip)
        } else {
            pod.ip.clone()
        };
        let address = format!("{host}:{}", config.port);
        let mut labels = vec![
            (names::NAMESPACE.to_owned(), namespace.clone()),
            (names::POD.to_owned(), name.clone()),
            (names::NODE.to_owned(), pod.node.clone()),
            (names::INSTANCE.to_owned(), address.clone()),
            (names::JOB.to_owned(), config.job.clone()),
        ];
        // `job` is taken by the scrape job, as everywhere; a pod's Job shows as `k8s_job`.
        labels.extend(
            self.owner(namespace, pod)
                .map(|(kind, owner)| (owner_label(&kind).to_owned(), owner)),
        );
        Target::new(address, &config.path, Labels::new(labels))
    }

    /// Kind in lower case and name of what the user made: the Deployment rather than its ReplicaSet.
    fn owner(&self, namespace: &str, pod: &PodFacts) -> Option<(String, String)> {
        let (kind, name) = pod.owner.clone()?;
        if !names::OWNER_KINDS.contains(&kind.as_str()) {
            return None; // static pods are owned by their node
        }
        if kind != "replicaset" {
            return Some((kind, name));
        }
        let deployment = match self.replicasets.objects.get(&(namespace.to_owned(), name.clone())) {
            Some(deployment) => deployment.clone(),
            // The watch of ReplicaSets may lag behind that of pods: the name says the same.
            None => pod
                .template_hash
                .as_ref()
                .and_then(|hash| name.strip_suffix(&format!("-{hash}")))
                .map(str::to_owned),
        };
        Some(deployment.map_or((kind, name), |deployment| ("deployment".to_owned(), deployment)))
    }
}

fn owner_label(kind: &str) -> &str {
    if kind == names::JOB { names::OWNER_JOB } else { kind }
}

fn pod_facts(pod: &Pod, config: &Config) -> Option<PodFacts> {
    let filled = |map: &Option<BTreeMap<String, String>>, key| {
        map.as_ref()
            .and_then(|m| m.get(key))
            .is_some_and(|value| !value.is_empty())
    };
    let meta = &pod.metadata;
    if !filled(&meta.annotations, &config.annotation) && !filled(&meta.labels, &config.label) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let ip = status.pod_ip.clone().filter(|ip| !ip.is_empty())?;
    if ended {
        return None;
    }
    Some(PodFacts {
        ip,
        node: pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
        owner: controller(&pod.metadata),
        template_hash: pod
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(POD_TEMPLATE_HASH).cloned()),
    })
}

fn controller(meta: &ObjectMeta) -> Option<(String, String)> {
    let owners = meta.owner_references.as_ref()?;
    let owner = owners.iter().find(|o| o.controller == Some(true))?;
    Some((owner.kind.to_lowercase(), owner.name.clone()))
}

#[cfg(test)]
mod tests;
