//! Spans as Zipkin's second version has them: a JSON array.
//!
//! Enters: ended spans, and who tells. Leaves: the body of a `POST /api/v2/spans`.

use serde_json::{Map, Value, json};

use super::context::trace_text;
use super::micros;
use super::span::{Kind, Span};

/// The content type of [`encode`].
pub const CONTENT_TYPE: &str = "application/json";

/// Encodes spans of one service.
pub fn encode(spans: &[Span], service: &str, node: &str) -> Vec<u8> {
    let list: Vec<Value> = spans.iter().map(|span| one(span, service, node)).collect();
    Value::Array(list).to_string().into_bytes()
}

fn one(span: &Span, service: &str, node: &str) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
    put("traceId", trace_text(span.ids.trace).into());
    put("id", format!("{:016x}", span.ids.span).into());
    if let Some(parent) = span.ids.parent {
        put("parentId", format!("{parent:016x}").into());
    }
    let kind = match span.kind {
        Kind::Client => "CLIENT",
        Kind::Server => "SERVER",
    };
    put("kind", kind.into());
    put("name", (&*span.name).into());
    put("timestamp", micros(span.begin).into());
    // Zipkin takes 0 for unknown.
    let duration = u64::try_from(span.duration.as_micros()).unwrap_or(u64::MAX).max(1);
    put("duration", duration.into());
    put("localEndpoint", json!({"serviceName": service}));
    let mut remote = Map::new();
    if let Some(name) = &span.remote {
        remote.insert("serviceName".to_owned(), (&**name).into());
    }
    if let Some(address) = span.remote_address {
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        remote.insert(family.to_owned(), address.ip().to_string().into());
        remote.insert("port".to_owned(), address.port().into());
    }
    if !remote.is_empty() {
        put("remoteEndpoint", Value::Object(remote));
    }
    if span.debug {
        put("debug", true.into());
    }
    let mut tags: Map<String, Value> = span
        .tags
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str())))
        .collect();
    tags.insert("component".to_owned(), "proxy".into());
    tags.insert("node_id".to_owned(), node.into());
    if span.error {
        tags.insert("error".to_owned(), "true".into());
    }
    put("tags", Value::Object(tags));
    Value::Object(out)
}
