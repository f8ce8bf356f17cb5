//! The receiver of remote write: a body goes in, samples go into the store, and what was refused is told with counts.

use super::answer;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use std::{collections::BTreeMap, sync::Arc};
use weir_series::{
    Append, AppendError, Histogram, Sample, SeriesRef,
    remote_write::{self, Version, WriteRequest},
};

/// Bytes of a compressed body.
pub(super) const MAX_BODY_BYTES: usize = 16 << 20;
/// Bytes of a body when decompressed.
const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// Samples that are handed to the store at once.
const BATCH: usize = 10_000;
/// Headers of an answer that tell what was stored.
const WRITTEN_SAMPLES: &str = "x-prometheus-remote-write-samples-written";
const WRITTEN_HISTOGRAMS: &str = "x-prometheus-remote-write-histograms-written";
const WRITTEN_EXEMPLARS: &str = "x-prometheus-remote-write-exemplars-written";

/// What the receiver counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    pub samples: usize,
    pub histograms: usize,
    pub refused: usize,
}

fn refusal(status: StatusCode, why: String) -> Response<Full<Bytes>> {
    answer::text(status, "text/plain; charset=utf-8", why + "\n")
}

/// Which version the headers announce, or why the body is not taken.
pub(super) fn version(headers: &HeaderMap) -> Result<Version, Box<Response<Full<Bytes>>>> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
            .unwrap_or_default()
    };
    let unsupported = |why: String| Err(Box::new(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)));
    let content_type = text(header::CONTENT_TYPE);
    // The first version's senders may leave both headers out.
    let version = match content_type {
        "" => Some(Version::V1),
        given => Version::from_content_type(given),
    };
    let Some(version) = version else {
        return unsupported(format!(
            "the Content-Type {content_type:?} is not taken: send {:?} or {:?}",
            Version::V1.content_type(),
            Version::V2.content_type()
        ));
    };
    match text(header::CONTENT_ENCODING) {
        "" | "snappy" => Ok(version),
        other => unsupported(format!("the Content-Encoding {other:?} is not taken: send \"snappy\"")),
    }
}

/// Decodes and stores. Blocks.
pub(super) fn receive(version: Version, body: &[u8], store: &dyn Append) -> (Response<Full<Bytes>>, Received) {
    let request = match remote_write::decode(version, body, MAX_MESSAGE_BYTES) {
        Ok(request) => request,
        Err(error) => return (refusal(StatusCode::BAD_REQUEST, error.to_string()), Received::default()),
    };
    let all = request.sample_count();
    let (received, reasons) = append(request, store);
    let mut response = if reasons.is_empty() {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    } else {
        let reasons: Vec<String> = reasons.iter().map(|(why, count)| format!("{count} x {why}")).collect();
        let why = format!(
            "{} of {all} samples were refused: {}",
            received.refused,
            reasons.join("; ")
        );
        // No server error: the sender would send the same again.
        refusal(StatusCode::BAD_REQUEST, why)
    };
    if version == Version::V2 {
        for (name, count) in [
            (WRITTEN_SAMPLES, received.samples),
            (WRITTEN_HISTOGRAMS, received.histograms),
            (WRITTEN_EXEMPLARS, 0),
        ] {
            response.headers_mut().insert(name, HeaderValue::from(count));
        }
    }
    (response, received)
}

/// Samples and histograms on their way to the store.
#[derive(Default)]
struct Batch {
    samples: Vec<(SeriesRef, Sample)>,
    histograms: Vec<(SeriesRef, i64, Histogram)>,
}

fn append(request: WriteRequest, store: &dyn Append) -> (Received, BTreeMap<String, usize>) {
    let mut received = Received::default();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for (family, metadata) in &request.metadata {
        store.describe(family, metadata);
    }
    let mut batch = Batch::default();
    for series in request.series {
        match store.resolve(&series.labels) {
            Ok(id) => {
                batch.samples.extend(series.samples.iter().map(|s| (id, *s)));
                let histograms = series.histograms.into_iter();
                let histograms = histograms.map(|h| (id, h.ts_ms, Arc::unwrap_or_clone(h.value)));
                batch.histograms.extend(histograms);
            }
            Err(error) => {
                let count = series.samples.len() + series.histograms.len();
                refuse(&error, count, &mut received, &mut reasons);
            }
        }
        if batch.samples.len() + batch.histograms.len() >= BATCH {
            batch.store(store, &mut received, &mut reasons);
        }
    }
    batch.store(store, &mut received, &mut reasons);
    (received, reasons)
}

impl Batch {
    /// Stores what is gathered, and begins anew.
    fn store(&mut self, store: &dyn Append, received: &mut Received, reasons: &mut BTreeMap<String, usize>) {
        let mut refused = Vec::new();
        store.append(&self.samples, &mut refused);
        received.samples += self.samples.len().saturating_sub(refused.len());
        refused
            .drain(..)
            .for_each(|(_, error)| refuse(&error, 1, received, reasons));
        store.append_histograms(&self.histograms, &mut refused);
        received.histograms += self.histograms.len().saturating_sub(refused.len());
        refused
            .drain(..)
            .for_each(|(_, error)| refuse(&error, 1, received, reasons));
        self.samples.clear();
        self.histograms.clear();
    }
}

fn refuse(error: &AppendError, count: usize, received: &mut Received, reasons: &mut BTreeMap<String, usize>) {
    if count > 0 {
        *reasons.entry(error.to_string()).or_default() += count;
        received.refused += count;
    }
}
