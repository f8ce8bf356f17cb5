//! Ingresses of class `weir`: hosts, paths and certificates for the gateway.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weir_api::labels::{self, Protocol};
use weir_api::problem::ObjectRef;

use crate::gateway::{ANY_HOST, Age, Building, Candidate, covers};
use crate::objects::{Key, Objects, object_ref};
use crate::problems::{Problems, field};
use crate::routes::{PathMatch, Redirect, RequestMatch, Rule, RuleAction, Share, TextMatch};
use crate::services::{Service, ServicePort};

/// The class of Ingresses that the gateway serves where no IngressClass says otherwise.
const CLASS: &str = "weir";
/// Controller of the IngressClasses that are ours.
const CONTROLLER: &str = "weir.dev/ingress";
/// How a class was written before there was `ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// On an IngressClass: Ingresses without a class are of this one.
const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
/// What a request gets whose backend does not exist.
const NO_BACKEND: u16 = 503;
/// Where a client is sent that asks a TLS host in clear text; the method stays.
const REDIRECT: u16 = 308;

/// Adds every Ingress of ours to the gateway. `https_port`: where clients reach TLS, if not at the usual port.
pub(crate) fn apply(
    objects: &Objects,
    services: &mut BTreeMap<Key, Service>,
    gateway: &mut Building<'_>,
    https_port: Option<u16>,
    problems: &mut Problems,
) {
    let mut ours: Vec<&Ingress> = objects
        .ingresses
        .values()
        .map(|ingress| &**ingress)
        .filter(|ingress| is_ours(objects, ingress))
        .collect();
    ours.sort_by_cached_key(|ingress| Age::of(&ingress.metadata, 0));
    for ingress in ours {
        let Some(spec) = &ingress.spec else { continue };
        gateway.ingresses.insert(Key::of(&ingress.metadata));
        let mut reading = Reading {
            meta: &ingress.metadata,
            spec,
            services: &mut *services,
            gateway: &mut *gateway,
            problems: &mut *problems,
            rules: 0,
        };
        reading.ingress(https_port);
    }
}

fn is_ours(objects: &Objects, ingress: &Ingress) -> bool {
    let of_class = |name: &str| match objects.ingress_classes.get(&Key::new("", name)) {
        Some(class) => class.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(CONTROLLER),
        None => name == CLASS,
    };
    let annotation = |meta: &ObjectMeta, key: &str| meta.annotations.as_ref().and_then(|a| a.get(key)).cloned();
    if let Some(name) = ingress
        .spec
        .as_ref()
        .and_then(|spec| spec.ingress_class_name.as_deref())
    {
        return of_class(name);
    }
    if let Some(name) = annotation(&ingress.metadata, CLASS_ANNOTATION) {
        return name == CLASS;
    }
    objects.ingress_classes.values().any(|class| {
        annotation(&class.metadata, DEFAULT_CLASS_ANNOTATION).as_deref() == Some("true")
            && class.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(CONTROLLER)
    })
}

/// One Ingress while it is read.
struct Reading<'a, 'b> {
    meta: &'a ObjectMeta,
    spec: &'a IngressSpec,
    services: &'a mut BTreeMap<Key, Service>,
    gateway: &'a mut Building<'b>,
    problems: &'a mut Problems,
    /// Rules so far, for the order among equals.
    rules: usize,
}

impl Reading<'_, '_> {
    fn origin(&self) -> ObjectRef {
        object_ref("networking.k8s.io/v1", "Ingress", self.meta)
    }

    fn complain(&mut self, field: impl Into<String>, why: impl Into<String>) {
        let origin = self.origin();
        self.problems.error(origin, field.into(), why);
    }

    fn ingress(&mut self, https_port: Option<u16>) {
        let redirects = self.redirects();
        let to_tls = RuleAction::Redirect(Redirect {
            scheme: Some("https".to_owned()),
            port: https_port,
            status: REDIRECT,
            ..Redirect::default()
        });
        let tls_hosts = self.certificates();
        let is_tls = |host: &str| redirects && tls_hosts.iter().any(|tls| tls == host || covers(tls, host));
        let spec = self.spec;
        for (number, rule) in spec.rules.iter().flatten().enumerate() {
            let host = match rule.host.as_deref().unwrap_or_default() {
                "" => ANY_HOST.to_owned(),
                host => host.to_ascii_lowercase(),
            };
            let paths = rule.http.iter().flat_map(|http| &http.paths).enumerate();
            for (index, path) in paths {
                let field = format!("spec.rules[{number}].http.paths[{index}]");
                let text = path.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
                if !text.starts_with('/') {
                    self.complain(
                        format!("{field}.path"),
                        format!("{text:?} does not begin with /, so it matches nothing"),
                    );
                    continue;
                }
                let matched = match path.path_type.as_str() {
                    "Exact" => PathMatch::Exact(text.to_owned()),
                    // ImplementationSpecific is left to us.
                    _ => PathMatch::Prefix(segments(text)),
                };
                let action = self.backend(&path.backend, &format!("{field}.backend"));
                let mut candidate = self.candidate(matched, action);
                below_one_label(&mut candidate, &host);
                self.gateway.https(&host, candidate.clone());
                if is_tls(&host) {
                    candidate.rule.action = to_tls.clone();
                }
                self.gateway.http(&host, candidate);
            }
        }
        if redirects {
            for host in tls_hosts.iter().filter(|host| *host != ANY_HOST) {
                let mut candidate = self.candidate(PathMatch::Prefix("/".to_owned()), to_tls.clone());
                candidate.last = true;
                below_one_label(&mut candidate, host);
                self.gateway.http(host, candidate);
            }
        }
        if let Some(backend) = &spec.default_backend {
            let action = self.backend(backend, "spec.defaultBackend");
            let mut candidate = self.candidate(PathMatch::Prefix("/".to_owned()), action);
            candidate.last = true;
            self.gateway.https(ANY_HOST, candidate.clone());
            self.gateway.http(ANY_HOST, candidate);
        }
    }

    fn candidate(&mut self, path: PathMatch, action: RuleAction) -> Candidate {
        let policy_of = match &action {
            RuleAction::Forward(shares) => shares.first().and_then(|share| share.service.clone()),
            RuleAction::Redirect(_) | RuleAction::Respond { .. } => None,
        };
        let age = Age::of(self.meta, self.rules);
        self.rules += 1;
        let matched = RequestMatch {
            path: Some(path),
            ..RequestMatch::default()
        };
        Candidate {
            rule: Rule {
                name: format!("Ingress {}", Key::of(self.meta)),
                origin: self.origin(),
                matches: vec![matched],
                action,
                policy_of,
                ..Rule::default()
            },
            age,
            last: false,
            falls_through: true,
            implied: 0,
        }
    }

    /// Whether clear text is sent to TLS where there is TLS.
    fn redirects(&mut self) -> bool {
        let Some(text) = labels::value(self.meta, labels::INGRESS_SSL_REDIRECT) else {
            return true;
        };
        match text {
            "" => true,
            text => labels::parse_bool(text).unwrap_or_else(|why| {
                let field = field(self.meta, labels::INGRESS_SSL_REDIRECT);
                self.complain(field, format!("{why}; clear text is redirected until then"));
                true
            }),
        }
    }

    /// Has the Ingress's certificates shown; the hosts that are meant to have TLS.
    fn certificates(&mut self) -> Vec<String> {
        let mut hosts = Vec::new();
        let spec = self.spec;
        for (index, tls) in spec.tls.iter().flatten().enumerate() {
            let mut names: Vec<String> = tls.hosts.iter().flatten().map(|h| h.to_ascii_lowercase()).collect();
            if names.is_empty() {
                names.push(ANY_HOST.to_owned());
            }
            match tls.secret_name.as_deref().filter(|name| !name.is_empty()) {
                None => self.complain(
                    format!("spec.tls[{index}].secretName"),
                    "is missing, so these hosts are served with TLS only if another Ingress brings their certificate",
                ),
                Some(secret) => {
                    let secret = Key::new(self.meta.namespace.as_deref().unwrap_or_default(), secret);
                    let origin = self.origin();
                    for name in &names {
                        let server_name = if name == ANY_HOST { "" } else { name };
                        let shown = self.gateway.certificate(server_name, &secret, &origin, self.problems);
                        if let Err(why) = shown {
                            self.complain(format!("spec.tls[{index}].secretName"), why);
                        }
                    }
                }
            }
            hosts.extend(names);
        }
        hosts
    }

    /// Where a backend's requests go.
    fn backend(&mut self, backend: &IngressBackend, field: &str) -> RuleAction {
        match self.destination(backend) {
            Ok((service, port)) => RuleAction::Forward(vec![Share {
                service: Some(service),
                port,
                weight: 1,
                ..Share::default()
            }]),
            Err((part, why)) => {
                self.complain(
                    format!("{field}.{part}"),
                    format!("{why}; its requests are answered {NO_BACKEND} until then"),
                );
                RuleAction::Respond {
                    status: NO_BACKEND,
                    body: String::new(),
                }
            }
        }
    }

    fn destination(&mut self, backend: &IngressBackend) -> Result<(Key, u16), (&'static str, String)> {
        let Some(wanted) = &backend.service else {
            return Err(("resource", "a backend that is no Service is not supported".to_owned()));
        };
        let key = Key::new(self.meta.namespace.as_deref().unwrap_or_default(), &*wanted.name);
        let Some(service) = self.services.get_mut(&key) else {
            return Err(("service.name", format!("Service {key} does not exist")));
        };
        let port = wanted.port.clone().unwrap_or_default();
        let found: Option<(u16, &mut ServicePort)> = match (&port.name, port.number) {
            (Some(name), _) if !name.is_empty() => {
                let named = |(_, port): &(&u16, &mut ServicePort)| port.name == *name;
                service
                    .ports
                    .iter_mut()
                    .find(named)
                    .map(|(number, port)| (*number, port))
            }
            (_, Some(number)) => u16::try_from(number)
                .ok()
                .and_then(|number| Some((number, service.ports.get_mut(&number)?))),
            _ => None,
        };
        let Some((number, port)) = found else {
            let wanted = match (&port.name, port.number) {
                (Some(name), _) if !name.is_empty() => format!("named {name:?}"),
                (_, Some(number)) => number.to_string(),
                _ => "that the backend leaves out".to_owned(),
            };
            return Err(("service.port", format!("Service {key} has no TCP port {wanted}")));
        };
        // Who is named in an Ingress speaks HTTP, for meshed clients too.
        port.protocol.get_or_insert(Protocol::Http);
        port.route_here(Protocol::Http);
        Ok((key, number))
    }
}

/// A path by segments: a slash at the end says nothing.
fn segments(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        path => path.to_owned(),
    }
}

/// An Ingress's `*.name` stands for one label, where a proxy's stands for any number.
fn below_one_label(candidate: &mut Candidate, host: &str) {
    let Some(suffix) = host.strip_prefix("*.") else { return };
    let pattern = format!(r"(?i)[^.]+\.{}(:[0-9]+)?", suffix.replace('.', r"\."));
    for matched in &mut candidate.rule.matches {
        matched
            .headers
            .push((":authority".to_owned(), TextMatch::Regex(pattern.clone())));
    }
    candidate.implied = 1;
}
