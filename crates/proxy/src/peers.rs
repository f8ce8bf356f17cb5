//! Who has an address: the workloads behind the sources of inbound connections.
//!
//! Enters: addresses that connect, answers of the control plane. Leaves: [`Peer`]s, and the addresses to ask for.
//! An address that nobody knows is an unknown peer, never a guess.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::Notify;
use weir_series::canonical::Peer;
use weir_xds::types::Peer as PeerMessage;

use crate::config::Map;

/// Addresses asked for at a time; further ones stay unknown.
pub const ADDRESSES_MAX: usize = 4096;
/// An address without an open connection is forgotten after this time.
pub const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The table of addresses.
#[derive(Debug, Default)]
pub struct Peers {
    table: Mutex<Map<IpAddr, Entry>>,
    /// An address was added.
    pub added: Notify,
    /// The control plane told something.
    answered: Notify,
    /// Counts what may have ended the knowledge of somebody.
    changes: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    answer: Answer,
    connections: usize,
    used: Instant,
}

#[derive(Debug, Clone)]
enum Answer {
    Awaited,
    Nobody,
    Known(Arc<Peer>),
}

impl Peers {
    /// A connection from `address` begins: asks who that is, if that is new. `true`: [`Peers::close`] must follow; else
    /// there is no room for another address.
    pub fn open(&self, address: IpAddr) -> bool {
        let mut table = self.lock();
        if let Some(entry) = table.get_mut(&address) {
            entry.connections += 1;
            return true;
        }
        let room = table.len() < ADDRESSES_MAX;
        if room {
            table.insert(
                address,
                Entry {
                    answer: Answer::Awaited,
                    connections: 1,
                    used: Instant::now(),
                },
            );
        }
        drop(table);
        // Also without room: whoever asks forgets first who was not seen for long.
        self.added.notify_one();
        room
    }

    /// A connection from `address` has ended.
    pub fn close(&self, address: IpAddr) {
        if let Some(entry) = self.lock().get_mut(&address) {
            entry.connections = entry.connections.saturating_sub(1);
            entry.used = Instant::now();
        }
    }

    /// Who has `address`, as far as is known now.
    pub fn of(&self, address: IpAddr) -> Option<Arc<Peer>> {
        match self.answer(address)? {
            Answer::Known(peer) => Some(peer),
            Answer::Awaited | Answer::Nobody => None,
        }
    }

    /// Waits until the control plane has said who has `address`, but no longer than `limit`.
    pub async fn wait(&self, address: IpAddr, limit: Duration) {
        let answered = async {
            loop {
                let next = self.answered.notified();
                tokio::pin!(next);
                // Registered before looking, so that no answer is missed.
                next.as_mut().enable();
                if !matches!(self.answer(address), Some(Answer::Awaited)) {
                    return;
                }
                next.await;
            }
        };
        let _ = tokio::time::timeout(limit, answered).await;
    }

    fn answer(&self, address: IpAddr) -> Option<Answer> {
        self.lock().get(&address).map(|entry| entry.answer.clone())
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
        self.tell(address, Answer::Known(Arc::new(peer)));
        Ok(())
    }

    /// The control plane knows nobody at an address (any more).
    pub fn unset(&self, name: &str) {
        if let Ok(address) = name.parse::<IpAddr>() {
            self.tell(address, Answer::Nobody);
        }
    }

    fn tell(&self, address: IpAddr, answer: Answer) {
        if let Some(entry) = self.lock().get_mut(&address) {
            entry.answer = answer;
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        self.answered.notify_waiters();
    }

    /// The addresses to ask for; forgets those that were not used for long.
    pub fn wanted(&self) -> BTreeSet<String> {
        let mut table = self.lock();
        let before = table.len();
        table.retain(|_, entry| entry.connections > 0 || entry.used.elapsed() < FORGET_AFTER);
        if table.len() < before {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        table.keys().map(ToString::to_string).collect()
    }

    /// Who is known at some address.
    pub fn known(&self) -> HashSet<Arc<Peer>> {
        let of = |entry: &Entry| match &entry.answer {
            Answer::Known(peer) => Some(Arc::clone(peer)),
            Answer::Awaited | Answer::Nobody => None,
        };
        self.lock().values().filter_map(of).collect()
    }

    /// Differs from an earlier one when somebody may have left [`Peers::known`] since.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Map<IpAddr, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_unknown_until_the_control_plane_answers_and_after_it_takes_back() {
        let peers = Peers::default();
        let address: IpAddr = [10, 0, 0, 1].into();
        peers.open(address);
        assert_eq!(peers.of(address), None);
        assert_eq!(peers.wanted(), BTreeSet::from(["10.0.0.1".to_owned()]));
        let message = PeerMessage {
            namespace: "n".into(),
            pod: "p".into(),
            ..Default::default()
        };
        let limit = Duration::from_secs(20);
        let answer = async { peers.set("10.0.0.1", &message.encode_to_vec()).unwrap() };
        tokio::join!(peers.wait(address, limit), answer);
        assert_eq!(peers.of(address).unwrap().pod, "p");
        peers.unset("10.0.0.1");
        assert_eq!(peers.of(address), None);
        peers.wait(address, limit).await;
        peers.close(address);
        assert_eq!(peers.wanted().len(), 1, "not forgotten at once");
    }

    #[test]
    fn nonsense_is_refused_and_the_table_is_bounded() {
        let peers = Peers::default();
        assert!(peers.set("nobody", &[]).is_err());
        assert!(peers.set("10.0.0.1", &[0x0a, 0xff]).is_err());
        let address = |i: usize| IpAddr::from(u32::try_from(i).unwrap().to_be_bytes());
        assert!((0..ADDRESSES_MAX).all(|i| peers.open(address(i))));
        assert!(!peers.open(address(ADDRESSES_MAX)), "no room");
        assert_eq!(peers.wanted().len(), ADDRESSES_MAX);
    }
}
