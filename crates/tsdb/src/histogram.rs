//! Chunks of native histograms: the layout of the buckets once a chunk, then each sample against the one before.
//!
//! Where all counts are whole numbers a sample holds differences of their differences, else the XOR of their bits; both as
//! variable-length numbers, so that a bucket at rest takes one byte. Another layout, schema or kind of counts begins
//! another chunk. A staleness marker fits into any.

use crate::varint::{Reader, put, put_signed};
use std::sync::Arc;
use weir_series::{AppendError, Buckets, Histogram, HistogramSample, ResetHint, Span};

/// Samples of a full chunk.
const CHUNK_SAMPLES: u32 = 120;
/// Whole numbers up to here are exact as floats.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// Bit of a sample's flags: the series ended here, nothing follows.
const STALE: u8 = 4;

/// What all samples of a chunk share.
#[derive(Clone, Debug, Default, PartialEq)]
struct Layout {
    schema: i8,
    zero_threshold: f64,
    positive: Vec<Span>,
    negative: Vec<Span>,
    positive_counts: usize,
    negative_counts: usize,
    custom_values: Arc<[f64]>,
    /// Whether the counts are whole numbers.
    whole: bool,
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    layout: Arc<Layout>,
    first_ms: i64,
    last_ms: i64,
    count: u32,
    bytes: Vec<u8>,
}

/// What the next sample is encoded against. Counts are whole numbers or bits of floats, as the layout says, in the order
/// zero bucket, all, positive, negative.
#[derive(Clone, Debug, Default)]
struct State {
    ts_ms: i64,
    delta_ms: i64,
    sum: u64,
    counts: Vec<u64>,
    deltas: Vec<u64>,
}

/// The histograms of one series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histograms {
    /// In the order of time; the last one grows.
    chunks: Vec<Chunk>,
    state: State,
}

/// A layout with more counts was damaged: nobody has so many buckets.
const COUNTS_MAX: u64 = 1 << 20;

impl Histograms {
    /// Appends a histogram that is newer than all others. The newest one again is no error and no sample.
    pub fn push(&mut self, ts_ms: i64, value: &Histogram) -> Result<(), AppendError> {
        if let Some(last_ms) = self.last_ms() {
            if ts_ms < last_ms {
                return Err(AppendError::OutOfOrder);
            }
            if ts_ms == last_ms {
                return if self.is_last(value) {
                    Ok(())
                } else {
                    Err(AppendError::Duplicate)
                };
            }
        }
        let fits = |chunk: &Chunk| chunk.count < CHUNK_SAMPLES && (value.is_stale() || chunk.layout.is_of(value));
        if !self.chunks.last().is_some_and(fits) {
            self.begin(value);
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(&mut self.state, ts_ms, value);
        }
        Ok(())
    }

    fn begin(&mut self, value: &Histogram) {
        let mut layout = None;
        if let Some(full) = self.chunks.last_mut() {
            full.bytes.shrink_to_fit();
            layout = Some(full.layout.clone()).filter(|l| value.is_stale() || l.is_of(value));
        }
        let layout = layout.unwrap_or_else(|| Arc::new(Layout::of(value)));
        let counts = 2 + layout.positive_counts + layout.negative_counts;
        self.state = State {
            counts: vec![0; counts],
            deltas: vec![0; counts],
            ..State::default()
        };
        self.chunks.reserve_exact(1);
        self.chunks.push(Chunk {
            layout,
            ..Chunk::default()
        });
    }

    fn is_last(&self, value: &Histogram) -> bool {
        let Some(chunk) = self.chunks.last() else {
            return false;
        };
        let mut last = Vec::new();
        chunk.read(chunk.last_ms, i64::MAX, &mut last);
        last.pop().is_some_and(|l| {
            l.value.is_stale() && value.is_stale()
                || Layout::of(&l.value) == Layout::of(value)
                    && l.value.sum.to_bits() == value.sum.to_bits()
                    && counts(&l.value).eq(counts(value))
        })
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn last_ms(&self) -> Option<i64> {
        self.chunks.last().map(|c| c.last_ms)
    }

    pub fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.chunks
            .iter()
            .any(|c| c.last_ms >= start_ms && c.first_ms <= end_ms)
    }

    /// Appends the histograms from `start_ms` to `end_ms` to `out`.
    pub fn read(&self, start_ms: i64, end_ms: i64, out: &mut Vec<HistogramSample>) {
        let within = |c: &&Chunk| c.last_ms >= start_ms && c.first_ms <= end_ms;
        for chunk in self.chunks.iter().filter(within) {
            chunk.read(start_ms, end_ms, out);
        }
    }

    /// Drops the chunks that end before `oldest_ms`.
    pub fn drop_before(&mut self, oldest_ms: i64) {
        let gone = self.chunks.partition_point(|c| c.last_ms < oldest_ms);
        if gone > 0 {
            self.chunks.drain(..gone);
            self.chunks.shrink_to_fit();
        }
    }

    /// Calls with the time of the last sample and the bytes of each chunk.
    pub fn each_chunk(&self, mut with: impl FnMut(i64, usize)) {
        for chunk in &self.chunks {
            with(chunk.last_ms, chunk.heap_bytes());
        }
    }

    pub fn heap_bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(Chunk::heap_bytes).sum();
        size_of::<Self>() + chunks + (self.state.counts.capacity() + self.state.deltas.capacity()) * 8
    }

    /// Appends all chunks as bytes that [`Histograms::decode`] takes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, self.chunks.len() as u64);
        for chunk in &self.chunks {
            chunk.layout.encode(out);
            put_signed(out, chunk.first_ms);
            put(out, chunk.count.into());
            crate::varint::put_bytes(out, &chunk.bytes);
        }
    }

    /// The histograms that were encoded; `None` for what cannot have been.
    pub fn decode(reader: &mut Reader<'_>) -> Option<Histograms> {
        let mut all = Histograms::default();
        for _ in 0..reader.length()? {
            let layout = Arc::new(Layout::decode(reader)?);
            let first_ms = reader.signed()?;
            let count = u32::try_from(reader.number()?).ok().filter(|c| *c <= CHUNK_SAMPLES)?;
            let chunk = Chunk {
                layout,
                first_ms,
                last_ms: i64::MAX,
                count,
                bytes: reader.bytes()?.to_vec(),
            };
            let mut samples = Vec::new();
            chunk.read(i64::MIN, i64::MAX, &mut samples);
            if samples.len() != count as usize {
                return None;
            }
            for sample in samples {
                all.push(sample.ts_ms, &sample.value).ok()?;
            }
        }
        Some(all)
    }
}

impl Chunk {
    fn push(&mut self, state: &mut State, ts_ms: i64, value: &Histogram) {
        let delta = if self.count == 0 {
            0
        } else {
            ts_ms.wrapping_sub(state.ts_ms)
        };
        if self.count == 0 {
            self.first_ms = ts_ms;
        } else {
            put_signed(&mut self.bytes, delta.wrapping_sub(state.delta_ms));
        }
        (state.ts_ms, state.delta_ms) = (ts_ms, delta);
        (self.last_ms, self.count) = (ts_ms, self.count + 1);
        let stale = value.is_stale();
        self.bytes.push(hint_bits(value.reset) | if stale { STALE } else { 0 });
        if stale {
            return;
        }
        put(&mut self.bytes, (value.sum.to_bits() ^ state.sum).swap_bytes());
        state.sum = value.sum.to_bits();
        for (at, count) in counts(value).enumerate() {
            let (last, last_delta) = (&mut state.counts[at], &mut state.deltas[at]);
            if self.layout.whole {
                let now = count as i64 as u64;
                let delta = now.wrapping_sub(*last);
                put_signed(&mut self.bytes, delta.wrapping_sub(*last_delta) as i64);
                (*last, *last_delta) = (now, delta);
            } else {
                put(&mut self.bytes, (count.to_bits() ^ *last).swap_bytes());
                *last = count.to_bits();
            }
        }
    }

    /// Bytes that a chunk would not have written end the reading.
    fn read(&self, start_ms: i64, end_ms: i64, out: &mut Vec<HistogramSample>) {
        let layout = &*self.layout;
        let values = 2 + layout.positive_counts + layout.negative_counts;
        let mut state = State {
            ts_ms: self.first_ms,
            counts: vec![0; values],
            deltas: vec![0; values],
            ..State::default()
        };
        let mut reader = Reader(&self.bytes);
        for at in 0..self.count {
            let Some((hint, stale)) = read_one(&mut reader, at == 0, layout.whole, &mut state) else {
                return;
            };
            if state.ts_ms > end_ms {
                return;
            }
            if state.ts_ms >= start_ms {
                let value = if stale {
                    Histogram::stale()
                } else {
                    layout.histogram(&state, hint)
                };
                out.push(HistogramSample {
                    ts_ms: state.ts_ms,
                    value: Arc::new(value),
                });
            }
        }
    }

    fn heap_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity() + self.layout.heap_bytes() / Arc::strong_count(&self.layout)
    }
}

fn read_one(reader: &mut Reader<'_>, first: bool, whole: bool, state: &mut State) -> Option<(ResetHint, bool)> {
    if !first {
        state.delta_ms = state.delta_ms.wrapping_add(reader.signed()?);
        state.ts_ms = state.ts_ms.wrapping_add(state.delta_ms);
    }
    let flags = reader.byte()?;
    let hint = hint(flags)?;
    if flags & STALE != 0 {
        return Some((hint, true));
    }
    state.sum ^= reader.number()?.swap_bytes();
    for (count, delta) in state.counts.iter_mut().zip(&mut state.deltas) {
        if whole {
            *delta = delta.wrapping_add(reader.signed()? as u64);
            *count = count.wrapping_add(*delta);
        } else {
            *count ^= reader.number()?.swap_bytes();
        }
    }
    Some((hint, false))
}

impl Layout {
    fn of(value: &Histogram) -> Layout {
        Layout {
            schema: value.schema,
            zero_threshold: value.zero_threshold,
            positive: value.positive.spans.clone(),
            negative: value.negative.spans.clone(),
            positive_counts: value.positive.counts.len(),
            negative_counts: value.negative.counts.len(),
            custom_values: value.custom_values.clone(),
            whole: counts(value).all(is_whole),
        }
    }

    fn is_of(&self, value: &Histogram) -> bool {
        self.schema == value.schema
            && self.zero_threshold.to_bits() == value.zero_threshold.to_bits()
            && self.positive == value.positive.spans
            && self.negative == value.negative.spans
            && self.positive_counts == value.positive.counts.len()
            && self.negative_counts == value.negative.counts.len()
            && self.custom_values == value.custom_values
            && self.whole == counts(value).all(is_whole)
    }

    fn histogram(&self, state: &State, reset: ResetHint) -> Histogram {
        let float = |raw: &u64| {
            if self.whole {
                *raw as i64 as f64
            } else {
                f64::from_bits(*raw)
            }
        };
        let (positive, negative) = state.counts[2..].split_at(self.positive_counts);
        let buckets = |spans: &[Span], counts: &[u64]| Buckets {
            spans: spans.to_vec(),
            counts: counts.iter().map(float).collect(),
        };
        Histogram {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: float(&state.counts[0]),
            count: float(&state.counts[1]),
            sum: f64::from_bits(state.sum),
            positive: buckets(&self.positive, positive),
            negative: buckets(&self.negative, negative),
            custom_values: self.custom_values.clone(),
            reset,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.schema as u8);
        out.push(self.whole.into());
        out.extend_from_slice(&self.zero_threshold.to_bits().to_le_bytes());
        for (spans, counts) in [
            (&self.positive, self.positive_counts),
            (&self.negative, self.negative_counts),
        ] {
            put(out, spans.len() as u64);
            for span in spans {
                put_signed(out, span.offset.into());
                put(out, span.length.into());
            }
            put(out, counts as u64);
        }
        put(out, self.custom_values.len() as u64);
        for value in self.custom_values.iter() {
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Layout> {
        let schema = reader.byte()? as i8;
        let whole = reader.byte()? == 1;
        let zero_threshold = f64::from_bits(reader.fixed()?);
        let mut side = || {
            let mut spans = Vec::new();
            for _ in 0..reader.length()? {
                let offset = i32::try_from(reader.signed()?).ok()?;
                let length = u32::try_from(reader.number()?).ok()?;
                spans.push(Span { offset, length });
            }
            // Not more than the spans have buckets. What follows does not bound them: a chunk may hold a stale marker only.
            let buckets: u64 = spans.iter().map(|span| u64::from(span.length)).sum();
            let counts = reader.number().filter(|counts| *counts <= buckets.min(COUNTS_MAX))?;
            Some((spans, usize::try_from(counts).ok()?))
        };
        let ((positive, positive_counts), (negative, negative_counts)) = (side()?, side()?);
        let custom_values = (0..reader.length()?).map(|_| Some(f64::from_bits(reader.fixed()?)));
        Some(Layout {
            schema,
            zero_threshold,
            positive,
            negative,
            positive_counts,
            negative_counts,
            custom_values: custom_values.collect::<Option<Vec<_>>>()?.into(),
            whole,
        })
    }

    fn heap_bytes(&self) -> usize {
        size_of::<Self>() + (self.positive.len() + self.negative.len() + self.custom_values.len()) * 8
    }
}

/// Appends one histogram as bytes that [`decode`] takes.
pub(crate) fn encode(value: &Histogram, out: &mut Vec<u8>) {
    let mut one = Histograms::default();
    // The first one fits always.
    if one.push(0, value).is_ok() {
        one.encode(out);
    }
}

/// One histogram that was encoded.
pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Arc<Histogram>> {
    let mut found = Vec::new();
    Histograms::decode(reader)?.read(0, 0, &mut found);
    found.pop().map(|s| s.value)
}

/// All counts of a histogram in the order of [`State`].
fn counts(value: &Histogram) -> impl Iterator<Item = f64> {
    let buckets = value.positive.counts.iter().chain(&value.negative.counts);
    [value.zero_count, value.count].into_iter().chain(buckets.copied())
}

fn is_whole(value: f64) -> bool {
    value.abs() <= EXACT_MAX && (value as i64 as f64).to_bits() == value.to_bits()
}

fn hint_bits(hint: ResetHint) -> u8 {
    match hint {
        ResetHint::Unknown => 0,
        ResetHint::Reset => 1,
        ResetHint::NotReset => 2,
        ResetHint::Gauge => 3,
    }
}

fn hint(flags: u8) -> Option<ResetHint> {
    match flags & !STALE {
        0 => Some(ResetHint::Unknown),
        1 => Some(ResetHint::Reset),
        2 => Some(ResetHint::NotReset),
        3 => Some(ResetHint::Gauge),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn histogram(counts: Vec<f64>, sum: f64, schema: i8) -> Histogram {
        Histogram {
            schema,
            zero_threshold: 1e-128,
            zero_count: 1.0,
            count: 1.0 + counts.iter().sum::<f64>(),
            sum,
            positive: Buckets {
                spans: vec![Span {
                    offset: -3,
                    length: counts.len() as u32,
                }],
                counts,
            },
            reset: ResetHint::NotReset,
            ..Histogram::default()
        }
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_read(
            samples in prop::collection::vec((
                1..100_000i64,
                prop_oneof![
                    (prop::collection::vec((0..1000u32).prop_map(f64::from), 0..5), -9.0..9.0f64, -4..9i8)
                        .prop_map(|(counts, sum, schema)| histogram(counts, sum, schema)),
                    (prop::collection::vec((0..1000u32).prop_map(f64::from), 3), -9.0..9.0f64)
                        .prop_map(|(counts, sum)| histogram(counts, sum, 3)),
                    (prop::collection::vec(0.0..1e9f64, 3)).prop_map(|counts| histogram(counts, 0.5, 3)),
                    Just(Histogram::stale()),
                ],
            ), 1..300)
        ) {
            let mut all = Histograms::default();
            let (mut ts_ms, mut expected) = (-5000i64, Vec::new());
            for (step, value) in samples {
                ts_ms += step;
                prop_assert_eq!(all.push(ts_ms, &value), Ok(()));
                prop_assert_eq!(all.push(ts_ms, &value), Ok(()));
                prop_assert_eq!(all.push(ts_ms - 1, &value), Err(AppendError::OutOfOrder));
                expected.push((ts_ms, value));
            }
            let mut bytes = Vec::new();
            all.encode(&mut bytes);
            let mut reader = Reader(&bytes);
            let again = Histograms::decode(&mut reader);
            prop_assert!(again.is_some() && reader.is_empty());
            for all in [all, again.unwrap_or_default()] {
                let mut read = Vec::new();
                all.read(i64::MIN, i64::MAX, &mut read);
                prop_assert_eq!(read.len(), expected.len());
                for (read, (ts_ms, value)) in read.iter().zip(&expected) {
                    prop_assert_eq!(read.ts_ms, *ts_ms);
                    prop_assert!(*read.value == *value || read.value.is_stale() && value.is_stale());
                }
            }
        }
    }

    #[test]
    fn a_bucket_at_rest_takes_a_byte() {
        let mut all = Histograms::default();
        for i in 0..100 {
            let value = histogram(vec![5.0; 50], 100.0, 3);
            assert_eq!(all.push(i * 5000, &value), Ok(()));
        }
        let bytes = all.chunks[0].bytes.len();
        assert!(all.chunks.len() == 1 && bytes < 100 * 58, "{bytes}");
    }

    #[test]
    fn a_chunk_that_holds_a_stale_marker_only_can_be_read() {
        let mut all = Histograms::default();
        let full = i64::from(CHUNK_SAMPLES);
        for i in 0..full {
            all.push(i * 5000, &histogram(vec![5.0; 50], 100.0, 3)).unwrap();
        }
        all.push(full * 5000, &Histogram::stale()).unwrap();
        let mut bytes = Vec::new();
        all.encode(&mut bytes);
        let read = Histograms::decode(&mut Reader(&bytes)).expect("nothing needs to follow");
        assert_eq!(read.last_ms(), Some(full * 5000));
    }
}
