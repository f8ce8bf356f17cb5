//! The object store: every object by (resource, namespace, name), one version counter, a bounded history for watches.
//! Enters: complete objects. Leaves: immutable `Arc`s and the changes since a version. Knows nothing of kinds or HTTP.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use super::log::{Entry, Log, LogError};
use super::object;

/// Changes kept for watches that resume.
const HISTORY_EVENTS_MAX: usize = 2048;
/// Encoded bytes of those changes.
const HISTORY_BYTES_MAX: usize = 4 << 20;
/// The log is rewritten when it is larger than this and mostly history.
const LOG_COMPACT_BYTES: u64 = 8 << 20;

/// One object as stored. Kept encoded: a parsed tree is several times larger.
#[derive(Debug)]
pub struct Object {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub version: u64,
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// uids of the owners.
    pub owners: Box<[Box<str>]>,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    pub raw: Bytes,
}

impl Object {
    fn new(value: &Value, version: u64) -> Result<Self, serde_json::Error> {
        let labels = value
            .pointer("/metadata/labels")
            .and_then(Value::as_object)
            .map(|m| {
                m.iter()
                    .map(|(k, v)| (k.as_str().into(), v.as_str().unwrap_or("").into()))
                    .collect()
            })
            .unwrap_or_default();
        Ok(Self {
            namespace: object::namespace(value).into(),
            name: object::name(value).into(),
            uid: object::uid(value).into(),
            version,
            labels,
            owners: object::items(value, "/metadata/ownerReferences")
                .iter()
                .map(|o| object::str_at(o, "/uid").into())
                .collect(),
            deleting: value.pointer("/metadata/deletionTimestamp").is_some(),
            raw: serde_json::to_vec(value)?.into(),
        })
    }

    /// The object, parsed.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.raw).unwrap_or(Value::Null)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

/// One change, as kept in the history.
#[derive(Debug, Clone)]
pub struct Event {
    pub version: u64,
    pub change: Change,
    pub resource: Arc<str>,
    pub object: Arc<Object>,
    pub previous: Option<Arc<Object>>,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("exists already")]
    Exists,
    #[error("does not exist")]
    Missing,
    #[error("was changed in the meantime")]
    Conflict,
    #[error("could not be written: {0}")]
    Io(#[from] std::io::Error),
    #[error("could not be encoded: {0}")]
    Encode(#[from] serde_json::Error),
    #[error("is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

/// Levels of objects and lists in an object. The log has one more around it, and readers end at 128.
const DEPTH_MAX: usize = 100;

fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Object(_) | Value::Array(_) if levels == 0 => true,
        Value::Object(fields) => fields.values().any(|v| is_deeper(v, levels - 1)),
        Value::Array(values) => values.iter().any(|v| is_deeper(v, levels - 1)),
        _ => false,
    }
}

/// The history no longer reaches back to the version asked for.
#[derive(Debug, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct TooOld {
    pub asked: u64,
    pub oldest: u64,
}

/// Namespace and name.
type Place = (Box<str>, Box<str>);
type Objects = BTreeMap<Place, Arc<Object>>;

struct Inner {
    resources: BTreeMap<Arc<str>, Objects>,
    version: u64,
    history: VecDeque<Event>,
    history_bytes: usize,
    /// The history holds every change after this version.
    floor: u64,
    log: Option<Log>,
    live_bytes: u64,
    /// The version of the latest change of each resource.
    marks: BTreeMap<Arc<str>, u64>,
}

/// The store. One lock, held for memory operations and one append only.
pub struct Store {
    inner: Mutex<Inner>,
    latest: watch::Sender<u64>,
}

impl Store {
    /// Opens the store, replaying the log at `path` and compacting it.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let mut inner = Inner::empty();
        let log = Log::open(path, |entry| inner.replay(entry))?;
        inner.log = Some(log);
        inner.compact_if_large();
        let latest = watch::Sender::new(inner.version);
        Ok(Self {
            inner: Mutex::new(inner),
            latest,
        })
    }

    /// A store without a log (for tests).
    #[cfg(test)]
    pub fn in_memory() -> Self {
        Self {
            inner: Mutex::new(Inner::empty()),
            latest: watch::Sender::new(1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of the latest change; `changed()` on it wakes watchers.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// The version of the latest change.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// The version of the latest change of a resource: same mark, same objects.
    pub fn mark(&self, resource: &str) -> u64 {
        self.lock().marks.get(resource).copied().unwrap_or(0)
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.lock()
            .resources
            .get(resource)?
            .get(&(namespace.into(), name.into()))
            .cloned()
    }

    /// The objects of a resource, of one namespace or of all, with the version of this list.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> (u64, Vec<Arc<Object>>) {
        let inner = self.lock();
        (
            inner.version,
            inner
                .of(resource, namespace)
                .map(|(_, object)| Arc::clone(object))
                .collect(),
        )
    }

    /// The objects of a resource (of one namespace) as they were at a version, in order.
    pub fn list_at(&self, resource: &str, namespace: Option<&str>, version: u64) -> Result<Vec<Arc<Object>>, TooOld> {
        // Together, so that nothing is written in between.
        let inner = self.lock();
        let now = inner.of(resource, namespace);
        let mut objects: Objects = now.map(|(place, object)| (place.clone(), Arc::clone(object))).collect();
        for event in inner.since(version)?.rev().filter(|event| &*event.resource == resource) {
            let key = (event.object.namespace.clone(), event.object.name.clone());
            if namespace.is_some_and(|namespace| *key.0 != *namespace) {
                continue;
            }
            match &event.previous {
                Some(previous) => drop(objects.insert(key, Arc::clone(previous))),
                None => drop(objects.remove(&key)),
            }
        }
        Ok(objects.into_values().collect())
    }

    /// Every object, with its resource.
    pub fn all(&self) -> Vec<(Arc<str>, Arc<Object>)> {
        let inner = self.lock();
        inner
            .resources
            .iter()
            .flat_map(|(r, objects)| objects.values().map(|o| (r.clone(), o.clone())))
            .collect()
    }

    pub fn create(&self, resource: &str, value: Value) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.lock();
        let exists = inner.find(resource, &value).is_some();
        if exists {
            return Err(WriteError::Exists);
        }
        let object = inner.put(resource, value)?;
        self.latest.send_replace(inner.version);
        Ok(object)
    }

    /// Replaces the object, if it still is at version `expected`.
    pub fn update(&self, resource: &str, value: Value, expected: u64) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.lock();
        let current = inner.find(resource, &value).ok_or(WriteError::Missing)?;
        if current.version != expected {
            return Err(WriteError::Conflict);
        }
        let object = inner.put(resource, value)?;
        self.latest.send_replace(inner.version);
        Ok(object)
    }

    /// Removes the object, if it still is at version `expected` (when given). Returns its last state.
    pub fn delete(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        expected: Option<u64>,
    ) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.lock();
        let key = (Box::from(namespace), Box::from(name));
        let current = inner
            .resources
            .get(resource)
            .and_then(|o| o.get(&key))
            .cloned()
            .ok_or(WriteError::Missing)?;
        if expected.is_some_and(|e| e != current.version) {
            return Err(WriteError::Conflict);
        }
        let gone = inner.remove(resource, &current)?;
        self.latest.send_replace(inner.version);
        Ok(gone)
    }

    /// The changes of `resource` after `since`, and the version up to which that is complete.
    pub fn events_since(&self, resource: &str, since: u64) -> Result<(Vec<Event>, u64), TooOld> {
        let inner = self.lock();
        let events = inner.since(since)?.filter(|e| &*e.resource == resource);
        Ok((events.cloned().collect(), inner.version))
    }
}

impl Inner {
    fn empty() -> Self {
        Self {
            resources: BTreeMap::new(),
            version: 1,
            history: VecDeque::new(),
            history_bytes: 0,
            floor: 1,
            log: None,
            live_bytes: 0,
            marks: BTreeMap::new(),
        }
    }

    /// The objects of a resource, of one namespace or of all.
    fn of(&self, resource: &str, namespace: Option<&str>) -> impl Iterator<Item = (&Place, &Arc<Object>)> {
        let from: Place = (namespace.unwrap_or_default().into(), "".into());
        let objects = self.resources.get(resource).into_iter();
        objects
            .flat_map(move |objects| objects.range(from.clone()..))
            .take_while(move |((of, _), _)| namespace.is_none_or(|namespace| **of == *namespace))
    }

    /// What changed after a version, as far as that is still known.
    fn since(&self, version: u64) -> Result<impl DoubleEndedIterator<Item = &Event>, TooOld> {
        if version < self.floor {
            return Err(TooOld {
                asked: version,
                oldest: self.floor,
            });
        }
        let start = self.history.partition_point(|e| e.version <= version);
        Ok(self.history.range(start..))
    }

    fn find(&self, resource: &str, value: &Value) -> Option<Arc<Object>> {
        let key = (Box::from(object::namespace(value)), Box::from(object::name(value)));
        self.resources.get(resource)?.get(&key).cloned()
    }

    fn put(&mut self, resource: &str, mut value: Value) -> Result<Arc<Object>, WriteError> {
        if is_deeper(&value, DEPTH_MAX) {
            return Err(WriteError::TooDeep);
        }
        let version = self.version + 1;
        object::meta(&mut value).insert("resourceVersion".into(), version.to_string().into());
        let object = Arc::new(Object::new(&value, version)?);
        if let Some(log) = &mut self.log {
            log.put(resource, &object.raw)?;
        }
        self.accept(resource, object.clone());
        self.compact_if_large();
        Ok(object)
    }

    fn remove(&mut self, resource: &str, current: &Object) -> Result<Arc<Object>, WriteError> {
        let version = self.version + 1;
        let mut value = current.value();
        object::meta(&mut value).insert("resourceVersion".into(), version.to_string().into());
        let gone = Arc::new(Object::new(&value, version)?);
        if let Some(log) = &mut self.log {
            log.delete(resource, &current.namespace, &current.name, version)?;
        }
        self.forget(resource, gone.clone());
        Ok(gone)
    }

    /// Takes an object into memory and history.
    fn accept(&mut self, resource: &str, object: Arc<Object>) {
        let resource = self.resource_key(resource);
        self.version = self.version.max(object.version);
        self.live_bytes += object.raw.len() as u64;
        let previous = self
            .resources
            .entry(resource.clone())
            .or_default()
            .insert((object.namespace.clone(), object.name.clone()), object.clone());
        if let Some(p) = &previous {
            self.live_bytes = self.live_bytes.saturating_sub(p.raw.len() as u64);
        }
        let change = if previous.is_some() {
            Change::Modified
        } else {
            Change::Added
        };
        self.remember(Event {
            version: object.version,
            change,
            resource,
            object,
            previous,
        });
    }

    fn forget(&mut self, resource: &str, gone: Arc<Object>) {
        let resource = self.resource_key(resource);
        self.version = self.version.max(gone.version);
        let key = (gone.namespace.clone(), gone.name.clone());
        let previous = self.resources.get_mut(&resource).and_then(|o| o.remove(&key));
        if let Some(p) = &previous {
            self.live_bytes = self.live_bytes.saturating_sub(p.raw.len() as u64);
        }
        self.remember(Event {
            version: gone.version,
            change: Change::Deleted,
            resource,
            object: gone,
            previous,
        });
    }

    fn resource_key(&self, resource: &str) -> Arc<str> {
        match self.resources.get_key_value(resource) {
            Some((key, _)) => key.clone(),
            None => resource.into(),
        }
    }

    fn remember(&mut self, event: Event) {
        self.marks.insert(event.resource.clone(), event.version);
        self.history_bytes += event.object.raw.len();
        self.history.push_back(event);
        while self.history.len() > HISTORY_EVENTS_MAX || self.history_bytes > HISTORY_BYTES_MAX {
            let Some(oldest) = self.history.pop_front() else {
                break;
            };
            self.history_bytes -= oldest.object.raw.len();
            self.floor = oldest.version;
        }
    }

    fn replay(&mut self, entry: Entry) {
        match entry {
            Entry::Put { resource, object } => {
                let version = object::str_at(&object, "/metadata/resourceVersion")
                    .parse()
                    .unwrap_or(0);
                if let Ok(object) = Object::new(&object, version) {
                    self.accept(&resource, Arc::new(object));
                }
            }
            Entry::Delete {
                resource,
                namespace,
                name,
                version,
            } => {
                let key = (namespace.into(), name.into());
                let Some(current) = self.resources.get(&*resource).and_then(|o| o.get(&key)) else {
                    return;
                };
                let mut value = current.value();
                object::meta(&mut value).insert("resourceVersion".into(), version.to_string().into());
                if let Ok(gone) = Object::new(&value, version) {
                    self.forget(&resource, Arc::new(gone));
                }
            }
            Entry::Base { version } => {
                self.version = self.version.max(version);
                self.floor = self.version;
                self.history.clear();
                self.history_bytes = 0;
            }
        }
    }

    fn compact_if_large(&mut self) {
        let Some(log) = &mut self.log else { return };
        if log.bytes() < LOG_COMPACT_BYTES || log.bytes() < 2 * self.live_bytes {
            return;
        }
        let objects = self
            .resources
            .iter()
            .flat_map(|(r, objects)| objects.values().map(|o| (&**r, &*o.raw)));
        if let Err(e) = log.compact(objects, self.version) {
            tracing::error!("the log could not be compacted, it stays as it is: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, n: u32) -> Value {
        json!({"metadata": {"namespace": "a", "name": name, "uid": name}, "n": n})
    }

    #[test]
    fn a_reopened_store_has_every_write_and_its_history() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects.log");
        let store = Store::open(&path).unwrap();
        let one = store.create("pods", pod("one", 1)).unwrap();
        store.create("pods", pod("two", 1)).unwrap();
        let one = store.update("pods", pod("one", 2), one.version).unwrap();
        store.delete("pods", "a", "two", None).unwrap();
        let version = store.version();
        drop(store);
        // A write torn by a kill.
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"op\":\"put\",\"resou").unwrap();
        drop(file);

        let store = Store::open(&path).unwrap();
        assert_eq!(store.version(), version);
        let (_, pods) = store.list("pods", Some("a"));
        assert_eq!(pods.len(), 1);
        assert_eq!(pods[0].value()["n"], 2);
        let (events, _) = store.events_since("pods", one.version - 1).unwrap();
        let changes: Vec<_> = events.iter().map(|e| (e.change, &*e.object.name)).collect();
        assert_eq!(changes, [(Change::Modified, "one"), (Change::Deleted, "two")]);
        // And it goes on behind the cut.
        store.create("pods", pod("three", 1)).unwrap();
        drop(store);
        assert_eq!(Store::open(&path).unwrap().list("pods", None).1.len(), 2);
    }

    #[test]
    fn what_was_there_at_a_version() {
        let store = Store::open(&tempfile::tempdir().unwrap().path().join("objects.log")).unwrap();
        let one = store.create("pods", pod("one", 1)).unwrap();
        store.create("pods", pod("two", 1)).unwrap();
        let then = store.version();
        store.create("pods", pod("three", 1)).unwrap();
        store.create("services", pod("one", 1)).unwrap();
        store.update("pods", pod("one", 2), one.version).unwrap();
        store.delete("pods", "a", "two", None).unwrap();
        let names = |version: u64| {
            let objects = store.list_at("pods", None, version).unwrap();
            objects
                .iter()
                .map(|o| (o.name.to_string(), o.version))
                .collect::<Vec<_>>()
        };
        let were = names(then);
        assert_eq!(
            were.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["one", "two"]
        );
        assert_eq!(were[0].1, one.version, "as it was");
        assert_eq!(names(one.version), [("one".to_owned(), one.version)]);
        assert_eq!(names(store.version()).len(), 2);
        assert_eq!(store.list_at("pods", Some("elsewhere"), then).unwrap().len(), 0);
        assert!(store.list_at("pods", None, 0).is_err());
    }

    #[test]
    fn damage_in_the_middle_is_not_swallowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects.log");
        std::fs::write(&path, b"garbage\n{\"op\":\"base\",\"version\":3}\n").unwrap();
        assert!(matches!(Store::open(&path), Err(LogError::Damaged { line: 1, .. })));
    }

    #[test]
    fn stale_updates_conflict_and_old_watches_expire() {
        let store = Store::in_memory();
        let first = store.create("pods", pod("one", 0)).unwrap();
        assert!(matches!(store.create("pods", pod("one", 0)), Err(WriteError::Exists)));
        let mut version = first.version;
        for n in 0..HISTORY_EVENTS_MAX as u32 + 10 {
            version = store.update("pods", pod("one", n), version).unwrap().version;
        }
        assert!(matches!(
            store.update("pods", pod("one", 0), first.version),
            Err(WriteError::Conflict)
        ));
        assert!(store.events_since("pods", first.version).is_err());
        assert_eq!(store.events_since("pods", version - 3).unwrap().0.len(), 3);
        assert_eq!(store.events_since("other", version - 3).unwrap().0.len(), 0);
    }

    #[test]
    fn compaction_keeps_the_objects_and_the_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects.log");
        let store = Store::open(&path).unwrap();
        let mut version = store.create("pods", pod("one", 0)).unwrap().version;
        for n in 0..50 {
            version = store.update("pods", pod("one", n), version).unwrap().version;
        }
        {
            let mut inner = store.lock();
            let raw = inner.resources["pods"].values().next().unwrap().raw.clone();
            let log = inner.log.as_mut().unwrap();
            log.compact([("pods", &*raw)].into_iter(), version).unwrap();
        }
        store.create("pods", pod("two", 7)).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.version(), version + 1);
        assert_eq!(store.list("pods", None).1.len(), 2);
        assert!(store.events_since("pods", version - 1).is_err());
        assert_eq!(store.events_since("pods", version).unwrap().0.len(), 1);
    }
}
