//! `proxies logs` and `proxies exec`: run on the proxy's machine by its agent's pod, through the Kubernetes API
//! (`pods/exec`), so that RBAC decides who may.

use std::process::ExitCode;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, ListParams};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use weir_api::mesh_status::{List, Proxy};

use super::base_path;
use crate::connect::{Cluster, Connection};
use crate::error::Error;

/// Label of the agents' pods.
const AGENTS: &str = "app=weir-agent";
/// Container of such a pod.
const CONTAINER: &str = "agent";
/// The program in it.
const PROGRAM: &str = "weir";

/// What is done with one proxy.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Action {
    /// Print the end of a proxy's log.
    Logs {
        /// Id of the proxy or the beginning of it, or its pod: POD or POD.NAMESPACE.
        proxy: String,
        /// Lines to print.
        #[arg(long, default_value_t = 100, value_name = "LINES")]
        tail: usize,
        /// Go on with what comes, until Ctrl-C.
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Run a program of the agent's container in the network namespace of a proxy's pod; $WEIR_PROXY_ADMIN is the path of
    /// the proxy's administration socket.
    Exec {
        /// Id of the proxy or the beginning of it, or its pod: POD or POD.NAMESPACE.
        proxy: String,
        /// The program and its arguments, behind `--`.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        program: Vec<String>,
        #[command(flatten)]
        connection: Connection,
    },
}

impl Action {
    /// Does it; the exit code is that of the program.
    pub async fn run(self) -> Result<ExitCode, Error> {
        let (proxy, connection) = match &self {
            Self::Logs { proxy, connection, .. } | Self::Exec { proxy, connection, .. } => (proxy, connection),
        };
        let cluster = connection.open_patiently().await?;
        let path = format!("{}/proxies", base_path());
        let list: List<Proxy> = cluster.get(&path).await?;
        let found = choose(proxy, &list.items)?;
        let id = found.status.id.clone();
        let mut words = vec![PROGRAM.to_owned(), "visit".to_owned()];
        match &self {
            Self::Logs { tail, follow, .. } => {
                words.extend(["log".to_owned(), id, "--tail".to_owned(), tail.to_string()]);
                words.extend(follow.then(|| "--follow".to_owned()));
            }
            Self::Exec { program, .. } => {
                words.extend(["exec".to_owned(), id, "--".to_owned()]);
                words.extend(program.iter().cloned());
            }
        }
        let agent = agent(&cluster, &found.status.node).await?;
        exec(&cluster, &agent, words).await
    }
}

/// The proxy that is meant: by the beginning of its id, by its pod, or by pod and namespace.
fn choose<'a>(wanted: &str, proxies: &'a [Proxy]) -> Result<&'a Proxy, Error> {
    let name = |p: &Proxy| p.metadata.name.clone().unwrap_or_default();
    let full = |p: &Proxy| format!("{}.{}", name(p), p.metadata.namespace.clone().unwrap_or_default());
    let meant =
        |p: &&Proxy| name(p) == wanted || full(p) == wanted || (!wanted.is_empty() && p.status.id.starts_with(wanted));
    let found: Vec<&Proxy> = proxies.iter().filter(meant).collect();
    match *found.as_slice() {
        [one] if one.status.id.is_empty() => Err(Error::Refused(format!("no proxy runs beside pod {}", full(one)))),
        [one] => Ok(one),
        [] => Err(Error::Refused(format!(
            "no proxy has an id that begins with {wanted:?}, and no pod with a proxy has this name; `weir proxies -A` shows them"
        ))),
        _ => {
            let all: Vec<String> = found.into_iter().map(full).collect();
            Err(Error::Usage(format!(
                "{wanted:?} means several proxies: {}",
                all.join(", ")
            )))
        }
    }
}

/// The agent's pod on a machine, as (namespace, name): it may be installed in any namespace.
async fn agent(cluster: &Cluster, node: &str) -> Result<(String, String), Error> {
    let pods: Api<Pod> = Api::all(cluster.client());
    let on_node = ListParams::default()
        .labels(AGENTS)
        .fields(&format!("spec.nodeName={node}"));
    let found = pods
        .list(&on_node)
        .await
        .map_err(|error| Error::Refused(error.to_string()))?;
    let running = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let pod = found.items.into_iter().find(running);
    pod.and_then(|pod| Some((pod.metadata.namespace?, pod.metadata.name?)))
        .ok_or_else(|| Error::Refused(format!("no agent runs on node {node}, which the proxy is on")))
}

async fn exec(cluster: &Cluster, (namespace, agent): &(String, String), words: Vec<String>) -> Result<ExitCode, Error> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let how = AttachParams::default()
        .container(CONTAINER)
        .stdin(false)
        .stdout(true)
        .stderr(true);
    let refused = |error: kube::Error| Error::Refused(format!("pod {namespace}/{agent}: {error}"));
    let mut running = pods.exec(agent, words, &how).await.map_err(refused)?;
    let (out, err, status) = (running.stdout(), running.stderr(), running.take_status());
    let copied = async { tokio::join!(copy(out, tokio::io::stdout()), copy(err, tokio::io::stderr())) };
    tokio::select! {
        _ = copied => {}
        _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(130)),
    }
    let Some(status) = (match status {
        Some(status) => status.await,
        None => None,
    }) else {
        return Err(Error::Answer(format!(
            "pod {namespace}/{agent} did not say how the command ended"
        )));
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes
        .into_iter()
        .find(|c| c.reason.as_deref() == Some("ExitCode"))
        .and_then(|c| c.message?.parse::<u8>().ok());
    match code {
        Some(code) => Ok(ExitCode::from(code)),
        None => Err(Error::Refused(
            status.message.unwrap_or_else(|| "the command failed".to_owned()),
        )),
    }
}

async fn copy(from: Option<impl AsyncRead + Unpin>, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    if let Some(mut from) = from {
        tokio::io::copy(&mut from, &mut to).await?;
        to.flush().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(name: &str, namespace: &str, id: &str) -> Proxy {
        let mut proxy = Proxy::default();
        proxy.metadata.name = Some(name.into());
        proxy.metadata.namespace = Some(namespace.into());
        proxy.status.id = id.into();
        proxy
    }

    #[test]
    fn a_proxy_by_id_or_pod() {
        let all = [
            proxy("a", "default", "4f01"),
            proxy("a", "other", "4f22"),
            proxy("b", "default", ""),
        ];
        let id = |wanted| choose(wanted, &all).map(|p| p.status.id.clone());
        assert_eq!(id("4f0").unwrap(), "4f01");
        assert_eq!(id("a.other").unwrap(), "4f22");
        let why = |wanted| id(wanted).unwrap_err().to_string();
        assert!(why("a").contains("a.default, a.other"), "{}", why("a"));
        assert!(why("4f").contains("several"));
        assert!(why("b").contains("no proxy runs beside pod b.default"));
        assert!(why("x").contains("weir proxies -A"));
    }
}
