//! Access logs: one line a request or connection on the process's output, as Envoy words it by default.
//!
//! ```text
//!  head ─▶ Entry (captured once) ─▶ what became of the request ─▶ line ─▶ sink ─▶ output
//! ```
//!
//! Enters: heads of requests, what became of them. Leaves: lines. Whatever a client sends, a request is one line, and no
//! value can be taken for another: what is not plain ASCII, quotes and backslashes are escaped. Where the setting is off
//! nothing of this exists.

mod sink;

pub use sink::AccessLog;

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::route::edit::Editable;

/// What one line tells.
#[derive(Debug)]
pub struct Entry {
    begin: SystemTime,
    /// What came with the request, as it is written: method, path and protocol, then from `tail` on what stands at the end.
    text: Vec<u8>,
    tail: usize,
    /// Its response has no body.
    to_head: bool,
    /// Bytes of the body that the client sent.
    received: u64,
    /// Bytes of the body that it was sent.
    sent: u64,
    /// When the last try began.
    tried: Instant,
    /// From then until the endpoint answered.
    service: Option<Duration>,
    /// The endpoint that was tried last.
    endpoint: Option<SocketAddr>,
}

/// What became of a request or connection.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// HTTP status; 0: there was none.
    pub status: u16,
    /// Why there is no answer of an endpoint, in Envoy's letters.
    pub flags: &'a str,
    /// Until all was over.
    pub duration: Duration,
}

impl Entry {
    /// Reads the head of a request as the endpoint gets it, completed with what every request has.
    pub fn read(head: &mut impl Editable, request_id: bool) -> Box<Self> {
        head.settle(request_id);
        let mut text = Vec::with_capacity(256);
        escape(&mut text, head.method().as_bytes());
        text.push(b' ');
        if !values(&mut text, head, "x-envoy-original-path") {
            escape(&mut text, head.target().as_bytes());
        }
        text.push(b' ');
        text.extend_from_slice(head.protocol().as_bytes());
        let tail = text.len();
        for name in ["x-forwarded-for", "user-agent", "x-request-id"] {
            text.extend_from_slice(b" \"");
            if !values(&mut text, head, name) {
                text.push(b'-');
            }
            text.push(b'"');
        }
        text.extend_from_slice(b" \"");
        match head.host() {
            "" => text.push(b'-'),
            host => escape(&mut text, host.as_bytes()),
        }
        text.push(b'"');
        Self::new(text, tail, head.method() == "HEAD")
    }

    /// Of something that was no request, or is none of HTTP.
    pub fn unread(protocol: &str) -> Box<Self> {
        let text = format!("- - {protocol} \"-\" \"-\" \"-\" \"-\"");
        let tail = "- - ".len() + protocol.len();
        Self::new(text.into_bytes(), tail, false)
    }

    fn new(text: Vec<u8>, tail: usize, to_head: bool) -> Box<Self> {
        Box::new(Self {
            begin: SystemTime::now(),
            text,
            tail,
            to_head,
            received: 0,
            sent: 0,
            tried: Instant::now(),
            service: None,
            endpoint: None,
        })
    }

    /// Where a try goes.
    pub fn tried(&mut self, address: SocketAddr) {
        self.endpoint = Some(address);
        self.tried = Instant::now();
    }

    /// The endpoint that was tried last answered.
    pub fn answered(&mut self) {
        self.service = Some(self.tried.elapsed());
    }

    /// So many bytes of the request's body came. A try that reads it anew says the same again.
    pub fn received(&mut self, bytes: u64) {
        self.received = self.received.max(bytes);
    }

    /// So many bytes of a response's body went to the client.
    pub fn sent(&mut self, bytes: u64) {
        self.sent = if self.to_head { 0 } else { bytes };
    }

    /// The line, with its end.
    pub fn line(&self, outcome: &Outcome<'_>) -> Vec<u8> {
        let (request, tail) = self.text.split_at(self.tail);
        let mut line = Vec::with_capacity(self.text.len() + 128);
        line.push(b'[');
        write_time(&mut line, self.begin);
        line.extend_from_slice(b"] \"");
        line.extend_from_slice(request);
        let Outcome {
            status,
            flags,
            duration,
        } = outcome;
        // Writing into a vector cannot fail.
        let _ = write!(
            line,
            "\" {status} {flags} {} {} {} ",
            self.received,
            self.sent,
            duration.as_millis()
        );
        let _ = match self.service {
            Some(service) => write!(line, "{}", service.as_millis()),
            None => write!(line, "-"),
        };
        line.extend_from_slice(tail);
        let _ = match self.endpoint {
            Some(endpoint) => writeln!(line, " \"{endpoint}\""),
            None => writeln!(line, " \"-\""),
        };
        line
    }
}

/// Writes all values of a header as one; `false`: there is none.
fn values(text: &mut Vec<u8>, head: &impl Editable, name: &str) -> bool {
    let mut any = false;
    head.values(name, &mut |value| {
        if std::mem::replace(&mut any, true) {
            text.push(b',');
        }
        escape(text, value);
    });
    any
}

/// Writes a value so that it ends neither its quotes nor its line.
fn escape(text: &mut Vec<u8>, value: &[u8]) {
    for byte in value {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => text.push(*byte),
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
}

/// Writes a time as ISO 8601 has it, in UTC, with milliseconds.
fn write_time(text: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
    );
}

/// Year, month and day of a day counted from 1970-01-01. Counted in years that begin with March, so that the day which
/// leap years have more is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01 on; 146,097 days are 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (400 * era + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(seconds: u64, millis: u32) -> String {
        let mut text = Vec::new();
        write_time(&mut text, UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000));
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, millis, expected) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.001Z"),
            (951_868_800, 50, "2000-03-01T00:00:00.050Z"),
            (1_767_225_599, 0, "2025-12-31T23:59:59.000Z"),
            (1_795_435_200, 123, "2026-11-23T12:00:00.123Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(text_of(seconds, millis), expected);
        }
        // Each day follows the one before.
        let mut before = date(0);
        for days in 1..60_000 {
            let (year, month, day) = date(days);
            let next = match before {
                (y, m, d) if day == 1 && month == 1 => (y + 1, m - 11, d - 30),
                (y, m, _) if day == 1 => (y, m + 1, 1),
                (y, m, d) => (y, m, d + 1),
            };
            assert_eq!((year, month, day), next, "day {days}");
            before = next;
        }
    }

    #[test]
    fn no_value_ends_its_quotes_or_its_line() {
        let mut text = Vec::new();
        escape(&mut text, b"a\" 200 - \\\r\n\t[x]\x7f\xc3\xa9\0");
        assert_eq!(text, br#"a\" 200 - \\\x0d\x0a\x09[x]\x7f\xc3\xa9\x00"#);
    }

    #[test]
    fn a_connection_has_no_head() {
        let mut entry = Entry::unread("-");
        entry.begin = UNIX_EPOCH;
        entry.received(3);
        entry.received(2);
        entry.sent(7);
        let outcome = Outcome {
            status: 0,
            flags: "UF",
            duration: Duration::from_micros(12_999),
        };
        let line = |entry: &Entry| String::from_utf8(entry.line(&outcome)).unwrap();
        assert_eq!(
            line(&entry),
            "[1970-01-01T00:00:00.000Z] \"- - -\" 0 UF 3 7 12 - \"-\" \"-\" \"-\" \"-\" \"-\"\n"
        );
        entry.endpoint = Some(([10, 0, 0, 1], 80).into());
        entry.service = Some(Duration::from_millis(4));
        assert_eq!(
            line(&entry),
            "[1970-01-01T00:00:00.000Z] \"- - -\" 0 UF 3 7 12 4 \"-\" \"-\" \"-\" \"-\" \"10.0.0.1:80\"\n"
        );
    }
}
