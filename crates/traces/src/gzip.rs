//! Bodies that were compressed with gzip (RFC 1952, RFC 1951).
//!
//! Enters: a compressed body. Leaves: its content, checked by length and checksum, or what is wrong. The content has a limit:
//! a small body must not become a large one. Pure.

/// Why a body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not what it says.
    #[error("the body is no gzip: {0}")]
    Malformed(&'static str),
    /// Its content is longer than allowed.
    #[error("the body has more content than is allowed")]
    TooLarge,
}

type Read<T> = Result<T, Refused>;

fn malformed<T>(what: &'static str) -> Read<T> {
    Err(Refused::Malformed(what))
}

const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const HEADER_CHECKSUM: u8 = 2;
/// The longest code.
const CODE_BITS: usize = 15;
/// The order in which lengths of lengths come.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const LENGTH_BASE: [u16; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258,
];
const LENGTH_BITS: [u8; 29] = [
    0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
];
const DISTANCE_BASE: [u16; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
    8193, 12289, 16385, 24577,
];
const DISTANCE_BITS: [u8; 30] = [
    0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13,
];

/// The content of a body, of `limit` bytes at most.
pub fn content(body: &[u8], limit: usize) -> Read<Vec<u8>> {
    let mut bits = Bits {
        bytes: skip_header(body)?,
        held: 0,
        count: 0,
    };
    let mut out = Vec::new();
    while !block(&mut bits, &mut out, limit)? {}
    let trailer = bits.bytes.get(..8).and_then(|t| t.split_first_chunk::<4>());
    let Some((sum, length)) = trailer else {
        return malformed("it ends early");
    };
    let whole = u32::try_from(out.len() & 0xffff_ffff).unwrap_or(0);
    if length != whole.to_le_bytes() || u32::from_le_bytes(*sum) != checksum(&out) {
        return malformed("the checksum is wrong");
    }
    if bits.bytes.len() > 8 {
        return malformed("something follows its end");
    }
    Ok(out)
}

fn skip_header(body: &[u8]) -> Read<&[u8]> {
    let (Some(&[0x1f, 0x8b, 8, flags]), Some(mut rest)) = (body.first_chunk::<4>(), body.get(10..)) else {
        return malformed("it does not begin as one");
    };
    if flags & EXTRA != 0 {
        let Some((length, after)) = rest.split_first_chunk::<2>() else {
            return malformed("it ends early");
        };
        rest = after
            .get(usize::from(u16::from_le_bytes(*length))..)
            .unwrap_or_default();
    }
    for flag in [NAME, COMMENT] {
        if flags & flag != 0 {
            let end = rest.iter().position(|b| *b == 0);
            rest = end.and_then(|end| rest.get(end + 1..)).unwrap_or_default();
        }
    }
    if flags & HEADER_CHECKSUM != 0 {
        rest = rest.get(2..).unwrap_or_default();
    }
    Ok(rest)
}

/// Bytes, bit by bit, the lowest first.
struct Bits<'a> {
    bytes: &'a [u8],
    held: u32,
    count: u32,
}

impl Bits<'_> {
    /// The next bits, up to 16.
    fn take(&mut self, wanted: u32) -> Read<u32> {
        while self.count < wanted {
            let Some((byte, rest)) = self.bytes.split_first() else {
                return malformed("it ends early");
            };
            self.held |= u32::from(*byte) << self.count;
            self.count += 8;
            self.bytes = rest;
        }
        let bits = self.held & ((1 << wanted) - 1);
        self.held >>= wanted;
        self.count -= wanted;
        Ok(bits)
    }

    /// What is left of a byte is passed over.
    fn align(&mut self) {
        (self.held, self.count) = (0, 0);
    }
}

/// A code by the lengths of its words (RFC 1951, 3.2.2).
struct Code {
    /// Words of each length.
    counts: [u16; CODE_BITS + 1],
    /// What they stand for, by length and then in order.
    symbols: Vec<u16>,
}

impl Code {
    fn new(lengths: &[u8]) -> Read<Self> {
        let mut counts = [0u16; CODE_BITS + 1];
        for length in lengths {
            counts[usize::from(*length)] += 1;
        }
        counts[0] = 0;
        let mut left = 1i32;
        for count in &counts[1..] {
            left = left * 2 - i32::from(*count);
            if left < 0 {
                return malformed("a code has too many words");
            }
        }
        let mut symbols = Vec::with_capacity(lengths.len());
        for wanted in 1..=CODE_BITS {
            let of_length = lengths.iter().enumerate().filter(|(_, l)| usize::from(**l) == wanted);
            symbols.extend(of_length.filter_map(|(symbol, _)| u16::try_from(symbol).ok()));
        }
        Ok(Self { counts, symbols })
    }

    /// The next word.
    fn read(&self, bits: &mut Bits<'_>) -> Read<usize> {
        let (mut code, mut first, mut index) = (0u32, 0u32, 0u32);
        for count in &self.counts[1..] {
            code |= bits.take(1)?;
            let count = u32::from(*count);
            if code < first + count {
                let at = usize::try_from(index + code - first).unwrap_or(usize::MAX);
                return self
                    .symbols
                    .get(at)
                    .map_or(malformed("an unknown word"), |s| Ok(usize::from(*s)));
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        malformed("an unknown word")
    }
}

/// Reads a block; whether it was the last.
fn block(bits: &mut Bits<'_>, out: &mut Vec<u8>, limit: usize) -> Read<bool> {
    let last = bits.take(1)? == 1;
    match bits.take(2)? {
        0 => stored(bits, out, limit)?,
        1 => {
            let mut lengths = [8u8; 288];
            lengths[144..256].fill(9);
            lengths[256..280].fill(7);
            words(bits, out, limit, &Code::new(&lengths)?, &Code::new(&[5; 30])?)?;
        }
        2 => {
            let (letters, distances) = codes(bits)?;
            words(bits, out, limit, &letters, &distances)?;
        }
        _ => return malformed("a block of no known kind"),
    }
    if last {
        bits.align();
    }
    Ok(last)
}

fn stored(bits: &mut Bits<'_>, out: &mut Vec<u8>, limit: usize) -> Read<()> {
    bits.align();
    let Some((head, rest)) = bits.bytes.split_first_chunk::<4>() else {
        return malformed("it ends early");
    };
    let [a, b, c, d] = *head;
    let length = u16::from_le_bytes([a, b]);
    if length != !u16::from_le_bytes([c, d]) {
        return malformed("a block's length is wrong");
    }
    let Some((content, rest)) = rest.split_at_checked(usize::from(length)) else {
        return malformed("it ends early");
    };
    bits.bytes = rest;
    if out.len() + content.len() > limit {
        return Err(Refused::TooLarge);
    }
    out.extend_from_slice(content);
    Ok(())
}

/// The codes of a block that brings its own.
fn codes(bits: &mut Bits<'_>) -> Read<(Code, Code)> {
    let size = |bits: &mut Bits<'_>, width, base: usize| -> Read<usize> {
        Ok(base + usize::try_from(bits.take(width)?).unwrap_or(0))
    };
    let (letters, distances, lengths) = (size(bits, 5, 257)?, size(bits, 5, 1)?, size(bits, 4, 4)?);
    if letters > 286 || distances > 30 {
        return malformed("a code with too many letters");
    }
    let mut of_lengths = [0u8; 19];
    for place in &ORDER[..lengths] {
        of_lengths[*place] = u8::try_from(bits.take(3)?).unwrap_or(0);
    }
    let code = Code::new(&of_lengths)?;
    let mut all: Vec<u8> = Vec::with_capacity(letters + distances);
    while all.len() < letters + distances {
        let (value, times) = match code.read(bits)? {
            16 => match all.last() {
                Some(value) => (*value, size(bits, 2, 3)?),
                None => return malformed("a repetition of nothing"),
            },
            17 => (0, size(bits, 3, 3)?),
            18 => (0, size(bits, 7, 11)?),
            length => (u8::try_from(length).unwrap_or(0), 1),
        };
        all.extend(std::iter::repeat_n(value, times));
    }
    if all.len() != letters + distances || all[256] == 0 {
        return malformed("a code that does not fit");
    }
    Ok((Code::new(&all[..letters])?, Code::new(&all[letters..])?))
}

fn words(bits: &mut Bits<'_>, out: &mut Vec<u8>, limit: usize, letters: &Code, distances: &Code) -> Read<()> {
    loop {
        let symbol = letters.read(bits)?;
        match symbol {
            0..=255 => {
                if out.len() >= limit {
                    return Err(Refused::TooLarge);
                }
                out.push(u8::try_from(symbol).unwrap_or(0));
            }
            256 => return Ok(()),
            _ => {
                let at = symbol - 257;
                let (Some(base), Some(more)) = (LENGTH_BASE.get(at), LENGTH_BITS.get(at)) else {
                    return malformed("an unknown length");
                };
                let length = usize::from(*base) + usize::try_from(bits.take(u32::from(*more))?).unwrap_or(0);
                let at = distances.read(bits)?;
                let (Some(base), Some(more)) = (DISTANCE_BASE.get(at), DISTANCE_BITS.get(at)) else {
                    return malformed("an unknown distance");
                };
                let back = usize::from(*base) + usize::try_from(bits.take(u32::from(*more))?).unwrap_or(0);
                let Some(from) = out.len().checked_sub(back) else {
                    return malformed("a distance beyond the beginning");
                };
                if out.len() + length > limit {
                    return Err(Refused::TooLarge);
                }
                // What is copied may be what was just written.
                for at in from..from + length {
                    out.push(out[at]);
                }
            }
        }
    }
}

/// The checksum of RFC 1952.
fn checksum(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut at = 0;
        while at < 256 {
            // Not more than a byte.
            #[allow(clippy::cast_possible_truncation)]
            let mut value = at as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 {
                    0xedb8_8320 ^ (value >> 1)
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[at] = value;
            at += 1;
        }
        table
    };
    let step = |sum: u32, byte: &u8| {
        let at = usize::try_from((sum ^ u32::from(*byte)) & 0xff).unwrap_or(0);
        TABLE[at] ^ (sum >> 8)
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};

    /// Compressed by the program that everybody has.
    fn gzip(content: &[u8], level: &str) -> Vec<u8> {
        let mut child = Command::new("gzip")
            .args([level, "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs the program gzip");
        let mut input = child.stdin.take().unwrap();
        let bytes = content.to_vec();
        let writing = std::thread::spawn(move || input.write_all(&bytes));
        let mut out = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
        writing.join().unwrap().unwrap();
        assert!(child.wait().unwrap().success());
        out
    }

    #[test]
    fn what_gzip_packs_is_unpacked() {
        let noise: Vec<u8> = (0..100_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let text = "{\"traceId\":\"0123456789abcdef\",\"id\":\"1\"},"
            .repeat(5000)
            .into_bytes();
        let mixed = [&text[..70_000], &noise[..30_000], &text[..50_000]].concat();
        for bytes in [
            &b""[..],
            b"a",
            b"hello hello hello",
            &noise,
            &text,
            &mixed,
            &[0; 300_000],
        ] {
            for level in ["-1", "-6", "-9"] {
                let packed = gzip(bytes, level);
                assert_eq!(
                    content(&packed, bytes.len()).as_deref(),
                    Ok(bytes),
                    "{} bytes {level}",
                    bytes.len()
                );
                if !bytes.is_empty() {
                    assert_eq!(content(&packed, bytes.len() - 1), Err(Refused::TooLarge));
                }
                for end in [1, 9, packed.len() / 2, packed.len() - 1] {
                    assert!(
                        matches!(content(&packed[..end], 1 << 20), Err(Refused::Malformed(_))),
                        "{end}"
                    );
                }
            }
        }
        let mut packed = gzip(b"hello", "-6");
        let last = packed.len() - 5;
        packed[last] ^= 1;
        assert_eq!(content(&packed, 10), malformed("the checksum is wrong"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = content(&bytes, 1000);
            let _ = content(&[&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0][..], &bytes].concat(), 1000);
        }

        #[test]
        fn no_damage_panics(at in 0usize..200, value: u8) {
            let mut packed = gzip(b"some text, some more text, and some text again 0123456789", "-9");
            let place = at % packed.len();
            packed[place] = value;
            let _ = content(&packed, 1000);
        }
    }
}
