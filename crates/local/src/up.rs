//! `weir up` in the foreground: the process that stays in the host's namespaces.
//!
//! Enters: a configuration with the manifests to apply. Leaves: nothing, once it has returned: every process, namespace,
//! mount and file it caused is gone. It binds the host-side listeners, makes a pid namespace (and a user namespace when
//! not root), starts the node in it and waits. It knows nothing of Kubernetes. The kernel tears all down when either
//! process dies: the node watches a pipe held here and asks for SIGKILL on its parent's death; and the node is pid 1 of
//! its pid namespace.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getegid, geteuid};

use crate::node::{Forward, Manifest, NodeConfig, Paths};

/// How long the node may take to stop before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// The first descriptor number of the inherited listeners; high, so that nothing else sits there.
const LISTEN_FD_FIRST: i32 = 100;
/// What `weir up` makes in its data directory, and therefore may remove from it.
const OWNED: [&str; 3] = ["node", "apiserver", "kubeconfig"];

/// Line of the lock file: the directory itself was made here, and goes at the end.
const MADE: &str = "directory made";

/// What `weir up` needs to know.
#[derive(Clone, Debug)]
pub struct UpConfig {
    /// Everything made on disk lives here (`.weir`).
    pub data_dir: PathBuf,
    /// Where the host reaches the API server (127.0.0.1:7443).
    pub api_listen: SocketAddr,
    /// Where the host reaches the metric store (127.0.0.1:9090).
    pub metrics_listen: SocketAddr,
    /// The host's ports that lead to Services.
    pub forwards: Vec<Forward>,
    /// What is applied once the API server is there, in this order.
    pub manifests: Vec<Manifest>,
    /// Directories put before the machine's PATH in every container (for example `.tools/bin`).
    pub extra_path: Vec<PathBuf>,
    /// Keep the API server's data (not the containers' logs) after stopping, and go on from them at the next start.
    pub keep: bool,
}

/// Why `weir up` could not start.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}")]
    DataDir { path: PathBuf, source: io::Error },
    /// Another `weir up` holds the data directory.
    #[error("{path} is in use by another `weir up` (pid {pid}); stop it or choose another --data-dir")]
    InUse { path: PathBuf, pid: String },
    /// A listener's address is taken or not ours.
    #[error("cannot listen on {address} ({what}); stop what uses port {port} or choose another address by {option}")]
    Listen {
        what: String,
        address: SocketAddr,
        port: u16,
        option: String,
        source: io::Error,
    },
    /// Neither root nor user namespaces.
    #[error(
        "cannot make namespaces: {0}. Run as root, or allow user namespaces: \
         sysctl -w user.max_user_namespaces=10000; on Ubuntu also \
         sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; \
         on older Debian also sysctl -w kernel.unprivileged_userns_clone=1"
    )]
    Namespaces(Errno),
    /// The uid or gid map was refused.
    #[error("cannot write {file} of the new user namespace")]
    IdMap { file: &'static str, source: io::Error },
    /// The node's process could not be started.
    #[error("cannot start the node: {0}")]
    Spawn(io::Error),
    /// A system call that should not fail did.
    #[error("{what}: {errno}")]
    System { what: &'static str, errno: Errno },
}

/// Runs a cluster until a signal ends it. Must be called before the process has started any thread.
///
/// # Errors
/// When it could not start; what was made until then has been removed.
pub fn up(config: UpConfig) -> Result<ExitCode, UpError> {
    let data_dir = DataDir::open(&config.data_dir)?;
    data_dir.clean(config.keep);
    let result = run(&config, &data_dir);
    data_dir.clean(config.keep);
    data_dir.close(config.keep);
    result
}

fn run(config: &UpConfig, data_dir: &DataDir) -> Result<ExitCode, UpError> {
    let mut listeners = vec![
        listen("the API server", config.api_listen, "--api-address")?,
        listen("the metric store", config.metrics_listen, "--store-address")?,
    ];
    for forward in &config.forwards {
        let what = format!("Service {}, port {}", forward.service, forward.port);
        // It can be left out altogether.
        let option = format!("{} (or `off`)", forward.option);
        listeners.push(listen(&what, forward.address, &option)?);
    }
    let signals = Signals::block()?;
    let node = start(config, data_dir, &listeners)?;
    Ok(supervise(node, &signals))
}

/// The running node and the pipe whose closing tells it that we are gone.
struct Node {
    child: Child,
    _alive: OwnedFd,
}

fn start(config: &UpConfig, data_dir: &DataDir, listeners: &[TcpListener]) -> Result<Node, UpError> {
    data_dir.write_node_config(config)?;
    let exe = std::env::current_exe().map_err(UpError::Spawn)?;
    enter_namespaces()?;
    for (listener, number) in listeners.iter().zip(LISTEN_FD_FIRST..) {
        // Not close-on-exec: this very process starts nothing but the node.
        let got = fcntl(listener.as_fd(), FcntlArg::F_DUPFD(number))
            .map_err(|errno| UpError::System { what: "dup", errno })?;
        if got != number {
            return Err(UpError::System {
                what: "descriptor 100 and above are taken",
                errno: Errno::EBUSY,
            });
        }
    }
    let (read, write) = io::pipe().map_err(UpError::Spawn)?;
    let child = Command::new(exe)
        .arg("node")
        .arg("--data-dir")
        .arg(&data_dir.path)
        .env("LISTEN_FDS", listeners.len().to_string())
        .env("LISTEN_FDS_FIRST_FD", LISTEN_FD_FIRST.to_string())
        .env_remove("LISTEN_PID")
        .stdin(Stdio::from(OwnedFd::from(read)))
        // Signals of the terminal reach this process only.
        .process_group(0)
        .spawn()
        .map_err(UpError::Spawn)?;
    Ok(Node {
        child,
        _alive: write.into(),
    })
}

/// Leaves for a new pid namespace (for children), inside a new user namespace unless we may do without.
fn enter_namespaces() -> Result<(), UpError> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        match unshare(CloneFlags::CLONE_NEWPID) {
            Ok(()) => return Ok(()),
            // Root of a container without CAP_SYS_ADMIN: a user namespace may still be allowed.
            Err(Errno::EPERM) => {}
            Err(errno) => return Err(UpError::Namespaces(errno)),
        }
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID).map_err(UpError::Namespaces)?;
    let write = |file: &'static str, text: String| {
        fs::write(Path::new("/proc/self").join(file), text).map_err(|source| UpError::IdMap { file, source })
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))
}

/// Waits for the node; a first signal stops it, a second kills it.
fn supervise(mut node: Node, signals: &Signals) -> ExitCode {
    let pid = i32::try_from(node.child.id()).map(Pid::from_raw).ok();
    let mut deadline: Option<Instant> = None;
    loop {
        let got = signals.wait(deadline);
        if let Ok(Some(status)) = node.child.try_wait() {
            return report(status, deadline.is_some());
        }
        let expired = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if expired || (got && deadline.is_some()) {
            eprintln!("weir up: killing the node");
            let _ = node.child.kill();
            let _ = node.child.wait();
            return ExitCode::FAILURE;
        }
        if got {
            println!("\nStopping (Ctrl-C again kills at once)");
            deadline = Some(Instant::now() + STOP_DEADLINE);
            if let Some(pid) = pid {
                let _ = kill(pid, Signal::SIGTERM);
            }
        }
    }
}

fn report(status: ExitStatus, asked: bool) -> ExitCode {
    if asked || status.success() {
        return ExitCode::SUCCESS;
    }
    eprintln!("weir up: the node ended unexpectedly ({status})");
    ExitCode::FAILURE
}

fn listen(what: &str, address: SocketAddr, option: &str) -> Result<TcpListener, UpError> {
    TcpListener::bind(address).map_err(|source| UpError::Listen {
        what: what.to_owned(),
        address,
        port: address.port(),
        option: option.to_owned(),
        source,
    })
}

/// The signals that this process takes from a descriptor.
struct Signals(SignalFd);

impl Signals {
    fn block() -> Result<Self, UpError> {
        let mask: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD]
            .into_iter()
            .collect();
        mask.thread_block().map_err(|errno| UpError::System {
            what: "sigprocmask",
            errno,
        })?;
        SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map(Self)
            .map_err(|errno| UpError::System {
                what: "signalfd",
                errno,
            })
    }

    /// Waits until something happened or the deadline; true when a signal asks to stop.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let _ = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout);
        let mut stop = false;
        while let Ok(Some(info)) = self.0.read_signal() {
            stop |= info.ssi_signo != Signal::SIGCHLD as u32;
        }
        stop
    }
}

/// The locked data directory.
struct DataDir {
    path: PathBuf,
    created: bool,
    lock: Flock<File>,
}

impl DataDir {
    fn open(path: &Path) -> Result<Self, UpError> {
        let failed = |source| UpError::DataDir {
            path: path.to_path_buf(),
            source,
        };
        let created = !path.exists();
        fs::create_dir_all(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"));
        let mut lock = match Flock::lock(file.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(UpError::InUse {
                    path,
                    pid: pid.lines().next().unwrap_or_default().to_string(),
                });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        // A lock file that is still there was left by a crash, and says who had made the directory.
        let mut left = String::new();
        lock.read_to_string(&mut left).map_err(failed)?;
        let created = created || left.lines().any(|line| line == MADE);
        let written = lock.set_len(0).and_then(|()| lock.rewind());
        let made = if created { MADE } else { "" };
        written
            .and_then(|()| writeln!(lock, "{}\n{made}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { path, created, lock })
    }

    /// Removes what this program makes here: after a crash, and at the end.
    fn clean(&self, keep: bool) {
        for name in OWNED {
            let path = self.path.join(name);
            let kept = keep && name != "node";
            if kept || path.symlink_metadata().is_err() {
                continue;
            }
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            if let Err(error) = removed {
                eprintln!("weir up: cannot remove {}: {error}", path.display());
            }
        }
    }

    fn close(self, keep: bool) {
        if keep {
            return;
        }
        let _ = fs::remove_file(self.path.join("lock"));
        drop(self.lock);
        if self.created {
            // Fails when somebody put a file of their own there; then it stays.
            let _ = fs::remove_dir(&self.path);
        }
    }

    fn write_node_config(&self, config: &UpConfig) -> Result<(), UpError> {
        let failed = |source| UpError::DataDir {
            path: self.path.clone(),
            source,
        };
        let paths = Paths::new(&self.path);
        fs::create_dir_all(paths.node()).map_err(failed)?;
        let node = NodeConfig {
            data_dir: self.path.clone(),
            api_address: config.api_listen,
            manifests: config.manifests.clone(),
            extra_path: config
                .extra_path
                .iter()
                .map(|p| p.canonicalize().unwrap_or(p.clone()))
                .collect(),
            forwards: config.forwards.clone(),
        };
        let text = serde_json::to_vec(&node).map_err(io::Error::other).map_err(failed)?;
        fs::write(paths.node_config(), text).map_err(failed)
    }
}
