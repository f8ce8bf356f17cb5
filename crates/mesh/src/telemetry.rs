//! How much is measured: mesh-wide by a ConfigMap, and by Service. What says nothing leaves the choice to the next one:
//! Service, then the mesh, then the default.

use serde::Serialize;
use serde_json::Value;
use weir_api::labels::{self, InvalidValue};
use weir_api::telemetry::{Buckets, Granularity};

use k8s_openapi::api::core::v1::Service;

use crate::objects::object_ref;
use crate::problems::{Problems, field};
use crate::settings::{Reading, text_of};

/// What somebody says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Telemetry {
    /// The grain of labels that name the other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granularity: Option<Granularity>,
    /// The bounds of latency histograms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Buckets>,
}

impl Telemetry {
    /// This, and where it says nothing, the other.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            granularity: self.granularity.or(other.granularity),
            buckets: self.buckets.clone().or_else(|| other.buckets.clone()),
        }
    }
}

/// What a Service's labels say. A bad one says nothing.
pub(crate) fn of_service(object: &Service, problems: &mut Problems) -> Telemetry {
    let meta = &object.metadata;
    let mut complain = |key: &str, why: &InvalidValue| {
        problems.error(object_ref("v1", "Service", meta), field(meta, key), why.to_string());
    };
    let text = |key| labels::value(meta, key);
    let granularity = text(labels::METRICS_GRANULARITY).and_then(|text| {
        text.parse()
            .map_err(|why| complain(labels::METRICS_GRANULARITY, &why))
            .ok()
    });
    let buckets = text(labels::METRICS_BUCKETS)
        .and_then(|text| text.parse().map_err(|why| complain(labels::METRICS_BUCKETS, &why)).ok());
    Telemetry { granularity, buckets }
}

/// What the `metrics` of the mesh's ConfigMap says. Where it says something bad, `previous` stays.
pub(crate) fn of_mesh(file: &Value, previous: &Telemetry, reading: &mut Reading<'_>) -> Telemetry {
    let Some(metrics) = reading.table(&file["metrics"], "metrics", &["granularity", "buckets"]) else {
        return previous.clone();
    };
    let granularity = match &metrics["granularity"] {
        Value::Null => Ok(None),
        value => text_of(value).parse().map(Some),
    };
    let buckets = match &metrics["buckets"] {
        Value::Null => Ok(None),
        // A word, or a list as a label would hold it.
        Value::String(text) => text.parse().map(Some),
        Value::Array(bounds) => bounds
            .iter()
            .map(|bound| {
                bound
                    .as_u64()
                    .ok_or_else(|| InvalidValue(format!("{bound} is no whole number of milliseconds")))
            })
            .collect::<Result<_, _>>()
            .and_then(Buckets::list)
            .map(Some),
        value => text_of(value).parse().map(Some),
    };
    Telemetry {
        granularity: reading.kept("metrics.granularity", granularity, &previous.granularity),
        buckets: reading.kept("metrics.buckets", buckets, &previous.buckets),
    }
}
