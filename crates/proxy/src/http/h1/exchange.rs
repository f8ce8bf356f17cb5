//! One HTTP/1 request, from its head to the end of its response.
//!
//! Enters: a connection with a whole head in it. Leaves: what follows on that connection. Malformed requests end here; where
//! good ones go is up to `route`, which endpoint is tried up to `attempts`, how a try is made up to `send`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::body::{Body, Broken, poll_piece, poll_transfer};
use super::head::{self, Framing};
use super::pool::Origin;
use super::render::{self, After};
use super::send::{Answer, Sent, Upload};
use super::serve::{Connection, Next};
use crate::config::route::edit::Editable;
use crate::config::{Active, Cluster, ClusterStats, Http, Protocol};
use crate::http::affinity;
use crate::http::attempts::{Attempts, Failure, Target};
use crate::http::filters::bandwidth::Bandwidth;
use crate::http::filters::mirror::Copies;
use crate::http::filters::{self, Shaping, Verdict};
use crate::http::h2::upstream::{Client, End, Exchange};
use crate::http::headers;
use crate::http::lifetime::Lifetime;
use crate::http::message::{REPLAY_BYTES_MAX, Source};
use crate::http::record::Record;
use crate::http::reply::{MALFORMED, Reply, Unanswered};
use crate::http::translate as other;
use crate::tcp::Joined;
use crate::wire::Wire;

/// What remains of a request's head once it is rendered.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The answer has no body.
    pub to_head: bool,
    /// May be executed twice (RFC 9110, 9.2.2).
    pub idempotent: bool,
    /// HTTP/1.1 (else 1.0).
    pub one_one: bool,
    /// The client keeps the connection.
    pub keep_alive: bool,
    /// Of the body.
    pub framing: Framing,
    /// A WebSocket is asked for, and may be had.
    pub websocket: bool,
    /// The client waits for a word before it sends the body.
    pub expects: bool,
    /// By which the endpoint is chosen, where the cluster does so.
    pub hash: Option<u64>,
    /// What is done to the response.
    pub shaping: Shaping<'a>,
}

/// What is to be done with a request.
struct Plan<'a> {
    facts: Facts<'a>,
    /// It waits first.
    delay: Option<Duration>,
    /// So long it may take.
    longest: Option<Duration>,
    step: Step<'a>,
    /// Others get the same.
    copies: Option<Box<Copied<'a>>>,
}

/// What copies of a request are made from.
struct Copied<'a> {
    copies: Copies<'a>,
    /// Where the request itself is not translated.
    parts: Option<http::request::Parts>,
    authority: String,
}

/// A body of this kind may be kept as a whole until a copy of it is made.
fn is_kept(framing: Framing) -> bool {
    match framing {
        Framing::Empty => true,
        Framing::Length(length) => length <= REPLAY_BYTES_MAX as u64,
        Framing::Chunked | Framing::UntilClose => false,
    }
}

/// What is done with a request.
enum Step<'a> {
    Verdict(Verdict<'a>),
    /// The endpoints speak HTTP/2, or somebody gets a copy of a body that cannot be kept.
    Translate(Target<'a>, Box<http::request::Parts>),
}

impl Connection {
    /// Serves the request whose head are the first `length` unread bytes.
    pub async fn exchange(&mut self, length: usize) -> Next {
        let active = self.flow.worker.active();
        self.chain.follow(&self.flow, &active);
        let http = Arc::clone(&self.chain.http);
        let (mut record, plan) = match self.plan(&active, &http, length) {
            Ok(planned) => planned,
            Err(why) => return self.refuse_malformed(why).await,
        };
        self.wire.consume(length);
        let Plan {
            facts,
            delay,
            longest,
            step,
            copies,
        } = plan;
        let call_end = longest.map(|longest| record.started() + longest);
        let mut begun = record.started();
        if let Some(delay) = delay {
            if self.delay(delay).await.is_err() {
                return Next::Gone;
            }
            begun = Instant::now();
        }
        match step {
            Step::Verdict(Verdict::Forward(target)) => {
                self.limit(target, &http, begun, call_end);
                self.forward(&active, target, facts, record, copies).await
            }
            Step::Translate(target, parts) => {
                self.limit(target, &http, begun, call_end);
                // Large, and not a part of connections whose endpoints speak HTTP/1.
                Box::pin(self.translate(&active, target, *parts, facts, record, copies)).await
            }
            Step::Verdict(Verdict::Unanswered(why)) => self.unanswered(record, why, facts).await,
            Step::Verdict(Verdict::Reply(reply)) => {
                record.reply(&reply);
                self.say(&reply, facts).await
            }
        }
    }

    /// The time that a request has from `begun` on; `call_end`: the end that it has itself.
    fn limit(&mut self, target: Target<'_>, http: &Http, begun: Instant, call_end: Option<Instant>) {
        let stall = target.forward.stall(http);
        self.time.limit_request(target.forward.timeout, stall, begun);
        if let Some(end) = call_end {
            self.time.limit_call(end);
        }
    }

    /// Reads the head, finds the route, and renders the head for the endpoint.
    fn plan<'a>(
        &mut self,
        active: &'a Active,
        http: &'a Http,
        length: usize,
    ) -> Result<(Record, Plan<'a>), head::Malformed> {
        let mut room = head::room();
        let mut request = head::request(&self.wire.unread()[..length], &mut room)?;
        request.secure = self.chain.secure;
        let muted = self.flow.from_host && request.probe;
        let mut record = Record::new(&self.flow, &self.chain.stats, muted);
        let websocket = request.websocket && http.websocket;
        let mut facts = Facts {
            to_head: request.method == "HEAD",
            idempotent: matches!(request.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
            one_one: request.one_one,
            keep_alive: request.keep_alive,
            framing: request.framing,
            websocket,
            expects: request.expects,
            hash: None,
            shaping: Shaping::default(),
        };
        let decision = filters::decide(&mut request, active, http, &self.flow, self.chain.secure, &mut record);
        facts.shaping = decision.shaping;
        let mut copied = None;
        let mut streamed = false;
        if let Verdict::Forward(target) = &decision.verdict
            && !websocket
            && let Some(copies) = Copies::draw(active, http, target.forward)
        {
            request.settle(http.generate_request_id);
            let fallback = self.flow.destination.to_string();
            copied = other::request(&request, &fallback).ok().map(|parts| {
                let authority = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
                // A body that is not kept as a whole is taken apart on its way, once for all.
                streamed = facts.expects || !is_kept(facts.framing);
                let parts = (target.cluster.spec.protocol != Protocol::Http2 && !streamed).then_some(parts);
                Box::new(Copied {
                    copies,
                    parts,
                    authority,
                })
            });
        }
        let step = match decision.verdict {
            Verdict::Forward(target) if streamed || target.cluster.spec.protocol == Protocol::Http2 => {
                let translated = other::request(&request, &self.flow.destination.to_string());
                let mut parts = match translated {
                    Ok(parts) => parts,
                    Err(why) => {
                        record.mute();
                        return Err(why);
                    }
                };
                headers::add_request_headers(&mut parts.headers, http.generate_request_id, request.secure);
                Step::Translate(target, Box::new(parts))
            }
            Verdict::Forward(target) => {
                if !target.forward.hash.is_empty() {
                    let headers = || request.headers.iter().map(|h| (h.name, h.value));
                    let affinity = affinity::of(target, &self.flow, headers);
                    facts.hash = affinity.hash;
                    self.cookie = affinity.cookie.map(Into::into);
                }
                self.request.clear();
                let (out, destination) = (&mut self.request, self.flow.destination);
                render::request(out, &request, destination, websocket, http.generate_request_id);
                Step::Verdict(Verdict::Forward(target))
            }
            other => Step::Verdict(other),
        };
        let (delay, longest) = (decision.delay, decision.longest);
        let copies = copied;
        Ok((
            record,
            Plan {
                facts,
                delay,
                longest,
                step,
                copies,
            },
        ))
    }

    /// Holds a request back on purpose. `Err`: the client left.
    async fn delay(&mut self, delay: Duration) -> Result<(), ()> {
        self.time.limit(Some(Instant::now() + delay));
        poll_fn(|cx| {
            while !self.wire.is_full() {
                match self.wire.poll_more(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(())),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            self.time.poll(cx).map(Ok)
        })
        .await
    }

    /// What the connection does after a response, as far as the request tells.
    pub fn after(&self, facts: Facts<'_>) -> After {
        match (facts.keep_alive && !self.is_ending(), facts.one_one) {
            (false, _) => After::Close,
            (true, true) => After::Keep,
            (true, false) => After::KeepOld,
        }
    }

    /// Answers without an endpoint, having thrown the body of the request away where it is here already.
    async fn say(&mut self, reply: &Reply, facts: Facts<'_>) -> Next {
        let mut body = Body::new(facts.framing);
        let here = body.ready(self.wire.unread()).unwrap_or(0);
        body.passed(here);
        self.wire.consume(here);
        let after = self.after(facts);
        self.reply(reply, facts.to_head, after, !body.is_done()).await
    }

    /// There is no response of an endpoint.
    async fn unanswered(&mut self, mut record: Record, why: Unanswered, facts: Facts<'_>) -> Next {
        let reply = self.time.why(why).reply(&mut record, false);
        match why {
            // The rest of it may come at any time.
            Unanswered::Slow => self.reply(&reply, false, After::Close, true).await,
            _ => self.say(&reply, facts).await,
        }
    }

    async fn forward(
        &mut self,
        active: &Arc<Active>,
        target: Target<'_>,
        facts: Facts<'_>,
        mut record: Record,
        copied: Option<Box<Copied<'_>>>,
    ) -> Next {
        let cluster = target.cluster;
        let retry = &target.forward.retry;
        let replay = retry.resends() || (retry.limit > 0 && facts.idempotent) || copied.is_some();
        let mut upload = Upload::new(facts, replay && !facts.expects);
        let flow = Rc::clone(&self.flow);
        if let Some(copied) = copied {
            let gathered = self.gather(&mut upload).await;
            record.received(|| upload.received(facts.framing, &self.wire));
            match gathered {
                Ok(()) => {}
                Err(Sent::Late) if self.time.is_past_deadline() => {
                    return self.unanswered(record, Unanswered::Late, facts).await;
                }
                Err(Sent::Late) => return self.unanswered(record, Unanswered::Slow, facts).await,
                Err(Sent::Refused(why)) => return self.client_failed(record, Some(why)).await,
                Err(_) => return self.client_failed(record, None).await,
            }
            if let Some(body) = upload.whole(&self.wire)
                && let Some(parts) = &copied.parts
            {
                let body = bytes::Bytes::copy_from_slice(body);
                let head = (parts, &*copied.authority);
                copied
                    .copies
                    .send(&flow, active, &record, head, || Source::Whole(body.clone()));
            }
        }
        let mut attempts = Attempts::new(&flow, active, target, facts.hash);
        loop {
            let Some(endpoint) = attempts.next(&mut record) else {
                return self.unanswered(record, Unanswered::NoEndpoint, facts).await;
            };
            let origin = Origin::new(cluster, endpoint.address);
            self.time.limit_try(attempts.time());
            let attempt = self.attempt(&endpoint, origin, &mut upload, facts, &mut attempts, &mut record);
            let outcome = attempt.await;
            record.received(|| upload.received(facts.framing, &self.wire));
            let wait = match outcome {
                Ok((upstream, answer)) => {
                    self.time.limit_try(None);
                    let status = (answer.status, answer.grpc_status);
                    match attempts.after_answer(&endpoint, status, upload.is_whole(), &mut record) {
                        None => {
                            return self
                                .respond(cluster, upstream, origin, answer, upload, facts, record)
                                .await;
                        }
                        wait => wait,
                    }
                }
                Err(Sent::Late) if self.time.is_try_over() => {
                    ClusterStats::add(&cluster.stats.rq_per_try_timeout);
                    let failure = Failure::Timeout;
                    match attempts.after_failure(&endpoint, failure, upload.is_whole(), &mut record) {
                        None => return self.unanswered(record, Unanswered::Failed(failure), facts).await,
                        wait => wait,
                    }
                }
                Err(Sent::Failed(failure)) => {
                    match attempts.after_failure(&endpoint, failure, upload.is_whole(), &mut record) {
                        None => return self.unanswered(record, Unanswered::Failed(failure), facts).await,
                        wait => wait,
                    }
                }
                Err(Sent::Late) if !upload.is_sent() && !self.time.is_past_deadline() => {
                    return self.unanswered(record, Unanswered::Slow, facts).await;
                }
                Err(Sent::Late) => {
                    if !self.time.is_past_call() {
                        attempts.timed_out(&mut record);
                    }
                    return self.unanswered(record, Unanswered::Late, facts).await;
                }
                Err(Sent::Refused(why)) => return self.client_failed(record, Some(why)).await,
                Err(Sent::Gone) => return self.client_failed(record, None).await,
            };
            self.time.limit_try(None);
            if let Some(wait) = wait.filter(|wait| !wait.is_zero())
                && self.pause(wait).await.is_err()
            {
                return self.unanswered(record, Unanswered::Late, facts).await;
            }
        }
    }

    /// Forwards a request to endpoints that speak HTTP/2, or to any with copies of its body.
    async fn translate(
        &mut self,
        active: &Arc<Active>,
        target: Target<'_>,
        parts: http::request::Parts,
        facts: Facts<'_>,
        mut record: Record,
        copied: Option<Box<Copied<'_>>>,
    ) -> Next {
        let mut parts = parts;
        if facts.expects && copied.is_some() {
            // The copies cannot wait for what the endpoint says.
            parts.headers.remove(http::header::EXPECT);
            if self.invite().await.is_err() {
                return Next::Gone;
            }
        }
        let flow = Rc::clone(&self.flow);
        let after = self.after(facts);
        let authority = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
        let shared = RefCell::new(&mut self.wire);
        let body = match facts.framing {
            Framing::Empty => Source::Empty,
            framing => Source::H1(&shared, Body::new(framing), false),
        };
        let body = match copied {
            None => body,
            Some(copied) => {
                let Copied { copies, authority, .. } = *copied;
                body.copied(|make| copies.send(&flow, active, &record, (&parts, &authority), make))
            }
        };
        let body = if target.forward.retry.limit > 0 {
            body.keep()
        } else {
            body
        };
        let exchange = Exchange {
            flow: &flow,
            parts,
            authority,
            body: Some(body),
            client: Client::H1 {
                wire: &shared,
                one_one: facts.one_one,
                after,
                date: flow.worker.with_date(<[u8]>::to_vec),
            },
            time: &mut self.time,
            record: &mut record,
            cookie: None,
            shaping: facts.shaping,
        };
        let (end, client) = exchange.run(active, target).await;
        let after = match client {
            Client::H1 { after, .. } => after,
            Client::H2(_) | Client::Nobody { .. } => After::Close,
        };
        match end {
            End::Complete { request_read: true } if after != After::Close => Next::Request,
            End::Complete { request_read } => Next::End { unread: !request_read },
            End::Broken => {
                self.wire.reset_on_close();
                Next::Gone
            }
            // What was read of the body is gone.
            End::Unanswered(why) => {
                let reply = self.time.why(why).reply(&mut record, false);
                let more = facts.framing != Framing::Empty;
                self.reply(&reply, facts.to_head, after, more).await
            }
        }
    }

    /// Asks a client that waits for it for the body. `Err`: it left, or time is up.
    async fn invite(&mut self) -> Result<(), ()> {
        let mut rest: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        poll_fn(|cx| {
            while !rest.is_empty() {
                match self.wire.poll_write(cx, &[std::io::IoSlice::new(rest)]) {
                    Poll::Ready(Ok(n)) => rest = rest.get(n..).unwrap_or_default(),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(())),
                    Poll::Pending => return self.time.poll(cx).map(Err),
                }
            }
            match self.wire.poll_flush(cx) {
                Poll::Ready(flushed) => Poll::Ready(flushed.map_err(drop)),
                Poll::Pending => self.time.poll(cx).map(Err),
            }
        })
        .await
    }

    /// Waits between two tries, but not past the deadline.
    async fn pause(&mut self, wait: Duration) -> Result<(), ()> {
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = poll_fn(|cx| self.time.poll(cx)) => Err(()),
        }
    }

    /// The client broke its request off, or sent a body that is none.
    async fn client_failed(&mut self, mut record: Record, why: Option<head::Malformed>) -> Next {
        match why {
            None => Next::Gone,
            Some(why) => {
                let reply = Reply::new(400, why.to_string());
                record.flag(MALFORMED);
                record.reply(&reply);
                drop(record);
                self.reply(&reply, false, After::Close, true).await
            }
        }
    }

    /// Passes a response on, whose head is rendered in `out`, and gives the upstream connection back.
    #[allow(clippy::too_many_arguments)] // the parts of one response, each with its own owner
    async fn respond(
        &mut self,
        cluster: &Cluster,
        mut upstream: Wire,
        origin: Origin,
        answer: Answer,
        mut upload: Upload,
        facts: Facts<'_>,
        mut record: Record,
    ) -> Next {
        upload.forget(&mut self.wire);
        if answer.after == After::Upgrade {
            record.head(answer.status, answer.grpc, answer.grpc_status);
            return self.tunnel(upstream, record).await;
        }
        record.answered(answer.status, answer.grpc, answer.grpc_status);
        let framing = render::body_of(answer.framing, facts.to_head);
        let old_chunked = framing == Framing::Chunked && !facts.one_one;
        let mut body = Body::new(framing);
        let mut sent = 0;
        let end = if old_chunked {
            self.unchunk(&mut upstream, &mut body, &mut sent).await
        } else if let Some(rate) = facts.shaping.rate {
            let mut limit = Bandwidth::new(rate);
            self.relay_slowly(&mut upstream, &mut body, &mut upload, &mut sent, &mut limit)
                .await
        } else {
            self.relay(&mut upstream, &mut body, &mut upload, &mut sent).await
        };
        record.received(|| upload.received(facts.framing, &self.wire));
        record.sent(|| body.content(framing));
        match end {
            Ok(()) => {
                record.complete();
                let reusable = answer.keep_alive && upload.is_sent() && framing != Framing::UntilClose;
                if reusable && upstream.unread().is_empty() {
                    self.flow.worker.pool.put(cluster, origin, upstream, Instant::now());
                }
                match answer.after {
                    After::Close => Next::End {
                        unread: !upload.is_sent(),
                    },
                    // The rest of the body would be taken for the next request.
                    _ if !upload.is_sent() => Next::End { unread: true },
                    _ => Next::Request,
                }
            }
            Err(Broken::Sink) => Next::Gone,
            Err(_) if sent == 0 => {
                upstream.fail();
                let why = Unanswered::Failed(Failure::Malformed);
                self.unanswered(record, why, facts).await
            }
            Err(Broken::Source | Broken::Malformed(_)) => {
                upstream.fail();
                record.broken(&self.time);
                // A regular end would make half a response look whole.
                self.wire.reset_on_close();
                Next::Gone
            }
        }
    }

    /// Writes the head in `out` and the body behind it; `sent` says how much of the head. Goes on sending the request's
    /// body meanwhile.
    async fn relay(
        &mut self,
        upstream: &mut Wire,
        body: &mut Body,
        upload: &mut Upload,
        sent: &mut usize,
    ) -> Result<(), Broken> {
        poll_fn(|cx| {
            let (time, wire) = (&mut self.time, &mut self.wire);
            if let Poll::Ready(end) = poll_transfer(&self.out, sent, body, upstream, wire, &mut time.moved, cx) {
                return Poll::Ready(end);
            }
            poll_beside(time, wire, upstream, upload, cx).map(Err)
        })
        .await
    }

    /// The same, with so many bytes of the body as `limit` lets pass.
    async fn relay_slowly(
        &mut self,
        upstream: &mut Wire,
        body: &mut Body,
        upload: &mut Upload,
        sent: &mut usize,
        limit: &mut Bandwidth,
    ) -> Result<(), Broken> {
        poll_fn(|cx| {
            let (time, wire) = (&mut self.time, &mut self.wire);
            while let Poll::Ready(room) = limit.poll_room(cx) {
                let mut left = room;
                let end = poll_piece(&self.out, sent, body, upstream, wire, &mut time.moved, &mut left, cx);
                limit.took(room - left);
                if end.is_ready() {
                    return end;
                }
                if left > 0 {
                    break;
                }
            }
            poll_beside(time, wire, upstream, upload, cx).map(Err)
        })
        .await
    }

    /// Writes the head in `out`, and the content of a chunked body as it is, for clients that know no chunks.
    async fn unchunk(&mut self, upstream: &mut Wire, body: &mut Body, sent: &mut usize) -> Result<(), Broken> {
        let mut content = bytes::Bytes::new();
        let mut content_sent = 0;
        poll_fn(|cx| {
            let time = &mut self.time;
            loop {
                let head = self.out.get(*sent..).unwrap_or_default();
                let (from_head, rest) = match head.is_empty() {
                    false => (true, head),
                    true => (false, content.get(content_sent..).unwrap_or_default()),
                };
                if rest.is_empty() {
                    match body.poll_content(upstream, cx) {
                        Poll::Ready(Ok(Some(next))) => (content, content_sent) = (next, 0),
                        Poll::Ready(Ok(None)) => return self.wire.poll_flush(cx).map_err(|_| Broken::Sink),
                        Poll::Ready(Err(why)) => return Poll::Ready(Err(why)),
                        Poll::Pending => return time.poll(cx).map(|()| Err(Broken::Source)),
                    }
                    continue;
                }
                match self.wire.poll_write(cx, &[std::io::IoSlice::new(rest)]) {
                    Poll::Ready(Ok(n)) if from_head => *sent += n,
                    Poll::Ready(Ok(n)) => content_sent += n,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Sink)),
                    Poll::Pending => return time.poll(cx).map(|()| Err(Broken::Source)),
                }
                time.moved = true;
            }
        })
        .await
    }

    /// Joins two connections that left HTTP, each half for itself. The head of the answer is in `out`.
    async fn tunnel(&mut self, mut upstream: Wire, mut record: Record) -> Next {
        self.time.limit(None);
        let mut joined = Joined::default();
        let end = joined.run(&mut self.wire, &mut upstream, &self.out, None).await;
        tracing::debug!(?end, "upgraded connection ended");
        record.received(|| joined.up());
        record.sent(|| joined.down());
        record.complete();
        Next::Gone
    }
}

/// What is to be seen to while a response is on its way: time, the rest of the request, a client that leaves.
fn poll_beside(
    time: &mut Lifetime,
    client: &mut Wire,
    upstream: &mut Wire,
    upload: &mut Upload,
    cx: &mut Context<'_>,
) -> Poll<Broken> {
    if time.poll(cx).is_ready() {
        return Poll::Ready(Broken::Source);
    }
    if upload.is_sent() {
        // The only sign of a client that left while the endpoint has nothing to say.
        if upload.client_is_gone(client, cx) {
            return Poll::Ready(Broken::Sink);
        }
    } else if let Poll::Ready(Err(Broken::Source)) = upload.poll_rest(client, upstream, &mut time.moved, cx) {
        return Poll::Ready(Broken::Sink);
    }
    Poll::Pending
}
