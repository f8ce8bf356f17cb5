//! Chained CNI plugins: called after the node has made a pod's network, and before it is removed.
//!
//! Enters: a pod's namespace and the first `*.conflist` of /etc/cni/net.d. Leaves: what the plugins did. The node itself
//! plays the first plugin of the chain, `bridge`, which makes the pod's main interface; it is therefore not run. The node
//! writes a list with that plugin alone, for others to chain themselves into as on any cluster.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Paths;
use super::network::{BRIDGE, NODE_IP};
use super::state::Sandbox;

/// How long one plugin may take.
const PLUGIN_DEADLINE: Duration = Duration::from_secs(30);
const CNI_VERSION: &str = "1.0.0";
/// The node's own list.
const BASE: &str = "10-weir-local.conflist";
/// The type of the node's own plugin.
const BUILT_IN: &str = "bridge";

/// Why the chain failed.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("{path}: {message}")]
    Config { path: PathBuf, message: String },
    #[error("plugin {plugin}: {message}")]
    Plugin { plugin: String, message: String },
}

/// Writes the node's own list.
pub fn write_base(paths: &Paths) -> std::io::Result<()> {
    let plugin = json!({"type": BUILT_IN, "bridge": BRIDGE, "isGateway": true});
    let list = json!({"cniVersion": CNI_VERSION, "name": "weir-local", "plugins": [plugin]});
    std::fs::create_dir_all(paths.cni_config())?;
    std::fs::write(paths.cni_config().join(BASE), format!("{list:#}\n"))
}

struct Chain {
    name: String,
    version: String,
    plugins: Vec<Value>,
}

/// Calls ADD of each plugin in order.
///
/// # Errors
/// The first plugin that fails; the caller calls [`del`] then.
pub async fn add(paths: &Paths, pod: &Pod, sandbox: &Sandbox) -> Result<(), CniError> {
    let Some(chain) = read_chain(paths)? else { return Ok(()) };
    let mut result = own_result(&chain.version, sandbox);
    for plugin in &chain.plugins {
        let answer = call(paths, &chain, plugin, "ADD", pod, sandbox, Some(&result)).await?;
        if let Some(answer) = answer {
            result = answer;
        }
    }
    Ok(())
}

/// Calls DEL of each plugin in reverse order; all are called, the first error is returned.
pub async fn del(paths: &Paths, pod: &Pod, sandbox: &Sandbox) -> Result<(), CniError> {
    let Some(chain) = read_chain(paths)? else { return Ok(()) };
    let result = own_result(&chain.version, sandbox);
    let mut first = Ok(());
    for plugin in chain.plugins.iter().rev() {
        let outcome = call(paths, &chain, plugin, "DEL", pod, sandbox, Some(&result))
            .await
            .map(drop);
        if first.is_ok() {
            first = outcome;
        }
    }
    first
}

fn read_chain(paths: &Paths) -> Result<Option<Chain>, CniError> {
    let dir = paths.cni_config();
    let Ok(entries) = std::fs::read_dir(&dir) else {
        return Ok(None);
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "conflist"));
    files.sort();
    let Some(path) = files.into_iter().next() else {
        return Ok(None);
    };
    let config = |message: String| CniError::Config {
        path: path.clone(),
        message,
    };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        // Removed between listing and reading: there is no chain.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(config(error.to_string())),
    };
    let list: Value = serde_json::from_slice(&text).map_err(|error| config(error.to_string()))?;
    let mut plugins = list["plugins"]
        .as_array()
        .cloned()
        .ok_or_else(|| config("plugins: must be a list".into()))?;
    plugins.retain(|plugin| plugin["type"] != BUILT_IN);
    Ok(Some(Chain {
        name: list["name"].as_str().unwrap_or("weir").to_string(),
        version: list["cniVersion"].as_str().unwrap_or(CNI_VERSION).to_string(),
        plugins,
    }))
}

/// What the node's own step made, as a plugin would report it.
fn own_result(version: &str, sandbox: &Sandbox) -> Value {
    let netns = sandbox
        .netns
        .as_ref()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    json!({
        "cniVersion": version,
        "interfaces": [{"name": "eth0", "sandbox": netns}],
        "ips": [{"address": format!("{}/32", sandbox.ip), "gateway": NODE_IP.to_string(), "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0", "gw": NODE_IP.to_string()}],
        "dns": {}
    })
}

async fn call(
    paths: &Paths,
    chain: &Chain,
    plugin: &Value,
    command: &str,
    pod: &Pod,
    sandbox: &Sandbox,
    previous: Option<&Value>,
) -> Result<Option<Value>, CniError> {
    let kind = plugin["type"].as_str().unwrap_or_default().to_string();
    let failed = |message: String| CniError::Plugin {
        plugin: kind.clone(),
        message,
    };
    if kind.is_empty() || kind.contains('/') {
        return Err(failed("type: must name a program in /opt/cni/bin".into()));
    }
    let bin = paths.cni_bin();
    let mut config = plugin.clone();
    config["name"] = json!(chain.name);
    config["cniVersion"] = json!(chain.version);
    if let Some(previous) = previous {
        config["prevResult"] = previous.clone();
    }
    let meta = &pod.metadata;
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        of(&meta.namespace),
        of(&meta.name),
        sandbox.id,
        of(&meta.uid)
    );
    let netns = sandbox
        .netns
        .as_ref()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    let mut child = Command::new(bin.join(&kind))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &sandbox.id)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", args)
        .env("CNI_PATH", &bin)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("{}: {error}", bin.join(&kind).display())))?;
    let stdin = child.stdin.take();
    let finished = async {
        if let Some(mut stdin) = stdin {
            // A plugin that does not read its input says so by its exit.
            let _ = stdin.write_all(config.to_string().as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PLUGIN_DEADLINE, finished)
        .await
        .map_err(|_| failed(format!("{command} took longer than {PLUGIN_DEADLINE:?}")))?
        .map_err(|error| failed(error.to_string()))?;
    let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    if output.status.success() {
        return Ok(answer);
    }
    let told = answer
        .as_ref()
        .and_then(|answer| answer["msg"].as_str())
        .map(String::from);
    let details = answer
        .as_ref()
        .and_then(|answer| answer["details"].as_str())
        .unwrap_or_default();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let message = told.unwrap_or_else(|| stderr.lines().last().unwrap_or("no message").to_string());
    Err(failed(format!("{command}: {message} {details} ({})", output.status)))
}
