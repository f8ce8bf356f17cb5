//! The task of one pod: compares what the pod should have with what it has, and does the next step.
//!
//! Every step can be repeated and is recorded on disk once done, so that a step may be cut off anywhere (by a change of
//! mind, by the agent's death) and the next attempt carries on from there. Order of coming up: sandbox, files, process,
//! ready, redirection. Order of going down: rules out, SIGTERM, wait for the drain, rest of the redirection, files.

use std::fs::File;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weir_api::problem::ObjectRef;

use super::cgroup;
use super::{Directory, PodId, Process, Record, Sandbox, Shared, Status, Want};
use crate::cluster::Cluster;
use crate::plan::{Plan, Spec};
use crate::{http_unix, redirect, sys};

/// How long a fresh proxy may take to be ready before an event says what it waits for.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a starting proxy is asked.
const READY_POLL: Duration = Duration::from_millis(25);
/// Longest wait for one answer of a proxy's admin interface.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);
/// What tells a proxy of either engine that its clients are to come back elsewhere, while it goes on serving.
const SEND_AWAY: &str = "/drain_listeners?graceful&skip_exit&inboundonly";
/// A drain may last this much longer than the proxy was told.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// Shortest and longest pause before a failed step is tried again.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// A proxy that lived longer than this starts again at once when it dies.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// How often tokens, certificates and logs are looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(30);
/// How often a pod without an object is looked for in the container runtime.
const ABSENT_POLL: Duration = Duration::from_secs(1);
/// A pod without an object is given up after this time, whatever the container runtime says.
const ABSENT_MAX: Duration = Duration::from_secs(60);

/// Why a step failed; the text goes into events.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Waiting(String),
    #[error("redirection: {0}")]
    Redirect(#[from] redirect::Error),
    #[error("API server: {0}")]
    Cluster(#[from] crate::cluster::Error),
    #[error("container runtime: {0}")]
    Runtime(#[from] crate::sandbox::Error),
    #[error("files of the proxy: {0}")]
    Files(#[from] std::io::Error),
    #[error("cannot start {0}: {1}")]
    Start(String, std::io::Error),
    #[error("the proxy ended while starting: {0}")]
    Ended(String),
    #[error("the proxy runs but is not ready after {limit} s: {0}", limit = READY_TIMEOUT.as_secs())]
    NotReady(String),
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    Nothing,
    Run(Spec),
    Down,
    Destroy,
}

pub struct PodTask {
    shared: Arc<Shared>,
    pod: PodId,
    directory: Directory,
    want: watch::Receiver<Want>,
    status: watch::Sender<Status>,
    record: Option<Record>,
    process: Option<Process>,
    started: Instant,
    /// The rules have been compared with the kernel's by this agent.
    verified: bool,
    /// What the annotation says; `None` when not known.
    annotated: Option<String>,
    absent_since: Option<Instant>,
    /// The process has been told that the pod is leaving.
    sent_away: bool,
    /// Steps that failed since one succeeded.
    failures: u32,
    /// Times the proxy died young since it last lived long.
    crashes: u32,
}

impl PodTask {
    pub fn new(
        shared: Arc<Shared>,
        pod: PodId,
        record: Option<Record>,
        annotated: Option<String>,
        want: watch::Receiver<Want>,
        status: watch::Sender<Status>,
    ) -> std::io::Result<Self> {
        let directory = Directory::new(&shared.run_dir, &pod.uid)?;
        let mut task = Self {
            shared,
            pod,
            directory,
            want,
            status,
            record,
            process: None,
            started: Instant::now(),
            verified: false,
            annotated,
            absent_since: None,
            sent_away: false,
            failures: 0,
            crashes: 0,
        };
        task.adopt();
        Ok(task)
    }

    /// Takes over the process of the record, if it is still the one.
    fn adopt(&mut self) {
        let mark = self.directory.path().to_string_lossy().into_owned();
        let Some(id) = self.record.as_ref().and_then(|r| r.process) else {
            return;
        };
        self.process = Process::adopt(id, &mark);
        let (pod, found) = (&self.pod.name, self.process.is_some());
        tracing::info!(
            pod,
            namespace = self.pod.namespace,
            pid = id.pid,
            found,
            "looked for the proxy of an earlier run"
        );
    }

    /// Runs until the pod has gone or the agent shuts down; then proxy and redirection stay as they are.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // Wherever it is: a pause and an API server that hangs do not hold up the agent's end.
        if let Some(true) = shutdown.run_until_cancelled(self.follow()).await {
            self.status.send_replace(Status::Ended);
        }
    }

    /// Does what is wanted until the pod has gone (`true`), or nobody wants anything any more.
    async fn follow(&mut self) -> bool {
        loop {
            let want = self.want.borrow_and_update().clone();
            let goal = self.goal(&want);
            if goal == Goal::Destroy {
                self.destroy().await;
                return true;
            }
            let mut changes = self.want.clone();
            let outcome = tokio::select! {
                outcome = self.step(&goal, &want) => outcome,
                () = change_of_mind(&mut changes, &goal) => continue,
            };
            let settled = outcome.is_ok();
            let pause = self.concluded(outcome).await;
            if self.record.is_none() && settled && pause == HOUSEKEEPING {
                match want.plan {
                    _ if want.absent => return true,
                    Plan::Off => return true,
                    Plan::Run(_) => continue,
                    Plan::Keep => {}
                }
            }
            tokio::select! {
                changed = self.want.changed() => if changed.is_err() { return false },
                () = ended(&mut self.process) => self.died().await,
                () = tokio::time::sleep(pause) => self.look_after().await,
            }
        }
    }

    fn goal(&mut self, want: &Want) -> Goal {
        if !want.absent {
            self.absent_since = None;
        }
        let draining = self.record.as_ref().is_some_and(|r| r.draining);
        match (&want.plan, &self.record) {
            _ if want.gone => Goal::Destroy,
            (Plan::Off, Some(_)) => Goal::Down,
            (_, Some(_)) if draining => Goal::Down,
            (Plan::Run(spec), _) if !want.absent => Goal::Run(spec.clone()),
            (_, Some(record)) => Goal::Run(record.spec.clone()),
            _ => Goal::Nothing,
        }
    }

    async fn step(&mut self, goal: &Goal, want: &Want) -> Result<(), Error> {
        if want.absent && self.containers_gone().await {
            self.destroy().await;
            return Ok(());
        }
        match goal {
            Goal::Nothing | Goal::Destroy => Ok(()),
            Goal::Down => self.take_down().await,
            Goal::Run(_) if want.leaving && self.captures() => self.send_away().await,
            Goal::Run(spec) => self.bring_up(spec, want).await,
        }
    }

    /// Reports the outcome of a step; returns the pause before the next look.
    async fn concluded(&mut self, outcome: Result<(), Error>) -> Duration {
        let Err(error) = outcome else {
            self.failures = 0;
            let done = self.annotate().await && self.absent_since.is_none_or(|_| self.record.is_none());
            return if done { HOUSEKEEPING } else { ABSENT_POLL };
        };
        let message = error.to_string();
        self.status.send_replace(Status::Failed(message.clone()));
        self.failures = self.failures.saturating_add(1);
        let pause = back_off(self.failures);
        // Nothing is late yet and nothing is wrong: nobody needs an event, and the next look comes soon.
        if let Error::Waiting(_) = error {
            return pause.min(ABSENT_POLL);
        }
        self.event("Warning", "ProxyFailed", &message).await;
        pause
    }

    // --- up ---

    async fn bring_up(&mut self, spec: &Spec, want: &Want) -> Result<(), Error> {
        let sandbox = self.sandbox(want).await?;
        if self.record.as_ref().is_some_and(|r| r.sandbox.id != sandbox.id) {
            self.forget_sandbox().await;
        }
        if self.record.as_ref().is_some_and(|r| r.spec.engine != spec.engine) {
            self.take_down().await?;
        }
        if self.process.is_none() {
            self.start(spec, &sandbox).await?;
        }
        self.ready().await?;
        self.redirect(spec, &sandbox).await?;
        self.refresh_spec(spec)?;
        let proxy = self.record.as_ref().map(|r| r.proxy.clone()).unwrap_or_default();
        let serving = Status::Serving {
            sandbox: sandbox.id,
            proxy,
        };
        if self.status.send_replace(serving.clone()) != serving {
            tracing::info!(pod = self.pod.name, namespace = self.pod.namespace, engine = %spec.engine, "proxy serves");
        }
        Ok(())
    }

    /// The sandbox that the proxy belongs to: the runtime told us, or we knew, or we ask.
    async fn sandbox(&mut self, want: &Want) -> Result<Sandbox, Error> {
        if let Some(told) = &want.sandbox {
            return Ok(told.clone());
        }
        if let Some(record) = &self.record
            && File::open(&record.sandbox.netns).is_ok()
        {
            return Ok(record.sandbox.clone());
        }
        self.working("its network namespace");
        let _permit = self.shared.calls.acquire().await;
        let found = self.shared.runtime.find(&self.pod).await?;
        found.ok_or_else(|| Error::Waiting("the container runtime has no running sandbox of the pod yet".into()))
    }

    async fn start(&mut self, spec: &Spec, sandbox: &Sandbox) -> Result<(), Error> {
        self.directory.create()?;
        self.prepare(spec).await?;
        let proxy = new_id()?;
        let netns = File::open(&sandbox.netns)?;
        let log = self.directory.log()?;
        let _ = std::fs::remove_file(self.directory.admin());
        let mut command = self.shared.launch.command(spec.engine, &self.directory);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir(self.directory.path());
        sys::enter_netns(&mut command, netns);
        sys::new_session(&mut command);
        let redirected = self.record.as_ref().and_then(|r| r.redirected.clone());
        let mut record = Record {
            pod: self.pod.clone(),
            sandbox: sandbox.clone(),
            spec: spec.clone(),
            proxy,
            process: None,
            redirected,
            draining: false,
        };
        // Before the start, so that a process never runs without a record that leads to it.
        self.directory.save(&record)?;
        let exe = self.shared.launch.exe.display().to_string();
        let process = Process::spawn(&mut command).map_err(|e| Error::Start(exe, e))?;
        record.process = Some(process.id());
        self.process = Some(process);
        self.sent_away = false;
        self.started = Instant::now();
        if let (Some(root), Some(id)) = (&self.shared.cgroup, record.process) {
            cgroup::enter(root, &self.pod.uid, id.pid);
        }
        let saved = self.directory.save(&record);
        self.record = Some(record);
        Ok(saved?)
    }

    /// Files that the proxy starts from. A proxy that has run before starts with what it had: its restart must not wait
    /// for an API server.
    async fn prepare(&mut self, spec: &Spec) -> Result<(), Error> {
        let restart = self.record.is_some() && self.directory.complete();
        let control = self.shared.control.borrow().clone();
        match &control {
            Some(control) => {
                let host_ip = *self.shared.host_ip.borrow();
                self.directory.configure(&self.pod, spec.engine, host_ip, control)?;
            }
            None if restart => {}
            None => {
                self.working("the control plane's address and certificate (Service weir-control, ConfigMap weir-ca)");
                let message = "the control plane's address and certificate are not known yet; check Service weir-control \
                               and ConfigMap weir-ca in weir-system";
                return Err(Error::Waiting(message.into()));
            }
        }
        if !restart || self.directory.token_age().is_none() {
            self.working("a token for the control plane");
            self.renew_token().await?;
        }
        Ok(())
    }

    async fn renew_token(&self) -> Result<(), Error> {
        let _permit = self.shared.calls.acquire().await;
        let token = self.shared.cluster.token(&self.pod).await?;
        Ok(self.directory.save_token(&token)?)
    }

    /// Waits until the proxy has a complete configuration.
    async fn ready(&mut self) -> Result<(), Error> {
        if matches!(*self.status.borrow(), Status::Serving { .. }) {
            return Ok(());
        }
        self.working("the proxy's first configuration from the control plane");
        let deadline = Instant::now() + READY_TIMEOUT;
        let admin = self.directory.admin();
        loop {
            let last = match http_unix::send(&admin, http::Method::GET, "/ready", ADMIN_TIMEOUT).await {
                Ok((200, ..)) => return Ok(()),
                Ok((status, _, body)) => format!("/ready answers {status} {}", String::from_utf8_lossy(&body).trim()),
                Err(error) => format!("its admin socket: {error}"),
            };
            if Instant::now() >= deadline {
                return Err(Error::NotReady(last));
            }
            tokio::select! {
                () = tokio::time::sleep(READY_POLL) => {}
                () = ended(&mut self.process) => {
                    self.process = None;
                    return Err(Error::Ended(self.directory.log_tail()));
                }
            }
        }
    }

    async fn redirect(&mut self, spec: &Spec, sandbox: &Sandbox) -> Result<(), Error> {
        let Some(record) = &mut self.record else { return Ok(()) };
        let there = record.redirected.as_ref() == Some(&spec.skip);
        if there && (self.verified || redirect::verify(&sandbox.netns, &spec.skip).await.is_ok()) {
            self.verified = true;
            return Ok(());
        }
        // On record first: should the agent die in between, the next one takes the rules for there and checks them.
        record.redirected = Some(spec.skip.clone());
        self.directory.save(record)?;
        self.verified = false;
        redirect::apply(&sandbox.netns, &spec.skip).await?;
        self.verified = true;
        Ok(())
    }

    fn refresh_spec(&mut self, spec: &Spec) -> Result<(), Error> {
        match &mut self.record {
            Some(record) if record.spec != *spec => {
                record.spec = spec.clone();
                Ok(self.directory.save(record)?)
            }
            _ => Ok(()),
        }
    }

    /// The pod got another sandbox: what belonged to the old one goes with it.
    async fn forget_sandbox(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
        self.status.send_replace(Status::Idle);
        self.record = None;
        self.verified = false;
        self.directory.remove();
    }

    // --- down ---

    /// Whether a proxy runs and the pod's traffic passes it.
    fn captures(&self) -> bool {
        self.process.is_some() && self.record.as_ref().is_some_and(|r| r.redirected.is_some())
    }

    /// The pod is being deleted. An application that finishes what it has tells its clients to go, but what it says of a
    /// connection ends at the proxy: so the proxy says it, to those outside.
    async fn send_away(&mut self) -> Result<(), Error> {
        if self.sent_away {
            return Ok(());
        }
        let admin = self.directory.admin();
        match http_unix::send(&admin, http::Method::POST, SEND_AWAY, ADMIN_TIMEOUT).await {
            Ok((200, ..)) => self.sent_away = true,
            Ok((status, _, body)) => {
                let body = String::from_utf8_lossy(&body);
                return Err(Error::Waiting(format!("{SEND_AWAY} answers {status} {}", body.trim())));
            }
            Err(error) => return Err(Error::Waiting(format!("its admin socket: {error}"))),
        }
        Ok(())
    }

    /// Takes proxy and redirection away without breaking a request.
    async fn take_down(&mut self) -> Result<(), Error> {
        let Some(record) = &mut self.record else { return Ok(()) };
        if !record.draining {
            record.draining = true;
            self.directory.save(record)?;
        }
        self.status
            .send_replace(Status::Working("the drain of the proxy".into()));
        let netns = record.sandbox.netns.clone();
        let reachable = netns.exists();
        if record.redirected.is_some() && reachable {
            redirect::release(&netns).await?;
        }
        if let Some(process) = &mut self.process {
            process.signal(Signal::SIGTERM);
            let limit = self.shared.launch.drain + DRAIN_GRACE;
            if tokio::time::timeout(limit, process.exited()).await.is_err() {
                process.kill().await;
            }
            self.process = None;
        }
        if reachable {
            redirect::remove(&netns).await?;
        }
        self.record = None;
        self.verified = false;
        self.directory.remove();
        cgroup::leave(self.shared.cgroup.as_deref(), &self.pod.uid);
        self.status.send_replace(Status::Idle);
        Ok(())
    }

    /// The containers have gone, nobody is left to serve.
    async fn destroy(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
        if let Some(record) = self.record.take()
            && record.redirected.is_some()
            && record.sandbox.netns.exists()
            && let Err(error) = redirect::remove(&record.sandbox.netns).await
        {
            tracing::debug!(%error, "redirection of a pod that has gone");
        }
        self.directory.remove();
        cgroup::leave(self.shared.cgroup.as_deref(), &self.pod.uid);
    }

    /// Whether a pod without an object has no containers either.
    async fn containers_gone(&mut self) -> bool {
        let since = *self.absent_since.get_or_insert_with(Instant::now);
        if self.record.is_none() || since.elapsed() > ABSENT_MAX {
            return true;
        }
        match self.shared.runtime.find(&self.pod).await {
            Ok(found) => found.is_none(),
            Err(_) => self
                .record
                .as_ref()
                .is_some_and(|r| File::open(&r.sandbox.netns).is_err()),
        }
    }

    // --- beside ---

    /// The proxy has died by itself. What it was to do is still wanted, so the next step starts it again; redirection
    /// stays, nothing passes unseen meanwhile.
    async fn died(&mut self) {
        self.process = None;
        self.status
            .send_replace(Status::Working("the restart of its proxy".into()));
        self.crashes = if self.started.elapsed() < STABLE_AFTER {
            self.crashes.saturating_add(1)
        } else {
            0
        };
        let message = format!(
            "the proxy ended unasked and is started again; its last words: {}",
            self.directory.log_tail()
        );
        let (shared, object) = (self.shared.clone(), self.object());
        // Beside the restart, which must not wait for an API server.
        tokio::spawn(async move {
            shared
                .cluster
                .event(&object, "Warning", "ProxyRestarted", &message)
                .await
        });
        if self.crashes > 0 {
            let _ = tokio::time::timeout(back_off(self.crashes), self.want.changed()).await;
        }
    }

    /// Tokens, certificates, logs.
    async fn look_after(&mut self) {
        if self.record.is_none() {
            return;
        }
        self.directory.rotate_log();
        if self
            .directory
            .token_age()
            .is_none_or(|age| age >= Cluster::token_renewal())
            && let Err(error) = self.renew_token().await
        {
            tracing::warn!(pod = self.pod.name, namespace = self.pod.namespace, %error, "token not renewed, tried again soon");
        }
        let control = self.shared.control.borrow().clone();
        if let (Some(control), Some(record)) = (control, &self.record) {
            let host_ip = *self.shared.host_ip.borrow();
            if let Err(error) = self
                .directory
                .configure(&self.pod, record.spec.engine, host_ip, &control)
            {
                tracing::warn!(pod = self.pod.name, %error, "cannot write a proxy's bootstrap");
            }
        }
    }

    /// Brings the annotation up to date; false when that has to be tried again.
    async fn annotate(&mut self) -> bool {
        let id = self.record.as_ref().map(|r| r.proxy.clone()).unwrap_or_default();
        if self.absent_since.is_some() || self.annotated.as_ref() == Some(&id) {
            return true;
        }
        match self.shared.cluster.annotate(&self.pod, &id).await {
            Ok(()) => {
                self.annotated = Some(id);
                true
            }
            Err(error) => {
                tracing::warn!(pod = self.pod.name, namespace = self.pod.namespace, %error, "annotation not written");
                false
            }
        }
    }

    fn object(&self) -> ObjectRef {
        ObjectRef {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: self.pod.namespace.clone(),
            name: self.pod.name.clone(),
            uid: self.pod.uid.clone(),
        }
    }

    async fn event(&self, kind: &str, reason: &str, message: &str) {
        self.shared.cluster.event(&self.object(), kind, reason, message).await;
    }

    fn working(&self, on: &str) {
        self.status.send_replace(Status::Working(on.to_owned()));
    }
}

/// Returns when a step is to be cut off: a proxy that is coming up by any change, a drain only when the pod has gone.
async fn change_of_mind(want: &mut watch::Receiver<Want>, goal: &Goal) {
    loop {
        if want.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if *goal != Goal::Down || want.borrow_and_update().gone {
            return;
        }
    }
}

/// Returns when the process has ended; never without one.
async fn ended(process: &mut Option<Process>) {
    match process {
        Some(process) => process.exited().await,
        None => std::future::pending().await,
    }
}

fn back_off(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.min(10)).min(RETRY_MAX)
}

/// A name for one run of a proxy: 64 hexadecimal digits.
fn new_id() -> std::io::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
