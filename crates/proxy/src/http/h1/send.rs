//! One try: a request on its way to one endpoint, until the head of the response is there.
//!
//! Enters: a rendered head, a body (here, or still coming), an endpoint. Leaves: a connection with the response behind its
//! head, or why there is none. Whether another try follows is up to `attempts`.

use std::future::poll_fn;
use std::io::IoSlice;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::body::{Body, Broken, poll_transfer};
use super::exchange::Facts;
use super::head::{self, End, Framing, Malformed};
use super::pool::Origin;
use super::render::{self, After};
use super::serve::Connection;
use crate::buffers::BUFFER_BYTES;
use crate::config::route::edit::Fields;
use crate::config::{Cluster, Endpoint};
use crate::http::attempts::{Attempts, Failure};
use crate::http::headers;
use crate::http::message::REPLAY_BYTES_MAX;
use crate::http::record::Record;
use crate::wire::Wire;

/// Kept connections that may turn out closed in a row before a new one is made.
const STALE_MAX: u32 = 2;
// What is kept stays in the buffer that it was read into.
const _: () = assert!(REPLAY_BYTES_MAX < BUFFER_BYTES);
/// Interim responses that one answer may have.
const INTERIM_MAX: u32 = 16;

/// Why there is no answer.
#[derive(Debug)]
pub enum Sent {
    /// The endpoint is at fault.
    Failed(Failure),
    /// Time is up.
    Late,
    /// The client is gone.
    Gone,
    /// The client's body is none.
    Refused(Malformed),
}

/// The head of a response; rendered for the client already.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Of the body.
    pub framing: Framing,
    /// The endpoint keeps its connection.
    pub keep_alive: bool,
    /// What the client's connection does afterwards.
    pub after: After,
    /// It is gRPC.
    pub grpc: bool,
    /// The gRPC status where it stands in the head.
    pub grpc_status: Option<u16>,
}

/// The body of a request on its way. As long as it may be wanted again, what was sent of it stays unread.
pub struct Upload {
    /// What is to come from the client; of one that is kept: all of it, always.
    body: Body,
    /// It can be sent again from the beginning.
    kept: bool,
    /// So many bytes of one that is kept are written.
    written: usize,
    sent: bool,
    /// Some of what cannot be sent again may be gone.
    touched: bool,
}

impl Upload {
    /// Nothing sent. With `replay`, or without a body, it can be sent again.
    pub fn new(facts: Facts<'_>, replay: bool) -> Self {
        let fits = match facts.framing {
            Framing::Empty => true,
            Framing::Length(length) => replay && length <= REPLAY_BYTES_MAX as u64,
            Framing::Chunked => replay,
            Framing::UntilClose => false,
        };
        Self {
            body: Body::new(facts.framing),
            kept: fits,
            written: 0,
            sent: false,
            touched: false,
        }
    }

    /// It can be sent, or sent again.
    pub fn is_whole(&self) -> bool {
        self.kept || !self.touched
    }

    /// All of it, where it is here, stays so, and is content alone.
    pub fn whole<'c>(&self, client: &'c Wire) -> Option<&'c [u8]> {
        match self.body {
            Body::Length(length) if self.kept => client.unread().get(..usize::try_from(length).ok()?),
            _ => None,
        }
    }

    /// All of it is written.
    pub fn is_sent(&self) -> bool {
        self.sent
    }

    /// Bytes of content that came from the client, of a body that is framed like this.
    pub fn received(&self, framing: Framing, client: &Wire) -> u64 {
        let here = match self.body {
            Body::Length(left) => left.min(client.unread().len() as u64),
            Body::Chunked { .. } | Body::UntilClose { .. } => 0,
        };
        self.body.content(framing) + here
    }

    /// It will not be sent again.
    pub fn forget(&mut self, client: &mut Wire) {
        if std::mem::take(&mut self.kept) {
            self.body.passed(self.written);
            client.consume(std::mem::take(&mut self.written));
        }
    }

    fn restart(&mut self) {
        if self.kept {
            (self.written, self.sent) = (0, false);
        }
    }

    /// Writes what is left of head and body.
    fn poll(
        &mut self,
        head: &[u8],
        head_sent: &mut usize,
        client: &mut Wire,
        upstream: &mut Wire,
        moved: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        while self.kept {
            let here = self.body.ready(client.unread()).map_err(Broken::Malformed)?;
            let head_left = &head[*head_sent..];
            let body_left = &client.unread()[self.written..here];
            if head_left.is_empty() && body_left.is_empty() {
                if self.body.ends_at(here) {
                    let flushed = upstream.poll_flush(cx).map_err(|_| Broken::Sink);
                    self.sent = matches!(flushed, Poll::Ready(Ok(())));
                    return flushed;
                }
                if here >= REPLAY_BYTES_MAX {
                    // Too much to be kept.
                    self.forget(client);
                    break;
                }
                match client.poll_more(cx) {
                    Poll::Ready(Ok(1..)) => *moved = true,
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Broken::Source)),
                    Poll::Pending => {
                        ready!(upstream.poll_flush(cx)).map_err(|_| Broken::Sink)?;
                        return Poll::Pending;
                    }
                }
                continue;
            }
            let slices = [IoSlice::new(head_left), IoSlice::new(body_left)];
            let slices = match (head_left.is_empty(), body_left.is_empty()) {
                (true, _) => &slices[1..],
                (false, true) => &slices[..1],
                (false, false) => &slices[..],
            };
            let n = ready!(upstream.poll_write(cx, slices)).map_err(|_| Broken::Sink)?;
            let of_head = n.min(head_left.len());
            *head_sent += of_head;
            self.written += n - of_head;
        }
        let end = poll_transfer(head, head_sent, &mut self.body, client, upstream, moved, cx);
        self.touched |= *head_sent == head.len();
        self.sent = matches!(end, Poll::Ready(Ok(())));
        end
    }

    /// Goes on with a body while the response is already on its way.
    pub fn poll_rest(
        &mut self,
        client: &mut Wire,
        upstream: &mut Wire,
        moved: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let mut nothing = 0;
        let end = poll_transfer(&[], &mut nothing, &mut self.body, client, upstream, moved, cx);
        if let Poll::Ready(Ok(())) = end {
            self.sent = true;
        }
        end
    }

    /// Whether the client, of whom nothing is awaited, ended the connection. Bytes that come belong to the next request.
    pub fn client_is_gone(&self, client: &mut Wire, cx: &mut Context<'_>) -> bool {
        while client.unread().len() <= self.written && !client.is_full() {
            match client.poll_more(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return false,
            }
        }
        false
    }
}

impl Connection {
    /// Waits until a body of known length that can be kept is here.
    pub async fn gather(&mut self, upload: &mut Upload) -> Result<(), Sent> {
        let Body::Length(_) = upload.body else { return Ok(()) };
        poll_fn(|cx| {
            while upload.kept && upload.whole(&self.wire).is_none() {
                match self.wire.poll_more(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Sent::Gone)),
                    Poll::Ready(Ok(_)) => self.time.moved = true,
                    Poll::Pending => return self.time.poll(cx).map(|()| Err(Sent::Late)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// One try, over a kept connection or a new one.
    pub async fn attempt(
        &mut self,
        endpoint: &Endpoint,
        origin: Origin,
        upload: &mut Upload,
        facts: Facts<'_>,
        attempts: &mut Attempts<'_>,
        record: &mut Record,
    ) -> Result<(Wire, Answer), Sent> {
        let cluster = attempts.cluster();
        let mut stale = 0;
        loop {
            upload.restart();
            let kept = match stale < STALE_MAX {
                true => poll_fn(|cx| Poll::Ready(self.flow.worker.pool.take(cx, cluster, &origin))).await,
                false => None,
            };
            let (mut upstream, reused) = match kept {
                Some(wire) => (wire, true),
                None => self.connect(cluster, endpoint, &origin, upload).await?,
            };
            if let Err(overflow) = attempts.admit(endpoint, record) {
                self.flow.worker.pool.put(cluster, origin, upstream, Instant::now());
                return Err(Sent::Failed(overflow));
            }
            match self.converse(&mut upstream, upload, facts).await {
                Ok(answer) => return Ok((upstream, answer)),
                Err(end) => {
                    upstream.fail();
                    let again = match end {
                        Sent::Failed(Failure::Unsent) => reused,
                        Sent::Failed(Failure::Reset) => reused && upload.kept && facts.idempotent,
                        _ => false,
                    };
                    if !again {
                        return Err(end);
                    }
                    stale += 1;
                }
            }
        }
    }

    async fn connect(
        &mut self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        origin: &Origin,
        upload: &Upload,
    ) -> Result<(Wire, bool), Sent> {
        let flow = std::rc::Rc::clone(&self.flow);
        let slot = || flow.upstream_slot(&endpoint.peer, &cluster.spec.telemetry);
        // Rare and large, and so not a part of every connection.
        let mut connecting = Box::pin(flow.worker.pool.obtain(&flow.worker, cluster, origin, slot));
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = connecting.as_mut().poll(cx) {
                return Poll::Ready(outcome.map_err(Sent::Failed));
            }
            if upload.body.ends_at(0) && upload.client_is_gone(&mut self.wire, cx) {
                return Poll::Ready(Err(Sent::Gone));
            }
            self.time.poll(cx).map(|()| Err(Sent::Late))
        })
        .await
    }

    /// Sends the request and waits for the head of the final response. Interim responses are passed on.
    async fn converse(&mut self, upstream: &mut Wire, upload: &mut Upload, facts: Facts<'_>) -> Result<Answer, Sent> {
        let request = std::mem::take(&mut self.request);
        let (mut head_sent, mut searched, mut interim) = (0, 0, 0);
        // Rendered interim responses on their way to the client.
        let mut notes: Vec<u8> = Vec::new();
        let outcome = poll_fn(|cx| {
            loop {
                let mut blocked = None;
                if !upload.sent {
                    let time = &mut self.time;
                    match upload.poll(&request, &mut head_sent, &mut self.wire, upstream, &mut time.moved, cx) {
                        Poll::Ready(Ok(())) | Poll::Pending => {}
                        Poll::Ready(Err(Broken::Source)) => return Poll::Ready(Err(Sent::Gone)),
                        Poll::Ready(Err(Broken::Malformed(why))) => return Poll::Ready(Err(Sent::Refused(why))),
                        // It may have answered before it closed.
                        Poll::Ready(Err(Broken::Sink)) => blocked = Some(head_sent == 0),
                    }
                }
                while !notes.is_empty() {
                    match self.wire.poll_write(cx, &[IoSlice::new(&notes)]) {
                        Poll::Ready(Ok(n)) => drop(notes.drain(..n)),
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(Sent::Gone)),
                        Poll::Pending => return self.time.poll(cx).map(|()| Err(Sent::Gone)),
                    }
                }
                match find_head(upstream, &mut searched, cx) {
                    Poll::Ready(Ok((skip, end))) => {
                        upstream.consume(skip);
                        match self.answer(&upstream.unread()[..end - skip], facts) {
                            Err(_) => return Poll::Ready(Err(Sent::Failed(Failure::Malformed))),
                            Ok(answer) => {
                                upstream.consume(end - skip);
                                if answer.status >= 200 || answer.after == After::Upgrade {
                                    return Poll::Ready(Ok(answer));
                                }
                                searched = 0;
                                interim += 1;
                                if interim > INTERIM_MAX || answer.status == 101 {
                                    return Poll::Ready(Err(Sent::Failed(Failure::Malformed)));
                                }
                                if facts.one_one {
                                    notes.append(&mut self.out);
                                }
                            }
                        }
                    }
                    Poll::Ready(Err(Failure::Reset)) if blocked == Some(true) => {
                        return Poll::Ready(Err(Sent::Failed(Failure::Unsent)));
                    }
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(Sent::Failed(failure))),
                    Poll::Pending if blocked.is_some() => {
                        // Neither can it be written to, nor has it anything to say.
                        let failure = if blocked == Some(true) {
                            Failure::Unsent
                        } else {
                            Failure::Reset
                        };
                        return Poll::Ready(Err(Sent::Failed(failure)));
                    }
                    Poll::Pending => {
                        if upload.sent && upload.client_is_gone(&mut self.wire, cx) {
                            return Poll::Ready(Err(Sent::Gone));
                        }
                        return self.time.poll(cx).map(|()| Err(Sent::Late));
                    }
                }
            }
        })
        .await;
        // For another try.
        self.request = request;
        outcome
    }

    /// Reads the head of a response and renders it into `out` as it goes to the client.
    fn answer(&mut self, head: &[u8], facts: Facts<'_>) -> Result<Answer, Malformed> {
        let mut room = head::room();
        let response = head::response(head, &mut room)?;
        let upgrade = response.status == 101 && response.websocket && facts.websocket;
        let framing = render::body_of(response.framing, facts.to_head);
        let unframed = framing == Framing::UntilClose || (framing == Framing::Chunked && !facts.one_one);
        let after = match self.after(facts) {
            _ if upgrade => After::Upgrade,
            _ if response.status < 200 => After::Keep,
            _ if unframed => After::Close,
            after => after,
        };
        let answer = Answer {
            status: response.status,
            framing: response.framing,
            keep_alive: response.keep_alive,
            after,
            grpc: response.grpc,
            grpc_status: response
                .headers
                .get(headers::GRPC_STATUS_NAME)
                .and_then(headers::parse_grpc_status),
        };
        let mut response = response;
        if framing == Framing::Chunked && !facts.one_one {
            response.headers.drop_named("transfer-encoding");
        }
        if facts.shaping.edits() && (response.status >= 200 || upgrade) {
            facts.shaping.apply(&mut response.headers);
            response.dated = response.headers.has(&http::header::DATE);
        }
        self.out.clear();
        let out = &mut self.out;
        self.flow
            .worker
            .with_date(|date| render::response(out, &response, after, date));
        if let Some(cookie) = self.cookie.as_ref().filter(|_| answer.status >= 200) {
            render::add(out, "set-cookie", cookie.as_bytes());
        }
        Ok(answer)
    }
}

/// Waits for the end of a head; leaves the bytes before it and where it ends.
pub fn find_head(
    upstream: &mut Wire,
    searched: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<Result<(usize, usize), Failure>> {
    loop {
        let unread = upstream.unread();
        if unread.len() > *searched {
            match head::find_end(unread, *searched) {
                Err(_) => return Poll::Ready(Err(Failure::Malformed)),
                Ok(End::At { skip, end }) => return Poll::Ready(Ok((skip, end))),
                Ok(End::Later) => *searched = unread.len(),
            }
        }
        match upstream.poll_more(cx) {
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Failure::Reset)),
            Poll::Ready(Ok(_)) => {}
            Poll::Pending => return Poll::Pending,
        }
    }
}
