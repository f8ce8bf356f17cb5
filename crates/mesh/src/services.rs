//! Services: their addresses, the protocol of each port, their endpoints; and the addresses of single pods that clients
//! of headless services use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service as KubeService;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Serialize;
use weir_api::labels::{self, Protocol};

use crate::CLUSTER_DOMAIN;
use crate::exports::{self, Exports};
use crate::memo::Memo;
use crate::objects::{Key, Objects, object_ref};
use crate::pods::{self, Identity, Pod, WEIGHT_DEFAULT};
use crate::policy::Policy;
use crate::policy::read::{Labels, Source, idle_keys};
use crate::problems::{Problems, field};
use crate::routes::Rule;
use crate::settings::{Defaults, Settings};
use crate::telemetry::{self, Telemetry};

/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Services that every pod needs: never blocked, and passed on untouched unless labelled otherwise.
const ALWAYS_REACHABLE: [(&str, &str); 2] = [("default", "kubernetes"), ("kube-system", "kube-dns")];

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid of the object.
    pub uid: String,
    /// Virtual addresses; empty for headless ones.
    pub cluster_ips: Vec<IpAddr>,
    /// It has no address of its own: clients use those of its pods.
    pub headless: bool,
    /// How much is measured about its traffic, as far as it says so itself.
    pub telemetry: Telemetry,
    /// What its labels ask for its traffic.
    pub policy: Policy,
    /// The namespaces that it is for.
    #[serde(skip_serializing_if = "Exports::is_everywhere")]
    pub exports: Exports,
    /// TCP ports by number.
    pub ports: BTreeMap<u16, ServicePort>,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// Name; empty where there is only one port.
    pub name: String,
    /// How meshed clients' traffic is handled; `None`: it is blocked.
    pub protocol: Option<Protocol>,
    /// Rules lead here from elsewhere, with this protocol: there is a destination whether the port is labelled or not.
    pub routed: Option<Protocol>,
    /// Where it leads, in order of address and port.
    pub endpoints: Vec<Endpoint>,
    /// What stands in front of the endpoints; the first rule that takes a request decides. What no rule takes goes to the
    /// endpoints.
    pub rules: Vec<Rule>,
    /// By namespace: rules that stand in the place of these for clients of that namespace alone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub consumers: BTreeMap<String, Vec<Rule>>,
}

impl ServicePort {
    /// The protocol in which the endpoints are spoken to. `None` or direct: nothing is balanced to them.
    pub fn carried(&self) -> Option<Protocol> {
        match (self.protocol, self.routed) {
            (Some(Protocol::Direct), Some(routed)) => Some(routed),
            // A rule sees requests, the label says which HTTP they are.
            (Some(own), Some(routed)) if routed.has_requests() && !own.has_requests() => Some(routed),
            (own, routed) => own.or(routed),
        }
    }

    /// A rule leads here.
    pub(crate) fn route_here(&mut self, protocol: Protocol) {
        self.routed = Some(self.routed.map_or(protocol, |known| known.min(protocol)));
    }
}

/// An address behind a Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    /// Address.
    pub ip: IpAddr,
    /// Port, already resolved from number or name.
    pub port: u16,
    /// The pod that has the address, if it is one.
    pub identity: Option<Arc<Identity>>,
    /// Share of traffic, 0 to 128; at 0 it takes none.
    pub weight: u32,
    /// It takes traffic: ready and not about to go.
    pub ready: bool,
    /// Host name within a headless service; empty if it has none.
    pub hostname: String,
}

/// An address of a single pod that clients use directly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Address {
    /// The strongest protocol asked for: http over http2, grpc, tcp and direct.
    pub protocol: Protocol,
    /// The address itself. Whether it is ready does not matter: the client chose it.
    pub endpoint: Endpoint,
    /// Namespace of the service or pod, for names.
    pub namespace: String,
    /// The headless service that leads here (the first by name, if several); empty if there is none.
    pub service: String,
    /// Host names under which clients know it.
    pub domains: BTreeSet<String>,
    /// What its services say about how much is measured, the first by name first.
    pub telemetry: Telemetry,
    /// What the labels of the pod and, below it, of the services ask for its traffic.
    pub policy: Policy,
    /// The namespaces that it is for: those of any of its services.
    #[serde(skip_serializing_if = "Exports::is_everywhere")]
    pub exports: Exports,
}

impl Service {
    /// The key of the service.
    pub fn key(&self) -> Key {
        Key::new(&*self.namespace, &*self.name)
    }

    /// All host names of the service, each with and without the port.
    pub fn domains(&self, port: u16) -> BTreeSet<String> {
        let mut hosts = dns_names("", &self.name, &self.namespace);
        hosts.extend(self.cluster_ips.iter().map(host));
        with_port(hosts, port)
    }
}

/// An address as it stands in a host header.
fn host(ip: &IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn dns_names(prefix: &str, service: &str, namespace: &str) -> Vec<String> {
    vec![
        format!("{prefix}{service}"),
        format!("{prefix}{service}.{namespace}"),
        format!("{prefix}{service}.{namespace}.svc"),
        format!("{prefix}{service}.{namespace}.svc.{CLUSTER_DOMAIN}"),
    ]
}

fn with_port(hosts: Vec<String>, port: u16) -> BTreeSet<String> {
    hosts
        .into_iter()
        .flat_map(|host| [format!("{host}:{port}"), host])
        .collect()
}

pub(crate) fn build(
    objects: &Objects,
    pods: &BTreeMap<Key, Pod>,
    settings: &Settings,
    memo: &mut Memo,
    problems: &mut Problems,
) -> BTreeMap<Key, Service> {
    let mut slices: BTreeMap<Key, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for (key, slice) in &objects.endpoint_slices {
        if let Some(name) = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME)) {
            slices
                .entry(Key::new(&*key.namespace, &**name))
                .or_default()
                .push(slice);
        }
    }
    let build = |(key, object): (&Key, &Arc<KubeService>)| {
        let slices = slices.get(key).map(Vec::as_slice).unwrap_or_default();
        let service = memo.service(key, object, slices, problems, |problems| {
            let mut service = service(key, object, slices, pods, settings, problems);
            service.exports = exports::of_service(key, object, objects, problems);
            service
        });
        (key.clone(), service)
    };
    objects.services.iter().map(build).collect()
}

fn service(
    key: &Key,
    object: &KubeService,
    slices: &[&Arc<EndpointSlice>],
    pods: &BTreeMap<Key, Pod>,
    settings: &Settings,
    problems: &mut Problems,
) -> Service {
    let spec = object.spec.clone().unwrap_or_default();
    let listed: Vec<String> = spec.cluster_ips.into_iter().flatten().chain(spec.cluster_ip).collect();
    let mut cluster_ips: Vec<IpAddr> = listed.iter().filter_map(|ip| ip.parse().ok()).collect();
    cluster_ips.sort_unstable();
    cluster_ips.dedup();
    let external = spec.type_.as_deref() == Some("ExternalName");

    let mut ports: BTreeMap<u16, ServicePort> = BTreeMap::new();
    for port in spec.ports.iter().flatten() {
        let tcp = port.protocol.as_deref().is_none_or(|p| p == "TCP");
        if let (true, Ok(number)) = (tcp, u16::try_from(port.port)) {
            let name = port.name.clone().unwrap_or_default();
            let endpoints = endpoints(&name, slices, pods);
            let addressed = !external;
            ports.insert(
                number,
                ServicePort {
                    name,
                    protocol: settings.outbound_default.protocol(port).filter(|_| addressed),
                    endpoints,
                    ..ServicePort::default()
                },
            );
        }
    }
    let reachable = ALWAYS_REACHABLE.contains(&(&*key.namespace, &*key.name));
    if reachable {
        ports
            .values_mut()
            .for_each(|port| port.protocol = Some(Protocol::Direct));
    }
    label_ports(object, &mut ports, problems);
    let labelled = !labels::ports(&object.metadata, labels::PORT_PREFIX).is_empty();
    let selects = spec.selector.as_ref().is_some_and(|s| !s.is_empty());
    if labelled && (external || (!selects && slices.is_empty())) {
        let why = if external {
            "an ExternalName Service has no address, so its port labels can never apply; use a Service with a selector"
        } else {
            "the Service selects no pods and has no EndpointSlice, so its port labels can never apply; give it a selector"
        };
        problems.error(
            object_ref("v1", "Service", &object.metadata),
            "spec.selector".to_owned(),
            why,
        );
    }
    idle_keys(&Source::service(&object.metadata), labels::Place::Service, problems);
    Service {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        headless: cluster_ips.is_empty() && !external,
        telemetry: telemetry::of_service(object, problems),
        policy: Labels {
            pod: &[],
            services: &[Source::service(&object.metadata)],
            defaults: &settings.defaults,
            problems,
        }
        .policy(),
        exports: Exports::default(),
        cluster_ips,
        ports,
    }
}

/// Gives each port the protocol of its label. A port with a bad label stays as it was.
fn label_ports(object: &KubeService, ports: &mut BTreeMap<u16, ServicePort>, problems: &mut Problems) {
    let meta = &object.metadata;
    let this = || object_ref("v1", "Service", meta);
    for entry in labels::ports(meta, labels::PORT_PREFIX) {
        let (number, text) = match entry {
            Ok(label) => label,
            Err((key, why)) => {
                problems.error(this(), field(meta, key), why);
                continue;
            }
        };
        let key = format!("{}{number}", labels::PORT_PREFIX);
        let Some(port) = ports.get_mut(&number) else {
            let has = match ports.len() {
                0 => "none".to_owned(),
                _ => ports.keys().map(u16::to_string).collect::<Vec<_>>().join(", "),
            };
            problems.error(
                this(),
                field(meta, &key),
                format!("the Service has no TCP port {number}; its TCP ports: {has} (label the Service's port, not the container's)"),
            );
            continue;
        };
        match text.parse::<Protocol>() {
            Ok(protocol) => port.protocol = Some(protocol),
            Err(why) => problems.error(this(), field(meta, &key), why.to_string()),
        }
    }
}

/// What the slices say of the port with this name. One address that stands in several slices counts once.
fn endpoints(port_name: &str, slices: &[&Arc<EndpointSlice>], pods: &BTreeMap<Key, Pod>) -> Vec<Endpoint> {
    let mut found: BTreeMap<(IpAddr, u16), Endpoint> = BTreeMap::new();
    for slice in slices {
        let named = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            p.name.as_deref().unwrap_or_default() == port_name && p.protocol.as_deref().is_none_or(|p| p == "TCP")
        };
        let Some(port) = slice.ports.iter().flatten().find(named) else {
            continue;
        };
        let Some(Ok(port)) = port.port.map(u16::try_from) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let pod = endpoint
                .target_ref
                .as_ref()
                .filter(|target| target.kind.as_deref() == Some("Pod"))
                .and_then(|target| {
                    let namespace = target.namespace.as_deref().or(slice.metadata.namespace.as_deref())?;
                    pods.get(&Key::new(namespace, target.name.as_deref()?))
                });
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true)
                && !conditions.and_then(|c| c.terminating).unwrap_or(false)
                && !pod.is_some_and(|p| p.terminating);
            for ip in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                let endpoint = Endpoint {
                    ip,
                    port,
                    identity: pod.map(|p| Arc::clone(&p.identity)),
                    weight: pod.map_or(WEIGHT_DEFAULT, |p| p.weight),
                    ready,
                    hostname: endpoint.hostname.clone().unwrap_or_default(),
                };
                let known = found.entry((ip, port)).or_insert_with(|| endpoint.clone());
                if endpoint.ready && !known.ready {
                    *known = endpoint;
                }
            }
        }
    }
    found.into_values().collect()
}

/// The addresses of single pods that clients use directly: of headless services first, the pods' own labels on top.
pub(crate) fn addresses(
    objects: &Objects,
    services: &BTreeMap<Key, Service>,
    pods: &BTreeMap<Key, Pod>,
    defaults: &Defaults,
    problems: &mut Problems,
) -> BTreeMap<(IpAddr, u16), Address> {
    let mut found: BTreeMap<(IpAddr, u16), Address> = BTreeMap::new();
    let mut leading: BTreeMap<(IpAddr, u16), Vec<Source<'_>>> = BTreeMap::new();
    for service in services.values().filter(|s| s.headless) {
        for (number, port) in &service.ports {
            let Some(protocol) = port.protocol else { continue };
            for endpoint in &port.endpoints {
                let address = found.entry((endpoint.ip, endpoint.port)).or_insert_with(|| Address {
                    protocol,
                    endpoint: endpoint.clone(),
                    namespace: service.namespace.clone(),
                    service: service.name.clone(),
                    domains: own_domains(endpoint.ip, endpoint.port),
                    telemetry: Telemetry::default(),
                    policy: Policy::default(),
                    exports: service.exports.clone(),
                });
                address.exports.widen(&service.exports);
                if let Some(object) = objects.services.get(&service.key()) {
                    let sources = leading.entry((endpoint.ip, endpoint.port)).or_default();
                    sources.push(Source::service(&object.metadata));
                }
                address.telemetry = address.telemetry.or(&service.telemetry);
                address.protocol = address.protocol.min(protocol);
                address.domains.extend(service.domains(*number));
                // A headless service's clients use the target's port: the service's own number leads nowhere.
                address.domains.extend(service.domains(endpoint.port));
                if !endpoint.hostname.is_empty() {
                    let prefix = format!("{}.", endpoint.hostname);
                    let names = dns_names(&prefix, &service.name, &service.namespace);
                    address.domains.extend(with_port(names, endpoint.port));
                }
            }
        }
    }
    for (key, object) in &objects.pods {
        let Some(pod) = pods.get(key) else { continue };
        for (port, protocol) in pods::target_ports(&object.metadata, problems) {
            for ip in pod.ips.iter().filter(|_| !pod.host_network) {
                let address = found.entry((*ip, port)).or_insert_with(|| Address {
                    protocol,
                    endpoint: Endpoint {
                        ip: *ip,
                        port,
                        identity: Some(Arc::clone(&pod.identity)),
                        weight: pod.weight,
                        ready: !pod.terminating,
                        hostname: String::new(),
                    },
                    namespace: key.namespace.clone(),
                    service: String::new(),
                    domains: own_domains(*ip, port),
                    telemetry: Telemetry::default(),
                    policy: Policy::default(),
                    exports: Exports::Everywhere,
                });
                // The pod itself offers it to whoever has its address.
                address.exports = Exports::Everywhere;
                address.protocol = protocol;
            }
        }
    }
    for (at, address) in &mut found {
        let pod = address.endpoint.identity.as_ref();
        let pod = pod.and_then(|who| objects.pods.get(&Key::new(&*who.namespace, &*who.pod)));
        address.policy = Labels {
            pod: &pod.map(|pod| pods::sources(objects, &pod.metadata)).unwrap_or_default(),
            services: leading.get(at).map(Vec::as_slice).unwrap_or_default(),
            defaults,
            problems,
        }
        .policy();
    }
    found
}

fn own_domains(ip: IpAddr, port: u16) -> BTreeSet<String> {
    with_port(vec![host(&ip)], port)
}

/// JSON wants text as keys.
pub(crate) fn serialize_addresses<S: serde::Serializer>(
    map: &BTreeMap<(IpAddr, u16), Address>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        map.iter()
            .map(|((ip, port), a)| (std::net::SocketAddr::new(*ip, *port).to_string(), a)),
    )
}
