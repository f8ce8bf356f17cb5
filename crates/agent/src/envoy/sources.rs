//! Who an inbound connection comes from: the control plane is asked about each address, once.
//!
//! Enters: addresses. Leaves: peers; an address that nobody knows is an unknown peer, never a guess. Entries of a new
//! address wait a moment for the answer, since they are not in anybody's way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

/// The table of addresses.
pub struct Sources {
    control: Option<Control>,
    node: Node,
    /// `None` until there is an answer.
    table: Mutex<HashMap<IpAddr, Option<Peer>>>,
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
            match table.get(&address) {
                Some(known) => return known.clone().unwrap_or_default(),
                None if self.control.is_none() || table.len() >= ADDRESSES_MAX => return Peer::default(),
                None => drop(table.insert(address, None)),
            }
        }
        self.added.notify_one();
        let wait = async {
            loop {
                if let Some(Some(peer)) = self.table().get(&address) {
                    return peer.clone();
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
        self.table().values().flatten().cloned().collect()
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
        let mut asked: Vec<IpAddr> = self.table().keys().copied().collect();
        let first = DeltaDiscoveryRequest {
            node: Some(self.node.clone()),
            ..request(&asked)
        };
        let mut stream = upstream::open(control, first).await?;
        loop {
            tokio::select! {
                () = self.added.notified() => {
                    let fresh: Vec<IpAddr> = self.table().keys().filter(|a| !asked.contains(a)).copied().collect();
                    asked.extend(&fresh);
                    if !fresh.is_empty() && stream.requests.send(request(&fresh)).await.is_err() {
                        return Ok(());
                    }
                }
                response = stream.responses.message() => {
                    let Some(response) = response? else { return Ok(()) };
                    self.learn(&response);
                    let ack = DeltaDiscoveryRequest { response_nonce: response.nonce, ..request(&[]) };
                    if stream.requests.send(ack).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn learn(&self, response: &DeltaDiscoveryResponse) {
        let mut table = self.table();
        for resource in &response.resources {
            let body = resource
                .resource
                .as_ref()
                .map(|r| r.value.as_slice())
                .unwrap_or_default();
            if let (Ok(address), Ok(message)) = (resource.name.parse(), PeerMessage::decode(body)) {
                let PeerMessage {
                    namespace,
                    pod,
                    owner_kind,
                    owner,
                } = message;
                table.insert(
                    address,
                    Some(Peer {
                        namespace,
                        pod,
                        owner_kind,
                        owner,
                        ..Default::default()
                    }),
                );
            }
        }
        for address in response.removed_resources.iter().filter_map(|n| n.parse().ok()) {
            table.insert(address, Some(Peer::default()));
        }
        drop(table);
        self.answered.send_replace(());
    }

    fn table(&self) -> MutexGuard<'_, HashMap<IpAddr, Option<Peer>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request(addresses: &[IpAddr]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: TYPE_URL.to_owned(),
        resource_names_subscribe: addresses.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}
