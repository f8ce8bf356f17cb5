//! Encoded metric families, and the samples and histograms in them.

use super::*;
use proptest::prelude::*;

/// What a page holds, in words.
#[derive(Default)]
struct Words(Vec<String>);

impl Sink for Words {
    fn family(&mut self, family: &Family<'_>) {
        self.0.push(format!("{} {} {}", family.kind, family.name, family.help));
    }

    fn sample(&mut self, series: &Series<'_>, value: f64, ts_ms: Option<i64>) {
        let labels: Vec<_> = series.labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let bound = series.bound.map(|(n, b)| format!(" {n}={b}")).unwrap_or_default();
        let (family, suffix) = (series.family, series.suffix);
        self.0.push(format!(
            "{family}{suffix} {}{bound} {value} {ts_ms:?}",
            labels.join(",")
        ));
    }

    fn histogram(&mut self, series: &Series<'_>, value: Histogram, _: Option<i64>) {
        self.0
            .push(format!("{} {:?} {:?}", series.family, value.positive, value.negative));
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 127 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn signed_number(field: u64, value: i64) -> Vec<u8> {
    number(field, (value << 1 ^ value >> 63).cast_unsigned())
}

fn double(field: u64, value: f64) -> Vec<u8> {
    [varint(field << 3 | 1), value.to_le_bytes().to_vec()].concat()
}

fn nested(field: u64, parts: &[Vec<u8>]) -> Vec<u8> {
    let inner = parts.concat();
    [varint(field << 3 | 2), varint(inner.len() as u64), inner].concat()
}

fn string(field: u64, text: &str) -> Vec<u8> {
    nested(field, &[text.as_bytes().to_vec()])
}

fn label(name: &str, value: &str) -> Vec<u8> {
    nested(1, &[string(1, name), string(2, value)])
}

fn family(name: &str, kind: u64, metrics: &[Vec<u8>]) -> Vec<u8> {
    let inner = [string(1, name), string(2, "help"), number(3, kind), metrics.concat()].concat();
    [varint(inner.len() as u64), inner].concat()
}

fn words(page: &[u8], options: Options) -> Vec<String> {
    let mut words = Words::default();
    read(page, options, &mut words).unwrap_or_else(|e| panic!("{e}"));
    words.0
}

const NATIVE: Options = Options {
    native: true,
    classic_too: false,
};

#[test]
fn every_type_becomes_what_the_text_format_shows() {
    let counter = nested(4, &[label("a", "b"), nested(3, &[double(1, 5.0)]), number(6, 1234)]);
    let gauge = nested(4, &[nested(2, &[double(1, -1.5)])]);
    let quantile = nested(3, &[double(1, 0.5), double(2, 7.0)]);
    let summary = nested(4, &[nested(4, &[number(1, 3), double(2, 9.0), quantile])]);
    let bucket = |count, bound| nested(3, &[number(1, count), double(2, bound)]);
    let histogram = nested(
        4,
        &[
            label("x", "y"),
            nested(7, &[number(1, 4), double(2, 2.5), bucket(1, 0.5), bucket(3, 1.0)]),
        ],
    );
    let page = [
        family("c_total", 0, &[counter]),
        family("g", 1, &[gauge]),
        family("s", 2, &[summary]),
        family("h", 4, &[histogram]),
    ]
    .concat();
    let expected = [
        "counter c_total help",
        "c_total a=b 5 Some(1234)",
        "gauge g help",
        "g  -1.5 None",
        "summary s help",
        "s  quantile=0.5 7 None",
        "s_sum  9 None",
        "s_count  3 None",
        "histogram h help",
        "h_bucket x=y le=0.5 1 None",
        "h_bucket x=y le=1 3 None",
        "h_bucket x=y le=inf 4 None",
        "h_sum x=y 2.5 None",
        "h_count x=y 4 None",
    ];
    assert_eq!(words(&page, Options::default()), expected);
    assert_eq!(words(&page, NATIVE), expected);
}

#[test]
fn native_histograms() {
    let span = |field, offset, length| nested(field, &[signed_number(1, offset), number(2, length)]);
    let packed: Vec<u8> = [2i64, 1, -2]
        .iter()
        .flat_map(|d| varint((d << 1 ^ d >> 63).cast_unsigned()))
        .collect();
    let histogram = [
        number(1, 10),
        double(2, 3.0),
        signed_number(5, 3),
        double(6, 0.001),
        number(7, 2),
        span(12, -1, 2),
        span(12, 3, 1),
        nested(13, &[packed]),
        span(9, 0, 1),
        signed_number(10, 4),
        nested(3, &[number(1, 10), double(2, 1.0)]),
    ]
    .concat();
    let page = family("n", 4, &[nested(4, &[nested(7, &[histogram])])]);
    let native = "n Buckets { spans: [Span { offset: -1, length: 2 }, Span { offset: 3, length: 1 }], counts: [2.0, 3.0, 1.0] } \
                  Buckets { spans: [Span { offset: 0, length: 1 }], counts: [4.0] }";
    assert_eq!(words(&page, NATIVE), ["histogram n help", native]);
    let both = Options {
        classic_too: true,
        ..NATIVE
    };
    assert_eq!(words(&page, both).len(), 6);
    assert_eq!(words(&page, Options::default()).len(), 5);
    // One bucket less than the spans say.
    let short = [number(1, 1), span(12, 0, 2), signed_number(13, 1)].concat();
    let page = family("n", 4, &[nested(4, &[nested(7, &[short])])]);
    let error = read(&page, NATIVE, &mut Words::default()).map_err(|e| e.to_string());
    assert_eq!(
        error,
        Err("line 1: a histogram must have as many buckets as its spans say".to_owned())
    );
}

#[test]
fn series_differ_by_all_their_parts() {
    let metric = |name: &str, value: &str| nested(4, &[label(name, value), nested(2, &[double(1, 1.0)])]);
    let page = family(
        "g",
        1,
        &[
            metric("a", "bc"),
            metric("ab", "c"),
            metric("a", "b"),
            metric("a", "bc"),
        ],
    );
    struct Marks(Vec<Mark>);
    impl Sink for Marks {
        fn family(&mut self, _: &Family<'_>) {}
        fn sample(&mut self, series: &Series<'_>, _: f64, _: Option<i64>) {
            self.0.push(series.mark());
        }
        fn histogram(&mut self, _: &Series<'_>, _: Histogram, _: Option<i64>) {}
    }
    let mut marks = Marks(Vec::new());
    read(&page, Options::default(), &mut marks).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(marks.0[0], marks.0[3]);
    assert!(marks.0[0] != marks.0[1] && marks.0[0] != marks.0[2] && marks.0[1] != marks.0[2]);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes, NATIVE, &mut Words::default());
    }

    #[test]
    fn no_damage_panics(at in 0usize..200, value: u8) {
        let metric = nested(4, &[label("a", "b"), nested(7, &[number(1, 4), double(2, 2.5), signed_number(13, 3), nested(12, &[number(2, 1)])])]);
        let mut page = family("h", 4, &[metric]);
        let place = at % page.len();
        page[place] = value;
        let both = Options { classic_too: true, ..NATIVE };
        let _ = read(&page, both, &mut Words::default());
    }
}
