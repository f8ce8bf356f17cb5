//! What the proxy itself answers where no endpoint does.
//!
//! Enters: why there is no response. Leaves: a record that says so, and the reply, for HTTP/1 and HTTP/2 alike.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};

use super::attempts::Failure;
use super::headers::{GRPC_STATUS_NAME, parse_grpc_status};
use super::record::Record;

/// Says that the reply is the proxy's, because a limit was reached.
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// What came is none of the protocol, in Envoy's letters.
pub const MALFORMED: &str = "DPE";

/// Says in words why a call failed, percent-encoded.
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The time that the client gave the call is over.
const EXPIRED: &str = "downstream duration timeout";

/// The gRPC status that says so.
const DEADLINE_EXCEEDED: u16 = 4;

/// The gRPC status that stands for an HTTP status (gRPC over HTTP/2, "HTTP to gRPC Status Code Mapping").
fn grpc_of(status: u16) -> u16 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// Text as `grpc-message` has it (gRPC over HTTP/2, "Percent-Encoded").
fn percent_encoded(text: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => encoded.push(char::from(*byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// A response of the proxy's own.
#[derive(Debug, Default)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Content.
    pub body: Bytes,
    /// Headers beside those that every reply has; they say what the content is.
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

impl Reply {
    /// Only status and content.
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let plain = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let fields = Vec::from_iter((!body.is_empty()).then_some(plain));
        Self { status, body, fields }
    }

    /// An error as gRPC has it (`Trailers-Only`).
    pub fn grpc(status: u16, message: &'static str) -> Self {
        let fields = vec![
            (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
            (HeaderName::from_static(GRPC_STATUS_NAME), status.into()),
            (GRPC_MESSAGE, HeaderValue::from_static(message)),
        ];
        Self {
            status: 200,
            body: Bytes::new(),
            fields,
        }
    }

    /// The same for a client of gRPC, which looks for the status of its call: `Trailers-Only`, as Envoy answers it.
    #[must_use]
    pub fn in_grpc(self) -> Self {
        if self.grpc_status().is_some() {
            return self;
        }
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let status = (HeaderName::from_static(GRPC_STATUS_NAME), grpc_of(self.status).into());
        let message = HeaderValue::try_from(percent_encoded(&self.body)).ok();
        let message = message.filter(|text| !text.is_empty()).map(|text| (GRPC_MESSAGE, text));
        let others = self.fields.into_iter().filter(|(name, _)| name != header::CONTENT_TYPE);
        Self {
            status: 200,
            body: Bytes::new(),
            fields: [kind, status].into_iter().chain(message).chain(others).collect(),
        }
    }

    /// The gRPC status that it tells.
    pub fn grpc_status(&self) -> Option<u16> {
        let (_, value) = self.fields.iter().find(|(name, _)| name == GRPC_STATUS_NAME)?;
        parse_grpc_status(value.as_bytes())
    }
}

/// Why a request is not answered by an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// The cluster of the route is not there, which this status tells.
    NoCluster(u16),
    /// The cluster has no endpoint.
    NoEndpoint,
    /// The last try failed.
    Failed(Failure),
    /// The time of the request is over.
    Late,
    /// The time of the call is over.
    Expired,
    /// The client's body does not come.
    Slow,
}

impl Unanswered {
    /// Records it; leaves what the client is told, which may be one of gRPC.
    pub fn reply(self, record: &mut Record, grpc: bool) -> Reply {
        let (status, text) = match self {
            Self::NoCluster(status) => (status, ""),
            Self::NoEndpoint => (503, "no healthy upstream"),
            Self::Failed(failure) => (failure.status(), failure.reason()),
            Self::Late => (504, "upstream request timeout"),
            Self::Expired => (504, EXPIRED),
            Self::Slow => (408, "the body of the request did not come in time"),
        };
        record.flag(match self {
            Self::NoCluster(_) => "NC",
            Self::NoEndpoint => "UH",
            Self::Failed(Failure::Connect) => "UF",
            Self::Failed(Failure::Malformed) => "UPE",
            Self::Failed(Failure::Overflow(_)) => "UO",
            Self::Failed(Failure::Timeout) => "UT",
            Self::Failed(Failure::Refused) => "UR",
            Self::Failed(Failure::Unsent | Failure::Reset) => "UC",
            Self::Late => "UT",
            Self::Expired => "-",
            Self::Slow => "SI",
        });
        let mut reply = Reply::new(status, text.as_bytes());
        if let Self::Failed(Failure::Overflow(_)) = self {
            reply.fields.push((OVERLOADED, HeaderValue::from_static("true")));
        }
        if grpc && matches!(self, Self::Expired) {
            reply = Reply::grpc(DEADLINE_EXCEEDED, EXPIRED);
        } else if grpc {
            reply = reply.in_grpc();
        }
        record.sent(|| reply.body.len() as u64);
        match self {
            Self::NoCluster(_) => {
                record.no_cluster();
                record.reply(&reply);
            }
            Self::NoEndpoint | Self::Slow => record.reply(&reply),
            Self::Failed(Failure::Overflow(limit)) => {
                record.overflow(limit);
                record.reply(&reply);
            }
            Self::Failed(_) => {
                record.head(reply.status, grpc, reply.grpc_status());
                record.upstream_failed();
            }
            Self::Expired => {
                record.head(reply.status, grpc, reply.grpc_status());
                record.expired();
            }
            Self::Late => {
                record.head(reply.status, grpc, reply.grpc_status());
                record.timed_out();
            }
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_grpc_are_told_in_grpc() {
        let mut reply = Reply::new(503, "100 % busy\n");
        reply.fields.push((OVERLOADED, HeaderValue::from_static("true")));
        let reply = reply.in_grpc();
        let fields: Vec<_> = reply
            .fields
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        let expected = [
            "content-type: application/grpc",
            "grpc-status: 14",
            "grpc-message: 100 %25 busy%0A",
            "x-envoy-overloaded: true",
        ];
        assert_eq!(
            (reply.status, reply.body.len(), fields),
            (200, 0, expected.map(String::from).into())
        );
        let silent = Reply::new(404, "").in_grpc();
        assert_eq!((silent.grpc_status(), silent.fields.len()), (Some(12), 2));
        let told = Reply::grpc(5, "not here").in_grpc();
        assert_eq!(told.grpc_status(), Some(5));
    }
}
