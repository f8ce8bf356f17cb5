//! Batches go in, requests go out until each is answered for good.

use super::{
    Shared,
    queue::{Item, Point, Queue},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use rapidhash::RapidHashMap;
use std::{
    sync::{PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;
use weir_series::{
    Labels, Metadata, SeriesData,
    remote_write::{self, Version, WriteRequest},
};

/// Time that samples have after shutdown was ordered, those of a request under way among them.
const FLUSH: Duration = Duration::from_secs(5);
/// The longest time that a receiver may ask us to wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Works off one queue.
pub(super) async fn shard(shared: &Shared, queue: &Queue, shutdown: &CancellationToken) {
    let config = &shared.config;
    let sending = async {
        loop {
            let batch = tokio::select! {
                batch = queue.batch(config.max_samples_per_send, config.batch_deadline) => batch,
                () = shutdown.cancelled() => break,
            };
            if !batch.is_empty() {
                deliver(shared, batch, shutdown).await;
            }
        }
        loop {
            let batch = queue.take(config.max_samples_per_send);
            if batch.is_empty() {
                return;
            }
            deliver(shared, batch, shutdown).await;
        }
    };
    let over = async {
        shutdown.cancelled().await;
        tokio::time::sleep(FLUSH).await;
    };
    tokio::select! {
        () = sending => {}
        () = over => tracing::warn!(url = config.url, "not all samples could be sent before the end"),
    }
}

async fn deliver(shared: &Shared, batch: Vec<Item>, shutdown: &CancellationToken) {
    let newest = batch.iter().map(Item::ts_ms).max().unwrap_or(0);
    let request = request(shared, batch);
    let samples = request.series.iter().map(|s| s.samples.len()).sum::<usize>() as u64;
    let histograms = request.series.iter().map(|s| s.histograms.len()).sum::<usize>() as u64;
    let counts = &shared.counts;
    match post(shared, &request, samples + histograms, shutdown).await {
        Ok(()) => {
            counts.samples.fetch_add(samples, Relaxed);
            counts.histograms.fetch_add(histograms, Relaxed);
            counts.sent_ms.fetch_max(newest, Relaxed);
        }
        Err(why) => {
            counts.failed.fetch_add(samples + histograms, Relaxed);
            let url = &shared.config.url;
            tracing::warn!(url, samples = samples + histograms, why, "samples were not taken");
        }
    }
}

/// Samples by series, in the order of their time.
fn request(shared: &Shared, batch: Vec<Item>) -> WriteRequest {
    let mut request = WriteRequest::default();
    let mut places: RapidHashMap<Labels, usize> = RapidHashMap::default();
    for item in batch {
        let at = *places.entry(item.labels).or_insert_with_key(|labels| {
            request.series.push(SeriesData {
                labels: labels.clone(),
                ..SeriesData::default()
            });
            request.series.len() - 1
        });
        match item.point {
            Point::Float(sample) => request.series[at].samples.push(sample),
            Point::Histogram(sample) => request.series[at].histograms.push(sample),
        }
    }
    if shared.config.version == Version::V2 {
        let known = shared.metadata.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told: RapidHashMap<&str, &Metadata> = RapidHashMap::default();
        for series in &request.series {
            for family in remote_write::families_of(series.labels.metric_name()) {
                if let Some((family, metadata)) = known.get_key_value(family) {
                    told.insert(family, metadata);
                }
            }
        }
        request.metadata = told.into_iter().map(|(f, m)| (f.to_owned(), m.clone())).collect();
    }
    request
}

/// Until it is taken, or refused for good: then the error says why.
async fn post(
    shared: &Shared,
    request: &WriteRequest,
    samples: u64,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let config = &shared.config;
    let body = Bytes::from(remote_write::encode(config.version, request));
    let headers = [
        ("content-type", config.version.content_type()),
        ("content-encoding", "snappy"),
        ("x-prometheus-remote-write-version", config.version.header()),
    ];
    let mut backoff = config.min_backoff;
    loop {
        let answer = shared
            .client
            .post(&config.url, &headers, body.clone(), config.timeout)
            .await;
        let (why, asked) = match answer {
            Ok(answer) if answer.status.is_success() => {
                shared.counts.bytes.fetch_add(body.len() as u64, Relaxed);
                return Ok(());
            }
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.body);
                let why = format!("{}: {:.300}", answer.status, text.trim());
                if !(answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS) {
                    return Err(why);
                }
                (why, retry_after(&answer.headers))
            }
            Err(error) => (error.to_string(), None),
        };
        if shutdown.is_cancelled() {
            return Err(why);
        }
        shared.counts.retried.fetch_add(samples, Relaxed);
        tracing::debug!(url = config.url, why, "samples are sent again");
        tokio::select! {
            // Who asks for no pause at all gets one nevertheless.
            () = tokio::time::sleep(asked.unwrap_or_default().max(jittered(backoff))) => {}
            () = shutdown.cancelled() => {}
        }
        backoff = (backoff * 2).min(config.max_backoff);
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Between half and all of it, so that senders do not come all at once.
fn jittered(backoff: Duration) -> Duration {
    let nanos = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().subsec_nanos();
    let share = f64::from(nanos % 1000) / 1000.0;
    backoff.mul_f64(0.5 + share / 2.0)
}

/// Version 1 tells what families are beside the samples, now and then.
pub(super) async fn metadata(shared: &Shared, shutdown: &CancellationToken) {
    let Some(interval) = shared
        .config
        .metadata_interval
        .filter(|_| shared.config.version == Version::V1)
    else {
        return;
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shutdown.cancelled() => return,
        }
        let all: Vec<(String, Metadata)> = {
            let known = shared.metadata.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().map(|(f, m)| (f.clone(), m.clone())).collect()
        };
        for families in all.chunks(shared.config.metadata_per_send.max(1)) {
            let request = WriteRequest {
                metadata: families.to_vec(),
                ..WriteRequest::default()
            };
            let posted = tokio::select! {
                posted = post(shared, &request, 0, shutdown) => posted,
                // What families are is told again after the next start.
                () = shutdown.cancelled() => return,
            };
            if posted.is_ok() {
                shared.counts.metadata.fetch_add(families.len() as u64, Relaxed);
            }
        }
    }
}
