//! What the kubelet knows about a pod at run time: the sandbox and each container's state.
//!
//! Owned by the pod's worker; read by the status writer, the kubelet server and the CRI server.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

use super::logs::Log;
use crate::launch::CommandSpec;

/// A pod's network namespace and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// 64 hexadecimal digits, as container runtimes name theirs.
    pub id: String,
    /// The namespace file in the node's /run/netns; none for a pod in the node's own network.
    pub netns: Option<PathBuf>,
    pub ip: Ipv4Addr,
    pub created_at: Timestamp,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Waiting { reason: String, message: Option<String> },
    Running { since: Timestamp },
    Terminated(Terminated),
}

/// How a container's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminated {
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub reason: String,
    pub message: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    pub container_id: String,
}

/// One container as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerView {
    pub name: String,
    pub image: String,
    pub init: bool,
    pub state: State,
    pub last: Option<Terminated>,
    pub restarts: i32,
    pub ready: bool,
    pub started: bool,
    /// The id of the latest start; empty before the first.
    pub id: String,
    /// The process in the node's pid namespace while it runs.
    pub pid: Option<i32>,
}

impl ContainerView {
    /// A container that has not been started.
    pub fn new(name: &str, image: &str, init: bool) -> Self {
        let reason = if init { "PodInitializing" } else { "ContainerCreating" };
        Self {
            name: name.to_string(),
            image: image.to_string(),
            init,
            state: State::Waiting {
                reason: reason.into(),
                message: None,
            },
            last: None,
            restarts: 0,
            ready: false,
            started: false,
            id: String::new(),
            pid: None,
        }
    }

    /// Whether it has ended with success.
    pub fn succeeded(&self) -> bool {
        matches!(&self.state, State::Terminated(end) if end.exit_code == 0)
    }
}

/// How a pod shall stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Seconds from SIGTERM to SIGKILL.
    pub grace_seconds: u64,
    /// The pod is deleted; else only its processes end, and it stays to be looked at.
    pub deleted: bool,
}

/// What is needed to enter a container and to read its logs.
#[derive(Clone, Debug)]
pub struct Started {
    pub command: CommandSpec,
    pub own_pid_namespace: bool,
    pub netns: Option<PathBuf>,
    pub log: Arc<Log>,
    /// The number of the start, from 0; names the log file.
    pub attempt: i32,
}

/// The run-time state of one pod.
#[derive(Debug)]
pub struct PodRuntime {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// The latest object from the API.
    pub pod: watch::Sender<Arc<Pod>>,
    /// Set once, then only shortened.
    pub stop: watch::Sender<Option<Stop>>,
    /// Counts changes, for the status writer.
    pub changes: watch::Sender<u64>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sandbox: Option<Sandbox>,
    containers: Vec<ContainerView>,
    /// The pod can never run again; (reason, message) of a failure that no container tells.
    finished: bool,
    failure: Option<(String, String)>,
    initialized: bool,
    started: HashMap<String, Started>,
}

/// A copy of the run-time state, from which a status is computed.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub sandbox: Option<Sandbox>,
    pub containers: Vec<ContainerView>,
    pub finished: bool,
    pub failure: Option<(String, String)>,
    pub initialized: bool,
}

impl PodRuntime {
    /// The state of a pod of which nothing runs yet.
    pub fn new(pod: Arc<Pod>) -> Self {
        let mut containers = Vec::new();
        if let Some(spec) = &pod.spec {
            for (list, init) in [
                (spec.init_containers.as_deref().unwrap_or_default(), true),
                (&spec.containers, false),
            ] {
                let views = list
                    .iter()
                    .map(|c| ContainerView::new(&c.name, c.image.as_deref().unwrap_or_default(), init));
                containers.extend(views);
            }
        }
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            pod: watch::channel(pod).0,
            stop: watch::channel(None).0,
            changes: watch::channel(0).0,
            inner: Mutex::new(Inner {
                containers,
                ..Inner::default()
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The latest object.
    pub fn object(&self) -> Arc<Pod> {
        self.pod.borrow().clone()
    }

    /// A copy of everything.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            sandbox: inner.sandbox.clone(),
            containers: inner.containers.clone(),
            finished: inner.finished,
            failure: inner.failure.clone(),
            initialized: inner.initialized,
        }
    }

    /// One container's view.
    pub fn container(&self, name: &str) -> Option<ContainerView> {
        self.lock().containers.iter().find(|c| c.name == name).cloned()
    }

    /// Changes one container's view and tells the status writer when that made a difference.
    pub fn update(&self, name: &str, change: impl FnOnce(&mut ContainerView)) {
        let changed = {
            let mut inner = self.lock();
            let Some(view) = inner.containers.iter_mut().find(|c| c.name == name) else {
                return;
            };
            let before = view.clone();
            change(view);
            *view != before
        };
        if changed {
            self.touch();
        }
    }

    /// A container was started.
    pub fn set_started(&self, name: &str, started: Started) {
        self.lock().started.insert(name.to_string(), started);
    }

    /// The latest start of a container.
    pub fn started(&self, name: &str) -> Option<Started> {
        self.lock().started.get(name).cloned()
    }

    /// The pod's network is there, or gone.
    pub fn set_sandbox(&self, sandbox: Option<Sandbox>) {
        self.lock().sandbox = sandbox;
        self.touch();
    }

    /// All init containers are done.
    pub fn set_initialized(&self) {
        self.lock().initialized = true;
        self.touch();
    }

    /// Nothing of the pod runs any more, nor ever will.
    pub fn set_finished(&self) {
        self.lock().finished = true;
        self.touch();
    }

    /// The pod failed for a reason that no container's state tells.
    pub fn set_failure(&self, reason: &str, message: &str) {
        self.lock().failure = Some((reason.to_string(), message.to_string()));
        self.touch();
    }

    /// Asks the pod to stop because it is deleted; a later, shorter grace wins.
    pub fn request_stop(&self, grace_seconds: u64) {
        self.ask_to_stop(grace_seconds, true);
    }

    /// Asks what is left of the pod's processes to end; the pod itself stays.
    pub fn request_end(&self, grace_seconds: u64) {
        self.ask_to_stop(grace_seconds, false);
    }

    fn ask_to_stop(&self, grace_seconds: u64, deleted: bool) {
        self.stop.send_if_modified(|stop| {
            let before = *stop;
            let grace_seconds = before.map_or(grace_seconds, |b| b.grace_seconds.min(grace_seconds));
            let deleted = deleted || before.is_some_and(|b| b.deleted);
            *stop = Some(Stop { grace_seconds, deleted });
            *stop != before
        });
    }

    fn touch(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Returns once the pod has been deleted.
pub async fn deletion_requested(stop: &mut watch::Receiver<Option<Stop>>) {
    if stop
        .wait_for(|stop| stop.is_some_and(|stop| stop.deleted))
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

/// Returns once the pod has been asked to stop.
pub async fn stop_requested(stop: &mut watch::Receiver<Option<Stop>>) {
    if stop.wait_for(Option::is_some).await.is_err() {
        // The sender lives as long as the pod: cannot happen while somebody waits for it.
        std::future::pending::<()>().await;
    }
}
