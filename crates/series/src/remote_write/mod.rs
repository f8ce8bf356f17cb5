//! The bodies of Prometheus's remote write, versions 1 and 2: series go in and compressed bytes come out, and back.
//!
//! A body is a protobuf message, compressed with snappy (block format). Both versions carry samples, native histograms
//! (integer, float, custom buckets), staleness markers and metadata; version 2 names every string once. Exemplars are
//! counted and passed over. Hostile bytes give an error; what they can make us hold is bounded by the caller's limit.
//! This module knows no HTTP but the names of content types and headers.

pub(crate) mod fuzz;
mod histogram;
mod v1;
mod v2;

pub use crate::wire::WireError;
use crate::{Metadata, SeriesData};

/// Which message a body holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// `prometheus.WriteRequest`.
    #[default]
    V1,
    /// `io.prometheus.write.v2.Request`.
    V2,
}

/// Media type of both versions.
const MEDIA_TYPE: &str = "application/x-protobuf";
/// Name of version 2's message in the content type.
const MESSAGE_V2: &str = "io.prometheus.write.v2.Request";
/// Name of version 1's message in the content type.
const MESSAGE_V1: &str = "prometheus.WriteRequest";

impl Version {
    /// The `Content-Type` of a body.
    pub fn content_type(self) -> &'static str {
        match self {
            Version::V1 => "application/x-protobuf",
            Version::V2 => "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        }
    }

    /// The value of the header `X-Prometheus-Remote-Write-Version`.
    pub fn header(self) -> &'static str {
        match self {
            Version::V1 => "0.1.0",
            Version::V2 => "2.0.0",
        }
    }

    /// The version that a `Content-Type` announces; none if it is neither.
    pub fn from_content_type(value: &str) -> Option<Version> {
        let mut parts = value.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(MEDIA_TYPE) {
            return None;
        }
        let mut version = Some(Version::V1);
        for (name, value) in parts.filter_map(|p| p.split_once('=')) {
            if name.trim().eq_ignore_ascii_case("proto") {
                version = match value.trim().trim_matches('"') {
                    MESSAGE_V1 => Some(Version::V1),
                    MESSAGE_V2 => Some(Version::V2),
                    _ => None,
                };
            }
        }
        version
    }
}

/// What one request carries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteRequest {
    /// Samples and histograms by series, in the order of the message.
    pub series: Vec<SeriesData>,
    /// What is told about metric families.
    pub metadata: Vec<(String, Metadata)>,
    /// Exemplars that were in the message.
    pub exemplars: usize,
}

impl WriteRequest {
    /// Samples and histograms altogether.
    pub fn sample_count(&self) -> usize {
        self.series.iter().map(|s| s.samples.len() + s.histograms.len()).sum()
    }
}

/// Why a body is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not snappy's block format.
    #[error("the body is not compressed with snappy (block format): {0}")]
    Snappy(String),
    /// More than the receiver takes.
    #[error("the body has {found} bytes when decompressed, more than the {limit} that are taken: send smaller batches")]
    TooLarge {
        /// Bytes that it has.
        found: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// Small on the wire, and large when it is read.
    #[error("the body holds more than {limit} bytes when it is read: send smaller batches")]
    TooMuch {
        /// Bytes that it may hold.
        limit: usize,
    },
    /// Not the message it should be.
    #[error("the body is no write request: {0}")]
    Wire(#[from] WireError),
    /// A series without a label, with labels twice, or with a name that is none.
    #[error("series {at}: {why}")]
    Series {
        /// Its position in the message, from 0.
        at: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// Compresses and encodes. Native histograms whose counts are all whole numbers are written as integers.
pub fn encode(version: Version, request: &WriteRequest) -> Vec<u8> {
    let message = match version {
        Version::V1 => v1::encode(request),
        Version::V2 => v2::encode(request),
    };
    compress(&message)
}

/// The families that a series of this name may belong to: the name, and without the suffixes that series of a family have.
pub fn families_of(name: &str) -> impl Iterator<Item = &str> {
    v2::families_of(name)
}

/// Decodes a compressed body that holds at most `max_bytes` when decompressed.
pub fn decode(version: Version, body: &[u8], max_bytes: usize) -> Result<WriteRequest, DecodeError> {
    let message = decompress(body, max_bytes)?;
    decode_message(version, &message)
}

/// As [`decode`], of bytes that are decompressed already.
pub(crate) fn decode_message(version: Version, message: &[u8]) -> Result<WriteRequest, DecodeError> {
    let room = Room::new(HELD_BYTES_MAX);
    match version {
        Version::V1 => v1::decode(message, room),
        Version::V2 => v2::decode(message, room),
    }
}

/// What a message may hold when it is read. Ten times the message is more than any sender's needs; parts that are empty on
/// the wire, where they take two bytes, would hold a hundred times as much.
const HELD_BYTES_MAX: usize = 256 << 20;
/// What an allocation costs beside its bytes, about.
const ALLOCATION: usize = 32;

/// What may still be held of a message.
struct Room {
    limit: usize,
    left: usize,
}

impl Room {
    fn new(limit: usize) -> Self {
        Room { limit, left: limit }
    }

    /// Takes room for a value, and for so many bytes that it points to.
    fn take<T>(&mut self, behind: usize) -> Result<(), DecodeError> {
        let left = self.left.checked_sub(size_of::<T>() + behind);
        self.left = left.ok_or(DecodeError::TooMuch { limit: self.limit })?;
        Ok(())
    }
}

fn compress(message: &[u8]) -> Vec<u8> {
    // Fails above 4 GiB only, which no batch comes near; an empty body would be refused by whoever gets it.
    snap::raw::Encoder::new().compress_vec(message).unwrap_or_default()
}

fn decompress(body: &[u8], max_bytes: usize) -> Result<Vec<u8>, DecodeError> {
    let snappy = |e: snap::Error| DecodeError::Snappy(e.to_string());
    let found = snap::raw::decompress_len(body).map_err(snappy)?;
    if found > max_bytes {
        return Err(DecodeError::TooLarge {
            found,
            limit: max_bytes,
        });
    }
    snap::raw::Decoder::new().decompress_vec(body).map_err(snappy)
}

/// Metadata kinds by their number in both versions.
const KINDS: [&str; 8] = [
    "unknown",
    "counter",
    "gauge",
    "histogram",
    "gaugehistogram",
    "summary",
    "info",
    "stateset",
];

fn kind_number(kind: &str) -> u64 {
    KINDS.iter().position(|k| *k == kind).unwrap_or(0) as u64
}

fn kind_name(number: u64) -> String {
    let known = usize::try_from(number).ok().and_then(|n| KINDS.get(n));
    (*known.unwrap_or(&KINDS[0])).to_owned()
}

#[cfg(test)]
mod tests;
