//! Durations as configurations and queries write them: `1h30m`, `500ms`.

/// Units in the order in which a duration must give them, in milliseconds.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// The longest duration, in milliseconds: what fits into the nanoseconds of a 64-bit number, as elsewhere in the field.
pub const MAX_MS: i64 = i64::MAX / 1_000_000;

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It does not look like one.
    #[error("a duration is written like 15s, 1h30m or 500ms")]
    Syntax,
    /// Its units are in disorder.
    #[error("the units of a duration stand from the longest to the shortest, each once, as in 1h30m")]
    Order,
    /// It is longer than [`MAX_MS`].
    #[error("duration out of range")]
    Range,
}

/// Milliseconds of `1h30m`: whole numbers with units, the larger ones first.
///
/// # Errors
/// Where it is no duration: a number without a unit is none.
pub fn parse(text: &str) -> Result<i64, DurationError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let (unit, tail) = tail.split_at(tail.bytes().take_while(u8::is_ascii_alphabetic).count());
        let at = UNITS.iter().position(|(name, _)| *name == unit);
        let at = at.filter(|_| !number.is_empty()).ok_or(DurationError::Syntax)?;
        parts.push((number, at));
        rest = tail;
    }
    if parts.is_empty() {
        return Err(DurationError::Syntax);
    }
    if !parts.is_sorted_by(|(_, larger), (_, smaller)| larger < smaller) {
        return Err(DurationError::Order);
    }
    let mut total = 0i64;
    for (number, at) in parts {
        let ms = number
            .parse()
            .ok()
            .and_then(|number: u64| number.checked_mul(UNITS[at].1));
        let sum = ms.and_then(|ms| total.checked_add_unsigned(ms));
        total = sum.filter(|sum| *sum <= MAX_MS).ok_or(DurationError::Range)?;
    }
    Ok(total)
}

/// Milliseconds as a duration: `1h30m`, `-5m`; weeks and years only where nothing else is left over, as days are easier to read.
pub fn text(ms: i64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let mut rest = ms.unsigned_abs();
    let mut out = if ms < 0 { "-".to_owned() } else { String::new() };
    for (unit, length) in UNITS {
        let only_whole = matches!(unit, "y" | "w");
        if rest < length || (only_whole && !rest.is_multiple_of(length)) {
            continue;
        }
        out.push_str(&format!("{}{unit}", rest / length));
        rest %= length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (written, ms) in [
            ("0s", 0),
            ("5ms", 5),
            ("15s", 15_000),
            ("1m500ms", 60_500),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("8d", 8 * 86_400_000),
            ("2w", 14 * 86_400_000),
        ] {
            assert_eq!(parse(written), Ok(ms), "{written}");
            assert_eq!(text(ms), written);
        }
        assert_eq!(parse("1y2w"), Ok(32_745_600_000));
        assert_eq!((text(90_000_000).as_str(), text(-1500).as_str()), ("1d1h", "-1s500ms"));
        for wrong in ["", "0", "15", "s", "1.5s", "-1s", "1s ", "1é", "1h 30m", "5S"] {
            assert_eq!(parse(wrong), Err(DurationError::Syntax), "{wrong}");
        }
        for wrong in ["30m1h", "1s1s", "1s5ms1s"] {
            assert_eq!(parse(wrong), Err(DurationError::Order), "{wrong}");
        }
        assert_eq!(parse("9223372036854ms"), Ok(MAX_MS));
        for wrong in ["9223372036855ms", "293y", "292y99999d", "99999999999999999999s"] {
            assert_eq!(parse(wrong), Err(DurationError::Range), "{wrong}");
        }
    }
}
