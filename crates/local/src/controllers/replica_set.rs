//! ReplicaSet: as many pods of a template as ordered.
//!
//! Enters: a ReplicaSet and the pods that it owns or selects. Leaves: pods made, deleted, adopted and released, and
//! the set's counts.

use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::queue::Key;
use super::{Context, Error, Outcome, controller_of, controller_reference, pods, template};

/// Pods made or deleted in one pass; the next pass does the rest.
const BURST_MAX: usize = 200;
/// Writes at the same time.
const WRITES_MAX: usize = 8;

/// What to do with pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub create: usize,
    /// Names, most dispensable first.
    pub delete: Vec<String>,
    pub adopt: Vec<String>,
    pub release: Vec<String>,
}

/// Reads a selector that must select something in particular.
pub(super) fn selector(object: &str, selector: &LabelSelector) -> Result<Selector, Error> {
    let wrong = |message: String| Error::Selector {
        object: object.to_owned(),
        message,
    };
    let selector = Selector::try_from(selector.clone()).map_err(|error| wrong(error.to_string()))?;
    if selector.selects_all() {
        return Err(wrong("it is empty; it must name at least one label".into()));
    }
    Ok(selector)
}

/// Plans for a set from all pods that it owns or that its selector matches.
pub(super) fn plan(set: &ReplicaSet, selector: &Selector, pods: &[Pod]) -> Plan {
    let mut plan = Plan::default();
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let mut replicas = Vec::new();
    for pod in pods {
        let matches = selector.matches(pod.labels());
        match controller_of(&pod.metadata) {
            Some(owner) if Some(&owner.uid) == set.metadata.uid.as_ref() => {
                if matches && pods::is_active(pod) {
                    replicas.push(pod);
                } else if !matches && !pods::is_terminating(pod) {
                    plan.release.push(pod.name_any());
                }
            }
            Some(_) => {}
            None if matches && pods::is_active(pod) => {
                plan.adopt.push(pod.name_any());
                replicas.push(pod);
            }
            None => {}
        }
    }
    let wanted = wanted(set);
    if replicas.len() < wanted {
        plan.create = wanted - replicas.len();
    } else {
        replicas.sort_by(|a, b| dispensable_first(a, b));
        replicas.truncate(replicas.len() - wanted);
        plan.delete = replicas.into_iter().map(ResourceExt::name_any).collect();
    }
    plan
}

fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set.spec.replicas.unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

/// The order in which pods are given up: unbound, not running, not ready, cheap to delete, ready for less time, often
/// restarted, young.
fn dispensable_first(a: &Pod, b: &Pod) -> std::cmp::Ordering {
    let bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let phase = |pod: &Pod| match pods::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = |pod: &Pod| {
        let cost = pod.annotations().get("controller.kubernetes.io/pod-deletion-cost");
        cost.and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0)
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    bound(a)
        .cmp(&bound(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| pods::ready_since(b).cmp(&pods::ready_since(a)))
        .then_with(|| pods::restarts(b).cmp(&pods::restarts(a)))
        .then_with(|| created(b).cmp(&created(a)))
        .then_with(|| a.name_any().cmp(&b.name_any()))
}

/// The counts of a set, and how long until the next pod becomes available just by time.
pub(super) fn status(set: &ReplicaSet, pods: &[Pod], now: Timestamp) -> (ReplicaSetStatus, Option<Duration>) {
    let min_ready = min_ready(set.spec.min_ready_seconds);
    let own: Vec<&Pod> = pods
        .iter()
        .filter(|pod| owned_by(pod, set.metadata.uid.as_deref()))
        .collect();
    let active: Vec<&Pod> = own.iter().copied().filter(|pod| pods::is_active(pod)).collect();
    let of_template = set.spec.template.as_ref().and_then(template_labels);
    let fully_labeled = |pod: &&&Pod| {
        of_template
            .into_iter()
            .flatten()
            .all(|(name, value)| pod.labels().get(name) == Some(value))
    };
    let waits = active
        .iter()
        .filter_map(|pod| pods::until_available(pod, min_ready, now));
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        ready_replicas: Some(count(active.iter().filter(|pod| pods::is_ready(pod)).count())),
        available_replicas: Some(count(waits.clone().filter(Duration::is_zero).count())),
        fully_labeled_replicas: Some(count(active.iter().filter(fully_labeled).count())),
        terminating_replicas: Some(count(own.iter().filter(|pod| pods::is_terminating(pod)).count())),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    (status, waits.filter(|wait| !wait.is_zero()).min())
}

fn template_labels(template: &PodTemplateSpec) -> Option<&std::collections::BTreeMap<String, String>> {
    template.metadata.as_ref()?.labels.as_ref()
}

pub(super) fn owned_by(pod: &Pod, uid: Option<&str>) -> bool {
    controller_of(&pod.metadata).is_some_and(|owner| Some(owner.uid.as_str()) == uid)
}

pub(super) fn min_ready(seconds: Option<i32>) -> Duration {
    Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0))
}

pub(super) fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

pub(super) async fn reconcile(context: &Context, key: &Key) -> Outcome {
    let sets: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &key.namespace);
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(set) = sets.get_opt(&key.name).await? else {
        return Ok(None);
    };
    let spec = &set.spec;
    let selector = selector(&format!("ReplicaSet {key}"), &spec.selector)?;

    let mut pods = api
        .list(&ListParams::default().labels(&selector.to_string()))
        .await?
        .items;
    // Pods that are owned but no longer selected are in no such list; those seen last may know of some.
    for pod in context.pods.state() {
        if pod.metadata.namespace == set.metadata.namespace
            && owned_by(&pod, set.metadata.uid.as_deref())
            && !selector.matches(pod.labels())
        {
            pods.push(Pod::clone(&pod));
        }
    }
    let plan = plan(&set, &selector, &pods);
    let reference = controller_reference(&set);
    let (status, wait) = status(&set, &pods, Timestamp::now());
    if set.status.as_ref() != Some(&status) {
        let patch = json!({"metadata": {"resourceVersion": set.metadata.resource_version}, "status": status});
        sets.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }

    for name in &plan.adopt {
        if let Some(pod) = pods.iter().find(|pod| pod.name_any() == *name) {
            claim(&api, pod, Some(&reference)).await?;
        }
    }
    for name in &plan.release {
        if let Some(pod) = pods.iter().find(|pod| pod.name_any() == *name) {
            claim(&api, pod, None).await?;
        }
    }
    if let Some(template) = &spec.template {
        let pod = template::pod(template, &key.namespace, &key.name, reference);
        create(&api, &pod, plan.create).await?;
    }
    let doomed: Vec<&Pod> = plan
        .delete
        .iter()
        .filter_map(|n| pods.iter().find(|pod| pod.name_any() == *n))
        .collect();
    delete(&api, doomed).await?;
    Ok(wait)
}

/// Makes pods alike, at most so many in one pass; their events bring the controller back for the rest.
pub(super) async fn create(api: &Api<Pod>, pod: &Pod, n: usize) -> Result<(), Error> {
    let parameters = PostParams::default();
    let writes: Vec<_> = (0..n.min(BURST_MAX)).map(|_| api.create(&parameters, pod)).collect();
    all(writes).await
}

/// Deletes pods if they are still the ones that were meant.
pub(super) async fn delete(api: &Api<Pod>, pods: Vec<&Pod>) -> Result<(), Error> {
    let remove = |name: String, uid: Option<String>| async move {
        let preconditions = Preconditions {
            uid,
            resource_version: None,
        };
        api.delete(&name, &DeleteParams::default().preconditions(preconditions))
            .await
    };
    let writes: Vec<_> = pods
        .into_iter()
        .take(BURST_MAX)
        .map(|pod| remove(pod.name_any(), pod.uid()))
        .collect();
    all(writes).await
}

/// Lets all writes happen, a bounded number at once; the first error counts.
async fn all<T>(writes: Vec<impl Future<Output = kube::Result<T>>>) -> Result<(), Error> {
    let results: Vec<_> = stream::iter(writes).buffer_unordered(WRITES_MAX).collect().await;
    results
        .into_iter()
        .try_for_each(|result| result.map(drop))
        .map_err(Error::from)
}

/// Makes `owner` the controller of an object, or nobody.
pub(super) async fn claim<K>(api: &Api<K>, object: &K, owner: Option<&OwnerReference>) -> Result<(), Error>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let others = object
        .owner_references()
        .iter()
        .filter(|owner| owner.controller != Some(true));
    let owners: Vec<&OwnerReference> = others.chain(owner).collect();
    let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
    let patch = json!({"metadata": {
        "uid": object.uid(), "resourceVersion": object.resource_version(), "ownerReferences": owners,
    }});
    api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
