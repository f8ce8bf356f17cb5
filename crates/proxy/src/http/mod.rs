//! HTTP: downstream connections, one request after or beside the other.
//!
//! ```text
//!  h1 (one request at a time) ─▶ route ─▶ attempts ─▶ pool ─▶ endpoint
//!                │                            │ retries
//!                └── record (counts once, whatever happens)
//! ```
//!
//! Enters: a connection for which an HTTP chain was chosen. Leaves: exchanged messages and recorded series.

mod affinity;
pub mod attempts;
mod chain;
mod filters;
pub mod h1;
pub mod h2;
pub mod headers;
pub mod lifetime;
mod message;
pub mod record;
pub mod reply;
mod translate;

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use chain::Chain;
use lifetime::Lifetime;

use crate::config::{Codec, Http, HttpStats, Telemetry};
use crate::flow::Flow;
use crate::inspect::H2C;
use crate::wire::{Counts, Io, Wire};

/// Serves a connection until it ends. `first` are bytes that were read from it before.
pub async fn serve(flow: Rc<Flow>, io: Io, first: &[u8], http: Arc<Http>, stats: Arc<HttpStats>, version: u64) {
    let counts = Counts {
        slot: flow.downstream_slot(&Telemetry::usual()),
        http: Some(Arc::clone(&stats)),
        ..Counts::default()
    };
    let two = match http.codec {
        Codec::Http1 => false,
        Codec::Http2 => true,
        Codec::Auto => flow.protocol == Some(H2C) || io.speaks_http2(),
    };
    let secure = io.is_secure();
    let mut wire = Wire::new(io, first, &flow.worker.buffers, counts);
    let open = http.codec == Codec::Auto && flow.protocol.is_none() && !two;
    let two = match open {
        false => two,
        true => match begins_http2(&mut wire, &flow, &http).await {
            Some(two) => two,
            None => return,
        },
    };
    let chain = Chain::new(http, stats, version, secure);
    match two {
        // Large, and not a part of HTTP/1 connections.
        true => Box::pin(h2::serve(flow, wire, chain)).await,
        false => h1::serve(flow, wire, chain).await,
    }
}

/// What an HTTP/2 client sends first, as far as no HTTP/1 client does.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Whether the client speaks HTTP/2 without having said so before (RFC 9113, 3.3). Waits only while its bytes leave that
/// open; `None`: it sends nothing for as long as a connection may be idle, or is gone.
async fn begins_http2(wire: &mut Wire, flow: &Flow, http: &Http) -> Option<bool> {
    let mut time = Lifetime::new(&flow.worker);
    time.limit(Some(Instant::now() + http.idle_timeout));
    let look = poll_fn(|cx| {
        loop {
            let unread = wire.unread();
            let length = unread.len().min(PREFACE.len());
            if unread[..length] != PREFACE[..length] {
                return Poll::Ready(Some(false));
            }
            if length == PREFACE.len() {
                return Poll::Ready(Some(true));
            }
            match wire.poll_more(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending if time.closing() => return Poll::Ready(None),
                Poll::Pending => {
                    wire.rest();
                    return time.poll(cx).map(|()| None);
                }
            }
        }
    });
    look.await
}
