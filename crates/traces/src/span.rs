//! A span in Zipkin's second version, as it is received, kept and shown.
//!
//! Enters: JSON. Leaves: checked spans with identifiers and names in one form, or what is wrong with one of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which side of what a span tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Kind {
    /// Who asked.
    Client,
    /// Who was asked.
    Server,
    /// Who sent a message.
    Producer,
    /// Who received one.
    Consumer,
}

/// Who took part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// Address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// Address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
    /// Port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Something that happened at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Annotation {
    /// Microseconds since 1970.
    pub timestamp: u64,
    /// What.
    pub value: String,
}

/// One operation of one service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// 16 or 32 digits, lower case.
    pub trace_id: String,
    /// The span that this one belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent_id: Option<String>,
    /// 16 digits, lower case.
    pub id: String,
    /// Which side it tells of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<Kind>,
    /// What was done; lower case.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Microseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timestamp: Option<u64>,
    /// Microseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duration: Option<u64>,
    /// Who tells.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub local_endpoint: Option<Endpoint>,
    /// The other side.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remote_endpoint: Option<Endpoint>,
    /// What happened meanwhile.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub annotations: Vec<Annotation>,
    /// What else is known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub tags: BTreeMap<String, String>,
    /// It must be kept whatever that costs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub debug: Option<bool>,
    /// The client has a span of the same identifier.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shared: Option<bool>,
}

/// Why spans are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No list of spans.
    #[error("no JSON list of spans: {0}")]
    Syntax(String),
    /// A field is wrong.
    #[error("[{index}].{field}: {message}")]
    Field {
        /// Of the span in the list.
        index: usize,
        /// Which field.
        field: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
}

/// Reads a list of spans.
pub fn read(body: &[u8]) -> Result<Vec<Span>, Refused> {
    let mut spans: Vec<Span> = serde_json::from_slice(body).map_err(|e| Refused::Syntax(e.to_string()))?;
    for (index, span) in spans.iter_mut().enumerate() {
        settle(span).map_err(|(field, message)| Refused::Field { index, field, message })?;
    }
    Ok(spans)
}

type Wrong = (&'static str, String);

fn settle(span: &mut Span) -> Result<(), Wrong> {
    span.trace_id = trace_id(&span.trace_id).map_err(|message| ("traceId", message))?;
    span.id = span_id(&span.id).map_err(|message| ("id", message))?;
    if let Some(parent) = span.parent_id.take().filter(|p| !p.is_empty()) {
        let parent = span_id(&parent).map_err(|message| ("parentId", message))?;
        // Its own parent would be a circle.
        span.parent_id = Some(parent).filter(|p| *p != span.id);
    }
    lower(&mut span.name);
    for endpoint in [&mut span.local_endpoint, &mut span.remote_endpoint]
        .into_iter()
        .flatten()
    {
        lower(&mut endpoint.service_name);
    }
    for time in [&mut span.timestamp, &mut span.duration] {
        *time = time.filter(|t| *t > 0);
    }
    Ok(())
}

fn lower(name: &mut Option<String>) {
    *name = name.take().filter(|n| !n.is_empty()).map(|n| n.to_lowercase());
}

/// A trace's identifier in the one form: 16 digits, or 32 where more than 16 mean something.
pub fn trace_id(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} must have 1 to 32 hexadecimal digits, not all 0");
    let digits = text.trim_start_matches('0').to_ascii_lowercase();
    if digits.is_empty() || text.len() > 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    Ok(match digits.len() {
        0..=16 => format!("{digits:0>16}"),
        _ => format!("{digits:0>32}"),
    })
}

fn span_id(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} must have 1 to 16 hexadecimal digits, not all 0");
    let id = text.to_ascii_lowercase();
    let all = |wanted: fn(u8) -> bool| id.bytes().all(wanted);
    if id.len() > 16 || all(|b| b == b'0') || !all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    Ok(format!("{id:0>16}"))
}

impl Span {
    /// Who tells.
    pub fn service(&self) -> Option<&str> {
        self.local_endpoint.as_ref()?.service_name.as_deref()
    }

    /// The other side.
    pub fn remote_service(&self) -> Option<&str> {
        self.remote_endpoint.as_ref()?.service_name.as_deref()
    }

    /// It went wrong.
    pub fn failed(&self) -> bool {
        self.tags.contains_key("error")
    }

    /// About the memory that it takes.
    pub fn size(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let endpoint = |e: &Option<Endpoint>| {
            e.as_ref()
                .map_or(0, |e| text(&e.service_name) + text(&e.ipv4) + text(&e.ipv6))
        };
        let tags: usize = self.tags.iter().map(|(k, v)| k.len() + v.len() + ENTRY).sum();
        let annotations: usize = self.annotations.iter().map(|a| a.value.len() + ENTRY).sum();
        std::mem::size_of::<Self>()
            + self.trace_id.len()
            + self.id.len()
            + text(&self.parent_id)
            + text(&self.name)
            + endpoint(&self.local_endpoint)
            + endpoint(&self.remote_endpoint)
            + tags
            + annotations
    }
}

/// What an entry of a list or a map takes beside its text.
const ENTRY: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_names_have_one_form() {
        let spans = read(
            br#"[{"traceId":"00000000000000000ABC","id":"f","parentId":"F","name":"GET","timestamp":0,"duration":5,
                 "kind":"CLIENT","localEndpoint":{"serviceName":"Web"},"remoteEndpoint":{"serviceName":""},"unknown":1}]"#,
        )
        .unwrap();
        let span = &spans[0];
        assert_eq!((&*span.trace_id, &*span.id), ("0000000000000abc", "000000000000000f"));
        assert_eq!((span.parent_id.as_deref(), span.name.as_deref()), (None, Some("get")));
        assert_eq!((span.service(), span.remote_service()), (Some("web"), None));
        assert_eq!((span.timestamp, span.duration), (None, Some(5)));
        assert_eq!(trace_id("80f198ee56343ba864fe8b2a57d3eff7").unwrap().len(), 32);
        assert_eq!(trace_id("0f198ee56343ba864fe8b2a57d3eff7").unwrap().len(), 32);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, expected) in [
            ("", "no JSON list of spans: "),
            ("{}", "no JSON list of spans: "),
            (r#"[{"traceId":"1"}]"#, "no JSON list of spans: missing field `id`"),
            (r#"[{"traceId":"x","id":"1"}]"#, "[0].traceId: \"x\" must have"),
            (
                r#"[{"traceId":"1","id":"1"},{"traceId":"1","id":"0"}]"#,
                "[1].id: \"0\" must have",
            ),
            (
                r#"[{"traceId":"1","id":"1","parentId":"11111111111111112"}]"#,
                "[0].parentId: ",
            ),
            (
                r#"[{"traceId":"1","id":"1","kind":"OTHER"}]"#,
                "no JSON list of spans: unknown variant",
            ),
        ] {
            let message = read(body.as_bytes()).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{body}: {message}");
        }
    }
}
