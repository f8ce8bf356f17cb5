//! What is appended: known for each series and step, so that whoever reads a store knows what must be in it.

use std::collections::BTreeMap;
use weir_series::{Append, AppendError, Buckets, Histogram, Labels, Sample, Select, Span, stale_nan};
use weir_tsdb::Tsdb;

/// Between two steps.
pub const STEP_MS: i64 = 100;
/// Series of samples; half of them are replaced every [`GENERATION`] steps.
const SERIES: u64 = 120;
const HISTOGRAMS: u64 = 4;
const GENERATION: u64 = 50;

/// Labels -> time -> bits of the value, or a text of the histogram.
pub type Content = BTreeMap<String, BTreeMap<i64, String>>;

/// What is appended, from one seed, beginning at a time.
#[derive(Clone, Copy)]
pub struct Data {
    pub seed: u64,
    pub begin_ms: i64,
}

/// Xorshift: the same everywhere, and good enough.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

impl Data {
    pub fn time(&self, step: u64) -> i64 {
        self.begin_ms + step as i64 * STEP_MS
    }

    pub fn step(&self, ts_ms: i64) -> u64 {
        ((ts_ms - self.begin_ms) / STEP_MS) as u64
    }

    fn labels(&self, number: u64, step: u64) -> Labels {
        let generation = if number % 2 == 1 { step / GENERATION } else { 0 };
        Labels::new([
            ("__name__".to_owned(), "data".to_owned()),
            ("generation".to_owned(), generation.to_string()),
            ("number".to_owned(), number.to_string()),
        ])
    }

    fn value(&self, number: u64, step: u64) -> f64 {
        let mut random = Random((self.seed ^ number << 32 ^ step) | 1);
        random.next();
        match number % 4 {
            0 => number as f64,
            1 => (step * (number % 7)) as f64,
            2 => f64::from_bits(random.next() << 5),
            _ if random.below(20) == 0 => stale_nan(),
            _ => random.below(1_000_000) as f64 / 1000.0,
        }
    }

    fn histogram(&self, number: u64, step: u64) -> Histogram {
        let length = 1 + (step / 30 % 3) as u32;
        let counts = (0..length).map(|b| (step * u64::from(b + 1) + number) as f64);
        Histogram {
            schema: 3,
            count: 3.0 * step as f64,
            sum: step as f64 * 0.1,
            positive: Buckets {
                spans: vec![Span { offset: 2, length }],
                counts: counts.collect(),
            },
            ..Histogram::default()
        }
    }

    /// Appends a step.
    pub fn append(&self, db: &Tsdb, step: u64) {
        let resolve = |labels: &Labels| db.resolve(labels).expect("a series is made");
        let ts_ms = self.time(step);
        let samples = (0..SERIES).map(|number| {
            let value = self.value(number, step);
            (resolve(&self.labels(number, step)), Sample { ts_ms, value })
        });
        let histograms = (SERIES..SERIES + HISTOGRAMS).map(|number| {
            let id = resolve(&self.labels(number, step));
            (id, ts_ms, self.histogram(number, step))
        });
        let mut refused: Vec<(usize, AppendError)> = Vec::new();
        db.append(&samples.collect::<Vec<_>>(), &mut refused);
        db.append_histograms(&histograms.collect::<Vec<_>>(), &mut refused);
        assert!(refused.is_empty(), "step {step}: {:?}", refused[0]);
    }

    /// What the steps add to what was there.
    pub fn add(&self, content: &mut Content, steps: std::ops::RangeInclusive<u64>) {
        for step in steps {
            for number in 0..SERIES + HISTOGRAMS {
                let value = if number < SERIES {
                    self.value(number, step).to_bits().to_string()
                } else {
                    format!("{:?}", self.histogram(number, step))
                };
                let series = content.entry(self.labels(number, step).to_string()).or_default();
                series.insert(self.time(step), value);
            }
        }
    }
}

/// Everything that a store answers.
pub fn read(db: &Tsdb) -> Content {
    let all = db
        .select(&[], i64::MIN, i64::MAX, usize::MAX)
        .expect("the store answers");
    let series = all.into_iter().map(|series| {
        let samples = series.samples.iter().map(|s| (s.ts_ms, s.value.to_bits().to_string()));
        let histograms = series.histograms.iter().map(|h| (h.ts_ms, format!("{:?}", h.value)));
        (series.labels.to_string(), samples.chain(histograms).collect())
    });
    series.collect()
}

/// The first thing that is in one and not in the other.
pub fn missing_in(all: &Content, part: &Content) -> Option<String> {
    for (labels, samples) in part {
        for (ts_ms, value) in samples {
            match all.get(labels).and_then(|s| s.get(ts_ms)) {
                Some(found) if found == value => {}
                found => return Some(format!("{labels} at {ts_ms}: {value}, but there is {found:?}")),
            }
        }
    }
    None
}
