//! One pod's life: sandbox, volumes, init containers, containers, tear-down, removal from the API.
//!
//! Enters: a pod bound to this node. Leaves: its processes while it shall run, its status, and nothing once it is deleted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::back_off::BackOff;
use super::cni::{self, CniError};
use super::container::{Runner, placement};
use super::network::{self, NODE_IP, NetworkError};
use super::process::new_id;
use super::state::{PodRuntime, Sandbox, deletion_requested, stop_requested};
use super::volumes::{VolumeError, Volumes};
use super::{Node, status};

/// First and longest wait after a sandbox or volume that could not be made.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How long writing the last status may hold up the removal.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// Why a pod is not set up yet.
#[derive(Debug, thiserror::Error)]
enum SetUpError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Cni(#[from] CniError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// Runs the pod until it is gone from the API.
pub async fn run(node: Arc<Node>, runtime: Arc<PodRuntime>) {
    let pod = runtime.object();
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if !matches!(phase, Some("Succeeded" | "Failed")) {
        let writer = tokio::spawn(status::keep_written(node.clone(), runtime.clone()));
        let volumes_done = CancellationToken::new();
        if let Some(sandbox) = set_up(&node, &runtime, &pod, &volumes_done).await {
            run_containers(&node, &runtime, &pod, &sandbox).await;
        }
        volumes_done.cancel();
        tear_down(&node, &runtime, &pod).await;
        runtime.set_finished();
        let _ = timeout(STATUS_DEADLINE, writer).await;
    }
    let mut stop = runtime.stop.subscribe();
    deletion_requested(&mut stop).await;
    if !node.stopping.is_cancelled() {
        remove_from_api(&node, &runtime).await;
    }
    node.forget(&runtime).await;
}

/// Sandbox and volumes, retried until they are there; none when the pod is to stop before that.
async fn set_up(
    node: &Arc<Node>,
    runtime: &Arc<PodRuntime>,
    pod: &Arc<Pod>,
    volumes_done: &CancellationToken,
) -> Option<Sandbox> {
    let mut stop = runtime.stop.subscribe();
    let mut back_off = BackOff::retry(RETRY_FIRST, RETRY_MAX);
    loop {
        if stop.borrow().is_some() {
            return None;
        }
        let attempt = async {
            // Volumes first, as kubelets do: no file of a volume can name the pod's address.
            let placement = placement(NODE_IP);
            let mut volumes = Volumes::new(node.clone(), &runtime.uid);
            volumes.prepare(pod, &placement).await?;
            let sandbox = make_sandbox(node, pod).await?;
            let latest = runtime.clone();
            tokio::spawn(volumes.keep_fresh(move || latest.object(), placement, volumes_done.clone()));
            Ok(sandbox)
        };
        match attempt.await {
            Ok(sandbox) => {
                runtime.set_sandbox(Some(sandbox.clone()));
                return Some(sandbox);
            }
            Err(error) => {
                let reason = match &error {
                    SetUpError::Volume(_) => "FailedMount",
                    _ => "FailedCreatePodSandBox",
                };
                let message = match &error {
                    SetUpError::Volume(_) => format!("MountVolume.SetUp failed: {error}"),
                    _ => format!("Failed to create pod sandbox: {error}"),
                };
                node.events.warning(pod, None, reason, message);
                let wait = back_off.after(Duration::ZERO);
                let mut changes = node.caches.changes();
                changes.mark_unchanged();
                tokio::select! {
                    _ = timeout(wait, stop_requested(&mut stop)) => {}
                    // A missing ConfigMap or Secret may have come.
                    _ = changes.changed(), if matches!(error, SetUpError::Volume(_)) => {}
                }
            }
        }
    }
}

async fn make_sandbox(node: &Node, pod: &Pod) -> Result<Sandbox, SetUpError> {
    let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let mut sandbox = Sandbox {
        id: new_id(),
        netns: None,
        ip: NODE_IP,
        created_at: Timestamp::now(),
    };
    if host_network {
        return Ok(sandbox);
    }
    sandbox.ip = node.addresses.take()?;
    let path: PathBuf = node.paths.netns_in_node().join(&sandbox.id);
    let veth = format!("veth{}", &sandbox.id[..8]);
    // Plugins run outside the limit: one may wait for a pod that has not started yet, as the mesh's for its control plane.
    let permit = node.start_permits.acquire().await;
    let added = network::add_pod(path.clone(), sandbox.ip, veth).await;
    drop(permit);
    if let Err(error) = added {
        node.addresses.release(sandbox.ip);
        return Err(error.into());
    }
    sandbox.netns = Some(path);
    if let Err(error) = cni::add(&node.paths, pod, &sandbox).await {
        remove_sandbox(node, pod, &sandbox).await;
        return Err(error.into());
    }
    Ok(sandbox)
}

async fn remove_sandbox(node: &Node, pod: &Pod, sandbox: &Sandbox) {
    let Some(netns) = &sandbox.netns else { return };
    // When the whole node goes, nothing is left that a plugin could undo.
    let deletion = node
        .stopping
        .run_until_cancelled(cni::del(&node.paths, pod, sandbox))
        .await;
    if let Some(Err(error)) = deletion {
        tracing::warn!(pod = pod.metadata.name, %error, "CNI DEL");
    }
    network::remove_pod(netns);
    node.addresses.release(sandbox.ip);
}

async fn tear_down(node: &Node, runtime: &PodRuntime, pod: &Pod) {
    if let Some(sandbox) = runtime.snapshot().sandbox {
        remove_sandbox(node, pod, &sandbox).await;
    }
    let _ = tokio::fs::remove_dir_all(node.paths.content_dir(&runtime.uid)).await;
    let _ = tokio::fs::remove_dir_all(node.paths.pod(&runtime.uid)).await;
}

async fn run_containers(node: &Arc<Node>, runtime: &Arc<PodRuntime>, pod: &Arc<Pod>, sandbox: &Sandbox) {
    let Some(spec) = pod.spec.as_ref() else { return };
    let runner = |container: &Container, init: bool| Runner {
        node: node.clone(),
        runtime: runtime.clone(),
        pod: pod.clone(),
        container: container.clone(),
        init,
        placement: placement(sandbox.ip),
        netns: sandbox.netns.clone(),
    };
    let mut sidecars = JoinSet::new();
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.spawn(runner(container, true).run());
            wait_started(runtime, &container.name).await;
        } else if !runner(container, true).run().await {
            // Either asked to stop, or failed for good: the containers never start.
            runtime.request_stop_of_sidecars(&mut sidecars).await;
            return;
        }
    }
    runtime.set_initialized();
    let mut containers = JoinSet::new();
    for container in &spec.containers {
        containers.spawn(runner(container, false).run());
    }
    while containers.join_next().await.is_some() {}
    runtime.request_stop_of_sidecars(&mut sidecars).await;
}

async fn wait_started(runtime: &PodRuntime, name: &str) {
    let (mut changes, mut stop) = (runtime.changes.subscribe(), runtime.stop.subscribe());
    while !runtime.container(name).is_some_and(|view| view.started) {
        tokio::select! {
            _ = changes.changed() => {}
            () = stop_requested(&mut stop) => return,
        }
    }
}

impl PodRuntime {
    /// Ends sidecars when the containers they serve are done.
    async fn request_stop_of_sidecars(&self, sidecars: &mut JoinSet<bool>) {
        if sidecars.is_empty() {
            return;
        }
        let grace = self
            .object()
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(30);
        self.request_end(u64::try_from(grace).unwrap_or(30));
        while sidecars.join_next().await.is_some() {}
    }
}

async fn remove_from_api(node: &Node, runtime: &PodRuntime) {
    let api: Api<Pod> = Api::namespaced(node.client.clone(), &runtime.namespace);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(runtime.uid.clone()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let mut back_off = BackOff::retry(RETRY_FIRST, RETRY_MAX);
    loop {
        match api.delete(&runtime.name, &params).await {
            Ok(_) => return,
            // Gone already, or another pod of that name.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return,
            Err(error) => {
                tracing::debug!(pod = runtime.name, %error, "pod not removed yet");
                let wait = back_off.after(Duration::ZERO);
                if node
                    .stopping
                    .run_until_cancelled(tokio::time::sleep(wait))
                    .await
                    .is_none()
                {
                    return;
                }
            }
        }
    }
}
