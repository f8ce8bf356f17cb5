//! `weir-cni`: what the container runtime starts. Environment `CNI_*` and a configuration on standard input come in, a
//! result in CNI's JSON goes out on standard output.
//!
//! Versions 0.3.1 to 1.1.0 of the CNI specification. Synchronous, because it does one thing and ends.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Command, LINE_BYTES_MAX, PLUGIN, Reply, Request};
use crate::plan::SYSTEM_NAMESPACES;

/// Versions of the specification that it speaks.
const VERSIONS: [&str; 5] = ["0.3.1", "0.4.0", "1.0.0", "1.0.1", "1.1.0"];
/// How long an agent may be away (it may just be starting) before a pod fails to start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_RETRY: Duration = Duration::from_millis(200);
/// Longest wait for the agent's answer; more than the agent itself waits for a proxy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest configuration, bytes.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Why a command failed, as CNI reports it.
struct Failure {
    /// CNI's error code: below 100 defined by the specification.
    code: u32,
    msg: String,
    details: String,
}

impl Failure {
    fn new(code: u32, msg: &str, details: impl ToString) -> Self {
        Self {
            code,
            msg: msg.to_owned(),
            details: details.to_string(),
        }
    }
}

/// The plugin's main function.
pub fn cni_plugin() -> ExitCode {
    let mut input = String::new();
    let read = std::io::stdin()
        .lock()
        .take(CONFIG_BYTES_MAX)
        .read_to_string(&mut input);
    let environment: HashMap<String, String> = std::env::vars().filter(|(k, _)| k.starts_with("CNI_")).collect();
    let outcome = match read {
        Ok(_) => run(&environment, &input, CONNECT_TIMEOUT),
        Err(error) => Err(Failure::new(5, "cannot read the network configuration", error)),
    };
    let (output, code) = match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(failure) => {
            let config: Value = serde_json::from_str(&input).unwrap_or_default();
            let version = config["cniVersion"].as_str().unwrap_or("1.0.0");
            let error =
                json!({"cniVersion": version, "code": failure.code, "msg": failure.msg, "details": failure.details});
            (Some(error), ExitCode::FAILURE)
        }
    };
    if let Some(output) = output {
        let _ = writeln!(std::io::stdout().lock(), "{output}");
    }
    code
}

/// One command; `Some` is what goes to standard output.
fn run(environment: &HashMap<String, String>, input: &str, patience: Duration) -> Result<Option<Value>, Failure> {
    let command = environment.get("CNI_COMMAND").map_or("", String::as_str);
    if command == "DEL" {
        // A pod must be able to go, whatever state we are in.
        if let Err(failure) = delete(environment, input) {
            eprintln!("{PLUGIN}: DEL: {}: {}", failure.msg, failure.details);
        }
        return Ok(None);
    }
    let config: Value =
        serde_json::from_str(input).map_err(|e| Failure::new(6, "the network configuration is no JSON", e))?;
    let version = config["cniVersion"].as_str().unwrap_or("0.3.1");
    match command {
        "VERSION" => Ok(Some(json!({"cniVersion": version, "supportedVersions": VERSIONS}))),
        "CHECK" | "STATUS" | "GC" => Ok(None),
        "ADD" => {
            if !VERSIONS.contains(&version) {
                let spoken = format!("{version} is asked for, spoken are {}", VERSIONS.join(", "));
                return Err(Failure::new(1, "incompatible CNI version", spoken));
            }
            add(environment, &config, patience)?;
            Ok(Some(result(&config, version)))
        }
        other => Err(Failure::new(4, "unknown CNI_COMMAND", format!("{other:?}"))),
    }
}

/// What the plugins before us returned; as the only plugin, an empty result.
fn result(config: &Value, version: &str) -> Value {
    let mut result = config["prevResult"].clone();
    if !result.is_object() {
        result = json!({"interfaces": [], "ips": [], "routes": [], "dns": {}});
    }
    result["cniVersion"] = json!(version);
    result
}

fn add(environment: &HashMap<String, String>, config: &Value, patience: Duration) -> Result<(), Failure> {
    let request = request(environment, Command::Add)?;
    if SYSTEM_NAMESPACES.contains(&request.namespace.as_str()) {
        return Ok(());
    }
    match ask(&socket(config), &request, patience)? {
        Reply::Ok => Ok(()),
        Reply::Error(reason) => Err(Failure::new(
            101,
            "the pod's proxy could not be set up; the kubelet tries again",
            reason,
        )),
    }
}

fn delete(environment: &HashMap<String, String>, input: &str) -> Result<(), Failure> {
    let request = request(environment, Command::Del)?;
    if SYSTEM_NAMESPACES.contains(&request.namespace.as_str()) {
        return Ok(());
    }
    let config: Value = serde_json::from_str(input).unwrap_or_default();
    // An agent that is away finds out by itself that the sandbox has gone.
    ask(&socket(&config), &request, Duration::ZERO).map(drop)
}

fn socket(config: &Value) -> PathBuf {
    PathBuf::from(config["agentSocket"].as_str().unwrap_or("/run/weir/agent.sock"))
}

/// The request that the environment describes.
fn request(environment: &HashMap<String, String>, command: Command) -> Result<Request, Failure> {
    let of = |key: &str| environment.get(key).cloned().unwrap_or_default();
    let arguments = of("CNI_ARGS");
    let argument = |key: &str| {
        let pair = arguments
            .split(';')
            .filter_map(|p| p.split_once('='))
            .find(|(k, _)| *k == key);
        pair.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let request = Request {
        namespace: argument("K8S_POD_NAMESPACE"),
        pod: argument("K8S_POD_NAME"),
        uid: argument("K8S_POD_UID"),
        sandbox: of("CNI_CONTAINERID"),
        netns: PathBuf::from(of("CNI_NETNS")),
        command,
    };
    let missing = [
        ("K8S_POD_NAMESPACE in CNI_ARGS", request.namespace.is_empty()),
        ("K8S_POD_NAME in CNI_ARGS", request.pod.is_empty()),
        ("CNI_CONTAINERID", request.sandbox.is_empty()),
        (
            "CNI_NETNS",
            request.command == Command::Add && request.netns.as_os_str().is_empty(),
        ),
    ];
    match missing.iter().find(|(_, missing)| *missing) {
        Some((name, _)) => Err(Failure::new(
            4,
            "the environment is incomplete",
            format!("{name} is missing"),
        )),
        None => Ok(request),
    }
}

/// Asks the agent.
fn ask(socket: &Path, request: &Request, patience: Duration) -> Result<Reply, Failure> {
    let unreachable = |error: std::io::Error| {
        let details = format!(
            "{}: {error}; check that the weir-agent pod of this node runs (kubectl -n weir-system get pods -o wide)",
            socket.display()
        );
        Failure::new(11, "the node's Weir agent does not answer", details)
    };
    let deadline = Instant::now() + patience;
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() >= deadline => return Err(unreachable(error)),
            Err(_) => std::thread::sleep(CONNECT_RETRY),
        }
    };
    let exchange = || -> std::io::Result<Reply> {
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        stream.write_all(line.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream.take(LINE_BYTES_MAX as u64)).read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    };
    exchange().map_err(unreachable)
}

#[cfg(test)]
mod tests;
