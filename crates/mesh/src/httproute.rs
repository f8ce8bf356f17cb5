//! The rules of an HTTPRoute, whatever it is attached to.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weir_api::duration;
use weir_api::gateway::{
    API_VERSION, GROUP, HTTPRouteSpec, HeaderModifier, HttpBackendRef, HttpRouteFilter, HttpRouteMatch, HttpRouteRule,
    ObjectReference, ParentReference, PathModifier, ReferenceGrant, RequestMirror, RequestRedirect, TypedMatch,
};
use weir_api::labels::Protocol;
use weir_api::lenient::Lenient;
use weir_api::problem::ObjectRef;

use crate::objects::{Key, Objects, object_ref};
use crate::routes::{
    Filters, HeaderEdits, Mirror, PathMatch, PathRewrite, Redirect, RequestMatch, Rewrite, Rule, RuleAction,
    RuleTimeouts, Share, TextMatch, scaled,
};
use crate::services::Service;
use crate::split::regex;

/// Kind of the objects that this is about.
pub(crate) const KIND: &str = "HTTPRoute";
/// What a request gets whose backends do not exist.
const NO_BACKEND: u16 = 500;
/// A redirect that does not say its status.
const REDIRECT: u16 = 302;
/// Every request.
const MILLION: u64 = 1_000_000;

/// A route's rules, and what is wrong with them: reasons of the conditions Accepted and ResolvedRefs.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) rules: Vec<Rule>,
    /// Why the route is not obeyed at all.
    pub(crate) refused: Vec<(&'static str, String)>,
    /// References that lead nowhere.
    pub(crate) unresolved: Vec<(&'static str, String)>,
    /// Ports of Services that rules lead to.
    pub(crate) destinations: Vec<(Key, u16)>,
}

pub(crate) fn origin(meta: &ObjectMeta) -> ObjectRef {
    object_ref(API_VERSION, KIND, meta)
}

/// Reads all rules of a route.
pub(crate) fn compile(
    objects: &Objects,
    services: &BTreeMap<Key, Service>,
    meta: &ObjectMeta,
    spec: &HTTPRouteSpec,
) -> Compiled {
    let mut reading = Reading {
        objects,
        services,
        namespace: meta.namespace.as_deref().unwrap_or_default(),
        parents: spec
            .parent_refs
            .iter()
            .filter_map(|parent| service_of(parent, meta))
            .collect(),
        found: Compiled::default(),
    };
    let mut rules = Vec::new();
    for (index, rule) in spec.rules.iter().enumerate() {
        match reading.rule(rule, &format!("spec.rules[{index}]")) {
            Ok(rule) => rules.push(Rule {
                name: format!("{KIND} {} rule {index}", Key::of(meta)),
                origin: origin(meta),
                ..rule
            }),
            Err(why) => reading.found.refused.push(("UnsupportedValue", why)),
        }
    }
    let mut found = reading.found;
    found.rules = rules;
    found
}

/// The Service that a route is attached to.
fn service_of(parent: &ParentReference, meta: &ObjectMeta) -> Option<Key> {
    let namespace = parent.namespace.as_deref().or(meta.namespace.as_deref());
    let is_service = matches!(parent.group.as_deref(), Some("" | "core")) && parent.kind.as_deref() == Some("Service");
    is_service.then(|| Key::new(namespace.unwrap_or_default(), &*parent.name))
}

struct Reading<'a> {
    objects: &'a Objects,
    services: &'a BTreeMap<Key, Service>,
    namespace: &'a str,
    /// Services that the route is attached to: its clients may reach these anyway.
    parents: Vec<Key>,
    found: Compiled,
}

impl Reading<'_> {
    fn rule(&mut self, rule: &HttpRouteRule, at: &str) -> Result<Rule, String> {
        let mut matches = Vec::new();
        for (index, matched) in rule.matches.iter().enumerate() {
            matches.push(request_match(matched).map_err(|why| format!("{at}.matches[{index}].{why}"))?);
        }
        let (filters, redirect) = self.filters(&rule.filters, at)?;
        let action = match redirect {
            Some(redirect) => RuleAction::Redirect(redirect),
            None => self.forward(&rule.backend_refs, at)?,
        };
        let timeouts = rule.timeouts.clone().unwrap_or_default();
        let read = |text: &Option<String>, name: &str| -> Result<Option<Duration>, String> {
            let Some(text) = text else { return Ok(None) };
            let read = duration::parse(text).map_err(|why| format!("{at}.timeouts.{name}: {why}"))?;
            Ok(Some(read.value))
        };
        let policy_of = match &action {
            RuleAction::Forward(shares) => match shares.iter().find(|s| s.weight > 0) {
                Some(first) if shares.iter().all(|s| s.service == first.service) => first.service.clone(),
                _ => None,
            },
            _ => None,
        };
        Ok(Rule {
            matches,
            filters,
            action,
            timeouts: RuleTimeouts {
                request: read(&timeouts.request, "request")?,
                backend_request: read(&timeouts.backend_request, "backendRequest")?,
            },
            policy_of,
            ..Rule::default()
        })
    }

    /// By weight to backends. One that does not exist keeps its share, which is answered with an error.
    fn forward(&mut self, backends: &[HttpBackendRef], at: &str) -> Result<RuleAction, String> {
        let mut shares = Vec::new();
        for (index, backend) in backends.iter().enumerate() {
            let at = format!("{at}.backendRefs[{index}]");
            let (filters, redirect) = self.filters(&backend.filters, &at)?;
            if redirect.is_some()
                || !filters.mirrors.is_empty()
                || filters.rewrite.as_ref().is_some_and(|r| r.path.is_some())
            {
                return Err(format!(
                    "{at}.filters: a backend of its own may edit headers and rewrite the host, nothing else; put the filter into the rule"
                ));
            }
            let (service, port) = match self.destination(&backend.backend) {
                Ok((key, port)) => (Some(key), port),
                Err((reason, why)) => {
                    self.found.unresolved.push((reason, format!("{at}: {why}")));
                    (None, 0)
                }
            };
            let weight = u64::from(backend.weight.unwrap_or(1));
            shares.push((
                weight,
                Share {
                    service,
                    port,
                    weight: 0,
                    filters,
                },
            ));
        }
        shares.retain(|(weight, _)| *weight > 0);
        if !shares.iter().any(|(_, share)| share.service.is_some()) {
            return Ok(RuleAction::Respond {
                status: NO_BACKEND,
                body: String::new(),
            });
        }
        let weights = scaled(&shares.iter().map(|(weight, _)| *weight).collect::<Vec<_>>());
        let shares = shares.into_iter().zip(weights);
        Ok(RuleAction::Forward(
            shares.map(|((_, share), weight)| Share { weight, ..share }).collect(),
        ))
    }

    /// The Service port of a reference, or the reason and the words why there is none.
    fn destination(&mut self, to: &ObjectReference) -> Result<(Key, u16), (&'static str, String)> {
        let kind = to.kind.as_deref().unwrap_or("Service");
        if !to.group.as_deref().unwrap_or_default().is_empty() || kind != "Service" {
            return Err(("InvalidKind", format!("{kind} is no Service")));
        }
        let namespace = to.namespace.as_deref().unwrap_or(self.namespace);
        let key = Key::new(namespace, &*to.name);
        let reached = self.parents.contains(&key);
        if !reached && !permitted(self.objects, (GROUP, KIND, self.namespace), ("", "Service"), &key) {
            let why = format!(
                "no ReferenceGrant in namespace {namespace} allows HTTPRoutes of {} to use Service {key}",
                self.namespace
            );
            return Err(("RefNotPermitted", why));
        }
        let Some(service) = self.services.get(&key) else {
            return Err(("BackendNotFound", format!("Service {key} does not exist")));
        };
        match to.port {
            Some(port) if service.ports.contains_key(&port) => {
                self.found.destinations.push((key.clone(), port));
                Ok((key, port))
            }
            Some(port) => Err(("BackendNotFound", format!("Service {key} has no TCP port {port}"))),
            None => Err(("BackendNotFound", format!("the port of Service {key} is missing"))),
        }
    }

    fn filters(&mut self, filters: &[HttpRouteFilter], at: &str) -> Result<(Filters, Option<Redirect>), String> {
        let mut found = Filters::default();
        let mut redirect = None;
        for (index, filter) in filters.iter().enumerate() {
            let at = format!("{at}.filters[{index}]");
            match filter.type_.as_str() {
                "RequestHeaderModifier" => edit(&mut found.request_headers, filter.request_header_modifier.as_ref()),
                "ResponseHeaderModifier" => edit(&mut found.response_headers, filter.response_header_modifier.as_ref()),
                "RequestRedirect" => {
                    let wanted = filter.request_redirect.clone().unwrap_or_default();
                    redirect = Some(self::redirect(&wanted).map_err(|why| format!("{at}: {why}"))?);
                }
                "URLRewrite" => {
                    let wanted = filter.url_rewrite.clone().unwrap_or_default();
                    let path = wanted.path.as_ref().map(path).transpose();
                    found.rewrite = Some(Rewrite {
                        hostname: wanted.hostname,
                        path: path.map_err(|why| format!("{at}: {why}"))?,
                    });
                }
                "RequestMirror" => {
                    let wanted = filter.request_mirror.clone().unwrap_or_default();
                    match self.destination(&wanted.backend_ref) {
                        Ok((service, port)) => found.mirrors.push(Mirror {
                            service,
                            port,
                            per_million: per_million(&wanted),
                        }),
                        Err((reason, why)) => self.found.unresolved.push((reason, format!("{at}: {why}"))),
                    }
                }
                other => return Err(format!("{at}.type: {other:?} is not supported")),
            }
        }
        Ok((found, redirect))
    }
}

/// Whether an object may refer to one of another namespace.
pub(crate) fn permitted(objects: &Objects, from: (&str, &str, &str), to: (&str, &str), key: &Key) -> bool {
    let (group, kind, namespace) = from;
    let allows = |grant: &Lenient<ReferenceGrant>| {
        let Ok(grant) = &grant.object else { return false };
        let from = grant
            .spec
            .from
            .iter()
            .any(|f| (&*f.group, &*f.kind, &*f.namespace) == (group, kind, namespace));
        let to = grant.spec.to.iter().any(|t| {
            (&*t.group, &*t.kind) == to && t.name.as_deref().is_none_or(|name| name.is_empty() || name == key.name)
        });
        from && to
    };
    namespace == key.namespace
        || objects
            .reference_grants
            .iter()
            .any(|(grant, object)| grant.namespace == key.namespace && allows(object))
}

fn edit(edits: &mut HeaderEdits, wanted: Option<&HeaderModifier>) {
    let Some(wanted) = wanted else { return };
    let pair = |header: &weir_api::gateway::Header| (header.name.to_ascii_lowercase(), header.value.clone());
    edits.set.extend(wanted.set.iter().map(pair));
    edits.add.extend(wanted.add.iter().map(pair));
    edits
        .remove
        .extend(wanted.remove.iter().map(|name| name.to_ascii_lowercase()));
}

fn redirect(wanted: &RequestRedirect) -> Result<Redirect, String> {
    let status = wanted.status_code.unwrap_or(REDIRECT);
    if ![301, 302, 303, 307, 308].contains(&status) {
        return Err(format!(
            "{status} is no status of a redirect; write 301, 302, 303, 307 or 308"
        ));
    }
    Ok(Redirect {
        scheme: wanted.scheme.clone(),
        hostname: wanted.hostname.clone(),
        port: wanted.port,
        path: wanted.path.as_ref().map(path).transpose()?,
        status,
    })
}

fn path(wanted: &PathModifier) -> Result<PathRewrite, String> {
    match (
        wanted.type_.as_str(),
        &wanted.replace_full_path,
        &wanted.replace_prefix_match,
    ) {
        ("ReplaceFullPath", Some(path), _) => Ok(PathRewrite::Full(path.clone())),
        ("ReplacePrefixMatch", _, Some(prefix)) => Ok(PathRewrite::Prefix(prefix.clone())),
        (other, ..) => Err(format!(
            "path: {other:?} is not ReplaceFullPath with replaceFullPath or ReplacePrefixMatch with replacePrefixMatch"
        )),
    }
}

fn per_million(mirror: &RequestMirror) -> u32 {
    let share = match (&mirror.fraction, mirror.percent) {
        (Some(fraction), _) => {
            u64::from(fraction.numerator) * MILLION / u64::from(fraction.denominator.unwrap_or(100).max(1))
        }
        (None, Some(percent)) => u64::from(percent) * MILLION / 100,
        (None, None) => MILLION,
    };
    u32::try_from(share.min(MILLION)).unwrap_or_default()
}

fn request_match(wanted: &HttpRouteMatch) -> Result<RequestMatch, String> {
    let path = match &wanted.path {
        None => PathMatch::Prefix("/".to_owned()),
        Some(path) => path_match(path).map_err(|why| format!("path: {why}"))?,
    };
    let mut headers: Vec<(String, TextMatch)> = Vec::new();
    for (index, header) in wanted.headers.iter().enumerate() {
        let name = header.name.to_ascii_lowercase();
        let text = text_match(header).map_err(|why| format!("headers[{index}]: {why}"))?;
        // Of equal names the first counts.
        if !headers.iter().any(|(known, _)| *known == name) {
            headers.push((name, text));
        }
    }
    let mut query: Vec<(String, TextMatch)> = Vec::new();
    for (index, parameter) in wanted.query_params.iter().enumerate() {
        let text = text_match(parameter).map_err(|why| format!("queryParams[{index}]: {why}"))?;
        if !query.iter().any(|(known, _)| *known == parameter.name) {
            query.push((parameter.name.clone(), text));
        }
    }
    Ok(RequestMatch {
        path: Some(path),
        method: wanted.method.clone(),
        headers,
        query,
    })
}

fn path_match(wanted: &TypedMatch) -> Result<PathMatch, String> {
    let value = wanted.value.as_deref().unwrap_or("/");
    let absolute = || match value.starts_with('/') {
        true => Ok(value),
        false => Err(format!("{value:?} does not begin with /")),
    };
    match wanted.type_.as_deref().unwrap_or("PathPrefix") {
        "PathPrefix" => Ok(PathMatch::Prefix(match absolute()?.trim_end_matches('/') {
            "" => "/".to_owned(),
            prefix => prefix.to_owned(),
        })),
        "Exact" => Ok(PathMatch::Exact(absolute()?.to_owned())),
        "RegularExpression" => Ok(PathMatch::Regex(regex(value)?)),
        other => Err(format!(
            "type {other:?} is none of PathPrefix, Exact and RegularExpression"
        )),
    }
}

fn text_match(wanted: &TypedMatch) -> Result<TextMatch, String> {
    let value = wanted.value.as_deref().unwrap_or_default();
    match wanted.type_.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(TextMatch::Exact(value.to_owned())),
        "RegularExpression" => Ok(TextMatch::Regex(regex(value)?)),
        other => Err(format!("type {other:?} is neither Exact nor RegularExpression")),
    }
}

/// Makes the ports that rules lead to destinations. Nothing is opened to meshed clients by that.
pub(crate) fn lead(services: &mut BTreeMap<Key, Service>, destinations: &[(Key, u16)]) {
    for (key, port) in destinations {
        if let Some(port) = services.get_mut(key).and_then(|service| service.ports.get_mut(port)) {
            port.route_here(Protocol::Http);
        }
    }
}
