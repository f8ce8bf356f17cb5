//! Real servers and our own, each on a free port of the loopback, with a data folder that goes with it.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, client::legacy::connect::HttpConnector, rt::TokioExecutor};
use serde_json::Value as Json;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;
use weir_promql::{
    Engine, Options,
    http_api::{self, Api, Authorize},
};
use weir_tsdb::Tsdb;

/// Time that a server may take to get ready.
const START: Duration = Duration::from_secs(60);
/// Time that one answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// A program that the tests use, installed by `make tools`.
pub fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("WEIR_TOOLS").map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = tools.into_iter().chain([workspace]).chain(std::env::split_paths(&path));
    let mut files = folders.map(|folder| folder.join(name));
    let found = files.find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} not found: run `make tools`"))
}

pub fn now_ms() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as i64
}

/// Asks a server. Knows nothing of which it is.
#[derive(Clone)]
pub struct Asker {
    pub url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Asker {
    pub fn new(address: SocketAddr) -> Self {
        Asker {
            url: format!("http://{address}"),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
        let exchange = async {
            let response = self.client.request(request).await.map_err(|e| e.to_string())?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        tokio::time::timeout(ANSWER, exchange)
            .await
            .map_err(|e| e.to_string())?
    }

    /// The status and the body of a GET.
    pub async fn get(&self, path: &str) -> Result<(u16, Bytes), String> {
        let request = Request::get(format!("{}{path}", self.url)).body(Full::default());
        let response = self.send(request.map_err(|e| e.to_string())?).await?;
        Ok((response.status().as_u16(), response.into_body()))
    }

    /// The status and the JSON of a GET.
    pub async fn json(&self, path: &str) -> (u16, Json) {
        let (status, body) = self.get(path).await.unwrap_or_else(|e| panic!("{path}: {e}"));
        let json = serde_json::from_slice(&body);
        (
            status,
            json.unwrap_or_else(|e| panic!("{path}: {e}: {}", String::from_utf8_lossy(&body))),
        )
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Bytes> {
        let mut request = Request::post(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap_or_else(|e| panic!("{e}"));
        self.send(request).await.unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Waits until `path` answers as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(u16, &[u8]) -> bool) {
        let end = tokio::time::Instant::now() + START;
        let mut last = String::new();
        while tokio::time::Instant::now() < end {
            match self.get(path).await {
                Ok((status, body)) if wanted(status, &body) => return,
                Ok((status, body)) => last = format!("{status} {}", String::from_utf8_lossy(&body)),
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{}{path} did not answer as it should in time; last: {last}", self.url);
    }
}

/// A real server.
pub struct Peer {
    child: Child,
    pub ask: Asker,
    _folder: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    async fn start(program: &str, arguments: impl FnOnce(&Path, SocketAddr) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
        let address = free.local_addr().unwrap_or_else(|e| panic!("{e}"));
        drop(free);
        let child = Command::new(tool(program))
            .args(arguments(folder.path(), address))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        let ask = Asker::new(address);
        let peer = Peer {
            child,
            ask,
            _folder: folder,
        };
        peer.ask.until("/-/healthy", |status, _| status == 200).await;
        peer
    }

    /// Prometheus with its receiver of remote write and native histograms.
    pub async fn prometheus() -> Self {
        let peer = Self::start("prometheus", |folder, address| {
            let config = folder.join("prometheus.yml");
            std::fs::write(&config, "global: {scrape_interval: 1m}\n").unwrap_or_else(|e| panic!("{e}"));
            vec![
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", folder.join("data").display()),
                format!("--web.listen-address={address}"),
                "--web.enable-remote-write-receiver".into(),
                "--enable-feature=native-histograms".into(),
            ]
        })
        .await;
        peer.ask.until("/-/ready", |status, _| status == 200).await;
        peer
    }

    pub async fn victoria_metrics() -> Self {
        Self::start("victoria-metrics", |folder, address| {
            vec![
                format!("-storageDataPath={}", folder.join("data").display()),
                format!("-httpListenAddr={address}"),
                "-search.latencyOffset=0s".into(),
                "-search.disableCache".into(),
                "-retentionPeriod=1".into(),
            ]
        })
        .await
    }
}

/// Our own server.
pub struct Ours {
    pub ask: Asker,
    pub store: Arc<Tsdb>,
    pub engine: Engine,
    stop: CancellationToken,
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Ours {
    pub async fn start() -> Self {
        Self::start_with(http_api::allow_all(), |_| {}).await
    }

    pub async fn start_with(authorize: Authorize, change: impl FnOnce(&mut Api)) -> Self {
        let store = Arc::new(Tsdb::new(weir_tsdb::Options::default()));
        let engine = Engine::new(store.clone(), Options::default());
        let mut api = Api {
            receiver: Some(store.clone()),
            ..Api::new(engine.clone())
        };
        change(&mut api);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.unwrap_or_else(|e| panic!("{e}"));
        let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
        let stop = CancellationToken::new();
        tokio::spawn(http_api::serve(listener, api, authorize, stop.clone()));
        Ours {
            ask: Asker::new(address),
            store,
            engine,
            stop,
        }
    }
}
