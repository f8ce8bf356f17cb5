//! Heads and trailers between HTTP/1 and HTTP/2.
//!
//! Enters: checked heads of one. Leaves: heads of the other. Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, request};

use super::h1::head::{self, Framing, Malformed};
use super::h1::render;

/// Headers of an HTTP/1 message as HTTP/2 has them: lower case, without those of the connection.
pub fn fields(headers: &head::Headers<'_, '_>) -> Result<HeaderMap, Malformed> {
    let mut map = HeaderMap::new();
    for field in headers.iter() {
        // Not added and removed again: that would change the order of the others.
        let own = ["transfer-encoding", "host"]
            .iter()
            .any(|own| field.name.eq_ignore_ascii_case(own));
        if !own {
            append(&mut map, field.name.as_bytes(), field.value)?;
        }
    }
    for (name, value) in headers.added() {
        map.try_append(name.clone(), value.clone())
            .map_err(|_| Malformed::TooLarge)?;
    }
    Ok(map)
}

fn append(map: &mut HeaderMap, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    let name = HeaderName::from_bytes(name).map_err(|_| Malformed::Syntax("a bad header name"))?;
    let value = HeaderValue::from_bytes(value).map_err(|_| Malformed::Syntax("a bad header value"))?;
    map.try_append(name, value).map_err(|_| Malformed::TooLarge)?;
    Ok(())
}

/// The head of an HTTP/1 request as HTTP/2 has it. `fallback` is the host where the client named none.
pub fn request(request: &head::Request<'_, '_>, fallback: &str) -> Result<request::Parts, Malformed> {
    let bad = |_| Malformed::Syntax("a bad target");
    let host = if request.host.is_empty() {
        fallback
    } else {
        &*request.host
    };
    let slash = if request.target.starts_with('?') { "/" } else { "" };
    let uri = Uri::builder()
        .scheme("http")
        .authority(host)
        .path_and_query(format!("{slash}{}", request.target))
        .build()
        .map_err(bad)?;
    let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| Malformed::Syntax("a bad method"))?;
    let (mut parts, ()) = http::Request::new(()).into_parts();
    (parts.method, parts.uri, parts.headers) = (method, uri, fields(&request.headers)?);
    Ok(parts)
}

/// The trailers of a chunked body: its lines with the empty one behind them. `None`: there are none.
pub fn trailers(lines: &[u8]) -> Result<Option<HeaderMap>, Malformed> {
    if lines.len() <= 2 {
        return Ok(None);
    }
    let mut room = [httparse::EMPTY_HEADER; head::HEADERS_MAX];
    let fields = match httparse::parse_headers(lines, &mut room) {
        Ok(httparse::Status::Complete((_, fields))) => fields,
        Ok(httparse::Status::Partial) => return Err(Malformed::Syntax("half a trailer")),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooLarge),
        Err(_) => return Err(Malformed::Syntax("a bad trailer")),
    };
    let mut map = HeaderMap::new();
    for field in fields.iter() {
        append(&mut map, field.name.as_bytes(), field.value)?;
    }
    Ok(Some(map))
}

/// Appends fields as HTTP/1 has them. Pieces of a cookie become one field again (RFC 9113, 8.2.3).
pub fn render_fields(out: &mut Vec<u8>, headers: &HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if let Some(first) = cookies.next() {
        out.extend_from_slice(b"cookie: ");
        out.extend_from_slice(first.as_bytes());
        for more in cookies {
            out.extend_from_slice(b"; ");
            out.extend_from_slice(more.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    for (name, value) in headers {
        if name != header::COOKIE {
            render::field(out, name.as_str(), value.as_bytes());
        }
    }
}

/// Appends the head of an HTTP/2 request as HTTP/1 has it.
pub fn render_request(out: &mut Vec<u8>, parts: &request::Parts, authority: &str, framing: Framing) {
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    render::field(out, "host", authority.as_bytes());
    render_fields(out, &parts.headers);
    if framing == Framing::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// The length that a head announces.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_meaning_both_ways() {
        let text = b"POST /a?b HTTP/1.1\r\nHost: svc:80\r\nX-One: 1\r\nCookie: a=b\r\nConnection: x-two\r\nX-Two: 2\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut room = head::room();
        let parsed = head::request(text, &mut room).unwrap();
        let mut parts = request(&parsed, "nobody").unwrap();
        assert_eq!(parts.uri, "http://svc:80/a?b");
        let names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-one", "cookie"]);
        parts.headers.append(header::COOKIE, HeaderValue::from_static("c=d"));
        let mut out = Vec::new();
        render_request(&mut out, &parts, "svc:80", Framing::Chunked);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "POST /a?b HTTP/1.1\r\nhost: svc:80\r\ncookie: a=b; c=d\r\nx-one: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn trailers_become_fields() {
        assert_eq!(trailers(b"\r\n"), Ok(None));
        let map = trailers(b"Grpc-Status: 0\r\nx: y\r\n\r\n").unwrap().unwrap();
        assert_eq!(
            (map["grpc-status"].as_bytes(), map["x"].as_bytes()),
            (&b"0"[..], &b"y"[..])
        );
        assert!(trailers(b"a b: c\r\n\r\n").is_err());
    }
}
