//! The custom resources of the Service Mesh Interface that Weir obeys: TrafficSplit and HTTPRouteGroup, in the
//! versions that are stored. Other served versions differ in how a weight is written.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    pub weight: u32,
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
                weight: 10
            }
        );
        assert_eq!(TrafficSplit::plural(&()), "trafficsplits");
    }
}
