//! Where a pod's network namespace is: the container runtime is asked over CRI.
//!
//! Enters: a pod's identity. Leaves: its running sandbox and a path that opens the sandbox's network namespace. Runtimes
//! tell that path only in the verbose status, whose `info` entry is JSON of their own; containerd and CRI-O both give
//! the sandbox's process or the OCI runtime specification with its namespaces.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use weir_api::cri::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
    PodSandboxStatusRequest, PodSandboxStatusResponse,
};

use crate::supervise::{PodId, Sandbox};

/// Longest wait for one answer of the container runtime.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the container runtime did not tell.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its socket cannot be reached.
    #[error("{0}: {1}")]
    Connect(PathBuf, tonic::transport::Error),
    /// It refused.
    #[error("{0}")]
    Refused(#[from] tonic::Status),
    /// Its answer does not say where the network namespace is.
    #[error("sandbox {0}: the verbose status names neither a network namespace nor a process")]
    NoNamespace(String),
}

/// A container runtime, by its socket.
#[derive(Clone, Debug)]
pub struct Runtime {
    socket: PathBuf,
}

impl Runtime {
    /// The runtime that listens on a Unix socket.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// The running sandbox of a pod; `None` when there is none.
    pub async fn find(&self, pod: &PodId) -> Result<Option<Sandbox>, Error> {
        let mut client = self.connect().await?;
        let labels = [
            ("io.kubernetes.pod.uid", &pod.uid),
            ("io.kubernetes.pod.name", &pod.name),
            ("io.kubernetes.pod.namespace", &pod.namespace),
        ];
        let filter = PodSandboxFilter {
            state: Some(PodSandboxStateValue {
                state: PodSandboxState::Ready as i32,
            }),
            label_selector: labels.into_iter().map(|(k, v)| (k.to_owned(), v.clone())).collect(),
            ..Default::default()
        };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let list: ListPodSandboxResponse = call(&mut client, "ListPodSandbox", request).await?;
        let ready = |s: &i32| *s == PodSandboxState::Ready as i32;
        // The newest, should an old one still be about to end.
        let Some(newest) = list
            .items
            .into_iter()
            .filter(|s| ready(&s.state))
            .max_by_key(|s| s.created_at)
        else {
            return Ok(None);
        };
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: newest.id.clone(),
            verbose: true,
        };
        let status: PodSandboxStatusResponse = call(&mut client, "PodSandboxStatus", request).await?;
        let info = status.info.get("info").map(String::as_str).unwrap_or("");
        let netns = netns(info).ok_or_else(|| Error::NoNamespace(newest.id.clone()))?;
        Ok(Some(Sandbox { id: newest.id, netns }))
    }

    async fn connect(&self) -> Result<Grpc<Channel>, Error> {
        let failed = |error| Error::Connect(self.socket.clone(), error);
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display())).map_err(failed)?;
        let channel = endpoint
            .connect_timeout(CALL_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .connect()
            .await
            .map_err(failed)?;
        Ok(Grpc::new(channel))
    }
}

async fn call<Q, A>(client: &mut Grpc<Channel>, method: &str, request: Q) -> Result<A, tonic::Status>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    client
        .ready()
        .await
        .map_err(|e| tonic::Status::unavailable(e.to_string()))?;
    let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))
        .map_err(|e| tonic::Status::internal(e.to_string()))?;
    let answer = client
        .unary(tonic::Request::new(request), path, ProstCodec::<Q, A>::default())
        .await?;
    Ok(answer.into_inner())
}

/// The network namespace in a runtime's `info`: a bound path where there is one, else that of the sandbox's process.
fn netns(info: &str) -> Option<PathBuf> {
    let info: Value = serde_json::from_str(info).ok()?;
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array();
    let network = namespaces.into_iter().flatten().find(|n| n["type"] == "network");
    let path = network.and_then(|n| n["path"].as_str()).filter(|p| !p.is_empty());
    path.map(PathBuf::from).or_else(|| {
        let pid = info["pid"].as_u64().filter(|p| *p > 0)?;
        Some(PathBuf::from(format!("/proc/{pid}/ns/net")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_path_before_process() {
        let spec = r#"{"pid": 12, "runtimeSpec": {"linux": {"namespaces": [{"type": "pid"},
            {"type": "network", "path": "/var/run/netns/cni-1"}]}}}"#;
        assert_eq!(netns(spec).unwrap(), Path::new("/var/run/netns/cni-1"));
        let unbound = r#"{"pid": 12, "runtimeSpec": {"linux": {"namespaces": [{"type": "network"}]}}}"#;
        assert_eq!(netns(unbound).unwrap(), Path::new("/proc/12/ns/net"));
        assert_eq!(netns(r#"{"pid": 0}"#), None);
        assert_eq!(netns("garbage"), None);
    }
}
