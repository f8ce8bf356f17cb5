//! All pods that the agent works on: who has a task, and what each task is told.
//!
//! Enters: plans from the caches, calls of the CNI plugin, records of an earlier agent. It decides nothing itself.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_api::labels;
use weir_api::problem::{Problem, Severity};

use crate::cni::Request;
use crate::plan::{Plan, plan};
use crate::supervise::{Directory, Handle, PodId, Shared, Status, Want};
use crate::watch::Stores;

/// A pod that the CNI plugin told of and that never shows up in the cache is taken for gone after this time.
const UNSEEN_MAX: Duration = Duration::from_secs(60);

/// The tasks of all pods, by the pods' uids.
pub struct Pods {
    shared: Arc<Shared>,
    tasks: Mutex<HashMap<String, Task>>,
    shutdown: CancellationToken,
}

struct Task {
    pod: PodId,
    handle: Handle,
    /// The cache has shown the pod; only then does its absence there mean anything.
    seen: bool,
    since: Instant,
}

impl Pods {
    /// Takes up what an earlier agent has left: its proxies are watched from here on, before anything is heard from the
    /// API server.
    pub fn adopt(shared: Arc<Shared>, shutdown: CancellationToken) -> Arc<Self> {
        let records = Directory::records(&shared.run_dir);
        let pods = Arc::new(Self {
            shared,
            tasks: Mutex::default(),
            shutdown,
        });
        let mut tasks = pods.tasks();
        for record in records {
            let pod = record.pod.clone();
            let started = Handle::start(
                pods.shared.clone(),
                pod.clone(),
                Some(record),
                None,
                Want::keep(),
                None,
                pods.shutdown.clone(),
            );
            match started {
                Ok(handle) => {
                    tasks.insert(
                        pod.uid.clone(),
                        Task {
                            pod,
                            handle,
                            seen: true,
                            since: Instant::now(),
                        },
                    );
                }
                Err(error) => tracing::warn!(pod = pod.name, namespace = pod.namespace, %error, "record not usable"),
            }
        }
        drop(tasks);
        pods
    }

    /// What the tasks share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Tells a pod's task what is wanted; starts the task if there is none.
    pub fn ensure(
        &self,
        id: &PodId,
        pod: Option<&Pod>,
        change: impl Fn(&mut Want),
    ) -> std::io::Result<watch::Receiver<Status>> {
        let mut tasks = self.tasks();
        if let Some(task) = tasks
            .get(&id.uid)
            .filter(|t| !t.handle.ended() && !t.handle.want.borrow().gone)
        {
            task.handle.update(&change);
            return Ok(task.handle.status.clone());
        }
        // Its directory and its control group are the new one's too.
        let ending = tasks.get(&id.uid).filter(|t| !t.handle.ended());
        let ending = ending.map(|t| t.handle.status.clone());
        let mut want = Want::keep();
        change(&mut want);
        let annotated = pod.map(annotation);
        let handle = Handle::start(
            self.shared.clone(),
            id.clone(),
            None,
            annotated,
            want,
            ending,
            self.shutdown.clone(),
        )?;
        let status = handle.status.clone();
        tasks.insert(
            id.uid.clone(),
            Task {
                pod: id.clone(),
                handle,
                seen: false,
                since: Instant::now(),
            },
        );
        Ok(status)
    }

    /// The sandbox of a request has gone; returns what to wait on, if there is a task that worked for it.
    pub fn gone(&self, request: &Request) -> Option<watch::Receiver<Status>> {
        let tasks = self.tasks();
        let named = |t: &&Task| t.pod.namespace == request.namespace && t.pod.name == request.pod;
        let task = match request.uid.as_str() {
            "" => tasks.values().find(named),
            uid => tasks.get(uid),
        }?;
        let served = Directory::new(&self.shared.run_dir, &task.pod.uid)
            .ok()
            .and_then(|d| d.record());
        let told = task.handle.want.borrow().sandbox.as_ref().map(|s| s.id.clone());
        let sandbox = told.or_else(|| served.map(|r| r.sandbox.id));
        // The end of an earlier sandbox may be told after the beginning of the next.
        if sandbox.is_some_and(|s| s != request.sandbox) {
            return None;
        }
        task.handle.update(|want| want.gone = true);
        Some(task.handle.status.clone())
    }

    /// Compares the caches with the tasks. Called after every change and now and then.
    pub fn reconcile(&self, stores: &Stores) {
        let mut present = HashSet::new();
        let system = stores.namespace(labels::SYSTEM_NAMESPACE);
        for pod in stores.pods.state() {
            let Some(id) = pod_id(&pod) else { continue };
            present.insert(id.uid.clone());
            let owner = stores.owner(&pod);
            let namespace = stores.namespace(&id.namespace);
            let (plan, problems) = plan(
                &pod,
                owner.workload(),
                namespace.as_ref(),
                system.as_ref(),
                stores.default_engine(),
            );
            self.report(problems);
            self.follow(&id, &pod, plan);
        }
        let mut tasks = self.tasks();
        tasks.retain(|uid, task| {
            task.seen |= present.contains(uid);
            if !present.contains(uid) && (task.seen || task.since.elapsed() > UNSEEN_MAX) {
                task.handle.update(|want| want.absent = true);
            }
            !task.handle.ended()
        });
    }

    fn follow(&self, id: &PodId, pod: &Pod, plan: Plan) {
        let needed = match &plan {
            Plan::Run(_) => true,
            // What an agent that died in between has left on the pod.
            Plan::Off => !annotation(pod).is_empty(),
            Plan::Keep => false,
        };
        let known = self.tasks().get(&id.uid).is_some_and(|t| !t.handle.ended());
        if !needed && !known {
            return;
        }
        let ensured = self.ensure(id, Some(pod), |want| {
            want.plan = plan.clone();
            want.leaving = pod.metadata.deletion_timestamp.is_some();
            want.absent = false;
        });
        if let Err(error) = ensured {
            tracing::warn!(pod = id.name, namespace = id.namespace, %error, "pod left out");
        }
    }

    /// Puts problems onto their objects as events.
    pub fn report(&self, problems: Vec<Problem>) {
        for problem in problems {
            let shared = self.shared.clone();
            let reason = match problem.severity {
                Severity::Warning => "InvalidValue",
                Severity::Error => "NotMeshed",
            };
            let message = format!("{}: {}", problem.field, problem.message);
            tokio::spawn(async move { shared.cluster.event(&problem.object, "Warning", reason, &message).await });
        }
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<String, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What identifies a pod for everything that follows; `None` without a uid.
pub fn pod_id(pod: &Pod) -> Option<PodId> {
    let account = pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.clone())
        .filter(|a| !a.is_empty());
    let name = pod.metadata.name.clone()?;
    Some(PodId {
        workload: labels::owner(&pod.metadata, None).map_or_else(|| name.clone(), |(_, owner)| owner),
        namespace: pod.metadata.namespace.clone()?,
        name,
        uid: pod.metadata.uid.clone()?,
        service_account: account.unwrap_or_else(|| "default".into()),
    })
}

fn annotation(pod: &Pod) -> String {
    labels::value(&pod.metadata, labels::PROXY).unwrap_or("").to_owned()
}
