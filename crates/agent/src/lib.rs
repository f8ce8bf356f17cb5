//! The node: find a pod's network namespace, redirect its traffic, supervise its proxy (ours or Envoy), undo it all.
//!
//! ```text
//! API server ─watch─▶ plan (pure) ─┐                        ┌─▶ process in the pod's network namespace
//! CNI plugin ─agent.sock─▶ cni ────┴─▶ pods ─▶ supervise ───┼─▶ redirect (nft)
//! records of an earlier agent ─────────┘                    └─▶ annotation, events
//! ```
//!
//! Enters: the pods of one node and their labels; calls of the container runtime. Leaves: proxies and redirection, which
//! outlive the agent. It does not know what a proxy does with traffic: proxies get their configuration from the control
//! plane themselves.
//!
//! `envoy` is a role of its own: the process that stands where Weir's proxy would when a pod's engine is stock Envoy.
//! `gateway` serves a third: a pod that is a proxy, and has no agent to write its files.

mod agent;
mod bootstrap;
mod cluster;
pub mod cni;
pub mod envoy;
pub mod gateway;
mod http_unix;
mod plan;
mod pods;
mod redirect;
mod sandbox;
mod supervise;
mod sys;
#[cfg(test)]
mod testing;
pub mod visit;
mod watch;

pub use agent::{Config, Error, Health, run};
pub use cluster::{ControlNames, TOKEN_AUDIENCE};
pub use cni::cni_plugin;
pub use cni::install::CniConfig;
pub use sys::release_program_text;
