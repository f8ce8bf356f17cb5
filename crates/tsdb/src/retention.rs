//! What goes: samples by age and by bytes, then series without samples, then what only they used. All in small steps,
//! each of which locks a page, or the index for a page's worth of series or for one list.

use crate::head::{Head, millis};
use crate::pages::{PAGE, lock};
use std::sync::atomic::Ordering::Relaxed;

/// Into how many ages the samples are divided to find out which of them make up too many bytes.
const AGES: usize = 256;

impl Head {
    /// The oldest time that the retention leaves, seen from `now_ms`.
    pub fn oldest_by_age(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(millis(self.options.retention))
    }

    /// Drops what is too old or too much, and series without samples.
    pub fn maintain(&self, now_ms: i64) {
        let by_age = self.oldest_by_age(now_ms);
        let by_bytes = self.oldest_by_bytes(by_age, now_ms);
        let oldest_ms = self.oldest_ms.load(Relaxed).max(by_bytes).max(by_age);
        self.oldest_ms.store(oldest_ms, Relaxed);
        for number in self.pages.numbers() {
            let over = self.pages.of(number * PAGE).is_some_and(|page| {
                let mut any = false;
                for (_, series) in lock(&page).iter_mut() {
                    series.drop_before(oldest_ms);
                    any |= series.is_over();
                }
                any
            });
            if over {
                self.remove_empty(number);
            }
        }
        while self.index_mut().sweep() {}
    }

    /// Removes the empty series of a page, under both locks: a sample that comes now must not be lost unseen.
    fn remove_empty(&self, number: u64) {
        let mut index = self.index_mut();
        let Some(page) = self.pages.of(number * PAGE) else {
            return;
        };
        let mut gone = Vec::new();
        lock(&page).retain(|slot, series| {
            let keep = !series.may_go();
            if !keep {
                gone.push(number * PAGE + u64::from(slot));
            }
            keep
        });
        index.remove(&gone);
        if index.next() / PAGE > number {
            self.pages.drop_empty(number);
        }
    }

    /// The oldest time with which what is left takes no more bytes than allowed.
    fn oldest_by_bytes(&self, oldest_ms: i64, now_ms: i64) -> i64 {
        let Some(limit) = self.options.retention_bytes else {
            return i64::MIN;
        };
        let mut ages = [0u64; AGES];
        let step = (now_ms.saturating_sub(oldest_ms) / AGES as i64).max(1);
        let mut total = self.index().heap_bytes() as u64;
        self.pages.each(|_, page| {
            for (_, series) in page.iter() {
                total += size_of_val(series) as u64;
                series.each_chunk(|last_ms, bytes| {
                    let age = last_ms.saturating_sub(oldest_ms) / step;
                    ages[age.clamp(0, AGES as i64 - 1) as usize] += bytes as u64;
                    total += bytes as u64;
                });
            }
        });
        let mut oldest = i64::MIN;
        for (at, bytes) in ages.iter().enumerate() {
            if total <= limit {
                break;
            }
            total -= bytes;
            oldest = oldest_ms.saturating_add(step.saturating_mul(at as i64 + 1));
        }
        oldest.min(now_ms)
    }
}
