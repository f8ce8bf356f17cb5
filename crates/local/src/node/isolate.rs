//! The node's own namespaces: what the first process of the pid namespace does before it starts a thread.
//!
//! Enters: a process in a new pid namespace but in the host's network and mounts. Leaves: the same process in its own
//! network, mount, IPC and UTS namespaces, with its own /proc and /run. Nothing of this is visible on the host.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::sethostname;

use super::{NODE_NAME, Paths};

const NONE: Option<&str> = None;

/// Why the node could not leave the host's namespaces.
#[derive(Debug, thiserror::Error)]
pub enum IsolateError {
    #[error("{what}: {errno}")]
    System { what: &'static str, errno: Errno },
    #[error("mount {what} on {path}: {errno}")]
    Mount {
        what: &'static str,
        path: PathBuf,
        errno: Errno,
    },
    #[error("create {path}: {source}")]
    Create { path: PathBuf, source: std::io::Error },
}

/// Leaves the host's namespaces. Must run before any other thread exists.
pub(super) fn enter(paths: &Paths) -> Result<(), IsolateError> {
    let system = |what| move |errno| IsolateError::System { what, errno };
    // The parent takes its signals from a descriptor, and children inherit that mask.
    SigSet::empty().thread_set_mask().map_err(system("sigprocmask"))?;
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(system("prctl"))?;
    let flags =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(flags).map_err(system("unshare"))?;
    sethostname(NODE_NAME).map_err(system("sethostname"))?;
    propagation("/", MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    let proc_flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), proc_flags, NONE).map_err(|errno| IsolateError::Mount {
        what: "proc",
        path: "/proc".into(),
        errno,
    })?;
    for dir in paths.dirs() {
        fs::create_dir_all(&dir).map_err(|source| IsolateError::Create {
            path: dir.clone(),
            source,
        })?;
    }
    tmpfs(&paths.volumes())?;
    tmpfs(&paths.netns())?;
    // Shared, so that an agent's container that asks for it sees namespaces of pods made later.
    propagation(paths.netns(), MsFlags::MS_SHARED)?;
    bind_run(paths)
}

/// Puts the node's own /run over the machine's.
fn bind_run(paths: &Paths) -> Result<(), IsolateError> {
    let run = Path::new("/run");
    let data_dir = &paths.data_dir;
    let held = File::open(data_dir).map_err(|source| IsolateError::Create {
        path: data_dir.clone(),
        source,
    })?;
    let bind = |source: &Path, target: &Path| {
        mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).map_err(|errno| {
            IsolateError::Mount {
                what: "a bind",
                path: target.to_path_buf(),
                errno,
            }
        })
    };
    bind(&paths.root().join("run"), run)?;
    if data_dir.starts_with(run) {
        fs::create_dir_all(data_dir).map_err(|source| IsolateError::Create {
            path: data_dir.clone(),
            source,
        })?;
        bind(&PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd())), data_dir)?;
    }
    Ok(())
}

fn tmpfs(path: &Path) -> Result<(), IsolateError> {
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755"),
    )
    .map_err(|errno| IsolateError::Mount {
        what: "tmpfs",
        path: path.to_path_buf(),
        errno,
    })
}

fn propagation(path: impl AsRef<Path>, flags: MsFlags) -> Result<(), IsolateError> {
    let path = path.as_ref();
    mount(NONE, path, NONE, flags, NONE).map_err(|errno| IsolateError::Mount {
        what: "propagation",
        path: path.to_path_buf(),
        errno,
    })
}
