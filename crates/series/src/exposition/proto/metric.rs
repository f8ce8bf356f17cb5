//! One `Metric` and its parts.

use super::{
    Wrong, text,
    wire::{Field, Message, zigzag},
};
use crate::{Buckets, Histogram, ResetHint, Span};
use std::sync::Arc;

/// A metric: its value, or the message that holds it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Metric<'a> {
    /// Of a counter, a gauge or one without a type.
    pub value: Option<f64>,
    pub summary: Option<Message<'a>>,
    pub histogram: Option<Message<'a>>,
    pub ts_ms: Option<i64>,
}

impl<'a> Metric<'a> {
    /// Reads a metric; its labels go to `labels`.
    pub fn read(mut message: Message<'a>, labels: &mut Vec<(&'a str, &'a str)>) -> Result<Self, Wrong> {
        let mut metric = Metric::default();
        while let Some((number, field)) = message.next()? {
            match (number, field) {
                (1, Field::Bytes(bytes)) => labels.push(label(Message(bytes))?),
                (2 | 3 | 5, Field::Bytes(bytes)) => metric.value = Some(value(Message(bytes))?),
                (4, Field::Bytes(bytes)) => metric.summary = Some(Message(bytes)),
                (6, Field::Varint(value)) => metric.ts_ms = Some(value.cast_signed()).filter(|ts| *ts != 0),
                (7, Field::Bytes(bytes)) => metric.histogram = Some(Message(bytes)),
                _ => {}
            }
        }
        Ok(metric)
    }
}

fn label(mut message: Message<'_>) -> Result<(&str, &str), Wrong> {
    let mut pair = ("", "");
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => pair.0 = text(bytes)?,
            (2, Field::Bytes(bytes)) => pair.1 = text(bytes)?,
            _ => {}
        }
    }
    if pair.0.is_empty() {
        return Err("a label must have a name");
    }
    Ok(pair)
}

/// `Counter`, `Gauge` and `Untyped` look the same.
fn value(message: Message<'_>) -> Result<f64, Wrong> {
    Ok(two_doubles(message)?.0)
}

/// Fields 1 and 2.
pub(super) fn two_doubles(mut message: Message<'_>) -> Result<(f64, f64), Wrong> {
    let mut both = (0.0, 0.0);
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (1, Field::Fixed64(bits)) => both.0 = f64::from_bits(bits),
            (2, Field::Fixed64(bits)) => both.1 = f64::from_bits(bits),
            _ => {}
        }
    }
    Ok(both)
}

/// Cumulative count and upper bound of a classic bucket.
pub(super) fn bucket(mut message: Message<'_>) -> Result<(f64, f64), Wrong> {
    let mut both = (0.0, 0.0);
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (1, Field::Varint(value)) => both.0 = value as f64,
            (4, Field::Fixed64(bits)) if f64::from_bits(bits) > 0.0 => both.0 = f64::from_bits(bits),
            (2, Field::Fixed64(bits)) => both.1 = f64::from_bits(bits),
            _ => {}
        }
    }
    Ok(both)
}

/// Buckets of one sign as they stand.
#[derive(Default)]
struct Side {
    spans: Vec<Span>,
    /// Integers: each one's difference to the one before.
    deltas: Vec<i64>,
    /// Floats, as they are.
    counts: Vec<f64>,
}

impl Side {
    fn span(&mut self, mut message: Message<'_>) -> Result<(), Wrong> {
        let mut span = Span { offset: 0, length: 0 };
        while let Some((number, field)) = message.next()? {
            match (number, field) {
                (1, Field::Varint(value)) => {
                    span.offset = i32::try_from(zigzag(value)).map_err(|_| "the offset of a span is out of range")?;
                }
                (2, Field::Varint(value)) => {
                    span.length = u32::try_from(value).map_err(|_| "the length of a span is out of range")?;
                }
                _ => {}
            }
        }
        self.spans.push(span);
        Ok(())
    }

    fn buckets(self) -> Result<Buckets, Wrong> {
        let counts = if self.counts.is_empty() {
            let add = |sum: &mut i64, delta: i64| {
                *sum = sum.checked_add(delta)?;
                Some(*sum as f64)
            };
            self.deltas
                .into_iter()
                .scan(0i64, |sum, delta| Some(add(sum, delta)))
                .collect::<Option<Vec<f64>>>()
        } else {
            Some(self.counts)
        };
        let counts = counts.ok_or("the counts of buckets are out of range")?;
        let wanted: u64 = self.spans.iter().map(|s| u64::from(s.length)).sum();
        if wanted != counts.len() as u64 {
            return Err("a histogram must have as many buckets as its spans say");
        }
        if counts.iter().any(|count| *count < 0.0) {
            return Err("a bucket must not have less than no observations");
        }
        Ok(Buckets {
            spans: self.spans,
            counts,
        })
    }
}

/// The native part of a `Histogram`; None where it has only classic buckets.
pub(super) fn native(mut message: Message<'_>, gauge: bool) -> Result<Option<Histogram>, Wrong> {
    let mut out = Histogram::default();
    let (mut positive, mut negative) = (Side::default(), Side::default());
    let (mut schema, mut is_native) = (0, false);
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (1, Field::Varint(value)) => out.count = value as f64,
            (4, Field::Fixed64(bits)) if f64::from_bits(bits) > 0.0 => out.count = f64::from_bits(bits),
            (2, Field::Fixed64(bits)) => out.sum = f64::from_bits(bits),
            (5, Field::Varint(value)) => schema = zigzag(value),
            (6, Field::Fixed64(bits)) => {
                out.zero_threshold = f64::from_bits(bits);
                is_native |= out.zero_threshold > 0.0;
            }
            (7, Field::Varint(value)) => {
                out.zero_count = value as f64;
                is_native |= value > 0;
            }
            (8, Field::Fixed64(bits)) if f64::from_bits(bits) > 0.0 => {
                out.zero_count = f64::from_bits(bits);
                is_native = true;
            }
            // A histogram without observations shows by an empty span that it is native.
            (9, Field::Bytes(bytes)) => negative.span(Message(bytes)).map(|()| is_native = true)?,
            (12, Field::Bytes(bytes)) => positive.span(Message(bytes)).map(|()| is_native = true)?,
            (10, field) => signed(field, &mut negative.deltas)?,
            (13, field) => signed(field, &mut positive.deltas)?,
            (11, field) => doubles(field, &mut negative.counts)?,
            (14, field) => doubles(field, &mut positive.counts)?,
            _ => {}
        }
    }
    if !is_native {
        return Ok(None);
    }
    if !(-4..=8).contains(&schema) {
        return Err("the schema of a native histogram must be -4 to 8");
    }
    out.schema = i8::try_from(schema).unwrap_or_default();
    out.positive = positive.buckets()?;
    out.negative = negative.buckets()?;
    out.custom_values = Arc::from([]);
    out.reset = if gauge { ResetHint::Gauge } else { ResetHint::Unknown };
    Ok(Some(out))
}

/// Repeated `sint64`, packed or one by one.
fn signed(field: Field<'_>, out: &mut Vec<i64>) -> Result<(), Wrong> {
    match field {
        Field::Varint(value) => out.push(zigzag(value)),
        Field::Bytes(bytes) => {
            let mut rest = Message(bytes);
            while !rest.0.is_empty() {
                out.push(zigzag(rest.varint()?));
            }
        }
        _ => return Err("the differences of buckets must be integers"),
    }
    Ok(())
}

/// Repeated `double`, packed or one by one.
fn doubles(field: Field<'_>, out: &mut Vec<f64>) -> Result<(), Wrong> {
    match field {
        Field::Fixed64(bits) => out.push(f64::from_bits(bits)),
        Field::Bytes(bytes) => {
            let mut rest = Message(bytes);
            while !rest.0.is_empty() {
                out.push(f64::from_bits(rest.fixed64()?));
            }
        }
        _ => return Err("the counts of buckets must be doubles"),
    }
    Ok(())
}
