//! HTTP: downstream connections, one request after or beside the other.
//!
//! ```text
//!  h1 (one request at a time) ─▶ route ─▶ attempts ─▶ pool ─▶ endpoint
//!                │                            │ retries
//!                └── record (counts once, whatever happens)
//! ```
//!
//! Enters: a connection for which an HTTP chain was chosen. Leaves: exchanged messages and recorded series.

pub mod attempts;
pub mod h1;
pub mod headers;
pub mod record;

use std::rc::Rc;
use std::sync::Arc;

use crate::config::Http;
use crate::flow::Flow;
use crate::wire::{Io, Wire};

/// Serves a connection until it ends. `first` are bytes that were read from it before.
pub async fn serve(flow: Rc<Flow>, io: Io, first: &[u8], http: Arc<Http>, version: u64) {
    let wire = Wire::new(io, first, &flow.worker.buffers, flow.downstream_target());
    h1::serve(flow, wire, http, version).await;
}
