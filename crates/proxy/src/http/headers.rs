//! Which headers a proxy removes, adds and reads.
//!
//! Enters and leaves: heads of messages. Everything else in them passes through unchanged, the case of names included.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::config::route::matching::is_grpc_type;
use crate::hex;
use crate::random::random;

/// Tells requests apart.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What the first client spoke.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const GRPC_STATUS: HeaderName = HeaderName::from_static(GRPC_STATUS_NAME);

/// Removes what belongs to one connection only (RFC 9110, 7.6.1), and what `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // A client must not be able to take these away (RFC 9110, 7.6.1: end-to-end fields are not to be listed).
            .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH | header::AUTHORIZATION))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    let trailers = headers
        .get_all(header::TE)
        .iter()
        .any(|v| v.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// What a client speaks.
pub fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

/// A new identifier of a request.
pub fn request_id() -> HeaderValue {
    // Hexadecimal digits and dashes may stand in any header.
    HeaderValue::from_maybe_shared(Bytes::from(random_uuid())).unwrap_or(HeaderValue::from_static("0"))
}

/// Adds what every request of a mesh has, where the client did not.
pub fn add_request_headers(headers: &mut HeaderMap, request_id: bool, secure: bool) {
    let proto = headers.entry(FORWARDED_PROTO);
    proto.or_insert(HeaderValue::from_static(scheme(secure)));
    if request_id && !headers.contains_key(REQUEST_ID) {
        headers.insert(REQUEST_ID, self::request_id());
    }
}

/// Whether a message is gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| is_grpc_type(v.as_bytes()))
}

/// The name of the header or trailer that holds the gRPC status.
pub const GRPC_STATUS_NAME: &str = "grpc-status";

/// The gRPC status in headers or trailers.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    parse_grpc_status(headers.get(GRPC_STATUS)?.as_bytes())
}

/// A gRPC status as it stands in a header.
pub fn parse_grpc_status(value: &[u8]) -> Option<u16> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Whether a kubelet's probe sent this.
pub fn is_probe(headers: &HeaderMap) -> bool {
    headers
        .get(header::USER_AGENT)
        .is_some_and(|v| v.as_bytes().starts_with(b"kube-probe/"))
}

/// A random (version 4) UUID. Good enough to tell requests apart; no secret depends on it.
pub fn random_uuid() -> Vec<u8> {
    let (a, b) = (random(), random());
    let mut text = Vec::with_capacity(36);
    // Version 4 and its variant stand in the third and fourth part.
    let parts = [
        (a >> 32, 8),
        (a >> 16, 4),
        (0x4000 | a & 0xfff, 4),
        (0x8000 | (b >> 48) & 0x3fff, 4),
        (b, 12),
    ];
    for (number, digits) in parts {
        if !text.is_empty() {
            text.push(b'-');
        }
        hex::push(&mut text, number, digits);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (
                name.parse::<HeaderName>().unwrap(),
                value.parse::<HeaderValue>().unwrap(),
            )
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn hop_by_hop_headers_go_and_others_stay() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Mine, host"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("x-other", "2"),
            ("host", "h"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(
            headers,
            map(&[
                ("x-other", "2"),
                ("host", "h"),
                ("te", "trailers"),
                ("trailer", "x-sum")
            ])
        );
    }

    #[test]
    fn request_headers_are_added_only_where_absent() {
        let mut headers = map(&[("x-request-id", "mine"), ("x-forwarded-proto", "https")]);
        let before = headers.clone();
        add_request_headers(&mut headers, true, false);
        assert_eq!(headers, before);
        let mut headers = HeaderMap::new();
        add_request_headers(&mut headers, true, false);
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-request-id"].len(), 36);
    }

    #[test]
    fn identifiers_differ_and_are_version_4() {
        let ids: HashSet<Vec<u8>> = (0..10_000).map(|_| random_uuid()).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.len() == 36
            && id[14] == b'4'
            && b"89ab".contains(&id[19])
            && [8, 13, 18, 23].iter().all(|dash| id[*dash] == b'-')));
    }
}
