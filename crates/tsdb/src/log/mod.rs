//! The store on a disk: a log of what changes, and from time to time a snapshot of everything, so that older log goes.
//!
//! Enters: events of the head, through a bounded queue. Leaves: files, and at the next start a head again. One thread
//! writes; whatever happens to the disk, the head goes on.

pub(crate) mod crc;
pub(crate) mod directory;
pub(crate) mod frame;
pub(crate) mod queue;
pub(crate) mod record;
pub(crate) mod recover;
pub(crate) mod snapshot;
pub(crate) mod writer;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

/// Why a store on a disk does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path:?} is in use by another process: give each store a directory of its own")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory or a file in it cannot be used.
    #[error("{path:?}: {source}")]
    Directory {
        /// What was tried.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The thread that writes cannot be started.
    #[error("the thread that writes the log does not start: {0}")]
    Thread(io::Error),
}

/// A part of a file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where the bytes begin that were dropped.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
    /// What is wrong with them.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage {
            file,
            offset,
            bytes,
            what,
        } = self;
        write!(
            f,
            "{}: {bytes} bytes dropped at offset {offset}: {what}",
            file.display()
        )
    }
}

/// What a start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The snapshot it began with.
    pub snapshot: Option<PathBuf>,
    /// Series that are there.
    pub series: u64,
    /// What was dropped. Empty after an orderly end, and after a crash that tore no record.
    pub damages: Vec<Damage>,
    /// Samples in the log whose series nothing defines: of series that had gone, or behind a lost snapshot.
    pub orphans: u64,
}

/// How the writing goes.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Why nothing is written now; none while all is well.
    pub error: Option<String>,
    /// Since when.
    pub failing_since: Option<SystemTime>,
    /// How often writing failed.
    pub failures: u64,
    /// Bytes of log since the start.
    pub logged_bytes: u64,
    /// Of these, bytes of samples.
    pub sample_bytes: u64,
    /// Number of the log that is written now, and how many of its bytes are.
    pub position: (u64, u64),
    /// Snapshots since the start.
    pub snapshots: u64,
    /// Bytes of the last one.
    pub snapshot_bytes: u64,
    /// What the start found.
    pub recovery: Recovery,
}
