//! A body on its way in: pieces, packed or not, become bytes up to the limits. What is beyond is not waited for.

use super::FetchError;
use flate2::write::MultiGzDecoder;
use memchr::memchr_iter;
use std::io::{self, Write};

/// What a body may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Bytes, after decompression.
    pub bytes: u64,
    /// Lines that are neither empty nor comments: each of them is a sample, or nothing that can be read. For text only.
    pub samples: u64,
}

/// Takes in one body.
pub(super) enum Intake {
    Plain(Body),
    Gzip(Box<MultiGzDecoder<Body>>),
}

impl Intake {
    /// `expected`: bytes that it will have, probably.
    pub fn new(packed: bool, expected: usize, bounds: Bounds) -> Self {
        let body = Body {
            bytes: Vec::with_capacity(expected),
            bounds,
            samples: 0,
            line_begins: true,
            refused: None,
        };
        match packed {
            false => Intake::Plain(body),
            true => Intake::Gzip(Box::new(MultiGzDecoder::new(body))),
        }
    }

    /// The next piece.
    pub fn take(&mut self, piece: &[u8]) -> Result<(), FetchError> {
        let taken = match self {
            Intake::Plain(body) => body.write_all(piece),
            Intake::Gzip(gzip) => gzip.write_all(piece),
        };
        taken.map_err(|error| self.why(&error))
    }

    /// All of it.
    pub fn end(mut self) -> Result<Vec<u8>, FetchError> {
        let ended = match &mut self {
            Intake::Plain(_) => Ok(()),
            Intake::Gzip(gzip) => gzip.try_finish(),
        };
        ended.map_err(|error| self.why(&error))?;
        Ok(std::mem::take(&mut self.body().bytes))
    }

    fn body(&mut self) -> &mut Body {
        match self {
            Intake::Plain(body) => body,
            Intake::Gzip(gzip) => gzip.get_mut(),
        }
    }

    fn why(&mut self, error: &io::Error) -> FetchError {
        let refused = self.body().refused.take();
        refused.unwrap_or_else(|| FetchError::Gzip(error.to_string()))
    }
}

/// What was taken in so far.
pub(super) struct Body {
    bytes: Vec<u8>,
    bounds: Bounds,
    samples: u64,
    line_begins: bool,
    /// Which limit it is beyond.
    refused: Option<FetchError>,
}

impl Body {
    fn count_samples(&mut self, piece: &[u8]) {
        let mut begins = |first: &u8| {
            self.samples += u64::from(!matches!(first, b'#' | b'\n' | b'\r' | b' ' | b'\t'));
        };
        if self.line_begins {
            piece.first().map(&mut begins);
        }
        for at in memchr_iter(b'\n', piece) {
            piece.get(at + 1).map(&mut begins);
        }
        if let Some(last) = piece.last() {
            self.line_begins = *last == b'\n';
        }
    }
}

impl Write for Body {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + piece.len()) as u64 > self.bounds.bytes {
            self.refused = Some(FetchError::TooLarge(self.bounds.bytes));
        } else if self.bounds.samples < u64::MAX {
            self.count_samples(piece);
            if self.samples > self.bounds.samples {
                self.refused = Some(FetchError::TooManySamples(self.bounds.samples));
            }
        }
        if self.refused.is_some() {
            return Err(io::Error::other("beyond a limit"));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(packed: bool, pieces: &[&[u8]], bounds: Bounds) -> Result<Vec<u8>, String> {
        let mut intake = Intake::new(packed, 0, bounds);
        for piece in pieces {
            intake.take(piece).map_err(|e| e.to_string())?;
        }
        intake.end().map_err(|e| e.to_string())
    }

    fn zipped(content: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(content).unwrap_or_else(|e| panic!("{e}"));
        gzip.finish().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn samples_are_counted_however_a_page_is_cut() {
        let page = b"# HELP a b\n\n# TYPE a counter\na 1\na{b=\"\"} 2\n  c 3\nd 4";
        let bounds = |samples| Bounds { bytes: 1000, samples };
        for cut in 0..=page.len() {
            let (head, tail) = page.split_at(cut);
            assert_eq!(
                taken(false, &[head, tail], bounds(3)).as_deref(),
                Ok(&page[..]),
                "cut at {cut}"
            );
            let refused = taken(false, &[head, tail], bounds(2));
            assert!(
                refused.is_err_and(|e| e.contains("more than the 2 samples")),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_packed_body_is_unpacked_as_it_comes_and_within_limits() {
        let content = "metric 1\n".repeat(10_000).into_bytes();
        let packed = zipped(&content);
        let pieces: Vec<&[u8]> = packed.chunks(7).collect();
        let free = Bounds {
            bytes: content.len() as u64,
            samples: 10_000,
        };
        assert_eq!(taken(true, &pieces, free), Ok(content.clone()));
        let two = [packed.clone(), packed.clone()].concat();
        let double = Bounds {
            bytes: 2 * free.bytes,
            samples: 20_000,
        };
        assert_eq!(taken(true, &[&two], double).map(|b| b.len()), Ok(2 * content.len()));
        let narrow = Bounds { bytes: 5000, ..free };
        assert!(taken(true, &pieces, narrow).is_err_and(|e| e.contains("larger than the 5000 bytes")));
        let few = Bounds { samples: 9_999, ..free };
        assert!(taken(true, &pieces, few).is_err_and(|e| e.contains("the 9999 samples")));
        let cut = &packed[..packed.len() / 2];
        assert!(
            taken(true, &[cut], free).is_err_and(|e| e.contains("no gzip")),
            "half of it"
        );
        assert!(taken(true, &[&packed[..packed.len() - 1]], free).is_err_and(|e| e.contains("no gzip")));
        assert!(taken(true, &[b"plain text, by no means packed"], free).is_err_and(|e| e.contains("no gzip")));
    }
}
