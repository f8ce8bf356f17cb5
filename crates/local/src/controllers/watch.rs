//! Watching all objects of a kind into a store, for as long as it takes.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use futures::StreamExt;
use kube::Resource;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, Event, watcher};
use serde::de::DeserializeOwned;
use tracing::debug;

/// The API of one machine is back within moments or never, and can take being asked.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Doubles from 50 ms to 1 s.
pub(crate) struct Quick(Duration);

impl Default for Quick {
    fn default() -> Self {
        Self(BACKOFF_MIN)
    }
}

impl Iterator for Quick {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.0;
        self.0 = (wait * 2).min(BACKOFF_MAX);
        Some(wait)
    }
}

impl Backoff for Quick {
    fn reset(&mut self) {
        self.0 = BACKOFF_MIN;
    }
}

/// Keeps `writer`'s store like the API's and tells each object that came, changed or went. Objects that went while
/// the API was away are told too. Ends only by being dropped.
pub(crate) async fn watch<K>(api: Api<K>, writer: &mut Writer<K>, mut told: impl FnMut(&K))
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let reader = writer.as_reader();
    let mut events = std::pin::pin!(watcher(api, Config::default()).backoff(Quick::default()));
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                debug!(kind = %K::kind(&()), %error, "watch broke, trying again");
                continue;
            }
        };
        let before = if matches!(event, Event::InitDone) {
            reader.state()
        } else {
            Vec::new()
        };
        writer.apply_watcher_event(&event);
        match &event {
            Event::Apply(object) | Event::Delete(object) => told(object),
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => {
                reader.state().iter().for_each(|object| told(object));
                before.iter().for_each(|object| told(object));
            }
        }
    }
}
