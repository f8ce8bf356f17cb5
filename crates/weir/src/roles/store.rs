//! `weir store`: what a prometheus.yml says -> scrape -> store -> rules, PromQL; alone, without Kubernetes.
//!
//! The file is read again at SIGHUP and, where it is on, at `POST /-/reload`; one that is wrong changes nothing.

mod outgoing;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_promql::http_api::{self, Api, Obeyed, Status, allow_all};
use weir_promql::remote::write::{Sender, Tee};
use weir_promql::rules::Rules;
use weir_promql::{Engine, Options as EngineOptions};
use weir_scrape::Targets;
use weir_scrape::config::{Config, matching_files};
use weir_scrape::discover::Clusters;
use weir_series::Append;
use weir_tsdb::{Options as StoreOptions, Tsdb};

use super::{client, storage, until_signal};
use crate::args;

pub async fn run(arguments: args::Store) -> Result<()> {
    let config = Arc::new(load(&arguments.config_file)?);
    let store = Arc::new(storage::open(options(&arguments, &config), arguments.path.as_deref())?);
    let engine = Engine::new(store.clone(), EngineOptions::default());
    let targets = Targets::new();
    let senders = outgoing::senders(&config)?;
    let into: Arc<dyn Append> = match senders.is_empty() {
        true => store.clone(),
        false => Arc::new(Tee::new(store.clone(), senders.clone())),
    };
    let rules = Rules::new(outgoing::rules(&config, arguments.listen_address)).map_err(anyhow::Error::msg)?;
    let (configs, scraped) = watch::channel(config.clone());
    let reloader = Reloader {
        file: arguments.config_file.clone(),
        rules: rules.clone(),
        configs,
        started: config.clone(),
        reloading: Mutex::new(()),
        succeeded: AtomicBool::new(true),
        loaded_ms: AtomicI64::new(now_ms()),
    };
    reloader.load_rules(&config)?;
    let reloader = Arc::new(reloader);
    let listener = TcpListener::bind(arguments.listen_address)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen_address))?;
    tracing::info!(address = %arguments.listen_address, config = %arguments.config_file.display(), "serving");
    until_signal(|shutdown| async move {
        let lifecycle = arguments.enable_lifecycle.then(|| shutdown.clone());
        let receiver = arguments.enable_receiver.then(|| into.clone());
        let api = Api {
            targets: {
                let targets = targets.clone();
                Arc::new(move || targets.to_json())
            },
            metrics: figures(store.clone(), rules.clone(), senders.clone()),
            rules: Some(rules.clone()),
            receiver,
            status: status(&reloader, &arguments),
            control: control(reloader.clone(), lifecycle),
            ..Api::new(engine.clone())
        };
        let clusters = clusters(arguments.context.clone());
        let scraping = weir_scrape::run(scraped, clusters, into.clone(), targets, shutdown.clone());
        let serving = http_api::serve(listener, api, allow_all(), shutdown.clone());
        let evaluating = rules.run(engine, into, shutdown.clone());
        let sending = outgoing::run(senders, shutdown.clone());
        let maintaining = storage::maintain(store, shutdown.clone());
        let hanging_up = reload_at_hangup(reloader, shutdown);
        let (.., hung_up) = tokio::join!(scraping, serving, evaluating, sending, maintaining, hanging_up);
        hung_up
    })
    .await
}

/// The file, with variables of the environment in its external labels.
fn load(file: &Path) -> Result<Config> {
    let mut config = Config::load(file)?;
    config.expand_external_labels(|name| std::env::var(name).ok());
    Ok(config)
}

fn options(arguments: &args::Store, config: &Config) -> StoreOptions {
    StoreOptions {
        retention: config.retention.unwrap_or(arguments.retention),
        retention_bytes: config.retention_bytes.or(arguments.max_bytes),
        max_series: arguments.max_series,
        ..StoreOptions::default()
    }
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

fn figures(store: Arc<Tsdb>, rules: Rules, senders: Vec<Sender>) -> http_api::SelfMetrics {
    Arc::new(move |page| {
        store.render(page);
        rules.render(page);
        for (at, sender) in senders.iter().enumerate() {
            sender.render(page, at == 0);
        }
    })
}

/// Owner of the configuration in force.
struct Reloader {
    file: PathBuf,
    rules: Rules,
    configs: watch::Sender<Arc<Config>>,
    /// The one that the store was started with.
    started: Arc<Config>,
    /// One at a time.
    reloading: Mutex<()>,
    succeeded: AtomicBool,
    loaded_ms: AtomicI64,
}

impl Reloader {
    /// Reads the file again. What is wrong with it changes nothing.
    fn reload(&self) -> Result<()> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let reloaded = self.try_reload();
        self.succeeded.store(reloaded.is_ok(), Relaxed);
        match &reloaded {
            Ok(()) => {
                self.loaded_ms.store(now_ms(), Relaxed);
                tracing::info!("the configuration was read again");
            }
            Err(error) => tracing::error!("the configuration stays as it was: {error:#}"),
        }
        reloaded
    }

    fn try_reload(&self) -> Result<()> {
        let config = load(&self.file)?;
        self.load_rules(&config)?;
        let waiting = only_at_start(&self.started, &config);
        if !waiting.is_empty() {
            tracing::warn!("as they were until the next start: {}", waiting.join(", "));
        }
        self.configs.send_replace(Arc::new(config));
        Ok(())
    }

    fn load_rules(&self, config: &Config) -> Result<()> {
        let mut files = Vec::new();
        for file in config.rule_files.iter().flat_map(|pattern| matching_files(pattern)) {
            let text = std::fs::read_to_string(&file).with_context(|| format!("rule_files: {}", file.display()))?;
            files.push((file.display().to_string(), text));
        }
        let interval = config.global.evaluation_interval;
        self.rules.load_every(interval, &files).map_err(|problems| {
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("rule_files: {}", all.join("; "))
        })
    }
}

/// What another configuration has otherwise, and is not changed while the store runs.
fn only_at_start(started: &Config, new: &Config) -> Vec<&'static str> {
    let parts = [
        ("remote_write", started.remote_write != new.remote_write),
        ("alerting", started.alertmanagers != new.alertmanagers),
        (
            "global.external_labels",
            started.global.external_labels != new.global.external_labels,
        ),
        (
            "storage.tsdb.retention",
            (started.retention, started.retention_bytes) != (new.retention, new.retention_bytes),
        ),
    ];
    parts
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
}

/// `POST /-/reload` and `/-/quit`, where they are on: `lifecycle` then ends the process.
fn control(reloader: Arc<Reloader>, lifecycle: Option<CancellationToken>) -> http_api::Control {
    Arc::new(move |order: &str| match (order, &lifecycle) {
        ("reload" | "quit", None) => Obeyed::Off,
        ("reload", Some(_)) => match reloader.reload() {
            Ok(()) => Obeyed::Done,
            Err(error) => Obeyed::Failed(format!("failed to reload config: {error:#}")),
        },
        ("quit", Some(shutdown)) => {
            shutdown.cancel();
            Obeyed::Done
        }
        _ => Obeyed::Unknown,
    })
}

fn status(reloader: &Arc<Reloader>, arguments: &args::Store) -> Status {
    let (of_config, of_runtime) = (reloader.clone(), reloader.clone());
    // The one in force, which the file has the last word on.
    let retention = reloader.started.retention.unwrap_or(arguments.retention);
    let retention = weir_scrape::config::units::duration_text(retention);
    let flags = [
        ("config.file", arguments.config_file.display().to_string()),
        ("web.listen-address", arguments.listen_address.to_string()),
        ("web.enable-lifecycle", arguments.enable_lifecycle.to_string()),
        (
            "web.enable-remote-write-receiver",
            arguments.enable_receiver.to_string(),
        ),
        (
            "storage.tsdb.path",
            arguments
                .path
                .as_ref()
                .map_or(String::new(), |p| p.display().to_string()),
        ),
        ("storage.tsdb.retention.time", retention.clone()),
    ];
    Status {
        config: Arc::new(move || of_config.configs.borrow().text.clone()),
        flags: flags.map(|(name, value)| (name.to_owned(), value)).into(),
        runtime: Arc::new(move || {
            serde_json::json!({
                "storageRetention": retention,
                "reloadConfigSuccess": of_runtime.succeeded.load(Relaxed),
                "lastConfigTime": jiff::Timestamp::from_millisecond(of_runtime.loaded_ms.load(Relaxed)).unwrap_or_default().to_string(),
            })
        }),
        ..Status::default()
    }
}

async fn reload_at_hangup(reloader: Arc<Reloader>, shutdown: CancellationToken) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP handler")?;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = hangup.recv() => {}
        }
        // It reads files and waits for evaluations. What went wrong is in the log.
        let reloader = reloader.clone();
        let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_next_start_is_named() {
        let config = |text: &str| match Config::parse(text, std::path::Path::new("/etc")) {
            Ok(config) => config,
            Err(error) => panic!("{text}: {error}"),
        };
        let started = config("");
        for (text, waiting) in [
            ("global: {evaluation_interval: 5s}", ""),
            ("storage: {tsdb: {retention: {time: 5d}}}", "storage.tsdb.retention"),
            ("storage: {tsdb: {retention: {size: 1GB}}}", "storage.tsdb.retention"),
            ("global: {external_labels: {a: b}}", "global.external_labels"),
            ("remote_write: [{url: 'http://x/'}]", "remote_write"),
            (
                "alerting: {alertmanagers: [{static_configs: [{targets: ['a:9093']}]}]}",
                "alerting",
            ),
        ] {
            assert_eq!(only_at_start(&started, &config(text)).join(", "), waiting, "{text}");
        }
    }
}
