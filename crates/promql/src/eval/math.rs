//! Numbers: sums that do not drift, quantiles, variance, rounding.

/// A compensated sum (Neumaier): the order and the size of the addends do not matter much.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    pub fn add(&mut self, value: f64) {
        let total = self.sum + value;
        if total.is_infinite() {
            self.lost = 0.0;
        } else if self.sum.abs() >= value.abs() {
            self.lost += (self.sum - total) + value;
        } else {
            self.lost += (value - total) + self.sum;
        }
        self.sum = total;
    }

    pub fn total(&self) -> f64 {
        self.sum + self.lost
    }

    fn scale(&mut self, factor: f64) {
        self.sum *= factor;
        self.lost *= factor;
    }
}

impl FromIterator<f64> for Sum {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sum = Sum::default();
        values.into_iter().for_each(|v| sum.add(v));
        sum
    }
}

/// The q-quantile with linear interpolation between neighbours; NaN counts as the smallest value.
pub(super) fn quantile(q: f64, mut values: Vec<f64>) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(nan_first);
    let rank = q * (values.len() - 1) as f64;
    let lower = rank.floor() as usize;
    let upper = (lower + 1).min(values.len() - 1);
    let weight = rank - rank.floor();
    values[lower] * (1.0 - weight) + values[upper] * weight
}

pub(super) fn nan_first(a: &f64, b: &f64) -> std::cmp::Ordering {
    a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// A mean whose sum may be larger than the largest number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean {
    count: f64,
    /// The sum, or the mean so far once the sum was too large.
    sum: Sum,
    incremental: bool,
}

impl Mean {
    pub fn add(&mut self, value: f64) {
        self.count += 1.0;
        if !self.incremental {
            let mut sum = self.sum;
            sum.add(value);
            if !sum.sum.is_infinite() || self.count == 1.0 {
                self.sum = sum;
                return;
            }
            self.incremental = true;
            self.sum.scale(1.0 / (self.count - 1.0));
        }
        self.sum.scale((self.count - 1.0) / self.count);
        self.sum.add(value / self.count);
    }

    pub fn value(&self) -> f64 {
        if self.incremental {
            self.sum.total()
        } else {
            self.sum.sum / self.count + self.sum.lost / self.count
        }
    }
}

pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let mut mean = Mean::default();
    values.for_each(|v| mean.add(v));
    mean.value()
}

/// Population variance (Welford).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Variance {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Variance {
    pub fn add(&mut self, value: f64) {
        self.count += 1.0;
        let delta = value - self.mean;
        self.mean += delta / self.count;
        self.squares += delta * (value - self.mean);
    }

    pub fn value(&self) -> f64 {
        self.squares / self.count
    }
}

pub(super) fn variance(values: impl Iterator<Item = f64>) -> f64 {
    let mut variance = Variance::default();
    values.for_each(|v| variance.add(v));
    variance.value()
}

/// To the nearest multiple, halves upwards.
pub(super) fn round(value: f64, to_nearest: f64) -> f64 {
    let inverse = 1.0 / to_nearest;
    (value * inverse + 0.5).floor() / inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_drift() {
        assert_eq!([1e100, 1.0, -1e100].into_iter().collect::<Sum>().total(), 1.0);
        assert_eq!([f64::INFINITY, 1.0].into_iter().collect::<Sum>().total(), f64::INFINITY);
        assert!(
            [f64::INFINITY, f64::NEG_INFINITY]
                .into_iter()
                .collect::<Sum>()
                .total()
                .is_nan()
        );
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(0.5, vec![3.0, 1.0]), 2.0);
        assert_eq!(quantile(1.0, vec![3.0, 1.0]), 3.0);
        assert_eq!(quantile(2.0, vec![3.0]), f64::INFINITY);
        assert_eq!(quantile(0.75, vec![f64::NAN, 1.0, 2.0, 3.0, 4.0]), 3.0);
        assert_eq!(round(-2.5, 1.0), -2.0);
        assert_eq!(variance([2.0, 4.0].into_iter()), 1.0);
    }

    #[test]
    fn means_do_not_overflow() {
        assert_eq!(mean([1e308, 1.5e308].into_iter()), 1.25e308);
        assert_eq!(mean([1.0, 2.0, 6.0].into_iter()), 3.0);
        assert_eq!(mean([f64::INFINITY, 1.0].into_iter()), f64::INFINITY);
    }
}
