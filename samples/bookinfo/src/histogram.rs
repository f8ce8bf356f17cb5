//! Latencies, counted in buckets that are at most 1/64 of their value wide: percentiles within 1.6 %.

use std::time::Duration;

/// Buckets for each power of two.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts microseconds.
#[derive(Clone, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_us: u64,
    max_us: u64,
}

impl Histogram {
    pub fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(us);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        self.max_us = self.max_us.max(us);
    }

    /// The latency in ms that a share of all did not exceed; 0 without any.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return highest(bucket).min(self.max_us) as f64 / 1e3;
            }
        }
        0.0
    }

    pub fn mean_ms(&self) -> f64 {
        if self.total == 0 {
            0.0
        } else {
            self.sum_us as f64 / self.total as f64 / 1e3
        }
    }

    pub fn max_ms(&self) -> f64 {
        self.max_us as f64 / 1e3
    }
}

/// Values below `STEPS` have a bucket each; above, every power of two has `STEPS`.
fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let shift = us.ilog2() - STEP_BITS;
    (u64::from(shift) * STEPS + (us >> shift)) as usize
}

/// The highest value in a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let step = u128::from(bucket - shift * STEPS);
    u64::try_from(((step + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_close_to_its_bucket() {
        for us in (0..4096).chain([12_345, 999_999, 60_000_000, u64::MAX]) {
            let high = highest(bucket(us));
            assert!(high >= us, "{us} {high}");
            assert!(high - us <= us / STEPS, "{us} {high}");
        }
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        for (share, ms) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let got = histogram.quantile_ms(share);
            assert!((got - ms).abs() <= ms / 60.0, "{share}: {got}");
        }
        assert_eq!(histogram.max_ms(), 1000.0);
        assert_eq!(Histogram::default().quantile_ms(0.5), 0.0);
    }
}
