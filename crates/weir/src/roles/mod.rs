//! The roles: each takes its arguments, builds its configuration and runs until a signal ends it.

pub mod agent;
pub mod control;
pub mod gateway;
pub mod install;
pub mod local;
pub mod metrics;
pub mod proxy;
pub mod rules;
mod storage;
pub mod store;
pub mod zipkin;

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::Kubernetes;

/// How long a role may take to end after a signal.
const STOP_DEADLINE: Duration = Duration::from_secs(15);

/// A client by `--kubeconfig`; else, in a pod, by its service account; else by what kubectl would use.
///
/// The service account comes before a kubeconfig that happens to lie in the home directory: a role in a cluster must never
/// end up in another one.
async fn client(options: &Kubernetes) -> Result<kube::Client> {
    let context = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = match &options.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &context)
                .await
                .with_context(|| format!("kubeconfig {}", path.display()))?
        }
        None => match kube::Config::incluster() {
            Ok(config) if options.context.is_none() => config,
            _ => kube::Config::from_kubeconfig(&context).await.context(
                "no Kubernetes: neither a pod's service account nor a kubeconfig; --kubeconfig FILE names one",
            )?,
        },
    };
    kube::Client::try_from(config).context("Kubernetes client")
}

/// Runs `role` until it ends or SIGTERM or SIGINT came; then it has a deadline.
async fn until_signal<F>(role: impl FnOnce(CancellationToken) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    until_signal_then(STOP_DEADLINE, role).await
}

async fn until_signal_then<F>(deadline: Duration, role: impl FnOnce(CancellationToken) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT handler")?;
    let running = role(shutdown.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shutdown.cancel();
    tokio::time::timeout(deadline, running)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("did not stop within {} s", deadline.as_secs())))
}
