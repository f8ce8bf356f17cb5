//! Who an inbound connection comes from: the control plane is asked about each address, once.
//!
//! Enters: addresses. Leaves: peers; an address that nobody knows is an unknown peer, never a guess. Entries wait a moment
//! for the answers about new addresses, all of one message together, and not at all while there is nobody to answer.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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
/// How long the entries of a message wait for what is said of new addresses. Envoy drops what its buffer cannot hold.
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
    /// The control plane could not be reached, or went.
    away: AtomicBool,
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
            away: AtomicBool::new(false),
        })
    }

    /// Asks about those addresses that are new, and waits a moment for the answers.
    pub async fn ask(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut answered = self.answered.subscribe();
        let new = self.note(addresses);
        if new.is_empty() || self.away.load(Relaxed) {
            return;
        }
        let open = |address: &IpAddr| self.table().get(address).is_some_and(|known| known.peer.is_none());
        let all = async { while new.iter().any(open) && answered.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, all).await;
    }

    /// Notes that addresses were seen; the new ones among them.
    fn note(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
        let (mut new, mut full) = (Vec::new(), false);
        if self.control.is_none() {
            return new;
        }
        let used = Instant::now();
        let mut table = self.table();
        for address in addresses {
            let room = table.len() < ADDRESSES_MAX;
            match table.get_mut(&address) {
                Some(known) => known.used = used,
                None if room => {
                    table.insert(address, Entry { peer: None, used });
                    new.push(address);
                }
                None => full = true,
            }
        }
        drop(table);
        // Also without room: some may be forgotten by now.
        if full || !new.is_empty() {
            self.added.notify_one();
        }
        new
    }

    /// Who has an address, as far as is known now.
    pub fn of(&self, address: IpAddr) -> Peer {
        self.table()
            .get(&address)
            .and_then(|known| known.peer.clone())
            .unwrap_or_default()
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
            let ended = self.follow(control).await;
            self.away.store(true, Relaxed);
            if let Err(error) = ended {
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
        self.away.store(false, Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Arc<Sources> {
        let control = Control {
            target: "127.0.0.1:1".into(),
            tls: None,
            token: None,
        };
        Sources::new(Some(control), Node::default())
    }

    fn addresses(from: u8) -> impl Iterator<Item = IpAddr> {
        (0..100).map(move |host| IpAddr::from([10, 0, from, host]))
    }

    /// One after the other would take 50 s.
    #[tokio::test]
    async fn a_message_waits_once_for_all_its_addresses_and_not_for_a_control_plane_that_is_away() {
        let sources = sources();
        let asked = async {
            sources.ask(addresses(1)).await;
            sources.ask(addresses(1)).await;
            sources.away.store(true, Relaxed);
            for address in addresses(2) {
                sources.ask([address]).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(25), asked)
            .await
            .expect("entries wait for each address");
        assert_eq!(sources.wanted().len(), 200, "asked for as soon as somebody can answer");
    }

    #[tokio::test]
    async fn a_message_goes_on_when_all_is_answered() {
        let sources = sources();
        let mut asked = std::pin::pin!(sources.ask(addresses(1)));
        let _ = futures::poll!(&mut asked);
        for address in addresses(1) {
            let response = DeltaDiscoveryResponse {
                removed_resources: vec![address.to_string()],
                ..Default::default()
            };
            sources.learn(&response);
        }
        assert!(futures::poll!(&mut asked).is_ready());
        assert_eq!(sources.peers().len(), 100);
    }
}
