//! Puts the CNI plugin where the container runtime finds it: the binary into its plugin directory, an entry at the end
//! of its network configuration.
//!
//! Other installers write the same files, so the agent looks again every few seconds. Nothing is written when nothing
//! differs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::PLUGIN;

/// How often the files are looked at again.
const RECHECK: Duration = Duration::from_secs(5);
/// The configuration that is made where there is none.
const OWN_CONFLIST: &str = "10-weir.conflist";

/// Where the container runtime looks for plugins.
#[derive(Clone, Debug)]
pub struct CniConfig {
    /// Directory of plugin binaries.
    pub bin_dir: PathBuf,
    /// Directory of network configurations.
    pub conf_dir: PathBuf,
    /// Make a configuration with this plugin alone where there is none. Right where something else gives pods their
    /// network before any plugin runs; elsewhere pods would start without a network.
    pub standalone: bool,
}

impl Default for CniConfig {
    fn default() -> Self {
        Self {
            bin_dir: "/opt/cni/bin".into(),
            conf_dir: "/etc/cni/net.d".into(),
            standalone: false,
        }
    }
}

/// Installs, and keeps installed until shutdown. Failures are logged and tried again: pods that are labelled while they
/// run need no plugin.
pub async fn keep(config: CniConfig, exe: PathBuf, socket: PathBuf, shutdown: CancellationToken) {
    let mut said = String::new();
    loop {
        let now = match install(&config, &exe, &socket) {
            Ok(path) => path.map_or("no network configuration yet".to_owned(), |p| {
                format!("installed in {}", p.display())
            }),
            Err(error) => format!("not installed: {error}"),
        };
        if now != said {
            tracing::info!(conf_dir = %config.conf_dir.display(), "CNI plugin: {now}");
            said = now;
        }
        tokio::select! {
            () = tokio::time::sleep(RECHECK) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// One look; returns the configuration that names the plugin.
fn install(config: &CniConfig, exe: &Path, socket: &Path) -> io::Result<Option<PathBuf>> {
    install_binary(&config.bin_dir, exe)?;
    fs::create_dir_all(&config.conf_dir)?;
    let own = config.conf_dir.join(OWN_CONFLIST);
    let mut lists: Vec<PathBuf> = fs::read_dir(&config.conf_dir)?.flatten().map(|e| e.path()).collect();
    lists.retain(|p| p.extension().is_some_and(|e| e == "conflist"));
    lists.sort();
    let entry = json!({"type": PLUGIN, "agentSocket": socket});
    // A configuration of our own gives way to one that gives pods a network.
    if let Some(path) = lists.iter().find(|p| **p != own) {
        if own.exists() {
            fs::remove_file(&own)?;
        }
        insert(path, &entry)?;
        return Ok(Some(path.clone()));
    }
    if !config.standalone {
        return Ok(None);
    }
    let list = json!({"cniVersion": "1.0.0", "name": "weir", "plugins": [entry]});
    write_if_different(&own, &list)?;
    Ok(Some(own))
}

/// Puts the entry last in a list of plugins.
fn insert(path: &Path, entry: &Value) -> io::Result<()> {
    let mut list: Value = serde_json::from_slice(&fs::read(path)?)?;
    let Some(plugins) = list["plugins"].as_array_mut() else {
        let message = format!("{} has no list of plugins", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    };
    plugins.retain(|p| p["type"] != PLUGIN);
    plugins.push(entry.clone());
    write_if_different(path, &list)
}

fn write_if_different(path: &Path, content: &Value) -> io::Result<()> {
    let there: Option<Value> = fs::read(path).ok().and_then(|b| serde_json::from_slice(&b).ok());
    if there.as_ref() == Some(content) {
        return Ok(());
    }
    let mut bytes = serde_json::to_vec_pretty(content)?;
    bytes.push(b'\n');
    // Runtimes read by name ending; the unfinished file has none of those.
    crate::supervise::write(path, &bytes)
}

/// A link to the running binary, or a copy where that is on another file system.
fn install_binary(directory: &Path, exe: &Path) -> io::Result<()> {
    let target = directory.join(PLUGIN);
    let source = fs::metadata(exe)?;
    if let Ok(there) = fs::metadata(&target) {
        let linked = (there.dev(), there.ino()) == (source.dev(), source.ino());
        let copied = there.len() == source.len() && there.mtime() >= source.mtime();
        if linked || copied {
            return Ok(());
        }
    }
    fs::create_dir_all(directory)?;
    let fresh = directory.join(format!(".{PLUGIN}.new"));
    let _ = fs::remove_file(&fresh);
    fs::hard_link(exe, &fresh).or_else(|_| fs::copy(exe, &fresh).map(drop))?;
    fs::rename(&fresh, &target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> (tempfile::TempDir, CniConfig, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let exe = root.path().join("weir");
        fs::write(&exe, "binary").unwrap();
        let config = CniConfig {
            bin_dir: root.path().join("bin"),
            conf_dir: root.path().join("net.d"),
            standalone: true,
        };
        (root, config, exe)
    }

    fn types(path: &Path) -> Vec<String> {
        let list: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        list["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["type"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn alone_then_chained_then_reinserted() {
        let (_root, config, exe) = setup();
        let socket = Path::new("/run/weir/agent.sock");
        let own = config.conf_dir.join(OWN_CONFLIST);
        assert_eq!(install(&config, &exe, socket).unwrap(), Some(own.clone()));
        assert_eq!(types(&own), [PLUGIN]);
        assert_eq!(fs::read(config.bin_dir.join(PLUGIN)).unwrap(), b"binary");
        let other = config.conf_dir.join("20-net.conflist");
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]});
        for _ in 0..2 {
            fs::write(&other, list.to_string()).unwrap();
            assert_eq!(install(&config, &exe, socket).unwrap(), Some(other.clone()));
            assert_eq!(types(&other), ["bridge", PLUGIN]);
            assert!(!own.exists());
        }
        let before = fs::metadata(&other).unwrap().ino();
        install(&config, &exe, socket).unwrap();
        assert_eq!(
            fs::metadata(&other).unwrap().ino(),
            before,
            "written although nothing differs"
        );
    }

    #[test]
    fn a_new_binary_replaces_the_old() {
        let (_root, config, exe) = setup();
        install(&config, &exe, Path::new("/s")).unwrap();
        fs::remove_file(&exe).unwrap();
        fs::write(&exe, "newer binary").unwrap();
        install(&config, &exe, Path::new("/s")).unwrap();
        assert_eq!(fs::read(config.bin_dir.join(PLUGIN)).unwrap(), b"newer binary");
    }

    #[test]
    fn rubbish_is_left_alone() {
        let (_root, mut config, exe) = setup();
        config.standalone = false;
        assert_eq!(install(&config, &exe, Path::new("/s")).unwrap(), None);
        let broken = config.conf_dir.join("05-broken.conflist");
        fs::write(&broken, "{\"name\": \"x\"}").unwrap();
        assert!(install(&config, &exe, Path::new("/s")).is_err());
        assert_eq!(fs::read(&broken).unwrap(), b"{\"name\": \"x\"}");
    }
}
