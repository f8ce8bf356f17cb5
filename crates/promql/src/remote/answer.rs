//! Prometheus's JSON back into values.

use crate::{Error, InstantSample, Value};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use std::collections::BTreeMap;
use weir_series::{Labels, Sample, SeriesData};

#[derive(Deserialize)]
struct Envelope<T> {
    status: String,
    data: Option<T>,
    #[serde(default, rename = "errorType")]
    error_type: String,
    #[serde(default)]
    error: String,
}

/// The `data` of an answer, or the error that it tells.
pub(super) fn data<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let envelope: Envelope<T> = serde_json::from_slice(body)
        .map_err(|e| Error::Execution(format!("the server's answer is not what Prometheus answers: {e}")))?;
    match (envelope.status.as_str(), envelope.data) {
        ("success", Some(data)) => Ok(data),
        ("success", None) => Err(Error::Execution("the server's answer has no data".into())),
        _ => Err(match envelope.error_type.as_str() {
            "bad_data" => Error::BadQuery(envelope.error),
            kind => Error::Execution(format!("the server answers: {kind}: {}", envelope.error)),
        }),
    }
}

/// The `data` of a query.
#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
pub(super) enum QueryData {
    Scalar(Point),
    String((f64, String)),
    Vector(Vec<Element>),
    Matrix(Vec<Row>),
}

/// Seconds since 1970, and the value as text.
#[derive(Deserialize)]
pub(super) struct Point(f64, String);

#[derive(Deserialize)]
pub(super) struct Element {
    metric: BTreeMap<String, String>,
    /// Not there where the value is a native histogram.
    value: Option<Point>,
}

#[derive(Deserialize)]
pub(super) struct Row {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<Point>,
    /// Native histograms, each with its time.
    #[serde(default)]
    histograms: Vec<IgnoredAny>,
}

impl Point {
    fn sample(&self) -> Result<Sample, Error> {
        let value = match self.1.as_str() {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            text => text
                .parse()
                .map_err(|_| Error::Execution(format!("the server's answer has {text:?} where a number is due")))?,
        };
        Ok(Sample {
            ts_ms: (self.0 * 1000.0).round() as i64,
            value,
        })
    }
}

impl QueryData {
    /// Whether there are native histograms, which [`QueryData::value`] leaves out.
    pub fn has_histograms(&self) -> bool {
        match self {
            QueryData::Scalar(_) | QueryData::String(_) => false,
            QueryData::Vector(elements) => elements.iter().any(|element| element.value.is_none()),
            QueryData::Matrix(rows) => rows.iter().any(|row| !row.histograms.is_empty()),
        }
    }

    /// As the engine would answer; `at_ms` is the time that was asked for.
    pub fn value(self, at_ms: i64) -> Result<Value, Error> {
        Ok(match self {
            QueryData::Scalar(point) => Value::Scalar(point.sample()?),
            QueryData::String((_, value)) => Value::String { ts_ms: at_ms, value },
            QueryData::Vector(elements) => {
                let mut samples = Vec::with_capacity(elements.len());
                for element in elements {
                    if let Some(point) = element.value {
                        samples.push(InstantSample {
                            labels: Labels::new(element.metric),
                            value: point.sample()?.value,
                            histogram: None,
                        });
                    }
                }
                Value::Vector { ts_ms: at_ms, samples }
            }
            QueryData::Matrix(rows) => Value::Matrix(series(rows)?),
        })
    }
}

fn series(rows: Vec<Row>) -> Result<Vec<SeriesData>, Error> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        out.push(SeriesData {
            samples: row.values.iter().map(Point::sample).collect::<Result<_, _>>()?,
            labels: Labels::new(row.metric),
            ..SeriesData::default()
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values_and_errors() {
        let vector = br#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1.5,"+Inf"]}]}}"#;
        let value = data::<QueryData>(vector).and_then(|d| d.value(1500));
        let samples = value.map(Value::into_vector).unwrap_or_default();
        assert_eq!((samples[0].labels.get("a"), samples[0].value), ("b", f64::INFINITY));
        let matrix = br#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"2"],[1.25,"NaN"]]}]}}"#;
        let Ok(Value::Matrix(rows)) = data::<QueryData>(matrix).and_then(|d| d.value(0)) else {
            panic!("no matrix");
        };
        assert_eq!(
            rows[0].samples[0],
            Sample {
                ts_ms: 1000,
                value: 2.0
            }
        );
        assert!(rows[0].samples[1].value.is_nan() && rows[0].samples[1].ts_ms == 1250);
        let mixed = br#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"2"]]},
            {"metric":{"a":"b"},"histograms":[[1,{"count":"1","sum":"1","buckets":[[0,"1","2","1"]]}]]}]}}"#;
        assert_eq!(data::<QueryData>(mixed).map(|d| d.has_histograms()), Ok(true));
        assert_eq!(data::<QueryData>(matrix).map(|d| d.has_histograms()), Ok(false));
        let error = br#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        assert!(matches!(data::<QueryData>(error), Err(Error::BadQuery(why)) if why == "parse error"));
        assert!(matches!(data::<QueryData>(b"<html>"), Err(Error::Execution(_))));
    }
}
