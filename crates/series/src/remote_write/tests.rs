//! Round trips of both versions, and hostile bytes.

use super::*;
use crate::{Buckets, CUSTOM_BUCKETS_SCHEMA, Histogram, HistogramSample, Labels, ResetHint, Sample, Span, stale_nan};
use proptest::prelude::*;
use std::sync::Arc;

const LIMIT: usize = 1 << 20;

fn bits(request: &WriteRequest) -> String {
    // NaN is not equal to itself: its bits are.
    let samples = |s: &SeriesData| {
        s.samples
            .iter()
            .map(|s| (s.ts_ms, s.value.to_bits()))
            .collect::<Vec<_>>()
    };
    let series = request
        .series
        .iter()
        .map(|s| format!("{} {:?} {:?}", s.labels, samples(s), s.histograms));
    format!(
        "{:?} {:?} {}",
        series.collect::<Vec<_>>(),
        request.metadata,
        request.exemplars
    )
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        Just(stale_nan()),
        Just(f64::INFINITY),
        Just(-0.0),
        Just(0.0)
    ]
}

fn buckets(whole: bool, first: std::ops::Range<i32>) -> impl Strategy<Value = Buckets> {
    let count = if whole {
        (0u32..1000).prop_map(f64::from).boxed()
    } else {
        (0.0..1e9).boxed()
    };
    let spans = prop::collection::vec((1i32..5, prop::collection::vec(count, 0..4)), 0..4);
    (first, spans).prop_map(|(first, spans)| {
        let mut out = Buckets::default();
        for (at, (gap, counts)) in spans.into_iter().enumerate() {
            let offset = if at == 0 { first } else { gap };
            out.spans.push(Span {
                offset,
                length: counts.len() as u32,
            });
            out.counts.extend(counts);
        }
        out
    })
}

fn histogram() -> impl Strategy<Value = Histogram> {
    any::<(bool, bool)>().prop_flat_map(|(whole, custom)| {
        let reset = prop::sample::select(vec![
            ResetHint::Unknown,
            ResetHint::Reset,
            ResetHint::NotReset,
            ResetHint::Gauge,
        ]);
        let sides = (
            buckets(whole, if custom { 0..1 } else { -20..20 }),
            buckets(whole, -20..20),
        );
        let count = if whole { 7.0 } else { 7.25 };
        (sides, reset, -4i8..=8, -1e9..1e9).prop_map(move |((positive, negative), reset, schema, sum)| Histogram {
            schema: if custom { CUSTOM_BUCKETS_SCHEMA } else { schema },
            zero_threshold: if custom { 0.0 } else { 1e-128 },
            zero_count: if custom { 0.0 } else { count },
            count,
            sum,
            positive,
            negative: if custom { Buckets::default() } else { negative },
            custom_values: (0..if custom { 40 } else { 0 }).map(f64::from).collect(),
            reset,
        })
    })
}

fn series() -> impl Strategy<Value = SeriesData> {
    let label = ("[a-z_]{1,3}", "[a-zA-Zä ]{1,3}");
    let samples = prop::collection::vec((any::<i64>(), value()), 0..4);
    let histograms = prop::collection::vec((any::<i64>(), histogram()), 0..3);
    (prop::collection::vec(label, 0..4), samples, histograms).prop_map(|(labels, samples, histograms)| SeriesData {
        labels: Labels::new(labels.into_iter().chain([("__name__".into(), "m_total".into())])),
        samples: samples
            .into_iter()
            .map(|(ts_ms, value)| Sample { ts_ms, value })
            .collect(),
        histograms: histograms
            .into_iter()
            .map(|(ts_ms, value)| HistogramSample {
                ts_ms,
                value: Arc::new(value),
            })
            .collect(),
    })
}

fn metadata(kind: &str) -> Metadata {
    Metadata {
        kind: kind.into(),
        help: "Some help.".into(),
        unit: "s".into(),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(series in prop::collection::vec(series(), 0..4), kind in prop::sample::select(KINDS.to_vec())) {
        let told = if series.is_empty() { vec![] } else { vec![("m_total".to_owned(), metadata(kind))] };
        let request = WriteRequest { series, metadata: told, exemplars: 0 };
        for version in [Version::V1, Version::V2] {
            let body = encode(version, &request);
            let read = decode(version, &body, LIMIT).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(bits(&read), bits(&request));
        }
    }

    #[test]
    fn changed_bytes_never_panic(series in prop::collection::vec(series(), 1..3), cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let request = WriteRequest { series, ..WriteRequest::default() };
        for version in [Version::V1, Version::V2] {
            let mut body = match version { Version::V1 => v1::encode(&request), Version::V2 => v2::encode(&request) };
            for (at, byte) in &cuts {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            crate::fuzz::run("remote_write", &[&[version as u8], body.as_slice()].concat());
        }
    }
}

/// Bytes as another program writes them: a sample and labels of version 1, uncompressed.
#[test]
fn reads_a_request_of_the_specification() {
    let message = [
        0x0a, 0x24, // timeseries, 36 bytes
        0x0a, 0x0e, 0x0a, 0x08, b'_', b'_', b'n', b'a', b'm', b'e', b'_', b'_', 0x12, 0x02, b'u', b'p', // label
        0x12, 0x10, 0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x10, 0x80, 0xd0, 0x95, 0xff, 0xbc,
        0x31, // sample 1 @ 1.7e12
        0x1a, 0x00, // exemplar
    ];
    let read = decode_message(Version::V1, &message).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(read.exemplars, 1);
    assert_eq!(read.series[0].labels.to_string(), "up{}");
    let sample = Sample {
        ts_ms: 1_700_000_000_000,
        value: 1.0,
    };
    assert_eq!(read.series[0].samples, [sample]);
}

#[test]
fn says_what_is_wrong() {
    let error = |version, message: &[u8]| match decode_message(version, message) {
        Ok(read) => panic!("{read:?}"),
        Err(error) => error.to_string(),
    };
    assert_eq!(error(Version::V1, &[0x0a, 0x00]), "series 0: it has no labels");
    let twice = [
        0x0a, 0x10, 0x0a, 6, 0x0a, 1, b'a', 0x12, 1, b'b', 0x0a, 6, 0x0a, 1, b'a', 0x12, 1, b'c',
    ];
    assert_eq!(error(Version::V1, &twice), "series 0: the label \"a\" stands twice");
    assert_eq!(
        error(Version::V2, &[0x22, 0, 0x2a, 4, 0x0a, 2, 0, 9]),
        "series 0: it refers to symbol 9, but there are 1"
    );
    assert_eq!(
        error(Version::V2, &[0x22, 1, b'x']),
        "series 0: the first of the symbols is not the empty string"
    );
    let spans = Histogram {
        positive: Buckets {
            spans: vec![Span { offset: 0, length: 3 }],
            counts: vec![1.0],
        },
        ..Histogram::default()
    };
    let bad = WriteRequest {
        series: vec![SeriesData {
            labels: Labels::new([("__name__", "h")]),
            histograms: vec![HistogramSample {
                ts_ms: 1,
                value: Arc::new(spans),
            }],
            ..SeriesData::default()
        }],
        ..WriteRequest::default()
    };
    assert_eq!(
        error(Version::V1, &v1::encode(&bad)),
        "series 0: histogram: positive spans cover 3 buckets, but there are 1"
    );
}

/// A body may claim any size: nothing of it is reserved.
#[test]
fn a_body_that_claims_too_much_is_refused() {
    let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
    assert!(matches!(
        decode(Version::V1, &bomb, LIMIT),
        Err(DecodeError::TooLarge { found: 0xffff_ffff, .. })
    ));
    assert!(matches!(decode(Version::V1, &[], LIMIT), Err(DecodeError::Snappy(_))));
    assert!(matches!(
        decode(Version::V1, b"\x05plain", LIMIT),
        Err(DecodeError::Snappy(_))
    ));
}

/// Empty parts take two bytes in the message and a hundred times as many when they are read.
#[test]
fn a_message_that_holds_too_much_is_refused() {
    let name = [
        0x0a, 0x0d, 0x0a, 8, b'_', b'_', b'n', b'a', b'm', b'e', b'_', b'_', 0x12, 1, b'x',
    ];
    // Of version 1 with a field of the series again and again, and as it would be in version 2.
    let message = |part: &[u8], count: usize| {
        let body = [&name[..], &part.repeat(count)].concat();
        let mut w = crate::wire::Writer::default();
        w.message(1, |w| w.0.extend(body));
        w.0
    };
    let second = |part: &[u8], count: usize| {
        let mut w = crate::wire::Writer::default();
        for text in ["", "__name__", "x"] {
            w.text_always(4, text);
        }
        let body = [&[0x0a, 2, 1, 2][..], &part.repeat(count)].concat();
        w.message(5, |w| w.0.extend(body));
        w.0
    };
    let first = v1::decode(&message(&[0x22, 0], 10_000), Room::new(1 << 20));
    let second = v2::decode(&second(&[0x1a, 0], 10_000), Room::new(1 << 20));
    assert_eq!(first.err(), Some(DecodeError::TooMuch { limit: 1 << 20 }));
    assert_eq!(second.err(), Some(DecodeError::TooMuch { limit: 1 << 20 }));
    // What has content takes little more than it takes in the message.
    let one = [
        0x12, 0x10, 0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x10, 0x80, 0xd0, 0x95, 0xff, 0xbc, 0x31,
    ];
    let read = v1::decode(&message(&one, 50_000), Room::new(1 << 20));
    assert_eq!(read.map(|read| read.sample_count()), Ok(50_000));
}

#[test]
fn content_types_tell_the_version() {
    for version in [Version::V1, Version::V2] {
        assert_eq!(Version::from_content_type(version.content_type()), Some(version));
    }
    assert_eq!(
        Version::from_content_type("application/x-protobuf; proto=prometheus.WriteRequest"),
        Some(Version::V1)
    );
    assert_eq!(Version::from_content_type("application/x-protobuf;proto=other"), None);
    assert_eq!(Version::from_content_type("application/json"), None);
}
