//! What a Deployment's status says: counts, and whether it is available and moving.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::{Bounds, Sets, available, replicas};

const PROGRESS_DEADLINE_S: i32 = 600;

/// The status as it is now, and when to look again although nothing happens (the progress deadline).
pub(super) fn status(
    deployment: &Deployment,
    sets: &Sets,
    bounds: Bounds,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let before = deployment.status.clone().unwrap_or_default();
    let of_new = sets.new.as_ref().and_then(|set| set.status.as_ref());
    let total: i32 = sets.all().map(replicas).sum();
    let all_available: i32 = sets.all().map(available).sum();
    let sum = |field: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        sets.all().filter_map(|set| set.status.as_ref()).map(field).sum()
    };
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(|status| status.replicas)),
        updated_replicas: Some(of_new.map_or(0, |status| status.replicas)),
        ready_replicas: Some(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: Some(all_available),
        unavailable_replicas: Some((total - all_available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: before.collision_count,
        conditions: None,
    };
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let enough = all_available >= bounds.min_available();
    set(&mut conditions, availability(enough), now, false);
    let wait = progress(deployment, sets, bounds, &before, &status, &mut conditions, now);
    status.conditions = Some(conditions);
    (status, wait)
}

/// Whether every pod is of the current template, and available.
pub(super) fn is_complete(status: &DeploymentStatus, bounds: Bounds) -> bool {
    let all = Some(bounds.replicas);
    status.updated_replicas == all && status.replicas == all && status.available_replicas == all
}

struct News {
    type_: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

fn availability(enough: bool) -> News {
    let (status, reason, message) = if enough {
        (
            "True",
            "MinimumReplicasAvailable",
            "As many pods are available as must be.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Fewer pods are available than must be.",
        )
    };
    News {
        type_: "Available",
        status,
        reason,
        message: message.into(),
    }
}

fn progress(
    deployment: &Deployment,
    sets: &Sets,
    bounds: Bounds,
    before: &DeploymentStatus,
    status: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) -> Option<Duration> {
    let spec = &deployment.spec;
    let name = sets.new.as_ref().map(ResourceExt::name_any).unwrap_or_default();
    let news = |status, reason, message| News {
        type_: "Progressing",
        status,
        reason,
        message,
    };
    if spec.paused == Some(true) {
        set(
            conditions,
            news("Unknown", "DeploymentPaused", "The Deployment is paused.".into()),
            now,
            false,
        );
        return None;
    }
    if is_complete(status, bounds) && !name.is_empty() {
        let message = format!("ReplicaSet \"{name}\" has rolled out.");
        set(conditions, news("True", "NewReplicaSetAvailable", message), now, false);
        return None;
    }
    let current = conditions
        .iter()
        .find(|condition| condition.type_.as_deref() == Some("Progressing"));
    let old = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    let moved = before.observed_generation != status.observed_generation
        || status.updated_replicas > before.updated_replicas
        || status.ready_replicas > before.ready_replicas
        || status.available_replicas > before.available_replicas
        || old(status) < old(before);
    // A roll-out that was complete has lost pods since: that is for `Available` to tell.
    let settled = current.is_some_and(|condition| condition.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if current.is_none() || moved {
        let message = format!("ReplicaSet \"{name}\" is rolling out.");
        set(conditions, news("True", "ReplicaSetUpdated", message), now, true);
    } else if settled {
        return None;
    }
    let deadline = u64::try_from(spec.progress_deadline_seconds.unwrap_or(PROGRESS_DEADLINE_S)).unwrap_or(0);
    let current = conditions
        .iter()
        .find(|condition| condition.type_.as_deref() == Some("Progressing"))?;
    let since = current.last_update_time.as_ref().map_or(now, |time| time.0);
    let for_ms = u64::try_from(now.as_millisecond() - since.as_millisecond()).unwrap_or(0);
    let left = Duration::from_secs(deadline).saturating_sub(Duration::from_millis(for_ms));
    if left.is_zero() {
        let message = format!("ReplicaSet \"{name}\" has made no progress for {deadline} s.");
        set(
            conditions,
            news("False", "ProgressDeadlineExceeded", message),
            now,
            false,
        );
        return None;
    }
    Some(left)
}

/// Writes a condition; its times change only with what it says, or when `again` says that it was so once more.
fn set(conditions: &mut Vec<DeploymentCondition>, news: News, now: Timestamp, again: bool) {
    let before = conditions
        .iter()
        .position(|condition| condition.type_.as_deref() == Some(news.type_))
        .map(|at| conditions.remove(at));
    let same_status = before
        .as_ref()
        .is_some_and(|before| before.status.as_deref() == Some(news.status));
    let same = same_status
        && before.as_ref().is_some_and(|before| {
            before.reason.as_deref() == Some(news.reason) && before.message.as_deref() == Some(news.message.as_str())
        });
    let now = Some(Time(now));
    let time = |keep: bool, of: fn(&DeploymentCondition) -> Option<Time>| match &before {
        Some(before) if keep => of(before),
        _ => now.clone(),
    };
    conditions.push(DeploymentCondition {
        type_: Some(news.type_.to_owned()),
        status: Some(news.status.to_owned()),
        reason: Some(news.reason.to_owned()),
        message: Some(news.message),
        last_update_time: time(same && !again, |before| before.last_update_time.clone()),
        last_transition_time: time(same_status, |before| before.last_transition_time.clone()),
    });
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}
