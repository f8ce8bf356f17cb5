//! The work queue of a controller: names of objects to look at, each at most once, some later than now.
//!
//! Bounded by the number of objects there are, and by `KEYS_MAX`; what is over that the next resync brings back.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::{Resource, ResourceExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

const KEYS_MAX: usize = 100_000;
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Namespace and name of an object, of a kind that the queue knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn of<K: Resource>(object: &K) -> Self {
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        }
    }

    /// The object of that name in the namespace of another.
    pub fn beside<K: Resource>(object: &K, name: &str) -> Self {
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Default)]
struct State {
    ready: VecDeque<Key>,
    /// What is in `ready`.
    queued: HashSet<Key>,
    later: BTreeSet<(Instant, Key)>,
    /// When each key of `later` is due: a key has one time, the earliest that was asked for.
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

/// One consumer, any number of producers.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

impl Queue {
    pub fn add(&self, key: Key) {
        self.lock().add(key);
        self.changed.notify_one();
    }

    pub fn add_after(&self, key: Key, after: Duration) {
        self.lock().add_at(Instant::now() + after, key);
        self.changed.notify_one();
    }

    /// Adds it again after a time that doubles with each failure.
    pub fn retry(&self, key: Key) {
        let failures = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            *failures
        };
        self.add_after(key, retry_wait(failures));
    }

    pub fn forget_failures(&self, key: &Key) {
        self.lock().failures.remove(key);
    }

    /// The next key, once there is one. While it is worked on it may be added again.
    pub async fn next(&self) -> Key {
        loop {
            let wake = match self.lock().take() {
                Ok(key) => return key,
                Err(wake) => wake,
            };
            match wake {
                Some(at) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; and if so, the queue is still a queue.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn retry_wait(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.min(16)).min(RETRY_MAX)
}

impl State {
    fn add(&mut self, key: Key) {
        if self.queued.len() >= KEYS_MAX {
            warn!(%key, "more than {KEYS_MAX} objects wait; this one must wait for the next resync");
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, at: Instant, key: Key) {
        let known = self.due.get(&key).copied();
        if known.is_some_and(|known| known <= at) || (known.is_none() && self.later.len() >= KEYS_MAX) {
            return;
        }
        if let Some(known) = known {
            self.later.remove(&(known, key.clone()));
        }
        self.later.insert((at, key.clone()));
        self.due.insert(key, at);
    }

    /// A key that is due, or when the next one will be.
    fn take(&mut self) -> Result<Key, Option<Instant>> {
        let now = Instant::now();
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.later.pop_first() {
                self.due.remove(&key);
                self.add(key);
            }
        }
        match self.ready.pop_front() {
            Some(key) => {
                self.queued.remove(&key);
                Ok(key)
            }
            None => Err(self.later.first().map(|(at, _)| *at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            namespace: "n".into(),
            name: name.into(),
        }
    }

    #[tokio::test]
    async fn each_key_once_and_in_order() {
        let queue = Queue::default();
        ["a", "b", "a"].iter().for_each(|name| queue.add(key(name)));
        assert_eq!(queue.next().await, key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("b"));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(queue.lock().take(), Err(None));
    }

    #[tokio::test]
    async fn later_is_later() {
        let queue = Queue::default();
        queue.add_after(key("a"), Duration::from_secs(3600));
        assert!(matches!(queue.lock().take(), Err(Some(at)) if at > Instant::now()));
        queue.add_after(key("b"), Duration::from_millis(1));
        assert_eq!(queue.next().await, key("b"));
    }

    #[tokio::test]
    async fn a_key_has_one_time_the_earliest() {
        let queue = Queue::default();
        for seconds in [3600, 60, 1800] {
            queue.add_after(key("a"), Duration::from_secs(seconds));
        }
        let state = queue.lock();
        assert_eq!((state.later.len(), state.due.len()), (1, 1));
        assert!(state.due[&key("a")] <= Instant::now() + Duration::from_secs(60));
    }

    #[test]
    fn waits_double_up_to_a_limit() {
        let waits: Vec<Duration> = (1..20).map(retry_wait).collect();
        assert_eq!(waits[..3], [40, 80, 160].map(Duration::from_millis));
        assert!(waits.is_sorted());
        assert_eq!(waits[18], RETRY_MAX);
    }

    #[test]
    fn failures_count_until_forgotten() {
        let queue = Queue::default();
        (0..3).for_each(|_| queue.retry(key("a")));
        assert_eq!(queue.lock().failures[&key("a")], 3);
        queue.forget_failures(&key("a"));
        assert!(queue.lock().failures.is_empty());
    }
}
