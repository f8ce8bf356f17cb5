//! Where everything lies under the data directory.

use std::path::{Path, PathBuf};

/// The data directory and what is in it.
#[derive(Clone, Debug)]
pub struct Paths {
    pub data_dir: PathBuf,
}

/// Host paths of which the node has its own.
const OWN: [&str; 3] = ["etc/cni", "opt/cni", "var/lib/weir"];

impl Paths {
    /// `data_dir` must be canonical.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_path_buf(),
        }
    }

    /// Everything of the node; removed at the end.
    pub fn node(&self) -> PathBuf {
        self.data_dir.join("node")
    }

    /// What `weir up` tells the node.
    pub fn node_config(&self) -> PathBuf {
        self.node().join("config.json")
    }

    /// The node's own part of the file system.
    pub fn root(&self) -> PathBuf {
        self.node().join("root")
    }

    /// Content of volumes that come from the API; in memory.
    pub fn volumes(&self) -> PathBuf {
        self.node().join("volumes")
    }

    /// Network namespaces, as the host side names the directory.
    pub fn netns(&self) -> PathBuf {
        self.root().join("run/netns")
    }

    /// The same directory as the node and its agents see it.
    pub fn netns_in_node(&self) -> PathBuf {
        PathBuf::from("/run/netns")
    }

    /// Directories that must exist before anything is mounted.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let root = self.root();
        let mut dirs = vec![
            self.volumes(),
            self.netns(),
            root.join("run/containerd"),
            root.join("run/weir"),
        ];
        dirs.extend(OWN.iter().map(|own| root.join(own)));
        dirs.extend([self.cni_config(), self.cni_bin()]);
        dirs
    }

    pub fn cni_config(&self) -> PathBuf {
        self.root().join("etc/cni/net.d")
    }

    pub fn cni_bin(&self) -> PathBuf {
        self.root().join("opt/cni/bin")
    }

    /// The CRI socket, as the node sees it.
    pub fn cri_socket(&self) -> PathBuf {
        PathBuf::from("/run/containerd/containerd.sock")
    }

    /// A directory of the host as a pod's hostPath names it: some are the node's own, the others the machine's.
    pub fn host_path(&self, path: &Path) -> PathBuf {
        let relative = path.strip_prefix("/").unwrap_or(path);
        if OWN.iter().any(|own| relative.starts_with(own)) {
            self.root().join(relative)
        } else {
            path.to_path_buf()
        }
    }

    pub fn content_dir(&self, uid: &str) -> PathBuf {
        self.volumes().join(uid)
    }

    pub fn content(&self, uid: &str, volume: &str) -> PathBuf {
        self.content_dir(uid).join(volume)
    }

    pub fn pod(&self, uid: &str) -> PathBuf {
        self.node().join("pods").join(uid)
    }

    pub fn empty_dir(&self, uid: &str, volume: &str) -> PathBuf {
        self.pod(uid).join("empty-dirs").join(volume)
    }

    pub fn container(&self, uid: &str, id: &str) -> PathBuf {
        self.pod(uid).join("containers").join(id.get(..12).unwrap_or(id))
    }

    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.node().join("logs").join(format!("{namespace}_{name}_{uid}"))
    }

    pub fn log(&self, namespace: &str, name: &str, uid: &str, container: &str, attempt: i32) -> PathBuf {
        self.pod_logs(namespace, name, uid)
            .join(container)
            .join(format!("{attempt}.log"))
    }

    pub fn pki(&self) -> PathBuf {
        self.apiserver().join("pki")
    }

    /// The user's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    /// Objects and certificates.
    pub fn apiserver(&self) -> PathBuf {
        self.data_dir.join("apiserver")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_host_paths_are_the_nodes_own() {
        let paths = Paths::new(Path::new("/d"));
        let map = |path: &str| paths.host_path(Path::new(path)).display().to_string();
        assert_eq!(map("/etc/cni/net.d"), "/d/node/root/etc/cni/net.d");
        assert_eq!(map("/var/lib/weir/proxies"), "/d/node/root/var/lib/weir/proxies");
        assert_eq!(map("/etc/ssl"), "/etc/ssl");
        assert_eq!(map("/etc/cnix"), "/etc/cnix");
    }
}
