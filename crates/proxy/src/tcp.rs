//! TCP: a connection is joined to one endpoint, byte by byte, each half for itself.
//!
//! Enters: a connection for which a TCP chain was chosen, with the bytes read of it so far. Leaves: counted bytes. Idle
//! connections hold no buffers: a worker has one that all its connections read through.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;
use weir_series::canonical::{Direction, Target};

use crate::config::{Active, Cluster, ClusterStats, Endpoint, EndpointSource, Tcp};
use crate::flow::Flow;
use crate::socket;
use crate::worker::Worker;

/// Serves a connection until both halves are closed.
pub async fn serve(flow: Rc<Flow>, downstream: TcpStream, first: Bytes, tcp: Arc<Tcp>, active: Arc<Active>) {
    let cluster = active.clusters.get(&tcp.cluster).cloned();
    let connected = match &cluster {
        Some(cluster) => connect(&flow, &active, cluster, tcp.connect_attempts).await,
        None => None,
    };
    drop(active);
    let Some((endpoint, upstream)) = connected else {
        // Nowhere to go: the client learns it at once.
        let target = target(
            &flow,
            &Endpoint {
                address: flow.destination,
                weight: 1,
                peer: Arc::default(),
            },
        );
        if let Some(target) = target {
            target.tcp_open();
            target.tcp_close(true);
        }
        socket::reset_on_close(&downstream);
        return;
    };
    let target = target(&flow, &endpoint);
    let tally = Tally {
        target: target.as_deref(),
        direction: flow.direction,
    };
    if let Some(target) = tally.target {
        target.tcp_open();
    }
    let closing = flow.worker.shared.life.closing.clone();
    let end = tokio::select! {
        end = relay(&flow.worker, &downstream, &upstream, first, &tally) => end,
        () = closing.cancelled() => Ok(()),
    };
    if end.is_err() {
        socket::reset_on_close(&downstream);
        socket::reset_on_close(&upstream);
    }
    if let Some(target) = tally.target {
        target.tcp_close(end.is_err());
    }
}

fn target(flow: &Flow, endpoint: &Endpoint) -> Option<Arc<Target>> {
    match flow.direction {
        Direction::Inbound => flow.downstream_target(),
        Direction::Outbound => flow.upstream_target(&endpoint.peer),
    }
}

/// Connects to an endpoint; to another one when that fails.
async fn connect(flow: &Flow, active: &Active, cluster: &Cluster, attempts: u32) -> Option<(Endpoint, TcpStream)> {
    let mut failed: Vec<SocketAddr> = Vec::new();
    for _ in 0..attempts {
        let endpoint = match cluster.spec.source {
            EndpointSource::OriginalDst => flow.original_endpoint(active)?,
            _ => flow.worker.choose(cluster, &failed)?,
        };
        if failed.contains(&endpoint.address) {
            return None;
        }
        ClusterStats::add(&cluster.stats.cx_total);
        match socket::connect(endpoint.address, cluster.spec.mark, cluster.spec.connect_timeout).await {
            Ok(stream) => return Some((endpoint, stream)),
            Err(error) => {
                ClusterStats::add(&cluster.stats.cx_connect_fail);
                tracing::debug!(address = %endpoint.address, %error, "no connection");
                failed.push(endpoint.address);
            }
        }
    }
    None
}

/// Where bytes are counted, as read from and written to the other side.
struct Tally<'a> {
    target: Option<&'a Target>,
    direction: Direction,
}

impl Tally<'_> {
    fn up(&self, bytes: usize) {
        self.count(bytes, Direction::Inbound);
    }

    fn down(&self, bytes: usize) {
        self.count(bytes, Direction::Outbound);
    }

    /// `reading`: the direction in which these bytes count as read from the other side.
    fn count(&self, bytes: usize, reading: Direction) {
        let Some(target) = self.target else { return };
        if self.direction == reading {
            target.tcp_bytes(bytes as u64, 0);
        } else {
            target.tcp_bytes(0, bytes as u64);
        }
    }
}

async fn relay(
    worker: &Worker,
    downstream: &TcpStream,
    upstream: &TcpStream,
    first: Bytes,
    tally: &Tally<'_>,
) -> io::Result<()> {
    let up = async {
        if !first.is_empty() {
            write_all(upstream, &first).await?;
            tally.up(first.len());
        }
        copy(worker, downstream, upstream, |n| tally.up(n)).await
    };
    let down = copy(worker, upstream, downstream, |n| tally.down(n));
    tokio::try_join!(up, down).map(|_| ())
}

/// Copies one half until its end, then ends the other side's half.
async fn copy(worker: &Worker, from: &TcpStream, to: &TcpStream, count: impl Fn(usize)) -> io::Result<()> {
    loop {
        from.readable().await?;
        match transfer(worker, from, to) {
            Ok(Transfer::End) => return SockRef::from(to).shutdown(Shutdown::Write),
            Ok(Transfer::Done(n)) => count(n),
            Ok(Transfer::Rest(n, rest)) => {
                write_all(to, &rest).await?;
                count(n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

enum Transfer {
    End,
    Done(usize),
    /// So many were read; these could not be written yet.
    Rest(usize, Vec<u8>),
}

/// One read and one write through the worker's buffer, which is free again afterwards.
fn transfer(worker: &Worker, from: &TcpStream, to: &TcpStream) -> io::Result<Transfer> {
    let mut buffer = worker.buffer.borrow_mut();
    let n = from.try_read(&mut buffer)?;
    if n == 0 {
        return Ok(Transfer::End);
    }
    let written = match to.try_write(&buffer[..n]) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    if written == n {
        return Ok(Transfer::Done(n));
    }
    Ok(Transfer::Rest(n, buffer[written..n].to_vec()))
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
