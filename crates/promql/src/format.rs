//! Numbers, times and durations as Prometheus's API writes and reads them.

pub use crate::eval::native::{Edge, edges as histogram_buckets, text as histogram};
use std::time::Duration;

/// A value: shortest form that reads back to the same number, with an exponent only below 1e-6 and from 1e21.
pub fn value(v: f64) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    if v != 0.0 && (v.abs() < 1e-6 || v.abs() >= 1e21) {
        let text = format!("{v:e}");
        return match text.split_once('e') {
            // Two digits and a sign, as Go writes exponents.
            Some((mantissa, exponent)) => match exponent.strip_prefix('-') {
                Some(digits) => format!("{mantissa}e-{digits:0>2}"),
                None => format!("{mantissa}e+{exponent:0>2}"),
            },
            None => text,
        };
    }
    format!("{v}")
}

/// A value as digits, however many: what `count_values` makes a label of.
pub fn digits(v: f64) -> String {
    if v.is_finite() { format!("{v}") } else { value(v) }
}

/// A time in seconds since 1970 with up to three decimals.
pub fn time(ms: i64) -> String {
    let (seconds, rest) = (ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000);
    let sign = if ms < 0 { "-" } else { "" };
    match rest {
        0 => format!("{sign}{seconds}"),
        rest => format!("{sign}{seconds}.{}", format!("{rest:03}").trim_end_matches('0')),
    }
}

/// Seconds since 1970, or RFC 3339, as milliseconds.
pub fn parse_time(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        let ms = (seconds * 1000.0).round();
        return (ms.is_finite() && ms.abs() < 9e15).then_some(ms as i64);
    }
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    Some(timestamp.as_millisecond())
}

/// Seconds, or a duration like `1m30s`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let ms = weir_series::duration::parse(text).ok()?;
    u64::try_from(ms).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_prometheus_writes_them() {
        for (v, text) in [
            (0.0, "0"),
            (-0.5, "-0.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e-7, "1.5e-07"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
            (0.1 + 0.2, "0.30000000000000004"),
        ] {
            assert_eq!(value(v), text);
        }
    }

    #[test]
    fn times_and_durations() {
        assert_eq!(digits(1.5e21), "1500000000000000000000");
        assert_eq!(digits(f64::INFINITY), "+Inf");
        assert_eq!(time(1_700_000_000_500), "1700000000.5");
        assert_eq!(time(-1), "-0.001");
        assert_eq!(parse_time("1700000000.5"), Some(1_700_000_000_500));
        assert_eq!(parse_time("2023-11-14T22:13:20Z"), Some(1_700_000_000_000));
        assert_eq!(parse_time("2023-11-14T23:13:20.25+01:00"), Some(1_700_000_000_250));
        assert_eq!(parse_time("yesterday"), None);
        assert_eq!(parse_time("1e300"), None);
        assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("-1"), None);
        assert_eq!(parse_duration("soon"), None);
    }
}
