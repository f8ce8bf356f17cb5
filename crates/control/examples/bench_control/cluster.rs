//! The simulated cluster: namespaces, and in each Services with their pods, slices and workloads.

use serde_json::{Value, json};
use weir_mesh::{Key, Objects};

use crate::Size;

/// Namespaces that the Services are spread over.
pub const NAMESPACES: usize = 20;

/// The namespace of a Service.
pub fn namespace(service: usize) -> String {
    format!("team-{:02}", service % NAMESPACES)
}

/// How many endpoints each Service has.
pub fn endpoints_each(size: Size) -> usize {
    size.endpoints / size.services
}

fn ip(number: usize) -> String {
    format!("10.{}.{}.{}", 128 + (number >> 16), (number >> 8) & 0xff, number & 0xff)
}

fn pod_name(service: usize, endpoint: usize) -> String {
    format!("app-{service:04}-5d8f7c9b6-{endpoint:05x}")
}

/// The node id of a client: clients are the first pods of each Service, so that all namespaces have some.
pub fn node_id(size: Size, client: usize) -> String {
    let (service, endpoint) = (client % size.services, client / size.services);
    Key::new(namespace(service), pod_name(service, endpoint)).node_id()
}

fn owned_by(kind: &str, name: &str) -> Value {
    json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": true}])
}

/// All objects. `narrow`: each Service is for its own namespace alone.
pub fn objects(size: Size, narrow: bool) -> Result<Objects, serde_json::Error> {
    let mut objects = Objects::default();
    for n in 0..NAMESPACES {
        let name = namespace(n);
        objects.insert(json!({"kind": "Namespace", "metadata": {"name": name, "uid": name,
            "labels": {"traffic.envoy.enabled": "true"}}}))?;
    }
    for service in 0..size.services {
        let (namespace, app) = (namespace(service), format!("app-{service:04}"));
        let meta = |name: &str| json!({"namespace": namespace, "name": name, "uid": name, "labels": {"app": app}});
        let set = format!("{app}-5d8f7c9b6");
        objects
            .insert(json!({"kind": "Deployment", "metadata": meta(&app), "spec": {"selector": {}, "template": {}}}))?;
        let mut replica_set = json!({"kind": "ReplicaSet", "metadata": meta(&set), "spec": {"selector": {}}});
        replica_set["metadata"]["ownerReferences"] = owned_by("Deployment", &app);
        objects.insert(replica_set)?;
        let mut object = json!({"kind": "Service", "metadata": meta(&app), "spec": {
            "clusterIP": format!("10.96.{}.{}", service >> 8, service & 0xff), "selector": {"app": app},
            "ports": [{"name": "http", "port": 8080, "targetPort": 8080}]}});
        object["metadata"]["labels"]["traffic.port.8080"] = json!("http");
        if narrow {
            object["metadata"]["annotations"] = json!({"traffic.export-to": "."});
        }
        objects.insert(object)?;
        let mut addresses = Vec::new();
        for endpoint in 0..endpoints_each(size) {
            let name = pod_name(service, endpoint);
            let address = ip(service * endpoints_each(size) + endpoint);
            let mut pod = json!({"kind": "Pod", "metadata": meta(&name), "spec": {"containers": [], "nodeName": "machine"},
                "status": {"phase": "Running", "podIP": address, "hostIP": "192.0.2.1"}});
            pod["metadata"]["ownerReferences"] = owned_by("ReplicaSet", &set);
            objects.insert(pod)?;
            addresses.push(json!({"addresses": [address], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": name}}));
        }
        let mut slice = json!({"kind": "EndpointSlice", "metadata": meta(&app), "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": addresses});
        slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": app});
        objects.insert(slice)?;
    }
    Ok(objects)
}

/// Turns one endpoint's readiness round.
pub fn flip(objects: &mut Objects, service: usize, endpoint: usize) {
    let key = Key::new(namespace(service), format!("app-{service:04}"));
    let Some(slice) = objects.endpoint_slices.get_mut(&key) else {
        return;
    };
    let mut changed = (**slice).clone();
    if let Some(endpoint) = changed.endpoints.as_mut().and_then(|e| e.get_mut(endpoint)) {
        let conditions = endpoint.conditions.get_or_insert_default();
        conditions.ready = Some(!conditions.ready.unwrap_or(true));
    }
    *slice = std::sync::Arc::new(changed);
}
