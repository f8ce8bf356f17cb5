//! Alerts go in, Alertmanagers hear of them (API v2). What cannot be told in time is dropped and counted.

use super::json::time;
use crate::remote::http::{Client, Settings};
use serde_json::{Value as Json, json};
use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weir_series::Labels;

/// Alerts that wait to be sent; beyond, the oldest go.
const MAX_QUEUED: usize = 10_000;
/// Alerts in one request.
const MAX_BATCH: usize = 64;

/// An alert on its way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outgoing {
    pub labels: Labels,
    pub annotations: Labels,
    pub starts_ms: i64,
    pub ends_ms: i64,
    pub generator_url: String,
}

/// One Alertmanager.
#[derive(Clone, Debug)]
pub struct Alertmanager {
    /// `http://host:9093`, with the path prefix if there is one.
    pub url: String,
    /// How to reach it.
    pub http: Settings,
    /// Time that one request may take.
    pub timeout: Duration,
}

/// The queue and those that are told.
pub(super) struct Notifier {
    targets: Vec<(Alertmanager, Client)>,
    queue: Mutex<VecDeque<Outgoing>>,
    waiting: Notify,
    pub sent: AtomicU64,
    pub errors: AtomicU64,
    pub dropped: AtomicU64,
}

impl Notifier {
    pub fn new(targets: Vec<Alertmanager>) -> Result<Self, String> {
        let clients = targets.into_iter().map(|target| {
            let client = Client::new(&target.http).map_err(|e| format!("{}: {e}", target.url))?;
            Ok((target, client))
        });
        Ok(Notifier {
            targets: clients.collect::<Result<_, String>>()?,
            queue: Mutex::default(),
            waiting: Notify::new(),
            sent: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Outgoing>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn queued(&self) -> usize {
        self.lock().len()
    }

    pub fn push(&self, alerts: Vec<Outgoing>) {
        if alerts.is_empty() || self.targets.is_empty() {
            return;
        }
        let mut queue = self.lock();
        queue.extend(alerts);
        let excess = queue.len().saturating_sub(MAX_QUEUED);
        queue.drain(..excess);
        self.dropped.fetch_add(excess as u64, Relaxed);
        drop(queue);
        self.waiting.notify_one();
    }

    /// Sends until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        loop {
            let batch: Vec<Outgoing> = {
                let mut queue = self.lock();
                let count = queue.len().min(MAX_BATCH);
                queue.drain(..count).collect()
            };
            if batch.is_empty() {
                tokio::select! {
                    () = self.waiting.notified() => {}
                    () = shutdown.cancelled() => return,
                }
                continue;
            }
            let body = json!(batch.iter().map(alert).collect::<Vec<_>>()).to_string();
            let all = self
                .targets
                .iter()
                .map(|(target, client)| self.send(target, client, &body, batch.len()));
            let told = futures::future::join_all(all);
            let told = tokio::select! {
                told = told => told,
                () = shutdown.cancelled() => return,
            };
            if !told.contains(&true) {
                self.dropped.fetch_add(batch.len() as u64, Relaxed);
            }
        }
    }

    async fn send(&self, target: &Alertmanager, client: &Client, body: &str, count: usize) -> bool {
        let url = endpoint(&target.url);
        let json = [("content-type", "application/json")];
        let answer = client.post(&url, &json, body.to_owned().into(), target.timeout).await;
        let error = match answer {
            Ok(answer) if answer.status.is_success() => {
                self.sent.fetch_add(count as u64, Relaxed);
                return true;
            }
            Ok(answer) => format!("answered {}", answer.status),
            Err(error) => error.to_string(),
        };
        self.errors.fetch_add(count as u64, Relaxed);
        tracing::warn!(url, error, alerts = count, "an Alertmanager was not told");
        false
    }

    /// As `/api/v1/alertmanagers` shows them.
    pub fn to_json(&self) -> Json {
        let active: Vec<Json> = self
            .targets
            .iter()
            .map(|(t, _)| json!({ "url": endpoint(&t.url) }))
            .collect();
        json!({ "activeAlertmanagers": active, "droppedAlertmanagers": [] })
    }
}

fn endpoint(url: &str) -> String {
    format!("{}/api/v2/alerts", url.trim_end_matches('/'))
}

fn alert(alert: &Outgoing) -> Json {
    json!({
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": time(alert.starts_ms),
        "endsAt": time(alert.ends_ms),
        "generatorURL": alert.generator_url,
    })
}
