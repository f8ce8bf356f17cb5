//! `weir metrics`: scrape -> store -> PromQL -> the Kubernetes metric APIs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use tokio::net::TcpListener;
use weir_api::labels;
use weir_api::mesh_status::ScrapeTarget;
use weir_api::status::Status;
use weir_metrics_api::access::{Seen, StoreAccess};
use weir_metrics_api::query::Metrics;
use weir_metrics_api::{WINDOW_DEFAULT, aggregated, scrape_status};
use weir_promql::http_api::{self, Access, Api, Authorize};
use weir_promql::remote::http::{Credentials, Secret, Settings};
use weir_promql::remote::{Limits, Remote, Route, Upstream};
use weir_promql::rules::Alertmanager;
use weir_promql::{Engine, Options as EngineOptions};
use weir_scrape::config::Job;
use weir_scrape::discover::{self, kubernetes};
use weir_scrape::{Health, TargetStatus, Targets};
use weir_series::{Select, names};
use weir_tls::{ClientTls, Pem};
use weir_tsdb::{Options as StoreOptions, Tsdb};

use super::{client, rules, storage, until_signal};
use crate::args::{self, MetricsBackend};

/// The port at which every proxy shows its series.
const PROXY_METRICS_PORT: u16 = 8900;
/// How long an Alertmanager may take.
const ALERT_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn run(arguments: args::Metrics) -> Result<()> {
    let client = client(&arguments.kubernetes).await?;
    let retention = Duration::from_secs(arguments.retention_seconds);
    let limits = StoreOptions {
        retention,
        retention_bytes: arguments.max_bytes,
        max_series: arguments.max_series,
        ..StoreOptions::default()
    };
    let store = Arc::new(storage::open(limits, arguments.path.as_deref())?);
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
    let rules = rules::load(
        weir_promql::rules::Config {
            external_url: format!("http://weir-metrics.{}.svc:9090", arguments.namespace),
            alertmanagers: arguments
                .alertmanager_urls
                .iter()
                .map(|url| alertmanager(url))
                .collect(),
            ..Default::default()
        },
        &arguments.rule_files,
    )?;
    let listener = TcpListener::bind(arguments.store_address)
        .await
        .with_context(|| format!("cannot listen on {} (store)", arguments.store_address))?;
    until_signal(|shutdown| async move {
        let (found, discovered) = discover::channel();
        let discovering = kubernetes::run(client.clone(), discovery, found, shutdown.clone());
        let for_prometheus = discovered.clone();
        // Where other servers give the figures, they scrape too.
        let embedded = arguments.backend.metrics_backend == MetricsBackend::Embedded;
        let scraping = {
            let (store, targets, shutdown) = (store.clone(), targets.clone(), shutdown.clone());
            async move {
                if embedded {
                    weir_scrape::run_job(scrape, discovered, store, targets, shutdown).await;
                }
            }
        };
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
            rules: Some(rules.clone()),
            ..Api::new(engine.clone())
        };
        let evaluating = rules.run(engine.clone(), store.clone(), shutdown.clone());
        let serving = http_api::serve(
            listener,
            api,
            authorize(client.clone(), store.clone()),
            shutdown.clone(),
        );
        let figures: Arc<dyn Metrics> = match arguments.backend.metrics_backend {
            MetricsBackend::Embedded => Arc::new(engine),
            MetricsBackend::Prometheus => Arc::new(remote(&arguments.backend)?),
        };
        let answering = weir_metrics_api::run(api_server, client, figures, scraped, shutdown.clone());
        let maintaining = storage::maintain(store, shutdown);
        let ((), (), (), (), (), answered) =
            tokio::join!(discovering, scraping, serving, evaluating, maintaining, answering);
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

/// Whoever the Kubernetes API lets `get` the path `/api/v1` reads all of the store; others the namespaces whose traffic they
/// may list.
fn authorize(client: kube::Client, store: Arc<Tsdb>) -> Authorize {
    let access = Arc::new(StoreAccess::new(client));
    Arc::new(move |token| {
        let (access, store) = (access.clone(), store.clone());
        Box::pin(async move {
            let header = token.map(|token| format!("Bearer {token}"));
            match access.check(header.as_deref(), namespaces(store)).await {
                Ok(Seen::All) => Access::Allow,
                Ok(Seen::Namespaces(namespaces)) => Access::Namespaces(namespaces),
                Err(status) if status.code == 401 => Access::Unauthenticated(status.message),
                Err(status) if status.code == 403 => Access::Forbidden(status.message),
                Err(status) => Access::Unavailable(status.message),
            }
        })
    })
}

/// The namespaces that the store has series of.
async fn namespaces(store: Arc<Tsdb>) -> Result<Vec<String>, Status> {
    // It waits for the store's index.
    let listed = tokio::task::spawn_blocking(move || store.label_values(names::NAMESPACE, &[], i64::MIN, i64::MAX));
    match listed.await {
        Ok(Ok(namespaces)) => Ok(namespaces),
        Ok(Err(error)) => Err(Status::service_unavailable(error.to_string())),
        Err(error) => Err(Status::internal(error)),
    }
}

fn alertmanager(url: &str) -> Alertmanager {
    Alertmanager {
        url: url.to_owned(),
        http: Settings::default(),
        timeout: ALERT_TIMEOUT,
    }
}

/// The servers that the arguments name.
fn remote(arguments: &args::Backend) -> Result<Remote> {
    let credentials = match (&arguments.token_file, &arguments.user, &arguments.password_file) {
        (Some(file), ..) => Credentials::Token {
            kind: "Bearer".to_owned(),
            secret: Secret::File(file.clone()),
        },
        (None, Some(user), Some(file)) => Credentials::Basic {
            user: user.clone(),
            password: Secret::File(file.clone()),
        },
        _ => Credentials::None,
    };
    let pem = |file: &Option<PathBuf>| file.clone().map(Pem::File);
    let tls = ClientTls {
        ca: pem(&arguments.ca_file),
        cert: pem(&arguments.cert_file),
        key: pem(&arguments.key_file),
        server_name: arguments.server_name.clone(),
        insecure_skip_verify: arguments.insecure_skip_verify,
    };
    let settings = Settings {
        credentials,
        headers: arguments.headers.clone(),
        tls,
        ..Settings::default()
    };
    let limits = Limits {
        timeout: Duration::from_secs(arguments.timeout_seconds.max(1)),
        concurrency: arguments.concurrency,
        ..Limits::default()
    };
    let route = |text: &String| -> Result<Route> {
        let (rule, url) = match text.rsplit_once(' ') {
            Some((rule, url)) => (Some(rule.trim().to_owned()), url),
            None => (None, text.as_str()),
        };
        let upstream =
            Upstream::new(url, &settings, limits.clone()).with_context(|| format!("--metrics-url {text}"))?;
        Ok(Route { rule, upstream })
    };
    let routes = arguments.urls.iter().map(route).collect::<Result<_>>()?;
    Remote::new(routes, EngineOptions::default()).context("--metrics-url")
}
