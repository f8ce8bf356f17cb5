//! The API server's process: started, watched, started again.
//!
//! Enters: the host's listener and the data directory. Leaves: a process that serves; after a crash a new one on the same
//! listener, so that the host's port never closes.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Paths;
use super::back_off::BackOff;

/// How long it may take to stop before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(3);
/// Waiting times before a restart.
const RESTART_FIRST: Duration = Duration::from_millis(50);
const RESTART_MAX: Duration = Duration::from_secs(5);
/// A run of this length starts the waiting times afresh.
const STEADY: Duration = Duration::from_secs(30);

/// What the process is started with.
pub(super) struct ApiServer {
    pub exe: PathBuf,
    pub paths: Paths,
    pub listener: TcpListener,
}

impl ApiServer {
    /// Keeps it running until `stop`.
    pub async fn supervise(self, stop: CancellationToken) {
        let fresh = || BackOff::retry(RESTART_FIRST, RESTART_MAX);
        let mut back_off = fresh();
        while !stop.is_cancelled() {
            let began = Instant::now();
            match self.start() {
                Ok(mut child) => {
                    tokio::select! {
                        status = child.wait() => report(status),
                        () = stop.cancelled() => return end(child).await,
                    }
                }
                Err(error) => eprintln!("weir node: cannot start the API server: {error}"),
            }
            if began.elapsed() > STEADY {
                back_off = fresh();
            }
            let wait = back_off.after(began.elapsed());
            stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    fn start(&self) -> io::Result<Child> {
        let host = OwnedFd::from(self.listener.try_clone()?);
        Command::new(&self.exe)
            .arg("apiserver")
            .arg("--data-dir")
            .arg(self.paths.apiserver())
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDS_FIRST_FD", "0")
            .env_remove("LISTEN_PID")
            // The host's listener is the child's descriptor 0.
            .stdin(Stdio::from(host))
            .kill_on_drop(true)
            .spawn()
    }
}

fn report(status: io::Result<ExitStatus>) {
    match status {
        Ok(status) => eprintln!("weir node: the API server ended ({status}); starting it again"),
        Err(error) => eprintln!("weir node: the API server ended ({error}); starting it again"),
    }
}

async fn end(mut child: Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if timeout(STOP_DEADLINE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
