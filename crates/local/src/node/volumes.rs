//! A pod's volumes on the node: directories whose content comes from the API, empty directories, directories of the node.
//!
//! Enters: a pod and what the API holds. Leaves: a directory a volume, and bind mounts for containers. Content from the
//! API is swapped in atomically by a symbolic link, as kubelets do, and kept up to date while the pod runs.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, SecretVolumeSource,
    ServiceAccount, ServiceAccountTokenProjection, Volume,
};
use kube::Api;
use kube::api::PostParams;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::env::{self, EnvError, Lookup, Placement};
use crate::launch::BindMount;

/// Lifetime asked for when a projection does not say one.
const TOKEN_SECONDS: i64 = 3600;
/// Tokens are renewed after this share of their life.
const TOKEN_RENEW: f64 = 0.8;
/// How often volumes look whether a token or an annotation needs renewal.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
const FILE_MODE: u32 = 0o644;

/// Why a volume is not ready.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("volume \"{volume}\": {kind} \"{name}\" not found")]
    Missing {
        volume: String,
        kind: &'static str,
        name: String,
    },
    #[error("volume \"{volume}\": {kind} \"{name}\" has no key \"{key}\"")]
    NoKey {
        volume: String,
        kind: &'static str,
        name: String,
        key: String,
    },
    #[error("volume \"{volume}\": service account token: {source}")]
    Token { volume: String, source: kube::Error },
    #[error("volume \"{volume}\": {source}")]
    Field { volume: String, source: EnvError },
    #[error("volume \"{volume}\": {path}: {source}")]
    Io {
        volume: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("volume \"{volume}\": path \"{path}\" must be relative and without ..")]
    BadPath { volume: String, path: String },
    #[error(
        "volume \"{volume}\": this node has configMap, secret, downwardAPI, projected, emptyDir and hostPath volumes only"
    )]
    Unsupported { volume: String },
    #[error("volume \"{volume}\": hostPath {path} is not a {wanted}")]
    HostPath {
        volume: String,
        path: PathBuf,
        wanted: &'static str,
    },
    #[error("container \"{container}\" mounts volume \"{volume}\", which the pod does not have")]
    NoSuchVolume { container: String, volume: String },
}

type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// The volumes of one pod.
pub struct Volumes {
    node: Arc<Node>,
    uid: String,
    tokens: HashMap<(String, String), Token>,
    written: HashMap<String, Files>,
}

struct Token {
    text: String,
    renew_at: Instant,
}

impl Volumes {
    /// Nothing is made yet.
    pub fn new(node: Arc<Node>, uid: &str) -> Self {
        Self {
            node,
            uid: uid.to_string(),
            tokens: HashMap::new(),
            written: HashMap::new(),
        }
    }

    /// Makes every volume, or brings it up to date.
    ///
    /// # Errors
    /// The first volume that is not ready.
    pub async fn prepare(&mut self, pod: &Pod, placement: &Placement) -> Result<(), VolumeError> {
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            self.prepare_one(pod, placement, volume).await?;
        }
        Ok(())
    }

    /// Keeps the content up to date until cancelled.
    pub async fn keep_fresh(mut self, pod: impl Fn() -> Arc<Pod>, placement: Placement, stop: CancellationToken) {
        let mut changes = self.node.caches.changes();
        let follow = async {
            loop {
                let _ = tokio::time::timeout(REFRESH_INTERVAL, changes.changed()).await;
                let pod = pod();
                for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
                    // One whose source has gone keeps what it had; the others go on.
                    if let Err(error) = self.prepare_one(&pod, &placement, volume).await {
                        tracing::debug!(uid = self.uid, %error, "volume not refreshed");
                    }
                }
            }
        };
        stop.run_until_cancelled(follow).await;
    }

    async fn prepare_one(&mut self, pod: &Pod, placement: &Placement, volume: &Volume) -> Result<(), VolumeError> {
        let name = &volume.name;
        let files = if let Some(source) = &volume.config_map {
            self.config_map(pod, name, source)?
        } else if let Some(source) = &volume.secret {
            self.secret(pod, name, source)?
        } else if let Some(source) = &volume.downward_api {
            let mode = mode(source.default_mode, FILE_MODE);
            self.downward(pod, placement, name, source.items.as_deref().unwrap_or_default(), mode)?
        } else if let Some(source) = &volume.projected {
            self.projected(pod, placement, name, source).await?
        } else if volume.empty_dir.is_some() {
            let dir = self.node.paths.empty_dir(&self.uid, name);
            make_dir(&dir, 0o777).map_err(io_error(name, &dir))?;
            return Ok(());
        } else if let Some(source) = &volume.host_path {
            let path = self.node.paths.host_path(Path::new(&source.path));
            return host_path(name, &path, source.type_.as_deref().unwrap_or_default());
        } else {
            return Err(VolumeError::Unsupported { volume: name.clone() });
        };
        self.write(name, files)
    }

    fn write(&mut self, name: &str, files: Files) -> Result<(), VolumeError> {
        if self.written.get(name) == Some(&files) {
            return Ok(());
        }
        for path in files.keys() {
            let inside = Path::new(path)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if !inside || path.is_empty() {
                return Err(VolumeError::BadPath {
                    volume: name.into(),
                    path: path.clone(),
                });
            }
        }
        let dir = self.node.paths.content(&self.uid, name);
        swap_in(&dir, &files).map_err(io_error(name, &dir))?;
        self.written.insert(name.to_string(), files);
        Ok(())
    }

    fn config_map(&self, pod: &Pod, volume: &str, source: &ConfigMapVolumeSource) -> Result<Files, VolumeError> {
        let from = From {
            volume,
            kind: "configmap",
            name: &source.name,
            optional: source.optional == Some(true),
        };
        let found = self.node.caches.config_map(namespace(pod), &source.name).map(|map| {
            let text = map
                .data
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone().into_bytes()));
            let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
            text.chain(binary).collect()
        });
        pick(
            &from,
            found,
            source.items.as_deref(),
            mode(source.default_mode, FILE_MODE),
        )
    }

    fn secret(&self, pod: &Pod, volume: &str, source: &SecretVolumeSource) -> Result<Files, VolumeError> {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let from = From {
            volume,
            kind: "secret",
            name,
            optional: source.optional == Some(true),
        };
        let found = self.secret_data(pod, name);
        pick(
            &from,
            found,
            source.items.as_deref(),
            mode(source.default_mode, FILE_MODE),
        )
    }

    fn secret_data(&self, pod: &Pod, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let secret = self.node.caches.secret(namespace(pod), name)?;
        Some(
            secret
                .data
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.0.clone()))
                .collect(),
        )
    }

    fn downward(
        &self,
        pod: &Pod,
        placement: &Placement,
        volume: &str,
        items: &[DownwardAPIVolumeFile],
        default_mode: u32,
    ) -> Result<Files, VolumeError> {
        let mut files = Files::new();
        for item in items {
            let failed = |source| VolumeError::Field {
                volume: volume.into(),
                source,
            };
            let text = if let Some(field) = &item.field_ref {
                env::field(field, pod, placement).map_err(failed)?
            } else if let Some(resource) = &item.resource_field_ref {
                env::resource(resource, pod, &Container::default()).map_err(failed)?
            } else {
                String::new()
            };
            files.insert(item.path.clone(), (text.into_bytes(), mode(item.mode, default_mode)));
        }
        Ok(files)
    }

    async fn projected(
        &mut self,
        pod: &Pod,
        placement: &Placement,
        volume: &str,
        source: &ProjectedVolumeSource,
    ) -> Result<Files, VolumeError> {
        let default_mode = mode(source.default_mode, FILE_MODE);
        let mut files = Files::new();
        for part in source.sources.iter().flatten() {
            if let Some(token) = &part.service_account_token {
                let text = self.token(pod, volume, token).await?;
                files.insert(token.path.clone(), (text.into_bytes(), default_mode));
            }
            if let Some(part) = &part.config_map {
                let source = ConfigMapVolumeSource {
                    name: part.name.clone(),
                    items: part.items.clone(),
                    optional: part.optional,
                    default_mode: source.default_mode,
                    ..ConfigMapVolumeSource::default()
                };
                files.extend(self.config_map(pod, volume, &source)?);
            }
            if let Some(part) = &part.secret {
                let optional = part.optional == Some(true);
                let from = From {
                    volume,
                    kind: "secret",
                    name: &part.name,
                    optional,
                };
                files.extend(pick(
                    &from,
                    self.secret_data(pod, &part.name),
                    part.items.as_deref(),
                    default_mode,
                )?);
            }
            if let Some(part) = &part.downward_api {
                let items = part.items.as_deref().unwrap_or_default();
                files.extend(self.downward(pod, placement, volume, items, default_mode)?);
            }
        }
        Ok(files)
    }

    async fn token(
        &mut self,
        pod: &Pod,
        volume: &str,
        projection: &ServiceAccountTokenProjection,
    ) -> Result<String, VolumeError> {
        let key = (volume.to_string(), projection.path.clone());
        if let Some(token) = self.tokens.get(&key).filter(|token| Instant::now() < token.renew_at) {
            return Ok(token.text.clone());
        }
        let seconds = projection.expiration_seconds.unwrap_or(TOKEN_SECONDS);
        let meta = &pod.metadata;
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: projection
                    .audience
                    .clone()
                    .filter(|a| !a.is_empty())
                    .map(|audience| vec![audience]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: meta.name.clone(),
                    uid: meta.uid.clone(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.node.client.clone(), namespace(pod));
        let account = env::service_account(pod);
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await;
        let text = answer
            .map_err(|source| VolumeError::Token {
                volume: volume.into(),
                source,
            })?
            .status
            .and_then(|status| status.token)
            .unwrap_or_default();
        let life = Duration::from_secs(u64::try_from(seconds).unwrap_or(TOKEN_SECONDS as u64));
        let renew_at = Instant::now() + life.mul_f64(TOKEN_RENEW);
        self.tokens.insert(
            key,
            Token {
                text: text.clone(),
                renew_at,
            },
        );
        Ok(text)
    }
}

/// The bind mounts of a container.
///
/// # Errors
/// When a mount names no volume of the pod, or its source is not there.
pub fn mounts(
    node: &Node,
    pod: &Pod,
    container: &Container,
    vars: &HashMap<String, String>,
) -> Result<Vec<BindMount>, VolumeError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    let mut list = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume =
            volumes
                .iter()
                .find(|volume| volume.name == mount.name)
                .ok_or_else(|| VolumeError::NoSuchVolume {
                    container: container.name.clone(),
                    volume: mount.name.clone(),
                })?;
        let mut source = if volume.empty_dir.is_some() {
            node.paths.empty_dir(uid, &volume.name)
        } else if let Some(host) = &volume.host_path {
            node.paths.host_path(Path::new(&host.path))
        } else {
            node.paths.content(uid, &volume.name)
        };
        let sub_path = match &mount.sub_path_expr {
            Some(expr) => Some(env::expand(expr, vars)),
            None => mount.sub_path.clone(),
        };
        if let Some(sub_path) = sub_path.filter(|path| !path.is_empty()) {
            let inside = Path::new(&sub_path)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if !inside {
                return Err(VolumeError::BadPath {
                    volume: volume.name.clone(),
                    path: sub_path,
                });
            }
            source = source.join(sub_path);
            if !source.exists() {
                fs::create_dir_all(&source).map_err(io_error(&volume.name, &source))?;
            }
        }
        list.push(BindMount {
            source: source.canonicalize().map_err(io_error(&volume.name, &source))?,
            target: Path::new("/").join(&mount.mount_path),
            read_only: mount.read_only == Some(true),
            propagate: mount.mount_propagation.as_deref().is_some_and(|p| p != "None"),
        });
    }
    // Outer mounts before the ones inside them.
    list.sort_by_key(|mount| mount.target.components().count());
    Ok(list)
}

struct From<'a> {
    volume: &'a str,
    kind: &'static str,
    name: &'a str,
    optional: bool,
}

/// The files of an object: all its keys, or the chosen ones.
fn pick(
    from: &From<'_>,
    found: Option<BTreeMap<String, Vec<u8>>>,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
) -> Result<Files, VolumeError> {
    let Some(mut data) = found else {
        if from.optional {
            return Ok(Files::new());
        }
        return Err(VolumeError::Missing {
            volume: from.volume.into(),
            kind: from.kind,
            name: from.name.into(),
        });
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data
            .into_iter()
            .map(|(key, value)| (key, (value, default_mode)))
            .collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.remove(&item.key) {
            Some(value) => {
                files.insert(item.path.clone(), (value, mode(item.mode, default_mode)));
            }
            None if from.optional => {}
            None => {
                let (volume, key) = (from.volume.into(), item.key.clone());
                return Err(VolumeError::NoKey {
                    volume,
                    kind: from.kind,
                    name: from.name.into(),
                    key,
                });
            }
        }
    }
    Ok(files)
}

fn host_path(volume: &str, path: &Path, kind: &str) -> Result<(), VolumeError> {
    let failed = io_error(volume, path);
    match kind {
        "DirectoryOrCreate" => fs::create_dir_all(path).map_err(failed),
        "FileOrCreate" if !path.exists() => fs::write(path, "").map_err(failed),
        "Directory" if !path.is_dir() => Err(VolumeError::HostPath {
            volume: volume.into(),
            path: path.into(),
            wanted: "directory",
        }),
        "File" if !path.is_file() => Err(VolumeError::HostPath {
            volume: volume.into(),
            path: path.into(),
            wanted: "file",
        }),
        // As container runtimes do for a bind mount whose source is missing.
        "" if !path.exists() => fs::create_dir_all(path).map_err(failed),
        _ => Ok(()),
    }
}

/// Writes the files to a new directory and points `..data` at it in one step; the visible names are links through it.
fn swap_in(dir: &Path, files: &Files) -> io::Result<()> {
    make_dir(dir, 0o755)?;
    let data = dir.join("..data");
    let previous = fs::read_link(&data).ok();
    let stamp = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
    let name = PathBuf::from(format!("..{stamp}"));
    let fresh = dir.join(&name);
    make_dir(&fresh, 0o755)?;
    for (path, (content, mode)) in files {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
    }
    let staged = dir.join("..data_tmp");
    let _ = fs::remove_file(&staged);
    symlink(&name, &staged)?;
    fs::rename(&staged, &data)?;
    let tops: Vec<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for top in &tops {
        let link = dir.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(top), &link)?;
        }
    }
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let stale = name
            .to_str()
            .is_some_and(|name| !name.starts_with("..") && !tops.contains(&name));
        if stale {
            let _ = fs::remove_file(entry.path());
        }
    }
    if let Some(previous) = previous {
        let _ = fs::remove_dir_all(dir.join(previous));
    }
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn io_error(volume: &str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let (volume, path) = (volume.to_string(), path.to_path_buf());
    move |source| VolumeError::Io { volume, path, source }
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

fn mode(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, text)| (path.to_string(), (text.as_bytes().to_vec(), 0o640)))
            .collect()
    }

    #[test]
    fn content_is_swapped_and_what_is_gone_disappears() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("volume");
        swap_in(&dir, &files(&[("a", "1"), ("sub/b", "2")])).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let first = fs::read_link(dir.join("..data")).unwrap();
        swap_in(&dir, &files(&[("a", "3"), ("c", "4")])).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert_eq!(fs::read_to_string(dir.join("c")).unwrap(), "4");
        assert!(fs::symlink_metadata(dir.join("sub")).is_err());
        assert!(!dir.join(first).exists());
    }

    #[test]
    fn chosen_keys_must_exist_unless_optional() {
        let data = || Some(BTreeMap::from([("k".to_string(), b"v".to_vec())]));
        let item = |key: &str| KeyToPath {
            key: key.into(),
            path: "p".into(),
            mode: Some(0o600),
            ..KeyToPath::default()
        };
        let from = |optional| From {
            volume: "v",
            kind: "configmap",
            name: "m",
            optional,
        };
        let picked = pick(&from(false), data(), Some(&[item("k")]), 0o644).unwrap();
        assert_eq!(picked["p"], (b"v".to_vec(), 0o600));
        let error = pick(&from(false), data(), Some(&[item("x")]), 0o644).unwrap_err();
        assert_eq!(error.to_string(), "volume \"v\": configmap \"m\" has no key \"x\"");
        assert!(pick(&from(true), data(), Some(&[item("x")]), 0o644).unwrap().is_empty());
        assert!(pick(&from(true), None, None, 0o644).unwrap().is_empty());
        assert!(matches!(
            pick(&from(false), None, None, 0o644),
            Err(VolumeError::Missing { .. })
        ));
    }
}
