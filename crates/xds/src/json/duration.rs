//! Durations as protobuf's JSON writes them: `0.25s`.

use envoy_types::pb::google::protobuf::Duration as Message;

/// The longest duration that protobuf allows: 10,000 years.
pub const SECONDS_MAX: i64 = 315_576_000_000;

/// Reads `<seconds>[.<fraction>]s`.
pub fn parse(text: &str) -> Result<Message, String> {
    let wrong = || format!("{text:?} is no duration; right would be for example \"0.25s\"");
    let number = text.strip_suffix('s').ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(wrong());
    }
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    if seconds > SECONDS_MAX {
        return Err(wrong());
    }
    let nanos: i32 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    Ok(Message { seconds, nanos })
}
