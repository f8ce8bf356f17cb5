//! What has to go goes: dependents of deleted owners, the content of deleted namespaces, objects of deleted
//! definitions, old events. One task; it looks after every burst of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::object::{self, items, map_at, str_at};
use super::registry::Resource;
use super::request::Target;
use super::store::Object;
use super::write::{self, CRD_CLEANUP, DeleteOptions, FOREGROUND, ORPHAN};
use super::{Api, admission, bootstrap};

/// Changes are collected for this long.
const DEBOUNCE: Duration = Duration::from_millis(50);
const EVENTS_KEPT: Duration = Duration::from_secs(3600);
const EVENT_SWEEP: Duration = Duration::from_secs(60);

/// Runs until shutdown.
pub async fn run(api: Arc<Api>) {
    let mut changes = api.store.subscribe();
    let mut next_event_sweep = Instant::now() + EVENT_SWEEP;
    loop {
        changes.borrow_and_update();
        sweep(&api);
        bootstrap::kubernetes_service(&api);
        tokio::select! {
            () = api.shutdown.cancelled() => return,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(DEBOUNCE).await;
            }
            () = tokio::time::sleep_until(next_event_sweep) => {
                next_event_sweep = Instant::now() + EVENT_SWEEP;
                expire_events(&api);
            }
        }
    }
}

type Resources = BTreeMap<Arc<str>, Arc<Resource>>;

fn sweep(api: &Api) {
    let registry = api.registry.load();
    // One resource for each kind of stored object, whatever its versions.
    let mut resources = Resources::new();
    for r in registry.resources.iter().filter(|r| !r.virtual_only) {
        resources.entry(r.storage.clone()).or_insert_with(|| r.clone());
    }
    let all = api.store.all();
    let uids: BTreeSet<&str> = all.iter().map(|(_, o)| &*o.uid).collect();
    let namespaces: BTreeSet<&str> = all
        .iter()
        .filter(|(s, _)| &**s == "namespaces")
        .map(|(_, o)| &*o.name)
        .collect();
    for (storage, object) in &all {
        let Some(resource) = resources.get(storage) else {
            continue;
        };
        if resource.namespaced && !object.deleting && !namespaces.contains(&*object.namespace) {
            // Admitted just before its namespace ended.
            delete(api, resource, object, &DeleteOptions::default());
        }
        if !object.owners.is_empty() && !object.deleting && !object.owners.iter().any(|o| uids.contains(&**o)) {
            delete(api, resource, object, &DeleteOptions::default());
        }
        if object.deleting {
            finish(api, resource, object, &all, &resources);
        }
        if &**storage == "namespaces" && !object.deleting {
            admission::furnish_namespace(api, &object.name);
        }
    }
}

fn target(resource: &Resource, object: &Object) -> Target {
    Target {
        group: resource.group.clone(),
        version: resource.version.clone(),
        resource: resource.plural.clone(),
        namespace: object.namespace.to_string(),
        name: object.name.to_string(),
        ..Target::default()
    }
}

fn delete(api: &Api, resource: &Resource, object: &Object, options: &DeleteOptions) {
    let options = DeleteOptions {
        uid: object.uid.to_string(),
        ..options.clone()
    };
    match write::delete_object(api, resource, &target(resource, object), &options) {
        Ok(_) => {}
        Err(e) if e.code == 404 || e.code == 409 => {}
        Err(e) => tracing::warn!(resource = %resource.storage, name = &*object.name, "could not be deleted: {e}"),
    }
}

/// Works on what an object that is being deleted waits for, as far as that is ours to do.
fn finish(api: &Api, resource: &Resource, object: &Object, all: &[(Arc<str>, Arc<Object>)], resources: &Resources) {
    let value = object.value();
    let finalizers: Vec<&str> = items(&value, "/metadata/finalizers")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if resource.is("", "namespaces") {
        finish_namespace(api, resource, object, all, resources);
        return;
    }
    let dependents: Vec<&(Arc<str>, Arc<Object>)> = all
        .iter()
        .filter(|(_, o)| o.owners.iter().any(|u| **u == *object.uid))
        .collect();
    if finalizers.contains(&FOREGROUND) {
        let foreground = DeleteOptions {
            propagation: "Foreground".to_owned(),
            ..DeleteOptions::default()
        };
        for (storage, dependent) in &dependents {
            if let (Some(r), false) = (resources.get(storage), dependent.deleting) {
                delete(api, r, dependent, &foreground);
            }
        }
        if dependents.is_empty() {
            drop_finalizer(api, resource, object, FOREGROUND);
        }
    } else if finalizers.contains(&ORPHAN) {
        for (storage, dependent) in &dependents {
            let mut orphan = dependent.value();
            if let Some(Value::Array(owners)) = orphan.pointer_mut("/metadata/ownerReferences") {
                owners.retain(|o| str_at(o, "/uid") != &*object.uid);
            }
            if let Err(e) = api.store.update(storage, orphan, dependent.version) {
                // Changed meanwhile: the next sweep sees it again.
                tracing::debug!(name = &*dependent.name, "orphaning: {e}");
            }
        }
        if dependents.is_empty() {
            drop_finalizer(api, resource, object, ORPHAN);
        }
    } else if finalizers.contains(&CRD_CLEANUP) {
        let storage = str_at(&value, "/metadata/name");
        let left: Vec<_> = all.iter().filter(|(s, _)| **s == *storage).collect();
        for (s, o) in &left {
            if let (Some(r), false) = (resources.get(s), o.deleting) {
                delete(api, r, o, &DeleteOptions::default());
            } else if !resources.contains_key(s)
                && let Err(e) = api.store.delete(s, &o.namespace, &o.name, None)
            {
                // Of a version that is no longer served: nobody could remove its finalizers.
                tracing::debug!(name = &*o.name, "custom object: {e}");
            }
        }
        if left.is_empty() {
            drop_finalizer(api, resource, object, CRD_CLEANUP);
        }
    }
}

fn drop_finalizer(api: &Api, resource: &Resource, object: &Object, finalizer: &str) {
    let mut value = object.value();
    let list = object::meta(&mut value)
        .entry("finalizers")
        .or_insert_with(|| json!([]));
    let Value::Array(list) = list else { return };
    list.retain(|f| f != finalizer);
    // A pod stays until its node has ended it, whatever it waited for besides.
    match write::store_update(api, resource, object, value) {
        Ok(stored) => api.after_write(resource, &stored),
        Err(e) => tracing::debug!(name = &*object.name, "finalizer {finalizer}: {e}"),
    }
}

/// Deletes the content of a namespace; when none is left, the namespace.
fn finish_namespace(
    api: &Api,
    resource: &Resource,
    namespace: &Object,
    all: &[(Arc<str>, Arc<Object>)],
    resources: &Resources,
) {
    let mut left = 0;
    for (storage, object) in all.iter().filter(|(_, o)| *o.namespace == *namespace.name) {
        left += 1;
        if object.deleting {
            continue;
        }
        match resources.get(storage) {
            Some(r) => delete(api, r, object, &DeleteOptions::default()),
            None => {
                if let Err(e) = api.store.delete(storage, &object.namespace, &object.name, None) {
                    tracing::debug!(name = &*object.name, "namespace content: {e}");
                }
            }
        }
    }
    if left > 0 {
        return;
    }
    let mut value = namespace.value();
    map_at(&mut value, "spec").insert("finalizers".into(), json!([]));
    if let Some(Value::Array(list)) = value.pointer_mut("/metadata/finalizers") {
        // How dependents are to go says nothing here: none are left.
        list.retain(|f| f != FOREGROUND && f != ORPHAN);
    }
    if !items(&value, "/metadata/finalizers").is_empty() {
        return;
    }
    match api
        .store
        .delete(&resource.storage, "", &namespace.name, Some(namespace.version))
    {
        Ok(_) => {}
        Err(e) => tracing::debug!(name = &*namespace.name, "namespace: {e}"),
    }
}

/// Events are kept for an hour after they last happened.
fn expire_events(api: &Api) {
    let now = jiff::Timestamp::now().as_second();
    for event in api.store.list("events", None).1 {
        let value = event.value();
        let last = [
            "/series/lastObservedTime",
            "/lastTimestamp",
            "/eventTime",
            "/metadata/creationTimestamp",
        ]
        .iter()
        .find_map(|p| str_at(&value, p).parse::<jiff::Timestamp>().ok());
        let old = last.is_none_or(|t| now - t.as_second() > EVENTS_KEPT.as_secs().cast_signed());
        if old && let Err(e) = api.store.delete("events", &event.namespace, &event.name, None) {
            tracing::debug!(name = &*event.name, "event: {e}");
        }
    }
}
