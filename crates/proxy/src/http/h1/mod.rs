//! HTTP/1, by an own codec: messages pass from one connection to another as the bytes they are.
//!
//! ```text
//!  client ─▶ Wire ─▶ head (checked, routed, rendered anew) ─┐                     ┌─▶ Wire ─▶ endpoint
//!                    body (framing checked, passed in place) ─┴─ one vectored write ┘
//!  client ◀─ Wire ◀─ the same for the response ◀────────────────────────────────────── Wire ◀─ endpoint
//! ```
//!
//! One task serves a downstream connection and, during a request, the upstream connection too.

pub mod body;
pub mod chunked;
mod exchange;
pub mod fuzz;
pub mod head;
pub mod pool;
pub mod render;
pub mod send;
mod serve;

pub use pool::{Pool, SWEEP_INTERVAL};
pub use serve::serve;
