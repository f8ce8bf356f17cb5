//! A bounded queue of samples between those who append and the one who sends.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::Notify,
    time::{Duration, Instant, timeout_at},
};
use weir_series::{HistogramSample, Labels, Sample};

/// Bytes of a batch: receivers have limits of their own.
const BATCH_BYTES: usize = 4 << 20;

/// One sample on its way.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub labels: Labels,
    pub point: Point,
}

#[derive(Clone, Debug)]
pub(super) enum Point {
    Float(Sample),
    Histogram(HistogramSample),
}

impl Item {
    pub fn ts_ms(&self) -> i64 {
        match &self.point {
            Point::Float(sample) => sample.ts_ms,
            Point::Histogram(sample) => sample.ts_ms,
        }
    }

    /// Labels are shared with those who remember them: a pointer is all they cost here.
    fn bytes(&self) -> usize {
        size_of::<Item>()
            + match &self.point {
                Point::Float(_) => 0,
                Point::Histogram(h) => size_of_val(&*h.value) + 8 * h.value.weight(),
            }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
}

/// See the module.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
    capacity: usize,
    capacity_bytes: usize,
}

impl Queue {
    pub fn new(capacity: usize, capacity_bytes: usize) -> Self {
        Queue {
            waiting: Mutex::default(),
            filled: Notify::new(),
            capacity,
            capacity_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Says how many of the oldest were dropped for want of room.
    pub fn push(&self, items: Vec<Item>) -> u64 {
        let mut waiting = self.lock();
        let mut dropped = 0;
        for item in items {
            waiting.bytes += item.bytes();
            waiting.items.push_back(item);
            while waiting.items.len() > self.capacity || waiting.bytes > self.capacity_bytes {
                let Some(oldest) = waiting.items.pop_front() else { break };
                waiting.bytes -= oldest.bytes();
                dropped += 1;
            }
        }
        drop(waiting);
        self.filled.notify_one();
        dropped
    }

    /// At most `max`, and no more bytes than one request should have, at once.
    pub fn take(&self, max: usize) -> Vec<Item> {
        let mut waiting = self.lock();
        let mut bytes = 0;
        let fits = |item: &&Item| {
            bytes += item.bytes();
            bytes <= BATCH_BYTES || bytes == item.bytes()
        };
        let count = waiting.items.iter().take(max).take_while(fits).count();
        let taken: Vec<Item> = waiting.items.drain(..count).collect();
        waiting.bytes -= taken.iter().map(Item::bytes).sum::<usize>();
        taken
    }

    /// Whether to wait for more would lose what is here, or make a request too large.
    fn is_ripe(&self, max: usize) -> bool {
        let waiting = self.lock();
        waiting.items.len() >= max.min(self.capacity) || waiting.bytes >= BATCH_BYTES.min(self.capacity_bytes / 2)
    }

    /// `max`, or what there is `deadline` after the first one came, or when there is no room for more.
    pub async fn batch(&self, max: usize, deadline: Duration) -> Vec<Item> {
        while self.len() == 0 {
            self.filled.notified().await;
        }
        let until = Instant::now() + deadline;
        while !self.is_ripe(max) {
            if timeout_at(until, self.filled.notified()).await.is_err() {
                break;
            }
        }
        self.take(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(value: f64) -> Item {
        Item {
            labels: Labels::default(),
            point: Point::Float(Sample { ts_ms: 0, value }),
        }
    }

    #[test]
    fn the_oldest_go_first() {
        let queue = Queue::new(2, usize::MAX);
        assert_eq!(queue.push(vec![item(1.0), item(2.0)]), 0);
        assert_eq!(queue.push(vec![item(3.0)]), 1);
        let values = queue.take(9).into_iter().map(|i| match i.point {
            Point::Float(s) => s.value,
            Point::Histogram(_) => f64::NAN,
        });
        assert_eq!(values.collect::<Vec<_>>(), [2.0, 3.0]);
        let small = Queue::new(100, 2 * item(1.0).bytes());
        assert_eq!(small.push(vec![item(1.0), item(2.0), item(3.0)]), 1);
        assert_eq!(small.take(9).len(), 2);
        assert_eq!(small.lock().bytes, 0);
    }

    #[tokio::test]
    async fn what_has_no_room_to_wait_for_more_goes_at_once() {
        let size = item(1.0).bytes();
        let long = Duration::from_secs(24 * 3600);
        for queue in [Queue::new(2, usize::MAX), Queue::new(100, 4 * size)] {
            assert_eq!(queue.push(vec![item(1.0), item(2.0)]), 0);
            let batch = tokio::time::timeout(Duration::from_secs(60), queue.batch(100, long)).await;
            assert_eq!(batch.map(|batch| batch.len()).unwrap_or(0), 2);
        }
        // A request has its size as well.
        let fitting = BATCH_BYTES / size;
        let queue = Queue::new(usize::MAX, usize::MAX);
        queue.push(vec![item(1.0); fitting + 5]);
        assert_eq!(
            (queue.take(usize::MAX).len(), queue.take(usize::MAX).len()),
            (fitting, 5)
        );
    }
}
