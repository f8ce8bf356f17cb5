//! What protocol the first bytes of a connection show.
//!
//! Enters: a connection. Leaves: the bytes read so far, a verdict, and the name that a TLS handshake asks for. Reads at most
//! [`HEAD_BYTES_MAX`], or [`HELLO_BYTES_MAX`] of a handshake; whoever goes on with the connection starts with these bytes.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// A request line must end within this many bytes.
pub const HEAD_BYTES_MAX: usize = 8192;
/// The first message of a TLS handshake must end within this many bytes where its name matters.
pub const HELLO_BYTES_MAX: usize = 65_536;
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

/// What the first bytes of a connection showed.
#[derive(Debug)]
pub struct Seen {
    /// Those bytes.
    pub first: Bytes,
    /// What they are.
    pub verdict: Verdict,
    /// The name that a TLS handshake asks for, lower case.
    pub server_name: Option<Box<str>>,
    /// Time was up before this was clear.
    pub late: bool,
}

/// Reads until the protocol is clear (and of a TLS handshake, where `names` is set, the name), the client stops sending,
/// or time is up.
pub async fn inspect(stream: &mut TcpStream, limit: Duration, names: bool) -> io::Result<Seen> {
    let mut first = BytesMut::new();
    let mut server_name = None;
    let reading = async {
        let mut hello = Hello::default();
        loop {
            if stream.read_buf(&mut first).await? == 0 {
                return Ok::<_, io::Error>(Verdict::Other);
            }
            match verdict(&first) {
                Verdict::Unsure => {}
                Verdict::Tls if names => {
                    if let Some(name) = hello.read(&first) {
                        server_name = name;
                        return Ok(Verdict::Tls);
                    }
                }
                clear => return Ok(clear),
            }
        }
    };
    let (verdict, late) = match tokio::time::timeout(limit, reading).await {
        Ok(verdict) => (verdict?, false),
        Err(_) => (Verdict::Other, true),
    };
    Ok(Seen {
        first: first.freeze(),
        verdict,
        server_name,
        late,
    })
}

/// A TLS handshake's first message while it comes in.
#[derive(Default)]
struct Hello {
    acceptor: Acceptor,
    /// Bytes that the acceptor has had.
    taken: usize,
}

impl Hello {
    /// The name in the message once it is whole; `None`: more bytes are needed. What is no such message has no name.
    fn read(&mut self, bytes: &[u8]) -> Option<Option<Box<str>>> {
        let mut rest = bytes.get(self.taken..).unwrap_or_default();
        while !rest.is_empty() {
            if !matches!(self.acceptor.read_tls(&mut rest), Ok(1..)) {
                return Some(None);
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                    return Some(name.map(Into::into));
                }
                Err(_) => return Some(None),
            }
        }
        self.taken = bytes.len();
        (bytes.len() >= HELLO_BYTES_MAX).then_some(None)
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

    /// The first message of a handshake for a name.
    fn hello(name: &str) -> Vec<u8> {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_name_of_a_handshake_comes_in_pieces_or_whole() {
        let whole = hello("A.Example.com");
        assert_eq!(Hello::default().read(&whole), Some(Some("a.example.com".into())));
        let mut pieces = Hello::default();
        for end in 1..whole.len() {
            assert_eq!(pieces.read(&whole[..end]), None, "after {end} bytes");
        }
        assert_eq!(pieces.read(&whole), Some(Some("a.example.com".into())));
        assert_eq!(
            Hello::default().read(&hello("127.0.0.1")),
            Some(None),
            "an address is no name"
        );
        assert_eq!(Hello::default().read(b"\x16\x03\x01\x00\x05hello"), Some(None));
    }

    proptest! {
        #[test]
        fn no_handshake_panics(at in 0usize..200, value: u8, cut in 0usize..300) {
            let mut bytes = hello("a.example.com");
            let place = at % bytes.len();
            bytes[place] = value;
            bytes.truncate(cut);
            let _ = Hello::default().read(&bytes);
        }

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
