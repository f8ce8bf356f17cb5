//! Durations as people write them: `3s`, `250ms`, `1m30s`.
//!
//! A number without a unit is taken too, because labels of that form are in use: below a million it means milliseconds
//! (less than a millisecond in nanoseconds means nothing to a proxy), from there on nanoseconds. Whoever reads one gets a
//! hint to pass on.

use std::time::Duration;

use crate::labels::InvalidValue;

/// The shortest that a proxy tells from nothing; shorter ones count as this.
const SHORTEST: Duration = Duration::from_millis(1);
/// The longest: 365 days.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Numbers without a unit mean nanoseconds from here on, below it milliseconds.
const BARE_NANOSECONDS_MIN: u64 = 1_000_000;

/// Units by name and nanoseconds; of two that begin alike the longer comes first.
const UNITS: [(&str, u64); 7] = [
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

/// A duration that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The duration.
    pub value: Duration,
    /// How to write it without doubt, where it was written with some.
    pub hint: Option<String>,
}

/// Reads a duration.
pub fn parse(text: &str) -> Result<Read, InvalidValue> {
    let wrong = || {
        InvalidValue(format!(
            "{text:?} is not a duration; write one such as 3s, 250ms or 1m30s"
        ))
    };
    let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let value = if bare {
        let number: u64 = text.parse().map_err(|_| wrong())?;
        if number < BARE_NANOSECONDS_MIN {
            Duration::from_millis(number)
        } else {
            Duration::from_nanos(number)
        }
    } else {
        with_units(text).ok_or_else(wrong)?
    };
    if value > LONGEST {
        return Err(InvalidValue(format!(
            "{text:?} is longer than a year; write at most {}",
            display(LONGEST)
        )));
    }
    if !value.is_zero() && value < SHORTEST {
        let hint = format!("{text:?} is shorter than a proxy can tell and counts as 1ms; write 1ms or more");
        return Ok(Read {
            value: SHORTEST,
            hint: Some(hint),
        });
    }
    let hint = (bare && !value.is_zero()).then(|| {
        let meant = display(value);
        format!("{text} has no unit and is taken as {meant}; write {meant}")
    });
    Ok(Read { value, hint })
}

/// Numbers, whole or with a fraction, each with its unit.
fn with_units(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut nanoseconds = 0u64;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (whole, after) = rest.split_at(digits);
        let (fraction, after) = match after.strip_prefix('.') {
            None => ("", after),
            Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit())?),
        };
        let (unit, after) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((*unit, after.strip_prefix(name)?)))?;
        let whole: u64 = whole.parse().ok()?;
        nanoseconds = nanoseconds
            .checked_add(whole.checked_mul(unit)?)?
            .checked_add(part(fraction, unit)?)?;
        if after.is_empty() {
            return Some(Duration::from_nanos(nanoseconds));
        }
        rest = after;
    }
}

/// What the digits behind the point are of a unit.
fn part(digits: &str, unit: u64) -> Option<u64> {
    if digits.is_empty() {
        return Some(0);
    }
    // More digits than nanoseconds can show say nothing.
    let digits = &digits[..digits.len().min(9)];
    let scale = 10u64.pow(u32::try_from(digits.len()).ok()?);
    let value = u128::from(digits.parse::<u64>().ok()?) * u128::from(unit) / u128::from(scale);
    u64::try_from(value).ok()
}

/// A duration as [`parse`] reads it, in as few units as it takes.
pub fn display(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (name, unit) in [
        ("h", UNITS[4].1),
        ("m", UNITS[5].1),
        ("s", UNITS[6].1),
        ("ms", UNITS[0].1),
        ("us", 1_000),
        ("ns", 1),
    ] {
        let count = rest / u128::from(unit);
        if count > 0 {
            text.push_str(&format!("{count}{name}"));
            rest %= u128::from(unit);
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> (Duration, bool) {
        let read = parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
        (read.value, read.hint.is_some())
    }

    #[test]
    fn durations_and_bare_numbers() {
        let ms = Duration::from_millis;
        for (text, value, doubtful) in [
            ("3s", ms(3000), false),
            ("250ms", ms(250), false),
            ("1m30s", ms(90_000), false),
            ("1.5s", ms(1500), false),
            ("1h", ms(3_600_000), false),
            ("1500us", Duration::from_micros(1500), false),
            ("2000000ns", ms(2), false),
            ("0", ms(0), false),
            ("0s", ms(0), false),
            ("3000", ms(3000), true),
            ("999999", ms(999_999), true),
            ("1000000", ms(1), true),
            ("3000000000", ms(3000), true),
            ("10us", ms(1), true),
        ] {
            assert_eq!(read(text), (value, doubtful), "{text}");
        }
        let hint = parse("3000").unwrap().hint.unwrap();
        assert!(hint.contains("write 3s"), "{hint}");
    }

    #[test]
    fn what_is_none_says_what_would_be_right() {
        for text in [
            "",
            "s",
            "3x",
            "-3s",
            "3s4",
            "1.s5",
            ".5s",
            "3 s",
            "99999999999h",
            "9999h",
        ] {
            let why = parse(text).unwrap_err().to_string();
            assert!(why.contains("write"), "{text}: {why}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_displays(ms in 0u64..LONGEST.as_millis() as u64) {
            let value = Duration::from_millis(ms);
            prop_assert_eq!(parse(&display(value)), Ok(Read { value, hint: None }));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-zµ. -]{0,12}") {
            let _ = parse(&text);
        }
    }
}
