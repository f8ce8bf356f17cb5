//! The node: pid 1 of the cluster's pid namespace; kubelet, CRI and CNI, and the supervisor of the API server.
//!
//! Enters: a configuration written by `weir up`. Leaves: a running cluster. `node_main` is synchronous until the process
//! has its namespaces; `run_node` is everything after that.
//!
//! ```text
//! watch of pods ─▶ kubelet ─▶ pod (a worker each) ─▶ network, cni, volumes
//!                                 │                └▶ container ─▶ process ─▶ launch::container_init
//!                                 └▶ status ─▶ API        ├▶ probes ─▶ exec
//!                                                         └▶ logs ◀─ server (kubectl logs, exec), cri
//! ```

mod apiserver_process;
mod back_off;
mod caches;
mod cni;
mod container;
mod env;
mod events;
mod exec;
mod files;
mod forward;
mod front;
mod images;
mod isolate;
mod kubelet;
mod logs;
mod manifests;
mod network;
mod paths;
mod pod;
mod probes;
mod process;
mod reaper;
mod register;
mod run;
mod server;
pub(crate) mod state;
mod status;
mod tls;
mod volumes;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard};

use kube::Client;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use forward::Forward;
pub use manifests::{Manifest, ManifestError, read_manifests};
pub use network::NODE_IP;
pub use paths::Paths;
pub use run::{NodeError, run_node};

use caches::Caches;
use events::Events;
use images::Images;
use network::Addresses;
use state::PodRuntime;

/// The only node's name.
pub const NODE_NAME: &str = "weir-local";
/// Where the kubelet serves logs and exec.
pub const KUBELET_PORT: u16 = 10250;
/// Sandboxes and containers that are being started at a time.
const STARTS_MAX: usize = 6;
/// Threads of the node's runtime.
const WORKER_THREADS: usize = 2;

/// What `weir up` tells the node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Canonical path of the data directory.
    pub data_dir: PathBuf,
    /// Where the host reaches the API server.
    pub api_address: SocketAddr,
    /// What is applied once the API server is there.
    pub manifests: Vec<Manifest>,
    /// Directories put before the machine's PATH in every container.
    pub extra_path: Vec<PathBuf>,
    /// The host's ports that lead to Services, in the order of their listeners.
    pub forwards: Vec<Forward>,
}

/// What every part of the kubelet shares.
pub struct Node {
    pub paths: Paths,
    pub client: Client,
    pub caches: Arc<Caches>,
    pub events: Events,
    pub addresses: Addresses,
    pub images: Images,
    /// This program, as started by `weir up`.
    pub exe: PathBuf,
    pub users: Users,
    pub start_permits: Semaphore,
    /// The node is shutting down: pods stop, but stay in the API.
    pub stopping: CancellationToken,
    pods: Mutex<HashMap<String, Arc<PodRuntime>>>,
}

impl Node {
    fn lock_pods(&self) -> MutexGuard<'_, HashMap<String, Arc<PodRuntime>>> {
        self.pods.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The pods of this node.
    pub fn pods(&self) -> Vec<Arc<PodRuntime>> {
        self.lock_pods().values().cloned().collect()
    }
}

/// Which user ids exist here: without root only one does.
#[derive(Clone, Copy, Debug)]
pub struct Users {
    only_root: bool,
}

impl Users {
    fn detect() -> Self {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let count = map
            .split_whitespace()
            .nth(2)
            .and_then(|count| count.parse::<u64>().ok());
        Self {
            only_root: count.is_some_and(|count| count == 1),
        }
    }

    /// The id to change to; none where only root exists.
    pub fn map(&self, id: Option<i64>) -> Option<u32> {
        id.filter(|_| !self.only_root).and_then(|id| u32::try_from(id).ok())
    }
}

/// `weir node --data-dir DIR`: enters the node's namespaces, then runs it with the configuration that `weir up` wrote.
/// Must be called before any thread exists.
pub fn node_main(data_dir: &Path) -> ExitCode {
    let paths = Paths::new(data_dir);
    let file = paths.node_config();
    let config = std::fs::read(&file).map_err(|error| error.to_string());
    let config = config.and_then(|text| serde_json::from_slice::<NodeConfig>(&text).map_err(|e| e.to_string()));
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            return fail(&format!(
                "{}: {error} (this command is started by weir up)",
                file.display()
            ));
        }
    };
    if let Err(error) = isolate::enter(&paths) {
        return fail(&error);
    }
    if let Err(error) = reaper::end_with_parent() {
        return fail(&error);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(run::until_signalled(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("weir node: {error}");
    ExitCode::FAILURE
}
