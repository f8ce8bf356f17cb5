//! `GET /containerLogs/{namespace}/{pod}/{container}`.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use super::super::Node;
use super::super::logs::{Growth, Reader, Selection};
use super::super::state::PodRuntime;
use super::{Body, Query, status};

/// A follower looks again at least this often, so that a closed connection is noticed.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

pub(super) async fn respond(node: &Node, runtime: &PodRuntime, container: &str, query: &Query) -> Response<Body> {
    match try_respond(node, runtime, container, query).await {
        Ok(response) => response,
        Err(message) => status(StatusCode::BAD_REQUEST, "BadRequest", &message),
    }
}

async fn try_respond(
    node: &Node,
    runtime: &PodRuntime,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, String> {
    let (pod, namespace) = (&runtime.name, &runtime.namespace);
    let known = runtime.container(container).is_some();
    if !known {
        return Err(format!("container {container} is not valid for pod {pod}"));
    }
    let Some(started) = runtime.started(container) else {
        return Err(format!(
            "container \"{container}\" in pod \"{pod}\" is waiting to start"
        ));
    };
    let selection = selection(query)?;
    let previous = query.flag("previous");
    let attempt = if previous { started.attempt - 1 } else { started.attempt };
    let path = node.paths.log(namespace, pod, &runtime.uid, container, attempt);
    if previous && !path.exists() {
        return Err(format!(
            "previous terminated container \"{container}\" in pod \"{pod}\" not found"
        ));
    }
    let growth = started.log.subscribe();
    let mut reader = Reader::new(path, selection);
    let existing = reader.read_existing().await.map_err(|error| error.to_string())?;
    if previous || !query.flag("follow") {
        return Ok(Response::new(full_bytes(existing)));
    }
    let follow = Follow {
        reader,
        growth,
        first: Some(existing),
        seen: None,
    };
    let frames = stream::unfold(follow, |mut follow| async move {
        let bytes = follow.next().await?;
        Some((Ok(Frame::data(bytes)), follow))
    });
    Ok(Response::new(BodyExt::boxed(StreamBody::new(SyncStream::new(frames)))))
}

fn full_bytes(bytes: Vec<u8>) -> Body {
    http_body_util::Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed()
}

fn selection(query: &Query) -> Result<Selection, String> {
    let since_seconds = query.number("sinceSeconds")?;
    let since_time = query
        .one("sinceTime")
        .map(|time| time.parse::<Timestamp>().map_err(|error| format!("sinceTime: {error}")));
    let since = match since_seconds {
        Some(seconds) => {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok()
        }
        None => since_time.transpose()?,
    };
    let tail_lines = query.number("tailLines")?.and_then(|lines| usize::try_from(lines).ok());
    Ok(Selection {
        tail_lines,
        since,
        timestamps: query.flag("timestamps"),
        limit_bytes: query.number("limitBytes")?,
    })
}

struct Follow {
    reader: Reader,
    growth: tokio::sync::watch::Receiver<Growth>,
    first: Option<Vec<u8>>,
    seen: Option<Growth>,
}

impl Follow {
    /// The next piece; none at the end of the log.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Some(Bytes::from(first));
        }
        loop {
            if self.reader.exhausted() {
                return None;
            }
            let now = *self.growth.borrow_and_update();
            let more = self.reader.read_more().await.ok()?;
            if !more.is_empty() {
                return Some(Bytes::from(more));
            }
            if now.done && self.seen == Some(now) {
                return None;
            }
            let waiting = !now.done;
            self.seen = Some(now);
            if waiting && matches!(timeout(LOOK_INTERVAL, self.growth.changed()).await, Ok(Err(_))) {
                return None;
            }
        }
    }
}

/// A boxed body must be `Sync`; a stream that is only ever polled by its owner is made so by a mutex that never waits.
struct SyncStream<S>(std::sync::Mutex<std::pin::Pin<Box<S>>>);

impl<S> SyncStream<S> {
    fn new(stream: S) -> Self {
        Self(std::sync::Mutex::new(Box::pin(stream)))
    }
}

impl<S: futures::Stream> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let inner = self
            .get_mut()
            .0
            .get_mut()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        inner.as_mut().poll_next(context)
    }
}
