//! The sender of remote write: samples that a store took go to another server too.
//!
//! ```text
//! Tee (an Append) ──▶ store
//!    └▶ Sender: relabel ──▶ shards (bounded queues) ──▶ batches ──▶ POST, again after 5xx, 429 and broken connections
//! ```
//!
//! Nothing here makes whoever appends wait: a full queue drops its oldest samples and counts them. Samples of one series
//! stay in one shard, and so in their order.

mod queue;
mod send;
mod tee;

pub use tee::Tee;

use super::http::{self, Client, Settings};
use queue::{Item, Queue};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use weir_series::{Labels, Metadata, exposition, names, remote_write::Version};

/// Changes the labels of a series on its way out; none: the series is not sent.
pub type Relabel = Arc<dyn Fn(&Labels) -> Option<Labels> + Send + Sync>;

/// Where samples are sent, and how.
#[derive(Clone)]
pub struct Config {
    /// What the server is called in figures and logs.
    pub name: String,
    /// All of the URL, such as `http://host:9090/api/v1/write`.
    pub url: String,
    /// Version 2 only where the receiver is known to take it.
    pub version: Version,
    /// How the server is reached.
    pub http: Settings,
    /// Time that one request may take.
    pub timeout: Duration,
    /// Put on every series that does not have them.
    pub external_labels: Labels,
    /// `write_relabel_configs`, after the external labels.
    pub relabel: Option<Relabel>,
    /// Queues that are worked off beside one another.
    pub shards: usize,
    /// Samples that one queue holds.
    pub capacity: usize,
    /// Bytes that one queue holds.
    pub capacity_bytes: usize,
    /// Samples in one request.
    pub max_samples_per_send: usize,
    /// How long a sample waits for others to fill its request.
    pub batch_deadline: Duration,
    /// The first wait before a request is sent again; it doubles each time.
    pub min_backoff: Duration,
    /// The longest wait.
    pub max_backoff: Duration,
    /// Between two times that metadata is sent (version 1); none: it is not.
    pub metadata_interval: Option<Duration>,
    /// Families in one request of metadata.
    pub metadata_per_send: usize,
}

impl Config {
    /// Usual settings for an address.
    pub fn new(url: impl Into<String>) -> Self {
        Config {
            name: String::new(),
            url: url.into(),
            version: Version::V1,
            http: Settings::default(),
            timeout: Duration::from_secs(30),
            external_labels: Labels::default(),
            relabel: None,
            shards: 4,
            capacity: 100_000,
            capacity_bytes: 32 << 20,
            max_samples_per_send: 2000,
            batch_deadline: Duration::from_secs(5),
            min_backoff: Duration::from_millis(30),
            max_backoff: Duration::from_secs(5),
            metadata_interval: Some(Duration::from_secs(60)),
            metadata_per_send: 500,
        }
    }
}

/// Families whose metadata is remembered.
const MAX_FAMILIES: usize = 10_000;

#[derive(Debug, Default)]
struct Counts {
    samples: AtomicU64,
    histograms: AtomicU64,
    metadata: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
    dropped_full: AtomicU64,
    dropped_series: AtomicU64,
    bytes: AtomicU64,
    newest_ms: AtomicI64,
    sent_ms: AtomicI64,
}

/// Sends to one server. Cheap to clone.
#[derive(Clone)]
pub struct Sender(Arc<Shared>);

struct Shared {
    config: Config,
    client: Client,
    queues: Vec<Queue>,
    metadata: Mutex<BTreeMap<String, Metadata>>,
    counts: Counts,
}

impl Sender {
    /// The error is about certificates or headers.
    pub fn new(config: Config) -> Result<Self, http::Error> {
        let client = Client::new(&config.http)?;
        let queues = (0..config.shards.max(1)).map(|_| Queue::new(config.capacity, config.capacity_bytes));
        Ok(Sender(Arc::new(Shared {
            queues: queues.collect(),
            client,
            metadata: Mutex::default(),
            counts: Counts::default(),
            config,
        })))
    }

    /// The labels under which a series is sent; none: it is not.
    fn outgoing(&self, labels: &Labels) -> Option<Labels> {
        let config = &self.0.config;
        let mut labels = labels.clone();
        if !config.external_labels.is_empty() {
            let all = config.external_labels.iter().chain(labels.iter());
            labels = Labels::from_vec(all.cloned().collect());
        }
        match &config.relabel {
            None => Some(labels),
            Some(relabel) => relabel(&labels).filter(|labels| !labels.is_empty()),
        }
    }

    fn push(&self, items: Vec<Item>) {
        let newest = items.iter().map(Item::ts_ms).max();
        self.0.counts.newest_ms.fetch_max(newest.unwrap_or(0), Relaxed);
        let shards = self.0.queues.len();
        let mut split: Vec<Vec<Item>> = (0..shards).map(|_| Vec::new()).collect();
        for item in items {
            split[(item.labels.fingerprint() % shards as u64) as usize].push(item);
        }
        for (queue, items) in self.0.queues.iter().zip(split) {
            if !items.is_empty() {
                self.0.counts.dropped_full.fetch_add(queue.push(items), Relaxed);
            }
        }
    }

    fn describe(&self, family: &str, metadata: &Metadata) {
        let mut all = self.0.metadata.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_FAMILIES || all.contains_key(family) {
            all.insert(family.to_owned(), metadata.clone());
        }
    }

    /// Sends until `shutdown`; what is queued then is tried once more.
    pub async fn run(&self, shutdown: CancellationToken) {
        let shards = self.0.queues.iter().map(|queue| send::shard(&self.0, queue, &shutdown));
        let metadata = send::metadata(&self.0, &shutdown);
        tokio::join!(futures::future::join_all(shards), metadata);
    }

    /// Figures about sending, as text format 0.0.4. `header` says whether what they are is told too: once a page.
    pub fn render(&self, page: &mut String, header: bool) {
        let (counts, config) = (&self.0.counts, &self.0.config);
        let mut own = String::new();
        for (name, value) in [(names::REMOTE_NAME, &config.name), (names::URL, &config.url)] {
            let _ = write!(own, "{}{name}=\"", if own.is_empty() { "" } else { "," });
            exposition::escape_value(&mut own, value);
            own.push('"');
        }
        let count = |c: &AtomicU64| c.load(Relaxed) as f64;
        let seconds = |c: &AtomicI64| c.load(Relaxed) as f64 / 1000.0;
        let pending: usize = self.0.queues.iter().map(Queue::len).sum();
        for (name, kind, help, value) in [
            (
                names::REMOTE_SAMPLES_TOTAL,
                "counter",
                "Samples sent and taken.",
                count(&counts.samples),
            ),
            (
                names::REMOTE_HISTOGRAMS_TOTAL,
                "counter",
                "Native histograms sent and taken.",
                count(&counts.histograms),
            ),
            (
                names::REMOTE_METADATA_TOTAL,
                "counter",
                "Families whose metadata was sent.",
                count(&counts.metadata),
            ),
            (
                names::REMOTE_FAILED_TOTAL,
                "counter",
                "Samples that the receiver refused.",
                count(&counts.failed),
            ),
            (
                names::REMOTE_RETRIED_TOTAL,
                "counter",
                "Samples that were sent again.",
                count(&counts.retried),
            ),
            (
                names::REMOTE_BYTES_TOTAL,
                "counter",
                "Bytes sent, compressed.",
                count(&counts.bytes),
            ),
            (
                names::REMOTE_PENDING,
                "gauge",
                "Samples that wait to be sent.",
                pending as f64,
            ),
            (
                names::REMOTE_SHARDS,
                "gauge",
                "Queues worked off beside one another.",
                self.0.queues.len() as f64,
            ),
            (
                names::REMOTE_HIGHEST_SECONDS,
                "gauge",
                "Time of the newest sample that came.",
                seconds(&counts.newest_ms),
            ),
            (
                names::REMOTE_SENT_SECONDS,
                "gauge",
                "Time of the newest sample that was sent.",
                seconds(&counts.sent_ms),
            ),
        ] {
            if header {
                exposition::write_header(page, name, kind, help);
            }
            exposition::write_sample(page, name, &own, "", value);
        }
        let name = names::REMOTE_DROPPED_TOTAL;
        if header {
            exposition::write_header(page, name, "counter", "Samples that were not sent.");
        }
        for (reason, dropped) in [
            ("queue_full", &counts.dropped_full),
            ("dropped_series", &counts.dropped_series),
        ] {
            let reason = format!("{}=\"{reason}\"", names::REASON);
            exposition::write_sample(page, name, &own, &reason, count(dropped));
        }
    }
}
