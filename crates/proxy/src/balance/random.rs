//! Numbers that nobody can foresee well enough to gain by it: draws among endpoints, jitter, percentages.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// A source of numbers; each thread has its own.
#[derive(Debug)]
pub struct Random;

impl Random {
    /// 64 random bits.
    pub fn bits() -> u64 {
        thread_local! {
            static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(std::thread::current().id()));
        }
        // SplitMix64.
        let state = STATE.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        STATE.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(end: u64) -> u64 {
        let product = u128::from(Self::bits()) * u128::from(end);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// True so often in a hundred.
    pub fn chance(percent: u32) -> bool {
        percent >= 100 || Self::below(100) < u64::from(percent)
    }
}
