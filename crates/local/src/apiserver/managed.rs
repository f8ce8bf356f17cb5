//! `metadata.managedFields` of server-side apply: which fields a manager applied, so that it can take them back.
//! Only appliers are recorded, and no conflicts between them are told.

use serde_json::{Map, Value, json};

use super::object::{items, meta, str_at};

/// Records what `manager` applied.
pub fn record(object: &mut Value, applied: &Value, manager: &str, api_version: &str) {
    let fields = fields_of(applied);
    let time = super::object::now();
    let list = meta(object).entry("managedFields").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Value::Array(list) = list else { return };
    let own = list.iter().position(|e| is_own(e, manager));
    if let Some(i) = own {
        if list[i]["fieldsV1"] == fields && list[i]["apiVersion"] == api_version {
            return;
        }
        list.remove(i);
    }
    list.push(
        json!({"manager": manager, "operation": "Apply", "apiVersion": api_version,
        "time": time, "fieldsType": "FieldsV1", "fieldsV1": fields}),
    );
}

fn is_own(entry: &Value, manager: &str) -> bool {
    str_at(entry, "/manager") == manager && str_at(entry, "/operation") == "Apply"
}

/// Removes from `object` what `manager` applied before and now no longer mentions, unless another applier has it too.
pub fn remove_dropped(object: &mut Value, applied: &Value, manager: &str) {
    let now = fields_of(applied);
    let entries = items(object, "/metadata/managedFields").to_vec();
    let Some(before) = entries.iter().find(|e| is_own(e, manager)) else {
        return;
    };
    let others: Vec<&Value> = entries
        .iter()
        .filter(|e| !is_own(e, manager))
        .map(|e| &e["fieldsV1"])
        .collect();
    drop_fields(object, &before["fieldsV1"], Some(&now), &others);
}

fn drop_fields(object: &mut Value, before: &Value, now: Option<&Value>, others: &[&Value]) {
    let (Some(before), Value::Object(object)) = (before.as_object(), object) else {
        return;
    };
    for (key, inner) in before {
        let Some(field) = key.strip_prefix("f:") else {
            continue;
        };
        let still = now.and_then(|n| n.get(key));
        let theirs: Vec<&Value> = others.iter().filter_map(|o| o.get(key)).collect();
        let leaf = inner.as_object().is_none_or(Map::is_empty);
        match (still, object.get_mut(field)) {
            (None, Some(_)) if theirs.is_empty() && leaf => {
                object.remove(field);
            }
            (_, Some(child)) if !leaf => {
                drop_fields(child, inner, still, &theirs);
                // A map that held nothing else goes with its last field.
                if still.is_none() && theirs.is_empty() && child.as_object().is_some_and(Map::is_empty) {
                    object.remove(field);
                }
            }
            _ => {}
        }
    }
}

/// The set of fields of an applied object; lists count as a whole.
fn fields_of(applied: &Value) -> Value {
    let mut fields = walk(applied);
    if let Value::Object(map) = &mut fields {
        map.remove("f:apiVersion");
        map.remove("f:kind");
        if let Some(Value::Object(meta)) = map.get_mut("f:metadata") {
            for own in [
                "f:name",
                "f:namespace",
                "f:uid",
                "f:resourceVersion",
                "f:managedFields",
                "f:creationTimestamp",
            ] {
                meta.remove(own);
            }
            if meta.is_empty() {
                map.remove("f:metadata");
            }
        }
    }
    fields
}

fn walk(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (format!("f:{k}"), walk(v)))
                .collect(),
        ),
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_no_longer_applied_goes() {
        let first = json!({"metadata": {"name": "x", "labels": {"a": "1", "b": "2"}}, "data": {"k": "v"}});
        let mut object = first.clone();
        record(&mut object, &first, "me", "v1");
        object["metadata"]["labels"]["other"] = "kept".into();
        let second = json!({"metadata": {"name": "x", "labels": {"b": "2"}}});
        remove_dropped(&mut object, &second, "me");
        assert_eq!(object["metadata"]["labels"], json!({"b": "2", "other": "kept"}));
        assert!(object.get("data").is_none());
    }
}
