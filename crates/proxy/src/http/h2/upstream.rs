//! A request whose body is taken out of its framing on the way: HTTP/2 on at least one side, or a copy of what cannot be kept.
//!
//! Enters: a head, a source of the body, a client of either version, a route. Leaves: the response on the client's side, a
//! complete record. Else, where both sides speak HTTP/1, nothing of this is used.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::{HeaderValue, SET_COOKIE};
use http::{HeaderMap, Method, Request, Response, request};

use super::pool::Handle;
use crate::config::{Active, Cluster, ClusterStats, Endpoint, Protocol};
use crate::flow::Flow;
use crate::http::affinity::{self, Affinity};
use crate::http::attempts::{Attempts, Failure, Target};
use crate::http::filters::Shaping;
use crate::http::h1::body::{Body, Broken};
use crate::http::h1::head::{self, Framing};
use crate::http::h1::pool::Origin;
use crate::http::h1::render::{self, After};
use crate::http::h1::send::find_head;
use crate::http::headers;
use crate::http::lifetime::Lifetime;
use crate::http::message::{Pump, SharedWire, Sink, Source, Writing};
use crate::http::record::Record;
use crate::http::reply::Unanswered;
use crate::http::translate;

/// Kept connections that may turn out closed in a row before a new one is made.
const STALE_MAX: u32 = 2;

/// Who is answered.
pub enum Client<'w> {
    /// A stream, as long as its head is not sent.
    H2(SendResponse<Bytes>),
    /// A connection.
    H1 {
        /// Shared with the source of the request's body.
        wire: &'w SharedWire<'w>,
        /// It knows chunks.
        one_one: bool,
        /// What the connection does afterwards.
        after: After,
        /// The date of now.
        date: Vec<u8>,
    },
    /// Nobody: this is a copy of a request.
    Nobody {
        /// Of one that came over HTTP/2.
        two: bool,
    },
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a whole response.
    Complete {
        /// The whole request was read too.
        request_read: bool,
    },
    /// Nothing was answered: this is why.
    Unanswered(Unanswered),
    /// Half a response was sent, or nobody is there.
    Broken,
}

/// A request on its way.
pub struct Exchange<'a, 'w> {
    /// Of its connection.
    pub flow: &'a Rc<Flow>,
    /// The head.
    pub parts: request::Parts,
    /// The host that it is for.
    pub authority: String,
    /// The body, until it was begun to be sent.
    pub body: Option<Source<'w>>,
    /// Who waits.
    pub client: Client<'w>,
    /// Its time.
    pub time: &'a mut Lifetime,
    /// What is counted.
    pub record: &'a mut Record,
    /// A cookie that the response sets.
    pub cookie: Option<HeaderValue>,
    /// What is done to the response.
    pub shaping: Shaping<'a>,
}

/// How one try ended.
enum Try {
    End(End),
    /// The endpoint is at fault, and nothing was answered.
    Failed(Failure),
    /// The response is thrown away.
    Again(Duration),
}

impl<'w> Exchange<'_, 'w> {
    /// Tries endpoints until there is a response, and passes it on.
    /// Returns the client for what could not be said here.
    pub async fn run(mut self, active: &Active, target: Target<'_>) -> (End, Client<'w>) {
        let end = self.tries(active, target).await;
        (end, self.client)
    }

    async fn tries(&mut self, active: &Active, target: Target<'_>) -> End {
        let cluster = target.cluster;
        let flow = Rc::clone(self.flow);
        let affinity = match target.forward.hash.is_empty() {
            true => Affinity::default(),
            false => {
                let headers = || self.parts.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes()));
                affinity::of(target, &flow, headers)
            }
        };
        self.cookie = affinity.cookie.and_then(|cookie| cookie.try_into().ok());
        let mut attempts = Attempts::new(&flow, active, target, affinity.hash);
        loop {
            let Some(endpoint) = attempts.next(self.record) else {
                return End::Unanswered(Unanswered::NoEndpoint);
            };
            let two = match cluster.spec.protocol {
                Protocol::Http1 => false,
                Protocol::Http2 => true,
                Protocol::Downstream => matches!(self.client, Client::H2(_) | Client::Nobody { two: true }),
            };
            self.time.limit_try(attempts.time());
            let outcome = match two {
                true => self.over_h2(cluster, &endpoint, &mut attempts).await,
                false => self.over_h1(cluster, &endpoint, &mut attempts).await,
            };
            let outcome = match outcome {
                Try::End(End::Unanswered(Unanswered::Late)) if self.time.is_try_over() => {
                    ClusterStats::add(&cluster.stats.rq_per_try_timeout);
                    Try::Failed(Failure::Timeout)
                }
                Try::End(late @ End::Unanswered(Unanswered::Late)) => {
                    if !self.time.is_past_call() {
                        attempts.timed_out(self.record);
                    }
                    return late;
                }
                outcome => outcome,
            };
            self.time.limit_try(None);
            let wait = match outcome {
                Try::End(end) => return end,
                Try::Again(wait) => wait,
                Try::Failed(failure) => {
                    let body = self.has_body();
                    match attempts.after_failure(&endpoint, failure, body, self.record) {
                        None => return End::Unanswered(Unanswered::Failed(failure)),
                        Some(wait) => wait,
                    }
                }
            };
            if !wait.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = poll_fn(|cx| self.time.poll(cx)) => return End::Unanswered(Unanswered::Late),
                }
            }
        }
    }

    /// The body for one try. One that is whole stays for the next.
    fn take_body(&mut self) -> Source<'w> {
        match self.body.as_ref().map(Source::again) {
            None => Source::Empty,
            Some(Some(again)) => again,
            Some(None) => self.body.take().unwrap_or(Source::Empty),
        }
    }

    /// The body was not begun, or can be sent again.
    fn has_body(&self) -> bool {
        match &self.body {
            None => false,
            Some(kept @ Source::Kept(..)) => kept.again().is_some(),
            Some(_) => true,
        }
    }

    async fn over_h2(&mut self, cluster: &Arc<Cluster>, endpoint: &Endpoint, attempts: &mut Attempts<'_>) -> Try {
        let origin = Origin::new(cluster, endpoint.address);
        let mut stale = 0;
        loop {
            let flow = Rc::clone(self.flow);
            let slot = || flow.upstream_slot(&endpoint.peer, &cluster.spec.telemetry);
            let mut taking = std::pin::pin!(flow.worker.streams.take(&flow.worker, cluster, origin, slot));
            let handle = poll_fn(|cx| match taking.as_mut().poll(cx) {
                Poll::Ready(outcome) => Poll::Ready(outcome.map_err(Try::Failed)),
                Poll::Pending if self.client_is_gone(cx) => Poll::Ready(Err(Try::End(End::Broken))),
                Poll::Pending => self
                    .time
                    .poll(cx)
                    .map(|()| Err(Try::End(End::Unanswered(Unanswered::Late)))),
            });
            let handle = match handle.await {
                Ok(handle) => handle,
                Err(end) => return end,
            };
            if let Err(overflow) = attempts.admit(endpoint, self.record) {
                return Try::Failed(overflow);
            }
            match self.stream(handle, endpoint, attempts).await {
                // The endpoint closed the connection without having seen this stream (RFC 9113, 8.7).
                Try::Failed(Failure::Unsent | Failure::Refused) if stale < STALE_MAX && self.has_body() => stale += 1,
                outcome => return outcome,
            }
        }
    }

    /// One try on a stream of its own.
    async fn stream(&mut self, mut handle: Handle, endpoint: &Endpoint, attempts: &mut Attempts<'_>) -> Try {
        let ended = self.body.as_ref().is_none_or(Source::is_end);
        let mut request = Request::new(());
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.headers_mut() = self.parts.headers.clone();
        let (mut response, stream) = match handle.sender.send_request(request, ended) {
            Ok(begun) => begun,
            Err(_) => return Try::Failed(Failure::Unsent),
        };
        let mut up = Pump::new(self.take_body(), Sink::H2(stream), Vec::new(), ended);
        let outcome = poll_fn(|cx| {
            if let Some(end) = self.poll_up(&mut up, cx) {
                return Poll::Ready(Err(end));
            }
            while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
                self.inform(interim);
            }
            match Pin::new(&mut response).poll(cx) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(Try::Failed(failure(&error)))),
                Poll::Pending if self.client_is_gone(cx) => Poll::Ready(Err(Try::End(End::Broken))),
                Poll::Pending => self
                    .time
                    .poll(cx)
                    .map(|()| Err(Try::End(End::Unanswered(Unanswered::Late)))),
            }
        });
        let response = match outcome.await {
            Ok(response) => response,
            Err(end) => {
                self.record.received(|| up.bytes);
                up.reset(h2::Reason::CANCEL);
                if matches!(end, Try::Failed(Failure::Unsent | Failure::Refused)) && !self.has_body() {
                    // Nothing of it was taken where the endpoint did not even see the stream.
                    return Try::Failed(Failure::Reset);
                }
                return end;
            }
        };
        let (head, body) = response.into_parts();
        self.time.limit_try(None);
        let status = (head.status.as_u16(), headers::grpc_status(&head.headers));
        if let Some(wait) = attempts.after_answer(endpoint, status, self.has_body(), self.record) {
            return Try::Again(wait);
        }
        let source = if body.is_end_stream() {
            Source::Empty
        } else {
            Source::H2(body)
        };
        let length = translate::content_length(&head.headers).map_or(Framing::UntilClose, Framing::Length);
        Try::End(
            self.respond(head.status.as_u16(), head.headers, source, length, up)
                .await,
        )
    }

    async fn over_h1(&mut self, cluster: &Arc<Cluster>, endpoint: &Endpoint, attempts: &mut Attempts<'_>) -> Try {
        let origin = Origin::new(cluster, endpoint.address);
        let worker = Rc::clone(&self.flow.worker);
        let mut stale = 0;
        loop {
            let kept = match stale < STALE_MAX {
                true => poll_fn(|cx| Poll::Ready(worker.pool.take(cx, cluster, &origin))).await,
                false => None,
            };
            let (mut upstream, reused) = match kept {
                Some(wire) => (wire, true),
                None => {
                    let flow = Rc::clone(self.flow);
                    let slot = || flow.upstream_slot(&endpoint.peer, &cluster.spec.telemetry);
                    let mut connecting = Box::pin(worker.pool.obtain(&worker, cluster, &origin, slot));
                    let connected = poll_fn(|cx| match connecting.as_mut().poll(cx) {
                        Poll::Ready(outcome) => Poll::Ready(outcome.map_err(Try::Failed)),
                        Poll::Pending if self.client_is_gone(cx) => Poll::Ready(Err(Try::End(End::Broken))),
                        Poll::Pending => self
                            .time
                            .poll(cx)
                            .map(|()| Err(Try::End(End::Unanswered(Unanswered::Late)))),
                    });
                    match connected.await {
                        Ok(wire) => wire,
                        Err(end) => return end,
                    }
                }
            };
            if let Err(overflow) = attempts.admit(endpoint, self.record) {
                worker.pool.put(cluster, origin, upstream, std::time::Instant::now());
                return Try::Failed(overflow);
            }
            let shared = RefCell::new(&mut upstream);
            let (outcome, keep) = message(self, &shared, endpoint, attempts).await;
            let idempotent = self.parts.method.is_idempotent();
            match outcome {
                Try::Failed(Failure::Reset) if reused && idempotent && self.has_body() => stale += 1,
                outcome => {
                    if keep && upstream.unread().is_empty() {
                        worker.pool.put(cluster, origin, upstream, std::time::Instant::now());
                    } else if !keep {
                        upstream.fail();
                    }
                    return outcome;
                }
            }
        }
    }

    /// Sends on. `Some`: there is no point in going on.
    fn poll_up(&mut self, up: &mut Pump<'_, '_>, cx: &mut Context<'_>) -> Option<Try> {
        if up.is_done() {
            return None;
        }
        match up.poll(&mut self.time.moved, cx) {
            Poll::Ready(Err(Broken::Source | Broken::Malformed(_))) => Some(Try::End(End::Broken)),
            // An endpoint that wants no more of it may still answer.
            Poll::Ready(Ok(()) | Err(Broken::Sink)) | Poll::Pending => None,
        }
    }

    /// Whether the client went away before there is anything to tell it.
    fn client_is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.client {
            Client::Nobody { .. } => false,
            Client::H2(respond) => respond.poll_reset(cx).is_ready(),
            Client::H1 { wire, .. } => {
                let mut wire = wire.borrow_mut();
                // Bytes that are there belong to the body or to the next request.
                wire.unread().is_empty() && matches!(wire.poll_more(cx), Poll::Ready(Ok(0) | Err(_)))
            }
        }
    }

    /// Passes an interim response on, where the client can take it without waiting.
    fn inform(&mut self, interim: Response<()>) {
        if let Client::H2(respond) = &mut self.client {
            // Whoever does not get it loses nothing but time.
            let _ = respond.send_informational(interim);
        }
    }

    /// Passes a response on.
    async fn respond(
        &mut self,
        status: u16,
        headers: HeaderMap,
        source: Source<'_>,
        framing: Framing,
        mut up: Pump<'_, '_>,
    ) -> End {
        let grpc = headers::is_grpc(&headers);
        self.record.answered(status, grpc, headers::grpc_status(&headers));
        let to_head = self.parts.method == Method::HEAD;
        let bodiless = to_head || matches!(status, 204 | 304) || source.is_end();
        let mut headers = headers;
        self.shaping.apply(&mut headers);
        let Some((sink, head)) = self.start(status, headers, framing, bodiless) else {
            return End::Broken;
        };
        let mut down = Pump::new(source, sink, head, bodiless);
        down.limit(self.shaping.rate);
        let outcome = poll_fn(|cx| {
            match down.poll(&mut self.time.moved, cx) {
                Poll::Pending => {}
                ended => return ended,
            }
            if !up.is_done() {
                if matches!(up.poll(&mut self.time.moved, cx), Poll::Ready(Err(Broken::Source))) {
                    return Poll::Ready(Err(Broken::Sink));
                }
            } else if matches!(self.client, Client::H1 { .. }) && self.client_is_gone(cx) {
                // The only sign of a client that left while the endpoint has nothing to say. A stream's reset is seen
                // by whoever writes to it.
                return Poll::Ready(Err(Broken::Sink));
            }
            self.time.poll(cx).map(|()| Err(Broken::Source))
        })
        .await;
        self.record.received(|| up.bytes);
        self.record.sent(|| down.bytes);
        match outcome {
            Ok(()) => {
                self.record
                    .trailers(down.trailers.as_ref().and_then(headers::grpc_status));
                self.record.complete();
                let request_read = up.is_done();
                if !request_read {
                    // The endpoint has said all it has to say.
                    up.reset(h2::Reason::NO_ERROR);
                }
                End::Complete { request_read }
            }
            Err(Broken::Sink) => {
                up.reset(h2::Reason::CANCEL);
                End::Broken
            }
            Err(Broken::Source | Broken::Malformed(_)) => {
                up.reset(h2::Reason::CANCEL);
                down.reset(h2::Reason::INTERNAL_ERROR);
                self.record.broken(self.time);
                End::Broken
            }
        }
    }

    /// Sends the head of a response, or renders it. `None`: nobody takes it.
    fn start(
        &mut self,
        status: u16,
        mut headers: HeaderMap,
        framing: Framing,
        bodiless: bool,
    ) -> Option<(Sink<'w>, Vec<u8>)> {
        if let Some(cookie) = self.cookie.take() {
            headers.append(SET_COOKIE, cookie);
        }
        match &mut self.client {
            Client::Nobody { .. } => Some((Sink::Nowhere, Vec::new())),
            Client::H2(respond) => {
                let mut response = Response::new(());
                *response.status_mut() = http::StatusCode::from_u16(status).ok()?;
                *response.headers_mut() = headers;
                let stream = respond.send_response(response, bodiless).ok()?;
                Some((Sink::H2(stream), Vec::new()))
            }
            Client::H1 {
                wire,
                one_one,
                after,
                date,
            } => {
                headers::remove_hop_by_hop(&mut headers);
                let sized = bodiless || matches!(framing, Framing::Length(_));
                let (writing, framing_line): (_, &[u8]) = match (sized, *one_one) {
                    (true, _) => (Writing::Plain, b""),
                    (false, true) => (Writing::Chunked, b"transfer-encoding: chunked\r\n"),
                    (false, false) => {
                        *after = After::Close;
                        (Writing::Plain, b"")
                    }
                };
                let mut head = Vec::with_capacity(512);
                let reason = http::StatusCode::from_u16(status)
                    .ok()?
                    .canonical_reason()
                    .unwrap_or_default();
                render::status_line(&mut head, status, reason.as_bytes());
                if !headers.contains_key(http::header::DATE) {
                    render::field(&mut head, "date", date);
                }
                translate::render_fields(&mut head, &headers);
                head.extend_from_slice(framing_line);
                if bodiless
                    && self.parts.method != Method::HEAD
                    && !matches!(status, 204 | 304)
                    && !headers.contains_key(http::header::CONTENT_LENGTH)
                {
                    head.extend_from_slice(b"content-length: 0\r\n");
                }
                render::connection(&mut head, *after);
                head.extend_from_slice(b"\r\n");
                Some((Sink::H1(wire, writing), head))
            }
        }
    }
}

/// One try as an HTTP/1 message; the flag says that the connection may carry another one. The connection's borrow must
/// not outlive this, so it is no method of the exchange, whose own borrow does.
async fn message<'s>(
    exchange: &mut Exchange<'_, '_>,
    shared: &'s SharedWire<'s>,
    endpoint: &Endpoint,
    attempts: &mut Attempts<'_>,
) -> (Try, bool) {
    let ended = exchange.body.as_ref().is_none_or(Source::is_end);
    let (framing, writing) = match (ended, translate::content_length(&exchange.parts.headers)) {
        (true, _) => (Framing::Empty, Writing::Plain),
        (false, Some(length)) => (Framing::Length(length), Writing::Plain),
        (false, None) => (Framing::Chunked, Writing::Chunked),
    };
    let mut head_bytes = Vec::with_capacity(512);
    translate::render_request(&mut head_bytes, &exchange.parts, &exchange.authority, framing);
    let source = exchange.take_body();
    let mut up = Pump::new(source, Sink::H1(shared, writing), head_bytes, ended);
    let mut searched = 0;
    let outcome = poll_fn(|cx| {
        loop {
            if let Some(end) = exchange.poll_up(&mut up, cx) {
                return Poll::Ready(Err(end));
            }
            let mut wire = shared.borrow_mut();
            match find_head(&mut wire, &mut searched, cx) {
                Poll::Ready(Ok((skip, end))) => {
                    wire.consume(skip);
                    let read = read_head(&wire.unread()[..end - skip]);
                    wire.consume(end - skip);
                    match read {
                        Err(_) => return Poll::Ready(Err(Try::Failed(Failure::Malformed))),
                        Ok((status, ..)) if status < 200 => searched = 0,
                        Ok(read) => return Poll::Ready(Ok(read)),
                    }
                }
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(Try::Failed(failure))),
                Poll::Pending => {
                    drop(wire);
                    if exchange.client_is_gone(cx) {
                        return Poll::Ready(Err(Try::End(End::Broken)));
                    }
                    return exchange
                        .time
                        .poll(cx)
                        .map(|()| Err(Try::End(End::Unanswered(Unanswered::Late))));
                }
            }
        }
    });
    let (status, headers, framing, keep_alive) = match outcome.await {
        Ok(read) => read,
        Err(end) => {
            exchange.record.received(|| up.bytes);
            return (end, false);
        }
    };
    exchange.time.limit_try(None);
    let outcome = (status, headers::grpc_status(&headers));
    if let Some(wait) = attempts.after_answer(endpoint, outcome, exchange.has_body(), exchange.record) {
        return (Try::Again(wait), false);
    }
    let framing = render::body_of(framing, exchange.parts.method == Method::HEAD);
    let source = match framing {
        Framing::Empty => Source::Empty,
        framing => Source::H1(shared, Body::new(framing), false),
    };
    let end = exchange.respond(status, headers, source, framing, up).await;
    let whole = matches!(end, End::Complete { request_read: true });
    (Try::End(end), whole && keep_alive && framing != Framing::UntilClose)
}

type Read = (u16, HeaderMap, Framing, bool);

fn read_head(bytes: &[u8]) -> Result<Read, head::Malformed> {
    let mut room = head::room();
    let response = head::response(bytes, &mut room)?;
    if response.status == 101 {
        return Err(head::Malformed::Syntax("nobody asked for another protocol"));
    }
    let headers = translate::fields(&response.headers)?;
    Ok((response.status, headers, response.framing, response.keep_alive))
}

/// What an error of an HTTP/2 stream means for another try.
fn failure(error: &h2::Error) -> Failure {
    if error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) && error.is_reset() {
        Failure::Refused
    } else if error.reason() == Some(h2::Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote()) {
        Failure::Unsent
    } else if error.is_io() || error.is_remote() {
        Failure::Reset
    } else {
        Failure::Malformed
    }
}
