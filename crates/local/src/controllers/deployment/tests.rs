use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment};

use super::*;
use crate::controllers::fixtures::{at, replica_set, selector, template};

fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
    Deployment {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("uid-web".into()),
            generation: Some(2),
            ..ObjectMeta::default()
        },
        spec: DeploymentSpec {
            replicas: Some(replicas),
            selector: selector("web"),
            template: template("web", "two"),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::String(surge.into())),
                    max_unavailable: Some(IntOrString::String(unavailable.into())),
                }),
            }),
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

fn set(name: &str, image: &str, size: i32, available: i32) -> ReplicaSet {
    let mut set = replica_set(name, size);
    set.spec.template = Some(template("web", image));
    set.status = Some(ReplicaSetStatus {
        replicas: size,
        ready_replicas: Some(available),
        available_replicas: Some(available),
        observed_generation: Some(3),
        ..ReplicaSetStatus::default()
    });
    set
}

fn sets(new: ReplicaSet, old: Vec<ReplicaSet>) -> Sets {
    Sets { new: Some(new), old }
}

fn bounds(deployment: &Deployment) -> Bounds {
    Bounds::of(&deployment.spec)
}

#[test]
fn bounds_round_so_that_a_rollout_can_move() {
    let of = |replicas, surge: &str, unavailable: &str| {
        let bounds = bounds(&deployment(replicas, surge, unavailable));
        (bounds.surge, bounds.unavailable)
    };
    assert_eq!(of(10, "25%", "25%"), (3, 2));
    assert_eq!(of(1, "25%", "25%"), (1, 0));
    assert_eq!(of(4, "0%", "0%"), (0, 1));
    assert_eq!(resolve(&IntOrString::Int(2), 10, true), 2);
}

#[test]
fn the_current_template_is_found_also_when_it_is_old() {
    let spec = deployment(1, "25%", "25%").spec;
    let split = Sets::split(&spec, vec![set("web-a", "one", 1, 1), set("web-b", "two", 0, 0)]);
    assert_eq!(split.new.unwrap().name_any(), "web-b");
    assert_eq!(split.old[0].name_any(), "web-a");
}

/// Rolls in a simulation in which pods become available one pass later, and checks the bounds at every step.
/// Passes until done. A status tells what was so many passes (`late`) ago.
fn roll(replicas: i32, surge: &str, unavailable: &str, late: usize) -> usize {
    let bounds = bounds(&deployment(replicas, surge, unavailable));
    let mut sets = sets(set("web-b", "two", 0, 0), vec![set("web-a", "one", replicas, replicas)]);
    let mut history: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for pass in 0..400 {
        let scales: BTreeMap<String, i32> = rollout::plan(&sets, bounds).into_iter().collect();
        if scales.is_empty() && sets.all().all(replicas_are_available) {
            assert_eq!(replicas_of(&sets, "web-a"), 0);
            assert_eq!(replicas_of(&sets, "web-b"), replicas);
            return pass;
        }
        for set in sets.old.iter_mut().chain(&mut sets.new) {
            let size = super::replicas(set);
            let now = scales.get(&set.name_any()).copied().unwrap_or(size);
            set.spec.replicas = Some(now);
            // What was there last time is available by now; what is ordered now is not yet.
            let up = history.entry(set.name_any()).or_default();
            up.push(size.min(now));
            let told = up.len().checked_sub(1 + late).map(|then| up[then]);
            let status = set.status.as_mut().unwrap();
            status.available_replicas = told.or(status.available_replicas);
            status.replicas = now;
        }
        let all: i32 = sets.all().map(super::replicas).sum();
        let up: i32 = history.values().filter_map(|up| up.last()).sum();
        assert!(all <= bounds.max(), "pass {pass}: {all} pods");
        assert!(up >= bounds.min_available(), "pass {pass}: only {up} available");
    }
    panic!("never done");
}

fn replicas_are_available(set: &ReplicaSet) -> bool {
    available(set) == super::replicas(set)
}

fn replicas_of(sets: &Sets, name: &str) -> i32 {
    sets.all()
        .find(|set| set.name_any() == name)
        .map(super::replicas)
        .unwrap()
}

#[test]
fn a_rollout_stays_within_its_bounds_and_ends() {
    for replicas in [1, 2, 3, 10, 33] {
        for (surge, unavailable) in [("25%", "25%"), ("0", "1"), ("1", "0"), ("100%", "0%"), ("0%", "100%")] {
            for late in [0, 1, 3] {
                roll(replicas, surge, unavailable, late);
            }
        }
    }
    assert!(roll(1, "25%", "25%", 0) <= 4);
}

#[test]
fn pods_that_never_become_ready_block_the_rollout_but_not_the_old_ones() {
    let bounds = bounds(&deployment(4, "1", "0"));
    let stuck = sets(set("web-b", "two", 1, 0), vec![set("web-a", "one", 4, 4)]);
    assert_eq!(rollout::plan(&stuck, bounds), []);
}

#[test]
fn useless_old_pods_go_first() {
    let bounds = bounds(&deployment(4, "1", "0"));
    let sets = sets(set("web-b", "two", 0, 0), vec![set("web-a", "one", 4, 1)]);
    let scales = rollout::plan(&sets, bounds);
    assert!(scales.contains(&("web-b".into(), 1)), "{scales:?}");
}

#[test]
fn scaling_reaches_the_current_set() {
    let bounds = bounds(&deployment(5, "25%", "25%"));
    assert_eq!(
        rollout::plan(&sets(set("web-b", "two", 2, 2), vec![]), bounds),
        [("web-b".into(), 5)]
    );
    assert_eq!(
        rollout::plan(&sets(set("web-b", "two", 9, 9), vec![]), bounds),
        [("web-b".into(), 5)]
    );
}

#[test]
fn recreate_waits_for_the_old_pods_to_go() {
    let mut deployment = deployment(2, "0", "0");
    deployment.spec.strategy.as_mut().unwrap().type_ = Some("Recreate".into());
    let bounds = bounds(&deployment);
    let first = sets(set("web-b", "two", 0, 0), vec![set("web-a", "one", 2, 2)]);
    assert_eq!(rollout::plan(&first, bounds), [("web-a".into(), 0)]);
    let mut leaving = set("web-a", "one", 0, 0);
    leaving.status.as_mut().unwrap().terminating_replicas = Some(2);
    assert_eq!(
        rollout::plan(&sets(set("web-b", "two", 0, 0), vec![leaving]), bounds),
        []
    );
    let gone = sets(set("web-b", "two", 0, 0), vec![set("web-a", "one", 0, 0)]);
    assert_eq!(rollout::plan(&gone, bounds), [("web-b".into(), 2)]);
}

#[test]
fn conditions_follow_the_rollout() {
    let mut deployment = deployment(2, "25%", "25%");
    let bounds = bounds(&deployment);
    let condition = |status: &k8s_openapi::api::apps::v1::DeploymentStatus, type_: &str| {
        let conditions = status.conditions.iter().flatten();
        let found = conditions
            .clone()
            .find(|condition| condition.type_.as_deref() == Some(type_))
            .unwrap();
        (found.status.clone().unwrap(), found.reason.clone().unwrap())
    };
    let (first, wait) = status::status(&deployment, &sets(set("web-b", "two", 2, 1), vec![]), bounds, at(0));
    assert_eq!(
        condition(&first, "Available"),
        ("False".into(), "MinimumReplicasUnavailable".into())
    );
    assert_eq!(
        condition(&first, "Progressing"),
        ("True".into(), "ReplicaSetUpdated".into())
    );
    assert_eq!(first.unavailable_replicas, Some(1));
    assert_eq!(wait, Some(Duration::from_secs(600)));

    deployment.status = Some(first);
    let (late, wait) = status::status(&deployment, &sets(set("web-b", "two", 2, 1), vec![]), bounds, at(601));
    assert_eq!(
        condition(&late, "Progressing"),
        ("False".into(), "ProgressDeadlineExceeded".into())
    );
    assert_eq!(wait, None);

    deployment.status = Some(late);
    let (done, wait) = status::status(&deployment, &sets(set("web-b", "two", 2, 2), vec![]), bounds, at(700));
    assert_eq!(
        condition(&done, "Available"),
        ("True".into(), "MinimumReplicasAvailable".into())
    );
    assert_eq!(
        condition(&done, "Progressing"),
        ("True".into(), "NewReplicaSetAvailable".into())
    );
    assert_eq!(wait, None);

    // Looking again changes nothing, or the controller would write for ever.
    deployment.status = Some(done.clone());
    assert_eq!(
        status::status(&deployment, &sets(set("web-b", "two", 2, 2), vec![]), bounds, at(800)).0,
        done
    );
}
