//! Durations and sizes as they are written in a Prometheus configuration.

use std::time::Duration;
use weir_series::duration;

/// `1h30m`, `15s`, `500ms`, `0`: each unit once, the larger first.
pub fn duration(text: &str) -> Option<Duration> {
    let ms = if text == "0" { 0 } else { duration::parse(text).ok()? };
    u64::try_from(ms).ok().map(Duration::from_millis)
}

/// `512`, `10MB`, `10MiB`: units of 1024.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim();
    let power = match unit.trim_end_matches('B').trim_end_matches('i') {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        _ => return None,
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let size = (number * 1024f64.powi(power)).round() as u64;
    Some(size)
}

/// A duration as Prometheus writes it: `1m30s`.
pub fn duration_text(duration: Duration) -> String {
    duration::text(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        let ms = |text| duration(text).map(|d| d.as_millis());
        assert_eq!(ms("15s"), Some(15_000));
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("1m500ms"), Some(60_500));
        assert_eq!(ms("0"), Some(0));
        for wrong in ["", "15", "s", "30m1h", "1.5s", "1s1s", "-1s", "99999999999999999999y"] {
            assert_eq!(ms(wrong), None, "{wrong}");
        }
        assert_eq!(bytes("10MB"), Some(10 << 20));
        assert_eq!(bytes("1.5KiB"), Some(1536));
        assert_eq!(bytes("512"), Some(512));
        assert_eq!(bytes("7 GB"), Some(7 << 30));
        for wrong in ["", "MB", "1XB", "-1"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
        for text in ["15s", "1h30m", "1d", "1w", "500ms", "8d", "0s"] {
            assert_eq!(duration(text).map(duration_text).as_deref(), Some(text));
        }
    }
}
