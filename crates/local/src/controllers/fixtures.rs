//! Objects for the controllers' tests.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodIP, PodSpec, PodStatus, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

use super::controller_reference;

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

pub fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

pub fn selector(app: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels(&[("app", app)])),
        ..LabelSelector::default()
    }
}

/// A template with the label `app` and one container.
pub fn template(app: &str, image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels(&[("app", app)])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "main".into(),
                image: Some(image.into()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
    }
}

pub fn replica_set(name: &str, replicas: i32) -> ReplicaSet {
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            uid: Some(format!("uid-{name}")),
            generation: Some(3),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            selector: selector("web"),
            template: Some(template("web", "one")),
            min_ready_seconds: None,
        },
        status: None,
    }
}

/// A running pod of app `web`, made at a second, ready since a second (or not).
pub fn pod(name: &str, owner: Option<&ReplicaSet>, made: i64, ready: Option<i64>) -> Pod {
    let condition = PodCondition {
        type_: "Ready".into(),
        status: if ready.is_some() { "True" } else { "False" }.into(),
        last_transition_time: Some(Time(at(ready.unwrap_or(made)))),
        ..PodCondition::default()
    };
    Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            uid: Some(format!("uid-{name}")),
            labels: Some(labels(&[("app", "web")])),
            creation_timestamp: Some(Time(at(made))),
            owner_references: owner.map(|owner| vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            node_name: Some("weir-local".into()),
            containers: vec![Container {
                name: "main".into(),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            phase: Some("Running".into()),
            pod_ip: Some(ip(name)),
            pod_ips: Some(vec![PodIP { ip: ip(name) }]),
            conditions: Some(vec![condition]),
            ..PodStatus::default()
        }),
    }
}

/// The address of a pod `x-N` is 10.244.1.N, of any other 10.244.2.1.
fn ip(name: &str) -> String {
    match name.rsplit('-').next().and_then(|n| n.parse::<u8>().ok()) {
        Some(n) => format!("10.244.1.{n}"),
        None => "10.244.2.1".to_owned(),
    }
}

pub fn terminating(mut pod: Pod) -> Pod {
    pod.metadata.deletion_timestamp = Some(Time(at(1000)));
    pod
}
