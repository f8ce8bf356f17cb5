//! One HTTP/1 request, from its head to the end of its response.
//!
//! Enters: a connection with a whole head in it. Leaves: what follows on that connection. Malformed requests end here; where
//! good ones go is up to `route`, which endpoint is tried up to `attempts`, how a try is made up to `send`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::body::{Body, Broken, poll_transfer};
use super::head::{self, Framing};
use super::pool::Origin;
use super::render::{self, After};
use super::send::{Answer, Sent, Upload};
use super::serve::{Connection, Next};
use crate::config::route::Forward;
use crate::config::{Action, Active, EndpointSource, Protocol, Route};
use crate::http::attempts::{Attempts, Failure};
use crate::http::h2::upstream::{Client, End, Exchange};
use crate::http::headers;
use crate::http::message::Source;
use crate::http::record::Record;
use crate::http::translate as other;
use crate::wire::Wire;

/// Bodies up to this size are read whole before they are sent where a retry policy may want them again.
const REPLAY_BYTES_MAX: u64 = 64 * 1024;

/// What remains of a request's head once it is rendered.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
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
}

/// What is to be done with a request.
enum Plan {
    Refuse(head::Malformed),
    /// The proxy answers by itself.
    Local(u16, bytes::Bytes),
    Forward(Arc<Route>),
    /// The endpoints speak HTTP/2.
    Translate(Arc<Route>, Box<http::request::Parts>),
}

impl Connection {
    /// Serves the request whose head are the first `length` unread bytes.
    pub async fn exchange(&mut self, length: usize) -> Next {
        let active = self.flow.worker.active();
        let http = self.follow(&active);
        let (record, plan, facts) = self.plan(&active, &http, length);
        let (Some(facts), mut record) = (facts, record) else {
            return match plan {
                Plan::Refuse(why) => self.refuse_malformed(why).await,
                _ => Next::Gone,
            };
        };
        self.wire.consume(length);
        match plan {
            Plan::Forward(route) => match &route.action {
                Action::Forward(forward) => self.forward(&active, forward, facts, record).await,
                Action::Respond { .. } => Next::Gone,
            },
            Plan::Local(status, body) => self.local(&mut record, status, &body, facts).await,
            Plan::Translate(route, parts) => match &route.action {
                Action::Forward(forward) => self.translate(&active, forward, *parts, facts, record).await,
                Action::Respond { .. } => Next::Gone,
            },
            Plan::Refuse(_) => Next::Gone,
        }
    }

    /// Reads the head, finds the route, and renders the head for the endpoint.
    fn plan(&mut self, active: &Active, http: &crate::config::Http, length: usize) -> (Record, Plan, Option<Facts>) {
        let mut room = head::room();
        let request = match head::request(&self.wire.unread()[..length], &mut room) {
            Ok(request) => request,
            Err(why) => return (Record::new(&self.flow, &self.stats, true), Plan::Refuse(why), None),
        };
        let muted = self.flow.from_host && request.probe;
        let mut record = Record::new(&self.flow, &self.stats, muted);
        let websocket = request.websocket && http.websocket;
        let facts = Facts {
            to_head: request.method == "HEAD",
            idempotent: matches!(request.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
            one_one: request.one_one,
            keep_alive: request.keep_alive,
            framing: request.framing,
            websocket,
            expects: request.expects,
        };
        let table = active.table_of(http);
        let Some(found) = table.and_then(|table| table.find(request.host, request.path())) else {
            record.no_route();
            return (record, Plan::Local(404, bytes::Bytes::new()), Some(facts));
        };
        record.authority(found.authority);
        let two = |forward: &Forward| {
            let cluster = active.clusters.get(&forward.cluster);
            cluster.is_some_and(|c| c.spec.protocol == Protocol::Http2)
        };
        let plan = match &found.route.action {
            Action::Forward(forward) if two(forward) => {
                match other::request(&request, &self.flow.destination.to_string()) {
                    Ok(mut parts) => {
                        headers::add_request_headers(&mut parts.headers, http.generate_request_id);
                        Plan::Translate(found.route, Box::new(parts))
                    }
                    Err(why) => return (record, Plan::Refuse(why), None),
                }
            }
            Action::Respond { status, body } => {
                record.direct_response();
                Plan::Local(status.as_u16(), body.render(self.flow.destination))
            }
            Action::Forward(_) => {
                self.request.clear();
                let out = &mut self.request;
                render::request(
                    out,
                    &request,
                    self.flow.destination,
                    websocket,
                    http.generate_request_id,
                );
                Plan::Forward(found.route)
            }
        };
        (record, plan, Some(facts))
    }

    /// What the connection does after a response, as far as the request tells.
    pub fn after(&self, facts: Facts) -> After {
        match (facts.keep_alive && !self.is_ending(), facts.one_one) {
            (false, _) => After::Close,
            (true, true) => After::Keep,
            (true, false) => After::KeepOld,
        }
    }

    /// Answers without an endpoint.
    async fn local(&mut self, record: &mut Record, status: u16, body: &[u8], facts: Facts) -> Next {
        record.local(status);
        self.say(status, body, facts).await
    }

    /// Replies, having thrown the body of the request away where it is here already.
    async fn say(&mut self, status: u16, text: &[u8], facts: Facts) -> Next {
        let mut body = Body::new(facts.framing);
        let here = body.ready(self.wire.unread()).unwrap_or(0);
        body.passed(here);
        self.wire.consume(here);
        let after = self.after(facts);
        self.reply(status, text, facts.to_head, after, !body.is_done()).await
    }

    async fn forward(&mut self, active: &Arc<Active>, route: &Forward, facts: Facts, mut record: Record) -> Next {
        let Some(cluster) = active.clusters.get(&route.cluster) else {
            record.no_cluster();
            return self.local(&mut record, 503, b"", facts).await;
        };
        let now = record.started();
        self.time
            .limit_stall(route.timeout.map(|limit| now + limit), self.http.stall_timeout, now);
        let mut upload = Upload::new(facts, route.retry.limit > 0, REPLAY_BYTES_MAX);
        match self.gather(&mut upload).await {
            Sent::Done => {}
            Sent::Late if self.time.is_past_deadline() => return self.late(record, facts).await,
            Sent::Late => return self.slow(record).await,
            _ => return self.client_failed(record, None).await,
        }
        let flow = Rc::clone(&self.flow);
        let mut attempts = Attempts::new(&flow, active, cluster, route);
        loop {
            let Some(endpoint) = attempts.next(&mut record) else {
                return self.local(&mut record, 503, b"no healthy upstream", facts).await;
            };
            let origin = Origin {
                address: endpoint.address,
                mark: cluster.spec.mark,
                original: matches!(cluster.spec.source, EndpointSource::OriginalDst),
                tls: cluster.spec.tls.as_ref().map_or(0, |tls| Arc::as_ptr(tls) as usize),
            };
            let wait = match self.attempt(cluster, &endpoint, origin, &mut upload, facts).await {
                Ok((upstream, answer)) => match attempts.after_status(&endpoint, answer.status, upload.is_whole()) {
                    None => {
                        return self.respond(upstream, origin, answer, upload, facts, record).await;
                    }
                    wait => wait,
                },
                Err(Sent::Failed(failure)) => match attempts.after_failure(&endpoint, failure, upload.is_whole()) {
                    None => return self.failed(record, failure, facts).await,
                    wait => wait,
                },
                Err(Sent::Late) if !upload.is_sent() && !self.time.is_past_deadline() => {
                    return self.slow(record).await;
                }
                Err(Sent::Late) => return self.late(record, facts).await,
                Err(Sent::Refused(why)) => return self.client_failed(record, Some(why)).await,
                Err(Sent::Gone | Sent::Done) => return self.client_failed(record, None).await,
            };
            if let Some(wait) = wait.filter(|wait| !wait.is_zero())
                && self.pause(wait).await.is_err()
            {
                return self.late(record, facts).await;
            }
        }
    }

    /// Forwards a request to endpoints that speak HTTP/2.
    async fn translate(
        &mut self,
        active: &Arc<Active>,
        route: &Forward,
        parts: http::request::Parts,
        facts: Facts,
        mut record: Record,
    ) -> Next {
        let Some(cluster) = active.clusters.get(&route.cluster) else {
            record.no_cluster();
            return self.local(&mut record, 503, b"", facts).await;
        };
        let now = record.started();
        self.time
            .limit_stall(route.timeout.map(|limit| now + limit), self.http.stall_timeout, now);
        let flow = Rc::clone(&self.flow);
        let after = self.after(facts);
        let authority = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
        let shared = RefCell::new(&mut self.wire);
        let body = match facts.framing {
            Framing::Empty => Source::Empty,
            framing => Source::H1(&shared, Body::new(framing), false),
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
        };
        let (end, client) = exchange.run(active, cluster, route).await;
        let after = match client {
            Client::H1 { after, .. } => after,
            Client::H2(_) => After::Close,
        };
        match end {
            End::Complete { request_read: true } if after != After::Close => Next::Request,
            End::Complete { request_read } => Next::End { unread: !request_read },
            End::Broken => {
                self.wire.reset_on_close();
                Next::Gone
            }
            // Nothing was answered; what was read of the body is gone.
            End::NoEndpoint => {
                record.local(503);
                self.reply(
                    503,
                    b"no healthy upstream",
                    facts.to_head,
                    after,
                    facts.framing != Framing::Empty,
                )
                .await
            }
            End::Failed(failure) => {
                record.head(failure.status(), false, None);
                record.upstream_failed();
                let (status, text) = (failure.status(), failure.reason().as_bytes());
                self.reply(status, text, facts.to_head, after, facts.framing != Framing::Empty)
                    .await
            }
            End::Late => {
                record.head(504, false, None);
                record.timed_out();
                let text = b"upstream request timeout";
                self.reply(504, text, facts.to_head, after, facts.framing != Framing::Empty)
                    .await
            }
        }
    }

    /// Waits between two tries, but not past the deadline.
    async fn pause(&mut self, wait: Duration) -> Result<(), ()> {
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = poll_fn(|cx| self.time.poll(cx)) => Err(()),
        }
    }

    /// No endpoint gave an answer.
    async fn failed(&mut self, mut record: Record, failure: Failure, facts: Facts) -> Next {
        record.head(failure.status(), false, None);
        record.upstream_failed();
        self.say(failure.status(), failure.reason().as_bytes(), facts).await
    }

    /// The time of the request, or of its body, is over before there is an answer.
    pub async fn late(&mut self, mut record: Record, facts: Facts) -> Next {
        record.head(504, false, None);
        record.timed_out();
        self.say(504, b"upstream request timeout", facts).await
    }

    /// The body of the request does not come.
    async fn slow(&mut self, mut record: Record) -> Next {
        record.local(408);
        self.reply(
            408,
            b"the body of the request did not come in time",
            false,
            After::Close,
            true,
        )
        .await
    }

    /// The client broke its request off, or sent a body that is none.
    async fn client_failed(&mut self, mut record: Record, why: Option<head::Malformed>) -> Next {
        match why {
            None => Next::Gone,
            Some(why) => {
                record.local(400);
                drop(record);
                let text = why.to_string();
                self.reply(400, text.as_bytes(), false, After::Close, true).await
            }
        }
    }

    /// Passes a response on, whose head is rendered in `out`, and gives the upstream connection back.
    async fn respond(
        &mut self,
        mut upstream: Wire,
        origin: Origin,
        answer: Answer,
        mut upload: Upload,
        facts: Facts,
        mut record: Record,
    ) -> Next {
        record.head(answer.status, answer.grpc, answer.grpc_status);
        upload.forget(&mut self.wire);
        if answer.after == After::Upgrade {
            return self.tunnel(upstream, record).await;
        }
        let framing = render::body_of(answer.framing, facts.to_head);
        let old_chunked = framing == Framing::Chunked && !facts.one_one;
        let mut body = Body::new(framing);
        let mut sent = 0;
        let end = if old_chunked {
            self.unchunk(&mut upstream, &mut body, &mut sent).await
        } else {
            self.relay(&mut upstream, &mut body, &mut upload, &mut sent).await
        };
        match end {
            Ok(()) => {
                record.complete();
                let reusable = answer.keep_alive && upload.is_sent() && framing != Framing::UntilClose;
                if reusable && upstream.unread().is_empty() {
                    self.flow.worker.pool.put(origin, upstream, Instant::now());
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
                self.failed(record, Failure::Malformed, facts).await
            }
            Err(Broken::Source | Broken::Malformed(_)) => {
                upstream.fail();
                record.upstream_failed();
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
            if time.poll(cx).is_ready() {
                return Poll::Ready(Err(Broken::Source));
            }
            if upload.is_sent() {
                // The only sign of a client that left while the endpoint has nothing to say.
                if upload.client_is_gone(wire, cx) {
                    return Poll::Ready(Err(Broken::Sink));
                }
            } else if let Poll::Ready(Err(Broken::Source)) = upload.poll_rest(wire, upstream, &mut time.moved, cx) {
                return Poll::Ready(Err(Broken::Sink));
            }
            Poll::Pending
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
        let end = crate::tcp::join(&mut self.wire, &mut upstream, &self.out).await;
        tracing::debug!(?end, "upgraded connection ended");
        record.complete();
        Next::Gone
    }
}
