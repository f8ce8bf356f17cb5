//! The Kubernetes objects that the model is built from: immutable, shared, by namespace and name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use weir_api::gateway::{Gateway, GatewayClass, HTTPRoute, ReferenceGrant};
use weir_api::lenient::Lenient;
use weir_api::problem::ObjectRef;
use weir_api::split::{HTTPRouteGroup, TrafficSplit};

/// Namespace and name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Key {
    /// Namespace; empty for cluster-wide objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }

    /// The node id of a pod's proxy: `<pod>.<namespace>`.
    pub fn node_id(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }

    /// The pod of a node id. A namespace has no dot, so that the last one separates.
    pub fn from_node_id(id: &str) -> Option<Self> {
        let (name, namespace) = id.rsplit_once('.')?;
        (!name.is_empty() && !namespace.is_empty()).then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Pods.
    pub pods: BTreeMap<Key, Arc<Pod>>,
    /// Services.
    pub services: BTreeMap<Key, Arc<Service>>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<Key, Arc<EndpointSlice>>,
    /// Namespaces; the key's namespace is empty.
    pub namespaces: BTreeMap<Key, Arc<Namespace>>,
    /// Deployments.
    pub deployments: BTreeMap<Key, Arc<Deployment>>,
    /// ReplicaSets.
    pub replica_sets: BTreeMap<Key, Arc<ReplicaSet>>,
    /// StatefulSets.
    pub stateful_sets: BTreeMap<Key, Arc<StatefulSet>>,
    /// DaemonSets.
    pub daemon_sets: BTreeMap<Key, Arc<DaemonSet>>,
    /// Jobs.
    pub jobs: BTreeMap<Key, Arc<Job>>,
    /// ConfigMaps, of which one counts: the mesh's own.
    pub config_maps: BTreeMap<Key, Arc<ConfigMap>>,
    /// TrafficSplits.
    pub traffic_splits: BTreeMap<Key, Arc<Lenient<TrafficSplit>>>,
    /// HTTPRouteGroups.
    pub route_groups: BTreeMap<Key, Arc<Lenient<HTTPRouteGroup>>>,
    /// Ingresses.
    pub ingresses: BTreeMap<Key, Arc<Ingress>>,
    /// IngressClasses; the key's namespace is empty.
    pub ingress_classes: BTreeMap<Key, Arc<IngressClass>>,
    /// Secrets of type `kubernetes.io/tls`: certificates.
    pub secrets: BTreeMap<Key, Arc<Secret>>,
    /// GatewayClasses; the key's namespace is empty.
    pub gateway_classes: BTreeMap<Key, Arc<Lenient<GatewayClass>>>,
    /// Gateways.
    pub gateways: BTreeMap<Key, Arc<Lenient<Gateway>>>,
    /// HTTPRoutes.
    pub http_routes: BTreeMap<Key, Arc<Lenient<HTTPRoute>>>,
    /// ReferenceGrants.
    pub reference_grants: BTreeMap<Key, Arc<Lenient<ReferenceGrant>>>,
}

/// A workload's metadata together with what names it in a problem.
pub(crate) struct Workload<'a> {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) meta: &'a ObjectMeta,
}

impl Objects {
    /// Adds an object from its JSON form, for files instead of a cluster. `Ok(false)`: a kind that the model does not use.
    pub fn insert(&mut self, object: serde_json::Value) -> Result<bool, serde_json::Error> {
        macro_rules! add {
            ($field:ident) => {{
                let object = Arc::new(serde_json::from_value(object)?);
                let key = Key::of(metadata(&self.$field, &object, |o| &o.metadata));
                self.$field.insert(key, object);
                Ok(true)
            }};
        }
        // Ties the object to the type of the map that it goes into.
        fn metadata<'a, T>(_: &BTreeMap<Key, Arc<T>>, object: &'a T, of: fn(&T) -> &ObjectMeta) -> &'a ObjectMeta {
            of(object)
        }
        match object.get("kind").and_then(serde_json::Value::as_str) {
            Some("Pod") => add!(pods),
            Some("Service") => add!(services),
            Some("EndpointSlice") => add!(endpoint_slices),
            Some("Namespace") => add!(namespaces),
            Some("Deployment") => add!(deployments),
            Some("ReplicaSet") => add!(replica_sets),
            Some("StatefulSet") => add!(stateful_sets),
            Some("DaemonSet") => add!(daemon_sets),
            Some("Job") => add!(jobs),
            Some("ConfigMap") => add!(config_maps),
            Some("TrafficSplit") => add!(traffic_splits),
            Some("HTTPRouteGroup") => add!(route_groups),
            Some("Ingress") => add!(ingresses),
            Some("IngressClass") => add!(ingress_classes),
            Some("Secret") => add!(secrets),
            Some("GatewayClass") => add!(gateway_classes),
            Some("Gateway") => add!(gateways),
            Some("HTTPRoute") => add!(http_routes),
            Some("ReferenceGrant") => add!(reference_grants),
            _ => Ok(false),
        }
    }

    pub(crate) fn replica_set(&self, namespace: &str, name: &str) -> Option<&ObjectMeta> {
        self.replica_sets.get(&Key::new(namespace, name)).map(|r| &r.metadata)
    }

    /// The workload whose labels reach a pod: the top of its chain of controllers, as far as it is known.
    pub(crate) fn workload(&self, pod: &ObjectMeta) -> Option<Workload<'_>> {
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        let owner = weir_api::labels::controller(pod)?;
        let key = Key::new(namespace, &*owner.name);
        let found = |api_version, kind, meta| {
            Some(Workload {
                api_version,
                kind,
                meta,
            })
        };
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = &self.replica_sets.get(&key)?.metadata;
                let deployment = weir_api::labels::controller(set)
                    .filter(|above| above.kind == "Deployment")
                    .and_then(|above| self.deployments.get(&Key::new(namespace, &*above.name)));
                match deployment {
                    Some(deployment) => found("apps/v1", "Deployment", &deployment.metadata),
                    None => found("apps/v1", "ReplicaSet", set),
                }
            }
            "StatefulSet" => found("apps/v1", "StatefulSet", &self.stateful_sets.get(&key)?.metadata),
            "DaemonSet" => found("apps/v1", "DaemonSet", &self.daemon_sets.get(&key)?.metadata),
            "Job" => found("batch/v1", "Job", &self.jobs.get(&key)?.metadata),
            _ => None,
        }
    }

    pub(crate) fn namespace(&self, name: &str) -> Option<&ObjectMeta> {
        self.namespaces.get(&Key::new("", name)).map(|n| &n.metadata)
    }
}

/// A reference to an object for problems and events.
pub(crate) fn object_ref(api_version: &str, kind: &str, meta: &ObjectMeta) -> ObjectRef {
    ObjectRef {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// JSON wants text as keys.
pub(crate) fn serialize_keyed<T: Serialize, S: serde::Serializer>(
    map: &BTreeMap<Key, T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().map(|(key, value)| (key.to_string(), value)))
}
