use super::*;
use crate::controllers::fixtures::{at, pod, replica_set, terminating};

fn planned(set: &ReplicaSet, pods: &[Pod]) -> Plan {
    let selector = selector("test", &set.spec.selector).unwrap();
    plan(set, &selector, pods)
}

#[test]
fn missing_pods_are_made() {
    let set = replica_set("web", 3);
    let pods = [
        pod("web-1", Some(&set), 0, Some(1)),
        terminating(pod("web-2", Some(&set), 0, Some(1))),
    ];
    assert_eq!(
        planned(&set, &pods),
        Plan {
            create: 2,
            ..Plan::default()
        }
    );
}

#[test]
fn failed_pods_do_not_count() {
    let set = replica_set("web", 1);
    let mut failed = pod("web-1", Some(&set), 0, None);
    failed.status.as_mut().unwrap().phase = Some("Failed".into());
    assert_eq!(planned(&set, &[failed]).create, 1);
}

#[test]
fn the_least_useful_go_first() {
    let set = replica_set("web", 1);
    let mut unbound = pod("web-1", Some(&set), 0, None);
    unbound.spec.as_mut().unwrap().node_name = None;
    let mut pending = pod("web-2", Some(&set), 0, None);
    pending.status.as_mut().unwrap().phase = Some("Pending".into());
    let unready = pod("web-3", Some(&set), 0, None);
    let mut cheap = pod("web-4", Some(&set), 0, Some(1));
    cheap
        .annotations_mut()
        .insert("controller.kubernetes.io/pod-deletion-cost".into(), "-5".into());
    let recent = pod("web-5", Some(&set), 0, Some(90));
    let young = pod("web-6", Some(&set), 50, Some(10));
    let old = pod("web-7", Some(&set), 5, Some(10));
    let plan = planned(&set, &[old, young, recent, cheap, unready, pending, unbound]);
    assert_eq!(plan.delete, ["web-1", "web-2", "web-3", "web-4", "web-5", "web-6"]);
}

#[test]
fn orphans_are_adopted_and_strangers_left_alone() {
    let set = replica_set("web", 2);
    let other = replica_set("other", 1);
    let mut unselected = pod("web-9", Some(&set), 0, Some(1));
    unselected.labels_mut().insert("app".into(), "debug".into());
    let pods = [
        pod("web-1", None, 0, Some(1)),
        pod("web-2", Some(&other), 0, Some(1)),
        unselected,
    ];
    let plan = planned(&set, &pods);
    assert_eq!(plan.adopt, ["web-1"]);
    assert_eq!(plan.release, ["web-9"]);
    assert_eq!((plan.create, plan.delete.len()), (1, 0));
}

#[test]
fn a_set_that_is_being_deleted_does_nothing() {
    let mut set = replica_set("web", 2);
    set.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    assert_eq!(planned(&set, &[]), Plan::default());
}

#[test]
fn counts() {
    let mut set = replica_set("web", 3);
    set.spec.min_ready_seconds = Some(10);
    let pods = [
        pod("web-1", Some(&set), 0, Some(0)),
        pod("web-2", Some(&set), 0, Some(95)),
        pod("web-3", Some(&set), 0, None),
        terminating(pod("web-4", Some(&set), 0, Some(0))),
        pod("web-5", None, 0, Some(0)),
    ];
    let (status, wait) = status(&set, &pods, at(100));
    assert_eq!(status.replicas, 3);
    assert_eq!(status.ready_replicas, Some(2));
    assert_eq!(status.available_replicas, Some(1));
    assert_eq!(status.terminating_replicas, Some(1));
    assert_eq!(status.fully_labeled_replicas, Some(3));
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(wait, Some(Duration::from_secs(5)));
}

#[test]
fn an_empty_selector_is_refused() {
    let error = selector("ReplicaSet default/web", &LabelSelector::default()).unwrap_err();
    assert!(error.to_string().contains("at least one label"), "{error}");
}
