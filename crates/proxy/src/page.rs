//! Metric pages on their way to a scraper: written piece by piece, and never in the way of a request.
//!
//! Enters: what writes a page in slices. Leaves: a body. A thread of the idle class writes ahead of the scraper by a few
//! pieces at most, so that a page of any size takes little memory, and whoever wakes takes the core from it at once.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use thread_priority::{
    NormalThreadSchedulePolicy as Class, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};
use tokio::sync::mpsc;

/// Written between two chances for others to run: some tens of microseconds.
const SLICE_BYTES: usize = 16 << 10;
/// Sent at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait for the scraper.
const PIECES_MAX: usize = 2;
/// As low as it gets within a class.
const NICE: i32 = 19;
/// A page that takes longer goes on in the usual class: on a core that is never idle it would not end before its scraper
/// gives up.
const IDLE_FOR: Duration = Duration::from_secs(1);

/// The body of an administration reply.
pub enum Body {
    /// A short text, until it was taken.
    Whole(Option<Bytes>),
    /// A page that is still written.
    Pieces(mpsc::Receiver<Bytes>),
}

impl Body {
    /// A page. `begin` is called on the writing thread, so it may take a while; what it returns appends at least so many
    /// bytes to the text, or all that is left, and says whether there is more.
    pub fn page<W>(begin: impl FnOnce() -> W + Send + 'static) -> std::io::Result<Self>
    where
        W: FnMut(&mut String, usize) -> bool,
    {
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || write(begin, &sender))?;
        Ok(Self::Pieces(receiver))
    }
}

fn write<W>(begin: impl FnOnce() -> W, sender: &mpsc::Sender<Bytes>)
where
    W: FnMut(&mut String, usize) -> bool,
{
    // Before it stands back: what is taken from under a lock must not be held while others have the core.
    let mut write = begin();
    let began = Instant::now();
    let mut class = Class::Idle;
    stand_back(class);
    let mut more = true;
    while more {
        if class == Class::Idle && began.elapsed() > IDLE_FOR {
            class = Class::Other;
            stand_back(class);
        }
        let mut piece = String::with_capacity(PIECE_BYTES + SLICE_BYTES);
        while more && piece.len() < PIECE_BYTES {
            more = write(&mut piece, SLICE_BYTES);
            // Others need not wait for what runs in the idle class.
            if class != Class::Idle {
                std::thread::yield_now();
            }
        }
        // A scraper that went away wants no more.
        if sender.blocking_send(piece.into()).is_err() {
            return;
        }
    }
}

/// Puts this thread behind all others of the class. Where that is not allowed the page is written all the same.
fn stand_back(class: Class) {
    // The class first: it resets the other.
    let _ = set_thread_priority_and_policy(
        thread_native_id(),
        ThreadPriority::Min,
        ThreadSchedulePolicy::Normal(class),
    );
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Pieces(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|p| Ok(Frame::data(p)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_page_comes_in_pieces_and_ends() {
        let body = Body::page(|| {
            let mut left = 1000;
            move |out: &mut String, bytes| {
                out.extend(std::iter::repeat_n('x', bytes));
                left -= 1;
                left > 0
            }
        });
        let page = body.unwrap().collect().await.unwrap().to_bytes();
        assert_eq!(page.len(), 1000 * SLICE_BYTES);
    }

    #[tokio::test]
    async fn nothing_is_written_for_a_scraper_that_went_away() {
        let (ended, end) = tokio::sync::oneshot::channel::<()>();
        let body = Body::page(move || {
            // Dropped with the writer.
            let held = ended;
            move |out: &mut String, bytes| {
                let _ = &held;
                out.extend(std::iter::repeat_n('x', bytes));
                true
            }
        });
        drop(body);
        let end = tokio::time::timeout(std::time::Duration::from_secs(20), end).await;
        assert!(end.expect("the writer ends").is_err());
    }
}
