//! One downstream HTTP/1 connection: requests one after the other, until somebody wants no more.
//!
//! Enters: an accepted connection and its chain. Leaves: answered requests. What a request goes through is in `exchange`.

use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::head::{self, End, Malformed};
use super::render::{self, After};
use crate::access_log::Entry;
use crate::flow::Flow;
use crate::http::chain::Chain;
use crate::http::lifetime::Lifetime;
use crate::http::record::Record;
use crate::http::reply::{MALFORMED, Reply};
use crate::wire::Wire;

/// How long a client may take to read a reply of the proxy's own.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);
/// How long what a client still sends after the last response is read and thrown away, so that it can read that response.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Room for heads that a connection keeps between two requests.
const KEPT_BYTES_MAX: usize = 2048;

/// A downstream connection.
pub struct Connection {
    /// From whom, to where.
    pub flow: Rc<Flow>,
    /// Its socket.
    pub wire: Wire,
    /// Its deadline.
    pub time: Lifetime,
    /// The head of the request as it goes to endpoints.
    pub request: Vec<u8>,
    /// The head of the response as it goes to the client.
    pub out: Vec<u8>,
    /// What serves it.
    pub chain: Chain,
    /// A cookie that the next response sets.
    pub cookie: Option<Box<str>>,
}

/// What follows a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another request.
    Request,
    /// A regular end; `unread`: the client may still be sending.
    End {
        /// Whether bytes may still come.
        unread: bool,
    },
    /// Nobody is there, or nothing good can be said any more.
    Gone,
}

/// Serves a connection until it ends.
pub async fn serve(flow: Rc<Flow>, wire: Wire, chain: Chain) {
    let time = Lifetime::new(&flow.worker);
    let mut connection = Connection {
        flow,
        wire,
        time,
        request: Vec::new(),
        out: Vec::new(),
        chain,
        cookie: None,
    };
    loop {
        let next = match connection.head().await {
            Err(Ending::Quiet) => Next::Gone,
            Err(Ending::Slow) => {
                connection.chain.stats.header_timeout();
                connection
                    .refuse(408, "the head of the request did not come in time", "-")
                    .await
            }
            Err(Ending::Malformed(why)) => connection.refuse_malformed(why).await,
            Ok((skip, end)) => {
                connection.wire.consume(skip);
                connection.exchange(end - skip).await
            }
        };
        match next {
            Next::Request => {}
            Next::End { unread } => return connection.end(unread).await,
            Next::Gone => return,
        }
    }
}

/// Why no head came.
enum Ending {
    /// The client is gone, or was idle for long, or the process ends.
    Quiet,
    /// A head was begun and not ended.
    Slow,
    Malformed(Malformed),
}

impl Connection {
    /// Waits for the head of a request. Leaves the bytes before it and where it ends.
    async fn head(&mut self) -> Result<(usize, usize), Ending> {
        let mut searched = 0;
        let mut begun = false;
        if self.wire.unread().is_empty() {
            for head in [&mut self.request, &mut self.out] {
                if head.capacity() > KEPT_BYTES_MAX {
                    *head = Vec::new();
                }
            }
            self.time.limit(Some(Instant::now() + self.chain.http.idle_timeout));
        }
        poll_fn(|cx| {
            loop {
                let unread = self.wire.unread();
                if !unread.is_empty() {
                    match head::find_end(unread, searched) {
                        Err(why) => return Poll::Ready(Err(Ending::Malformed(why))),
                        Ok(End::At { skip, end }) => return Poll::Ready(Ok((skip, end))),
                        Ok(End::Later) => {}
                    }
                    searched = unread.len();
                    if !begun {
                        begun = true;
                        let limit = self
                            .chain
                            .http
                            .head_timeout
                            .map_or(self.chain.http.idle_timeout, |t| t.min(self.chain.http.idle_timeout));
                        self.time.limit(Some(Instant::now() + limit));
                    }
                }
                match self.wire.poll_more(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Ending::Quiet)),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => {
                        self.wire.rest();
                        let late = self.time.poll(cx).is_ready();
                        return match (late, begun) {
                            (true, true) => Poll::Ready(Err(Ending::Slow)),
                            (true, false) => Poll::Ready(Err(Ending::Quiet)),
                            // Nobody waits for an answer: the connection may go.
                            (false, false) if self.time.closing() => Poll::Ready(Err(Ending::Quiet)),
                            _ => Poll::Pending,
                        };
                    }
                }
            }
        })
        .await
    }

    /// Whether the client should be told to come back on another connection.
    pub fn is_ending(&self) -> bool {
        self.chain.is_ending(&self.flow)
    }

    /// Answers a head that is none, and ends the connection.
    pub async fn refuse_malformed(&mut self, why: Malformed) -> Next {
        self.chain.stats.protocol_error();
        let status = match why {
            Malformed::Syntax(_) | Malformed::Framing(_) => 400,
            Malformed::Coding => 501,
            Malformed::Version => 505,
            Malformed::TooLarge => 431,
        };
        self.refuse(status, &why.to_string(), MALFORMED).await
    }

    /// Answers something that is no request, for a reason in Envoy's letters, and ends the connection.
    async fn refuse(&mut self, status: u16, text: &str, flags: &'static str) -> Next {
        let mut record = Record::new(&self.flow, &self.chain.stats, false);
        if self.chain.http.access_log {
            record.log(Entry::unread("HTTP/1.1"));
        }
        record.flag(flags);
        let reply = Reply::new(status, text.to_owned());
        record.reply(&reply);
        self.wire.consume(usize::MAX);
        self.reply(&reply, false, After::Close, true).await
    }

    /// Writes a reply of the proxy's own. `more`: the rest of the request's body is not wanted.
    pub async fn reply(&mut self, reply: &Reply, to_head: bool, after: After, more: bool) -> Next {
        let after = if more { After::Close } else { after };
        self.out.clear();
        self.flow
            .worker
            .with_date(|date| render::reply(&mut self.out, reply, to_head, after, date));
        match (self.write_out().await, after) {
            (false, _) => Next::Gone,
            (true, After::Close | After::Upgrade) => Next::End { unread: more },
            (true, After::Keep | After::KeepOld) => Next::Request,
        }
    }

    /// Writes `out`; `false` when nobody takes it.
    async fn write_out(&mut self) -> bool {
        self.time.limit(Some(Instant::now() + REPLY_TIMEOUT));
        let mut sent = 0;
        poll_fn(|cx| {
            while sent < self.out.len() {
                match self.wire.poll_write(cx, &[IoSlice::new(&self.out[sent..])]) {
                    Poll::Ready(Ok(n)) => sent += n,
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending if self.time.poll(cx).is_ready() => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
            self.wire.poll_flush(cx).map(|flushed| flushed.is_ok())
        })
        .await
    }

    /// Ends the connection so that the client can read the last response: what it still sends is read and thrown away.
    async fn end(mut self, unread: bool) {
        self.time.limit(Some(Instant::now() + LINGER));
        let mut seen = 0;
        poll_fn(|cx| {
            // Whether the other side still hears it does not matter.
            let _ = ready!(self.until_late(cx, Wire::poll_shutdown));
            while unread && seen < LINGER_BYTES_MAX {
                seen += self.wire.unread().len();
                self.wire.consume(usize::MAX);
                match ready!(self.until_late(cx, Wire::poll_more)) {
                    Some(Ok(1..)) => {}
                    _ => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    fn until_late<T>(
        &mut self,
        cx: &mut Context<'_>,
        step: impl FnOnce(&mut Wire, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<Option<T>> {
        match step(&mut self.wire, cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => self.time.poll(cx).map(|()| None),
        }
    }
}
