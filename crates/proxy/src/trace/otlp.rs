//! Spans as OpenTelemetry's protocol has them: `ExportTraceServiceRequest` in protobuf, for `POST /v1/traces`.
//!
//! Enters: ended spans, and who tells. Leaves: the body. Only the fields that are filled are listed here, by
//! their numbers in `opentelemetry.proto.trace.v1`.

use prost::Message;

use super::context::Ids;
use super::micros;
use super::span::{Kind, Span};

/// The content type of [`encode`].
pub const CONTENT_TYPE: &str = "application/x-protobuf";

const KIND_SERVER: i32 = 2;
const KIND_CLIENT: i32 = 3;
const STATUS_ERROR: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<OneSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct OneSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    begin: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

/// Encodes spans of one service.
pub fn encode(spans: &[Span], service: &str, node: &str) -> Vec<u8> {
    let resource = Resource {
        attributes: vec![text("service.name", service), text("service.instance.id", node)],
    };
    let scope = Scope {
        name: "weir".to_owned(),
    };
    Request {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: spans.iter().map(one).collect(),
            }],
        }],
    }
    .encode_to_vec()
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            text: Some(value.to_owned()),
        }),
    }
}

fn one(span: &Span) -> OneSpan {
    let Ids {
        trace,
        span: id,
        parent,
    } = span.ids;
    let begin = micros(span.begin).saturating_mul(1000);
    let mut attributes: Vec<KeyValue> = span.tags.iter().map(|(key, value)| text(key, value)).collect();
    if let Some(name) = &span.remote {
        attributes.push(text("peer.service", name));
    }
    OneSpan {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: parent.map(|p| p.to_be_bytes().to_vec()).unwrap_or_default(),
        name: span.name.to_string(),
        kind: match span.kind {
            Kind::Client => KIND_CLIENT,
            Kind::Server => KIND_SERVER,
        },
        begin,
        end: begin.saturating_add(u64::try_from(span.duration.as_nanos()).unwrap_or(u64::MAX)),
        attributes,
        status: span.error.then_some(Status { code: STATUS_ERROR }),
    }
}
