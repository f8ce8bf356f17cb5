//! The Envoy process: started, started again when it dies, drained.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::Command;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::supervise::Process;
use crate::{http_unix, sys};

/// Longest wait for one answer of Envoy's admin interface.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before an Envoy that died young is started again; doubled each time up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// An Envoy that lived longer than this starts again at once.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// How often a draining Envoy is asked for its connections.
const DRAIN_POLL: Duration = Duration::from_millis(100);
/// What an Envoy without connections gets to send its last access logs.
const FLUSH: Duration = Duration::from_millis(300);
/// How long it may take to end when it was told to.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How Envoy is run.
#[derive(Clone, Debug)]
pub struct Child {
    /// The program.
    pub envoy: OsString,
    /// Its bootstrap.
    pub bootstrap: PathBuf,
    /// Its admin socket.
    pub admin: PathBuf,
    /// How long its last connections may take.
    pub drain: Duration,
}

impl Child {
    /// Runs Envoy until `stop`, then drains it. `started` and `ended` are called around each life.
    pub async fn run(&self, stop: &CancellationToken, started: impl Fn(), ended: impl Fn()) -> std::io::Result<()> {
        let mut young_deaths = 0u32;
        let mut first = true;
        while !stop.is_cancelled() {
            started();
            let born = Instant::now();
            let mut process = match self.start() {
                Ok(process) => process,
                // At first that is the user's mistake; later it passes, as when the program is being replaced.
                Err(error) if first => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "cannot start Envoy");
                    tokio::time::sleep(RETRY_MAX).await;
                    continue;
                }
            };
            first = false;
            tracing::info!(pid = process.id().pid, "Envoy started");
            tokio::select! {
                () = process.exited() => {}
                () = stop.cancelled() => {
                    self.drain(&mut process).await;
                    ended();
                    return Ok(());
                }
            }
            ended();
            young_deaths = if born.elapsed() < STABLE_AFTER {
                young_deaths + 1
            } else {
                0
            };
            let pause = RETRY_MIN.saturating_mul(1 << young_deaths.min(8)).min(RETRY_MAX);
            tracing::error!(
                lived_ms = u64::try_from(born.elapsed().as_millis()).unwrap_or(u64::MAX),
                "Envoy ended unasked"
            );
            if young_deaths > 0 {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
        Ok(())
    }

    fn start(&self) -> std::io::Result<Process> {
        let _ = std::fs::remove_file(&self.admin);
        let mut command = Command::new(&self.envoy);
        command.arg("-c").arg(&self.bootstrap);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]);
        // Every response of a draining Envoy closes its connection, not a growing share of them.
        command.args([
            "--drain-strategy",
            "immediate",
            "--drain-time-s",
            &self.drain.as_secs().max(1).to_string(),
        ]);
        command.stdin(Stdio::null());
        // An orphan would go on taking connections beside its successor.
        sys::die_with_parent(&mut command);
        Process::spawn(&mut command)
    }

    /// Lets the last connections finish, at most until the deadline, and ends Envoy.
    async fn drain(&self, process: &mut Process) {
        let deadline = Instant::now() + self.drain;
        for path in ["/healthcheck/fail", "/drain_listeners?graceful&skip_exit"] {
            if let Err(error) = http_unix::send(&self.admin, http::Method::POST, path, ADMIN_TIMEOUT).await {
                tracing::warn!(path, %error, "Envoy's admin interface");
            }
        }
        while Instant::now() < deadline {
            tokio::select! {
                () = tokio::time::sleep(DRAIN_POLL) => {}
                () = process.exited() => return,
            }
            if self.connections().await == Some(0) {
                break;
            }
        }
        tokio::time::sleep(FLUSH).await;
        process.signal(Signal::SIGTERM);
        if tokio::time::timeout(QUIT_TIMEOUT, process.exited()).await.is_err() {
            process.kill().await;
        }
    }

    /// Connections that clients have open, the admin interface's own left out.
    async fn connections(&self) -> Option<u64> {
        let path = "/stats?filter=downstream_cx_active";
        let (status, _, body) = http_unix::send(&self.admin, http::Method::GET, path, ADMIN_TIMEOUT)
            .await
            .ok()?;
        (status == 200).then(|| count(&String::from_utf8_lossy(&body)))
    }
}

/// Sums `listener.<address>.downstream_cx_active` over all listeners but the admin interface.
fn count(stats: &str) -> u64 {
    let of_listener = |name: &str| {
        name.strip_prefix("listener.")
            .is_some_and(|rest| !rest.starts_with("admin.") && !rest.contains("worker_"))
            && name.ends_with(".downstream_cx_active")
    };
    let lines = stats.lines().filter_map(|l| l.split_once(": "));
    lines
        .filter(|(name, _)| of_listener(name))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn connections_of_listeners_only() {
        let stats = "http.admin.downstream_cx_active: 1\nlistener.0.0.0.0_15001.downstream_cx_active: 2\n\
                     listener.0.0.0.0_15001.worker_0.downstream_cx_active: 2\nlistener.admin.downstream_cx_active: 1\n\
                     listener.0.0.0.0_15006.downstream_cx_active: 1\n";
        assert_eq!(super::count(stats), 3);
    }
}
