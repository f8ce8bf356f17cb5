//! Reports from made-up clusters.

use serde_json::{Value, json};

use super::*;
use crate::check::render;

fn objects<T: serde::de::DeserializeOwned>(items: Value) -> Answer<Vec<T>> {
    Ok(serde_json::from_value(items).unwrap())
}

fn pod(name: &str, proxy: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "default", "labels": {"pod-template-hash": "abc"},
            "annotations": {"traffic.envoy.proxy": proxy},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-abc", "uid": "1", "controller": true}],
        },
        "status": {"phase": "Running"},
    })
}

const IMAGE: &str = "registry.example/weir:1.0";

/// The gateway's Deployment of one pod, so many of them ready.
fn gateway(image: &str, ready: i32) -> Value {
    let container = json!({"name": "gateway", "image": image});
    let template = json!({"metadata": {"labels": {"app": "traffic-ingress"}}, "spec": {"containers": [container]}});
    json!({
        "metadata": {"name": "traffic-ingress", "namespace": "default"},
        "spec": {"replicas": 1, "selector": {}, "template": template}, "status": {"readyReplicas": ready},
    })
}

fn well() -> Facts {
    let api_service = |name: &str| {
        let condition = json!({"type": "Available", "status": "True"});
        json!({"metadata": {"name": name}, "status": {"conditions": [condition]}})
    };
    let deployment = |name: &str| {
        let template = json!({"spec": {"containers": [{"name": "main", "image": IMAGE}]}});
        let spec = json!({"replicas": 1, "selector": {}, "template": template});
        json!({"metadata": {"name": name, "namespace": "weir-system"}, "spec": spec, "status": {"readyReplicas": 1}})
    };
    let agent = json!({
        "metadata": {"name": "weir-agent"},
        "status": {"numberReady": 1, "desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0},
    });
    let definition = |name: &str| {
        let spec = json!({"group": "g", "names": {"kind": "K", "plural": "ks"}, "scope": "Namespaced", "versions": []});
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let web = json!({"metadata": {"name": "web", "namespace": "default", "labels": {"traffic.envoy.enabled": "true"}}});
    let proxy = json!({
        "metadata": {"name": "web-abc-1", "namespace": "default"},
        "status": {"connected": true, "synced": {"cds": true}},
    });
    let target = json!({
        "metadata": {"name": "web-abc-1", "namespace": "default"}, "url": "http://10.244.0.5:8900/metrics", "health": "up",
    });
    Facts {
        weir_namespace: "weir-system".into(),
        namespaces: objects(json!([{"metadata": {"name": "default"}}])),
        definitions: objects(json!(DEFINITIONS.map(definition))),
        api_services: objects(json!(API_SERVICES.map(api_service))),
        system_deployments: objects(json!(DEPLOYMENTS.map(deployment))),
        system_daemon_sets: objects(json!([agent])),
        deployments: objects(json!([web, gateway(IMAGE, 1)])),
        gateway_services: objects(
            json!([{"metadata": {"name": "traffic-ingress"}, "spec": {"selector": {"app": "traffic-ingress"}}}]),
        ),
        pods: objects(json!([pod("web-abc-1", "4f2a")])),
        proxies: objects(json!([proxy])),
        problems: Ok(Vec::new()),
        targets: objects(json!([target])),
    }
}

#[test]
fn all_is_well() {
    let expected = "\
STATE   WHAT                                                DETAIL
ok      custom resource trafficsplits.split.smi-spec.io     installed
ok      custom resource httproutegroups.specs.smi-spec.io   installed
ok      deployment weir-system/weir-control                 1 of 1 ready
ok      deployment weir-system/weir-metrics                 1 of 1 ready
ok      agent on each node (weir-system/weir-agent)         1 of 1 ready
ok      APIService v1alpha1.metrics.smi-spec.io             available
ok      APIService v1alpha1.weir.dev                        available
ok      APIService v1alpha1.metrics.weir.dev                available
ok      ingress gateway default/traffic-ingress             1 of 1 ready
ok      proxies of pods                                     1 of 1 running
ok      configuration of proxies                            1 connected and in sync
ok      scraped pages                                       1 scraped
ok      labels and objects                                  all understood

All is well.
";
    assert_eq!(render(&findings(&well())), expected);
}

/// The rows that are not well.
fn wrong(facts: &Facts) -> Vec<(Mark, String, String)> {
    let rows = findings(facts).into_iter().filter(|f| f.mark != Mark::Ok);
    rows.map(|f| (f.mark, f.subject, f.detail)).collect()
}

#[test]
fn each_fault_names_itself() {
    let mut facts = well();
    facts.pods = objects(json!([pod("web-abc-1", "4f2a"), pod("web-abc-2", "")]));
    facts.problems = objects(json!([{"problem": {
        "object": {"kind": "Service", "namespace": "default", "name": "odd"},
        "field": "metadata.labels[traffic.port.80]", "message": "\"quic\" is not a protocol; write http, tcp or direct",
    }}]));
    facts.targets = objects(json!([
        {"metadata": {"name": "bad", "namespace": "default"}, "url": "http://x/metrics", "health": "down", "error": "garbage"},
    ]));
    facts.system_deployments = Ok(Vec::new());
    facts.proxies = Err("proxies.weir.dev is forbidden: User \"jane\" cannot list".into());
    let rows = wrong(&facts);
    let subjects: Vec<_> = rows
        .iter()
        .map(|(mark, subject, _)| (*mark, subject.as_str()))
        .collect();
    assert_eq!(
        subjects,
        [
            (Mark::Fail, "deployment weir-system/weir-control"),
            (Mark::Fail, "deployment weir-system/weir-metrics"),
            (Mark::Fail, "proxy of pod default/web-abc-2"),
            (Mark::Warn, "configuration of proxies"),
            (Mark::Fail, "metrics of default/bad (http://x/metrics)"),
            (Mark::Fail, "Service default/odd"),
        ]
    );
    assert!(
        rows[5].2.contains("traffic.port.80") && rows[5].2.contains("http, tcp or direct"),
        "{rows:?}"
    );
    assert!(
        render(&findings(&facts)).ends_with("\n5 of 13 are wrong.\n"),
        "{}",
        render(&findings(&facts))
    );
}

#[test]
fn a_rejected_configuration_is_a_fault_and_one_under_way_is_not() {
    let mut facts = well();
    let proxy =
        |status: Value| objects(json!([{"metadata": {"name": "web-abc-1", "namespace": "default"}, "status": status}]));
    facts.proxies =
        proxy(json!({"connected": true, "synced": {"cds": false}, "lastRejection": "lds x: no such cluster"}));
    assert_eq!(wrong(&facts)[0].2, "rejected: lds x: no such cluster");
    facts.proxies = proxy(json!({"connected": true, "synced": {"cds": false}}));
    assert_eq!(
        wrong(&facts)[0],
        (
            Mark::Warn,
            "configuration of default/web-abc-1".into(),
            "in sync: no (cds)".into()
        )
    );
    facts.proxies = proxy(json!({"connected": false}));
    assert_eq!(wrong(&facts)[0].0, Mark::Fail);
}

#[test]
fn what_may_be_wrong_with_the_gateway() {
    let found = |change: &dyn Fn(&mut Facts)| {
        let mut facts = well();
        change(&mut facts);
        let rows = wrong(&facts);
        assert!(
            rows.iter()
                .all(|(_, subject, _)| subject == "ingress gateway default/traffic-ingress")
        );
        rows.into_iter()
            .map(|(mark, _, detail)| (mark, detail))
            .collect::<Vec<_>>()
    };
    let deployed = |gateway: Option<Value>| {
        move |facts: &mut Facts| facts.deployments = objects(json!(gateway.iter().collect::<Vec<_>>()))
    };
    let only = |rows: Vec<(Mark, String)>, mark: Mark, part: &str| {
        assert!(
            rows.len() == 1 && rows[0].0 == mark && rows[0].1.contains(part),
            "{part}: {rows:?}"
        );
    };
    only(
        found(&deployed(Some(gateway(IMAGE, 0)))),
        Mark::Fail,
        "0 of 1 ready: `kubectl get pods -n default -l app=traffic-ingress`",
    );
    only(
        found(&deployed(Some(gateway("weir:0.9", 1)))),
        Mark::Warn,
        "runs the image weir:0.9, weir-control registry.example/weir:1.0",
    );
    only(
        found(&deployed(None)),
        Mark::Fail,
        "no Deployment default/traffic-ingress",
    );
    let mut none = gateway(IMAGE, 0);
    none["spec"]["replicas"] = json!(0);
    only(found(&deployed(Some(none))), Mark::Warn, "scaled to 0");
    only(
        found(&|facts| facts.gateway_services = Ok(Vec::new())),
        Mark::Fail,
        "no Service default/traffic-ingress",
    );
    let other = json!([{"metadata": {"name": "traffic-ingress"}, "spec": {"selector": {"app": "other"}}}]);
    only(
        found(&|facts| facts.gateway_services = objects(other.clone())),
        Mark::Fail,
        "app=other",
    );
    only(
        found(&|facts| facts.gateway_services = Err("services is forbidden".into())),
        Mark::Warn,
        "forbidden",
    );
}

#[test]
fn a_cluster_may_have_no_gateway() {
    let mut facts = well();
    facts.deployments = Ok(Vec::new());
    facts.gateway_services = Ok(Vec::new());
    facts.pods = Ok(Vec::new());
    let rows = findings(&facts);
    let row = rows
        .iter()
        .find(|row| row.subject.starts_with("ingress gateway"))
        .unwrap();
    assert_eq!((row.mark, row.detail.as_str()), (Mark::Ok, "not installed"));
}
