//! A process that may outlive its parent: started or adopted, watched by a descriptor, identified by its number and the
//! time it started at, so that a number given out again is never mistaken for it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use crate::sys;

/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// What identifies a process on a running machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

/// A running process. Dropping it leaves the process alone.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    pidfd: AsyncFd<OwnedFd>,
    /// Set for processes that we started: somebody must collect their exit status.
    child: Option<Child>,
}

impl Process {
    /// Starts a process.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        Self::watch(command.spawn()?, sys::pidfd_open)
    }

    /// A child that cannot be watched is killed: it would go on without anybody who knows of it.
    fn watch(mut child: Child, open: impl FnOnce(i32) -> io::Result<AsyncFd<OwnedFd>>) -> io::Result<Self> {
        let pid = child.id().and_then(|p| i32::try_from(p).ok());
        let pid = pid.ok_or_else(|| io::Error::other("ended at once"))?;
        let pidfd = open(pid).inspect_err(|_| {
            if let Err(error) = child.start_kill() {
                tracing::warn!(pid, %error, "cannot kill a proxy that cannot be watched");
            }
        })?;
        let start_ticks = stat(pid).map_or(0, |s| s.start_ticks);
        Ok(Self {
            id: ProcessId { pid, start_ticks },
            pidfd,
            child: Some(child),
        })
    }

    /// Finds a process that was started by an agent before this one. `None`: it is not there any more, or the number
    /// belongs to another; `mark` must stand in its command line.
    pub fn adopt(id: ProcessId, mark: &str) -> Option<Self> {
        // The descriptor first: from here on the number cannot change its owner unseen.
        let pidfd = sys::pidfd_open(id.pid).ok()?;
        let now = stat(id.pid)?;
        let command_line = std::fs::read(format!("/proc/{}/cmdline", id.pid)).ok()?;
        let marked = command_line.windows(mark.len().max(1)).any(|w| w == mark.as_bytes());
        let same = now.start_ticks == id.start_ticks && now.state != 'Z' && marked;
        same.then_some(Self { id, pidfd, child: None })
    }

    /// Its identity.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Returns once it has ended; may be dropped and called again.
    pub async fn exited(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.wait().await;
            return;
        }
        // An error here means that the descriptor cannot be polled; nothing better is known than that it has gone.
        if let Ok(mut guard) = self.pidfd.readable().await {
            guard.retain_ready();
        }
    }

    /// Sends a signal; a process that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = sys::pidfd_signal(self.pidfd.get_ref(), signal)
            && error.raw_os_error() != Some(nix::libc::ESRCH)
        {
            tracing::warn!(pid = self.id.pid, %signal, %error, "cannot signal a proxy");
        }
    }

    /// Kills it and waits until it has gone.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if tokio::time::timeout(KILL_TIMEOUT, self.exited()).await.is_err() {
            tracing::warn!(pid = self.id.pid, "a killed proxy has not ended");
        }
    }
}

/// What `/proc/PID/stat` says.
struct Stat {
    state: char,
    start_ticks: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses too: the fields count from the last one.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_that_cannot_be_watched_does_not_stay() {
        let child = Command::new("sleep").arg("1000.5").spawn().unwrap();
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        let ended = sys::pidfd_open(pid).unwrap();
        let refused = Process::watch(child, |_| Err(io::Error::from_raw_os_error(nix::libc::EMFILE)));
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(nix::libc::EMFILE));
        let ended = tokio::time::timeout(Duration::from_secs(30), ended.readable()).await;
        ended.expect("it still runs").unwrap().retain_ready();
    }

    #[tokio::test]
    async fn started_adopted_and_seen_to_end() {
        let mut own = Process::spawn(Command::new("sleep").arg("1000.25")).unwrap();
        let id = own.id();
        assert!(id.start_ticks > 0);
        assert!(Process::adopt(id, "another").is_none());
        assert!(
            Process::adopt(
                ProcessId {
                    start_ticks: id.start_ticks + 1,
                    ..id
                },
                "1000.25"
            )
            .is_none()
        );
        // The kernel lets the parent go on a moment before the child's command line can be read.
        let mut adopted = loop {
            match Process::adopt(id, "1000.25") {
                Some(process) => break process,
                None => tokio::task::yield_now().await,
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_millis(50), adopted.exited())
                .await
                .is_err()
        );
        adopted.signal(Signal::SIGTERM);
        tokio::time::timeout(Duration::from_secs(5), adopted.exited())
            .await
            .unwrap();
        // Not collected yet, so the number is still taken, but it is nobody to adopt.
        assert!(Process::adopt(id, "1000.25").is_none());
        own.exited().await;
        assert!(Process::adopt(id, "1000.25").is_none());
    }
}
