//! Shares of requests in percent, exact to a ten-thousandth of a percent.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::labels::InvalidValue;

/// Digits behind the point of a percentage.
const DIGITS: usize = 4;
const PER_PERCENT: u32 = 10_000;

/// A share: 0 % to 100 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent {
    millionths: u32,
}

impl Percent {
    /// All.
    pub const ALL: Self = Self {
        millionths: 100 * PER_PERCENT,
    };

    /// A whole number of percent; what is above 100 counts as 100.
    pub const fn whole(percent: u8) -> Self {
        let percent = if percent > 100 { 100 } else { percent };
        Self {
            millionths: percent as u32 * PER_PERCENT,
        }
    }

    /// Of a million, so many.
    pub const fn millionths(self) -> u32 {
        self.millionths
    }

    /// Of a hundred, so many.
    pub fn percent(self) -> f64 {
        f64::from(self.millionths) / f64::from(PER_PERCENT)
    }

    /// None at all.
    pub const fn is_zero(self) -> bool {
        self.millionths == 0
    }
}

impl FromStr for Percent {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            InvalidValue(format!(
                "{text:?} is not a percentage; write 0 to 100 with at most {DIGITS} digits behind the point, such as 50 or 0.5"
            ))
        };
        let number = text.strip_suffix('%').unwrap_or(text).trim_end();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let fraction = fraction.trim_end_matches('0');
        if !digits(whole) || !(fraction.is_empty() || digits(fraction)) || fraction.len() > DIGITS {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let fraction: u32 = format!("{fraction:0<DIGITS$}").parse().map_err(|_| wrong())?;
        let millionths = whole.checked_mul(PER_PERCENT).and_then(|w| w.checked_add(fraction));
        match millionths {
            Some(millionths) if millionths <= Self::ALL.millionths => Ok(Self { millionths }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.percent())
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.percent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_are_exact() {
        for (text, millionths) in [
            ("0", 0),
            ("100", 1_000_000),
            ("100.0", 1_000_000),
            ("50", 500_000),
            ("0.5", 5_000),
            ("0.0001", 1),
            ("33.3300", 333_300),
            ("10%", 100_000),
        ] {
            assert_eq!(text.parse(), Ok(Percent { millionths }), "{text}");
        }
        for text in [
            "",
            "%",
            "-1",
            "101",
            "100.1",
            "0.00001",
            ".5",
            "x",
            "1e1",
            "1,5",
            "99999999999",
        ] {
            let why = text.parse::<Percent>().unwrap_err().to_string();
            assert!(why.contains("0 to 100"), "{text}: {why}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_displays(millionths in 0u32..=1_000_000) {
            let percent = Percent { millionths };
            prop_assert_eq!(percent.to_string().parse(), Ok(percent));
        }
    }
}
