//! A target, and the list that shows how each one is doing.

use crate::config::units::duration_text;
use serde::Serialize;
use serde_json::{Value as Json, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use weir_series::{Labels, names};

/// One page to scrape, and the labels that its series get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// Where the page is.
    pub url: String,
    /// Added to every series of the page.
    pub labels: Labels,
    /// What discovery said of it, before relabelling.
    pub discovered: Labels,
    /// Where it differs from the job's.
    pub interval: Option<Duration>,
    /// Where it differs from the job's.
    pub timeout: Option<Duration>,
}

/// What makes two targets the same: where it is and what its series are called.
pub(crate) type Identity = (String, Labels, Option<Duration>, Option<Duration>);

impl Target {
    /// A target of the scheme `http`.
    pub fn new(address: String, path: &str, labels: Labels) -> Target {
        Target {
            url: format!("http://{address}{path}"),
            address,
            labels,
            discovered: Labels::default(),
            interval: None,
            timeout: None,
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        (self.url.clone(), self.labels.clone(), self.interval, self.timeout)
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
    /// The job that scrapes it.
    pub pool: String,
    /// Where the page is.
    pub url: String,
    /// The labels of the target.
    pub labels: Labels,
    /// What discovery said of it.
    pub discovered: Labels,
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
    /// Time between two scrapes.
    pub interval: Duration,
    /// Time that a scrape may take.
    pub timeout: Duration,
}

/// Targets that relabelling dropped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dropped {
    /// What discovery said of them; not more than the job remembers.
    pub shown: Vec<Labels>,
    /// How many they are.
    pub count: usize,
}

#[derive(Debug, Default)]
struct Pool {
    active: BTreeMap<Identity, TargetStatus>,
    dropped: Dropped,
}

/// The state of all targets by job; a handle to share.
#[derive(Clone, Debug, Default)]
pub struct Targets(Arc<Mutex<BTreeMap<String, Pool>>>);

impl Targets {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// All targets, sorted by job and address.
    pub fn snapshot(&self) -> Vec<TargetStatus> {
        self.lock()
            .values()
            .flat_map(|pool| pool.active.values().cloned())
            .collect()
    }

    /// What `/api/v1/targets` of Prometheus shows.
    pub fn to_json(&self) -> Json {
        let all = self.lock();
        let active = all.values().flat_map(|pool| pool.active.values()).map(target_json);
        let shown = all
            .iter()
            .flat_map(|(name, pool)| pool.dropped.shown.iter().map(move |labels| (name, labels)));
        let dropped = shown.map(|(name, labels)| json!({ "discoveredLabels": labels, "scrapePool": name }));
        let counts = all
            .iter()
            .map(|(name, pool)| (name.clone(), Json::from(pool.dropped.count)));
        json!({
            "activeTargets": active.collect::<Json>(),
            "droppedTargets": dropped.collect::<Json>(),
            "droppedTargetCounts": counts.collect::<Json>(),
        })
    }

    pub(crate) fn add_pool(&self, pool: &str) {
        self.lock().entry(pool.to_owned()).or_default();
    }

    pub(crate) fn remove_pool(&self, pool: &str) {
        self.lock().remove(pool);
    }

    pub(crate) fn set_dropped(&self, pool: &str, dropped: Dropped) {
        self.lock().entry(pool.to_owned()).or_default().dropped = dropped;
    }

    /// Adds a target, or tells what discovery says of it now.
    pub(crate) fn insert(&self, pool: &str, target: &Target, interval: Duration, timeout: Duration) {
        let mut all = self.lock();
        let active = &mut all.entry(pool.to_owned()).or_default().active;
        let status = active.entry(target.identity()).or_insert_with(|| TargetStatus {
            pool: pool.to_owned(),
            url: target.url.clone(),
            labels: target.labels.clone(),
            interval,
            timeout,
            ..TargetStatus::default()
        });
        status.discovered = target.discovered.clone();
    }

    pub(crate) fn remove(&self, pool: &str, target: &Target) {
        if let Some(pool) = self.lock().get_mut(pool) {
            pool.active.remove(&target.identity());
        }
    }

    pub(crate) fn update(&self, pool: &str, target: &Target, change: impl FnOnce(&mut TargetStatus)) {
        if let Some(status) = self
            .lock()
            .get_mut(pool)
            .and_then(|p| p.active.get_mut(&target.identity()))
        {
            change(status);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Pool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target_json(status: &TargetStatus) -> Json {
    let last = match status.last_scrape_ms {
        // As Prometheus says it.
        0 => "0001-01-01T00:00:00Z".to_owned(),
        ms => jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string(),
    };
    json!({
        "discoveredLabels": status.discovered,
        "labels": status.labels,
        "scrapePool": match status.pool.as_str() { "" => status.labels.get(names::JOB), pool => pool },
        "scrapeUrl": status.url,
        "globalUrl": status.url,
        "health": status.health,
        "lastError": status.last_error,
        "lastWarning": status.last_warning,
        "lastScrape": last,
        "lastScrapeDuration": status.last_duration_s,
        "lastSamples": status.last_samples,
        "scrapeInterval": duration_text(status.interval),
        "scrapeTimeout": duration_text(status.timeout),
    })
}
