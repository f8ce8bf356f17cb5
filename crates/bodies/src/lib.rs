//! Bodies of requests that servers take in: each whole, in time, of a limited size, and in a room that all of them share.
//!
//! Enters: the body of an HTTP request. Leaves: its bytes with the place that they take, or why they are not taken. Who
//! sends slowly holds what came so far, and keeps nobody else from sending.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Time that a body may take.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// What the room is counted in.
const BLOCK_BYTES: usize = 1 << 10;

/// Where bodies are while they come, and until they have been read.
#[derive(Debug)]
pub struct Room(Arc<Semaphore>);

/// A whole body, and its place in the room.
#[derive(Debug)]
pub struct Held {
    /// The bytes.
    pub bytes: Bytes,
    _place: Option<OwnedSemaphorePermit>,
}

/// Why a body is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has more bytes than this.
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    /// The room is taken by others.
    #[error("too many bodies are on their way at once: send it again later")]
    Full,
    /// The rest did not come in time.
    #[error("the body did not come in time")]
    Late,
    /// The connection failed, and how.
    #[error("the body broke off: {0}")]
    Broken(String),
}

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / BLOCK_BYTES)))
    }

    /// The whole of a body of at most so many bytes. It may take 15 seconds.
    pub async fn read<B>(&self, body: B, max_bytes: usize) -> Result<Held, Refused>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Display,
    {
        match timeout(READ_TIMEOUT, self.gather(body, max_bytes)).await {
            Ok(read) => read,
            Err(_) => Err(Refused::Late),
        }
    }

    async fn gather<B>(&self, mut body: B, max_bytes: usize) -> Result<Held, Refused>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Display,
    {
        let mut bytes = Vec::new();
        let mut place: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Refused::Broken(error.to_string()))?;
            let Some(data) = frame.data_ref() else { continue };
            let size = bytes.len() + data.len();
            if size > max_bytes {
                return Err(Refused::TooLarge(max_bytes));
            }
            let held = place.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let more = u32::try_from(size.div_ceil(BLOCK_BYTES).saturating_sub(held)).unwrap_or(u32::MAX);
            if more > 0 {
                // Not waited for: bodies that all wait for room for their rest would stand until their time is over.
                let more = Arc::clone(&self.0).try_acquire_many_owned(more);
                let more = more.map_err(|_| Refused::Full)?;
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use http_body::Frame;
    use http_body_util::Full;

    use super::*;

    /// Comes in part, and no further.
    struct Slow(Option<Bytes>);

    impl Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Poll::Pending,
            }
        }
    }

    #[tokio::test]
    async fn bodies_share_a_room_and_have_a_size() {
        let room = Room::new(4 * BLOCK_BYTES);
        let of = |bytes: usize| Full::new(Bytes::from(vec![b'x'; bytes]));
        let size = |read: Result<Held, Refused>| read.map(|held| held.bytes.len());

        let first = room.read(of(3 * BLOCK_BYTES - 5), usize::MAX).await;
        let second = room.read(of(BLOCK_BYTES + 1), usize::MAX).await;
        assert_eq!(size(second), Err(Refused::Full));
        let second = room.read(of(BLOCK_BYTES), usize::MAX).await;
        assert_eq!(size(second), Ok(BLOCK_BYTES));
        assert_eq!(size(first), Ok(3 * BLOCK_BYTES - 5));
        assert_eq!(size(room.read(of(11), 10).await), Err(Refused::TooLarge(10)));

        // One that is still coming has the place of what came, until it is given up.
        let slow = Slow(Some(vec![b'x'; 2 * BLOCK_BYTES].into()));
        let mut coming = Box::pin(room.read(slow, usize::MAX));
        let mut context = Context::from_waker(Waker::noop());
        assert!(coming.as_mut().poll(&mut context).is_pending());
        let more = room.read(of(2 * BLOCK_BYTES + 1), usize::MAX).await;
        assert_eq!(size(more), Err(Refused::Full));
        drop(coming);
        let all = room.read(of(4 * BLOCK_BYTES), usize::MAX).await;
        assert_eq!(size(all), Ok(4 * BLOCK_BYTES));
    }
}
