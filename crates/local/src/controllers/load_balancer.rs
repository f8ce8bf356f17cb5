//! The address of a Service of type LoadBalancer: there is no load balancer, so it is told where the Service is really reached.
//!
//! That is an address of the host where `weir up` listens there for each of the Service's ports, under the same number;
//! else the ClusterIP, where only pods reach it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::queue::Key;
use super::{Context, Outcome};
use crate::node::Forward;

/// What the status should say of its load balancer; `None` where it says so already.
fn plan(service: &Service, forwards: &[Forward]) -> Option<LoadBalancerStatus> {
    let wanted = wanted(service, forwards);
    let said = service.status.as_ref().and_then(|status| status.load_balancer.clone());
    (said.unwrap_or_default() != wanted).then_some(wanted)
}

fn wanted(service: &Service, forwards: &[Forward]) -> LoadBalancerStatus {
    let Some(spec) = &service.spec else {
        return LoadBalancerStatus::default();
    };
    if spec.type_.as_deref() != Some("LoadBalancer") {
        return LoadBalancerStatus::default();
    }
    let ports: BTreeSet<u16> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| u16::try_from(port.port).ok())
        .collect();
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let own = || {
        forwards
            .iter()
            .filter(|f| f.namespace == namespace && f.service == name && f.address.port() == f.port)
    };
    let of_host = own().map(|f| f.address.ip()).find(|ip| {
        let reached: BTreeSet<u16> = own().filter(|f| f.address.ip() == *ip).map(|f| f.port).collect();
        !ports.is_empty() && ports.is_subset(&reached)
    });
    let in_cluster = || spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
    let ingress = of_host.or_else(in_cluster).map(|ip| {
        vec![LoadBalancerIngress {
            ip: Some(ip.to_string()),
            ip_mode: Some("VIP".into()),
            ..LoadBalancerIngress::default()
        }]
    });
    LoadBalancerStatus { ingress }
}

pub async fn reconcile(context: &Context, key: &Key) -> Outcome {
    let api: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(service) = api.get_opt(&key.name).await? else {
        return Ok(None);
    };
    if let Some(status) = plan(&service, &context.forwards) {
        let patch = json!({
            "metadata": {"resourceVersion": service.metadata.resource_version},
            "status": {"loadBalancer": {"ingress": status.ingress}},
        });
        api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(kind: &str, ports: &[u16], status: serde_json::Value) -> Service {
        let ports: Vec<_> = ports
            .iter()
            .map(|port| json!({"port": port, "name": format!("p{port}")}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"type": kind, "clusterIP": "10.96.0.9", "ports": ports},
            "status": status,
        }))
        .unwrap()
    }

    fn forward(address: &str, service: &str, port: u16) -> Forward {
        Forward {
            address: address.parse().unwrap(),
            namespace: "shop".into(),
            service: service.into(),
            port,
            option: String::new(),
        }
    }

    fn address(service: &Service, forwards: &[Forward]) -> Option<String> {
        plan(service, forwards)?.ingress?.remove(0).ip
    }

    #[test]
    fn the_hosts_address_only_where_all_ports_are_reached_there() {
        let web = service("LoadBalancer", &[80, 443], json!({}));
        let both = [forward("127.0.0.1:80", "web", 80), forward("127.0.0.1:443", "web", 443)];
        assert_eq!(address(&web, &both).as_deref(), Some("127.0.0.1"));
        assert_eq!(address(&web, &both[..1]).as_deref(), Some("10.96.0.9"));
        let elsewhere = [
            forward("127.0.0.1:8080", "web", 80),
            forward("127.0.0.1:443", "web", 443),
        ];
        assert_eq!(address(&web, &elsewhere).as_deref(), Some("10.96.0.9"));
        let anothers = [forward("127.0.0.1:80", "api", 80), forward("127.0.0.1:443", "api", 443)];
        assert_eq!(address(&web, &anothers).as_deref(), Some("10.96.0.9"));
    }

    #[test]
    fn only_load_balancers_have_one_and_it_is_written_once() {
        let balancer = json!({"loadBalancer": {"ingress": [{"ip": "10.96.0.9", "ipMode": "VIP"}]}});
        assert_eq!(plan(&service("ClusterIP", &[80], json!({})), &[]), None);
        assert_eq!(plan(&service("LoadBalancer", &[80], balancer.clone()), &[]), None);
        let was_one = service("ClusterIP", &[80], balancer);
        assert_eq!(plan(&was_one, &[]), Some(LoadBalancerStatus::default()));
    }
}
