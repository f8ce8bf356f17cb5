//! One downstream HTTP/2 connection.
//!
//! Enters: an accepted connection and its chain. Leaves: a task for each request. Says GOAWAY when the process drains or
//! the configuration no longer serves the connection, and goes once its streams have ended.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::Builder;
use tokio::task::spawn_local;

use super::exchange;
use crate::config::{Active, Http, HttpStats};
use crate::flow::Flow;
use crate::http::chain::Chain;
use crate::http::h1::head::HEAD_BYTES_MAX;
use crate::http::lifetime::Lifetime;
use crate::wire::Wire;

/// How long a client may take for the preface and its settings.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// How often idleness is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Streams that the client reset before they were served: more of them end the connection.
const PENDING_RESETS_MAX: usize = 32;
/// Streams reset here that are remembered.
const RESETS_MAX: usize = 64;
/// Unsent bytes of one stream.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// What the streams of a connection share.
pub struct Session {
    /// From whom, to where.
    pub flow: Rc<Flow>,
    chain: RefCell<Chain>,
    /// The client came encrypted.
    pub secure: bool,
    /// Streams being served.
    open: Cell<usize>,
    /// When the last one ended.
    idle_since: Cell<Instant>,
}

impl Session {
    /// The chain in the present configuration.
    pub fn follow(&self, active: &Active) -> (Arc<Http>, Arc<HttpStats>) {
        let mut chain = self.chain.borrow_mut();
        chain.follow(&self.flow, active);
        (Arc::clone(&chain.http), Arc::clone(&chain.stats))
    }

    fn is_ending(&self) -> bool {
        self.chain.borrow().is_ending(&self.flow)
    }
}

/// Serves a connection until it ends.
pub async fn serve(flow: Rc<Flow>, wire: Wire, chain: Chain) {
    let mut time = Lifetime::new(&flow.worker);
    let options = chain.http.http2;
    let idle_timeout = chain.http.idle_timeout;
    let handshake = Builder::new()
        .initial_window_size(options.initial_stream_window)
        .initial_connection_window_size(options.initial_connection_window)
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_concurrent_reset_streams(RESETS_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .handshake::<_, Bytes>(wire.into_counted());
    time.limit(Some(Instant::now() + HANDSHAKE_TIMEOUT));
    let mut handshake = std::pin::pin!(handshake);
    let shaken = poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(outcome.ok()),
        Poll::Pending => time.poll(cx).map(|()| None),
    });
    let Some(mut connection) = shaken.await else { return };
    let draining = flow.worker.shared.life.sent_away(flow.direction).clone();
    let mut draining = std::pin::pin!(draining.cancelled_owned());
    let session = Rc::new(Session {
        flow,
        secure: chain.secure,
        chain: RefCell::new(chain),
        open: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
    });
    let mut said_goodbye = false;
    time.limit(Some(Instant::now() + LOOK));
    poll_fn(|cx| {
        loop {
            let ending = session.is_ending() || draining.as_mut().poll(cx).is_ready();
            let idle = session.open.get() == 0 && session.idle_since.get().elapsed() >= idle_timeout;
            if (ending || idle) && !said_goodbye {
                said_goodbye = true;
                connection.graceful_shutdown();
            }
            if session.flow.worker.shared.life.is_closing() && session.open.get() == 0 {
                return Poll::Ready(());
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    session.open.set(session.open.get() + 1);
                    let session = Rc::clone(&session);
                    spawn_local(async move {
                        exchange::serve(&session, request, respond).await;
                        session.open.set(session.open.get() - 1);
                        session.idle_since.set(Instant::now());
                    });
                }
                Poll::Ready(Some(Err(error))) => {
                    if !error.is_io() {
                        session.chain.borrow().stats.protocol_error();
                    }
                    tracing::debug!(%error, "downstream HTTP/2 connection");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending if time.poll(cx).is_ready() => time.limit(Some(Instant::now() + LOOK)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
