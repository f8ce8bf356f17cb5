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

use crate::config::{Http, HttpStats, Telemetry};
use crate::flow::Flow;
use crate::wire::{Counts, Io, Wire};

/// Serves a connection until it ends. `first` are bytes that were read from it before.
pub async fn serve(flow: Rc<Flow>, io: Io, first: &[u8], http: Arc<Http>, stats: Arc<HttpStats>, version: u64) {
    let counts = Counts {
        slot: flow.downstream_slot(&Telemetry::usual()),
        http: Some(Arc::clone(&stats)),
        ..Counts::default()
    };
    let wire = Wire::new(io, first, &flow.worker.buffers, counts);
    h1::serve(flow, wire, http, stats, version).await;
}
