//! The cluster's certificates and keys, made once in a directory, and the kubeconfigs that use them.
//! Leaves: files and their paths. Knows nothing of requests.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::json;

/// Certificates are valid for this long.
const VALID_YEARS: i32 = 10;

/// The node whose kubelet gets certificates.
pub const NODE_NAME: &str = "weir-local";

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("certificate {name}: {source}")]
    Certificate { name: &'static str, source: rcgen::Error },
    #[error("{0}")]
    Name(String),
}

/// The directory of certificates. Every `NAME.crt` has its `NAME.key` beside it.
#[derive(Debug, Clone)]
pub struct Pki {
    dir: PathBuf,
}

/// Who a kubeconfig speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// `kubernetes-admin`, group `system:masters`.
    Admin,
    /// `system:node:weir-local`, group `system:nodes`.
    Kubelet,
    /// `system:kube-controller-manager`.
    Controllers,
}

impl Identity {
    fn file(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Kubelet => "kubelet-client",
            Self::Controllers => "controllers",
        }
    }
}

impl Pki {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a certificate: `ca`, `apiserver`, `kubelet-server`, `front-proxy-client`, ...
    pub fn cert(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// The cluster CA.
    pub fn ca(&self) -> PathBuf {
        self.cert("ca")
    }

    /// A kubeconfig with embedded certificates for `server` (such as `https://127.0.0.1:7443`); context `weir-local`.
    pub fn kubeconfig(&self, identity: Identity, server: &str) -> Result<String, PkiError> {
        let data = |path: PathBuf| -> Result<String, PkiError> {
            let bytes = fs::read(&path).map_err(|source| PkiError::Io { path, source })?;
            Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
        };
        let file = identity.file();
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": "weir-local",
            "clusters": [{"name": "weir-local", "cluster": {
                "server": server, "certificate-authority-data": data(self.ca())?}}],
            "contexts": [{"name": "weir-local", "context": {"cluster": "weir-local", "user": file}}],
            "users": [{"name": file, "user": {
                "client-certificate-data": data(self.cert(file))?, "client-key-data": data(self.key(file))?}}],
        });
        Ok(format!("{config:#}\n"))
    }

    /// Writes such a kubeconfig, readable by its owner only.
    pub fn write_kubeconfig(&self, identity: Identity, server: &str, path: &Path) -> Result<(), PkiError> {
        write(path, self.kubeconfig(identity, server)?.as_bytes())
    }
}

struct Authority {
    cert: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Makes whatever is missing in `dir` and returns it. A certificate whose CA is new is made again.
pub fn ensure_pki(dir: &Path) -> Result<Pki, PkiError> {
    let io = |source| PkiError::Io {
        path: dir.to_owned(),
        source,
    };
    fs::create_dir_all(dir).map_err(io)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io)?;
    let pki = Pki { dir: dir.to_owned() };
    let (ca, fresh) = authority(&pki, "ca", "weir-local-ca")?;
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let api_names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        "10.96.0.1",
        "10.244.0.1",
    ];
    let node_user = format!("system:node:{NODE_NAME}");
    let leaves: [(&'static str, &str, &str, ExtendedKeyUsagePurpose, &[&str]); 6] = [
        ("apiserver", "kube-apiserver", "", server.clone(), &api_names),
        (
            "apiserver-kubelet-client",
            "kube-apiserver-kubelet-client",
            "system:masters",
            client.clone(),
            &[],
        ),
        ("admin", "kubernetes-admin", "system:masters", client.clone(), &[]),
        ("kubelet-client", &node_user, "system:nodes", client.clone(), &[]),
        (
            "kubelet-server",
            &node_user,
            "system:nodes",
            server,
            &[NODE_NAME, "localhost", "10.244.0.1", "127.0.0.1"],
        ),
        ("controllers", "system:kube-controller-manager", "", client.clone(), &[]),
    ];
    for (name, user, group, usage, hosts) in leaves {
        leaf(&pki, &ca, fresh, name, user, group, usage, hosts)?;
    }
    let (front, fresh) = authority(&pki, "front-proxy-ca", "weir-local-front-proxy-ca")?;
    leaf(
        &pki,
        &front,
        fresh,
        "front-proxy-client",
        "front-proxy-client",
        "",
        client,
        &[],
    )?;
    if !pki.key("sa").exists() {
        let key = KeyPair::generate().map_err(|source| PkiError::Certificate { name: "sa", source })?;
        write(&pki.dir.join("sa.pub"), key.public_key_pem().as_bytes())?;
        write(&pki.key("sa"), key.serialize_pem().as_bytes())?;
    }
    Ok(pki)
}

fn authority(pki: &Pki, name: &'static str, user: &str) -> Result<(Authority, bool), PkiError> {
    let wrap = |source| PkiError::Certificate { name, source };
    if let (Ok(cert), Ok(key)) = (fs::read_to_string(pki.cert(name)), fs::read_to_string(pki.key(name))) {
        let key = KeyPair::from_pem(&key).map_err(wrap)?;
        let issuer = Issuer::from_ca_cert_pem(&cert, key).map_err(wrap)?;
        return Ok((Authority { cert, issuer }, false));
    }
    let key = KeyPair::generate().map_err(wrap)?;
    let mut params = parameters(name, user, "", &[])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    let cert = params.self_signed(&key).map_err(wrap)?.pem();
    write(&pki.key(name), key.serialize_pem().as_bytes())?;
    write(&pki.cert(name), cert.as_bytes())?;
    let issuer = Issuer::from_ca_cert_pem(&cert, key).map_err(wrap)?;
    Ok((Authority { cert, issuer }, true))
}

fn parameters(name: &'static str, user: &str, group: &str, hosts: &[&str]) -> Result<CertificateParams, PkiError> {
    let wrap = |source| PkiError::Certificate { name, source };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, user);
    for host in hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName((*host).try_into().map_err(wrap)?),
        });
    }
    // From yesterday: clocks of clients may be a little behind.
    let start = jiff::Zoned::now()
        .yesterday()
        .map_err(|e| PkiError::Name(format!("the clock: {e}")))?
        .date();
    let ymd = |year: i32| {
        let month = start.month().unsigned_abs();
        // Every month has the 28th.
        rcgen::date_time_ymd(year, month, start.day().clamp(1, 28).unsigned_abs())
    };
    params.not_before = ymd(i32::from(start.year()));
    params.not_after = ymd(i32::from(start.year()) + VALID_YEARS);
    Ok(params)
}

#[allow(clippy::too_many_arguments)]
fn leaf(
    pki: &Pki,
    ca: &Authority,
    ca_is_fresh: bool,
    name: &'static str,
    user: &str,
    group: &str,
    usage: ExtendedKeyUsagePurpose,
    hosts: &[&str],
) -> Result<(), PkiError> {
    if !ca_is_fresh && pki.cert(name).exists() && pki.key(name).exists() {
        return Ok(());
    }
    let wrap = |source| PkiError::Certificate { name, source };
    let mut params = parameters(name, user, group, hosts)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().map_err(wrap)?;
    let cert = params.signed_by(&key, &ca.issuer).map_err(wrap)?;
    write(&pki.key(name), key.serialize_pem().as_bytes())?;
    // With the CA behind it, as servers send it.
    write(&pki.cert(name), format!("{}{}", cert.pem(), ca.cert).as_bytes())
}

/// Writes the file as a whole, readable by its owner only.
fn write(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let io = |source| PkiError::Io {
        path: path.to_owned(),
        source,
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(io)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(io)?;
    io::Write::write_all(&mut file, content).map_err(io)?;
    fs::rename(&fresh, path).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let pki = ensure_pki(dir.path()).unwrap();
        let before = fs::read(pki.cert("apiserver")).unwrap();
        let pki = ensure_pki(dir.path()).unwrap();
        assert_eq!(before, fs::read(pki.cert("apiserver")).unwrap());
        let mode = fs::metadata(pki.key("sa")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let config = pki.kubeconfig(Identity::Admin, "https://127.0.0.1:7443").unwrap();
        assert!(config.contains("\"current-context\": \"weir-local\""));
    }
}
