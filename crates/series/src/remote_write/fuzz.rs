//! Invariants of [`super`] for any bytes.

use super::{Version, decode_message, v1, v2};

/// The first byte chooses the version, the rest is a message, decompressed already. What is read means the same when it
/// is written again, in either version.
///
/// # Panics
/// Where that does not hold.
pub fn body(bytes: &[u8]) {
    let Some((first, message)) = bytes.split_first() else {
        return;
    };
    let version = if first % 2 == 0 { Version::V1 } else { Version::V2 };
    let Ok(read) = decode_message(version, message) else {
        return;
    };
    let again = match version {
        Version::V1 => v1::encode(&read),
        Version::V2 => v2::encode(&read),
    };
    let second = decode_message(version, &again).unwrap_or_else(|e| panic!("written, but not read again: {e}"));
    assert_eq!(read.series.len(), second.series.len());
    for (a, b) in read.series.iter().zip(&second.series) {
        assert_eq!(a.labels, b.labels);
        let samples = |s: &crate::SeriesData| {
            s.samples
                .iter()
                .map(|s| (s.ts_ms, s.value.to_bits()))
                .collect::<Vec<_>>()
        };
        assert_eq!(samples(a), samples(b));
        // `{:?}` shows NaN as NaN: equal where `==` would not be.
        assert_eq!(format!("{:?}", a.histograms), format!("{:?}", b.histograms));
    }
}
