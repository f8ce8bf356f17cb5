//! Collects what is wrong with objects while the model is built.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weir_api::problem::{ObjectRef, Problem, Severity};

/// Problems in order, each once.
#[derive(Debug, Default)]
pub(crate) struct Problems(BTreeSet<Problem>);

impl Problems {
    /// A value that was ignored or corrected.
    pub(crate) fn warn(&mut self, object: ObjectRef, field: String, message: impl Into<String>) {
        self.0.insert(Problem {
            object,
            field,
            message: message.into(),
            severity: Severity::Warning,
        });
    }

    /// What the object asks for does not happen.
    pub(crate) fn error(&mut self, object: ObjectRef, field: String, message: impl Into<String>) {
        self.0.insert(Problem {
            object,
            field,
            message: message.into(),
            severity: Severity::Error,
        });
    }

    /// Those that were found before.
    pub(crate) fn add(&mut self, others: &Self) {
        self.0.extend(others.0.iter().cloned());
    }

    pub(crate) fn into_sorted(self) -> Vec<Problem> {
        self.0.into_iter().collect()
    }
}

/// Where the value of a key stands on an object (annotation over label), as a path.
pub(crate) fn field(meta: &ObjectMeta, key: &str) -> String {
    let annotated = meta.annotations.as_ref().is_some_and(|a| a.contains_key(key));
    format!("metadata.{}[{key}]", if annotated { "annotations" } else { "labels" })
}
