//! `http-echo`: the request as it arrived, and who answered.
//!
//! The query may order the answer: `?status=503&delay=100ms&size=4096` (size: bytes of padding in the body).

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::json;

use crate::behaviour::parse_status;
use crate::duration;
use crate::server::{self, Answer, Call};

const PADDING_BYTES_MAX: usize = 16 << 20;

pub async fn answer(call: Call) -> Answer {
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in &call.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.as_str()).or_default().push(value);
    }
    let status = call.query("status").map_or(Ok(StatusCode::OK), parse_status);
    let delay = call.query("delay").map_or(Ok(Default::default()), duration::parse);
    let (status, delay) = match (status, delay) {
        (Ok(status), Ok(delay)) => (status, delay),
        (Err(error), _) | (_, Err(error)) => {
            return server::json(StatusCode::BAD_REQUEST, &json!({"error": error}));
        }
    };
    tokio::time::sleep(delay).await;
    let size = call.query("size").and_then(|size| size.parse().ok()).unwrap_or(0);
    let mut body = json!({
        "pod": server::pod_name(),
        "method": call.method.as_str(),
        "path": call.uri.to_string(),
        "headers": headers,
        "peer": call.peer.to_string(),
        "body_bytes": call.body.len(),
    });
    if size > 0 {
        body["padding"] = "x".repeat(PADDING_BYTES_MAX.min(size)).into();
    }
    server::json(status, &body)
}
