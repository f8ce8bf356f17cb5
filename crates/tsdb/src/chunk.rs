//! A run of samples in few bits: times as differences of differences, values as XOR with the one before.
//!
//! Scrapes come at even distances and most counters rest, so that a usual sample takes one bit for its time and one for its
//! value. Layout, bit by bit: the first time stands beside the bits; each later one is a prefix code and the difference of
//! time differences (`0`: none; `10`, `110`, `1110`: 7, 14, 20 bits; `1111`: the difference itself, 32 bits). Each value,
//! the first against 0.0, is `0` where it equals the one before, or `10` and the meaningful bits within the last window, or
//! `11`, 5 bits of leading zeros, 6 bits of length - 1, and the bits.

use weir_series::Sample;

/// Samples of a full chunk.
pub(crate) const CHUNK_SAMPLES: u8 = 120;
/// Widths of the three short time codes.
const SHORT: [u32; 3] = [7, 14, 20];
/// A new window is opened when the old one wastes more bits than its description costs.
const WINDOW_BITS: u8 = 11;

/// The chunk that grows. Bits wait in a word before they go to the heap: a resting series touches it every 32nd sample.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunk {
    first_ms: i64,
    /// The last value.
    value: u64,
    /// Bits that are not in `bytes` yet, the first the highest.
    word: u64,
    /// From the first sample to the last one.
    span_ms: u32,
    /// From the last but one to the last.
    delta_ms: u32,
    bytes: Vec<u8>,
    /// How many bits of `word` are used, below 64.
    pending: u8,
    leading: u8,
    length: u8,
    count: u8,
}

/// A chunk that is full: exactly its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    bytes: Box<[u8]>,
    first_ms: i64,
    span_ms: u32,
    count: u8,
}

impl Chunk {
    /// Whether a sample at that time, after the last one, still fits; else the chunk must be sealed.
    pub fn takes(&self, ts_ms: i64) -> bool {
        self.count == 0
            || self.count < CHUNK_SAMPLES && u32::try_from(i128::from(ts_ms) - i128::from(self.first_ms)).is_ok()
    }

    /// Appends a sample that the chunk [takes](Chunk::takes).
    pub fn push(&mut self, sample: Sample) {
        if self.count == 0 {
            self.first_ms = sample.ts_ms;
        } else {
            let span = sample.ts_ms.wrapping_sub(self.first_ms) as u32;
            let delta = span.wrapping_sub(self.span_ms);
            self.push_time(delta);
            (self.span_ms, self.delta_ms) = (span, delta);
        }
        self.push_value(sample.value.to_bits());
        self.count += 1;
    }

    fn push_time(&mut self, delta: u32) {
        let change = i64::from(delta) - i64::from(self.delta_ms);
        if change == 0 {
            return self.push_bits(0, 1);
        }
        for (i, width) in SHORT.into_iter().enumerate() {
            let half = 1i64 << (width - 1);
            if (-half..half).contains(&change) {
                // i + 1 ones and a zero, then the change.
                let prefix = (1u64 << (i + 2)) - 2;
                let change = (change as u64) & ((1 << width) - 1);
                return self.push_bits(prefix << width | change, i as u32 + 2 + width);
            }
        }
        self.push_bits(0b1111 << 32 | u64::from(delta), 36);
    }

    fn push_value(&mut self, value: u64) {
        let xor = value ^ self.value;
        self.value = value;
        if xor == 0 {
            return self.push_bits(0, 1);
        }
        let leading = (xor.leading_zeros() as u8).min(31);
        let trailing = xor.trailing_zeros() as u8;
        let length = 64 - leading - trailing;
        let window_trailing = 64 - self.leading - self.length;
        let fits = self.length > 0 && leading >= self.leading && trailing >= window_trailing;
        if fits && self.length <= length + WINDOW_BITS {
            self.push_bits(0b10, 2);
            return self.push_bits(xor >> window_trailing, self.length.into());
        }
        self.push_bits(0b11 << 11 | u64::from(leading) << 6 | u64::from(length - 1), 13);
        self.push_bits(xor >> trailing, length.into());
        (self.leading, self.length) = (leading, length);
    }

    /// The lowest `width` (1 to 64) bits of `bits`; the others must be zero.
    #[inline]
    fn push_bits(&mut self, bits: u64, width: u32) {
        let free = 64 - u32::from(self.pending);
        if width < free {
            self.word |= bits << (free - width);
            self.pending += width as u8;
            return;
        }
        let rest = width - free;
        self.grow();
        self.bytes.extend_from_slice(&(self.word | bits >> rest).to_be_bytes());
        self.word = if rest == 0 { 0 } else { bits << (64 - rest) };
        self.pending = rest as u8;
    }

    /// Room for a word more, in small steps: a chunk is rather many small ones' fate than a large one's.
    #[inline]
    fn grow(&mut self) {
        if self.bytes.capacity() - self.bytes.len() < 8 {
            self.bytes.reserve_exact(16.max((self.bytes.len() / 4) & !7));
        }
    }

    pub fn count(&self) -> u8 {
        self.count
    }

    /// The last sample.
    pub fn last(&self) -> Option<Sample> {
        (self.count > 0).then(|| Sample {
            ts_ms: self.last_ms(),
            value: f64::from_bits(self.value),
        })
    }

    pub fn first_ms(&self) -> i64 {
        self.first_ms
    }

    pub fn last_ms(&self) -> i64 {
        self.first_ms.wrapping_add(i64::from(self.span_ms))
    }

    /// The bits in full bytes.
    fn copy_bits(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
        out.extend_from_slice(&self.word.to_be_bytes()[..usize::from(self.pending.div_ceil(8))]);
    }

    /// Ends the chunk, which is empty afterwards and keeps its room for the next one.
    pub fn seal(&mut self) -> Sealed {
        let sealed = self.to_sealed();
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        bytes.shrink_to(64);
        *self = Chunk {
            bytes,
            ..Chunk::default()
        };
        sealed
    }

    /// What [`Chunk::seal`] would give.
    pub fn to_sealed(&self) -> Sealed {
        let mut bits = Vec::with_capacity(self.bytes.len() + 8);
        self.copy_bits(&mut bits);
        Sealed {
            bytes: bits.into(),
            first_ms: self.first_ms,
            span_ms: self.span_ms,
            count: self.count,
        }
    }

    /// Gives back what growing left over: nothing is expected to come soon.
    pub fn rest(&mut self) {
        self.bytes.shrink_to_fit();
    }

    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends the samples from `start_ms` to `end_ms` to `out`; `bits` is room to work in.
    pub fn read(&self, start_ms: i64, end_ms: i64, bits: &mut Vec<u8>, out: &mut Vec<Sample>) {
        bits.clear();
        self.copy_bits(bits);
        decode(bits, self.first_ms, self.count, start_ms, end_ms, out);
    }
}

impl Sealed {
    /// A chunk from parts that were on a disk; `None` unless they decode to ascending samples.
    pub fn new(first_ms: i64, span_ms: u32, count: u8, bytes: &[u8]) -> Option<Sealed> {
        let mut samples = Vec::with_capacity(usize::from(count));
        let used = decode(bytes, first_ms, count, i64::MIN, i64::MAX, &mut samples);
        let ascending = samples.is_sorted_by(|a, b| a.ts_ms < b.ts_ms);
        let last_ms = first_ms.checked_add(i64::from(span_ms))?;
        let whole = count > 0 && count <= CHUNK_SAMPLES && used.div_ceil(8) == bytes.len();
        (whole && ascending && samples.last()?.ts_ms == last_ms).then(|| Sealed {
            bytes: bytes.into(),
            first_ms,
            span_ms,
            count,
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn count(&self) -> u8 {
        self.count
    }

    pub fn first_ms(&self) -> i64 {
        self.first_ms
    }

    pub fn span_ms(&self) -> u32 {
        self.span_ms
    }

    pub fn last_ms(&self) -> i64 {
        self.first_ms.wrapping_add(i64::from(self.span_ms))
    }

    /// Appends the samples from `start_ms` to `end_ms` to `out`.
    pub fn read(&self, start_ms: i64, end_ms: i64, out: &mut Vec<Sample>) {
        decode(&self.bytes, self.first_ms, self.count, start_ms, end_ms, out);
    }
}

/// Appends the samples from `start_ms` to `end_ms` to `out` and returns how many bits it read. Any bytes are safe: what is
/// missing at the end reads as zeros.
fn decode(bytes: &[u8], first_ms: i64, count: u8, start_ms: i64, end_ms: i64, out: &mut Vec<Sample>) -> usize {
    let mut bits = BitReader { bytes, at: 0 };
    let (mut ts_ms, mut delta, mut value) = (first_ms, 0u32, 0u64);
    let (mut leading, mut length) = (0u32, 0u32);
    let mut left = u32::from(count);
    let mut first = true;
    while left > 0 {
        let window = bits.peek();
        if !first && window >> 62 == 0 {
            // Even steps at rest: as many as the window shows.
            let run = (window.leading_zeros() / 2).min(BitReader::VALID / 2).min(left);
            for _ in 0..run {
                ts_ms = ts_ms.wrapping_add(i64::from(delta));
                if ts_ms > end_ms {
                    return bits.at;
                }
                if ts_ms >= start_ms {
                    let value = f64::from_bits(value);
                    out.push(Sample { ts_ms, value });
                }
            }
            bits.at += 2 * run as usize;
            left -= run;
            continue;
        }
        if !first {
            delta = bits.read_delta(window, delta);
            ts_ms = ts_ms.wrapping_add(i64::from(delta));
        }
        first = false;
        if ts_ms > end_ms {
            return bits.at;
        }
        let window = bits.peek();
        if window >> 63 == 0 {
            bits.at += 1;
        } else {
            bits.at += 2;
            if window >> 62 == 0b11 {
                leading = (window >> 57) as u32 & 31;
                length = (window >> 51) as u32 & 63;
                length += 1;
                bits.at += 11;
            }
            let xor = bits.read(length);
            value ^= xor.checked_shl(64u32.saturating_sub(leading + length)).unwrap_or(0);
        }
        if ts_ms >= start_ms {
            let value = f64::from_bits(value);
            out.push(Sample { ts_ms, value });
        }
        left -= 1;
    }
    bits.at
}

struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BitReader<'_> {
    /// How many bits of a window are sure to be there.
    const VALID: u32 = 57;

    /// The next bits, the first the highest; zeros after the end.
    #[inline]
    fn peek(&self) -> u64 {
        let byte = self.at / 8;
        let word = match self.bytes.get(byte..byte + 8).and_then(|b| b.try_into().ok()) {
            Some(eight) => u64::from_be_bytes(eight),
            None => {
                let mut eight = [0; 8];
                let rest = self.bytes.get(byte..).unwrap_or_default();
                eight[..rest.len()].copy_from_slice(rest);
                u64::from_be_bytes(eight)
            }
        };
        word << (self.at % 8)
    }

    #[inline]
    fn read(&mut self, width: u32) -> u64 {
        if width == 0 {
            return 0;
        }
        if width <= Self::VALID {
            let value = self.peek() >> (64 - width);
            self.at += width as usize;
            return value;
        }
        let high = self.read(32);
        high << (width - 32) | self.read(width - 32)
    }

    /// The next time difference.
    #[inline]
    fn read_delta(&mut self, window: u64, delta: u32) -> u32 {
        let ones = (!window).leading_zeros().min(4);
        if ones == 0 {
            self.at += 1;
            return delta;
        }
        if ones == 4 {
            self.at += 36;
            return (window << 4 >> 32) as u32;
        }
        let width = SHORT[ones as usize - 1];
        self.at += (ones + 1 + width) as usize;
        let change = (window << (ones + 1)) as i64 >> (64 - width); // sign extension
        delta.wrapping_add(change as u32)
    }
}

/// What must hold for any bytes: what is accepted as a chunk says the same when it is encoded anew.
pub(crate) fn fuzz(bytes: &[u8]) {
    let Some((&[count, span_low, span_high], bits)) = bytes.split_first_chunk::<3>() else {
        return;
    };
    let span_ms = u32::from(span_low) * 250 + u32::from(span_high) * 64_000;
    let read = |sealed: &Sealed| {
        let mut out = Vec::new();
        sealed.read(i64::MIN, i64::MAX, &mut out);
        out.iter().map(|s| (s.ts_ms, s.value.to_bits())).collect::<Vec<_>>()
    };
    // As samples of any kind: what is pushed is read.
    let mut chunk = Chunk::default();
    let mut pushed = Vec::new();
    let mut ts_ms = 1_700_000_000_000i64;
    for piece in bits.chunks(9) {
        let (step, value) = (piece[0], &piece[1..]);
        let mut word = [0; 8];
        word[..value.len()].copy_from_slice(value);
        ts_ms += 1 + (1i64 << (step % 36)) + i64::from(step);
        if !chunk.takes(ts_ms) {
            break;
        }
        let value = f64::from_bits(u64::from_le_bytes(word));
        chunk.push(Sample { ts_ms, value });
        pushed.push((ts_ms, value.to_bits()));
    }
    if !pushed.is_empty() {
        let sealed = chunk.to_sealed();
        assert_eq!(read(&sealed), pushed, "a chunk reads as another than was pushed");
        let again = Sealed::new(sealed.first_ms, sealed.span_ms, sealed.count, &sealed.bytes);
        assert!(again.is_some(), "a chunk that was written is refused");
    }
    // As bits from a disk.
    if let Some(sealed) = Sealed::new(1_700_000_000_000, span_ms, count, bits) {
        let samples = read(&sealed);
        assert_eq!(samples.len(), usize::from(count));
        let mut chunk = Chunk::default();
        for (ts_ms, value) in &samples {
            assert!(chunk.takes(*ts_ms));
            chunk.push(Sample {
                ts_ms: *ts_ms,
                value: f64::from_bits(*value),
            });
        }
        assert_eq!(
            read(&chunk.to_sealed()),
            samples,
            "a chunk reads differently when written anew"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(samples: &[(i64, f64)]) -> Vec<Sealed> {
        let (mut chunk, mut sealed) = (Chunk::default(), Vec::new());
        for &(ts_ms, value) in samples {
            if !chunk.takes(ts_ms) {
                sealed.push(chunk.seal());
            }
            chunk.push(Sample { ts_ms, value });
        }
        sealed.push(chunk.seal());
        sealed
    }

    fn bits(samples: &[Sample]) -> Vec<(i64, u64)> {
        samples.iter().map(|s| (s.ts_ms, s.value.to_bits())).collect()
    }

    #[test]
    fn a_resting_counter_takes_two_bits_a_sample() {
        let samples: Vec<_> = (0..120).map(|i| (1_700_000_000_000 + i * 5000, 42.0)).collect();
        let chunk = &encode(&samples)[0];
        // A value of 24 bits, one time code of 17 and its value, 118 samples of two bits.
        assert!(chunk.bytes.len() <= 3 + 3 + 30, "{}", chunk.bytes.len());
        assert_eq!(
            (chunk.first_ms(), chunk.last_ms(), chunk.count()),
            (1_700_000_000_000, 1_700_000_595_000, 120)
        );
    }

    #[test]
    fn staleness_markers_survive() {
        let mut samples = Vec::new();
        encode(&[(1, 1.0), (2, weir_series::stale_nan()), (3, f64::NAN)])[0].read(0, 9, &mut samples);
        let values: Vec<_> = samples.iter().map(|s| weir_series::is_stale(s.value)).collect();
        assert_eq!(values, [false, true, false]);
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_read(
            samples in prop::collection::vec((
                prop_oneof![Just(5000i64), 4990..5010i64, 1..100_000_000i64, 1..1i64 << 40],
                prop_oneof![any::<u64>().prop_map(f64::from_bits), (0..1000u32).prop_map(f64::from), Just(7.0)],
            ), 1..300),
            start in 0..1_000_000i64,
            length in 0..1_000_000i64,
        ) {
            let mut time = 1_700_000_000_000i64;
            let samples: Vec<_> = samples.into_iter().map(|(step, value)| {
                time += step;
                (time, value)
            }).collect();
            let all: Vec<_> = samples.iter().map(|&(t, v)| (t, v.to_bits())).collect();
            let chunks = encode(&samples);
            let (mut read, mut open) = (Vec::new(), Chunk::default());
            for chunk in &chunks {
                chunk.read(i64::MIN, i64::MAX, &mut read);
                prop_assert!(Sealed::new(chunk.first_ms, chunk.span_ms, chunk.count, &chunk.bytes).is_some());
            }
            prop_assert_eq!(bits(&read), all.clone());
            // A part of it, from a chunk that still grows.
            let (start, end) = (1_700_000_000_000 + start, 1_700_000_000_000 + start + length);
            let expected: Vec<_> = all.iter().copied().filter(|(t, _)| (start..=end).contains(t)).collect();
            let (mut part, mut room) = (Vec::new(), Vec::new());
            for sample in &read {
                if !open.takes(sample.ts_ms) {
                    open.read(start, end, &mut room, &mut part);
                    open.seal();
                }
                open.push(*sample);
            }
            open.read(start, end, &mut room, &mut part);
            prop_assert_eq!(bits(&part), expected);
        }
    }
}
