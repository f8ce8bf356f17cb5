//! The Envoy supervisor: stands beside a pod in the place of Weir's proxy and makes stock Envoy behave like it.
//!
//! ```text
//! control plane ◀─TLS, token─ relay ◀─┐               ┌─▶ admin.sock, :8900 /ready /stats/prometheus
//!          kept on disk ◀──────┘      ├ one socket ◀─ Envoy (child)
//! :8900/metrics ◀─ recorder ◀─ logs ◀─┘
//! ```
//!
//! Enters: the bootstrap that would start Weir's proxy. Leaves: a running Envoy, configured by the same control plane,
//! and the canonical series from its access logs. Of what the configuration says it understands only which series follow
//! from it.

mod bootstrap;
mod cache;
mod child;
mod destinations;
mod entries;
mod logs;
mod page;
mod relay;
mod sources;
mod upstream;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::AccessLogServiceServer;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use weir_series::canonical::Recorder;

use bootstrap::{Admin, Bootstrap};
use cache::Cache;
use child::Child;
use destinations::Measured;
use entries::Entries;
use logs::Logs;
use page::Pages;
use relay::Relay;
use sources::Sources;

/// Longest message of the control plane or of Envoy, bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How the supervisor runs.
#[derive(Clone, Debug)]
pub struct EnvoyConfig {
    /// The bootstrap file, in Envoy's format: node, admin, static resources, `ads_config` with `google_grpc`.
    pub bootstrap: PathBuf,
    /// Where `/metrics`, `/stats/prometheus` and `/ready` are served.
    pub metrics_address: Option<SocketAddr>,
    /// Directory for Envoy's own bootstrap, its sockets and the configuration kept for its next start.
    pub state_dir: PathBuf,
    /// How long the last connections may take after shutdown was asked for.
    pub drain: Duration,
    /// The `envoy` program.
    pub envoy: OsString,
}

/// Why the supervisor cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bootstrap is of no use.
    #[error("{0}")]
    Bootstrap(#[from] bootstrap::Error),
    /// A file or socket cannot be made.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// Envoy cannot be started.
    #[error("cannot start {0}: {1}")]
    Envoy(String, std::io::Error),
}

/// Runs Envoy and all that it needs until shutdown, then drains it.
pub async fn run(config: EnvoyConfig, shutdown: CancellationToken) -> Result<(), Error> {
    let bootstrap = Bootstrap::read(&config.bootstrap)?;
    let state = |name: &str| config.state_dir.join(name);
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |error| Error::Io(path, error)
    };
    std::fs::create_dir_all(&config.state_dir).map_err(io(&config.state_dir))?;
    let (socket, envoy_admin, envoy_bootstrap) = (state("supervisor.sock"), state("envoy.sock"), state("envoy.json"));
    let text = bootstrap.for_envoy(&envoy_admin, &socket).to_string();
    crate::supervise::write(&envoy_bootstrap, text.as_bytes()).map_err(io(&envoy_bootstrap))?;

    let recorder = Recorder::new(1);
    let measured = Measured::new(recorder.clone());
    let entries = Arc::new(Entries::new(measured.clone(), bootstrap.host_ip));
    let relay = Relay::new(bootstrap.control.clone(), Cache::open(state("xds.pb")));
    let sources = Sources::new(bootstrap.control.clone(), node(&bootstrap));
    let pages = Arc::new(Pages {
        recorder,
        relay: relay.clone(),
        envoy_admin: envoy_admin.clone(),
    });

    let listener = bind_unix(&socket).map_err(io(&socket))?;
    let logs = Logs {
        entries: entries.clone(),
        sources: sources.clone(),
    };
    let services = tonic::transport::Server::builder()
        .add_service(
            AggregatedDiscoveryServiceServer::new(relay::Service(relay.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(AccessLogServiceServer::new(logs).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming(UnixListenerStream::new(listener));
    let mut beside = tokio::task::JoinSet::new();
    beside.spawn(async move {
        if let Err(error) = services.await {
            tracing::error!(%error, "supervisor socket");
        }
    });
    if let Some(address) = config.metrics_address {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| Error::Io(address.to_string(), e))?;
        beside.spawn(pages.clone().serve_tcp(listener));
    }
    match &bootstrap.admin {
        Some(Admin::Pipe(path)) => {
            let listener = bind_unix(path).map_err(io(path))?;
            beside.spawn(pages.serve_unix(listener));
        }
        Some(Admin::Tcp(address)) => {
            let listener = TcpListener::bind(address)
                .await
                .map_err(|e| Error::Io(address.to_string(), e))?;
            beside.spawn(pages.serve_tcp(listener));
        }
        None => {}
    }
    beside.spawn({
        let relay = relay.clone();
        async move { relay.keep().await }
    });
    beside.spawn({
        let (measured, relay) = (measured.clone(), relay.clone());
        async move { measured.follow(&relay).await }
    });
    beside.spawn({
        let sources = sources.clone();
        async move { measured.sweep(&sources).await }
    });
    beside.spawn(async move { sources.run().await });

    let child = Child {
        envoy: config.envoy,
        bootstrap: envoy_bootstrap,
        admin: envoy_admin,
        drain: config.drain,
    };
    let outcome = child
        .run(&shutdown, || relay.fresh_envoy(), || entries.envoy_ended())
        .await;
    // The tasks beside end with the set.
    drop(beside);
    outcome.map_err(|error| Error::Envoy(child.envoy.to_string_lossy().into_owned(), error))
}

fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// This proxy, as the control plane is told.
fn node(bootstrap: &Bootstrap) -> Node {
    Node {
        id: bootstrap.node_id().to_owned(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
