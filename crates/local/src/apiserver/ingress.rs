//! Ingress and IngressClass: the class of an Ingress that names none, and what makes either acceptable.
//!
//! Enters: objects. Leaves: the default class's name; causes for refusal, worded as Kubernetes words them. It does not know
//! what an ingress controller does with them.

use serde_json::{Value, json};

use super::error::Cause;
use super::labels;
use super::object::{items, name, str_at};

/// Annotation that names the class, from before there was a field for it.
const CLASS: &str = "/metadata/annotations/kubernetes.io~1ingress.class";
/// Annotation of the class that counts where none is named.
const IS_DEFAULT: &str = "/metadata/annotations/ingressclass.kubernetes.io~1is-default-class";
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const CONTROLLER_BYTES_MAX: usize = 250;
const PORT_NAME_BYTES_MAX: usize = 15;

/// The class that an Ingress without one gets: the youngest of those marked as default.
pub fn default_class(ingress: &Value, classes: impl Iterator<Item = Value>) -> Option<String> {
    if ingress.pointer("/spec/ingressClassName").is_some() || ingress.pointer(CLASS).is_some() {
        return None;
    }
    classes
        .filter(|class| str_at(class, IS_DEFAULT) == "true")
        .max_by(|a, b| {
            let made = |class: &Value| str_at(class, "/metadata/creationTimestamp").to_owned();
            made(a).cmp(&made(b)).then_with(|| name(b).cmp(name(a)))
        })
        .map(|class| name(&class).to_owned())
}

/// What is wrong with an Ingress.
pub fn check(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let rules = items(spec, "/rules");
    let default_backend = spec.get("defaultBackend").filter(|backend| !backend.is_null());
    if rules.is_empty() && default_backend.is_none() {
        let hint = "either `defaultBackend` or `rules` must be specified";
        causes.push(Cause::invalid("spec", &Value::Null, hint));
    }
    if let Some(found) = default_backend {
        backend(found, "spec.defaultBackend", causes);
    }
    for (number, rule) in rules.iter().enumerate() {
        let at = format!("spec.rules[{number}]");
        let host = str_at(rule, "/host");
        if !host.is_empty() {
            if host.parse::<std::net::IpAddr>().is_ok() {
                let hint = "must be a DNS name, not an IP address";
                causes.push(Cause::invalid(format!("{at}.host"), &host.into(), hint));
            }
            check_host(host, format!("{at}.host"), causes);
        }
        let Some(http) = rule.get("http").filter(|http| http.is_object()) else {
            continue;
        };
        if items(http, "/paths").is_empty() {
            causes.push(Cause::required(format!("{at}.http.paths"), ""));
        }
        for (number, path) in items(http, "/paths").iter().enumerate() {
            check_path(path, &format!("{at}.http.paths[{number}]"), causes);
        }
    }
    for (number, tls) in items(spec, "/tls").iter().enumerate() {
        let at = format!("spec.tls[{number}]");
        for (number, host) in items(tls, "/hosts").iter().enumerate() {
            check_host(
                host.as_str().unwrap_or_default(),
                format!("{at}.hosts[{number}]"),
                causes,
            );
        }
        let secret = str_at(tls, "/secretName");
        if !secret.is_empty()
            && let Err(hint) = labels::check_dns_subdomain(secret)
        {
            causes.push(Cause::invalid(format!("{at}.secretName"), &secret.into(), hint));
        }
    }
    check_class(object, old, causes);
}

fn check_class(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(class) = object.pointer("/spec/ingressClassName").and_then(Value::as_str) else {
        return;
    };
    if let Err(hint) = labels::check_dns_subdomain(class) {
        causes.push(Cause::invalid("spec.ingressClassName", &class.into(), hint));
    }
    let annotated = object.pointer(CLASS).and_then(Value::as_str);
    if let Some(annotated) = annotated.filter(|annotated| old.is_none() && *annotated != class) {
        let hint = "must match `ingressClassName` when both are specified";
        causes.push(Cause::invalid(
            "annotations.kubernetes.io/ingress.class",
            &annotated.into(),
            hint,
        ));
    }
}

fn check_host(host: &str, at: String, causes: &mut Vec<Cause>) {
    if !host.contains('*') {
        if let Err(hint) = labels::check_dns_subdomain(host) {
            causes.push(Cause::invalid(at, &host.into(), hint));
        }
        return;
    }
    let below = host.strip_prefix("*.").filter(|below| !below.contains('*'));
    if below.is_none_or(|below| labels::check_dns_subdomain(below).is_err()) {
        let hint = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        causes.push(Cause::invalid(at, &host.into(), hint));
    }
}

fn check_path(path: &Value, at: &str, causes: &mut Vec<Cause>) {
    let kind = str_at(path, "/pathType");
    if kind.is_empty() {
        causes.push(Cause::required(format!("{at}.pathType"), "pathType must be specified"));
        return;
    }
    let text = str_at(path, "/path");
    let mut refuse = |hint: String| {
        causes.push(Cause::invalid(
            format!("{at}.path"),
            &Value::String(text.to_owned()),
            hint,
        ))
    };
    let exact_or_prefix = matches!(kind, "Exact" | "Prefix");
    if PATH_TYPES.contains(&kind) && !text.starts_with('/') && (exact_or_prefix || !text.is_empty()) {
        refuse("must be an absolute path".to_owned());
    }
    if exact_or_prefix {
        for sequence in ["//", "/./", "/../", "%2f", "%2F"]
            .into_iter()
            .filter(|s| text.contains(s))
        {
            refuse(format!("must not contain '{sequence}'"));
        }
        for suffix in ["/..", "/."].into_iter().filter(|s| text.ends_with(s)) {
            refuse(format!("cannot end with '{suffix}'"));
        }
    }
    if !PATH_TYPES.contains(&kind) {
        causes.push(Cause::unsupported(format!("{at}.pathType"), &kind.into(), &PATH_TYPES));
    }
    backend(&path["backend"], &format!("{at}.backend"), causes);
}

fn backend(backend: &Value, at: &str, causes: &mut Vec<Cause>) {
    let part = |key: &str| backend.get(key).filter(|part| part.is_object());
    let nothing = json!("");
    match (part("service"), part("resource")) {
        (Some(_), Some(_)) => {
            causes.push(Cause::invalid(
                at,
                &nothing,
                "cannot set both resource and service backends",
            ));
        }
        (None, None) => causes.push(Cause::invalid(at, &nothing, "resource or service backend is required")),
        (None, Some(resource)) => {
            for field in ["kind", "name"] {
                if str_at(resource, &format!("/{field}")).is_empty() {
                    causes.push(Cause::required(format!("{at}.resource.{field}"), ""));
                }
            }
        }
        (Some(service), None) => {
            let named = str_at(service, "/name");
            if named.is_empty() {
                causes.push(Cause::required(format!("{at}.service.name"), ""));
            } else if let Err(hint) = labels::check_dns_1035(named) {
                causes.push(Cause::invalid(format!("{at}.service.name"), &named.into(), hint));
            }
            service_port(&service["port"], at, causes);
        }
    }
}

fn service_port(port: &Value, at: &str, causes: &mut Vec<Cause>) {
    let (name, number) = (str_at(port, "/name"), port["number"].as_i64().unwrap_or(0));
    match (name, number) {
        ("", 0) => causes.push(Cause::required(at, "port name or number is required")),
        ("", 1..=65535) => {}
        ("", _) => causes.push(Cause::invalid(
            format!("{at}.service.port.number"),
            &number.into(),
            "must be between 1 and 65535, inclusive",
        )),
        (_, 0) => {
            let mut refuse =
                |hint: &str| causes.push(Cause::invalid(format!("{at}.service.port.name"), &name.into(), hint));
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if name.len() > PORT_NAME_BYTES_MAX {
                refuse("must be no more than 15 bytes");
            }
            if !name.bytes().all(allowed) {
                refuse("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
            }
            if !name.bytes().any(|b| b.is_ascii_lowercase()) {
                refuse("must contain at least one letter (a-z)");
            }
        }
        _ => causes.push(Cause::invalid(
            at,
            &json!(""),
            "cannot set both port name & port number",
        )),
    }
}

/// What is wrong with an IngressClass.
pub fn check_ingress_class(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let controller = str_at(object, "/spec/controller");
    let at = "spec.controller";
    if controller.is_empty() {
        causes.push(Cause::required(at, ""));
        return;
    }
    if controller.len() > CONTROLLER_BYTES_MAX {
        let hint = format!("may not be more than {CONTROLLER_BYTES_MAX} bytes");
        causes.push(Cause::invalid(at, &controller.into(), hint));
    }
    let (domain, path) = controller.split_once('/').unwrap_or((controller, ""));
    if path.is_empty() || labels::check_dns_subdomain(domain).is_err() {
        let hint = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        causes.push(Cause::invalid(at, &controller.into(), hint));
    }
    if old.is_some_and(|old| str_at(old, "/spec/controller") != controller) {
        causes.push(Cause::invalid(at, &controller.into(), "field is immutable"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ingress: Value) -> Vec<String> {
        let mut causes = Vec::new();
        check(&ingress, None, &mut causes);
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    fn rule(host: &str, kind: &str, path: &str, port: Value) -> Value {
        json!({"spec": {"rules": [{"host": host, "http": {"paths": [
            {"path": path, "pathType": kind, "backend": {"service": {"name": "web", "port": port}}}]}}]}})
    }

    #[test]
    fn good_ones_pass() {
        for ingress in [
            rule(
                "shop.example.com",
                "Exact",
                "/.well-known/acme-challenge/a_b-c",
                json!({"number": 80}),
            ),
            rule("*.example.com", "Prefix", "/", json!({"name": "http"})),
            rule("", "ImplementationSpecific", "", json!({"number": 80})),
            json!({"spec": {"defaultBackend": {"resource": {"kind": "Bucket", "name": "b"}}}}),
        ] {
            assert_eq!(told(ingress.clone()), [""; 0], "{ingress}");
        }
    }

    #[test]
    fn bad_ones_name_the_field() {
        let number = || json!({"number": 80});
        let one = |ingress: Value| {
            let mut told = told(ingress);
            assert_eq!(told.len(), 1, "{told:?}");
            told.remove(0)
        };
        let at = "spec.rules[0].http.paths[0]";
        assert!(
            one(rule("foo_com", "Exact", "/", number())).starts_with("spec.rules[0].host: Invalid value: \"foo_com\"")
        );
        assert!(one(rule("a.*.com", "Exact", "/", number())).contains("must start with '*.'"));
        assert!(one(rule("10.0.0.1", "Exact", "/", number())).ends_with("not an IP address"));
        assert!(one(rule("a.com", "Prefix", "x", number())).ends_with("must be an absolute path"));
        assert!(one(rule("a.com", "Prefix", "/a//b", number())).ends_with("must not contain '//'"));
        assert!(one(rule("a.com", "Exact", "/a/..", number())).ends_with("cannot end with '/..'"));
        assert!(one(rule("a.com", "Regex", "/", number())).starts_with(&format!("{at}.pathType: Unsupported value")));
        assert_eq!(
            one(rule("a.com", "Exact", "/", json!({}))),
            format!("{at}.backend: Required value: port name or number is required")
        );
        assert!(one(rule("a.com", "Exact", "/", json!({"name": "http", "number": 80}))).contains("cannot set both"));
        assert!(one(rule("a.com", "Exact", "/", json!({"name": "80"}))).contains("at least one letter"));
        assert!(one(json!({"spec": {}})).starts_with("spec: Invalid value: null: either"));
        let tls = json!({"spec": {"defaultBackend": {"service": {"name": "w", "port": {"number": 1}}},
            "tls": [{"hosts": ["a", "*b"], "secretName": "s"}]}});
        assert!(one(tls).starts_with("spec.tls[0].hosts[1]: Invalid value: \"*b\""));
    }

    #[test]
    fn the_youngest_default_class_is_taken() {
        let class = |name: &str, made: &str, is_default: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": made,
                "annotations": {"ingressclass.kubernetes.io/is-default-class": is_default}}})
        };
        let classes = || {
            vec![
                class("old", "2020-01-01T00:00:00Z", "true"),
                class("new", "2021-01-01T00:00:00Z", "true"),
                class("other", "2022-01-01T00:00:00Z", "false"),
            ]
            .into_iter()
        };
        assert_eq!(default_class(&json!({"spec": {}}), classes()).as_deref(), Some("new"));
        assert_eq!(
            default_class(&json!({"spec": {"ingressClassName": "x"}}), classes()),
            None
        );
        let annotated = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "x"}}});
        assert_eq!(default_class(&annotated, classes()), None);
        assert_eq!(default_class(&json!({}), std::iter::empty()), None);
    }

    #[test]
    fn a_classes_controller_is_a_path_and_stays() {
        let class = |controller: &str| json!({"spec": {"controller": controller}});
        let told = |new: Value, old: Option<Value>| {
            let mut causes = Vec::new();
            check_ingress_class(&new, old.as_ref(), &mut causes);
            causes.len()
        };
        assert_eq!(told(class("weir.dev/ingress"), None), 0);
        assert_eq!(told(class("weir"), None), 1);
        assert_eq!(told(class(""), None), 1);
        assert_eq!(told(class("weir.dev/other"), Some(class("weir.dev/ingress"))), 1);
    }
}
