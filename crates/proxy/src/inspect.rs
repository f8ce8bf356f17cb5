//! What protocol the first bytes of a connection show.
//!
//! Enters: a connection. Leaves: the bytes read so far and a verdict. Reads at most [`HEAD_BYTES_MAX`]; whoever goes on
//! with the connection starts with these bytes.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// A request line must end within this many bytes.
pub const HEAD_BYTES_MAX: usize = 8192;
/// The longest method that counts as one.
const METHOD_BYTES_MAX: usize = 32;
/// The kind of a TLS record with which a handshake begins; its version follows (RFC 8446, 5.1).
const HANDSHAKE: u8 = 0x16;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// How listeners name HTTP/2 without encryption.
pub const H2C: &str = "h2c";

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Too few to tell.
    Unsure,
    /// A request line of HTTP/1.0.
    Http10,
    /// A request line of HTTP/1.1.
    Http11,
    /// HTTP/2 without encryption.
    H2c,
    /// The first record of a TLS handshake.
    Tls,
    /// Anything else.
    Other,
}

impl Verdict {
    /// As listeners name it.
    pub fn protocol(self) -> Option<&'static str> {
        match self {
            Self::Http10 => Some("http/1.0"),
            Self::Http11 => Some("http/1.1"),
            Self::H2c => Some(H2C),
            Self::Tls => Some("tls"),
            Self::Unsure | Self::Other => None,
        }
    }
}

/// Reads until the protocol is clear, the client stops sending, or time is up. The flag says that time was up.
pub async fn inspect(stream: &mut TcpStream, limit: Duration) -> io::Result<(Bytes, Verdict, bool)> {
    let mut first = BytesMut::new();
    let reading = async {
        loop {
            if stream.read_buf(&mut first).await? == 0 {
                return Ok::<_, io::Error>(Verdict::Other);
            }
            match verdict(&first) {
                Verdict::Unsure => {}
                clear => return Ok(clear),
            }
        }
    };
    match tokio::time::timeout(limit, reading).await {
        Ok(verdict) => verdict.map(|v| (first.freeze(), v, false)),
        Err(_) => Ok((first.freeze(), Verdict::Other, true)),
    }
}

/// Judges first bytes.
pub fn verdict(bytes: &[u8]) -> Verdict {
    if PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]) {
        return if bytes.len() >= PREFACE.len() {
            Verdict::H2c
        } else {
            Verdict::Unsure
        };
    }
    if bytes == b"\r" || bytes == [HANDSHAKE] {
        return Verdict::Unsure;
    }
    if bytes.starts_with(&[HANDSHAKE, 3]) {
        return Verdict::Tls;
    }
    // A server must ignore an empty line before the request line (RFC 9112, 2.2).
    let line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let method = line.iter().take_while(|b| is_token(**b)).count();
    match line.get(method) {
        None if method <= METHOD_BYTES_MAX => return Verdict::Unsure,
        Some(b' ') if (1..=METHOD_BYTES_MAX).contains(&method) => {}
        _ => return Verdict::Other,
    }
    let Some(end) = line.iter().position(|b| *b == b'\n') else {
        let text = line.iter().all(|b| *b >= b' ' && *b != 0x7f || *b == b'\r');
        return if text && line.len() < HEAD_BYTES_MAX {
            Verdict::Unsure
        } else {
            Verdict::Other
        };
    };
    let request_line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
    if request_line.ends_with(b" HTTP/1.1") {
        Verdict::Http11
    } else if request_line.ends_with(b" HTTP/1.0") {
        Verdict::Http10
    } else {
        Verdict::Other
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn request_lines_are_http_and_other_first_words_are_not() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Verdict::Http11),
            (b"\r\nPURGE /x?y HTTP/1.0\r\nHost: a\r\n", Verdict::Http10),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Verdict::H2c),
            (b"PRI * HT", Verdict::Unsure),
            (b"GE", Verdict::Unsure),
            (b"GET /long", Verdict::Unsure),
            (b"", Verdict::Unsure),
            (b"\r", Verdict::Unsure),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Verdict::Other),
            (b"\x16", Verdict::Unsure),
            (b"\x16\x03\x01\x02\x00", Verdict::Tls),
            (b"GET / SPDY/3\r\n", Verdict::Other),
            (b"GET \x01", Verdict::Other),
            (b" GET / HTTP/1.1\r\n", Verdict::Other),
        ] {
            assert_eq!(verdict(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(verdict(&[b'a'; METHOD_BYTES_MAX + 1]), Verdict::Other);
        let endless = [b"GET /".to_vec(), vec![b'a'; HEAD_BYTES_MAX]].concat();
        assert_eq!(verdict(&endless), Verdict::Other);
    }

    proptest! {
        /// More bytes never change a verdict that was clear.
        #[test]
        fn a_clear_verdict_stays(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let early = verdict(&bytes[..cut.min(bytes.len())]);
            if early != Verdict::Unsure {
                prop_assert_eq!(verdict(&bytes), early);
            }
        }

        #[test]
        fn http_in_pieces_is_http(path in "/[a-z]{0,30}", cut in 0usize..60) {
            let line = format!("GET {path} HTTP/1.1\r\n");
            let early = verdict(&line.as_bytes()[..cut.min(line.len())]);
            prop_assert!(matches!(early, Verdict::Unsure | Verdict::Http11));
            prop_assert_eq!(verdict(line.as_bytes()), Verdict::Http11);
        }
    }
}
