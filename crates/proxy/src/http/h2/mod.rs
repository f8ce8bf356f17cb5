//! HTTP/2, by the h2 crate: many requests beside each other on one connection.
//!
//! ```text
//!  client ─▶ server (a task a stream) ─▶ exchange ─▶ attempts ─▶ pool ─▶ endpoint (HTTP/2, or HTTP/1 translated)
//! ```
//!
//! Floods are bounded by the crate: streams that were reset before they were served, frames without content, headers
//! that never end; what it refuses ends the connection.

mod exchange;
pub mod pool;
mod server;
pub mod upstream;

pub use server::serve;
