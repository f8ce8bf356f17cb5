//! A pod that is itself a proxy: the files that the agent writes for other pods' proxies, written by the pod.
//!
//! ```text
//! ConfigMap weir-ca ─▶ ca.crt ─┐
//! node id, target ─▶ bootstrap.json ─▶ proxy        token: the kubelet renews it in the pod's volume
//! ```
//!
//! Enters: a client with the right to read the ConfigMap. Leaves: a bootstrap, and `ca.crt` kept as the control plane
//! publishes it. What an earlier run of the same pod has written is enough to start from: neither API server nor control
//! plane is needed for that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;
use tokio_util::sync::CancellationToken;
use weir_api::labels::Engine;

use crate::bootstrap::Bootstrap;
use crate::cluster::{ControlNames, authority};
use crate::supervise::write;

/// How often the control plane's certificate is read, before and after it is known. The proxy reads the file at each connect.
const UNKNOWN: Duration = Duration::from_millis(500);
const KNOWN: Duration = Duration::from_secs(20);
/// How often a wait for the certificate is told of.
const WAITING_TOLD: Duration = Duration::from_secs(10);

/// Who the proxy is and what it is told.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The name by which it asks for its configuration.
    pub node_id: String,
    /// Which proxy.
    pub engine: Engine,
    /// Directory of its files; it may outlive the process.
    pub dir: PathBuf,
    /// File of its token, which somebody else renews.
    pub token: PathBuf,
    /// Host and port of the control plane; by default its name in the cluster's DNS.
    pub target: Option<String>,
    /// Where the control plane is published.
    pub control: ControlNames,
}

/// Why there is no bootstrap.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be written.
    #[error("{0}: {1}")]
    Write(PathBuf, std::io::Error),
    /// The token is not there.
    #[error("token {0}: {1}; the pod needs a projected volume with a token for audience weir-xds")]
    Token(PathBuf, std::io::Error),
}

/// The files of a gateway's proxy.
pub struct Files {
    config: GatewayConfig,
    client: Client,
}

impl Files {
    /// Of a configuration, and a client that may read the control plane's ConfigMap.
    pub fn new(config: GatewayConfig, client: Client) -> Self {
        Self { config, client }
    }

    /// The bootstrap.
    pub fn bootstrap(&self) -> PathBuf {
        self.config.dir.join("bootstrap.json")
    }

    /// The proxy's own directory: its last good configuration.
    pub fn state(&self) -> PathBuf {
        self.config.dir.join("state")
    }

    fn ca(&self) -> PathBuf {
        self.config.dir.join("ca.crt")
    }

    /// Writes what the proxy starts from; waits for the control plane's certificate unless it is there from before. `false`
    /// when shutdown came first.
    pub async fn prepare(&self, shutdown: &CancellationToken) -> Result<bool, Error> {
        let GatewayConfig { dir, token, .. } = &self.config;
        std::fs::create_dir_all(self.state()).map_err(|e| Error::Write(dir.clone(), e))?;
        std::fs::metadata(token).map_err(|e| Error::Token(token.clone(), e))?;
        let bootstrap = serde_json::to_vec_pretty(&self.to_json()).unwrap_or_default();
        save(&self.bootstrap(), &bootstrap)?;
        let mut told: Option<tokio::time::Instant> = None;
        while !self.ca().exists() {
            match self.read_authority().await {
                Ok(()) => break,
                Err(error) => {
                    if told.is_none_or(|at| at.elapsed() >= WAITING_TOLD) {
                        tracing::warn!(%error, "waiting for the control plane's certificate");
                        told = Some(tokio::time::Instant::now());
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(UNKNOWN) => {}
                () = shutdown.cancelled() => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Keeps the control plane's certificate up to date. Never ends by itself.
    pub async fn follow(&self) {
        loop {
            if let Err(error) = self.read_authority().await {
                tracing::debug!(%error, "the control plane's certificate stays as it was");
            }
            tokio::time::sleep(KNOWN).await;
        }
    }

    async fn read_authority(&self) -> Result<(), String> {
        let ControlNames {
            namespace, config_map, ..
        } = &self.config.control;
        let ca = authority(&self.client, namespace, config_map)
            .await
            .map_err(|e| e.to_string())?;
        save(&self.ca(), ca.as_bytes()).map_err(|e| e.to_string())
    }

    fn to_json(&self) -> serde_json::Value {
        let GatewayConfig { control, dir, .. } = &self.config;
        let server_name = control.server_name();
        let published = format!("{server_name}:{}", control.port);
        let bootstrap = Bootstrap {
            node_id: &self.config.node_id,
            service: &self.config.node_id,
            engine: self.config.engine,
            // Probes ask for `/ready`; whoever comes to the gateway's own ports is a client.
            host_ip: None,
            admin: &dir.join("admin.sock"),
            target: self.config.target.as_deref().unwrap_or(&published),
            server_name: &server_name,
            ca: &self.ca(),
            token: &self.config.token,
        };
        bootstrap.to_json()
    }
}

/// Writes a file where it differs.
fn save(path: &Path, content: &[u8]) -> Result<(), Error> {
    if std::fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    write(path, content).map_err(|e| Error::Write(path.to_owned(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an API server that nobody can reach.
    fn files(dir: &Path, target: Option<&str>) -> Files {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let config = GatewayConfig {
            node_id: "traffic-ingress".into(),
            engine: Engine::Weir,
            dir: dir.join("run"),
            token: dir.join("token"),
            target: target.map(str::to_owned),
            control: ControlNames::default(),
        };
        Files::new(config, Client::try_from(nowhere).unwrap())
    }

    #[tokio::test]
    async fn an_earlier_runs_certificate_is_enough_to_start_from() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "t").unwrap();
        let gateway = files(dir.path(), None);
        std::fs::create_dir_all(gateway.state()).unwrap();
        std::fs::write(gateway.ca(), "PEM").unwrap();
        assert!(gateway.prepare(&CancellationToken::new()).await.unwrap());
        let text = std::fs::read(gateway.bootstrap()).unwrap();
        let bootstrap: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(bootstrap["node"]["id"], "traffic-ingress");
        let service = &bootstrap["dynamic_resources"]["ads_config"]["grpc_services"][0]["google_grpc"];
        assert_eq!(service["target_uri"], "weir-control.weir-system.svc:18000");
        let named = files(dir.path(), Some("10.0.0.7:18000")).to_json();
        let service = &named["dynamic_resources"]["ads_config"]["grpc_services"][0]["google_grpc"];
        assert_eq!(service["target_uri"], "10.0.0.7:18000");
        let name = &service["channel_args"]["args"]["grpc.ssl_target_name_override"]["string_value"];
        assert_eq!(name, "weir-control.weir-system.svc");
    }

    #[tokio::test]
    async fn without_a_token_it_says_what_the_pod_needs() {
        let dir = tempfile::tempdir().unwrap();
        let error = files(dir.path(), None)
            .prepare(&CancellationToken::new())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("audience weir-xds"), "{error}");
    }

    #[tokio::test]
    async fn waits_for_the_certificate_until_it_is_told_to_end() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "t").unwrap();
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        assert!(!files(dir.path(), None).prepare(&shutdown).await.unwrap());
    }
}
