//! The chained CNI plugin and its conversation with the agent: a new pod is redirected, and its proxy configured, before
//! the first container starts.
//!
//! The plugin (`plugin`) is the same binary under the name `weir-cni`; the container runtime starts it for each pod. It
//! decides nothing: it asks the agent (`server`) with one line of JSON over a Unix socket and passes the answer on.
//! `install` puts the plugin where the runtime looks for it.

pub mod install;
mod plugin;
pub mod server;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use plugin::cni_plugin;

/// Name of the plugin: of its binary and of its entry in a network configuration.
pub const PLUGIN: &str = "weir-cni";
/// Longest line of the conversation, bytes.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// What the plugin asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    /// A sandbox has its network; redirect it if the pod is in the mesh.
    Add,
    /// A sandbox goes.
    Del,
}

/// One line from the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid; "" from runtimes that do not tell it.
    #[serde(default)]
    pub uid: String,
    /// The sandbox.
    pub sandbox: String,
    /// A path that opens the sandbox's network namespace; may be empty for DEL.
    #[serde(default)]
    pub netns: PathBuf,
}

/// The agent's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// Done, or nothing to do.
    Ok,
    /// The sandbox cannot be set up now; why, and what to look at.
    Error(String),
}
