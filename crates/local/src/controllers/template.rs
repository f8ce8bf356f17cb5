//! Pod templates: their hash, their equality, and the pod that one makes.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Label that tells the pods of one template of a Deployment from those of another.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// Letters that make no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short name for some text, of the form that Kubernetes uses in object names.
pub fn short_hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    digest
        .iter()
        .take(10)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// Hash of a template; the count tells apart two templates that have the same.
pub fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    short_hash(&[canonical(template).to_string().as_bytes(), &collisions.to_le_bytes()])
}

/// Whether two templates make the same pods.
pub fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    canonical(a) == canonical(b)
}

/// As JSON, without the label that only says which template it is and without empty maps.
fn canonical(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(POD_TEMPLATE_HASH);
    }
    prune(&mut value);
    value
}

fn prune(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.values_mut().for_each(prune);
        fields.retain(|name, field| {
            let empty = field.is_null() || field.as_object().is_some_and(|fields| fields.is_empty());
            // `emptyDir: {}` and the like mean something by being there.
            !empty
                || !matches!(
                    name.as_str(),
                    "metadata" | "labels" | "annotations" | "creationTimestamp"
                )
        });
    }
}

/// A pod of this template, to be named by the API after `prefix`.
pub fn pod(template: &PodTemplateSpec, namespace: &str, prefix: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::fixtures::template;

    #[test]
    fn the_hash_follows_the_template_only() {
        let a = template("web", "one");
        let mut labelled = a.clone();
        let labels = labelled
            .metadata
            .as_mut()
            .and_then(|meta| meta.labels.as_mut())
            .unwrap();
        labels.insert(POD_TEMPLATE_HASH.into(), "x".into());
        assert_eq!(hash(&a, 0), hash(&labelled, 0));
        assert!(same(&a, &labelled));
        assert_ne!(hash(&a, 0), hash(&a, 1));
        assert_ne!(hash(&a, 0), hash(&template("web", "two"), 0));
        assert!(hash(&a, 0).bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}
