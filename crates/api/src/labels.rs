//! The `traffic.*` vocabulary: every label and annotation key that Weir reads or writes, and the rules that say whose
//! value counts.
//!
//! Enters: object metadata. Leaves: the text of a value, or a typed value with a reason why it is none. It does not
//! know what a value does to traffic; that is the mesh model's part.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::{Deserialize, Serialize};

/// How every key begins.
pub const PREFIX: &str = "traffic.";
/// On a Pod or workload: `"true"` runs a proxy for these pods and captures their traffic.
pub const ENABLED: &str = "traffic.envoy.enabled";
/// On a Pod, workload or Namespace: which proxy runs, `weir` or `envoy`.
pub const ENGINE: &str = "traffic.proxy.engine";
/// On a Service, `traffic.port.<N>`: the protocol of service port N for meshed clients.
pub const PORT_PREFIX: &str = "traffic.port.";
/// On a Pod, `traffic.target.port.<N>`: the protocol of port N for traffic sent straight to the pod's address.
pub const TARGET_PORT_PREFIX: &str = "traffic.target.port.";
/// On a Pod or workload: outbound ports (comma separated) that are not captured.
pub const SKIP_PORTS: &str = "traffic.outbound.skip-ports";
/// On a Pod, workload or Namespace: outbound address ranges (comma separated) that are not captured.
pub const SKIP_CIDRS: &str = "traffic.outbound.skip-cidrs";
/// On a Service: load balancing policy.
pub const LB_POLICY: &str = "traffic.lb.policy";
/// On a Service: name of the cookie that is hashed.
pub const HASH_COOKIE_NAME: &str = "traffic.hash.cookie.name";
/// On a Service: seconds a generated hash cookie lives.
pub const HASH_COOKIE_TTL: &str = "traffic.hash.cookie.ttl";
/// On a Service: name of the request header that is hashed.
pub const HASH_HEADER_NAME: &str = "traffic.hash.header.name";
/// On a Pod or workload: weight of each of its endpoints, 0-128.
pub const WEIGHT: &str = "traffic.endpoint.weight";
/// On a Pod or Service: injected delay.
pub const FAULT_DELAY_TIME: &str = "traffic.fault.delay.time";
/// On a Pod or Service: share of requests that are delayed.
pub const FAULT_DELAY_PERCENTAGE: &str = "traffic.fault.delay.percentage";
/// On a Pod or Service: status of aborted requests.
pub const FAULT_ABORT_STATUS: &str = "traffic.fault.abort.status";
/// On a Pod or Service: share of requests that are aborted.
pub const FAULT_ABORT_PERCENTAGE: &str = "traffic.fault.abort.percentage";
/// On a Pod or Service: bandwidth of a client's response stream, KiB/s.
pub const RATE_LIMIT: &str = "traffic.rate.limit";
/// On a Pod or Service: trace requests.
pub const TRACING_ENABLED: &str = "traffic.tracing.enabled";
/// On a Pod or Service: percentage of requests that are traced.
pub const TRACING_SAMPLING: &str = "traffic.tracing.sampling";
/// On a Pod or Service: whole-request timeout.
pub const REQUEST_TIMEOUT: &str = "traffic.request.timeout";
/// On a Pod or Service: timeout of each try of a request.
pub const REQUEST_PER_TRY_TIMEOUT: &str = "traffic.request.per-try-timeout";
/// On a Pod or Service: how long a request may pass without a byte in either direction.
pub const REQUEST_IDLE_TIMEOUT: &str = "traffic.request.idle-timeout";
/// On a Pod or Service: number of retries after a 5xx.
pub const RETRIES_5XX: &str = "traffic.retries.5xx";
/// On a Pod or Service: number of retries after a failed connect.
pub const RETRIES_CONNECT_FAILURE: &str = "traffic.retries.connect-failure";
/// On a Pod or Service: number of retries after 502, 503 or 504.
pub const RETRIES_GATEWAY_ERROR: &str = "traffic.retries.gateway-error";
/// On a Service: circuit breaker, concurrent retries.
pub const RETRIES_MAX: &str = "traffic.retries.max";
/// On a Service: share of the requests under way that may be retries.
pub const RETRIES_BUDGET: &str = "traffic.retries.budget";
/// On a Service: share of healthy endpoints below which all are used.
pub const LB_PANIC_THRESHOLD: &str = "traffic.lb.panic-threshold";
/// On a Service: `"false"` keeps endpoints in use however they fail.
pub const OUTLIER_ENABLED: &str = "traffic.outlier.enabled";
/// On a Service: failures in a row (502, 503, 504, no connection) after which an endpoint is ejected.
pub const OUTLIER_GATEWAY_ERRORS: &str = "traffic.outlier.consecutive-gateway-errors";
/// On a Service: answers of 5xx in a row after which an endpoint is ejected; 0 = they do not count.
pub const OUTLIER_5XX: &str = "traffic.outlier.consecutive-5xx";
/// On a Service: how long an endpoint is ejected the first time.
pub const OUTLIER_EJECTION_TIME: &str = "traffic.outlier.ejection-time";
/// On a Service: share of the endpoints that may be ejected at a time.
pub const OUTLIER_MAX_EJECTION_PERCENT: &str = "traffic.outlier.max-ejection-percent";
/// On a Service: circuit breaker, connections.
pub const CONNECTION_MAX: &str = "traffic.connection.max";
/// On a Service: circuit breaker, waiting requests.
pub const REQUEST_MAX_PENDING: &str = "traffic.request.max-pending";
/// On a Service: circuit breaker, concurrent requests.
pub const REQUEST_MAX: &str = "traffic.request.max";
/// On a Service: connect timeout.
pub const CONNECTION_TIMEOUT: &str = "traffic.connection.timeout";
/// On a Service: how finely the figures of its traffic tell the other side apart.
pub const METRICS_GRANULARITY: &str = "traffic.metrics.granularity";
/// On a Service: bounds of the latency histograms of its traffic.
pub const METRICS_BUCKETS: &str = "traffic.metrics.buckets";
/// On a Service, as an annotation: namespaces (comma separated) that it is for; `.` its own, `*` all.
pub const EXPORT_TO: &str = "traffic.export-to";
/// On an Ingress: `"false"` serves TLS hosts in clear text too.
pub const INGRESS_SSL_REDIRECT: &str = "traffic.ingress.ssl-redirect";
/// Annotation that Weir writes on a pod: id of its running proxy, "" when there is none.
pub const PROXY: &str = "traffic.envoy.proxy";

/// Label of a pod that is a proxy itself and has none beside it: the node id by which it asks for its configuration.
pub const GATEWAY: &str = "traffic.proxy.gateway";

/// Port on which each proxy serves its metrics and readiness.
pub const PROXY_METRICS_PORT: u16 = 8900;

/// Which objects a key may stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Services alone.
    Service,
    /// Pods (and workloads, some also Namespaces) alone.
    Pod,
    /// Both.
    Either,
    /// Ingresses alone.
    Ingress,
}

/// Every key, those that end in a dot to be followed by a number.
const KEYS: [(&str, Place); 42] = [
    (ENABLED, Place::Pod),
    (ENGINE, Place::Pod),
    (PROXY, Place::Pod),
    (SKIP_PORTS, Place::Pod),
    (SKIP_CIDRS, Place::Pod),
    (WEIGHT, Place::Pod),
    (EXPORT_TO, Place::Service),
    (LB_POLICY, Place::Service),
    (LB_PANIC_THRESHOLD, Place::Service),
    (HASH_COOKIE_NAME, Place::Service),
    (HASH_COOKIE_TTL, Place::Service),
    (HASH_HEADER_NAME, Place::Service),
    (FAULT_DELAY_TIME, Place::Either),
    (FAULT_DELAY_PERCENTAGE, Place::Either),
    (FAULT_ABORT_STATUS, Place::Either),
    (FAULT_ABORT_PERCENTAGE, Place::Either),
    (RATE_LIMIT, Place::Either),
    (TRACING_ENABLED, Place::Either),
    (TRACING_SAMPLING, Place::Either),
    (REQUEST_TIMEOUT, Place::Either),
    (REQUEST_PER_TRY_TIMEOUT, Place::Either),
    (REQUEST_IDLE_TIMEOUT, Place::Either),
    (RETRIES_5XX, Place::Either),
    (RETRIES_CONNECT_FAILURE, Place::Either),
    (RETRIES_GATEWAY_ERROR, Place::Either),
    (RETRIES_MAX, Place::Service),
    (RETRIES_BUDGET, Place::Service),
    (CONNECTION_MAX, Place::Service),
    (CONNECTION_TIMEOUT, Place::Service),
    (REQUEST_MAX_PENDING, Place::Service),
    (REQUEST_MAX, Place::Service),
    (OUTLIER_ENABLED, Place::Service),
    (OUTLIER_GATEWAY_ERRORS, Place::Service),
    (OUTLIER_5XX, Place::Service),
    (OUTLIER_EJECTION_TIME, Place::Service),
    (OUTLIER_MAX_EJECTION_PERCENT, Place::Service),
    (METRICS_GRANULARITY, Place::Service),
    (METRICS_BUCKETS, Place::Service),
    (PORT_PREFIX, Place::Service),
    (TARGET_PORT_PREFIX, Place::Pod),
    (INGRESS_SSL_REDIRECT, Place::Ingress),
    (GATEWAY, Place::Pod),
];

/// Keys on an object that look like ours and do nothing there, each with what would be right. Keys of others
/// (`traffic.example.com/key`) are theirs.
pub fn idle(meta: &ObjectMeta, place: Place) -> Vec<(&str, String)> {
    let of_object = |known: Place| known == Place::Either || known == place;
    let maps = [&meta.labels, &meta.annotations];
    let keys = maps.into_iter().flatten().flat_map(|map| {
        map.range(PREFIX.to_owned()..)
            .map(|(key, _)| key.as_str())
            .take_while(|key| key.starts_with(PREFIX))
            .filter(|key| !key.contains('/'))
    });
    let wrong = |key: &str| {
        let is = |(known, _): &&(&str, Place)| key == *known || (known.ends_with('.') && key.starts_with(known));
        match KEYS.iter().find(is) {
            Some((_, known)) if of_object(*known) => None,
            Some((_, Place::Ingress)) => Some("has no effect here; set it on the Ingress".to_owned()),
            Some((_, Place::Pod)) => Some("has no effect on a Service; set it on the Pod or its workload".to_owned()),
            Some(_) => Some("has no effect on a Pod or workload; set it on the Service".to_owned()),
            None => Some(match nearest(key) {
                Some(known) => format!("is no key of the mesh; is {known} meant?"),
                None => "is no key of the mesh, and does nothing".to_owned(),
            }),
        }
    };
    let mut found: Vec<_> = keys.filter_map(|key| Some((key, wrong(key)?))).collect();
    found.dedup();
    found
}

/// The known key that is most like this one, if any is much like it.
fn nearest(key: &str) -> Option<&'static str> {
    const DIFFERENCES_MAX: usize = 3;
    let known = KEYS.iter().map(|(known, _)| (differences(key, known), *known));
    known
        .min()
        .filter(|(n, _)| *n <= DIFFERENCES_MAX)
        .map(|(_, known)| known)
}

/// How many letters must be changed, added or removed to make one text of the other.
fn differences(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The value of `key` on one object. An annotation wins over a label of the same name, because label values are short
/// and restricted. Surrounding blanks do not count.
pub fn value<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    let of = |map: &'a Option<std::collections::BTreeMap<String, String>>| map.as_ref().and_then(|m| m.get(key));
    of(&meta.annotations).or_else(|| of(&meta.labels)).map(|v| v.trim())
}

/// The value of `key` that counts for a pod: Pod over workload over Namespace. Pass `None` for a level that the key's
/// row in the documentation does not name.
pub fn effective<'a>(
    key: &str,
    pod: &'a ObjectMeta,
    workload: Option<&'a ObjectMeta>,
    namespace: Option<&'a ObjectMeta>,
) -> Option<&'a str> {
    value(pod, key)
        .or_else(|| workload.and_then(|w| value(w, key)))
        .or_else(|| namespace.and_then(|n| value(n, key)))
}

/// A port and the text that a key says about it; or the key that names no port, and why.
pub type PortValue<'a> = Result<(u16, &'a str), (&'a str, String)>;

/// All `(port, value)` pairs of keys `<prefix><N>` on an object, annotation over label, in order of the port. A suffix
/// that is no port number gives `Err((key, reason))`.
pub fn ports<'a>(meta: &'a ObjectMeta, prefix: &str) -> Vec<PortValue<'a>> {
    let mut found = std::collections::BTreeMap::new();
    for map in [&meta.labels, &meta.annotations].into_iter().flatten() {
        for (key, text) in map
            .range(prefix.to_owned()..)
            .take_while(|(k, _)| k.starts_with(prefix))
        {
            let suffix = &key[prefix.len()..];
            let entry = match suffix.parse::<u16>() {
                Ok(port) if port > 0 => Ok((port, text.trim())),
                _ => Err((
                    key.as_str(),
                    format!("{suffix:?} is not a port; write {prefix}N with N from 1 to 65535"),
                )),
            };
            let order = entry.as_ref().map_or(0, |(port, _)| *port);
            found.insert((order, suffix), entry);
        }
    }
    found.into_values().collect()
}

/// Why a label's text is not a value; the message says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub String);

/// Parses the text of a yes/no key.
pub fn parse_bool(text: &str) -> Result<bool, InvalidValue> {
    match text {
        "true" => Ok(true),
        "false" | "" => Ok(false),
        other => Err(InvalidValue(format!("{other:?} is neither \"true\" nor \"false\""))),
    }
}

/// Whether a pod's traffic is to be captured ([`ENABLED`], Pod over workload over Namespace). Invalid text counts as no
/// answer from anybody: the caller reports it and leaves the pod alone.
pub fn enabled(
    pod: &ObjectMeta,
    workload: Option<&ObjectMeta>,
    namespace: Option<&ObjectMeta>,
) -> Result<bool, InvalidValue> {
    effective(ENABLED, pod, workload, namespace).map_or(Ok(false), parse_bool)
}

/// The namespace that Weir is installed in; [`ENGINE`] on it is the mesh-wide default.
pub const SYSTEM_NAMESPACE: &str = "weir-system";

/// Which proxy a pod gets ([`ENGINE`], Pod over workload over Namespace over `system`, the namespace of Weir itself, over
/// `default`, which the mesh's settings say).
pub fn engine(
    pod: &ObjectMeta,
    workload: Option<&ObjectMeta>,
    namespace: Option<&ObjectMeta>,
    system: Option<&ObjectMeta>,
    default: Engine,
) -> Result<Engine, InvalidValue> {
    effective(ENGINE, pod, workload, namespace)
        .or_else(|| system.and_then(|meta| value(meta, ENGINE)))
        .map_or(Ok(default), str::parse)
}

/// The data plane of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Weir's own proxy.
    #[default]
    Weir,
    /// Stock Envoy under Weir's supervisor.
    Envoy,
}

impl Engine {
    /// The label's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Engine::Weir => "weir",
            Engine::Envoy => "envoy",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Engine {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "weir" => Ok(Engine::Weir),
            "envoy" => Ok(Engine::Envoy),
            other => Err(InvalidValue(format!(
                "{other:?} is not a proxy engine; write weir or envoy"
            ))),
        }
    }
}

/// How a port's traffic is handled. Where several speak of one port, the first in this order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Requests are seen, routed and measured one by one; the application is spoken to in HTTP/1.1.
    Http,
    /// The same, and the application is spoken to in HTTP/2 without TLS, whichever version the client speaks.
    Http2,
    /// HTTP/2 that carries gRPC.
    Grpc,
    /// Connections are balanced and measured.
    Tcp,
    /// Passed on untouched to the address the client chose.
    Direct,
}

impl Protocol {
    /// The label's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
            Protocol::Tcp => "tcp",
            Protocol::Direct => "direct",
        }
    }

    /// Requests are seen one by one.
    pub fn has_requests(self) -> bool {
        matches!(self, Protocol::Http | Protocol::Http2 | Protocol::Grpc)
    }

    /// The application speaks HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Protocol::Http2 | Protocol::Grpc)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "http" => Ok(Protocol::Http),
            "http2" => Ok(Protocol::Http2),
            "grpc" => Ok(Protocol::Grpc),
            "tcp" => Ok(Protocol::Tcp),
            "direct" => Ok(Protocol::Direct),
            other => Err(InvalidValue(format!(
                "{other:?} is not a protocol; write http, http2, grpc, tcp or direct (the port stays blocked until then)"
            ))),
        }
    }
}

/// The owner that controls an object, if any.
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .as_ref()?
        .iter()
        .find(|o| o.controller == Some(true))
}

/// The workload of a pod as `(kind, name)`, kind in lower case as metric labels write it. A ReplicaSet resolves to its
/// Deployment: by `replica_set` (its metadata) where the caller has it, else by the pod-template-hash suffix of its name.
pub fn owner(pod: &ObjectMeta, replica_set: Option<&ObjectMeta>) -> Option<(String, String)> {
    let owner = controller(pod)?;
    if owner.kind == "ReplicaSet" {
        if let Some(above) = replica_set.and_then(controller) {
            return Some((above.kind.to_lowercase(), above.name.clone()));
        }
        let hash = pod.labels.as_ref().and_then(|l| l.get("pod-template-hash"));
        if replica_set.is_none()
            && let Some(deployment) = hash
                .and_then(|h| owner.name.strip_suffix(h))
                .and_then(|n| n.strip_suffix('-'))
            && !deployment.is_empty()
        {
            return Some(("deployment".to_owned(), deployment.to_owned()));
        }
    }
    Some((owner.kind.to_lowercase(), owner.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> ObjectMeta {
        let map = |pairs: &[(&str, &str)]| Some(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        ObjectMeta {
            labels: map(labels),
            annotations: map(annotations),
            ..Default::default()
        }
    }

    #[test]
    fn annotation_wins_over_label() {
        let m = meta(&[(WEIGHT, "1")], &[(WEIGHT, " 2 ")]);
        assert_eq!(value(&m, WEIGHT), Some("2"));
        assert_eq!(value(&m, ENGINE), None);
    }

    #[test]
    fn keys_that_do_nothing_are_told() {
        let keys = [
            ("traffic.port.80", "http"),
            ("traffic.retires.5xx", "3"),
            ("traffic.sidecar.example.io/x", "1"),
            ("traffic.everything", "1"),
            (LB_POLICY, "RANDOM"),
            (WEIGHT, "3"),
        ];
        let told = |place| {
            let on = meta(&keys, &[]);
            let told = idle(&on, place).into_iter().map(|(key, why)| format!("{key} {why}"));
            told.collect::<Vec<_>>()
        };
        let unknown = [
            "traffic.everything is no key of the mesh, and does nothing",
            "traffic.retires.5xx is no key of the mesh; is traffic.retries.5xx meant?",
        ];
        let weight = "traffic.endpoint.weight has no effect on a Service; set it on the Pod or its workload";
        let policy = "traffic.lb.policy has no effect on a Pod or workload; set it on the Service";
        assert_eq!(told(Place::Service), [weight, unknown[0], unknown[1]]);
        let port = "traffic.port.80 has no effect on a Pod or workload; set it on the Service";
        assert_eq!(told(Place::Pod), [unknown[0], policy, port, unknown[1]]);
    }

    #[test]
    fn pod_over_workload_over_namespace() {
        let pod = meta(&[], &[]);
        let workload = meta(&[(ENGINE, "envoy")], &[]);
        let namespace = meta(&[(ENGINE, "weir"), (ENABLED, "true")], &[]);
        let default = Engine::Weir;
        assert_eq!(
            engine(&pod, Some(&workload), Some(&namespace), None, default),
            Ok(Engine::Envoy)
        );
        assert_eq!(engine(&pod, None, None, Some(&workload), default), Ok(Engine::Envoy));
        assert_eq!(engine(&pod, None, None, None, Engine::Envoy), Ok(Engine::Envoy));
        assert_eq!(enabled(&pod, Some(&workload), Some(&namespace)), Ok(true));
        assert_eq!(enabled(&pod, Some(&workload), None), Ok(false));
        let off = meta(&[(ENABLED, "false")], &[]);
        assert_eq!(enabled(&off, Some(&workload), Some(&namespace)), Ok(false));
    }

    #[test]
    fn errors_say_what_would_be_right() {
        let text = "htp".parse::<Protocol>().unwrap_err().to_string();
        assert!(
            text.contains("\"htp\"") && text.contains("http, http2, grpc, tcp or direct"),
            "{text}"
        );
        assert!(
            "Envoy"
                .parse::<Engine>()
                .unwrap_err()
                .to_string()
                .contains("weir or envoy")
        );
        assert!(parse_bool("yes").unwrap_err().to_string().contains("\"true\""));
    }

    #[test]
    fn protocols_read_back_as_written() {
        let all = [
            Protocol::Http,
            Protocol::Http2,
            Protocol::Grpc,
            Protocol::Tcp,
            Protocol::Direct,
        ];
        assert!(all.is_sorted(), "the strongest comes first");
        for protocol in all {
            assert_eq!(protocol.as_str().parse(), Ok(protocol));
            assert_eq!(serde_json::to_value(protocol).unwrap(), protocol.as_str());
        }
    }

    #[test]
    fn ports_in_order_and_bad_suffixes_reported() {
        let m = meta(
            &[
                ("traffic.port.9080", "http"),
                ("traffic.port.80", "tcp"),
                ("traffic.port.x", "http"),
            ],
            &[("traffic.port.80", "direct")],
        );
        let found = ports(&m, PORT_PREFIX);
        assert!(matches!(&found[0], Err((key, why)) if *key == "traffic.port.x" && why.contains("1 to 65535")));
        assert_eq!(found[1..], [Ok((80, "direct")), Ok((9080, "http"))]);
    }

    #[test]
    fn owner_of_a_deployment_pod() {
        let reference = |kind: &str, name: &str| OwnerReference {
            kind: kind.into(),
            name: name.into(),
            controller: Some(true),
            ..Default::default()
        };
        let mut pod = meta(&[("pod-template-hash", "5df889bcff")], &[]);
        assert_eq!(owner(&pod, None), None);
        pod.owner_references = Some(vec![reference("ReplicaSet", "reviews-v3-5df889bcff")]);
        let deployment = Some(("deployment".to_owned(), "reviews-v3".to_owned()));
        assert_eq!(owner(&pod, None), deployment);
        let mut set = ObjectMeta::default();
        assert_eq!(
            owner(&pod, Some(&set)),
            Some(("replicaset".to_owned(), "reviews-v3-5df889bcff".to_owned()))
        );
        set.owner_references = Some(vec![reference("Deployment", "reviews-v3")]);
        assert_eq!(owner(&pod, Some(&set)), deployment);
    }
}
