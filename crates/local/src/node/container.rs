//! One container's life: start, supervise, restart with back-off, stop.
//!
//! Enters: a container of a pod whose network and volumes are ready. Leaves: its state in the pod's run-time state, and at
//! the end whether it succeeded. It knows the pod's specification but not its status.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use k8s_openapi::jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::back_off::BackOff;
use super::env::{self, Placement};
use super::logs::Log;
use super::network::NODE_IP;
use super::probes::{self, Probed, Verdict};
use super::process::{self, Launch, PidNamespace, new_id};
use super::state::{PodRuntime, Started, State, Stop, Terminated, stop_requested};
use super::{Node, exec, files, volumes};
use crate::launch::{CommandSpec, ContainerSpec};

/// What a container gets at least after its preStop hook.
const AFTER_HOOK_MIN: Duration = Duration::from_secs(2);
/// How long the last output of an ended container may take to arrive.
const DRAIN_DEADLINE: Duration = Duration::from_millis(300);
/// `ErrImagePull` is shown this long before `ImagePullBackOff`.
const ERR_IMAGE_PULL: Duration = Duration::from_secs(2);
/// First wait after a container that could not be configured.
const CONFIG_RETRY: Duration = Duration::from_secs(1);
const CONFIG_RETRY_MAX: Duration = Duration::from_secs(30);

/// A container to run.
pub struct Runner {
    pub node: Arc<Node>,
    pub runtime: Arc<PodRuntime>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub init: bool,
    pub placement: Placement,
    pub netns: Option<std::path::PathBuf>,
}

/// Why a start did not happen.
struct StartError {
    reason: &'static str,
    message: String,
}

/// A started process.
struct Process {
    child: Child,
    pid: Pid,
    own_pid_namespace: bool,
    id: String,
    started_at: Timestamp,
    log: Arc<Log>,
    copies: Vec<tokio::task::JoinHandle<()>>,
}

impl Runner {
    /// Runs until the container shall not run any more; whether it succeeded.
    pub async fn run(self) -> bool {
        let name = self.container.name.clone();
        let mut crashes = BackOff::crash_loop();
        let mut retries = BackOff::retry(CONFIG_RETRY, CONFIG_RETRY_MAX);
        let mut pulls = BackOff::retry(Duration::from_secs(10), Duration::from_secs(300));
        let mut attempt = 0;
        loop {
            if self.stopping().is_some() {
                return false;
            }
            let process = match self.start(attempt).await {
                Ok(process) => process,
                Err(error) => {
                    let wait = if error.reason == "ErrImagePull" {
                        self.pull_failed(&error).await;
                        pulls.after(Duration::ZERO)
                    } else {
                        self.start_failed(&error);
                        retries.after(Duration::ZERO)
                    };
                    self.wait_or_stop(wait).await;
                    continue;
                }
            };
            attempt += 1;
            let began = Instant::now();
            let end = self.supervise(process).await;
            let good = end.exit_code == 0;
            self.runtime.update(&name, |view| {
                view.state = State::Terminated(end.clone());
                (view.ready, view.started, view.pid) = (false, false, None);
            });
            if self.stopping().is_some() || !self.restarts(good) {
                return good;
            }
            self.back_off(crashes.after(began.elapsed()), &end).await;
            if self.stopping().is_some() {
                return good;
            }
            self.runtime.update(&name, |view| {
                view.last = Some(end);
                view.restarts += 1;
            });
        }
    }

    fn stopping(&self) -> Option<Stop> {
        *self.runtime.stop.borrow()
    }

    fn restarts(&self, good: bool) -> bool {
        let policy = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref())
            .unwrap_or("Always");
        let policy = self.container.restart_policy.as_deref().unwrap_or(policy);
        let sidecar = self.container.restart_policy.as_deref() == Some("Always");
        match policy {
            "Never" => false,
            "OnFailure" => !good,
            // An init container is done when it has succeeded.
            _ => !(self.init && good && !sidecar),
        }
    }

    async fn back_off(&self, wait: Duration, end: &Terminated) {
        if wait.is_zero() {
            return;
        }
        let (name, pod) = (&self.container.name, &self.runtime.name);
        let message = format!(
            "back-off {}s restarting failed container={name} pod={pod}_{}({})",
            wait.as_secs(),
            self.runtime.namespace,
            self.runtime.uid
        );
        let event = format!(
            "Back-off restarting failed container {name} in pod {pod}_{}",
            self.runtime.namespace
        );
        self.node.events.warning(&self.pod, Some(name), "BackOff", event);
        self.runtime.update(name, |view| {
            view.last = Some(end.clone());
            view.state = State::Waiting {
                reason: "CrashLoopBackOff".into(),
                message: Some(message),
            };
        });
        self.wait_or_stop(wait).await;
        if self.stopping().is_some() {
            self.runtime
                .update(name, |view| view.state = State::Terminated(end.clone()));
        }
    }

    async fn wait_or_stop(&self, wait: Duration) {
        let mut stop = self.runtime.stop.subscribe();
        let _ = timeout(wait, stop_requested(&mut stop)).await;
    }

    fn waiting(&self, reason: &str, message: &str) {
        self.runtime.update(&self.container.name, |view| {
            view.state = State::Waiting {
                reason: reason.into(),
                message: Some(message.into()),
            };
        });
    }

    fn start_failed(&self, error: &StartError) {
        self.waiting(error.reason, &error.message);
        self.node.events.warning(
            &self.pod,
            Some(&self.container.name),
            "Failed",
            format!("Error: {}", error.message),
        );
    }

    async fn pull_failed(&self, error: &StartError) {
        let (name, image) = (
            &self.container.name,
            self.container.image.as_deref().unwrap_or_default(),
        );
        self.waiting("ErrImagePull", &error.message);
        self.node
            .events
            .warning(&self.pod, Some(name), "Failed", &error.message);
        self.wait_or_stop(ERR_IMAGE_PULL).await;
        let message = format!("Back-off pulling image \"{image}\"");
        self.node.events.normal(&self.pod, Some(name), "BackOff", &message);
        self.waiting("ImagePullBackOff", &message);
    }

    /// Starts the process; the state is `Running` afterwards. Nothing is left of a start that failed.
    async fn start(&self, attempt: i32) -> Result<Process, StartError> {
        let _permit = self.node.start_permits.acquire().await;
        let id = new_id();
        let dir = self.node.paths.container(&self.runtime.uid, &id);
        let started = self.start_as(id, attempt).await;
        if started.is_err() {
            let _ = std::fs::remove_dir_all(dir);
        }
        started
    }

    async fn start_as(&self, id: String, attempt: i32) -> Result<Process, StartError> {
        let name = &self.container.name;
        let own_pid_namespace = self.pod.spec.as_ref().is_none_or(|spec| spec.host_pid != Some(true));
        let (spec, file) = self.specify(&id, own_pid_namespace).map_err(|error| *error)?;
        let failed = |error: &dyn std::fmt::Display| StartError {
            reason: "RunContainerError",
            message: error.to_string(),
        };
        let path = self.node.paths.log(
            &self.runtime.namespace,
            &self.runtime.name,
            &self.runtime.uid,
            name,
            attempt,
        );
        let log = Log::create(path).await.map_err(|e| failed(&e))?;
        let launch = Launch {
            program: self.node.exe.clone(),
            args: vec!["container-init".into(), file],
            netns: self.netns.clone(),
            pid_namespace: if own_pid_namespace {
                PidNamespace::New
            } else {
                PidNamespace::Node
            },
            stdin: false,
            kill_on_drop: false,
        };
        let mut child = process::start(launch).await.map_err(|e| failed(&e))?;
        let started_at = Timestamp::now();
        let number = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .ok_or_else(|| failed(&"no process"))?;
        let mut copies = Vec::new();
        if let Some(out) = child.stdout.take() {
            copies.push(tokio::spawn(log.clone().copy("stdout", out)));
        }
        if let Some(err) = child.stderr.take() {
            copies.push(tokio::spawn(log.clone().copy("stderr", err)));
        }
        let netns = self.netns.clone();
        self.runtime.set_started(
            name,
            Started {
                command: spec.command,
                own_pid_namespace,
                netns,
                log: log.clone(),
                attempt,
            },
        );
        self.node
            .events
            .normal(&self.pod, Some(name), "Started", format!("Container started: {name}"));
        self.runtime.update(name, |view| {
            view.state = State::Running { since: started_at };
            (view.id, view.pid) = (id.clone(), Some(number));
            // Without a startup probe a container counts as started at once; init containers have no readiness.
            view.started = self.container.startup_probe.is_none();
        });
        Ok(Process {
            child,
            pid: Pid::from_raw(number),
            own_pid_namespace,
            id,
            started_at,
            log,
            copies,
        })
    }

    /// Writes the specification for `weir container-init`.
    fn specify(&self, id: &str, own_pid_namespace: bool) -> Result<(ContainerSpec, String), Box<StartError>> {
        let node = &self.node;
        let config = |error: &dyn std::fmt::Display| {
            Box::new(StartError {
                reason: "CreateContainerConfigError",
                message: error.to_string(),
            })
        };
        let spec = self.pod.spec.as_ref().ok_or_else(|| config(&"the pod has no spec"))?;
        let mut env = env::variables(&self.pod, &self.container, &self.placement, node.caches.as_ref())
            .map_err(|e| config(&e))?;
        let vars: HashMap<String, String> = env.iter().cloned().collect();
        let expand = |list: &Option<Vec<String>>| -> Vec<String> {
            list.iter().flatten().map(|text| env::expand(text, &vars)).collect()
        };
        let image = self.container.image.as_deref().unwrap_or_default();
        let argv = node
            .images
            .command(image, &expand(&self.container.command), &expand(&self.container.args))
            .map_err(|error| {
                Box::new(StartError {
                    reason: "ErrImagePull",
                    message: error.to_string(),
                })
            })?;
        let host_network = spec.host_network == Some(true);
        let hostname = files::hostname(&self.pod);
        for (key, value) in [("PATH", node.images.path()), ("HOSTNAME", &hostname), ("HOME", "/root")] {
            if !vars.contains_key(key) {
                env.push((key.to_string(), value.to_string()));
            }
        }
        let mut mounts = node.images.mounts();
        mounts.extend(volumes::mounts(node, &self.pod, &self.container, &vars).map_err(|e| config(&e))?);
        let security = self.container.security_context.clone().unwrap_or_default();
        let pod_security = spec.security_context.clone().unwrap_or_default();
        let user = security.run_as_user.or(pod_security.run_as_user);
        let group = security.run_as_group.or(pod_security.run_as_group);
        let dir = node.paths.container(&self.runtime.uid, id);
        let rootfs = dir.join("rootfs");
        std::fs::create_dir_all(&rootfs).map_err(|e| config(&e))?;
        let spec = ContainerSpec {
            command: CommandSpec {
                argv,
                env,
                cwd: self
                    .container
                    .working_dir
                    .as_deref()
                    .filter(|dir| !dir.is_empty())
                    .unwrap_or("/")
                    .into(),
                uid: node.users.map(user),
                gid: node.users.map(group),
            },
            hostname: (!host_network).then_some(hostname),
            rootfs,
            mounts,
            files: files::etc(&self.pod, self.placement.pod_ip),
            keep: node.images.keep().to_vec(),
            private: node.paths.node(),
            own_pid_namespace,
        };
        let file = dir.join("spec.json");
        let text = serde_json::to_vec(&spec).map_err(|e| config(&e))?;
        std::fs::write(&file, text).map_err(|e| config(&e))?;
        Ok((spec, file.display().to_string()))
    }

    /// Waits for the end; kills on request or when a probe says so.
    async fn supervise(&self, mut process: Process) -> Terminated {
        let (verdicts, mut verdict) = mpsc::channel(1);
        let sidecar = self.init && self.container.restart_policy.as_deref() == Some("Always");
        let probes = (!self.init || sidecar).then(|| tokio::spawn(self.probed().run(verdicts)));
        let hook = self
            .container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.clone());
        let mut stop = self.runtime.stop.subscribe();
        let mut post_start = Box::pin(async {
            match &hook {
                Some(hook) => self.hook(hook).await,
                None => Ok(()),
            }
        });
        let mut hook_done = false;
        let status = loop {
            tokio::select! {
                status = process.child.wait() => break status,
                () = stop_requested(&mut stop) => break self.terminate(&mut process, None).await,
                Some(Verdict::Unhealthy(why)) = verdict.recv() => {
                    self.node.events.normal(&self.pod, Some(&self.container.name), "Killing", why);
                    break self.terminate(&mut process, Some(self.grace())).await;
                }
                result = &mut post_start, if !hook_done => {
                    hook_done = true;
                    if let Err(why) = result {
                        let message = format!("PostStartHook failed: {why}");
                        self.node.events.warning(&self.pod, Some(&self.container.name), "FailedPostStartHook", message);
                        break self.terminate(&mut process, Some(self.grace())).await;
                    }
                }
            }
        };
        if let Some(probes) = probes {
            probes.abort();
        }
        self.finish(process, status).await
    }

    fn probed(&self) -> Probed {
        Probed {
            node: self.node.clone(),
            runtime: self.runtime.clone(),
            pod: self.pod.clone(),
            container: self.container.clone(),
            pod_ip: self.placement.pod_ip,
        }
    }

    /// Seconds of grace when no deletion says otherwise.
    fn grace(&self) -> Duration {
        let seconds = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds);
        Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30))
    }

    /// preStop hook, SIGTERM, and SIGKILL when the grace is over. Without a fixed grace the pod's stop request says how
    /// long, and may say less while we wait.
    async fn terminate(&self, process: &mut Process, fixed: Option<Duration>) -> std::io::Result<ExitStatus> {
        let name = &self.container.name;
        let began = Instant::now();
        let grace = || {
            fixed
                .or(self.stopping().map(|s| Duration::from_secs(s.grace_seconds)))
                .unwrap_or_default()
        };
        if fixed.is_none() {
            self.node
                .events
                .normal(&self.pod, Some(name), "Killing", format!("Stopping container {name}"));
        }
        let hook = self
            .container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let mut extra = Duration::ZERO;
        if let Some(hook) = hook.filter(|_| !grace().is_zero()) {
            tokio::select! {
                result = self.hook(hook) => if let Err(why) = result {
                    let message = format!("PreStopHook failed: {why}");
                    self.node.events.warning(&self.pod, Some(name), "FailedPreStopHook", message);
                },
                () = self.grace_over(began, &grace, Duration::ZERO) => {}
                status = process.child.wait() => return status,
            }
            extra = (began.elapsed() + AFTER_HOOK_MIN).saturating_sub(grace());
        }
        if !grace().is_zero() {
            process.signal(Signal::SIGTERM);
            tokio::select! {
                status = process.child.wait() => return status,
                () = self.grace_over(began, &grace, extra) => {}
            }
        }
        process.signal(Signal::SIGKILL);
        process.child.wait().await
    }

    /// Returns once the grace, which others may shorten, is over.
    async fn grace_over(&self, began: Instant, grace: &impl Fn() -> Duration, extra: Duration) {
        let mut stop = self.runtime.stop.subscribe();
        loop {
            let left = (grace() + extra).saturating_sub(began.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = sleep(left) => return,
                _ = stop.changed() => {}
            }
        }
    }

    async fn hook(&self, hook: &LifecycleHandler) -> Result<(), String> {
        if let Some(exec) = &hook.exec {
            let argv = exec.command.clone().unwrap_or_default();
            return exec::run(&self.node, &self.runtime, &self.container.name, argv)
                .await
                .map(drop);
        }
        if let Some(http) = &hook.http_get {
            return probes::http_get(http, &self.container, self.placement.pod_ip).await;
        }
        if let Some(pause) = &hook.sleep {
            sleep(Duration::from_secs(u64::try_from(pause.seconds).unwrap_or(0))).await;
        }
        Ok(())
    }

    /// Collects what is left after the end.
    async fn finish(&self, process: Process, status: std::io::Result<ExitStatus>) -> Terminated {
        let finished_at = Timestamp::now();
        if !process.own_pid_namespace {
            // What the container left in its group; sessions of their own (an agent's proxies) stay.
            process.signal(Signal::SIGKILL);
        }
        for copy in process.copies {
            let abort = copy.abort_handle();
            if timeout(DRAIN_DEADLINE, copy).await.is_err() {
                abort.abort();
            }
        }
        process.log.finish();
        let dir = self.node.paths.container(&self.runtime.uid, &process.id);
        let _ = std::fs::remove_dir_all(dir);
        let (exit_code, signal) = match &status {
            Ok(status) => (exec::exit_code(*status), status.signal()),
            Err(_) => (137, None),
        };
        Terminated {
            exit_code,
            signal,
            reason: if exit_code == 0 { "Completed" } else { "Error" }.into(),
            message: status.err().map(|error| error.to_string()),
            started_at: Some(process.started_at),
            finished_at,
            container_id: process.id,
        }
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        if self.own_pid_namespace {
            // Its death takes everything in its pid namespace along.
            let _ = kill(self.pid, signal);
        } else if kill(Pid::from_raw(-self.pid.as_raw()), signal).is_err() && self.child.id().is_some() {
            let _ = kill(self.pid, signal);
        }
    }
}

/// The placement of a pod on this node.
pub fn placement(ip: Ipv4Addr) -> Placement {
    Placement {
        pod_ip: ip,
        host_ip: NODE_IP,
    }
}
