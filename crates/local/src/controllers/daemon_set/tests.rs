use k8s_openapi::api::apps::v1::DaemonSetSpec;
use k8s_openapi::api::core::v1::NodeSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;
use crate::controllers::fixtures::{at, labels, pod as any_pod, terminating};

fn set() -> DaemonSet {
    DaemonSet {
        metadata: ObjectMeta {
            name: Some("agent".into()),
            namespace: Some("default".into()),
            uid: Some("uid-agent".into()),
            generation: Some(1),
            ..ObjectMeta::default()
        },
        spec: DaemonSetSpec {
            selector: crate::controllers::fixtures::selector("web"),
            template: crate::controllers::fixtures::template("web", "one"),
            ..DaemonSetSpec::default()
        },
        status: None,
    }
}

fn node(name: &str, open: bool) -> Arc<Node> {
    Arc::new(Node {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            unschedulable: Some(!open),
            ..NodeSpec::default()
        }),
        status: None,
    })
}

fn pod(name: &str, node: &str, hash: &str, ready: Option<i64>) -> Pod {
    let mut pod = any_pod(name, None, 0, ready);
    pod.metadata.owner_references = Some(vec![controller_reference(&set())]);
    pod.metadata.labels = Some(labels(&[("app", "web"), (REVISION_HASH, hash)]));
    pod.spec.as_mut().unwrap().node_name = Some(node.into());
    pod
}

fn planned(pods: &[Pod], nodes: &[Arc<Node>]) -> Plan {
    let busy = |node: &str| {
        pods.iter()
            .any(|pod| pods::is_terminating(pod) && pod.spec.as_ref().unwrap().node_name.as_deref() == Some(node))
    };
    plan(&set(), &places(&set(), pods, nodes), &busy, "h2", at(100))
}

#[test]
fn every_open_node_gets_one() {
    let nodes = [node("a", true), node("b", true), node("c", false)];
    let plan = planned(&[pod("x-1", "a", "h2", Some(0))], &nodes);
    assert_eq!(
        plan,
        Plan {
            create: vec!["b".into()],
            delete: vec![]
        }
    );
}

#[test]
fn surplus_failed_and_misplaced_pods_go() {
    let mut failed = pod("x-3", "b", "h2", None);
    failed.status.as_mut().unwrap().phase = Some("Failed".into());
    let pods = [
        pod("x-1", "a", "h2", Some(0)),
        pod("x-2", "a", "h2", Some(0)),
        failed,
        pod("x-4", "c", "h2", Some(0)),
    ];
    let plan = planned(&pods, &[node("a", true), node("b", true), node("c", false)]);
    assert_eq!(plan.delete, ["x-2", "x-3", "x-4"]);
    assert_eq!(plan.create, ["b"]);
}

#[test]
fn an_update_replaces_one_at_a_time() {
    let nodes = [node("a", true), node("b", true)];
    let pods = [pod("x-1", "a", "h1", Some(0)), pod("x-2", "b", "h1", Some(0))];
    assert_eq!(
        planned(&pods, &nodes),
        Plan {
            create: vec![],
            delete: vec!["x-1".into()]
        }
    );
    let pods = [
        terminating(pod("x-1", "a", "h1", Some(0))),
        pod("x-2", "b", "h1", Some(0)),
    ];
    assert_eq!(
        planned(&pods, &nodes),
        Plan::default(),
        "its node is busy and the budget spent"
    );
    let pods = [pod("x-1", "a", "h1", None), pod("x-2", "b", "h1", Some(0))];
    assert_eq!(planned(&pods, &nodes).delete, ["x-1"], "one that is down costs nothing");
}

#[test]
fn counts() {
    let nodes = [node("a", true), node("b", true), node("c", false)];
    let pods = [
        pod("x-1", "a", "h2", Some(0)),
        pod("x-2", "b", "h1", None),
        pod("x-3", "c", "h2", Some(0)),
    ];
    let status = status(&set(), &places(&set(), &pods, &nodes), "h2", at(100));
    assert_eq!(status.desired_number_scheduled, 2);
    assert_eq!(status.current_number_scheduled, 2);
    assert_eq!(status.number_ready, 1);
    assert_eq!(status.updated_number_scheduled, Some(1));
    assert_eq!(status.number_unavailable, Some(1));
    assert_eq!(status.number_misscheduled, 1);
}
