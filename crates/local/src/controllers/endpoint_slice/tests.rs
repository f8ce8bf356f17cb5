use k8s_openapi::api::core::v1::{ContainerPort, ServiceSpec};

use super::*;
use crate::controllers::fixtures::{labels, pod, terminating};

fn service(ports: &[(&str, i32, IntOrString)]) -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("uid-service".into()),
            labels: Some(labels(&[("team", "blue")])),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some("10.96.1.1".into()),
            selector: Some(labels(&[("app", "web")])),
            ports: Some(
                ports
                    .iter()
                    .map(|(name, port, target)| ServicePort {
                        name: Some((*name).into()),
                        port: *port,
                        target_port: Some(target.clone()),
                        ..ServicePort::default()
                    })
                    .collect(),
            ),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn http() -> Service {
    service(&[("http", 80, IntOrString::Int(8080))])
}

/// As the API would have it after the plan.
fn applied(plan: &Plan, before: &[EndpointSlice]) -> Vec<EndpointSlice> {
    let gone: Vec<String> = plan.delete.iter().map(ResourceExt::name_any).collect();
    let mut after: Vec<EndpointSlice> = before
        .iter()
        .filter(|slice| !gone.contains(&slice.name_any()))
        .cloned()
        .collect();
    for slice in &plan.replace {
        let at = after.iter().position(|old| old.name_any() == slice.name_any()).unwrap();
        after[at] = slice.clone();
    }
    for slice in &plan.create {
        let mut slice = slice.clone();
        slice.metadata.resource_version = Some("1".into());
        after.push(slice);
    }
    after
}

fn run(service: &Service, pods: &[Pod], before: &[EndpointSlice]) -> (Plan, Vec<EndpointSlice>) {
    let plan = plan(
        service,
        &pods.iter().collect::<Vec<_>>(),
        &before.iter().collect::<Vec<_>>(),
    );
    let after = applied(&plan, before);
    (plan, after)
}

#[test]
fn one_slice_tells_ports_conditions_and_owner() {
    let pods = [
        pod("web-1", None, 0, Some(1)),
        pod("web-2", None, 0, None),
        terminating(pod("web-3", None, 0, Some(1))),
    ];
    let (plan, after) = run(&http(), &pods, &[]);
    assert_eq!((plan.create.len(), plan.replace.len(), plan.delete.len()), (1, 0, 0));
    let slice = &after[0];
    assert!(slice.name_any().starts_with("web-"));
    assert_eq!(slice.labels()["kubernetes.io/service-name"], "web");
    assert_eq!(slice.labels()["team"], "blue");
    assert_eq!(slice.owner_references()[0].uid, "uid-service");
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!((port.name.as_deref(), port.port), (Some("http"), Some(8080)));
    let conditions: Vec<_> = slice
        .endpoints
        .iter()
        .flatten()
        .map(|endpoint| {
            let conditions = endpoint.conditions.as_ref().unwrap();
            (
                endpoint.addresses[0].as_str(),
                conditions.ready.unwrap(),
                conditions.serving.unwrap(),
                conditions.terminating.unwrap(),
            )
        })
        .collect();
    assert_eq!(
        conditions,
        [
            ("10.244.1.1", true, true, false),
            ("10.244.1.2", false, false, false),
            ("10.244.1.3", false, true, true),
        ]
    );
    assert_eq!(
        run(&http(), &pods, &after).0,
        Plan::default(),
        "nothing changed, nothing is written"
    );
}

#[test]
fn named_ports_are_each_pods_own() {
    let named = service(&[("http", 80, IntOrString::String("web".into()))]);
    let with_port = |name: &str, number: i32| {
        let mut pod = pod(name, None, 0, Some(1));
        pod.spec.as_mut().unwrap().containers[0].ports = Some(vec![ContainerPort {
            name: Some("web".into()),
            container_port: number,
            ..ContainerPort::default()
        }]);
        pod
    };
    let pods = [
        with_port("web-1", 8080),
        with_port("web-2", 9090),
        with_port("web-3", 8080),
    ];
    let (_, after) = run(&named, &pods, &[]);
    let mut seen: Vec<_> = after
        .iter()
        .map(|slice| {
            let endpoints = slice.endpoints.as_ref().unwrap();
            (slice.ports.as_ref().unwrap()[0].port.unwrap(), endpoints.len())
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [(8080, 2), (9090, 1)]);
}

#[test]
fn a_pod_that_leaves_moves_nobody_else() {
    let pods: Vec<Pod> = (1..=240).map(|n| pod(&format!("web-{n}"), None, 0, Some(1))).collect();
    let (_, first) = run(&http(), &pods, &[]);
    assert_eq!(first.len(), 3);
    let (plan, second) = run(&http(), &pods[1..], &first);
    assert_eq!((plan.create.len(), plan.replace.len(), plan.delete.len()), (0, 1, 0));
    let total: usize = second.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).sum();
    assert_eq!(total, 239);
    let (_, last) = run(&http(), &pods[..1], &second);
    assert!(
        last.iter()
            .map(|slice| slice.endpoints.as_ref().unwrap().len())
            .sum::<usize>()
            == 1
    );
    assert_eq!(last.len(), 1);
}

#[test]
fn a_service_without_pods_has_one_empty_slice() {
    let (_, after) = run(&http(), &[], &[]);
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].endpoints, Some(vec![]));
    let mut as_returned = after.clone();
    as_returned[0].endpoints = None;
    assert_eq!(run(&http(), &[], &after).0, Plan::default());
    let pods = [pod("web-1", None, 0, Some(1))];
    let (_, full) = run(&http(), &pods, &after);
    assert_eq!(full.len(), 1);
    assert_eq!(full[0].endpoints.as_ref().unwrap().len(), 1);
}

#[test]
fn finished_pods_and_strangers_are_no_endpoints() {
    let mut over = pod("web-1", None, 0, None);
    over.status.as_mut().unwrap().phase = Some("Failed".into());
    let mut stranger = pod("web-2", None, 0, Some(1));
    stranger.labels_mut().insert("app".into(), "other".into());
    let mut homeless = pod("web-3", None, 0, Some(1));
    homeless.status.as_mut().unwrap().pod_ip = None;
    let (_, after) = run(&http(), &[over, stranger, homeless], &[]);
    assert_eq!(after[0].endpoints, Some(vec![]));
}

#[test]
fn unready_addresses_are_published_on_request() {
    let mut service = http();
    service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    service.spec.as_mut().unwrap().cluster_ip = Some("None".into());
    let mut pod = pod("web-1", None, 0, None);
    pod.spec.as_mut().unwrap().hostname = Some("first".into());
    pod.spec.as_mut().unwrap().subdomain = Some("web".into());
    let (_, after) = run(&service, &[pod], &[]);
    let endpoint = &after[0].endpoints.as_ref().unwrap()[0];
    assert_eq!(endpoint.conditions.as_ref().unwrap().ready, Some(true));
    assert_eq!(endpoint.hostname.as_deref(), Some("first"));
    assert!(after[0].labels().contains_key(HEADLESS));
}
