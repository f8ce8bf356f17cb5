//! EndpointSlice: the addresses of the pods behind each Service that has a selector.
//!
//! Enters: a Service, the pods of its namespace and its slices. Leaves: slices made, updated and deleted. An endpoint
//! stays in the slice it is in, so that a change never takes an address away for a moment.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};

use super::queue::Key;
use super::{Context, Error, Outcome, controller_reference, pods, template};

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ENDPOINTS_MAX: usize = 100;

/// Whether this controller keeps the slices of a Service.
pub(super) fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() != Some("ExternalName") && spec.selector.as_ref().is_some_and(|s| !s.is_empty())
    })
}

/// Slices to write.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: Vec<EndpointSlice>,
    replace: Vec<EndpointSlice>,
    delete: Vec<EndpointSlice>,
}

/// The ports of a slice, in a form that sorts: name, protocol, number, application protocol.
type Ports = Vec<(String, String, Option<i32>, Option<String>)>;

/// Plans the slices of a Service from all pods of its namespace and its slices of this controller.
fn plan(service: &Service, all_pods: &[&Pod], existing: &[&EndpointSlice]) -> Plan {
    let mut wanted: BTreeMap<Ports, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for pod in all_pods.iter().filter(|pod| selects(service, pod)) {
        if let Some(endpoint) = endpoint(service, pod) {
            wanted
                .entry(ports(service, pod))
                .or_default()
                .insert(pod.name_any(), endpoint);
        }
    }
    // A Service without endpoints has one slice that says so.
    if wanted.is_empty() {
        wanted.insert(Ports::new(), BTreeMap::new());
    }
    let mut plan = Plan::default();
    let mut kept = BTreeSet::new();
    for (ports, mut endpoints) in wanted {
        let alike: Vec<&EndpointSlice> = existing
            .iter()
            .copied()
            .filter(|slice| ports_of(slice) == ports)
            .collect();
        let mut slices: Vec<(EndpointSlice, Vec<Endpoint>)> = alike
            .into_iter()
            .map(|slice| {
                let stay = names(slice).filter_map(|name| endpoints.remove(name)).collect();
                (slice.clone(), stay)
            })
            .collect();
        let mut rest = endpoints.into_values();
        for (_, endpoints) in &mut slices {
            let room = ENDPOINTS_MAX.saturating_sub(endpoints.len());
            endpoints.extend(rest.by_ref().take(room));
        }
        let mut rest: Vec<Endpoint> = rest.collect();
        let mut taken: BTreeSet<String> = existing.iter().map(|slice| slice.name_any()).collect();
        while !rest.is_empty() || slices.is_empty() {
            let chunk = rest.drain(..rest.len().min(ENDPOINTS_MAX)).collect();
            let name = new_name(service, &ports, &taken);
            taken.insert(name.clone());
            slices.push((new_slice(name, &ports), chunk));
        }
        // Several slices where one would do come from pods that left; the emptied ones go.
        let mut one_left = slices.iter().any(|(_, endpoints)| !endpoints.is_empty());
        for (mut slice, endpoints) in slices {
            if endpoints.is_empty() && one_left {
                continue;
            }
            one_left = true;
            let before = slice.clone();
            dress(&mut slice, service, endpoints);
            match &before.metadata.resource_version {
                None => plan.create.push(slice),
                Some(_) => {
                    kept.insert(slice.name_any());
                    if slice != before {
                        plan.replace.push(slice);
                    }
                }
            }
        }
    }
    plan.delete = existing
        .iter()
        .filter(|slice| !kept.contains(&slice.name_any()))
        .map(|s| (*s).clone())
        .collect();
    plan
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        selector
            .iter()
            .all(|(name, value)| pod.labels().get(name) == Some(value))
    })
}

/// The endpoint that a pod is, if it has an address and runs.
fn endpoint(service: &Service, pod: &Pod) -> Option<Endpoint> {
    let address = pod
        .status
        .as_ref()?
        .pod_ip
        .clone()
        .filter(|ip| ip.parse::<std::net::Ipv4Addr>().is_ok())?;
    if pods::is_over(pod) {
        return None;
    }
    let spec = service.spec.as_ref()?;
    let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    let pod_spec = pod.spec.as_ref()?;
    let own_name = pod_spec.subdomain.is_some() && pod_spec.subdomain == service.metadata.name;
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(spec.publish_not_ready_addresses == Some(true) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: pod_spec.hostname.clone().filter(|_| own_name),
        node_name: pod_spec.node_name.clone(),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// The Service's ports as a pod has them: a named target port is the pod's own number, and left out if it has none.
fn ports(service: &Service, pod: &Pod) -> Ports {
    let ports = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    let mut resolved: Ports = ports
        .iter()
        .filter_map(|port| {
            let number = target_port(port, pod)?;
            let name = port.name.clone().unwrap_or_default();
            Some((
                name,
                protocol(port.protocol.as_deref()),
                Some(number),
                port.app_protocol.clone(),
            ))
        })
        .collect();
    resolved.sort();
    resolved
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.as_ref()?.containers.iter();
            let ports = containers.flat_map(|container| container.ports.iter().flatten());
            let found = ports.into_iter().find(|of_pod| {
                of_pod.name.as_deref() == Some(name)
                    && protocol(of_pod.protocol.as_deref()) == protocol(port.protocol.as_deref())
            });
            found.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    }
}

fn protocol(protocol: Option<&str>) -> String {
    protocol.unwrap_or("TCP").to_owned()
}

fn ports_of(slice: &EndpointSlice) -> Ports {
    let of = |port: &EndpointPort| {
        let name = port.name.clone().unwrap_or_default();
        (
            name,
            protocol(port.protocol.as_deref()),
            port.port,
            port.app_protocol.clone(),
        )
    };
    let mut ports: Ports = slice.ports.iter().flatten().map(of).collect();
    ports.sort();
    ports
}

/// Names of the pods in a slice.
fn names(slice: &EndpointSlice) -> impl Iterator<Item = &str> {
    let endpoints = slice.endpoints.iter().flatten();
    endpoints.filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.as_deref())
}

fn new_name(service: &Service, ports: &Ports, taken: &BTreeSet<String>) -> String {
    let (prefix, uid) = (service.name_any(), service.uid().unwrap_or_default());
    let ports = format!("{ports:?}");
    let candidates = (0_u32..).map(|n| {
        let hash = template::short_hash(&[uid.as_bytes(), ports.as_bytes(), &n.to_le_bytes()]);
        format!("{prefix}-{}", hash.get(..5).unwrap_or(&hash))
    });
    // There are fewer slices than candidates.
    candidates
        .into_iter()
        .find(|name| !taken.contains(name))
        .unwrap_or(prefix)
}

fn new_slice(name: String, ports: &Ports) -> EndpointSlice {
    let port = |(name, protocol, number, app_protocol): &(String, String, Option<i32>, Option<String>)| EndpointPort {
        name: Some(name.clone()),
        protocol: Some(protocol.clone()),
        port: *number,
        app_protocol: app_protocol.clone(),
    };
    EndpointSlice {
        address_type: "IPv4".into(),
        metadata: ObjectMeta {
            name: Some(name),
            ..ObjectMeta::default()
        },
        ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
        endpoints: None,
    }
}

/// Gives a slice its labels, its owner and its endpoints.
fn dress(slice: &mut EndpointSlice, service: &Service, endpoints: Vec<Endpoint>) {
    let mut labels = service.labels().clone();
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    slice.metadata.labels = Some(labels);
    slice.metadata.namespace = service.namespace();
    slice.metadata.owner_references = Some(vec![controller_reference(service)]);
    // An empty list and no list are the same; whichever is there stays.
    if !(endpoints.is_empty() && slice.endpoints.as_ref().is_none_or(Vec::is_empty)) || slice.endpoints.is_none() {
        slice.endpoints = Some(endpoints);
    }
}

pub(super) async fn reconcile(context: &Context, key: &Key) -> Outcome {
    let services: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &key.namespace);
    let known = |object: &ObjectMeta| object.namespace.as_deref() == Some(&key.namespace);
    let slices: Vec<_> = context
        .slices
        .state()
        .into_iter()
        .filter(|slice| {
            known(&slice.metadata)
                && slice.labels().get(SERVICE_NAME) == Some(&key.name)
                && slice.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
        })
        .collect();
    let slices: Vec<&EndpointSlice> = slices.iter().map(|slice| &**slice).collect();
    let service = context
        .services
        .state()
        .into_iter()
        .find(|service| Key::of(&**service) == *key);
    let plan = match service.filter(|service| has_selector(service)) {
        Some(service) if service.metadata.deletion_timestamp.is_none() => {
            let pods: Vec<_> = context
                .pods
                .state()
                .into_iter()
                .filter(|pod| known(&pod.metadata))
                .collect();
            let pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
            plan(&service, &pods, &slices)
        }
        Some(_) => return Ok(None),
        // Not known here: ask before deleting.
        None if !slices.is_empty()
            && services
                .get_opt(&key.name)
                .await?
                .is_none_or(|service| !has_selector(&service)) =>
        {
            Plan {
                delete: slices.iter().map(|slice| (*slice).clone()).collect(),
                ..Plan::default()
            }
        }
        None => return Ok(None),
    };
    write(&api, plan).await?;
    Ok(None)
}

/// Additions first, removals last.
async fn write(api: &Api<EndpointSlice>, plan: Plan) -> Result<(), Error> {
    for slice in &plan.create {
        api.create(&PostParams::default(), slice).await?;
    }
    for slice in &plan.replace {
        api.replace(&slice.name_any(), &PostParams::default(), slice).await?;
    }
    for slice in &plan.delete {
        let preconditions = Preconditions {
            uid: slice.uid(),
            resource_version: None,
        };
        match api
            .delete(&slice.name_any(), &DeleteParams::default().preconditions(preconditions))
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
