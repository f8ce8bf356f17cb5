//! Who asks? In this order: the front proxy's certificate with the user in headers, a client certificate, a bearer
//! token (TokenReview), nobody.
//!
//! What the front proxy may do stands in ConfigMap `kube-system/extension-apiserver-authentication`, which is watched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use http::HeaderMap;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::runtime::watcher;
use kube::{Api, Client};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::Semaphore;
use weir_api::status::Status;

use super::cache::Cache;
use super::tls::chain_verifier;

const CONFIG_NAMESPACE: &str = "kube-system";
const CONFIG_NAME: &str = "extension-apiserver-authentication";
/// How long a TokenReview's answer counts, good or bad.
const TOKEN_TTL: Duration = Duration::from_secs(10);
/// How long a TokenReview may take.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Tokens under review at the same time; further ones wait. Anybody can send tokens that nobody has seen before.
const REVIEWS: usize = 16;
/// Bytes of a token whose refusal is remembered.
const REFUSED_BYTES: usize = 4096;
/// Pause after a failed read of the ConfigMap.
const CONFIG_RETRY: Duration = Duration::from_secs(5);

/// An authenticated user, or `system:anonymous`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// Uid, "" where unknown.
    pub uid: String,
    /// Groups, sorted.
    pub groups: Vec<String>,
    /// Anything else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    fn anonymous() -> Self {
        Identity {
            user: "system:anonymous".into(),
            groups: vec!["system:unauthenticated".into()],
            ..Default::default()
        }
    }

    fn authenticated(mut self) -> Self {
        self.groups.push("system:authenticated".into());
        self.groups.sort();
        self.groups.dedup();
        self
    }

    /// Whether authorization lets everything pass.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|g| g == "system:masters")
    }
}

/// Whose certificates and headers count, as the ConfigMap says.
#[derive(Default)]
pub struct Trust {
    front_proxy: Option<Arc<dyn ClientCertVerifier>>,
    client: Option<Arc<dyn ClientCertVerifier>>,
    /// Common names of front proxies; empty = any that the authority signed.
    allowed_names: Vec<String>,
    user_headers: Vec<String>,
    uid_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

impl Trust {
    /// Reads the data of the ConfigMap; parts that cannot be read are reported and left out.
    pub fn from_config(data: &BTreeMap<String, String>) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let mut list = |key: &str, default: &[&str]| match data.get(key) {
            Some(text) => serde_json::from_str(text).unwrap_or_else(|e| {
                problems.push(format!("{key}: {e}"));
                Vec::new()
            }),
            None => default.iter().map(|s| (*s).to_owned()).collect(),
        };
        let allowed_names: Vec<String> = list("requestheader-allowed-names", &[]);
        let user_headers = list("requestheader-username-headers", &["X-Remote-User"]);
        let uid_headers = list("requestheader-uid-headers", &["X-Remote-Uid"]);
        let group_headers = list("requestheader-group-headers", &["X-Remote-Group"]);
        let extra_prefixes = list("requestheader-extra-headers-prefix", &["X-Remote-Extra-"]);
        // A list of names that cannot be read must not turn into "any name".
        let names_known = problems.is_empty();
        let mut verifier = |key: &str| {
            let pem = data.get(key)?;
            chain_verifier(pem).unwrap_or_else(|e| {
                problems.push(format!("{key}: {e}"));
                None
            })
        };
        let front_proxy = verifier("requestheader-client-ca-file").filter(|_| names_known);
        let client = verifier("client-ca-file");
        let trust = Trust {
            front_proxy,
            client,
            allowed_names,
            user_headers,
            uid_headers,
            group_headers,
            extra_prefixes,
        };
        (trust, problems)
    }

    /// The user whom the front proxy speaks for; `None` when the certificate is not the front proxy's.
    fn front_proxy(&self, chain: &[CertificateDer<'_>], headers: &HeaderMap) -> Option<Identity> {
        verify(self.front_proxy.as_ref()?, chain)?;
        let (common_name, _) = subject(chain.first()?)?;
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(&common_name) {
            tracing::warn!(
                common_name,
                "certificate of the front proxy's authority, but not an allowed name"
            );
            return None;
        }
        let first = |names: &[String]| {
            names
                .iter()
                .find_map(|n| headers.get(n.as_str()))
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned)
        };
        let user = first(&self.user_headers).filter(|u| !u.is_empty())?;
        let all = |name: &String| -> Vec<String> {
            headers
                .get_all(name.as_str())
                .iter()
                .filter_map(|v| v.to_str().ok())
                .map(str::to_owned)
                .collect()
        };
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            let key = self
                .extra_prefixes
                .iter()
                .find_map(|p| name.as_str().strip_prefix(p.to_lowercase().as_str()));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                let key = percent_encoding::percent_decode_str(key)
                    .decode_utf8_lossy()
                    .into_owned();
                extra.entry(key).or_default().push(value.to_owned());
            }
        }
        let groups = self.group_headers.iter().flat_map(all).collect();
        let identity = Identity {
            user,
            uid: first(&self.uid_headers).unwrap_or_default(),
            groups,
            extra,
        };
        // The front proxy passes anonymous requests on as such.
        Some(if identity.user == "system:anonymous" {
            identity
        } else {
            identity.authenticated()
        })
    }

    /// The user of a client certificate: common name and organizations.
    fn client(&self, chain: &[CertificateDer<'_>]) -> Option<Identity> {
        verify(self.client.as_ref()?, chain)?;
        let (user, groups) = subject(chain.first()?)?;
        (!user.is_empty()).then(|| {
            Identity {
                user,
                groups,
                ..Default::default()
            }
            .authenticated()
        })
    }
}

fn verify(verifier: &Arc<dyn ClientCertVerifier>, chain: &[CertificateDer<'_>]) -> Option<()> {
    let (end_entity, intermediates) = chain.split_first()?;
    verifier
        .verify_client_cert(end_entity, intermediates, UnixTime::now())
        .ok()
        .map(|_| ())
}

/// Common name and organizations.
fn subject(certificate: &CertificateDer<'_>) -> Option<(String, Vec<String>)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let common_name = subject
        .iter_common_name()
        .next()
        .and_then(|n| n.as_str().ok())
        .unwrap_or_default();
    let organizations = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .map(str::to_owned)
        .collect();
    Some((common_name.to_owned(), organizations))
}

/// Finds out who asks.
pub struct Authenticator {
    client: Client,
    trust: ArcSwap<Trust>,
    tokens: Cache<String, Identity>,
    /// Apart, so that strangers drive nobody else's tokens out.
    refused: Cache<String, ()>,
    reviews: Semaphore,
}

impl Authenticator {
    /// Trusts no certificate until [`Authenticator::watch`] has read the ConfigMap.
    pub fn new(client: Client) -> Self {
        Authenticator {
            client,
            trust: ArcSwap::from_pointee(Trust::default()),
            tokens: Cache::new(TOKEN_TTL),
            refused: Cache::new(TOKEN_TTL),
            reviews: Semaphore::new(REVIEWS),
        }
    }

    /// Whose certificates count from now on.
    pub fn set_trust(&self, trust: Trust) {
        self.trust.store(Arc::new(trust));
    }

    /// The user of a request that came over a connection with this client certificate chain (may be empty).
    pub async fn authenticate(&self, chain: &[CertificateDer<'_>], headers: &HeaderMap) -> Result<Identity, Status> {
        if !chain.is_empty() {
            let trust = self.trust.load();
            if let Some(identity) = trust.front_proxy(chain, headers).or_else(|| trust.client(chain)) {
                return Ok(identity);
            }
        }
        match bearer(headers) {
            Some(token) => self.token(token).await,
            // A certificate that nobody vouches for is a failed attempt, not a missing one.
            None if !chain.is_empty() => Err(Status::unauthorized()),
            None => Ok(Identity::anonymous()),
        }
    }

    /// The user of a bearer token.
    pub async fn token(&self, token: &str) -> Result<Identity, Status> {
        let key = token.to_owned();
        if let Some(identity) = self.tokens.get(&key) {
            return Ok(identity);
        }
        if self.refused.get(&key).is_some() {
            return Err(Status::unauthorized());
        }
        match self.review(token).await? {
            Some(identity) => {
                self.tokens.put(key, identity.clone());
                Ok(identity)
            }
            None => {
                if token.len() <= REFUSED_BYTES {
                    self.refused.put(key, ());
                }
                Err(Status::unauthorized())
            }
        }
    }

    async fn review(&self, token: &str) -> Result<Option<Identity>, Status> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: None,
            },
            ..Default::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let create = async {
            // Never closed: without a place there is no error to tell of.
            let _place = self.reviews.acquire().await.ok();
            api.create(&PostParams::default(), &review).await
        };
        let answer = tokio::time::timeout(TOKEN_TIMEOUT, create).await;
        let status = match answer {
            Ok(Ok(review)) => review.status.unwrap_or_default(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "TokenReview failed");
                return Err(Status::internal("the token could not be reviewed"));
            }
            Err(_) => return Err(Status::timeout("the token was not reviewed in time")),
        };
        Ok(match (status.authenticated, status.user) {
            (Some(true), Some(user)) => Some(identity(user)),
            _ => None,
        })
    }

    /// Keeps the trust as the ConfigMap says; never ends by itself.
    pub async fn watch(&self) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), CONFIG_NAMESPACE);
        loop {
            match api.get_opt(CONFIG_NAME).await {
                Ok(Some(config)) => self.apply(&config),
                Ok(None) => tracing::warn!("ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME} does not exist: no front proxy"),
                Err(error) => tracing::warn!(%error, "cannot read ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME}"),
            }
            let config = watcher::Config::default().fields(&format!("metadata.name={CONFIG_NAME}"));
            let mut events = std::pin::pin!(watcher::watcher(api.clone(), config));
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(config) | watcher::Event::InitApply(config)) => self.apply(&config),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "watch of {CONFIG_NAMESPACE}/{CONFIG_NAME} ended");
                        break;
                    }
                }
            }
            tokio::time::sleep(CONFIG_RETRY).await;
        }
    }

    fn apply(&self, config: &ConfigMap) {
        if config.metadata.name.as_deref() != Some(CONFIG_NAME) {
            return;
        }
        let empty = BTreeMap::new();
        let (trust, problems) = Trust::from_config(config.data.as_ref().unwrap_or(&empty));
        for problem in problems {
            tracing::warn!("ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME}: {problem}");
        }
        self.set_trust(trust);
    }
}

fn identity(user: UserInfo) -> Identity {
    Identity {
        user: user.username.unwrap_or_default(),
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    }
    .authenticated()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}
