//! How much is measured about a destination: the grain of its labels and the bounds of its latency histogram.
//!
//! Enters: the text of a label, an annotation or the mesh's own configuration. Leaves: typed values, or why it is none.
//! It does not know which series there are.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::labels::InvalidValue;

/// The ConfigMap with the mesh-wide settings, in the namespace of Weir itself.
pub const MESH_CONFIG: &str = "weir-mesh";
/// The key of its data under which they stand, as YAML.
pub const MESH_CONFIG_KEY: &str = "config.yaml";
/// Bounds that a list may have: each costs a series a destination.
pub const BOUNDS_MAX: usize = 64;
/// Largest bound, milliseconds: a day.
const BOUND_MAX_MS: u64 = 86_400_000;

/// How finely the other side of a connection is told apart. The later, the coarser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// Every pod by itself.
    #[default]
    Pod,
    /// All pods of a workload together.
    Workload,
    /// All pods behind a Service together.
    Service,
}

impl Granularity {
    /// The label's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Granularity::Pod => "pod",
            Granularity::Workload => "workload",
            Granularity::Service => "service",
        }
    }
}

impl FromStr for Granularity {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pod" => Ok(Granularity::Pod),
            "workload" => Ok(Granularity::Workload),
            "service" => Ok(Granularity::Service),
            other => Err(InvalidValue(format!(
                "{other:?} is not a granularity; write pod, workload or service"
            ))),
        }
    }
}

/// The upper bounds of a latency histogram's buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Buckets {
    /// Those that the field knows: 25 from 1 ms to 50 s.
    #[default]
    Default,
    /// Eight of these: a third of the series.
    Coarse,
    /// Twice as many as these.
    Fine,
    /// The user's own: milliseconds, whole and increasing.
    List(Vec<u64>),
}

const DEFAULT_MS: [u64; 25] = [
    1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1_000, 2_000, 3_000, 4_000, 5_000, 10_000, 20_000,
    30_000, 40_000, 50_000,
];
/// Bounds that the default has too, so that both can be read together.
const COARSE_MS: [u64; 8] = [1, 5, 10, 50, 100, 500, 1_000, 10_000];
const FINE_MS: [u64; 49] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100, 150, 200, 250, 300, 350, 400,
    450, 500, 600, 700, 800, 900, 1_000, 1_500, 2_000, 2_500, 3_000, 3_500, 4_000, 4_500, 5_000, 10_000, 20_000,
    30_000, 40_000, 50_000,
];

impl Buckets {
    /// The bounds, milliseconds, increasing; the last bucket, without a bound, is not among them.
    pub fn bounds_ms(&self) -> &[u64] {
        match self {
            Buckets::Default => &DEFAULT_MS,
            Buckets::Coarse => &COARSE_MS,
            Buckets::Fine => &FINE_MS,
            Buckets::List(bounds) => bounds,
        }
    }

    /// The user's own bounds, in any order in which they increase.
    pub fn list(bounds: Vec<u64>) -> Result<Self, InvalidValue> {
        let wrong = |what: String| Err(InvalidValue(format!("{what}; {HINT}")));
        if bounds.is_empty() || bounds.len() > BOUNDS_MAX {
            return wrong(format!("{} bounds are not 1 to {BOUNDS_MAX}", bounds.len()));
        }
        if let Some(bound) = bounds.iter().find(|b| !(1..=BOUND_MAX_MS).contains(*b)) {
            return wrong(format!("{bound} is not within 1 to {BOUND_MAX_MS} ms"));
        }
        if let Some(pair) = bounds.windows(2).find(|pair| pair[0] >= pair[1]) {
            return wrong(format!("{} does not increase after {}", pair[1], pair[0]));
        }
        Ok(match bounds.as_slice() {
            same if same == DEFAULT_MS => Buckets::Default,
            _ => Buckets::List(bounds),
        })
    }
}

const HINT: &str = "write default, coarse, fine, or increasing upper bounds in milliseconds such as 5,25,100,500";

impl fmt::Display for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Buckets::Default => f.write_str("default"),
            Buckets::Coarse => f.write_str("coarse"),
            Buckets::Fine => f.write_str("fine"),
            Buckets::List(bounds) => {
                let bounds: Vec<String> = bounds.iter().map(u64::to_string).collect();
                f.write_str(&bounds.join(","))
            }
        }
    }
}

impl Serialize for Buckets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Buckets {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "default" => return Ok(Buckets::Default),
            "coarse" => return Ok(Buckets::Coarse),
            "fine" => return Ok(Buckets::Fine),
            _ => {}
        }
        let parsed: Result<Vec<u64>, _> = text.split(',').map(|bound| bound.trim().parse()).collect();
        match parsed {
            Ok(bounds) => Self::list(bounds),
            Err(_) => Err(InvalidValue(format!("{text:?} is not a set of buckets; {HINT}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_are_sets() {
        for buckets in [Buckets::Default, Buckets::Coarse, Buckets::Fine] {
            let bounds = buckets.bounds_ms();
            assert!(
                bounds.windows(2).all(|w| w[0] < w[1]) && bounds.len() <= BOUNDS_MAX,
                "{buckets}"
            );
            assert_eq!(buckets.to_string().parse(), Ok(buckets.clone()));
        }
        assert!(
            COARSE_MS.iter().all(|b| DEFAULT_MS.contains(b)),
            "read together with the default"
        );
        assert!(
            DEFAULT_MS.iter().all(|b| FINE_MS.contains(b)),
            "read together with the default"
        );
    }

    #[test]
    fn lists_are_checked_and_errors_say_what_would_be_right() {
        assert_eq!("5, 25,100".parse(), Ok(Buckets::List(vec![5, 25, 100])));
        let text = DEFAULT_MS.map(|b| b.to_string()).join(",");
        assert_eq!(text.parse(), Ok(Buckets::Default), "not another set");
        let many = (1..=65).map(|n: u64| n.to_string()).collect::<Vec<_>>().join(",");
        for (wrong, why) in [
            ("", "\"\""),
            ("5,x", "5,x"),
            ("1.5", "1.5"),
            ("0,5", "0 is not within"),
            ("5,5", "5 does not increase after 5"),
            (many.as_str(), "65 bounds"),
            ("86400001", "86400001"),
        ] {
            let message = wrong.parse::<Buckets>().unwrap_err().to_string();
            assert!(
                message.contains(why) && message.contains("coarse, fine"),
                "{wrong}: {message}"
            );
        }
        assert!(
            "Pod"
                .parse::<Granularity>()
                .unwrap_err()
                .to_string()
                .contains("pod, workload or service")
        );
    }
}
