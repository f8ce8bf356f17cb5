//! Who an inbound connection comes from: the control plane is asked about each address, once.
//!
//! Enters: addresses. Leaves: peers; an address that nobody knows is an unknown peer, never a guess. Entries of a new
//! address wait a moment for the answer, since they are not in anybody's way.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;
use tokio::sync::{Notify, watch};
use weir_series::canonical::Peer;

use super::bootstrap::Control;
use super::upstream;

/// Type of the resource, whose name is an address.
const TYPE_URL: &str = "type.googleapis.com/weir.v1.Peer";
/// Addresses that are remembered; further ones are unknown.
const ADDRESSES_MAX: usize = 4096;
/// An address that was not seen for this time is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// How long entries of a new address wait.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause before the control plane is asked again after it went away.
const RETRY: Duration = Duration::from_secs(1);

/// What the control plane says about an address.
#[derive(Clone, PartialEq, prost::Message)]
struct PeerMessage {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    pod: String,
    #[prost(string, tag = "3")]
    owner_kind: String,
    #[prost(string, tag = "4")]
    owner: String,
}

/// What is known of an address.
struct Entry {
    /// `None` until there is an answer.
    peer: Option<Peer>,
    /// When it was seen last.
    used: Instant,
}

/// The table of addresses.
pub struct Sources {
    control: Option<Control>,
    node: Node,
    table: Mutex<HashMap<IpAddr, Entry>>,
    added: Notify,
    answered: watch::Sender<()>,
}

impl Sources {
    /// A table that asks the control plane in the name of a node.
    pub fn new(control: Option<Control>, node: Node) -> Arc<Self> {
        let table = Mutex::default();
        Arc::new(Self {
            control,
            node,
            table,
            added: Notify::new(),
            answered: watch::channel(()).0,
        })
    }

    /// Who has an address.
    pub async fn of(&self, address: IpAddr) -> Peer {
        let mut answered = self.answered.subscribe();
        {
            let mut table = self.table();
            let (used, full) = (Instant::now(), table.len() >= ADDRESSES_MAX);
            match table.get_mut(&address) {
                Some(known) => {
                    known.used = used;
                    return known.peer.clone().unwrap_or_default();
                }
                None if self.control.is_none() => return Peer::default(),
                None if full => {
                    // Some may be forgotten by now.
                    self.added.notify_one();
                    return Peer::default();
                }
                None => drop(table.insert(address, Entry { peer: None, used })),
            }
        }
        self.added.notify_one();
        let wait = async {
            loop {
                if let Some(peer) = self.table().get(&address).and_then(|known| known.peer.clone()) {
                    return peer;
                }
                if answered.changed().await.is_err() {
                    return Peer::default();
                }
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, wait).await.unwrap_or_default()
    }

    /// Everybody who is known to be there.
    pub fn peers(&self) -> Vec<Peer> {
        self.table().values().filter_map(|known| known.peer.clone()).collect()
    }

    /// Asks and listens. Never ends.
    pub async fn run(&self) {
        let Some(control) = &self.control else {
            return std::future::pending().await;
        };
        self.added.notified().await;
        loop {
            if let Err(error) = self.follow(control).await {
                tracing::debug!(%error, "sources of connections stay unknown");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One stream, until it ends.
    async fn follow(&self, control: &Control) -> Result<(), upstream::Error> {
        let mut asked = self.wanted();
        let first = DeltaDiscoveryRequest {
            node: Some(self.node.clone()),
            ..request(&asked, &HashSet::new())
        };
        let mut stream = upstream::open(control, first).await?;
        loop {
            tokio::select! {
                () = self.added.notified() => {
                    let wanted = self.wanted();
                    let changed = wanted != asked;
                    let change = request(&wanted, &asked);
                    asked = wanted;
                    if changed && stream.requests.send(change).await.is_err() {
                        return Ok(());
                    }
                }
                response = stream.responses.message() => {
                    let Some(response) = response? else { return Ok(()) };
                    self.learn(&response);
                    let ack = DeltaDiscoveryRequest { type_url: TYPE_URL.to_owned(), response_nonce: response.nonce, ..Default::default() };
                    if stream.requests.send(ack).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The addresses to ask for, without those that were not seen for long.
    fn wanted(&self) -> HashSet<IpAddr> {
        let mut table = self.table();
        table.retain(|_, known| known.used.elapsed() < FORGET_AFTER);
        table.keys().copied().collect()
    }

    /// An answer to what is asked no more changes nothing.
    fn learn(&self, response: &DeltaDiscoveryResponse) {
        let mut table = self.table();
        for resource in &response.resources {
            let body = resource
                .resource
                .as_ref()
                .map(|r| r.value.as_slice())
                .unwrap_or_default();
            if let (Ok(address), Ok(message)) = (resource.name.parse::<IpAddr>(), PeerMessage::decode(body)) {
                let PeerMessage {
                    namespace,
                    pod,
                    owner_kind,
                    owner,
                } = message;
                if let Some(known) = table.get_mut(&address) {
                    known.peer = Some(Peer {
                        namespace,
                        pod,
                        owner_kind,
                        owner,
                        ..Default::default()
                    });
                }
            }
        }
        for name in &response.removed_resources {
            let address: Option<IpAddr> = name.parse().ok();
            if let Some(known) = address.and_then(|address| table.get_mut(&address)) {
                known.peer = Some(Peer::default());
            }
        }
        drop(table);
        self.answered.send_replace(());
    }

    fn table(&self) -> MutexGuard<'_, HashMap<IpAddr, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wanted and was not asked for is subscribed to, what is no longer wanted is given up.
fn request(wanted: &HashSet<IpAddr>, asked: &HashSet<IpAddr>) -> DeltaDiscoveryRequest {
    let names = |a: &HashSet<IpAddr>, b: &HashSet<IpAddr>| a.difference(b).map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        type_url: TYPE_URL.to_owned(),
        resource_names_subscribe: names(wanted, asked),
        resource_names_unsubscribe: names(asked, wanted),
        ..Default::default()
    }
}
