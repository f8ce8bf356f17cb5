//! Who asks for configuration: a proxy proves its pod by a service account token that is bound to the pod.
//!
//! The API server reviews the token (audience `weir-xds`); the pod it names must be the pod of the node id. Pods of the
//! gateway's service account may ask for the gateway's node as well. Good answers
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

use crate::lower::GATEWAY_NODE;

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

/// Who a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bearer {
    pod: Key,
    account: Key,
}

impl Bearer {
    /// Whether it may have this node's configuration; `Err`: what it may have.
    fn may_be(&self, node: &str, gateway_account: &Key) -> Result<(), String> {
        let own = self.pod.node_id();
        let gateway = self.account == *gateway_account;
        if node == own || (gateway && node == GATEWAY_NODE) {
            return Ok(());
        }
        let also = match gateway {
            true => format!(" or {GATEWAY_NODE:?}"),
            false => String::new(),
        };
        Err(format!(
            "the token belongs to pod {} of service account {}, which may ask for node {own:?}{also} only, not {node:?}",
            self.pod, self.account
        ))
    }
}

/// Checks tokens with the API server.
pub struct PodTokens {
    reviews: Api<TokenReview>,
    gateway_account: Key,
    remembered: Mutex<HashMap<String, (Instant, Bearer)>>,
}

impl PodTokens {
    /// Reviews tokens by this client. Pods of `gateway_account` are the gateway.
    pub fn new(client: Client, gateway_account: Key) -> Self {
        Self {
            reviews: Api::all(client),
            gateway_account,
            remembered: Mutex::default(),
        }
    }

    fn recall(&self, token: &str) -> Option<Bearer> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered
            .get(token)
            .filter(|(at, _)| at.elapsed() < REMEMBERED)
            .map(|(_, bearer)| bearer.clone())
    }

    fn remember(&self, token: String, bearer: Bearer) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(token, (Instant::now(), bearer));
        }
    }

    async fn review(&self, token: &str) -> Result<Bearer, Refusal> {
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
        bearer_of(&review.status.unwrap_or_default()).map_err(Refusal::Denied)
    }
}

/// Whose a reviewed token is, and which pod it is bound to.
fn bearer_of(status: &TokenReviewStatus) -> Result<Bearer, String> {
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
    let (namespace, account) = username
        .strip_prefix(SERVICE_ACCOUNT)
        .and_then(|rest| rest.split_once(':'))
        .ok_or_else(|| format!("{username:?} is not a service account"))?;
    let pod = user
        .extra
        .as_ref()
        .and_then(|e| e.get(POD_NAME)?.first())
        .ok_or_else(|| {
            "the token is not bound to a pod; ask for one with boundObjectRef (the agent does)".to_owned()
        })?;
    Ok(Bearer {
        pod: Key::new(namespace, pod.as_str()),
        account: Key::new(namespace, account),
    })
}

impl Authorize for PodTokens {
    async fn authorize(&self, credentials: &Credentials, node: &NodeInfo) -> Result<(), Refusal> {
        let Some(token) = credentials.token.as_deref() else {
            return Err(Refusal::Denied(format!(
                "no token: send `authorization: Bearer TOKEN` with a pod's service account token for audience {AUDIENCE}"
            )));
        };
        let bearer = match self.recall(token) {
            Some(bearer) => bearer,
            None => {
                let bearer = self.review(token).await?;
                self.remember(token.to_owned(), bearer.clone());
                bearer
            }
        };
        bearer.may_be(&node.id, &self.gateway_account).map_err(Refusal::Denied)
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
        let bearer = bearer_of(&good).unwrap();
        assert_eq!(bearer.pod, Key::new("default", "reviews-v1-x"));
        let gateway = Key::new("default", "traffic-ingress");
        assert_eq!(bearer.may_be("reviews-v1-x.default", &gateway), Ok(()));
        assert!(
            bearer
                .may_be("other.default", &gateway)
                .unwrap_err()
                .contains("reviews-v1-x.default")
        );
        assert!(
            bearer.may_be(GATEWAY_NODE, &gateway).is_err(),
            "not the gateway's account"
        );
        assert_eq!(bearer.may_be(GATEWAY_NODE, &Key::new("default", "reviews")), Ok(()));
        assert!(bearer.may_be(GATEWAY_NODE, &Key::new("other", "reviews")).is_err());
    }

    #[test]
    fn every_refusal_says_why() {
        let why = |value| bearer_of(&status(value)).unwrap_err();
        assert!(why(json!({"error": "expired"})).contains("expired"));
        assert!(why(json!({"authenticated": true, "audiences": ["api"]})).contains("weir-xds"));
        let person = json!({"authenticated": true, "audiences": ["weir-xds"], "user": {"username": "admin"}});
        assert!(why(person).contains("not a service account"));
        let unbound = json!({"authenticated": true, "audiences": ["weir-xds"], "user": {"username": "system:serviceaccount:a:b"}});
        assert!(why(unbound).contains("not bound to a pod"));
    }
}
