//! The objects of Weir's own API groups: `weir.dev` (how each proxy is doing, which objects are wrong; computed by the
//! control plane) and `metrics.weir.dev` (how each scraped page is doing; computed by the metrics server).
//!
//! Read-only; nobody stores them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// The API group.
pub const GROUP: &str = "weir.dev";
/// The API group of what the metrics server says about itself.
pub const SCRAPE_GROUP: &str = "metrics.weir.dev";
/// The version of both groups.
pub const VERSION: &str = "v1alpha1";

/// Name of the gateway: its node id in xDS, its Deployment and its Service.
pub const GATEWAY: &str = "traffic-ingress";
/// The namespace of the gateway.
pub const GATEWAY_NAMESPACE: &str = "default";

/// A proxy as the control plane sees it. Its name and namespace are its pod's; all pods of the gateway are one,
/// with the gateway's name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Proxy {
    /// Always `Proxy`.
    pub kind: String,
    /// Group and version.
    pub api_version: String,
    /// Name and namespace of the pod, or of the gateway.
    pub metadata: ObjectMeta,
    /// What it is and how it does.
    pub status: ProxyState,
}

/// State of a [`Proxy`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyState {
    /// Node id in xDS, `<pod>.<namespace>`; the gateway's is [`GATEWAY`].
    pub node_id: String,
    /// `weir` or `envoy`.
    pub engine: String,
    /// Id of the running proxy (annotation `traffic.envoy.proxy`), "" when none runs.
    pub id: String,
    /// Kubernetes node.
    pub node: String,
    /// Whether it has an open configuration stream.
    pub connected: bool,
    /// Whether it acknowledged the newest version, by resource type (`cds`, `eds`, `lds`, `rds`).
    pub synced: BTreeMap<String, bool>,
    /// What it refused last, "" when nothing.
    pub last_rejection: String,
}

impl ProxyState {
    /// Connected, and all types acknowledged.
    pub fn is_synced(&self) -> bool {
        self.connected && self.synced.values().all(|s| *s)
    }
}

/// One stage of a request's way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Step {
    /// `address`, `listener`, `route`, `fault`, `cluster`, `endpoint`, `inbound`.
    pub stage: String,
    /// What happens.
    pub text: String,
    /// More about it, one fact a line.
    pub details: Vec<String>,
    /// The resource that says so, as `type/name`; empty where none does.
    pub resource: String,
}

/// The way of a request through a node's configuration, in words (`proxies/NAME/explain`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Explanation {
    /// In the order in which they happen.
    pub steps: Vec<Step>,
    /// The end of it, in one sentence.
    pub outcome: String,
    /// The request reaches an endpoint.
    pub forwarded: bool,
}

/// A list of objects of this group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// `ProxyList` or `ProblemList`.
    pub kind: String,
    /// Group and version.
    pub api_version: String,
    /// List metadata, empty here.
    #[serde(default)]
    pub metadata: serde_json::Value,
    /// The objects.
    #[serde(default = "Vec::new")]
    pub items: Vec<T>,
}

/// A [`Problem`] as an API object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProblemObject {
    /// Always `Problem`.
    pub kind: String,
    /// Group and version.
    pub api_version: String,
    /// A name made of the object's kind and name and a number.
    pub metadata: ObjectMeta,
    /// What is wrong.
    pub problem: Problem,
}

/// A page that is scraped. Its name and namespace are its pod's, where it has one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScrapeTarget {
    /// Always `Target`.
    pub kind: String,
    /// Group and version.
    pub api_version: String,
    /// Name and namespace of the pod.
    pub metadata: ObjectMeta,
    /// Where the page is.
    pub url: String,
    /// `up`, `down` or `unknown`.
    pub health: String,
    /// Why the last scrape failed; "" when it did not.
    pub error: String,
    /// What the last scrape left out although it succeeded; "" for nothing.
    pub warning: String,
}
