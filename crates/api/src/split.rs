//! The custom resources of the Service Mesh Interface that Weir obeys: TrafficSplit and HTTPRouteGroup, in the
//! versions that are stored. Other served versions differ in how a weight is written; all ways are read.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::quantity;

/// How the traffic to one service is shared between others.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "split.smi-spec.io",
    version = "v1alpha4",
    kind = "TrafficSplit",
    plural = "trafficsplits",
    shortname = "ts",
    namespaced
)]
pub struct TrafficSplitSpec {
    /// The apex service, whose traffic is split.
    pub service: String,
    /// Who gets how much. Weights are relative to their sum.
    #[serde(default)]
    pub backends: Vec<TrafficSplitBackend>,
    /// Restricts the split to requests that an HTTPRouteGroup of the same namespace matches.
    #[serde(default)]
    pub matches: Vec<TrafficSplitMatch>,
}

/// A share of a TrafficSplit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplitBackend {
    /// Name of a service in the split's namespace.
    pub service: String,
    /// Relative share.
    #[serde(default)]
    #[schemars(with = "IntOrString")]
    pub weight: Weight,
}

/// A share: a whole number (`90`), or a quantity as in v1alpha1 (`900m`, `"1"`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight {
    /// Thousandths, so that `500m` and `1` keep their ratio.
    pub milli: u64,
}

impl From<u32> for Weight {
    fn from(weight: u32) -> Self {
        Self {
            milli: u64::from(weight) * 1000,
        }
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.milli.is_multiple_of(1000) {
            serializer.serialize_u64(self.milli / 1000)
        } else {
            serializer.serialize_str(&format!("{}m", self.milli))
        }
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a weight is a whole number or a quantity such as 500m")]
        enum Written {
            Number(u32),
            Quantity(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(weight) => Ok(weight.into()),
            Written::Quantity(text) => {
                let milli = quantity::parse(&text).map_err(D::Error::custom)? * 1000.0;
                if !(0.0..=f64::from(u32::MAX) * 1000.0).contains(&milli) {
                    return Err(D::Error::custom(format!(
                        "a weight is not negative and not above {}",
                        u32::MAX
                    )));
                }
                Ok(Self {
                    milli: milli.round() as u64,
                })
            }
        }
    }
}

/// A reference to an HTTPRouteGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplitMatch {
    /// `HTTPRouteGroup`.
    #[serde(default)]
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Named conditions on requests.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "specs.smi-spec.io",
    version = "v1alpha4",
    kind = "HTTPRouteGroup",
    plural = "httproutegroups",
    shortname = "htr",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct HTTPRouteGroupSpec {
    /// A request that satisfies any of them matches.
    #[serde(default)]
    pub matches: Vec<HttpMatch>,
}

/// One condition; all parts that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    /// Name of the condition.
    pub name: String,
    /// Methods, `*` for any; empty = any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Regular expression on the path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path_regex: String,
    /// Header -> regular expression.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::Resource;

    #[test]
    fn reads_the_specifications_shape() {
        let split: TrafficSplit = serde_json::from_value(serde_json::json!({
            "apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit", "metadata": {"name": "canary"},
            "spec": {
                "service": "website",
                "matches": [{"kind": "HTTPRouteGroup", "name": "ab"}],
                "backends": [{"service": "website-v1", "weight": 90}, {"service": "website-v2", "weight": 10}]
            }
        }))
        .unwrap();
        assert_eq!(
            split.spec.backends[1],
            TrafficSplitBackend {
                service: "website-v2".into(),
                weight: 10.into()
            }
        );
        assert_eq!(TrafficSplit::plural(&()), "trafficsplits");
    }

    #[test]
    fn weights_are_numbers_or_quantities() {
        let read = |value: serde_json::Value| serde_json::from_value::<Weight>(value);
        for (written, milli, again) in [
            (serde_json::json!(1), 1000, serde_json::json!(1)),
            (serde_json::json!("1"), 1000, serde_json::json!(1)),
            (serde_json::json!("500m"), 500, serde_json::json!("500m")),
            (serde_json::json!("1k"), 1_000_000, serde_json::json!(1000)),
            (serde_json::json!("0"), 0, serde_json::json!(0)),
        ] {
            let weight = read(written).unwrap();
            assert_eq!(weight.milli, milli);
            assert_eq!(serde_json::to_value(weight).unwrap(), again);
        }
        for wrong in [
            serde_json::json!("abc"),
            serde_json::json!(-1),
            serde_json::json!("-1"),
            serde_json::json!(null),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
