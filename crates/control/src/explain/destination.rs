//! URL -> address: what the cluster's DNS would say to the pod, as far as the mesh knows it.

use std::net::IpAddr;

use weir_mesh::{CLUSTER_DOMAIN, Key, Mesh, Service};

use super::{Error, Walk};

/// The parts of a URL that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Url {
    /// `http`, `https` or `tcp`.
    pub scheme: String,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port; the scheme's own where the URL says none.
    pub port: u16,
    /// The port stands in the URL.
    pub port_said: bool,
    /// Path with query, at least `/`.
    pub path: String,
}

impl Url {
    /// Reads `http://host:port/path?query`; the scheme may be left out.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            Error::Url(format!(
                "{text:?} {why}; write for example http://reviews:9080/reviews/0"
            ))
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let default_port = match scheme {
            "http" | "tcp" => 80,
            "https" => 443,
            other => {
                return Err(wrong(&format!(
                    "has the scheme {other:?}, which is none of http, https and tcp"
                )));
            }
        };
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, after)) => (host, after.strip_prefix(':')),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        let number = match port {
            None => default_port,
            Some(port) => port
                .parse()
                .ok()
                .filter(|p| *p > 0)
                .ok_or_else(|| wrong(&format!("has the port {port:?}, which is none of 1 to 65535")))?,
        };
        Ok(Self {
            scheme: scheme.to_owned(),
            host: host.to_ascii_lowercase(),
            port: number,
            port_said: port.is_some(),
            path,
        })
    }

    /// The host header of a client that asks for this URL.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port_said {
            format!("{host}:{}", self.port)
        } else {
            host
        }
    }
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    /// What stands there, for sentences.
    pub(super) what: String,
    /// The service that was named, if one was.
    pub(super) service: Option<Key>,
}

/// The destination of the request, as the pod's resolver would find it.
pub(super) fn resolve(walk: &mut Walk<'_>, pod: &Key) -> Option<Destination> {
    let (url, mesh) = (&walk.request.url, walk.mesh);
    if let Ok(ip) = url.host.parse::<IpAddr>() {
        let (what, service) = holder(mesh, ip);
        walk.say("address", format!("{ip} is {what}"), "");
        return Some(Destination {
            ip,
            port: url.port,
            what,
            service,
        });
    }
    let Some((service, hostname)) = named(mesh, &url.host, &pod.namespace) else {
        let host = &url.host;
        walk.say("address", format!("{host} is no Service that pods of namespace {} know by this name", pod.namespace), "")
            .details
            .push("an address outside the cluster is blocked, unless outboundDefault (ConfigMap weir-mesh) is allow or the pod's traffic.outbound.skip-* keys name it".to_owned());
        let host = host.clone();
        walk.end(format!(
            "the mesh does not know {host}: where it leads outside the cluster, it is treated as any outside address"
        ));
        return None;
    };
    let key = service.key();
    let what = format!("Service {}.{}", key.name, key.namespace);
    if let Some(ip) = service.cluster_ips.first() {
        walk.say(
            "address",
            format!("{} is {what}: {}", url.host, std::net::SocketAddr::new(*ip, url.port)),
            "",
        );
        return Some(Destination {
            ip: *ip,
            port: url.port,
            what,
            service: Some(key),
        });
    }
    let found = service
        .ports
        .values()
        .flat_map(|port| &port.endpoints)
        .find(|e| hostname.is_none_or(|name| e.hostname == name));
    match found {
        Some(endpoint) => {
            let ip = endpoint.ip;
            let text = format!(
                "{} is the headless {what}: the client chooses among its pods, here {ip}",
                url.host
            );
            walk.say("address", text, "");
            Some(Destination {
                ip,
                port: url.port,
                what,
                service: Some(key),
            })
        }
        None => {
            walk.say(
                "address",
                format!("{} is {what}, which has no address and no endpoint", url.host),
                "",
            );
            walk.end("the name does not resolve");
            None
        }
    }
}

/// What has an address.
fn holder(mesh: &Mesh, ip: IpAddr) -> (String, Option<Key>) {
    let has = |service: &&Service| service.cluster_ips.contains(&ip);
    if let Some(service) = mesh.services.values().find(has) {
        return (
            format!("the cluster IP of Service {}.{}", service.name, service.namespace),
            Some(service.key()),
        );
    }
    match mesh.identities.get(&ip) {
        Some(who) => (format!("the address of pod {}.{}", who.pod, who.namespace), None),
        None => ("an address that nothing in the mesh has".to_owned(), None),
    }
}

/// The service that a name means to pods of a namespace, and the host within it for headless ones.
fn named<'m, 'h>(mesh: &'m Mesh, host: &'h str, namespace: &str) -> Option<(&'m Service, Option<&'h str>)> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = host
        .strip_suffix(CLUSTER_DOMAIN)
        .and_then(|h| h.strip_suffix('.'))
        .unwrap_or(host);
    let parts: Vec<&str> = host.split('.').collect();
    let look = |name: &str, namespace: &str| mesh.services.get(&Key::new(namespace, name));
    match *parts.strip_suffix(&["svc"]).unwrap_or(&parts) {
        [name] => Some((look(name, namespace)?, None)),
        [first, second] => look(first, second)
            .map(|service| (service, None))
            .or_else(|| Some((look(second, namespace)?, Some(first)))),
        [pod, name, namespace] => Some((look(name, namespace)?, Some(pod))),
        _ => None,
    }
}
