//! `metav1.Status`: how every Kubernetes API says that it did not do what was asked.
//!
//! Reasons, codes and messages are worded as the Kubernetes API server words them, so that clients that look at them
//! (kubectl, controllers, people) find what they know.

use serde::{Deserialize, Serialize};

/// An API error as its HTTP body. Kept small, since it is the error of many results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Always `Status`.
    pub kind: Box<str>,
    /// Always `v1`.
    pub api_version: Box<str>,
    /// Always empty.
    pub metadata: StatusMeta,
    /// `Failure` or `Success`.
    pub status: Box<str>,
    /// For people.
    pub message: String,
    /// For machines, such as `NotFound`.
    pub reason: String,
    /// What the reason is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<StatusDetails>>,
    /// HTTP status code.
    pub code: u16,
}

/// The empty `metadata` of a [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusMeta {}

/// The object a [`Status`] is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// Name of the object, "" when the request named none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group, "" for the core group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource (plural), as Kubernetes puts it in a field that is called kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// When to try again, in seconds; 0 = not said.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// `pods` or `deployments.apps`: how messages write a resource.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

impl Status {
    /// A failure with nothing but its code, reason and message.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Status {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: StatusMeta {},
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }
    }

    fn about(mut self, group: &str, resource: &str, name: &str) -> Self {
        self.details = Some(Box::new(StatusDetails {
            name: name.into(),
            group: group.into(),
            kind: resource.into(),
            ..Default::default()
        }));
        self
    }

    /// 404: `pods "x" not found`.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(group, resource));
        Self::failure(404, "NotFound", message).about(group, resource, name)
    }

    /// 404 for a path or a resource that is not served.
    pub fn unknown_path() -> Self {
        let mut status = Self::failure(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// 403 for a request on a resource.
    pub fn forbidden(user: &str, verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        let scope = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {namespace:?}")
        };
        // The subresource belongs to the sentence but not to the object that is named.
        let parent = resource.split('/').next().unwrap_or(resource);
        let subject = match name {
            "" => format!("{} is forbidden", qualified(group, parent)),
            name => format!("{} \"{name}\" is forbidden", qualified(group, parent)),
        };
        let message =
            format!("{subject}: User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}");
        Self::failure(403, "Forbidden", message).about(group, parent, name)
    }

    /// 403 for a path that is no resource.
    pub fn forbidden_path(user: &str, verb: &str, path: &str) -> Self {
        let mut status = Self::failure(
            403,
            "Forbidden",
            format!("forbidden: User {user:?} cannot {verb} path {path:?}"),
        );
        status.details = Some(Box::default());
        status
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 405: the resource is known, the verb is not for it.
    pub fn method_not_allowed(group: &str, resource: &str, verb: &str) -> Self {
        let message = format!(
            "{verb} is not supported on resources of kind \"{}\"",
            qualified(group, resource)
        );
        Self::failure(405, "MethodNotAllowed", message).about(group, resource, "")
    }

    /// 406.
    pub fn not_acceptable(offered: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", offered.join(", "));
        Self::failure(406, "NotAcceptable", message)
    }

    /// 503: try again later.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        let mut status = Self::failure(503, "ServiceUnavailable", message);
        status.details = Some(Box::new(StatusDetails {
            retry_after_seconds: 1,
            ..Default::default()
        }));
        status
    }

    /// 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::failure(504, "Timeout", message)
    }

    /// 500. The message reaches the client: keep internals in the log.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::failure(500, "InternalError", format!("Internal error occurred: {message}"))
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_found_as_kubernetes_writes_it() {
        let json = serde_json::to_string(&Status::not_found("metrics.smi-spec.io", "pods", "x")).unwrap();
        assert_eq!(
            json,
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods.metrics.smi-spec.io \"x\" not found","reason":"NotFound","details":{"name":"x","group":"metrics.smi-spec.io","kind":"pods"},"code":404}"#
        );
    }

    #[test]
    fn forbidden_names_user_verb_and_scope() {
        let s = Status::forbidden("jane", "get", "g.io", "pods/edges", "default", "a");
        assert_eq!(
            s.message,
            r#"pods.g.io "a" is forbidden: User "jane" cannot get resource "pods/edges" in API group "g.io" in the namespace "default""#
        );
        let s = Status::forbidden("jane", "list", "g.io", "pods", "", "");
        assert_eq!(
            s.message,
            r#"pods.g.io is forbidden: User "jane" cannot list resource "pods" in API group "g.io" at the cluster scope"#
        );
    }
}
