//! Traces in memory, behind Zipkin's API: what takes the spans of a mesh where nothing else does.
//!
//! ```text
//!  POST /api/v2/spans ─▶ (gzip) ─▶ span ─▶ store ─▶ query, links ─▶ GET /api/v2/...
//! ```
//!
//! Enters: spans over HTTP, of proxies and of applications. Leaves: traces, names, and who calls whom, as JSON. Everything is
//! bounded and in memory; nothing is written to disk. It knows no Kubernetes, and nothing of who sends spans.

mod api;
mod gzip;
mod links;
mod query;
mod span;
mod store;

pub use api::serve;
pub use store::Limits;
