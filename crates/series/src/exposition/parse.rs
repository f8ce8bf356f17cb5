//! Reads a page of the text format 0.0.4 or of OpenMetrics text, line by line, without copying.
//!
//! A page that is not understood fails as a whole with the number of the line and what would be right there; callers
//! run through the page once before they store anything of it. Exemplars are skipped.

use memchr::memchr;
use std::borrow::Cow;

/// What kind of metric a family is, as its `# TYPE` line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricType {
    /// Only grows, and starts at zero.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, sum and count.
    Histogram,
    /// Quantiles, sum and count.
    Summary,
    /// Anything else, or no `# TYPE` line.
    Unknown,
}

/// One sample of a page. Borrowed from the page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry<'a> {
    /// Name and label set exactly as written: the cheapest key for "the same series as last time".
    pub series: &'a str,
    /// The metric's name.
    pub name: &'a str,
    /// The label set between its braces.
    labels: &'a str,
    /// The value.
    pub value: f64,
    /// Milliseconds since 1970, where the page gives a time.
    pub ts_ms: Option<i64>,
    /// Type of its family.
    pub kind: MetricType,
}

/// A page that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What would be right.
    pub message: String,
}

/// Begins to read a page.
pub fn parse(page: &str) -> Parser<'_> {
    Parser {
        rest: page,
        line: 0,
        family: "",
        kind: MetricType::Unknown,
        open_metrics: page.ends_with("# EOF\n"),
        done: false,
    }
}

/// An iterator over the samples of a page; ends after the first error.
#[derive(Debug)]
pub struct Parser<'a> {
    rest: &'a str,
    line: usize,
    family: &'a str,
    kind: MetricType,
    open_metrics: bool,
    done: bool,
}

impl<'a> Iterator for Parser<'a> {
    type Item = Result<Entry<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done && !self.rest.is_empty() {
            let end = memchr(b'\n', self.rest.as_bytes()).unwrap_or(self.rest.len());
            let line = self.rest[..end].trim_matches([' ', '\t', '\r']);
            self.rest = self.rest.get(end + 1..).unwrap_or("");
            self.line += 1;
            if line.is_empty() {
                continue;
            }
            if let Some(comment) = line.strip_prefix('#') {
                self.comment(comment);
                continue;
            }
            let entry = self.sample(line).map_err(|message| ParseError {
                line: self.line,
                message,
            });
            self.done |= entry.is_err();
            return Some(entry);
        }
        None
    }
}

impl<'a> Parser<'a> {
    fn comment(&mut self, comment: &'a str) {
        let mut words = comment.split_ascii_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("TYPE"), Some(name), kind) => {
                self.family = name;
                self.kind = match kind {
                    Some("counter") => MetricType::Counter,
                    Some("gauge") => MetricType::Gauge,
                    Some("histogram") => MetricType::Histogram,
                    Some("summary") => MetricType::Summary,
                    _ => MetricType::Unknown,
                };
            }
            (Some("EOF"), None, None) if self.open_metrics => self.done = true,
            _ => {}
        }
    }

    fn sample(&self, line: &'a str) -> Result<Entry<'a>, String> {
        let name_len = name_length(line, true);
        let name = &line[..name_len];
        let after = &line[name_len..];
        if name.is_empty() {
            return Err(format!(
                "a metric name like request_total must stand where {} stands",
                quoted(line)
            ));
        }
        let (labels, after) = match after.trim_start_matches([' ', '\t']).strip_prefix('{') {
            None => ("", after),
            Some(inner) => {
                let end = label_set_length(inner)?;
                (&inner[..end], &inner[end + 1..])
            }
        };
        let series = line[..line.len() - after.len()].trim_end_matches([' ', '\t']);
        // An exemplar (OpenMetrics) begins at " # ".
        let after = after.split_once(" # ").map_or(after, |(sample, _)| sample);
        let mut words = after.split_ascii_whitespace();
        let value = match words.next() {
            None => return Err(format!("a value is missing after {}", quoted(series))),
            Some(word) => number(word).ok_or_else(|| format!("{} is not a number", quoted(word)))?,
        };
        let ts_ms = words.next().map(|word| self.timestamp(word)).transpose()?;
        if let Some(extra) = words.next() {
            return Err(format!(
                "nothing may follow value and timestamp, but {} does",
                quoted(extra)
            ));
        }
        Ok(Entry {
            series,
            name,
            labels,
            value,
            ts_ms,
            kind: self.kind_of(name),
        })
    }

    /// Milliseconds in the text format, seconds with a fraction in OpenMetrics.
    fn timestamp(&self, word: &str) -> Result<i64, String> {
        let bad = || {
            let unit = if self.open_metrics {
                "seconds"
            } else {
                "whole milliseconds"
            };
            format!("{} is not a timestamp in {unit} since 1970", quoted(word))
        };
        if !self.open_metrics {
            return word.parse().map_err(|_| bad());
        }
        let seconds = number(word)
            .filter(|s| s.is_finite() && s.abs() < 1e12)
            .ok_or_else(bad)?;
        Ok((seconds * 1000.0).round() as i64)
    }

    fn kind_of(&self, name: &str) -> MetricType {
        let Some(suffix) = name.strip_prefix(self.family).filter(|_| !self.family.is_empty()) else {
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
}

impl<'a> Entry<'a> {
    /// The labels in the order of the page, without the name. The page's syntax was checked when the entry was made.
    pub fn labels(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> {
        LabelIter { rest: self.labels }
    }

    /// Whether the value only grows and starts at zero: counters, and all parts of histograms and of summaries but quantiles.
    pub fn starts_at_zero(&self) -> bool {
        match self.kind {
            MetricType::Counter | MetricType::Histogram => true,
            MetricType::Summary => self.name.ends_with("_sum") || self.name.ends_with("_count"),
            MetricType::Gauge | MetricType::Unknown => false,
        }
    }
}

struct LabelIter<'a> {
    rest: &'a str,
}

impl<'a> Iterator for LabelIter<'a> {
    type Item = (&'a str, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let (label, rest) = label(self.rest).ok()??;
        self.rest = rest;
        Some(label)
    }
}

type NameValue<'a> = (&'a str, Cow<'a, str>);

/// The first label of a set and what follows it; None at the set's end.
fn label(set: &str) -> Result<Option<(NameValue<'_>, &str)>, String> {
    let set = set.trim_start_matches([' ', '\t']);
    if set.is_empty() {
        return Ok(None);
    }
    let name_len = name_length(set, false);
    let (name, after) = set.split_at(name_len);
    if name.is_empty() {
        return Err(format!("a label name must stand where {} stands", quoted(set)));
    }
    let after = after.trim_start_matches([' ', '\t']);
    let Some(after) = after.strip_prefix('=') else {
        return Err(format!("= must follow the label name {}", quoted(name)));
    };
    let Some(after) = after.trim_start_matches([' ', '\t']).strip_prefix('"') else {
        return Err(format!(
            "the value of label {} must stand in double quotes",
            quoted(name)
        ));
    };
    let end =
        string_length(after).ok_or_else(|| format!("the value of label {} has no closing quote", quoted(name)))?;
    let value = unescape(&after[..end]);
    let rest = after[end + 1..].trim_start_matches([' ', '\t']);
    let rest = match rest.strip_prefix(',') {
        Some(rest) => rest,
        None if rest.is_empty() => rest,
        None => return Err(format!("a comma or }} must follow label {}", quoted(name))),
    };
    Ok(Some(((name, value), rest)))
}

/// Length of a label set up to its closing brace, after a check of its syntax.
fn label_set_length(inner: &str) -> Result<usize, String> {
    let bytes = inner.as_bytes();
    let (mut at, mut in_string) = (0, false);
    let end = loop {
        match bytes.get(at) {
            None => return Err("the label set has no closing }".to_owned()),
            Some(b'\\') if in_string => at += 1,
            Some(b'"') => in_string = !in_string,
            Some(b'}') if !in_string => break at,
            Some(_) => {}
        }
        at += 1;
    };
    let mut rest = &inner[..end];
    while let Some((_, after)) = label(rest)? {
        rest = after;
    }
    Ok(end)
}

fn name_length(text: &str, colons: bool) -> usize {
    let part = |(i, b): (usize, u8)| {
        b.is_ascii_alphabetic() || b == b'_' || (colons && b == b':') || (i > 0 && b.is_ascii_digit())
    };
    text.bytes().enumerate().take_while(|&x| part(x)).count()
}

/// Length up to the closing quote.
fn string_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

fn unescape(raw: &str) -> Cow<'_, str> {
    if memchr(b'\\', raw.as_bytes()).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some(c @ ('\\' | '"')) => out.push(c),
            // Unknown escapes stand for themselves, as in Prometheus.
            Some(c) => out.extend(['\\', c]),
            None => out.push('\\'),
        }
    }
    Cow::Owned(out)
}

/// A Go-like float: decimal, exponent, NaN, +Inf, -Inf in any case.
fn number(word: &str) -> Option<f64> {
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

/// At most 60 characters of what stands there, so that an error stays readable.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{:?}...", &text[..cut]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests;
