//! From the watch of pods to their workers.
//!
//! Enters: the pods bound to this node. Leaves: a worker task for each of them, told about every change.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};

use super::state::PodRuntime;
use super::{NODE_NAME, Node, pod};

/// How long a pod that vanished from the API without a deletion timestamp may take to end.
const VANISHED_GRACE_SECONDS: u64 = 0;

/// Follows the pods until the node stops.
pub async fn run(node: Arc<Node>) {
    let own = watcher::Config::default().fields(&format!("spec.nodeName={NODE_NAME}"));
    let events = watch(Api::<Pod>::all(node.client.clone()), own).default_backoff();
    let mut listed: HashSet<String> = HashSet::new();
    let follow = async {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(pod)) => node.observe(pod),
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(pod)) => {
                    listed.extend(pod.metadata.uid.clone());
                    node.observe(pod);
                }
                Ok(Event::InitDone) => node.retain(&listed),
                Ok(Event::Delete(pod)) => node.vanished(pod.metadata.uid.as_deref().unwrap_or_default()),
                Err(error) => tracing::debug!(%error, "watch of pods interrupted"),
            }
        }
    };
    node.stopping.run_until_cancelled(follow).await;
}

impl Node {
    fn observe(self: &Arc<Self>, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        let pod = Arc::new(pod);
        let mut pods = self.lock_pods();
        let runtime = pods.entry(uid).or_insert_with(|| {
            let runtime = Arc::new(PodRuntime::new(pod.clone()));
            tokio::spawn(pod::run(self.clone(), runtime.clone()));
            runtime
        });
        runtime.pod.send_replace(pod);
        if deleting {
            runtime.request_stop(u64::try_from(grace).unwrap_or(0));
        }
    }

    fn vanished(&self, uid: &str) {
        if let Some(runtime) = self.lock_pods().get(uid) {
            runtime.request_stop(VANISHED_GRACE_SECONDS);
        }
    }

    /// After a new list: what is not on it has been deleted meanwhile.
    fn retain(&self, listed: &HashSet<String>) {
        for (uid, runtime) in self.lock_pods().iter() {
            if !listed.contains(uid) {
                runtime.request_stop(VANISHED_GRACE_SECONDS);
            }
        }
    }

    /// The worker of a pod has ended.
    pub(super) async fn forget(&self, runtime: &PodRuntime) {
        self.lock_pods().remove(&runtime.uid);
        let dir = self.paths.pod_logs(&runtime.namespace, &runtime.name, &runtime.uid);
        let _ = tokio::fs::remove_dir_all(dir).await;
    }
}

/// Stops every pod quickly, as a machine that shuts down does.
pub async fn stop_all(node: &Node, grace_seconds: u64) {
    let pods: Vec<Arc<PodRuntime>> = node.lock_pods().values().cloned().collect();
    for runtime in &pods {
        runtime.request_stop(grace_seconds);
    }
    for runtime in pods {
        let mut changes = runtime.changes.subscribe();
        while !runtime.snapshot().finished && !ended_before(&runtime) {
            if changes.changed().await.is_err() {
                break;
            }
        }
    }
}

/// Pods that had ended before this node saw them have no processes.
fn ended_before(runtime: &PodRuntime) -> bool {
    let snapshot = runtime.snapshot();
    snapshot.sandbox.is_none() && snapshot.containers.iter().all(|view| view.pid.is_none())
}
