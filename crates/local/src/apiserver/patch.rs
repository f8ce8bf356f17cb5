//! Patches of one object: JSON patch, merge patch, strategic merge patch, server-side apply (plain merging).
//! Pure: `(object, patch) -> object`.

use serde_json::{Map, Value, json};

use super::error::{ApiError, Result};
use super::object;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Kind {
    pub fn of(content_type: &str) -> Result<Self> {
        match content_type.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" => Ok(Self::Apply),
            other => Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                format!(
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml; got {other:?}"
                ),
            )),
        }
    }
}

/// As in Kubernetes.
const OPERATIONS_MAX: usize = 10_000;
/// As large as a request's body may be.
const COPIED_BYTES_MAX: usize = 3 << 20;

/// Applies the patch. `lists_merge`: lists merge by their keys (built-in kinds); otherwise they are replaced.
pub fn apply(kind: Kind, current: &Value, patch: &Value, lists_merge: bool) -> Result<Value> {
    let mut new = current.clone();
    match kind {
        Kind::Json => {
            let patch: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
            if patch.len() > OPERATIONS_MAX {
                let many = format!(
                    "a JSON patch may have at most {OPERATIONS_MAX} operations, not {}",
                    patch.len()
                );
                return Err(ApiError::new(413, "RequestEntityTooLarge", many));
            }
            let mut copied = 0;
            for operation in patch.iter() {
                if let json_patch::PatchOperation::Copy(copy) = operation {
                    // Copies of copies double an object each time.
                    let source = new.pointer(copy.from.as_str()).map(Value::to_string);
                    copied += source.map_or(0, |text| text.len());
                    if copied > COPIED_BYTES_MAX {
                        let much = format!("a JSON patch may copy at most {COPIED_BYTES_MAX} bytes");
                        return Err(ApiError::new(413, "RequestEntityTooLarge", much));
                    }
                }
                json_patch::patch(&mut new, std::slice::from_ref(operation)).map_err(|e| {
                    ApiError::new(
                        422,
                        "Invalid",
                        format!("the server rejected our request due to an error in our request: {e}"),
                    )
                })?;
            }
        }
        Kind::Merge => {
            require_object(patch)?;
            json_patch::merge(&mut new, patch);
        }
        Kind::Strategic => {
            require_object(patch)?;
            merge(&mut new, patch, "", Mode::Strategic);
        }
        Kind::Apply => {
            require_object(patch)?;
            if lists_merge {
                merge(&mut new, patch, "", Mode::Apply);
            } else {
                merge(&mut new, patch, "", Mode::ApplyAtomicLists);
            }
        }
    }
    Ok(new)
}

fn require_object(patch: &Value) -> Result<()> {
    if patch.is_object() {
        return Ok(());
    }
    Err(ApiError::bad_request("error decoding patch: it must be a JSON object"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Strategic,
    Apply,
    ApplyAtomicLists,
}

/// The key by which a list of objects merges, told by its field (and its parent's); `None`: replaced as a whole.
fn merge_keys(parent: &str, field: &str, mode: Mode) -> Option<&'static [&'static str]> {
    if mode == Mode::ApplyAtomicLists {
        return (field == "ownerReferences").then_some(&["uid"] as &[_]);
    }
    let apply = mode == Mode::Apply;
    Some(match (parent, field) {
        ("spec", "ports") if apply => &["port", "protocol"],
        ("spec", "ports") => &["port"],
        ("containers" | "initContainers", "ports") if apply => &["containerPort", "protocol"],
        ("containers" | "initContainers", "ports") => &["containerPort"],
        (_, "containers" | "initContainers" | "ephemeralContainers") => &["name"],
        ("containers" | "initContainers", "env") => &["name"],
        ("spec", "volumes" | "imagePullSecrets" | "schedulingGates" | "resourceClaims") => &["name"],
        (_, "volumeMounts") => &["mountPath"],
        (_, "volumeDevices") => &["devicePath"],
        ("status", "conditions") | ("status", "addresses") => &["type"],
        (_, "ownerReferences") => &["uid"],
        ("spec", "hostAliases") => &["ip"],
        ("spec", "taints") => &["key"],
        ("spec", "topologySpreadConstraints") => &["topologyKey"],
        ("", "secrets" | "imagePullSecrets") => &["name"],
        ("status", "podIPs" | "hostIPs") => &["ip"],
        _ => return None,
    })
}

/// Lists of plain values that merge as sets.
fn merges_as_set(parent: &str, field: &str, mode: Mode) -> bool {
    mode != Mode::ApplyAtomicLists && (parent, field) == ("metadata", "finalizers")
}

/// Merges `patch` into the object `target`, which is field `name` of its parent.
fn merge(target: &mut Value, patch: &Value, name: &str, mode: Mode) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if mode == Mode::Strategic {
        match patch.get("$patch").and_then(Value::as_str) {
            Some("replace") => {
                *target = Value::Object(without_directives(patch));
                return;
            }
            Some("delete") => {
                *target = Value::Null;
                return;
            }
            _ => {}
        }
    }
    let target = object::as_map(target);
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|k, _| keep.iter().any(|x| x.as_str() == Some(k)));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            delete_primitives(target, field, value);
            continue;
        }
        if key.starts_with('$') && mode == Mode::Strategic {
            continue;
        }
        match value {
            // Strategic and merge patches delete with null; apply leaves such a field alone.
            Value::Null if mode == Mode::Strategic => {
                target.remove(key);
            }
            Value::Null => {}
            Value::Array(items) => merge_list(target, name, key, items, mode),
            Value::Object(_) => {
                let slot = target.entry(key.clone()).or_insert(Value::Null);
                merge(slot, value, key, mode);
                if slot.is_null() {
                    target.remove(key);
                }
            }
            scalar => {
                target.insert(key.clone(), scalar.clone());
            }
        }
    }
    for (key, order) in patch {
        if let (Some(field), Value::Array(order)) = (key.strip_prefix("$setElementOrder/"), order) {
            let keys = merge_keys(name, field, mode);
            reorder(target, field, order, keys);
        }
    }
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    patch
        .iter()
        .filter(|(k, _)| !k.starts_with('$'))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn delete_primitives(target: &mut Map<String, Value>, field: &str, gone: &Value) {
    let gone = gone.as_array().map_or(&[][..], Vec::as_slice);
    if let Some(Value::Array(list)) = target.get_mut(field) {
        list.retain(|v| !gone.contains(v));
    }
}

fn merge_list(target: &mut Map<String, Value>, parent: &str, field: &str, patch: &[Value], mode: Mode) {
    if merges_as_set(parent, field, mode) {
        let list = list_at(target, field);
        for v in patch {
            if !list.contains(v) {
                list.push(v.clone());
            }
        }
        return;
    }
    let replaces = patch
        .iter()
        .any(|v| v.get("$patch").and_then(Value::as_str) == Some("replace"));
    let keys = match merge_keys(parent, field, mode) {
        Some(keys) if !replaces => keys,
        _ => {
            let kept: Vec<Value> = patch.iter().filter(|v| v.get("$patch").is_none()).cloned().collect();
            target.insert(field.to_owned(), Value::Array(kept));
            return;
        }
    };
    let list = list_at(target, field);
    for item in patch {
        let found = list.iter().position(|old| same_key(old, item, keys));
        let deletes = item.get("$patch").and_then(Value::as_str) == Some("delete");
        match (found, deletes) {
            (Some(i), true) => {
                list.remove(i);
            }
            (None, true) => {}
            (Some(i), false) => merge(&mut list[i], item, field, mode),
            (None, false) => {
                let mut fresh = Value::Null;
                merge(&mut fresh, item, field, mode);
                list.push(fresh);
            }
        }
    }
}

fn list_at<'a>(target: &'a mut Map<String, Value>, field: &str) -> &'a mut Vec<Value> {
    let slot = target.entry(field.to_owned()).or_insert(Value::Null);
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    match slot {
        Value::Array(list) => list,
        _ => unreachable!("made an array just above"),
    }
}

fn same_key(a: &Value, b: &Value, keys: &[&str]) -> bool {
    keys.iter().all(|k| {
        let default = if *k == "protocol" { json!("TCP") } else { Value::Null };
        a.get(k).unwrap_or(&default) == b.get(k).unwrap_or(&default)
    })
}

/// Puts the listed elements into the given order; the others keep their place behind them.
fn reorder(target: &mut Map<String, Value>, field: &str, order: &[Value], keys: Option<&[&str]>) {
    let Some(Value::Array(list)) = target.get_mut(field) else {
        return;
    };
    let place = |v: &Value| {
        order
            .iter()
            .position(|o| match keys {
                Some(keys) => same_key(v, o, &keys[..1]),
                None => v == o,
            })
            .unwrap_or(usize::MAX)
    };
    list.sort_by_key(place);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strategic(current: Value, patch: Value) -> Value {
        apply(Kind::Strategic, &current, &patch, true).unwrap()
    }

    #[test]
    fn strategic_patches_merge_lists_by_key() {
        let pod = json!({"spec": {"containers": [
            {"name": "a", "image": "x", "env": [{"name": "K", "value": "1"}], "ports": [{"containerPort": 80}]},
            {"name": "b", "image": "y"}]}});
        let new = strategic(
            pod,
            json!({"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "containers": [
                {"name": "a", "env": [{"name": "K", "value": "2"}, {"name": "L", "value": "3"}], "ports": [{"containerPort": 81}]},
                {"name": "b", "image": null}]}}),
        );
        assert_eq!(
            new,
            json!({"spec": {"containers": [
            {"name": "b"},
            {"name": "a", "image": "x", "env": [{"name": "K", "value": "2"}, {"name": "L", "value": "3"}],
             "ports": [{"containerPort": 80}, {"containerPort": 81}]}]}})
        );
    }

    #[test]
    fn strategic_directives_delete_replace_and_retain() {
        let old = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "volumes": [{"name": "v"}, {"name": "w"}]}});
        let new = strategic(
            old,
            json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]},
            "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"},
                     "volumes": [{"name": "v", "$patch": "delete"}, {"name": "x", "emptyDir": {}}]}}),
        );
        assert_eq!(
            new,
            json!({"metadata": {"finalizers": ["b", "c"]}, "spec": {
            "strategy": {"type": "Recreate"}, "volumes": [{"name": "w"}, {"name": "x", "emptyDir": {}}]}})
        );
    }

    #[test]
    fn labels_go_with_null_and_merge_patches_replace_lists() {
        let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "list": [1, 2]});
        let new = strategic(
            old.clone(),
            json!({"metadata": {"labels": {"a": null, "traffic.port.9080": "http"}}}),
        );
        assert_eq!(
            new["metadata"]["labels"],
            json!({"b": "2", "traffic.port.9080": "http"})
        );
        let new = apply(Kind::Merge, &old, &json!({"list": [3]}), true).unwrap();
        assert_eq!(new["list"], json!([3]));
    }

    #[test]
    fn json_patches_apply_or_say_why_not() {
        let old = json!({"spec": {"replicas": 1}});
        let ok = json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]);
        assert_eq!(apply(Kind::Json, &old, &ok, true).unwrap()["spec"]["replicas"], 3);
        let bad = json!([{"op": "remove", "path": "/spec/none"}]);
        assert_eq!(apply(Kind::Json, &old, &bad, true).unwrap_err().code, 422);
        assert_eq!(apply(Kind::Json, &old, &json!({}), true).unwrap_err().code, 400);
    }

    #[test]
    fn apply_merges_ports_by_port_and_protocol() {
        let old = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP"}]}});
        let new = apply(Kind::Apply, &old, &json!({"spec": {"ports": [{"port": 53}]}}), true).unwrap();
        assert_eq!(new["spec"]["ports"].as_array().unwrap().len(), 2);
    }
}
