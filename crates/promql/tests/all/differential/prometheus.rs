//! A real Prometheus server, fed by remote write.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value as Json;
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use weir_series::remote_write::{Version, WriteRequest, encode};

pub struct Prometheus {
    child: Child,
    port: u16,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Starts one that holds nothing; panics if it does not get ready within half a minute.
    pub async fn start(folder: &Path) -> Self {
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, "scrape_configs: []\n").unwrap_or_else(|e| panic!("{e}"));
        let free = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .unwrap_or_else(|e| panic!("{e}"));
        let child = Command::new(tool("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={free}"))
            .args([
                "--web.enable-remote-write-receiver",
                "--enable-feature=native-histograms",
            ])
            .args(["--storage.tsdb.retention.time=100y", "--log.level=error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{e}"));
        let server = Prometheus {
            child,
            port: free.port(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        };
        for _ in 0..300 {
            let ready = server.send("GET", "/-/ready", "text/plain", Vec::new()).await;
            if ready.is_some_and(|(status, _)| status == 200) {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("Prometheus did not get ready");
    }

    pub async fn write(&self, request: &WriteRequest) {
        let body = encode(Version::V1, request);
        let answer = self
            .send("POST", "/api/v1/write", Version::V1.content_type(), body)
            .await;
        let (status, body) = answer.unwrap_or_else(|| panic!("Prometheus does not answer"));
        let text = String::from_utf8_lossy(&body);
        assert!((200..300).contains(&status), "{status}: {text}");
    }

    /// The answer to a POST form.
    pub async fn ask(&self, path: &str, form: String) -> Json {
        let answer = self
            .send("POST", path, "application/x-www-form-urlencoded", form.into_bytes())
            .await;
        let (_, body) = answer.unwrap_or_else(|| panic!("Prometheus does not answer"));
        serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&body)))
    }

    async fn send(&self, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> Option<(u16, Bytes)> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}{path}", self.port))
            .header("content-type", content_type)
            .header(
                "content-encoding",
                if path.ends_with("/write") { "snappy" } else { "identity" },
            )
            .header("x-prometheus-remote-write-version", Version::V1.header())
            .body(Full::new(Bytes::from(body)))
            .ok()?;
        let response = self.client.request(request).await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.into_body().collect().await.ok()?.to_bytes()))
    }
}

/// A program that the tests use, installed by `make tools`.
fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("WEIR_TOOLS").map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = tools.into_iter().chain([workspace]).chain(std::env::split_paths(&path));
    let mut files = folders.chain(["/usr/sbin".into()]).map(|folder| folder.join(name));
    files
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} not found: run `make tools`"))
}
