//! May they? Asked of the Kubernetes API by SubjectAccessReview; answers count for ten seconds, both ways.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use weir_api::status::Status;

use super::authenticate::Identity;
use super::cache::Cache;

/// How long an answer counts.
const ANSWER_TTL: Duration = Duration::from_secs(10);
/// How long the Kubernetes API may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What somebody wants to do. Empty = not said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attributes {
    /// On a resource.
    Resource {
        /// RBAC verb.
        verb: String,
        /// API group.
        group: String,
        /// API version.
        version: String,
        /// Plural.
        resource: String,
        /// Below the object.
        subresource: String,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// On a path that is no resource.
    Path {
        /// RBAC verb.
        verb: String,
        /// The path.
        path: String,
    },
}

impl Attributes {
    fn refusal(&self, user: &str) -> Status {
        match self {
            Attributes::Path { verb, path } => Status::forbidden_path(user, verb, path),
            Attributes::Resource {
                verb,
                group,
                resource,
                subresource,
                namespace,
                name,
                ..
            } => {
                let resource = if subresource.is_empty() {
                    resource.clone()
                } else {
                    format!("{resource}/{subresource}")
                };
                Status::forbidden(user, verb, group, &resource, namespace, name)
            }
        }
    }
}

/// Asks whether somebody may.
pub struct Authorizer {
    client: Client,
    answers: Cache<(Identity, Attributes), bool>,
}

impl Authorizer {
    /// Asks through this client.
    pub fn new(client: Client) -> Self {
        Authorizer {
            client,
            answers: Cache::new(ANSWER_TTL),
        }
    }

    /// `Ok` when allowed, else the error to answer with.
    pub async fn authorize(&self, identity: &Identity, attributes: Attributes) -> Result<(), Status> {
        if identity.is_master() {
            return Ok(());
        }
        let key = (identity.clone(), attributes);
        let allowed = match self.answers.get(&key) {
            Some(allowed) => allowed,
            None => {
                let allowed = self.review(&key.0, &key.1).await?;
                self.answers.put(key.clone(), allowed);
                allowed
            }
        };
        if allowed {
            Ok(())
        } else {
            Err(key.1.refusal(&identity.user))
        }
    }

    async fn review(&self, identity: &Identity, attributes: &Attributes) -> Result<bool, Status> {
        let some = |s: &String| (!s.is_empty()).then(|| s.clone());
        let mut spec = SubjectAccessReviewSpec {
            user: Some(identity.user.clone()),
            uid: some(&identity.uid),
            groups: Some(identity.groups.clone()),
            extra: (!identity.extra.is_empty()).then(|| identity.extra.clone()),
            ..Default::default()
        };
        match attributes {
            Attributes::Path { verb, path } => {
                let attributes = NonResourceAttributes {
                    path: some(path),
                    verb: some(verb),
                };
                spec.non_resource_attributes = Some(attributes);
            }
            Attributes::Resource {
                verb,
                group,
                version,
                resource,
                subresource,
                namespace,
                name,
            } => {
                spec.resource_attributes = Some(ResourceAttributes {
                    verb: some(verb),
                    group: some(group),
                    version: some(version),
                    resource: some(resource),
                    subresource: some(subresource),
                    namespace: some(namespace),
                    name: some(name),
                    ..Default::default()
                });
            }
        }
        let review = SubjectAccessReview {
            spec,
            ..Default::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        match tokio::time::timeout(ANSWER_TIMEOUT, api.create(&PostParams::default(), &review)).await {
            Ok(Ok(review)) => {
                let status = review.status.unwrap_or_default();
                Ok(status.allowed && status.denied != Some(true))
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "SubjectAccessReview failed");
                Err(Status::internal("the request could not be authorized"))
            }
            Err(_) => Err(Status::timeout("the request was not authorized in time")),
        }
    }
}
