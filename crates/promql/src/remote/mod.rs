//! The client side: everything that talks to another server with Prometheus's interfaces.
//!
//! [`http`] reaches servers (TLS, credentials, limits), [`write`](mod@write) sends samples to one by remote write. Who asks
//! and what for is not known here.

pub mod http;
pub mod write;
