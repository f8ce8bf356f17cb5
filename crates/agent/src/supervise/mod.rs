//! One proxy a pod: started in the pod's network namespace, watched, started again when it dies, taken down without a
//! failed request, found again by the next agent.
//!
//! Enters: what each pod should have ([`Want`]). Leaves: processes, redirection, the annotation on the pod, events, and
//! what has been reached ([`Status`]). One task a pod does all of it in turn (`pod.rs`); nothing else touches a pod.

mod cgroup;
mod directory;
mod pod;
mod process;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use weir_api::labels::Engine;

pub use cgroup::detect as detect_cgroup;
pub use directory::{ControlPlane, Directory, PodId, Record, Sandbox, write};
pub use process::Process;

use crate::cluster::Cluster;
use crate::plan::Plan;
use crate::sandbox::Runtime;

/// How a proxy is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program that has the roles `proxy` and `envoy-supervisor`.
    pub exe: PathBuf,
    /// The `envoy` program.
    pub envoy: OsString,
    /// Where a proxy serves its metrics.
    pub metrics_address: String,
    /// How long a proxy that is taken down may wait for its last connections.
    pub drain: Duration,
}

impl Launch {
    /// The command line of a pod's proxy.
    fn command(&self, engine: Engine, directory: &Directory) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.exe);
        command.arg(match engine {
            Engine::Weir => "proxy",
            Engine::Envoy => "envoy-supervisor",
        });
        command.arg("-c").arg(directory.bootstrap());
        command.arg("--state-dir").arg(directory.state());
        command.arg("--metrics-address").arg(&self.metrics_address);
        command.arg("--drain-seconds").arg(self.drain.as_secs().to_string());
        if engine == Engine::Envoy {
            command.arg("--envoy").arg(&self.envoy);
        }
        command
    }
}

/// What all pods' tasks share.
pub struct Shared {
    /// The agent's directory.
    pub run_dir: PathBuf,
    /// How proxies are started.
    pub launch: Launch,
    /// Where the control groups of proxies go, when the agent itself runs in a container's.
    pub cgroup: Option<PathBuf>,
    /// The API server.
    pub cluster: Cluster,
    /// The container runtime.
    pub runtime: Runtime,
    /// The control plane's address, once known.
    pub control: watch::Receiver<Option<ControlPlane>>,
    /// The node's address, once known.
    pub host_ip: watch::Receiver<Option<IpAddr>>,
    /// Bounds how many pods are worked on against the API server and the runtime at a time.
    pub calls: Semaphore,
}

/// What a pod should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// By its labels.
    pub plan: Plan,
    /// The sandbox that the container runtime told of.
    pub sandbox: Option<Sandbox>,
    /// It is being deleted: its clients are to go elsewhere while its containers finish.
    pub leaving: bool,
    /// Its object is not there any more.
    pub absent: bool,
    /// Its containers are not there any more: everything is to go at once.
    pub gone: bool,
}

impl Want {
    /// Whatever is, stays.
    pub fn keep() -> Self {
        Self {
            plan: Plan::Keep,
            sandbox: None,
            leaving: false,
            absent: false,
            gone: false,
        }
    }
}

/// What has been reached for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing to do, or nothing done yet.
    Idle,
    /// Under way; the text says what is being waited for.
    Working(String),
    /// The last attempt failed; another one follows.
    Failed(String),
    /// The proxy runs and the sandbox of this name is redirected to it.
    Serving {
        /// The sandbox.
        sandbox: String,
        /// The proxy.
        proxy: String,
    },
    /// The task has ended, everything is removed.
    Ended,
}

/// The task of one pod, as others see it.
pub struct Handle {
    /// Tell it what the pod should have.
    pub want: watch::Sender<Want>,
    /// What it has reached.
    pub status: watch::Receiver<Status>,
}

impl Handle {
    /// Starts the task of a pod, with what an agent before this one has left of it. `annotated` is what the pod's
    /// annotation says, where that is known; `after`, what an earlier task of the pod has reached, which takes away what
    /// the pod had and has to end first.
    pub fn start(
        shared: Arc<Shared>,
        pod: PodId,
        record: Option<Record>,
        annotated: Option<String>,
        want: Want,
        after: Option<watch::Receiver<Status>>,
        shutdown: CancellationToken,
    ) -> std::io::Result<Self> {
        let (want, wanted) = watch::channel(want);
        let (reached, status) = watch::channel(match after {
            Some(_) => Status::Working("the end of the proxy of the pod's earlier sandbox".into()),
            None => Status::Idle,
        });
        let task = pod::PodTask::new(shared, pod, record, annotated, wanted, reached)?;
        tokio::spawn(async move {
            if let Some(mut before) = after {
                // An error: it is not there any more either.
                let ended = before.wait_for(|status| *status == Status::Ended);
                let _ = shutdown.run_until_cancelled(ended).await;
            }
            task.run(shutdown).await;
        });
        Ok(Self { want, status })
    }

    /// Changes what the pod should have; does nothing if that changes nothing.
    pub fn update(&self, change: impl FnOnce(&mut Want)) {
        self.want.send_if_modified(|want| {
            let before = want.clone();
            change(want);
            *want != before
        });
    }

    /// Whether the task has ended.
    pub fn ended(&self) -> bool {
        *self.status.borrow() == Status::Ended || self.status.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests;
