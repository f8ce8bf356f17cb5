//! From files to a head: the newest snapshot that is whole, then the log after it up to the first bad record.
//!
//! Nothing here panics on any bytes. Whatever cannot be used is said in the [`Recovery`].

use super::directory::Directory;
use super::frame::{self, Bad, Records};
use super::record::{self, CHUNKS, DEFINITIONS, Definition, END, FAMILY, HISTOGRAMS, SAMPLES, Values};
use super::snapshot::{read_chunks, read_end, read_family};
use super::{Damage, OpenError, Recovery};
use crate::head::Head;
use crate::histogram;
use crate::index::{Id, PairId};
use crate::pages::{Cursor, lock};
use crate::series::Series;
use crate::varint::Reader;
use rapidhash::RapidHashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// What the start leaves to the writer.
#[derive(Debug)]
pub(crate) struct Found {
    /// The number of the next log.
    pub next_log: u64,
    /// Bytes of log that were read: worth a snapshot if they are many.
    pub log_bytes: u64,
    /// Bytes of the snapshot.
    pub snapshot_bytes: u64,
    pub recovery: Recovery,
}

/// Reads everything into heads that `make` makes: another one if a snapshot turned out to be damaged within.
pub(crate) fn recover(
    directory: &Directory,
    oldest_ms: i64,
    make: impl Fn() -> Head,
) -> Result<(Head, Found), OpenError> {
    let path = directory.unfinished();
    let fail = |source| OpenError::Directory {
        path: path.clone(),
        source,
    };
    if path.exists() {
        fs::remove_file(&path).map_err(fail)?;
    }
    let listing = directory.list().map_err(fail)?;
    let mut found = Found {
        next_log: listing.logs.iter().chain(&listing.snapshots).max().map_or(1, |n| n + 1),
        log_bytes: 0,
        snapshot_bytes: 0,
        recovery: Recovery::default(),
    };
    let (mut head, mut base) = (make(), 0);
    for number in listing.snapshots.iter().rev() {
        let path = directory.snapshot(*number);
        match load(&path, &head, oldest_ms) {
            Ok(()) => {
                base = *number;
                found.snapshot_bytes = size(&path);
                found.recovery.snapshot = Some(path);
                break;
            }
            Err((offset, bad)) => {
                damaged(&mut found.recovery, &path, offset, size(&path), bad)?;
                set_aside(&path).map_err(fail)?;
                head = make();
            }
        }
    }
    let mut replay = Replay::new(&head, oldest_ms);
    let mut logs = listing.logs.iter().filter(|n| **n >= base);
    for number in logs.by_ref() {
        let path = directory.log(*number);
        found.log_bytes += size(&path);
        if size(&path) == 0 {
            // The crash came between its making and its first bytes.
            fs::remove_file(&path).map_err(fail)?;
            continue;
        }
        if let Err((offset, bad)) = replay.log(&path) {
            damaged(&mut found.recovery, &path, offset, size(&path) - offset, bad)?;
            // What is written from now on must not lie behind what cannot be read.
            let file = File::options().write(true).open(&path).map_err(fail)?;
            file.set_len(offset).map_err(fail)?;
            if offset == 0 {
                fs::remove_file(&path).map_err(fail)?;
            }
            break;
        }
    }
    found.recovery.orphans = replay.orphans;
    for number in logs {
        let path = directory.log(*number);
        let after = Bad::Record("it comes after a record that cannot be read");
        damaged(&mut found.recovery, &path, 0, size(&path), after)?;
        set_aside(&path).map_err(fail)?;
    }
    found.recovery.series = head.index().len() as u64;
    Ok((head, found))
}

fn damaged(recovery: &mut Recovery, path: &Path, offset: u64, bytes: u64, bad: Bad) -> Result<(), OpenError> {
    match bad {
        // A disk that does not give its bytes now may do so later: nothing is thrown away.
        Bad::Io(source) => Err(OpenError::Directory {
            path: path.to_owned(),
            source,
        }),
        Bad::Record(what) => {
            recovery.damages.push(Damage {
                file: path.to_owned(),
                offset,
                bytes,
                what,
            });
            Ok(())
        }
    }
}

/// Takes a file out of the store under a name that says why: another version may be able to read it.
fn set_aside(path: &Path) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    fs::rename(path, path.with_file_name(format!("damaged-{name}")))
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// Reads a snapshot into an empty head.
fn load(path: &Path, head: &Head, oldest_ms: i64) -> Result<(), (u64, Bad)> {
    let records = Records::open(path, frame::SNAPSHOT).map_err(|bad| (0, bad))?;
    Replay::new(head, oldest_ms).snapshot(records)
}

/// Reads a log from bytes, as a start would from a file, and says how far it is good.
pub(crate) fn replay_bytes(bytes: &[u8], head: &Head, magic: &[u8; 8]) -> u64 {
    let Ok(records) = Records::new(bytes, bytes.len() as u64, magic) else {
        return 0;
    };
    let mut replay = Replay::new(head, i64::MIN);
    let result = if magic == frame::LOG {
        replay.records(records)
    } else {
        replay.snapshot(records)
    };
    result.err().map_or(bytes.len() as u64, |(offset, _)| offset)
}

/// Carries out what records say.
struct Replay<'a> {
    head: &'a Head,
    oldest_ms: i64,
    /// The file's numbers of pairs -> those of the index.
    pairs: RapidHashMap<PairId, PairId>,
    values: Values,
    /// Series that were dropped and made again, under the number of the first.
    aliases: RapidHashMap<Id, Id>,
    /// Samples of series that nothing defines.
    orphans: u64,
}

impl<'a> Replay<'a> {
    fn new(head: &'a Head, oldest_ms: i64) -> Self {
        Replay {
            head,
            oldest_ms,
            pairs: RapidHashMap::default(),
            values: Values::default(),
            aliases: RapidHashMap::default(),
            orphans: 0,
        }
    }

    fn log(&mut self, path: &Path) -> Result<(), (u64, Bad)> {
        self.pairs.clear();
        self.values = Values::default();
        let records = Records::open(path, frame::LOG).map_err(|bad| (0, bad))?;
        self.records(records)
    }

    fn records<R: Read>(&mut self, mut records: Records<R>) -> Result<(), (u64, Bad)> {
        loop {
            let offset = records.offset;
            let Some(record) = records.next().map_err(|bad| (offset, bad))? else {
                return Ok(());
            };
            let known = self.record(record);
            known.ok_or((offset, Bad::Record("a record says what makes no sense")))?;
        }
    }

    fn snapshot<R: Read>(&mut self, mut records: Records<R>) -> Result<(), (u64, Bad)> {
        let mut series = 0;
        loop {
            let offset = records.offset;
            let record = records.next().map_err(|bad| (offset, bad))?;
            let record = record.ok_or((offset, Bad::Record("the end of the snapshot is missing")))?;
            let mut reader = Reader(record);
            let sense = match reader.byte() {
                Some(CHUNKS) => self.chunks(&mut reader).map(|n| series += n),
                Some(END) => match read_end(&mut reader) {
                    Some((expected, next)) if expected == series => {
                        self.head.index_mut().skip_to(next);
                        return Ok(());
                    }
                    _ => None,
                },
                _ => self.record(record),
            };
            sense.ok_or((offset, Bad::Record("a record says what makes no sense")))?;
        }
    }

    fn record(&mut self, record: &[u8]) -> Option<()> {
        let mut reader = Reader(record);
        match reader.byte()? {
            DEFINITIONS => {
                while !reader.is_empty() {
                    self.definition(&mut reader, Series::default())?;
                }
                Some(())
            }
            SAMPLES => self.samples(reader.0),
            HISTOGRAMS => {
                while !reader.is_empty() {
                    self.histogram(&mut reader)?;
                }
                Some(())
            }
            FAMILY => {
                let (family, metadata) = read_family(&mut reader)?;
                self.head.describe(&family, &metadata);
                Some(())
            }
            _ => None,
        }
    }

    /// A pair, or a series that is made if it is not there; its number then.
    fn definition(&mut self, reader: &mut Reader<'_>, series: Series) -> Option<Option<Id>> {
        let (id, theirs) = match Definition::read(reader)? {
            Definition::Pair(pair, name, value) => {
                let mut ours = Vec::with_capacity(1);
                self.head.index_mut().intern([(name, value)].into_iter(), &mut ours);
                self.pairs.insert(pair, *ours.first()?);
                return Some(None);
            }
            Definition::Series(id, pairs) => (id, pairs),
        };
        let ours = theirs.iter().map(|pair| self.pairs.get(pair).copied());
        let ours: Vec<PairId> = ours.collect::<Option<_>>()?;
        let mut index = self.head.index_mut();
        let names_ascend = ours.is_sorted_by(|a, b| index.pair(*a).0 < index.pair(*b).0);
        if ours.is_empty() || !names_ascend {
            return None;
        }
        if let Some(known) = index.find(&ours) {
            if known != id {
                self.aliases.insert(id, known);
            }
        } else if id >= index.next() {
            index.insert_as(id, &ours);
            self.head.pages.insert(id, series);
            self.aliases.remove(&id);
        }
        // Else it was gone already when the snapshot was taken.
        Some(Some(id))
    }

    fn chunks(&mut self, reader: &mut Reader<'_>) -> Option<u64> {
        let mut count = 0;
        while !reader.is_empty() {
            let Some(id) = self.definition(reader, Series::default())? else {
                continue;
            };
            let series = read_chunks(reader, self.oldest_ms)?;
            let page = self.head.pages.of(id)?;
            *lock(&page).get_mut(id)? = series;
            count += 1;
        }
        Some(count)
    }

    fn samples(&mut self, bytes: &[u8]) -> Option<()> {
        let mut cursor = Cursor::default();
        let (head, aliases, oldest_ms, orphans) = (self.head, &self.aliases, self.oldest_ms, &mut self.orphans);
        record::read_samples(&mut self.values, bytes, |id, sample| {
            let id = if aliases.is_empty() {
                id
            } else {
                *aliases.get(&id).unwrap_or(&id)
            };
            let mut page = cursor.page(&head.pages, id).map(lock);
            match page.as_mut().and_then(|page| page.get_mut(id)) {
                None => *orphans += 1,
                // What the snapshot holds already is refused as a duplicate or out of order.
                Some(series) if sample.ts_ms >= oldest_ms => drop(series.push(sample)),
                Some(_) => {}
            }
        })
    }

    fn histogram(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let (id, ts_ms) = (reader.number()?, reader.signed()?);
        let value = histogram::decode(reader)?;
        let id = *self.aliases.get(&id).unwrap_or(&id);
        let page = self.head.pages.of(id);
        let mut page = page.as_deref().map(lock);
        match page.as_mut().and_then(|page| page.get_mut(id)) {
            None => self.orphans += 1,
            Some(series) if ts_ms >= self.oldest_ms => drop(series.push_histogram(ts_ms, &value)),
            Some(_) => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::snapshot::Making;
    use crate::options::Options;
    use weir_series::{Matcher, Sample, is_stale};

    /// Files that were put together by hand from the description of the format: what is on disks stays readable.
    const LOG: &[u8] = include_bytes!("../../../../fuzz/corpus/tsdb_log/log");
    const SNAPSHOT: &[u8] = include_bytes!("../../../../fuzz/corpus/tsdb_log/snapshot");

    /// A file without the byte for the fuzzer, and how far it is good.
    fn replay(magic: &[u8; 8], bytes: &[u8]) -> (Head, u64, u64) {
        let file = [magic, &bytes[1..]].concat();
        let head = Head::new(Options::default(), None);
        let good = replay_bytes(&file, &head, magic);
        (head, good, file.len() as u64)
    }

    fn samples(head: &Head, pod: &str) -> Vec<(i64, f64)> {
        let mut all = Vec::new();
        head.visit(&[Matcher::equal("pod", pod)], i64::MIN, i64::MAX, &mut |view| {
            let after = |s: &weir_series::Sample| (s.ts_ms - 1_700_000_000_000, s.value);
            all.extend(view.samples.iter().map(after));
            std::ops::ControlFlow::Continue(())
        });
        all
    }

    #[test]
    fn reads_a_log_as_it_is_described() {
        let (head, good, length) = replay(frame::LOG, LOG);
        assert_eq!(good, length);
        assert_eq!(samples(&head, "a"), [(0, 1.0), (5000, 1.0), (10_000, 3.0)]);
        assert_eq!(samples(&head, "b")[..2], [(0, 7.0), (5000, 7.0)]);
        assert_eq!(samples(&head, "c")[..2], [(0, 0.1), (5000, 0.1)]);
        let mut histograms = Vec::new();
        head.visit(&[Matcher::equal("__name__", "h")], 0, i64::MAX, &mut |view| {
            histograms.extend_from_slice(view.histograms);
            std::ops::ControlFlow::Continue(())
        });
        assert_eq!(histograms[0].value.positive.counts, [2.0, 1.0]);
        assert!(histograms[0].value.sum == 1.5 && is_stale(histograms[1].value.sum));
        assert_eq!(head.families().get(None).len(), 1);
    }

    #[test]
    fn reads_a_snapshot_as_it_is_described() {
        let (head, good, length) = replay(frame::SNAPSHOT, SNAPSHOT);
        assert_eq!(good, length);
        assert_eq!(samples(&head, "a"), [(0, 1.0), (5000, 1.0), (10_000, 1.0)]);
        assert_eq!((head.index().len(), head.index().next()), (2, 9));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        for at in 1..LOG.len() {
            for bit in 0..8 {
                let mut bytes = LOG.to_vec();
                bytes[at] ^= 1 << bit;
                let (_, good, length) = replay(frame::LOG, &bytes);
                assert!(
                    good < length && good <= at as u64 + 7,
                    "bit {bit} of byte {at}: good up to {good}"
                );
            }
            let (head, good, length) = replay(frame::LOG, &LOG[..at]);
            assert!(good <= length && head.index().len() <= 4);
        }
    }

    #[test]
    fn a_page_may_take_more_than_one_record() {
        let head = Head::new(Options::default(), None);
        for series in 0..8 {
            let id = head.resolve([("n", series.to_string().as_str())].into_iter()).unwrap();
            for at in 0..200 {
                let sample = Sample {
                    ts_ms: at * 1000,
                    value: (at * 7919 % 1009) as f64 / 7.0,
                };
                head.append(&[(id, sample)], &mut Vec::new());
            }
        }
        let mut making = Making::new(&head);
        let mut records = vec![0];
        while making.page(&head, &mut records) {}
        making.end(&head, &mut records);
        assert!(records.len() > 4 << 10, "{} bytes make several records", records.len());
        let (recovered, good, length) = replay(frame::SNAPSHOT, &records);
        assert_eq!((good, recovered.index().len()), (length, 8));
    }

    #[test]
    fn a_series_made_while_a_snapshot_is_written_is_left_to_the_log() {
        let head = Head::new(Options::default(), None);
        head.resolve([("a", "1")].into_iter()).unwrap();
        let mut making = Making::new(&head);
        let mut records = vec![0];
        while making.page(&head, &mut records) {}
        head.resolve([("a", "2")].into_iter()).unwrap();
        making.end(&head, &mut records);
        let (recovered, good, length) = replay(frame::SNAPSHOT, &records);
        assert_eq!(good, length);
        assert_eq!(recovered.index().len(), 1);
        assert_eq!(
            recovered.index().next(),
            1,
            "the log's definition of the second would be taken for one that has gone"
        );
    }
}
