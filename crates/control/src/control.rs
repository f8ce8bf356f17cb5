//! The running control plane: one loop that owns mesh, lowered resources and problems.
//!
//! Woken by changed objects and by proxies that come, go or reject; debounced; then build, lower, check, publish. What
//! would be inconsistent is not published: the last good configuration stays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use weir_api::labels::Engine;
use weir_mesh::{Key, Mesh};
use weir_xds::Snapshot;
use weir_xds::server::{Authorize, Cache, DRAINED, ServerTls};

use crate::authority::{self, Authority};
use crate::events::Events;
use crate::handle::{ControlHandle, Published, engine_of};
use crate::identity::PodTokens;
use crate::lower::{GATEWAY_NODE, Lowered};
use crate::problems;
use crate::status::Statuses;
use crate::watch::Watched;

/// Changes that come within this time are built together.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// The authority is asked for again after this time, while the API server is not there.
const AUTHORITY_RETRY: Duration = Duration::from_secs(1);

/// What the control plane needs.
#[derive(Clone)]
pub struct Config {
    /// Client of the Kubernetes API.
    pub client: Client,
    /// Where proxies connect: gRPC over TLS.
    pub xds_listen: SocketAddr,
    /// Namespace of the Secret and ConfigMap `weir-ca`, normally `weir-system`.
    pub namespace: String,
    /// More names (host names or addresses) for the serving certificate, beside those of the service and localhost.
    pub extra_names: Vec<String>,
    /// The service account whose pods are the gateway.
    pub gateway_account: Key,
}

/// Why the control plane ended or did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address for proxies is taken or not ours.
    #[error("cannot listen for proxies on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The certificate authority is unusable.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// The server for proxies failed.
    #[error("serving proxies")]
    Serve(#[from] tonic::transport::Error),
    /// A task ended that never should.
    #[error("the {0} task ended")]
    Task(&'static str),
}

/// The control plane, ready to run.
pub struct Control {
    config: Config,
    handle: ControlHandle,
}

/// Runs a control plane until shutdown. Use [`Control::new`] to have its handle too.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Control::new(config).0.run(shutdown).await
}

impl Control {
    /// A control plane and the view of it.
    pub fn new(config: Config) -> (Self, ControlHandle) {
        let handle = ControlHandle::new(Cache::new());
        (
            Self {
                config,
                handle: handle.clone(),
            },
            handle,
        )
    }

    /// Runs until shutdown.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { config, handle } = self;
        let watched = Watched::default();
        let mut watches = watched.start(&config.client);
        let address = config.xds_listen;
        let listener = weir_xds::server::listen(address).map_err(|source| Error::Listen { address, source })?;
        let Some(tls) = serving_certificate(&config, &shutdown).await? else {
            return Ok(());
        };
        let (events, write_events) = Events::new(config.client.clone());
        let (statuses, write_statuses) = Statuses::new(config.client.clone(), watched.clone());
        tracing::info!(%address, "serving proxies");
        let serve = weir_xds::server::serve(
            listener,
            Some(tls),
            handle.cache.clone(),
            PodTokens::new(config.client.clone(), config.gateway_account.clone()),
            shutdown.clone().cancelled_owned(),
        );
        let publish = Publisher {
            events: Some(events),
            statuses: Some(statuses),
            ..Publisher::new(watched, handle)
        };
        tokio::select! {
            served = serve => served.map_err(Error::Serve),
            () = publish.run() => Err(Error::Task("publishing")),
            () = write_events => Err(Error::Task("event")),
            () = write_statuses => Err(Error::Task("status")),
            _ = watches.join_next() => Err(Error::Task("watching")),
        }
    }
}

/// Serves what `watched` holds, without a Kubernetes API: nobody is told of problems but the handle. For measurements.
pub async fn serve_objects<A: Authorize>(
    watched: Watched,
    handle: ControlHandle,
    listener: TcpListener,
    tls: Option<ServerTls>,
    authorize: A,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let serve = weir_xds::server::serve(
        listener,
        tls,
        handle.cache.clone(),
        authorize,
        shutdown.cancelled_owned(),
    );
    let publish = Publisher::new(watched, handle);
    tokio::select! {
        served = serve => served.map_err(Error::Serve),
        () = publish.run() => Err(Error::Task("publishing")),
    }
}

/// The certificate to serve with; `None` when shutdown came first. An API server that is not there is waited for.
async fn serving_certificate(config: &Config, shutdown: &CancellationToken) -> Result<Option<ServerTls>, Error> {
    loop {
        match Authority::load_or_create(&config.client, &config.namespace).await {
            Ok(authority) => {
                let names = serving_names(&config.namespace, &config.extra_names);
                return Ok(Some(authority.serving(&names).map_err(authority::Error::Certificate)?));
            }
            Err(error @ authority::Error::Api { .. }) => {
                let cause = std::error::Error::source(&error)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                tracing::warn!(%error, cause, "waiting for the certificate authority");
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(AUTHORITY_RETRY) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
    }
}

fn serving_names(namespace: &str, extra: &[String]) -> Vec<String> {
    let service = format!("weir-control.{namespace}");
    let mut names = vec![
        format!("{service}.svc"),
        service.clone(),
        format!("{service}.svc.{}", weir_mesh::CLUSTER_DOMAIN),
        "weir-control".to_owned(),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
    ];
    names.extend(extra.iter().cloned());
    names
}

/// What all nodes share, as built last.
#[derive(Default)]
struct Shared {
    mesh: Arc<Mesh>,
    lowered: Arc<Lowered>,
    problems: Vec<weir_api::problem::Problem>,
    built: bool,
}

/// What a node was published last.
struct Node {
    engine: Engine,
    snapshot: Arc<Snapshot>,
}

struct Publisher {
    watched: Watched,
    handle: ControlHandle,
    /// Writes problems as Events; `None` where there is no API.
    events: Option<Events>,
    /// Writes the statuses of Ingresses, Gateways and routes; `None` where there is no API.
    statuses: Option<Statuses>,
    shared: Shared,
    builder: weir_mesh::Builder,
    /// Clusters that nothing leads to any more, and since when.
    retired: BTreeMap<String, Instant>,
    /// The connected nodes, as published from the mesh `nodes_of`.
    nodes: BTreeMap<String, Node>,
    nodes_of: Arc<Mesh>,
}

impl Publisher {
    /// Nothing built yet, and nobody but the handle is told of problems.
    fn new(watched: Watched, handle: ControlHandle) -> Self {
        Self {
            watched,
            handle,
            events: None,
            statuses: None,
            shared: Shared::default(),
            builder: weir_mesh::Builder::default(),
            retired: BTreeMap::new(),
            nodes: BTreeMap::new(),
            nodes_of: Arc::default(),
        }
    }

    async fn run(mut self) {
        let mut objects_changed = self.watched.changes();
        let mut clients_changed = self.handle.cache.changes();
        let mut dirty = true;
        loop {
            if dirty {
                self.build();
            }
            if self.shared.built {
                self.publish();
            }
            dirty = tokio::select! {
                // Neither sender can be gone: this task holds both.
                _ = objects_changed.changed() => true,
                _ = clients_changed.changed() => false,
            };
            tokio::time::sleep(DEBOUNCE).await;
            clients_changed.mark_unchanged();
            if objects_changed.has_changed().unwrap_or(true) {
                objects_changed.mark_unchanged();
                dirty = true;
            }
        }
    }

    /// Objects to mesh to resources. Nothing happens before every kind was listed.
    fn build(&mut self) {
        let objects = match self.watched.objects() {
            Ok(objects) => objects,
            Err(unsynced) => {
                tracing::debug!(?unsynced, "not everything was listed yet");
                return;
            }
        };
        let started = Instant::now();
        let (mesh, problems) = self.builder.build(&objects, &self.shared.mesh);
        let built = started.elapsed();
        let lowered = Lowered::renew(&mesh, &self.shared.lowered, &self.shared.mesh);
        let lowered = self.with_retired(lowered, started);
        let encoded = started.elapsed();
        if let Err(inconsistencies) = lowered.check_since(&self.shared.lowered) {
            for inconsistency in inconsistencies {
                tracing::error!(%inconsistency, "not published, the last configuration stays");
            }
            return;
        }
        self.shared = Shared {
            mesh: Arc::new(mesh),
            lowered: Arc::new(lowered),
            problems,
            built: true,
        };
        if let Some(statuses) = &mut self.statuses {
            statuses.update(&self.shared.mesh, &objects);
        }
        tracing::debug!(
            mesh_us = built.as_micros(),
            resources_us = (encoded - built).as_micros(),
            check_us = (started.elapsed() - encoded).as_micros(),
            "built"
        );
    }

    /// Keeps clusters that connections from before may still need.
    fn with_retired(&mut self, lowered: Lowered, now: Instant) -> Lowered {
        let previous = &self.shared.lowered;
        let gone = lowered.retired(previous);
        self.retired.retain(|name, _| gone.contains(name));
        for name in gone {
            self.retired.entry(name).or_insert(now);
        }
        let young = self.retired.iter().filter(|(_, since)| now - **since < DRAINED);
        lowered.keeping(&young.map(|(name, _)| name.clone()).collect(), previous)
    }

    /// Resources to connected nodes, problems to everybody.
    fn publish(&mut self) {
        let Shared {
            mesh,
            lowered,
            problems,
            ..
        } = &self.shared;
        let started = Instant::now();
        let cache = &self.handle.cache;
        let mut nodes = BTreeMap::new();
        for node in cache.nodes() {
            if node.id == GATEWAY_NODE {
                if let Some(snapshot) = lowered.gateway_snapshot(engine_of(&node.engine, None)) {
                    cache.publish(&node.id, Arc::new(snapshot));
                }
                continue;
            }
            let Some(key) = Key::from_node_id(&node.id) else {
                continue;
            };
            let engine = engine_of(&node.engine, mesh.pods.get(&key));
            let last = self.nodes.get(&node.id).filter(|last| last.engine == engine);
            let previous = cache.snapshot(&node.id);
            let refreshed = last.and_then(|l| lowered.refresh((mesh, &self.nodes_of), &key, engine, &l.snapshot));
            let snapshot = refreshed.or_else(|| lowered.snapshot(mesh, &key, engine, previous.as_deref()));
            // A pod that is gone keeps what its proxy has until the proxy is gone too.
            let Some(snapshot) = snapshot else { continue };
            let snapshot = match last {
                Some(last) if last.snapshot.same(&snapshot) => Arc::clone(&last.snapshot),
                _ => Arc::new(snapshot),
            };
            cache.publish(&node.id, Arc::clone(&snapshot));
            nodes.insert(node.id, Node { engine, snapshot });
        }
        self.nodes = nodes;
        self.nodes_of = Arc::clone(mesh);
        tracing::debug!(
            nodes = self.nodes.len(),
            took_us = started.elapsed().as_micros(),
            "published"
        );
        let mut all = problems.clone();
        all.extend(problems::rejections(mesh, &cache.rejecting()));
        if let Some(events) = &mut self.events {
            events.update(&all);
        }
        self.handle.published.store(Arc::new(Published {
            mesh: Arc::clone(mesh),
            lowered: Arc::clone(lowered),
            problems: all,
            ready: true,
        }));
    }
}
