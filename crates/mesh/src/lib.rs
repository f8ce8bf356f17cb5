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

mod exports;
mod memo;
mod objects;
mod pods;
mod problems;
mod services;
mod telemetry;

pub use exports::Exports;
pub use objects::{Key, Objects};
pub use pods::{Identity, InboundPort, Pod};
pub use services::{Address, Endpoint, Service, ServicePort};
pub use telemetry::Telemetry;

use std::collections::BTreeMap;
use std::net::IpAddr;

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
    pub identities: BTreeMap<IpAddr, Identity>,
    /// How much is measured where a Service says nothing.
    pub telemetry: Telemetry,
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
        let memo = &mut self.memo;
        memo.begin(objects);
        let (mut pods, identities) = pods::build(objects, memo, &mut problems);
        let services = services::build(objects, &pods, memo, &mut problems);
        let addresses = services::addresses(objects, &services, &pods, &mut problems);
        let telemetry = telemetry::of_mesh(objects, &previous.telemetry, &mut problems);
        pods::add_inbound_ports(&mut pods, &services, &addresses);
        let mesh = Mesh {
            services,
            pods,
            addresses,
            identities,
            telemetry,
        };
        (mesh, problems.into_sorted())
    }
}

#[cfg(test)]
mod tests;
