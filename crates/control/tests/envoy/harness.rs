//! A real Envoy against the real ADS server, and a pod's network around them.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{Filter, Listener};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use weir_control::authority::Authority;
use weir_mesh::{Key, Objects};
use weir_xds::server::{AllowAll, Cache};
use weir_xds::{Resource, ResourceType, Snapshot};

const ADMIN: &str = "127.0.0.1:15000";
const PATIENCE: Duration = Duration::from_secs(30);
/// Set in the copy of the test that runs in a namespace of its own.
const INSIDE: &str = "WEIR_TEST_INSIDE_NAMESPACE";

/// Runs this test again, alone, in a new network namespace (as a user: in a new user namespace too), or, there, runs it.
pub fn in_own_namespace<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        tokio::runtime::Runtime::new().expect("runtime").block_on(test());
        return;
    }
    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--",
        ])
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux) runs");
    let shown = || String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned();
    assert!(
        output.status.success() && shown().contains("1 passed"),
        "in its namespace, {name} failed (it needs root or user namespaces):\n{}",
        shown()
    );
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(tool(program))
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

/// Addresses, routes and redirection as a pod with the address 10.244.1.2 has them. What is sent to that address from
/// within counts as inbound, for want of another machine.
pub fn pod_network() {
    run("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "node0"]);
    run("ip", &["link", "set", "node0", "up"]);
    run("ip", &["addr", "add", "10.244.1.2/16", "dev", "eth0"]);
    run("ip", &["link", "set", "eth0", "up"]);
    run("ip", &["route", "add", "10.96.0.0/16", "dev", "eth0"]);
    for address in ["10.244.1.3/32", "10.244.1.4/32"] {
        run("ip", &["addr", "add", address, "dev", "lo"]);
    }
    run("ip", &["addr", "add", "fd00:10:244::2/64", "dev", "eth0", "nodad"]);
    run("ip", &["route", "add", "fd00:10:96::/64", "dev", "eth0"]);
    run("ip", &["addr", "add", "fd00:10:244::3/128", "dev", "lo", "nodad"]);
    let rules = "table inet weir { chain output { type nat hook output priority -100; meta mark 1337 return;
        ip daddr 10.244.1.2 meta l4proto tcp redirect to :15006;
        ip6 daddr fd00:10:244::2 meta l4proto tcp redirect to :15006;
        oifname lo return; meta l4proto tcp redirect to :15001; } ; }";
    run("nft", &[rules]);
}

/// A program that the tests use, installed by `make tools`.
pub fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("WEIR_TOOLS").map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = tools.into_iter().chain([workspace]).chain(std::env::split_paths(&path));
    let mut files = folders.chain(["/usr/sbin".into()]).map(|folder| folder.join(name));
    files
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} not found: run `make tools`"))
}

/// The variant of ADS that Envoy speaks.
#[derive(Clone, Copy)]
pub enum Protocol {
    Delta,
    Sotw,
}

pub struct Envoy {
    child: Child,
    cache: Cache,
    node: String,
    shutdown: CancellationToken,
    directory: tempfile::TempDir,
}

impl Envoy {
    /// Starts the ADS server and Envoy, and waits until Envoy has connected.
    pub async fn start(node: &str, protocol: Protocol) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let authority = Authority::generate().expect("authority");
        let ca = directory.path().join("ca.crt");
        std::fs::write(&ca, &authority.cert_pem).expect("written");
        let tls = authority
            .serving(&["weir-control.weir-system.svc".to_owned()])
            .expect("certificate");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let (cache, shutdown) = (Cache::new(), CancellationToken::new());
        let stop = shutdown.clone().cancelled_owned();
        tokio::spawn(weir_xds::server::serve(
            listener,
            Some(tls),
            cache.clone(),
            AllowAll,
            stop,
        ));
        let bootstrap = directory.path().join("bootstrap.json");
        std::fs::write(&bootstrap, bootstrap_json(node, protocol, address, &ca).to_string()).expect("written");
        let log = std::fs::File::create(directory.path().join("envoy.log")).expect("log");
        let child = Command::new(tool("envoy"))
            .args(["--concurrency", "1", "--disable-hot-restart", "-l", "info", "-c"])
            .arg(&bootstrap)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Envoy starts");
        let envoy = Self {
            child,
            cache,
            node: node.to_owned(),
            shutdown,
            directory,
        };
        wait_until("Envoy to connect", PATIENCE, async || {
            (!envoy.cache.nodes().is_empty()).then_some(())
        })
        .await;
        envoy
    }

    pub fn publish(&self, snapshot: &Snapshot) {
        self.cache.publish(&self.node, Arc::new(snapshot.clone()));
    }

    /// Waits until Envoy took the snapshot and shows exactly its listeners and clusters.
    pub async fn has(&self, snapshot: &Snapshot, what: &str) {
        wait_until(&format!("Envoy to take {what}"), PATIENCE, async || {
            let status = self.cache.status();
            let types = &status.first()?.types;
            let taken = types.values().all(|t| t.sent_version == t.acked_version);
            let full = [ResourceType::Cluster, ResourceType::Listener]
                .into_iter()
                .all(|ty| types.get(&ty).is_some_and(|t| t.acked_version == snapshot.version(ty)));
            (taken && full).then_some(())
        })
        .await;
        self.lists(snapshot).await;
    }

    /// Waits until Envoy took the snapshot's routes and secrets, as far as it asks for any.
    pub async fn has_routes(&self, snapshot: &Snapshot) {
        wait_until("Envoy to take the routes", PATIENCE, async || {
            let status = self.cache.status();
            let types = &status.first()?.types;
            let taken = |ty: &ResourceType| types.get(ty).is_none_or(|t| t.acked_version == snapshot.version(*ty));
            [ResourceType::Route, ResourceType::Secret]
                .iter()
                .all(taken)
                .then_some(())
        })
        .await;
    }

    /// Waits until Envoy's own lists are those of the snapshot.
    pub async fn lists(&self, snapshot: &Snapshot) {
        let names = |ty| snapshot.resources(ty).keys().cloned().collect::<BTreeSet<_>>();
        let (listeners, clusters) = (names(ResourceType::Listener), names(ResourceType::Cluster));
        let mut shown = (BTreeSet::new(), BTreeSet::new());
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let of = |value: Value, list: &str| -> BTreeSet<String> {
                let items = value[list].as_array().cloned().unwrap_or_default();
                items
                    .iter()
                    .filter_map(|i| i["name"].as_str().map(str::to_owned))
                    .collect()
            };
            shown.0 = of(admin("/listeners?format=json").await, "listener_statuses");
            shown.1 = of(admin("/clusters?format=json").await, "cluster_statuses");
            shown.1.retain(|name| !["xds", "weir_als"].contains(&name.as_str()));
            if shown == (listeners.clone(), clusters.clone()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!(
            "Envoy shows {shown:?}, not {listeners:?} and {clusters:?}\n{}",
            self.log()
        );
    }

    /// What Envoy rejects now, as `type name: message`.
    pub fn rejections(&self) -> Vec<String> {
        let mut found = Vec::new();
        for status in self.cache.status() {
            for (ty, status) in &status.types {
                if let Some(nack) = &status.last_nack {
                    found.extend(
                        nack.resources
                            .iter()
                            .map(|name| format!("{ty} {name}: {}", nack.message)),
                    );
                }
            }
        }
        found
    }

    pub fn nacks(&self) -> u64 {
        self.cache
            .status()
            .iter()
            .flat_map(|s| s.types.values().map(|t| t.nacks))
            .sum()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("envoy.log")).unwrap_or_default()
    }

    /// Stops both; the client's place in the cache must go with it.
    pub async fn stop(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
        wait_until("the cache to be empty", PATIENCE, async || {
            self.cache.nodes().is_empty().then_some(())
        })
        .await;
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- Envoy's log\n{}", self.log());
        }
    }
}

fn bootstrap_json(node: &str, protocol: Protocol, xds: SocketAddr, ca: &Path) -> Value {
    let address = |ip: String, port: u16| json!({"socket_address": {"address": ip, "port_value": port}});
    let cluster = |name: &str, at: Value| {
        json!({
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at}}]}]},
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}}
        })
    };
    let mut control = cluster("xds", address(xds.ip().to_string(), xds.port()));
    control["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "weir-control.weir-system.svc",
        "common_tls_context": {"validation_context": {
            "trusted_ca": {"filename": ca},
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "weir-control.weir-system.svc"}}]}}}});
    let source = json!({"ads": {}, "resource_api_version": "V3"});
    let api_type = match protocol {
        Protocol::Delta => "DELTA_GRPC",
        Protocol::Sotw => "GRPC",
    };
    json!({
        "node": {"id": node, "cluster": "test", "metadata": {"engine": "envoy", "host_ip": "10.244.0.1"}},
        "admin": {"address": address("127.0.0.1".to_owned(), 15000)},
        "dynamic_resources": {
            "ads_config": {"api_type": api_type, "transport_api_version": "V3",
                           "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
            "cds_config": source, "lds_config": source,
        },
        "static_resources": {"clusters": [control, cluster("weir_als", address("127.0.0.1".to_owned(), 9))]},
    })
}

/// Asks until there is an answer; fails with `what` when it does not come in time.
pub async fn wait_until<T>(what: &str, patience: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < patience, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn exchange(address: &str, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request).await?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await?;
        Ok(response)
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| std::io::ErrorKind::TimedOut)?
}

/// Status and body of one request.
pub async fn get(address: &str, host: &str) -> (u16, String) {
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let response = match exchange(address, request.as_bytes()).await {
        Ok(response) => String::from_utf8_lossy(&response).into_owned(),
        Err(error) => return (0, error.to_string()),
    };
    let status = response.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = response
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    (status, body)
}

/// Whether a connection that says this is closed without an answer.
pub async fn is_reset(address: &str, bytes: &[u8]) -> bool {
    exchange(address, bytes).await.map_or(true, |answer| answer.is_empty())
}

/// What comes back first on a connection that says this; the connection stays open until then.
pub async fn first_bytes(address: &str, bytes: &[u8]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes).await?;
        let mut buffer = vec![0; 1024];
        let n = stream.read(&mut buffer).await?;
        buffer.truncate(n);
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&buffer).into_owned())
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(answer) => answer.unwrap_or_else(|error| error.to_string()),
        Err(_) => "no answer in time".to_owned(),
    }
}

async fn admin(path: &str) -> Value {
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    let Ok(response) = exchange(ADMIN, request.as_bytes()).await else {
        return Value::Null;
    };
    let text = String::from_utf8_lossy(&response).into_owned();
    // The body may come in chunks; it is JSON from the first brace to the last.
    let (Some(from), Some(to)) = (text.find('{'), text.rfind('}')) else {
        return Value::Null;
    };
    let joined: String = text[from..=to].split("\r\n").filter(|l| !is_chunk_size(l)).collect();
    serde_json::from_str(&joined).unwrap_or(Value::Null)
}

fn is_chunk_size(line: &str) -> bool {
    !line.is_empty() && line.len() <= 8 && line.chars().all(|c| c.is_ascii_hexdigit())
}

/// An HTTP server that answers every request with a text, and keeps connections.
pub async fn serve_http(address: &str, text: &'static str) {
    let listener = TcpListener::bind(address).await.expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                loop {
                    match stream.read_buf(&mut buffer).await {
                        Ok(n) if n > 0 => {}
                        _ => return,
                    }
                    while let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                        buffer.drain(..end + 4);
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
}

/// An HTTP server that speaks HTTP/2 without TLS and nothing else, and answers every request with a text.
pub async fn serve_http2(address: &str, text: &'static str) {
    let listener = TcpListener::bind(address).await.expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = hyper::service::service_fn(move |_| async move {
                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(text))))
            });
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(served.serve_connection(TokioIo::new(stream), answer));
        }
    });
}

/// Status and body of one request in HTTP/2 without TLS.
pub async fn get_http2(address: &str, host: &str) -> (u16, String) {
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        let connecting = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut requests, connection) = connecting.await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = http::Request::get(format!("http://{host}/")).body(Full::<Bytes>::default());
        let response = requests.send_request(request.expect("a request")).await;
        let response = response.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?;
        Ok::<_, String>((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => (0, error),
        Err(_) => (0, "no answer in time".to_owned()),
    }
}

static LOADING: AtomicBool = AtomicBool::new(true);

/// Requests one after another until [`stop_load`]: how many were answered 200, and what the others were.
pub async fn load(address: &'static str, host: &'static str) -> (usize, Vec<String>) {
    let (mut good, mut bad) = (0, Vec::new());
    while LOADING.load(Ordering::Relaxed) {
        match get(address, host).await {
            (200, _) => good += 1,
            (status, body) => bad.push(format!("{status} {body}")),
        }
    }
    (good, bad)
}

pub fn stop_load() {
    LOADING.store(false, Ordering::Relaxed);
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn add(objects: &mut Objects, text: &str, wanted: impl Fn(&str) -> bool) {
    for document in serde_saphyr::from_multiple::<Value>(text).expect("YAML") {
        if wanted(document["kind"].as_str().unwrap_or_default()) {
            objects.insert(document).expect("an object");
        }
    }
}

/// The objects of one golden file.
pub fn golden_mesh(name: &str) -> Objects {
    let mut objects = Objects::default();
    let text = std::fs::read_to_string(testdata().join(format!("{name}.yaml"))).expect("golden file");
    add(&mut objects, &text, |_| true);
    objects
}

/// Services and endpoints of another golden file on top.
pub fn add_services(objects: &mut Objects, name: &str) {
    let text = std::fs::read_to_string(testdata().join(format!("{name}.yaml"))).expect("golden file");
    add(objects, &text, |kind| matches!(kind, "Service" | "EndpointSlice"));
}

/// All golden files, by name.
pub fn golden_meshes() -> Vec<(String, Objects)> {
    let files = std::fs::read_dir(testdata()).expect("testdata");
    let mut names: Vec<String> = files
        .filter_map(|f| {
            f.ok()?
                .path()
                .file_name()?
                .to_str()?
                .strip_suffix(".yaml")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    assert!(names.len() >= 10, "{names:?}");
    names
        .into_iter()
        .map(|name| (name.clone(), golden_mesh(&name)))
        .collect()
}

/// Sets or removes a label of a Service.
pub fn label_service(objects: &mut Objects, name: &str, key: &str, value: Option<&str>) {
    let service = objects
        .services
        .get_mut(&Key::new("default", name))
        .expect("the Service");
    let labels = Arc::make_mut(service).metadata.labels.get_or_insert_default();
    match value {
        Some(value) => labels.insert(key.to_owned(), value.to_owned()),
        None => labels.remove(key),
    };
}

/// A listener that decodes, but names a filter that Envoy does not have.
pub fn listener_with_unknown_filter(name: &str) -> Arc<Resource> {
    let config = envoy_types::pb::google::protobuf::Any {
        type_url: "type.googleapis.com/weir.v1.NoSuchFilter".to_owned(),
        value: Vec::new(),
    };
    let filter = Filter {
        name: "no.such.filter".to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
    };
    let listener = Listener {
        name: name.to_owned(),
        address: Some(socket_address("10.96.0.20", 9080)),
        bind_to_port: Some(envoy_types::pb::google::protobuf::BoolValue { value: false }),
        filter_chains: vec![envoy_types::pb::envoy::config::listener::v3::FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    };
    Resource::new(ResourceType::Listener, name, listener.encode_to_vec())
}

fn socket_address(ip: &str, port: u32) -> envoy_types::pb::envoy::config::core::v3::Address {
    use envoy_types::pb::envoy::config::core::v3::address::Address as Kind;
    use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
    use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
    Address {
        address: Some(Kind::SocketAddress(SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    }
}
