//! Prometheus's envelope: `{"status":"success","data":...}` or `{"status":"error","errorType":...,"error":...}`.

use crate::{InstantSample, Value, format};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::{Serialize, Serializer, ser::SerializeTuple};
use weir_series::{Labels, Sample, SeriesData};

pub(super) fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn success(data: impl Serialize) -> Response<Full<Bytes>> {
    #[derive(Serialize)]
    struct Envelope<T> {
        status: &'static str,
        data: T,
    }
    match serde_json::to_string(&Envelope {
        status: "success",
        data,
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
pub(super) struct QueryData(pub Value);

impl Serialize for QueryData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Data<T> {
            result_type: &'static str,
            result: T,
        }
        match &self.0 {
            Value::Scalar(s) => Data {
                result_type: "scalar",
                result: Point(s.ts_ms, s.value),
            }
            .serialize(serializer),
            Value::String { ts_ms, value } => Data {
                result_type: "string",
                result: (Time(*ts_ms), value),
            }
            .serialize(serializer),
            Value::Vector { ts_ms, samples } => {
                let result: Vec<Element> = samples.iter().map(|s| Element::new(*ts_ms, s)).collect();
                Data {
                    result_type: "vector",
                    result,
                }
                .serialize(serializer)
            }
            Value::Matrix(series) => {
                let result: Vec<Row> = series.iter().map(Row::new).collect();
                Data {
                    result_type: "matrix",
                    result,
                }
                .serialize(serializer)
            }
        }
    }
}

#[derive(Serialize)]
struct Element<'a> {
    metric: &'a Labels,
    value: Point,
}

impl<'a> Element<'a> {
    fn new(ts_ms: i64, sample: &'a InstantSample) -> Self {
        Element {
            metric: &sample.labels,
            value: Point(ts_ms, sample.value),
        }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    metric: &'a Labels,
    values: Points<'a>,
}

impl<'a> Row<'a> {
    fn new(series: &'a SeriesData) -> Self {
        Row {
            metric: &series.labels,
            values: Points(&series.samples),
        }
    }
}

struct Points<'a>(&'a [Sample]);

impl Serialize for Points<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|s| Point(s.ts_ms, s.value)))
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
