//! Tracing as configured: which requests are recorded, and where their spans are sent.

use std::sync::Arc;
use std::time::Duration;

use super::route::Sampling;

/// How the requests of a chain are traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// Where spans are sent.
    pub backend: Arc<Backend>,
    /// Which requests are recorded, where their route says nothing else.
    pub sampling: Sampling,
    /// A request has a span of its server side and one of its client side here, as at a gateway; else one by direction.
    pub split: bool,
    /// So many bytes of a target are shown.
    pub path_bytes_max: usize,
}

/// Who takes spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// How they are written.
    pub format: Format,
    /// Name of the cluster.
    pub cluster: Arc<str>,
    /// The `Host` of requests.
    pub host: Box<str>,
    /// Their target.
    pub path: Box<str>,
    /// Name of this service; `None`: as the node is called.
    pub service: Option<Box<str>>,
    /// A request must be answered within this time.
    pub timeout: Duration,
}

/// How spans are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Zipkin's second version, in JSON.
    Zipkin,
    /// OpenTelemetry's protocol, in protobuf over HTTP.
    Otlp,
}
