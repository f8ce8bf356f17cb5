//! Chunked bodies (RFC 9112, 7.1): where they end, and what of them is content.
//!
//! Enters: bytes in any pieces. Leaves: how many of them belong to the body, and the content among them. Strict: whatever
//! another reader might take for a different length is refused. Pure: no I/O.

use std::ops::Range;

use super::head::{Malformed, is_token};

/// Bytes of one line of size and extensions at most.
const LINE_BYTES_MAX: u32 = 4096;
/// Bytes of all extensions of a body at most: a chunk of one byte must not cost kilobytes again and again.
const EXTENSIONS_BYTES_MAX: u32 = 64 * 1024;
/// Bytes of all trailers at most.
pub const TRAILERS_BYTES_MAX: usize = 16 * 1024;
/// The longest name of those that are looked at.
const NAME_BYTES_MAX: usize = 17;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size, or behind some.
    Size {
        digits: u8,
    },
    Extension,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    /// At the beginning of a trailer, or of the last line.
    Line,
    Name,
    Value,
    LineEnd,
    LastEnd,
    Done,
}

/// The state of one body.
#[derive(Debug, Clone)]
pub struct Chunked {
    state: State,
    /// Bytes of the chunk that are still to come.
    left: u64,
    /// Bytes of content that were seen.
    content: u64,
    line: u32,
    extensions: u32,
    name: [u8; NAME_BYTES_MAX],
    name_length: usize,
    /// The trailers as they stand, with the empty line; kept for those who translate them.
    trailers: Vec<u8>,
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            state: State::Size { digits: 0 },
            left: 0,
            content: 0,
            line: 0,
            extensions: 0,
            name: [0; NAME_BYTES_MAX],
            name_length: 0,
            trailers: Vec::new(),
        }
    }
}

const BAD_CHUNK: Malformed = Malformed::Framing("a bad chunk");
const BAD_TRAILER: Malformed = Malformed::Syntax("a bad trailer");

impl Chunked {
    /// Whether the whole body was seen.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of content that were seen.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// The trailers' lines with the empty line behind them, once all was seen.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// How many of `bytes` belong to the body.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut used = 0;
        while used < bytes.len() && !self.is_done() {
            used += self.step(&bytes[used..])?.0;
        }
        Ok(used)
    }

    /// Goes on by at least one byte of `bytes`, which is not empty. Returns how many were used, and which of them are content.
    pub fn step(&mut self, bytes: &[u8]) -> Result<(usize, Range<usize>), Malformed> {
        if self.state == State::Data {
            let run = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= run as u64;
            self.content += run as u64;
            if self.left == 0 {
                self.state = State::DataReturn;
            }
            return Ok((run, 0..run));
        }
        let mut used = 0;
        for byte in bytes {
            if matches!(self.state, State::Data | State::Done) {
                break;
            }
            self.byte(*byte)?;
            used += 1;
        }
        Ok((used, 0..0))
    }

    fn byte(&mut self, byte: u8) -> Result<(), Malformed> {
        self.state = match self.state {
            State::Size { digits } => self.size(byte, digits)?,
            State::Extension => self.extension(byte)?,
            State::SizeEnd if byte == b'\n' => {
                self.line = 0;
                if self.left == 0 { State::Line } else { State::Data }
            }
            State::DataReturn if byte == b'\r' => State::DataEnd,
            State::DataEnd if byte == b'\n' => State::Size { digits: 0 },
            State::Line | State::Name | State::Value | State::LineEnd | State::LastEnd => {
                if self.trailers.len() >= TRAILERS_BYTES_MAX {
                    return Err(Malformed::TooLarge);
                }
                self.trailers.push(byte);
                self.trailer(byte)?
            }
            _ => return Err(BAD_CHUNK),
        };
        Ok(())
    }

    fn size(&mut self, byte: u8, digits: u8) -> Result<State, Malformed> {
        let digit = char::from(byte).to_digit(16);
        match (digit, byte) {
            // Sixteen digits fill 64 bits: no overflow, and no endless zeros.
            (Some(digit), _) if digits < 16 => {
                if digits == 0 {
                    self.left = 0;
                }
                self.left = (self.left << 4) | u64::from(digit);
                Ok(State::Size { digits: digits + 1 })
            }
            (None, b'\r') if digits > 0 => Ok(State::SizeEnd),
            (None, b';') if digits > 0 => Ok(State::Extension),
            _ => Err(BAD_CHUNK),
        }
    }

    fn extension(&mut self, byte: u8) -> Result<State, Malformed> {
        self.line += 1;
        self.extensions += 1;
        if self.line > LINE_BYTES_MAX || self.extensions > EXTENSIONS_BYTES_MAX {
            return Err(Malformed::TooLarge);
        }
        match byte {
            b'\r' => Ok(State::SizeEnd),
            b'\t' | b' '..=b'~' | 0x80.. => Ok(State::Extension),
            _ => Err(BAD_CHUNK),
        }
    }

    fn trailer(&mut self, byte: u8) -> Result<State, Malformed> {
        match self.state {
            State::Line if byte == b'\r' => Ok(State::LastEnd),
            State::LastEnd if byte == b'\n' => Ok(State::Done),
            State::Line | State::Name if is_token(byte) => {
                if self.state == State::Line {
                    self.name_length = 0;
                }
                if let Some(place) = self.name.get_mut(self.name_length) {
                    *place = byte.to_ascii_lowercase();
                }
                self.name_length += 1;
                Ok(State::Name)
            }
            State::Name if byte == b':' => {
                let name = self.name.get(..self.name_length);
                if name.is_some_and(|name| FORBIDDEN.contains(&name)) {
                    return Err(Malformed::Framing("a trailer that belongs into the head"));
                }
                Ok(State::Value)
            }
            State::Value if byte == b'\r' => Ok(State::LineEnd),
            State::Value if byte == b'\t' || (byte >= b' ' && byte != 0x7f) => Ok(State::Value),
            State::LineEnd if byte == b'\n' => Ok(State::Line),
            _ => Err(BAD_TRAILER),
        }
    }
}

/// Trailers that would change how a message is read or where it goes (RFC 9110, 6.5.1).
const FORBIDDEN: [&[u8]; 8] = [
    b"content-length",
    b"transfer-encoding",
    b"host",
    b"connection",
    b"upgrade",
    b"te",
    b"trailer",
    b"keep-alive",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(body: &[u8]) -> Result<(usize, Vec<u8>, bool), Malformed> {
        let mut chunked = Chunked::default();
        let (mut used, mut content) = (0, Vec::new());
        while used < body.len() && !chunked.is_done() {
            let (n, range) = chunked.step(&body[used..])?;
            content.extend_from_slice(&body[used..][range]);
            used += n;
        }
        Ok((used, content, chunked.is_done()))
    }

    #[test]
    fn bodies_end_where_they_say() {
        for (body, content, rest) in [
            (&b"0\r\n\r\n"[..], &b""[..], 0),
            (b"5\r\nhello\r\n0\r\n\r\nGET", b"hello", 3),
            (b"5;a=b\r\nhello\r\n00\r\nX-Sum: 1\r\n\r\n", b"hello", 0),
            (
                b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
                b"01234567890123456789a",
                0,
            ),
        ] {
            let (used, found, done) = whole(body).unwrap();
            assert!(done, "{body:?}");
            assert_eq!((found.as_slice(), body.len() - used), (content, rest));
        }
    }

    #[test]
    fn what_others_could_read_differently_is_refused() {
        for body in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"+5\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"0x5\r\n",
            b"5\n",
            b"5\rx",
            b"5;a\nb\r\n",
            b"5;a\rb",
            b"5\r\nhelloX",
            b"5\r\nhello\n",
            b"11111111111111111\r\n",
            b"00000000000000000\r\n",
            b"0\r\nContent-Length: 5\r\n\r\n",
            b"0\r\nTransfer-Encoding: x\r\n",
            b"0\r\n folded",
            b"0\r\nname : v\r\n",
            b"0\r\nname: v\n",
            b"0\r\n: v\r\n",
            b"0\r\nname\r\n",
            b"0\r\na: \0\r\n",
            b"0\r\n\n",
        ] {
            assert!(whole(body).is_err(), "{:?}", String::from_utf8_lossy(body));
        }
        let long = [b"5;".to_vec(), vec![b'a'; 5000]].concat();
        assert_eq!(whole(&long), Err(Malformed::TooLarge));
        let trailers = [b"0\r\na: ".to_vec(), vec![b'a'; TRAILERS_BYTES_MAX + 1]].concat();
        assert_eq!(whole(&trailers), Err(Malformed::TooLarge));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(sizes in proptest::collection::vec(1usize..50, 0..6), cut in 0usize..200) {
            let mut body = Vec::new();
            for size in &sizes {
                body.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                body.extend(std::iter::repeat_n(b'x', *size));
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\nx-sum: 7\r\n\r\n");
            let mut chunked = Chunked::default();
            let cut = cut.min(body.len());
            prop_assert_eq!(chunked.scan(&body[..cut]).unwrap(), cut);
            prop_assert_eq!(chunked.scan(&body[cut..]).unwrap(), body.len() - cut);
            prop_assert!(chunked.is_done());
            prop_assert_eq!(chunked.trailers(), b"x-sum: 7\r\n\r\n");
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = whole(&bytes);
        }
    }
}
