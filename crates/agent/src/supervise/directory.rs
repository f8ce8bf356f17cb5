//! The directory of one proxy, `<run_dir>/proxies/<pod uid>/`: everything that the proxy reads and everything that an
//! agent needs to find it again.
//!
//! ```text
//! bootstrap.json  Envoy's bootstrap format, for either engine     token, ca.crt  credentials for the control plane
//! state/          the proxy's own (last good configuration)       admin.sock     its admin interface
//! record.json     who it is and what has been done for it         proxy.log      what it prints (proxy.log.1: before)
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use weir_api::labels::Engine;

use super::process::ProcessId;
use crate::bootstrap::Bootstrap;
use crate::plan::{Skip, Spec};

/// A log longer than this is set aside (one older one is kept), bytes.
const LOG_BYTES_MAX: u64 = 4 << 20;
/// How much of a log's end is shown in an event, bytes.
const LOG_TAIL_BYTES: u64 = 300;

/// The pod whose proxy it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid; a pod made anew under the same name has another.
    pub uid: String,
    /// Its service account, in whose name the proxy speaks.
    pub service_account: String,
    /// What it is one of many of: its workload's name, or its own; so traces call it.
    #[serde(default)]
    pub workload: String,
}

/// The sandbox of a pod: what owns its network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The container runtime's name of it.
    pub id: String,
    /// A path that opens its network namespace.
    pub netns: PathBuf,
}

/// What has been done for a pod; survives the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whose proxy.
    pub pod: PodId,
    /// Where it runs.
    pub sandbox: Sandbox,
    /// What was asked for.
    pub spec: Spec,
    /// Name of this run of the proxy: 64 hexadecimal digits.
    pub proxy: String,
    /// The process; `None` before the first start.
    pub process: Option<ProcessId>,
    /// The redirection that stands in the network namespace, if any.
    pub redirected: Option<Skip>,
    /// Being undone.
    #[serde(default)]
    pub draining: bool,
}

/// What a proxy is told about the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    /// Address and port of its xDS service.
    pub target: String,
    /// The name in its certificate.
    pub server_name: String,
    /// Certificates that vouch for it, PEM.
    pub ca: String,
}

/// The directory of one proxy.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Directory of a pod's proxy under the agent's run directory. The uid comes from the API server or a container
    /// runtime, so it is checked before it becomes part of a path.
    pub fn new(run_dir: &Path, uid: &str) -> io::Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if uid.is_empty() || uid.len() > 64 || !uid.chars().all(plain) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{uid:?} is no pod uid"),
            ));
        }
        Ok(Self(run_dir.join("proxies").join(uid)))
    }

    /// The records of all proxies under a run directory. An unreadable one is removed: nothing can be known of it.
    pub fn records(run_dir: &Path) -> Vec<Record> {
        let Ok(entries) = fs::read_dir(run_dir.join("proxies")) else {
            return Vec::new();
        };
        let mut records = Vec::new();
        for path in entries.flatten().map(|e| e.path()) {
            let directory = Self(path);
            match directory.record() {
                Some(record) => records.push(record),
                None => directory.remove(),
            }
        }
        records
    }

    /// All proxies under a run directory that have a readable record. Nothing is changed.
    pub fn all(run_dir: &Path) -> Vec<(Record, Self)> {
        let entries = fs::read_dir(run_dir.join("proxies")).into_iter().flatten().flatten();
        let directories = entries.map(|entry| Self(entry.path()));
        directories.filter_map(|d| Some((d.record()?, d))).collect()
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The bootstrap file.
    pub fn bootstrap(&self) -> PathBuf {
        self.0.join("bootstrap.json")
    }

    /// The admin socket.
    pub fn admin(&self) -> PathBuf {
        self.0.join("admin.sock")
    }

    /// The proxy's own directory.
    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Makes it, readable for root only.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(self.state())?;
        fs::set_permissions(&self.0, std::os::unix::fs::PermissionsExt::from_mode(0o700))
    }

    /// Removes it with everything in it.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a proxy's directory");
        }
    }

    /// The record, if there is a readable one.
    pub fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.0.join("record.json")).ok()?).ok()
    }

    /// Writes the record.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        write(&self.0.join("record.json"), &serde_json::to_vec_pretty(record)?)
    }

    /// Writes the token.
    pub fn save_token(&self, token: &str) -> io::Result<()> {
        write(&self.0.join("token"), token.as_bytes())
    }

    /// How long ago the token was written.
    pub fn token_age(&self) -> Option<Duration> {
        let written = fs::metadata(self.0.join("token")).ok()?.modified().ok()?;
        Some(SystemTime::now().duration_since(written).unwrap_or_default())
    }

    /// Whether a proxy could start with what is there.
    pub fn complete(&self) -> bool {
        ["bootstrap.json", "token", "ca.crt"]
            .iter()
            .all(|f| self.0.join(f).exists())
    }

    /// Writes what the proxy is told, where it differs.
    pub fn configure(
        &self,
        pod: &PodId,
        engine: Engine,
        host_ip: Option<IpAddr>,
        control: &ControlPlane,
    ) -> io::Result<()> {
        // Records of an earlier version say nothing of it.
        let workload = if pod.workload.is_empty() {
            &pod.name
        } else {
            &pod.workload
        };
        let bootstrap = Bootstrap {
            node_id: &format!("{}.{}", pod.name, pod.namespace),
            service: &format!("{workload}.{}", pod.namespace),
            engine,
            host_ip,
            admin: &self.admin(),
            target: &control.target,
            server_name: &control.server_name,
            ca: &self.0.join("ca.crt"),
            token: &self.0.join("token"),
        };
        let bootstrap = serde_json::to_vec_pretty(&bootstrap.to_json())?;
        for (path, content) in [
            (self.bootstrap(), bootstrap),
            (self.0.join("ca.crt"), control.ca.clone().into_bytes()),
        ] {
            if fs::read(&path).ok().as_deref() != Some(&content) {
                write(&path, &content)?;
            }
        }
        Ok(())
    }

    /// Opens the log for the proxy to write on.
    pub fn log(&self) -> io::Result<File> {
        self.rotate_log();
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.0.join("proxy.log"))
    }

    /// Sets the log aside when it is too long. The proxy goes on writing: it appends, so the emptied file starts anew.
    pub fn rotate_log(&self) {
        let log = self.0.join("proxy.log");
        if fs::metadata(&log).is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
            let kept = fs::copy(&log, self.0.join("proxy.log.1"));
            let emptied = OpenOptions::new().write(true).open(&log).and_then(|f| f.set_len(0));
            if let Err(error) = kept.map(drop).and(emptied) {
                tracing::warn!(path = %log.display(), %error, "cannot rotate a proxy's log");
            }
        }
    }

    /// The end of the log, for events.
    pub fn log_tail(&self) -> String {
        use std::io::{Read as _, Seek as _};
        let read = || -> io::Result<String> {
            let mut file = File::open(self.0.join("proxy.log"))?;
            let length = file.metadata()?.len();
            file.seek(io::SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        read().unwrap_or_default()
    }
}

/// Replaces a file in one step, readable for its owner only.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(content)?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str) -> PodId {
        PodId {
            namespace: "default".into(),
            name: "a".into(),
            uid: uid.into(),
            service_account: "default".into(),
            workload: "web".into(),
        }
    }

    #[test]
    fn uid_is_no_way_out_of_the_directory() {
        for uid in ["", "../x", "a/b", "."] {
            assert!(Directory::new(Path::new("/run/weir"), uid).is_err(), "{uid:?}");
        }
    }

    #[test]
    fn records_survive_and_rubbish_goes() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::new(root.path(), "1-2").unwrap();
        directory.create().unwrap();
        let record = Record {
            pod: pod("1-2"),
            sandbox: Sandbox {
                id: "s".into(),
                netns: "/proc/1/ns/net".into(),
            },
            spec: Spec {
                engine: Engine::Envoy,
                skip: Skip::default(),
            },
            proxy: "ab".into(),
            process: Some(ProcessId { pid: 1, start_ticks: 2 }),
            redirected: Some(Skip {
                ports: vec!["22".parse().unwrap()],
                cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            }),
            draining: false,
        };
        directory.save(&record).unwrap();
        let broken = Directory::new(root.path(), "3").unwrap();
        broken.create().unwrap();
        fs::write(broken.path().join("record.json"), "{").unwrap();
        assert_eq!(Directory::records(root.path()), [record]);
        assert!(!broken.path().exists());
        directory.remove();
        assert!(Directory::records(root.path()).is_empty());
    }

    #[test]
    fn bootstrap_names_node_and_control_plane() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::new(root.path(), "1").unwrap();
        directory.create().unwrap();
        let control = ControlPlane {
            target: "10.96.0.7:18000".into(),
            server_name: "c".into(),
            ca: "PEM".into(),
        };
        directory
            .configure(&pod("1"), Engine::Weir, "10.244.0.1".parse().ok(), &control)
            .unwrap();
        assert!(!directory.complete());
        directory.save_token("t").unwrap();
        assert!(directory.complete());
        assert!(directory.token_age().unwrap() < Duration::from_secs(60));
        let bootstrap: Value = serde_json::from_slice(&fs::read(directory.bootstrap()).unwrap()).unwrap();
        assert_eq!(
            bootstrap["node"],
            json!({"id": "a.default", "cluster": "web.default",
            "metadata": {"host_ip": "10.244.0.1", "engine": "weir"}})
        );
        let service = &bootstrap["dynamic_resources"]["ads_config"]["grpc_services"][0]["google_grpc"];
        assert_eq!(service["target_uri"], "10.96.0.7:18000");
    }

    #[test]
    fn long_logs_are_set_aside() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::new(root.path(), "1").unwrap();
        directory.create().unwrap();
        let mut log = directory.log().unwrap();
        log.write_all(&vec![b'x'; 5 << 20]).unwrap();
        directory.rotate_log();
        log.write_all(b"after").unwrap();
        assert_eq!(directory.log_tail(), "after");
        assert_eq!(
            fs::metadata(directory.path().join("proxy.log.1")).unwrap().len(),
            5 << 20
        );
    }
}
