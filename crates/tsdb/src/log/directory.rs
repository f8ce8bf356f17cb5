//! The files of a store: `lock`, `log-N`, `snapshot-N`. A snapshot holds everything that is older than the log of its number.

use super::OpenError;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A store's directory; nobody else has it as long as this lives.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

/// What is in a directory, ascending.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub logs: Vec<u64>,
    pub snapshots: Vec<u64>,
}

impl Directory {
    pub fn open(path: &Path) -> Result<Directory, OpenError> {
        let fail = |source| OpenError::Directory {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(fail)?;
        let mut options = File::options();
        let lock = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        Ok(Directory {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub fn log(&self, number: u64) -> PathBuf {
        self.path.join(format!("log-{number:010}"))
    }

    pub fn snapshot(&self, number: u64) -> PathBuf {
        self.path.join(format!("snapshot-{number:010}"))
    }

    /// Where a snapshot is written until it is complete.
    pub fn unfinished(&self) -> PathBuf {
        self.path.join("unfinished")
    }

    pub fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some((kind, number)) = name.to_str().and_then(|n| n.split_once('-')) else {
                continue;
            };
            match (kind, number.parse()) {
                ("log", Ok(number)) => listing.logs.push(number),
                ("snapshot", Ok(number)) => listing.snapshots.push(number),
                _ => {}
            }
        }
        listing.logs.sort_unstable();
        listing.snapshots.sort_unstable();
        Ok(listing)
    }

    /// Makes sure that names survive a loss of power too.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Deletes what the two newest snapshots make superfluous: the older one is for the case that the newest is damaged.
    pub fn remove_superseded(&self) -> io::Result<()> {
        let Listing { logs, snapshots } = self.list()?;
        let Some(oldest) = snapshots.iter().rev().nth(1).copied() else {
            return Ok(());
        };
        for number in snapshots.into_iter().filter(|n| *n < oldest) {
            fs::remove_file(self.snapshot(number))?;
        }
        for number in logs.into_iter().filter(|n| *n < oldest) {
            fs::remove_file(self.log(number))?;
        }
        Ok(())
    }
}
