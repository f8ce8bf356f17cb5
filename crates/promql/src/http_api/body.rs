//! Bodies of requests: each whole, in time, of a limited size, and in a room that all of them share.
//!
//! Who sends slowly holds what came so far, and nothing else: a turn to work is waited for with the whole body at hand.

use super::routes::Refusal;
use bytes::Bytes;
use http_body_util::BodyExt;
use std::{fmt::Display, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Time that a body may take.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// What the room is counted in.
const BLOCK_BYTES: usize = 1 << 10;

/// Where bodies are while they come, and until they have been worked off.
#[derive(Debug)]
pub(super) struct Room(Arc<Semaphore>);

/// A whole body, and its place in the room.
#[derive(Debug)]
pub(super) struct Held {
    pub bytes: Bytes,
    _place: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub fn new(bytes: usize) -> Self {
        Room(Arc::new(Semaphore::new(bytes / BLOCK_BYTES)))
    }

    /// The whole of a body of at most so many bytes.
    pub async fn read<B>(&self, body: B, max_bytes: usize) -> Result<Held, Refusal>
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
        B::Error: Display,
    {
        match timeout(READ_TIMEOUT, self.gather(body, max_bytes)).await {
            Ok(read) => read,
            Err(_) => Err(super::bad("the body did not arrive in time".into())),
        }
    }

    async fn gather<B>(&self, mut body: B, max_bytes: usize) -> Result<Held, Refusal>
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
        B::Error: Display,
    {
        let mut bytes = Vec::new();
        let mut place: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| super::bad(format!("the body cannot be read: {error}")))?;
            let Some(data) = frame.data_ref() else { continue };
            if bytes.len() + data.len() > max_bytes {
                return Err(super::bad(format!("the body is larger than {} MiB", max_bytes >> 20)));
            }
            let held = place.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let more = (bytes.len() + data.len()).div_ceil(BLOCK_BYTES).saturating_sub(held);
            if let Some(more) = u32::try_from(more).ok().filter(|more| *more > 0) {
                // Not waited for: bodies that all wait for the last part of one another would stand until their time is over.
                let more = self.0.clone().try_acquire_many_owned(more).map_err(|_| full())?;
                match &mut place {
                    Some(place) => place.merge(more),
                    None => place = Some(more),
                }
            }
            bytes.extend_from_slice(data);
        }
        Ok(Held {
            bytes: bytes.into(),
            _place: place,
        })
    }
}

fn full() -> Refusal {
    super::unavailable("too many bodies are on their way at once: send it again later".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use std::convert::Infallible;

    #[tokio::test]
    async fn bodies_share_a_room_and_have_a_size() {
        let room = Room::new(4 * BLOCK_BYTES);
        let of = |bytes: usize| Full::new(Bytes::from(vec![b'x'; bytes]));
        let status = |read: Result<Held, Refusal>| read.map(|held| held.bytes.len()).map_err(|why| why.status);
        let full = Err(StatusCode::SERVICE_UNAVAILABLE);

        let first = room.read(of(3 * BLOCK_BYTES - 5), usize::MAX).await;
        assert_eq!(status(room.read(of(BLOCK_BYTES + 1), usize::MAX).await), full);
        assert_eq!(status(room.read(of(BLOCK_BYTES), usize::MAX).await), Ok(BLOCK_BYTES));
        assert_eq!(status(first), Ok(3 * BLOCK_BYTES - 5));
        assert_eq!(
            status(room.read(of(4 * BLOCK_BYTES), usize::MAX).await),
            Ok(4 * BLOCK_BYTES)
        );
        assert_eq!(status(room.read(of(11), 10).await), Err(StatusCode::BAD_REQUEST));

        // One that is still coming has the place of what came, until it is given up.
        let part = Frame::data(Bytes::from(vec![b'x'; 2 * BLOCK_BYTES]));
        let begun = futures::stream::iter([Ok::<_, Infallible>(part)]);
        let endless = StreamBody::new(futures::StreamExt::chain(begun, futures::stream::pending()));
        let mut coming = Box::pin(room.read(endless, usize::MAX));
        assert!(futures::poll!(coming.as_mut()).is_pending());
        assert_eq!(status(room.read(of(2 * BLOCK_BYTES + 1), usize::MAX).await), full);
        drop(coming);
        assert_eq!(
            status(room.read(of(4 * BLOCK_BYTES), usize::MAX).await),
            Ok(4 * BLOCK_BYTES)
        );
    }
}
