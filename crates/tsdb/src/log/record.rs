//! What stands in a record, and how little of it.
//!
//! A series is the numbers of its pairs; a pair is spelled out before its first use in a file. Samples are a list of small
//! operations against what the same file said before: most of a scrape is runs of series at rest, one byte for 64 of them.

use crate::index::{Id, Index, PairId};
use crate::pages::PAGE;
use crate::varint::{Reader, put, put_bytes, put_signed};
use rapidhash::RapidHashMap;
use weir_series::Sample;

/// The first byte of a record.
pub(crate) const DEFINITIONS: u8 = 1;
pub(crate) const SAMPLES: u8 = 2;
pub(crate) const HISTOGRAMS: u8 = 3;
pub(crate) const FAMILY: u8 = 4;
/// Of snapshots only: a page of series with their chunks, and what proves that all was written.
pub(crate) const CHUNKS: u8 = 5;
pub(crate) const END: u8 = 6;

/// Within definitions: a pair (number, name, value), a series (number, number of pairs, pairs).
const PAIR: u8 = 1;
const SERIES: u8 = 2;

/// No number of a series is above, so that there is always a next one.
pub(crate) const ID_MAX: Id = 1 << 48;

/// Which pairs a file has spelled out.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    defined: Vec<u64>,
    /// Numbers of pairs mean the same as long as this is the index's.
    removals: u64,
}

impl Dictionary {
    /// Appends a series and those of its pairs that are new to the file; nothing if the series is gone.
    pub fn series(&mut self, index: &Index, id: Id, out: &mut Vec<u8>) {
        let Some(pairs) = index.pairs_of(id) else {
            return;
        };
        if self.removals != index.removals() {
            self.defined.clear();
            self.removals = index.removals();
        }
        for pair in pairs {
            self.pair(index, *pair, out);
        }
        out.push(SERIES);
        put(out, id);
        put(out, pairs.len() as u64);
        pairs.iter().for_each(|pair| put(out, u64::from(*pair)));
    }

    fn pair(&mut self, index: &Index, pair: PairId, out: &mut Vec<u8>) {
        let (word, bit) = (pair as usize / 64, 1 << (pair % 64));
        if self.defined.len() <= word {
            self.defined.resize(word + 1, 0);
        }
        if self.defined[word] & bit == 0 {
            self.defined[word] |= bit;
            let (name, value) = index.pair(pair);
            out.push(PAIR);
            put(out, u64::from(pair));
            put_bytes(out, name.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }
}

/// One of a record of definitions.
pub(crate) enum Definition<'a> {
    Pair(PairId, &'a str, &'a str),
    Series(Id, Vec<PairId>),
}

impl<'a> Definition<'a> {
    pub fn read(reader: &mut Reader<'a>) -> Option<Definition<'a>> {
        match reader.byte()? {
            PAIR => {
                let pair = u32::try_from(reader.number()?).ok()?;
                let (name, value) = (reader.text()?, reader.text()?);
                (!name.is_empty() && !value.is_empty()).then_some(Definition::Pair(pair, name, value))
            }
            SERIES => {
                let id = reader.number().filter(|id| *id < ID_MAX)?;
                let pairs = (0..reader.length()?).map(|_| u32::try_from(reader.number()?).ok());
                Some(Definition::Series(id, pairs.collect::<Option<_>>()?))
            }
            _ => None,
        }
    }
}

/// The last value of each series in a file; 0 before the first.
#[derive(Debug, Default)]
pub(crate) struct Values(RapidHashMap<u64, Box<[u64]>>);

impl Values {
    fn of(&mut self, id: Id) -> &mut u64 {
        let page = self.0.entry(id / PAGE);
        let page = page.or_insert_with(|| vec![0; PAGE as usize].into());
        &mut page[(id % PAGE) as usize]
    }
}

/// Up to 64 series, each the one after the one before, with the values they had.
const RUN_MAX: u8 = 64;
/// One series: its number follows if it is not the next one, then how its value changed.
const ONE_SAME: u8 = 0x40;
const ONE_WHOLE: u8 = 0x41;
const ONE_GAP: u8 = 8;
/// The time of what follows, against the one before.
const TIME: u8 = 0x42;
/// One series whose value's XOR follows: how many of its lowest bytes are zero and left out, and how many follow.
const XOR: u8 = 0x80;
const XOR_GAP: u8 = 0x40;

/// Appends samples as operations.
pub(crate) fn put_samples(values: &mut Values, samples: impl Iterator<Item = (Id, Sample)>, out: &mut Vec<u8>) {
    let (mut id_before, mut ts_ms, mut run) = (0u64, 0i64, 0u8);
    for (id, sample) in samples {
        if sample.ts_ms != ts_ms {
            end_run(&mut run, out);
            out.push(TIME);
            put_signed(out, sample.ts_ms.wrapping_sub(ts_ms));
            ts_ms = sample.ts_ms;
        }
        let next = id == id_before.wrapping_add(1);
        let value = sample.value.to_bits();
        let last = std::mem::replace(values.of(id), value);
        if next && last == value {
            if run == RUN_MAX {
                end_run(&mut run, out);
            }
            run += 1;
        } else {
            end_run(&mut run, out);
            put_one(id, id_before, last, value, out);
        }
        id_before = id;
    }
    end_run(&mut run, out);
}

fn end_run(run: &mut u8, out: &mut Vec<u8>) {
    if *run > 0 {
        out.push(*run - 1);
        *run = 0;
    }
}

fn put_one(id: Id, id_before: Id, last: u64, value: u64, out: &mut Vec<u8>) {
    let gap = id.wrapping_sub(id_before.wrapping_add(1)) as i64;
    let mut op = |ours: u8, gap_bit: u8| {
        out.push(if gap == 0 { ours } else { ours | gap_bit });
        if gap != 0 {
            put_signed(out, gap);
        }
    };
    let xor = last ^ value;
    if xor == 0 {
        return op(ONE_SAME, ONE_GAP);
    }
    let zeros = xor.trailing_zeros() / 8;
    let length = 8 - zeros - xor.leading_zeros() / 8;
    if let (Some(last), Some(value)) = (whole(last), whole(value)) {
        let delta = value - last;
        if delta.unsigned_abs() < 1 << (7 * length - 1) {
            op(ONE_WHOLE, ONE_GAP);
            return put_signed(out, delta);
        }
    }
    op(XOR | (zeros as u8) << 3 | (length as u8 - 1), XOR_GAP);
    out.extend_from_slice(&(xor >> (8 * zeros)).to_le_bytes()[..length as usize]);
}

/// The value as a whole number, if it is exactly that.
fn whole(bits: u64) -> Option<i64> {
    let value = f64::from_bits(bits);
    let number = value as i64;
    (number.unsigned_abs() < 1 << 53 && (number as f64).to_bits() == bits).then_some(number)
}

/// Calls with each sample of a record; `None` for bytes that were never written.
pub(crate) fn read_samples(values: &mut Values, bytes: &[u8], mut with: impl FnMut(Id, Sample)) -> Option<()> {
    let mut reader = Reader(bytes);
    let (mut id, mut ts_ms) = (0u64, 0i64);
    while !reader.is_empty() {
        let op = reader.byte()?;
        if op == TIME {
            ts_ms = ts_ms.wrapping_add(reader.signed()?);
            continue;
        }
        if op < RUN_MAX {
            for _ in 0..=op {
                id = id.wrapping_add(1);
                let value = f64::from_bits(*values.of(known(id)?));
                with(id, Sample { ts_ms, value });
            }
            continue;
        }
        let gap = if op >= XOR { op & XOR_GAP } else { op & ONE_GAP };
        id = id.wrapping_add(1);
        if gap != 0 {
            id = id.wrapping_add(reader.signed()? as u64);
        }
        let last = values.of(known(id)?);
        if op >= XOR {
            let (zeros, length) = (op >> 3 & 7, (op & 7) + 1);
            let mut low = [0; 8];
            low[..usize::from(length)].copy_from_slice(reader.take(length.into())?);
            *last ^= u64::from_le_bytes(low).checked_shl(u32::from(zeros) * 8)?;
        } else {
            match op & !ONE_GAP {
                ONE_SAME => {}
                ONE_WHOLE => {
                    let number = whole(*last)?.checked_add(reader.signed()?)?;
                    *last = (number as f64).to_bits();
                }
                _ => return None,
            }
        }
        let value = f64::from_bits(*last);
        with(id, Sample { ts_ms, value });
    }
    Some(())
}

fn known(id: Id) -> Option<Id> {
    (id < ID_MAX).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(values: &mut Values, bytes: &[u8]) -> Vec<(Id, i64, u64)> {
        let mut all = Vec::new();
        let end = read_samples(values, bytes, |id, s| all.push((id, s.ts_ms, s.value.to_bits())));
        assert_eq!(end, Some(()));
        all
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            batches in prop::collection::vec(prop::collection::vec((
                prop_oneof![Just(1u64), 0..5u64, 0..1u64 << 30],
                prop_oneof![Just(0i64), any::<i64>()],
                prop_oneof![
                    Just(7.0), Just(-0.0), (0..100_000u32).prop_map(f64::from),
                    any::<f64>(), any::<u64>().prop_map(f64::from_bits), (0..1u64 << 54).prop_map(|n| n as f64),
                ],
            ), 0..200), 1..5)
        ) {
            let (mut writing, mut reading) = (Values::default(), Values::default());
            for batch in batches {
                let (mut id, mut ts_ms) = (0u64, 0i64);
                let samples: Vec<(Id, Sample)> = batch.into_iter().map(|(step, time, value)| {
                    id = (id + step) % ID_MAX;
                    ts_ms = ts_ms.wrapping_add(time);
                    (id, Sample { ts_ms, value })
                }).collect();
                let mut out = Vec::new();
                put_samples(&mut writing, samples.iter().copied(), &mut out);
                let expected: Vec<_> = samples.iter().map(|(id, s)| (*id, s.ts_ms, s.value.to_bits())).collect();
                prop_assert_eq!(read(&mut reading, &out), expected);
            }
        }
    }

    #[test]
    fn series_at_rest_take_a_byte_for_64() {
        let mut values = Values::default();
        let scrape = |ts_ms| (0..6400).map(move |id| (id, Sample { ts_ms, value: 3.0 }));
        let (mut first, mut second) = (Vec::new(), Vec::new());
        put_samples(&mut values, scrape(1_700_000_000_000), &mut first);
        put_samples(&mut values, scrape(1_700_000_005_000), &mut second);
        assert!(
            first.len() < 6400 * 3 && second.len() < 120,
            "{}, {}",
            first.len(),
            second.len()
        );
    }
}
