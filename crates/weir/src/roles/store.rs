//! `weir store`: what a prometheus.yml says -> scrape -> store -> PromQL, alone, without Kubernetes.
//!
//! The file is read again at SIGHUP; one that is wrong changes nothing but the log.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_promql::http_api::{self, Api, allow_all};
use weir_promql::{Engine, Options as EngineOptions};
use weir_scrape::Targets;
use weir_scrape::config::Config;
use weir_scrape::discover::Clusters;
use weir_tsdb::{Options as StoreOptions, Tsdb};

use super::{client, until_signal};
use crate::args;

/// How often the store drops what is older than its retention.
const MAINTENANCE: Duration = Duration::from_secs(30);

pub async fn run(arguments: args::Store) -> Result<()> {
    let config = Arc::new(Config::load(&arguments.config_file)?);
    let (configs, scraped) = watch::channel(config);
    let store = Arc::new(Tsdb::new(StoreOptions {
        retention: arguments.retention,
        max_series: arguments.max_series,
        ..StoreOptions::default()
    }));
    let engine = Engine::new(store.clone(), EngineOptions::default());
    let targets = Targets::new();
    let listener = TcpListener::bind(arguments.listen_address)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen_address))?;
    tracing::info!(address = %arguments.listen_address, config = %arguments.config_file.display(), "serving");
    until_signal(|shutdown| async move {
        let api = Api {
            targets: {
                let targets = targets.clone();
                Arc::new(move || targets.to_json("any", ""))
            },
            metrics: {
                let store = store.clone();
                Arc::new(move |out| store.render(out))
            },
            ..Api::new(engine)
        };
        let clusters = clusters(arguments.context.clone());
        let scraping = weir_scrape::run(scraped, clusters, store.clone(), targets, shutdown.clone());
        let serving = http_api::serve(listener, api, allow_all(), shutdown.clone());
        let reloading = reload(arguments, configs, shutdown.clone());
        let ((), (), (), reloaded) = tokio::join!(scraping, serving, maintain(store, shutdown), reloading);
        reloaded
    })
    .await
}

/// Clients for `kubernetes_sd_configs`, made when the first one is asked for.
fn clusters(cluster: Option<String>) -> Clusters {
    Arc::new(move |kubeconfig| {
        let options = args::Kubernetes {
            kubeconfig,
            context: cluster.clone(),
        };
        Box::pin(async move { client(&options).await.map_err(|error| format!("{error:#}")) })
    })
}

/// Reads the file again whenever SIGHUP comes.
async fn reload(
    arguments: args::Store,
    configs: watch::Sender<Arc<Config>>,
    shutdown: CancellationToken,
) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP handler")?;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = hangup.recv() => {}
        }
        match Config::load(&arguments.config_file) {
            Ok(config) => {
                tracing::info!("the configuration was read again");
                configs.send_replace(Arc::new(config));
            }
            Err(error) => tracing::error!(%error, "the configuration stays as it was"),
        }
    }
}

async fn maintain(store: Arc<Tsdb>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(MAINTENANCE);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        store.maintain(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    }
}
