//! TrafficMetrics of `metrics.smi-spec.io`: how much traffic a resource had, how much of it failed, how long it took.
//!
//! Only the wire shapes and the names in them. Who asks the store what is in `metrics-api::query`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::quantity;

/// The API group.
pub const GROUP: &str = "metrics.smi-spec.io";
/// The version whose latencies are in seconds (the published specification).
pub const V1ALPHA1: &str = "v1alpha1";
/// The version whose latencies are in milliseconds (the SDK).
pub const V1ALPHA2: &str = "v1alpha2";
/// Name of the 99th percentile.
pub const P99: &str = "p99_response_latency";
/// Name of the 90th percentile.
pub const P90: &str = "p90_response_latency";
/// Name of the median.
pub const P50: &str = "p50_response_latency";
/// Name of the number of requests that succeeded.
pub const SUCCESS_COUNT: &str = "success_count";
/// Name of the number of requests that failed.
pub const FAILURE_COUNT: &str = "failure_count";

/// The traffic of one resource, or of one pair of resources in one direction, over a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficMetrics {
    /// Always `TrafficMetrics`.
    pub kind: String,
    /// Group and version.
    pub api_version: String,
    /// Name and namespace of the resource.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// End of the window, RFC 3339.
    pub timestamp: String,
    /// Length of the window, such as `30s`.
    pub window: String,
    /// Whose traffic.
    pub resource: ResourceRef,
    /// With whom.
    pub edge: Edge,
    /// For TrafficSplits: which backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The figures.
    #[serde(default)]
    pub metrics: Vec<Metric>,
}

/// A resource, in the measure it is known; all fields may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceRef {
    /// Such as `Pod`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Namespace, empty for namespaces themselves.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// The other end of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Which way requests go.
    pub direction: EdgeDirection,
    /// Who measured.
    pub side: Side,
    /// Empty = everybody.
    #[serde(default)]
    pub resource: ResourceRef,
}

/// Which way requests go between a resource and its edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EdgeDirection {
    /// From `resource` to `edge.resource`.
    To,
    /// From `edge.resource` to `resource`.
    From,
}

/// Who measured: client-side figures include retries, timeouts and the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The end that sends requests.
    Client,
    /// The end that answers them.
    Server,
}

/// A backend of a TrafficSplit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The service that is split.
    pub apex: String,
    /// The backend's service.
    pub name: String,
    /// Its share.
    pub weight: u32,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// Such as [`P99`].
    pub name: String,
    /// `seconds` or `ms`; empty for counts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// A Kubernetes quantity.
    pub value: String,
}

/// Many TrafficMetrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficMetricsList {
    /// Always `TrafficMetricsList`.
    pub kind: String,
    /// Group and version.
    pub api_version: String,
    /// List metadata, empty here.
    #[serde(default)]
    pub metadata: serde_json::Value,
    /// What was asked for.
    #[serde(default)]
    pub resource: ResourceRef,
    /// Which labels the listed resources have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<ListSelector>,
    /// Sorted by namespace and name, for edges also by direction and peer.
    #[serde(default)]
    pub items: Vec<TrafficMetrics>,
}

/// The equality part of the label selector of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListSelector {
    /// Label -> value.
    pub match_labels: BTreeMap<String, String>,
}

/// The figures of a [`TrafficMetrics`] as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests that succeeded.
    pub success: u64,
    /// Requests that failed.
    pub failure: u64,
    /// Median latency in seconds; none without traffic.
    pub p50_s: Option<f64>,
    /// 90th percentile in seconds.
    pub p90_s: Option<f64>,
    /// 99th percentile in seconds.
    pub p99_s: Option<f64>,
}

impl Figures {
    /// Requests that got an answer, good or bad.
    pub fn total(&self) -> u64 {
        self.success + self.failure
    }

    /// Share of good answers; none without traffic.
    pub fn success_rate(&self) -> Option<f64> {
        (self.total() > 0).then(|| self.success as f64 / self.total() as f64)
    }

    /// The success rate for people: `99.50%`, `-` without traffic. Never rounded up to 100% when a request failed.
    pub fn success_text(&self) -> String {
        match self.success_rate() {
            Some(rate) => format!("{:.2}%", (rate * 10_000.0 + 1e-6).floor() / 100.0),
            None => "-".to_owned(),
        }
    }

    /// Answered requests a second for people: `1.8rps`, `-` without traffic.
    pub fn rps_text(&self, window: Duration) -> String {
        if self.total() == 0 || window.is_zero() {
            return "-".to_owned();
        }
        format!("{:.1}rps", self.total() as f64 / window.as_secs_f64())
    }

    /// A latency for people: `12ms`, `-` without traffic.
    pub fn latency_text(seconds: Option<f64>) -> String {
        match seconds {
            Some(seconds) => format!("{:.0}ms", (seconds * 1000.0 - 1e-6).ceil().max(0.0)),
            None => "-".to_owned(),
        }
    }

    /// The `metrics` field in the given version. Latencies that are not known are left out.
    pub fn to_metrics(&self, version: &str) -> Vec<Metric> {
        let latency = |name: &str, seconds: Option<f64>| {
            let (unit, value) = match version {
                V1ALPHA1 => ("seconds", quantity::format_milli(seconds?)?),
                _ => ("ms", quantity::format_milli((seconds? * 1000.0 - 1e-6).ceil())?),
            };
            Some(Metric {
                name: name.into(),
                unit: unit.into(),
                value,
            })
        };
        let count = |name: &str, n: u64| Metric {
            name: name.into(),
            unit: String::new(),
            value: quantity::format_count(n),
        };
        [
            latency(P99, self.p99_s),
            latency(P90, self.p90_s),
            latency(P50, self.p50_s),
        ]
        .into_iter()
        .flatten()
        .chain([count(SUCCESS_COUNT, self.success), count(FAILURE_COUNT, self.failure)])
        .collect()
    }

    /// Reads a `metrics` field; unknown names and values that are no quantities do not count.
    pub fn from_metrics(metrics: &[Metric]) -> Self {
        let find = |name: &str| {
            let metric = metrics.iter().find(|m| m.name == name)?;
            let value = quantity::parse(&metric.value).ok()?;
            Some(if metric.unit == "ms" { value / 1000.0 } else { value })
        };
        let count = |name| find(name).map_or(0, |v| v.max(0.0) as u64);
        Figures {
            success: count(SUCCESS_COUNT),
            failure: count(FAILURE_COUNT),
            p50_s: find(P50),
            p90_s: find(P90),
            p99_s: find(P99),
        }
    }
}

impl TrafficMetrics {
    /// The figures as numbers.
    pub fn figures(&self) -> Figures {
        Figures::from_metrics(&self.metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(figures: Figures) -> TrafficMetrics {
        let pod = |name: &str| ResourceRef {
            kind: "Pod".into(),
            namespace: "foobar".into(),
            name: name.into(),
        };
        TrafficMetrics {
            kind: "TrafficMetrics".into(),
            api_version: format!("{GROUP}/{V1ALPHA1}"),
            metadata: ObjectMeta {
                name: Some("foo-775b9cbd88-ntxsl".into()),
                namespace: Some("foobar".into()),
                ..Default::default()
            },
            timestamp: "2019-04-08T22:25:55Z".into(),
            window: "30s".into(),
            resource: pod("foo-775b9cbd88-ntxsl"),
            edge: Edge {
                direction: EdgeDirection::To,
                side: Side::Client,
                resource: pod("baz-577db7d977-lsk2q"),
            },
            backend: None,
            metrics: figures.to_metrics(V1ALPHA1),
        }
    }

    #[test]
    fn the_specifications_example() {
        let ten_ms = Some(0.01);
        let figures = Figures {
            success: 100,
            failure: 100,
            p50_s: ten_ms,
            p90_s: ten_ms,
            p99_s: ten_ms,
        };
        let metrics = sample(figures);
        let pod = |name: &str| serde_json::json!({"kind": "Pod", "namespace": "foobar", "name": name});
        assert_eq!(
            serde_json::to_value(&metrics).unwrap(),
            serde_json::json!({
                "kind": "TrafficMetrics", "apiVersion": "metrics.smi-spec.io/v1alpha1",
                "metadata": {"name": "foo-775b9cbd88-ntxsl", "namespace": "foobar"},
                "timestamp": "2019-04-08T22:25:55Z", "window": "30s",
                "resource": pod("foo-775b9cbd88-ntxsl"),
                "edge": {"direction": "to", "side": "client", "resource": pod("baz-577db7d977-lsk2q")},
                "metrics": [
                    {"name": "p99_response_latency", "unit": "seconds", "value": "10m"},
                    {"name": "p90_response_latency", "unit": "seconds", "value": "10m"},
                    {"name": "p50_response_latency", "unit": "seconds", "value": "10m"},
                    {"name": "success_count", "value": "100"}, {"name": "failure_count", "value": "100"}
                ]
            })
        );
        assert_eq!(metrics.figures(), figures);
    }

    #[test]
    fn without_traffic_counts_are_zero_and_latencies_absent() {
        let metrics = sample(Figures {
            p50_s: Some(f64::NAN),
            ..Default::default()
        });
        let names: Vec<_> = metrics
            .metrics
            .iter()
            .map(|m| (m.name.as_str(), m.value.as_str()))
            .collect();
        assert_eq!(names, [(SUCCESS_COUNT, "0"), (FAILURE_COUNT, "0")]);
        assert_eq!(metrics.figures().success_rate(), None);
    }

    #[test]
    fn texts_for_people() {
        let figures = Figures {
            success: 53,
            failure: 1,
            p99_s: Some(0.0101),
            ..Default::default()
        };
        assert_eq!(figures.success_text(), "98.14%");
        assert_eq!(figures.rps_text(Duration::from_secs(30)), "1.8rps");
        assert_eq!(Figures::latency_text(figures.p99_s), "11ms");
        assert_eq!(Figures::latency_text(Some(0.001)), "1ms");
        assert_eq!(
            Figures {
                success: 100_000,
                failure: 1,
                ..Default::default()
            }
            .success_text(),
            "99.99%"
        );
        assert_eq!(
            Figures {
                success: 3,
                ..Default::default()
            }
            .success_text(),
            "100.00%"
        );
        assert_eq!(
            Figures {
                success: 29,
                failure: 71,
                ..Default::default()
            }
            .success_text(),
            "29.00%"
        );
        assert_eq!(
            Figures::default().success_text() + &Figures::default().rps_text(Duration::from_secs(1)),
            "--"
        );
    }

    #[test]
    fn v1alpha2_says_milliseconds() {
        let figures = Figures {
            p99_s: Some(0.01),
            ..Default::default()
        };
        let metrics = figures.to_metrics(V1ALPHA2);
        assert_eq!((metrics[0].unit.as_str(), metrics[0].value.as_str()), ("ms", "10"));
        assert_eq!(Figures::from_metrics(&metrics).p99_s, Some(0.01));
    }
}
