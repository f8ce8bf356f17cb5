//! Requests from the wire: the messages of a gRPC stream.
//!
//! Enters: the body of an HTTP/2 request. Leaves: decoded messages, one at a time. A client's first requests name all that
//! it wants, later ones next to nothing: the memory of a large one is given back as soon as it has been read.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;

use bytes::{Buf, BytesMut};
use http_body::Body as _;
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use super::message::GRPC_PREFIX_BYTES;

/// Largest request: a reconnecting client lists all it has.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// The requests of one stream.
#[derive(Debug)]
pub(super) struct Requests<M> {
    body: Body,
    /// What has come of messages that were not read yet.
    buffer: BytesMut,
    messages: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Requests<M> {
    /// The requests in this body.
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            messages: PhantomData,
        }
    }

    /// The next request; `None` when the client has ended the stream. Nothing is lost if the future is dropped.
    pub(super) async fn message(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            let Some(frame) = frame else {
                return match self.buffer.len() {
                    0 => Ok(None),
                    n => Err(Status::internal(format!("the stream ended {n} bytes into a request"))),
                };
            };
            // Trailers of a client say nothing.
            if let Ok(data) = frame?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// A message that has come as a whole.
    fn take(&mut self) -> Result<Option<M>, Status> {
        let Some((flag, length)) = self.buffer.split_first_chunk::<GRPC_PREFIX_BYTES>().map(|(prefix, _)| {
            let [flag, length @ ..] = *prefix;
            (flag, u32::from_be_bytes(length) as usize)
        }) else {
            return Ok(None);
        };
        if flag != 0 {
            return Err(Status::unimplemented(
                "a compressed request; this server announces no compression",
            ));
        }
        if length > REQUEST_BYTES_MAX {
            return Err(Status::out_of_range(format!(
                "a request of {length} bytes; the limit is {REQUEST_BYTES_MAX}"
            )));
        }
        // Room is made for what has come, not for what was announced.
        if self.buffer.len() < GRPC_PREFIX_BYTES + length {
            return Ok(None);
        }
        self.decode(length).map(Some)
    }

    fn decode(&mut self, length: usize) -> Result<M, Status> {
        self.buffer.advance(GRPC_PREFIX_BYTES);
        let message = M::decode(self.buffer.split_to(length))
            .map_err(|error| Status::invalid_argument(format!("a request that cannot be decoded: {error}")));
        // What is left shares the memory of what was read.
        self.buffer = BytesMut::from(&self.buffer[..]);
        message
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http_body::Frame;

    use super::*;
    use crate::discovery::DiscoveryRequest;

    /// A body that comes in these pieces.
    struct Pieces(VecDeque<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn wire(message: &DiscoveryRequest) -> Vec<u8> {
        let body = message.encode_to_vec();
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    fn requests(bytes: &[u8], piece: usize) -> Requests<DiscoveryRequest> {
        let pieces = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
        Requests::new(Body::new(Pieces(pieces)))
    }

    #[tokio::test]
    async fn messages_come_whole_however_they_are_cut() {
        let sent = [1_000, 0, 3].map(|names| DiscoveryRequest {
            resource_names: (0..names).map(|n| format!("name-{n}")).collect(),
            ..Default::default()
        });
        let bytes: Vec<u8> = sent.iter().flat_map(wire).collect();
        for piece in [1, 2, 5, 7, 4_096, bytes.len()] {
            let mut requests = requests(&bytes, piece);
            for message in &sent {
                assert_eq!(requests.message().await.unwrap().as_ref(), Some(message));
            }
            assert_eq!(requests.message().await.unwrap(), None);
            assert_eq!(
                requests.buffer.capacity(),
                0,
                "the memory of a large request is given back"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_told() {
        let refused = async |bytes: &[u8]| requests(bytes, 3).message().await.unwrap_err().message().to_owned();
        assert_eq!(
            refused(&[1, 0, 0, 0, 0]).await,
            "a compressed request; this server announces no compression"
        );
        assert_eq!(
            refused(&[0, 0xff, 0, 0, 0]).await,
            "a request of 4278190080 bytes; the limit is 16777216"
        );
        assert_eq!(
            refused(&[0, 0, 0, 0, 9, 1]).await,
            "the stream ended 6 bytes into a request"
        );
        let broken = refused(&[0, 0, 0, 0, 1, 0xff]).await;
        assert!(broken.starts_with("a request that cannot be decoded"), "{broken}");
    }
}
