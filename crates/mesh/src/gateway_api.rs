//! Gateways and the HTTPRoutes attached to them and to Services; and what each is told about itself.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weir_api::gateway::{
    API_VERSION, CONTROLLER, GROUP, Gateway as KubeGateway, HTTPRouteSpec, Listener, ParentReference, selects,
};
use weir_api::labels::Protocol;

use crate::gateway::{ANY_HOST, Age, Building, Candidate, covers, in_order};
use crate::httproute::{self, Compiled};
use crate::objects::{Key, Objects, object_ref};
use crate::problems::Problems;
use crate::routes::{Rule, RuleAction};
use crate::services::Service;
use crate::verdict::{GatewayVerdict, ListenerVerdict, Verdict, Verdicts};

/// The usual ports of clear text and of TLS.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
/// What a request gets that no rule of a Service's routes takes.
const NO_RULE: u16 = 404;

/// A listener that is served, while routes attach to it.
struct Open<'a> {
    gateway: Key,
    listener: &'a Listener,
    index: usize,
}

impl Open<'_> {
    fn is_tls(&self) -> bool {
        self.listener.protocol == "HTTPS"
    }
}

/// What stands in front of a Service's port: for all its clients, or for those of one other namespace.
type InFront = BTreeMap<(Key, u16, Option<String>), Vec<Candidate>>;

/// Adds all Gateways and routes of ours.
pub(crate) fn apply(
    objects: &Objects,
    services: &mut BTreeMap<Key, Service>,
    building: &mut Building<'_>,
    problems: &mut Problems,
) -> Verdicts {
    let mut verdicts = Verdicts::default();
    for (key, class) in &objects.gateway_classes {
        if class
            .object
            .as_ref()
            .is_ok_and(|class| class.spec.controller_name == CONTROLLER)
        {
            verdicts
                .classes
                .insert(key.clone(), vec![Verdict::yes("Accepted", "Accepted")]);
        }
    }
    let mut open = Vec::new();
    for (key, object) in &objects.gateways {
        match &object.object {
            Ok(gateway)
                if verdicts
                    .classes
                    .contains_key(&Key::new("", &*gateway.spec.gateway_class_name)) =>
            {
                let verdict = gateway_verdict(objects, key, &object.metadata, gateway, building, &mut open, problems);
                verdicts.gateways.insert(key.clone(), verdict);
            }
            Ok(_) => {}
            Err(why) => problems.error(
                object_ref(API_VERSION, "Gateway", &object.metadata),
                "spec".to_owned(),
                format!("cannot be read, so it is not served: {why}"),
            ),
        }
    }
    let mut in_front = InFront::new();
    for (key, object) in &objects.http_routes {
        match &object.object {
            Ok(route) => {
                let mut attaching = Attaching {
                    objects,
                    meta: &object.metadata,
                    spec: &route.spec,
                    compiled: httproute::compile(objects, services, &object.metadata, &route.spec),
                    used: false,
                };
                let parents = attaching.parents(services, building, &open, &mut verdicts, &mut in_front);
                attaching.complain(&parents, problems);
                if attaching.used {
                    httproute::lead(services, &attaching.compiled.destinations);
                }
                if !parents.is_empty() {
                    verdicts.routes.insert(key.clone(), parents);
                }
            }
            Err(why) => problems.error(
                httproute::origin(&object.metadata),
                "spec".to_owned(),
                format!("cannot be read, so it does nothing: {why}"),
            ),
        }
    }
    for ((key, number, consumers), candidates) in in_front {
        let Some(port) = services.get_mut(&key).and_then(|s| s.ports.get_mut(&number)) else {
            continue;
        };
        let rules = complete(in_order(candidates));
        match consumers {
            None => port.rules = rules,
            Some(namespace) => drop(port.consumers.insert(namespace, rules)),
        }
    }
    verdicts
}

/// Rules up to the first that takes every request; where none does, the rest is answered.
fn complete(mut rules: Vec<Rule>) -> Vec<Rule> {
    if let Some(all) = rules.iter().position(Rule::takes_all) {
        rules.truncate(all + 1);
        return rules;
    }
    let origin = rules.first().map(|rule| rule.origin.clone()).unwrap_or_default();
    rules.push(Rule {
        name: "no rule of its HTTPRoutes".to_owned(),
        origin,
        action: RuleAction::Respond {
            status: NO_RULE,
            body: String::new(),
        },
        ..Rule::default()
    });
    rules
}

fn gateway_verdict<'a>(
    objects: &Objects,
    key: &Key,
    meta: &ObjectMeta,
    gateway: &'a KubeGateway,
    building: &mut Building<'_>,
    open: &mut Vec<Open<'a>>,
    problems: &mut Problems,
) -> GatewayVerdict {
    let mut verdict = GatewayVerdict::default();
    for (index, listener) in gateway.spec.listeners.iter().enumerate() {
        let origin = object_ref(API_VERSION, "Gateway", meta);
        let mut unaccepted: Vec<(&'static str, String)> = Vec::new();
        let mut unresolved: Vec<(&'static str, String)> = Vec::new();
        let usual = match listener.protocol.as_str() {
            "HTTP" => HTTP_PORT,
            "HTTPS" => HTTPS_PORT,
            other => {
                unaccepted.push((
                    "UnsupportedProtocol",
                    format!("{other} is not served; write HTTP or HTTPS"),
                ));
                0
            }
        };
        let kinds = &listener.allowed_routes.kinds;
        let takes_http_routes = kinds.is_empty()
            || kinds
                .iter()
                .any(|k| k.kind == httproute::KIND && k.group.as_deref().is_none_or(|g| g == GROUP));
        if kinds
            .iter()
            .any(|k| k.kind != httproute::KIND || k.group.as_deref().is_some_and(|g| g != GROUP))
        {
            unresolved.push(("InvalidRouteKinds", "only HTTPRoutes can be attached".to_owned()));
        }
        // Of several certificates one is enough to serve.
        let mut shown = true;
        if listener.protocol == "HTTPS" {
            let tls = listener.tls.clone().unwrap_or_default();
            if tls.mode.as_deref().is_some_and(|mode| mode != "Terminate") {
                unaccepted.push((
                    "UnsupportedValue",
                    "TLS is terminated here; write mode: Terminate".to_owned(),
                ));
            } else if tls.certificate_refs.is_empty() {
                unresolved.push((
                    "InvalidCertificateRef",
                    "tls.certificateRefs names no Secret".to_owned(),
                ));
            }
            let server_name = listener.hostname.as_deref().unwrap_or_default().to_ascii_lowercase();
            let references = match unaccepted.is_empty() {
                true => tls.certificate_refs.as_slice(),
                false => &[],
            };
            let mut secrets: Vec<Key> = Vec::new();
            for reference in references {
                let secret = Key::new(
                    reference.namespace.as_deref().unwrap_or(&key.namespace),
                    &*reference.name,
                );
                let core = reference.group.as_deref().unwrap_or_default().is_empty();
                if !core || reference.kind.as_deref().is_some_and(|kind| kind != "Secret") {
                    unresolved.push(("InvalidCertificateRef", "a certificate is a Secret".to_owned()));
                } else if !httproute::permitted(objects, (GROUP, "Gateway", &key.namespace), ("", "Secret"), &secret) {
                    let why = format!(
                        "no ReferenceGrant in namespace {} allows Gateways of {} to use Secret {secret}",
                        secret.namespace, key.namespace
                    );
                    unresolved.push(("RefNotPermitted", why));
                } else {
                    secrets.push(secret);
                }
            }
            let wrong = building.certificates(&server_name, &secrets, &origin, problems);
            shown = wrong.len() < secrets.len();
            unresolved.extend(wrong.into_iter().map(|why| ("InvalidCertificateRef", why)));
        }
        for (_, why) in unaccepted.iter().chain(&unresolved) {
            problems.error(origin.clone(), format!("spec.listeners[{index}]"), why.clone());
        }
        let accepted = Verdict::of("Accepted", "Accepted", &unaccepted);
        let resolved = Verdict::of("ResolvedRefs", "ResolvedRefs", &unresolved);
        let good = accepted.holds && shown;
        let mut programmed = match good {
            true => Verdict::yes("Programmed", "Programmed"),
            false => Verdict::no("Programmed", "Invalid", "the listener is not served"),
        };
        if good && listener.port != usual {
            programmed.message = format!(
                "port {} is not opened of its own: the gateway serves this listener at port {usual} of Service traffic-ingress",
                listener.port
            );
        }
        if good && takes_http_routes {
            open.push(Open {
                gateway: key.clone(),
                listener,
                index,
            });
        }
        verdict.listeners.push(ListenerVerdict {
            name: listener.name.clone(),
            takes_http_routes,
            attached: 0,
            conditions: vec![
                accepted,
                programmed,
                resolved,
                Verdict::no("Conflicted", "NoConflicts", ""),
            ],
        });
    }
    let invalid: Vec<&str> = verdict
        .listeners
        .iter()
        .filter(|listener| listener.conditions.iter().any(|c| c.kind == "Programmed" && !c.holds))
        .map(|listener| listener.name.as_str())
        .collect();
    verdict.conditions = match invalid.is_empty() {
        true => vec![
            Verdict::yes("Accepted", "Accepted"),
            Verdict::yes("Programmed", "Programmed"),
        ],
        false => {
            let message = format!("listeners that are not served: {}", invalid.join(", "));
            let mut accepted = Verdict::yes("Accepted", "ListenersNotValid");
            accepted.message.clone_from(&message);
            let programmed = match invalid.len() == verdict.listeners.len() {
                true => Verdict::no("Programmed", "Invalid", message),
                false => Verdict::yes("Programmed", "Programmed"),
            };
            vec![accepted, programmed]
        }
    };
    verdict
}

/// A route while it is attached to its parents.
struct Attaching<'a> {
    objects: &'a Objects,
    meta: &'a ObjectMeta,
    spec: &'a HTTPRouteSpec,
    compiled: Compiled,
    /// Some parent has it.
    used: bool,
}

impl Attaching<'_> {
    fn namespace(&self) -> &str {
        self.meta.namespace.as_deref().unwrap_or_default()
    }

    /// What is said of the route by parent; parents of others are passed over.
    fn parents(
        &mut self,
        services: &BTreeMap<Key, Service>,
        building: &mut Building<'_>,
        open: &[Open<'_>],
        verdicts: &mut Verdicts,
        in_front: &mut InFront,
    ) -> Vec<(ParentReference, Vec<Verdict>)> {
        let mut found = Vec::new();
        for parent in &self.spec.parent_refs.clone() {
            let key = Key::new(parent.namespace.as_deref().unwrap_or(self.namespace()), &*parent.name);
            let accepted = match (
                parent.group.as_deref().unwrap_or(GROUP),
                parent.kind.as_deref().unwrap_or("Gateway"),
            ) {
                (GROUP, "Gateway") if verdicts.gateways.contains_key(&key) => {
                    self.to_gateway(parent, &key, building, open, verdicts)
                }
                ("" | "core", "Service") => self.to_service(parent, &key, services, in_front),
                _ => continue,
            };
            let accepted = match accepted {
                Ok(()) => Verdict::yes("Accepted", "Accepted"),
                Err((reason, why)) => Verdict::no("Accepted", reason, why),
            };
            let resolved = Verdict::of("ResolvedRefs", "ResolvedRefs", &self.compiled.unresolved);
            self.used |= accepted.holds;
            found.push((parent.clone(), vec![accepted, resolved]));
        }
        found
    }

    fn complain(&self, parents: &[(ParentReference, Vec<Verdict>)], problems: &mut Problems) {
        for (index, (_, verdicts)) in parents.iter().enumerate() {
            for verdict in verdicts.iter().filter(|v| !v.holds) {
                let field = match verdict.kind {
                    "Accepted" => format!("spec.parentRefs[{index}]"),
                    _ => "spec.rules".to_owned(),
                };
                problems.error(httproute::origin(self.meta), field, verdict.message.clone());
            }
        }
    }

    fn refused(&self) -> Result<(), (&'static str, String)> {
        match self.compiled.refused.first() {
            Some((reason, why)) => Err((reason, why.clone())),
            None => Ok(()),
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let rules = self.compiled.rules.iter().enumerate();
        rules
            .flat_map(|(index, rule)| Candidate::each(rule.clone(), &Age::of(self.meta, index)))
            .collect()
    }

    fn to_gateway(
        &self,
        parent: &ParentReference,
        key: &Key,
        building: &mut Building<'_>,
        open: &[Open<'_>],
        verdicts: &mut Verdicts,
    ) -> Result<(), (&'static str, String)> {
        self.refused()?;
        let wanted = |open: &&Open<'_>| {
            open.gateway == *key
                && parent
                    .section_name
                    .as_ref()
                    .is_none_or(|name| *name == open.listener.name)
                && parent.port.is_none_or(|port| port == open.listener.port)
        };
        let listeners: Vec<&Open<'_>> = open.iter().filter(wanted).collect();
        if listeners.is_empty() {
            return Err((
                "NoMatchingParent",
                format!("Gateway {key} serves no listener of this name or port"),
            ));
        }
        let allowed: Vec<&Open<'_>> = listeners.into_iter().filter(|open| self.allowed(open)).collect();
        if allowed.is_empty() {
            let why = format!(
                "the listeners of Gateway {key} do not take routes of namespace {}",
                self.namespace()
            );
            return Err(("NotAllowedByListeners", why));
        }
        let mut attached = false;
        for listener in allowed {
            let hosts = intersection(listener.listener.hostname.as_deref(), &self.spec.hostnames);
            if hosts.is_empty() {
                continue;
            }
            attached = true;
            if let Some(verdict) = verdicts.gateways.get_mut(key)
                && let Some(verdict) = verdict.listeners.get_mut(listener.index)
            {
                verdict.attached += 1;
            }
            for host in &hosts {
                for candidate in self.candidates() {
                    match listener.is_tls() {
                        true => building.https(host, candidate),
                        false => building.http(host, candidate),
                    }
                }
            }
        }
        match attached {
            true => Ok(()),
            false => {
                let why = format!("no hostname of the route is one of the listeners of Gateway {key}");
                Err(("NoMatchingListenerHostname", why))
            }
        }
    }

    fn allowed(&self, open: &Open<'_>) -> bool {
        let namespaces = &open.listener.allowed_routes.namespaces;
        match namespaces.from.as_deref().unwrap_or("Same") {
            "All" => true,
            "Same" => open.gateway.namespace == self.namespace(),
            "Selector" => {
                let namespace = self.objects.namespace(self.namespace());
                let labels = namespace.and_then(|meta| meta.labels.clone()).unwrap_or_default();
                namespaces
                    .selector
                    .as_ref()
                    .is_some_and(|selector| selects(selector, &labels))
            }
            _ => false,
        }
    }

    fn to_service(
        &self,
        parent: &ParentReference,
        key: &Key,
        services: &BTreeMap<Key, Service>,
        in_front: &mut InFront,
    ) -> Result<(), (&'static str, String)> {
        self.refused()?;
        // One of another namespace is for the clients there, whose affair it is.
        let consumers = (key.namespace != self.namespace()).then(|| self.namespace().to_owned());
        let Some(service) = services.get(key) else {
            return Err(("NoMatchingParent", format!("Service {key} does not exist")));
        };
        let ports: Vec<u16> = service
            .ports
            .iter()
            .filter(|(number, _)| parent.port.is_none_or(|port| port == **number))
            .filter(|(_, port)| port.protocol.is_some_and(Protocol::has_requests))
            .map(|(number, _)| *number)
            .collect();
        if ports.is_empty() || service.cluster_ips.is_empty() {
            let why = format!(
                "Service {key} has no such port with an address of its own and the label traffic.port.N as http, http2 or grpc"
            );
            return Err(("NoMatchingParent", why));
        }
        for port in ports {
            in_front
                .entry((key.clone(), port, consumers.clone()))
                .or_default()
                .extend(self.candidates());
        }
        Ok(())
    }
}

/// The hosts of a route that a listener serves: of two that overlap the narrower one.
fn intersection(listener: Option<&str>, route: &[String]) -> Vec<String> {
    let listener = listener
        .filter(|name| !name.is_empty())
        .unwrap_or(ANY_HOST)
        .to_ascii_lowercase();
    if route.is_empty() {
        return vec![listener];
    }
    let narrower = |host: &String| {
        let host = host.to_ascii_lowercase();
        if host == listener || covers(&listener, &host) {
            Some(host)
        } else {
            covers(&host, &listener).then(|| listener.clone())
        }
    };
    route.iter().filter_map(narrower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_the_narrower_of_listener_and_route() {
        let of = |listener: &str, route: &[&str]| {
            intersection(
                Some(listener),
                &route.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(of("", &[]), ["*"]);
        assert_eq!(of("a.example.com", &[]), ["a.example.com"]);
        assert_eq!(of("", &["A.example.com"]), ["a.example.com"]);
        assert_eq!(
            of("*.example.com", &["a.example.com", "b.example.org"]),
            ["a.example.com"]
        );
        assert_eq!(of("a.example.com", &["*.example.com"]), ["a.example.com"]);
        assert_eq!(of("a.example.com", &["b.example.com"]), [""; 0]);
    }
}
