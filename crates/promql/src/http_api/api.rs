//! What the API serves from. Everything but the engine may be left out; what is left out answers as an empty server would.

use crate::{Engine, rules::Rules};
use regex::Regex;
use serde_json::{Value as Json, json};
use std::{collections::BTreeMap, sync::Arc, time::SystemTime};
use weir_series::Append;

/// A part of an answer that is made anew for each request.
pub type JsonSource = Arc<dyn Fn() -> Json + Send + Sync>;

/// What `/api/v1/targets` answers as its `data`; asked anew for each request.
pub type TargetsJson = JsonSource;

/// What `/metrics` answers besides the API's own figures: text format 0.0.4.
pub type SelfMetrics = Arc<dyn Fn(&mut String) + Send + Sync>;

/// Obeys an order that came as `POST /-/<order>`: `reload`, `quit`. None where there is no such order; the error is told to
/// whoever gave it. May block.
pub type Control = Arc<dyn Fn(&str) -> Obeyed + Send + Sync>;

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obeyed {
    /// It was done.
    Done,
    /// It failed; nothing has changed.
    Failed(String),
    /// Such orders are switched off.
    Off,
    /// There is no such order.
    Unknown,
}

/// Everything that the API serves from. Begin with [`Api::new`] and set what there is.
#[derive(Clone)]
pub struct Api {
    /// Answers the queries.
    pub engine: Engine,
    /// See [`TargetsJson`].
    pub targets: TargetsJson,
    /// What `/sd/proxies` answers: the targets in the format of Prometheus's HTTP discovery.
    pub discovered: TargetsJson,
    /// See [`SelfMetrics`].
    pub metrics: SelfMetrics,
    /// Rules and alerts; none where there is no evaluation of rules.
    pub rules: Option<Rules>,
    /// Where `/api/v1/write` puts samples; none: remote writing is off.
    pub receiver: Option<Arc<dyn Append>>,
    /// What `/api/v1/status/*` answers.
    pub status: Status,
    /// Origins of pages that may read answers in a browser; each must match as a whole.
    pub cors_origin: Regex,
    /// Whether `/-/ready` answers 200.
    pub ready: Arc<dyn Fn() -> bool + Send + Sync>,
    /// See [`Control`].
    pub control: Control,
}

/// What the status endpoints tell.
#[derive(Clone)]
pub struct Status {
    /// The configuration as YAML, as it is in force.
    pub config: Arc<dyn Fn() -> String + Send + Sync>,
    /// Flags and their values.
    pub flags: BTreeMap<String, String>,
    /// Members of `runtimeinfo` beside those that the API knows, such as `storageRetention`, `reloadConfigSuccess`.
    pub runtime: JsonSource,
    /// Members of `tsdb` that replace those that the API counts itself.
    pub tsdb: JsonSource,
    /// When the process started.
    pub started: SystemTime,
}

impl Default for Status {
    fn default() -> Self {
        Status {
            config: Arc::new(String::new),
            flags: BTreeMap::new(),
            runtime: Arc::new(|| json!({})),
            tsdb: Arc::new(|| json!({})),
            started: SystemTime::now(),
        }
    }
}

impl Api {
    /// An API over an engine, without targets, rules or a receiver; any origin may read.
    pub fn new(engine: Engine) -> Self {
        Api {
            engine,
            targets: Arc::new(|| json!({ "activeTargets": [], "droppedTargets": [], "droppedTargetCounts": {} })),
            discovered: Arc::new(|| json!([])),
            metrics: Arc::new(|_| {}),
            rules: None,
            receiver: None,
            status: Status::default(),
            cors_origin: any_origin(),
            ready: Arc::new(|| true),
            control: Arc::new(|_: &str| Obeyed::Unknown),
        }
    }
}

/// The pattern that any origin matches.
pub fn any_origin() -> Regex {
    // The expression is constant and valid: the alternative is never taken.
    Regex::new("^(?:.*)$").unwrap_or_else(|e| unreachable!("{e}"))
}
