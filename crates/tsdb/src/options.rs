//! What a store keeps, and for how long.

use std::path::PathBuf;
use std::time::Duration;

/// What the store keeps.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long samples are kept; the newest chunk of a series may hold them somewhat longer.
    pub retention: Duration,
    /// Bytes of series and samples in memory beyond which the oldest samples go before their time; none without it.
    pub retention_bytes: Option<u64>,
    /// Series at a time; new ones beyond it are refused and counted, existing ones go on.
    pub max_series: usize,
    /// Samples further ahead of the clock are refused and counted: a series would take nothing else until then.
    pub ahead: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            retention: Duration::from_secs(3600),
            retention_bytes: None,
            max_series: 500_000,
            ahead: Some(Duration::from_secs(600)),
        }
    }
}

/// Where and how a store is kept on a disk.
#[derive(Clone, Debug)]
pub struct Storage {
    /// A directory of its own; it is made if it is missing.
    pub path: PathBuf,
    /// How often the log is written: what a crash may lose.
    pub flush: Duration,
    /// Whether each flush waits for the disk itself (`fdatasync`), so that a loss of power loses no more than a crash.
    pub sync: bool,
    /// Bytes of log after which a snapshot is taken and older log goes; at least as many as the last snapshot had.
    pub log_bytes: u64,
    /// How long after an error the disk is tried again.
    pub retry: Duration,
}

impl Storage {
    /// The usual: a flush a second, waiting for the disk.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Storage {
            path: path.into(),
            flush: Duration::from_secs(1),
            sync: true,
            log_bytes: 128 << 20,
            retry: Duration::from_secs(5),
        }
    }
}
