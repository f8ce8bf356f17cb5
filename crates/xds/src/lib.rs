//! The xDS v3 seam between control plane and data plane.
//!
//! `types` names the resource types and carries a resource with its version; `snapshot` is the immutable, consistent
//! configuration of one node, made of `layers` that nodes share; `server` hands snapshots to clients over ADS (delta and state of the world); `client`
//! fetches them. Nothing here knows Kubernetes or what a listener is for: the bodies are Envoy's protobuf messages, and
//! this crate reads them only as far as it must to follow the references between resources.

pub mod client;
pub mod json;
pub mod layers;
pub mod server;
pub mod snapshot;
pub mod types;

pub use envoy_types::pb::envoy::service::discovery::v3 as discovery;
pub use layers::{Layer, Layers, Resources};
pub use snapshot::Snapshot;
pub use types::{Resource, ResourceType};
