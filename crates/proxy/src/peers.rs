//! Who has an address: the workloads behind the sources of inbound connections.
//!
//! Enters: addresses that connected, answers of the control plane. Leaves: [`Peer`]s, and the addresses to ask for.
//! An address that nobody knows is an unknown peer, never a guess.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::Notify;
use weir_series::canonical::Peer;
use weir_xds::types::Peer as PeerMessage;

use crate::config::Map;

/// Addresses asked for at a time; further ones stay unknown.
pub const ADDRESSES_MAX: usize = 4096;
/// An address that did not connect for this long is forgotten.
pub const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The table of addresses.
#[derive(Debug, Default)]
pub struct Peers {
    table: Mutex<Map<IpAddr, Entry>>,
    /// An address was added.
    pub added: Notify,
}

#[derive(Debug)]
struct Entry {
    /// `None` until the control plane answers.
    peer: Option<Arc<Peer>>,
    used: Instant,
}

impl Peers {
    /// Who has `address`, as far as is known now; asks for it if it is new.
    pub fn of(&self, address: IpAddr) -> Option<Arc<Peer>> {
        let mut table = self.lock();
        if let Some(entry) = table.get_mut(&address) {
            entry.used = Instant::now();
            return entry.peer.clone();
        }
        if table.len() < ADDRESSES_MAX {
            table.insert(address, Entry { peer: None, used: Instant::now() });
            drop(table);
            self.added.notify_one();
        }
        None
    }

    /// The control plane says who has an address. Rejects what cannot be read.
    pub fn set(&self, name: &str, body: &[u8]) -> Result<(), String> {
        let address: IpAddr = name.parse().map_err(|_| format!("name: {name:?} is no IP address"))?;
        let message = PeerMessage::decode(body).map_err(|e| format!("peer: no such message: {e}"))?;
        let peer = Peer {
            namespace: message.namespace,
            pod: message.pod,
            owner_kind: message.owner_kind,
            owner: message.owner,
            service: String::new(),
        };
        if let Some(entry) = self.lock().get_mut(&address) {
            entry.peer = Some(Arc::new(peer));
        }
        Ok(())
    }

    /// The control plane knows nobody at an address (any more).
    pub fn unset(&self, name: &str) {
        let Ok(address) = name.parse::<IpAddr>() else { return };
        if let Some(entry) = self.lock().get_mut(&address) {
            entry.peer = None;
        }
    }

    /// The addresses to ask for; forgets those that were not used for long.
    pub fn wanted(&self) -> BTreeSet<String> {
        let mut table = self.lock();
        table.retain(|_, entry| entry.used.elapsed() < FORGET_AFTER);
        table.keys().map(ToString::to_string).collect()
    }

    /// Whether somebody at an address is still of interest.
    pub fn holds(&self, peer: &Peer) -> bool {
        self.lock().values().any(|entry| entry.peer.as_deref() == Some(peer))
    }

    fn lock(&self) -> MutexGuard<'_, Map<IpAddr, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_unknown_until_the_control_plane_answers_and_after_it_takes_back() {
        let peers = Peers::default();
        let address: IpAddr = [10, 0, 0, 1].into();
        assert_eq!(peers.of(address), None);
        assert_eq!(peers.wanted(), BTreeSet::from(["10.0.0.1".to_owned()]));
        let message = PeerMessage { namespace: "n".into(), pod: "p".into(), ..Default::default() };
        peers.set("10.0.0.1", &message.encode_to_vec()).unwrap();
        assert_eq!(peers.of(address).unwrap().pod, "p");
        peers.unset("10.0.0.1");
        assert_eq!(peers.of(address), None);
    }

    #[test]
    fn nonsense_is_refused_and_the_table_is_bounded() {
        let peers = Peers::default();
        assert!(peers.set("nobody", &[]).is_err());
        assert!(peers.set("10.0.0.1", &[0x0a, 0xff]).is_err());
        for i in 0..=ADDRESSES_MAX {
            peers.of(IpAddr::from(u32::try_from(i).unwrap().to_be_bytes()));
        }
        assert_eq!(peers.wanted().len(), ADDRESSES_MAX);
    }
}
