//! Watches the kinds of objects that the mesh is built from and keeps the latest of each.
//!
//! One task a kind; each writes into the one shared [`Objects`] and says that something changed. A lost API server costs
//! nothing: the objects stay as they were last seen, the watch is taken up again with back-off, and a new list replaces
//! the old objects only when it is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as start_watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weir_api::labels::SYSTEM_NAMESPACE;
use weir_api::telemetry::MESH_CONFIG;
use weir_mesh::{Key, Objects};

/// The same trouble of one watch is logged at most this often.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);
/// Status of the list of a kind that the API server does not know.
const NOT_FOUND: u16 = 404;
/// What kubectl apply keeps about itself; large and not ours.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How long to wait before a failed watch is taken up again: twice as long each time, not longer than a user would wait
/// for a label to act after the API server came back.
#[derive(Debug, Default)]
struct Patience {
    failures: u32,
}

const PATIENCE_MIN: Duration = Duration::from_millis(100);
const PATIENCE_MAX: Duration = Duration::from_secs(3);

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = PATIENCE_MIN
            .saturating_mul(1 << self.failures.min(10))
            .min(PATIENCE_MAX);
        self.failures = self.failures.saturating_add(1);
        Some(wait)
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The kinds that are watched.
const KINDS: [&str; 19] = [
    "Pod",
    "Service",
    "EndpointSlice",
    "Namespace",
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "ConfigMap",
    "Ingress",
    "IngressClass",
    "Secret",
    "TrafficSplit",
    "HTTPRouteGroup",
    "GatewayClass",
    "Gateway",
    "HTTPRoute",
    "ReferenceGrant",
];

/// The Secrets that are certificates; no other is read.
const CERTIFICATES: &str = "type=kubernetes.io/tls";

#[derive(Debug)]
struct State {
    objects: Objects,
    /// Kinds that were not listed completely yet.
    unsynced: BTreeSet<&'static str>,
}

/// The watched objects. Cheap to clone; all clones see the same.
#[derive(Clone, Debug)]
pub struct Watched {
    state: Arc<Mutex<State>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Default for Watched {
    fn default() -> Self {
        let state = State {
            objects: Objects::default(),
            unsynced: KINDS.into(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            changes: Arc::new(watch::channel(0).0),
        }
    }
}

impl Watched {
    /// Objects that come from elsewhere than a Kubernetes API: all of them are there.
    pub fn of(objects: Objects) -> Self {
        let watched = Self::default();
        *watched.lock() = State {
            objects,
            unsynced: BTreeSet::new(),
        };
        watched
    }

    /// Changes the objects, as a watch would.
    pub fn edit(&self, change: impl FnOnce(&mut Objects)) {
        change(&mut self.lock().objects);
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes when objects changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The objects as they are now; `Err` with the kinds that were not listed yet.
    pub fn objects(&self) -> Result<Objects, BTreeSet<&'static str>> {
        let state = self.lock();
        if state.unsynced.is_empty() {
            Ok(state.objects.clone())
        } else {
            Err(state.unsynced.clone())
        }
    }

    /// Starts all watches; they end when the set is dropped.
    pub fn start(&self, client: &Client) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        macro_rules! watch {
            ($kind:literal, $field:ident) => {{
                let watched = self.clone();
                let api = Api::all(client.clone());
                let every = watcher::Config::default();
                tasks.spawn(async move {
                    watched
                        .follow(api, every, $kind, |objects| &mut objects.$field)
                        .await
                });
            }};
        }
        watch!("Pod", pods);
        watch!("Service", services);
        watch!("EndpointSlice", endpoint_slices);
        watch!("Namespace", namespaces);
        watch!("Deployment", deployments);
        watch!("ReplicaSet", replica_sets);
        watch!("StatefulSet", stateful_sets);
        watch!("DaemonSet", daemon_sets);
        watch!("Job", jobs);
        watch!("Ingress", ingresses);
        watch!("IngressClass", ingress_classes);
        watch!("TrafficSplit", traffic_splits);
        watch!("HTTPRouteGroup", route_groups);
        watch!("GatewayClass", gateway_classes);
        watch!("Gateway", gateways);
        watch!("HTTPRoute", http_routes);
        watch!("ReferenceGrant", reference_grants);
        let watched = self.clone();
        let api = Api::all(client.clone());
        let certificates = watcher::Config::default().fields(CERTIFICATES);
        tasks.spawn(async move {
            watched
                .follow(api, certificates, "Secret", |objects| &mut objects.secrets)
                .await
        });
        // The one with the mesh-wide settings; others may hold what is none of our business.
        let watched = self.clone();
        let api = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let own = watcher::Config::default().fields(&format!("metadata.name={MESH_CONFIG}"));
        tasks.spawn(async move {
            watched
                .follow(api, own, "ConfigMap", |objects| &mut objects.config_maps)
                .await
        });
        tasks
    }

    /// Follows one kind for ever.
    async fn follow<K>(
        &self,
        api: Api<K>,
        which: watcher::Config,
        kind: &'static str,
        map: fn(&mut Objects) -> &mut BTreeMap<Key, Arc<K>>,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let mut stream = start_watch(api, which).backoff(Patience::default()).boxed();
        let mut list: Option<BTreeMap<Key, Arc<K>>> = None;
        let mut complained: Option<tokio::time::Instant> = None;
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => self.take(event, kind, map, &mut list),
                // The kind's definition is not installed: there are no objects of it until it is. It is asked for again.
                Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.code == NOT_FOUND => {
                    self.none_of(kind, map);
                }
                Err(error) => {
                    if complained.is_none_or(|at| at.elapsed() > COMPLAINT_INTERVAL) {
                        tracing::warn!(kind, %error, "watch failed; it is taken up again");
                        complained = Some(tokio::time::Instant::now());
                    }
                }
            }
        }
    }

    /// There are no objects of a kind.
    fn none_of<K>(&self, kind: &'static str, map: fn(&mut Objects) -> &mut BTreeMap<Key, Arc<K>>) {
        let mut state = self.lock();
        let known = !std::mem::take(map(&mut state.objects)).is_empty();
        if state.unsynced.remove(kind) || known {
            drop(state);
            tracing::info!(
                kind,
                "the cluster does not have this kind; it is watched as soon as it does"
            );
            self.changes.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    fn take<K>(
        &self,
        event: Event<K>,
        kind: &'static str,
        map: fn(&mut Objects) -> &mut BTreeMap<Key, Arc<K>>,
        list: &mut Option<BTreeMap<Key, Arc<K>>>,
    ) where
        K: Resource<DynamicType = ()>,
    {
        let slim = |mut object: K| {
            let meta = object.meta_mut();
            meta.managed_fields = None;
            if let Some(annotations) = &mut meta.annotations {
                annotations.remove(LAST_APPLIED);
            }
            (Key::of(object.meta()), Arc::new(object))
        };
        match event {
            Event::Init => {
                *list = Some(BTreeMap::new());
                return;
            }
            Event::InitApply(object) => {
                list.get_or_insert_default().extend([slim(object)]);
                return;
            }
            Event::InitDone => {
                let mut state = self.lock();
                *map(&mut state.objects) = list.take().unwrap_or_default();
                state.unsynced.remove(kind);
            }
            Event::Apply(object) => {
                let (key, object) = slim(object);
                map(&mut self.lock().objects).insert(key, object);
            }
            Event::Delete(object) => {
                map(&mut self.lock().objects).remove(&Key::of(object.meta()));
            }
        }
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;

    fn service(name: &str) -> Service {
        let mut service = Service::default();
        service.metadata.name = Some(name.to_owned());
        service.metadata.managed_fields = Some(Vec::new());
        service
    }

    /// A lost watch lists again; until that list is complete, the old objects stay.
    #[test]
    fn a_new_list_replaces_the_old_objects_at_once() {
        let watched = Watched::default();
        let mut list = None;
        let mut take = |event| watched.take(event, "Service", |o| &mut o.services, &mut list);
        let names = || {
            watched
                .lock()
                .objects
                .services
                .keys()
                .map(|k| k.name.clone())
                .collect::<Vec<_>>()
        };
        take(Event::Init);
        take(Event::InitApply(service("a")));
        assert_eq!(names(), [""; 0]);
        take(Event::InitDone);
        take(Event::Apply(service("b")));
        assert_eq!(names(), ["a", "b"]);
        assert!(
            watched
                .lock()
                .objects
                .services
                .values()
                .all(|s| s.metadata.managed_fields.is_none())
        );
        take(Event::Init);
        take(Event::InitApply(service("c")));
        assert_eq!(names(), ["a", "b"]);
        take(Event::InitDone);
        assert_eq!(names(), ["c"]);
        take(Event::Delete(service("c")));
        assert_eq!(names(), [""; 0]);
    }

    #[test]
    fn a_kind_that_is_not_installed_holds_nothing_up() {
        let watched = Watched::default();
        watched.lock().unsynced = ["Service"].into();
        watched.take(Event::Apply(service("a")), "Service", |o| &mut o.services, &mut None);
        let mut changes = watched.changes();
        watched.none_of("Service", |o| &mut o.services);
        assert!(watched.objects().unwrap().services.is_empty());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        watched.none_of("Service", |o| &mut o.services);
        assert!(!changes.has_changed().unwrap(), "nothing new");
    }

    #[test]
    fn objects_are_withheld_until_every_kind_was_listed() {
        let watched = Watched::default();
        watched.take(Event::Init, "Service", |o| &mut o.services, &mut None);
        watched.take(Event::<Service>::InitDone, "Service", |o| &mut o.services, &mut None);
        let missing = watched.objects().unwrap_err();
        assert!(!missing.contains("Service") && missing.contains("Pod"));
        watched.lock().unsynced.clear();
        assert!(watched.objects().is_ok());
    }
}
