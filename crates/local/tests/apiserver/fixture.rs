//! An API server in this process, and clients of it.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_local::apiserver::{self, Identity, Pki};

/// Nothing that is waited for takes longer.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct Server {
    pub dir: TempDir,
    pub pki: Pki,
    listener: TcpListener,
    stop: CancellationToken,
    task: Option<JoinHandle<Result<(), apiserver::Error>>>,
}

impl Server {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pki = apiserver::ensure_pki(&dir.path().join("pki")).unwrap();
        let mut server = Self {
            dir,
            pki,
            listener,
            stop: CancellationToken::new(),
            task: None,
        };
        server.run();
        server
    }

    fn run(&mut self) {
        let mut config = apiserver::Config::new(self.dir.path());
        config.listen = None;
        config.host_listener = Some(self.listener.try_clone().unwrap());
        self.stop = CancellationToken::new();
        self.task = Some(tokio::spawn(apiserver::run(config, self.stop.clone())));
    }

    /// Ends the server; the listener stays open, as in `weir up`.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            task.await.unwrap().unwrap();
        }
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.run();
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    async fn config(&self, identity: Identity) -> Config {
        let text = self.pki.kubeconfig(identity, &self.url()).unwrap();
        let config = Kubeconfig::from_yaml(&text).unwrap();
        let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
            .await
            .unwrap();
        // A 503 is an answer here.
        config.default_retry = false;
        config
    }

    pub async fn admin(&self) -> Client {
        Client::try_from(self.config(Identity::Admin).await).unwrap()
    }

    /// A client with a bearer token.
    pub async fn with_token(&self, token: &str) -> Client {
        let mut config = self.config(Identity::Admin).await;
        config.auth_info.client_certificate_data = None;
        config.auth_info.client_key_data = None;
        config.auth_info.token = Some(token.to_owned().into());
        Client::try_from(config).unwrap()
    }
}

/// A request with a JSON body and the answer, whatever its status.
pub async fn call(client: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let (status, text) = call_text(client, method, path, headers, body).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub async fn call_text(
    client: &Client,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> (u16, String) {
    use http_body_util::BodyExt;
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-type")) {
        request = request.header("content-type", "application/json");
    }
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        serde_json::to_vec(body).unwrap()
    };
    let request = request.body(kube::client::Body::from(bytes)).unwrap();
    let response = tokio::time::timeout(DEADLINE, client.send(request))
        .await
        .unwrap()
        .unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

/// Asks until the answer is yes.
pub async fn until<F, R>(what: &str, mut ask: F)
where
    F: FnMut() -> R,
    R: Future<Output = bool>,
{
    let asked = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, asked).await.is_ok(), "in vain: {what}");
}
