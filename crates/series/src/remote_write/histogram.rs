//! Native histograms on the wire: the same message in both versions.

use super::super::wire::{Field, Reader, WireError, Writer, unzigzag, zigzag};
use crate::{Buckets, CUSTOM_BUCKETS_SCHEMA, Histogram, HistogramSample, ResetHint, Span};
use std::sync::Arc;

/// Whole numbers up to here are exact as floats.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// Schemas with exponential bounds.
const SCHEMAS: std::ops::RangeInclusive<i32> = -4..=8;

pub(super) fn encode(w: &mut Writer, sample: &HistogramSample) {
    let h = &*sample.value;
    let whole = is_whole(h);
    if whole {
        w.u64_always(1, h.count as u64);
    } else {
        w.f64_always(2, h.count);
    }
    w.f64(3, h.sum);
    w.s32(4, h.schema.into());
    w.f64(5, h.zero_threshold);
    if whole {
        w.u64_always(6, h.zero_count as u64);
    } else {
        w.f64_always(7, h.zero_count);
    }
    for (first_field, buckets) in [(8, &h.negative), (11, &h.positive)] {
        for span in &buckets.spans {
            w.message(first_field, |w| {
                w.s32(1, span.offset);
                w.u64(2, span.length.into());
            });
        }
        if whole {
            let mut last = 0i64;
            let deltas = buckets.counts.iter().map(|count| {
                let delta = *count as i64 - last;
                last = *count as i64;
                zigzag(delta)
            });
            w.varints(first_field + 1, deltas);
        } else {
            w.doubles(first_field + 2, &buckets.counts);
        }
    }
    let reset = match h.reset {
        ResetHint::Unknown => 0,
        ResetHint::Reset => 1,
        ResetHint::NotReset => 2,
        ResetHint::Gauge => 3,
    };
    w.u64(14, reset);
    w.i64(15, sample.ts_ms);
    w.doubles(16, &h.custom_values);
}

fn is_whole(h: &Histogram) -> bool {
    let counts = [h.count, h.zero_count];
    let all = counts.iter().chain(&h.negative.counts).chain(&h.positive.counts);
    all.copied().all(|c| (0.0..=EXACT_MAX).contains(&c) && c.fract() == 0.0)
}

/// The buckets of one sign as they come: differences of whole numbers, or floats.
#[derive(Default)]
struct Side {
    spans: Vec<Span>,
    deltas: Vec<i64>,
    floats: Vec<f64>,
}

/// The error of the message, or the reason why the histogram makes no sense.
pub(super) enum Bad {
    Wire(WireError),
    Histogram(String),
}

impl From<WireError> for Bad {
    fn from(error: WireError) -> Self {
        Bad::Wire(error)
    }
}

pub(super) fn decode(mut message: Reader<'_>) -> Result<HistogramSample, Bad> {
    let (mut negative, mut positive) = (Side::default(), Side::default());
    let (mut h, mut ts_ms, mut schema, mut whole) = (Histogram::default(), 0, 0, true);
    let mut custom = Vec::new();
    while let Some(field) = message.next()? {
        match field.number {
            1 => h.count = field.u64()? as f64,
            2 => (h.count, whole) = (field.f64()?, false),
            3 => h.sum = field.f64()?,
            4 => schema = field.s32()?,
            5 => h.zero_threshold = field.f64()?,
            6 => h.zero_count = field.u64()? as f64,
            7 => h.zero_count = field.f64()?,
            8 => negative.spans.push(span(field)?),
            9 => field.varints(|v| negative.deltas.push(unzigzag(v)))?,
            10 => field.doubles(|v| negative.floats.push(v))?,
            11 => positive.spans.push(span(field)?),
            12 => field.varints(|v| positive.deltas.push(unzigzag(v)))?,
            13 => field.doubles(|v| positive.floats.push(v))?,
            14 => {
                h.reset = match field.u64()? {
                    1 => ResetHint::Reset,
                    2 => ResetHint::NotReset,
                    3 => ResetHint::Gauge,
                    _ => ResetHint::Unknown,
                }
            }
            15 => ts_ms = field.i64()?,
            16 => field.doubles(|v| custom.push(v))?,
            _ => {}
        }
    }
    h.negative = negative
        .buckets(whole)
        .map_err(|e| Bad::Histogram(format!("negative {e}")))?;
    h.positive = positive
        .buckets(whole)
        .map_err(|e| Bad::Histogram(format!("positive {e}")))?;
    h.custom_values = Arc::from(custom);
    check(&mut h, schema).map_err(Bad::Histogram)?;
    Ok(HistogramSample {
        ts_ms,
        value: Arc::new(h),
    })
}

fn span(field: Field<'_>) -> Result<Span, WireError> {
    let mut span = Span { offset: 0, length: 0 };
    let mut message = field.message()?;
    while let Some(field) = message.next()? {
        match field.number {
            1 => span.offset = field.s32()?,
            2 => span.length = field.u32()?,
            _ => {}
        }
    }
    Ok(span)
}

impl Side {
    fn buckets(self, whole: bool) -> Result<Buckets, String> {
        let counts = if whole {
            let mut last = 0i64;
            let absolute = self.deltas.iter().map(|delta| {
                last = last.checked_add(*delta)?;
                (last >= 0).then_some(last as f64)
            });
            let absolute: Option<Vec<f64>> = absolute.collect();
            absolute.ok_or("buckets: a count is negative or too large")?
        } else {
            self.floats
        };
        if counts.iter().any(|c| *c < 0.0) {
            return Err("buckets: a count is negative".into());
        }
        if self.spans.iter().skip(1).any(|s| s.offset < 0) {
            return Err("spans: a span after the first has a negative offset".into());
        }
        let covered: u64 = self.spans.iter().map(|s| u64::from(s.length)).sum();
        if covered != counts.len() as u64 {
            return Err(format!("spans cover {covered} buckets, but there are {}", counts.len()));
        }
        let ends = self.spans.iter().try_fold(0i32, |at, s| {
            let length = i32::try_from(s.length).ok()?;
            at.checked_add(s.offset)?.checked_add(length)
        });
        ends.ok_or("spans: a bucket's index has more than 32 bits")?;
        Ok(Buckets {
            spans: self.spans,
            counts,
        })
    }
}

/// What must hold between the fields; sets the schema.
fn check(h: &mut Histogram, schema: i32) -> Result<(), String> {
    if h.count < 0.0 || h.zero_count < 0.0 {
        return Err("a count is negative".into());
    }
    if schema == i32::from(CUSTOM_BUCKETS_SCHEMA) {
        let bounds = &h.custom_values;
        if !bounds.is_sorted_by(|a, b| a < b) || bounds.iter().any(|b| !b.is_finite()) {
            return Err("custom_values must be finite and ascend".into());
        }
        if !h.negative.spans.is_empty() || h.zero_count != 0.0 || h.zero_threshold != 0.0 {
            return Err("a histogram with custom buckets has neither negative buckets nor one around zero".into());
        }
        let first = h.positive.spans.first().map_or(0, |s| s.offset);
        let last: i64 = h
            .positive
            .spans
            .iter()
            .map(|s| i64::from(s.offset) + i64::from(s.length))
            .sum();
        if first < 0 || last > bounds.len() as i64 + 1 {
            return Err(format!("a bucket lies beyond the {} custom_values", bounds.len()));
        }
        h.schema = CUSTOM_BUCKETS_SCHEMA;
        return Ok(());
    }
    if !SCHEMAS.contains(&schema) {
        return Err(format!(
            "schema {schema} is neither -4 to 8 nor {CUSTOM_BUCKETS_SCHEMA}"
        ));
    }
    if !h.custom_values.is_empty() {
        return Err(format!("custom_values go with schema {CUSTOM_BUCKETS_SCHEMA} only"));
    }
    if h.zero_threshold < 0.0 || h.zero_threshold.is_nan() {
        return Err("zero_threshold is negative".into());
    }
    h.schema = schema as i8;
    Ok(())
}
