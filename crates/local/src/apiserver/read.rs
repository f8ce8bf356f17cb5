//! get, list and watch. Enters: a resource and a query. Leaves: objects, tables or a stream of changes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::error::{ApiError, Result};
use super::http::{Body, Shape, json as reply_json, reply};
use super::object;
use super::paging::{self, Page};
use super::registry::Resource;
use super::request::{Query, Target};
use super::selector::Selector;
use super::store::{Change, Event, Object, Store};
use super::table;

const WATCH_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30 * 60);
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);
/// Watch streams are flushed in frames of about this size.
const FRAME_BYTES: usize = 64 << 10;

/// The object in the version of `resource`.
pub fn converted(resource: &Resource, object: &Object) -> Value {
    super::convert::from_storage(resource, object.value())
}

/// The object as JSON, in the version of `resource`.
fn encoded(resource: &Resource, object: &Object) -> Bytes {
    if resource.api_version() == resource.storage_api_version {
        return object.raw.clone();
    }
    serde_json::to_vec(&converted(resource, object))
        .unwrap_or_default()
        .into()
}

/// Only apiVersion, kind and metadata.
fn partial(value: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": value["metadata"]})
}

/// Answers with one object in the shape asked for.
pub fn reply_object(code: u16, resource: &Resource, value: &Value, headers: &HeaderMap) -> Response<Body> {
    match Shape::of(headers) {
        Shape::Object => reply_json(code, value),
        Shape::Metadata => reply_json(code, &partial(value)),
        Shape::Table => reply_json(code, &table::of(resource, &[value], "", true)),
    }
}

pub fn get(api: &Api, resource: &Resource, target: &Target, headers: &HeaderMap) -> Result<Response<Body>> {
    let found = api.find(resource, target)?;
    if Shape::of(headers) == Shape::Object {
        return Ok(reply(200, "application/json", encoded(resource, &found)));
    }
    Ok(reply_object(200, resource, &converted(resource, &found), headers))
}

/// The objects that a list request selects, and the list's version.
pub fn select(api: &Api, resource: &Resource, target: &Target, query: &Query) -> Result<(u64, Vec<Arc<Object>>)> {
    let selector = Selector::parse(resource, query.get("labelSelector"), query.get("fieldSelector"))?;
    let namespace = Some(target.namespace.as_str()).filter(|n| !n.is_empty());
    let (version, mut objects) = api.store.list(&resource.storage, namespace);
    if !selector.is_empty() {
        objects.retain(|o| selector.matches(o));
    }
    Ok((version, objects))
}

pub fn list(
    api: &Api,
    resource: &Resource,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let Page { objects, meta } = paging::page(api, resource, target, query)?;
    match Shape::of(headers) {
        Shape::Object => {
            let size: usize = objects.iter().map(|o| o.raw.len() + 1).sum();
            let mut out = BytesMut::with_capacity(size + 256);
            out.put_slice(
                format!(
                    r#"{{"kind":"{}","apiVersion":"{}","metadata":{meta},"items":["#,
                    resource.list_kind,
                    resource.api_version()
                )
                .as_bytes(),
            );
            for (i, object) in objects.iter().enumerate() {
                if i > 0 {
                    out.put_u8(b',');
                }
                out.put_slice(&encoded(resource, object));
            }
            out.put_slice(b"]}\n");
            Ok(reply(200, "application/json", out.freeze()))
        }
        Shape::Metadata => {
            let items: Vec<Value> = objects.iter().map(|o| partial(&converted(resource, o))).collect();
            Ok(reply_json(
                200,
                &json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": meta, "items": items}),
            ))
        }
        Shape::Table => {
            let values: Vec<Value> = objects.iter().map(|o| converted(resource, o)).collect();
            let values: Vec<&Value> = values.iter().collect();
            let mut table = table::of(resource, &values, query.get("includeObject"), true);
            table["metadata"] = meta;
            Ok(reply_json(200, &table))
        }
    }
}

/// A running watch: it reads the store's history from where it stands, so that it never queues more than one reading.
struct Watch {
    store: Arc<Store>,
    resource: Arc<Resource>,
    namespace: String,
    selector: Selector,
    shape: Shape,
    include: String,
    position: u64,
    pending: VecDeque<Bytes>,
    latest: watch::Receiver<u64>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    shutdown: CancellationToken,
    table_started: bool,
    ended: bool,
}

pub fn watch(
    api: &Api,
    resource: &Arc<Resource>,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let selector = Selector::parse(resource, query.get("labelSelector"), query.get("fieldSelector"))?;
    let asked = query.get("resourceVersion");
    let version = match asked {
        "" => 0,
        v => v.parse::<u64>().map_err(|_| {
            ApiError::bad_request(format!("Invalid value: {v:?}: the resourceVersion must be a number"))
        })?,
    };
    // From another life of this cluster: the client has to list again.
    let newest = api.store.version();
    if version > newest {
        return Err(ApiError::expired(format!(
            "Too large resource version: {version}, current: {newest}"
        )));
    }
    let initial = query.flag("sendInitialEvents");
    let timeout = match query.number("timeoutSeconds") {
        Some(s) if s > 0 => Duration::from_secs(s.unsigned_abs()),
        _ => WATCH_TIMEOUT_DEFAULT,
    };
    let now = Instant::now();
    let mut watch = Watch {
        store: api.store.clone(),
        resource: resource.clone(),
        namespace: target.namespace.clone(),
        selector,
        shape: Shape::of(headers),
        include: query.get("includeObject").to_owned(),
        position: version,
        pending: VecDeque::new(),
        latest: api.store.subscribe(),
        bookmarks: query.flag("allowWatchBookmarks"),
        next_bookmark: now + BOOKMARK_INTERVAL,
        deadline: now + timeout,
        shutdown: api.shutdown.clone(),
        table_started: false,
        ended: false,
    };
    if version == 0 || initial {
        watch.begin_with_all(query, initial)?;
    }
    let frames = stream::unfold(watch, |mut watch| async move {
        let bytes = watch.next().await?;
        Some((Ok::<_, std::io::Error>(Frame::data(bytes)), watch))
    });
    let mut response = reply(200, "application/json", Bytes::new());
    *response.body_mut() = StreamBody::new(frames).boxed_unsync();
    Ok(response)
}

impl Watch {
    /// Starts with the present objects as ADDED events.
    fn begin_with_all(&mut self, query: &Query, streaming_list: bool) -> Result<()> {
        let namespace = Some(self.namespace.as_str()).filter(|n| !n.is_empty());
        let (version, objects) = self.store.list(&self.resource.storage, namespace);
        for object in &objects {
            if !self.selector.matches(object) {
                continue;
            }
            let line = self.line("ADDED", converted(&self.resource, object));
            self.pending.push_back(line);
        }
        self.position = version;
        if streaming_list && query.flag("allowWatchBookmarks") {
            let line = self.bookmark(true);
            self.pending.push_back(line);
        }
        Ok(())
    }

    /// The next bytes of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.take_pending() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            self.latest.borrow_and_update();
            match self.store.events_since(&self.resource.storage, self.position) {
                Ok((events, version)) => {
                    for event in &events {
                        self.push(event);
                    }
                    self.position = self.position.max(version);
                }
                Err(old) => {
                    let status = ApiError::expired(old.to_string()).status();
                    self.pending.push_back(event_line("ERROR", &status));
                    self.ended = true;
                }
            }
            if !self.pending.is_empty() {
                continue;
            }
            tokio::select! {
                changed = self.latest.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                    let line = self.bookmark(false);
                    self.pending.push_back(line);
                }
                () = tokio::time::sleep_until(self.deadline) => {
                    self.ended = true;
                    if self.bookmarks {
                        let line = self.bookmark(false);
                        self.pending.push_back(line);
                    }
                }
                () = self.shutdown.cancelled() => return None,
            }
        }
    }

    fn take_pending(&mut self) -> Option<Bytes> {
        let first = self.pending.pop_front()?;
        let mut frame = BytesMut::from(first);
        while let Some(next) = self.pending.front() {
            if frame.len() + next.len() > FRAME_BYTES {
                break;
            }
            frame.extend_from_slice(next);
            self.pending.pop_front();
        }
        Some(frame.freeze())
    }

    /// One change, as this selection sees it.
    fn push(&mut self, event: &Event) {
        if !self.namespace.is_empty() && *event.object.namespace != *self.namespace {
            return;
        }
        let was = event.change != Change::Added && event.previous.as_ref().is_some_and(|p| self.selector.matches(p));
        let is = event.change != Change::Deleted && self.selector.matches(&event.object);
        let (kind, object) = match (was, is) {
            (false, true) => ("ADDED", &event.object),
            (true, true) => ("MODIFIED", &event.object),
            (true, false) => ("DELETED", event.previous.as_ref().unwrap_or(&event.object)),
            (false, false) => return,
        };
        let mut value = converted(&self.resource, object);
        object::meta(&mut value).insert("resourceVersion".into(), event.version.to_string().into());
        let line = self.line(kind, value);
        self.pending.push_back(line);
    }

    fn line(&mut self, kind: &str, value: Value) -> Bytes {
        match self.shape {
            Shape::Object => event_line(kind, &value),
            Shape::Metadata => event_line(kind, &partial(&value)),
            Shape::Table => {
                let table = table::of(&self.resource, &[&value], &self.include, !self.table_started);
                self.table_started = true;
                event_line(kind, &table)
            }
        }
    }

    fn bookmark(&self, initial_end: bool) -> Bytes {
        let mut object = json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": self.position.to_string(), "creationTimestamp": null}});
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self.shape {
            Shape::Object => event_line("BOOKMARK", &object),
            Shape::Metadata => event_line("BOOKMARK", &partial(&object)),
            Shape::Table => {
                let mut table = table::of(&self.resource, &[], &self.include, false);
                table["metadata"] = object["metadata"].clone();
                event_line("BOOKMARK", &table)
            }
        }
    }
}

fn event_line(kind: &str, object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(format!(r#"{{"type":"{kind}","object":"#).as_bytes());
    // Writing into memory does not fail; a half line would end the stream at the client.
    if serde_json::to_writer(&mut out, object).is_err() {
        return Bytes::new();
    }
    out.extend_from_slice(b"}\n");
    out.into()
}
