//! One connection of a proxy, downstream or upstream: its socket, the bytes read and not yet used, and its count of bytes.
//!
//! Enters: a socket. Leaves: bytes in place, without a copy, and bytes written. Reading goes through the worker's
//! buffers, of which an idle connection holds none. Knows nothing of what the bytes mean.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};
use weir_series::canonical::Slot;

use crate::balance::Held;
use crate::buffers::{BUFFER_BYTES, Buffers};
use crate::config::{ClusterStats, HttpStats};

/// Bytes are moved to the front of the buffer when less than this is free behind them.
const ROOM_MIN: usize = 16 * 1024;
/// So many bytes are moved out of a buffer while nothing follows them.
const FEW_BYTES: usize = 4 * 1024;

/// A socket, in clear text or encrypted.
#[derive(Debug)]
pub enum Io {
    /// Clear text.
    Tcp(TcpStream),
    /// Encrypted, accepted here.
    TlsServer(Box<server::TlsStream<Begun>>),
    /// Encrypted, opened here.
    TlsClient(Box<client::TlsStream<TcpStream>>),
}

impl Io {
    /// Whether both sides agreed on HTTP/2 when encryption began.
    pub fn speaks_http2(&self) -> bool {
        let agreed = match self {
            Self::Tcp(_) => None,
            Self::TlsServer(stream) => stream.get_ref().1.alpn_protocol(),
            Self::TlsClient(stream) => stream.get_ref().1.alpn_protocol(),
        };
        agreed == Some(b"h2")
    }

    /// Whether a client came encrypted.
    pub fn is_secure(&self) -> bool {
        matches!(self, Self::TlsServer(_))
    }

    /// The TCP socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::TlsServer(stream) => &stream.get_ref().0.stream,
            Self::TlsClient(stream) => stream.get_ref().0,
        }
    }
}

/// A TCP stream of which some bytes were read before.
#[derive(Debug)]
pub struct Begun {
    /// Those bytes.
    pub first: Bytes,
    /// What follows.
    pub stream: TcpStream,
}

impl AsyncRead for Begun {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

macro_rules! each {
    ($io:expr, $stream:ident => $call:expr) => {
        match $io {
            Io::Tcp($stream) => $call,
            Io::TlsServer($stream) => $call,
            Io::TlsClient($stream) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut *self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut *self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// Where a connection and its bytes are counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// In the canonical series, where its other end is the peer.
    pub slot: Option<Slot>,
    /// Among a cluster's connections.
    pub cluster: Option<Arc<ClusterStats>>,
    /// Among the connections of an HTTP chain.
    pub http: Option<Arc<HttpStats>>,
    /// Among those of which there may be so many.
    pub _held: Option<Held>,
}

impl Counts {
    fn open(&self) {
        self.slot.iter().for_each(Slot::tcp_open);
        self.cluster.iter().for_each(|c| c.cx_open());
        self.http.iter().for_each(|h| h.cx_open());
    }

    fn bytes(&self, read: usize, written: usize) {
        let (read, written) = (read as u64, written as u64);
        self.slot.iter().for_each(|s| s.tcp_bytes(read, written));
        self.cluster.iter().for_each(|c| c.cx_bytes(read, written));
        self.http.iter().for_each(|h| h.cx_bytes(read, written));
    }

    fn close(&self, failed: bool) {
        self.slot.iter().for_each(|s| s.tcp_close(failed));
        self.cluster.iter().for_each(|c| c.cx_close());
        self.http.iter().for_each(|h| h.cx_close());
    }
}

/// A connection with its unused bytes.
#[derive(Debug)]
pub struct Wire {
    io: Io,
    /// There only while bytes are in it.
    bytes: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    /// The other side sends nothing more.
    ended: bool,
    failed: bool,
    buffers: Rc<Buffers>,
    counts: Counts,
    /// Requests that it carried.
    pub served: u32,
}

impl Wire {
    /// Counts the connection as open until dropped. `first` are bytes that were read from it before.
    pub fn new(io: Io, first: &[u8], buffers: &Rc<Buffers>, counts: Counts) -> Self {
        counts.open();
        if !first.is_empty() {
            counts.bytes(first.len(), 0);
        }
        let mut wire = Self {
            io,
            bytes: None,
            start: 0,
            end: 0,
            ended: false,
            failed: false,
            buffers: Rc::clone(buffers),
            counts,
            served: 0,
        };
        wire.put_back(first);
        wire
    }

    /// Puts bytes in front of those that are still unused. They must have been taken from here before, so that there is room.
    fn put_back(&mut self, first: &[u8]) {
        if first.is_empty() {
            return;
        }
        let mut bytes = self.buffers.take();
        let length = first.len().min(BUFFER_BYTES);
        bytes[..length].copy_from_slice(&first[..length]);
        (self.start, self.end, self.bytes) = (0, length, Some(bytes));
    }

    /// The bytes that were read and not used.
    pub fn unread(&self) -> &[u8] {
        self.bytes.as_ref().map_or(&[], |bytes| &bytes[self.start..self.end])
    }

    /// Marks the first `n` unread bytes as used.
    pub fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if let Some(bytes) = self.bytes.take() {
                self.buffers.put(bytes);
            }
        }
    }

    /// Whether nothing more can be read before some is used.
    pub fn is_full(&self) -> bool {
        self.end - self.start == BUFFER_BYTES
    }

    /// Reads more behind the unread bytes. Ready with 0: the other side sends nothing more. Must not be called when full.
    pub fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let mut bytes = match self.bytes.take() {
            Some(bytes) if bytes.len() == BUFFER_BYTES => bytes,
            few => {
                let mut bytes = self.buffers.take();
                let few = few.as_deref().map_or(&[][..], |few| &few[self.start..self.end]);
                bytes[..few.len()].copy_from_slice(few);
                (self.start, self.end) = (0, few.len());
                bytes
            }
        };
        if self.start > 0 && bytes.len() - self.end < ROOM_MIN {
            bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut room = ReadBuf::new(&mut bytes[self.end..]);
        let result = Pin::new(&mut self.io).poll_read(cx, &mut room);
        let read = room.filled().len();
        self.end += read;
        if self.start == self.end {
            self.buffers.put(bytes);
        } else {
            self.bytes = Some(bytes);
        }
        match ready!(result) {
            Ok(()) => {
                self.ended = read == 0;
                if read > 0 {
                    self.counts.bytes(read, 0);
                }
                Poll::Ready(Ok(read))
            }
            Err(error) => {
                self.failed = true;
                Poll::Ready(Err(error))
            }
        }
    }

    /// Nothing more comes for now: a few bytes are kept in a piece of memory of their size, and not in a whole buffer.
    pub fn rest(&mut self) {
        if let Some(bytes) = self.bytes.take_if(|bytes| bytes.len() == BUFFER_BYTES) {
            let few = &bytes[self.start..self.end];
            if few.len() > FEW_BYTES {
                self.bytes = Some(bytes);
                return;
            }
            self.bytes = Some(few.into());
            (self.start, self.end) = (0, few.len());
            self.buffers.put(bytes);
        }
    }

    /// Writes from several slices; ready with the number of bytes, at least 1 unless all are empty.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = match slices {
            [] => return Poll::Ready(Ok(0)),
            [one] => ready!(Pin::new(&mut self.io).poll_write(cx, one)),
            several => ready!(Pin::new(&mut self.io).poll_write_vectored(cx, several)),
        };
        match written {
            Ok(0) if slices.iter().any(|s| !s.is_empty()) => {
                self.failed = true;
                Poll::Ready(Err(io::ErrorKind::WriteZero.into()))
            }
            Ok(n) => {
                self.counts.bytes(0, n);
                Poll::Ready(Ok(n))
            }
            Err(error) => {
                self.failed = true;
                Poll::Ready(Err(error))
            }
        }
    }

    /// Brings what was written on its way; only encryption holds anything back.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(_) => Poll::Ready(Ok(())),
            io => Pin::new(io).poll_flush(cx),
        }
    }

    /// Says that nothing more will be written.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            // Tokio's own shutdown asks the system the same, without telling of a connection that is gone already.
            Io::Tcp(stream) => Poll::Ready(SockRef::from(&*stream).shutdown(Shutdown::Write)),
            io => Pin::new(io).poll_shutdown(cx),
        }
    }

    /// Whether an idle connection may carry another message: it is open, and nothing came that nobody asked for.
    pub fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        self.unread().is_empty() && self.poll_more(cx).is_pending()
    }

    /// Closing sends a reset instead of a regular end.
    pub fn reset_on_close(&mut self) {
        self.failed = true;
        crate::socket::reset_on_close(self.io.tcp());
    }

    /// Notes that the connection did not end well, for the count of closed ones.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// Takes the socket out, with the bytes that were read and not used. Counting goes on in `Counted`.
    pub fn into_counted(mut self) -> Counted {
        let first = Bytes::copy_from_slice(self.unread());
        self.consume(usize::MAX);
        Counted { wire: self, first }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take() {
            self.buffers.put(bytes);
        }
        self.counts.close(self.failed);
    }
}

/// A connection for those who read and write by tokio's traits.
#[derive(Debug)]
pub struct Counted {
    wire: Wire,
    first: Bytes,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let n = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(n));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.wire.io).poll_read(cx, buf));
        let read = buf.filled().len() - before;
        if read > 0 {
            self.wire.counts.bytes(read, 0);
        }
        self.wire.failed |= result.is_err();
        Poll::Ready(result)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.wire.poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wire.poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_shutdown(cx)
    }
}
