//! Everything at once: pages of series with their chunks as they are, families, and a last record that says how many.

use super::frame;
use super::record::{CHUNKS, Dictionary, END, FAMILY};
use crate::chunk::Sealed;
use crate::head::Head;
use crate::histogram::Histograms;
use crate::index::Id;
use crate::pages::{PAGE, lock};
use crate::series::Series;
use crate::varint::{Reader, put, put_bytes, put_signed};
use weir_series::Metadata;

/// A record of series ends with the first that reaches this size.
const RECORD_BYTES: usize = if cfg!(test) { 1 << 10 } else { 4 << 20 };

/// A snapshot in the making: page by page, each with little more than its own memory.
#[derive(Debug)]
pub(crate) struct Making {
    pages: std::vec::IntoIter<u64>,
    dictionary: Dictionary,
    series: u64,
    /// Every series of a lower number was there when the pages were listed. Those made later may be in no page that is
    /// written; it is the log that tells of them.
    next: Id,
}

impl Making {
    pub fn new(head: &Head) -> Making {
        // Series are made under the index's lock: pages and number are of one moment.
        let index = head.index();
        Making {
            next: index.next(),
            pages: head.pages.numbers().into_iter(),
            dictionary: Dictionary::default(),
            series: 0,
        }
    }

    /// Appends the records of the next page to `out`; whether there was one.
    pub fn page(&mut self, head: &Head, out: &mut Vec<u8>) -> bool {
        let Some(number) = self.pages.next() else {
            return false;
        };
        let index = head.index();
        let Some(page) = head.pages.of(number * PAGE) else {
            return true;
        };
        let page = lock(&page);
        let mut slots = page.iter().peekable();
        // A page may hold weeks of histograms: its records are of a size that can be read again in any case.
        while slots.peek().is_some() {
            frame::put(out, |out| {
                let begin = out.len();
                out.push(CHUNKS);
                while out.len() - begin < RECORD_BYTES
                    && let Some((slot, series)) = slots.next()
                {
                    let id = number * PAGE + u64::from(slot);
                    let before = out.len();
                    self.dictionary.series(&index, id, out);
                    if out.len() > before {
                        put_chunks(series, out);
                        self.series += 1;
                    }
                }
            });
        }
        true
    }

    /// Appends the last records.
    pub fn end(self, head: &Head, out: &mut Vec<u8>) {
        for (family, metadata) in head.families().get(None) {
            put_family(&family, &metadata, out);
        }
        frame::put(out, |out| {
            out.push(END);
            put(out, self.series);
            put(out, self.next);
        });
    }
}

pub(crate) fn put_family(family: &str, metadata: &Metadata, out: &mut Vec<u8>) {
    frame::put(out, |out| {
        out.push(FAMILY);
        for text in [family, &metadata.kind, &metadata.help, &metadata.unit] {
            put_bytes(out, text.as_bytes());
        }
    });
}

pub(crate) fn read_family(reader: &mut Reader<'_>) -> Option<(String, Metadata)> {
    let mut text = || reader.text().map(str::to_owned);
    let (family, kind, help, unit) = (text()?, text()?, text()?, text()?);
    Some((family, Metadata { kind, help, unit }))
}

fn put_chunks(series: &Series, out: &mut Vec<u8>) {
    let (chunks, open, histograms) = series.parts();
    put(out, (chunks.len() + usize::from(open.is_some())) as u64);
    for chunk in chunks.iter().chain(&open) {
        put_signed(out, chunk.first_ms());
        put(out, chunk.span_ms().into());
        out.push(chunk.count());
        put_bytes(out, chunk.bytes());
    }
    match histograms {
        Some(histograms) => histograms.encode(out),
        None => put(out, 0),
    }
}

/// The chunks of a series that were written, without those that end before `oldest_ms`.
pub(crate) fn read_chunks(reader: &mut Reader<'_>, oldest_ms: i64) -> Option<Series> {
    let mut chunks: Vec<Sealed> = Vec::new();
    for _ in 0..reader.length()? {
        let first_ms = reader.signed()?;
        let span_ms = u32::try_from(reader.number()?).ok()?;
        let count = reader.byte()?;
        let chunk = Sealed::new(first_ms, span_ms, count, reader.bytes()?)?;
        if chunks.last().is_some_and(|last| last.last_ms() >= chunk.first_ms()) {
            return None;
        }
        chunks.push(chunk);
    }
    let histograms = Histograms::decode(reader)?;
    let mut series = Series::from_parts(chunks, histograms);
    series.drop_before(oldest_ms);
    Some(series)
}

/// What the last record says: how many series there are, and the first number that was never used.
pub(crate) fn read_end(reader: &mut Reader<'_>) -> Option<(u64, Id)> {
    let (series, next) = (reader.number()?, reader.number()?);
    (next <= super::record::ID_MAX).then_some((series, next))
}
