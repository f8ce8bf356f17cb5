//! Protobuf's JSON as people write it: YAML or JSON, `snake_case` or `lowerCamelCase`.
//!
//! Enters: text. Leaves: a JSON value whose field names are all `snake_case`, ready for serde types that refuse unknown
//! fields. Free-form parts (node metadata, filter metadata, channel arguments) keep their keys.

use serde_json::{Map, Value};

/// Files above this size are no bootstrap.
pub const TEXT_BYTES_MAX: usize = 64 << 20;

/// Parses YAML or JSON.
pub fn parse(text: &str) -> Result<Value, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("larger than {TEXT_BYTES_MAX} bytes"));
    }
    let value: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|e| e.to_string())?
    } else {
        serde_saphyr::from_str(text).map_err(|e| e.to_string())?
    };
    Ok(snake(value))
}

/// Renames fields to `snake_case`.
fn snake(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(snake).collect()),
        // A null is an unset field.
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, v)| !v.is_null())
                .map(field)
                .collect::<Map<_, _>>(),
        ),
        other => other,
    }
}

fn field((key, value): (String, Value)) -> (String, Value) {
    let key = weir_xds::json::snake(&key);
    let value = match key.as_str() {
        "filter_metadata" | "args" | "json_format" => value,
        // Of a node a free-form struct, of anything else a message with `filter_metadata`.
        "metadata" if !has_filter_metadata(&value) => value,
        "typed_extension_protocol_options" | "typed_per_filter_config" => match value {
            Value::Object(fields) => Value::Object(fields.into_iter().map(|(k, v)| (k, snake(v))).collect()),
            other => other,
        },
        _ => snake(value),
    };
    (key, value)
}

fn has_filter_metadata(value: &Value) -> bool {
    value
        .get("filter_metadata")
        .or_else(|| value.get("filterMetadata"))
        .is_some()
}

/// Refuses a list where a message stands: serde would take its items for the message's fields. Resources are left out, and
/// so is what is free or only concerns Envoy.
pub fn no_lists(at: &str, value: &Value) -> Result<(), (String, String)> {
    const LISTS: [&str; 2] = ["grpc_services", "call_credentials"];
    const ELSEWHERE: [&str; 12] = [
        "access_log",
        "args",
        "cds_config",
        "clusters",
        "layered_runtime",
        "lds_config",
        "listeners",
        "locality",
        "metadata",
        "overload_manager",
        "secrets",
        "stats_config",
    ];
    match value {
        Value::Array(_) => Err((at.to_owned(), "must be a message, not a list".to_owned())),
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| match value {
            _ if ELSEWHERE.contains(&key.as_str()) => Ok(()),
            Value::Array(items) if LISTS.contains(&key.as_str()) => items
                .iter()
                .enumerate()
                .try_for_each(|(i, item)| no_lists(&format!("{at}.{key}[{i}]"), item)),
            value => no_lists(&format!("{at}.{key}"), value),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn yaml_and_json_in_either_case_are_the_same() {
        let yaml =
            "node: {id: a.b, metadata: {hostIp: 1.2.3.4}}\nstaticResources: {clusters: [{connectTimeout: 1s}]}\n";
        let expected = json!({
            "node": {"id": "a.b", "metadata": {"hostIp": "1.2.3.4"}},
            "static_resources": {"clusters": [{"connect_timeout": "1s"}]},
        });
        assert_eq!(parse(yaml).unwrap(), expected);
        assert_eq!(parse(&expected.to_string()).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,200}") {
            let _ = parse(&text);
        }
    }
}
