//! What each pod of the node should have: a proxy, of which engine, with which traffic left alone.
//!
//! Enters: a pod's object, its workload's and its namespace's metadata. Leaves: a [`Plan`] and the problems found. Pure;
//! it knows no process, no namespace of the kernel and no API server.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use weir_api::labels::{self, Engine};
use weir_api::problem::{ObjectRef, Problem, Severity};

/// Namespaces whose pods carry the mesh or the cluster and are never in the mesh themselves.
pub const SYSTEM_NAMESPACES: [&str; 2] = ["weir-system", "kube-system"];

/// What a pod should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Not known or not to be changed: whatever runs, goes on; nothing new starts.
    Keep,
    /// No proxy, no redirection.
    Off,
    /// A proxy and redirection.
    Run(Spec),
}

/// The proxy that a pod should have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Which proxy.
    pub engine: Engine,
    /// Outbound traffic that is not captured.
    #[serde(default)]
    pub skip: Skip,
}

/// Outbound traffic that is not captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// Destination ports.
    #[serde(default)]
    pub ports: Vec<PortRange>,
    /// Destination addresses.
    #[serde(default)]
    pub cidrs: Vec<Cidr>,
}

/// Ports `from..=to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// First port.
    pub from: u16,
    /// Last port.
    pub to: u16,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cidr {
    /// Any address of the range.
    pub address: IpAddr,
    /// Length of the prefix, bits.
    pub prefix: u8,
}

/// The workload above a pod, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub enum Workload<'a> {
    /// The pod stands alone.
    None,
    /// It has one that the caches do not show (yet, or any more).
    Unknown,
    /// Its metadata.
    Known(&'a ObjectMeta),
}

/// Decides about one pod. `system` is the namespace that Weir is installed in, `default` the engine of pods of which
/// neither that nor anybody else says it.
pub fn plan(
    pod: &Pod,
    workload: Workload<'_>,
    namespace: Option<&ObjectMeta>,
    system: Option<&ObjectMeta>,
    default: Engine,
) -> (Plan, Vec<Problem>) {
    let mut problems = Vec::new();
    let meta = &pod.metadata;
    let report = |field: &str, message: String, severity| Problem {
        object: reference(meta),
        field: field.to_owned(),
        message,
        severity,
    };
    if finished(pod) {
        return (Plan::Off, problems);
    }
    if meta.deletion_timestamp.is_some() {
        return (Plan::Keep, problems);
    }
    let above = match workload {
        Workload::Known(meta) => Some(meta),
        _ => None,
    };
    let enabled = match labels::enabled(meta, above, namespace) {
        Ok(enabled) => enabled,
        Err(error) => {
            problems.push(report(labels::ENABLED, error.to_string(), Severity::Error));
            return (Plan::Keep, problems);
        }
    };
    // A workload that the cache does not show could still say yes or no, unless the pod itself has spoken.
    if matches!(workload, Workload::Unknown) && labels::value(meta, labels::ENABLED).is_none() {
        return (Plan::Keep, problems);
    }
    if !enabled {
        return (Plan::Off, problems);
    }
    if let Some((field, reason)) = excluded(pod) {
        problems.push(report(field, reason.to_owned(), Severity::Error));
        return (Plan::Off, problems);
    }
    let engine = match labels::engine(meta, above, namespace, system, default) {
        Ok(engine) => engine,
        Err(error) => {
            problems.push(report(labels::ENGINE, error.to_string(), Severity::Error));
            return (Plan::Keep, problems);
        }
    };
    let mut skip = Skip::default();
    let text = |key| labels::effective(key, meta, above, namespace).unwrap_or("");
    let mut bad = Vec::new();
    skip.ports = parse_list(text(labels::SKIP_PORTS), labels::SKIP_PORTS, &mut bad);
    skip.cidrs = parse_list(text(labels::SKIP_CIDRS), labels::SKIP_CIDRS, &mut bad);
    problems.extend(
        bad.into_iter()
            .map(|(key, message)| report(key, message, Severity::Warning)),
    );
    (Plan::Run(Spec { engine, skip }), problems)
}

/// The pod as the object of a problem or an event.
pub fn reference(meta: &ObjectMeta) -> ObjectRef {
    ObjectRef {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// Whether all containers have ended for good.
fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Pods whose traffic cannot or must not be captured.
fn excluded(pod: &Pod) -> Option<(&'static str, &'static str)> {
    if pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
        return Some((
            "spec.hostNetwork",
            "a pod on the host's network has no network namespace of its own, so its traffic is not captured; set hostNetwork: false",
        ));
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    SYSTEM_NAMESPACES.contains(&namespace).then_some((
        labels::ENABLED,
        "pods of weir-system and kube-system carry the mesh and are never captured; remove the label",
    ))
}

/// Splits at commas; a part that is no value is reported and left out.
fn parse_list<T: FromStr<Err = String>>(
    text: &str,
    key: &'static str,
    bad: &mut Vec<(&'static str, String)>,
) -> Vec<T> {
    let mut found = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        match part.parse() {
            Ok(value) => found.push(value),
            Err(reason) => bad.push((key, reason)),
        }
    }
    found
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (from.parse::<u16>(), to.parse::<u16>()) {
            (Ok(from), Ok(to)) if 0 < from && from <= to => Ok(Self { from, to }),
            _ => Err(format!("{text:?} is no port; write 9000 or 9000-9100")),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to {
            write!(f, "{}", self.from)
        } else {
            write!(f, "{}-{}", self.from, self.to)
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address range; write 10.0.0.0/8 or fd00::/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), str::parse).map_err(|_| wrong())?;
        if prefix > longest {
            Err(wrong())
        } else {
            Ok(Self { address, prefix })
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests;
