//! What the proxy itself answers where no endpoint does.
//!
//! Enters: why there is no response. Leaves: a record that says so, and the reply, for HTTP/1 and HTTP/2 alike.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};

use super::attempts::Failure;
use super::headers::{GRPC_STATUS_NAME, parse_grpc_status};
use super::record::Record;

/// Says that the reply is the proxy's, because a limit was reached.
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

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
            (
                HeaderName::from_static("grpc-message"),
                HeaderValue::from_static(message),
            ),
        ];
        Self {
            status: 200,
            body: Bytes::new(),
            fields,
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
    /// The client's body does not come.
    Slow,
}

impl Unanswered {
    /// Records it; leaves what the client is told.
    pub fn reply(self, record: &mut Record) -> Reply {
        let (status, text) = match self {
            Self::NoCluster(status) => (status, ""),
            Self::NoEndpoint => (503, "no healthy upstream"),
            Self::Failed(failure) => (failure.status(), failure.reason()),
            Self::Late => (504, "upstream request timeout"),
            Self::Slow => (408, "the body of the request did not come in time"),
        };
        record.flag(match self {
            Self::NoCluster(_) => "NC",
            Self::NoEndpoint => "UH",
            Self::Failed(Failure::Connect) => "UF",
            Self::Failed(Failure::Malformed) => "UPE",
            Self::Failed(_) => "UC",
            Self::Late => "UT",
            Self::Slow => "SI",
        });
        match self {
            Self::NoCluster(_) => {
                record.no_cluster();
                record.local(status);
            }
            Self::NoEndpoint | Self::Slow => record.local(status),
            Self::Failed(Failure::Overflow(limit)) => {
                record.overflow(limit);
                record.local(status);
                let mut reply = Reply::new(status, text.as_bytes());
                reply.fields.push((OVERLOADED, HeaderValue::from_static("true")));
                return reply;
            }
            Self::Failed(_) => {
                record.head(status, false, None);
                record.upstream_failed();
            }
            Self::Late => {
                record.head(status, false, None);
                record.timed_out();
            }
        }
        Reply::new(status, text.as_bytes())
    }
}
