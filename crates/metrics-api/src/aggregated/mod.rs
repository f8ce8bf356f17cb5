//! A generic aggregated API server: everything that Kubernetes expects of the backend of an APIService, except what
//! the resources are.
//!
//! ```text
//! TLS (tls) -> authenticate -> request (path, verb) -> authorize -> Handler -> negotiate -> answer
//!                                      \-> health, discovery, openapi
//! ```
//!
//! A [`Group`] says which resources there are; its [`Handler`] answers get and list. Nothing here knows a metric.

mod authenticate;
mod authorize;
mod cache;
mod discovery;
mod negotiate;
mod register;
mod request;
pub mod selector;
mod server;
mod tls;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;
use weir_api::status::Status;
use weir_api::table::Table;

pub use authenticate::{Authenticator, Identity};
pub use authorize::{Attributes, Authorizer};
pub use request::Verb;
pub use selector::{FieldSelector, LabelSelector};
pub use server::{Config, Error, Ready, run};
pub use tls::Serving;

/// A future on the heap.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An API group in the versions it is served in, the preferred one first.
#[derive(Clone)]
pub struct Group {
    /// Such as `metrics.smi-spec.io`.
    pub name: &'static str,
    /// Never empty.
    pub versions: Vec<Version>,
    /// Answers the requests.
    pub handler: Arc<dyn Handler>,
}

/// A version of a [`Group`].
#[derive(Clone)]
pub struct Version {
    /// Such as `v1alpha1`.
    pub name: &'static str,
    /// What it serves.
    pub resources: Vec<Resource>,
}

/// A kind of objects. All of them offer get and list, nothing else.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Plural, as in the path.
    pub name: &'static str,
    /// Singular.
    pub singular: &'static str,
    /// Kind of the objects.
    pub kind: &'static str,
    /// Kind in aggregated discovery; must differ between resources. kubectl goes from a resource to its kind and from
    /// there back to a resource: with one kind for several it would show the wrong one.
    pub response_kind: &'static str,
    /// Whether its objects belong to namespaces.
    pub namespaced: bool,
    /// Verbs, of `get` and `list`.
    pub verbs: &'static [&'static str],
    /// Abbreviations for kubectl.
    pub short_names: &'static [&'static str],
    /// Name and kind of what can be got below an object.
    pub subresources: &'static [(&'static str, &'static str)],
}

/// What a client wants from a [`Handler`]; it is authenticated, allowed, and names an existing resource.
#[derive(Clone, Debug)]
pub struct ResourceRequest {
    /// Version in the path.
    pub version: &'static str,
    /// Resource in the path.
    pub resource: &'static str,
    /// Subresource in the path.
    pub subresource: Option<String>,
    /// Get or list.
    pub verb: Verb,
    /// `None` = all namespaces, or a resource without.
    pub namespace: Option<String>,
    /// Set for get.
    pub name: Option<String>,
    /// Which objects of a list.
    pub labels: LabelSelector,
    /// Which objects of a list.
    pub fields: FieldSelector,
    /// All query parameters, decoded, in order.
    pub parameters: Vec<(String, String)>,
}

impl ResourceRequest {
    /// The first value of a query parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// An object or a list, and its form as a table where it has one.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As JSON.
    pub object: Value,
    /// As a table.
    pub table: Option<Table>,
}

/// Answers requests on the resources of a group.
pub trait Handler: Send + Sync + 'static {
    /// One request.
    fn handle(&self, request: ResourceRequest) -> BoxFuture<'_, Result<Answer, Status>>;
}
