//! The objects that pods refer to, watched once for the whole node.
//!
//! Enters: watches of ConfigMaps, Secrets and Services. Leaves: look-ups by name, and a counter that tells when something
//! changed.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::runtime::reflector::{ObjectRef, Store, reflector, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::env::Lookup;

/// How long the first lists may take.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// Read side of the watches.
pub struct Caches {
    config_maps: Store<ConfigMap>,
    secrets: Store<Secret>,
    services: Store<Service>,
    changes: watch::Sender<u64>,
}

impl Caches {
    /// Starts the watches; they end with `shutdown`.
    pub fn start(client: &Client, shutdown: &CancellationToken) -> Arc<Self> {
        let changes = watch::channel(0).0;
        Arc::new(Self {
            config_maps: follow(client, &changes, shutdown),
            secrets: follow(client, &changes, shutdown),
            services: follow(client, &changes, shutdown),
            changes,
        })
    }

    /// Waits until each has been listed once; false after a deadline.
    pub async fn ready(&self) -> bool {
        let all = async {
            let (a, b, c) = tokio::join!(
                self.config_maps.wait_until_ready(),
                self.secrets.wait_until_ready(),
                self.services.wait_until_ready()
            );
            a.is_ok() && b.is_ok() && c.is_ok()
        };
        tokio::time::timeout(READY_DEADLINE, all).await.unwrap_or(false)
    }

    /// Counts changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Lookup for Caches {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.config_maps.get(&ObjectRef::new(name).within(namespace))
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.secrets.get(&ObjectRef::new(name).within(namespace))
    }

    fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        let mut found = self.services.state();
        found.retain(|service| service.metadata.namespace.as_deref() == Some(namespace));
        found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        found
    }
}

fn follow<K>(client: &Client, changes: &watch::Sender<u64>, shutdown: &CancellationToken) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    K::DynamicType: Hash + Eq,
{
    let (reader, writer) = store();
    let stream = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
    let events = reflector(writer, stream);
    let (changes, shutdown) = (changes.clone(), shutdown.clone());
    tokio::spawn(async move {
        let follow = events.for_each(|event| {
            match event {
                Ok(_) => changes.send_modify(|count| *count += 1),
                Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "watch interrupted"),
            }
            std::future::ready(())
        });
        shutdown.run_until_cancelled(follow).await;
    });
    reader
}
