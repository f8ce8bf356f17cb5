//! HTTP/1.1: one downstream connection.
//!
//! ```text
//!  serve ─▶ exchange (one request) ─▶ route ─▶ forward ─▶ pool ─▶ endpoint
//!                │                                  │ retries
//!                └── record (counts once, whatever happens)
//! ```
//!
//! Enters: a connection for which an HTTP chain was chosen. Leaves: exchanged messages and recorded series.

mod body;
mod exchange;
mod forward;
mod headers;
mod pool;
mod record;

pub use pool::{Pool, SWEEP_INTERVAL};

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::config::{Active, Filter, Http};
use crate::flow::Flow;
use crate::socket::Counted;

/// Headers of one message; more are answered with 431.
const HEADERS_MAX: usize = 128;
/// Bytes of one message's head; more are answered with 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Buffered bytes of one connection and direction.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
/// Both sides must have left HTTP within this time after the response.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to end once the process closes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A downstream connection and the chain that serves it.
pub struct Connection {
    flow: Rc<Flow>,
    /// Of the configuration of this version.
    chain: RefCell<(u64, Arc<Http>, bool)>,
}

impl Connection {
    /// The chain in the present configuration, and whether the connection should end because the configuration no longer
    /// serves it as HTTP.
    fn chain(&self, active: &Active) -> (Arc<Http>, bool) {
        let mut held = self.chain.borrow_mut();
        if held.0 != active.version {
            held.0 = active.version;
            match self.flow.choose(active) {
                Some((_, Filter::Http(http))) => (held.1, held.2) = (http, false),
                _ => held.2 = true,
            }
        }
        (Arc::clone(&held.1), held.2)
    }
}

/// Serves a connection until it ends.
pub async fn serve(flow: Rc<Flow>, stream: TcpStream, first: Bytes, http: Arc<Http>, version: u64) {
    let closing = flow.worker.shared.life.closing.clone();
    let io = TokioIo::new(Counted::new(stream, first, flow.downstream_target()));
    let idle = http.idle_timeout;
    let connection = Rc::new(Connection {
        flow,
        chain: RefCell::new((version, http, false)),
    });
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let connection = Rc::clone(&connection);
        async move { Ok::<_, Infallible>(exchange::exchange(connection, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .preserve_header_case(true)
        .keep_alive(true)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .auto_date_header(true)
        .serve_connection(io, service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    let end = tokio::select! {
        end = served.as_mut() => end,
        () = closing.cancelled() => {
            served.as_mut().graceful_shutdown();
            match tokio::time::timeout(CLOSE_TIMEOUT, served).await {
                Ok(end) => end,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = end {
        tracing::debug!(%error, "downstream connection");
    }
}

/// Copies both ways between two connections that left HTTP.
async fn tunnel(
    downstream: hyper::upgrade::OnUpgrade,
    upstream: hyper::upgrade::OnUpgrade,
    mut record: record::Record,
) {
    let both = async { tokio::try_join!(downstream, upstream) };
    let Ok(Ok((downstream, upstream))) = tokio::time::timeout(UPGRADE_TIMEOUT, both).await else {
        record.upstream_failed();
        return;
    };
    let (mut downstream, mut upstream) = (TokioIo::new(downstream), TokioIo::new(upstream));
    let copied = tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await;
    tracing::debug!(?copied, "upgraded connection ended");
    record.complete();
}
