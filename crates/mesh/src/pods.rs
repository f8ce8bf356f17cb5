//! Pods: who they are, whether and with which engine they are in the mesh, their weight, and what their own ports offer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod as KubePod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use weir_api::labels::{self, Engine, Protocol};

use crate::memo::Memo;
use crate::objects::{Key, Objects, object_ref};
use crate::policy::Tracing;
use crate::policy::read::{Labels, Source, idle_keys};
use crate::problems::{Problems, field};
use crate::services::{Address, Service};
use crate::settings::{Defaults, Settings};
use crate::telemetry::Telemetry;

/// Weight of an endpoint that says nothing.
pub(crate) const WEIGHT_DEFAULT: u32 = 100;
/// Largest weight; above it the label is a problem.
const WEIGHT_MAX: u32 = 128;

/// Who a pod is, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Identity {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Lower-case kind of its workload; empty for a pod of its own.
    pub owner_kind: String,
    /// Name of its workload.
    pub owner: String,
}

/// A pod that has not ended. Nearly all of it is shared from one build of the model to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// Who it is; shared with the endpoints that it is behind.
    pub identity: Arc<Identity>,
    /// Uid of the object.
    pub uid: Arc<str>,
    /// Addresses; empty before it runs.
    pub ips: Vec<IpAddr>,
    /// Name of its machine; empty before it has one.
    pub node: Arc<str>,
    /// Address of its machine.
    pub host_ip: Arc<str>,
    /// Id of the proxy that runs beside it, as the agent says; empty while there is none.
    pub proxy: Arc<str>,
    /// It uses its machine's network: its address is not its own and it cannot be captured.
    pub host_network: bool,
    /// It asks for a proxy.
    pub enabled: bool,
    /// The proxy that it asks for.
    pub engine: Engine,
    /// Weight of its endpoints, 0 to 128; at 0 it takes no traffic.
    pub weight: u32,
    /// It is being deleted.
    pub terminating: bool,
    /// Which requests to and from it leave a trace.
    pub tracing: Tracing,
    /// What its own ports offer, by port, for its proxy's inbound side.
    pub inbound: BTreeMap<u16, InboundPort>,
}

impl Pod {
    /// It has an address of IPv6, and so its network has IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.ips.iter().any(IpAddr::is_ipv6)
    }
}

/// A pod's port that services lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InboundPort {
    /// The strongest protocol of the services that lead here: http over http2, grpc, tcp and direct.
    pub protocol: Protocol,
    /// Host names under which clients know the port.
    pub domains: Arc<BTreeSet<String>>,
    /// What these services say about how much is measured, the first by name first.
    pub telemetry: Telemetry,
    /// Which requests leave a trace: what the service says that traces most.
    pub tracing: Tracing,
}

pub(crate) fn build(
    objects: &Objects,
    settings: &Settings,
    memo: &mut Memo,
    problems: &mut Problems,
) -> (BTreeMap<Key, Pod>, BTreeMap<IpAddr, Arc<Identity>>) {
    let mut pods = BTreeMap::new();
    let mut identities: BTreeMap<IpAddr, (bool, Arc<Identity>)> = BTreeMap::new();
    for (key, object) in &objects.pods {
        let phase = object.status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            continue;
        }
        let pod = memo.pod(key, object, problems, |problems| {
            pod(objects, key, object, settings, problems)
        });
        if !pod.host_network {
            for ip in &pod.ips {
                // An address that was given to a new pod belongs to that one, not to the one that goes.
                let holder = identities
                    .entry(*ip)
                    .or_insert_with(|| (pod.terminating, Arc::clone(&pod.identity)));
                if holder.0 && !pod.terminating {
                    *holder = (false, Arc::clone(&pod.identity));
                }
            }
        }
        pods.insert(key.clone(), pod);
    }
    (
        pods,
        identities
            .into_iter()
            .map(|(ip, (_, identity))| (ip, identity))
            .collect(),
    )
}

fn pod(objects: &Objects, key: &Key, object: &KubePod, settings: &Settings, problems: &mut Problems) -> Pod {
    let meta = &object.metadata;
    let workload = objects.workload(meta);
    let of_workload = workload.as_ref().map(|w| w.meta);
    let namespace = objects.namespace(&key.namespace);
    let replica_set = labels::controller(meta)
        .filter(|owner| owner.kind == "ReplicaSet")
        .and_then(|owner| objects.replica_set(&key.namespace, &owner.name));
    let (owner_kind, owner) = labels::owner(meta, replica_set).unwrap_or_default();

    let holder = |name: &str| holder(objects, meta, name);
    let enabled = labels::enabled(meta, of_workload, namespace).unwrap_or_else(|why| {
        let (object, field) = holder(labels::ENABLED);
        problems.error(object, field, why.to_string());
        false
    });
    let engine = labels::engine(
        meta,
        of_workload,
        namespace,
        objects.namespace(labels::SYSTEM_NAMESPACE),
        settings.engine.unwrap_or_default(),
    )
    .unwrap_or_else(|why| {
        let (object, field) = holder(labels::ENGINE);
        problems.error(object, field, why.to_string());
        Engine::default()
    });
    let (weight, complaint) = weight(labels::effective(labels::WEIGHT, meta, of_workload, None));
    if let Some(complaint) = complaint {
        let (object, field) = holder(labels::WEIGHT);
        problems.warn(object, field, complaint);
    }
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or_default();
    if host_network && enabled {
        let (object, field) = holder(labels::ENABLED);
        problems.error(
            object,
            field,
            format!("pod {key} uses its machine's network, which cannot be captured; remove hostNetwork or this key"),
        );
    }
    Pod {
        identity: Arc::new(Identity {
            namespace: key.namespace.clone(),
            pod: key.name.clone(),
            owner_kind,
            owner,
        }),
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        ips: ips(object),
        node: spec.and_then(|s| s.node_name.as_deref()).unwrap_or_default().into(),
        host_ip: status.and_then(|s| s.host_ip.as_deref()).unwrap_or_default().into(),
        proxy: labels::value(meta, labels::PROXY).unwrap_or_default().into(),
        host_network,
        enabled: enabled && !host_network,
        engine,
        weight,
        terminating: meta.deletion_timestamp.is_some(),
        tracing: tracing(objects, meta, &settings.defaults, problems),
        inbound: BTreeMap::new(),
    }
}

/// The object on which the value of a key stands that counts for a pod, and where on it.
pub(crate) fn holder(objects: &Objects, pod: &ObjectMeta, name: &str) -> (weir_api::problem::ObjectRef, String) {
    let namespace = pod.namespace.as_deref().and_then(|n| objects.namespace(n));
    if labels::value(pod, name).is_some() {
        return (object_ref("v1", "Pod", pod), field(pod, name));
    }
    match (objects.workload(pod), namespace) {
        (Some(w), _) if labels::value(w.meta, name).is_some() => {
            (object_ref(w.api_version, w.kind, w.meta), field(w.meta, name))
        }
        (_, Some(n)) => (object_ref("v1", "Namespace", n), field(n, name)),
        _ => (object_ref("v1", "Pod", pod), field(pod, name)),
    }
}

/// The objects whose labels count as a pod's own, the pod itself first.
pub(crate) fn sources<'a>(objects: &'a Objects, pod: &'a ObjectMeta) -> Vec<Source<'a>> {
    let own = Source {
        api_version: "v1",
        kind: "Pod",
        meta: pod,
    };
    let workload = objects.workload(pod).map(|w| Source {
        api_version: w.api_version,
        kind: w.kind,
        meta: w.meta,
    });
    [own].into_iter().chain(workload).collect()
}

fn tracing(objects: &Objects, pod: &ObjectMeta, defaults: &Defaults, problems: &mut Problems) -> Tracing {
    let sources = sources(objects, pod);
    for source in &sources {
        idle_keys(source, labels::Place::Pod, problems);
    }
    let mut labels = Labels {
        pod: &sources,
        services: &[],
        defaults,
        problems,
    };
    labels.tracing()
}

fn ips(object: &KubePod) -> Vec<IpAddr> {
    let Some(status) = &object.status else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|p| p.ip.as_str());
    let mut ips: Vec<IpAddr> = listed
        .chain(status.pod_ip.as_deref())
        .filter_map(|ip| ip.parse().ok())
        .collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// The weight that a text means, and what is wrong with the text.
fn weight(text: Option<&str>) -> (u32, Option<String>) {
    let Some(text) = text else {
        return (WEIGHT_DEFAULT, None);
    };
    match text.parse::<u64>() {
        Ok(n) if n <= u64::from(WEIGHT_MAX) => (u32::try_from(n).unwrap_or(WEIGHT_MAX), None),
        Ok(n) => (
            WEIGHT_MAX,
            Some(format!(
                "{n} is above the largest weight and counts as {WEIGHT_MAX}; write 0 to {WEIGHT_MAX}"
            )),
        ),
        Err(_) => (
            WEIGHT_DEFAULT,
            Some(format!(
                "{text:?} is not a weight and counts as {WEIGHT_DEFAULT}; write a whole number from 0 to {WEIGHT_MAX}"
            )),
        ),
    }
}

/// Tells each pod which of its ports services lead to, and how.
pub(crate) fn add_inbound_ports(
    pods: &mut BTreeMap<Key, Pod>,
    services: &BTreeMap<Key, Service>,
    addresses: &BTreeMap<(IpAddr, u16), Address>,
) {
    let mut add = |identity: &Identity,
                   port: u16,
                   protocol: Protocol,
                   domains: &Arc<BTreeSet<String>>,
                   says: (&Telemetry, Tracing)| {
        let (telemetry, tracing) = says;
        let Some(pod) = pods.get_mut(&Key::new(&*identity.namespace, &*identity.pod)) else {
            return;
        };
        let inbound = pod.inbound.entry(port).or_insert_with(|| InboundPort {
            protocol,
            domains: Arc::clone(domains),
            telemetry: Telemetry::default(),
            tracing: Tracing::default(),
        });
        inbound.tracing = inbound.tracing.or(tracing);
        inbound.telemetry = inbound.telemetry.or(telemetry);
        inbound.protocol = inbound.protocol.min(protocol);
        // Nearly always one Service leads to a port: its names are shared by all its pods.
        if !Arc::ptr_eq(&inbound.domains, domains) {
            Arc::make_mut(&mut inbound.domains).extend(domains.iter().cloned());
        }
    };
    for service in services.values() {
        for (number, port) in &service.ports {
            let Some(protocol) = port.carried() else { continue };
            let domains = Arc::new(service.domains(*number));
            for endpoint in &port.endpoints {
                if let Some(identity) = &endpoint.identity {
                    let says = (&service.telemetry, service.policy.tracing);
                    add(identity, endpoint.port, protocol, &domains, says);
                }
            }
        }
    }
    for ((_, port), address) in addresses {
        if let Some(identity) = &address.endpoint.identity {
            let domains = Arc::new(address.domains.clone());
            let says = (&address.telemetry, address.policy.tracing);
            add(identity, *port, address.protocol, &domains, says);
        }
    }
}

/// What a pod's own labels say about its ports ([`labels::TARGET_PORT_PREFIX`]).
pub(crate) fn target_ports(meta: &ObjectMeta, problems: &mut Problems) -> BTreeMap<u16, Protocol> {
    let mut found = BTreeMap::new();
    for entry in labels::ports(meta, labels::TARGET_PORT_PREFIX) {
        match entry {
            Ok((port, text)) => match text.parse::<Protocol>() {
                Ok(protocol) => {
                    found.insert(port, protocol);
                }
                Err(why) => {
                    let key = format!("{}{port}", labels::TARGET_PORT_PREFIX);
                    problems.error(object_ref("v1", "Pod", meta), field(meta, &key), why.to_string());
                }
            },
            Err((key, why)) => problems.error(object_ref("v1", "Pod", meta), field(meta, key), why),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        assert_eq!(weight(None), (100, None));
        assert_eq!(weight(Some("0")), (0, None));
        assert_eq!(weight(Some("128")), (128, None));
        let (n, why) = weight(Some("129"));
        assert_eq!(n, 128);
        assert!(why.unwrap().contains("0 to 128"));
        for text in ["abc", "-1", "1.5", ""] {
            let (n, why) = weight(Some(text));
            assert_eq!(n, 100, "{text:?} is never 0");
            assert!(why.unwrap().contains("whole number"));
        }
    }
}
