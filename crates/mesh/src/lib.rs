//! The mesh model: Kubernetes objects in, `(Mesh, Vec<Problem>)` out.
//!
//! ```text
//!  Services ─┐                          ┌─▶ services: addresses, ports, protocols, endpoints
//!  EndpointSlices ─┼─▶ services ─┐      │
//!  Pods ───────────┼─▶ pods ─────┼─▶ Mesh ─▶ pods: who they are, engine, inbound ports
//!  workloads, ─────┘             │      │
//!  Namespaces                    ▼      └─▶ addresses: what a pod's own address offers
//!                             problems
//! ```
//!
//! Pure and synchronous. It does not know where objects come from, nor what a proxy's configuration looks like. A bad
//! object costs that object only, and becomes a [`Problem`].

mod certificate;
mod exports;
mod gateway;
mod gateway_api;
mod httproute;
mod ingress;
mod memo;
mod objects;
mod pods;
pub mod policy;
mod problems;
pub mod routes;
mod services;
pub mod settings;
mod split;
mod telemetry;
pub mod verdict;

pub use certificate::Certificate;
pub use exports::Exports;
pub use gateway::{ANY_HOST, Chain, Gateway, Host, gateway_service};
pub use objects::{Key, Objects};
pub use pods::{Identity, InboundPort, Pod};
pub use policy::Policy;
pub use services::{Address, Endpoint, Service, ServicePort};
pub use settings::Settings;
pub use telemetry::Telemetry;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weir_api::problem::Problem;

/// Domain of the cluster's DNS names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// Everything that decides what a proxy does, without a word of Kubernetes' or Envoy's formats.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Mesh {
    /// Services by namespace and name.
    #[serde(serialize_with = "objects::serialize_keyed")]
    pub services: BTreeMap<Key, Service>,
    /// Pods by namespace and name; those that have ended are left out.
    #[serde(serialize_with = "objects::serialize_keyed")]
    pub pods: BTreeMap<Key, Pod>,
    /// Addresses of pods that clients use directly: endpoints of headless services, and ports that the pod itself labels.
    #[serde(serialize_with = "services::serialize_addresses")]
    pub addresses: BTreeMap<(IpAddr, u16), Address>,
    /// Who has an address. Addresses that several pods share (the host's) are not here.
    pub identities: BTreeMap<IpAddr, Arc<Identity>>,
    /// How much is measured where a Service says nothing.
    pub telemetry: Telemetry,
    /// What the gateway does with requests from outside.
    pub gateway: Gateway,
    /// What holds for the whole mesh.
    pub settings: Settings,
}

/// Builds the model. Problems are sorted and free of duplicates.
pub fn build(objects: &Objects) -> (Mesh, Vec<Problem>) {
    rebuild(objects, &Mesh::default())
}

/// Builds the model anew. Where the mesh-wide settings are bad now, those of `previous` stay.
pub fn rebuild(objects: &Objects, previous: &Mesh) -> (Mesh, Vec<Problem>) {
    Builder::default().build(objects, previous)
}

/// Builds the model time and again: what depends on nothing that changed is not read again. The outcome is that of
/// [`rebuild`].
#[derive(Debug, Default)]
pub struct Builder {
    memo: memo::Memo,
}

impl Builder {
    /// As [`rebuild`].
    pub fn build(&mut self, objects: &Objects, previous: &Mesh) -> (Mesh, Vec<Problem>) {
        let mut problems = problems::Problems::default();
        let (settings, telemetry) = settings::of_mesh(objects, &previous.settings, &previous.telemetry, &mut problems);
        let memo = &mut self.memo;
        memo.begin(objects, &settings);
        let (mut pods, identities) = pods::build(objects, &settings, memo, &mut problems);
        let mut services = services::build(objects, &pods, &settings, memo, &mut problems);
        let mut gateway = gateway::build(objects, &mut services, &settings, &previous.gateway, &mut problems);
        split::apply(objects, &mut services, &mut problems);
        gateway::follow_splits(&mut gateway, &services);
        let addresses = services::addresses(objects, &services, &pods, &settings.defaults, &mut problems);
        pods::add_inbound_ports(&mut pods, &services, &addresses);
        let mesh = Mesh {
            services,
            pods,
            addresses,
            identities,
            telemetry,
            gateway,
            settings,
        };
        untraced(objects, &mesh, &mut problems);
        (mesh, problems.into_sorted())
    }
}

/// Whoever asks for traces while nobody takes them is told.
fn untraced(objects: &Objects, mesh: &Mesh, problems: &mut problems::Problems) {
    let asking: Vec<&Service> = mesh
        .services
        .values()
        .filter(|s| s.policy.tracing.sampling.is_some())
        .collect();
    let pods: Vec<&Key> = mesh
        .pods
        .iter()
        .filter(|(_, pod)| pod.tracing.sampling.is_some())
        .map(|(key, _)| key)
        .collect();
    if (asking.is_empty() && pods.is_empty()) || mesh.collector().is_some() {
        return;
    }
    let key = weir_api::labels::TRACING_ENABLED;
    let why = "nobody takes the traces: install the Service zipkin in the namespace default, or set tracing.address in the ConfigMap weir-mesh";
    for service in asking {
        if let Some(object) = objects.services.get(&service.key()) {
            let meta = &object.metadata;
            problems.error(
                objects::object_ref("v1", "Service", meta),
                problems::field(meta, key),
                why,
            );
        }
    }
    for pod in pods {
        if let Some(object) = objects.pods.get(pod) {
            let (object, field) = pods::holder(objects, &object.metadata, key);
            problems.error(object, field, why);
        }
    }
}

#[cfg(test)]
mod tests;
