use serde_json::{Value, json};

use super::*;

fn meta(value: Value) -> ObjectMeta {
    serde_json::from_value(value).unwrap()
}

fn pod(mut metadata: Value, spec: Value, phase: &str) -> Pod {
    for (key, default) in [("name", "a"), ("namespace", "default"), ("uid", "u")] {
        metadata
            .as_object_mut()
            .unwrap()
            .entry(key)
            .or_insert_with(|| json!(default));
    }
    let mut pod: Pod = serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase}})).unwrap();
    let mut spec = spec;
    spec["containers"] = json!([]);
    pod.spec = Some(serde_json::from_value(spec).unwrap());
    pod
}

/// One line a case: what came out, and the problems' fields.
fn show(pod: &Pod, workload: Workload<'_>, namespace: Option<&ObjectMeta>) -> String {
    let (plan, problems) = plan(pod, workload, namespace, None, Engine::Weir);
    let plan = match plan {
        Plan::Keep => "keep".to_owned(),
        Plan::Off => "off".to_owned(),
        Plan::Run(spec) => {
            let ports: Vec<_> = spec.skip.ports.iter().map(ToString::to_string).collect();
            let cidrs: Vec<_> = spec.skip.cidrs.iter().map(ToString::to_string).collect();
            format!("run {} skip=[{}] [{}]", spec.engine, ports.join(" "), cidrs.join(" "))
        }
    };
    let problems: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
    if problems.is_empty() {
        plan
    } else {
        format!("{plan} !{}", problems.join(" !"))
    }
}

#[test]
fn table() {
    let on = || json!({"labels": {"traffic.envoy.enabled": "true"}});
    let off = meta(json!({"labels": {"traffic.envoy.enabled": "false"}}));
    let deployment = meta(on());
    let namespace =
        meta(json!({"labels": {"traffic.proxy.engine": "envoy", "traffic.outbound.skip-cidrs": "10.1.0.0/16"}}));
    let plain = pod(json!({}), json!({}), "Running");
    let enabled = pod(on(), json!({}), "Running");
    let mut leaving = on();
    leaving["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let known = Workload::Known(&deployment);

    assert_eq!(show(&plain, Workload::None, None), "off");
    assert_eq!(show(&enabled, Workload::None, None), "run weir skip=[] []");
    assert_eq!(show(&plain, known, None), "run weir skip=[] []");
    assert_eq!(show(&plain, known, Some(&namespace)), "run envoy skip=[] [10.1.0.0/16]");
    assert_eq!(show(&plain, Workload::Known(&off), None), "off");
    assert_eq!(
        show(
            &pod(
                json!({"labels": {"traffic.envoy.enabled": "false"}}),
                json!({}),
                "Running"
            ),
            known,
            None
        ),
        "off"
    );
    assert_eq!(show(&plain, Workload::Unknown, Some(&namespace)), "keep");
    assert_eq!(show(&enabled, Workload::Unknown, None), "run weir skip=[] []");
    assert_eq!(show(&pod(on(), json!({}), "Succeeded"), Workload::None, None), "off");
    assert_eq!(show(&pod(leaving, json!({}), "Running"), known, None), "keep");
    assert_eq!(
        show(&pod(on(), json!({"hostNetwork": true}), "Running"), known, None),
        "off !spec.hostNetwork"
    );
    let mut system = on();
    system["namespace"] = json!("kube-system");
    assert_eq!(
        show(&pod(system, json!({}), "Running"), known, None),
        "off !traffic.envoy.enabled"
    );
    let maybe = pod(
        json!({"labels": {"traffic.envoy.enabled": "maybe"}}),
        json!({}),
        "Running",
    );
    assert_eq!(show(&maybe, known, None), "keep !traffic.envoy.enabled");
    let mut engine = on();
    engine["annotations"] = json!({"traffic.proxy.engine": "nginx"});
    assert_eq!(
        show(&pod(engine, json!({}), "Running"), known, None),
        "keep !traffic.proxy.engine"
    );
}

#[test]
fn a_bad_part_of_a_list_costs_only_itself() {
    let labels = json!({"labels": {"traffic.envoy.enabled": "true"}, "annotations": {
        "traffic.outbound.skip-ports": "22, 9000-9100,0,x,9-3", "traffic.outbound.skip-cidrs": "fd00::/8,10.0.0.1,10.0.0.0/33"}});
    let shown = show(&pod(labels, json!({}), "Running"), Workload::None, None);
    assert_eq!(
        shown,
        "run weir skip=[22 9000-9100] [fd00::/8 10.0.0.1/32] !traffic.outbound.skip-ports \
         !traffic.outbound.skip-ports !traffic.outbound.skip-ports !traffic.outbound.skip-cidrs"
    );
}

/// The namespace of Weir goes before the mesh's settings, which go before the built-in default.
#[test]
fn the_meshs_default_engine_comes_last() {
    let enabled = pod(
        json!({"labels": {"traffic.envoy.enabled": "true"}}),
        json!({}),
        "Running",
    );
    let system = meta(json!({"labels": {"traffic.proxy.engine": "weir"}}));
    let engine = |system: Option<&ObjectMeta>, default| match plan(&enabled, Workload::None, None, system, default).0 {
        Plan::Run(spec) => spec.engine,
        other => panic!("{other:?}"),
    };
    assert_eq!(engine(None, Engine::Envoy), Engine::Envoy);
    assert_eq!(engine(Some(&system), Engine::Envoy), Engine::Weir);
}

#[test]
fn messages_say_what_would_be_right() {
    let enabled = json!({"labels": {"traffic.envoy.enabled": "true"}});
    let (_, problems) = plan(
        &pod(enabled, json!({"hostNetwork": true}), "Running"),
        Workload::None,
        None,
        None,
        Engine::Weir,
    );
    assert!(
        problems[0].to_string().starts_with("Pod default/a: spec.hostNetwork: "),
        "{}",
        problems[0]
    );
    assert!("70000".parse::<PortRange>().unwrap_err().contains("9000-9100"));
}
