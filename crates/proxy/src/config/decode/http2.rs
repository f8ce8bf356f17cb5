//! `envoy.config.core.v3.Http2ProtocolOptions`.

use std::ops::RangeInclusive;

use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;
use envoy_types::pb::google::protobuf::UInt32Value;

use super::{Decoded, nothing_left, reject};
use crate::config::Http2Options;

/// A stream identifier has 31 bits.
const STREAMS: RangeInclusive<u32> = 1..=0x7fff_ffff;
/// From the window that every connection begins with to the largest one (RFC 9113, section 6.9).
const WINDOW: RangeInclusive<u32> = 65_535..=0x7fff_ffff;

/// The options, with this proxy's defaults where they are silent.
pub(super) fn options(rest: Option<Http2ProtocolOptions>) -> Decoded<Http2Options> {
    let mut options = Http2Options::default();
    let Some(mut rest) = rest else { return Ok(options) };
    for (field, value, allowed, into) in [
        (
            "max_concurrent_streams",
            rest.max_concurrent_streams.take(),
            STREAMS,
            &mut options.max_concurrent_streams,
        ),
        (
            "initial_stream_window_size",
            rest.initial_stream_window_size.take(),
            WINDOW,
            &mut options.initial_stream_window,
        ),
        (
            "initial_connection_window_size",
            rest.initial_connection_window_size.take(),
            WINDOW,
            &mut options.initial_connection_window,
        ),
    ] {
        if let Some(UInt32Value { value }) = value {
            if !allowed.contains(&value) {
                let (low, high) = allowed.into_inner();
                return reject(field, format!("{value} must be {low} to {high}"));
            }
            *into = value;
        }
    }
    nothing_left(&rest)?;
    Ok(options)
}
