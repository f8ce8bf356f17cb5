//! One HTTP/2 request of a client.
//!
//! Enters: a stream with its head. Leaves: its response. Finds the route as HTTP/1 does; the rest is up to `upstream`.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};

use super::server::Session;
use super::upstream::{Client, End, Exchange};
use crate::access_log::Entry;
use crate::config::route::edit::{Editable, Fields};
use crate::config::route::matching;
use crate::http::filters::mirror::Copies;
use crate::http::filters::{self, Verdict};
use crate::http::headers;
use crate::http::lifetime::Lifetime;
use crate::http::message::Source;
use crate::http::record::Record;
use crate::http::reply::{MALFORMED, Reply};

/// As access logs name the protocol.
const TWO: &str = "HTTP/2";

/// Serves one request.
pub async fn serve(session: &Session, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let flow = &session.flow;
    let active = flow.worker.active();
    let (http, stats) = session.follow(&active);
    let secure = session.secure;
    let muted = flow.from_host && headers::is_probe(request.headers());
    let mut record = Record::new(flow, &stats, muted);
    let (mut parts, body) = request.into_parts();
    let grpc = headers::is_grpc(&parts.headers);
    let local = |record: &mut Record, respond: &mut SendResponse<Bytes>, reply: Reply| {
        let reply = if grpc { reply.in_grpc() } else { reply };
        record.reply(&reply);
        answer(respond, &reply);
    };
    let mut refuse = |mut record: Record, why: &'static str| {
        if http.access_log && record.is_open() {
            record.log(Entry::unread(TWO));
        }
        record.flag(MALFORMED);
        local(&mut record, &mut respond, Reply::new(400, why));
    };
    let authority = match authority(&parts.uri, &parts.headers) {
        Ok(_) if parts.method == Method::CONNECT => {
            return refuse(record, "CONNECT is not supported");
        }
        Ok(authority) => authority,
        Err(why) => return refuse(record, why),
    };
    parts.headers.remove(header::HOST);
    headers::add_request_headers(&mut parts.headers, http.generate_request_id, secure);
    let mut head = Head {
        parts: &mut parts,
        authority,
        target: None,
        secure,
    };
    let decision = filters::decide(&mut head, &active, &http, flow, secure, &mut record);
    let (authority, target) = (head.authority, head.target);
    let mut time = Lifetime::new(&flow.worker);
    let mut begun = record.started();
    if let Some(delay) = decision.delay {
        time.limit(Some(begun + delay));
        let gone = poll_fn(|cx| match respond.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending => time.poll(cx).map(|()| false),
        });
        if gone.await {
            return;
        }
        begun = Instant::now();
    }
    let forward = match decision.verdict {
        Verdict::Reply(reply) => return local(&mut record, &mut respond, reply),
        Verdict::Unanswered(why) => return answer(&mut respond, &why.reply(&mut record, grpc)),
        Verdict::Forward(forward) => forward,
    };
    let plain = parts.uri.authority().is_some_and(|a| a.as_str() == authority)
        && parts.uri.scheme() == Some(&Scheme::HTTP)
        && !parts.uri.path().is_empty();
    if !plain || target.is_some() {
        match whole_uri(&parts.uri, &authority, target) {
            Ok(uri) => parts.uri = uri,
            Err(why) => return local(&mut record, &mut respond, Reply::new(400, why)),
        }
    }
    let (route, shaping) = (forward.forward, decision.shaping);
    time.limit_request(route.timeout, route.stall(&http), begun);
    if let Some(longest) = decision.longest {
        time.limit_call(record.started() + longest);
    }
    let source = match body.is_end_stream() {
        true => Source::Empty,
        false => Source::H2(body),
    };
    let source = match Copies::draw(&active, &http, route) {
        None => source,
        Some(copies) => source.copied(|make| copies.send(flow, &active, &record, (&parts, &authority), make)),
    };
    let source = if route.retry.limit > 0 { source.keep() } else { source };
    let exchange = Exchange {
        flow,
        parts,
        authority,
        body: Some(source),
        client: Client::H2(respond),
        time: &mut time,
        record: &mut record,
        cookie: None,
        shaping,
    };
    let (end, client) = exchange.run(&active, forward).await;
    let Client::H2(mut respond) = client else { return };
    match end {
        End::Complete { .. } => {}
        End::Broken => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        End::Unanswered(why) => answer(&mut respond, &time.why(why).reply(&mut record, grpc)),
    }
}

/// The head of a request, while it may be changed.
struct Head<'a> {
    parts: &'a mut http::request::Parts,
    authority: String,
    /// A new path and query.
    target: Option<PathAndQuery>,
    secure: bool,
}

impl matching::Head for Head<'_> {
    fn method(&self) -> &str {
        self.parts.method.as_str()
    }

    fn target(&self) -> &str {
        let target = self.target.as_ref().or(self.parts.uri.path_and_query());
        target.map_or("/", PathAndQuery::as_str)
    }

    fn host(&self) -> &str {
        &self.authority
    }

    fn scheme(&self) -> &str {
        let said = self.parts.uri.scheme_str();
        said.unwrap_or(headers::scheme(self.secure))
    }

    fn values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        let values = self.parts.headers.get_all(name).iter();
        values.for_each(|value| see(value.as_bytes()));
    }
}

impl Fields for Head<'_> {
    fn has(&self, name: &HeaderName) -> bool {
        self.parts.headers.has(name)
    }

    fn remove(&mut self, name: &HeaderName) {
        Fields::remove(&mut self.parts.headers, name);
    }

    fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        Fields::append(&mut self.parts.headers, name, value);
    }
}

impl Editable for Head<'_> {
    fn set_target(&mut self, target: String) {
        // A path that is none leaves the request as it was.
        if let Ok(target) = PathAndQuery::try_from(target) {
            self.target = Some(target);
        }
    }

    fn set_host(&mut self, host: &str) {
        host.clone_into(&mut self.authority);
    }

    fn settle(&mut self, _request_id: bool) {}

    fn protocol(&self) -> &'static str {
        TWO
    }
}

/// The target with all its parts, as the client of the HTTP/2 library wants it.
fn whole_uri(uri: &Uri, authority: &str, target: Option<PathAndQuery>) -> Result<Uri, &'static str> {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.parse().map_err(|_| "a bad :authority")?);
    if let Some(target) = target {
        parts.path_and_query = Some(target);
    } else if uri.path().is_empty() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    Uri::from_parts(parts).map_err(|_| "a bad :path")
}

/// The host that a request is for (RFC 9113, 8.3.1).
fn authority(uri: &Uri, headers: &HeaderMap) -> Result<String, &'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("more than one Host");
    }
    let host = host.map(HeaderValue::to_str).transpose().map_err(|_| "a bad Host")?;
    match (uri.authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err(":authority and Host differ")
        }
        (Some(authority), _) if authority.as_str().contains('@') => Err("a user in :authority"),
        (Some(authority), _) => Ok(authority.as_str().to_owned()),
        (None, Some(host)) => Ok(host.to_owned()),
        (None, None) => Err("neither :authority nor Host"),
    }
}

fn answer(respond: &mut SendResponse<Bytes>, reply: &Reply) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in &reply.fields {
        headers.append(name.clone(), value.clone());
    }
    // Errors mean that the client is gone.
    if let Ok(mut stream) = respond.send_response(response, reply.body.is_empty())
        && !reply.body.is_empty()
    {
        let _ = stream.send_data(reply.body.clone(), true);
    }
}
