//! Random numbers for shares, percentages and identifiers. Good enough for these; no secret depends on them.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

/// The next number of this thread.
pub fn random() -> u64 {
    thread_local!(static STATE: Cell<(u64, u64)> = {
        let seed = || RandomState::new().build_hasher().finish();
        Cell::new((seed() | 1, seed()))
    });
    STATE.with(|state| {
        // splitmix64 over a counter with a random odd step
        let (step, at) = state.get();
        let at = at.wrapping_add(step);
        state.set((step, at));
        let z = (at ^ (at >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// A number from 0 up to, but not including, `end`; 0 where that is 0.
pub fn below(end: u64) -> u64 {
    // The high half of a product is as even as the numbers themselves.
    u64::try_from((u128::from(random()) * u128::from(end)) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_evenly() {
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|c| (9_500..10_500).contains(c)), "{counts:?}");
        assert_eq!(below(0), 0);
        assert_eq!(below(1), 0);
    }
}
