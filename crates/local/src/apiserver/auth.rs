//! Who sends a request: client certificate, service-account token, impersonation; otherwise anonymous.

use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::{ApiError, Result};
use super::tokens::{Claims, ISSUER, Tokens};

/// An authenticated user, as RBAC and aggregated servers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            uid: String::new(),
            groups: vec!["system:unauthenticated".to_owned()],
            extra: BTreeMap::new(),
        }
    }

    pub fn is_anonymous(&self) -> bool {
        self.name == "system:anonymous"
    }

    /// CN and O of a client certificate that TLS has verified.
    pub fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let name = cert.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
        let mut groups: Vec<String> = cert
            .subject()
            .iter_organization()
            .filter_map(|o| o.as_str().ok().map(str::to_owned))
            .collect();
        groups.push("system:authenticated".to_owned());
        Some(Self {
            name,
            uid: String::new(),
            groups,
            extra: BTreeMap::new(),
        })
    }

    /// The user of a checked service-account token.
    pub fn from_claims(claims: &Claims) -> Self {
        let mut extra = BTreeMap::new();
        let mut put = |key: &str, value: &str| {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        put("credential-id", &format!("JTI={}", claims.id));
        if let Some((name, uid)) = &claims.pod {
            put("pod-name", name);
            put("pod-uid", uid);
        }
        if let Some((name, uid)) = &claims.node {
            put("node-name", name);
            put("node-uid", uid);
        }
        Self {
            name: format!("system:serviceaccount:{}:{}", claims.namespace, claims.account),
            uid: claims.account_uid.clone(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{}", claims.namespace),
                "system:authenticated".to_owned(),
            ],
            extra,
        }
    }

    /// `authentication.k8s.io/v1` UserInfo.
    pub fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.clone().into();
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

/// The user of a request before impersonation.
pub fn authenticate(headers: &HeaderMap, certificate: Option<&User>, tokens: &Tokens) -> Result<User> {
    if let Some(user) = certificate {
        return Ok(user.clone());
    }
    let Some(header) = headers.get(http::header::AUTHORIZATION) else {
        return Ok(User::anonymous());
    };
    let text = header.to_str().map_err(|_| ApiError::unauthorized())?;
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Err(ApiError::unauthorized()),
    };
    let claims = tokens.check(token).map_err(|e| {
        tracing::debug!("token refused: {e}");
        ApiError::unauthorized()
    })?;
    if !claims.audiences.iter().any(|a| a == ISSUER) {
        tracing::debug!(audiences = ?claims.audiences, "token refused: it is for others");
        return Err(ApiError::unauthorized());
    }
    Ok(User::from_claims(&claims))
}

/// Whom the request wants to be taken for (`kubectl --as`), with what must be allowed for that:
/// (API group, resource, subresource, name) of each `impersonate` check.
pub fn impersonated(headers: &HeaderMap) -> Result<Option<(User, Vec<Impersonation>)>> {
    let values = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok().map(str::to_owned))
            .collect()
    };
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().push(value.to_owned());
        }
    }
    let groups = values("impersonate-group");
    let uid = values("impersonate-uid").pop().unwrap_or_default();
    let Some(name) = values("impersonate-user").pop() else {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::bad_request(
            "requested impersonation of groups, uid or extra without impersonating a user; set Impersonate-User",
        ));
    };
    let mut checks = vec![match name
        .strip_prefix("system:serviceaccount:")
        .and_then(|s| s.split_once(':'))
    {
        Some((ns, account)) => Impersonation::new("serviceaccounts", "", ns, account),
        None => Impersonation::new("users", "", "", &name),
    }];
    checks.extend(groups.iter().map(|g| Impersonation::new("groups", "", "", g)));
    for (key, values) in &extra {
        checks.extend(values.iter().map(|v| Impersonation {
            group: "authentication.k8s.io",
            ..Impersonation::new("userextras", key, "", v)
        }));
    }
    let mut user = User {
        name,
        uid,
        groups,
        extra,
    };
    if let Some((ns, _)) = user
        .name
        .strip_prefix("system:serviceaccount:")
        .and_then(|s| s.split_once(':'))
        && user.groups.is_empty()
    {
        let own = format!("system:serviceaccounts:{ns}");
        user.groups = vec!["system:serviceaccounts".to_owned(), own];
    }
    let anonymous = user.is_anonymous();
    let group = if anonymous {
        "system:unauthenticated"
    } else {
        "system:authenticated"
    };
    if !user.groups.iter().any(|g| g == group) {
        user.groups.push(group.to_owned());
    }
    Ok(Some((user, checks)))
}

/// One `impersonate` permission that is needed.
#[derive(Debug)]
pub struct Impersonation {
    pub group: &'static str,
    pub resource: &'static str,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

impl Impersonation {
    fn new(resource: &'static str, subresource: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: "",
            resource,
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}
