//! Servers, clients and proxies for the tests. Each proxy has ports and files of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A port that nobody uses, and that the system gives to nobody: below the range of ephemeral ports, each once.
pub fn free_port() -> u16 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let start = u64::from(std::process::id()) * 61;
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let port = u16::try_from(port).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A running proxy; ended with the value.
pub struct Proxy {
    pub metrics: SocketAddr,
    pub directory: tempfile::TempDir,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<Result<(), weir_proxy::Error>>>,
}

impl Proxy {
    /// Starts a proxy and waits until it is ready.
    pub async fn start(bootstrap: &str) -> Self {
        let proxy = Self::launch(bootstrap, tempfile::tempdir().unwrap(), Duration::from_secs(5));
        proxy.wait_ready().await;
        proxy
    }

    /// Starts a proxy with a directory for its files, without waiting.
    pub fn launch(bootstrap: &str, directory: tempfile::TempDir, drain: Duration) -> Self {
        let log = std::fs::File::create(directory.path().join("access.log")).unwrap();
        Self::logging_to(log, bootstrap, directory, drain)
    }

    /// The same with another place for its access log.
    pub fn logging_to(log: std::fs::File, bootstrap: &str, directory: tempfile::TempDir, drain: Duration) -> Self {
        let path = directory.path().join("bootstrap.yaml");
        std::fs::write(&path, bootstrap).unwrap();
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = weir_proxy::Config {
            bootstrap: path,
            metrics_address: Some(metrics),
            state_dir: Some(directory.path().join("state")),
            drain,
            workers: 1,
            record: true,
            access_log: Some(Arc::new(log)),
        };
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(weir_proxy::run(config, token))
        });
        Self {
            metrics,
            directory,
            shutdown,
            thread: Some(thread),
        }
    }

    pub async fn wait_ready(&self) {
        eventually("the proxy is ready", async || self.is_ready().await).await;
    }

    pub async fn is_ready(&self) -> bool {
        match TcpStream::connect(self.metrics).await {
            Err(_) => false,
            Ok(_) => get(self.metrics, "/ready").await.status == 200,
        }
    }

    /// Tells the proxy to drain and end, without waiting for it.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }

    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the proxy and returns its directory.
    pub fn end(mut self) -> tempfile::TempDir {
        self.shutdown.cancel();
        self.thread.take().unwrap().join().unwrap().unwrap();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    /// The value of a series whose labels contain all of `labels`, summed.
    pub async fn sum(&self, metric: &str, labels: &[&str]) -> f64 {
        let page = get(self.metrics, "/metrics").await.text();
        sum(&page, metric, labels)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// The sum of a page's series of a metric whose labels contain all of `labels`.
pub fn sum(page: &str, metric: &str, labels: &[&str]) -> f64 {
    page.lines()
        .filter(|line| line.starts_with(&format!("{metric}{{")))
        .filter(|line| labels.iter().all(|l| line.contains(l)))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A response, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// An HTTP/1.1 client connection that shows every byte.
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.unwrap()
    }

    /// One that is refused may be reset before this side knows that it was open.
    pub async fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(address));
        let stream = connecting.await.expect("no connection in time")?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends a request without a body and reads the response.
    pub async fn get(&mut self, host: &str, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        self.answer("GET").await
    }

    pub async fn answer(&mut self, method: &str) -> Answer {
        self.try_answer(method).await.expect("a response")
    }

    /// Reads a response; `None` when the connection ends before one.
    pub async fn try_answer(&mut self, method: &str) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, self.read(method))
            .await
            .expect("a response in time")
    }

    async fn read(&mut self, method: &str) -> Option<Answer> {
        let mut head = String::new();
        loop {
            let n = self.stream.read_line(&mut head).await.ok()?;
            if n == 0 {
                return None;
            }
            if head.ends_with("\r\n\r\n") {
                break;
            }
        }
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
        };
        if method == "HEAD" || status == 204 || status == 304 || status / 100 == 1 {
            return Some(answer);
        }
        if answer
            .header("transfer-encoding")
            .is_some_and(|v| v.contains("chunked"))
        {
            loop {
                let mut line = String::new();
                self.stream.read_line(&mut line).await.ok()?;
                let size = usize::from_str_radix(line.trim(), 16).ok()?;
                let mut chunk = vec![0; size + 2];
                self.stream.read_exact(&mut chunk).await.ok()?;
                answer.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    return Some(answer);
                }
            }
        }
        match answer.header("content-length").map(|v| v.parse::<usize>().unwrap()) {
            Some(length) => {
                answer.body = vec![0; length];
                self.stream.read_exact(&mut answer.body).await.ok()?;
            }
            None => {
                self.stream.read_to_end(&mut answer.body).await.ok()?;
            }
        }
        Some(answer)
    }

    /// Whether the other side has closed.
    pub async fn is_closed(&mut self) -> bool {
        let mut byte = [0; 1];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut byte))
            .await
            .expect("an end in time");
        matches!(read, Ok(0) | Err(_))
    }
}

/// One request on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    Client::connect(address).await.get("localhost", path).await
}

/// A server that answers each connection with a function of its own.
pub struct Server {
    pub address: SocketAddr,
    pub connections: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::at(([127, 0, 0, 1], 0).into(), serve).await
    }

    pub async fn at<F, Fut>(address: SocketAddr, serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpListener::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        let connections = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream));
            }
        });
        Self {
            address,
            connections,
            task,
        }
    }

    /// A server that answers requests on kept connections; `answer` makes the whole response from the head.
    pub async fn http(answer: impl Fn(&str, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::start(move |stream| {
            let answer = Arc::clone(&answer);
            async move { serve_http(stream, &*answer).await }
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_http(stream: TcpStream, answer: &(dyn Fn(&str, &[u8]) -> Vec<u8> + Send + Sync)) {
    let mut stream = BufReader::new(stream);
    while let Some((head, body)) = read_request(&mut stream).await {
        if stream.get_mut().write_all(&answer(&head, &body)).await.is_err() {
            return;
        }
    }
}

/// Reads a request; `None` at the end of the connection.
pub async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (n, v) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim().to_owned())
        })
    };
    let mut body = Vec::new();
    if header("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await.ok()?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = header("content-length") {
        body = vec![0; length.parse().ok()?];
        stream.read_exact(&mut body).await.ok()?;
    }
    Some((head, body))
}

/// A response with a length.
pub fn ok(body: &str) -> Vec<u8> {
    response(200, body)
}

pub fn response(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A bootstrap with one HTTP listener for host `svc` (and any other, as `other`) and one cluster of weighted endpoints.
pub fn http_bootstrap(port: u16, endpoints: &[(SocketAddr, u32)], extra_route: &str) -> String {
    format!(
        r#"
node: {{id: client.default, metadata: {{host_ip: 127.0.0.9}}}}
static_resources:
  listeners:
  - name: web
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    traffic_direction: OUTBOUND
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          upgrade_configs: [{{upgrade_type: websocket}}]
          route_config:
            name: web
            virtual_hosts:
            - name: svc
              domains: [svc, "svc:80"]
              routes:
              - name: refused
                match: {{path: /refused}}
                direct_response: {{status: 404, body: {{inline_string: "blocked here\n"}}}}
              - name: service
                match: {{prefix: /}}
                route: {{cluster: svc, timeout: 0s{extra_route}}}
            - name: any
              domains: ["*"]
              routes:
              - name: other
                match: {{prefix: /}}
                route: {{cluster: svc, timeout: 0s}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: svc
    connectTimeout: 1s
    type: STATIC
    load_assignment:
      cluster_name: svc
      endpoints:
      - lb_endpoints:
{}
"#,
        endpoints.iter().enumerate().map(endpoint_yaml).collect::<String>()
    )
}

fn endpoint_yaml((i, (address, weight)): (usize, &(SocketAddr, u32))) -> String {
    format!(
        "        - {{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}, \
         load_balancing_weight: {weight}, metadata: {{filter_metadata: {{weir: {{namespace: default, pod: svc-{i}, \
         owner_kind: deployment, owner: svc, service: svc}}}}}}}}\n",
        address.ip(),
        address.port()
    )
}

/// The default retry policy of Weir's control plane.
pub const RETRY: &str =
    ", retry_policy: {retry_on: \"connect-failure,refused-stream,reset-before-request\", num_retries: 2}";

pub fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

pub fn write(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).unwrap();
    path.to_owned()
}

/// A bootstrap whose cluster has more fields.
pub fn with_cluster(bootstrap: &str, fields: &str) -> String {
    assert_eq!(bootstrap.matches("    type: STATIC\n").count(), 1);
    bootstrap.replace("    type: STATIC\n", &format!("    type: STATIC\n    {fields}\n"))
}
