//! Invariants of the parsers for any bytes.

use super::{
    encode, proto,
    series::{self, Pair},
    text::{Item, Line, Lines, Mark},
};
use crate::Histogram;

/// A page of the text format.
///
/// # Panics
/// Where an invariant is broken.
pub fn text(bytes: &[u8]) {
    if let Ok(page) = std::str::from_utf8(bytes) {
        lines(Lines::text(page));
    }
}

/// A page of OpenMetrics text.
///
/// # Panics
/// Where an invariant is broken.
pub fn open_metrics(bytes: &[u8]) {
    if let Ok(page) = std::str::from_utf8(bytes) {
        lines(Lines::open_metrics(page));
    }
}

/// A page of protocol buffers: reading it twice gives the same; names are never empty; buckets are as many as spans say.
///
/// # Panics
/// Where an invariant is broken.
pub fn protobuf(bytes: &[u8]) {
    let options = proto::Options {
        native: true,
        classic_too: true,
    };
    let read = || {
        let mut seen = Seen::default();
        (proto::read(bytes, options, &mut seen), seen.0)
    };
    let (first, second) = (read(), read());
    assert_eq!(first, second, "reading twice gives two results");
}

/// What is read with the marks of a first reading is what was read without; and a series that is written anew from its parts
/// has the same parts.
fn lines(page: Lines<'_>) {
    let mut first: Vec<Line<'_>> = Vec::new();
    let mut reading = page.clone();
    let ended = loop {
        match reading.next(None) {
            Ok(Some(Item::Line(line))) => first.push(line),
            Ok(Some(Item::Comment(comment))) => assert!(!comment.family.is_empty()),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let (mut reading, mut at) = (page, 0);
    let again = loop {
        match reading.next(first.get(at).map(|line| line.mark)) {
            Ok(Some(Item::Line(line))) => {
                let before = first[at];
                assert_eq!(
                    (line.series, line.mark, line.ts_ms),
                    (before.series, before.mark, before.ts_ms)
                );
                assert_eq!(line.value.to_bits(), before.value.to_bits());
                at += 1;
            }
            Ok(Some(Item::Comment(_))) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert_eq!(
        (again, at),
        (ended, first.len()),
        "what is expected changes what is read"
    );
    first.iter().for_each(|line| written_anew(line));
}

fn written_anew(line: &Line<'_>) {
    assert_eq!(Mark::of(line.series.as_bytes()), line.mark);
    let (name, labels) = (
        series::name(line.series),
        series::labels(line.series).collect::<Vec<Pair<'_>>>(),
    );
    assert!(!name.is_empty(), "{:?} has no name", line.series);
    let mut text = String::from("{\"");
    encode::escape_value(&mut text, &name);
    text.push('"');
    for (label, value) in &labels {
        text.push_str(",\"");
        encode::escape_value(&mut text, label);
        text.push_str("\"=\"");
        encode::escape_value(&mut text, value);
        text.push('"');
    }
    text.push_str("} 1");
    let Ok(Some(Item::Line(again))) = Lines::text(&text).next(None) else {
        panic!("{text:?}, of {:?}, cannot be read", line.series);
    };
    assert_eq!(
        (series::name(again.series), series::labels(again.series).collect()),
        (name, labels)
    );
}

#[derive(Default)]
struct Seen(Vec<String>);

impl proto::Sink for Seen {
    fn family(&mut self, family: &proto::Family<'_>) {
        assert!(!family.name.is_empty());
        self.0.push(format!("{family:?}"));
    }

    fn sample(&mut self, series: &proto::Series<'_>, value: f64, ts_ms: Option<i64>) {
        self.0.push(format!("{:?} {value:?} {ts_ms:?}", series.mark()));
    }

    fn histogram(&mut self, series: &proto::Series<'_>, value: Histogram, ts_ms: Option<i64>) {
        for side in [&value.positive, &value.negative] {
            let spans: u64 = side.spans.iter().map(|s| u64::from(s.length)).sum();
            assert_eq!(spans, side.counts.len() as u64);
            assert!(side.counts.iter().all(|count| *count >= 0.0 || count.is_nan()));
        }
        self.0.push(format!("{:?} {value:?} {ts_ms:?}", series.mark()));
    }
}
