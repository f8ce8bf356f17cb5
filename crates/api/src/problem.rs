//! Bad user input as data: which object, which field, what would be right.
//!
//! Whoever finds a problem keeps the last good state and goes on; whoever receives one shows it (an Event, a row of
//! `weir check`). This module knows neither.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which object a problem or an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// Such as `v1` or `apps/v1`.
    pub api_version: String,
    /// Such as `Service`.
    pub kind: String,
    /// Empty for cluster-wide objects.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Uid, "" where unknown.
    pub uid: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// How much a problem costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// The value was ignored or corrected; all else of the object works.
    #[default]
    Warning,
    /// What the object asks for does not happen.
    Error,
}

/// One thing that is wrong with one object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The object at fault.
    pub object: ObjectRef,
    /// Path of the field, such as `metadata.labels[traffic.port.80]`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// How much it costs.
    #[serde(default)]
    pub severity: Severity,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.message)
    }
}
