//! Who asks for configuration: a proxy proves its pod by a service account token that is bound to the pod.
//!
//! The API server reviews the token (audience `weir-xds`); the pod it names must be the pod of the node id. Good answers
//! are remembered for a minute, so that a reconnecting fleet does not flood the API server.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use weir_mesh::Key;
use weir_xds::server::{Authorize, Credentials, NodeInfo, Refusal};

/// Audience that a proxy's token must be made for.
pub const AUDIENCE: &str = "weir-xds";
/// What the API server adds to the user of a token that is bound to a pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// Prefix of the user name of a service account.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// How long a good answer counts.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How many good answers are kept.
const REMEMBERED_MAX: usize = 4096;

/// Checks tokens with the API server.
pub struct PodTokens {
    reviews: Api<TokenReview>,
    remembered: Mutex<HashMap<String, (Instant, Key)>>,
}

impl PodTokens {
    /// Reviews tokens by this client.
    pub fn new(client: Client) -> Self {
        Self {
            reviews: Api::all(client),
            remembered: Mutex::default(),
        }
    }

    fn recall(&self, token: &str) -> Option<Key> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered
            .get(token)
            .filter(|(at, _)| at.elapsed() < REMEMBERED)
            .map(|(_, pod)| pod.clone())
    }

    fn remember(&self, token: String, pod: Key) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(token, (Instant::now(), pod));
        }
    }

    async fn review(&self, token: &str) -> Result<Key, Refusal> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..Default::default()
        };
        let review = self
            .reviews
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| Refusal::Unavailable(format!("the token could not be reviewed: {error}")))?;
        pod_of(&review.status.unwrap_or_default()).map_err(Refusal::Denied)
    }
}

/// The pod that a reviewed token is bound to.
fn pod_of(status: &TokenReviewStatus) -> Result<Key, String> {
    if status.authenticated != Some(true) {
        let why = status
            .error
            .as_deref()
            .filter(|e| !e.is_empty())
            .unwrap_or("the API server does not know it");
        return Err(format!("the token is not valid: {why}"));
    }
    if !status.audiences.iter().flatten().any(|a| a == AUDIENCE) {
        return Err(format!("the token is not made for audience {AUDIENCE}"));
    }
    let user = status.user.clone().unwrap_or_default();
    let username = user.username.unwrap_or_default();
    let namespace = username
        .strip_prefix(SERVICE_ACCOUNT)
        .and_then(|rest| rest.split(':').next())
        .ok_or_else(|| format!("{username:?} is not a service account"))?;
    let pod = user
        .extra
        .as_ref()
        .and_then(|e| e.get(POD_NAME)?.first())
        .ok_or_else(|| {
            "the token is not bound to a pod; ask for one with boundObjectRef (the agent does)".to_owned()
        })?;
    Ok(Key::new(namespace, pod.as_str()))
}

impl Authorize for PodTokens {
    async fn authorize(&self, credentials: &Credentials, node: &NodeInfo) -> Result<(), Refusal> {
        let Some(token) = credentials.token.as_deref() else {
            return Err(Refusal::Denied(format!(
                "no token: send `authorization: Bearer TOKEN` with a pod's service account token for audience {AUDIENCE}"
            )));
        };
        let pod = match self.recall(token) {
            Some(pod) => pod,
            None => {
                let pod = self.review(token).await?;
                self.remember(token.to_owned(), pod.clone());
                pod
            }
        };
        if pod.node_id() == node.id {
            return Ok(());
        }
        Err(Refusal::Denied(format!(
            "the token belongs to pod {pod}, which may ask for node {:?} only, not {:?}",
            pod.node_id(),
            node.id
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(value: serde_json::Value) -> TokenReviewStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_pod_of_a_bound_token() {
        let good = status(json!({"authenticated": true, "audiences": ["weir-xds"], "user": {
            "username": "system:serviceaccount:default:reviews",
            "extra": {"authentication.kubernetes.io/pod-name": ["reviews-v1-x"]}}}));
        assert_eq!(pod_of(&good), Ok(Key::new("default", "reviews-v1-x")));
    }

    #[test]
    fn every_refusal_says_why() {
        let why = |value| pod_of(&status(value)).unwrap_err();
        assert!(why(json!({"error": "expired"})).contains("expired"));
        assert!(why(json!({"authenticated": true, "audiences": ["api"]})).contains("weir-xds"));
        let person = json!({"authenticated": true, "audiences": ["weir-xds"], "user": {"username": "admin"}});
        assert!(why(person).contains("not a service account"));
        let unbound = json!({"authenticated": true, "audiences": ["weir-xds"], "user": {"username": "system:serviceaccount:a:b"}});
        assert!(why(unbound).contains("not bound to a pod"));
    }
}
