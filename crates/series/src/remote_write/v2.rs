//! Version 2: every string stands once in a table, series refer to it; metadata stands in the series.

use super::v1::{checked_labels, decode_histogram, decode_sample, encode_sample};
use super::{ALLOCATION, DecodeError, Room, WriteRequest, histogram, kind_name, kind_number};
use crate::names::METRIC_NAME;
use crate::wire::{Reader, Writer};
use crate::{Label, Metadata, SeriesData};
use rapidhash::{RapidHashMap, RapidHashSet};
use std::sync::Arc;

pub(super) fn encode(request: &WriteRequest) -> Vec<u8> {
    let families: RapidHashMap<&str, &Metadata> = request.metadata.iter().map(|(f, m)| (f.as_str(), m)).collect();
    let mut symbols = Symbols::new();
    let mut w = Writer::default();
    for series in &request.series {
        w.message(5, |w| {
            let refs = series.labels.iter().flat_map(|l| [&*l.name, &*l.value]);
            let refs: Vec<u64> = refs.map(|text| symbols.get(text)).collect();
            w.varints(1, refs.into_iter());
            series.samples.iter().for_each(|s| encode_sample(w, s));
            for sample in &series.histograms {
                w.message(3, |w| histogram::encode(w, sample));
            }
            if let Some(metadata) = metadata_of(series.labels.metric_name(), &families) {
                w.message(5, |w| {
                    w.u64(1, kind_number(&metadata.kind));
                    w.u64(3, symbols.get(&metadata.help));
                    w.u64(4, symbols.get(&metadata.unit));
                });
            }
        });
    }
    // Fields may stand in any order, but some readers want the table first.
    let mut table = Writer::default();
    for symbol in symbols.list {
        table.text_always(4, symbol);
    }
    table.0.append(&mut w.0);
    table.0
}

/// The suffixes that series of a family may have, longest names first.
const SUFFIXES: [&str; 4] = ["_bucket", "_count", "_sum", "_total"];

/// The families that a series of this name may belong to, the likeliest first.
pub(super) fn families_of(name: &str) -> impl Iterator<Item = &str> {
    let stripped = SUFFIXES.iter().filter_map(move |suffix| name.strip_suffix(suffix));
    std::iter::once(name).chain(stripped)
}

fn metadata_of<'a>(name: &str, families: &RapidHashMap<&str, &'a Metadata>) -> Option<&'a Metadata> {
    families_of(name).find_map(|name| families.get(name).copied())
}

/// The family of a series by its name and what it is said to be.
fn family<'a>(name: &'a str, kind: &str) -> &'a str {
    let suffixes: &[&str] = match kind {
        "histogram" | "gaugehistogram" => &SUFFIXES[..3],
        "summary" => &SUFFIXES[1..3],
        _ => &[],
    };
    suffixes
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}

/// The table while it grows; number 0 is the empty string.
struct Symbols<'a> {
    list: Vec<&'a str>,
    numbers: RapidHashMap<&'a str, u64>,
}

impl<'a> Symbols<'a> {
    fn new() -> Self {
        Symbols {
            list: vec![""],
            numbers: RapidHashMap::from_iter([("", 0)]),
        }
    }

    fn get(&mut self, text: &'a str) -> u64 {
        *self.numbers.entry(text).or_insert_with(|| {
            self.list.push(text);
            self.list.len() as u64 - 1
        })
    }
}

pub(super) fn decode(message: &[u8], mut room: Room) -> Result<WriteRequest, DecodeError> {
    // The table may stand anywhere: it is read first.
    let mut symbols: Vec<Arc<str>> = Vec::new();
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next()? {
        if field.number == 4 {
            let text = field.text()?;
            room.take::<Arc<str>>(text.len() + ALLOCATION)?;
            symbols.push(text.into());
        }
    }
    if symbols.first().is_some_and(|s| !s.is_empty()) {
        let why = "the first of the symbols is not the empty string".into();
        return Err(DecodeError::Series { at: 0, why });
    }
    let mut request = WriteRequest::default();
    let mut seen: RapidHashSet<String> = RapidHashSet::default();
    // Many series may refer to one long text: what is copied of them stays in proportion to the message.
    let mut budget = message.len();
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next()? {
        if field.number == 5 {
            let at = request.series.len();
            let (series, metadata) = decode_series(field.message()?, at, &symbols, &mut room, &mut request.exemplars)?;
            if let Some(metadata) = metadata {
                let name = family(series.labels.metric_name(), &metadata.kind);
                let cost = metadata.help.len() + metadata.unit.len();
                if cost <= budget && !seen.contains(name) {
                    budget -= cost;
                    seen.insert(name.to_owned());
                    request.metadata.push((name.to_owned(), metadata.owned()));
                }
            }
            request.series.push(series);
        }
    }
    Ok(request)
}

fn decode_series(
    mut message: Reader<'_>,
    at: usize,
    symbols: &[Arc<str>],
    room: &mut Room,
    exemplars: &mut usize,
) -> Result<(SeriesData, Option<Told>), DecodeError> {
    room.take::<SeriesData>(ALLOCATION)?;
    let mut series = SeriesData::default();
    let (mut refs, mut metadata) = (Vec::new(), None);
    while let Some(field) = message.next()? {
        match field.number {
            1 => field.varints(|v| refs.push(v))?,
            2 => series.samples.push(decode_sample(field.message()?, room)?),
            3 => series.histograms.push(decode_histogram(field.message()?, at, room)?),
            4 => *exemplars += 1,
            5 => metadata = decode_metadata(field.message()?, at, symbols)?,
            _ => {}
        }
    }
    let (pairs, odd) = refs.as_chunks::<2>();
    if !odd.is_empty() {
        let why = format!("labels_refs has {} numbers, which is odd", refs.len());
        return Err(DecodeError::Series { at, why });
    }
    let mut labels = Vec::with_capacity(pairs.len());
    for [name, value] in pairs {
        room.take::<Label>(0)?;
        labels.push(Label {
            name: symbol(symbols, *name, at)?,
            value: symbol(symbols, *value, at)?,
        });
    }
    series.labels = checked_labels(labels, at)?;
    if series.labels.get(METRIC_NAME).is_empty() {
        let why = format!("it has no label {METRIC_NAME}");
        return Err(DecodeError::Series { at, why });
    }
    Ok((series, metadata))
}

fn symbol(symbols: &[Arc<str>], number: u64, at: usize) -> Result<Arc<str>, DecodeError> {
    let found = usize::try_from(number).ok().and_then(|n| symbols.get(n));
    found.cloned().ok_or_else(|| DecodeError::Series {
        at,
        why: format!("it refers to symbol {number}, but there are {}", symbols.len()),
    })
}

/// [`Metadata`] that is not copied yet.
struct Told {
    kind: String,
    help: Arc<str>,
    unit: Arc<str>,
}

impl Told {
    fn owned(self) -> Metadata {
        Metadata {
            kind: self.kind,
            help: self.help.to_string(),
            unit: self.unit.to_string(),
        }
    }
}

/// None where all of it is unknown and empty.
fn decode_metadata(mut message: Reader<'_>, at: usize, symbols: &[Arc<str>]) -> Result<Option<Told>, DecodeError> {
    let (mut kind, mut help, mut unit) = (0, 0, 0);
    while let Some(field) = message.next()? {
        match field.number {
            1 => kind = field.u64()?,
            3 => help = field.u64()?,
            4 => unit = field.u64()?,
            _ => {}
        }
    }
    if (kind, help, unit) == (0, 0, 0) {
        return Ok(None);
    }
    Ok(Some(Told {
        kind: kind_name(kind),
        help: symbol(symbols, help, at)?,
        unit: symbol(symbols, unit, at)?,
    }))
}
