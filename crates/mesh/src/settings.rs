//! The mesh-wide settings: ConfigMap `weir-mesh`. A part that is bad keeps its last good value and becomes a problem; a
//! ConfigMap that is not there says nothing.

mod read;

pub(crate) use read::{Reading, text_of};

use std::time::Duration;

use serde::Serialize;
use weir_api::labels::{Engine, InvalidValue, Protocol};
use weir_api::percent::Percent;

use k8s_openapi::api::core::v1::ServicePort as KubeServicePort;

use crate::objects::{Key, Objects};
use crate::policy::{Outlier, Policy, RetryCounts, Timeouts, Tracing};
use crate::problems::Problems;
use crate::services::{Endpoint, Service};
use crate::telemetry::Telemetry;
use crate::{CLUSTER_DOMAIN, Mesh};

/// Where spans go if nobody says: this Service, if it exists.
const COLLECTOR_DEFAULT: (&str, &str, u16) = ("default", "zipkin", 9411);
/// Where OTLP over HTTP is served if nobody says.
const OTLP_PORT: u16 = 4318;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Settings {
    /// What happens to outbound traffic that no label speaks of.
    pub outbound_default: OutboundDefault,
    /// The engine of pods whose objects say nothing.
    pub engine: Option<Engine>,
    /// Each request is told on the proxy's own output.
    pub access_log: bool,
    /// What holds where neither Service nor Pod says anything.
    pub defaults: Defaults,
    /// Where spans go.
    pub tracing: Backend,
    /// What holds for requests from outside.
    pub ingress: Ingress,
}

/// What holds for requests from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ingress {
    /// Proxies in front of the gateway whose word about the client counts.
    pub trusted_hops: u32,
    /// The port at which clients reach TLS, for redirects; `None`: the port of a request stays as it is.
    pub https_port: Option<u16>,
}

/// What happens to outbound traffic that no label speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutboundDefault {
    /// It is blocked.
    #[default]
    Deny,
    /// It is passed on as it is.
    Allow,
    /// A Service's port is what it is declared to be, or named, or TCP; all else is passed on as it is.
    Detect,
}

impl std::str::FromStr for OutboundDefault {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "deny" => Ok(Self::Deny),
            "allow" => Ok(Self::Allow),
            "detect" => Ok(Self::Detect),
            other => Err(InvalidValue(format!(
                "{other:?} is no default for outbound traffic; write deny, allow or detect"
            ))),
        }
    }
}

impl OutboundDefault {
    /// What an unlabelled port of a Service is; `None`: there is no listener for it, and what holds for all other
    /// addresses holds for it too.
    pub(crate) fn protocol(self, port: &KubeServicePort) -> Option<Protocol> {
        (self == Self::Detect).then(|| detected(port))
    }

    /// Traffic that no listener takes is passed on as it is.
    pub fn passes_on(self) -> bool {
        self != Self::Deny
    }
}

/// The protocol that a port declares (`appProtocol`), or that its name begins with, or TCP.
fn detected(port: &KubeServicePort) -> Protocol {
    let word = |text: &str| match text {
        "http" | "ws" | "kubernetes.io/ws" | "grpc-web" => Some(Protocol::Http),
        "http2" | "h2c" | "kubernetes.io/h2c" => Some(Protocol::Http2),
        "grpc" => Some(Protocol::Grpc),
        _ => None,
    };
    if let Some(declared) = &port.app_protocol {
        return word(&declared.to_ascii_lowercase()).unwrap_or(Protocol::Tcp);
    }
    let name = port.name.as_deref().unwrap_or_default();
    let prefix = name.split('-').next().unwrap_or_default();
    match name.starts_with("grpc-web") {
        true => Protocol::Http,
        false => word(prefix).unwrap_or(Protocol::Tcp),
    }
}

/// What holds where neither Service nor Pod says anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Defaults {
    /// How long a connection may take to open.
    pub connect_timeout: Option<Duration>,
    /// How long a request may take.
    pub timeouts: Timeouts,
    /// How often it is tried again.
    pub retries: RetryCounts,
    /// Share of the requests under way that may be retries.
    pub retry_budget: Option<Percent>,
    /// When an endpoint is left out.
    pub outlier: Outlier,
    /// Share of the requests that are traced where tracing is on.
    pub sampling: Option<Percent>,
}

impl Defaults {
    /// The policy of a destination of which nobody says anything.
    pub fn policy(&self) -> Policy {
        let nonzero = |timeout: Option<Duration>| timeout.filter(|d| !d.is_zero());
        let mut policy = Policy {
            connect_timeout: nonzero(self.connect_timeout),
            timeouts: Timeouts {
                request: nonzero(self.timeouts.request),
                per_try: nonzero(self.timeouts.per_try),
                idle: nonzero(self.timeouts.idle),
            },
            retries: self.retries.combined(),
            outlier: self.outlier,
            tracing: Tracing::default(),
            ..Policy::default()
        };
        policy.limits.retry_budget = self.retry_budget;
        policy
    }
}

/// Where spans go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// In which format; `None`: nobody says.
    pub format: Option<SpanFormat>,
    /// Host and port; `None`: nobody says.
    pub address: Option<(String, u16)>,
}

/// In which format spans are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanFormat {
    /// Zipkin's v2 JSON.
    Zipkin,
    /// OpenTelemetry's protocol over HTTP.
    Otlp,
    /// Not at all.
    None,
}

impl std::str::FromStr for SpanFormat {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "zipkin" => Ok(Self::Zipkin),
            "otlp" => Ok(Self::Otlp),
            "none" => Ok(Self::None),
            other => Err(InvalidValue(format!(
                "{other:?} is no tracing back end; write zipkin, otlp or none"
            ))),
        }
    }
}

/// Who takes spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector<'a> {
    /// In which format.
    pub format: SpanFormat,
    /// Name or address, as spans' requests name it.
    pub host: String,
    /// Port of the host.
    pub port: u16,
    /// The endpoints behind it, where it is a Service of the cluster.
    pub endpoints: Option<&'a [Endpoint]>,
}

impl Mesh {
    /// Who takes spans; `None`: nobody, and nothing is traced.
    pub fn collector(&self) -> Option<Collector<'_>> {
        collector(&self.settings.tracing, |key| self.services.get(key))
    }
}

fn collector<'a>(backend: &Backend, service: impl Fn(&Key) -> Option<&'a Service>) -> Option<Collector<'a>> {
    let port_of = |key: &Key, port: u16| service(key)?.ports.get(&port).map(|p| p.endpoints.as_slice());
    let format = backend.format.unwrap_or(SpanFormat::Zipkin);
    if format == SpanFormat::None {
        return None;
    }
    let (namespace, name, usual_port) = COLLECTOR_DEFAULT;
    let Some((host, port)) = &backend.address else {
        let port = if format == SpanFormat::Otlp {
            OTLP_PORT
        } else {
            usual_port
        };
        let endpoints = port_of(&Key::new(namespace, name), port)?;
        return Some(Collector {
            format,
            host: format!("{name}.{namespace}"),
            port,
            endpoints: Some(endpoints),
        });
    };
    let endpoints = named_service(host).and_then(|key| port_of(&key, *port));
    Some(Collector {
        format,
        host: host.clone(),
        port: *port,
        endpoints,
    })
}

/// The Service that a host name of the cluster means.
fn named_service(host: &str) -> Option<Key> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = host.strip_suffix(&format!(".{CLUSTER_DOMAIN}")).unwrap_or(host);
    let host = host.strip_suffix(".svc").unwrap_or(host);
    let (name, namespace) = host.split_once('.')?;
    (!name.is_empty() && !namespace.is_empty() && !namespace.contains('.')).then(|| Key::new(namespace, name))
}

/// What the mesh's ConfigMap says. What is bad in it stays as in `previous`.
pub(crate) fn of_mesh(
    objects: &Objects,
    previous: &Settings,
    measured: &Telemetry,
    problems: &mut Problems,
) -> (Settings, Telemetry) {
    read::settings(objects, previous, measured, problems)
}
