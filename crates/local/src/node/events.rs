//! Kubernetes Events of the kubelet.
//!
//! Enters: what happened to a pod. Leaves: Event objects, the same one counted up instead of repeated. Never waits: when
//! the queue is full an event is dropped.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::NODE_NAME;

/// Events waiting to be written.
const QUEUE: usize = 1024;
/// Who reports.
const COMPONENT: &str = "kubelet";
/// Distinct events remembered for counting.
const REMEMBERED_MAX: usize = 4096;

/// What makes two events the same: pod, container, reason, message.
type Key = (Option<String>, Option<String>, &'static str, String);

/// The handle that takes events.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Happening>);

#[derive(Debug)]
struct Happening {
    object: ObjectReference,
    kind: &'static str,
    reason: &'static str,
    message: String,
}

impl Events {
    /// Starts the writer; it ends with `shutdown`.
    pub fn start(client: Client, shutdown: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            shutdown.run_until_cancelled(write_all(client, receiver)).await;
        });
        Self(sender)
    }

    /// Something normal.
    pub fn normal(&self, pod: &Pod, container: Option<&str>, reason: &'static str, message: impl Into<String>) {
        self.send(pod, container, "Normal", reason, message.into());
    }

    /// Something that keeps a pod from working.
    pub fn warning(&self, pod: &Pod, container: Option<&str>, reason: &'static str, message: impl Into<String>) {
        self.send(pod, container, "Warning", reason, message.into());
    }

    fn send(&self, pod: &Pod, container: Option<&str>, kind: &'static str, reason: &'static str, message: String) {
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|name| format!("spec.containers{{{name}}}")),
        };
        let _ = self.0.try_send(Happening {
            object,
            kind,
            reason,
            message,
        });
    }
}

async fn write_all(client: Client, mut receiver: mpsc::Receiver<Happening>) {
    let mut known: HashMap<Key, (String, i32)> = HashMap::new();
    while let Some(happening) = receiver.recv().await {
        let object = &happening.object;
        let key = (
            object.uid.clone(),
            object.field_path.clone(),
            happening.reason,
            happening.message.clone(),
        );
        let api: Api<Event> = Api::namespaced(client.clone(), object.namespace.as_deref().unwrap_or("default"));
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        let outcome = match known.get_mut(&key) {
            Some((name, count)) => {
                *count += 1;
                let patch = json!({"count": *count, "lastTimestamp": Time(Timestamp::now())});
                api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
            }
            None => api.create(&PostParams::default(), &event(&happening)).await,
        };
        match outcome {
            Ok(event) => {
                let name = event.metadata.name.unwrap_or_default();
                known.entry(key).or_insert((name, 1));
            }
            Err(error) => {
                known.remove(&key);
                tracing::debug!(reason = happening.reason, %error, "event not written");
            }
        }
    }
}

fn event(happening: &Happening) -> Event {
    let now = Timestamp::now();
    let object = &happening.object;
    let name = format!("{}.{:x}", object.name.as_deref().unwrap_or("pod"), now.as_nanosecond());
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: object.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: object.clone(),
        type_: Some(happening.kind.into()),
        reason: Some(happening.reason.into()),
        message: Some(happening.message.clone()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(COMPONENT.into()),
            host: Some(NODE_NAME.into()),
        }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(NODE_NAME.into()),
        ..Event::default()
    }
}
