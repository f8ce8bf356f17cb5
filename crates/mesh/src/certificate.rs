//! Certificates out of Secrets, checked before any proxy is told: one that a proxy would reject could hold up a listener.

use std::fmt;

use k8s_openapi::api::core::v1::Secret;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::objects::{Key, Objects, object_ref};
use crate::problems::Problems;

/// Key of a Secret's data with the chain of certificates.
const CHAIN: &str = "tls.crt";
/// Key of a Secret's data with the private key.
const PRIVATE_KEY: &str = "tls.key";

/// A chain of certificates and its private key, both PEM. Neither printed nor written out.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// The chain, the server's own certificate first.
    #[serde(skip)]
    pub chain: Vec<u8>,
    /// The private key of the first.
    #[serde(skip)]
    pub key: Vec<u8>,
    /// The DNS names that the first is for, in lower case.
    #[serde(skip)]
    pub names: Vec<String>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(..)")
    }
}

/// The certificate of a Secret. One that went bad is told, and the last good one (`known`) stays. `Err`: there is none.
pub(crate) fn of_secret(
    objects: &Objects,
    key: &Key,
    known: Option<&Certificate>,
    problems: &mut Problems,
) -> Result<Certificate, String> {
    let Some(secret) = objects.secrets.get(key) else {
        return Err(format!(
            "Secret {key} of type kubernetes.io/tls does not exist, so there is no TLS for these hosts; create it, for instance by kubectl create secret tls"
        ));
    };
    match read(secret, known) {
        Ok(certificate) => Ok(certificate),
        Err((field, why)) => {
            let (object, field) = (object_ref("v1", "Secret", &secret.metadata), format!("data[{field}]"));
            let Some(known) = known else {
                problems.error(object, field, why);
                return Err(format!(
                    "Secret {key} holds no usable certificate, so there is no TLS for these hosts"
                ));
            };
            problems.error(
                object,
                field,
                format!("{why} (the last good certificate stays until then)"),
            );
            Ok(known.clone())
        }
    }
}

fn read(secret: &Secret, known: Option<&Certificate>) -> Result<Certificate, (&'static str, String)> {
    let part = |name: &'static str| {
        let data = secret.data.as_ref().and_then(|data| data.get(name));
        data.filter(|bytes| !bytes.0.is_empty())
            .map(|bytes| bytes.0.clone())
            .ok_or_else(|| (name, "is missing; it must hold PEM".to_owned()))
    };
    let mut found = Certificate {
        chain: part(CHAIN)?,
        key: part(PRIVATE_KEY)?,
        names: Vec::new(),
    };
    if let Some(known) = known.filter(|known| (&known.chain, &known.key) == (&found.chain, &found.key)) {
        return Ok(known.clone());
    }
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&found.chain)
        .collect::<Result<_, _>>()
        .map_err(|error| (CHAIN, format!("is not PEM: {error}")))?;
    match chain.first() {
        Some(first) => found.names = dns_names(first),
        None => return Err((CHAIN, "holds no certificate".to_owned())),
    }
    let key = PrivateKeyDer::from_pem_slice(&found.key)
        .map_err(|error| (PRIVATE_KEY, format!("is not a private key in PEM: {error}")))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => (
            PRIVATE_KEY,
            "does not belong to the first certificate of tls.crt".to_owned(),
        ),
        rustls::Error::InvalidCertificate(why) => (CHAIN, format!("holds no valid certificate: {why:?}")),
        other => (PRIVATE_KEY, format!("cannot be used: {other}")),
    })?;
    Ok(found)
}

/// The DNS names among the subject's alternative names. What cannot be read has none; whether it can be used is judged elsewhere.
fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = alternatives.value.general_names.iter();
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    names.filter_map(dns).collect()
}
