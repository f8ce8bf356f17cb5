//! What the agent asks of and tells the API server, beside its watches: tokens, the control plane's address and
//! certificate, the annotation on a pod, events.
//!
//! Every call has a time limit, and none is needed to keep a running proxy running.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Event, EventSource, Node, ObjectReference, Pod, Service, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use weir_api::labels;
use weir_api::problem::ObjectRef;

use crate::supervise::{ControlPlane, PodId};

/// Audience of the tokens that proxies show to the control plane.
pub const TOKEN_AUDIENCE: &str = "weir-xds";
/// Asked lifetime of a token.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
/// Longest wait for one answer of the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The same event on the same object is not repeated within this time.
const EVENT_REPEAT: Duration = Duration::from_secs(60);
/// So many events are remembered for that.
const EVENTS_REMEMBERED_MAX: usize = 4096;

/// Where the control plane is published.
#[derive(Clone, Debug)]
pub struct ControlNames {
    /// Namespace of the service and of the ConfigMap.
    pub namespace: String,
    /// The service.
    pub service: String,
    /// Its xDS port.
    pub port: u16,
    /// The ConfigMap with `ca.crt`.
    pub config_map: String,
}

impl Default for ControlNames {
    fn default() -> Self {
        Self {
            namespace: "weir-system".into(),
            service: "weir-control".into(),
            port: 18000,
            config_map: "weir-ca".into(),
        }
    }
}

impl ControlNames {
    /// The name in the control plane's certificate, which is also its name in the cluster's DNS.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }
}

/// Why the API server did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It said so, or cannot be reached.
    #[error("{what}: {}", told(source))]
    Api {
        /// What was asked.
        what: String,
        /// The answer.
        source: kube::Error,
    },
    /// It did not answer in time.
    #[error("{0}: no answer from the API server within {limit} s", limit = CALL_TIMEOUT.as_secs())]
    Timeout(String),
    /// The answer lacks what was asked for.
    #[error("{0}")]
    Missing(String),
}

/// What the API server said, without the whole status once more.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The API server.
pub struct Cluster {
    client: Client,
    node_name: String,
    control: ControlNames,
    said: Mutex<HashMap<(String, String, String), Instant>>,
}

impl Cluster {
    /// Of a client and the name of the node it speaks for.
    pub fn new(client: Client, node_name: String, control: ControlNames) -> Self {
        Self {
            client,
            node_name,
            control,
            said: Mutex::default(),
        }
    }

    /// A token in the name of the pod's service account, bound to the pod.
    pub async fn token(&self, pod: &PodId) -> Result<String, Error> {
        let what = format!("token of service account {}/{}", pod.namespace, pod.service_account);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![TOKEN_AUDIENCE.into()]),
                expiration_seconds: i64::try_from(TOKEN_LIFETIME.as_secs()).ok(),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod.name.clone()),
                    uid: Some(pod.uid.clone()),
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &pod.namespace);
        let params = PostParams::default();
        let call = accounts.create_token_request(&pod.service_account, &params, &request);
        let token = limited(&what, call)
            .await?
            .status
            .and_then(|s| s.token)
            .filter(|t| !t.is_empty());
        token.ok_or_else(|| Error::Missing(format!("{what}: the answer carries none")))
    }

    /// After this time a token is renewed.
    pub fn token_renewal() -> Duration {
        TOKEN_LIFETIME.mul_f64(0.8)
    }

    /// Where the control plane is and who vouches for it.
    pub async fn control_plane(&self) -> Result<ControlPlane, Error> {
        let ControlNames {
            namespace,
            service,
            port,
            config_map,
        } = &self.control;
        let what = format!("service {namespace}/{service}");
        let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let found = limited(&what, services.get(service)).await?;
        let address = found
            .spec
            .and_then(|s| s.cluster_ip)
            .and_then(|a| a.parse::<IpAddr>().ok());
        let address = address.ok_or_else(|| Error::Missing(format!("{what} has no ClusterIP")))?;
        let ca = authority(&self.client, namespace, config_map).await?;
        let target = std::net::SocketAddr::new(address, *port).to_string();
        Ok(ControlPlane {
            target,
            server_name: self.control.server_name(),
            ca,
        })
    }

    /// The node's own address.
    pub async fn host_ip(&self) -> Result<IpAddr, Error> {
        let what = format!("node {}", self.node_name);
        let node = limited(&what, Api::<Node>::all(self.client.clone()).get(&self.node_name)).await?;
        let addresses = node.status.and_then(|s| s.addresses).unwrap_or_default();
        let internal = addresses
            .iter()
            .find(|a| a.type_ == "InternalIP")
            .and_then(|a| a.address.parse().ok());
        internal.ok_or_else(|| Error::Missing(format!("{what} has no InternalIP")))
    }

    /// A pod as the API server has it now; `None` when it does not exist.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        limited(&format!("pod {namespace}/{name}"), pods.get_opt(name)).await
    }

    /// Metadata of one namespaced object of a kind.
    pub async fn metadata<K>(&self, namespace: &str, name: &str) -> Result<Option<ObjectMeta>, Error>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let objects: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let found = limited(&format!("{} {namespace}/{name}", K::kind(&())), objects.get_opt(name)).await?;
        Ok(found.map(|o| o.meta().clone()))
    }

    /// Writes the id of a pod's proxy ("" for none) onto the pod. Fine if the pod has gone or is another by now.
    pub async fn annotate(&self, pod: &PodId, proxy: &str) -> Result<(), Error> {
        let what = format!("annotation of pod {}/{}", pod.namespace, pod.name);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        // The uid makes the server refuse to write onto a pod that was made anew under the same name.
        let patch = json!({"metadata": {"uid": pod.uid, "annotations": {labels::PROXY: proxy}}});
        let params = PatchParams::default();
        match limited(&what, pods.patch(&pod.name, &params, &Patch::Merge(&patch))).await {
            Err(Error::Api {
                source: kube::Error::Api(status),
                ..
            }) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Puts an event on an object and a line in the log. An event that cannot be delivered is dropped.
    pub async fn event(&self, object: &ObjectRef, kind: &str, reason: &str, message: &str) {
        let key = (object.uid.clone(), reason.to_owned(), message.to_owned());
        if !self.news(key) {
            return;
        }
        tracing::info!(%object, reason, "{message}");
        let now = jiff::Timestamp::now();
        let namespace = if object.namespace.is_empty() {
            "default"
        } else {
            &object.namespace
        };
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", object.name, now.as_nanosecond())),
                namespace: Some(namespace.to_owned()),
                ..Default::default()
            },
            involved_object: ObjectReference {
                api_version: Some(object.api_version.clone()),
                kind: Some(object.kind.clone()),
                namespace: Some(object.namespace.clone()),
                name: Some(object.name.clone()),
                uid: Some(object.uid.clone()),
                ..Default::default()
            },
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            source: Some(EventSource {
                component: Some("weir-agent".into()),
                host: Some(self.node_name.clone()),
            }),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            ..Default::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        if let Err(error) = limited("event", events.create(&PostParams::default(), &event)).await {
            tracing::debug!(%error, "event not delivered");
        }
    }

    fn news(&self, key: (String, String, String)) -> bool {
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if said.len() >= EVENTS_REMEMBERED_MAX {
            said.retain(|_, at| at.elapsed() < EVENT_REPEAT);
            if said.len() >= EVENTS_REMEMBERED_MAX {
                said.clear();
            }
        }
        let fresh = said.get(&key).is_none_or(|at| at.elapsed() >= EVENT_REPEAT);
        if fresh {
            said.insert(key, Instant::now());
        }
        fresh
    }
}

/// The certificates, as PEM, that the control plane publishes to vouch for itself.
pub async fn authority(client: &Client, namespace: &str, config_map: &str) -> Result<String, Error> {
    let what = format!("ConfigMap {namespace}/{config_map}");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = limited(&what, maps.get(config_map)).await?;
    let ca = found.data.and_then(|mut data| data.remove("ca.crt"));
    ca.ok_or_else(|| Error::Missing(format!("{what} has no ca.crt; the control plane writes it")))
}

async fn limited<T>(what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|source| Error::Api {
            what: what.to_owned(),
            source,
        }),
        Err(_) => Err(Error::Timeout(what.to_owned())),
    }
}
