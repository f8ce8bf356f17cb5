//! Starting processes in the right namespaces.
//!
//! Enters: a command and the namespaces it shall live in. Leaves: a child. Namespaces belong to threads: a thread of its
//! own joins or makes them, starts the process and ends, so that no other part of the node is affected.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sched::{CloneFlags, setns, unshare};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

/// The pid namespace of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidNamespace {
    /// A new one, whose pid 1 the process is.
    New,
    /// The node's.
    Node,
    /// That of another process.
    Of(i32),
}

/// A process to start.
#[derive(Debug)]
pub struct Launch {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Namespace file; none = the node's network.
    pub netns: Option<PathBuf>,
    pub pid_namespace: PidNamespace,
    pub stdin: bool,
    /// Whether the process is killed when its handle is dropped.
    pub kill_on_drop: bool,
}

/// Starts a process with piped output.
///
/// # Errors
/// When a namespace cannot be joined or the program not be started.
pub async fn start(launch: Launch) -> io::Result<Child> {
    let (done, result) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("launch".into()).spawn(move || {
        let _inside = runtime.enter();
        let _ = done.send(start_here(&launch));
    })?;
    result
        .await
        .map_err(|_| io::Error::other("the launching thread panicked"))?
}

fn start_here(launch: &Launch) -> io::Result<Child> {
    let stdin = if launch.stdin { Stdio::piped() } else { Stdio::null() };
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(launch.kill_on_drop);
    if let Some(netns) = &launch.netns {
        setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    }
    match launch.pid_namespace {
        PidNamespace::New => unshare(CloneFlags::CLONE_NEWPID)?,
        PidNamespace::Of(pid) => {
            setns(File::open(format!("/proc/{pid}/ns/pid"))?, CloneFlags::CLONE_NEWPID)?;
        }
        PidNamespace::Node => {}
    }
    command.spawn()
}

/// 64 random hexadecimal digits, as container runtimes name sandboxes and containers.
pub fn new_id() -> String {
    use std::io::Read;
    let mut bytes = [0u8; 32];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_err() {
        // Uniqueness is what matters; the clock gives that too.
        let now = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
        bytes[..16].copy_from_slice(&now.to_be_bytes());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
