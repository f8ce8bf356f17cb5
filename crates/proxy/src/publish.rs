//! The owner of the configuration: takes resources in, brings configurations out.
//!
//! Enters: resources of the bootstrap, the disk cache and the control plane; resolved names. Leaves: the active
//! configuration for the workers, series for the recorder, a file for the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use weir_xds::ResourceType;
use weir_xds::client::{Consumer, Known, Rejected, Update};

use crate::config::bootstrap::Bootstrap;
use crate::config::cache::Cache;
use crate::config::decode::Rejection;
use crate::config::store::{Raw, Store};
use crate::config::{ClusterSpec, DnsEndpoint, Endpoint, EndpointSource};
use crate::metrics::{LINGER, Series};
use crate::shared::Shared;

/// Changes within this time are written to disk together.
const WRITE_DELAY: Duration = Duration::from_millis(200);
/// How long after a failure the configuration is written again.
const WRITE_AGAIN: Duration = Duration::from_secs(30);
/// Resolving a name may take this long.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest time between two look-ups of one name.
const RESOLVE_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Shared handle on the one owner.
#[derive(Clone)]
pub struct Publisher {
    state: Arc<Mutex<State>>,
    /// Something waits for its time (warming, series), or is to be written.
    work: Arc<Notify>,
}

struct State {
    store: Store,
    series: Series,
    shared: Arc<Shared>,
    cache: Option<Cache>,
    unwritten: bool,
    deadline: Option<Instant>,
    resolvers: BTreeMap<String, (Arc<ClusterSpec>, AbortHandle)>,
    last_rejections: BTreeMap<(ResourceType, String), String>,
}

impl Publisher {
    /// Begins with what the bootstrap says, and with what the cache kept where there is a control plane to wait for.
    pub fn new(bootstrap: &Bootstrap, cache: Option<Cache>, shared: Arc<Shared>) -> Result<Self, (String, Rejection)> {
        let mut store = Store::default();
        let now = Instant::now();
        for resource in &bootstrap.resources {
            store
                .fix(resource.ty, &resource.name, &resource.body, now)
                .map_err(|rejection| (format!("{} {}", resource.ty, resource.name), rejection))?;
        }
        if bootstrap.ads.is_none() {
            store.assume_complete();
        }
        let kept = cache.as_ref().map(Cache::read).unwrap_or_default();
        let mut any = false;
        for raw in kept {
            let (ty, name) = (raw.ty, raw.name.clone());
            match store.set(raw, now) {
                Ok(()) => any = true,
                Err(rejection) => tracing::warn!(%ty, name, %rejection, "kept resource is not used"),
            }
        }
        if any {
            store.assume_complete();
            tracing::info!("serving with the configuration kept on disk");
        }
        let state = State {
            store,
            series: Series::default(),
            shared,
            cache,
            unwritten: false,
            deadline: None,
            resolvers: BTreeMap::new(),
            last_rejections: BTreeMap::new(),
        };
        Ok(Self {
            state: Arc::new(Mutex::new(state)),
            work: Arc::default(),
        })
    }

    /// What is held already, for the first request to the control plane.
    pub fn known(&self) -> Known {
        let state = self.lock();
        state
            .store
            .raw()
            .map(|r| (r.ty, r.name.clone(), r.version.clone()))
            .collect()
    }

    /// What was refused and why, for the administration interface.
    pub fn rejections(&self) -> Vec<(ResourceType, String, String)> {
        let state = self.lock();
        state
            .last_rejections
            .iter()
            .map(|((ty, name), why)| (*ty, name.clone(), why.clone()))
            .collect()
    }

    /// Raw resources from the control plane, for the administration interface.
    pub fn raw(&self) -> Vec<Raw> {
        self.lock().store.raw().cloned().collect()
    }

    /// Brings into force what is ready.
    pub fn publish(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        let (active, deadline) = state.store.settle(now);
        state.deadline = deadline;
        let version = active.version;
        let shared = Arc::clone(&state.shared);
        state.series.follow(&active, &shared.recorder, now);
        shared.active.store(Arc::new(active));
        shared.changes.send_replace(version);
        self.resolve(&mut state);
        drop(state);
        self.work.notify_one();
    }

    /// Does what is due later: warming that runs out, series that end, the file. Never ends.
    pub async fn run(&self) {
        let mut sweep = tokio::time::interval(LINGER / 3);
        loop {
            let deadline = self.lock().deadline;
            let wait = deadline.map(tokio::time::Instant::from_std);
            let due = async {
                match wait {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.publish(),
                _ = sweep.tick() => self.sweep(),
                () = self.work.notified() => self.write().await,
            }
        }
    }

    fn sweep(&self) {
        let mut state = self.lock();
        let shared = Arc::clone(&state.shared);
        if state.series.sweep(&shared.recorder, &shared.peers, Instant::now()) {
            shared.series_epoch.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes the cache if it is behind.
    async fn write(&self) {
        if !self.lock().unwritten {
            return;
        }
        tokio::time::sleep(WRITE_DELAY).await;
        let (cache, resources) = {
            let mut state = self.lock();
            state.unwritten = false;
            let Some(cache) = state.cache.clone() else { return };
            (cache, state.store.raw().cloned().collect::<Vec<_>>())
        };
        // Encoding many takes longer than the control plane's next word should wait.
        let written = tokio::task::spawn_blocking(move || cache.write(&cache.encode(resources.iter()))).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the configuration could not be kept on disk yet");
            self.lock().unwritten = true;
            let again = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(WRITE_AGAIN).await;
                again.work.notify_one();
            });
        }
    }

    /// Starts and stops the resolvers of names.
    fn resolve(&self, state: &mut State) {
        let wanted = state.store.to_resolve();
        let pointers: BTreeSet<*const ClusterSpec> = wanted.iter().map(Arc::as_ptr).collect();
        state.resolvers.retain(|_, (spec, task)| {
            let stays = pointers.contains(&Arc::as_ptr(spec));
            if !stays {
                task.abort();
            }
            stays
        });
        for spec in wanted {
            let name = spec.name.to_string();
            if state.resolvers.contains_key(&name) {
                continue;
            }
            if let EndpointSource::Dns(targets, interval) = &spec.source {
                let interval = (*interval).max(RESOLVE_INTERVAL_MIN);
                let task = tokio::spawn(resolve_again(self.clone(), name.clone(), Arc::clone(targets), interval));
                state.resolvers.insert(name, (Arc::clone(&spec), task.abort_handle()));
            }
        }
    }

    fn resolved(&self, cluster: &str, endpoints: Vec<Endpoint>) {
        let changed = self.lock().store.resolve(cluster, endpoints);
        if changed {
            self.publish();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves the names of a cluster again and again. A failure keeps the last addresses.
async fn resolve_again(publisher: Publisher, cluster: String, targets: Arc<Vec<DnsEndpoint>>, interval: Duration) {
    loop {
        let mut endpoints = Vec::new();
        let mut failed = false;
        for target in targets.iter() {
            let looked_up = tokio::net::lookup_host((target.host.as_str(), target.port));
            match tokio::time::timeout(RESOLVE_TIMEOUT, looked_up).await {
                Ok(Ok(addresses)) => {
                    let mut addresses: Vec<_> = addresses.collect();
                    addresses.sort_unstable();
                    addresses.dedup();
                    let endpoint = |address| Endpoint {
                        address,
                        weight: target.weight,
                        peer: Arc::clone(&target.peer),
                    };
                    endpoints.extend(addresses.into_iter().map(endpoint));
                }
                Ok(Err(error)) => {
                    tracing::debug!(host = target.host, %error, "name not resolved");
                    failed = true;
                }
                Err(_) => failed = true,
            }
        }
        if !failed {
            publisher.resolved(&cluster, endpoints);
        }
        tokio::time::sleep(interval).await;
    }
}

impl Consumer for Publisher {
    fn apply(&mut self, update: &Update) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        let mut state = self.lock();
        let now = Instant::now();
        for changed in &update.changed {
            let outcome = if update.ty == ResourceType::Peer {
                state.shared.peers.set(&changed.name, &changed.body)
            } else {
                let (name, version) = (changed.name.clone(), changed.version.clone());
                let raw = Raw {
                    ty: update.ty,
                    name,
                    version,
                    body: changed.body.clone(),
                };
                state.store.set(raw, now).map_err(|rejection| rejection.to_string())
            };
            let key = (update.ty, changed.name.clone());
            match outcome {
                Ok(()) => drop(state.last_rejections.remove(&key)),
                Err(message) => {
                    state.last_rejections.insert(key, message.clone());
                    rejected.push(Rejected {
                        name: changed.name.clone(),
                        message,
                    });
                }
            }
        }
        for name in &update.removed {
            state.last_rejections.remove(&(update.ty, name.clone()));
            if update.ty == ResourceType::Peer {
                state.shared.peers.unset(name);
            } else {
                state.store.remove(update.ty, name);
            }
        }
        if update.ty == ResourceType::Peer {
            return rejected;
        }
        state.store.answered(update.ty);
        state.unwritten = state.cache.is_some();
        drop(state);
        self.publish();
        rejected
    }

    fn wanted(&mut self, ty: ResourceType) -> BTreeSet<String> {
        let mut state = self.lock();
        if ty == ResourceType::Peer {
            state.shared.peers.wanted()
        } else {
            state.store.wanted(ty)
        }
    }

    fn connected(&mut self, connected: bool) {
        self.lock().shared.connected.store(connected, Ordering::Relaxed);
    }
}
