//! Wiring: everything the node starts, in order, and how it stops.

use std::io::IsTerminal;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use listenfd::ListenFd;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::apiserver_process::ApiServer;
use super::caches::Caches;
use super::events::Events;
use super::images::Images;
use super::network::{self, Addresses, NetworkError};
use super::{
    Node, NodeConfig, Paths, STARTS_MAX, Users, cni, forward, front, kubelet, manifests, reaper, register, server,
};
use crate::apiserver::pki::{Identity, Pki, PkiError, ensure_pki};
use crate::{controllers, cri, dns, services};

/// The API server, as everything on the node reaches it.
const API_URL: &str = "https://127.0.0.1:6443";
const API_SOCKET: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 6443);
/// How long the API server may take to answer first.
const API_DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks whether it answers.
const API_POLL: Duration = Duration::from_millis(20);
/// Grace of pods when the whole cluster stops.
const STOP_GRACE_SECONDS: u64 = 2;
/// How long stopping all pods may take.
const STOP_DEADLINE: Duration = Duration::from_secs(6);
/// How long the other tasks may take to end.
const TASKS_DEADLINE: Duration = Duration::from_secs(5);

/// Why the node ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the host's listeners were not handed over: {0}")]
    Listeners(String),
    #[error("network: {0}")]
    Network(#[from] NetworkError),
    #[error("certificates: {0}")]
    Pki(#[from] PkiError),
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("the API client: {0}")]
    Client(#[from] kube::Error),
    #[error("the API server does not answer: {0}")]
    NoApi(String),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
    #[error("kubelet server: {0}")]
    Tls(#[from] super::tls::TlsError),
}

/// Runs until SIGTERM or SIGINT.
pub(super) async fn until_signalled(config: NodeConfig) -> Result<(), NodeError> {
    let failed = |source| NodeError::Io {
        what: "signals",
        source,
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    run_node(config, shutdown).await
}

/// Runs the node and everything in it until `shutdown`. The process must be in the node's namespaces.
///
/// # Errors
/// When something without which there is no cluster cannot be started.
pub async fn run_node(config: NodeConfig, shutdown: CancellationToken) -> Result<(), NodeError> {
    let progress = Progress::start();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let paths = Paths::new(&config.data_dir);
    let mut inherited = Inherited(ListenFd::from_env(), 0);
    let (api_listener, metrics_listener) = (inherited.next()?, inherited.next()?);
    let forwarded = config
        .forwards
        .iter()
        .map(|_| inherited.next())
        .collect::<Result<Vec<_>, _>>()?;
    let exe = std::env::current_exe().map_err(|source| NodeError::Io {
        what: "this program's path",
        source,
    })?;
    network::set_up_node().await?;
    cni::write_base(&paths).map_err(|source| NodeError::Io {
        what: "network configuration",
        source,
    })?;
    let pki = ensure_pki(&paths.pki())?;
    let api_stop = CancellationToken::new();
    let api_server = ApiServer {
        exe: exe.clone(),
        paths: paths.clone(),
        listener: api_listener,
    };
    let api_server = tokio::spawn(api_server.supervise(api_stop.clone()));
    let reaper = tokio::spawn(reaper::reap_orphans());

    let outcome = async {
        let client = client(&pki).await?;
        wait_for_api(&client, &shutdown).await?;
        let host = format!("https://{}", config.api_address);
        pki.write_kubeconfig(Identity::Admin, &host, &paths.kubeconfig())?;
        progress.say(&format!("API server ready at {host}"));
        serve(
            &config,
            &paths,
            &pki,
            client,
            exe,
            metrics_listener,
            forwarded,
            &progress,
            &shutdown,
        )
        .await
    }
    .await;

    api_stop.cancel();
    let _ = timeout(TASKS_DEADLINE, api_server).await;
    reaper.abort();
    outcome
}

/// Everything that needs the API.
#[allow(clippy::too_many_arguments)]
async fn serve(
    config: &NodeConfig,
    paths: &Paths,
    pki: &Pki,
    client: Client,
    exe: PathBuf,
    metrics_listener: TcpListener,
    forwarded: Vec<TcpListener>,
    progress: &Progress,
    shutdown: &CancellationToken,
) -> Result<(), NodeError> {
    // Pods stop first, while everything they may need is still there; the rest afterwards.
    let rest = CancellationToken::new();
    let machine_path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into());
    let node = Arc::new(Node {
        paths: paths.clone(),
        caches: Caches::start(&client, &rest),
        events: Events::start(client.clone(), rest.clone()),
        addresses: Addresses::default(),
        images: Images::new(&exe, &config.extra_path, &machine_path),
        exe,
        users: Users::detect(),
        start_permits: Semaphore::new(STARTS_MAX),
        stopping: CancellationToken::new(),
        pods: Mutex::default(),
        client: client.clone(),
    });
    let mut tasks = JoinSet::new();
    let forwards = config.forwards.clone();
    tasks.spawn(controllers::run(client.clone(), forwards.clone(), rest.clone()));
    let (nat, names) = (client.clone(), client.clone());
    let (nat_stop, names_stop) = (rest.clone(), rest.clone());
    tasks.spawn(async move { report("services", services::run(nat, nat_stop).await) });
    tasks.spawn(async move { report("DNS", dns::run(names, names_stop).await) });
    tasks.spawn(register::run(node.clone()));
    tasks.spawn(server::run(node.clone(), server::listen(pki).await?, rest.clone()));
    tasks.spawn(cri::run(node.clone(), cri::listen(paths)?, rest.clone()));
    tasks.spawn(front::run(node.clone(), asynchronous(metrics_listener)?, rest.clone()));
    for (forward, listener) in forwards.into_iter().zip(forwarded) {
        tasks.spawn(forward::run(
            node.clone(),
            asynchronous(listener)?,
            forward,
            rest.clone(),
        ));
    }
    if !node.caches.ready().await {
        return Err(NodeError::NoApi(
            "ConfigMaps, Secrets and Services could not be listed".into(),
        ));
    }
    tasks.spawn(kubelet::run(node.clone()));
    progress.say("node ready");
    let applying = apply(&client, config, progress);
    if shutdown.run_until_cancelled(applying).await.is_some() {
        progress.say(&format!("export KUBECONFIG={}", paths.kubeconfig().display()));
        shutdown.cancelled().await;
    }
    node.stopping.cancel();
    let _ = timeout(STOP_DEADLINE, kubelet::stop_all(&node, STOP_GRACE_SECONDS)).await;
    rest.cancel();
    let _ = timeout(TASKS_DEADLINE, async { while tasks.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn apply(client: &Client, config: &NodeConfig, progress: &Progress) {
    if config.manifests.is_empty() {
        return;
    }
    let (applied, errors) = manifests::apply(client, &config.manifests).await;
    for error in &errors {
        eprintln!("weir up: {error}");
    }
    let refused = if errors.is_empty() {
        String::new()
    } else {
        format!(", {} refused", errors.len())
    };
    progress.say(&format!("{applied} objects applied{refused}"));
}

fn report<E: std::fmt::Display>(what: &str, outcome: Result<(), E>) {
    if let Err(error) = outcome {
        eprintln!("weir node: {what}: {error}");
    }
}

/// The listeners that `weir up` has bound on the host, and how many of them are taken: API server, metric store, then the
/// ports that lead to Services.
struct Inherited(ListenFd, usize);

impl Inherited {
    fn next(&mut self) -> Result<TcpListener, NodeError> {
        let index = self.1;
        self.1 += 1;
        match self.0.take_tcp_listener(index) {
            Ok(Some(listener)) => Ok(listener),
            Ok(None) => Err(NodeError::Listeners(format!("descriptor {index} is missing"))),
            Err(error) => Err(NodeError::Listeners(error.to_string())),
        }
    }
}

fn asynchronous(listener: TcpListener) -> Result<tokio::net::TcpListener, NodeError> {
    let failed = |source| NodeError::Io {
        what: "a listener of the host",
        source,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    tokio::net::TcpListener::from_std(listener).map_err(failed)
}

async fn client(pki: &Pki) -> Result<Client, NodeError> {
    let text = pki.kubeconfig(Identity::Admin, API_URL)?;
    let config = Config::from_custom_kubeconfig(Kubeconfig::from_yaml(&text)?, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn wait_for_api(client: &Client, shutdown: &CancellationToken) -> Result<(), NodeError> {
    let deadline = Instant::now() + API_DEADLINE;
    let api: Api<Namespace> = Api::all(client.clone());
    // First only knock: the client would log each refused connection as an error.
    while TcpStream::connect(API_SOCKET).await.is_err() && Instant::now() < deadline && !shutdown.is_cancelled() {
        sleep(API_POLL).await;
    }
    loop {
        // The namespace comes last in the server's own set-up.
        let error = match api.get_opt("default").await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => "namespace default is missing".to_string(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline || shutdown.is_cancelled() {
            return Err(NodeError::NoApi(error));
        }
        sleep(API_POLL).await;
    }
}

/// Lines on the terminal that say how far it is.
struct Progress {
    began: Instant,
    terminal: bool,
}

impl Progress {
    fn start() -> Self {
        Self {
            began: Instant::now(),
            terminal: std::io::stdout().is_terminal(),
        }
    }

    fn say(&self, what: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        if self.terminal {
            println!("\x1b[2m{seconds:5.1}s\x1b[0m  {what}");
        } else {
            println!("{seconds:5.1}s  {what}");
        }
    }
}
