//! Heads as they are written: of requests to endpoints, of responses to clients, and of the proxy's own replies.
//!
//! Enters: checked heads. Leaves: bytes. What is not named here passes through as it came, the case of names included.

use std::net::SocketAddr;
use std::time::SystemTime;

use super::head::{Framing, Request, Response};
use crate::http::headers::{random_uuid, scheme};
use crate::http::reply::Reply;

/// Appends the head of a request as it goes to an endpoint.
pub fn request(
    out: &mut Vec<u8>,
    request: &Request<'_, '_>,
    destination: SocketAddr,
    websocket: bool,
    request_id: bool,
) {
    out.extend_from_slice(request.method.as_bytes());
    out.push(b' ');
    if request.target.starts_with('?') {
        out.push(b'/');
    }
    out.extend_from_slice(request.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    request.headers.render(out);
    if request.absolute {
        field(out, "host", request.host.as_bytes());
    }
    if request.hostless {
        // An HTTP/1.0 client; the endpoint is spoken to in HTTP/1.1, where a host must stand.
        field(out, "host", destination.to_string().as_bytes());
    }
    if !request.forwarded {
        field(out, "x-forwarded-proto", scheme(request.secure).as_bytes());
    }
    if request_id && !request.identified {
        field(out, "x-request-id", &random_uuid());
    }
    if websocket {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// What the connection of a response does after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Stays for the next request.
    Keep,
    /// Stays, which an HTTP/1.0 client must be told.
    KeepOld,
    /// Ends.
    Close,
    /// Becomes a WebSocket.
    Upgrade,
}

/// Appends the head of an endpoint's response as it goes to the client.
pub fn response(out: &mut Vec<u8>, response: &Response<'_, '_>, after: After, date: &[u8]) {
    status_line(out, response.status, response.reason.as_bytes());
    response.headers.render(out);
    if !response.dated && response.status >= 200 {
        field(out, "date", date);
    }
    connection(out, after);
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole reply of the proxy's own.
pub fn reply(out: &mut Vec<u8>, reply: &Reply, head_only: bool, after: After, date: &[u8]) {
    let Reply { status, body, fields } = reply;
    let reason = http::StatusCode::from_u16(*status)
        .ok()
        .and_then(|s| s.canonical_reason());
    status_line(out, *status, reason.unwrap_or_default().as_bytes());
    field(out, "content-length", body.len().to_string().as_bytes());
    field(out, "date", date);
    for (name, value) in fields {
        field(out, name.as_str(), value.as_bytes());
    }
    connection(out, after);
    out.extend_from_slice(b"\r\n");
    if !head_only {
        out.extend_from_slice(body);
    }
}

/// Adds a line to a whole head.
pub fn add(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.truncate(out.len().saturating_sub(2));
    field(out, name, value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a line.
pub fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the first line of a response.
pub fn status_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let digit = |n: u16| b'0' + u8::try_from(n % 10).unwrap_or(0);
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status), b' ']);
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Appends what the connection does next, where that must be said.
pub fn connection(out: &mut Vec<u8>, after: After) {
    out.extend_from_slice(match after {
        After::Keep => b"",
        After::KeepOld => b"connection: keep-alive\r\n".as_slice(),
        After::Close => b"connection: close\r\n",
        After::Upgrade => b"connection: upgrade\r\nupgrade: websocket\r\n",
    });
}

/// The time of now as messages have it; good for a second.
#[derive(Debug, Default)]
pub struct Date {
    second: u64,
    text: String,
}

impl Date {
    /// The text of now.
    pub fn text(&mut self) -> &[u8] {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = httpdate::fmt_http_date(now);
        }
        self.text.as_bytes()
    }
}

/// Whether a body follows the head of a response.
pub fn body_of(framing: Framing, to_head: bool) -> Framing {
    if to_head { Framing::Empty } else { framing }
}
