//! What the API server knows about the pods of this node: the pods themselves, their workloads, their namespaces, and the
//! mesh's own settings.
//!
//! Enters: a client. Leaves: caches that fill up, follow, and keep their content while the API server is away, and a
//! signal when something changed. Only metadata is kept of everything but pods.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, OnceCell};
use tokio_util::sync::CancellationToken;
use weir_api::labels::{self, Engine, SYSTEM_NAMESPACE};
use weir_api::telemetry::{MESH_CONFIG, MESH_CONFIG_KEY};

use crate::cluster::{self, Cluster};
use crate::plan::Workload;

/// Pause before a broken watch is tried again: an API server that restarts is back within seconds.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The caches.
pub struct Stores {
    /// Pods of this node.
    pub pods: Store<Pod>,
    namespaces: Store<Namespace>,
    deployments: Store<Deployment>,
    replica_sets: Store<ReplicaSet>,
    stateful_sets: Store<StatefulSet>,
    daemon_sets: Store<DaemonSet>,
    jobs: Store<Job>,
    settings: Store<ConfigMap>,
    /// The last good one of the mesh's settings.
    engine: Mutex<Engine>,
    /// Set once every cache has its first content.
    filled: OnceCell<()>,
}

/// An owned [`Workload`].
#[derive(Clone, Debug)]
pub enum Owner {
    /// The pod stands alone.
    None,
    /// Not in the caches.
    Unknown,
    /// Its metadata.
    Known(Box<ObjectMeta>),
}

impl Owner {
    /// As the plan takes it.
    pub fn workload(&self) -> Workload<'_> {
        match self {
            Owner::None => Workload::None,
            Owner::Unknown => Workload::Unknown,
            Owner::Known(meta) => Workload::Known(meta),
        }
    }
}

impl Stores {
    /// Starts the watches; `changed` is notified after each event.
    pub fn start(client: &Client, node_name: &str, changed: &Arc<Notify>, shutdown: &CancellationToken) -> Self {
        let watch = Watch { changed, shutdown };
        let own = watcher::Config::default().fields(&format!("metadata.name={MESH_CONFIG}"));
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
        Self {
            pods: watch.start(Api::all(client.clone()), of_node, |pod: &mut Pod| {
                pod.metadata.managed_fields = None
            }),
            namespaces: watch.start(Api::all(client.clone()), watcher::Config::default(), metadata_only),
            deployments: watch.start(Api::all(client.clone()), watcher::Config::default(), metadata_only),
            replica_sets: watch.start(Api::all(client.clone()), watcher::Config::default(), metadata_only),
            stateful_sets: watch.start(Api::all(client.clone()), watcher::Config::default(), metadata_only),
            daemon_sets: watch.start(Api::all(client.clone()), watcher::Config::default(), metadata_only),
            jobs: watch.start(Api::all(client.clone()), watcher::Config::default(), metadata_only),
            settings: watch.start(
                Api::namespaced(client.clone(), SYSTEM_NAMESPACE),
                own,
                |_: &mut ConfigMap| (),
            ),
            engine: Mutex::default(),
            filled: OnceCell::new(),
        }
    }

    /// Returns once every cache has its first content.
    pub async fn ready(&self) {
        // A store wakes only the last of those who wait for it, so one waits for all.
        self.filled.get_or_init(|| self.fill()).await;
    }

    async fn fill(&self) {
        // An error means that a watch task has ended, which happens on shutdown only.
        let _ = tokio::join!(
            self.pods.wait_until_ready(),
            self.namespaces.wait_until_ready(),
            self.deployments.wait_until_ready(),
            self.replica_sets.wait_until_ready(),
            self.stateful_sets.wait_until_ready(),
            self.daemon_sets.wait_until_ready(),
            self.jobs.wait_until_ready(),
            self.settings.wait_until_ready(),
        );
    }

    /// Metadata of a namespace.
    pub fn namespace(&self, name: &str) -> Option<ObjectMeta> {
        self.namespaces.get(&ObjectRef::new(name)).map(|n| n.metadata.clone())
    }

    /// The engine of pods of which nobody says it. While the mesh's settings say something bad, the last good one.
    pub fn default_engine(&self) -> Engine {
        let settings = self.settings.get(&ObjectRef::new(MESH_CONFIG).within(SYSTEM_NAMESPACE));
        let mut last = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engine_of(settings.as_deref()) {
            *last = engine;
        }
        *last
    }

    /// The workload above a pod, a ReplicaSet's Deployment rather than the ReplicaSet.
    pub fn owner(&self, pod: &Pod) -> Owner {
        let Some(owner) = labels::controller(&pod.metadata) else {
            return Owner::None;
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let Owner::Known(set) = known(&self.replica_sets, namespace, &owner.name) else {
                    return Owner::Unknown;
                };
                match labels::controller(&set) {
                    Some(above) if above.kind == "Deployment" => known(&self.deployments, namespace, &above.name),
                    _ => Owner::Known(set),
                }
            }
            "StatefulSet" => known(&self.stateful_sets, namespace, &owner.name),
            "DaemonSet" => known(&self.daemon_sets, namespace, &owner.name),
            "Job" => known(&self.jobs, namespace, &owner.name),
            _ => Owner::None,
        }
    }

    /// As [`Stores::owner`], but asks the API server for what the caches do not show: a pod may come up before the
    /// caches have heard of its workload.
    pub async fn owner_now(&self, pod: &Pod, cluster: &Cluster) -> Result<Owner, cluster::Error> {
        let found = self.owner(pod);
        let (Owner::Unknown, Some(owner)) = (&found, labels::controller(&pod.metadata)) else {
            return Ok(found);
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let meta = match owner.kind.as_str() {
            "ReplicaSet" => match cluster.metadata::<ReplicaSet>(namespace, &owner.name).await? {
                Some(set) => match labels::controller(&set) {
                    Some(above) if above.kind == "Deployment" => {
                        cluster.metadata::<Deployment>(namespace, &above.name).await?
                    }
                    _ => Some(set),
                },
                None => None,
            },
            "StatefulSet" => cluster.metadata::<StatefulSet>(namespace, &owner.name).await?,
            "DaemonSet" => cluster.metadata::<DaemonSet>(namespace, &owner.name).await?,
            "Job" => cluster.metadata::<Job>(namespace, &owner.name).await?,
            _ => None,
        };
        Ok(meta.map_or(Owner::None, |m| Owner::Known(Box::new(m))))
    }
}

/// What the mesh's settings say; `None`: nothing that could be used. (The control plane tells what is wrong with them.)
fn engine_of(settings: Option<&ConfigMap>) -> Option<Engine> {
    let Some(settings) = settings else {
        return Some(Engine::default());
    };
    let text = settings.data.as_ref()?.get(MESH_CONFIG_KEY)?;
    let file: serde_json::Value = serde_saphyr::from_str(text).ok()?;
    match &file["engine"] {
        serde_json::Value::Null => Some(Engine::default()),
        engine => engine.as_str()?.trim().parse().ok(),
    }
}

fn known<K>(store: &Store<K>, namespace: &str, name: &str) -> Owner
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let found = store.get(&ObjectRef::new(name).within(namespace));
    found.map_or(Owner::Unknown, |o| Owner::Known(Box::new(o.meta().clone())))
}

/// Forgets everything else, which nobody here reads.
fn metadata_only<K: Resource + Default>(object: &mut K) {
    let metadata = std::mem::take(object.meta_mut());
    *object = K::default();
    *object.meta_mut() = ObjectMeta {
        managed_fields: None,
        ..metadata
    };
}

/// Pauses that double from [`RETRY_MIN`] to [`RETRY_MAX`].
struct BackOff(Duration);

impl Iterator for BackOff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(RETRY_MAX);
        Some(pause)
    }
}

impl Backoff for BackOff {
    fn reset(&mut self) {
        self.0 = RETRY_MIN;
    }
}

/// What every watch is started with.
struct Watch<'a> {
    changed: &'a Arc<Notify>,
    shutdown: &'a CancellationToken,
}

impl Watch<'_> {
    /// One watch in a task of its own; it comes back by itself after errors.
    fn start<K>(&self, api: Api<K>, config: watcher::Config, strip: fn(&mut K)) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let (reader, writer) = store();
        let stream = watcher(api, config)
            .backoff(BackOff(RETRY_MIN))
            .modify(strip)
            .reflect(writer);
        let (changed, shutdown) = (self.changed.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            futures::pin_mut!(stream);
            loop {
                tokio::select! {
                    event = stream.next() => match event {
                        Some(Ok(_)) => changed.notify_one(),
                        Some(Err(error)) => tracing::debug!(kind = %K::kind(&()), %error, "watch broken, tried again"),
                        None => return,
                    },
                    () = shutdown.cancelled() => return,
                }
            }
        });
        reader
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper_util::rt::TokioIo;
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn the_meshs_engine_is_read_from_its_settings() {
        let settings = |text: &str| -> Option<Engine> {
            let map = ConfigMap {
                data: Some([(MESH_CONFIG_KEY.to_owned(), text.to_owned())].into()),
                ..ConfigMap::default()
            };
            engine_of(Some(&map))
        };
        assert_eq!(engine_of(None), Some(Engine::Weir));
        assert_eq!(settings("engine: envoy"), Some(Engine::Envoy));
        assert_eq!(settings("metrics: {granularity: pod}"), Some(Engine::Weir));
        assert_eq!(settings(""), Some(Engine::Weir));
        for bad in ["engine: nginx", "engine: {a: b}", "engine: ["] {
            assert_eq!(settings(bad), None, "{bad}: the last good one stays");
        }
    }

    /// Answers lists, all of them empty, once told to; watches never say anything.
    async fn api(open: watch::Receiver<bool>) -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let open = open.clone();
                let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let mut open = open.clone();
                    async move {
                        if request.uri().query().is_some_and(|q| q.contains("watch=true")) {
                            std::future::pending::<()>().await;
                        }
                        let _ = open.wait_for(|open| *open).await;
                        let list = json!({"metadata": {"resourceVersion": "1"}, "items": []});
                        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(list.to_string()))))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
    }

    /// The agent itself and every pod that starts with it wait at the same time; one of them may give up.
    #[tokio::test]
    async fn all_who_wait_for_the_caches_are_woken() {
        let (open, opened) = watch::channel(false);
        let shutdown = CancellationToken::new();
        let client = api(opened).await;
        let stores = Arc::new(Stores::start(&client, "node", &Arc::default(), &shutdown));
        let wait = || {
            let stores = stores.clone();
            tokio::spawn(async move { stores.ready().await })
        };
        let first = wait();
        tokio::task::yield_now().await;
        let others: Vec<_> = (0..3).map(|_| wait()).collect();
        tokio::task::yield_now().await;
        first.abort();
        assert!(others.iter().all(|w| !w.is_finished()));
        open.send_replace(true);
        for waiter in others {
            let woken = tokio::time::timeout(Duration::from_secs(10), waiter).await;
            woken.expect("a waiter was forgotten").unwrap();
        }
        shutdown.cancel();
    }
}
