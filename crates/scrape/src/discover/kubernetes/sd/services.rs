//! Roles `service`, `node` and `ingress`.

use super::{Cluster, attach, labels};
use crate::{discover::ADDRESS, relabel::LabelSet};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    networking::v1::Ingress,
};
use weir_series::names;

pub(super) fn of_service(cluster: &Cluster, service: &Service) -> Vec<LabelSet> {
    let (meta, spec) = (&service.metadata, service.spec.as_ref());
    let (namespace, name) = labels::key(meta);
    let kind = spec.and_then(|s| s.type_.as_deref()).unwrap_or("ClusterIP");
    let mut base = LabelSet::default();
    base.set(&labels::name("namespace"), namespace.as_str());
    base.set(&labels::name("service_name"), name.as_str());
    base.set(&labels::name("service_type"), kind);
    let (field, value) = match kind {
        "ExternalName" => ("service_external_name", spec.map(|s| labels::text(&s.external_name))),
        _ => ("service_cluster_ip", spec.map(|s| labels::text(&s.cluster_ip))),
    };
    base.set(&labels::name(field), value.unwrap_or_default());
    if kind == "LoadBalancer" {
        base.set(
            &labels::name("service_loadbalancer_ip"),
            spec.map_or("", |s| labels::text(&s.load_balancer_ip)),
        );
    }
    labels::meta("service", meta, &mut base);
    attach(cluster, &namespace, None, &mut base);
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let target = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let mut set = base.clone();
        set.set(ADDRESS, labels::address(&format!("{name}.{namespace}.svc"), port.port));
        set.set(&labels::name("service_port_name"), labels::text(&port.name));
        set.set(&labels::name("service_port_number"), port.port.to_string());
        set.set(
            &labels::name("service_port_protocol"),
            port.protocol.as_deref().unwrap_or("TCP"),
        );
        set
    };
    ports.iter().map(target).collect()
}

/// Kinds of addresses of a node, the best first.
const ADDRESSES: [&str; 6] = [
    "InternalIP",
    "InternalDNS",
    "ExternalIP",
    "ExternalDNS",
    "LegacyHostIP",
    "Hostname",
];
/// Where a kubelet listens that does not say so.
const KUBELET_PORT: i32 = 10250;

pub(super) fn of_node(node: &Node) -> Option<LabelSet> {
    let status = node.status.as_ref()?;
    let addresses = status.addresses.as_deref().unwrap_or_default();
    let of_kind = |kind: &str| addresses.iter().find(|a| a.type_ == kind);
    let best = ADDRESSES.into_iter().find_map(of_kind)?;
    let kubelet = status
        .daemon_endpoints
        .as_ref()
        .and_then(|d| d.kubelet_endpoint.as_ref());
    let port = kubelet.map(|k| k.port).filter(|port| *port > 0).unwrap_or(KUBELET_PORT);
    let mut set = LabelSet::default();
    set.set(ADDRESS, labels::address(&best.address, port));
    set.set(names::INSTANCE, labels::text(&node.metadata.name));
    set.set(&labels::name("node_name"), labels::text(&node.metadata.name));
    let provider = node.spec.as_ref().map_or("", |s| labels::text(&s.provider_id));
    set.set(&labels::name("node_provider_id"), provider);
    labels::meta("node", &node.metadata, &mut set);
    for kind in ADDRESSES {
        if let Some(address) = of_kind(kind) {
            set.set(&labels::name(&format!("node_address_{kind}")), address.address.as_str());
        }
    }
    Some(set)
}

pub(super) fn of_ingress(cluster: &Cluster, ingress: &Ingress) -> Vec<LabelSet> {
    let (meta, spec) = (&ingress.metadata, ingress.spec.as_ref());
    let mut base = LabelSet::default();
    base.set(&labels::name("namespace"), labels::text(&meta.namespace));
    base.set(&labels::name("ingress_name"), labels::text(&meta.name));
    base.set(
        &labels::name("ingress_class_name"),
        spec.map_or("", |s| labels::text(&s.ingress_class_name)),
    );
    labels::meta("ingress", meta, &mut base);
    attach(cluster, labels::text(&meta.namespace), None, &mut base);
    let secure: Vec<&String> = spec
        .iter()
        .flat_map(|s| s.tls.iter().flatten().flat_map(|tls| tls.hosts.iter().flatten()))
        .collect();
    let mut all = Vec::new();
    for rule in spec.iter().flat_map(|s| s.rules.iter().flatten()) {
        let host = rule.host.as_deref().filter(|h| !h.is_empty()).unwrap_or("*");
        let scheme = if secure.iter().any(|name| covers(name, host)) {
            "https"
        } else {
            "http"
        };
        let paths = rule
            .http
            .iter()
            .flat_map(|http| http.paths.iter().map(|p| p.path.as_deref().unwrap_or("/")));
        let paths: Vec<&str> = paths.collect();
        for path in if paths.is_empty() { &["/"][..] } else { &paths } {
            let mut set = base.clone();
            set.set(ADDRESS, host);
            set.set(&labels::name("ingress_scheme"), scheme);
            set.set(&labels::name("ingress_host"), host);
            set.set(&labels::name("ingress_path"), *path);
            all.push(set);
        }
    }
    all
}

/// Whether a name, `*.example.com` among them, stands for a host.
fn covers(name: &str, host: &str) -> bool {
    let below = name
        .strip_prefix("*.")
        .zip(host.split_once('.').map(|(_, parent)| parent));
    name == host || below.is_some_and(|(a, b)| a == b)
}
