//! A run of samples in few bits: times as differences of differences, values as XOR with the one before.
//!
//! Scrapes come at even distances and most counters rest, so that a usual sample takes one bit for its time and one for its
//! value. Layout, bit by bit: the first time and value in full; then for each sample a prefix code and the difference of
//! time differences (`0`: none; `10`, `110`, `1110`: 7, 14, 20 bits; `1111`: 64 bits), then `0` for an equal value, or
//! `10` and the meaningful bits within the last window, or `11`, 5 bits of leading zeros, 6 bits of length - 1, and the bits.

use weir_series::Sample;

/// Samples with ascending times. Only the newest chunk of a series grows.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    bits: Bits,
    count: u16,
    first_ms: i64,
    last: Last,
}

/// What the next sample is encoded against.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    ts_ms: i64,
    delta: i64,
    value: u64,
    leading: u8,
    length: u8,
}

/// Widths of the three short time codes.
const SHORT: [u8; 3] = [7, 14, 20];

impl Chunk {
    /// Appends a sample; its time must be after the last one's.
    pub fn push(&mut self, sample: Sample) {
        let value = sample.value.to_bits();
        if self.count == 0 {
            self.first_ms = sample.ts_ms;
            self.bits.push(sample.ts_ms as u64, 64);
            self.bits.push(value, 64);
            self.last = Last {
                ts_ms: sample.ts_ms,
                delta: 0,
                value,
                leading: 0,
                length: 0,
            };
        } else {
            // Wrapping: any two times give a difference that wraps back when it is added again.
            let delta = sample.ts_ms.wrapping_sub(self.last.ts_ms);
            self.push_time(delta.wrapping_sub(self.last.delta));
            self.push_value(value);
            self.last = Last {
                ts_ms: sample.ts_ms,
                delta,
                value,
                ..self.last
            };
        }
        self.count += 1;
    }

    fn push_time(&mut self, change: i64) {
        if change == 0 {
            return self.bits.push(0, 1);
        }
        for (i, width) in SHORT.into_iter().enumerate() {
            let half = 1i64 << (width - 1);
            if (-half..half).contains(&change) {
                // i + 1 ones and a zero.
                self.bits.push((1 << (i + 2)) - 2, i as u8 + 2);
                return self.bits.push((change as u64) & ((1 << width) - 1), width);
            }
        }
        self.bits.push(0b1111, 4);
        self.bits.push(change as u64, 64);
    }

    fn push_value(&mut self, value: u64) {
        let xor = value ^ self.last.value;
        if xor == 0 {
            return self.bits.push(0, 1);
        }
        let leading = (xor.leading_zeros() as u8).min(31);
        let trailing = xor.trailing_zeros() as u8;
        let window_trailing = 64 - self.last.leading - self.last.length;
        let fits = self.last.length > 0 && leading >= self.last.leading && trailing >= window_trailing;
        if fits {
            self.bits.push(0b10, 2);
            return self.bits.push(xor >> window_trailing, self.last.length);
        }
        let length = 64 - leading - trailing;
        self.bits.push(0b11, 2);
        self.bits.push(u64::from(leading), 5);
        self.bits.push(u64::from(length - 1), 6);
        self.bits.push(xor >> trailing, length);
        (self.last.leading, self.last.length) = (leading, length);
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Time of the first sample.
    pub fn first_ms(&self) -> i64 {
        self.first_ms
    }

    /// Time of the last sample.
    pub fn last_ms(&self) -> i64 {
        self.last.ts_ms
    }

    /// The last sample.
    pub fn last(&self) -> Option<Sample> {
        (self.count > 0).then(|| Sample {
            ts_ms: self.last.ts_ms,
            value: f64::from_bits(self.last.value),
        })
    }

    /// Gives back memory that growing left over.
    pub fn seal(&mut self) {
        self.bits.bytes.shrink_to_fit();
    }

    /// Bytes held on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.bits.bytes.capacity()
    }

    /// The samples in the order of time.
    pub fn iter(&self) -> ChunkIter<'_> {
        ChunkIter {
            bits: BitReader {
                bytes: &self.bits.bytes,
                at: 0,
            },
            left: self.count,
            first: true,
            last: Last::default(),
        }
    }
}

/// Decodes a [`Chunk`].
#[derive(Clone, Debug)]
pub struct ChunkIter<'a> {
    bits: BitReader<'a>,
    left: u16,
    first: bool,
    last: Last,
}

impl Iterator for ChunkIter<'_> {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        self.left = self.left.checked_sub(1)?;
        if self.first {
            self.first = false;
            self.last.ts_ms = self.bits.read(64)? as i64;
            self.last.value = self.bits.read(64)?;
        } else {
            let change = self.read_time()?;
            self.last.delta = self.last.delta.wrapping_add(change);
            self.last.ts_ms = self.last.ts_ms.wrapping_add(self.last.delta);
            self.last.value ^= self.read_xor()?;
        }
        Some(Sample {
            ts_ms: self.last.ts_ms,
            value: f64::from_bits(self.last.value),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(usize::from(self.left)))
    }
}

impl ChunkIter<'_> {
    fn read_time(&mut self) -> Option<i64> {
        if self.bits.read(1)? == 0 {
            return Some(0);
        }
        for width in SHORT {
            if self.bits.read(1)? == 0 {
                let raw = self.bits.read(width)?;
                let shift = 64 - u32::from(width);
                return Some(((raw << shift) as i64) >> shift); // sign extension
            }
        }
        Some(self.bits.read(64)? as i64)
    }

    fn read_xor(&mut self) -> Option<u64> {
        if self.bits.read(1)? == 0 {
            return Some(0);
        }
        if self.bits.read(1)? == 1 {
            self.last.leading = self.bits.read(5)? as u8;
            self.last.length = self.bits.read(6)? as u8 + 1;
        }
        let trailing = 64u8.checked_sub(self.last.leading + self.last.length)?;
        Some(self.bits.read(self.last.length)? << trailing)
    }
}

/// Bits, the most significant first.
#[derive(Clone, Debug, Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits free in the last byte.
    free: u8,
}

impl Bits {
    /// The lowest `width` bits of `value`; the others must be zero.
    fn push(&mut self, value: u64, width: u8) {
        let mut left = width;
        while left > 0 {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let take = left.min(self.free);
            let part = (value >> (left - take)) & ((1 << take) - 1);
            if let Some(last) = self.bytes.last_mut() {
                *last |= (part as u8) << (self.free - take);
            }
            self.free -= take;
            left -= take;
        }
    }
}

#[derive(Clone, Debug)]
struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BitReader<'_> {
    fn read(&mut self, width: u8) -> Option<u64> {
        let (mut value, mut left) = (0u64, usize::from(width));
        while left > 0 {
            let byte = *self.bytes.get(self.at / 8)?;
            let available = 8 - self.at % 8;
            let take = left.min(available);
            let part = (u64::from(byte) >> (available - take)) & ((1 << take) - 1);
            value = if take == 64 { part } else { (value << take) | part };
            self.at += take;
            left -= take;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(samples: &[(i64, f64)]) -> Chunk {
        let mut chunk = Chunk::default();
        samples
            .iter()
            .for_each(|&(ts_ms, value)| chunk.push(Sample { ts_ms, value }));
        chunk
    }

    fn bits(samples: impl Iterator<Item = Sample>) -> Vec<(i64, u64)> {
        samples.map(|s| (s.ts_ms, s.value.to_bits())).collect()
    }

    #[test]
    fn a_resting_counter_takes_two_bits_a_sample() {
        let samples: Vec<_> = (0..120).map(|i| (1_700_000_000_000 + i * 5000, 42.0)).collect();
        let chunk = encode(&samples);
        // 16 bytes, one time code of 14 bits and its value, 118 samples of two bits.
        assert!(chunk.bits.bytes.len() <= 16 + 3 + 30, "{}", chunk.bits.bytes.len());
        assert_eq!(
            (chunk.first_ms(), chunk.last_ms(), chunk.len()),
            (1_700_000_000_000, 1_700_000_595_000, 120)
        );
    }

    #[test]
    fn staleness_markers_survive() {
        let chunk = encode(&[(1, 1.0), (2, weir_series::stale_nan()), (3, f64::NAN)]);
        let values: Vec<_> = chunk.iter().map(|s| weir_series::is_stale(s.value)).collect();
        assert_eq!(values, [false, true, false]);
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_read(
            samples in prop::collection::vec((
                prop_oneof![Just(5000i64), 4990..5010i64, 0..100_000_000i64, any::<i64>()],
                prop_oneof![any::<u64>().prop_map(f64::from_bits), (0..1000u32).prop_map(f64::from), Just(7.0)],
            ), 0..300)
        ) {
            let mut time = 1_700_000_000_000i64;
            let samples: Vec<_> = samples.into_iter().map(|(step, value)| {
                time = time.wrapping_add(step);
                (time, value)
            }).collect();
            let expected: Vec<_> = samples.iter().map(|&(t, v)| (t, v.to_bits())).collect();
            prop_assert_eq!(bits(encode(&samples).iter()), expected);
        }
    }
}
