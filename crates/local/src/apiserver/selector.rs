//! Label and field selectors: text -> `Selector` -> does an object match.

use serde_json::Value;

use super::error::{ApiError, Result};
use super::object;
use super::registry::Resource;
use super::store::Object;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    NotExists,
    Greater(i64),
    Less(i64),
}

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
            Operator::NotIn(values) => !value.is_some_and(|v| values.iter().any(|x| x == v)),
            Operator::Exists => value.is_some(),
            Operator::NotExists => value.is_none(),
            Operator::Greater(n) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *n),
            Operator::Less(n) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *n),
        }
    }
}

/// One requirement on a field: pointer, equal or not, value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    field: String,
    equal: bool,
    value: String,
}

/// The label and field selectors of one request.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

impl Selector {
    pub fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self> {
        let labels =
            parse_labels(labels).map_err(|e| ApiError::bad_request(format!("unable to parse requirement: {e}")))?;
        let fields = parse_fields(fields).map_err(ApiError::bad_request)?;
        for f in &fields {
            if !field_known(resource, &f.field) {
                return Err(ApiError::bad_request(format!("field label not supported: {}", f.field)));
            }
        }
        Ok(Self { labels, fields })
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, object: &Object) -> bool {
        if !self.labels.iter().all(|r| r.matches(object.label(&r.key))) {
            return false;
        }
        let mut parsed: Option<Value> = None;
        self.fields.iter().all(|f| {
            let same = match f.field.as_str() {
                "metadata.name" => *object.name == *f.value,
                "metadata.namespace" => *object.namespace == *f.value,
                field => {
                    let value = parsed.get_or_insert_with(|| object.value());
                    field_value(value, field) == f.value
                }
            };
            same == f.equal
        })
    }
}

fn field_value(object: &Value, field: &str) -> String {
    // Events of either API group are stored in the core form.
    let field = match field {
        "reportingController" => "reportingComponent".to_owned(),
        "source" => "source.component".to_owned(),
        f => f.replace("regarding.", "involvedObject."),
    };
    let pointer = format!("/{}", field.replace('.', "/"));
    match object.pointer(&pointer) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Null) | None if matches!(field.as_str(), "spec.unschedulable" | "spec.hostNetwork") => {
            "false".to_owned()
        }
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

fn field_known(resource: &Resource, field: &str) -> bool {
    if matches!(field, "metadata.name" | "metadata.namespace") {
        return true;
    }
    let known: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "events") => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        ("", "secrets") => &["type"],
        ("", "namespaces") => &["status.phase"],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("apps", "replicasets") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        _ => &[],
    };
    known.contains(&field)
}

fn parse_fields(text: &str) -> std::result::Result<Vec<FieldRequirement>, String> {
    let mut found = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (field, equal, value) = if let Some((f, v)) = part.split_once("!=") {
            (f, false, v)
        } else if let Some((f, v)) = part.split_once("==") {
            (f, true, v)
        } else if let Some((f, v)) = part.split_once('=') {
            (f, true, v)
        } else {
            return Err(format!("invalid selector: '{part}'; can't understand '{part}'"));
        };
        found.push(FieldRequirement {
            field: field.trim().to_owned(),
            equal,
            value: value.trim().to_owned(),
        });
    }
    Ok(found)
}

/// Splits at commas outside parentheses.
fn split_requirements(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0i32, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_labels(text: &str) -> std::result::Result<Vec<Requirement>, String> {
    split_requirements(text)
        .into_iter()
        .map(str::trim)
        .filter(|p| !p.is_empty())
        .map(parse_requirement)
        .collect()
}

fn parse_requirement(part: &str) -> std::result::Result<Requirement, String> {
    let (key, operator) = requirement_parts(part)?;
    let key = key.trim();
    super::labels::check_key(key).map_err(|e| format!("key: Invalid value: {key:?}: {e}"))?;
    if let Operator::In(values) | Operator::NotIn(values) = &operator {
        for v in values {
            super::labels::check_value(v).map_err(|e| format!("values[0][{key}]: Invalid value: {v:?}: {e}"))?;
        }
    }
    Ok(Requirement {
        key: key.to_owned(),
        operator,
    })
}

fn requirement_parts(part: &str) -> std::result::Result<(&str, Operator), String> {
    if let Some(key) = part.strip_prefix('!') {
        return Ok((key, Operator::NotExists));
    }
    if let Some(open) = part.find('(') {
        let values = part[open + 1..]
            .strip_suffix(')')
            .ok_or_else(|| format!("found '{part}', expected: ')'"))?;
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        let head = part[..open].trim_end();
        if let Some(key) = head.strip_suffix(" notin") {
            return Ok((key, Operator::NotIn(values)));
        }
        if let Some(key) = head.strip_suffix(" in") {
            return Ok((key, Operator::In(values)));
        }
        return Err(format!("found '{head}', expected: in, notin"));
    }
    let one = |v: &str| vec![v.trim().to_owned()];
    let number = |v: &str| {
        v.trim()
            .parse::<i64>()
            .map_err(|_| format!("{v:?}: for 'Gt', 'Lt' operators, the value must be an integer"))
    };
    if let Some((k, v)) = part.split_once("!=") {
        Ok((k, Operator::NotIn(one(v))))
    } else if let Some((k, v)) = part.split_once("==") {
        Ok((k, Operator::In(one(v))))
    } else if let Some((k, v)) = part.split_once('=') {
        Ok((k, Operator::In(one(v))))
    } else if let Some((k, v)) = part.split_once('>') {
        Ok((k, Operator::Greater(number(v)?)))
    } else if let Some((k, v)) = part.split_once('<') {
        Ok((k, Operator::Less(number(v)?)))
    } else {
        Ok((part, Operator::Exists))
    }
}

/// The text form of a `metav1.LabelSelector`, as the scale subresource shows it.
pub fn label_selector_text(selector: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        for (k, v) in labels {
            parts.push(format!("{k}={}", v.as_str().unwrap_or("")));
        }
    }
    for e in object::items(selector, "/matchExpressions") {
        let key = object::str_at(e, "/key");
        let values: Vec<&str> = object::items(e, "/values").iter().filter_map(Value::as_str).collect();
        parts.push(match object::str_at(e, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(text: &str, labels: &[(&str, &str)]) -> bool {
        parse_labels(text)
            .unwrap()
            .iter()
            .all(|r| r.matches(labels.iter().find(|(k, _)| *k == r.key).map(|(_, v)| *v)))
    }

    #[test]
    fn label_selectors_match_as_in_kubernetes() {
        let l = [("app", "reviews"), ("version", "v2"), ("n", "5")];
        assert!(matches("app=reviews,version in (v1, v2)", &l));
        assert!(matches("app==reviews, version!=v1", &l));
        assert!(matches("version notin (v1),!gone,app", &l));
        assert!(matches("missing!=x", &l));
        assert!(matches("n>4,n<6", &l));
        assert!(!matches("app=details", &l));
        assert!(!matches("missing in (a)", &l));
        assert!(parse_labels("app in (a").is_err());
        assert!(parse_labels("-bad=x").is_err());
    }

    #[test]
    fn field_selectors_parse_their_operators() {
        let f = parse_fields("status.phase!=Running,spec.nodeName=a").unwrap();
        assert!(!f[0].equal && f[1].equal && f[1].value == "a");
        assert!(parse_fields("nonsense").is_err());
    }
}
