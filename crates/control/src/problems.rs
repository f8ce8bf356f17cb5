//! Problems that come back from proxies: what a proxy rejected, told of the object that caused it.

use std::net::IpAddr;

use weir_api::problem::{ObjectRef, Problem, Severity};
use weir_mesh::{Key, Mesh};
use weir_xds::ResourceType;
use weir_xds::server::NodeStatus;

/// One problem for each rejected resource: on the Service that it was lowered from, or else on the pod whose proxy
/// rejects it. Many proxies that reject the same with the same words are one problem.
pub fn rejections(mesh: &Mesh, nodes: &[NodeStatus]) -> Vec<Problem> {
    let mut found = Vec::new();
    for node in nodes {
        for (ty, status) in &node.types {
            let Some(nack) = &status.last_nack else { continue };
            for name in &nack.resources {
                let object = service_of(mesh, *ty, name).unwrap_or_else(|| pod_of(mesh, &node.node.id));
                found.push(Problem {
                    object,
                    field: format!("{ty} {name}"),
                    message: format!("proxies ({}) reject what this asks for: {}", engine(node), nack.message),
                    severity: Severity::Error,
                });
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn engine(node: &NodeStatus) -> &str {
    if node.node.engine.is_empty() {
        "unknown engine"
    } else {
        &node.node.engine
    }
}

/// The Service behind a resource's name: `<port>|<namespace>|<service>.outbound` or `<ip>_<port>.outbound`.
fn service_of(mesh: &Mesh, ty: ResourceType, name: &str) -> Option<ObjectRef> {
    let name = name.strip_suffix(".outbound")?;
    let service = if ty == ResourceType::Listener {
        let (ip, _) = name.rsplit_once('_')?;
        let ip: IpAddr = ip.parse().ok()?;
        mesh.services.values().find(|s| s.cluster_ips.contains(&ip))?
    } else {
        let mut parts = name.splitn(3, '|').skip(1);
        mesh.services.get(&Key::new(parts.next()?, parts.next()?))?
    };
    Some(ObjectRef {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        uid: service.uid.clone(),
    })
}

fn pod_of(mesh: &Mesh, node_id: &str) -> ObjectRef {
    let key = Key::from_node_id(node_id).unwrap_or_else(|| Key::new("", node_id));
    ObjectRef {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        uid: mesh.pods.get(&key).map(|p| p.uid.to_string()).unwrap_or_default(),
        namespace: key.namespace,
        name: key.name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_mesh::Service;
    use weir_xds::server::NodeInfo;
    use weir_xds::server::session::{Nack, TypeStatus};

    #[test]
    fn rejections_are_told_of_the_object_at_fault_once() {
        let service = Service {
            namespace: "default".into(),
            name: "web".into(),
            uid: "u".into(),
            cluster_ips: vec!["10.96.0.9".parse().unwrap()],
            ..Default::default()
        };
        let mesh = Mesh {
            services: [(service.key(), service)].into(),
            ..Default::default()
        };
        let node = |id: &str| NodeStatus {
            node: NodeInfo {
                id: id.into(),
                engine: "envoy".into(),
                ..Default::default()
            },
            types: [
                (ResourceType::Cluster, "80|default|web.outbound"),
                (ResourceType::Listener, "10.96.0.9_80.outbound"),
                (ResourceType::Route, "inbound"),
            ]
            .into_iter()
            .map(|(ty, name)| {
                let nack = Nack {
                    resources: vec![name.into()],
                    message: "no".into(),
                };
                (
                    ty,
                    TypeStatus {
                        last_nack: Some(nack),
                        ..Default::default()
                    },
                )
            })
            .collect(),
            ..Default::default()
        };
        let problems: Vec<String> = rejections(&mesh, &[node("a.default"), node("b.default")])
            .iter()
            .map(ToString::to_string)
            .collect();
        let what = "proxies (envoy) reject what this asks for: no";
        assert_eq!(
            problems,
            [
                format!("Pod default/a: rds inbound: {what}"),
                format!("Pod default/b: rds inbound: {what}"),
                format!("Service default/web: cds 80|default|web.outbound: {what}"),
                format!("Service default/web: lds 10.96.0.9_80.outbound: {what}"),
            ]
        );
    }
}
