//! Errors at the API edge: each is a `metav1.Status`, worded as Kubernetes words it.
//! Enters: what went wrong. Leaves: code, reason, message, details. Knows nothing of HTTP bodies.

use serde_json::{Value, json};

use super::registry::Resource;

/// A request that failed; becomes a `Status` object.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Value>,
}

pub type Result<T> = std::result::Result<T, ApiError>;

/// One field that is wrong.
#[derive(Debug, Clone)]
pub struct Cause {
    pub field: String,
    pub reason: &'static str,
    pub message: String,
}

impl Cause {
    pub fn required(field: impl Into<String>, hint: &str) -> Self {
        let message = if hint.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {hint}")
        };
        Self {
            field: field.into(),
            reason: "FieldValueRequired",
            message,
        }
    }

    pub fn invalid(field: impl Into<String>, value: &Value, hint: impl AsRef<str>) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {value}: {}", hint.as_ref()),
        }
    }

    pub fn unsupported(field: impl Into<String>, value: &Value, allowed: &[&str]) -> Self {
        let allowed: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
        Self {
            field: field.into(),
            reason: "FieldValueNotSupported",
            message: format!("Unsupported value: {value}: supported values: {}", allowed.join(", ")),
        }
    }

    pub fn forbidden(field: impl Into<String>, hint: impl AsRef<str>) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {}", hint.as_ref()),
        }
    }

    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {value}"),
        }
    }
}

impl ApiError {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self {
            details: Some(details(resource, name)),
            ..Self::new(
                404,
                "NotFound",
                format!("{} {name:?} not found", resource.group_resource()),
            )
        }
    }

    /// A path or resource type that is not served at all.
    pub fn no_such_path() -> Self {
        Self {
            details: Some(json!({})),
            ..Self::new(404, "NotFound", "the server could not find the requested resource")
        }
    }

    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self {
            details: Some(details(resource, name)),
            ..Self::new(
                409,
                "AlreadyExists",
                format!("{} {name:?} already exists", resource.group_resource()),
            )
        }
    }

    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        Self {
            details: Some(details(resource, name)),
            ..Self::new(
                409,
                "Conflict",
                format!(
                    "Operation cannot be fulfilled on {} {name:?}: {why}",
                    resource.group_resource()
                ),
            )
        }
    }

    pub fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        let shown: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let list = match shown.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let kind = if resource.group.is_empty() {
            resource.kind.clone()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let mut detail = json!({"name": name, "kind": resource.kind, "causes": causes.iter().map(|c| json!({
            "reason": c.reason, "message": c.message, "field": c.field})).collect::<Vec<_>>()});
        if !resource.group.is_empty() {
            detail["group"] = resource.group.clone().into();
        }
        Self {
            details: Some(detail),
            ..Self::new(422, "Invalid", format!("{kind} {name:?} is invalid: {list}"))
        }
    }

    pub fn forbidden(resource: &Resource, name: &str, why: impl AsRef<str>) -> Self {
        let shown = if name.is_empty() {
            String::new()
        } else {
            format!(" {name:?}")
        };
        Self {
            details: Some(details(resource, name)),
            ..Self::new(
                403,
                "Forbidden",
                format!("{}{shown} is forbidden: {}", resource.group_resource(), why.as_ref()),
            )
        }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn method_not_allowed() -> Self {
        Self {
            details: Some(json!({})),
            ..Self::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )
        }
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The `metav1.Status` of this error.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

/// `details` of a Status: which object.
pub fn details(resource: &Resource, name: &str) -> Value {
    let mut detail = json!({"kind": resource.plural});
    if !name.is_empty() {
        detail["name"] = name.into();
    }
    if !resource.group.is_empty() {
        detail["group"] = resource.group.clone().into();
    }
    detail
}
