//! The two hidden sub-commands that become a container's process.
//!
//! Enters: a specification written by the kubelet. Leaves: nothing, the process turns into the container's command.
//! Both run before any thread exists, since joining a mount namespace needs a single-threaded process. They know
//! nothing of Kubernetes.

mod view;

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::SigSet;
use nix::unistd::{sethostname, setsid};
use serde::{Deserialize, Serialize};

pub use crate::node::node_main;

/// What a shell answers for a command that was not found; containers' users know it.
const NOT_FOUND: u8 = 127;
/// What container runtimes answer when a container could not be created.
const NOT_CREATED: u8 = 128;

/// One container, as `weir container-init` needs it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// What is executed.
    pub command: CommandSpec,
    /// The name in the container's own UTS namespace; none = the node's.
    pub hostname: Option<String>,
    /// An empty directory on the node over which the container's view is built.
    pub rootfs: PathBuf,
    /// Bind mounts, applied in this order.
    pub mounts: Vec<BindMount>,
    /// Files written into the private view, replacing what the machine has: (path, text).
    pub files: Vec<(PathBuf, String)>,
    /// Paths of the machine that must be visible although /tmp and /run are private.
    pub keep: Vec<PathBuf>,
    /// The node's private directory, whose mounts no container inherits.
    pub private: PathBuf,
    /// Whether the process is pid 1 of its own pid namespace and so needs its own /proc.
    pub own_pid_namespace: bool,
}

/// A command with its environment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CommandSpec {
    pub argv: Vec<String>,
    /// The whole environment; PATH in it finds `argv[0]`.
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// A directory or file of the node seen at another place in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// Canonical path on the node.
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
    /// Whether mounts made later below `source` appear in the container (HostToContainer).
    pub propagate: bool,
}

/// Why a container's process could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("{what} {path}: {errno}")]
    System {
        what: &'static str,
        path: PathBuf,
        errno: nix::errno::Errno,
    },
    #[error("{what} {path}: {source}")]
    Io {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the specification: {0}")]
    Spec(#[from] serde_json::Error),
    #[error("usage: {0}")]
    Usage(&'static str),
}

/// `weir container-init SPEC_FILE`: builds the container's view and becomes its command.
pub fn container_init(args: &[String]) -> ExitCode {
    let prepared = prepare(args);
    match prepared {
        Ok(command) => become_command(&command),
        Err(error) => fail("cannot create the container", &error),
    }
}

fn prepare(args: &[String]) -> Result<CommandSpec, LaunchError> {
    let [file] = args else {
        return Err(LaunchError::Usage("weir container-init SPEC_FILE"));
    };
    let path = Path::new(file);
    let text = std::fs::read(path).map_err(|source| LaunchError::Io {
        what: "read",
        path: path.into(),
        source,
    })?;
    let spec: ContainerSpec = serde_json::from_slice(&text)?;
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    if spec.hostname.is_some() {
        flags |= CloneFlags::CLONE_NEWUTS;
    }
    unshare(flags).map_err(|errno| LaunchError::System {
        what: "unshare",
        path: "".into(),
        errno,
    })?;
    if let Some(name) = &spec.hostname {
        sethostname(name).map_err(|errno| LaunchError::System {
            what: "sethostname",
            path: name.into(),
            errno,
        })?;
    }
    view::build(&spec)?;
    Ok(spec.command)
}

/// `weir container-exec PID COMMAND_JSON`: joins the mount and UTS namespaces of a container's process and becomes the
/// command. The caller has put this process into the pid and network namespaces already.
pub fn container_exec(args: &[String]) -> ExitCode {
    match join(args) {
        Ok(command) => become_command(&command),
        Err(error) => fail("cannot enter the container", &error),
    }
}

fn join(args: &[String]) -> Result<CommandSpec, LaunchError> {
    let [pid, command] = args else {
        return Err(LaunchError::Usage("weir container-exec PID COMMAND_JSON"));
    };
    let command: CommandSpec = serde_json::from_str(command)?;
    let dir = Path::new("/proc").join(pid).join("ns");
    let kinds = [
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let mut opened = Vec::new();
    for (name, kind) in kinds {
        let path = dir.join(name);
        let file = File::open(&path).map_err(|source| LaunchError::Io {
            what: "open",
            path: path.clone(),
            source,
        })?;
        opened.push((file, kind, path));
    }
    for (file, kind, path) in opened {
        setns(file, kind).map_err(|errno| LaunchError::System {
            what: "setns",
            path,
            errno,
        })?;
    }
    Ok(command)
}

/// Replaces this process; returns only on failure.
fn become_command(spec: &CommandSpec) -> ExitCode {
    let Some((program, args)) = spec.argv.split_first() else {
        eprintln!("weir: the container has no command");
        return ExitCode::from(NOT_CREATED);
    };
    // A session of its own: a signal to the container's group reaches nobody else.
    let _ = setsid();
    // The node blocks nothing, but be sure that the command starts with a clean mask.
    let _ = SigSet::empty().thread_set_mask();
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(spec.env.iter().map(|(k, v)| (k, v)))
        .current_dir(&spec.cwd);
    if let Some(gid) = spec.gid {
        command.gid(gid);
    }
    if let Some(uid) = spec.uid {
        command.uid(uid);
    }
    let error = command.exec();
    eprintln!("weir: cannot run {program}: {error}");
    ExitCode::from(NOT_FOUND)
}

fn fail(what: &str, error: &LaunchError) -> ExitCode {
    eprintln!("weir: {what}: {error}");
    ExitCode::from(NOT_CREATED)
}
