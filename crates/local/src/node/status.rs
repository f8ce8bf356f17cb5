//! A pod's status from its run-time state.
//!
//! Enters: the object, a snapshot of the run-time state, the status written before. Leaves: the status to write. Pure,
//! except for the writer at the end, which patches the API whenever the result differs.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::Node;
use super::back_off::BackOff;
use super::network::NODE_IP;
use super::state::{ContainerView, PodRuntime, Snapshot, State, Terminated};

/// Longest wait between attempts to write a status.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Computes the status.
pub fn compute(pod: &Pod, now_state: &Snapshot, before: Option<&PodStatus>, now: Timestamp) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let views = |init: bool| now_state.containers.iter().filter(move |view| view.init == init);
    let phase = phase(pod, now_state);
    let terminal = matches!(phase, "Succeeded" | "Failed");
    let unready: Vec<&str> = views(false)
        .filter(|view| !view.ready)
        .map(|view| view.name.as_str())
        .collect();
    let ready = unready.is_empty() && !terminal && now_state.sandbox.is_some();
    let uninitialized: Vec<&str> = views(true)
        .filter(|v| !v.succeeded() && !v.started)
        .map(|v| v.name.as_str())
        .collect();
    let initialized = now_state.initialized || (uninitialized.is_empty() && now_state.sandbox.is_some());

    let not_ready = || match phase {
        "Succeeded" => ("PodCompleted".to_string(), None),
        "Failed" => ("PodFailed".to_string(), None),
        _ => {
            let message = format!("containers with unready status: [{}]", unready.join(" "));
            ("ContainersNotReady".to_string(), Some(message))
        }
    };
    let not_initialized = || {
        let message = format!("containers with incomplete status: [{}]", uninitialized.join(" "));
        ("ContainersNotInitialized".to_string(), Some(message))
    };
    let completed = || (phase == "Succeeded").then(|| ("PodCompleted".to_string(), None));
    let conditions = Conditions { before, now };
    let sandbox_there = now_state.sandbox.is_some() && !now_state.finished;
    let conditions = vec![
        conditions.make("PodReadyToStartContainers", sandbox_there, None),
        conditions.make(
            "Initialized",
            initialized,
            if initialized {
                completed()
            } else {
                Some(not_initialized())
            },
        ),
        conditions.make("Ready", ready, (!ready).then(not_ready)),
        conditions.make("ContainersReady", ready, (!ready).then(not_ready)),
        conditions.make("PodScheduled", true, None),
    ];
    let list = |init: bool| -> Option<Vec<ContainerStatus>> {
        let list: Vec<_> = views(init).map(container_status).collect();
        (!list.is_empty()).then_some(list)
    };
    let ip = now_state
        .sandbox
        .as_ref()
        .map(|sandbox| sandbox.ip.to_string())
        .or(before.and_then(|b| b.pod_ip.clone()));
    let host_ip = NODE_IP.to_string();
    PodStatus {
        phase: Some(phase.into()),
        reason: now_state.failure.as_ref().map(|(reason, _)| reason.clone()),
        message: now_state.failure.as_ref().map(|(_, message)| message.clone()),
        conditions: Some(conditions),
        container_statuses: list(false),
        init_container_statuses: list(true),
        host_ip: Some(host_ip.clone()),
        host_ips: Some(vec![HostIP { ip: host_ip }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: before.and_then(|before| before.start_time.clone()).or(Some(Time(now))),
        qos_class: Some(qos_class(&spec.containers).into()),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn phase(pod: &Pod, state: &Snapshot) -> &'static str {
    if state.failure.is_some() {
        return "Failed";
    }
    let policy = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always");
    let app: Vec<&ContainerView> = state.containers.iter().filter(|view| !view.init).collect();
    let ended = |view: &&ContainerView| matches!(view.state, State::Terminated(_));
    let init_failed = state
        .containers
        .iter()
        .any(|view| view.init && ended(&view) && !view.succeeded());
    if init_failed && (policy == "Never" || state.finished) {
        return "Failed";
    }
    if !app.is_empty() && app.iter().all(ended) && (state.finished || policy != "Always") {
        let all_good = app.iter().all(|view| view.succeeded());
        match (policy, all_good) {
            (_, true) => return "Succeeded",
            ("Never", false) => return "Failed",
            (_, false) if state.finished => return "Failed",
            _ => {}
        }
    }
    let never_started = app.iter().all(|view| view.id.is_empty());
    match (never_started, state.finished) {
        (true, true) => "Failed",
        (true, false) => "Pending",
        (false, _) => "Running",
    }
}

struct Conditions<'a> {
    before: Option<&'a PodStatus>,
    now: Timestamp,
}

impl Conditions<'_> {
    /// A condition whose transition time is kept while its status stays.
    fn make(&self, kind: &str, on: bool, why: Option<(String, Option<String>)>) -> PodCondition {
        let status = if on { "True" } else { "False" };
        let conditions = self
            .before
            .and_then(|before| before.conditions.as_deref())
            .unwrap_or_default();
        let same = conditions.iter().find(|c| c.type_ == kind && c.status == status);
        let since = same
            .and_then(|c| c.last_transition_time.clone())
            .unwrap_or(Time(self.now));
        let (reason, message) = why.map_or((None, None), |(reason, message)| (Some(reason), message));
        PodCondition {
            type_: kind.into(),
            status: status.into(),
            last_transition_time: Some(since),
            reason,
            message,
            ..PodCondition::default()
        }
    }
}

fn container_status(view: &ContainerView) -> ContainerStatus {
    ContainerStatus {
        name: view.name.clone(),
        image: view.image.clone(),
        image_id: if view.id.is_empty() {
            String::new()
        } else {
            format!("weir-local/{}", view.image)
        },
        container_id: (!view.id.is_empty()).then(|| container_id(&view.id)),
        ready: view.ready,
        started: Some(view.started),
        restart_count: view.restarts,
        state: Some(container_state(&view.state)),
        last_state: Some(view.last.as_ref().map(terminated).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

/// An id as it stands in a status.
pub fn container_id(id: &str) -> String {
    format!("weir://{id}")
}

fn container_state(state: &State) -> ContainerState {
    match state {
        State::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: message.clone(),
            }),
            ..ContainerState::default()
        },
        State::Running { since } => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            }),
            ..ContainerState::default()
        },
        State::Terminated(end) => terminated(end),
    }
}

fn terminated(end: &Terminated) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: end.exit_code,
            signal: end.signal,
            reason: Some(end.reason.clone()),
            message: end.message.clone(),
            started_at: end.started_at.map(Time),
            finished_at: Some(Time(end.finished_at)),
            container_id: Some(container_id(&end.container_id)),
        }),
        ..ContainerState::default()
    }
}

/// Guaranteed, Burstable or BestEffort, by the containers' cpu and memory.
fn qos_class(containers: &[Container]) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for container in containers {
        let resources = container.resources.clone().unwrap_or_default();
        let (limits, requests) = (
            resources.limits.unwrap_or_default(),
            resources.requests.unwrap_or_default(),
        );
        any |= !limits.is_empty() || !requests.is_empty();
        for name in ["cpu", "memory"] {
            let limit = limits.get(name);
            let request = requests.get(name).or(limit);
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Writes the status whenever it changes; returns once the pod has finished and that is written, or the pod is gone.
pub async fn keep_written(node: Arc<Node>, runtime: Arc<PodRuntime>) {
    let api: Api<Pod> = Api::namespaced(node.client.clone(), &runtime.namespace);
    let mut changes = runtime.changes.subscribe();
    let mut written = runtime.object().status.clone();
    let mut first = true;
    loop {
        changes.mark_unchanged();
        if node.stopping.is_cancelled() {
            // The pods do not end, the node does: kept data goes on from what they were.
            return;
        }
        let snapshot = runtime.snapshot();
        let status = compute(&runtime.object(), &snapshot, written.as_ref(), Timestamp::now());
        if first || written.as_ref() != Some(&status) {
            if !write(&api, &runtime, &status).await {
                return;
            }
            written = Some(status);
            first = false;
        }
        if snapshot.finished {
            return;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Retries until written; false when the pod is gone.
async fn write(api: &Api<Pod>, runtime: &PodRuntime, status: &PodStatus) -> bool {
    let mut back_off = BackOff::retry(Duration::from_millis(50), RETRY_MAX);
    let patch = json!({"metadata": {"uid": runtime.uid}, "status": patch_body(status)});
    loop {
        match api
            .patch_status(&runtime.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(_) => return true,
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return false,
            Err(error) => {
                tracing::debug!(pod = runtime.name, %error, "status not written");
                tokio::time::sleep(back_off.after(Duration::ZERO)).await;
            }
        }
    }
}

/// A merge patch keeps what it does not name: name what must go.
fn patch_body(status: &PodStatus) -> serde_json::Value {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    if let Some(map) = body.as_object_mut() {
        for key in ["reason", "message"] {
            map.entry(key).or_insert(serde_json::Value::Null);
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::state::Sandbox;
    use super::*;

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "weir",
                "resources": {"requests": {"cpu": "1"}}}]}
        }))
        .unwrap()
    }

    fn snapshot(change: impl FnOnce(&mut ContainerView)) -> Snapshot {
        let mut view = ContainerView::new("c", "weir", false);
        change(&mut view);
        let sandbox = Sandbox {
            id: "s".into(),
            netns: None,
            ip: Ipv4Addr::new(10, 244, 1, 1),
            created_at: Timestamp::UNIX_EPOCH,
        };
        Snapshot {
            sandbox: Some(sandbox),
            containers: vec![view],
            initialized: true,
            ..Snapshot::default()
        }
    }

    fn ended(exit_code: i32) -> State {
        State::Terminated(Terminated {
            exit_code,
            signal: None,
            reason: "x".into(),
            message: None,
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
            container_id: "i".into(),
        })
    }

    #[test]
    fn phases_follow_containers_and_policy() {
        let phase = |policy: &str, change: fn(&mut ContainerView), finished: bool| {
            let mut state = snapshot(change);
            state.finished = finished;
            compute(&pod(policy), &state, None, Timestamp::now()).phase.unwrap()
        };
        assert_eq!(phase("Always", |_| {}, false), "Pending");
        assert_eq!(phase("Always", |c| c.id = "i".into(), false), "Running");
        let good: fn(&mut ContainerView) = |c| (c.id, c.state) = ("i".into(), ended(0));
        let bad: fn(&mut ContainerView) = |c| (c.id, c.state) = ("i".into(), ended(3));
        assert_eq!(phase("Always", bad, false), "Running");
        assert_eq!(phase("OnFailure", good, false), "Succeeded");
        assert_eq!(phase("OnFailure", bad, false), "Running");
        assert_eq!(phase("Never", bad, false), "Failed");
        assert_eq!(phase("Always", bad, true), "Failed");
        assert_eq!(phase("Always", good, true), "Succeeded");
    }

    #[test]
    fn a_condition_keeps_its_transition_time_until_it_changes() {
        let (early, late) = (
            Timestamp::from_second(100).unwrap(),
            Timestamp::from_second(200).unwrap(),
        );
        let ready = |status: &PodStatus| {
            let found = status
                .conditions
                .as_ref()
                .unwrap()
                .iter()
                .find(|c| c.type_ == "Ready")
                .unwrap();
            (found.status.clone(), found.last_transition_time.clone().unwrap().0)
        };
        let waiting = compute(&pod("Always"), &snapshot(|_| {}), None, early);
        assert_eq!(ready(&waiting), ("False".into(), early));
        let still = compute(&pod("Always"), &snapshot(|_| {}), Some(&waiting), late);
        assert_eq!(ready(&still), ("False".into(), early));
        let running = compute(&pod("Always"), &snapshot(|c| c.ready = true), Some(&still), late);
        assert_eq!(ready(&running), ("True".into(), late));
        assert_eq!(running.start_time.unwrap().0, early);
        assert_eq!(running.qos_class.unwrap(), "Burstable");
    }
}
