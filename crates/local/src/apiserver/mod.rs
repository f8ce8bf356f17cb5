//! The Kubernetes API server of one machine: an HTTPS server over an object store.
//!
//! ```text
//! connection -> server -> auth (who) -> rbac (may they) -> handlers -> read | write | subresource | aggregate
//!                                                                         |      |
//!                                                                 selector, table  defaults, admission, validate
//!                                                                         └─ store ─┴─ log (disk)
//! ```
//! Enters: requests; the data directory. Leaves: responses and watch streams. It knows nothing of Weir:
//! nodes, controllers and the mesh are its clients like any other.

mod admission;
mod aggregate;
mod auth;
mod bootstrap;
mod convert;
mod crd;
mod defaults;
mod discovery;
mod error;
mod gc;
mod handlers;
mod http;
mod ingress;
mod labels;
mod log;
mod managed;
mod object;
mod openapi;
mod paging;
mod patch;
pub mod pki;
mod printers;
mod protobuf;
mod rbac;
mod read;
mod registry;
mod request;
mod reviews;
mod selector;
mod server;
mod store;
mod structure;
mod subresource;
mod table;
mod tokens;
mod upstream;
mod validate;
mod write;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use pki::{Identity, Pki, PkiError, ensure_pki};

use self::admission::Cidr;
use self::aggregate::Aggregator;
use self::error::{ApiError, Result};
use self::rbac::Rbac;
use self::registry::{Registry, Resource};
use self::request::Target;
use self::store::{Object, Store};
use self::tokens::Tokens;

/// The Kubernetes version that is served.
pub const VERSION: &str = "v1.37.0";
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// How an API server runs.
#[derive(Debug)]
pub struct Config {
    /// Objects are in `objects.log` below it.
    pub data_dir: PathBuf,
    /// Certificates and keys; what is missing is made.
    pub pki_dir: PathBuf,
    /// A listener from outside the node's network namespace (127.0.0.1:7443 of the host).
    pub host_listener: Option<std::net::TcpListener>,
    /// Where it listens itself (0.0.0.0:6443 in the node).
    pub listen: Option<SocketAddr>,
    /// Where pods reach it: the endpoint of the service `kubernetes` (10.244.0.1:6443).
    pub advertise: SocketAddr,
    /// Service addresses: network and prefix length (10.96.0.0, 16). Its first address is `kubernetes.default`.
    pub service_cidr: (Ipv4Addr, u8),
}

impl Config {
    /// The addresses of a Weir node; certificates in `pki/` below the data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            pki_dir: data_dir.join("pki"),
            data_dir,
            host_listener: None,
            listen: Some(SocketAddr::from(([0, 0, 0, 0], 6443))),
            advertise: SocketAddr::from(([10, 244, 0, 1], 6443)),
            service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("the object log: {0}")]
    Log(#[from] log::LogError),
    #[error("service-account tokens: {0}")]
    Tokens(#[from] tokens::TokenError),
    #[error(transparent)]
    Tls(#[from] upstream::TlsError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("listening on {address}: {source}")]
    Listen { address: String, source: std::io::Error },
}

/// Everything that requests share.
struct Api {
    store: Arc<Store>,
    registry: ArcSwap<Registry>,
    /// Held from the reading of the definitions to the registry's replacement: of two writers at once, the one that read
    /// first must not replace what the other has made.
    reloading: Mutex<()>,
    /// Held from the choice of a Service's address and ports until it is stored: they are free only as long as nobody else
    /// takes them.
    allocating: Mutex<()>,
    rbac: Rbac,
    tokens: Tokens,
    aggregator: Aggregator,
    pki: Pki,
    ca_pem: String,
    /// For kubelets: their CA, our client certificate.
    kubelet_tls: Arc<ClientConfig>,
    /// For `https:` proxying to pods and services, whose certificates nobody knows.
    any_tls: Arc<ClientConfig>,
    service_cidr: Cidr,
    kubernetes_ip: Ipv4Addr,
    advertise: SocketAddr,
    shutdown: CancellationToken,
}

impl Api {
    fn open(config: &Config, shutdown: CancellationToken) -> std::result::Result<Self, Error> {
        let pki = ensure_pki(&config.pki_dir)?;
        let store = Arc::new(Store::open(&config.data_dir.join("objects.log"))?);
        let ca_pem = fs::read_to_string(pki.ca()).map_err(|source| Error::File { path: pki.ca(), source })?;
        let trust = upstream::Trust::Bundle(ca_pem.clone().into_bytes());
        let (network, prefix) = config.service_cidr;
        let api = Self {
            registry: ArcSwap::from_pointee(Registry::new(Vec::new())),
            reloading: Mutex::new(()),
            allocating: Mutex::new(()),
            rbac: Rbac::new(store.clone()),
            tokens: Tokens::new(&pki, store.clone())?,
            aggregator: Aggregator::new(),
            kubelet_tls: upstream::client(&trust, Some((&pki, "apiserver-kubelet-client")))?,
            any_tls: upstream::client(&upstream::Trust::Anyone, None)?,
            service_cidr: Cidr::new(network, prefix),
            kubernetes_ip: Ipv4Addr::from(u32::from(network).saturating_add(1)),
            advertise: config.advertise,
            ca_pem,
            pki,
            store,
            shutdown,
        };
        api.reload_definitions();
        bootstrap::run(&api);
        api.aggregator.reload(&api);
        Ok(api)
    }

    /// The stored object that a URL names.
    fn find(&self, resource: &Resource, target: &Target) -> Result<Arc<Object>> {
        let namespace = if resource.namespaced {
            target.namespace.as_str()
        } else {
            ""
        };
        self.store
            .get(&resource.storage, namespace, &target.name)
            .ok_or_else(|| ApiError::not_found(resource, &target.name))
    }

    /// To be held from admission to storage.
    fn allocation(&self, resource: &Resource) -> Option<MutexGuard<'_, ()>> {
        let lock = || self.allocating.lock().unwrap_or_else(PoisonError::into_inner);
        resource.is("", "services").then(lock)
    }

    fn reload_definitions(&self) {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let definitions = self.store.list(DEFINITIONS, None).1;
        let custom = definitions.iter().flat_map(|d| crd::resources(&d.value())).collect();
        self.registry.store(Arc::new(Registry::new(custom)));
    }

    /// What follows from a write at once.
    fn after_write(&self, resource: &Resource, value: &Value) {
        if &*resource.storage == DEFINITIONS {
            self.reload_definitions();
        } else if &*resource.storage == aggregate::STORAGE {
            self.aggregator.reload(self);
        } else if resource.is("", "namespaces")
            && self
                .store
                .get("namespaces", "", object::name(value))
                .is_some_and(|n| !n.deleting)
        {
            admission::furnish_namespace(self, object::name(value));
        }
    }
}

/// Runs the API server until shutdown.
pub async fn run(config: Config, shutdown: CancellationToken) -> std::result::Result<(), Error> {
    let listeners = server::bind(&config)?;
    let api = Arc::new(Api::open(&config, shutdown.clone())?);
    let tls = server::tls(&api.pki)?;
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(gc::run(api.clone()));
    tasks.spawn(aggregate::run(api.clone()));
    for listener in listeners {
        tasks.spawn(server::accept(api.clone(), listener, tls.clone()));
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}
