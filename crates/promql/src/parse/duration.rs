//! Durations: literals, and expressions of them (`5m * 2`, `step() + 1`).

use super::{ParseError, Times};
use std::fmt;
use weir_series::duration::{MAX_MS, text};

/// A duration as it was written and what it comes to.
#[derive(Clone, Debug)]
pub(crate) struct Duration {
    /// Negative only in an `offset`. 0 where it depends on a query's times and there are none.
    pub ms: i64,
    pub(super) written: Written,
}

/// What stands in the place of a duration.
#[derive(Clone, Debug)]
pub(super) enum Written {
    /// Milliseconds of a literal with units.
    Units(i64),
    /// A number of seconds.
    Seconds(f64),
    /// `step()` or `range()`.
    OfQuery(&'static str),
    Negative(Box<Written>),
    Paren(Box<Written>),
    Binary(&'static str, Box<Written>, Box<Written>),
    /// `min_of(a, b)` and its kin.
    Choice(&'static str, Box<Written>, Box<Written>),
}

impl Written {
    /// In seconds. None: it depends on times that are not known.
    fn seconds(&self, times: Option<Times>) -> Result<Option<f64>, &'static str> {
        let both = |a: &Written, b: &Written| -> Result<_, &str> { Ok(a.seconds(times)?.zip(b.seconds(times)?)) };
        Ok(match self {
            Written::Units(ms) => Some(*ms as f64 / 1000.0),
            Written::Seconds(seconds) => Some(*seconds),
            Written::OfQuery(name) => times.map(|t| {
                let ms = if *name == "step" { t.step_ms } else { t.range_ms };
                ms as f64 / 1000.0
            }),
            Written::Negative(inner) => inner.seconds(times)?.map(|v| -v),
            Written::Paren(inner) => inner.seconds(times)?,
            Written::Binary(op, a, b) => {
                let Some((a, b)) = both(a, b)? else {
                    return Ok(None);
                };
                Some(match *op {
                    "+" => a + b,
                    "-" => a - b,
                    "*" => a * b,
                    "/" if b == 0.0 => return Err("division by zero"),
                    "/" => a / b,
                    "%" if b == 0.0 => return Err("modulo by zero"),
                    "%" => a % b,
                    _ => a.powf(b),
                })
            }
            Written::Choice(name, a, b) => {
                both(a, b)?.map(|(a, b)| if name.starts_with("min") { a.min(b) } else { a.max(b) })
            }
        })
    }
}

/// What may be negative.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Any,
    Positive,
}

/// What it comes to; an error names what would be right.
pub(super) fn resolve(written: Written, sign: Sign, at: usize, times: Option<Times>) -> Result<Duration, ParseError> {
    let wrong = |why: String| Err(ParseError::new(at, why));
    let ms = match (&written, written.seconds(times)) {
        (_, Err(why)) => return wrong(format!("{why} in the duration {written}")),
        // Exactly, whatever seconds make of it.
        (Written::Units(ms), _) => *ms,
        (_, Ok(None)) => return Ok(Duration { ms: 0, written }),
        (_, Ok(Some(seconds))) if seconds.is_nan() || seconds.abs() * 1000.0 > MAX_MS as f64 => {
            return wrong(format!("the duration {written} is out of range"));
        }
        (_, Ok(Some(seconds))) => (seconds * 1000.0).round() as i64,
    };
    if sign == Sign::Positive && ms <= 0 {
        return wrong(format!("duration must be greater than 0, {written} is {}", text(ms)));
    }
    Ok(Duration { ms, written })
}

impl Written {
    fn is_literal(&self) -> bool {
        match self {
            Written::Units(_) | Written::Seconds(_) => true,
            Written::Negative(inner) => inner.is_literal(),
            _ => false,
        }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.written.is_literal() {
            return f.write_str(&text(self.ms));
        }
        self.written.fmt(f)
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Written::Units(ms) => f.write_str(&text(*ms)),
            Written::Seconds(seconds) => f.write_str(&crate::format::digits(*seconds)),
            Written::OfQuery(name) => write!(f, "{name}()"),
            Written::Negative(inner) => write!(f, "-{inner}"),
            Written::Paren(inner) => write!(f, "({inner})"),
            Written::Binary(op, a, b) => write!(f, "{a} {op} {b}"),
            Written::Choice(name, a, b) => write!(f, "{name}({a}, {b})"),
        }
    }
}
