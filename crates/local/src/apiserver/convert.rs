//! Between the stored form of an object and the version that a client asked for.
//! Custom resources differ in `apiVersion` only; Events of `events.k8s.io` name their fields differently.

use serde_json::Value;

use super::object::as_map;
use super::registry::Resource;

/// Core name and events.k8s.io name of the fields that differ.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

pub fn from_storage(resource: &Resource, mut value: Value) -> Value {
    let wanted = resource.api_version();
    if wanted == resource.storage_api_version {
        return value;
    }
    let map = as_map(&mut value);
    map.insert("apiVersion".into(), wanted.into());
    if resource.is("events.k8s.io", "events") {
        for (core, new) in EVENT_FIELDS {
            if let Some(v) = map.remove(core) {
                map.insert(new.into(), v);
            }
        }
    }
    value
}

pub fn to_storage(resource: &Resource, mut value: Value) -> Value {
    let map = as_map(&mut value);
    map.insert("apiVersion".into(), resource.storage_api_version.clone().into());
    if resource.is("events.k8s.io", "events") {
        for (core, new) in EVENT_FIELDS {
            if let Some(v) = map.remove(new) {
                map.insert(core.into(), v);
            }
        }
    }
    value
}
