//! One HTTP/2 request of a client.
//!
//! Enters: a stream with its head. Leaves: its response. Finds the route as HTTP/1 does; the rest is up to `upstream`.

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{self, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};

use super::server::Session;
use super::upstream::{Client, End, Exchange};
use crate::config::Action;
use crate::http::attempts::Target;
use crate::http::headers;
use crate::http::lifetime::Lifetime;
use crate::http::message::Source;
use crate::http::record::Record;
use crate::http::reply::{Reply, Unanswered};

/// Serves one request.
pub async fn serve(session: &Session, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let flow = &session.flow;
    let active = flow.worker.active();
    let (http, stats) = session.follow(&active);
    let muted = flow.from_host && headers::is_probe(request.headers());
    let mut record = Record::new(flow, &stats, muted);
    let (mut parts, body) = request.into_parts();
    let authority = match authority(&parts.uri, &parts.headers) {
        Ok(_) if parts.method == Method::CONNECT => {
            return local(&mut record, &mut respond, Reply::new(400, "CONNECT is not supported"));
        }
        Ok(authority) => authority,
        Err(why) => return local(&mut record, &mut respond, Reply::new(400, why)),
    };
    let table = active.table_of(&http);
    // The whole server, which an asterisk stands for, is where its root is.
    let path = match parts.uri.path() {
        "*" => "/",
        path => path,
    };
    let Some(found) = table.and_then(|table| table.find(&authority, path)) else {
        record.no_route();
        return local(&mut record, &mut respond, Reply::new(404, ""));
    };
    record.authority(found.authority.cloned());
    let forward = match &found.route.action {
        Action::Respond { status, body } => {
            record.direct_response();
            let reply = Reply::new(status.as_u16(), body.render(flow.destination));
            return local(&mut record, &mut respond, reply);
        }
        Action::Forward(forward) => forward,
    };
    parts.headers.remove(header::HOST);
    headers::add_request_headers(&mut parts.headers, http.generate_request_id);
    if parts.uri.authority().is_none() || parts.uri.scheme() != Some(&Scheme::HTTP) || parts.uri.path().is_empty() {
        match whole_uri(&parts.uri, &authority) {
            Ok(uri) => parts.uri = uri,
            Err(why) => return local(&mut record, &mut respond, Reply::new(400, why)),
        }
    }
    let Some(target) = Target::of(&active, forward) else {
        return answer(&mut respond, &Unanswered::NoCluster.reply(&mut record));
    };
    let mut time = Lifetime::new(&flow.worker);
    time.limit_request(forward.timeout, http.stall_timeout, record.started());
    let source = match (body.is_end_stream(), forward.retry.limit > 0) {
        (true, _) => Source::Empty,
        (false, true) => Source::H2(body).keep(),
        (false, false) => Source::H2(body),
    };
    let exchange = Exchange {
        flow,
        parts,
        authority,
        body: Some(source),
        client: Client::H2(respond),
        time: &mut time,
        record: &mut record,
        cookie: None,
    };
    let (end, client) = exchange.run(&active, target).await;
    let Client::H2(mut respond) = client else { return };
    match end {
        End::Complete { .. } => {}
        End::Broken => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        End::Unanswered(why) => answer(&mut respond, &why.reply(&mut record)),
    }
}

/// The target with all its parts, as the client of the HTTP/2 library wants it.
fn whole_uri(uri: &Uri, authority: &str) -> Result<Uri, &'static str> {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.parse().map_err(|_| "a bad :authority")?);
    if uri.path().is_empty() {
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

/// A reply that the proxy makes itself.
fn local(record: &mut Record, respond: &mut SendResponse<Bytes>, reply: Reply) {
    record.local(reply.status);
    answer(respond, &reply);
}

fn answer(respond: &mut SendResponse<Bytes>, reply: &Reply) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if !reply.body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
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
