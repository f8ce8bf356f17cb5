//! Spans on their way to collectors.
//!
//! Enters: ended spans, from any thread, without ever waiting. Leaves: batches, each in one POST over a kept connection.
//! The queue is bounded; what it cannot hold, and what a collector does not take, is dropped and counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::span::{Span, Teller};
use super::{otlp, zipkin};
use crate::config::Cluster;
use crate::config::trace::{Backend, Format};
use crate::shared::Shared;
use crate::socket;

/// Spans that wait to be sent.
const QUEUE_SPANS: usize = 4096;
/// Spans in one request.
const BATCH_SPANS: usize = 256;
/// Spans that end within this time are sent together.
const GATHER: Duration = Duration::from_millis(500);
/// An answer's content is read so far.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The spans of a proxy.
#[derive(Debug)]
pub struct Traces {
    queue: mpsc::Sender<Span>,
    waiting: Mutex<Option<mpsc::Receiver<Span>>>,
    /// Spans that a collector took.
    pub sent: AtomicU64,
    /// Spans that were lost: the queue was full, or the collector did not take them.
    pub dropped: AtomicU64,
}

impl Default for Traces {
    fn default() -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_SPANS);
        Self {
            queue,
            waiting: Mutex::new(Some(waiting)),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }
}

impl Traces {
    /// Takes an ended span, where there is room.
    pub fn offer(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Sends spans until `stopped`, and then what still waits.
pub async fn run(shared: Arc<Shared>, teller: Teller, stopped: CancellationToken) {
    let waiting = shared
        .traces
        .waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let Some(mut waiting) = waiting else { return };
    let mut exporter = Exporter {
        shared: Arc::clone(&shared),
        teller,
        links: HashMap::new(),
        turn: 0,
        failing: false,
    };
    loop {
        let mut batch = Vec::new();
        let gather = async {
            waiting.recv_many(&mut batch, BATCH_SPANS).await;
            let end = tokio::time::Instant::now() + GATHER;
            while batch.len() < BATCH_SPANS {
                let room = BATCH_SPANS - batch.len();
                if tokio::time::timeout_at(end, waiting.recv_many(&mut batch, room))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        };
        let ending = tokio::select! {
            () = gather => false,
            () = stopped.cancelled() => true,
        };
        if ending {
            while let Ok(span) = waiting.try_recv() {
                batch.push(span);
            }
        }
        exporter.send(batch).await;
        if ending {
            return;
        }
    }
}

struct Exporter {
    shared: Arc<Shared>,
    teller: Teller,
    /// Kept connections, by name of the cluster.
    links: HashMap<Arc<str>, SendRequest<Full<Bytes>>>,
    /// Which endpoint comes next.
    turn: usize,
    /// The last request failed; said once.
    failing: bool,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cluster {0:?} is not there, or has no endpoint")]
    NoEndpoint(Arc<str>),
    #[error("no connection to {0}: {1}")]
    Connect(std::net::SocketAddr, std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] http::Error),
    #[error("it answered {0}")]
    Status(http::StatusCode),
    #[error("no answer within {0:?}")]
    Late(Duration),
}

impl Exporter {
    async fn send(&mut self, batch: Vec<Span>) {
        let mut groups: Vec<(Arc<Backend>, Vec<Span>)> = Vec::new();
        for span in batch {
            match groups.iter_mut().find(|(backend, _)| *backend == span.backend) {
                Some((_, spans)) => spans.push(span),
                None => groups.push((Arc::clone(&span.backend), vec![span])),
            }
        }
        for (backend, spans) in groups {
            for spans in spans.chunks(BATCH_SPANS) {
                let outcome = match tokio::time::timeout(backend.timeout, self.post(&backend, spans)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(Failure::Late(backend.timeout)),
                };
                let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
                match outcome {
                    Ok(()) => {
                        self.shared.traces.sent.fetch_add(count, Relaxed);
                        self.failing = false;
                    }
                    Err(error) => {
                        self.links.remove(&backend.cluster);
                        self.shared.traces.dropped.fetch_add(count, Relaxed);
                        if !std::mem::replace(&mut self.failing, true) {
                            tracing::warn!(cluster = %backend.cluster, %error, "spans are lost: the collector does not take them");
                        }
                    }
                }
            }
        }
    }

    async fn post(&mut self, backend: &Backend, spans: &[Span]) -> Result<(), Failure> {
        let service = backend.service.as_deref().unwrap_or(&self.teller.service);
        let node = &self.teller.node;
        let (body, content_type) = match backend.format {
            Format::Zipkin => (zipkin::encode(spans, service, node), zipkin::CONTENT_TYPE),
            Format::Otlp => (otlp::encode(spans, service, node), otlp::CONTENT_TYPE),
        };
        let body = Bytes::from(body);
        let request = || {
            Request::post(&*backend.path)
                .header(header::HOST, &*backend.host)
                .header(header::CONTENT_TYPE, content_type)
                .body(Full::new(body.clone()))
        };
        // A kept connection may have been closed meanwhile; then nothing was taken, and a new one is made.
        if let Some(mut link) = self.links.remove(&backend.cluster)
            && link.ready().await.is_ok()
            && let Ok(answer) = link.send_request(request()?).await
        {
            return self.judge(backend, link, answer).await;
        }
        let mut link = self.connect(backend).await?;
        let answer = link.send_request(request()?).await?;
        self.judge(backend, link, answer).await
    }

    /// Reads an answer, and keeps the connection.
    async fn judge(
        &mut self,
        backend: &Backend,
        link: SendRequest<Full<Bytes>>,
        answer: http::Response<hyper::body::Incoming>,
    ) -> Result<(), Failure> {
        let status = answer.status();
        let read = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        if read.is_ok() {
            self.links.insert(Arc::clone(&backend.cluster), link);
        }
        match status.is_success() {
            true => Ok(()),
            false => Err(Failure::Status(status)),
        }
    }

    async fn connect(&mut self, backend: &Backend) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let none = || Failure::NoEndpoint(Arc::clone(&backend.cluster));
        let active = self.shared.active.load_full();
        let cluster = active.clusters.get(&backend.cluster).ok_or_else(none)?;
        let count = cluster.endpoints.len();
        let mut failure = none();
        for _ in 0..count {
            self.turn = self.turn.wrapping_add(1);
            let address = cluster.endpoints[self.turn % count].address;
            match open(cluster, address).await {
                Ok(link) => return Ok(link),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

async fn open(cluster: &Cluster, address: std::net::SocketAddr) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let refused = |error| Failure::Connect(address, error);
    let spec = &cluster.spec;
    let stream = socket::connect(address, spec.mark, spec.connect_timeout)
        .await
        .map_err(refused)?;
    match &spec.tls {
        None => shake(stream).await,
        Some(tls) => {
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls.config));
            shake(
                connector
                    .connect(tls.server_name.clone(), stream)
                    .await
                    .map_err(refused)?,
            )
            .await
        }
    }
}

async fn shake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (link, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a collector");
        }
    });
    Ok(link)
}
