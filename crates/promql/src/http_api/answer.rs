//! Prometheus's envelope: `{"status":"success","data":...}` or `{"status":"error","errorType":...,"error":...}`.

use super::native::Native;
use crate::{Annotations, InstantSample, Value, format};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::{Serialize, Serializer, ser::SerializeTuple};
use weir_series::{HistogramSample, Labels, Sample, SeriesData};

pub(super) fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Remarks that go with an answer.
#[derive(Debug, Default, Serialize)]
pub(super) struct Remarks {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub infos: Vec<String>,
}

/// What is said of an answer that `limit` made shorter.
const TRUNCATED: &str = "results truncated due to limit";

impl From<Annotations> for Remarks {
    fn from(annotations: Annotations) -> Self {
        Remarks {
            warnings: annotations.warnings.into_iter().collect(),
            infos: annotations.infos.into_iter().collect(),
        }
    }
}

impl Remarks {
    /// Shortens a list to `limit` elements (0: all) and says so.
    pub fn truncate<T>(&mut self, list: &mut Vec<T>, limit: usize) {
        if limit > 0 && list.len() > limit {
            list.truncate(limit);
            self.warnings.push(TRUNCATED.into());
        }
    }
}

pub(super) fn success(data: impl Serialize) -> Response<Full<Bytes>> {
    success_with(data, Remarks::default())
}

pub(super) fn success_with(data: impl Serialize, remarks: Remarks) -> Response<Full<Bytes>> {
    #[derive(Serialize)]
    struct Envelope<T> {
        status: &'static str,
        data: T,
        #[serde(flatten)]
        remarks: Remarks,
    }
    match serde_json::to_string(&Envelope {
        status: "success",
        data,
        remarks,
    }) {
        Ok(json) => text(StatusCode::OK, "application/json", json),
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, "internal", &e.to_string()),
    }
}

pub(super) fn error(status: StatusCode, kind: &str, message: &str) -> Response<Full<Bytes>> {
    let json = serde_json::json!({ "status": "error", "errorType": kind, "error": message });
    text(status, "application/json", json.to_string())
}

/// The `data` of a query.
pub(super) struct QueryData {
    pub value: Value,
    pub stats: Option<serde_json::Value>,
}

impl Serialize for QueryData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Data<'a, T> {
            result_type: &'static str,
            result: T,
            #[serde(skip_serializing_if = "Option::is_none")]
            stats: &'a Option<serde_json::Value>,
        }
        let stats = &self.stats;
        match &self.value {
            Value::Scalar(s) => Data {
                result_type: "scalar",
                result: Point(s.ts_ms, s.value),
                stats,
            }
            .serialize(serializer),
            Value::String { ts_ms, value } => Data {
                result_type: "string",
                result: (Time(*ts_ms), value),
                stats,
            }
            .serialize(serializer),
            Value::Vector { ts_ms, samples } => {
                let result: Vec<Element> = samples.iter().map(|s| Element::new(*ts_ms, s)).collect();
                Data {
                    result_type: "vector",
                    result,
                    stats,
                }
                .serialize(serializer)
            }
            Value::Matrix(series) => {
                let result: Vec<Row> = series.iter().map(Row::new).collect();
                Data {
                    result_type: "matrix",
                    result,
                    stats,
                }
                .serialize(serializer)
            }
        }
    }
}

#[derive(Serialize)]
struct Element<'a> {
    metric: &'a Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Point>,
    #[serde(skip_serializing_if = "Option::is_none")]
    histogram: Option<(Time, Native<'a>)>,
}

impl<'a> Element<'a> {
    fn new(ts_ms: i64, sample: &'a InstantSample) -> Self {
        Element {
            metric: &sample.labels,
            value: sample.histogram.is_none().then_some(Point(ts_ms, sample.value)),
            histogram: sample.histogram.as_ref().map(|h| (Time(ts_ms), Native(h))),
        }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    metric: &'a Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Points<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    histograms: Option<Natives<'a>>,
}

impl<'a> Row<'a> {
    fn new(series: &'a SeriesData) -> Self {
        Row {
            metric: &series.labels,
            values: (!series.samples.is_empty()).then_some(Points(&series.samples)),
            histograms: (!series.histograms.is_empty()).then_some(Natives(&series.histograms)),
        }
    }
}

struct Points<'a>(&'a [Sample]);

impl Serialize for Points<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|s| Point(s.ts_ms, s.value)))
    }
}

struct Natives<'a>(&'a [HistogramSample]);

impl Serialize for Natives<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|h| (Time(h.ts_ms), Native(&h.value))))
    }
}

/// `[1700000000.5,"42"]`
struct Point(i64, f64);

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut pair = serializer.serialize_tuple(2)?;
        pair.serialize_element(&Time(self.0))?;
        pair.serialize_element(&format::value(self.1))?;
        pair.end()
    }
}

/// Seconds; a whole number without a fraction.
struct Time(i64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 % 1000 == 0 {
            serializer.serialize_i64(self.0 / 1000)
        } else {
            serializer.serialize_f64(self.0 as f64 / 1000.0)
        }
    }
}
