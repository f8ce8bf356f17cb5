//! Deployment: ReplicaSets, one for each template, scaled against each other so that enough pods are always there.
//!
//! Enters: a Deployment and the ReplicaSets that it owns or selects. Leaves: ReplicaSets made, scaled, adopted and
//! deleted, revisions counted, and the Deployment's status with its conditions.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{Selector, SelectorExt};
use serde_json::json;

use super::queue::Key;
use super::replica_set::{claim, selector};
use super::template::{self, POD_TEMPLATE_HASH};
use super::{Context, Error, Outcome, controller_of, controller_reference};

mod rollout;
mod status;

const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const HISTORY_LIMIT: i32 = 10;

/// How many pods there may be and must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    replicas: i32,
    surge: i32,
    unavailable: i32,
    recreate: bool,
}

impl Bounds {
    fn of(spec: &DeploymentSpec) -> Self {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self {
                replicas,
                surge: 0,
                unavailable: replicas,
                recreate: true,
            };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".into());
        let surge = rolling
            .and_then(|rolling| rolling.max_surge.as_ref())
            .unwrap_or(&quarter);
        let unavailable = rolling
            .and_then(|rolling| rolling.max_unavailable.as_ref())
            .unwrap_or(&quarter);
        let surge = resolve(surge, replicas, true);
        let mut unavailable = resolve(unavailable, replicas, false).min(replicas);
        if surge == 0 && unavailable == 0 {
            // Something must give, or a roll-out could never begin.
            unavailable = 1;
        }
        Self {
            replicas,
            surge,
            unavailable,
            recreate: false,
        }
    }

    fn max(self) -> i32 {
        if self.replicas == 0 {
            0
        } else {
            self.replicas + self.surge
        }
    }

    fn min_available(self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// A number or a share of `total`.
pub(super) fn resolve(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => (*n).max(0),
        IntOrString::String(text) => {
            let percent = text.trim_end_matches('%').parse::<i32>().unwrap_or(0).max(0);
            let product = i64::from(percent) * i64::from(total);
            let share = if round_up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

fn revision(set: &ReplicaSet) -> i64 {
    set.annotations()
        .get(REVISION)
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

/// The owned sets, the one of the current template apart; the others oldest first.
struct Sets {
    new: Option<ReplicaSet>,
    old: Vec<ReplicaSet>,
}

impl Sets {
    fn split(spec: &DeploymentSpec, mut sets: Vec<ReplicaSet>) -> Self {
        sets.sort_by_key(|set| {
            (
                set.metadata.creation_timestamp.as_ref().map(|time| time.0),
                set.name_any(),
            )
        });
        let of_template = |set: &ReplicaSet| {
            set.spec
                .template
                .as_ref()
                .is_some_and(|template| template::same(template, &spec.template))
        };
        let new = sets.iter().position(of_template).map(|at| sets.remove(at));
        Self { new, old: sets }
    }

    fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }
}

pub(super) async fn reconcile(context: &Context, key: &Key) -> Outcome {
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), &key.namespace);
    let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(deployment) = deployments.get_opt(&key.name).await? else {
        return Ok(None);
    };
    let spec = &deployment.spec;
    if deployment.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let selector = selector(&format!("Deployment {key}"), &spec.selector)?;
    let mut sets = Sets::split(spec, owned(&api, &deployment, &selector).await?);
    let bounds = Bounds::of(spec);
    let paused = spec.paused == Some(true);

    if sets.new.is_none() && !paused {
        match make(&api, &deployment, &sets, bounds).await? {
            Made::Set(set) => sets.new = Some(*set),
            Made::Collision => {
                let collisions = deployment
                    .status
                    .as_ref()
                    .and_then(|status| status.collision_count)
                    .unwrap_or(0);
                let patch = json!({"status": {"collisionCount": collisions.saturating_add(1)}});
                deployments
                    .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
                    .await?;
                return Ok(Some(Duration::ZERO));
            }
        }
    }
    if let Some(new) = &mut sets.new {
        annotate(&deployments, &api, &deployment, new, &sets.old).await?;
    }
    let scales = if paused {
        rollout::scale_paused(&sets, bounds)
    } else {
        rollout::plan(&sets, bounds)
    };
    for (name, replicas) in &scales {
        if let Some(set) = sets.all().find(|set| set.name_any() == *name) {
            scale(&api, set, *replicas, bounds).await?;
        }
    }
    let now = Timestamp::now();
    let (status, wait) = status::status(&deployment, &sets, bounds, now);
    if deployment.status.as_ref() != Some(&status) {
        let patch = json!({"status": status});
        deployments
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }
    if status::is_complete(&status, bounds) && scales.is_empty() {
        forget(&api, spec, &sets.old).await?;
    }
    Ok(wait)
}

/// All sets that this Deployment controls; those that it selects and nobody controls become its own.
async fn owned(api: &Api<ReplicaSet>, deployment: &Deployment, selector: &Selector) -> Result<Vec<ReplicaSet>, Error> {
    let reference = controller_reference(deployment);
    let mut owned = Vec::new();
    for set in api.list(&ListParams::default()).await?.items {
        let matches = selector.matches(set.labels());
        match controller_of(&set.metadata) {
            Some(owner) if owner.uid == reference.uid && matches => owned.push(set),
            Some(owner) if owner.uid == reference.uid => claim(api, &set, None).await?,
            None if matches && set.metadata.deletion_timestamp.is_none() => {
                claim(api, &set, Some(&reference)).await?;
                owned.push(set);
            }
            _ => {}
        }
    }
    Ok(owned)
}

enum Made {
    Set(Box<ReplicaSet>),
    /// Another template has the same hash.
    Collision,
}

/// Makes the set of the current template, as large as it may be at once.
async fn make(api: &Api<ReplicaSet>, deployment: &Deployment, sets: &Sets, bounds: Bounds) -> Result<Made, Error> {
    let spec = &deployment.spec;
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count)
        .unwrap_or(0);
    let hash = template::hash(&spec.template, collisions);
    let with_hash = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
        Some(labels)
    };
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels = with_hash(meta.labels.take());
    let mut selector = spec.selector.clone();
    selector.match_labels = with_hash(selector.match_labels.take());
    let mut annotations = own_annotations(deployment);
    annotations.insert(REVISION.into(), next_revision(&sets.old).to_string());
    annotations.insert(DESIRED_REPLICAS.into(), bounds.replicas.to_string());
    annotations.insert(MAX_REPLICAS.into(), bounds.max().to_string());
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(rollout::first_size(sets, bounds)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    };
    match api.create(&PostParams::default(), &set).await {
        Ok(set) => Ok(Made::Set(Box::new(set))),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let there = api.get(&set.name_any()).await?;
            let ours = controller_of(&there.metadata).map(|owner| &owner.uid) == deployment.metadata.uid.as_ref();
            let same = there
                .spec
                .template
                .as_ref()
                .is_some_and(|there| template::same(there, &spec.template));
            Ok(if ours && same {
                Made::Set(Box::new(there))
            } else {
                Made::Collision
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// What a Deployment's annotations say to its sets.
fn own_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let skipped = [LAST_APPLIED, REVISION, DESIRED_REPLICAS, MAX_REPLICAS];
    let annotations = deployment.annotations().iter();
    annotations
        .filter(|(name, _)| !skipped.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn next_revision(old: &[ReplicaSet]) -> i64 {
    old.iter().map(revision).max().unwrap_or(0) + 1
}

/// Gives the current set the highest revision (it may be an old one, rolled back to) and the Deployment the same.
async fn annotate(
    deployments: &Api<Deployment>,
    api: &Api<ReplicaSet>,
    deployment: &Deployment,
    new: &mut ReplicaSet,
    old: &[ReplicaSet],
) -> Result<(), Error> {
    let mut wanted = own_annotations(deployment);
    let number = revision(new).max(next_revision(old)).to_string();
    wanted.insert(REVISION.into(), number.clone());
    if wanted
        .iter()
        .any(|(name, value)| new.annotations().get(name) != Some(value))
    {
        let patch = json!({"metadata": {"annotations": wanted}});
        *new = api
            .patch(&new.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }
    if deployment.annotations().get(REVISION) != Some(&number) {
        let patch = json!({"metadata": {"annotations": {REVISION: number}}});
        deployments
            .patch(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }
    let wanted = deployment.spec.min_ready_seconds.unwrap_or(0);
    if new.spec.min_ready_seconds.unwrap_or(0) != wanted {
        let patch = json!({"spec": {"minReadySeconds": wanted}});
        *new = api
            .patch(&new.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }
    Ok(())
}

async fn scale(api: &Api<ReplicaSet>, set: &ReplicaSet, replicas: i32, bounds: Bounds) -> Result<(), Error> {
    let patch = json!({
        "metadata": {"resourceVersion": set.metadata.resource_version, "annotations": {
            DESIRED_REPLICAS: bounds.replicas.to_string(),
            MAX_REPLICAS: bounds.max().to_string(),
        }},
        "spec": {"replicas": replicas},
    });
    api.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

/// Deletes empty old sets beyond the history limit, lowest revision first.
async fn forget(api: &Api<ReplicaSet>, spec: &DeploymentSpec, old: &[ReplicaSet]) -> Result<(), Error> {
    let empty = |set: &&ReplicaSet| {
        let observed = set
            .status
            .as_ref()
            .is_some_and(|status| status.replicas == 0 && status.observed_generation == set.metadata.generation);
        replicas(set) == 0 && observed && set.metadata.deletion_timestamp.is_none()
    };
    let mut empty: Vec<&ReplicaSet> = old.iter().filter(empty).collect();
    empty.sort_by_key(|set| revision(set));
    let limit = usize::try_from(spec.revision_history_limit.unwrap_or(HISTORY_LIMIT)).unwrap_or(0);
    for set in empty.iter().take(empty.len().saturating_sub(limit)) {
        let preconditions = Preconditions {
            uid: set.uid(),
            resource_version: set.resource_version(),
        };
        api.delete(
            &set.name_any(),
            &DeleteParams::background().preconditions(preconditions),
        )
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
