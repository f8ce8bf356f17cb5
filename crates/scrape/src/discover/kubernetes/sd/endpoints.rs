//! Roles `endpoints` and `endpointslice`: every address of every port, with its pod and its Service; and the other ports of
//! those pods.

use super::{Cluster, attach, key_of, labels, pods};
use crate::{discover::ADDRESS, relabel::LabelSet};
use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointPort, Endpoints, ObjectReference, Pod},
        discovery::v1::{Endpoint, EndpointPort as SlicePort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{collections::BTreeMap, sync::Arc};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A pod behind an object, and the ports of it that the object names.
type Behind = BTreeMap<(String, String), (Arc<Pod>, Vec<i32>)>;

pub(super) fn of_endpoints(cluster: &Cluster, object: &Endpoints) -> Vec<LabelSet> {
    let base = base(
        cluster,
        "endpoints",
        &object.metadata,
        labels::text(&object.metadata.name),
    );
    let (mut all, mut behind) = (Vec::new(), Behind::new());
    for subset in object.subsets.iter().flatten() {
        for port in subset.ports.iter().flatten() {
            let ready = subset.addresses.iter().flatten().map(|a| (a, true));
            let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
            for (address, ready) in ready.chain(not_ready) {
                let mut set = base.clone();
                about_address(address, port, ready, &mut set);
                let place = Place {
                    ip: &address.ip,
                    port: port.port,
                    target: address.target_ref.as_ref(),
                    node: address.node_name.as_deref(),
                };
                place.fill(cluster, &object.metadata, &mut set, &mut behind);
                all.push(set);
            }
        }
    }
    others(cluster, &base, behind, &mut all);
    all
}

fn about_address(address: &EndpointAddress, port: &EndpointPort, ready: bool, set: &mut LabelSet) {
    let target = address.target_ref.as_ref();
    let ready = ready.to_string();
    let pairs = [
        ("endpoint_port_name", labels::text(&port.name)),
        ("endpoint_port_protocol", port.protocol.as_deref().unwrap_or("TCP")),
        ("endpoint_ready", &ready),
        ("endpoint_hostname", labels::text(&address.hostname)),
        ("endpoint_node_name", labels::text(&address.node_name)),
        (
            "endpoint_address_target_kind",
            target.map_or("", |t| labels::text(&t.kind)),
        ),
        (
            "endpoint_address_target_name",
            target.map_or("", |t| labels::text(&t.name)),
        ),
    ];
    for (name, value) in pairs {
        set.set(&labels::name(name), value);
    }
}

pub(super) fn of_slice(cluster: &Cluster, object: &EndpointSlice) -> Vec<LabelSet> {
    let service = object.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
    let mut base = base(
        cluster,
        "endpointslice",
        &object.metadata,
        service.map_or("", String::as_str),
    );
    base.set(
        &labels::name("endpointslice_address_type"),
        object.address_type.as_str(),
    );
    let (mut all, mut behind) = (Vec::new(), Behind::new());
    for port in object.ports.iter().flatten() {
        let Some(number) = port.port else { continue };
        for endpoint in object.endpoints.iter().flatten() {
            for ip in &endpoint.addresses {
                let mut set = base.clone();
                about_endpoint(endpoint, port, number, &mut set);
                let place = Place {
                    ip,
                    port: number,
                    target: endpoint.target_ref.as_ref(),
                    node: endpoint.node_name.as_deref(),
                };
                place.fill(cluster, &object.metadata, &mut set, &mut behind);
                all.push(set);
            }
        }
    }
    others(cluster, &base, behind, &mut all);
    all
}

fn about_endpoint(endpoint: &Endpoint, port: &SlicePort, number: i32, set: &mut LabelSet) {
    let target = endpoint.target_ref.as_ref();
    let conditions = endpoint.conditions.as_ref();
    let condition = |value: Option<bool>| value.map(|v| v.to_string()).unwrap_or_default();
    let pairs = [
        ("endpointslice_port_name", labels::text(&port.name).to_owned()),
        (
            "endpointslice_port_protocol",
            port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        ),
        ("endpointslice_port", number.to_string()),
        (
            "endpointslice_port_app_protocol",
            labels::text(&port.app_protocol).to_owned(),
        ),
        (
            "endpointslice_endpoint_conditions_ready",
            condition(conditions.and_then(|c| c.ready)),
        ),
        (
            "endpointslice_endpoint_conditions_serving",
            condition(conditions.and_then(|c| c.serving)),
        ),
        (
            "endpointslice_endpoint_conditions_terminating",
            condition(conditions.and_then(|c| c.terminating)),
        ),
        (
            "endpointslice_endpoint_hostname",
            labels::text(&endpoint.hostname).to_owned(),
        ),
        (
            "endpointslice_endpoint_node_name",
            labels::text(&endpoint.node_name).to_owned(),
        ),
        ("endpointslice_endpoint_zone", labels::text(&endpoint.zone).to_owned()),
        (
            "endpointslice_address_target_kind",
            target.map_or("", |t| labels::text(&t.kind)).to_owned(),
        ),
        (
            "endpointslice_address_target_name",
            target.map_or("", |t| labels::text(&t.name)).to_owned(),
        ),
    ];
    for (name, value) in pairs {
        set.set(&labels::name(name), value);
    }
}

/// What all targets of an object have in common.
fn base(cluster: &Cluster, kind: &str, meta: &ObjectMeta, service: &str) -> LabelSet {
    let mut set = LabelSet::default();
    set.set(&labels::name("namespace"), labels::text(&meta.namespace));
    set.set(&labels::name(&format!("{kind}_name")), labels::text(&meta.name));
    labels::meta(kind, meta, &mut set);
    if let Some(service) = cluster.services.get(&key_of(meta, service)) {
        set.set(&labels::name("service_name"), labels::text(&service.metadata.name));
        labels::meta("service", &service.metadata, &mut set);
    }
    attach(cluster, labels::text(&meta.namespace), None, &mut set);
    set
}

/// One address of one port.
struct Place<'a> {
    ip: &'a str,
    port: i32,
    target: Option<&'a ObjectReference>,
    node: Option<&'a str>,
}

impl Place<'_> {
    fn fill(&self, cluster: &Cluster, meta: &ObjectMeta, set: &mut LabelSet, behind: &mut Behind) {
        set.set(ADDRESS, labels::address(self.ip, self.port));
        let pod = self
            .target
            .filter(|t| t.kind.as_deref() == Some("Pod"))
            .and_then(|target| {
                let key = key_of(meta, labels::text(&target.name));
                cluster.pods.get_key_value(&key)
            });
        let Some((key, pod)) = pod else {
            attach(cluster, labels::text(&meta.namespace), self.node, set);
            return;
        };
        behind
            .entry(key.clone())
            .or_insert_with(|| (pod.clone(), Vec::new()))
            .1
            .push(self.port);
        pods::about(cluster, pod, set);
        for (container, init) in pods::containers(pod) {
            let ports = container.ports.iter().flatten();
            if let Some(port) = ports.into_iter().find(|p| p.container_port == self.port) {
                pods::about_container(pod, container, init, Some(port), set);
                break;
            }
        }
    }
}

/// The ports of those pods that no endpoint names.
fn others(cluster: &Cluster, base: &LabelSet, behind: Behind, all: &mut Vec<LabelSet>) {
    for (pod, named) in behind.into_values() {
        let ip = pods::ip(&pod);
        if ip.is_empty() {
            continue;
        }
        for (container, init) in pods::containers(&pod) {
            let ports = container.ports.iter().flatten();
            for port in ports.filter(|p| !named.contains(&p.container_port)) {
                let mut set = base.clone();
                pods::about(cluster, &pod, &mut set);
                pods::about_container(&pod, container, init, Some(port), &mut set);
                set.set(ADDRESS, labels::address(ip, port.container_port));
                all.push(set);
            }
        }
    }
}
