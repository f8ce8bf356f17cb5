//! Files of records: a header that says what the file is, then for each record its length, its checksum and its bytes.

use super::crc::crc32c;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// The first bytes of a log.
pub(crate) const LOG: &[u8; 8] = b"WEIRLOG1";
/// The first bytes of a snapshot.
pub(crate) const SNAPSHOT: &[u8; 8] = b"WEIRSNP1";
/// Bytes before each record: length and checksum, both little-endian.
pub(crate) const HEAD: usize = 8;

/// Appends a record; `write` appends its bytes, less than 4 GiB. Nothing is appended if there are none.
pub(crate) fn put(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&[0; HEAD]);
    write(out);
    let (head, payload) = out[begin..].split_at_mut(HEAD);
    if payload.is_empty() {
        out.truncate(begin);
        return;
    }
    head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&crc32c(payload).to_le_bytes());
}

/// The records of a file, one after another.
pub(crate) struct Records<R> {
    input: R,
    /// Where the next record begins.
    pub offset: u64,
    length: u64,
    record: Vec<u8>,
}

/// Why a file cannot be read on.
#[derive(Debug)]
pub(crate) enum Bad {
    /// The bytes are not what was written.
    Record(&'static str),
    /// The disk does not give them.
    Io(io::Error),
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bad::Record(what) => f.write_str(what),
            Bad::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Bad::Record("the file ends within a record")
        } else {
            Bad::Io(error)
        }
    }
}

impl Records<BufReader<File>> {
    pub fn open(path: &Path, magic: &[u8; 8]) -> Result<Self, Bad> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Records::new(BufReader::with_capacity(1 << 18, file), length, magic)
    }
}

impl<R: Read> Records<R> {
    /// Of an input of so many bytes.
    pub fn new(mut input: R, length: u64, magic: &[u8; 8]) -> Result<Self, Bad> {
        let mut found = [0; 8];
        input
            .read_exact(&mut found)
            .map_err(|_| Bad::Record("the file is shorter than its header"))?;
        if found != *magic {
            return Err(Bad::Record("the file begins with another header"));
        }
        Ok(Records {
            input,
            offset: magic.len() as u64,
            length,
            record: Vec::new(),
        })
    }

    /// The next record, `None` at the end.
    pub fn next(&mut self) -> Result<Option<&[u8]>, Bad> {
        if self.offset == self.length {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.input.read_exact(&mut head)?;
        let [a, b, c, d, rest @ ..] = head;
        let length = u32::from_le_bytes([a, b, c, d]);
        let end = self.offset + HEAD as u64 + u64::from(length);
        // The file's own length bounds what is read: how long a record may be is the writer's business.
        if length == 0 || end > self.length {
            return Err(Bad::Record("the length of a record is not possible"));
        }
        self.record.resize(length as usize, 0);
        self.input.read_exact(&mut self.record)?;
        if crc32c(&self.record) != u32::from_le_bytes(rest) {
            return Err(Bad::Record("the checksum of a record is wrong"));
        }
        self.offset = end;
        Ok(Some(&self.record))
    }
}
