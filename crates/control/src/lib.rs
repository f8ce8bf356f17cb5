//! The control plane: watches Kubernetes objects, builds the mesh, lowers it to xDS and publishes it to the proxies.
//!
//! ```text
//!  watch ──▶ weir_mesh::rebuild ──▶ lower ──▶ publish (weir_xds::server::Cache) ──▶ proxies
//!                 │ problems                      ▲ who is connected, what was rejected
//!                 └──────────▶ events ◀───────────┘
//! ```
//!
//! [`Control`] is the running thing; [`ControlHandle`] is the view that others (the aggregated API, readiness) have of it.
//! Nothing is published before every kind of object was listed once, so that a restart of the control plane never takes
//! configuration from a proxy. It does not know how proxies are started, nor what they make of the configuration.

pub mod authority;
pub mod control;
pub mod events;
pub mod explain;
pub mod handle;
pub mod identity;
pub mod lower;
pub mod problems;
pub mod status;
pub mod watch;

pub use control::{Config, Control, Error, run};
pub use handle::{ControlHandle, ProxyStatus};
