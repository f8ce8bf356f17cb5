//! Bodies, headers and content types of responses; the size limit of request bodies.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::error::{ApiError, Result};
use super::protobuf::DecodeError;

pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Larger request bodies are refused, as in Kubernetes.
const REQUEST_BYTES_MAX: usize = 3 << 20;
const REQUEST_BODY_TIMEOUT: Duration = Duration::from_secs(60);

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn reply(code: u16, content_type: &str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    let no_cache = HeaderValue::from_static("no-cache, private");
    response.headers_mut().insert(header::CACHE_CONTROL, no_cache);
    response
}

pub fn json(code: u16, value: &Value) -> Response<Body> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    reply(code, "application/json", bytes)
}

pub fn text(code: u16, text: &str) -> Response<Body> {
    reply(code, "text/plain; charset=utf-8", text.to_owned())
}

/// Adds `Warning` headers, which kubectl prints.
pub fn with_warnings(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for w in warnings {
        let shown: String = w.chars().filter(|c| !c.is_control()).collect();
        let quoted = shown.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

impl ApiError {
    pub fn response(&self) -> Response<Body> {
        let mut response = json(self.code, &self.status());
        if self.code == 401 {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// Reads a request body.
pub async fn read(body: Incoming) -> Result<Bytes> {
    let limited = Limited::new(body, REQUEST_BYTES_MAX);
    match tokio::time::timeout(REQUEST_BODY_TIMEOUT, limited.collect()).await {
        Err(_) => Err(ApiError::new(408, "Timeout", "the request body did not arrive in time")),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {REQUEST_BYTES_MAX}"),
        )),
        Ok(Err(e)) => Err(ApiError::bad_request(format!("the request body broke off: {e}"))),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}

/// Parses a request body: JSON, or YAML where the content type says so.
pub fn parse(headers: &HeaderMap, bytes: &[u8]) -> Result<Value> {
    let kind = header_text(headers, header::CONTENT_TYPE);
    let kind = kind.split(';').next().unwrap_or("").trim();
    if kind == "application/vnd.kubernetes.protobuf" {
        return super::protobuf::decode(bytes).map_err(|e| match e {
            DecodeError::Damaged => ApiError::bad_request(e.to_string()),
            e => ApiError::new(415, "UnsupportedMediaType", e.to_string()),
        });
    }
    if kind.contains("protobuf") || kind.contains("cbor") {
        return Err(ApiError::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml; got {kind:?}"
            ),
        ));
    }
    if kind.contains("yaml") && !bytes.trim_ascii_start().starts_with(b"{") {
        let text =
            std::str::from_utf8(bytes).map_err(|e| ApiError::bad_request(format!("the body is not UTF-8: {e}")))?;
        return serde_saphyr::from_str(text).map_err(|e| ApiError::bad_request(format!("error parsing YAML: {e}")));
    }
    serde_json::from_slice(bytes).map_err(|e| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type object): couldn't get version/kind; json parse error: {e}"
        ))
    })
}

pub fn header_text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// The form in which a client wants objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Object,
    Table,
    Metadata,
}

impl Shape {
    /// The first form in `Accept` that we have.
    pub fn of(headers: &HeaderMap) -> Self {
        for part in header_text(headers, header::ACCEPT).split(',') {
            let mut parameters = part.split(';').map(str::trim);
            if !matches!(parameters.next(), Some("application/json" | "*/*" | "application/*")) {
                continue;
            }
            match parameters.find_map(|p| p.strip_prefix("as=")) {
                None => return Self::Object,
                Some("Table") => return Self::Table,
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Self::Metadata,
                Some(_) => {}
            }
        }
        Self::Object
    }
}
