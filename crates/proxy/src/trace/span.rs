//! A span: what one request did here, and to whom it belongs.
//!
//! Begins with a request whose trace is recorded, ends with its response. Leaves: a [`Span`] for the exporter. Knows nothing
//! of how it is written.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::context::Ids;
use crate::config::trace::Backend;

/// Which side of a request a span tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Who asked.
    Client,
    /// Who was asked.
    Server,
}

/// Who tells.
#[derive(Debug)]
pub struct Teller {
    /// Name of the service, where a backend has no other.
    pub service: String,
    /// Name of the node.
    pub node: String,
}

/// An ended span.
#[derive(Debug, Clone)]
pub struct Span {
    /// Where it is sent.
    pub backend: Arc<Backend>,
    /// Whose it is.
    pub ids: Ids,
    /// Which side it tells of.
    pub kind: Kind,
    /// What was asked for, in short.
    pub name: Arc<str>,
    /// When the request came.
    pub begin: SystemTime,
    /// Until the response had passed.
    pub duration: Duration,
    /// Name of the other side, where it is known.
    pub remote: Option<Arc<str>>,
    /// Address of the other side.
    pub remote_address: Option<SocketAddr>,
    /// It is a debugging trace.
    pub debug: bool,
    /// It went wrong.
    pub error: bool,
    /// What else is known, in order.
    pub tags: Vec<(&'static str, String)>,
}
