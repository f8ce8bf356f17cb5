//! The command line: one definition for `weir` and, under the name `kubectl-traffic`, for the plugin.
//!
//! Enters: the process's arguments. Leaves: parsed arguments; nothing is resolved or opened here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures and controls the traffic between Kubernetes workloads.
#[derive(Parser, Debug)]
#[command(name = "weir", version, arg_required_else_help = true)]
pub struct Weir {
    #[command(subcommand)]
    pub command: Command,
}

/// `weir proxy` alone.
#[derive(Parser, Debug)]
#[command(
    name = "weir proxy",
    bin_name = "weir proxy",
    about = "The proxy, from a bootstrap in Envoy's format"
)]
struct ProxyAlone {
    #[command(flatten)]
    proxy: Proxy,
}

impl Command {
    /// What the arguments say; ends the process where they are wrong. A proxy does not describe all other commands before
    /// its own: it is started in every pod and keeps each page of the program that it went through.
    pub fn parse() -> Self {
        let mut words = std::env::args_os();
        if words.nth(1).is_some_and(|word| word == "proxy") {
            return Self::Proxy(ProxyAlone::parse_from(std::env::args_os().skip(1)).proxy);
        }
        Weir::parse().command
    }
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a one-machine Kubernetes with Weir in it, until Ctrl-C.
    Up(Up),
    /// Print the manifests that install Weir in any cluster.
    Install(Install),
    /// The control plane: from Kubernetes objects to the proxies' configuration.
    Control(Control),
    /// The node agent: redirects pods' traffic and supervises their proxies.
    Agent(Agent),
    /// The metrics server: scrapes the proxies, stores, answers PromQL and the Kubernetes metric APIs.
    Metrics(Box<Metrics>),
    /// A store alone, as Prometheus's server is: scrapes by a prometheus.yml, stores, answers PromQL.
    Store(Store),
    /// The ingress gateway's pod: the proxy, with a bootstrap that it writes itself.
    Gateway(Gateway),
    /// A collector of traces: takes spans, keeps the newest in memory, answers Zipkin's API.
    Zipkin(Zipkin),
    /// The proxy, from a bootstrap in Envoy's format.
    Proxy(Proxy),
    /// Rule files: check them, or print those that are shipped.
    Rules {
        #[command(subcommand)]
        action: RulesAction,
    },
    #[command(flatten)]
    Client(weir_cli::Command),

    #[command(hide = true)]
    EnvoySupervisor(EnvoySupervisor),
    #[command(hide = true)]
    Visit(Visit),
    #[command(hide = true)]
    Node(Node),
    #[command(hide = true)]
    Apiserver(Apiserver),
}

#[derive(Args, Debug)]
pub struct Up {
    /// A manifest, or a folder of manifests, to apply once the cluster runs; may be repeated.
    #[arg(short = 'f', long = "filename", value_name = "FILE_OR_DIR")]
    pub filenames: Vec<PathBuf>,
    /// Where everything is kept while it runs; removed at the end.
    #[arg(long, default_value = ".weir")]
    pub data_dir: PathBuf,
    /// Address of the Kubernetes API on this machine.
    #[arg(long, default_value = "127.0.0.1:7443")]
    pub api_address: SocketAddr,
    /// Address of the metric store's Prometheus API on this machine.
    #[arg(long, default_value = "127.0.0.1:9090")]
    pub store_address: SocketAddr,
    /// Address of the ingress gateway on this machine, clear text; `off` for none.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address_or_off)]
    pub ingress_address: Listen,
    /// Address of the ingress gateway on this machine, TLS; `off` for none.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8444", value_parser = address_or_off)]
    pub ingress_tls_address: Listen,
    /// The proxy of pods that do not choose one.
    #[arg(long, value_enum, default_value_t = Engine::Weir)]
    pub proxy: Engine,
    /// Leave out the rules that record what a mesh is asked about most.
    #[arg(long)]
    pub no_mesh_rules: bool,
    /// Keep the objects at the end, and go on from them at the next start.
    #[arg(long)]
    pub keep: bool,
}

/// Where to listen, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

fn address_or_off(text: &str) -> Result<Listen, String> {
    match text {
        "off" => Ok(Listen(None)),
        _ => match text.parse() {
            Ok(address) => Ok(Listen(Some(address))),
            Err(_) => Err("write an address and a port, such as 127.0.0.1:8080, or off".to_owned()),
        },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    Weir,
    Envoy,
}

/// A look at the proxies of this machine, where their agent runs. `weir proxies logs` and `exec` come here.
#[derive(Args, Debug)]
pub struct Visit {
    /// Directory that the agent keeps.
    #[arg(long, default_value = "/run/weir")]
    pub run_dir: PathBuf,
    #[command(subcommand)]
    pub action: VisitAction,
}

#[derive(Subcommand, Debug)]
pub enum VisitAction {
    /// Print the end of a proxy's log.
    Log {
        /// Id of the proxy, or the beginning of it.
        id: String,
        /// Lines to print.
        #[arg(long, default_value_t = 100)]
        tail: usize,
        /// Go on with what comes.
        #[arg(long)]
        follow: bool,
    },
    /// Run a program in the network namespace of a proxy.
    Exec {
        /// Id of the proxy, or the beginning of it.
        id: String,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
}

#[derive(Args, Debug)]
pub struct Install {
    /// The proxy of pods that do not choose one.
    #[arg(long, value_enum, default_value_t = Engine::Weir)]
    pub proxy: Engine,
    /// The container image to use.
    #[arg(long, default_value = "weir")]
    pub image: String,
    /// With a collector of traces, traffic-zipkin.
    #[arg(long)]
    pub zipkin: bool,
    /// With the rules that record what a mesh is asked about most.
    #[arg(long)]
    pub mesh_rules: bool,
}

/// How a role reaches the Kubernetes API.
#[derive(Args, Debug)]
pub struct Kubernetes {
    /// A kubeconfig; without it the pod's own service account, or what kubectl would use.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig.
    #[arg(long)]
    pub context: Option<String>,
}

#[derive(Args, Debug)]
pub struct Control {
    #[command(flatten)]
    pub kubernetes: Kubernetes,
    /// Address of the xDS server (gRPC over TLS).
    #[arg(long, default_value = "0.0.0.0:18000")]
    pub xds_address: SocketAddr,
    /// Address of the aggregated API weir.dev/v1alpha1 (TLS).
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub api_address: SocketAddr,
    /// Address of /readyz, /livez and /metrics.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub admin_address: SocketAddr,
    /// The namespace that Weir is installed in.
    #[arg(long, default_value = "weir-system", env = "POD_NAMESPACE")]
    pub namespace: String,
    /// The service account whose pods may have the gateway's configuration, as NAMESPACE/NAME.
    #[arg(long, default_value = "default/traffic-ingress", value_parser = namespaced)]
    pub gateway_account: weir_mesh::Key,
}

fn namespaced(text: &str) -> Result<weir_mesh::Key, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(weir_mesh::Key::new(namespace, name))
        }
        _ => Err("write NAMESPACE/NAME".to_owned()),
    }
}

#[derive(Args, Debug)]
pub struct Agent {
    #[command(flatten)]
    pub kubernetes: Kubernetes,
    /// This node's name.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// The namespace that Weir is installed in.
    #[arg(long, default_value = "weir-system", env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Socket of the container runtime (CRI).
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    pub cri_socket: PathBuf,
    /// Folder of the proxies' files and the agent's own socket.
    #[arg(long, default_value = "/run/weir")]
    pub run_dir: PathBuf,
    /// Folder of the CNI configuration lists; the agent adds itself to the first one.
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_config_dir: PathBuf,
    /// Folder of the CNI plugins; the agent puts its own there.
    #[arg(long, default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Make a CNI configuration with the agent's plugin alone where there is none. Only right where pods get their network
    /// by other means: elsewhere it could come before the real network's.
    #[arg(long)]
    pub cni_standalone: bool,
    /// The Envoy to run for pods that choose it: a path, or a name looked up in PATH.
    #[arg(long, default_value = "envoy")]
    pub envoy: PathBuf,
    /// Address of /readyz and /livez.
    #[arg(long, default_value = "0.0.0.0:8901")]
    pub admin_address: SocketAddr,
    /// Seconds a proxy that is taken away may spend on connections that are still open.
    #[arg(long, default_value_t = 30)]
    pub drain_seconds: u64,
}

#[derive(Args, Debug)]
pub struct Metrics {
    #[command(flatten)]
    pub kubernetes: Kubernetes,
    /// Address of the aggregated API metrics.smi-spec.io (TLS).
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub api_address: SocketAddr,
    /// Address of the store's Prometheus API.
    #[arg(long, default_value = "0.0.0.0:9090")]
    pub store_address: SocketAddr,
    /// The namespace that Weir is installed in.
    #[arg(long, default_value = "weir-system", env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Seconds between two scrapes of a proxy.
    #[arg(long, default_value_t = 5)]
    pub scrape_interval_seconds: u64,
    /// How long samples are kept, in seconds.
    #[arg(long, default_value_t = 3600)]
    pub retention_seconds: u64,
    /// Folder of the store's log and snapshots; without it everything is in memory and gone at the end.
    #[arg(long = "storage.path", value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// Bytes of series and samples in memory, such as 2GB; the oldest samples beyond go. By default any number.
    #[arg(long = "storage.max-bytes", value_name = "SIZE", value_parser = bytes)]
    pub max_bytes: Option<u64>,
    /// Series at a time; new ones beyond are refused and counted.
    #[arg(long = "storage.max-series", value_name = "N", default_value_t = 500_000)]
    pub max_series: usize,
    /// A file of recording and alerting rules, or `mesh` for those that are shipped; may be repeated.
    #[arg(long = "rule-file", value_name = "FILE")]
    pub rule_files: Vec<PathBuf>,
    /// An Alertmanager, such as http://alertmanager:9093; may be repeated.
    #[arg(long = "alertmanager-url", value_name = "URL")]
    pub alertmanager_urls: Vec<String>,
    #[command(flatten)]
    pub backend: Backend,
}

#[derive(Subcommand, Debug)]
pub enum RulesAction {
    /// Tell what is wrong with rule files, by file, group and rule; the exit code is 1 when something is.
    Check {
        /// Rule files (YAML), as Prometheus takes them.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print the rules of the mesh that are shipped.
    Print,
}

/// Where the metric APIs take their figures from.
#[derive(Args, Debug)]
pub struct Backend {
    /// The embedded store, or servers with Prometheus's API that scrape the proxies themselves.
    #[arg(long, value_enum, default_value_t = MetricsBackend::Embedded)]
    pub metrics_backend: MetricsBackend,
    /// A server; may be repeated. Several without a selector are shards of one store. With one, such as
    /// '{namespace=~"a|b"} http://host:9090', queries go there that ask for nothing else.
    #[arg(
        long = "metrics-url",
        value_name = "[SELECTOR ]URL",
        required_if_eq("metrics_backend", "prometheus")
    )]
    pub urls: Vec<String>,
    /// File of a bearer token, read anew for each request.
    #[arg(long = "metrics-token-file", value_name = "FILE", conflicts_with = "user")]
    pub token_file: Option<PathBuf>,
    /// User, with --metrics-password-file.
    #[arg(long = "metrics-user", value_name = "NAME", requires = "password_file")]
    pub user: Option<String>,
    /// File of the user's password, read anew for each request.
    #[arg(long = "metrics-password-file", value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// A header for every request, such as X-Scope-OrgID=team; may be repeated.
    #[arg(long = "metrics-header", value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub headers: Vec<(String, String)>,
    /// The certificates (PEM) that the servers' must come from; by default the system's.
    #[arg(long = "metrics-ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Our own certificate (PEM), for servers that want one; read anew when it is written anew.
    #[arg(long = "metrics-cert-file", value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// The key of the certificate.
    #[arg(long = "metrics-key-file", value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// The name in the servers' certificates, where it is not that of the URL.
    #[arg(long = "metrics-server-name", value_name = "NAME")]
    pub server_name: Option<String>,
    /// Take any certificate.
    #[arg(long = "metrics-insecure-skip-verify")]
    pub insecure_skip_verify: bool,
    /// Seconds that a query may take there.
    #[arg(long = "metrics-timeout-seconds", default_value_t = 15)]
    pub timeout_seconds: u64,
    /// Queries to one server at the same time.
    #[arg(long = "metrics-concurrency", default_value_t = 16)]
    pub concurrency: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetricsBackend {
    Embedded,
    Prometheus,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Flags are called as Prometheus's are, so that a command line of its server mostly works as it stands.
#[derive(Args, Debug)]
pub struct Store {
    /// What to scrape: a prometheus.yml. Read again at SIGHUP.
    #[arg(long = "config.file", default_value = "prometheus.yml")]
    pub config_file: PathBuf,
    /// Address of the HTTP API.
    #[arg(long = "web.listen-address", default_value = "127.0.0.1:9090")]
    pub listen_address: SocketAddr,
    /// Folder of the data; without it everything is in memory and gone at the end.
    #[arg(long = "storage.path", alias = "storage.tsdb.path")]
    pub path: Option<PathBuf>,
    /// How long samples are kept, such as 15d or 6h.
    #[arg(long = "storage.retention", alias = "storage.tsdb.retention.time", default_value = "15d", value_parser = duration)]
    pub retention: std::time::Duration,
    /// Bytes of series and samples in memory, such as 2GB; the oldest samples beyond go. By default any number.
    #[arg(long = "storage.max-bytes", alias = "storage.tsdb.retention.size", value_parser = bytes)]
    pub max_bytes: Option<u64>,
    /// Series at a time; new ones beyond are refused and counted.
    #[arg(long = "storage.max-series", default_value_t = 1_000_000)]
    pub max_series: usize,
    /// Take POST /-/reload, which reads the configuration again, and POST /-/quit, which ends the process.
    #[arg(long = "web.enable-lifecycle")]
    pub enable_lifecycle: bool,
    /// Take samples at POST /api/v1/write.
    #[arg(long = "web.enable-remote-write-receiver")]
    pub enable_receiver: bool,
    /// The context of the kubeconfig, for kubernetes_sd_configs.
    #[arg(long)]
    pub context: Option<String>,
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    let duration = weir_scrape::config::units::duration(text).filter(|d| !d.is_zero());
    duration.ok_or_else(|| "write a duration such as 15d, 6h or 1h30m".to_owned())
}

fn bytes(text: &str) -> Result<u64, String> {
    weir_scrape::config::units::bytes(text).ok_or_else(|| "write a size such as 500MB or 2GB".to_owned())
}

#[derive(Args, Debug)]
pub struct Gateway {
    #[command(flatten)]
    pub kubernetes: Kubernetes,
    /// The name by which it asks the control plane for its configuration.
    #[arg(long, default_value = "traffic-ingress")]
    pub node_id: String,
    /// The control plane, host and port; by default weir-control of the namespace that Weir is installed in.
    #[arg(long, value_name = "HOST:PORT")]
    pub xds: Option<String>,
    /// The namespace that Weir is installed in.
    #[arg(long, default_value = "weir-system")]
    pub namespace: String,
    /// File of a token of the pod's service account, bound to the pod, for audience weir-xds.
    #[arg(long, default_value = "/var/run/secrets/weir/token")]
    pub token: PathBuf,
    /// Folder of the proxy's files; what outlives the process there is taken up by the next one.
    #[arg(long, default_value = "/run/weir")]
    pub dir: PathBuf,
    /// Which proxy.
    #[arg(long, value_enum, default_value_t = Engine::Weir)]
    pub engine: Engine,
    /// The Envoy to run with --engine envoy: a path, or a name looked up in PATH.
    #[arg(long, default_value = "envoy")]
    pub envoy: PathBuf,
    /// Address of /metrics, /stats/prometheus and /ready.
    #[arg(long, default_value = "0.0.0.0:8900")]
    pub metrics_address: SocketAddr,
    /// Seconds that connections may stay open after SIGTERM.
    #[arg(long, default_value_t = 30)]
    pub drain_seconds: u64,
    /// Threads that forward, of Weir's proxy; by default one a processor.
    #[arg(long)]
    pub workers: Option<usize>,
}

#[derive(Args, Debug)]
pub struct Zipkin {
    /// Address of Zipkin's API.
    #[arg(long, default_value = "0.0.0.0:9411")]
    pub address: SocketAddr,
    /// Spans that are kept; beyond, the oldest traces go.
    #[arg(long, default_value_t = 100_000)]
    pub spans_max: usize,
    /// Memory for spans, in MiB; beyond, the oldest traces go.
    #[arg(long, default_value_t = 128)]
    pub memory_mib: usize,
}

#[derive(Args, Debug)]
pub struct Proxy {
    /// The bootstrap, in Envoy's format: YAML or JSON.
    #[arg(short = 'c', long = "config-path")]
    pub config_path: PathBuf,
    /// Address of /metrics, /stats/prometheus and /ready.
    #[arg(long, default_value = "0.0.0.0:8900")]
    pub metrics_address: SocketAddr,
    /// Folder of the last good configuration.
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    /// Seconds that connections may stay open after SIGTERM.
    #[arg(long, default_value_t = 30)]
    pub drain_seconds: u64,
    /// Threads that forward.
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// Record no traffic metrics (to measure what they cost).
    #[arg(long)]
    pub no_metrics: bool,
}

#[derive(Args, Debug)]
pub struct EnvoySupervisor {
    #[command(flatten)]
    pub proxy: Proxy,
    /// The Envoy to run.
    #[arg(long, default_value = "envoy")]
    pub envoy: PathBuf,
}

#[derive(Args, Debug)]
pub struct Node {
    #[arg(long)]
    pub data_dir: PathBuf,
}

#[derive(Args, Debug)]
pub struct Apiserver {
    #[arg(long)]
    pub data_dir: PathBuf,
}
