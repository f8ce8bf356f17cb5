//! Objects of kinds whose schema somebody else may have installed: read as far as possible.
//!
//! A list in which one object has an unexpected form must not hide the others. What cannot be read is kept as metadata
//! together with the reason, so that whoever builds a model can say what is wrong with which object.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An object of kind `K`, or what is known of one that cannot be read as such.
#[derive(Clone, Debug, PartialEq)]
pub struct Lenient<K> {
    /// Who the object is; always read.
    pub metadata: ObjectMeta,
    /// The object (its metadata stands in `metadata` only), or why it is none.
    pub object: Result<Box<K>, String>,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let metadata = value.get_mut("metadata").map(Value::take).unwrap_or_default();
        let metadata = serde_json::from_value(metadata).map_err(serde::de::Error::custom)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("metadata".to_owned(), Value::Object(serde_json::Map::new()));
        }
        let object = serde_json::from_value(value)
            .map(Box::new)
            .map_err(|error| error.to_string());
        Ok(Self { metadata, object })
    }
}

impl<K: Resource> Resource for Lenient<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::TrafficSplit;
    use serde_json::json;

    #[test]
    fn a_bad_object_keeps_its_name_and_the_reason() {
        let read = |spec: Value| -> Lenient<TrafficSplit> {
            serde_json::from_value(
                json!({"apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit",
                "metadata": {"name": "a", "namespace": "b"}, "spec": spec}),
            )
            .unwrap()
        };
        let good = read(json!({"service": "web", "backends": []}));
        assert_eq!(good.object.unwrap().spec.service, "web");
        let bad = read(json!({"service": "web", "backends": [{"service": "x", "weight": "much"}]}));
        assert_eq!(bad.metadata.name.as_deref(), Some("a"));
        assert!(bad.object.unwrap_err().contains("much"));
    }
}
