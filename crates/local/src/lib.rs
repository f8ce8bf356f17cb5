//! The one-machine Kubernetes behind `weir up`: API server, controllers, services, DNS and a node whose pods are
//! processes in network namespaces.
//!
//! Enters: a data directory and YAML manifests. Leaves: a Kubernetes API on the host's loopback. Nothing outside
//! this crate knows that a cluster is local, and nothing here knows what Weir itself does with one.
//!
//! ```text
//! P0 up::up ──unshare, spawn──▶ P1 node::run_node ──spawn──▶ P2 apiserver
//!                                  │ kubelet, CRI socket, CNI, controllers, services, DNS
//!                                  └─▶ launch::container_init ──exec──▶ a container's command
//! ```

pub mod apiserver;
pub mod controllers;
pub mod cri;
pub mod dns;
pub mod launch;
pub mod node;
pub mod services;
pub mod up;
