//! Heads of HTTP/1 messages: where one ends, what it says, and what goes on to the other side.
//!
//! Enters: bytes. Leaves: a checked [`Request`] or [`Response`] that points into them, or what is wrong. Everything that
//! two parsers could understand differently is refused (RFC 9112, 11.2): two lengths, unknown codings, bare line feeds,
//! folded lines, names with spaces. Pure: no I/O, no state.

mod edit;

use std::borrow::Cow;
use std::mem::MaybeUninit;

use http::header::{HeaderName, HeaderValue};
use httparse::{Header, ParserConfig, Status};
use memchr::memchr_iter;

use super::render;
use crate::config::route::matching::is_grpc_type;

/// Headers of one message at most.
pub const HEADERS_MAX: usize = 128;
/// Bytes of one head at most.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Empty lines before a request that are passed over (RFC 9112, 2.2).
const EMPTY_LINES_MAX: usize = 4;

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not even close, or a byte where none may be.
    #[error("{0}")]
    Syntax(&'static str),
    /// Two readers could see different ends of this message.
    #[error("{0}")]
    Framing(&'static str),
    /// A transfer coding that nobody here knows.
    #[error("transfer coding is not supported")]
    Coding,
    /// A version that nobody here speaks.
    #[error("HTTP version is not supported")]
    Version,
    /// More than [`HEADERS_MAX`] headers or [`HEAD_BYTES_MAX`] bytes.
    #[error("the head is too large")]
    TooLarge,
}

/// Where a head ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// After so many bytes, the empty line included; so many empty bytes stand before it.
    At {
        /// Bytes of empty lines before the head.
        skip: usize,
        /// Where the head ends, counted from the first byte of all.
        end: usize,
    },
    /// More bytes are needed.
    Later,
}

/// Looks for the end of a head; `searched` bytes of it were looked through before.
pub fn find_end(bytes: &[u8], searched: usize) -> Result<End, Malformed> {
    let mut skip = 0;
    while bytes[skip..].starts_with(b"\r\n") {
        skip += 2;
        if skip > 2 * EMPTY_LINES_MAX {
            return Err(Malformed::Syntax("empty lines instead of a message"));
        }
    }
    let Some(&first) = bytes.get(skip) else {
        return Ok(End::Later);
    };
    let half_a_line = first == b'\r' && bytes.len() == skip + 1;
    if !(is_token(first) || half_a_line) {
        return Err(Malformed::Syntax("this is not HTTP"));
    }
    let from = searched.saturating_sub(3).max(skip);
    for line_end in memchr_iter(b'\n', &bytes[from..]) {
        let at = from + line_end;
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(Malformed::Syntax("a line feed without a carriage return"));
        }
        if at >= skip + 3 && bytes[at - 3..at - 1] == *b"\r\n" {
            let end = at + 1;
            return if end - skip > HEAD_BYTES_MAX {
                Err(Malformed::TooLarge)
            } else {
                Ok(End::At { skip, end })
            };
        }
    }
    if bytes.len() - skip > HEAD_BYTES_MAX {
        return Err(Malformed::TooLarge);
    }
    Ok(End::Later)
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks, the last one empty.
    Chunked,
    /// Until the connection ends (responses only).
    UntilClose,
}

/// Room for the headers of one message, on the caller's stack.
pub type Room<'b> = [MaybeUninit<Header<'b>>; HEADERS_MAX];

/// Room without content.
pub fn room<'b>() -> Room<'b> {
    [const { MaybeUninit::uninit() }; HEADERS_MAX]
}

/// The headers of a message, the bytes they stand in, and which of them go on.
#[derive(Debug)]
pub struct Headers<'h, 'b> {
    fields: &'h [Header<'b>],
    head: &'b [u8],
    dropped: u128,
    /// What the configuration adds.
    added: Vec<(HeaderName, HeaderValue)>,
}

/// The head of a request.
#[derive(Debug)]
pub struct Request<'h, 'b> {
    /// As it stands.
    pub method: &'b str,
    /// Path and query; where only a query came, "/" goes before it.
    pub target: Cow<'b, str>,
    /// The host that the request is for: of the target where it stands there, else of the header; may be empty.
    pub host: Cow<'b, str>,
    /// The host replaces the header: the target named it, or it is rewritten.
    pub absolute: bool,
    /// There is neither; allowed in HTTP/1.0 only.
    pub hostless: bool,
    /// HTTP/1.1 (else 1.0).
    pub one_one: bool,
    /// How the end of the body is found.
    pub framing: Framing,
    /// Whether the client keeps the connection.
    pub keep_alive: bool,
    /// Asks for a WebSocket.
    pub websocket: bool,
    /// Waits for a word before it sends the body.
    pub expects: bool,
    /// Has an `x-request-id`.
    pub identified: bool,
    /// Has an `x-forwarded-proto`.
    pub forwarded: bool,
    /// Comes from a kubelet's probe, by its own word.
    pub probe: bool,
    /// Came encrypted. No head says that of itself: whoever reads it does.
    pub secure: bool,
    /// What goes on.
    pub headers: Headers<'h, 'b>,
}

/// The head of a response.
#[derive(Debug)]
pub struct Response<'h, 'b> {
    /// 100-999.
    pub status: u16,
    /// As it stands; may be empty.
    pub reason: &'b str,
    /// How the end of the body is found, if this is not the answer to HEAD.
    pub framing: Framing,
    /// Whether the server keeps the connection.
    pub keep_alive: bool,
    /// Changes to a WebSocket.
    pub websocket: bool,
    /// Says when it was made.
    pub dated: bool,
    /// It is gRPC.
    pub grpc: bool,
    /// What goes on.
    pub headers: Headers<'h, 'b>,
}

fn config() -> ParserConfig {
    ParserConfig::default()
}

/// Reads the head of a request, which [`find_end`] found whole.
pub fn request<'h, 'b>(head: &'b [u8], room: &'h mut Room<'b>) -> Result<Request<'h, 'b>, Malformed> {
    let mut parsed = httparse::Request::new(&mut []);
    complete(config().parse_request_with_uninit_headers(&mut parsed, head, room)).map_err(|why| match why {
        // The parser calls everything a version that stands where one should.
        Malformed::Version if !names_version(head) => Malformed::Syntax("a bad request line"),
        why => why,
    })?;
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Malformed::Syntax("half a request line"));
    };
    let one_one = minor == 1;
    let headers = Headers::new(parsed.headers, head);
    let notes = Notes::read(headers.fields)?;
    let framing = match (notes.chunked, notes.length) {
        (true, _) if !one_one => return Err(Malformed::Framing("Transfer-Encoding in HTTP/1.0")),
        (true, Some(_)) => return Err(Malformed::Framing("both Transfer-Encoding and Content-Length")),
        (true, None) => Framing::Chunked,
        (false, None | Some(0)) => Framing::Empty,
        (false, Some(length)) => Framing::Length(length),
    };
    let (target, authority) = split_target(method, target)?;
    let host = match (authority, notes.host) {
        (_, None) if one_one => return Err(Malformed::Syntax("no Host")),
        (Some(host), _) => host,
        (None, host) => host.unwrap_or_default(),
    };
    if !is_host(host) || !notes.host.is_none_or(is_host) {
        return Err(Malformed::Syntax("a bad Host"));
    }
    let websocket = notes.websocket && notes.upgrade && one_one && method == "GET" && framing == Framing::Empty;
    let mut headers = headers;
    headers.dropped = notes.dropped;
    if authority.is_some() {
        headers.drop_named("host");
    }
    if !one_one {
        // Nobody who speaks HTTP/1.0 waits for an interim response.
        headers.drop_named("expect");
    }
    Ok(Request {
        method,
        target: Cow::Borrowed(target),
        host: Cow::Borrowed(host),
        absolute: authority.is_some(),
        hostless: authority.is_none() && notes.host.is_none(),
        one_one,
        framing,
        keep_alive: !notes.close && (one_one || notes.keep_alive),
        websocket,
        expects: notes.expects && one_one && framing != Framing::Empty,
        identified: notes.identified,
        forwarded: notes.forwarded,
        probe: notes.probe,
        secure: false,
        headers,
    })
}

/// Reads the head of a response, which [`find_end`] found whole.
pub fn response<'h, 'b>(head: &'b [u8], room: &'h mut Room<'b>) -> Result<Response<'h, 'b>, Malformed> {
    let mut parsed = httparse::Response::new(&mut []);
    complete(config().parse_response_with_uninit_headers(&mut parsed, head, room))?;
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Malformed::Syntax("half a status line"));
    };
    if status < 100 {
        return Err(Malformed::Syntax("a status below 100"));
    }
    let mut headers = Headers::new(parsed.headers, head);
    let notes = Notes::read(headers.fields)?;
    let bodiless = status < 200 || status == 204 || status == 304;
    let framing = match (notes.chunked, notes.length) {
        _ if bodiless => Framing::Empty,
        (true, Some(_)) => return Err(Malformed::Framing("both Transfer-Encoding and Content-Length")),
        (true, None) if minor == 0 => return Err(Malformed::Framing("Transfer-Encoding in HTTP/1.0")),
        (true, None) => Framing::Chunked,
        (false, Some(0)) => Framing::Empty,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    };
    headers.dropped = notes.dropped;
    if bodiless && status != 304 {
        // Neither may stand in them (RFC 9110, 8.6; RFC 9112, 6.1).
        headers.drop_named("content-length");
        headers.drop_named("transfer-encoding");
    }
    Ok(Response {
        status,
        reason: parsed.reason.unwrap_or_default(),
        framing,
        keep_alive: !notes.close && (minor == 1 || notes.keep_alive),
        websocket: notes.websocket && notes.upgrade,
        dated: notes.dated,
        grpc: notes.grpc,
        headers,
    })
}

fn complete(outcome: Result<Status<usize>, httparse::Error>) -> Result<usize, Malformed> {
    match outcome {
        Ok(Status::Complete(length)) => Ok(length),
        Ok(Status::Partial) => Err(Malformed::Syntax("half a head")),
        Err(httparse::Error::TooManyHeaders) => Err(Malformed::TooLarge),
        Err(httparse::Error::Version) => Err(Malformed::Version),
        Err(httparse::Error::HeaderName) => Err(Malformed::Syntax("a bad header name")),
        Err(httparse::Error::HeaderValue) => Err(Malformed::Syntax("a bad header value")),
        Err(httparse::Error::Status) => Err(Malformed::Syntax("a bad status")),
        Err(_) => Err(Malformed::Syntax("a bad first line")),
    }
}

/// Whether the first line has three words, the last of them a version of HTTP.
fn names_version(head: &[u8]) -> bool {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let numbers = version.and_then(|v| v.strip_prefix(b"HTTP/"));
    method.is_some()
        && target.is_some_and(|t| !t.is_empty())
        && words.next().is_none()
        && numbers
            .is_some_and(|n| matches!(n, [major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit()))
}

/// Path and query, and the host of an absolute target (RFC 9112, 3.2).
fn split_target<'b>(method: &str, target: &'b str) -> Result<(&'b str, Option<&'b str>), Malformed> {
    if target.contains('#') {
        return Err(Malformed::Syntax("a fragment in the target"));
    }
    if method == "CONNECT" {
        return Err(Malformed::Syntax("CONNECT is not supported"));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((target, None));
    }
    let scheme = |s: &str| {
        target
            .get(..s.len())
            .is_some_and(|t| t.eq_ignore_ascii_case(s))
            .then_some(s.len())
    };
    let Some(begin) = scheme("http://").or_else(|| scheme("https://")) else {
        return Err(Malformed::Syntax("the target is neither a path nor an absolute URI"));
    };
    let rest = &target[begin..];
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let authority = &rest[..end];
    if authority.is_empty() {
        return Err(Malformed::Syntax("an absolute target without a host"));
    }
    let path = match &rest[end..] {
        "" if method == "OPTIONS" => "*",
        "" => "/",
        path => path,
    };
    Ok((path, Some(authority)))
}

/// Whether this can be a host, with or without a port; nothing at all can.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((inner, after)) => {
                let literal = !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_hexdigit() || b":.%".contains(&b));
                if !literal {
                    return false;
                }
                ("", after)
            }
            None => return false,
        },
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let named = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&b);
    let port_ok = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    port_ok && name.bytes().all(named)
}

/// What headers say about connection and body.
#[derive(Default)]
struct Notes<'b> {
    dropped: u128,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    websocket: bool,
    expects: bool,
    dated: bool,
    identified: bool,
    forwarded: bool,
    probe: bool,
    grpc: bool,
    length: Option<u64>,
    chunked: bool,
    host: Option<&'b str>,
}

impl<'b> Notes<'b> {
    fn read(fields: &[Header<'b>]) -> Result<Self, Malformed> {
        let mut notes = Self::default();
        for (i, field) in fields.iter().enumerate() {
            notes.field(i, field, fields)?;
        }
        Ok(notes)
    }

    fn field(&mut self, index: usize, field: &Header<'b>, all: &[Header<'b>]) -> Result<(), Malformed> {
        let named = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            2 if named("te") && !field.value.eq_ignore_ascii_case(b"trailers") => self.drop(index),
            4 if named("host") => {
                let host = std::str::from_utf8(field.value).map_err(|_| Malformed::Syntax("a bad Host"))?;
                if self.host.replace(host).is_some() {
                    return Err(Malformed::Syntax("more than one Host"));
                }
            }
            4 if named("date") => self.dated = true,
            6 if named("expect") => self.expects = field.value.eq_ignore_ascii_case(b"100-continue"),
            7 if named("upgrade") => {
                self.websocket = field.value.eq_ignore_ascii_case(b"websocket");
                self.drop(index);
            }
            10 if named("connection") => {
                self.drop(index);
                self.connection(field.value, all);
            }
            10 if named("keep-alive") => self.drop(index),
            10 if named("user-agent") => self.probe = field.value.starts_with(b"kube-probe/"),
            12 if named("x-request-id") => self.identified = true,
            12 if named("content-type") => self.grpc = is_grpc_type(field.value),
            14 if named("content-length") => {
                let length = parse_length(field.value)?;
                if self.length.replace(length).is_some() {
                    return Err(Malformed::Framing("more than one Content-Length"));
                }
            }
            16 if named("proxy-connection") => self.drop(index),
            17 if named("transfer-encoding") => {
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(Malformed::Framing("more than one Transfer-Encoding"));
                }
                coding(field.value)?;
            }
            17 if named("x-forwarded-proto") => self.forwarded = true,
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8], all: &[Header<'b>]) {
        for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if !token.is_empty() && !END_TO_END.iter().any(|name| token.eq_ignore_ascii_case(name)) {
                for (i, field) in all.iter().enumerate() {
                    if field.name.as_bytes().eq_ignore_ascii_case(token) {
                        self.drop(i);
                    }
                }
            }
        }
    }

    fn drop(&mut self, index: usize) {
        self.dropped |= 1 << index;
    }
}

/// What a peer must not be able to take away by naming it in `Connection`.
const END_TO_END: [&[u8]; 10] = [
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"authorization",
    b"content-type",
    b"te",
    b"x-request-id",
    // What the proxy found in the head and so does not add, or waits for.
    b"date",
    b"expect",
    b"x-forwarded-proto",
];

/// Digits alone: no sign, no space, no list (RFC 9110, 8.6).
fn parse_length(value: &[u8]) -> Result<u64, Malformed> {
    let bad = Malformed::Framing("a bad Content-Length");
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(bad)
}

fn coding(value: &[u8]) -> Result<(), Malformed> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    let known = |c: &[u8]| !c.is_empty() && c.iter().all(|b| is_token(*b)) && !c.eq_ignore_ascii_case(b"chunked");
    match codings.next_back() {
        // Framed well, but in a coding that is not ours.
        Some(last) if last.eq_ignore_ascii_case(b"chunked") && codings.all(known) => Err(Malformed::Coding),
        _ => Err(Malformed::Framing("a bad Transfer-Encoding")),
    }
}

/// Characters of methods and names (RFC 9110, 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl<'h, 'b> Headers<'h, 'b> {
    fn new(fields: &'h [Header<'b>], head: &'b [u8]) -> Self {
        Self {
            fields,
            head,
            dropped: 0,
            added: Vec::new(),
        }
    }

    /// Those that go on.
    pub fn iter(&self) -> impl Iterator<Item = &Header<'b>> {
        let dropped = self.dropped;
        let kept = move |i: &usize| dropped & (1 << i) == 0;
        self.fields
            .iter()
            .enumerate()
            .filter(move |(i, _)| kept(i))
            .map(|(_, field)| field)
    }

    /// The first value of a header that goes on; `name` in any case.
    pub fn get(&self, name: &str) -> Option<&'b [u8]> {
        let same = |f: &&Header<'b>| f.name.len() == name.len() && f.name.eq_ignore_ascii_case(name);
        self.iter().find(same).map(|f| f.value)
    }

    /// Keeps all headers of a name from going on.
    pub fn drop_named(&mut self, name: &str) {
        for (i, field) in self.fields.iter().enumerate() {
            if field.name.eq_ignore_ascii_case(name) {
                self.dropped |= 1 << i;
            }
        }
    }

    /// Appends the lines that go on, byte for byte as they came.
    pub fn render(&self, out: &mut Vec<u8>) {
        let begin_of = |field: &Header<'_>| field.name.as_ptr() as usize - self.head.as_ptr() as usize;
        // Lines that follow each other are copied together. The empty line at the end is not among them.
        let mut run: Option<usize> = None;
        for (i, field) in self.fields.iter().enumerate() {
            match (self.dropped & (1 << i) == 0, run) {
                (true, None) => run = Some(begin_of(field)),
                (false, Some(begin)) => {
                    out.extend_from_slice(&self.head[begin..begin_of(field)]);
                    run = None;
                }
                _ => {}
            }
        }
        if let Some(begin) = run {
            out.extend_from_slice(&self.head[begin..self.head.len() - 2]);
        }
        for (name, value) in &self.added {
            render::field(out, name.as_str(), value.as_bytes());
        }
    }

    /// What the configuration added.
    pub fn added(&self) -> &[(HeaderName, HeaderValue)] {
        &self.added
    }
}

#[cfg(test)]
mod tests;
