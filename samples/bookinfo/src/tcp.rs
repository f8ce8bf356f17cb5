//! `tcp-echo` and `tcp-client`: long-lived streams whose every byte is verified, to see that none is lost or cut.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::duration;
use crate::shutdown::Shutdown;

const STREAMS_MAX: usize = 4096;
const BUFFER_BYTES: usize = 16 << 10;
const MESSAGE_BYTES_MAX: usize = 1 << 20;

#[derive(Args)]
pub struct EchoOptions {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0:9000")]
    listen: SocketAddr,
    /// After SIGTERM: how long streams may still run. New ones are taken until then too.
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    drain: Duration,
}

pub async fn echo(options: EchoOptions) -> anyhow::Result<()> {
    let mut shutdown = Shutdown::install()?;
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("listening on {}", options.listen))?;
    say!("listening on {}", listener.local_addr()?);
    let slots = Arc::new(Semaphore::new(STREAMS_MAX));
    let serve = async {
        tokio::select! {
            () = accept(&listener, &slots) => {}
            () = shutdown.recv() => {}
        }
        say!(
            "asked to stop: {} streams open",
            STREAMS_MAX - slots.available_permits()
        );
        let finished = async { drop(slots.acquire_many(STREAMS_MAX as u32).await) };
        tokio::select! {
            () = finished => {}
            () = accept(&listener, &slots) => {}
            () = tokio::time::sleep(options.drain) => {}
        }
        say!("stopped: {} streams cut", STREAMS_MAX - slots.available_permits());
    };
    LocalSet::new().run_until(serve).await;
    Ok(())
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) {
    loop {
        let Ok(permit) = slots.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(async move {
                    // How a stream ends is its client's business.
                    let _ = send_back(stream).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn send_back(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            n => stream.write_all(&buffer[..n]).await?,
        }
    }
}

#[derive(Args)]
pub struct ClientOptions {
    /// Where the `tcp-echo` is, as host:port.
    #[arg(long)]
    target: String,
    /// Streams held open at the same time.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Time between two messages on a stream.
    #[arg(long, default_value = "100ms", value_parser = duration::parse)]
    interval: Duration,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// How long to go on; without it until SIGTERM.
    #[arg(long, value_parser = duration::parse)]
    duration: Option<Duration>,
    /// How long an echo may take.
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    timeout: Duration,
    /// Open a new stream when one is closed by the other side.
    #[arg(long)]
    reconnect: bool,
    /// Time between two report lines; 0 for none.
    #[arg(long, default_value = "1s", value_parser = duration::parse)]
    report: Duration,
}

#[derive(Default)]
struct Counts {
    opened: Cell<u64>,
    open: Cell<u64>,
    /// Ended by the other side, in order, between two messages.
    closed_by_peer: Cell<u64>,
    /// Reset, cut within a message, or too slow.
    broken: Cell<u64>,
    connect_failed: Cell<u64>,
    mismatched: Cell<u64>,
    bytes_sent: Cell<u64>,
    bytes_verified: Cell<u64>,
    last_error: RefCell<String>,
}

fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get() + n);
}

impl Counts {
    fn describe(&self, elapsed: Duration) -> Value {
        json!({
            "seconds": (elapsed.as_secs_f64() * 1e3).round() / 1e3,
            "opened": self.opened.get(),
            "open": self.open.get(),
            "closed_by_peer": self.closed_by_peer.get(),
            "broken": self.broken.get(),
            "connect_failed": self.connect_failed.get(),
            "mismatched": self.mismatched.get(),
            "bytes_sent": self.bytes_sent.get(),
            "bytes_verified": self.bytes_verified.get(),
            "last_error": *self.last_error.borrow(),
        })
    }
}

pub async fn client(options: ClientOptions) -> anyhow::Result<()> {
    anyhow::ensure!(
        (1..=STREAMS_MAX).contains(&options.connections),
        "--connections must be from 1 to {STREAMS_MAX}"
    );
    anyhow::ensure!(
        (1..=MESSAGE_BYTES_MAX).contains(&options.size),
        "--size must be from 1 to {MESSAGE_BYTES_MAX}"
    );
    let mut shutdown = Shutdown::install()?;
    let start = Instant::now();
    let options = Rc::new(options);
    let counts = Rc::new(Counts::default());
    let drive = async {
        let (stop, stopping) = watch::channel(false);
        let mut streams = JoinSet::new();
        for number in 0..options.connections {
            let (options, counts) = (options.clone(), counts.clone());
            streams.spawn_local(keep_stream(options, counts, number as u64, stopping.clone()));
        }
        let over = async {
            match options.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = async { while streams.join_next().await.is_some() {} } => {}
            () = over => {}
            () = shutdown.recv() => {}
            () = report(&options, &counts, start) => {}
        }
        let _ = stop.send(true);
        while streams.join_next().await.is_some() {}
    };
    LocalSet::new().run_until(drive).await;
    let mut summary = counts.describe(start.elapsed());
    summary["summary"] = true.into();
    say!("{summary}");
    Ok(())
}

async fn report(options: &ClientOptions, counts: &Counts, start: Instant) {
    if options.report.is_zero() {
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval(options.report);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        say!("{}", counts.describe(start.elapsed()));
    }
}

async fn keep_stream(options: Rc<ClientOptions>, counts: Rc<Counts>, number: u64, mut stopping: watch::Receiver<bool>) {
    loop {
        let connect = tokio::time::timeout(options.timeout, TcpStream::connect(&options.target));
        match connect.await {
            Ok(Ok(stream)) => {
                add(&counts.opened, 1);
                add(&counts.open, 1);
                let end = exchange(stream, &options, &counts, number, &mut stopping).await;
                counts.open.set(counts.open.get() - 1);
                match end {
                    Ok(End::Asked) => return,
                    Ok(End::Peer) => add(&counts.closed_by_peer, 1),
                    Err(error) => {
                        add(&counts.broken, 1);
                        *counts.last_error.borrow_mut() = error.to_string();
                    }
                }
            }
            Ok(Err(error)) => {
                add(&counts.connect_failed, 1);
                *counts.last_error.borrow_mut() = error.to_string();
            }
            Err(_) => add(&counts.connect_failed, 1),
        }
        if !options.reconnect || *stopping.borrow() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(options.interval) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

enum End {
    Asked,
    Peer,
}

/// Sends messages and verifies their echoes until asked to stop or the other side ends the stream between two.
async fn exchange(
    mut stream: TcpStream,
    options: &ClientOptions,
    counts: &Counts,
    number: u64,
    stopping: &mut watch::Receiver<bool>,
) -> std::io::Result<End> {
    stream.set_nodelay(true)?;
    let (mut sent, mut echoed) = (vec![0; options.size], vec![0; options.size]);
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    loop {
        sent.iter_mut().for_each(|byte| *byte = next_byte(&mut state));
        let message = async {
            stream.write_all(&sent).await?;
            add(&counts.bytes_sent, sent.len() as u64);
            stream.read_exact(&mut echoed).await
        };
        tokio::time::timeout(options.timeout, message).await??;
        if sent == echoed {
            add(&counts.bytes_verified, sent.len() as u64);
        } else {
            add(&counts.mismatched, 1);
        }
        let mut byte = [0];
        tokio::select! {
            () = tokio::time::sleep(options.interval) => {}
            _ = stopping.wait_for(|stop| *stop) => return Ok(End::Asked),
            read = stream.read(&mut byte) => match read? {
                0 => return Ok(End::Peer),
                _ => return Err(std::io::Error::other("bytes came that were never sent")),
            },
        }
    }
}

/// xorshift64: bytes that tell any shift, loss or mix-up of streams.
fn next_byte(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u8
}
