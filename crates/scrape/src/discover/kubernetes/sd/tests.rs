//! Objects of each role, and the targets with labels that they become.

use super::*;
use serde_json::{Value, json};

fn objects<K: Resource<DynamicType = ()> + DeserializeOwned>(values: &[Value]) -> Objects<K> {
    let read = |value: &Value| {
        let object: K = serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}"));
        (labels::key(object.meta()), Arc::new(object))
    };
    values.iter().map(read).collect()
}

/// `address name=value ...` of the labels that the test is about, without their prefix.
fn shown(targets: &[LabelSet], names: &[&str]) -> Vec<String> {
    let line = |set: &LabelSet| {
        let parts: Vec<String> = names
            .iter()
            .map(|n| format!("{n}={}", set.get(&labels::name(n))))
            .collect();
        format!("{} {}", set.get("__address__"), parts.join(" "))
    };
    targets.iter().map(line).collect()
}

fn pod() -> Value {
    json!({
        "metadata": {
            "name": "web-1", "namespace": "shop", "uid": "u1",
            "labels": {"app.kubernetes.io/name": "web"}, "annotations": {"prometheus.io/scrape": "true"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "2", "controller": true}],
        },
        "spec": {
            "nodeName": "n1",
            "containers": [
                {"name": "app", "image": "web:1", "ports": [{"containerPort": 8080, "name": "http"}, {"containerPort": 9100, "name": "metrics", "protocol": "TCP"}]},
                {"name": "quiet"},
            ],
            "initContainers": [{"name": "setup"}],
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.7", "hostIP": "192.168.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "app", "image": "web:1", "imageID": "", "ready": true, "restartCount": 0, "containerID": "cri://1"}],
        },
    })
}

fn node() -> Value {
    json!({
        "metadata": {"name": "n1", "labels": {"zone": "a"}},
        "spec": {"providerID": "cloud://1"},
        "status": {
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "fd00::1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10255}},
        },
    })
}

fn service() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "shop", "labels": {"tier": "front"}},
        "spec": {"clusterIP": "10.96.0.1", "type": "ClusterIP", "ports": [{"name": "http", "port": 80}]},
    })
}

#[test]
fn pods() {
    let mut cluster = Cluster {
        pods: objects(&[pod()]),
        nodes: objects(&[node()]),
        ..Cluster::default()
    };
    let targets = cluster.targets(Role::Pod);
    let names = [
        "namespace",
        "pod_name",
        "pod_container_name",
        "pod_container_port_name",
        "pod_container_port_number",
        "pod_container_init",
    ];
    let expected = [
        "10.0.0.7:8080 namespace=shop pod_name=web-1 pod_container_name=app pod_container_port_name=http pod_container_port_number=8080 pod_container_init=false",
        "10.0.0.7:9100 namespace=shop pod_name=web-1 pod_container_name=app pod_container_port_name=metrics pod_container_port_number=9100 pod_container_init=false",
        "10.0.0.7 namespace=shop pod_name=web-1 pod_container_name=quiet pod_container_port_name= pod_container_port_number= pod_container_init=false",
        "10.0.0.7 namespace=shop pod_name=web-1 pod_container_name=setup pod_container_port_name= pod_container_port_number= pod_container_init=true",
    ];
    assert_eq!(shown(&targets, &names), expected);
    let of_pod = [
        ("pod_ip", "10.0.0.7"),
        ("pod_ready", "true"),
        ("pod_phase", "Running"),
        ("pod_node_name", "n1"),
        ("pod_host_ip", "192.168.0.1"),
        ("pod_uid", "u1"),
        ("pod_controller_kind", "ReplicaSet"),
        ("pod_controller_name", "web"),
        ("pod_label_app_kubernetes_io_name", "web"),
        ("pod_labelpresent_app_kubernetes_io_name", "true"),
        ("pod_annotation_prometheus_io_scrape", "true"),
        ("pod_annotationpresent_prometheus_io_scrape", "true"),
        ("pod_container_image", "web:1"),
        ("pod_container_id", "cri://1"),
        ("pod_container_port_protocol", "TCP"),
        ("node_label_zone", ""),
    ];
    for (name, value) in of_pod {
        assert_eq!(targets[0].get(&labels::name(name)), value, "{name}");
    }
    cluster.attach_node = true;
    assert_eq!(cluster.targets(Role::Pod)[0].get(&labels::name("node_label_zone")), "a");
    let mut waiting = pod();
    waiting["status"] = json!({"phase": "Pending"});
    assert!(
        Cluster {
            pods: objects(&[waiting]),
            ..Cluster::default()
        }
        .targets(Role::Pod)
        .is_empty()
    );
}

#[test]
fn endpoints_know_their_pods_and_services() {
    let endpoints = json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "subsets": [{
            "addresses": [{"ip": "10.0.0.7", "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "shop"}}],
            "notReadyAddresses": [{"ip": "10.0.0.9"}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }],
    });
    let cluster = Cluster {
        pods: objects(&[pod()]),
        services: objects(&[service()]),
        endpoints: objects(&[endpoints]),
        ..Cluster::default()
    };
    let names = [
        "endpoints_name",
        "endpoint_ready",
        "endpoint_port_name",
        "pod_name",
        "pod_container_port_name",
        "service_label_tier",
    ];
    let expected = [
        "10.0.0.7:8080 endpoints_name=web endpoint_ready=true endpoint_port_name=http pod_name=web-1 pod_container_port_name=http service_label_tier=front",
        "10.0.0.9:8080 endpoints_name=web endpoint_ready=false endpoint_port_name=http pod_name= pod_container_port_name= service_label_tier=front",
        "10.0.0.7:9100 endpoints_name=web endpoint_ready= endpoint_port_name= pod_name=web-1 pod_container_port_name=metrics service_label_tier=front",
    ];
    assert_eq!(shown(&cluster.targets(Role::Endpoints), &names), expected);
}

#[test]
fn endpoint_slices() {
    let slice = json!({
        "metadata": {"name": "web-abc", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": ["10.0.0.7"], "conditions": {"ready": true, "serving": true}, "zone": "a",
            "targetRef": {"kind": "Pod", "name": "web-1"},
        }],
        "ports": [{"name": "metrics", "port": 9100, "protocol": "TCP"}],
    });
    let cluster = Cluster {
        pods: objects(&[pod()]),
        services: objects(&[service()]),
        slices: objects(&[slice]),
        ..Cluster::default()
    };
    let names = [
        "endpointslice_name",
        "endpointslice_endpoint_conditions_ready",
        "endpointslice_port",
        "endpointslice_endpoint_zone",
        "service_name",
        "pod_container_port_name",
    ];
    let expected = [
        "10.0.0.7:9100 endpointslice_name=web-abc endpointslice_endpoint_conditions_ready=true endpointslice_port=9100 endpointslice_endpoint_zone=a service_name=web pod_container_port_name=metrics",
        "10.0.0.7:8080 endpointslice_name=web-abc endpointslice_endpoint_conditions_ready= endpointslice_port= endpointslice_endpoint_zone= service_name=web pod_container_port_name=http",
    ];
    assert_eq!(shown(&cluster.targets(Role::EndpointSlice), &names), expected);
}

#[test]
fn services_nodes_and_ingresses() {
    let ingress = json!({
        "metadata": {"name": "edge", "namespace": "shop"},
        "spec": {
            "ingressClassName": "weir",
            "tls": [{"hosts": ["*.example.com"]}],
            "rules": [
                {"host": "a.example.com", "http": {"paths": [{"path": "/x", "pathType": "Prefix", "backend": {}}, {"pathType": "Prefix", "backend": {}}]}},
                {"host": "b.org"},
            ],
        },
    });
    let cluster = Cluster {
        services: objects(&[service()]),
        nodes: objects(&[node()]),
        ingresses: objects(&[ingress]),
        ..Cluster::default()
    };
    let names = [
        "service_name",
        "service_port_number",
        "service_port_protocol",
        "service_cluster_ip",
        "service_type",
        "service_labelpresent_tier",
    ];
    assert_eq!(
        shown(&cluster.targets(Role::Service), &names),
        [
            "web.shop.svc:80 service_name=web service_port_number=80 service_port_protocol=TCP service_cluster_ip=10.96.0.1 service_type=ClusterIP service_labelpresent_tier=true"
        ]
    );
    let names = [
        "node_name",
        "node_provider_id",
        "node_label_zone",
        "node_address_InternalIP",
        "node_address_Hostname",
    ];
    let nodes = cluster.targets(Role::Node);
    assert_eq!(
        shown(&nodes, &names),
        [
            "[fd00::1]:10255 node_name=n1 node_provider_id=cloud://1 node_label_zone=a node_address_InternalIP=fd00::1 node_address_Hostname=n1"
        ]
    );
    assert_eq!(nodes[0].get("instance"), "n1");
    let names = ["ingress_scheme", "ingress_host", "ingress_path", "ingress_class_name"];
    let expected = [
        "a.example.com ingress_scheme=https ingress_host=a.example.com ingress_path=/x ingress_class_name=weir",
        "a.example.com ingress_scheme=https ingress_host=a.example.com ingress_path=/ ingress_class_name=weir",
        "b.org ingress_scheme=http ingress_host=b.org ingress_path=/ ingress_class_name=weir",
    ];
    assert_eq!(shown(&cluster.targets(Role::Ingress), &names), expected);
}
