//! Responses on the wire: gRPC frames that are written as the client takes them.
//!
//! A queued response is a head and pointers to resources that all streams share. Bytes are put together only when the
//! connection has room for them, a chunk at a time, so that a slow client holds no copy of its configuration.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use tokio::sync::mpsc;
use tonic::Status;

use super::session::Outgoing;
use crate::discovery::{DeltaDiscoveryResponse, DiscoveryResponse};
use crate::types::{Resource, ResourceType};

/// What is put together at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// Flag and length before each message.
pub(super) const GRPC_PREFIX_BYTES: usize = 5;

/// Keys of fields of bytes, by field number.
const FIELD_1: u8 = 0x0a;
const FIELD_2: u8 = 0x12;
const FIELD_3: u8 = 0x1a;

/// How a resource stands in a response.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// As it is: state of the world.
    Bare,
    /// With name and version: delta.
    Named,
}

/// A response that waits to be written.
#[derive(Debug)]
pub(super) struct Message {
    head: Vec<u8>,
    shape: Shape,
    resources: Vec<Arc<Resource>>,
}

impl From<Outgoing<DeltaDiscoveryResponse>> for Message {
    fn from(response: Outgoing<DeltaDiscoveryResponse>) -> Self {
        Self {
            head: response.head.encode_to_vec(),
            shape: Shape::Named,
            resources: response.resources,
        }
    }
}

impl From<Outgoing<DiscoveryResponse>> for Message {
    fn from(response: Outgoing<DiscoveryResponse>) -> Self {
        Self {
            head: response.head.encode_to_vec(),
            shape: Shape::Bare,
            resources: response.resources,
        }
    }
}

/// Length of a field of bytes: key, length, content.
fn field_len(content: usize) -> usize {
    1 + encoded_len_varint(content as u64) + content
}

fn put_key(key: u8, length: usize, into: &mut BytesMut) {
    into.put_u8(key);
    encode_varint(length as u64, into);
}

fn put_text(key: u8, text: &str, into: &mut BytesMut) {
    put_key(key, text.len(), into);
    into.put_slice(text.as_bytes());
}

/// Length of the `google.protobuf.Any` of a resource.
fn any_len(ty: ResourceType, body: &[u8]) -> usize {
    field_len(ty.type_url().len()) + field_len(body.len())
}

impl Shape {
    /// Length of a resource's entry, without key and length.
    fn entry_len(self, resource: &Resource) -> usize {
        let any = any_len(resource.ty, &resource.body);
        match self {
            Self::Bare => any,
            Self::Named => field_len(resource.version.len()) + field_len(resource.name.len()) + field_len(any),
        }
    }

    /// All of a resource's entry but the body, which ends it.
    fn put_entry(self, resource: &Resource, into: &mut BytesMut) {
        put_key(FIELD_2, self.entry_len(resource), into);
        if matches!(self, Self::Named) {
            put_text(FIELD_1, &resource.version, into);
            put_text(FIELD_3, &resource.name, into);
            put_key(FIELD_2, any_len(resource.ty, &resource.body), into);
        }
        put_text(FIELD_1, resource.ty.type_url(), into);
        put_key(FIELD_2, resource.body.len(), into);
    }
}

/// A message that is being written.
#[derive(Debug)]
struct Writing {
    shape: Shape,
    resources: std::vec::IntoIter<Arc<Resource>>,
    /// Bytes that come before the next resource.
    rest: Bytes,
    /// All bytes to come.
    left: usize,
}

impl Writing {
    fn new(message: Message) -> Result<Self, Status> {
        let entries = message.resources.iter().map(|r| field_len(message.shape.entry_len(r)));
        let length = message.head.len() + entries.sum::<usize>();
        let told = u32::try_from(length).map_err(|_| Status::out_of_range("a response of more than 4 GiB"))?;
        let mut start = BytesMut::with_capacity(GRPC_PREFIX_BYTES + message.head.len());
        start.put_u8(0);
        start.put_u32(told);
        start.put_slice(&message.head);
        Ok(Self {
            shape: message.shape,
            resources: message.resources.into_iter(),
            rest: start.freeze(),
            left: GRPC_PREFIX_BYTES + length,
        })
    }

    /// The next bytes; `None` at the end.
    fn chunk(&mut self) -> Option<Bytes> {
        if self.rest.len() >= CHUNK_BYTES {
            self.left -= CHUNK_BYTES;
            return Some(self.rest.split_to(CHUNK_BYTES));
        }
        let mut chunk = BytesMut::with_capacity(self.left.min(CHUNK_BYTES));
        while chunk.len() < CHUNK_BYTES {
            if self.rest.is_empty() {
                let Some(resource) = self.resources.next() else { break };
                self.shape.put_entry(&resource, &mut chunk);
                self.rest = resource.body.clone();
            }
            let fits = self.rest.len().min(CHUNK_BYTES.saturating_sub(chunk.len()));
            chunk.put_slice(&self.rest.split_to(fits));
        }
        self.left = self.left.saturating_sub(chunk.len());
        (!chunk.is_empty()).then(|| chunk.freeze())
    }
}

/// What a stream sends.
#[derive(Debug)]
pub(super) struct ResponseBody {
    queue: mpsc::Receiver<Result<Message, Status>>,
    writing: Option<Writing>,
    ended: bool,
}

impl ResponseBody {
    /// Sends what is queued; ends with the queue, or with an error in it.
    pub(super) fn new(queue: mpsc::Receiver<Result<Message, Status>>) -> Self {
        Self {
            queue,
            writing: None,
            ended: false,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(chunk) = self.writing.as_mut().and_then(Writing::chunk) {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            self.writing = None;
            if self.ended {
                return Poll::Ready(None);
            }
            let next = std::task::ready!(self.queue.poll_recv(cx));
            let status = match next.map(|message| message.and_then(Writing::new)) {
                Some(Ok(writing)) => {
                    self.writing = Some(writing);
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            self.ended = true;
            let mut trailers = http::HeaderMap::new();
            status.add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as it comes out, chunk by chunk.
    fn written(message: Message) -> Vec<u8> {
        let mut writing = Writing::new(message).unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = writing.chunk() {
            // A chunk may end with the start of an entry, which is short.
            assert!(chunk.len() < CHUNK_BYTES + 512, "{}", chunk.len());
            bytes.extend(chunk);
        }
        assert_eq!(writing.left, 0);
        bytes
    }

    fn resources() -> Vec<Arc<Resource>> {
        // Small ones, one that fills chunks exactly, one that is larger than several, an empty one.
        [10, 100, CHUNK_BYTES, 5 * CHUNK_BYTES + 7, 0]
            .into_iter()
            .enumerate()
            .map(|(n, length)| Resource::new(ResourceType::Endpoint, format!("{n}"), vec![7_u8; length]))
            .collect()
    }

    #[test]
    fn what_is_written_reads_as_the_message() {
        let head = DeltaDiscoveryResponse {
            system_version_info: "v".into(),
            type_url: ResourceType::Endpoint.type_url().into(),
            removed_resources: vec!["gone".into()],
            nonce: "3".into(),
            ..Default::default()
        };
        let bytes = written(Message::from(Outgoing {
            head: head.clone(),
            resources: resources(),
        }));
        assert_eq!(
            bytes[..5],
            [&[0][..], &u32::try_from(bytes.len() - 5).unwrap().to_be_bytes()].concat()
        );
        let read = DeltaDiscoveryResponse::decode(&bytes[5..]).unwrap();
        let wire = |r: &Arc<Resource>| crate::discovery::Resource {
            name: r.name.clone(),
            version: r.version.clone(),
            resource: Some(r.to_any()),
            ..Default::default()
        };
        let resources = resources().iter().map(wire).collect();
        assert_eq!(read, DeltaDiscoveryResponse { resources, ..head });
    }

    #[test]
    fn the_state_of_the_world_reads_as_the_message_too() {
        let head = DiscoveryResponse {
            version_info: "v".into(),
            nonce: "3".into(),
            ..Default::default()
        };
        let bytes = written(Message::from(Outgoing {
            head: head.clone(),
            resources: resources(),
        }));
        let read = DiscoveryResponse::decode(&bytes[5..]).unwrap();
        let resources = resources().iter().map(|r| r.to_any()).collect();
        assert_eq!(read, DiscoveryResponse { resources, ..head });
    }

    #[test]
    fn an_empty_response_is_written_too() {
        let head = DiscoveryResponse::default();
        assert_eq!(
            written(Message::from(Outgoing {
                head,
                resources: vec![]
            })),
            [0, 0, 0, 0, 0]
        );
    }
}
