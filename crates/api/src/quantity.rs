//! Kubernetes quantities as text: `100`, `10m`, `1500m`, `2Ki`, `1e3`.
//!
//! Values are `f64`: metric figures, not money. Counts are written as plain integers and durations in milli units.

/// Text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity; write a number with an optional suffix such as m, k, M, Ki, Mi")]
pub struct InvalidQuantity(pub String);

/// Parses any quantity into its value.
pub fn parse(text: &str) -> Result<f64, InvalidQuantity> {
    let invalid = || InvalidQuantity(text.to_owned());
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    Ok(number * factor(suffix).ok_or_else(invalid)?)
}

fn factor(suffix: &str) -> Option<f64> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
        return Some(1024f64.powi(power as i32 + 1));
    }
    let exponent = match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        other => other.strip_prefix(['e', 'E'])?.parse().ok()?,
    };
    // Dividing by an exact power of ten rounds once; multiplying by 0.001 would round twice.
    Some(10f64.powi(exponent))
}

/// A whole number, as it is: `0`, `100`, `10000`.
pub fn format_count(count: u64) -> String {
    count.to_string()
}

/// A value in milli units, rounded up as Kubernetes does: 0.01 -> `10m`, 1.0 -> `1`, 0.0004 -> `1m`. `None` for what is
/// no number (a quantity cannot say NaN).
pub fn format_milli(value: f64) -> Option<String> {
    if !value.is_finite() {
        return None;
    }
    // A figure such as 0.01 is 10.000000000000002 milli in binary: do not let that become 11.
    let milli = (value * 1000.0 - 1e-6).ceil() as i64;
    Some(if milli % 1000 == 0 {
        (milli / 1000).to_string()
    } else {
        format!("{milli}m")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_texts() {
        for (text, value) in [
            ("100", 100.0),
            ("10m", 0.01),
            ("1.5", 1.5),
            ("2Ki", 2048.0),
            ("1e3", 1000.0),
            ("-3k", -3000.0),
            ("5E", 5e18),
        ] {
            let parsed = parse(text).unwrap();
            assert!((parsed - value).abs() <= value.abs() * 1e-12, "{text}: {parsed}");
        }
        for text in ["", "m", "1x", "1.2.3", "1e", "--1", "ten"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn milli_rounds_up_but_not_over_binary_noise() {
        let f = |v| format_milli(v).unwrap();
        assert_eq!(f(0.01), "10m");
        assert_eq!(f(0.0004), "1m");
        assert_eq!(f(0.0), "0");
        assert_eq!(f(1.0), "1");
        assert_eq!(f(1.0015), "1002m");
        assert_eq!(f(0.001 * 3.0), "3m");
        assert_eq!(format_milli(f64::NAN), None);
    }

    proptest! {
        #[test]
        fn milli_round_trip(milli in 0i64..10_000_000_000) {
            let text = format_milli(milli as f64 / 1000.0).unwrap();
            let back = (parse(&text).unwrap() * 1000.0).round() as i64;
            prop_assert_eq!(back, milli, "{}", text);
        }

        #[test]
        fn parse_never_panics(text in "\\PC{0,12}") {
            let _ = parse(&text);
        }
    }
}
