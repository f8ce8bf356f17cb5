//! The headers that a service hands on to the services it calls, so that a trace stays in one piece.

use http::HeaderMap;

/// W3C, B3 (single and multi), request id, OpenTracing, Jaeger, gRPC; and who the user is, so that routes by user hold all the way.
const PROPAGATED: [&str; 15] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
    "x-cloud-trace-context",
    "uber-trace-id",
    "grpc-trace-bin",
    "end-user",
];

/// The subset of `headers` to send along with calls made on behalf of a request.
pub fn propagated(headers: &HeaderMap) -> HeaderMap {
    let mut result = HeaderMap::new();
    for name in PROPAGATED {
        for value in headers.get_all(name) {
            result.append(name, value.clone());
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tracing_goes_on() {
        let mut headers = HeaderMap::new();
        for name in ["traceparent", "b3", "user-agent", "host", "x-request-id"] {
            headers.insert(name, "x".parse().unwrap());
        }
        headers.append("tracestate", "a=1".parse().unwrap());
        headers.append("tracestate", "b=2".parse().unwrap());
        let sent = propagated(&headers);
        assert_eq!(sent.keys_len(), 4);
        assert_eq!(sent.get_all("tracestate").iter().count(), 2);
        assert!(!sent.contains_key("user-agent"));
    }
}
