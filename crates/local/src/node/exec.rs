//! Running a command inside a container.
//!
//! Enters: a pod, a container, a command. Leaves: a child process in the container's pid, network, mount, UTS and IPC
//! namespaces, with its environment. For probes, hooks and `kubectl exec`.

use std::process::ExitStatus;

use tokio::io::AsyncReadExt;
use tokio::process::Child;

use super::Node;
use super::process::{self, Launch, PidNamespace};
use super::state::PodRuntime;

/// What is kept of a probe's or hook's output.
const OUTPUT_BYTES_MAX: u64 = 10 * 1024;

/// Starts the command.
///
/// # Errors
/// A sentence for the user: no such container, not running, cannot be entered.
pub async fn start(
    node: &Node,
    runtime: &PodRuntime,
    container: &str,
    argv: Vec<String>,
    stdin: bool,
) -> Result<Child, String> {
    let view = runtime
        .container(container)
        .ok_or_else(|| format!("container {container} is not valid for pod {}", runtime.name))?;
    let (Some(pid), Some(started)) = (view.pid, runtime.started(container)) else {
        return Err(format!("container {container} is not running"));
    };
    if argv.is_empty() {
        return Err("you must specify at least one command for the container".into());
    }
    let mut command = started.command;
    command.argv = argv;
    let command = serde_json::to_string(&command).map_err(|error| error.to_string())?;
    let launch = Launch {
        program: node.exe.clone(),
        args: vec!["container-exec".into(), pid.to_string(), command],
        netns: started.netns,
        pid_namespace: if started.own_pid_namespace {
            PidNamespace::Of(pid)
        } else {
            PidNamespace::Node
        },
        stdin,
        kill_on_drop: true,
    };
    process::start(launch)
        .await
        .map_err(|error| format!("cannot enter container {container}: {error}"))
}

/// Runs the command to its end; its output when it exits with 0, what went wrong otherwise.
///
/// # Errors
/// The exit code and the output, or why it could not run.
pub async fn run(node: &Node, runtime: &PodRuntime, container: &str, argv: Vec<String>) -> Result<String, String> {
    let mut child = start(node, runtime, container, argv, false).await?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read_out = async {
        if let Some(pipe) = stdout {
            let _ = pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut out).await;
        }
    };
    let read_err = async {
        if let Some(pipe) = stderr {
            let _ = pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut err).await;
        }
    };
    let (status, (), ()) = tokio::join!(child.wait(), read_out, read_err);
    let status = status.map_err(|error| error.to_string())?;
    out.extend_from_slice(&err);
    let text = String::from_utf8_lossy(&out).into_owned();
    match exit_code(status) {
        0 => Ok(text),
        code => Err(format!("command exited with {code}: {}", text.trim_end())),
    }
}

/// As a shell counts: 128 + N for signal N.
pub fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
