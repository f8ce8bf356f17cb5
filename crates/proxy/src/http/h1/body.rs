//! Bodies of HTTP/1 messages on their way from one connection to another, as they stand.
//!
//! Enters: read bytes. Leaves: how many of them may be written on. Never holds any: what the other side does not take
//! stays unread, and so holds the sender back.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::chunked::Chunked;
use super::head::{Framing, Malformed};
use crate::wire::Wire;

/// Why a body did not pass.
#[derive(Debug)]
pub enum Broken {
    /// It could not be read, or ended too early.
    Source,
    /// It could not be written.
    Sink,
    /// It is none.
    Malformed(Malformed),
}

/// What is still to come of a body.
#[derive(Debug)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks; `checked` bytes of those that are unread were looked at already.
    Chunked {
        /// Finds the end.
        parser: Box<Chunked>,
        /// Looked at and still unread.
        checked: usize,
    },
    /// Everything until the connection ends.
    UntilClose {
        /// It has.
        ended: bool,
        /// So many bytes passed.
        passed: u64,
    },
}

impl Body {
    /// All of it is to come.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked {
                parser: Box::default(),
                checked: 0,
            },
            Framing::UntilClose => Self::UntilClose {
                ended: false,
                passed: 0,
            },
        }
    }

    /// Whether nothing is to come.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked { parser, checked } => *checked == 0 && parser.is_done(),
            Self::UntilClose { ended, .. } => *ended,
        }
    }

    /// Whether its end lies `here` behind the beginning of what is unread, as [`Body::ready`] found it last.
    pub fn ends_at(&self, here: usize) -> bool {
        match self {
            Self::Length(left) => *left == here as u64,
            Self::Chunked { parser, checked } => *checked == here && parser.is_done(),
            Self::UntilClose { .. } => false,
        }
    }

    /// How many of the unread bytes belong to this body.
    pub fn ready(&mut self, unread: &[u8]) -> Result<usize, Malformed> {
        match self {
            Self::Length(left) => Ok(usize::try_from(*left).unwrap_or(usize::MAX).min(unread.len())),
            Self::Chunked { parser, checked } => {
                *checked += parser.scan(&unread[*checked..])?;
                Ok(*checked)
            }
            Self::UntilClose { .. } => Ok(unread.len()),
        }
    }

    /// So many of those were written on.
    pub fn passed(&mut self, n: usize) {
        match self {
            Self::Length(left) => *left -= n as u64,
            Self::Chunked { checked, .. } => *checked -= n,
            Self::UntilClose { passed, .. } => *passed += n as u64,
        }
    }

    /// Bytes of content that passed, of a body that is framed like this. Of chunks: those that were seen.
    pub fn content(&self, framing: Framing) -> u64 {
        match (self, framing) {
            (Self::Length(left), Framing::Length(length)) => length.saturating_sub(*left),
            (Self::Length(_), _) => 0,
            (Self::Chunked { parser, .. }, _) => parser.content(),
            (Self::UntilClose { passed, .. }, _) => *passed,
        }
    }

    /// The connection ended: good for some bodies, bad for others.
    pub fn source_ended(&mut self) -> Result<(), Broken> {
        match self {
            Self::UntilClose { ended, .. } => {
                *ended = true;
                Ok(())
            }
            _ => Err(Broken::Source),
        }
    }

    /// The next content, taken out of its frame; `None` at its end. For those who frame it anew.
    pub fn poll_content(&mut self, from: &mut Wire, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        loop {
            if self.is_done() {
                return Poll::Ready(Ok(None));
            }
            if from.unread().is_empty() {
                match ready!(from.poll_more(cx)) {
                    Err(_) => return Poll::Ready(Err(Broken::Source)),
                    Ok(0) => {
                        self.source_ended()?;
                        continue;
                    }
                    Ok(_) => {}
                }
            }
            let unread = from.unread();
            let (used, content) = if let Self::Chunked { parser, .. } = self {
                parser.step(unread).map_err(Broken::Malformed)?
            } else {
                let n = self.ready(unread).map_err(Broken::Malformed)?;
                self.passed(n);
                (n, 0..n)
            };
            let content = Bytes::copy_from_slice(&unread[content]);
            from.consume(used);
            if !content.is_empty() {
                return Poll::Ready(Ok(Some(content)));
            }
        }
    }

    /// The lines of the trailers, with the empty line behind them; nothing for bodies that cannot have any.
    pub fn trailers(&self) -> &[u8] {
        match self {
            Self::Chunked { parser, .. } => parser.trailers(),
            _ => &[],
        }
    }
}

/// Writes `head[*sent..]`, then the body, from what is unread of `from` and what comes. Ready when all is written.
/// `moved` is set when anything moved.
pub fn poll_transfer(
    head: &[u8],
    sent: &mut usize,
    body: &mut Body,
    from: &mut Wire,
    to: &mut Wire,
    moved: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Broken>> {
    let mut room = usize::MAX;
    poll_piece(head, sent, body, from, to, moved, &mut room, cx)
}

/// The same, with no more of the body than `room`, which becomes what is left of it. Pending, without another reason, where
/// that is nothing.
#[allow(clippy::too_many_arguments)] // two connections, what goes from one to the other, and what is to be said of it
pub fn poll_piece(
    head: &[u8],
    sent: &mut usize,
    body: &mut Body,
    from: &mut Wire,
    to: &mut Wire,
    moved: &mut bool,
    room: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Broken>> {
    loop {
        let head_left = head.get(*sent..).unwrap_or_default();
        let ready = body.ready(from.unread()).map_err(Broken::Malformed)?.min(*room);
        if head_left.is_empty() && ready == 0 {
            if body.is_done() {
                return to.poll_flush(cx).map_err(|_| Broken::Sink);
            }
            if *room == 0 {
                ready!(to.poll_flush(cx)).map_err(|_| Broken::Sink)?;
                return Poll::Pending;
            }
            match from.poll_more(cx) {
                Poll::Ready(Ok(0)) => body.source_ended()?,
                Poll::Ready(Ok(_)) => *moved = true,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Source)),
                Poll::Pending => {
                    // Nothing may wait on this side while the other one waits for it.
                    ready!(to.poll_flush(cx)).map_err(|_| Broken::Sink)?;
                    return Poll::Pending;
                }
            }
            continue;
        }
        let content = &from.unread()[..ready];
        let written = if head_left.is_empty() {
            write(to, cx, &[IoSlice::new(content)])
        } else if content.is_empty() {
            write(to, cx, &[IoSlice::new(head_left)])
        } else {
            write(to, cx, &[IoSlice::new(head_left), IoSlice::new(content)])
        };
        let n = ready!(written)?;
        *moved = true;
        let of_head = n.min(head_left.len());
        *sent += of_head;
        body.passed(n - of_head);
        from.consume(n - of_head);
        *room = room.saturating_sub(n - of_head);
    }
}

fn write(to: &mut Wire, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<Result<usize, Broken>> {
    to.poll_write(cx, slices).map_err(|_: io::Error| Broken::Sink)
}
