//! A target, and the list that shows how each one is doing.

use serde::Serialize;
use serde_json::{Value as Json, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use weir_series::Labels;

/// One page to scrape, and the labels that its series get.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// Path of the page, beginning with a slash.
    pub path: String,
    /// Added to every series of the page.
    pub labels: Labels,
}

impl Target {
    /// Where the page is.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.path)
    }
}

/// Whether the last scrape of a target succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Not scraped yet.
    #[default]
    Unknown,
    /// It did.
    Up,
    /// It did not.
    Down,
}

/// How a target is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Where the page is.
    pub url: String,
    /// The labels of the target.
    pub labels: Labels,
    /// Whether the last scrape succeeded.
    pub health: Health,
    /// Why it did not; "" when it did.
    pub last_error: String,
    /// What was left out of the last scrape although it succeeded, and why; "" for nothing.
    pub last_warning: String,
    /// When the last scrape began, in milliseconds since 1970; 0 before the first.
    pub last_scrape_ms: i64,
    /// How long it took, in seconds.
    pub last_duration_s: f64,
    /// Samples of the last page.
    pub last_samples: usize,
}

/// The state of all targets; a handle to share.
#[derive(Clone, Debug, Default)]
pub struct Targets(Arc<Mutex<BTreeMap<Target, TargetStatus>>>);

impl Targets {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// All targets, sorted by address.
    pub fn snapshot(&self) -> Vec<TargetStatus> {
        self.lock().values().cloned().collect()
    }

    /// What `/api/v1/targets` of Prometheus shows.
    pub fn to_json(&self) -> Json {
        let active: Vec<Json> = self.snapshot().iter().map(target_json).collect();
        json!({ "activeTargets": active, "droppedTargets": [], "droppedTargetCounts": {} })
    }

    pub(crate) fn insert(&self, target: &Target) {
        let status = TargetStatus {
            url: target.url(),
            labels: target.labels.clone(),
            ..TargetStatus::default()
        };
        self.lock().insert(target.clone(), status);
    }

    pub(crate) fn remove(&self, target: &Target) {
        self.lock().remove(target);
    }

    pub(crate) fn update(&self, target: &Target, change: impl FnOnce(&mut TargetStatus)) {
        if let Some(status) = self.lock().get_mut(target) {
            change(status);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Target, TargetStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target_json(status: &TargetStatus) -> Json {
    let last = jiff::Timestamp::from_millisecond(status.last_scrape_ms).unwrap_or_default();
    json!({
        "discoveredLabels": {},
        "labels": status.labels,
        "scrapePool": status.labels.get(weir_series::names::JOB),
        "scrapeUrl": status.url,
        "globalUrl": status.url,
        "health": status.health,
        "lastError": status.last_error,
        "lastWarning": status.last_warning,
        "lastScrape": last.to_string(),
        "lastScrapeDuration": status.last_duration_s,
        "lastSamples": status.last_samples,
    })
}
