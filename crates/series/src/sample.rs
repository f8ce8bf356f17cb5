//! One observation, and the marker that says that a series has ended.

/// A value at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub ts_ms: i64,
    /// The value; the one NaN of [`stale_nan`] means that the series ended here.
    pub value: f64,
}

/// The bits of the staleness marker, as every Prometheus-compatible program knows them.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The staleness marker.
pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// Whether a value is the staleness marker (an ordinary NaN is not).
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}
