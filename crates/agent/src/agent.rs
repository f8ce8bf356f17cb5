//! The agent role: wires caches, pods' tasks, CNI and the control plane's address together.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Client;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, ControlNames};
use crate::cni::install::CniConfig;
use crate::cni::{install, server};
use crate::pods::Pods;
use crate::sandbox::Runtime;
use crate::supervise::{self, Launch, Shared};
use crate::watch::Stores;

/// Work against API server and container runtime at a time.
const CALLS_MAX: usize = 8;
/// Changes that come within this time are looked at together.
const SETTLE: Duration = Duration::from_millis(10);
/// Everything is compared at least this often.
const RECONCILE: Duration = Duration::from_secs(5);
/// How often the control plane's address and certificate are read, before and after they are known.
const FACTS_UNKNOWN: Duration = Duration::from_millis(500);
const FACTS_KNOWN: Duration = Duration::from_secs(20);

/// How the agent runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node whose pods are worked on.
    pub node_name: String,
    /// The node's own address, from which its kubelet probes; asked of the API server when `None`.
    pub host_ip: Option<IpAddr>,
    /// Directory of everything that outlives the agent, and of its socket.
    pub run_dir: PathBuf,
    /// The container runtime's CRI socket.
    pub cri_socket: PathBuf,
    /// Where the CNI plugin goes; `None`: it is not installed.
    pub cni: Option<CniConfig>,
    /// The program that has the roles `proxy` and `envoy-supervisor`, and that is the CNI plugin when it is called so.
    pub exe: PathBuf,
    /// The `envoy` program.
    pub envoy: OsString,
    /// Where a proxy serves its metrics, inside its pod.
    pub metrics_address: String,
    /// How long a proxy that is taken down may wait for its last connections.
    pub drain: Duration,
    /// Where the control plane is published.
    pub control: ControlNames,
    /// Where the host's control group hierarchy is mounted.
    pub cgroup_root: PathBuf,
}

impl Config {
    /// The defaults, for a node and a program.
    pub fn new(node_name: impl Into<String>, exe: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.into(),
            host_ip: None,
            run_dir: "/run/weir".into(),
            cri_socket: "/run/containerd/containerd.sock".into(),
            cni: Some(CniConfig::default()),
            exe: exe.into(),
            envoy: "envoy".into(),
            metrics_address: "0.0.0.0:8900".into(),
            drain: Duration::from_secs(30),
            control: ControlNames::default(),
            cgroup_root: "/sys/fs/cgroup".into(),
        }
    }
}

/// Whether the agent is ready: its caches are filled and its socket answers. Cheap to clone and to ask.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// Whether it is.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its directory cannot be made.
    #[error("{0}: {1}")]
    Directory(PathBuf, std::io::Error),
    /// Its socket cannot be bound.
    #[error("agent socket {0}: {1}")]
    Socket(PathBuf, std::io::Error),
}

/// Runs the agent until shutdown. Proxies and redirection stay; the next agent takes them over.
pub async fn run(config: Config, client: Client, health: Health, shutdown: CancellationToken) -> Result<(), Error> {
    let proxies = config.run_dir.join("proxies");
    std::fs::create_dir_all(&proxies).map_err(|e| Error::Directory(proxies, e))?;
    let (control, control_known) = watch::channel(None);
    let (host_ip, host_ip_known) = watch::channel(config.host_ip);
    let shared = Arc::new(Shared {
        run_dir: config.run_dir.clone(),
        launch: Launch {
            exe: config.exe.clone(),
            envoy: config.envoy,
            metrics_address: config.metrics_address,
            drain: config.drain,
        },
        cgroup: supervise::detect_cgroup(&config.cgroup_root),
        cluster: Cluster::new(client.clone(), config.node_name.clone(), config.control),
        runtime: Runtime::new(&config.cri_socket),
        control: control_known,
        host_ip: host_ip_known,
        calls: Semaphore::new(CALLS_MAX),
    });
    let pods = Pods::adopt(shared.clone(), shutdown.clone());
    tokio::spawn(learn(shared, control, host_ip, shutdown.clone()));

    let changed = Arc::new(Notify::new());
    let stores = Arc::new(Stores::start(&client, &config.node_name, &changed, &shutdown));
    let socket = config.run_dir.join("agent.sock");
    let listener = server::bind(&socket).map_err(|e| Error::Socket(socket.clone(), e))?;
    tokio::spawn(server::serve(listener, pods.clone(), stores.clone(), shutdown.clone()));
    if let Some(cni) = config.cni {
        tokio::spawn(install::keep(cni, config.exe, socket, shutdown.clone()));
    }
    tokio::select! {
        () = stores.ready() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    health.0.store(true, Ordering::Relaxed);
    tracing::info!(node = config.node_name, "the agent knows its node's pods");
    loop {
        pods.reconcile(&stores);
        let woken = async {
            let _ = tokio::time::timeout(RECONCILE, changed.notified()).await;
            tokio::time::sleep(SETTLE).await;
        };
        tokio::select! {
            () = woken => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Keeps the control plane's address and certificate, and the node's address, up to date; what was known stays while
/// the API server is away.
async fn learn(
    shared: Arc<Shared>,
    control: watch::Sender<Option<supervise::ControlPlane>>,
    host_ip: watch::Sender<Option<IpAddr>>,
    shutdown: CancellationToken,
) {
    loop {
        if host_ip.borrow().is_none() {
            match shared.cluster.host_ip().await {
                Ok(address) => drop(host_ip.send_replace(Some(address))),
                Err(error) => tracing::debug!(%error, "the node's address is not known yet"),
            }
        }
        match shared.cluster.control_plane().await {
            Ok(now) => {
                control.send_if_modified(|known| {
                    let differs = known.as_ref() != Some(&now);
                    if differs {
                        tracing::info!(target = now.target, "the control plane's address");
                        *known = Some(now);
                    }
                    differs
                });
            }
            Err(error) => tracing::debug!(%error, "the control plane is not known"),
        }
        let known = control.borrow().is_some() && host_ip.borrow().is_some();
        tokio::select! {
            () = tokio::time::sleep(if known { FACTS_KNOWN } else { FACTS_UNKNOWN }) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
