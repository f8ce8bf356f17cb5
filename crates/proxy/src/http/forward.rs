//! From a routed request to a response: endpoints are chosen, tried, and tried again as far as that is safe.
//!
//! Enters: a request and its route. Leaves: the response, or one made here that says what failed.
//!
//! What is tried again, and when:
//! - No connection to an endpoint: nothing was sent, so any request may be tried again, elsewhere where there is an elsewhere.
//! - A kept connection turns out closed before a byte of the response came. If the request was not written at all, any
//!   request is sent again; else only one that may be executed twice (RFC 9110, 9.2.2). Neither counts as a try of its own.
//! - What the route's retry policy says, if the body is still there.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, request};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::body::{RequestBody, ResponseBody, Watched};
use super::exchange::{local, plain};
use super::headers;
use super::pool::{Lease, Origin};
use super::record::Record;
use crate::config::route::Forward;
use crate::config::{Active, Cluster, ClusterStats, Endpoint, EndpointSource};
use crate::flow::Flow;

/// Bodies up to this size are read whole before they are sent, and can then be sent again.
const REPLAY_BYTES_MAX: u64 = 64 * 1024;
/// Kept connections that may turn out closed in a row before a new one is made.
const STALE_MAX: u32 = 2;
/// Wait before a second try at the only endpoint; doubled each time.
const BACK_OFF: Duration = Duration::from_millis(25);
/// The longest such wait.
const BACK_OFF_MAX: Duration = Duration::from_millis(250);

/// A request ready to be sent.
pub struct Outgoing {
    /// Without what belongs to the downstream connection.
    pub head: request::Parts,
    /// As it comes from the client.
    pub body: Incoming,
    /// Its length is not known in advance.
    pub chunked: bool,
    /// The client asks for another protocol.
    pub upgrade: Option<OnUpgrade>,
}

/// Why a try brought no response.
enum Failure {
    /// No connection.
    Connect,
    /// The connection broke; nothing of the request was written.
    Unsent,
    /// The connection broke before the response.
    Reset,
}

/// The body while it may still be sent.
enum Remaining {
    Whole(Option<Bytes>),
    Stream(Option<Incoming>),
}

impl Remaining {
    fn take(&mut self) -> Option<RequestBody> {
        match self {
            Self::Whole(bytes) => Some(RequestBody::Whole(bytes.clone())),
            Self::Stream(body) => body.take().map(RequestBody::Stream),
        }
    }

    fn is_there(&self) -> bool {
        !matches!(self, Self::Stream(None))
    }
}

/// Forwards a request.
pub async fn forward(
    flow: &Rc<Flow>,
    active: &Active,
    route: &Forward,
    request: Outgoing,
    mut record: Record,
) -> Response<ResponseBody> {
    let Some(cluster) = active.clusters.get(&route.cluster) else {
        return local(&mut record, StatusCode::SERVICE_UNAVAILABLE, Bytes::new());
    };
    let deadline = route.timeout.map(|limit| Instant::from_std(record.started() + limit));
    let upgrade = request.upgrade;
    let method = request.head.method.clone();
    let mut tries = Tries {
        flow,
        active,
        cluster,
        route,
        head: request.head,
        chunked: request.chunked,
    };
    let work = async {
        let body = read_small(request.body, request.chunked).await?;
        Ok::<_, hyper::Error>(tries.run(body, &mut record).await)
    };
    let outcome = match deadline {
        None => work.await,
        Some(deadline) => match tokio::time::timeout_at(deadline, work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                record.head(504, false, None);
                record.upstream_failed();
                return plain(
                    StatusCode::GATEWAY_TIMEOUT,
                    Bytes::from_static(b"upstream request timeout"),
                );
            }
        },
    };
    match outcome {
        // The client broke off within its body: there is nobody to answer.
        Err(_) => plain(StatusCode::BAD_REQUEST, Bytes::new()),
        Ok(None) => {
            let text = Bytes::from_static(b"no healthy upstream");
            local(&mut record, StatusCode::SERVICE_UNAVAILABLE, text)
        }
        Ok(Some(Err(failure))) => {
            record.head(503, false, None);
            record.upstream_failed();
            plain(StatusCode::SERVICE_UNAVAILABLE, reason(&failure))
        }
        Ok(Some(Ok((response, lease)))) => answer(
            response,
            lease,
            record,
            deadline,
            upgrade.filter(|_| method == Method::GET),
        ),
    }
}

fn reason(failure: &Failure) -> Bytes {
    Bytes::from_static(match failure {
        Failure::Connect => {
            b"upstream connect error or disconnect/reset before headers. reset reason: connection failure"
        }
        Failure::Unsent | Failure::Reset => {
            b"upstream connect error or disconnect/reset before headers. reset reason: connection termination"
        }
    })
}

/// Small bodies of known length are read whole, so that they can be sent again.
async fn read_small(body: Incoming, chunked: bool) -> Result<Remaining, hyper::Error> {
    if body.is_end_stream() {
        return Ok(Remaining::Whole(None));
    }
    if chunked || body.size_hint().exact().is_none_or(|length| length > REPLAY_BYTES_MAX) {
        return Ok(Remaining::Stream(Some(body)));
    }
    let bytes = body.collect().await?.to_bytes();
    Ok(Remaining::Whole(Some(bytes)))
}

/// Everything about a request that stays the same over its tries.
struct Tries<'a> {
    flow: &'a Rc<Flow>,
    active: &'a Active,
    cluster: &'a Arc<Cluster>,
    route: &'a Forward,
    head: request::Parts,
    chunked: bool,
}

type Answer = (Response<Incoming>, Lease);

impl Tries<'_> {
    /// `None`: there is no endpoint.
    async fn run(&mut self, mut body: Remaining, record: &mut Record) -> Option<Result<Answer, Failure>> {
        let policy = &self.route.retry;
        let mut failed: Vec<SocketAddr> = Vec::new();
        let mut left = policy.limit;
        loop {
            let endpoint = self.choose(&failed)?;
            record.attempt(&endpoint.peer);
            ClusterStats::add(&self.cluster.stats.rq_total);
            let outcome = self.try_endpoint(&endpoint, &mut body).await;
            let again = match &outcome {
                Err(Failure::Connect) => policy.on.connect_failure,
                Err(Failure::Unsent) => policy.on.reset_before_request,
                Err(Failure::Reset) => policy.on.reset,
                Ok((response, _)) => policy.on.status(response.status()),
            };
            if !again || left == 0 || !body.is_there() {
                return Some(outcome);
            }
            left -= 1;
            ClusterStats::add(&self.cluster.stats.rq_retry);
            let alone = self.cluster.endpoints.iter().all(|e| e.address == endpoint.address);
            if alone {
                let doubled = BACK_OFF * 2u32.saturating_pow(failed.len().try_into().unwrap_or(u32::MAX));
                tokio::time::sleep(doubled.min(BACK_OFF_MAX)).await;
            }
            failed.push(endpoint.address);
        }
    }

    fn choose(&self, failed: &[SocketAddr]) -> Option<Endpoint> {
        match self.cluster.spec.source {
            EndpointSource::OriginalDst => self.flow.original_endpoint(self.active),
            _ => self.flow.worker.choose(self.cluster, failed),
        }
    }

    /// One try, over a kept connection or a new one.
    async fn try_endpoint(&self, endpoint: &Endpoint, body: &mut Remaining) -> Result<Answer, Failure> {
        let worker = &self.flow.worker;
        let origin = Origin {
            address: endpoint.address,
            mark: self.cluster.spec.mark,
            original: matches!(self.cluster.spec.source, EndpointSource::OriginalDst),
        };
        let mut stale = 0;
        loop {
            let kept = if stale < STALE_MAX {
                worker.pool.take(origin)
            } else {
                None
            };
            let lease = match kept {
                Some(lease) => lease,
                None => {
                    let target = self.flow.upstream_target(&endpoint.peer);
                    let limit = self.cluster.spec.connect_timeout;
                    let connected = worker.pool.connect(origin, limit, target).await;
                    ClusterStats::add(match &connected {
                        Ok(_) => &self.cluster.stats.cx_total,
                        Err(_) => &self.cluster.stats.cx_connect_fail,
                    });
                    connected.map_err(|_| Failure::Connect)?
                }
            };
            let reused = lease.reused;
            match self.send(lease, body).await {
                Err(Failure::Unsent) if reused && body.is_there() => stale += 1,
                Err(Failure::Reset) if reused && body.is_there() && self.head.method.is_idempotent() => stale += 1,
                outcome => return outcome,
            }
        }
    }

    async fn send(&self, mut lease: Lease, body: &mut Remaining) -> Result<Answer, Failure> {
        let Some(content) = body.take() else {
            return Err(Failure::Reset);
        };
        let mut request = Request::from_parts(self.head.clone(), content);
        if self.chunked {
            // Said openly: for some methods the client below would else assume that there is no body.
            request
                .headers_mut()
                .insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        match lease.sender.try_send_request(request).await {
            Ok(response) => Ok((response, lease)),
            Err(mut error) => match error.take_message().map(Request::into_body) {
                None => Err(Failure::Reset),
                Some(unsent) => {
                    if let (Remaining::Stream(place), RequestBody::Stream(stream)) = (body, unsent) {
                        *place = Some(stream);
                    }
                    Err(Failure::Unsent)
                }
            },
        }
    }
}

/// The response as it goes to the client.
fn answer(
    mut response: Response<Incoming>,
    lease: Lease,
    mut record: Record,
    deadline: Option<Instant>,
    upgrade: Option<OnUpgrade>,
) -> Response<ResponseBody> {
    let status = response.status();
    let grpc = headers::is_grpc(response.headers());
    record.head(status.as_u16(), grpc, headers::grpc_status(response.headers()));
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    if let (true, Some(downstream)) = (switching, upgrade) {
        let upstream = hyper::upgrade::on(&mut response);
        tokio::task::spawn_local(super::tunnel(downstream, upstream, record));
        let (mut head, _) = response.into_parts();
        headers::remove_hop_by_hop(&mut head.headers);
        headers::set_websocket(&mut head.headers);
        return Response::from_parts(head, ResponseBody::Local(None));
    }
    if switching {
        // Nobody asked for it.
        record.upstream_failed();
        return plain(StatusCode::BAD_GATEWAY, Bytes::new());
    }
    let (mut head, incoming) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    let sleep = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
    Response::from_parts(
        head,
        ResponseBody::Upstream(Box::new(Watched::new(incoming, record, lease, sleep))),
    )
}
