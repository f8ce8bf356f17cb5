//! Version 1: each series names its labels in full; metadata stands beside the series.

use super::{ALLOCATION, DecodeError, Room, WriteRequest, histogram, kind_name, kind_number};
use crate::wire::{Reader, WireError, Writer};
use crate::{Histogram, HistogramSample, Label, Labels, Metadata, Sample, SeriesData};
use rapidhash::RapidHashMap;
use std::sync::Arc;

pub(super) fn encode(request: &WriteRequest) -> Vec<u8> {
    let mut w = Writer::default();
    for series in &request.series {
        w.message(1, |w| {
            for label in series.labels.iter() {
                w.message(1, |w| {
                    w.text(1, &label.name);
                    w.text(2, &label.value);
                });
            }
            series.samples.iter().for_each(|s| encode_sample(w, s));
            for sample in &series.histograms {
                w.message(4, |w| histogram::encode(w, sample));
            }
        });
    }
    for (family, metadata) in &request.metadata {
        w.message(3, |w| {
            w.u64(1, kind_number(&metadata.kind));
            w.text(2, family);
            w.text(4, &metadata.help);
            w.text(5, &metadata.unit);
        });
    }
    w.0
}

/// The same in both versions, also the number of its field.
pub(super) fn encode_sample(w: &mut Writer, sample: &Sample) {
    w.message(2, |w| {
        w.f64(1, sample.value);
        w.i64(2, sample.ts_ms);
    });
}

pub(super) fn decode(message: &[u8], mut room: Room) -> Result<WriteRequest, DecodeError> {
    let mut request = WriteRequest::default();
    let mut strings = Strings::default();
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => {
                let at = request.series.len();
                let series = decode_series(field.message()?, at, &mut strings, &mut room, &mut request.exemplars)?;
                request.series.push(series);
            }
            3 => {
                let (family, metadata) = decode_metadata(field.message()?)?;
                if !family.is_empty() {
                    room.take::<(String, Metadata)>(4 * ALLOCATION)?;
                    request.metadata.push((family, metadata));
                }
            }
            _ => {}
        }
    }
    Ok(request)
}

fn decode_series<'a>(
    mut message: Reader<'a>,
    at: usize,
    strings: &mut Strings<'a>,
    room: &mut Room,
    exemplars: &mut usize,
) -> Result<SeriesData, DecodeError> {
    room.take::<SeriesData>(ALLOCATION)?;
    let mut series = SeriesData::default();
    let mut labels = Vec::new();
    while let Some(field) = message.next()? {
        match field.number {
            1 => labels.push(decode_label(field.message()?, strings, room)?),
            2 => series.samples.push(decode_sample(field.message()?, room)?),
            3 => *exemplars += 1,
            4 => series.histograms.push(decode_histogram(field.message()?, at, room)?),
            _ => {}
        }
    }
    series.labels = checked_labels(labels, at)?;
    Ok(series)
}

fn decode_label<'a>(mut message: Reader<'a>, strings: &mut Strings<'a>, room: &mut Room) -> Result<Label, DecodeError> {
    room.take::<Label>(0)?;
    let (mut name, mut value) = ("", "");
    while let Some(field) = message.next()? {
        match field.number {
            1 => name = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    Ok(Label {
        name: strings.get(name, room)?,
        value: strings.get(value, room)?,
    })
}

/// Also of version 2.
pub(super) fn decode_sample(mut message: Reader<'_>, room: &mut Room) -> Result<Sample, DecodeError> {
    room.take::<Sample>(0)?;
    let mut sample = Sample { ts_ms: 0, value: 0.0 };
    while let Some(field) = message.next()? {
        match field.number {
            1 => sample.value = field.f64()?,
            2 => sample.ts_ms = field.i64()?,
            _ => {}
        }
    }
    Ok(sample)
}

/// Also of version 2.
pub(super) fn decode_histogram(
    message: Reader<'_>,
    at: usize,
    room: &mut Room,
) -> Result<HistogramSample, DecodeError> {
    room.take::<HistogramSample>(size_of::<Histogram>() + 2 * ALLOCATION)?;
    let read = histogram::decode(message).map_err(|bad| match bad {
        histogram::Bad::Wire(error) => DecodeError::Wire(error),
        histogram::Bad::Histogram(why) => DecodeError::Series {
            at,
            why: format!("histogram: {why}"),
        },
    })?;
    for buckets in [&read.value.positive, &read.value.negative] {
        room.take::<()>(size_of_val(&*buckets.spans) + size_of_val(&*buckets.counts))?;
    }
    Ok(read)
}

/// Labels as a series must have them: each name once, none empty. Also of version 2.
pub(super) fn checked_labels(mut labels: Vec<Label>, at: usize) -> Result<Labels, DecodeError> {
    let refuse = |why: String| Err(DecodeError::Series { at, why });
    if labels.iter().any(|l| l.name.is_empty()) {
        return refuse("a label has no name".into());
    }
    labels.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = labels.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return refuse(format!("the label {:?} stands twice", pair[0].name));
    }
    let labels = Labels::from_vec(labels);
    if labels.is_empty() {
        return refuse("it has no labels".into());
    }
    Ok(labels)
}

fn decode_metadata(mut message: Reader<'_>) -> Result<(String, Metadata), WireError> {
    let (mut family, mut metadata) = (String::new(), Metadata::default());
    metadata.kind = kind_name(0);
    while let Some(field) = message.next()? {
        match field.number {
            1 => metadata.kind = kind_name(field.u64()?),
            2 => family = field.text()?.to_owned(),
            4 => metadata.help = field.text()?.to_owned(),
            5 => metadata.unit = field.text()?.to_owned(),
            _ => {}
        }
    }
    Ok((family, metadata))
}

/// Names and values repeat from series to series: each is kept once.
#[derive(Default)]
struct Strings<'a>(RapidHashMap<&'a str, Arc<str>>);

impl<'a> Strings<'a> {
    fn get(&mut self, text: &'a str, room: &mut Room) -> Result<Arc<str>, DecodeError> {
        if let Some(known) = self.0.get(text) {
            return Ok(known.clone());
        }
        room.take::<(&str, Arc<str>)>(text.len() + ALLOCATION)?;
        let own: Arc<str> = Arc::from(text);
        self.0.insert(text, own.clone());
        Ok(own)
    }
}
