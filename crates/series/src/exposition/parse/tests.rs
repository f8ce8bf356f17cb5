use super::*;
use crate::exposition::encode::{push_label, push_micros_as_ms, push_u64, write_header, write_sample};
use proptest::prelude::*;

fn all(page: &str) -> Result<Vec<Entry<'_>>, ParseError> {
    parse(page).collect()
}

fn error(page: &str) -> String {
    all(page)
        .map(|entries| format!("no error: {entries:?}"))
        .unwrap_or_else(|e| e.to_string())
}

#[test]
fn reads_the_text_format() {
    let page = "# HELP a_total what\n# TYPE a_total counter\na_total{x=\"1\",y=\"a\\\"b\\\\\\n{}\" , } 3 1700000000000\r\n\
                \n  # TYPE h histogram\nh_bucket{le=\"+Inf\"} 2e0\nh_sum 1.5\nother NaN\nneg -Inf\n";
    let entries = all(page).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(entries.len(), 5);
    assert_eq!(entries[0].name, "a_total");
    assert_eq!(entries[0].ts_ms, Some(1_700_000_000_000));
    assert_eq!(entries[0].kind, MetricType::Counter);
    let labels: Vec<_> = entries[0].labels().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(labels, ["x=1", "y=a\"b\\\n{}"]);
    assert_eq!(entries[1].kind, MetricType::Histogram);
    assert_eq!(entries[1].series, "h_bucket{le=\"+Inf\"}");
    assert_eq!((entries[2].value, entries[2].kind), (1.5, MetricType::Histogram));
    assert!(entries[3].value.is_nan() && entries[3].kind == MetricType::Unknown);
    assert_eq!(entries[4].value, f64::NEG_INFINITY);
}

#[test]
fn reads_openmetrics() {
    let page = "# TYPE c counter\n# UNIT c seconds\nc_total{a=\"b\"} 1 1700000000.5 # {trace=\"x\"} 0.5 1\nc_created 2\n# EOF\n";
    let entries = all(page).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(entries.len(), 2);
    assert_eq!(
        (entries[0].ts_ms, entries[0].starts_at_zero()),
        (Some(1_700_000_000_500), true)
    );
    assert!(!entries[1].starts_at_zero());
}

#[test]
fn errors_name_the_line_and_what_would_be_right() {
    assert_eq!(
        error("a 1\n<html>\n"),
        "line 2: a metric name like request_total must stand where \"<html>\" stands"
    );
    assert_eq!(error("a one"), "line 1: \"one\" is not a number");
    assert_eq!(error("a"), "line 1: a value is missing after \"a\"");
    assert_eq!(error("\na{b=\"c\" 1"), "line 2: the label set has no closing }");
    assert_eq!(
        error("a{b=c} 1"),
        "line 1: the value of label \"b\" must stand in double quotes"
    );
    assert_eq!(error("a{b \"c\"} 1"), "line 1: = must follow the label name \"b\"");
    assert_eq!(
        error("a{b=\"c\" d=\"e\"} 1"),
        "line 1: a comma or } must follow label \"b\""
    );
    assert_eq!(
        error("a{1=\"c\"} 1"),
        "line 1: a label name must stand where \"1=\\\"c\\\"\" stands"
    );
    assert_eq!(
        error("a 1 1.5"),
        "line 1: \"1.5\" is not a timestamp in whole milliseconds since 1970"
    );
    assert_eq!(
        error("a 1 2 3"),
        "line 1: nothing may follow value and timestamp, but \"3\" does"
    );
    assert!(error(&"<".repeat(10_000)).len() < 200);
}

#[test]
fn nothing_follows_an_error() {
    assert_eq!(parse("a 1\nb\nc 2\n").count(), 2);
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        any::<i32>().prop_map(f64::from),
        Just(f64::INFINITY),
        Just(f64::NAN)
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        series in prop::collection::vec(
            ("[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", prop::collection::vec(("[a-zA-Z_][a-zA-Z0-9_]{0,6}", ".+|[\\\\\"\n{},= #]{1,6}"), 0..4), any_value()),
            0..20,
        )
    ) {
        let mut page = String::new();
        for (name, labels, value) in &series {
            let mut set = String::new();
            labels.iter().for_each(|(n, v)| push_label(&mut set, n, v));
            write_header(&mut page, name, "gauge", "multi\nline \\ help");
            write_sample(&mut page, name, &set, "", *value);
        }
        let read: Vec<_> = parse(&page).collect::<Result<_, _>>().map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(read.len(), series.len());
        for (entry, (name, labels, value)) in read.iter().zip(&series) {
            prop_assert_eq!(entry.name, name);
            let got: Vec<_> = entry.labels().map(|(n, v)| (n.into_owned(), v.into_owned())).collect();
            prop_assert_eq!(&got, labels);
            prop_assert!(entry.value == *value || (entry.value.is_nan() && value.is_nan()));
        }
    }

    #[test]
    fn whole_numbers_and_milliseconds_are_written_as_they_are(value: u64, micros in 0_u64..1 << 53) {
        let mut out = String::new();
        push_u64(&mut out, value);
        prop_assert_eq!(&out, &value.to_string());
        out.clear();
        push_micros_as_ms(&mut out, micros);
        prop_assert_eq!(out.parse::<f64>().ok(), Some(micros as f64 / 1000.0));
    }

    #[test]
    fn no_page_panics(page in "\\PC*|[a-z{}\"\\\\=, #\n0-9.]*") {
        for entry in parse(&page).flatten() {
            let _ = entry.labels().count();
        }
    }
}
