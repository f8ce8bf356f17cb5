//! Bodies that are taken out of their framing on the way: HTTP/2 on at least one side, or a copy of what cannot be kept.
//!
//! Enters: frames of a [`Source`]. Leaves: the same on a [`Sink`], no faster than that takes them. Else, where both
//! sides speak HTTP/1, nothing of this is used: there bodies pass as they stand.

use std::cell::RefCell;
use std::io::{self, IoSlice, Write};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use super::filters::bandwidth::Bandwidth;
use super::filters::mirror::{self, CopySink, CopySource};
use super::h1::body::{Body, Broken};
use super::translate;
use crate::wire::Wire;

/// A connection that a source and a sink share; borrowed within a poll only.
pub type SharedWire<'w> = RefCell<&'w mut Wire>;

/// So much of a body is kept while a retry policy may want it again.
pub const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// A piece of a body.
#[derive(Debug, Clone)]
pub enum Frame {
    /// Content.
    Data(Bytes),
    /// What follows the content.
    Trailers(HeaderMap),
}

/// Where a body comes from.
pub enum Source<'w> {
    /// There is none, or it was all taken.
    Empty,
    /// Here already; can be sent again.
    Whole(Bytes),
    /// What was taken of it is kept, so that it can be sent again; and how many pieces went on this time.
    Kept(Rc<RefCell<Kept<'w>>>, usize),
    /// An HTTP/2 stream.
    H2(RecvStream),
    /// An HTTP/1 message, and whether its trailers were taken.
    H1(&'w SharedWire<'w>, Body, bool),
    /// The same that somebody else gets.
    Copied(CopySource),
    /// One of which others get the same.
    Shared(Box<Source<'w>>, Vec<CopySink>),
}

impl Source<'_> {
    /// Whether nothing comes any more. `false` where that is not known yet.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Kept(kept, taken) => {
                let kept = kept.borrow();
                *taken >= kept.frames.len() && (kept.ended || kept.source.is_end())
            }
            Self::H2(stream) => stream.is_end_stream(),
            Self::H1(_, body, _) => body.is_done() && body.trailers().len() <= 2,
            Self::Copied(source) => source.is_end(),
            Self::Shared(source, _) => source.is_end(),
        }
    }

    /// The next piece; `None` at the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Broken>> {
        match self {
            Self::Empty => Poll::Ready(Ok(None)),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready(Ok((!bytes.is_empty()).then_some(Frame::Data(bytes))))
            }
            Self::Kept(kept, taken) => kept.borrow_mut().poll_frame(taken, cx),
            Self::H2(stream) => {
                match ready!(stream.poll_data(cx)) {
                    Some(Ok(data)) => return Poll::Ready(Ok(Some(Frame::Data(data)))),
                    Some(Err(_)) => return Poll::Ready(Err(Broken::Source)),
                    None => {}
                }
                match ready!(stream.poll_trailers(cx)) {
                    Ok(Some(trailers)) => Poll::Ready(Ok(Some(Frame::Trailers(trailers)))),
                    Ok(None) => Poll::Ready(Ok(None)),
                    Err(_) => Poll::Ready(Err(Broken::Source)),
                }
            }
            Self::H1(wire, body, trailed) => {
                if let Some(data) = ready!(body.poll_content(&mut wire.borrow_mut(), cx))? {
                    return Poll::Ready(Ok(Some(Frame::Data(data))));
                }
                if std::mem::replace(trailed, true) {
                    return Poll::Ready(Ok(None));
                }
                let trailers = translate::trailers(body.trailers()).map_err(Broken::Malformed)?;
                Poll::Ready(Ok(trailers.map(Frame::Trailers)))
            }
            Self::Copied(source) => source.poll_frame(cx),
            Self::Shared(source, copies) => {
                let frame = ready!(source.poll_frame(cx))?;
                if let Some(frame) = &frame {
                    copies.iter().for_each(|copy| copy.push(frame));
                }
                // Whoever sends it on may not ask for more than that.
                if frame.is_none() || source.is_end() {
                    copies.iter().for_each(CopySink::end);
                }
                Poll::Ready(Ok(frame))
            }
        }
    }

    /// The same for others too: `send` is given what makes the body of each.
    pub fn copied(self, send: impl FnOnce(&mut dyn FnMut() -> Source<'static>)) -> Self {
        match self {
            Self::Empty => {
                send(&mut || Source::Empty);
                self
            }
            Self::Whole(bytes) => {
                send(&mut || Source::Whole(bytes.clone()));
                Self::Whole(bytes)
            }
            source => {
                let mut sinks = Vec::new();
                send(&mut || {
                    let (sink, copied) = mirror::copy();
                    sinks.push(sink);
                    Source::Copied(copied)
                });
                Self::Shared(Box::new(source), sinks)
            }
        }
    }

    /// So much of the content went on: the sender may send as much again.
    fn release(&mut self, bytes: usize) {
        match self {
            // It fails only for more than was received.
            Self::H2(stream) => drop(stream.flow_control().release_capacity(bytes)),
            Self::Kept(kept, _) => {
                let mut kept = kept.borrow_mut();
                // What is kept made room for more when it was taken.
                if !kept.whole {
                    kept.source.release(bytes);
                }
            }
            Self::Shared(source, _) => source.release(bytes),
            Self::Empty | Self::Whole(_) | Self::H1(..) | Self::Copied(_) => {}
        }
    }
}

/// A body of which the beginning is kept, as long as that is not too much.
pub struct Kept<'w> {
    source: Source<'w>,
    frames: Vec<Frame>,
    bytes: usize,
    /// All that was taken is here.
    whole: bool,
    ended: bool,
}

impl<'w> Source<'w> {
    /// A body that may be wanted again.
    pub fn keep(self) -> Self {
        if let Self::Empty | Self::Whole(_) = self {
            return self;
        }
        let kept = Kept {
            source: self,
            frames: Vec::new(),
            bytes: 0,
            whole: true,
            ended: false,
        };
        Self::Kept(Rc::new(RefCell::new(kept)), 0)
    }

    /// The same body from its beginning; `None`: there is none that is kept.
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Kept(kept, _) if kept.borrow().whole => Some(Self::Kept(Rc::clone(kept), 0)),
            Self::Whole(bytes) => Some(Self::Whole(bytes.clone())),
            Self::Kept(..) | Self::H2(_) | Self::H1(..) | Self::Copied(_) | Self::Shared(..) => None,
        }
    }
}

impl Kept<'_> {
    fn poll_frame(&mut self, taken: &mut usize, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Broken>> {
        if let Some(frame) = self.frames.get(*taken) {
            *taken += 1;
            return Poll::Ready(Ok(Some(frame.clone())));
        }
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let frame = ready!(self.source.poll_frame(cx))?;
        let Some(frame) = frame else {
            self.ended = true;
            return Poll::Ready(Ok(None));
        };
        if self.whole {
            let bytes = match &frame {
                Frame::Data(data) => data.len(),
                Frame::Trailers(_) => 0,
            };
            self.bytes += bytes;
            if self.bytes > REPLAY_BYTES_MAX {
                (self.whole, self.frames) = (false, Vec::new());
            } else {
                self.source.release(bytes);
                self.frames.push(frame.clone());
                *taken += 1;
            }
        }
        Poll::Ready(Ok(Some(frame)))
    }
}

/// How an HTTP/1 message is framed that is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// As long as its head says, or until the connection ends.
    Plain,
    /// In chunks.
    Chunked,
}

/// Where a body goes.
pub enum Sink<'w> {
    /// An HTTP/2 stream.
    H2(SendStream<Bytes>),
    /// An HTTP/1 message.
    H1(&'w SharedWire<'w>, Writing),
    /// To nobody.
    Nowhere,
}

/// A body on its way.
pub struct Pump<'s, 't> {
    /// Where it comes from.
    pub source: Source<'s>,
    sink: Sink<'t>,
    /// Written before anything else: a head, or a frame around content (HTTP/1 only).
    before: Vec<u8>,
    /// Content that waits.
    data: Bytes,
    after: &'static [u8],
    state: State,
    /// Bytes of content that passed, or wait to be written.
    pub bytes: u64,
    /// Trailers that passed.
    pub trailers: Option<HeaderMap>,
    /// So many bytes may pass, and those that wait for it.
    limit: Option<Box<(Bandwidth, Bytes)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The end is to be written.
    Ending,
    Done,
}

impl<'s, 't> Pump<'s, 't> {
    /// A body whose head was sent, or stands in `head` (HTTP/1 only). `ended`: the sink was told that nothing follows.
    pub fn new(source: Source<'s>, sink: Sink<'t>, head: Vec<u8>, ended: bool) -> Self {
        let state = match (ended, head.is_empty()) {
            (true, true) => State::Done,
            (true, false) => State::Ending,
            (false, _) => State::Open,
        };
        Self {
            source,
            sink,
            before: head,
            data: Bytes::new(),
            after: b"",
            state,
            bytes: 0,
            trailers: None,
            limit: None,
        }
    }

    /// Lets so many bytes a second pass.
    pub fn limit(&mut self, rate: Option<u64>) {
        self.limit = rate.map(|rate| Box::new((Bandwidth::new(rate), Bytes::new())));
    }

    /// The next piece that may pass now; `None`: nothing waits for that.
    fn poll_limited(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self.limit.as_deref_mut() {
            Some((limit, waiting)) if !waiting.is_empty() => {
                let room = ready!(limit.poll_room(cx)).min(waiting.len());
                limit.took(room);
                Poll::Ready(Some(waiting.split_to(room)))
            }
            _ => Poll::Ready(None),
        }
    }

    /// Whether content waits that may not pass yet.
    fn holds_back(&self) -> bool {
        self.limit.as_ref().is_some_and(|limit| !limit.1.is_empty())
    }

    /// Whether all has passed.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Moves as much as possible. `moved` is set when anything moved. Ready when all has passed.
    pub fn poll(&mut self, moved: &mut bool, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_write(cx)).map_err(|_| Broken::Sink)?;
            match self.state {
                State::Done => return self.poll_flush(cx).map_err(|_| Broken::Sink),
                State::Ending => {
                    self.state = State::Done;
                    continue;
                }
                State::Open => {}
            }
            match self.poll_limited(cx) {
                Poll::Ready(None) => {}
                Poll::Ready(Some(piece)) => {
                    *moved = true;
                    self.data(piece);
                    continue;
                }
                Poll::Pending => {
                    ready!(self.poll_flush(cx)).map_err(|_| Broken::Sink)?;
                    return Poll::Pending;
                }
            }
            let frame = match self.source.poll_frame(cx) {
                Poll::Ready(frame) => frame?,
                Poll::Pending => {
                    ready!(self.poll_flush(cx)).map_err(|_| Broken::Sink)?;
                    return Poll::Pending;
                }
            };
            *moved = true;
            match frame {
                Some(Frame::Data(data)) => match self.limit.as_deref_mut() {
                    None => self.data(data),
                    Some((_, waiting)) => *waiting = data,
                },
                Some(Frame::Trailers(trailers)) => {
                    self.end(Some(&trailers))?;
                    self.trailers = Some(trailers);
                }
                None => self.end(None)?,
            }
        }
    }

    fn data(&mut self, data: Bytes) {
        self.bytes += data.len() as u64;
        if let Sink::H1(_, Writing::Chunked) = self.sink
            && !data.is_empty()
        {
            // Writing into a vector cannot fail.
            let _ = write!(self.before, "{:x}\r\n", data.len());
            self.after = b"\r\n";
        }
        self.data = data;
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        match &mut self.sink {
            Sink::H1(_, Writing::Plain) | Sink::Nowhere => {}
            Sink::H1(_, Writing::Chunked) => {
                self.before.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    translate::render_fields(&mut self.before, trailers);
                }
                self.before.extend_from_slice(b"\r\n");
            }
            Sink::H2(stream) => match trailers {
                Some(trailers) => stream.send_trailers(trailers.clone()).map_err(|_| Broken::Sink)?,
                None => stream.send_data(Bytes::new(), true).map_err(|_| Broken::Sink)?,
            },
        }
        self.state = State::Ending;
        Ok(())
    }

    /// Writes what waits.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = self.holds_back();
        match &mut self.sink {
            Sink::H2(stream) => {
                while !self.data.is_empty() {
                    if stream.capacity() == 0 {
                        stream.reserve_capacity(self.data.len());
                        match ready!(stream.poll_capacity(cx)) {
                            Some(Ok(_)) => {}
                            Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                        }
                        if stream.capacity() == 0 {
                            continue;
                        }
                    }
                    let piece = self.data.split_to(stream.capacity().min(self.data.len()));
                    let length = piece.len();
                    let last = self.data.is_empty() && !held && self.source.is_end();
                    stream.send_data(piece, last).map_err(io::Error::other)?;
                    self.source.release(length);
                    if last {
                        self.state = State::Done;
                    }
                }
                // An endpoint or a client that wants no more says so.
                if self.state == State::Open
                    && let Poll::Ready(reset) = stream.poll_reset(cx)
                {
                    return Poll::Ready(Err(io::Error::other(format!("{reset:?}"))));
                }
                Poll::Ready(Ok(()))
            }
            Sink::Nowhere => {
                self.source.release(self.data.len());
                (self.data, self.after) = (Bytes::new(), b"");
                self.before.clear();
                Poll::Ready(Ok(()))
            }
            Sink::H1(wire, _) => {
                let mut wire = wire.borrow_mut();
                while !(self.before.is_empty() && self.data.is_empty() && self.after.is_empty()) {
                    let slices = [&self.before[..], &self.data[..], self.after].map(IoSlice::new);
                    let mut n = ready!(wire.poll_write(cx, &slices))?;
                    let of_before = n.min(self.before.len());
                    self.before.drain(..of_before);
                    n -= of_before;
                    let of_data = n.min(self.data.len());
                    self.data.advance(of_data);
                    self.source.release(of_data);
                    self.after = &self.after[n - of_data..];
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.sink {
            Sink::H1(wire, _) => wire.borrow_mut().poll_flush(cx),
            Sink::H2(_) | Sink::Nowhere => Poll::Ready(Ok(())),
        }
    }

    /// Ends an HTTP/2 stream early, with the word that this was no success.
    pub fn reset(&mut self, reason: h2::Reason) {
        if let Sink::H2(stream) = &mut self.sink {
            stream.send_reset(reason);
        }
    }
}
