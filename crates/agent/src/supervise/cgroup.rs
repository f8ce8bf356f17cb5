//! Control groups of proxies, so that a proxy does not end with the container of the agent that started it.
//!
//! Only where the agent itself runs in a container of a kubelet (version 2 hierarchy); elsewhere a session of its own is
//! all a proxy needs.

use std::fs;
use std::path::{Path, PathBuf};

/// The group under which proxies get theirs, if they need any. `root` is where the host's hierarchy is mounted.
pub fn detect(root: &Path) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    // In a cgroup namespace of its own an agent sees itself at the root and everybody else above it.
    let first = fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
    let contained = own.contains("kubepods") || first.contains("/../");
    (contained && root.join("cgroup.controllers").exists()).then(|| root.join("weir"))
}

/// Moves a process into the group of a pod's proxy. A proxy without a group of its own still works.
pub fn enter(root: &Path, uid: &str, pid: i32) {
    let group = root.join(uid);
    let moved = fs::create_dir_all(&group).and_then(|()| fs::write(group.join("cgroup.procs"), pid.to_string()));
    if let Err(error) = moved {
        tracing::warn!(group = %group.display(), %error, "the proxy stays in the agent's control group and ends with it");
    }
}

/// Removes the group of a pod's proxy.
pub fn leave(root: Option<&Path>, uid: &str) {
    if let Some(root) = root {
        let _ = fs::remove_dir(root.join(uid));
    }
}
