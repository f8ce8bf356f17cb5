//! Bodies on their way: a request's, possibly kept for another try, and a response's, watched to its end.
//!
//! Neither copies: frames pass through as they come, and only as fast as the other side takes them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::headers;
use super::pool::Lease;
use super::record::Record;

/// Why a body broke.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body on its way to an endpoint.
pub enum RequestBody {
    /// None, or one that was read whole.
    Whole(Option<Bytes>),
    /// As it comes from the client.
    Stream(Incoming),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(incoming) => incoming.size_hint(),
        }
    }
}

/// A response's body on its way to the client.
pub enum ResponseBody {
    /// Made here.
    Local(Option<Bytes>),
    /// From an endpoint.
    Upstream(Box<Watched>),
}

/// A response's body from an endpoint; its end ends the record and frees the connection.
pub struct Watched {
    incoming: Incoming,
    record: Record,
    lease: Option<Lease>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    /// Watches `incoming`; past `deadline` it breaks.
    pub fn new(incoming: Incoming, record: Record, lease: Lease, deadline: Option<Pin<Box<Sleep>>>) -> Self {
        Self {
            incoming,
            record,
            lease: Some(lease),
            deadline,
        }
    }

    fn complete(&mut self) {
        self.record.complete();
        if let Some(lease) = self.lease.take() {
            lease.release();
        }
    }

    fn broken(&mut self) {
        self.record.upstream_failed();
        self.lease = None;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.broken();
            return Poll::Ready(Some(Err("the request's timeout passed within the response".into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match &frame {
            None => self.complete(),
            Some(Err(_)) => self.broken(),
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.record.trailers(headers::grpc_status(trailers));
                }
            }
        }
        Poll::Ready(frame.map(|result| result.map_err(Into::into)))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // The server drops a body as soon as its announced length is written, without asking for its end.
        if self.lease.is_some() && self.incoming.is_end_stream() {
            self.complete();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Local(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Upstream(watched) => watched.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(bytes) => bytes.is_none(),
            Self::Upstream(watched) => watched.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Upstream(watched) => watched.incoming.size_hint(),
        }
    }
}
