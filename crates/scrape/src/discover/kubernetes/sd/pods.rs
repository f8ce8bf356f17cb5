//! Role `pod`: every declared port of every container, and containers without ports.

use super::{Cluster, attach, labels};
use crate::{discover::ADDRESS, relabel::LabelSet};
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};

/// The targets of a pod.
pub(super) fn targets(cluster: &Cluster, pod: &Pod) -> Vec<LabelSet> {
    let ip = ip(pod);
    if ip.is_empty() {
        return Vec::new();
    }
    let mut all = Vec::new();
    let mut base = LabelSet::default();
    about(cluster, pod, &mut base);
    base.set(&labels::name("namespace"), labels::text(&pod.metadata.namespace));
    for (container, init) in containers(pod) {
        let ports = container.ports.as_deref().unwrap_or_default();
        if ports.is_empty() {
            let mut set = base.clone();
            about_container(pod, container, init, None, &mut set);
            // Rules may put a port behind it.
            let host = if ip.contains(':') {
                format!("[{ip}]")
            } else {
                ip.to_owned()
            };
            set.set(ADDRESS, host);
            all.push(set);
        }
        for port in ports {
            let mut set = base.clone();
            about_container(pod, container, init, Some(port), &mut set);
            set.set(ADDRESS, labels::address(ip, port.container_port));
            all.push(set);
        }
    }
    all
}

pub(super) fn ip(pod: &Pod) -> &str {
    pod.status.as_ref().map_or("", |status| labels::text(&status.pod_ip))
}

/// All containers; of the init containers true.
pub(super) fn containers(pod: &Pod) -> impl Iterator<Item = (&Container, bool)> {
    let spec = pod.spec.as_ref();
    let usual = spec
        .into_iter()
        .flat_map(|spec| spec.containers.iter().map(|c| (c, false)));
    let init = spec
        .into_iter()
        .flat_map(|spec| spec.init_containers.iter().flatten().map(|c| (c, true)));
    usual.chain(init)
}

/// Labels of the pod as a whole.
pub(super) fn about(cluster: &Cluster, pod: &Pod, set: &mut LabelSet) {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    let node = spec.map_or("", |s| labels::text(&s.node_name));
    let ready = status.and_then(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready"));
    let owner = pod
        .metadata
        .owner_references
        .iter()
        .flatten()
        .find(|o| o.controller == Some(true));
    let pairs = [
        ("pod_name", labels::text(&pod.metadata.name)),
        ("pod_ip", ip(pod)),
        (
            "pod_ready",
            &ready.map_or("unknown".to_owned(), |c| c.status.to_lowercase()),
        ),
        ("pod_phase", status.map_or("", |s| labels::text(&s.phase))),
        ("pod_node_name", node),
        ("pod_host_ip", status.map_or("", |s| labels::text(&s.host_ip))),
        ("pod_uid", labels::text(&pod.metadata.uid)),
        ("pod_controller_kind", owner.map_or("", |o| &o.kind)),
        ("pod_controller_name", owner.map_or("", |o| &o.name)),
    ];
    for (name, value) in pairs {
        set.set(&labels::name(name), value);
    }
    labels::meta("pod", &pod.metadata, set);
    attach(cluster, labels::text(&pod.metadata.namespace), Some(node), set);
}

/// Labels of one of its containers, and of one of its ports.
pub(super) fn about_container(
    pod: &Pod,
    container: &Container,
    init: bool,
    port: Option<&ContainerPort>,
    set: &mut LabelSet,
) {
    let status = pod.status.as_ref().and_then(|status| {
        let all = status.container_statuses.iter().flatten();
        let init = status.init_container_statuses.iter().flatten();
        all.chain(init).find(|s| s.name == container.name)
    });
    set.set(&labels::name("pod_container_init"), init.to_string());
    set.set(&labels::name("pod_container_name"), container.name.as_str());
    set.set(&labels::name("pod_container_image"), labels::text(&container.image));
    set.set(
        &labels::name("pod_container_id"),
        status.map_or("", |s| labels::text(&s.container_id)),
    );
    if let Some(port) = port {
        set.set(&labels::name("pod_container_port_name"), labels::text(&port.name));
        set.set(
            &labels::name("pod_container_port_number"),
            port.container_port.to_string(),
        );
        set.set(
            &labels::name("pod_container_port_protocol"),
            port.protocol.as_deref().unwrap_or("TCP"),
        );
    }
}
