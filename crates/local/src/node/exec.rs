//! Running a command inside a container.
//!
//! Enters: a pod, a container, a command. Leaves: a child process in the container's pid, network, mount, UTS and IPC
//! namespaces, with its environment. For probes, hooks and `kubectl exec`.

use std::process::ExitStatus;

use tokio::io::{AsyncRead, AsyncReadExt};
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
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (status, mut out, err) = tokio::join!(child.wait(), head(stdout), head(stderr));
    let status = status.map_err(|error| error.to_string())?;
    out.extend_from_slice(&err);
    let text = String::from_utf8_lossy(&out).into_owned();
    match exit_code(status) {
        0 => Ok(text),
        code => Err(format!("command exited with {code}: {}", text.trim_end())),
    }
}

/// The beginning of what comes. The rest is read as well: a command whose output nobody takes is ended by that.
async fn head(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut head = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = (&mut pipe).take(OUTPUT_BYTES_MAX).read_to_end(&mut head).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    head
}

/// As a shell counts: 128 + N for signal N.
pub fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::Duration;

    use tokio::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_command_that_says_much_is_heard_to_its_end() {
        let script = "head -c 1000000 /dev/zero | tr '\\0' x";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take();
        let both = async { tokio::join!(child.wait(), head(out)) };
        let (status, head) = tokio::time::timeout(Duration::from_secs(60), both)
            .await
            .expect("the command does not end");
        assert_eq!(exit_code(status.unwrap()), 0);
        assert_eq!(head, vec![b'x'; usize::try_from(OUTPUT_BYTES_MAX).unwrap()]);
    }
}
