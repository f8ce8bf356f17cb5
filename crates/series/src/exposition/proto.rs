//! Reads a page of protocol buffers: `io.prometheus.client.MetricFamily`, each behind its length.
//!
//! Enters: bytes. Leaves, through a [`Sink`]: families, samples as the text format would show them, and native histograms.
//! Strings are borrowed from the page. Exemplars and creation times are skipped.

mod metric;
mod wire;

use super::{MetricType, ParseError, text::Mark};
use crate::{Histogram, names};
use metric::Metric;
use std::hash::Hasher;
use wire::{Field, Message};

/// Where a page's content goes.
pub trait Sink {
    /// What a family is; comes before its samples.
    fn family(&mut self, family: &Family<'_>);

    /// A sample.
    fn sample(&mut self, series: &Series<'_>, value: f64, ts_ms: Option<i64>);

    /// A native histogram.
    fn histogram(&mut self, series: &Series<'_>, value: Histogram, ts_ms: Option<i64>);
}

/// A family, without its samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is about.
    pub help: &'a str,
    /// Base unit, or empty.
    pub unit: &'a str,
    /// As in `# TYPE`.
    pub kind: &'static str,
    /// As [`MetricType`].
    pub metric_type: MetricType,
}

/// The identity of a series.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    /// The name of its family.
    pub family: &'a str,
    /// What follows it: `_bucket`, `_sum`, `_count`, or nothing.
    pub suffix: &'static str,
    /// Labels in the order of the page.
    pub labels: &'a [(&'a str, &'a str)],
    /// `le` or `quantile`.
    pub bound: Option<(&'static str, f64)>,
    /// As [`MetricType`].
    pub metric_type: MetricType,
    labels_hash: u64,
}

impl Series<'_> {
    /// The same for the same series within one process.
    pub fn mark(&self) -> Mark {
        let mut hasher = rapidhash::fast::RapidHasher::default();
        hasher.write_u64(self.labels_hash);
        hasher.write(self.suffix.as_bytes());
        if let Some((name, bound)) = self.bound {
            hasher.write(name.as_bytes());
            hasher.write_u64(bound.to_bits());
        }
        Mark {
            hash: hasher.finish(),
            len: u32::MAX,
        }
    }
}

/// What of histograms is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Native histograms where there are some; else only classic buckets.
    pub native: bool,
    /// Classic buckets of a histogram that is native too.
    pub classic_too: bool,
}

/// Reads a whole page.
///
/// # Errors
/// Where the bytes are no such messages; the error counts families, from 1. What came before has gone to the sink.
pub fn read(page: &[u8], options: Options, sink: &mut dyn Sink) -> Result<(), ParseError> {
    let mut rest = Message(page);
    let mut number = 0;
    while !rest.0.is_empty() {
        number += 1;
        rest.delimited()
            .and_then(|family| read_family(family, options, sink))
            .map_err(|message| ParseError {
                line: number,
                message: message.to_owned(),
            })?;
    }
    Ok(())
}

/// What is wrong with a message.
type Wrong = &'static str;

fn read_family(message: Message<'_>, options: Options, sink: &mut dyn Sink) -> Result<(), Wrong> {
    let (mut name, mut help, mut unit, mut kind) = ("", "", "", 0);
    let mut fields = message;
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => name = text(bytes)?,
            (2, Field::Bytes(bytes)) => help = text(bytes)?,
            (3, Field::Varint(value)) => kind = value,
            (5, Field::Bytes(bytes)) => unit = text(bytes)?,
            _ => {}
        }
    }
    if name.is_empty() {
        return Err("a metric family must have a name");
    }
    let (kind, metric_type) = match kind {
        0 => ("counter", MetricType::Counter),
        1 => ("gauge", MetricType::Gauge),
        2 => ("summary", MetricType::Summary),
        3 => ("unknown", MetricType::Unknown),
        4 => ("histogram", MetricType::Histogram),
        5 => ("gaugehistogram", MetricType::Gauge),
        _ => return Err("the type of a metric family must be 0 to 5"),
    };
    let family = Family {
        name,
        help,
        unit,
        kind,
        metric_type,
    };
    sink.family(&family);
    let mut labels = Vec::new();
    let mut fields = message;
    while let Some((number, field)) = fields.next()? {
        if let (4, Field::Bytes(bytes)) = (number, field) {
            labels.clear();
            let metric = Metric::read(Message(bytes), &mut labels)?;
            let mut hasher = rapidhash::fast::RapidHasher::default();
            hasher.write(name.as_bytes());
            for (name, value) in &labels {
                hasher.write_u8(0xff);
                hasher.write(name.as_bytes());
                hasher.write_u8(0xfe);
                hasher.write(value.as_bytes());
            }
            let series = Series {
                family: name,
                suffix: "",
                labels: &labels,
                bound: None,
                metric_type,
                labels_hash: hasher.finish(),
            };
            emit(&series, kind, &metric, options, sink)?;
        }
    }
    Ok(())
}

/// A metric as samples of the text format; the family's type says which of its parts count.
fn emit(
    series: &Series<'_>,
    kind: &str,
    metric: &Metric<'_>,
    options: Options,
    sink: &mut dyn Sink,
) -> Result<(), Wrong> {
    let ts_ms = metric.ts_ms;
    let part = |suffix, bound| Series {
        suffix,
        bound,
        ..*series
    };
    match kind {
        "summary" => {
            let summary = metric
                .summary
                .ok_or("a metric of a summary family must have a summary")?;
            let (mut count, mut sum, mut fields) = (0, 0.0, summary);
            while let Some((number, field)) = fields.next()? {
                match (number, field) {
                    (1, Field::Varint(value)) => count = value,
                    (2, Field::Fixed64(bits)) => sum = f64::from_bits(bits),
                    (3, Field::Bytes(bytes)) => {
                        let (quantile, value) = metric::two_doubles(Message(bytes))?;
                        sink.sample(&part("", Some((names::QUANTILE, quantile))), value, ts_ms);
                    }
                    _ => {}
                }
            }
            sink.sample(&part("_sum", None), sum, ts_ms);
            sink.sample(&part("_count", None), count as f64, ts_ms);
        }
        "histogram" | "gaugehistogram" => {
            let histogram = metric
                .histogram
                .ok_or("a metric of a histogram family must have a histogram")?;
            let native = metric::native(histogram, kind == "gaugehistogram")?;
            let is_native = options.native && native.is_some();
            if let Some(native) = native.filter(|_| options.native) {
                sink.histogram(series, native, ts_ms);
            }
            if is_native && !options.classic_too {
                return Ok(());
            }
            let (mut count, mut sum, mut infinite, mut fields) = (0.0, 0.0, false, histogram);
            while let Some((number, field)) = fields.next()? {
                match (number, field) {
                    (1, Field::Varint(value)) => count = value as f64,
                    (4, Field::Fixed64(bits)) if f64::from_bits(bits) > 0.0 => count = f64::from_bits(bits),
                    (2, Field::Fixed64(bits)) => sum = f64::from_bits(bits),
                    (3, Field::Bytes(bytes)) => {
                        let (cumulative, bound) = metric::bucket(Message(bytes))?;
                        infinite |= bound == f64::INFINITY;
                        sink.sample(&part("_bucket", Some((names::LE, bound))), cumulative, ts_ms);
                    }
                    _ => {}
                }
            }
            if !infinite {
                sink.sample(&part("_bucket", Some((names::LE, f64::INFINITY))), count, ts_ms);
            }
            sink.sample(&part("_sum", None), sum, ts_ms);
            sink.sample(&part("_count", None), count, ts_ms);
        }
        _ => sink.sample(
            series,
            metric.value.ok_or("a metric must have a value of its family's type")?,
            ts_ms,
        ),
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, Wrong> {
    std::str::from_utf8(bytes).map_err(|_| "names, labels and help must be UTF-8")
}

#[cfg(test)]
mod tests;
