//! Tables as kubectl prints them: columns of a resource and the cells of its objects.

use serde_json::{Value, json};

use super::crd::Column;
use super::object::{items, str_at};
use super::registry::{Resource, Source};

/// The Table of some objects, all of one resource.
pub fn of(resource: &Resource, objects: &[&Value], include: &str, with_columns: bool) -> Value {
    let now = jiff::Timestamp::now();
    let custom = match &resource.source {
        Source::Custom(v) => Some(&v.columns),
        Source::Builtin(_) => None,
    };
    let rows: Vec<Value> = objects
        .iter()
        .map(|o| {
            let cells = match custom {
                Some(columns) => custom_cells(columns, o, now),
                None => super::printers::cells(resource, o, now),
            };
            let mut row = json!({"cells": cells});
            match include {
                "None" => {}
                "Object" => row["object"] = (*o).clone(),
                _ => {
                    row["object"] = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": o["metadata"]});
                }
            }
            row
        })
        .collect();
    let mut table =
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "rows": rows, "columnDefinitions": []});
    if with_columns {
        table["columnDefinitions"] = match custom {
            Some(columns) => custom_columns(columns),
            None => builtin_columns(super::printers::columns(resource)),
        };
    }
    table
}

/// A name that starts with `+` is shown in wide output only.
fn builtin_columns(names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| {
            let wide = name.starts_with('+');
            let name = name.trim_start_matches('+');
            let kind = match name {
                "Desired" | "Current" | "Up-to-date" | "Available" | "Data" | "Secrets" | "Count" => "integer",
                _ => "string",
            };
            json!({"name": name, "type": kind, "format": if name == "Name" { "name" } else { "" },
                "description": "", "priority": i32::from(wide)})
        })
        .collect()
}

fn custom_columns(columns: &[Column]) -> Value {
    let mut all = vec![json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0})];
    all.extend(
        columns
            .iter()
            .map(|c| json!({"name": c.name, "type": c.kind, "format": "", "description": "", "priority": c.priority})),
    );
    Value::Array(all)
}

fn custom_cells(columns: &[Column], object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let mut cells = vec![object["metadata"]["name"].clone()];
    for c in columns {
        let found = json_path(object, &c.path);
        cells.push(match (c.kind.as_str(), found.as_slice()) {
            (_, []) => Value::Null,
            ("date", [one]) => age(one.as_str().unwrap_or(""), now).into(),
            ("integer" | "number" | "boolean", [one]) => (*one).clone(),
            (_, [Value::String(s)]) => s.clone().into(),
            (_, [one]) => one.to_string().into(),
            (_, many) => {
                let words: Vec<String> = many
                    .iter()
                    .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                    .collect();
                words.join(",").into()
            }
        });
    }
    cells
}

/// The small part of JSONPath that printer columns use: `.a.b`, `[0]`, `[*]`, `['a.b']`, `[?(@.type=="X")]`.
fn json_path<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![object];
    let mut rest = path
        .trim()
        .trim_start_matches('{')
        .trim_end_matches('}')
        .trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let Some(end) = inner.find(']') else { return Vec::new() };
            let (index, after) = (&inner[..end], &inner[end + 1..]);
            rest = after;
            found = found.into_iter().flat_map(|v| indexed(v, index)).collect();
        } else {
            let text = rest.trim_start_matches('.');
            // A backslash keeps a dot within a name.
            let mut end = text.len();
            let bytes = text.as_bytes();
            for (i, b) in bytes.iter().enumerate() {
                let escaped = i > 0 && bytes[i - 1] == b'\\';
                if (*b == b'.' && !escaped) || *b == b'[' {
                    end = i;
                    break;
                }
            }
            let name = text[..end].replace("\\.", ".");
            rest = &text[end..];
            if name.is_empty() {
                continue;
            }
            found = found.into_iter().filter_map(|v| v.get(&name)).collect();
        }
    }
    found.retain(|v| !v.is_null());
    found
}

fn indexed<'a>(value: &'a Value, index: &str) -> Vec<&'a Value> {
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    if index == "*" {
        return list.iter().collect();
    }
    if let Ok(i) = index.parse::<usize>() {
        return list.get(i).into_iter().collect();
    }
    if let Some(filter) = index.strip_prefix("?(@.").and_then(|f| f.strip_suffix(')'))
        && let Some((field, wanted)) = filter.split_once("==")
    {
        let wanted = wanted.trim().trim_matches(['"', '\'']);
        return list
            .iter()
            .filter(|v| v[field.trim()].as_str() == Some(wanted))
            .collect();
    }
    let name = index.trim_matches(['"', '\'']);
    value.get(name).into_iter().collect()
}

/// The age of a timestamp, as kubectl shows ages.
pub fn age(timestamp: &str, now: jiff::Timestamp) -> String {
    match timestamp.parse::<jiff::Timestamp>() {
        Ok(then) => human_duration(now.as_second() - then.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

pub fn age_of(object: &Value, now: jiff::Timestamp) -> Value {
    age(str_at(object, "/metadata/creationTimestamp"), now).into()
}

/// At most two units, and only as many as matter.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let s = seconds.max(0);
    let (minutes, hours, days) = (s / 60, s / 3600, s / 86400);
    let pair = |a: i64, unit_a: &str, b: i64, unit_b: &str| {
        if b == 0 {
            format!("{a}{unit_a}")
        } else {
            format!("{a}{unit_a}{b}{unit_b}")
        }
    };
    if s < 120 {
        format!("{s}s")
    } else if minutes < 10 {
        pair(minutes, "m", s % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        pair(days, "d", hours % 24, "h")
    } else if days < 730 {
        format!("{days}d")
    } else if days < 365 * 8 {
        pair(days / 365, "y", days % 365, "d")
    } else {
        format!("{}y", days / 365)
    }
}

/// `a=b,c=d` of a map, `<none>` of an empty one.
pub fn labels_text(labels: &Value) -> String {
    let parts: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")))
        .collect();
    if parts.is_empty() {
        "<none>".to_owned()
    } else {
        parts.join(",")
    }
}

/// The strings at a pointer in each element of a list, joined; `<none>` when there are none.
pub fn joined(object: &Value, list: &str, field: &str) -> String {
    let words: Vec<&str> = items(object, list)
        .iter()
        .map(|v| str_at(v, field))
        .filter(|s| !s.is_empty())
        .collect();
    if words.is_empty() {
        "<none>".to_owned()
    } else {
        words.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_as_kubectl_shows_them() {
        for (seconds, shown) in [
            (5, "5s"),
            (119, "119s"),
            (125, "2m5s"),
            (601, "10m"),
            (4 * 3600 + 60, "4h1m"),
            (9 * 3600, "9h"),
            (3 * 86400, "3d"),
            (3 * 86400 + 3600, "3d1h"),
            (9 * 86400, "9d"),
            (800 * 86400, "2y70d"),
        ] {
            assert_eq!(human_duration(seconds), shown);
        }
    }

    #[test]
    fn paths_of_printer_columns() {
        let o = json!({"spec": {"a": [{"n": 1}, {"n": 2}], "x.y": "z"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(json_path(&o, ".spec.a[1].n"), [&json!(2)]);
        assert_eq!(json_path(&o, ".spec.a[*].n").len(), 2);
        assert_eq!(json_path(&o, ".spec.x\\.y"), [&json!("z")]);
        assert_eq!(json_path(&o, ".spec['x.y']"), [&json!("z")]);
        assert_eq!(
            json_path(&o, ".status.conditions[?(@.type==\"Ready\")].status"),
            [&json!("True")]
        );
        assert!(json_path(&o, ".spec.none.deeper").is_empty());
    }
}
