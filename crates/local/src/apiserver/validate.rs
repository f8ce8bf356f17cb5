//! Is an object acceptable? Types and unknown fields (by decoding into the typed form), metadata, and the rules of the
//! common kinds. Every refusal names kind, object and field, and says what would be right.

use serde_json::{Value, json};

use super::crd;
use super::error::{ApiError, Cause, Result};
use super::ingress;
use super::labels;
use super::object::{items, name, str_at};
use super::registry::{Resource, RoundTrip, Source};

/// What to do with fields that the kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Checks types and fields; returns warnings. Custom objects are pruned and defaulted on the way.
pub fn decode(resource: &Resource, object: &mut Value, fields: FieldValidation) -> Result<Vec<String>> {
    let unknown = match &resource.source {
        Source::Builtin(round_trip) => {
            let known = round_trip(object).map_err(|e| undecodable(resource, object, *round_trip, &e))?;
            let mut unknown = Vec::new();
            collect_unknown(object, &known, "", &mut unknown);
            unknown
        }
        Source::Custom(version) => {
            check_metadata_types(resource, object)?;
            crd::prune_and_default(version, object)
        }
    };
    if unknown.is_empty() || fields == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    let shown: Vec<String> = unknown.iter().map(|f| format!("unknown field {f:?}")).collect();
    if fields == FieldValidation::Strict {
        return Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            resource.kind,
            resource.version,
            resource.kind,
            shown.join(", ")
        )));
    }
    Ok(shown)
}

fn undecodable(resource: &Resource, object: &Value, decode: RoundTrip, error: &serde_json::Error) -> ApiError {
    let field = locate(object, decode);
    let named = match name(object) {
        "" => String::new(),
        n => format!(" {n:?}"),
    };
    ApiError::bad_request(format!(
        "{}{named} in version {:?} cannot be handled as a {}: {field}: {error}",
        resource.kind, resource.version, resource.kind
    ))
}

/// Metadata of custom objects, whose schema says nothing of it.
fn check_metadata_types(resource: &Resource, object: &Value) -> Result<()> {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    let decode: RoundTrip = |v| {
        let meta: ObjectMeta = serde_json::from_value(v["metadata"].clone())?;
        serde_json::to_value(meta)
    };
    match decode(object) {
        Ok(_) => Ok(()),
        Err(e) => Err(undecodable(resource, object, decode, &e)),
    }
}

/// The field on account of which `decode` fails: the innermost one without which the failure goes away.
fn locate(object: &Value, decode: RoundTrip) -> String {
    let Err(first) = decode(object) else {
        return String::new();
    };
    let first = first.to_string();
    let mut root = object.clone();
    let mut pointer = String::new();
    let mut path = String::new();
    loop {
        let children: Vec<(String, String)> = match root.pointer(&pointer) {
            Some(Value::Object(map)) => map
                .keys()
                .map(|k| {
                    let shown = if path.is_empty() {
                        k.clone()
                    } else {
                        format!("{path}.{k}")
                    };
                    (k.clone(), shown)
                })
                .collect(),
            Some(Value::Array(list)) => (0..list.len())
                .map(|i| (i.to_string(), format!("{path}[{i}]")))
                .collect(),
            _ => return path,
        };
        let culprit = children.into_iter().find(|(key, _)| {
            let Some(parent) = root.pointer_mut(&pointer) else {
                return false;
            };
            let (Some(removed), index) = remove(parent, key) else {
                return false;
            };
            let fixed = match decode(&root) {
                Ok(_) => true,
                Err(e) => e.to_string() != first,
            };
            if let Some(parent) = root.pointer_mut(&pointer) {
                restore(parent, key, index, removed);
            }
            fixed
        });
        match culprit {
            Some((key, shown)) => {
                pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                path = shown;
            }
            None => return path,
        }
    }
}

fn remove(parent: &mut Value, key: &str) -> (Option<Value>, Option<usize>) {
    match parent {
        Value::Object(map) => (map.remove(key), None),
        Value::Array(list) => match key.parse::<usize>() {
            Ok(i) if i < list.len() => (Some(list.remove(i)), Some(i)),
            _ => (None, None),
        },
        _ => (None, None),
    }
}

fn restore(parent: &mut Value, key: &str, index: Option<usize>, value: Value) {
    match (parent, index) {
        (Value::Object(map), _) => {
            map.insert(key.to_owned(), value);
        }
        (Value::Array(list), Some(i)) => list.insert(i.min(list.len()), value),
        _ => {}
    }
}

/// Fields of `given` that are not in `known`, its decoded and encoded form.
fn collect_unknown(given: &Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (key, value) in given {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match known.get(key) {
                    Some(k) => collect_unknown(value, k, &path, unknown),
                    None if value.is_null() => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (i, (g, k)) in given.iter().zip(known).enumerate() {
                collect_unknown(g, k, &format!("{path}[{i}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Checks a complete object, after defaulting. `old` is set for updates.
pub fn check(resource: &Resource, object: &Value, old: Option<&Value>) -> Result<()> {
    let mut causes = Vec::new();
    metadata(resource, object, &mut causes);
    match &resource.source {
        Source::Custom(version) => causes.extend(crd::check_object(version, object)),
        Source::Builtin(_) => builtin(resource, object, old, &mut causes),
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(resource, name(object), &causes))
    }
}

fn metadata(resource: &Resource, object: &Value, causes: &mut Vec<Cause>) {
    let name = name(object);
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Err(hint) = check_name(resource, name) {
        causes.push(Cause::invalid("metadata.name", &name.into(), hint));
    }
    let maps = [("labels", true), ("annotations", false)];
    for (field, is_label) in maps {
        let Some(map) = object["metadata"][field].as_object() else {
            continue;
        };
        for (key, value) in map {
            // Annotation keys may be upper case in their prefix.
            let checked = if is_label { key.clone() } else { key.to_lowercase() };
            if let Err(hint) = labels::check_key(&checked) {
                causes.push(Cause::invalid(format!("metadata.{field}"), &key.as_str().into(), hint));
            }
            if is_label && let Err(hint) = labels::check_value(value.as_str().unwrap_or("")) {
                causes.push(Cause::invalid("metadata.labels", value, hint));
            }
        }
    }
    for (i, owner) in items(object, "/metadata/ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if str_at(owner, &format!("/{field}")).is_empty() {
                causes.push(Cause::invalid(
                    format!("metadata.ownerReferences[{i}].{field}"),
                    &json!(""),
                    format!("{field} must not be empty"),
                ));
            }
        }
    }
}

fn check_name(resource: &Resource, name: &str) -> std::result::Result<(), String> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => labels::check_dns_label(name),
        ("", "services") => labels::check_dns_1035(name),
        ("rbac.authorization.k8s.io", _) => labels::check_path_segment(name),
        _ => labels::check_dns_subdomain(name),
    }
}

fn builtin(resource: &Resource, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => {
            pod_spec(&object["spec"], "spec", causes);
            if let Some(old) = old {
                pod_unchanged(old, object, causes);
            }
        }
        ("", "services") => service(object, old, causes),
        ("", "configmaps") => data_keys(object, causes),
        ("", "secrets") => {
            data_keys(object, causes);
            unchanged(old, object, "/type", "type", causes);
            if str_at(object, "/type") == "kubernetes.io/tls" {
                for key in ["tls.crt", "tls.key"] {
                    if object["data"].get(key).is_none() {
                        causes.push(Cause::required(format!("data[{key}]"), ""));
                    }
                }
            }
        }
        ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets") => {
            workload(resource, object, old, causes);
        }
        ("batch", "jobs") => pod_spec(&object["spec"]["template"]["spec"], "spec.template.spec", causes),
        ("networking.k8s.io", "ingresses") => ingress::check(object, old, causes),
        ("networking.k8s.io", "ingressclasses") => ingress::check_ingress_class(object, old, causes),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            for field in ["kind", "name"] {
                if str_at(&object["roleRef"], &format!("/{field}")).is_empty() {
                    causes.push(Cause::required(format!("roleRef.{field}"), ""));
                }
            }
            subjects(object, causes);
            if old.is_some_and(|o| o["roleRef"] != object["roleRef"]) {
                causes.push(Cause::invalid("roleRef", &object["roleRef"], "cannot change roleRef"));
            }
        }
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => rules(resource, object, causes),
        ("discovery.k8s.io", "endpointslices") => {
            let kind = str_at(object, "/addressType");
            if !matches!(kind, "IPv4" | "IPv6" | "FQDN") {
                causes.push(Cause::unsupported(
                    "addressType",
                    &kind.into(),
                    &["IPv4", "IPv6", "FQDN"],
                ));
            }
            unchanged(old, object, "/addressType", "addressType", causes);
        }
        ("apiextensions.k8s.io", _) => causes.extend(crd::check_definition(object)),
        ("apiregistration.k8s.io", _) => api_service(object, causes),
        _ => {}
    }
}

fn unchanged(old: Option<&Value>, new: &Value, pointer: &str, field: &str, causes: &mut Vec<Cause>) {
    if let Some(old) = old
        && old.pointer(pointer) != new.pointer(pointer)
    {
        let value = new.pointer(pointer).unwrap_or(&Value::Null);
        causes.push(Cause::invalid(field, value, "field is immutable"));
    }
}

fn pod_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let containers = items(spec, "/containers");
    if containers.is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let volumes: Vec<&str> = items(spec, "/volumes").iter().map(|v| str_at(v, "/name")).collect();
    let mut names: Vec<&str> = Vec::new();
    for list in ["initContainers", "containers"] {
        for (i, c) in items(spec, &format!("/{list}")).iter().enumerate() {
            let path = format!("{path}.{list}[{i}]");
            let name = str_at(c, "/name");
            if name.is_empty() {
                causes.push(Cause::required(format!("{path}.name"), ""));
            } else if let Err(hint) = labels::check_dns_label(name) {
                causes.push(Cause::invalid(format!("{path}.name"), &name.into(), hint));
            } else if names.contains(&name) {
                causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
            }
            names.push(name);
            container(c, &path, &volumes, causes);
        }
    }
    let policy = str_at(spec, "/restartPolicy");
    if !matches!(policy, "Always" | "OnFailure" | "Never") {
        causes.push(Cause::unsupported(
            format!("{path}.restartPolicy"),
            &policy.into(),
            &["Always", "OnFailure", "Never"],
        ));
    }
}

fn container(c: &Value, path: &str, volumes: &[&str], causes: &mut Vec<Cause>) {
    if str_at(c, "/image").is_empty() {
        causes.push(Cause::required(format!("{path}.image"), ""));
    }
    for (i, port) in items(c, "/ports").iter().enumerate() {
        port_number(
            &port["containerPort"],
            &format!("{path}.ports[{i}].containerPort"),
            causes,
        );
        protocol(port, &format!("{path}.ports[{i}].protocol"), causes);
    }
    for (i, env) in items(c, "/env").iter().enumerate() {
        if str_at(env, "/name").is_empty() {
            causes.push(Cause::required(format!("{path}.env[{i}].name"), ""));
        }
    }
    for (i, mount) in items(c, "/volumeMounts").iter().enumerate() {
        let volume = str_at(mount, "/name");
        // The service account's own volume is added by admission, after it was checked that the others exist.
        if !volumes.contains(&volume) {
            causes.push(Cause {
                field: format!("{path}.volumeMounts[{i}].name"),
                reason: "FieldValueNotFound",
                message: format!("Not found: {volume:?}"),
            });
        }
        if str_at(mount, "/mountPath").is_empty() {
            causes.push(Cause::required(format!("{path}.volumeMounts[{i}].mountPath"), ""));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(p) = c.get(probe).filter(|p| p.is_object()) else {
            continue;
        };
        let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
        match handlers.iter().filter(|h| p.get(**h).is_some()).count() {
            1 => {}
            0 => causes.push(Cause::required(
                format!("{path}.{probe}"),
                "must specify a handler type",
            )),
            _ => causes.push(Cause::forbidden(
                format!("{path}.{probe}"),
                "may not specify more than 1 handler type",
            )),
        }
    }
}

fn port_number(port: &Value, path: &str, causes: &mut Vec<Cause>) {
    match port.as_i64() {
        Some(1..=65535) => {}
        _ => causes.push(Cause::invalid(path, port, "must be between 1 and 65535, inclusive")),
    }
}

fn protocol(port: &Value, path: &str, causes: &mut Vec<Cause>) {
    let protocol = str_at(port, "/protocol");
    if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
        causes.push(Cause::unsupported(path, &protocol.into(), &["SCTP", "TCP", "UDP"]));
    }
}

/// Of a pod's spec only images, the deadline, tolerations and (once) the node may change.
fn pod_unchanged(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    let mask = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for list in ["/containers", "/initContainers"] {
            for c in super::object::items_mut(&mut spec, list) {
                super::object::as_map(c).remove("image");
                super::object::as_map(c).remove("resources");
            }
        }
        let map = super::object::as_map(&mut spec);
        for field in [
            "activeDeadlineSeconds",
            "tolerations",
            "terminationGracePeriodSeconds",
            "schedulingGates",
            "ephemeralContainers",
        ] {
            map.remove(field);
        }
        if old.pointer("/spec/nodeName").is_none() {
            map.remove("nodeName");
        }
        spec
    };
    if mask(old) != mask(new) {
        causes.push(Cause::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
}

fn service(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let kind = str_at(spec, "/type");
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !kinds.contains(&kind) {
        causes.push(Cause::unsupported("spec.type", &kind.into(), &kinds));
    }
    let ports = items(spec, "/ports");
    if ports.is_empty() && kind != "ExternalName" && str_at(spec, "/clusterIP") != "None" {
        causes.push(Cause::required("spec.ports", ""));
    }
    if kind == "ExternalName" && str_at(spec, "/externalName").is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    let mut names: Vec<&str> = Vec::new();
    let mut numbers: Vec<(&Value, &Value)> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        port_number(&port["port"], &format!("{path}.port"), causes);
        protocol(port, &format!("{path}.protocol"), causes);
        let name = str_at(port, "/name");
        if name.is_empty() && ports.len() > 1 {
            causes.push(Cause::required(format!("{path}.name"), ""));
        } else if !name.is_empty() {
            if let Err(hint) = labels::check_dns_label(name) {
                causes.push(Cause::invalid(format!("{path}.name"), &name.into(), hint));
            }
            if names.contains(&name) {
                causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
            }
        }
        names.push(name);
        if port["targetPort"].is_number() {
            port_number(&port["targetPort"], &format!("{path}.targetPort"), causes);
        }
        let number = (&port["port"], &port["protocol"]);
        if numbers.contains(&number) {
            causes.push(Cause::duplicate(path, &json!({"port": number.0, "protocol": number.1})));
        }
        numbers.push(number);
    }
    if let Some(labels) = spec["selector"].as_object() {
        for (key, value) in labels {
            let text = value.as_str().unwrap_or("");
            for hint in [labels::check_key(key), labels::check_value(text)]
                .into_iter()
                .filter_map(|r| r.err())
            {
                causes.push(Cause::invalid("spec.selector", value, hint));
            }
        }
    }
    if let Some(old) = old
        && str_at(old, "/spec/type") != "ExternalName"
        && kind != "ExternalName"
    {
        unchanged(Some(old), object, "/spec/clusterIP", "spec.clusterIP", causes);
    }
}

fn data_keys(object: &Value, causes: &mut Vec<Cause>) {
    for map in ["data", "binaryData"] {
        for key in object[map].as_object().into_iter().flat_map(|m| m.keys()) {
            let ok = key.len() <= 253
                && !key.is_empty()
                && key != "."
                && key != ".."
                && key
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !ok {
                causes.push(Cause::invalid(
                    format!("{map}[{key}]"),
                    &key.as_str().into(),
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ));
            }
        }
    }
}

fn workload(resource: &Resource, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    if let Some(n) = spec["replicas"].as_i64()
        && n < 0
    {
        causes.push(Cause::invalid(
            "spec.replicas",
            &json!(n),
            "must be greater than or equal to 0",
        ));
    }
    let selector = &spec["selector"];
    let labels = &spec["template"]["metadata"]["labels"];
    let given = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    if !given {
        causes.push(Cause::required("spec.selector", ""));
    } else {
        let text = super::selector::label_selector_text(selector);
        if !selects(selector, labels) {
            causes.push(Cause::invalid(
                "spec.template.metadata.labels",
                labels,
                format!("`selector` does not match template `labels` (selector is {text})"),
            ));
        }
    }
    for (key, value) in labels.as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or("");
        for hint in [labels::check_key(key), labels::check_value(text)]
            .into_iter()
            .filter_map(|r| r.err())
        {
            causes.push(Cause::invalid("spec.template.metadata.labels", value, hint));
        }
    }
    pod_spec(&spec["template"]["spec"], "spec.template.spec", causes);
    let policy = str_at(spec, "/template/spec/restartPolicy");
    if matches!(policy, "OnFailure" | "Never") {
        causes.push(Cause::unsupported(
            "spec.template.spec.restartPolicy",
            &policy.into(),
            &["Always"],
        ));
    }
    if resource.group == "apps" {
        unchanged(old, object, "/spec/selector", "spec.selector", causes);
    }
}

/// Does a `metav1.LabelSelector` select these labels?
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let equal = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(k, v)| label(k) == v.as_str());
    equal
        && items(selector, "/matchExpressions").iter().all(|e| {
            let value = label(str_at(e, "/key"));
            let listed = value.is_some_and(|v| items(e, "/values").iter().any(|x| x == v));
            match str_at(e, "/operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

fn subjects(binding: &Value, causes: &mut Vec<Cause>) {
    for (i, subject) in items(binding, "/subjects").iter().enumerate() {
        let at = format!("subjects[{i}]");
        if str_at(subject, "/name").is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        }
        match str_at(subject, "/kind") {
            "User" | "Group" => {}
            "ServiceAccount" => {
                if str_at(subject, "/namespace").is_empty() {
                    causes.push(Cause::required(format!("{at}.namespace"), ""));
                }
            }
            other => causes.push(Cause::unsupported(
                format!("{at}.kind"),
                &other.into(),
                &["ServiceAccount", "User", "Group"],
            )),
        }
    }
}

fn rules(resource: &Resource, object: &Value, causes: &mut Vec<Cause>) {
    for (i, rule) in items(object, "/rules").iter().enumerate() {
        let at = format!("rules[{i}]");
        if items(rule, "/verbs").is_empty() {
            causes.push(Cause::required(
                format!("{at}.verbs"),
                "verbs must contain at least one value",
            ));
        }
        let paths = !items(rule, "/nonResourceURLs").is_empty();
        if paths && resource.namespaced {
            causes.push(Cause::invalid(
                format!("{at}.nonResourceURLs"),
                &rule["nonResourceURLs"],
                "namespaced rules cannot apply to non-resource URLs",
            ));
        }
        if !paths && items(rule, "/apiGroups").is_empty() {
            causes.push(Cause::required(
                format!("{at}.apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if !paths && items(rule, "/resources").is_empty() {
            causes.push(Cause::required(
                format!("{at}.resources"),
                "resource rules must supply at least one resource",
            ));
        }
    }
}

fn api_service(object: &Value, causes: &mut Vec<Cause>) {
    let (group, version) = (str_at(object, "/spec/group"), str_at(object, "/spec/version"));
    let wanted = format!("{version}.{group}");
    if name(object) != wanted.trim_end_matches('.') && name(object) != wanted {
        causes.push(Cause::invalid(
            "metadata.name",
            &name(object).into(),
            format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"),
        ));
    }
    for field in ["groupPriorityMinimum", "versionPriority"] {
        if object["spec"][field].as_i64().is_none_or(|n| n <= 0) {
            causes.push(Cause::invalid(
                format!("spec.{field}"),
                &object["spec"][field],
                "must be positive",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::Registry;
    use super::*;

    fn decoded(group: &str, plural: &str, mut object: Value, fields: FieldValidation) -> Result<Vec<String>> {
        let registry = Registry::new(Vec::new());
        decode(registry.any_version(group, plural).unwrap(), &mut object, fields)
    }

    #[test]
    fn a_wrong_type_is_told_with_kind_object_and_field() {
        let bad = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "reviews"},
            "spec": {"replicas": "three", "selector": {}, "template": {"spec": {"containers": []}}}});
        let e = decoded("apps", "deployments", bad, FieldValidation::Strict).unwrap_err();
        assert_eq!(e.code, 400);
        for part in ["Deployment \"reviews\"", "spec.replicas", "\"three\"", "i32"] {
            assert!(e.message.contains(part), "{}", e.message);
        }
        let bad = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "ports": [{"containerPort": "http"}]}]}});
        let e = decoded("", "pods", bad, FieldValidation::Strict).unwrap_err();
        assert!(
            e.message.contains("spec.containers[1].ports[0].containerPort"),
            "{}",
            e.message
        );
    }

    #[test]
    fn unknown_fields_are_refused_or_warned_of() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a", "imagee": "x"}], "hostNetwork": false}});
        let e = decoded("", "pods", object.clone(), FieldValidation::Strict).unwrap_err();
        assert!(
            e.message
                .contains("strict decoding error: unknown field \"spec.containers[0].imagee\""),
            "{}",
            e.message
        );
        let warnings = decoded("", "pods", object, FieldValidation::Warn).unwrap();
        assert_eq!(warnings, ["unknown field \"spec.containers[0].imagee\""]);
    }

    #[test]
    fn selectors_must_match_the_template() {
        let labels = json!({"app": "a", "version": "v1"});
        assert!(selects(&json!({"matchLabels": {"app": "a"}}), &labels));
        assert!(!selects(&json!({"matchLabels": {"app": "b"}}), &labels));
        assert!(selects(
            &json!({"matchExpressions": [{"key": "version", "operator": "In", "values": ["v1"]}]}),
            &labels
        ));
    }
}
