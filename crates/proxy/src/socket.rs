//! Sockets with what a mesh needs of them: marks, original destinations, resets; and an I/O object that counts.
//!
//! Knows nothing of configuration.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use weir_series::canonical::Target;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// A peer that vanished without a word is noticed after about two minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Opens a listening socket that several workers (and a successor of this process) may share.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects, with a mark and a limit.
pub async fn connect(address: SocketAddr, mark: Option<u32>, limit: Duration) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    let stream = tokio::time::timeout(limit, socket.connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connect timeout"))??;
    tune(&stream);
    Ok(stream)
}

/// Small writes at once, vanished peers noticed. Failure of either changes nothing that matters.
pub fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE));
}

/// Where the client wanted to connect before the firewall redirected it. Without redirection that is the local address.
pub fn original_dst(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    let socket = SockRef::from(stream);
    let original = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    Ok(original.ok().and_then(|address| address.as_socket()).unwrap_or(local))
}

/// Closing this stream sends a reset instead of a regular end.
pub fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// A TCP stream whose bytes are counted, and whose first bytes may have been read already.
#[derive(Debug)]
pub struct Counted {
    stream: TcpStream,
    first: Bytes,
    target: Option<Arc<Target>>,
    failed: bool,
}

impl Counted {
    /// Counts the connection as open until dropped. `first` are bytes that were read from it before.
    pub fn new(stream: TcpStream, first: Bytes, target: Option<Arc<Target>>) -> Self {
        if let Some(target) = &target {
            target.tcp_open();
            target.tcp_bytes(first.len() as u64, 0);
        }
        Self {
            stream,
            first,
            target,
            failed: false,
        }
    }

    fn note<T>(&mut self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.failed |= matches!(result, Poll::Ready(Err(_)));
        result
    }

    fn wrote(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Poll::Ready(Ok(n)), Some(target)) = (&result, &self.target) {
            target.tcp_bytes(0, *n as u64);
        }
        self.note(result)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(target) = &self.target {
            target.tcp_close(self.failed);
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let n = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..n]);
            self.first.advance(n);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if let Some(target) = self.target.as_ref().filter(|_| read > 0) {
            target.tcp_bytes(read as u64, 0);
        }
        self.note(result)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
