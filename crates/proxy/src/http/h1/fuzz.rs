//! What must hold for any bytes that the codec reads.
//!
//! Enters: bytes. Leaves: nothing, or a panic. Heads and bodies are read a second time here in another, slower way; where
//! that comes to another end, so could a peer. Corpus files are plain messages: where they are cut follows from the bytes.

use std::net::{Ipv4Addr, SocketAddr};

use super::body::Body;
use super::chunked::Chunked;
use super::head::{self, End, Framing, HEAD_BYTES_MAX, HEADERS_MAX, Headers, Malformed, is_token};
use super::render::{self, After};
use crate::config::route::matching::path_of;
use crate::http::translate;

const DESTINATION: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 80);
const DATE: &[u8] = b"Thu, 01 Jan 1970 00:00:00 GMT";
/// Headers that the proxy adds to a message at most.
const ADDED_MAX: usize = 5;

/// A request's head: what is accepted is understood by others as it is here, and so is what is sent on.
pub fn request(bytes: &[u8]) {
    let Some(head) = cut_head(bytes) else { return };
    let mut room = head::room();
    let Ok(request) = head::request(head, &mut room) else {
        return;
    };
    let lines = Lines::read(head);
    match request.framing {
        Framing::Empty => assert!(lines.codings.is_empty() && lines.length().unwrap_or(0) == 0),
        Framing::UntilClose => panic!("a request without an end"),
        other => lines.check(other),
    }
    assert!(lines.hosts.len() == 1 || (lines.hosts.is_empty() && !request.one_one));
    assert!(request.one_one || request.framing != Framing::Chunked);

    let mut out = Vec::new();
    render::request(&mut out, &request, DESTINATION, request.websocket, true);
    let sent = out.clone();
    let Some(whole) = whole_head(&sent, request.headers.iter().count()) else {
        return;
    };
    let mut room = head::room();
    let again = head::request(whole, &mut room).expect("what is sent on is no request");
    let host = request.host.clone();
    let host = if request.hostless {
        DESTINATION.to_string()
    } else {
        host.into_owned()
    };
    let slash = if request.target.starts_with('?') { "/" } else { "" };
    assert_eq!(again.method, request.method);
    assert_eq!(again.target, format!("{slash}{}", request.target));
    assert_eq!(path_of(&again.target), path_of(&request.target));
    assert_eq!(again.host, host);
    assert_eq!(again.framing, request.framing);
    assert_eq!(again.expects, request.expects);
    assert_eq!(again.websocket, request.websocket);
    assert!(again.one_one && !again.absolute && !again.hostless);
    assert!(again.identified && again.forwarded, "what the mesh adds is gone");
    passed_on(&request.headers, &again.headers);
    out.clear();
    render::request(&mut out, &again, DESTINATION, again.websocket, true);
    assert_eq!(out.escape_ascii().to_string(), sent.escape_ascii().to_string());

    if let Ok(parts) = translate::request(&request, "fallback") {
        assert_eq!(parts.method.as_str(), request.method);
        let path = if request.target == "*" {
            "*"
        } else {
            path_of(&request.target)
        };
        assert_eq!(parts.uri.path(), path);
        let foreign = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
            "host",
        ];
        assert!(foreign.iter().all(|name| !parts.headers.contains_key(*name)));
        assert!(
            parts
                .headers
                .get_all("te")
                .iter()
                .all(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"))
        );
    }
}

/// The same for a response's head.
pub fn response(bytes: &[u8]) {
    let Some(head) = cut_head(bytes) else { return };
    let mut room = head::room();
    let Ok(response) = head::response(head, &mut room) else {
        return;
    };
    let lines = Lines::read(head);
    let bodiless = response.status < 200 || matches!(response.status, 204 | 304);
    match response.framing {
        Framing::Empty if bodiless => assert!(lines.lengths.len() <= 1 && lines.codings.len() <= 1),
        Framing::Empty => assert!(lines.codings.is_empty() && lines.length() == Some(0)),
        Framing::UntilClose => assert!(lines.codings.is_empty() && lines.lengths.is_empty()),
        other => lines.check(other),
    }
    let afters = if response.status == 101 {
        &[After::Keep, After::Upgrade][..]
    } else {
        &[After::Keep, After::KeepOld, After::Close]
    };
    for after in afters {
        let mut out = Vec::new();
        render::response(&mut out, &response, *after, DATE);
        let sent = out.clone();
        let Some(whole) = whole_head(&sent, response.headers.iter().count()) else {
            return;
        };
        let mut room = head::room();
        let again = head::response(whole, &mut room).expect("what is sent on is no response");
        assert_eq!(again.status, response.status);
        assert_eq!(again.reason, response.reason);
        assert_eq!(again.framing, response.framing);
        assert_eq!(again.grpc, response.grpc);
        assert_eq!(again.keep_alive, *after != After::Close);
        assert_eq!(again.websocket, *after == After::Upgrade);
        assert!(again.dated || again.status < 200, "no date");
        passed_on(&response.headers, &again.headers);
        out.clear();
        render::response(&mut out, &again, *after, DATE);
        assert_eq!(out.escape_ascii().to_string(), sent.escape_ascii().to_string());
    }
    // It may refuse what HTTP/2 cannot say.
    let _ = translate::fields(&response.headers);
}

/// A chunked body: the same end, content and trailers in whatever pieces it comes, and to whoever reads it.
pub fn chunked(bytes: &[u8]) {
    let whole = Scanned::new(bytes, std::iter::once(bytes.len()));
    assert_eq!(whole, Scanned::new(bytes, std::iter::repeat(1)));
    assert_eq!(whole, Scanned::new(bytes, Pieces::of(bytes)));
    assert_eq!(transferred(bytes), whole.verdict.map(|()| (whole.used, whole.done)));
    if whole.verdict.is_err() {
        return;
    }
    let plain = unchunk(bytes);
    if !whole.done {
        assert_eq!(whole.used, bytes.len(), "bytes were left of a body that goes on");
        assert_eq!(plain, None, "others see an end");
        return;
    }
    let (used, content) = plain.expect("others see no end");
    assert_eq!((used, content.as_slice()), (whole.used, whole.content.as_slice()));
    assert!(whole.trailers.ends_with(b"\r\n") && bytes[..used].ends_with(&whole.trailers));
    if let Ok(Some(trailers)) = translate::trailers(&whole.trailers) {
        let mut last = b"0\r\n".to_vec();
        translate::render_fields(&mut last, &trailers);
        last.extend_from_slice(b"\r\n");
        let again = Scanned::new(&last, std::iter::once(last.len()));
        assert!(
            again.done || again.verdict == Err(Malformed::TooLarge),
            "trailers that are none"
        );
    }
}

/// The first head of `bytes`, which must be found alike in whatever pieces they come.
fn cut_head(bytes: &[u8]) -> Option<&[u8]> {
    let whole = head::find_end(bytes, 0);
    for pieced in [
        end_in_pieces(bytes, std::iter::repeat(1)),
        end_in_pieces(bytes, Pieces::of(bytes)),
    ] {
        // Which of two faults is seen first may depend on how much is there.
        assert!(
            whole == pieced || (whole.is_err() && pieced.is_err()),
            "{whole:?} {pieced:?}"
        );
    }
    match whole {
        Ok(End::At { skip, end }) => Some(&bytes[skip..end]),
        _ => None,
    }
}

fn end_in_pieces(bytes: &[u8], pieces: impl Iterator<Item = usize>) -> Result<End, Malformed> {
    let (mut here, mut searched) = (0, 0);
    for piece in pieces {
        here = bytes.len().min(here + piece);
        let end = head::find_end(&bytes[..here], searched)?;
        if end != End::Later || here == bytes.len() {
            return Ok(end);
        }
        searched = here;
    }
    Ok(End::Later)
}

/// A head that was rendered, if what was added did not make it too large; `headers` were in it before.
fn whole_head(sent: &[u8], headers: usize) -> Option<&[u8]> {
    if sent.len() > HEAD_BYTES_MAX || headers + ADDED_MAX > HEADERS_MAX {
        return None;
    }
    let end = sent.len();
    assert_eq!(head::find_end(sent, 0), Ok(End::At { skip: 0, end }));
    Lines::read(sent);
    Some(sent)
}

/// All that goes on of one head stands in the other.
fn passed_on(before: &Headers<'_, '_>, after: &Headers<'_, '_>) {
    let mut arrived = after.iter();
    for header in before.iter() {
        assert_eq!(Some(header), arrived.next());
    }
}

/// A head, read line by line without the codec.
struct Lines<'b> {
    lengths: Vec<&'b [u8]>,
    codings: Vec<&'b [u8]>,
    hosts: Vec<&'b [u8]>,
}

impl<'b> Lines<'b> {
    fn read(head: &'b [u8]) -> Self {
        let mut lines = Self {
            lengths: Vec::new(),
            codings: Vec::new(),
            hosts: Vec::new(),
        };
        let mut rest = head.strip_suffix(b"\r\n\r\n").expect("no end");
        let mut first = true;
        while !rest.is_empty() {
            let end = find(rest, b"\r\n").unwrap_or(rest.len());
            let line = &rest[..end];
            rest = rest.get(end + 2..).unwrap_or_default();
            assert!(!line.iter().any(|b| b"\r\n\0".contains(b)), "a line in a line");
            if !std::mem::take(&mut first) {
                lines.field(line);
            }
        }
        lines
    }

    fn field(&mut self, line: &'b [u8]) {
        let colon = line.iter().position(|b| *b == b':').expect("no colon");
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        assert!(!name.is_empty() && name.iter().all(|b| is_token(*b)), "a bad name");
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => self.lengths.push(value),
            b"transfer-encoding" => self.codings.push(value),
            b"host" => self.hosts.push(value),
            _ => {}
        }
    }

    /// What the only `Content-Length` says.
    fn length(&self) -> Option<u64> {
        assert!(self.lengths.len() <= 1, "two lengths");
        let text = std::str::from_utf8(self.lengths.first()?).expect("no digits");
        assert!(text.bytes().all(|b| b.is_ascii_digit()), "no digits");
        Some(text.parse().expect("no number"))
    }

    fn check(&self, framing: Framing) {
        let coded = matches!(self.codings.as_slice(), [coding] if coding.eq_ignore_ascii_case(b"chunked"));
        match framing {
            Framing::Length(length) => assert!(self.codings.is_empty() && self.length() == Some(length)),
            Framing::Chunked => assert!(coded && self.lengths.is_empty()),
            Framing::Empty | Framing::UntilClose => {}
        }
    }
}

/// What the parser sees of a body.
#[derive(Debug, PartialEq)]
struct Scanned {
    verdict: Result<(), Malformed>,
    used: usize,
    content: Vec<u8>,
    trailers: Vec<u8>,
    done: bool,
}

impl Scanned {
    fn new(bytes: &[u8], pieces: impl Iterator<Item = usize>) -> Self {
        let mut parser = Chunked::default();
        let (mut content, mut here, mut used) = (Vec::new(), 0, 0);
        let mut verdict = Ok(());
        'pieces: for piece in pieces {
            here = bytes.len().min(here + piece);
            while used < here && !parser.is_done() {
                match parser.step(&bytes[used..here]) {
                    Ok((n, range)) => {
                        assert!(n > 0, "no step");
                        content.extend_from_slice(&bytes[used..here][range]);
                        used += n;
                    }
                    Err(error) => {
                        verdict = Err(error);
                        // How far it was is not told.
                        used = 0;
                        break 'pieces;
                    }
                }
            }
            if here == bytes.len() || parser.is_done() {
                break;
            }
        }
        Self {
            verdict,
            used,
            content,
            trailers: parser.trailers().to_vec(),
            done: parser.is_done(),
        }
    }
}

/// Passes a body on as connections do it, reading and writing in pieces: how many bytes went, and whether it was all.
fn transferred(bytes: &[u8]) -> Result<(usize, bool), Malformed> {
    let mut body = Body::new(Framing::Chunked);
    let (mut read, mut written) = (0, 0);
    let mut pieces = Pieces::of(bytes);
    loop {
        let ready = body.ready(&bytes[written..read])?;
        assert!(ready <= read - written);
        if ready == 0 && (body.is_done() || read == bytes.len()) {
            return Ok((written, body.is_done()));
        }
        let piece = pieces.piece();
        let n = ready.min(piece);
        body.passed(n);
        written += n;
        read = bytes.len().min(read + piece);
    }
}

/// A chunked body taken apart with all of it at hand: its bytes, and the content. `None`: it does not end.
fn unchunk(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (mut at, mut content) = (0, Vec::new());
    loop {
        let line = line(bytes, &mut at)?;
        let digits = line.split(|b| *b == b';').next()?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            while !self::line(bytes, &mut at)?.is_empty() {}
            return Some((at, content));
        }
        let end = at.checked_add(size)?;
        content.extend_from_slice(bytes.get(at..end)?);
        at = end;
        if !self::line(bytes, &mut at)?.is_empty() {
            return None;
        }
    }
}

fn line<'b>(bytes: &'b [u8], at: &mut usize) -> Option<&'b [u8]> {
    let begin = *at;
    let end = begin + find(bytes.get(begin..)?, b"\r\n")?;
    *at = end + 2;
    Some(&bytes[begin..end])
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Sizes of pieces, which follow from the bytes alone: small ones mostly.
struct Pieces(u64);

impl Pieces {
    fn of(bytes: &[u8]) -> Self {
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix) | 1)
    }

    fn piece(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let bits = self.0 >> 40;
        let most = [1, 2, 7, 61][(bits & 3) as usize];
        1 + (bits >> 2) as usize % most
    }
}

impl Iterator for Pieces {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        Some(self.piece())
    }
}
