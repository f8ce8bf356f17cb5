//! Reads a page of text at leisure: one [`Entry`] a sample, with its parts. Who reads many pages takes [`super::text`].

use super::{
    ParseError, series,
    text::{Item, Lines},
};
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

impl MetricType {
    /// Whether values of a series of that name only grow and start at zero: counters, and all parts of histograms and of
    /// summaries but quantiles.
    pub fn starts_at_zero(self, name: &str) -> bool {
        match self {
            MetricType::Counter | MetricType::Histogram => true,
            MetricType::Summary => name.ends_with("_sum") || name.ends_with("_count"),
            MetricType::Gauge | MetricType::Unknown => false,
        }
    }
}

/// One sample of a page. Borrowed from the page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry<'a> {
    /// Name and label set exactly as written.
    pub series: &'a str,
    /// The metric's name; as written between its quotes, where it needs them.
    pub name: &'a str,
    /// The value.
    pub value: f64,
    /// Milliseconds since 1970, where the page gives a time.
    pub ts_ms: Option<i64>,
    /// Type of its family.
    pub kind: MetricType,
}

/// Begins to read a page; one that ends with `# EOF` as OpenMetrics text.
pub fn parse(page: &str) -> Parser<'_> {
    let lines = match page.ends_with("# EOF\n") {
        true => Lines::open_metrics(page),
        false => Lines::text(page),
    };
    Parser { lines, done: false }
}

/// An iterator over the samples of a page; ends after the first error.
#[derive(Debug)]
pub struct Parser<'a> {
    lines: Lines<'a>,
    done: bool,
}

impl<'a> Iterator for Parser<'a> {
    type Item = Result<Entry<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            match self.lines.next(None) {
                Ok(Some(Item::Line(line))) => {
                    let name = match series::name(line.series) {
                        Cow::Borrowed(name) => name,
                        Cow::Owned(_) => line.series,
                    };
                    return Some(Ok(Entry {
                        series: line.series,
                        name,
                        value: line.value,
                        ts_ms: line.ts_ms,
                        kind: self.lines.kind_of(name),
                    }));
                }
                Ok(Some(Item::Comment(_))) => {}
                Ok(None) => self.done = true,
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl<'a> Entry<'a> {
    /// The labels in the order of the page, without the name.
    pub fn labels(&self) -> impl Iterator<Item = series::Pair<'a>> {
        series::labels(self.series)
    }

    /// See [`MetricType::starts_at_zero`].
    pub fn starts_at_zero(&self) -> bool {
        self.kind.starts_at_zero(self.name)
    }
}

#[cfg(test)]
mod tests;
