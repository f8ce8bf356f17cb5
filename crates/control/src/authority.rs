//! The certificate authority of the control plane: kept in a Secret, its certificate published in a ConfigMap.
//!
//! Several replicas may start at once: whoever creates the Secret first wins, the others take what is there. Each signs
//! its own serving certificate, so that only the authority's key is ever stored.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use weir_xds::server::ServerTls;

/// Name of the Secret and of the ConfigMap.
pub const NAME: &str = "weir-ca";
/// Key of the authority's certificate in both.
pub const CERTIFICATE: &str = "ca.crt";
/// Key of the authority's private key in the Secret.
const KEY: &str = "ca.key";
/// Certificates are valid from the beginning of last year for about this many years.
const VALID_YEARS: i16 = 10;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Kubernetes API refused or is not there.
    #[error("Secret or ConfigMap {NAME} in namespace {namespace}")]
    Api {
        /// Where they are kept.
        namespace: String,
        /// The API's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// The Secret does not hold an authority. It is not overwritten: somebody may have put it there.
    #[error("Secret {namespace}/{NAME}: {reason}; delete it to have a new one made")]
    Secret {
        /// Namespace of the Secret.
        namespace: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("making a certificate")]
    Certificate(#[from] rcgen::Error),
}

/// A certificate authority: certificate and private key, PEM.
#[derive(Clone)]
pub struct Authority {
    /// Certificate.
    pub cert_pem: String,
    key_pem: String,
}

impl Authority {
    /// Makes a new authority.
    pub fn generate() -> Result<Self, rcgen::Error> {
        let mut params = params("weir control plane authority", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        Ok(Self {
            cert_pem: params.self_signed(&key)?.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Signs a serving certificate for these names.
    pub fn serving(&self, names: &[String]) -> Result<ServerTls, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&self.cert_pem, KeyPair::from_pem(&self.key_pem)?)?;
        let mut params = params("weir control plane", names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &issuer)?;
        Ok(ServerTls {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Takes the authority from the cluster, or makes one and stores it; publishes its certificate.
    pub async fn load_or_create(client: &Client, namespace: &str) -> Result<Self, Error> {
        let api = |source| Error::Api {
            namespace: namespace.to_owned(),
            source: Box::new(source),
        };
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let secret = match secrets.get_opt(NAME).await.map_err(api)? {
            Some(secret) => secret,
            None => match secrets
                .create(&PostParams::default(), &Self::generate()?.to_secret(namespace))
                .await
            {
                Ok(secret) => secret,
                Err(kube::Error::Api(status)) if status.code == 409 => secrets.get(NAME).await.map_err(api)?,
                Err(error) => return Err(api(error)),
            },
        };
        let authority = Self::from_secret(&secret).map_err(|reason| Error::Secret {
            namespace: namespace.to_owned(),
            reason,
        })?;
        authority.publish(client, namespace).await.map_err(api)?;
        Ok(authority)
    }

    fn to_secret(&self, namespace: &str) -> Secret {
        let data = [(CERTIFICATE, &self.cert_pem), (KEY, &self.key_pem)];
        Secret {
            metadata: metadata(namespace),
            data: Some(
                data.into_iter()
                    .map(|(k, v)| (k.to_owned(), ByteString(v.clone().into_bytes())))
                    .collect(),
            ),
            ..Default::default()
        }
    }

    fn from_secret(secret: &Secret) -> Result<Self, String> {
        let text = |key: &str| {
            let bytes = secret
                .data
                .as_ref()
                .and_then(|d| d.get(key))
                .ok_or(format!("{key} is missing"))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| format!("{key} is not PEM"))
        };
        let authority = Self {
            cert_pem: text(CERTIFICATE)?,
            key_pem: text(KEY)?,
        };
        // A certificate and key that cannot sign are found here, not when the first proxy connects.
        authority
            .serving(&[])
            .map_err(|error| format!("{CERTIFICATE} and {KEY} cannot sign: {error}"))?;
        Ok(authority)
    }

    async fn publish(&self, client: &Client, namespace: &str) -> Result<(), kube::Error> {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let data = BTreeMap::from([(CERTIFICATE.to_owned(), self.cert_pem.clone())]);
        let map = ConfigMap {
            metadata: metadata(namespace),
            data: Some(data.clone()),
            ..Default::default()
        };
        match maps.create(&PostParams::default(), &map).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return other.map(drop),
        }
        let published = maps.get(NAME).await?;
        if published.data.as_ref().and_then(|d| d.get(CERTIFICATE)) == Some(&self.cert_pem) {
            return Ok(());
        }
        let patch = serde_json::json!({ "data": data });
        maps.patch(NAME, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
    }
}

fn metadata(namespace: &str) -> ObjectMeta {
    let labels = [
        ("app.kubernetes.io/part-of", "weir"),
        ("app.kubernetes.io/managed-by", "weir-control"),
    ];
    ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()),
        ..Default::default()
    }
}

fn params(common_name: &str, names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    let year = jiff::Zoned::now().year();
    params.not_before = date_time_ymd(i32::from(year - 1), 1, 1);
    params.not_after = date_time_ymd(i32::from(year + VALID_YEARS), 1, 1);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_round_trips_and_signs() {
        let authority = Authority::generate().unwrap();
        let read = Authority::from_secret(&authority.to_secret("weir-system")).unwrap();
        assert_eq!(read.cert_pem, authority.cert_pem);
        let tls = read.serving(&["localhost".to_owned()]).unwrap();
        assert!(tls.cert_pem.starts_with("-----BEGIN CERTIFICATE-----"));
    }

    #[test]
    fn a_strange_secret_is_named() {
        let mut secret = Authority::generate().unwrap().to_secret("weir-system");
        let data = secret.data.as_mut().unwrap();
        data.insert(KEY.to_owned(), ByteString(b"nothing".to_vec()));
        assert!(Authority::from_secret(&secret).err().unwrap().contains("cannot sign"));
        secret.data.as_mut().unwrap().remove(KEY);
        assert_eq!(Authority::from_secret(&secret).err().unwrap(), "ca.key is missing");
    }
}
