//! Reads a page of the text format or of OpenMetrics text, line by line, without copying.
//!
//! The caller may say which series it expects next, by length and hash of its text: a line that begins with it is not looked
//! into any further. A page that is not understood fails at the first such line, by its number and what would be right there.
//! Exemplars are skipped.

use super::{MetricType, ParseError, series};
use memchr::{memchr, memchr2};
use std::hash::Hasher;

/// The text of a series, to be known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Hash of its bytes; the same within one process.
    pub hash: u64,
    /// Its bytes.
    pub len: u32,
}

impl Mark {
    /// The mark of a series' text.
    pub fn of(series: &[u8]) -> Mark {
        let mut hasher = rapidhash::fast::RapidHasher::default();
        hasher.write(series);
        Mark {
            hash: hasher.finish(),
            len: u32::try_from(series.len()).unwrap_or(u32::MAX),
        }
    }
}

/// A line with a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line<'a> {
    /// Name and label set exactly as written; see [`series`].
    pub series: &'a str,
    /// Of `series`.
    pub mark: Mark,
    /// It is the series that was expected.
    pub expected: bool,
    /// The value.
    pub value: f64,
    /// Milliseconds since 1970, where the page gives a time.
    pub ts_ms: Option<i64>,
}

/// A comment that says something about a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comment<'a> {
    /// The whole line.
    pub raw: &'a str,
    /// `HELP`, `TYPE` or `UNIT`.
    pub what: &'a str,
    /// The family, as written: in quotes where it needs them.
    pub family: &'a str,
    /// What is said.
    pub said: &'a str,
}

/// A line that matters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Item<'a> {
    /// A sample.
    Line(Line<'a>),
    /// Something about a family.
    Comment(Comment<'a>),
}

/// A page that is being read.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    rest: &'a str,
    line: usize,
    family: &'a str,
    kind: MetricType,
    open_metrics: bool,
    /// `# EOF` was there.
    ended: bool,
}

impl<'a> Lines<'a> {
    /// Begins to read a page of the text format.
    pub fn text(page: &'a str) -> Self {
        Lines {
            rest: page,
            line: 0,
            family: "",
            kind: MetricType::Unknown,
            open_metrics: false,
            ended: false,
        }
    }

    /// Begins to read a page of OpenMetrics text: timestamps are seconds, and `# EOF` must end it.
    pub fn open_metrics(page: &'a str) -> Self {
        Lines {
            open_metrics: true,
            ..Self::text(page)
        }
    }

    /// What comes next; None at the end of the page. After an error the rest of the page means nothing.
    ///
    /// # Errors
    /// Where a line is not understood, or OpenMetrics text does not end as it must.
    pub fn next(&mut self, expected: Option<Mark>) -> Result<Option<Item<'a>>, ParseError> {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\r']);
            let Some(first) = self.rest.as_bytes().first() else {
                return self.end();
            };
            self.line += 1;
            if self.ended {
                return Err(self.error("nothing may follow # EOF".to_owned()));
            }
            match first {
                b'\n' => self.rest = &self.rest[1..],
                b'#' => {
                    if let Some(comment) = self.comment() {
                        return Ok(Some(Item::Comment(comment)));
                    }
                }
                _ => {
                    let line = self.sample(expected).map_err(|message| self.error(message))?;
                    return Ok(Some(Item::Line(line)));
                }
            }
        }
    }

    /// The kind of metric that a name is, by the family that the page is in.
    pub fn kind_of(&self, name: &str) -> MetricType {
        let family = self.family.trim_matches('"');
        let Some(suffix) = name.strip_prefix(family).filter(|_| !family.is_empty()) else {
            return MetricType::Unknown;
        };
        match (self.kind, suffix) {
            (kind, "") => kind,
            (MetricType::Counter, "_total") => MetricType::Counter,
            (MetricType::Histogram, "_bucket" | "_sum" | "_count") => MetricType::Histogram,
            (MetricType::Summary, "_sum" | "_count") => MetricType::Summary,
            // `_created` and the like.
            (_, suffix) if suffix.starts_with('_') && self.open_metrics => MetricType::Gauge,
            _ => MetricType::Unknown,
        }
    }

    fn error(&self, message: String) -> ParseError {
        ParseError {
            line: self.line,
            message,
        }
    }

    fn end(&self) -> Result<Option<Item<'a>>, ParseError> {
        if self.open_metrics && !self.ended {
            return Err(ParseError {
                line: self.line + 1,
                message: "the page is cut off: OpenMetrics text ends with the line # EOF".to_owned(),
            });
        }
        Ok(None)
    }

    /// Takes the rest of the line, without its end.
    fn take_line(&mut self) -> &'a str {
        let end = memchr(b'\n', self.rest.as_bytes()).unwrap_or(self.rest.len());
        let line = &self.rest[..end];
        self.rest = self.rest.get(end + 1..).unwrap_or("");
        line.trim_end_matches([' ', '\t', '\r'])
    }

    fn comment(&mut self) -> Option<Comment<'a>> {
        let raw = self.take_line();
        let (what, rest) = word(raw.strip_prefix('#')?);
        if what == "EOF" && rest.is_empty() && self.open_metrics {
            self.ended = true;
        }
        if !matches!(what, "HELP" | "TYPE" | "UNIT") {
            return None;
        }
        let (family, said) = match rest.strip_prefix('"').and_then(|inner| memchr(b'"', inner.as_bytes())) {
            Some(end) => (&rest[..end + 2], rest[end + 2..].trim_start_matches([' ', '\t'])),
            None => word(rest),
        };
        if what == "TYPE" {
            self.family = family;
            self.kind = match said {
                "counter" => MetricType::Counter,
                "gauge" => MetricType::Gauge,
                "histogram" => MetricType::Histogram,
                "summary" => MetricType::Summary,
                _ => MetricType::Unknown,
            };
        }
        (!family.is_empty()).then_some(Comment {
            raw,
            what,
            family,
            said,
        })
    }

    fn sample(&mut self, expected: Option<Mark>) -> Result<Line<'a>, String> {
        let known = expected.and_then(|mark| self.begins_with(mark));
        let (series, mark) = match known {
            Some(found) => found,
            None => {
                let series = &self.rest[..series::length(self.rest)?];
                (series, Mark::of(series.as_bytes()))
            }
        };
        self.rest = &self.rest[series.len()..];
        let value = match self.word() {
            "" => return Err(format!("a value is missing after {}", series::quoted(series))),
            word => number(word).ok_or_else(|| format!("{} is not a number", series::quoted(word)))?,
        };
        let ts_ms = match self.word() {
            "" => None,
            "#" if self.open_metrics => {
                // An exemplar.
                self.take_line();
                None
            }
            word => {
                let ts_ms = self.timestamp(word)?;
                match self.word() {
                    "" => {}
                    "#" if self.open_metrics => {
                        self.take_line();
                    }
                    extra => {
                        let extra = series::quoted(extra);
                        return Err(format!("nothing may follow value and timestamp, but {extra} does"));
                    }
                }
                Some(ts_ms)
            }
        };
        // What a word left of the line is its end.
        self.rest = self.rest.strip_prefix('\n').unwrap_or(self.rest);
        Ok(Line {
            series,
            mark,
            expected: known.is_some(),
            value,
            ts_ms,
        })
    }

    fn begins_with(&self, mark: Mark) -> Option<(&'a str, Mark)> {
        let len = mark.len as usize;
        let bytes = self.rest.as_bytes();
        if !matches!(bytes.get(len), Some(b' ' | b'\t')) {
            return None;
        }
        // What stood there before ended at a character's end; what stands there now may not.
        let series = self.rest.get(..len)?;
        (Mark::of(series.as_bytes()) == mark).then_some((series, mark))
    }

    /// The next word of the line, "" at its end, which stays.
    fn word(&mut self) -> &'a str {
        let rest = self.rest.trim_start_matches([' ', '\t', '\r']);
        // Words are short: a loop is faster than a search.
        let end = rest.bytes().position(|b| matches!(b, b' ' | b'\n' | b'\t' | b'\r'));
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        self.rest = after;
        word
    }

    /// Milliseconds in the text format, seconds with a fraction in OpenMetrics.
    fn timestamp(&self, word: &str) -> Result<i64, String> {
        let unit = if self.open_metrics {
            "seconds"
        } else {
            "whole milliseconds"
        };
        let bad = || format!("{} is not a timestamp in {unit} since 1970", series::quoted(word));
        if !self.open_metrics {
            return word.parse().map_err(|_| bad());
        }
        let seconds = number(word)
            .filter(|s| s.is_finite() && s.abs() < 1e12)
            .ok_or_else(bad)?;
        #[allow(clippy::cast_possible_truncation)]
        let ms = (seconds * 1000.0).round() as i64;
        Ok(ms)
    }
}

/// The first word and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches([' ', '\t']);
    let end = memchr2(b' ', b'\t', text.as_bytes()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start_matches([' ', '\t']))
}

/// A Go-like float: decimal, exponent, NaN, +Inf, -Inf in any case.
fn number(word: &str) -> Option<f64> {
    // Digits that are exact in a double, as nearly all are.
    const EXACT: usize = 15;
    let bytes = word.as_bytes();
    if bytes.len() <= EXACT && bytes.iter().all(u8::is_ascii_digit) {
        return Some(bytes.iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0')) as f64);
    }
    let digits = word.trim_start_matches(['+', '-']);
    if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return fast_float2::parse(word).ok();
    }
    match digits.to_ascii_lowercase().as_str() {
        "nan" => Some(f64::NAN),
        "inf" | "infinity" if word.starts_with('-') => Some(f64::NEG_INFINITY),
        "inf" | "infinity" => Some(f64::INFINITY),
        _ => None,
    }
}
