//! One request, from its head to the head of its response.
//!
//! Enters: a request of a downstream connection. Leaves: the response, from an endpoint or made here. Malformed requests
//! end here; where good ones go is up to `route`, how they get there to `forward`.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;

use super::Connection;
use super::body::ResponseBody;
use super::forward::{Outgoing, forward};
use super::headers;
use super::record::Record;
use crate::config::Action;

/// Answers one request.
pub async fn exchange(connection: Rc<Connection>, request: Request<Incoming>) -> Response<ResponseBody> {
    let flow = &connection.flow;
    let active = flow.worker.shared.active.load_full();
    let (http, outdated) = connection.chain(&active);
    let muted = flow.from_host && headers::is_probe(request.headers());
    let mut record = Record::new(Rc::clone(flow), muted);
    let version = request.version();
    let mut response = match host(&request) {
        Err(problem) => local(&mut record, StatusCode::BAD_REQUEST, problem.into()),
        Ok(host) => {
            let found = active
                .routes_of(&http)
                .and_then(|table| table.find(&host, path(&request)));
            match found {
                None => local(&mut record, StatusCode::NOT_FOUND, Bytes::new()),
                Some(found) => {
                    record.authority(found.authority);
                    match &found.route.action {
                        Action::Respond { status, body } => local(&mut record, *status, body.render(flow.destination)),
                        Action::Forward(route) => {
                            let request = outgoing(request, &host, http.websocket, http.generate_request_id);
                            forward(flow, &active, route, request, record).await
                        }
                    }
                }
            }
        }
    };
    let ending = outdated || flow.worker.shared.life.draining();
    if ending && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    *response.version_mut() = version;
    response
}

/// A response made here.
pub fn local(record: &mut Record, status: StatusCode, body: Bytes) -> Response<ResponseBody> {
    record.local(status.as_u16());
    plain(status, body)
}

/// A response with a text, or none.
pub fn plain(status: StatusCode, body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Local(None));
    *response.status_mut() = status;
    if !body.is_empty() {
        let text = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        *response.body_mut() = ResponseBody::Local(Some(body));
    }
    response
}

/// The host that a request is for (RFC 9112, 3.2): one `Host`, or the authority of an absolute target.
fn host(request: &Request<Incoming>) -> Result<String, &'static str> {
    if request.method() == Method::CONNECT {
        return Err("CONNECT is not supported");
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("more than one Host");
    }
    if let Some(authority) = request.uri().authority() {
        return Ok(authority.as_str().to_owned());
    }
    match first.map(HeaderValue::to_str) {
        Some(Ok(host)) if !host.contains(['/', ' ', '@']) => Ok(host.to_owned()),
        Some(_) => Err("a bad Host"),
        None if request.version() == Version::HTTP_10 => Ok(String::new()),
        None => Err("no Host"),
    }
}

fn path(request: &Request<Incoming>) -> &str {
    request.uri().path()
}

/// The request as it goes to an endpoint.
fn outgoing(mut request: Request<Incoming>, host: &str, websocket: bool, request_id: bool) -> Outgoing {
    let websocket = websocket && headers::wants_websocket(request.headers());
    let upgrade = websocket.then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    let chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
    headers::remove_hop_by_hop(&mut head.headers);
    if websocket {
        headers::set_websocket(&mut head.headers);
    }
    if chunked {
        // Where both are given the length is void (RFC 9112, 6.3).
        head.headers.remove(header::CONTENT_LENGTH);
    }
    // The server above answers it when the body is asked for.
    head.headers.remove(header::EXPECT);
    headers::add_request_headers(&mut head.headers, request_id);
    if head.uri.authority().is_some() {
        let target = head
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or(PathAndQuery::from_static("/"));
        head.uri = Uri::from(target);
        if let Ok(host) = HeaderValue::from_str(host) {
            head.headers.insert(header::HOST, host);
        }
    }
    head.version = Version::HTTP_11;
    Outgoing {
        head,
        body,
        chunked,
        upgrade,
    }
}
