//! The controllers that a Kubernetes without a controller manager misses: Deployment, ReplicaSet, DaemonSet,
//! EndpointSlice, the addresses of Services of type LoadBalancer, and a scheduler for nodes that always fit.
//!
//! Enters: watches of the API. Leaves: objects written back. Each controller is a pure `plan` in a file of its own
//! and a loop here around it: an event names what may have changed, the plan is made from what the API says *now*,
//! and a failed write is simply planned again. Nothing here knows how pods run or how services are reached.
//!
//! ```text
//! watch ──key──▶ Queue ──▶ read ──▶ plan (pure) ──▶ write
//!                  ▲                                  │ conflict, API away
//!                  └──────────── back-off ────────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::Api;
use kube::runtime::reflector::{Store, store};
use kube::{Client, Resource, ResourceExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

mod daemon_set;
mod deployment;
mod endpoint_slice;
mod load_balancer;
mod pods;
mod queue;
mod replica_set;
mod schedule;
mod template;
pub(crate) mod watch;

use crate::node::Forward;
pub(crate) use endpoint_slice::SERVICE_NAME;
use queue::{Key, Queue};

/// One pass over one object takes at most this long, whatever the API does.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(30);
/// Everything is looked at again this often, in case an event was missed.
const RESYNC_INTERVAL: Duration = Duration::from_secs(60);

/// Why a pass failed; it is repeated later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}", api_message(.0))]
    Api(#[from] kube::Error),
    #[error("{object}: its selector is not valid: {message}")]
    Selector { object: String, message: String },
}

impl Error {
    /// Whether another writer was faster, which is no news.
    fn is_race(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }

    /// Whether the object's namespace is going: nothing is made there any more, and the object goes too.
    fn is_end_of_namespace(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status))
            if status.code == 403 && status.message.ends_with("because it is being terminated"))
    }
}

/// One line; kube's own message holds the whole status once more.
fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

/// When to look at the object again without being asked to.
type Outcome = Result<Option<Duration>, Error>;

/// What every controller reads from: the API and, to find out what an event concerns, the objects last seen.
pub(crate) struct Context {
    client: Client,
    deployments: Store<Deployment>,
    replica_sets: Store<ReplicaSet>,
    daemon_sets: Store<DaemonSet>,
    pods: Store<Pod>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    nodes: Store<Node>,
    forwards: Vec<Forward>,
}

#[derive(Default)]
struct Queues {
    deployments: Queue,
    replica_sets: Queue,
    daemon_sets: Queue,
    services: Queue,
    balanced: Queue,
    unbound: Queue,
}

/// Runs all controllers until `shutdown`. The API may come late, go away and come back. `forwards` are the ports of the host
/// that lead to Services.
pub async fn run(client: Client, forwards: Vec<Forward>, shutdown: CancellationToken) {
    let (deployments, mut deployments_writer) = store();
    let (replica_sets, mut replica_sets_writer) = store();
    let (daemon_sets, mut daemon_sets_writer) = store();
    let (pods, mut pods_writer) = store();
    let (services, mut services_writer) = store();
    let (slices, mut slices_writer) = store();
    let (nodes, mut nodes_writer) = store();
    let context = Arc::new(Context {
        client: client.clone(),
        deployments,
        replica_sets,
        daemon_sets,
        pods,
        services,
        slices,
        nodes,
        forwards,
    });
    let queues = Arc::new(Queues::default());

    let mut tasks = JoinSet::new();
    macro_rules! watch {
        ($kind:ty, $writer:ident, $told:expr) => {{
            let (client, context, queues) = (client.clone(), context.clone(), queues.clone());
            tasks.spawn(async move {
                let told: fn(&$kind, &Context, &Queues) = $told;
                watch::watch(Api::<$kind>::all(client), &mut $writer, |object| {
                    told(object, &context, &queues)
                })
                .await;
            });
        }};
    }
    watch!(Deployment, deployments_writer, |d, _, queues| queues
        .deployments
        .add(Key::of(d)));
    watch!(ReplicaSet, replica_sets_writer, replica_set_changed);
    watch!(DaemonSet, daemon_sets_writer, |d, _, queues| queues
        .daemon_sets
        .add(Key::of(d)));
    watch!(Pod, pods_writer, pod_changed);
    watch!(Service, services_writer, service_changed);
    watch!(EndpointSlice, slices_writer, slice_changed);
    watch!(Node, nodes_writer, |_, context, queues| {
        context
            .daemon_sets
            .state()
            .iter()
            .for_each(|d| queues.daemon_sets.add(Key::of(&**d)));
        context
            .pods
            .state()
            .iter()
            .filter(|p| schedule::is_unbound(p))
            .for_each(|p| queues.unbound.add(Key::of(&**p)));
    });

    macro_rules! work {
        ($queue:ident, $reconcile:path) => {{
            let (context, queues) = (context.clone(), queues.clone());
            tasks.spawn(async move {
                loop {
                    let key = queues.$queue.next().await;
                    let pass = tokio::time::timeout(RECONCILE_TIMEOUT, $reconcile(&context, &key)).await;
                    settle(stringify!($queue), &queues.$queue, key, pass);
                }
            });
        }};
    }
    work!(deployments, deployment::reconcile);
    work!(replica_sets, replica_set::reconcile);
    work!(daemon_sets, daemon_set::reconcile);
    work!(services, endpoint_slice::reconcile);
    work!(balanced, load_balancer::reconcile);
    work!(unbound, schedule::reconcile);
    tasks.spawn(resync(context, queues));

    shutdown.cancelled().await;
    tasks.shutdown().await;
}

fn settle(kind: &str, queue: &Queue, key: Key, pass: Result<Outcome, tokio::time::error::Elapsed>) {
    match pass {
        Ok(Ok(None)) => queue.forget_failures(&key),
        Ok(Ok(Some(after))) => {
            queue.forget_failures(&key);
            queue.add_after(key, after);
        }
        Ok(Err(error)) if error.is_end_of_namespace() => {
            debug!(kind, %key, %error, "nothing left to do");
            queue.forget_failures(&key);
        }
        Ok(Err(error)) => {
            if error.is_race() {
                debug!(kind, %key, %error, "overtaken, planning again");
            } else {
                warn!(kind, %key, %error, "pass failed, planning again");
            }
            queue.retry(key);
        }
        Err(_) => {
            warn!(kind, %key, "pass took longer than {RECONCILE_TIMEOUT:?}, planning again");
            queue.retry(key);
        }
    }
}

async fn resync(context: Arc<Context>, queues: Arc<Queues>) {
    loop {
        tokio::time::sleep(RESYNC_INTERVAL).await;
        context
            .deployments
            .state()
            .iter()
            .for_each(|o| queues.deployments.add(Key::of(&**o)));
        context
            .replica_sets
            .state()
            .iter()
            .for_each(|o| queues.replica_sets.add(Key::of(&**o)));
        context
            .daemon_sets
            .state()
            .iter()
            .for_each(|o| queues.daemon_sets.add(Key::of(&**o)));
        context
            .services
            .state()
            .iter()
            .for_each(|o| service_changed(o, &context, &queues));
        context
            .pods
            .state()
            .iter()
            .filter(|p| schedule::is_unbound(p))
            .for_each(|p| queues.unbound.add(Key::of(&**p)));
    }
}

fn service_changed(service: &Service, _: &Context, queues: &Queues) {
    queues.services.add(Key::of(service));
    // One that has an address and is of another type by now has to lose it.
    let balanced = service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    let told = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    if balanced || told.is_some_and(|told| told.ingress.is_some()) {
        queues.balanced.add(Key::of(service));
    }
}

fn pod_changed(pod: &Pod, context: &Context, queues: &Queues) {
    if schedule::is_unbound(pod) {
        queues.unbound.add(Key::of(pod));
    }
    match controller_of(&pod.metadata) {
        Some(owner) if owner.kind == "ReplicaSet" => queues.replica_sets.add(Key::beside(pod, &owner.name)),
        Some(owner) if owner.kind == "DaemonSet" => queues.daemon_sets.add(Key::beside(pod, &owner.name)),
        Some(_) => {}
        // An orphan: whoever selects it may adopt it.
        None => {
            let same_namespace = |meta: &ObjectMeta| meta.namespace == pod.metadata.namespace;
            for set in context
                .replica_sets
                .state()
                .iter()
                .filter(|set| same_namespace(&set.metadata))
            {
                queues.replica_sets.add(Key::of(&**set));
            }
        }
    }
    // Its labels may have changed, so any Service may have gained or lost it.
    for service in context.services.state() {
        if service.metadata.namespace == pod.metadata.namespace && endpoint_slice::has_selector(&service) {
            queues.services.add(Key::of(&*service));
        }
    }
}

fn replica_set_changed(set: &ReplicaSet, context: &Context, queues: &Queues) {
    queues.replica_sets.add(Key::of(set));
    match controller_of(&set.metadata) {
        Some(owner) if owner.kind == "Deployment" => queues.deployments.add(Key::beside(set, &owner.name)),
        Some(_) => {}
        None => {
            for deployment in context.deployments.state() {
                if deployment.metadata.namespace == set.metadata.namespace {
                    queues.deployments.add(Key::of(&*deployment));
                }
            }
        }
    }
}

fn slice_changed(slice: &EndpointSlice, _: &Context, queues: &Queues) {
    if let Some(service) = slice.labels().get(endpoint_slice::SERVICE_NAME) {
        queues.services.add(Key::beside(slice, service));
    }
}

/// The owner that controls an object, if any.
fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// A reference by which `owner` controls what carries it.
fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
