use super::*;
use serde_json::json;

fn pod(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "default", "annotations": { "proxy": "abc" },
            "labels": { "pod-template-hash": "5d" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "uid": "1", "controller": true }],
        },
        "spec": { "nodeName": "n1", "containers": [] },
        "status": { "phase": "Running", "podIP": "10.244.0.7" },
    });
    change(&mut pod);
    serde_json::from_value(pod).unwrap_or_else(|e| panic!("{e}"))
}

fn replicaset(name: &str, deployment: Option<&str>) -> PartialObjectMeta<ReplicaSet> {
    let owner =
        |d| json!([{ "apiVersion": "apps/v1", "kind": "Deployment", "name": d, "uid": "2", "controller": true }]);
    let object = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": name, "namespace": "default", "ownerReferences": deployment.map_or(json!([]), owner) },
    });
    serde_json::from_value(object).unwrap_or_else(|e| panic!("{e}"))
}

fn targets(pods: Vec<Pod>, replicasets: Vec<PartialObjectMeta<ReplicaSet>>) -> Vec<String> {
    let mut state = State::default();
    state.apply(Change::Pod(Box::new(Event::Init)), &config());
    pods.into_iter()
        .for_each(|p| state.apply(Change::Pod(Box::new(Event::InitApply(p))), &config()));
    state.apply(Change::Pod(Box::new(Event::InitDone)), &config());
    assert!(!state.is_complete());
    state.apply(Change::ReplicaSet(Box::new(Event::Init)), &config());
    replicasets
        .into_iter()
        .for_each(|r| state.apply(Change::ReplicaSet(Box::new(Event::InitApply(r))), &config()));
    state.apply(Change::ReplicaSet(Box::new(Event::InitDone)), &config());
    assert!(state.is_complete());
    published(&state)
}

fn config() -> Config {
    Config {
        annotation: "proxy".into(),
        label: "gateway".into(),
        port: 8900,
        path: "/metrics".into(),
        job: "weir-proxies".into(),
    }
}

fn published(state: &State) -> Vec<String> {
    let (out, list) = super::super::channel();
    state.publish(&config(), &out);
    let list = list.borrow();
    list.iter().map(|t| format!("{} {}", t.url, t.labels)).collect()
}

const COMMON: &str = r#"instance="10.244.0.7:8900",job="weir-proxies","#;

#[test]
fn names_the_deployment_behind_a_replicaset() {
    let labels = format!(r#"{{deployment="web",{COMMON}namespace="default",node="n1",pod="web-5d-x"}}"#);
    let expected = [format!("http://10.244.0.7:8900/metrics {labels}")];
    assert_eq!(
        targets(vec![pod("web-5d-x", |_| ())], vec![replicaset("web-5d", Some("web"))]),
        expected
    );
    assert_eq!(
        targets(vec![pod("web-5d-x", |_| ())], vec![]),
        expected,
        "the ReplicaSet is not known yet"
    );
}

#[test]
fn names_other_owners() {
    let bare = targets(vec![pod("web-5d-x", |_| ())], vec![replicaset("web-5d", None)]);
    assert!(bare[0].contains(r#"replicaset="web-5d""#), "{bare:?}");
    let own = |kind: &str| pod("p", |p| p["metadata"]["ownerReferences"][0]["kind"] = json!(kind));
    let one = |kind: &str| targets(vec![own(kind)], vec![]).remove(0);
    assert!(one("StatefulSet").contains(r#"statefulset="web-5d""#));
    assert!(one("Job").contains(r#"job="weir-proxies",k8s_job="web-5d""#));
    assert!(!one("Node").contains("web-5d"));
}

#[test]
fn only_running_pods_with_a_proxy_and_an_address() {
    let none = |change: fn(&mut serde_json::Value)| assert_eq!(targets(vec![pod("p", change)], vec![]), [""; 0]);
    none(|p| p["metadata"]["annotations"]["proxy"] = json!(""));
    none(|p| p["metadata"]["annotations"] = json!({}));
    none(|p| p["status"]["podIP"] = json!(null));
    none(|p| p["status"]["phase"] = json!("Succeeded"));
    let v6 = targets(vec![pod("p", |p| p["status"]["podIP"] = json!("fd00::7"))], vec![]);
    assert!(v6[0].starts_with("http://[fd00::7]:8900/metrics"), "{v6:?}");
}

#[test]
fn a_gateways_label_does_for_the_annotation() {
    let gateway = pod("p", |p| {
        p["metadata"]["annotations"] = json!(null);
        p["metadata"]["labels"]["gateway"] = json!("traffic-ingress");
    });
    assert_eq!(targets(vec![gateway], vec![]).len(), 1);
}

#[test]
fn follows_changes_and_new_lists() {
    let mut state = State::default();
    let mut after = |events: Vec<Event<Pod>>| {
        events
            .into_iter()
            .for_each(|e| state.apply(Change::Pod(Box::new(e)), &config()));
        published(&state).len()
    };
    let listed = |name| Event::InitApply(pod(name, |_| ()));
    let without_proxy = pod("a", |p| p["metadata"]["annotations"]["proxy"] = json!(""));
    assert_eq!(after(vec![Event::Init, listed("a"), listed("b"), Event::InitDone]), 2);
    assert_eq!(
        after(vec![Event::Apply(without_proxy), Event::Apply(pod("c", |_| ()))]),
        2
    );
    assert_eq!(after(vec![Event::Delete(pod("c", |_| ()))]), 1);
    // A new list replaces the old one only when it is complete.
    assert_eq!(after(vec![Event::Init]), 1);
    assert_eq!(after(vec![Event::InitDone]), 0);
}
