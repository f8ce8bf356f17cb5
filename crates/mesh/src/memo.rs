//! What was read from objects before, to take it again where nothing that it was read from changed.
//!
//! Objects are immutable and shared: one that is the same allocation is the same object. A pod is read from its own object
//! and its surroundings (namespaces, workloads and the mesh's settings); a Service from its own object, its slices, the pods behind them and
//! the surroundings. Whoever reads more adds it here, or what depends on it stays as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod as KubePod, Service as KubeService};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::objects::{Key, Objects};
use crate::pods::Pod;
use crate::problems::Problems;
use crate::services::Service;
use crate::settings::Settings;

#[derive(Debug)]
struct Known<T, S> {
    sources: S,
    read: T,
    problems: Problems,
}

/// A Service and its slices.
type ServiceSources = (Arc<KubeService>, Vec<Arc<EndpointSlice>>);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    /// Namespaces and workloads as they were; nothing else is kept of them.
    surroundings: Objects,
    settings: Settings,
    pods: BTreeMap<Key, Known<Pod, Arc<KubePod>>>,
    services: BTreeMap<Key, Known<Service, ServiceSources>>,
    /// Pods that changed, came or went with this build.
    changed: BTreeSet<Key>,
}

impl Memo {
    /// Begins a build. What was read from other surroundings is forgotten.
    pub(crate) fn begin(&mut self, objects: &Objects, settings: &Settings) {
        let old = &self.surroundings;
        let same = self.settings == *settings
            && same(&old.namespaces, &objects.namespaces)
            && same(&old.deployments, &objects.deployments)
            && same(&old.replica_sets, &objects.replica_sets)
            && same(&old.stateful_sets, &objects.stateful_sets)
            && same(&old.daemon_sets, &objects.daemon_sets)
            && same(&old.jobs, &objects.jobs);
        if !same {
            self.pods.clear();
            self.services.clear();
            self.settings = settings.clone();
            self.surroundings = Objects {
                pods: BTreeMap::new(),
                services: BTreeMap::new(),
                endpoint_slices: BTreeMap::new(),
                ..objects.clone()
            };
        }
        self.changed.clear();
        let mut now = objects.pods.iter().peekable();
        let changed = &mut self.changed;
        self.pods.retain(|key, known| {
            while now.next_if(|(other, _)| *other < key).is_some() {}
            let stays = now
                .peek()
                .is_some_and(|(k, object)| *k == key && Arc::ptr_eq(object, &known.sources));
            if !stays {
                changed.insert(key.clone());
            }
            stays
        });
        self.services.retain(|key, _| objects.services.contains_key(key));
    }

    /// The pod of an object: as it was read before, or read now.
    pub(crate) fn pod(
        &mut self,
        key: &Key,
        object: &Arc<KubePod>,
        problems: &mut Problems,
        read: impl FnOnce(&mut Problems) -> Pod,
    ) -> Pod {
        if let Some(known) = self.pods.get(key)
            && Arc::ptr_eq(&known.sources, object)
        {
            problems.add(&known.problems);
            return known.read.clone();
        }
        let mut own = Problems::default();
        let pod = read(&mut own);
        problems.add(&own);
        let known = Known {
            sources: Arc::clone(object),
            read: pod.clone(),
            problems: own,
        };
        self.pods.insert(key.clone(), known);
        self.changed.insert(key.clone());
        pod
    }

    /// The Service of an object and its slices: as it was read before, or read now.
    pub(crate) fn service(
        &mut self,
        key: &Key,
        object: &Arc<KubeService>,
        slices: &[&Arc<EndpointSlice>],
        problems: &mut Problems,
        read: impl FnOnce(&mut Problems) -> Service,
    ) -> Service {
        if let Some(known) = self.services.get(key)
            && Arc::ptr_eq(&known.sources.0, object)
            && known.sources.1.len() == slices.len()
            && known
                .sources
                .1
                .iter()
                .zip(slices)
                .all(|(old, new)| Arc::ptr_eq(old, new))
            && !self.concerns(&known.read)
        {
            problems.add(&known.problems);
            return known.read.clone();
        }
        let mut own = Problems::default();
        let service = read(&mut own);
        problems.add(&own);
        let known = Known {
            sources: (
                Arc::clone(object),
                slices.iter().map(|slice| Arc::clone(slice)).collect(),
            ),
            read: service.clone(),
            problems: own,
        };
        self.services.insert(key.clone(), known);
        service
    }

    /// A pod that changed may be behind this Service.
    fn concerns(&self, service: &Service) -> bool {
        if self.changed.is_empty() {
            return false;
        }
        // An endpoint of nobody may be that of a pod that came.
        service.ports.values().flat_map(|port| &port.endpoints).any(|endpoint| {
            endpoint.identity.as_ref().is_none_or(|who| {
                self.changed
                    .iter()
                    .any(|key| key.name == who.pod && key.namespace == who.namespace)
            })
        })
    }
}

/// The very same objects.
fn same<T>(old: &BTreeMap<Key, Arc<T>>, new: &BTreeMap<Key, Arc<T>>) -> bool {
    old.len() == new.len() && old.iter().zip(new).all(|(a, b)| Arc::ptr_eq(a.1, b.1) && a.0 == b.0)
}
