//! How much is measured: mesh-wide by a ConfigMap, and by Service. What says nothing leaves the choice to the next one:
//! Service, then the mesh, then the default.

use serde::Serialize;
use serde_json::Value;
use weir_api::labels::{self, InvalidValue};
use weir_api::telemetry::{Buckets, Granularity, MESH_CONFIG, MESH_CONFIG_KEY};

use k8s_openapi::api::core::v1::{ConfigMap, Service};

use crate::objects::{Key, Objects, object_ref};
use crate::problems::{Problems, field};

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

/// What the mesh's ConfigMap says. Where it says something bad, `previous` stays; a ConfigMap that is not there says
/// nothing.
pub(crate) fn of_mesh(objects: &Objects, previous: &Telemetry, problems: &mut Problems) -> Telemetry {
    let Some(object) = objects
        .config_maps
        .get(&Key::new(labels::SYSTEM_NAMESPACE, MESH_CONFIG))
    else {
        return Telemetry::default();
    };
    let mut reading = Reading { object, problems };
    let Some(text) = object.data.as_ref().and_then(|data| data.get(MESH_CONFIG_KEY)) else {
        reading.complain("", "is missing; write metrics: {granularity: pod, buckets: default}");
        return previous.clone();
    };
    let file: Value = match serde_saphyr::from_str(text) {
        Ok(file) => file,
        Err(error) => {
            reading.complain("", format!("is not YAML, and nothing of it is used: {error}"));
            return previous.clone();
        }
    };
    let Some(metrics) = reading.table(&file, "", &["metrics"]).map(|file| &file["metrics"]) else {
        return previous.clone();
    };
    let Some(metrics) = reading.table(metrics, "metrics", &["granularity", "buckets"]) else {
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

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Reads one ConfigMap and tells what is wrong with it.
struct Reading<'a> {
    object: &'a ConfigMap,
    problems: &'a mut Problems,
}

impl Reading<'_> {
    fn complain(&mut self, path: &str, why: impl std::fmt::Display) {
        let object = object_ref("v1", "ConfigMap", &self.object.metadata);
        let dot = if path.is_empty() { "" } else { "." };
        self.problems
            .error(object, format!("data[{MESH_CONFIG_KEY}]{dot}{path}"), why.to_string());
    }

    /// The value as a table; an empty one for what is left out. Fields that nobody knows are told, and do no harm.
    fn table<'v>(&mut self, value: &'v Value, path: &str, known: &[&str]) -> Option<&'v Value> {
        static NOTHING: Value = Value::Null;
        match value {
            Value::Null => Some(&NOTHING),
            Value::Object(fields) => {
                for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
                    let path = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    self.complain(&path, format!("is unknown and not used; known: {}", known.join(", ")));
                }
                Some(value)
            }
            _ => {
                self.complain(path, format!("must be a table with {}", known.join(", ")));
                None
            }
        }
    }

    fn kept<T: Clone>(&mut self, path: &str, read: Result<Option<T>, InvalidValue>, previous: &Option<T>) -> Option<T> {
        read.unwrap_or_else(|why| {
            self.complain(path, format!("{why} (the last good value stays until then)"));
            previous.clone()
        })
    }
}
