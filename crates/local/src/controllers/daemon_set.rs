//! DaemonSet: one pod of a template on every node that fits.
//!
//! Enters: a DaemonSet, its pods, the nodes. Leaves: pods made (bound to their node from the start) and deleted, and
//! the set's counts. It keeps no ControllerRevisions: there is no history to roll back to.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

use super::deployment::resolve;
use super::queue::Key;
use super::replica_set::{count, create, delete, min_ready, owned_by, selector};
use super::{Context, Outcome, controller_of, controller_reference, pods, schedule, template};

/// Label that tells pods of the current template from older ones.
const REVISION_HASH: &str = "controller-revision-hash";

/// What to do with pods.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Nodes that need one.
    create: Vec<String>,
    /// Names of pods.
    delete: Vec<String>,
}

/// One node and the set's living pods on it.
struct Place<'a> {
    node: String,
    fits: bool,
    pods: Vec<&'a Pod>,
}

fn places<'a>(set: &DaemonSet, pods: &'a [Pod], nodes: &[Arc<Node>]) -> Vec<Place<'a>> {
    let model = Pod {
        spec: set.spec.template.spec.clone(),
        ..Pod::default()
    };
    let own = |pod: &&Pod| owned_by(pod, set.metadata.uid.as_deref()) && !pods::is_terminating(pod);
    let on = |pod: &Pod| {
        pod.spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .unwrap_or_default()
    };
    let mut places: Vec<Place> = nodes
        .iter()
        .map(|node| Place {
            node: node.name_any(),
            fits: schedule::fits(node, &model),
            pods: pods
                .iter()
                .filter(own)
                .filter(|pod| on(pod) == node.name_any())
                .collect(),
        })
        .collect();
    places.sort_by(|a, b| a.node.cmp(&b.node));
    // Oldest first: the first living pod of a node is its pod, any other is too many.
    for place in &mut places {
        place.pods.sort_by_key(|pod| {
            (
                pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
                pod.name_any(),
            )
        });
    }
    places
}

fn is_current(pod: &Pod, hash: &str) -> bool {
    pod.labels().get(REVISION_HASH).is_some_and(|label| label == hash)
}

/// Plans for a set. A node whose pod is still terminating waits (`busy`), since two daemons seldom get along.
fn plan(set: &DaemonSet, places: &[Place], busy: &dyn Fn(&str) -> bool, hash: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let spec = &set.spec;
    let min_ready = min_ready(spec.min_ready_seconds);
    let wanted = places.iter().filter(|place| place.fits).count();
    let update = spec.update_strategy.as_ref();
    let rolling = update.and_then(|update| update.type_.as_deref()) != Some("OnDelete");
    let one = IntOrString::Int(1);
    let budget = update
        .and_then(|update| update.rolling_update.as_ref())
        .and_then(|r| r.max_unavailable.as_ref());
    let budget = resolve(budget.unwrap_or(&one), count(wanted), true).max(1);

    let mut unavailable = 0;
    let mut outdated = Vec::new();
    for place in places {
        if !place.fits {
            plan.delete.extend(place.pods.iter().map(|pod| pod.name_any()));
            continue;
        }
        let (over, alive): (Vec<&Pod>, Vec<&Pod>) = place.pods.iter().partition(|pod| pods::is_over(pod));
        plan.delete.extend(over.iter().map(|pod| pod.name_any()));
        plan.delete.extend(alive.iter().skip(1).map(|pod| pod.name_any()));
        match alive.first() {
            None => {
                unavailable += 1;
                if !busy(&place.node) {
                    plan.create.push(place.node.clone());
                }
            }
            Some(pod) => {
                let available = pods::is_available(pod, min_ready, now);
                unavailable += i32::from(!available);
                if rolling && !is_current(pod, hash) {
                    outdated.push((available, pod.name_any()));
                }
            }
        }
    }
    // Those that are down anyway cost nothing; each of the others costs one of the budget.
    outdated.sort();
    for (available, name) in outdated {
        if !available {
            plan.delete.push(name);
        } else if unavailable < budget {
            unavailable += 1;
            plan.delete.push(name);
        }
    }
    plan
}

fn status(set: &DaemonSet, places: &[Place], hash: &str, now: Timestamp) -> DaemonSetStatus {
    let min_ready = min_ready(set.spec.min_ready_seconds);
    let fitting = || places.iter().filter(|place| place.fits);
    let pods = || fitting().filter_map(|place| place.pods.iter().find(|pod| !pods::is_over(pod)).copied());
    let desired = count(fitting().count());
    let available = count(pods().filter(|pod| pods::is_available(pod, min_ready, now)).count());
    let misscheduled = places
        .iter()
        .filter(|place| !place.fits && !place.pods.is_empty())
        .count();
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: count(pods().count()),
        number_misscheduled: count(misscheduled),
        number_ready: count(pods().filter(|pod| pods::is_ready(pod)).count()),
        updated_number_scheduled: Some(count(pods().filter(|pod| is_current(pod, hash)).count())),
        number_available: Some(available),
        number_unavailable: Some(desired - available),
        observed_generation: set.metadata.generation,
        collision_count: set.status.as_ref().and_then(|status| status.collision_count),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    }
}

/// A template's hash, and the template with the labels that say so.
fn stamped(set: &DaemonSet, template: &PodTemplateSpec) -> (String, PodTemplateSpec) {
    let hash = template::hash(template, 0);
    let mut stamped = template.clone();
    let labels = stamped.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(REVISION_HASH.into(), hash.clone());
    labels.insert(
        "pod-template-generation".into(),
        set.metadata.generation.unwrap_or(1).to_string(),
    );
    (hash, stamped)
}

pub(super) async fn reconcile(context: &Context, key: &Key) -> Outcome {
    let sets: Api<DaemonSet> = Api::namespaced(context.client.clone(), &key.namespace);
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(set) = sets.get_opt(&key.name).await? else {
        return Ok(None);
    };
    let spec = &set.spec;
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let selector = selector(&format!("DaemonSet {key}"), &spec.selector)?;
    let pods = api
        .list(&ListParams::default().labels(&selector.to_string()))
        .await?
        .items;
    let nodes = context.nodes.state();
    let places = places(&set, &pods, &nodes);
    let (hash, template) = stamped(&set, &spec.template);
    let now = Timestamp::now();
    let busy = |node: &str| {
        pods.iter().any(|pod| {
            pods::is_terminating(pod)
                && controller_of(&pod.metadata).map(|owner| &owner.uid) == set.metadata.uid.as_ref()
                && pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
        })
    };
    let plan = plan(&set, &places, &busy, &hash, now);

    let status = status(&set, &places, &hash, now);
    if set.status.as_ref() != Some(&status) {
        let patch = json!({"status": status});
        sets.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }
    let doomed = plan
        .delete
        .iter()
        .filter_map(|n| pods.iter().find(|pod| pod.name_any() == *n))
        .collect();
    delete(&api, doomed).await?;
    for node in plan.create {
        let mut pod = template::pod(&template, &key.namespace, &key.name, controller_reference(&set));
        pod.spec.get_or_insert_default().node_name = Some(node);
        create(&api, &pod, 1).await?;
    }
    let min_ready = min_ready(spec.min_ready_seconds);
    let waits = pods.iter().filter_map(|pod| pods::until_available(pod, min_ready, now));
    Ok(waits
        .filter(|wait| !wait.is_zero())
        .min()
        .map(|wait| wait + Duration::from_millis(10)))
}

#[cfg(test)]
mod tests;
