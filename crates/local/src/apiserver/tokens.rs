//! Service-account tokens: signing, and checking them against the objects they are bound to.

use std::fs;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::object::{self, str_at};
use super::pki::Pki;
use super::store::Store;

/// Issuer, and the audience of the API server itself.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const EXPIRATION_MIN_SECONDS: i64 = 600;
const EXPIRATION_MAX_SECONDS: i64 = 1 << 32;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the signing key: {0}")]
    Key(String),
    #[error("signing: {0}")]
    Sign(jsonwebtoken::errors::Error),
    #[error("{0}")]
    Invalid(String),
}

/// A checked token.
#[derive(Debug, Clone)]
pub struct Claims {
    pub namespace: String,
    pub account: String,
    pub account_uid: String,
    pub audiences: Vec<String>,
    pub id: String,
    /// Name and uid of the pod it is bound to.
    pub pod: Option<(String, String)>,
    pub node: Option<(String, String)>,
}

/// What a token is asked for.
#[derive(Debug, Default)]
pub struct TokenSpec {
    pub audiences: Vec<String>,
    pub expiration_seconds: i64,
    /// Kind, name and uid of the object that the token must not outlive.
    pub bound: Option<(String, String, String)>,
    pub node: Option<(String, String)>,
}

/// The signing key and its public half.
pub struct Tokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    key_id: String,
    store: Arc<Store>,
}

impl Tokens {
    pub fn new(pki: &Pki, store: Arc<Store>) -> Result<Self, TokenError> {
        let path = pki.key("sa");
        let pem = fs::read_to_string(&path).map_err(|e| TokenError::Key(format!("{}: {e}", path.display())))?;
        let key = KeyPair::from_pem(&pem).map_err(|e| TokenError::Key(e.to_string()))?;
        use sha2::Digest;
        let digest = sha2::Sha256::digest(key.public_key_raw());
        Ok(Self {
            signing: EncodingKey::from_ec_der(&key.serialize_der()),
            verifying: DecodingKey::from_ec_der(key.public_key_raw()),
            key_id: digest.iter().take(16).map(|b| format!("{b:02x}")).collect(),
            store,
        })
    }

    /// Signs a token for a stored service account; returns it with its expiry (seconds since 1970).
    pub fn issue(&self, account: &Value, spec: &TokenSpec) -> Result<(String, i64), TokenError> {
        let now = jiff::Timestamp::now().as_second();
        let lifetime = spec
            .expiration_seconds
            .clamp(EXPIRATION_MIN_SECONDS, EXPIRATION_MAX_SECONDS);
        let (namespace, name) = (object::namespace(account), object::name(account));
        let mut bound = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": object::uid(account)},
        });
        if let Some((kind, name, uid)) = &spec.bound {
            bound[kind.to_lowercase()] = json!({"name": name, "uid": uid});
        }
        if let Some((name, uid)) = &spec.node {
            bound["node"] = json!({"name": name, "uid": uid});
        }
        let claims = json!({
            "iss": ISSUER, "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "aud": spec.audiences, "exp": now + lifetime, "iat": now, "nbf": now,
            "jti": object::new_uid(), "kubernetes.io": bound,
        });
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.key_id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &self.signing).map_err(TokenError::Sign)?;
        Ok((token, now + lifetime))
    }

    /// Checks signature, time, and that account and bound pod still exist. Not the audience.
    pub fn check(&self, token: &str) -> Result<Claims, TokenError> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_aud = false;
        validation.validate_nbf = true;
        validation.set_issuer(&[ISSUER]);
        let claims = jsonwebtoken::decode::<Value>(token, &self.verifying, &validation)
            .map_err(|e| TokenError::Invalid(format!("invalid bearer token: {e}")))?
            .claims;
        let bound = &claims["kubernetes.io"];
        let pair = |key: &str| {
            let o = bound.get(key)?;
            Some((str_at(o, "/name").to_owned(), str_at(o, "/uid").to_owned()))
        };
        let namespace = str_at(bound, "/namespace").to_owned();
        let (account, account_uid) = pair("serviceaccount")
            .ok_or_else(|| TokenError::Invalid("the token names no service account".to_owned()))?;
        self.require("serviceaccounts", &namespace, &account, &account_uid)?;
        let pod = pair("pod");
        if let Some((name, uid)) = &pod {
            self.require("pods", &namespace, name, uid)?;
        }
        if let Some((name, uid)) = pair("secret") {
            self.require("secrets", &namespace, &name, &uid)?;
        }
        let audiences = match &claims["aud"] {
            Value::String(one) => vec![one.clone()],
            many => object::items(many, "")
                .iter()
                .filter_map(|a| a.as_str().map(str::to_owned))
                .collect(),
        };
        Ok(Claims {
            namespace,
            account,
            account_uid,
            audiences,
            id: str_at(&claims, "/jti").to_owned(),
            pod,
            node: pair("node"),
        })
    }

    fn require(&self, resource: &str, ns: &str, name: &str, uid: &str) -> Result<(), TokenError> {
        match self.store.get(resource, ns, name) {
            Some(o) if *o.uid == *uid => Ok(()),
            _ => Err(TokenError::Invalid(format!(
                "the token has been invalidated: {resource} {ns}/{name} with uid {uid} is gone"
            ))),
        }
    }
}
