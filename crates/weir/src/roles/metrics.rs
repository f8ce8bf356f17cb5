//! `weir metrics`: scrape -> store -> PromQL -> the Kubernetes metric APIs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use tokio::net::TcpListener;
use weir_api::labels;
use weir_api::mesh_status::ScrapeTarget;
use weir_metrics_api::access::StoreAccess;
use weir_metrics_api::{WINDOW_DEFAULT, aggregated, scrape_status};
use weir_promql::http_api::{self, Access, Api, Authorize};
use weir_promql::{Engine, Options as EngineOptions};
use weir_scrape::config::Job;
use weir_scrape::discover::{self, kubernetes};
use weir_scrape::{Health, TargetStatus, Targets};
use weir_series::names;
use weir_tsdb::{Options as StoreOptions, Tsdb};

use super::{client, storage, until_signal};
use crate::args;

/// The port at which every proxy shows its series.
const PROXY_METRICS_PORT: u16 = 8900;

pub async fn run(arguments: args::Metrics) -> Result<()> {
    let client = client(&arguments.kubernetes).await?;
    let retention = Duration::from_secs(arguments.retention_seconds);
    let store = Arc::new(Tsdb::new(StoreOptions {
        retention,
        ..StoreOptions::default()
    }));
    let engine = Engine::new(store.clone(), EngineOptions::default());
    let targets = Targets::new();
    let interval = Duration::from_secs(arguments.scrape_interval_seconds.max(1));
    let scrape = Job {
        interval,
        timeout: interval.mul_f64(0.8),
        exact: true,
        ..Job::named(names::JOB_PROXIES)
    };
    let discovery = kubernetes::Config {
        annotation: labels::PROXY.to_owned(),
        label: labels::GATEWAY.to_owned(),
        port: PROXY_METRICS_PORT,
        path: "/metrics".to_owned(),
        job: names::JOB_PROXIES.to_owned(),
    };
    let service = format!("weir-metrics.{}.svc", arguments.namespace);
    let api_server = weir_metrics_api::Config {
        aggregated: aggregated::Config {
            address: arguments.api_address,
            serving: aggregated::Serving::SelfSigned {
                names: vec![service, "localhost".to_owned()],
            },
            api_services: vec![
                "v1alpha1.metrics.smi-spec.io".to_owned(),
                "v1alpha1.metrics.weir.dev".to_owned(),
            ],
        },
        window: WINDOW_DEFAULT,
    };
    let listener = TcpListener::bind(arguments.store_address)
        .await
        .with_context(|| format!("cannot listen on {} (store)", arguments.store_address))?;
    until_signal(|shutdown| async move {
        let (found, discovered) = discover::channel();
        let discovering = kubernetes::run(client.clone(), discovery, found, shutdown.clone());
        let for_prometheus = discovered.clone();
        let scraping = weir_scrape::run_job(scrape, discovered, store.clone(), targets.clone(), shutdown.clone());
        let scraped: scrape_status::Targets = {
            let targets = targets.clone();
            Arc::new(move || targets.snapshot().into_iter().map(scrape_target).collect())
        };
        let api = Api {
            targets: Arc::new(move || targets.to_json()),
            discovered: Arc::new(move || service_discovery(&for_prometheus.borrow())),
            metrics: {
                let store = store.clone();
                Arc::new(move |out| store.render(out))
            },
            ..Api::new(engine.clone())
        };
        let serving = http_api::serve(listener, api, authorize(client.clone()), shutdown.clone());
        let answering = weir_metrics_api::run(api_server, client, Arc::new(engine), scraped, shutdown.clone());
        let maintaining = storage::maintain(store, shutdown);
        let ((), (), (), (), answered) = tokio::join!(discovering, scraping, serving, maintaining, answering);
        answered.context("metric APIs")
    })
    .await
}

/// A scraped page as an object of the API group `metrics.weir.dev`.
fn scrape_target(status: TargetStatus) -> ScrapeTarget {
    let label = |name: &str| Some(status.labels.get(name).to_owned()).filter(|v| !v.is_empty());
    let health = match status.health {
        Health::Unknown => "unknown",
        Health::Up => "up",
        Health::Down => "down",
    };
    ScrapeTarget {
        metadata: ObjectMeta {
            namespace: label(names::NAMESPACE),
            name: label(names::POD),
            ..ObjectMeta::default()
        },
        url: status.url,
        health: health.to_owned(),
        error: status.last_error,
        warning: status.last_warning,
        ..ScrapeTarget::default()
    }
}

/// The targets in the format of Prometheus's HTTP discovery, with the labels of our own scraper.
fn service_discovery(targets: &[weir_scrape::Target]) -> Value {
    targets
        .iter()
        .map(|target| {
            let labels: serde_json::Map<String, Value> = target
                .labels
                .iter()
                .filter(|label| *label.name != *names::JOB && *label.name != *names::INSTANCE)
                .map(|label| (label.name.to_string(), label.value.to_string().into()))
                .collect();
            serde_json::json!({"targets": [target.address], "labels": labels})
        })
        .collect()
}

/// Whoever the Kubernetes API lets `get` the path `/api/v1` may read the store.
fn authorize(client: kube::Client) -> Authorize {
    let access = Arc::new(StoreAccess::new(client));
    Arc::new(move |token| {
        let access = access.clone();
        Box::pin(async move {
            let header = token.map(|token| format!("Bearer {token}"));
            match access.check(header.as_deref()).await {
                Ok(()) => Access::Allow,
                Err(status) if status.code == 403 => Access::Forbidden(status.message),
                Err(status) => Access::Unauthenticated(status.message),
            }
        })
    })
}
