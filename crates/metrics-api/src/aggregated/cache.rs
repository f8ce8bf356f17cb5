//! A bounded memory of answers that stay true for a few seconds.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Entries kept at most; one that is not kept is merely asked for again.
const CAPACITY: usize = 4096;

/// Answers by question.
pub struct Cache<K, V> {
    ttl: Duration,
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// Answers count for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Cache {
            ttl,
            entries: Mutex::new(HashMap::new()),
        }
    }

    /// The answer, if it is fresh.
    pub fn get(&self, key: &K) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, value) = entries.get(key)?;
        (at.elapsed() < self.ttl).then(|| value.clone())
    }

    /// Remembers an answer.
    pub fn put(&self, key: K, value: V) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= CAPACITY {
            entries.retain(|_, (at, _)| at.elapsed() < self.ttl);
        }
        if entries.len() >= CAPACITY {
            entries.clear();
        }
        entries.insert(key, (Instant::now(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_with_time_and_never_grows_beyond_its_capacity() {
        let cache = Cache::new(Duration::ZERO);
        cache.put(1, "a");
        assert_eq!(cache.get(&1), None);
        let cache = Cache::new(Duration::from_secs(60));
        for key in 0..=CAPACITY {
            cache.put(key, ());
        }
        assert_eq!(cache.get(&CAPACITY), Some(()));
        assert!(cache.entries.lock().unwrap().len() <= CAPACITY);
    }
}
