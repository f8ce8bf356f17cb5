//! Bodies that were compressed with gzip (RFC 1952).
//!
//! Enters: a compressed body. Leaves: its content, checked by length and checksum, or what is wrong. The content has a limit:
//! a small body must not become a large one. Pure.

use flate2::bufread::GzDecoder;
use std::io::{ErrorKind, Read as _};

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

fn malformed<T>(what: &'static str) -> Result<T, Refused> {
    Err(Refused::Malformed(what))
}

/// The content of a body, of `limit` bytes at most.
pub fn content(body: &[u8], limit: usize) -> Result<Vec<u8>, Refused> {
    let mut out = Vec::new();
    let mut decoder = GzDecoder::new(body);
    // One byte more than is allowed tells that there is more.
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    if let Err(error) = decoder.by_ref().take(most).read_to_end(&mut out) {
        return match error.kind() {
            ErrorKind::UnexpectedEof => malformed("it ends early"),
            _ if error.to_string().contains("checksum") => malformed("the checksum is wrong"),
            _ if out.is_empty() => malformed("it does not begin as one"),
            _ => malformed("it is damaged"),
        };
    }
    if out.len() > limit {
        return Err(Refused::TooLarge);
    }
    if !decoder.get_ref().is_empty() {
        return malformed("something follows its end");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;
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
