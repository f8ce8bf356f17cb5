//! Which objects exist, and their labels. Only names and labels are kept.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};

/// Labels of an object.
pub type ObjectLabels = BTreeMap<String, String>;

/// Namespace ("" for objects without) and name.
pub type Key = (String, String);

/// Pause after the watch of a kind ended, which it should not.
const WATCH_RETRY: Duration = Duration::from_secs(5);

/// All objects of one kind.
#[derive(Clone, Default)]
pub struct Objects(Arc<RwLock<State>>);

#[derive(Default)]
struct State {
    ready: bool,
    objects: BTreeMap<Key, ObjectLabels>,
    /// A listing in progress.
    listing: BTreeMap<Key, ObjectLabels>,
}

impl Objects {
    /// A fixed set, complete from the start.
    pub fn fixed(objects: impl IntoIterator<Item = (Key, ObjectLabels)>) -> Self {
        let state = State {
            ready: true,
            objects: objects.into_iter().collect(),
            ..Default::default()
        };
        Objects(Arc::new(RwLock::new(state)))
    }

    /// Whether the first listing is complete.
    pub fn is_ready(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).ready
    }

    /// The labels of an object, if it exists.
    pub fn get(&self, namespace: &str, name: &str) -> Option<ObjectLabels> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        state.objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The objects for which `keep` says so, in order of namespace and name.
    pub fn select(&self, keep: impl Fn(&Key, &ObjectLabels) -> bool) -> Vec<Key> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        state
            .objects
            .iter()
            .filter(|(k, l)| keep(k, l))
            .map(|(k, _)| k.clone())
            .collect()
    }

    fn apply<K: Resource>(&self, event: Event<PartialObjectMeta<K>>) {
        let entry = |object: PartialObjectMeta<K>| {
            let metadata = object.metadata;
            let key = (
                metadata.namespace.unwrap_or_default(),
                metadata.name.unwrap_or_default(),
            );
            (key, metadata.labels.unwrap_or_default())
        };
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => state.listing.clear(),
            Event::InitApply(object) => {
                let (key, labels) = entry(object);
                state.listing.insert(key, labels);
            }
            Event::InitDone => {
                state.objects = std::mem::take(&mut state.listing);
                state.ready = true;
            }
            Event::Apply(object) => {
                let (key, labels) = entry(object);
                state.objects.insert(key, labels);
            }
            Event::Delete(object) => {
                state.objects.remove(&entry(object).0);
            }
        }
    }

    async fn watch<K>(self, api: Api<PartialObjectMeta<K>>, kind: &str)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    {
        loop {
            let events = watcher::watcher(api.clone(), watcher::Config::default()).default_backoff();
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => self.apply(event),
                    Err(error) => tracing::warn!(%error, "cannot watch {kind}"),
                }
            }
            tokio::time::sleep(WATCH_RETRY).await;
        }
    }
}

/// The objects of all kinds that have traffic metrics.
#[derive(Clone, Default)]
pub struct Inventory {
    /// Pods.
    pub pods: Objects,
    /// Deployments.
    pub deployments: Objects,
    /// Namespaces; the namespace of their keys is empty.
    pub namespaces: Objects,
}

impl Inventory {
    /// Follows the Kubernetes API; never ends by itself.
    pub async fn watch(self, client: Client) {
        futures::join!(
            self.pods.watch::<Pod>(Api::all(client.clone()), "pods"),
            self.deployments
                .watch::<Deployment>(Api::all(client.clone()), "deployments"),
            self.namespaces.watch::<Namespace>(Api::all(client), "namespaces"),
        );
    }

    /// Whether all kinds are known, or which is not.
    pub fn ready(&self) -> Result<(), String> {
        for (objects, kind) in [
            (&self.pods, "pods"),
            (&self.deployments, "deployments"),
            (&self.namespaces, "namespaces"),
        ] {
            if !objects.is_ready() {
                return Err(format!("{kind} are not listed yet"));
            }
        }
        Ok(())
    }
}
