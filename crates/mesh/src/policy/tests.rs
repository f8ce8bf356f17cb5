//! Labels to policies: each key, its precedence, and what is told of bad values.

use serde_json::{Value, json};
use weir_api::percent::Percent;
use weir_api::problem::Severity;

use super::*;
use crate::{Objects, build};

/// What the Service, its headless twin's address and the problems come to, from the labels of a Service and of the
/// Deployment and pod behind it.
struct Seen {
    service: Policy,
    address: Policy,
    pod: Tracing,
    problems: Vec<String>,
}

fn labelled(service: Value, workload: Value, pod: Value) -> Seen {
    with_settings(service, workload, pod, "")
}

fn with_settings(service: Value, workload: Value, pod: Value, settings: &str) -> Seen {
    let owner = |kind: &str, name: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": true}]);
    let named =
        |name: &str, labels: &Value| json!({"namespace": "default", "name": name, "uid": name, "annotations": labels});
    let mut pod_meta = named("web-1", &pod);
    pod_meta["ownerReferences"] = owner("ReplicaSet", "web-abc");
    let mut set_meta = named("web-abc", &json!({}));
    set_meta["ownerReferences"] = owner("Deployment", "web");
    let service_of = |name: &str, ip: &str| {
        let mut meta = named(name, &service);
        meta["labels"] = json!({"traffic.port.80": "http"});
        json!({"kind": "Service", "metadata": meta,
               "spec": {"clusterIP": ip, "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})
    };
    let slice = |name: &str| {
        json!({"kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"port": 8080}],
               "endpoints": [{"addresses": ["10.244.0.7"], "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-1"}}],
               "metadata": {"namespace": "default", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}}})
    };
    let mut objects = Objects::default();
    let mut list = vec![
        service_of("web", "10.96.0.20"),
        service_of("web-headless", "None"),
        slice("web"),
        slice("web-headless"),
        json!({"kind": "Deployment", "metadata": named("web", &workload)}),
        json!({"kind": "ReplicaSet", "metadata": set_meta}),
        json!({"kind": "Pod", "metadata": pod_meta, "spec": {"containers": []},
               "status": {"phase": "Running", "podIP": "10.244.0.7"}}),
        json!({"kind": "Service", "metadata": {"namespace": "default", "name": "zipkin"},
               "spec": {"clusterIP": "10.96.0.94", "selector": {"app": "zipkin"}, "ports": [{"port": 9411}]}}),
    ];
    if !settings.is_empty() {
        list.push(
            json!({"kind": "ConfigMap", "metadata": {"namespace": "weir-system", "name": "weir-mesh"},
                         "data": {"config.yaml": settings}}),
        );
    }
    for object in list {
        assert!(objects.insert(object).unwrap());
    }
    let (mesh, problems) = build(&objects);
    // Both Services have the labels: what is told of one is told of the other.
    let of_twin = |p: &&weir_api::problem::Problem| p.object.name == "web-headless";
    Seen {
        service: mesh.services[&crate::Key::new("default", "web")].policy.clone(),
        address: mesh.addresses[&("10.244.0.7".parse().unwrap(), 8080)].policy.clone(),
        pod: mesh.pods[&crate::Key::new("default", "web-1")].tracing,
        problems: problems
            .iter()
            .filter(|p| !of_twin(p))
            .map(|p| {
                let severe = if p.severity == Severity::Error { "!" } else { "" };
                format!("{severe}{p}")
            })
            .collect(),
    }
}

fn of_service(labels: Value) -> (Policy, Vec<String>) {
    let seen = labelled(labels, json!({}), json!({}));
    (seen.service, seen.problems)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn nothing_said_is_the_default() {
    let seen = labelled(json!({}), json!({}), json!({}));
    assert_eq!(seen.problems, [""; 0]);
    assert_eq!((&seen.service, &seen.address), (&Policy::default(), &Policy::default()));
    assert_eq!(seen.service.retries.limit, 2);
    assert!(seen.service.retries.on.iter().eq(&RetryOn::NEVER_SENT));
    assert!(seen.service.outlier.enabled);
}

#[test]
fn balancing() {
    let (policy, problems) = of_service(json!({
        "traffic.lb.policy": "RING_HASH", "traffic.hash.cookie.name": "user", "traffic.hash.cookie.ttl": "100000",
        "traffic.hash.header.name": "x-user", "traffic.lb.panic-threshold": "0",
    }));
    assert_eq!(problems, [""; 0], "a cookie's seconds need no unit");
    let cookie = HashOn::Cookie {
        name: "user".into(),
        ttl: Some(secs(100_000)),
    };
    let expected = Balance {
        policy: LbPolicy::RingHash,
        hash: vec![cookie, HashOn::Header("x-user".into())],
        panic_percent: Some(0),
    };
    assert_eq!(policy.balance, expected);

    let (policy, problems) = of_service(json!({
        "traffic.lb.policy": "FASTEST", "traffic.hash.header.name": "x user", "traffic.lb.panic-threshold": "150",
    }));
    assert_eq!(policy.balance, Balance::default());
    let [header, panic, lb] = problems.as_slice() else {
        panic!("{problems:?}")
    };
    assert!(header.starts_with("!Service default/web: metadata.annotations[traffic.hash.header.name]: \"x user\""));
    assert!(panic.contains("0 to 100") && lb.contains("PEAK_EWMA"), "{problems:?}");

    for (labels, told) in [
        (json!({"traffic.lb.policy": "maglev"}), "nothing is hashed"),
        (
            json!({"traffic.hash.header.name": "x-user"}),
            "no effect on ROUND_ROBIN",
        ),
        (
            json!({"traffic.lb.policy": "MAGLEV", "traffic.hash.header.name": "u", "traffic.hash.cookie.ttl": "1"}),
            "no effect without traffic.hash.cookie.name",
        ),
    ] {
        let (_, problems) = of_service(labels);
        assert!(problems.len() == 1 && problems[0].contains(told), "{problems:?}");
    }
}

#[test]
fn limits_and_outliers() {
    let (policy, problems) = of_service(json!({
        "traffic.retries.max": "7", "traffic.connection.max": "10", "traffic.request.max-pending": "0",
        "traffic.request.max": "1", "traffic.connection.timeout": "250ms",
        "traffic.outlier.enabled": "false", "traffic.outlier.consecutive-gateway-errors": "3",
        "traffic.outlier.consecutive-5xx": "4", "traffic.outlier.ejection-time": "30s",
        "traffic.outlier.max-ejection-percent": "100",
    }));
    assert_eq!(problems, [""; 0]);
    let limits = Limits {
        retries: Some(7),
        connections: Some(10),
        pending: None,
        requests: Some(1),
        retry_budget: None,
    };
    assert_eq!(policy.limits, limits);
    assert_eq!(policy.connect_timeout, Some(Duration::from_millis(250)));
    let outlier = Outlier {
        enabled: false,
        gateway_errors: 3,
        server_errors: 4,
        ejection_time: secs(30),
        ejected_percent_max: 100,
    };
    assert_eq!(policy.outlier, outlier);

    let (policy, problems) = of_service(json!({
        "traffic.request.max": "-1", "traffic.outlier.ejection-time": "soon", "traffic.retries.budget": "12.5", "traffic.retries.max": "3",
    }));
    assert_eq!(policy.limits.requests, None);
    assert_eq!(policy.outlier, Outlier::default());
    assert_eq!(policy.limits.retry_budget, "12.5".parse().ok());
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(
        problems
            .iter()
            .any(|p| p.contains("no effect beside traffic.retries.budget"))
    );
}

#[test]
fn timeouts_and_bare_numbers() {
    let (policy, problems) = of_service(json!({
        "traffic.request.timeout": "3000", "traffic.request.per-try-timeout": "1m30s",
        "traffic.request.idle-timeout": "2000000000",
    }));
    let expected = Timeouts {
        request: Some(secs(3)),
        per_try: Some(secs(90)),
        idle: Some(secs(2)),
    };
    assert_eq!(policy.timeouts, expected);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems
            .iter()
            .all(|p| p.starts_with("Service") && p.contains("has no unit"))
    );
    assert!(problems.iter().any(|p| p.contains("write 3s")));
}

#[test]
fn retries_combine() {
    let retries = |labels| {
        let (policy, problems) = of_service(labels);
        assert_eq!(problems, [""; 0]);
        let on: Vec<&str> = policy.retries.on.iter().map(|on| on.as_str()).collect();
        format!("{}:{}", on.join(","), policy.retries.limit)
    };
    let never_sent = "connect-failure,refused-stream,reset-before-request";
    assert_eq!(
        retries(json!({"traffic.retries.5xx": "3"})),
        format!("{never_sent},5xx:3")
    );
    assert_eq!(
        retries(json!({"traffic.retries.5xx": "1", "traffic.retries.gateway-error": "4"})),
        format!("{never_sent},gateway-error,5xx:4")
    );
    assert_eq!(
        retries(json!({"traffic.retries.connect-failure": "5"})),
        format!("{never_sent}:5")
    );
    assert_eq!(retries(json!({"traffic.retries.5xx": "0"})), format!("{never_sent}:2"));
    assert_eq!(retries(json!({"traffic.retries.connect-failure": "0"})), ":0");
    assert_eq!(
        retries(json!({"traffic.retries.connect-failure": "0", "traffic.retries.5xx": "1"})),
        "5xx:1"
    );
}

#[test]
fn faults() {
    let (policy, problems) = of_service(json!({
        "traffic.fault.delay.time": "3s", "traffic.fault.delay.percentage": "0.5",
        "traffic.fault.abort.percentage": "100", "traffic.rate.limit": "64",
    }));
    assert_eq!(problems, [""; 0]);
    let expected = Fault {
        delay: Some((secs(3), "0.5".parse().unwrap())),
        abort: Some((503, Percent::ALL)),
        rate_kib_s: Some(64),
    };
    assert_eq!(policy.fault, expected);

    for (labels, told) in [
        (
            json!({"traffic.fault.delay.time": "3s"}),
            "until traffic.fault.delay.percentage is set",
        ),
        (
            json!({"traffic.fault.delay.percentage": "3"}),
            "until traffic.fault.delay.time is set",
        ),
        (
            json!({"traffic.fault.abort.status": "505"}),
            "until traffic.fault.abort.percentage is set",
        ),
        (
            json!({"traffic.fault.abort.status": "99", "traffic.fault.abort.percentage": "0"}),
            "200 to 599",
        ),
        (json!({"traffic.fault.abort.percentage": "101"}), "0 to 100"),
        (json!({"traffic.rate.limit": "1M"}), "whole one"),
    ] {
        let (policy, problems) = of_service(labels);
        assert_eq!(policy.fault, Fault::default(), "{told}");
        assert!(problems.len() == 1 && problems[0].contains(told), "{problems:?}");
    }
}

/// Traffic to the Service's address: its own labels. To the pod's: the pod's, then its workload's, then the Service's.
#[test]
fn a_pods_labels_stand_above_its_services_for_its_own_address() {
    let seen = labelled(
        json!({"traffic.request.timeout": "1s", "traffic.retries.5xx": "1", "traffic.fault.delay.percentage": "50",
               "traffic.fault.delay.time": "1s", "traffic.connection.max": "5"}),
        json!({"traffic.request.timeout": "2s", "traffic.retries.5xx": "2"}),
        json!({"traffic.request.timeout": "3s", "traffic.fault.delay.time": "3s", "traffic.connection.max": "9"}),
    );
    assert_eq!(seen.problems.len(), 1, "{:?}", seen.problems);
    assert!(seen.problems[0].contains("[traffic.connection.max]: has no effect on a Pod"));
    let told = |policy: &Policy| {
        (
            policy.timeouts.request,
            policy.retries.limit,
            policy.fault.delay.map(|d| d.0),
        )
    };
    assert_eq!(told(&seen.service), (Some(secs(1)), 1, Some(secs(1))));
    assert_eq!(told(&seen.address), (Some(secs(3)), 2, Some(secs(3))));
    assert_eq!(seen.address.fault.delay.map(|d| d.1), Some(Percent::whole(50)));
    assert_eq!(seen.address.limits.connections, Some(5), "a key of Services only");
}

#[test]
fn a_bad_value_says_nothing_and_the_next_one_counts() {
    let seen = labelled(
        json!({"traffic.request.timeout": "1s"}),
        json!({"traffic.request.timeout": "2s"}),
        json!({"traffic.request.timeout": "x"}),
    );
    assert_eq!(seen.address.timeouts.request, Some(secs(2)));
    assert_eq!(seen.problems.len(), 1, "{:?}", seen.problems);
    assert!(seen.problems[0].starts_with("!Pod default/web-1: metadata.annotations[traffic.request.timeout]: \"x\""));
}

#[test]
fn tracing() {
    let seen = labelled(
        json!({"traffic.tracing.enabled": "true", "traffic.tracing.sampling": "12.5"}),
        json!({"traffic.tracing.enabled": "true"}),
        json!({}),
    );
    assert_eq!(seen.problems, [""; 0]);
    assert_eq!(seen.service.tracing.sampling, "12.5".parse().ok());
    assert_eq!(seen.pod.sampling, Some(Percent::ALL));
    let (policy, problems) = of_service(json!({"traffic.tracing.sampling": "50"}));
    assert_eq!(policy.tracing.sampling, None);
    assert!(
        problems.len() == 1 && problems[0].contains("traffic.tracing.enabled"),
        "{problems:?}"
    );
    let settings = "tracing: {backend: none, sampling: 5}";
    let seen = with_settings(
        json!({"traffic.tracing.enabled": "true"}),
        json!({}),
        json!({}),
        settings,
    );
    assert_eq!(seen.service.tracing.sampling, Some(Percent::whole(5)));
    assert!(
        seen.problems.len() == 1 && seen.problems[0].contains("nobody takes the traces"),
        "{:?}",
        seen.problems
    );
}

#[test]
fn the_meshs_defaults_hold_where_no_label_speaks() {
    let settings = "timeouts: {connect: 5s, request: 15s, perTry: 1s}\nretries: {gatewayError: 3, budget: 20}\noutlier: {enabled: false}";
    let seen = with_settings(json!({"traffic.request.timeout": "0"}), json!({}), json!({}), settings);
    assert_eq!(seen.problems, [""; 0]);
    let expected = Timeouts {
        request: None,
        per_try: Some(secs(1)),
        idle: None,
    };
    assert_eq!(seen.service.timeouts, expected, "a label of 0 takes the default away");
    assert_eq!(seen.service.connect_timeout, Some(secs(5)));
    assert_eq!(seen.service.retries.limit, 3);
    assert!(seen.service.retries.on.contains(&RetryOn::GatewayError));
    assert_eq!(seen.service.limits.retry_budget, Some(Percent::whole(20)));
    assert!(!seen.service.outlier.enabled);
}
