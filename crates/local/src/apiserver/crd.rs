//! CustomResourceDefinitions: a stored definition -> served `Resource`s; checks objects against their schema.
//! Does not convert between versions: all versions of a definition share one form.

use serde_json::{Value, json};

use super::error::Cause;
use super::object::{items, str_at};
use super::registry::{Resource, ScalePaths, Source, join_group_version};

/// Depth to which schemas are followed.
const SCHEMA_DEPTH_MAX: usize = 64;

/// What one version of a definition says beyond a built-in resource.
pub struct CustomVersion {
    /// `openAPIV3Schema`, or null.
    pub schema: Value,
    /// `additionalPrinterColumns`.
    pub columns: Vec<Column>,
}

/// A printer column.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub kind: String,
    pub path: String,
    pub priority: i64,
}

/// The resources that a stored definition serves; none before it is established. While it is being deleted it still serves
/// what is left, so that this can be deleted; nothing is created any more.
pub fn resources(definition: &Value) -> Vec<Resource> {
    let established = items(definition, "/status/conditions")
        .iter()
        .any(|c| str_at(c, "/type") == "Established" && str_at(c, "/status") == "True");
    if !established {
        return Vec::new();
    }
    let group = str_at(definition, "/spec/group");
    let versions = items(definition, "/spec/versions");
    let stored = versions
        .iter()
        .find(|v| v["storage"] == json!(true))
        .map_or("", |v| str_at(v, "/name"));
    versions
        .iter()
        .filter(|v| v["served"] == json!(true))
        .map(|v| resource(definition, group, stored, v))
        .collect()
}

fn resource(definition: &Value, group: &str, stored: &str, version: &Value) -> Resource {
    let names = &definition["spec"]["names"];
    let words = |key: &str| -> Vec<String> {
        names[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|s| s.as_str().map(str::to_owned))
            .collect()
    };
    let plural = str_at(names, "/plural");
    let kind = str_at(names, "/kind");
    let or = |given: &str, default: String| {
        if given.is_empty() { default } else { given.to_owned() }
    };
    let scale = version.pointer("/subresources/scale").map(|s| ScalePaths {
        spec_replicas: pointer(str_at(s, "/specReplicasPath")),
        status_replicas: pointer(str_at(s, "/statusReplicasPath")),
        selector: Some(pointer(str_at(s, "/labelSelectorPath"))).filter(|p| !p.is_empty()),
    });
    Resource {
        group: group.to_owned(),
        version: str_at(version, "/name").to_owned(),
        plural: plural.to_owned(),
        singular: or(str_at(names, "/singular"), kind.to_lowercase()),
        kind: kind.to_owned(),
        list_kind: or(str_at(names, "/listKind"), format!("{kind}List")),
        namespaced: str_at(definition, "/spec/scope") == "Namespaced",
        short_names: words("shortNames"),
        categories: words("categories"),
        status: version.pointer("/subresources/status").is_some(),
        scale,
        extra: &[],
        generation: true,
        virtual_only: false,
        storage: format!("{plural}.{group}").into(),
        storage_api_version: join_group_version(group, stored),
        source: Source::Custom(Box::new(CustomVersion {
            schema: version
                .pointer("/schema/openAPIV3Schema")
                .cloned()
                .unwrap_or(Value::Null),
            columns: columns(version),
        })),
    }
}

/// `.spec.replicas` -> `/spec/replicas`.
fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

fn columns(version: &Value) -> Vec<Column> {
    let given = items(version, "/additionalPrinterColumns");
    if given.is_empty() {
        return vec![Column {
            name: "Age".to_owned(),
            kind: "date".to_owned(),
            path: ".metadata.creationTimestamp".to_owned(),
            priority: 0,
        }];
    }
    given
        .iter()
        .map(|c| Column {
            name: str_at(c, "/name").to_owned(),
            kind: str_at(c, "/type").to_owned(),
            path: str_at(c, "/jsonPath").to_owned(),
            priority: c["priority"].as_i64().unwrap_or(0),
        })
        .collect()
}

/// The names, conditions and stored versions that make a definition established.
pub fn establish(definition: &mut Value) {
    let now = super::object::now();
    let names = &mut definition["spec"]["names"];
    let kind = str_at(names, "/kind").to_owned();
    let names = super::object::as_map(names);
    names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
    names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
    let accepted = Value::Object(names.clone());
    super::object::map_at(definition, "spec")
        .entry("conversion")
        .or_insert_with(|| json!({"strategy": "None"}));
    let stored: Vec<Value> = items(definition, "/spec/versions")
        .iter()
        .filter(|v| v["storage"] == json!(true))
        .map(|v| v["name"].clone())
        .collect();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now});
    let mut conditions = items(definition, "/status/conditions").to_vec();
    for (kind, reason, message) in [
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        (
            "Established",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        ),
    ] {
        if !conditions.iter().any(|c| str_at(c, "/type") == kind) {
            conditions.push(condition(kind, reason, message));
        }
    }
    definition["status"] = json!({"acceptedNames": accepted, "conditions": conditions, "storedVersions": stored});
}

/// What is wrong with a definition itself.
pub fn check_definition(definition: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let group = str_at(definition, "/spec/group");
    let plural = str_at(definition, "/spec/names/plural");
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    }
    for field in ["plural", "kind"] {
        if str_at(definition, &format!("/spec/names/{field}")).is_empty() {
            causes.push(Cause::required(format!("spec.names.{field}"), ""));
        }
    }
    let name = super::object::name(definition);
    if !group.is_empty() && !plural.is_empty() && name != format!("{plural}.{group}") {
        causes.push(Cause::invalid(
            "metadata.name",
            &name.into(),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    let scope = str_at(definition, "/spec/scope");
    if !matches!(scope, "Namespaced" | "Cluster") {
        causes.push(Cause::unsupported(
            "spec.scope",
            &scope.into(),
            &["Cluster", "Namespaced"],
        ));
    }
    let versions = items(definition, "/spec/versions");
    let stored = versions.iter().filter(|v| v["storage"] == json!(true)).count();
    if stored != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &json!(versions.len()),
            "must have exactly one version marked as storage version",
        ));
    }
    for (i, v) in versions.iter().enumerate() {
        if v.pointer("/schema/openAPIV3Schema").is_none() {
            causes.push(Cause::required(
                format!("spec.versions[{i}].schema.openAPIV3Schema"),
                "schemas are required",
            ));
        }
    }
    causes
}

/// Checks an object against its structural schema.
pub fn check_object(version: &CustomVersion, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let Some(map) = object.as_object() else {
        return causes;
    };
    let properties = &version.schema["properties"];
    for required in items(&version.schema, "/required").iter().filter_map(Value::as_str) {
        if !map.contains_key(required) {
            causes.push(Cause::required(required, ""));
        }
    }
    for (key, value) in map {
        if matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        check(&properties[key], value, key, 0, &mut causes);
    }
    causes
}

/// Removes what the schema does not know (pruning) and fills in its defaults; returns the removed fields.
pub fn prune_and_default(version: &CustomVersion, object: &mut Value) -> Vec<String> {
    let mut removed = Vec::new();
    if version.schema.is_object() {
        prune(&version.schema, object, "", 0, &mut removed);
    }
    removed
}

fn prune(schema: &Value, value: &mut Value, path: &str, depth: usize, removed: &mut Vec<String>) {
    if depth > SCHEMA_DEPTH_MAX {
        return;
    }
    match value {
        Value::Object(map) => {
            let properties = schema["properties"].as_object();
            let additional = &schema["additionalProperties"];
            let open = schema["x-kubernetes-preserve-unknown-fields"] == json!(true) || additional == &json!(true);
            for (name, property) in properties.into_iter().flatten() {
                if let Some(default) = property.get("default")
                    && !map.contains_key(name)
                {
                    map.insert(name.clone(), default.clone());
                }
            }
            let embedded = depth == 0 || schema["x-kubernetes-embedded-resource"] == json!(true);
            map.retain(|key, _| {
                let known = properties.is_some_and(|p| p.contains_key(key))
                    || additional.is_object()
                    || open
                    || (embedded && matches!(key.as_str(), "apiVersion" | "kind" | "metadata"));
                if !known {
                    removed.push(join(path, key));
                }
                known
            });
            for (key, child) in map.iter_mut() {
                if depth == 0 && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                let property = properties.and_then(|p| p.get(key)).unwrap_or(additional);
                if property.is_object() {
                    prune(property, child, &join(path, key), depth + 1, removed);
                }
            }
        }
        Value::Array(list) => {
            for (i, child) in list.iter_mut().enumerate() {
                prune(&schema["items"], child, &format!("{path}[{i}]"), depth + 1, removed);
            }
        }
        _ => {}
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn has_type(value: &Value, wanted: &str) -> bool {
    let actual = type_name(value);
    actual == wanted
        || (wanted == "number" && actual == "integer")
        || (wanted == "integer" && value.as_f64().is_some_and(|f| f.fract() == 0.0))
}

fn check(schema: &Value, value: &Value, path: &str, depth: usize, causes: &mut Vec<Cause>) {
    if !schema.is_object() || depth > SCHEMA_DEPTH_MAX {
        return;
    }
    if value.is_null() && schema["nullable"] == json!(true) {
        return;
    }
    if schema["x-kubernetes-int-or-string"] == json!(true) {
        if !(value.is_string() || value.is_i64() || value.is_u64()) {
            causes.push(wrong_type(path, value, "integer,string"));
        }
        return;
    }
    if let Some(wanted) = schema["type"].as_str()
        && !has_type(value, wanted)
    {
        causes.push(wrong_type(path, value, wanted));
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let shown: Vec<String> = allowed.iter().map(Value::to_string).collect();
        causes.push(Cause {
            field: path.to_owned(),
            reason: "FieldValueNotSupported",
            message: format!("Unsupported value: {value}: supported values: {}", shown.join(", ")),
        });
    }
    match value {
        Value::Object(map) => check_map(schema, map, value, path, depth, causes),
        Value::Array(list) => {
            bounds(
                schema,
                "minItems",
                "maxItems",
                list.len() as f64,
                "have",
                "items",
                value,
                path,
                causes,
            );
            for (i, v) in list.iter().enumerate() {
                check(&schema["items"], v, &format!("{path}[{i}]"), depth + 1, causes);
            }
        }
        Value::String(s) => check_string(schema, s, path, causes),
        Value::Number(n) => {
            let n = n.as_f64().unwrap_or(0.0);
            bounds(schema, "minimum", "maximum", n, "be", "", value, path, causes);
        }
        _ => {}
    }
    for (all, name) in [(true, "allOf"), (false, "anyOf")] {
        if let Some(parts) = schema[name].as_array() {
            let failed: Vec<Vec<Cause>> = parts
                .iter()
                .map(|s| {
                    let mut inner = Vec::new();
                    check(s, value, path, depth + 1, &mut inner);
                    inner
                })
                .collect();
            if all {
                causes.extend(failed.into_iter().flatten());
            } else if !failed.is_empty() && failed.iter().all(|f| !f.is_empty()) {
                causes.push(Cause::invalid(
                    path,
                    value,
                    format!("{path} in body must validate at least one schema (anyOf)"),
                ));
            }
        }
    }
}

fn wrong_type(path: &str, value: &Value, wanted: &str) -> Cause {
    Cause {
        field: path.to_owned(),
        reason: "FieldValueTypeInvalid",
        message: format!(
            "Invalid value: {value}: {path} in body must be of type {wanted}: {:?}",
            type_name(value)
        ),
    }
}

fn check_map(
    schema: &Value,
    map: &serde_json::Map<String, Value>,
    value: &Value,
    path: &str,
    depth: usize,
    causes: &mut Vec<Cause>,
) {
    for required in items(schema, "/required").iter().filter_map(Value::as_str) {
        if !map.contains_key(required) {
            causes.push(Cause::required(format!("{path}.{required}"), ""));
        }
    }
    bounds(
        schema,
        "minProperties",
        "maxProperties",
        map.len() as f64,
        "have",
        "properties",
        value,
        path,
        causes,
    );
    let properties = schema["properties"].as_object();
    for (key, child) in map {
        let property = properties
            .and_then(|p| p.get(key))
            .unwrap_or(&schema["additionalProperties"]);
        check(property, child, &format!("{path}.{key}"), depth + 1, causes);
    }
}

fn check_string(schema: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let value = Value::from(text);
    let length = text.chars().count() as f64;
    bounds(
        schema,
        "minLength",
        "maxLength",
        length,
        "be",
        "chars long",
        &value,
        path,
        causes,
    );
    if let Some(pattern) = schema["pattern"].as_str() {
        match regex::Regex::new(pattern) {
            Ok(re) if !re.is_match(text) => causes.push(Cause::invalid(
                path,
                &value,
                format!("{path} in body should match '{pattern}'"),
            )),
            Ok(_) => {}
            Err(e) => tracing::warn!("the pattern {pattern:?} of {path} is not checked: {e}"),
        }
    }
    let ok = match schema["format"].as_str() {
        Some("date-time") => text.parse::<jiff::Timestamp>().is_ok(),
        Some("ipv4") => text.parse::<std::net::Ipv4Addr>().is_ok(),
        Some("ipv6") => text.parse::<std::net::Ipv6Addr>().is_ok(),
        _ => true,
    };
    if !ok {
        let format = schema["format"].as_str().unwrap_or("");
        causes.push(Cause::invalid(
            path,
            &value,
            format!("{path} in body must be of type {format}"),
        ));
    }
}

#[allow(clippy::too_many_arguments)]
fn bounds(
    schema: &Value,
    low: &str,
    high: &str,
    actual: f64,
    verb: &str,
    unit: &str,
    value: &Value,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    let unit = if unit.is_empty() {
        String::new()
    } else {
        format!(" {unit}")
    };
    if let Some(min) = schema[low].as_f64() {
        let open = schema["exclusiveMinimum"] == json!(true) && low == "minimum";
        if actual < min || (open && actual == min) {
            let than = if open {
                "greater than"
            } else {
                "greater than or equal to"
            };
            let hint = format!("{path} in body should {verb} {than} {min}{unit}");
            causes.push(Cause::invalid(path, value, hint));
        }
    }
    if let Some(max) = schema[high].as_f64() {
        let open = schema["exclusiveMaximum"] == json!(true) && high == "maximum";
        if actual > max || (open && actual == max) {
            let than = if open { "less than" } else { "less than or equal to" };
            let hint = format!("{path} in body should {verb} {than} {max}{unit}");
            causes.push(Cause::invalid(path, value, hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version() -> CustomVersion {
        CustomVersion {
            schema: json!({"type": "object", "properties": {"spec": {
                "type": "object", "required": ["service"], "properties": {
                    "service": {"type": "string", "minLength": 1},
                    "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
                    "backends": {"type": "array", "items": {"type": "object", "properties": {
                        "weight": {"type": "integer", "minimum": 0, "maximum": 100},
                        "name": {"type": "string", "pattern": "^[a-z]+$"}}}}}}}}),
            columns: Vec::new(),
        }
    }

    #[test]
    fn wrong_objects_are_told_field_by_field() {
        let bad = json!({"apiVersion": "x/v1", "kind": "T", "spec": {"mode": "c",
            "backends": [{"weight": "abc"}, {"weight": 101, "name": "A"}]}});
        let causes = check_object(&version(), &bad);
        let shown: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let text = shown.join("\n");
        for part in [
            "spec.service: Required value",
            "spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\"",
            "spec.backends[0].weight: Invalid value: \"abc\": spec.backends[0].weight in body must be of type integer: \"string\"",
            "should be less than or equal to 100",
            "spec.backends[1].name in body should match '^[a-z]+$'",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let good = json!({"spec": {"service": "x", "backends": [{"weight": 1, "name": "a"}]}});
        assert!(check_object(&version(), &good).is_empty());
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let mut object = json!({"metadata": {"name": "x"}, "spec": {"service": "s", "extra": 1}});
        assert_eq!(prune_and_default(&version(), &mut object), ["spec.extra"]);
        assert_eq!(object["spec"], json!({"service": "s", "mode": "a"}));
    }
}
