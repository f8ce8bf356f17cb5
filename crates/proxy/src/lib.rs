//! The data plane: one proxy process.
//!
//! ```text
//!  main thread:   xDS client ─▶ publish ─▶ Active (swapped)     admin, metrics
//!                                             │
//!  worker thread: accept ─▶ flow ─▶ inspect ─▶ http ─▶ route ─▶ balance ─▶ pool ─▶ endpoint
//!                                          └─▶ tcp ───────────▶ balance ─────────▶ endpoint
//! ```
//!
//! Enters: a bootstrap file, xDS resources, connections. Leaves: forwarded traffic and canonical series. It knows no
//! Kubernetes API, reads no environment, and only `config` reads xDS messages.

pub mod config;

mod access_log;
mod admin;
mod balance;
mod buffers;
mod envoy_page;
mod flow;
#[doc(hidden)]
pub mod fuzz;
mod hex;
mod http;
mod inspect;
mod metrics;
mod page;
mod peers;
mod publish;
mod random;
mod shared;
mod socket;
mod tcp;
mod timers;
mod trace;
mod wire;
mod worker;

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weir_series::canonical::Recorder;
use weir_xds::client;

use config::bootstrap::{AdminAddress, Ads, Bootstrap, BootstrapError, Node};
use config::cache::Cache;
use config::decode::Rejection;
use publish::Publisher;
use shared::Shared;

/// Sockets of the proxy itself carry this mark, so that the pod's redirection leaves them alone.
pub const SOCKET_MARK: u32 = 1337;
/// A draining proxy ends when no connection is open and none came for this long.
const QUIET: Duration = Duration::from_secs(1);
/// How often a draining proxy looks whether it may end.
const DRAIN_TICK: Duration = Duration::from_millis(50);
/// Connections get this long to end once the drain time is over.
const CLOSE_TIME: Duration = Duration::from_millis(1500);
/// The last spans get this long to be sent.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// The last lines of access logs get this long to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How to run a proxy.
#[derive(Debug, Clone)]
pub struct Config {
    /// The bootstrap file (YAML or JSON, Envoy's format).
    pub bootstrap: PathBuf,
    /// Where `/metrics`, `/stats/prometheus` and `/ready` are served; `None`: nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// Where the last good configuration is kept; `None`: it is not kept.
    pub state_dir: Option<PathBuf>,
    /// How long open connections may last once the proxy is told to end.
    pub drain: Duration,
    /// Threads that serve connections, at least 1.
    pub workers: usize,
    /// Record the canonical series; without it their page has none.
    pub record: bool,
    /// Where access logs are written; `None`: standard output.
    pub access_log: Option<Arc<File>>,
}

/// Why a proxy does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bootstrap file cannot be read.
    #[error("bootstrap {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// The bootstrap file is wrong.
    #[error("bootstrap {0}: {1}")]
    Bootstrap(PathBuf, BootstrapError),
    /// A resource in the bootstrap file is wrong.
    #[error("bootstrap {0}: {1}: {2}")]
    Resource(PathBuf, String, Rejection),
    /// An administration address cannot be used.
    #[error("cannot listen on {0}: {1}")]
    Listen(String, std::io::Error),
    /// A worker thread cannot be started.
    #[error("no worker thread: {0}")]
    Worker(std::io::Error),
    /// A worker thread has ended although nobody asked it to.
    #[error("a worker thread ended unexpectedly")]
    WorkerEnded,
}

/// Runs a proxy until `shutdown` is cancelled and its connections are drained. The caller's runtime serves administration
/// and the control plane; traffic has threads of its own.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let text = std::fs::read_to_string(&config.bootstrap).map_err(|e| Error::Read(config.bootstrap.clone(), e))?;
    let mut bootstrap = Bootstrap::parse(&text).map_err(|e| Error::Bootstrap(config.bootstrap.clone(), e))?;
    drop(text);
    let recorder = match config.record {
        true => Recorder::new(config.workers.max(1)),
        false => Recorder::silent(),
    };
    let shared = Shared::new(bootstrap.node.host_ip(), recorder);
    if let Some(out) = &config.access_log {
        shared.access_log.redirect(Arc::clone(out));
    }
    let cache = match (&config.state_dir, &bootstrap.ads) {
        (Some(directory), Some(_)) => Some(Cache::new(directory.clone(), bootstrap.node.id.clone())),
        _ => None,
    };
    let publisher = Publisher::new(&bootstrap, cache, Arc::clone(&shared))
        .map_err(|(what, why)| Error::Resource(config.bootstrap.clone(), what, why))?;
    // They are decoded, and may be many.
    bootstrap.resources = Vec::new();
    let quit = Arc::new(Notify::new());
    let admin = admin::Admin {
        shared: Arc::clone(&shared),
        publisher: publisher.clone(),
        quit: Arc::clone(&quit),
    };
    let mut tasks = tokio::task::JoinSet::new();
    serve_admin(&config, &bootstrap, &admin, &mut tasks).await?;
    publisher.publish();
    let ended = Arc::new(tokio::sync::Notify::new());
    let workers = start_workers(config.workers.max(1), &shared, &ended)?;
    {
        let publisher = publisher.clone();
        tasks.spawn(async move { publisher.run().await });
    }
    if let Some(ads) = bootstrap.ads.clone() {
        let (mut publisher, shared) = (publisher.clone(), Arc::clone(&shared));
        let config = client_config(ads, &bootstrap.node);
        tasks.spawn(async move {
            let known = publisher.known();
            client::run(config, &mut publisher, known, &shared.peers.added).await;
        });
    }
    let told = CancellationToken::new();
    let teller = trace::Teller {
        service: bootstrap.node.service(),
        node: bootstrap.node.id.clone(),
    };
    let exporting = tokio::spawn(trace::run(Arc::clone(&shared), teller, told.clone()));
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = quit.notified() => {}
        // Whoever watches this process starts another, which serves with all its workers.
        () = ended.notified() => return Err(Error::WorkerEnded),
    }
    drain(&shared, config.drain).await;
    shared.life.stopped.cancel();
    for worker in workers {
        // The thread ends by itself: its only wait was just cancelled.
        let _ = tokio::task::spawn_blocking(move || worker.join()).await;
    }
    told.cancel();
    if tokio::time::timeout(LAST_SPANS, exporting).await.is_err() {
        tracing::warn!("the last spans could not be sent in time");
    }
    if !shared.access_log.flush(LAST_LINES).await {
        tracing::warn!("the last lines of access logs could not be written in time");
    }
    if let Some(AdminAddress::Pipe(path)) = &bootstrap.admin {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

async fn serve_admin(
    config: &Config,
    bootstrap: &Bootstrap,
    admin: &admin::Admin,
    tasks: &mut tokio::task::JoinSet<()>,
) -> Result<(), Error> {
    if let Some(address) = config.metrics_address {
        // A successor may start while this process still drains: both may have the address.
        let socket = socket::listen(address).map_err(|e| Error::Listen(address.to_string(), e))?;
        tasks.spawn(admin::serve_public(admin.clone(), socket));
    }
    match &bootstrap.admin {
        Some(AdminAddress::Pipe(path)) => {
            let socket = admin::bind_pipe(path).map_err(|e| Error::Listen(path.display().to_string(), e))?;
            tasks.spawn(admin::serve_pipe(admin.clone(), socket));
        }
        Some(AdminAddress::Tcp(address)) => {
            let socket = TcpListener::bind(address)
                .await
                .map_err(|e| Error::Listen(address.to_string(), e))?;
            tasks.spawn(admin::serve_private(admin.clone(), socket));
        }
        None => {}
    }
    Ok(())
}

/// Tells when a thread ends, however it does.
struct Ending(Arc<tokio::sync::Notify>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn start_workers(
    count: usize,
    shared: &Arc<Shared>,
    ended: &Arc<tokio::sync::Notify>,
) -> Result<Vec<JoinHandle<()>>, Error> {
    let start = |index: usize| {
        let (shared, ending) = (Arc::clone(shared), Ending(Arc::clone(ended)));
        let run = move || {
            let _ending = ending;
            if let Err(error) = worker::run(shared, index) {
                tracing::error!(%error, "a worker ended");
            }
        };
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(run)
            .map_err(Error::Worker)
    };
    (0..count).map(start).collect()
}

/// Lets connections end by themselves, then asks them to, for as long as `limit` at most.
async fn drain(shared: &Shared, limit: Duration) {
    shared.life.drain();
    let end = tokio::time::Instant::now() + limit;
    let begin = tokio::time::Instant::now();
    loop {
        let now = tokio::time::Instant::now();
        let open = shared.connections.load(std::sync::atomic::Ordering::Relaxed);
        let quiet = now - begin >= QUIET && u128::from(shared.life.quiet_ms()) >= QUIET.as_millis();
        if now >= end || (open == 0 && quiet) {
            break;
        }
        tokio::time::sleep(DRAIN_TICK).await;
    }
    shared.life.close();
    let end = tokio::time::Instant::now() + CLOSE_TIME;
    while shared.connections.load(std::sync::atomic::Ordering::Relaxed) > 0 && tokio::time::Instant::now() < end {
        tokio::time::sleep(DRAIN_TICK).await;
    }
}

fn client_config(ads: Ads, node: &Node) -> client::Config {
    client::Config {
        target: ads.target,
        tls: ads.tls.map(|tls| client::Tls {
            ca_file: tls.ca_file,
            server_name: tls.server_name,
        }),
        token: ads.token.map(|t| client::Token {
            file: t.file,
            header: t.header,
            prefix: t.prefix,
        }),
        mark: Some(SOCKET_MARK),
        node: config::node_message(node),
        state_of_the_world: ads.state_of_the_world,
    }
}
