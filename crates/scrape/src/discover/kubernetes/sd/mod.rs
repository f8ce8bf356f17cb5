//! `kubernetes_sd_configs`: objects of a cluster as targets, with the labels that everybody's rules expect of them.
//!
//! Watches what the role needs and makes all label sets anew when something has changed. While the API is away the last list
//! stays.

mod endpoints;
mod labels;
mod pods;
mod services;
#[cfg(test)]
mod tests;

use crate::{
    config::{KubernetesSd, Role},
    discover::{Clusters, Publish},
    relabel::LabelSet,
};
use futures::StreamExt;
use k8s_openapi::{
    api::{
        core::v1::{Endpoints, Namespace, Node, Pod, Service},
        discovery::v1::EndpointSlice,
        networking::v1::Ingress,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Changes that come this close together are published once.
const SETTLE: Duration = Duration::from_secs(1);
/// Before the first client is tried again.
const RETRY: Duration = Duration::from_secs(5);
const PAGE_SIZE: u32 = 500;

/// Objects by namespace and name.
pub(super) type Objects<K> = BTreeMap<(String, String), Arc<K>>;

/// What the role and its labels are made of.
#[derive(Default)]
pub(super) struct Cluster {
    pub pods: Objects<Pod>,
    pub services: Objects<Service>,
    pub endpoints: Objects<Endpoints>,
    pub slices: Objects<EndpointSlice>,
    pub nodes: Objects<Node>,
    pub namespaces: Objects<Namespace>,
    pub ingresses: Objects<Ingress>,
    pub attach_node: bool,
    pub attach_namespace: bool,
}

impl Cluster {
    /// The label sets of all targets of a role.
    pub fn targets(&self, role: Role) -> Vec<LabelSet> {
        match role {
            Role::Pod => self.pods.values().flat_map(|pod| pods::targets(self, pod)).collect(),
            Role::Endpoints => self
                .endpoints
                .values()
                .flat_map(|e| endpoints::of_endpoints(self, e))
                .collect(),
            Role::EndpointSlice => self
                .slices
                .values()
                .flat_map(|s| endpoints::of_slice(self, s))
                .collect(),
            Role::Service => self
                .services
                .values()
                .flat_map(|s| services::of_service(self, s))
                .collect(),
            Role::Node => self.nodes.values().filter_map(|node| services::of_node(node)).collect(),
            Role::Ingress => self
                .ingresses
                .values()
                .flat_map(|i| services::of_ingress(self, i))
                .collect(),
        }
    }
}

/// Watches until `stop`.
pub(in crate::discover) async fn run(config: KubernetesSd, clusters: Clusters, out: Publish, stop: CancellationToken) {
    let client = loop {
        match clusters(config.kubeconfig.clone()).await {
            Ok(client) => break client,
            Err(error) => tracing::warn!(%error, "kubernetes_sd_configs: no cluster"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    };
    let (changed, mut changes) = watch::channel(());
    let mut watching = Watching {
        client,
        config,
        changed,
        stop: stop.clone(),
    };
    let role = watching.config.role;
    let with_pods = matches!(role, Role::Pod | Role::Endpoints | Role::EndpointSlice);
    let with_services = matches!(role, Role::Service | Role::Endpoints | Role::EndpointSlice);
    let (attach_node, attach_namespace) = (watching.config.attach_node, watching.config.attach_namespace);
    let pods = watching.namespaced::<Pod>(Role::Pod, with_pods);
    let services = watching.namespaced::<Service>(Role::Service, with_services);
    let endpoints = watching.namespaced::<Endpoints>(Role::Endpoints, role == Role::Endpoints);
    let slices = watching.namespaced::<EndpointSlice>(Role::EndpointSlice, role == Role::EndpointSlice);
    let ingresses = watching.namespaced::<Ingress>(Role::Ingress, role == Role::Ingress);
    let nodes = watching.global::<Node>(role == Role::Node || (with_pods && attach_node));
    let namespaces = watching.global::<Namespace>(attach_namespace);
    let complete = async {
        // Nothing is published before all is known: a target would come and go.
        pods.ready().await;
        services.ready().await;
        endpoints.ready().await;
        slices.ready().await;
        ingresses.ready().await;
        nodes.ready().await;
        namespaces.ready().await;
    };
    tokio::select! {
        () = stop.cancelled() => return,
        () = complete => {}
    }
    loop {
        changes.borrow_and_update();
        let cluster = Cluster {
            pods: pods.objects(),
            services: services.objects(),
            endpoints: endpoints.objects(),
            slices: slices.objects(),
            nodes: nodes.objects(),
            namespaces: namespaces.objects(),
            ingresses: ingresses.objects(),
            attach_node,
            attach_namespace,
        };
        out.set(cluster.targets(role));
        drop(cluster);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SETTLE) => {}
        }
    }
}

struct Watching {
    client: Client,
    config: KubernetesSd,
    changed: watch::Sender<()>,
    stop: CancellationToken,
}

/// The copies of the objects of a kind, one for each namespace that is watched; none where the kind is not needed.
struct Copies<K: Resource<DynamicType = ()> + Clone + 'static>(Vec<reflector::Store<K>>);

impl<K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static> Copies<K> {
    async fn ready(&self) {
        for store in &self.0 {
            // Fails only when the watch has ended, and with it all this.
            let _ = store.wait_until_ready().await;
        }
    }

    fn objects(&self) -> Objects<K> {
        let all = self.0.iter().flat_map(reflector::Store::state);
        all.map(|object| (labels::key(object.meta()), object)).collect()
    }
}

impl Watching {
    fn namespaced<K>(&mut self, role: Role, wanted: bool) -> Copies<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        if !wanted {
            return Copies(Vec::new());
        }
        let mut names = self.config.namespaces.clone();
        if self.config.own_namespace {
            names.push(self.client.default_namespace().to_owned());
        }
        names.sort();
        names.dedup();
        let mut watcher = watcher::Config::default().page_size(PAGE_SIZE);
        for selector in self.config.selectors.iter().filter(|s| s.role == role) {
            if !selector.label.is_empty() {
                watcher = watcher.labels(&selector.label);
            }
            if !selector.field.is_empty() {
                watcher = watcher.fields(&selector.field);
            }
        }
        let apis: Vec<Api<K>> = match names.as_slice() {
            [] => vec![Api::all(self.client.clone())],
            names => names
                .iter()
                .map(|name| Api::namespaced(self.client.clone(), name))
                .collect(),
        };
        Copies(apis.into_iter().map(|api| self.follow(api, watcher.clone())).collect())
    }

    fn global<K>(&mut self, wanted: bool) -> Copies<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        if !wanted {
            return Copies(Vec::new());
        }
        let watcher = watcher::Config::default().page_size(PAGE_SIZE);
        Copies(vec![self.follow(Api::all(self.client.clone()), watcher)])
    }

    fn follow<K>(&self, api: Api<K>, config: watcher::Config) -> reflector::Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (copies, writer) = reflector::store();
        let (changed, stop) = (self.changed.clone(), self.stop.clone());
        let stream = watcher::watcher(api, config)
            .default_backoff()
            .modify(|object: &mut K| {
                // By far the largest part of many objects, and nobody's label.
                object.meta_mut().managed_fields = None;
            });
        let stream = reflector::reflector(writer, stream);
        tokio::spawn(async move {
            let mut stream = std::pin::pin!(stream);
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    event = stream.next() => event,
                };
                match event {
                    Some(Ok(_)) => {
                        changed.send_replace(());
                    }
                    // The watcher tries again by itself, with a back-off.
                    Some(Err(error)) => tracing::warn!(%error, "kubernetes_sd_configs: cannot watch"),
                    None => return,
                }
            }
        });
        copies
    }
}

/// The namespace and node of an object, as far as they are asked for.
pub(super) fn attach(cluster: &Cluster, namespace: &str, node: Option<&str>, set: &mut LabelSet) {
    let by_name = |name: &str| (String::new(), name.to_owned());
    if cluster.attach_namespace
        && let Some(object) = cluster.namespaces.get(&by_name(namespace))
    {
        labels::meta("namespace", &object.metadata, set);
    }
    if cluster.attach_node
        && let Some(object) = node.and_then(|node| cluster.nodes.get(&by_name(node)))
    {
        set.set(&labels::name("node_name"), labels::text(&object.metadata.name));
        labels::meta("node", &object.metadata, set);
    }
}

/// The name of an object of which nothing else is known.
pub(super) fn key_of(meta: &ObjectMeta, name: &str) -> (String, String) {
    (labels::text(&meta.namespace).to_owned(), name.to_owned())
}
