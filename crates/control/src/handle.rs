//! What others may see of the running control plane: proxies and how they stand, configuration by node, problems.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use weir_api::labels::Engine;
use weir_api::mesh_status::Explanation;
use weir_api::problem::Problem;
use weir_mesh::{Key, Mesh, gateway_service};
use weir_xds::server::session::{Nack, Pending, PendingState, TypeStatus};
use weir_xds::server::{Cache, NodeStatus};
use weir_xds::{ResourceType, Snapshot};

use crate::explain;
use crate::lower::{GATEWAY_NODE, Lowered};

/// What was published last: one owner writes it, all handles read it.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) lowered: Arc<Lowered>,
    pub(crate) problems: Vec<Problem>,
    /// Every watch was listed once and the server listens.
    pub(crate) ready: bool,
}

/// A proxy that should be there, is there, or both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyStatus {
    /// Node id, `<pod>.<namespace>`.
    pub node: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Id of the proxy that runs; empty while there is none.
    pub id: String,
    /// Name of the pod's machine.
    pub machine: String,
    /// Address of its machine.
    pub host_ip: String,
    /// `weir` or `envoy`: what runs, or what should.
    pub engine: String,
    /// The pod asks for a proxy.
    pub enabled: bool,
    /// A proxy holds a stream to this control plane.
    pub connected: bool,
    /// It has taken all that was sent, and rejects nothing.
    pub synced: bool,
    /// `delta` or `sotw`; "" while it is not connected.
    pub protocol: String,
    /// By type (`cds`, `eds`, `lds`, `rds`, `peer`): versions sent and taken.
    pub types: BTreeMap<String, TypeStatus>,
    /// What it rejects now.
    pub rejected: Vec<Nack>,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ControlHandle {
    pub(crate) cache: Cache,
    pub(crate) published: Arc<ArcSwap<Published>>,
}

impl ControlHandle {
    pub(crate) fn new(cache: Cache) -> Self {
        Self {
            cache,
            published: Arc::default(),
        }
    }

    /// Every watch was listed once and proxies are served.
    pub fn ready(&self) -> bool {
        self.published.load().ready
    }

    /// The mesh as it was built last.
    pub fn mesh(&self) -> Arc<Mesh> {
        Arc::clone(&self.published.load().mesh)
    }

    /// What is wrong with objects now, in order.
    pub fn problems(&self) -> Vec<Problem> {
        self.published.load().problems.clone()
    }

    /// All proxies, in order of namespace and pod: those of enabled pods and those that are connected.
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        let mesh = self.mesh();
        let mut proxies: BTreeMap<Key, ProxyStatus> = BTreeMap::new();
        for (key, pod) in mesh.pods.iter().filter(|(_, pod)| pod.enabled) {
            let status = ProxyStatus {
                node: key.node_id(),
                namespace: key.namespace.clone(),
                pod: key.name.clone(),
                id: pod.proxy.to_string(),
                machine: pod.node.to_string(),
                host_ip: pod.host_ip.to_string(),
                engine: pod.engine.to_string(),
                enabled: true,
                ..Default::default()
            };
            proxies.insert(key.clone(), status);
        }
        for node in self.cache.status() {
            let key = match &*node.node.id {
                GATEWAY_NODE => gateway_service(),
                other => Key::from_node_id(other).unwrap_or_else(|| Key::new("", other)),
            };
            let proxy = proxies.entry(key.clone()).or_insert_with(|| ProxyStatus {
                node: node.node.id.clone(),
                id: mesh.pods.get(&key).map(|p| p.proxy.to_string()).unwrap_or_default(),
                machine: mesh.pods.get(&key).map(|p| p.node.to_string()).unwrap_or_default(),
                namespace: key.namespace,
                pod: key.name,
                ..Default::default()
            });
            connected(proxy, &node);
        }
        proxies.into_values().collect()
    }

    /// What a node is sent, by type and name: `{"cds": {name: resource}, ...}`. For a pod whose proxy is not connected,
    /// what it would be sent. `None` for nodes that are neither connected nor known. The gateway's is had by the name of its
    /// Deployment too (`traffic-ingress.default`), as if that were a pod.
    pub fn config(&self, node_id: &str) -> Option<Value> {
        let node_id = match Key::from_node_id(node_id) {
            Some(key) if key == gateway_service() => GATEWAY_NODE,
            _ => node_id,
        };
        let snapshot = self
            .cache
            .snapshot(node_id)
            .or_else(|| self.would_send(node_id).map(Arc::new))?;
        let mut out = Map::new();
        out.insert("node".to_owned(), json!(node_id));
        // Who has an address is told on demand, and would be the whole cluster.
        for ty in ResourceType::ALL.into_iter().filter(|ty| *ty != ResourceType::Peer) {
            let resources = snapshot.resources(ty).values();
            let resources: Map<String, Value> = resources
                .map(|r| (r.name.clone(), weir_xds::json::resource(r)))
                .collect();
            out.insert(ty.short().to_owned(), Value::Object(resources));
        }
        out.insert("pending".to_owned(), self.pending(node_id));
        Some(Value::Object(out))
    }

    /// What the node's client has not taken, by type and name: `{"cds": {name: {"state": .., "taken": resource}}}`; `null` for
    /// a node that is not connected.
    fn pending(&self, node_id: &str) -> Value {
        let Some(status) = self.cache.status().into_iter().find(|status| status.node.id == node_id) else {
            return Value::Null;
        };
        let of_name = |(name, pending): (&String, &Pending)| {
            let state = match pending.state {
                PendingState::Sent => "sent",
                PendingState::Waiting => "waiting",
                PendingState::Rejected => "rejected",
            };
            let taken = pending.taken.as_ref().map(|taken| weir_xds::json::resource(taken));
            (name.clone(), json!({"state": state, "taken": taken}))
        };
        let of_type = |(ty, status): (&ResourceType, &TypeStatus)| {
            let names: Map<String, Value> = status.pending.iter().map(of_name).collect();
            (!names.is_empty()).then(|| (ty.short().to_owned(), Value::Object(names)))
        };
        let types = status.types.iter().filter(|(ty, _)| **ty != ResourceType::Peer);
        Value::Object(types.filter_map(of_type).collect())
    }

    /// What happens to a request that a pod makes, by the configuration that its node is sent (or would be).
    pub fn explain(&self, pod: &Key, request: &explain::Request) -> Result<Explanation, explain::Error> {
        let id = pod.node_id();
        let snapshot = self.cache.snapshot(&id).or_else(|| self.would_send(&id).map(Arc::new));
        let snapshot = snapshot.ok_or_else(|| explain::Error::NoPod(pod.clone()))?;
        explain::request_of_pod(&self.mesh(), pod, &snapshot, request)
    }

    fn would_send(&self, node_id: &str) -> Option<Snapshot> {
        let published = self.published.load();
        if node_id == GATEWAY_NODE {
            return published.lowered.gateway_snapshot(Engine::default());
        }
        let key = Key::from_node_id(node_id)?;
        let engine = published.mesh.pods.get(&key)?.engine;
        published.lowered.snapshot(&published.mesh, &key, engine, None)
    }
}

/// The engine that a node says it is; what its pod asks for where it does not say.
pub(crate) fn engine_of(engine: &str, pod: Option<&weir_mesh::Pod>) -> Engine {
    engine
        .parse()
        .ok()
        .or_else(|| pod.map(|p| p.engine))
        .unwrap_or_default()
}

fn connected(proxy: &mut ProxyStatus, node: &NodeStatus) {
    proxy.connected = true;
    proxy.protocol.clone_from(&node.protocol);
    if !node.node.host_ip.is_empty() {
        proxy.host_ip.clone_from(&node.node.host_ip);
    }
    if !node.node.engine.is_empty() {
        proxy.engine.clone_from(&node.node.engine);
    }
    proxy.rejected = node.types.values().filter_map(|t| t.last_nack.clone()).collect();
    proxy.synced =
        node.configured && proxy.rejected.is_empty() && node.types.values().all(|t| t.sent_version == t.acked_version);
    proxy.types = node
        .types
        .iter()
        .map(|(ty, status)| (ty.to_string(), status.clone()))
        .collect();
}
