//! The latest snapshot of each connected node, and how its clients stand.
//!
//! One owner publishes (`publish`), streams subscribe. A node's entry exists while a client of it is connected: who
//! builds snapshots asks `nodes` and is woken by `changes` when nodes come, go or reject something.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::session::{Nack, TypeStatus};
use crate::snapshot::Snapshot;
use crate::types::ResourceType;

/// A node as its client describes it in the first request.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeInfo {
    /// `<pod>.<namespace>`.
    pub id: String,
    /// Data plane engine from the node's metadata, `weir` or `envoy`; "" when it does not say.
    pub engine: String,
    /// Address of the machine from the node's metadata; "" when it does not say.
    pub host_ip: String,
    /// What the client calls itself, such as `envoy`.
    pub user_agent: String,
}

/// How a node stands, over all its streams: of each type the newest stream's (there are two while a proxy restarts, and
/// where a supervisor asks for more on behalf of its proxy).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeInfo,
    /// Connected clients that present this node id.
    pub clients: usize,
    /// `delta` or `sotw`.
    pub protocol: String,
    /// A snapshot was published for it.
    pub configured: bool,
    /// By type: what was sent, taken, rejected.
    pub types: BTreeMap<ResourceType, TypeStatus>,
}

/// How one stream's client stands: asked for when somebody wants to see it, since it changes with every message.
pub(super) trait Standing: Debug + Send + Sync {
    /// By type: what was sent, taken, rejected.
    fn status(&self) -> BTreeMap<ResourceType, TypeStatus>;
}

#[derive(Debug)]
struct Client {
    node: NodeInfo,
    protocol: &'static str,
    standing: Arc<dyn Standing>,
    /// What it rejects now.
    rejections: Vec<Nack>,
}

#[derive(Debug)]
struct Entry {
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    /// By connection number: the last one is the newest.
    clients: BTreeMap<u64, Client>,
}

impl Entry {
    fn status(&self) -> Option<NodeStatus> {
        let newest = self.clients.values().next_back()?;
        // Envoy's supervisor asks for peers on a stream of its own: what is shown is the node's as a whole.
        let status: Vec<_> = self.clients.values().map(|c| (c, c.standing.status())).collect();
        let mut newest_first = status.iter().rev();
        let main = newest_first
            .find(|(_, types)| types.contains_key(&ResourceType::Listener))
            .map_or(newest, |(client, _)| *client);
        let types = status.into_iter().flat_map(|(_, types)| types).collect();
        Some(NodeStatus {
            node: main.node.clone(),
            clients: self.clients.len(),
            protocol: main.protocol.to_owned(),
            configured: self.snapshot.borrow().is_some(),
            types,
        })
    }
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, Entry>,
    connections: u64,
}

/// See the module. Cheap to clone; all clones are one cache.
#[derive(Clone, Debug)]
pub struct Cache {
    state: Arc<Mutex<State>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            changes: Arc::new(watch::channel(0).0),
        }
    }
}

impl Cache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; and if it did, the maps would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Wakes when a node connects, disconnects, rejects something or is no more rejecting.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The connected nodes, in order of their ids.
    pub fn nodes(&self) -> Vec<NodeInfo> {
        let describe = |entry: &Entry| {
            let says = |c: &&Client| !c.node.engine.is_empty();
            let mut newest_first = entry.clients.values().rev();
            let newest = newest_first.next()?;
            let client = if says(&newest) {
                newest
            } else {
                newest_first.find(says).unwrap_or(newest)
            };
            Some(client.node.clone())
        };
        self.lock().nodes.values().filter_map(describe).collect()
    }

    /// Gives a connected node its snapshot. Streams send what differs from the one before; an equal snapshot wakes
    /// nobody. Nothing happens for a node that is not connected.
    pub fn publish(&self, node_id: &str, snapshot: Arc<Snapshot>) {
        let state = self.lock();
        if let Some(entry) = state.nodes.get(node_id) {
            entry.snapshot.send_if_modified(|current| {
                if current
                    .as_ref()
                    .is_some_and(|current| current.same(&snapshot) || *current == snapshot)
                {
                    return false;
                }
                *current = Some(snapshot);
                true
            });
        }
    }

    /// The snapshot of a connected node.
    pub fn snapshot(&self, node_id: &str) -> Option<Arc<Snapshot>> {
        self.lock().nodes.get(node_id)?.snapshot.borrow().clone()
    }

    /// How the connected nodes stand, in order of their ids.
    pub fn status(&self) -> Vec<NodeStatus> {
        self.lock().nodes.values().filter_map(Entry::status).collect()
    }

    /// As [`Cache::status`], of the nodes that reject something.
    pub fn rejecting(&self) -> Vec<NodeStatus> {
        let state = self.lock();
        let rejects = |c: &Client| !c.rejections.is_empty();
        let nodes = state.nodes.values().filter(|entry| entry.clients.values().any(rejects));
        nodes.filter_map(Entry::status).collect()
    }

    /// Registers a client; the entry lives as long as the returned guard.
    pub(super) fn connect(&self, node: NodeInfo, protocol: &'static str, standing: Arc<dyn Standing>) -> Connection {
        let mut state = self.lock();
        state.connections += 1;
        let number = state.connections;
        let id = node.id.clone();
        let entry = state.nodes.entry(id.clone()).or_insert_with(|| Entry {
            snapshot: watch::channel(None).0,
            clients: BTreeMap::new(),
        });
        entry.clients.insert(
            number,
            Client {
                node,
                protocol,
                standing,
                rejections: Vec::new(),
            },
        );
        let snapshots = entry.snapshot.subscribe();
        drop(state);
        self.changed();
        Connection {
            cache: self.clone(),
            id,
            number,
            snapshots,
        }
    }
}

/// A connected client's place in the cache.
#[derive(Debug)]
pub(super) struct Connection {
    cache: Cache,
    id: String,
    number: u64,
    /// The node's snapshots; `None` until the first is published.
    pub(super) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
}

impl Connection {
    /// Notes what the client rejects now; wakes those who wait for changes when that is something else.
    pub(super) fn report(&self, rejections: Vec<Nack>) {
        let mut state = self.cache.lock();
        let entry = state.nodes.get_mut(&self.id);
        let Some(client) = entry.and_then(|e| e.clients.get_mut(&self.number)) else {
            return;
        };
        if client.rejections != rejections {
            client.rejections = rejections;
            drop(state);
            self.cache.changed();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        if let Some(entry) = state.nodes.get_mut(&self.id) {
            entry.clients.remove(&self.number);
            if entry.clients.is_empty() {
                state.nodes.remove(&self.id);
            }
        }
        drop(state);
        self.cache.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> NodeInfo {
        NodeInfo {
            id: id.into(),
            engine: "weir".into(),
            ..Default::default()
        }
    }

    /// A client that has asked for some types.
    #[derive(Debug)]
    struct Asked(&'static [ResourceType]);

    impl Standing for Asked {
        fn status(&self) -> BTreeMap<ResourceType, TypeStatus> {
            self.0.iter().map(|ty| (*ty, TypeStatus::default())).collect()
        }
    }

    fn nothing() -> Arc<Asked> {
        Arc::new(Asked(&[]))
    }

    #[test]
    fn a_node_lives_as_long_as_its_last_client() {
        let cache = Cache::new();
        cache.publish("a.default", Arc::default());
        assert!(cache.snapshot("a.default").is_none(), "nobody is connected");

        let first = cache.connect(node("a.default"), "delta", nothing());
        let second = cache.connect(node("a.default"), "sotw", nothing());
        cache.publish("a.default", Arc::default());
        assert!(cache.snapshot("a.default").is_some());
        assert_eq!(cache.status()[0].clients, 2);
        assert_eq!(cache.status()[0].protocol, "sotw", "the newest is shown");

        drop(second);
        assert_eq!(cache.status()[0].protocol, "delta");
        drop(first);
        assert!(cache.nodes().is_empty());
        assert!(cache.snapshot("a.default").is_none());
    }

    #[test]
    fn a_node_is_shown_as_a_whole() {
        let cache = Cache::new();
        let asks = |types| Arc::new(Asked(types));
        let _proxy = cache.connect(node("a"), "sotw", asks(&[ResourceType::Listener]));
        let nameless = NodeInfo {
            id: "a".into(),
            ..Default::default()
        };
        let _supervisor = cache.connect(nameless, "delta", asks(&[ResourceType::Peer]));
        let status = &cache.status()[0];
        assert_eq!(
            (status.protocol.as_str(), status.node.engine.as_str()),
            ("sotw", "weir")
        );
        let shown: Vec<_> = status.types.keys().copied().collect();
        assert_eq!(shown, [ResourceType::Listener, ResourceType::Peer]);
        assert_eq!(
            cache.nodes()[0].engine,
            "weir",
            "a stream that does not say leaves the engine as it is"
        );
    }

    #[test]
    fn whoever_rejects_something_else_is_told_of() {
        let cache = Cache::new();
        let client = cache.connect(node("a"), "delta", nothing());
        let mut changes = cache.changes();
        client.report(Vec::new());
        assert!(!changes.has_changed().unwrap() && cache.rejecting().is_empty());
        let nack = Nack {
            resources: vec!["x".into()],
            message: "no".into(),
        };
        client.report(vec![nack.clone()]);
        assert!(changes.has_changed().unwrap());
        assert_eq!(cache.rejecting().len(), 1);
        changes.mark_unchanged();
        client.report(vec![nack]);
        assert!(!changes.has_changed().unwrap(), "still the same");
        client.report(Vec::new());
        assert!(changes.has_changed().unwrap() && cache.rejecting().is_empty());
    }

    #[test]
    fn an_equal_snapshot_wakes_nobody() {
        let cache = Cache::new();
        let mut client = cache.connect(node("a"), "delta", nothing());
        cache.publish("a", Arc::default());
        assert!(client.snapshots.has_changed().unwrap());
        client.snapshots.mark_unchanged();
        cache.publish("a", Arc::new(Snapshot::new()));
        assert!(!client.snapshots.has_changed().unwrap());
    }
}
