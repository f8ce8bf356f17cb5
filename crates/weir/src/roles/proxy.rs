//! `weir proxy`, and `weir envoy-supervisor`, which stands in its place when a pod's engine is Envoy.

use std::time::Duration;

use anyhow::{Context, Result};

use super::until_signal_then;
use crate::args;

/// When a proxy is done with its start: a small configuration comes within a second, a large one within ten.
const SETTLED: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];
/// Beyond the drain time, for the last connections to be closed.
pub const STOP_MARGIN: Duration = Duration::from_secs(10);

pub async fn run(arguments: args::Proxy) -> Result<()> {
    let drain = Duration::from_secs(arguments.drain_seconds);
    let config = weir_proxy::Config {
        bootstrap: arguments.config_path,
        metrics_address: Some(arguments.metrics_address),
        state_dir: arguments.state_dir,
        drain,
        workers: arguments.workers,
        record: !arguments.no_metrics,
        access_log: None,
    };
    until_signal_then(drain + STOP_MARGIN, |shutdown| async move {
        tokio::select! {
            ended = weir_proxy::run(config, shutdown) => ended.context("proxy"),
            () = settle() => unreachable!("it never ends"),
        }
    })
    .await
}

/// Gives back, once the start is over, what only the start needed. Never ends.
async fn settle() {
    for wait in SETTLED {
        tokio::time::sleep(wait).await;
        if let Err(error) = weir_agent::release_program_text() {
            tracing::debug!(%error, "the program's pages stay");
        }
    }
    std::future::pending().await
}

pub async fn supervise(arguments: args::EnvoySupervisor) -> Result<()> {
    let args::EnvoySupervisor { proxy, envoy } = arguments;
    let drain = Duration::from_secs(proxy.drain_seconds);
    let config = weir_agent::envoy::EnvoyConfig {
        state_dir: match proxy.state_dir {
            Some(dir) => dir,
            None => proxy.config_path.with_extension("state"),
        },
        bootstrap: proxy.config_path,
        metrics_address: Some(proxy.metrics_address),
        drain,
        envoy: envoy.into_os_string(),
    };
    until_signal_then(drain + STOP_MARGIN, |shutdown| async move {
        weir_agent::envoy::run(config, shutdown)
            .await
            .context("Envoy supervisor")
    })
    .await
}
