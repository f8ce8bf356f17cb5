//! How the labels of discovered objects are called.

use crate::relabel::LabelSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

const PREFIX: &str = "__meta_kubernetes_";

/// The name of a label of discovery.
pub(super) fn name(end: &str) -> String {
    format!("{PREFIX}{end}")
}

/// Labels and annotations of an object, and that they are there.
pub(super) fn meta(kind: &str, meta: &ObjectMeta, set: &mut LabelSet) {
    pairs(kind, "label", meta.labels.as_ref(), set);
    pairs(kind, "annotation", meta.annotations.as_ref(), set);
}

fn pairs(kind: &str, what: &str, pairs: Option<&BTreeMap<String, String>>, set: &mut LabelSet) {
    for (key, value) in pairs.into_iter().flatten() {
        let key = sanitized(key);
        set.set(&name(&format!("{kind}_{what}_{key}")), value.as_str());
        set.set(&name(&format!("{kind}_{what}present_{key}")), "true");
    }
}

/// What cannot stand in a label's name becomes an underscore.
pub(super) fn sanitized(key: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    key.chars().map(fits).collect()
}

/// Namespace and name of an object.
pub(super) fn key(meta: &ObjectMeta) -> (String, String) {
    (text(&meta.namespace).to_owned(), text(&meta.name).to_owned())
}

/// A text that may be missing.
pub(super) fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

/// Host and port; an IPv6 address needs brackets.
pub(super) fn address(host: &str, port: i32) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}
