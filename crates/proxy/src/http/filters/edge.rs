//! Requests of strangers: what they say of themselves is replaced, and paths and hosts get one form, before any route
//! is looked for.

use std::net::IpAddr;

use http::header::{self, HeaderName, HeaderValue};

use crate::config::Http;
use crate::config::edge::{Edge, Strangers};
use crate::config::route::edit::Editable;
use crate::config::route::matching::path_of;
use crate::flow::Flow;
use crate::http::headers::{FORWARDED_PROTO, REQUEST_ID, request_id, scheme};
use crate::http::reply::Reply;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");

/// Headers by which proxies tell each other something, and which no stranger may send.
const INTERNAL: [HeaderName; 16] = [
    HeaderName::from_static("x-envoy-attempt-count"),
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-downstream-service-cluster"),
    HeaderName::from_static("x-envoy-downstream-service-node"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-is-timeout-retry"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
];

/// Changes a request as its chain says. `Some`: this is the answer.
pub fn admit(head: &mut impl Editable, edge: &Edge, http: &Http, flow: &Flow, secure: bool) -> Option<Reply> {
    if let Some(host) = edge.host(head.host(), flow.destination.port()) {
        let host = host.to_owned();
        head.set_host(&host);
    }
    if let Some(strangers) = &edge.strangers {
        identify(head, *strangers, http, flow.source.ip(), secure);
    }
    if head.target() == "*" {
        return None;
    }
    let path = path_of(head.target());
    match edge.path(path) {
        Err(_) => Some(Reply::new(400, "")),
        Ok(None) => None,
        Ok(Some(new)) => {
            let query = head.target().find('?').map_or("", |at| &head.target()[at..]);
            let target = format!("{}{query}", new.text);
            if !new.redirect {
                head.set_target(target);
                return None;
            }
            let mut reply = Reply::new(307, "");
            let location = HeaderValue::try_from(target).ok();
            reply.fields.extend(location.map(|value| (header::LOCATION, value)));
            Some(reply)
        }
    }
}

/// Says who asks, as far as those in front may be believed.
fn identify(head: &mut impl Editable, strangers: Strangers, http: &Http, peer: IpAddr, secure: bool) {
    let mut told = Vec::new();
    head.values(FORWARDED_FOR.as_str(), &mut |value| {
        if !told.is_empty() {
            told.push(b',');
        }
        told.extend_from_slice(value);
    });
    head.settle(http.generate_request_id);
    for name in &INTERNAL {
        head.remove(name);
    }
    // The last word that is believed is that of the proxy in front, if there is one.
    let nth = |n: u32| {
        let word = told.rsplit(|b| *b == b',').nth(n as usize)?;
        std::str::from_utf8(word).ok()?.trim().parse::<IpAddr>().ok()
    };
    let client = strangers.hops.checked_sub(1).and_then(nth).unwrap_or(peer);
    replace(head, &EXTERNAL_ADDRESS, client.to_string().as_bytes());
    if strangers.append {
        if !told.is_empty() {
            told.push(b',');
        }
        told.extend_from_slice(peer.to_string().as_bytes());
        replace(head, &FORWARDED_FOR, &told);
    }
    if strangers.hops == 0 {
        replace(head, &FORWARDED_PROTO, scheme(secure).as_bytes());
    }
    if http.generate_request_id && !strangers.keep_id {
        head.remove(&REQUEST_ID);
        head.append(&REQUEST_ID, &request_id());
    }
}

fn replace(head: &mut impl Editable, name: &HeaderName, value: &[u8]) {
    head.remove(name);
    // What was a value, and an address behind it, is one.
    if let Ok(value) = HeaderValue::from_bytes(value) {
        head.append(name, &value);
    }
}
