//! The client of ADS: fetches a node's resources and keeps them fresh.
//!
//! Enters: where the control plane is ([`Config`]) and somebody who uses the resources ([`Consumer`]). Leaves: updates,
//! one at a time, in the order received; each is answered (ACK, or NACK that names what was refused) after the consumer
//! has judged it. `session` and `world` are the two protocols as pure state machines; `connect` makes sockets; `driver` joins them.
//! Knows no more of a resource than its name.

mod connect;
mod driver;
mod session;
mod world;

pub use driver::run;
pub use session::{Request, Session};
pub use world::World;

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;

use crate::ResourceType;

/// How to reach a control plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port`.
    pub target: String,
    /// Encrypt and verify; `None`: plain text.
    pub tls: Option<Tls>,
    /// Sent with each stream.
    pub token: Option<Token>,
    /// `SO_MARK` of the sockets, so that redirection leaves them alone; `None`: no mark.
    pub mark: Option<u32>,
    /// Who asks.
    pub node: Node,
    /// Speak the state-of-the-world protocol instead of delta.
    pub state_of_the_world: bool,
}

/// How the control plane proves itself. Read again at each connect, so that a renewed file counts.
#[derive(Debug, Clone)]
pub struct Tls {
    /// PEM file of the certificates to trust.
    pub ca_file: PathBuf,
    /// The name that the certificate must have; `None`: the target's host.
    pub server_name: Option<String>,
}

/// A token in a file, read again at each connect.
#[derive(Debug, Clone)]
pub struct Token {
    /// The file; white space around the token is ignored.
    pub file: PathBuf,
    /// Lower-case name of the header.
    pub header: String,
    /// What stands before the token, for example `Bearer `.
    pub prefix: String,
}

/// Resources that changed, of one type.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Of all resources in it.
    pub ty: ResourceType,
    /// New or changed.
    pub changed: Vec<Changed>,
    /// Names of those that are gone.
    pub removed: Vec<String>,
    nonce: String,
    version: String,
}

/// A new or changed resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// Unique within the type.
    pub name: String,
    /// As the server says.
    pub version: String,
    /// The encoded message.
    pub body: Bytes,
}

/// A resource that the consumer cannot use; its last good state stays.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// Name of the resource.
    pub name: String,
    /// The field, what is wrong with it and what would be right.
    pub message: String,
}

/// Who uses the resources.
pub trait Consumer {
    /// Applies what can be applied; returns what cannot.
    fn apply(&mut self, update: &Update) -> Vec<Rejected>;
    /// The names to ask for, of types that are asked for by name. Asked again after each update and each wake-up.
    fn wanted(&mut self, ty: ResourceType) -> BTreeSet<String>;
    /// A stream was established (`true`) or lost.
    fn connected(&mut self, connected: bool);
}

/// Types that a client asks for, in the order in which it does.
pub const SUBSCRIBED: [ResourceType; 6] = [
    ResourceType::Cluster,
    ResourceType::Endpoint,
    ResourceType::Secret,
    ResourceType::Listener,
    ResourceType::Route,
    ResourceType::Peer,
];

/// Names and versions that a client already holds, for example from a disk cache.
pub type Known = Vec<(ResourceType, String, String)>;
