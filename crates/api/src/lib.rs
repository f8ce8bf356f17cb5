//! The Kubernetes-facing vocabulary of Weir: the `traffic.*` labels, custom resources, metric objects and the wire
//! shapes that aggregated API servers owe their clients.
//!
//! Types and pure functions only. It does no I/O and depends on no other crate of the project.

pub mod cri;
pub mod duration;
pub mod gateway;
pub mod labels;
pub mod lenient;
pub mod mesh_status;
pub mod percent;
pub mod problem;
pub mod quantity;
pub mod split;
pub mod status;
pub mod table;
pub mod telemetry;
pub mod traffic_metrics;
