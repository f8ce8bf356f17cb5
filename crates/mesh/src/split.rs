//! TrafficSplits: the traffic of one Service's ports shared between several Services.
//!
//! A split becomes a rule on each port of its apex. Not hierarchical: a backend gets its share itself, whatever splits or
//! routes stand in front of it; so the apex may be a backend of its own split.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weir_api::labels::Protocol;
use weir_api::lenient::Lenient;
use weir_api::problem::ObjectRef;
use weir_api::split::{HTTPRouteGroup, HttpMatch, TrafficSplitSpec};

use crate::httproute;
use crate::objects::{Key, Objects, object_ref};
use crate::problems::Problems;
use crate::routes::{PathMatch, RequestMatch, Rule, RuleAction, Share, TextMatch, scaled};
use crate::services::Service;

/// Kind of the objects that this is about.
pub(crate) const KIND: &str = "TrafficSplit";
const API_VERSION: &str = "split.smi-spec.io/v1alpha4";
/// The only kind that a split's matches may name.
const ROUTE_GROUP: &str = "HTTPRouteGroup";
/// Any method.
const ANY_METHOD: &str = "*";

/// A split and who it is.
struct Split<'a> {
    meta: &'a ObjectMeta,
    spec: &'a TrafficSplitSpec,
}

impl Split<'_> {
    fn origin(&self) -> ObjectRef {
        object_ref(API_VERSION, KIND, self.meta)
    }

    fn namespace(&self) -> &str {
        self.meta.namespace.as_deref().unwrap_or_default()
    }

    fn name(&self) -> String {
        format!("{KIND} {}", Key::of(self.meta))
    }
}

/// Puts each split's rules on the ports of its apex.
pub(crate) fn apply(objects: &Objects, services: &mut BTreeMap<Key, Service>, problems: &mut Problems) {
    let mut splits: Vec<Split<'_>> = Vec::new();
    for object in objects.traffic_splits.values() {
        let Lenient { metadata, object } = &**object;
        match object {
            Ok(split) => splits.push(Split {
                meta: metadata,
                spec: &split.spec,
            }),
            Err(why) => problems.error(
                object_ref(API_VERSION, KIND, metadata),
                "spec".to_owned(),
                format!("cannot be read, so nothing is split: {why}"),
            ),
        }
    }
    // The narrower ones first, then the older: a split for some requests does not hide behind one for all.
    splits.sort_by_cached_key(|split| {
        let created = split.meta.creation_timestamp.as_ref().map(|time| time.0);
        (split.spec.matches.is_empty(), created, Key::of(split.meta))
    });
    let mut whole: BTreeMap<(Key, u16), String> = BTreeMap::new();
    for split in &splits {
        place(objects, split, services, &mut whole, problems);
    }
}

/// Puts one split's rules on its apex. `whole` holds the ports all of whose traffic a split has taken.
fn place(
    objects: &Objects,
    split: &Split<'_>,
    services: &mut BTreeMap<Key, Service>,
    whole: &mut BTreeMap<(Key, u16), String>,
    problems: &mut Problems,
) {
    let apex = Key::new(split.namespace(), &*split.spec.service);
    let Some(service) = services.get(&apex) else {
        let why = format!("Service {apex} does not exist; nothing is split until it does");
        problems.error(split.origin(), "spec.service".to_owned(), why);
        return;
    };
    if service.cluster_ips.is_empty() {
        let why = format!(
            "Service {apex} has no address of its own (it is headless or an ExternalName), so its traffic cannot be split; use a Service with a ClusterIP"
        );
        problems.error(split.origin(), "spec.service".to_owned(), why);
        return;
    }
    let ports: Vec<(u16, Protocol)> = service
        .ports
        .iter()
        .filter_map(|(number, port)| Some((*number, port.protocol.filter(|p| *p != Protocol::Direct)?)))
        .collect();
    if ports.is_empty() {
        let why = format!(
            "no port of Service {apex} is labelled traffic.port.N as http, http2, grpc or tcp, so there is no traffic to split"
        );
        problems.warn(split.origin(), "spec.service".to_owned(), why);
        return;
    }
    let Some(matches) = matches(objects, split, problems) else {
        return;
    };
    if !matches.is_empty() && !ports.iter().any(|(_, protocol)| protocol.has_requests()) {
        let why = format!(
            "Service {apex} has tcp ports only, whose connections have no requests to match; they are not split"
        );
        problems.error(split.origin(), "spec.matches".to_owned(), why);
    }
    let backends = backends(split, &ports, services, problems);
    for (number, protocol) in ports {
        if !matches.is_empty() && !protocol.has_requests() {
            continue;
        }
        let routed = services.get(&apex).and_then(|s| s.ports.get(&number)?.rules.first());
        if let Some(rule) = routed.filter(|rule| rule.origin.kind == httproute::KIND) {
            let why = format!(
                "{} is attached to port {number} of Service {apex} and takes its place there",
                rule.origin
            );
            problems.error(split.origin(), "spec.service".to_owned(), why);
            continue;
        }
        let shares = shares(&backends, number, services);
        if shares.is_empty() {
            let why = format!(
                "no backend with a weight above 0 can take the traffic of port {number}; all of it goes to Service {apex} itself"
            );
            problems.error(split.origin(), "spec.backends".to_owned(), why);
            continue;
        }
        if matches.is_empty() {
            if let Some(other) = whole.get(&(apex.clone(), number)) {
                let why = format!(
                    "{other} splits port {number} of Service {apex} already, which is older; this one does nothing there"
                );
                problems.error(split.origin(), "spec.service".to_owned(), why);
                continue;
            }
            whole.insert((apex.clone(), number), split.name());
        }
        for share in &shares {
            let backend = share.service.as_ref().and_then(|key| services.get_mut(key));
            if let Some(port) = backend.and_then(|service| service.ports.get_mut(&number)) {
                port.route_here(protocol);
            }
        }
        let rule = Rule {
            name: split.name(),
            origin: split.origin(),
            matches: matches.clone(),
            action: RuleAction::Forward(shares),
            ..Rule::default()
        };
        if let Some(port) = services.get_mut(&apex).and_then(|s| s.ports.get_mut(&number)) {
            port.rules.push(rule);
        }
    }
}

/// The backends that exist, with their weights; each reason why one gets nothing is told once.
fn backends(
    split: &Split<'_>,
    ports: &[(u16, Protocol)],
    services: &BTreeMap<Key, Service>,
    problems: &mut Problems,
) -> Vec<(Key, u64)> {
    let mut found: Vec<(Key, u64)> = Vec::new();
    for (index, backend) in split.spec.backends.iter().enumerate() {
        let field = || format!("spec.backends[{index}].service");
        let key = Key::new(split.namespace(), &*backend.service);
        let Some(service) = services.get(&key) else {
            let why =
                format!("Service {key} does not exist; it gets nothing until it does, and its share goes to the rest");
            problems.warn(split.origin(), field(), why);
            continue;
        };
        let missing: Vec<String> = ports
            .iter()
            .filter(|(port, _)| !service.ports.contains_key(port))
            .map(|(port, _)| port.to_string())
            .collect();
        if !missing.is_empty() {
            let has = service.ports.keys().map(u16::to_string).collect::<Vec<_>>().join(", ");
            let (missing, apex) = (missing.join(", "), &split.spec.service);
            let why = format!(
                "Service {key} does not have port {missing} of apex Service {apex} (its own: {has}), so it gets nothing of that traffic; give it a port with the same number"
            );
            problems.error(split.origin(), field(), why);
        }
        if found.iter().any(|(known, _)| *known == key) {
            problems.warn(
                split.origin(),
                field(),
                format!("Service {key} is a backend already; the weights are added up"),
            );
        }
        found.push((key, backend.weight.milli));
    }
    found
}

/// Who gets how much of one port, as far as they have it and weigh something.
fn shares(backends: &[(Key, u64)], port: u16, services: &BTreeMap<Key, Service>) -> Vec<Share> {
    let mut taking: BTreeMap<&Key, u64> = BTreeMap::new();
    for (key, weight) in backends.iter().filter(|(_, weight)| *weight > 0) {
        if services.get(key).is_some_and(|s| s.ports.contains_key(&port)) {
            let sum = taking.entry(key).or_default();
            *sum = sum.saturating_add(*weight);
        }
    }
    let weights = scaled(&taking.values().copied().collect::<Vec<_>>());
    let share = |(key, weight): (&&Key, u32)| Share {
        service: Some((*key).clone()),
        port,
        weight,
        ..Share::default()
    };
    taking.keys().zip(weights).map(share).collect()
}

/// The requests that a split is restricted to; empty: all. `None`: nothing can match, and the reason was told.
fn matches(objects: &Objects, split: &Split<'_>, problems: &mut Problems) -> Option<Vec<RequestMatch>> {
    if split.spec.matches.is_empty() {
        return Some(Vec::new());
    }
    let mut found = Vec::new();
    for (index, reference) in split.spec.matches.iter().enumerate() {
        let field = format!("spec.matches[{index}]");
        if reference.kind != ROUTE_GROUP {
            let why = format!("{:?} is not a kind to match with; write {ROUTE_GROUP}", reference.kind);
            problems.error(split.origin(), field, why);
            continue;
        }
        let key = Key::new(split.namespace(), &*reference.name);
        match objects.route_groups.get(&key).map(|group| &group.object) {
            None => {
                let why = format!("{ROUTE_GROUP} {key} does not exist; nothing matches it until it does");
                problems.error(split.origin(), field, why);
            }
            Some(Err(why)) => {
                let why = format!("{ROUTE_GROUP} {key} cannot be read: {why}");
                problems.error(split.origin(), field, why);
            }
            Some(Ok(_)) => {}
        }
        if let Some(group) = objects.route_groups.get(&key) {
            found.extend(group_matches(group, problems));
        }
    }
    (!found.is_empty()).then_some(found)
}

fn group_matches(group: &Lenient<HTTPRouteGroup>, problems: &mut Problems) -> Vec<RequestMatch> {
    let Ok(object) = &group.object else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (index, condition) in object.spec.matches.iter().enumerate() {
        match request_matches(condition) {
            Ok(matches) => found.extend(matches),
            Err((field, why)) => problems.error(
                object_ref("specs.smi-spec.io/v1alpha4", ROUTE_GROUP, &group.metadata),
                format!("spec.matches[{index}].{field}"),
                format!("{why}; this condition matches nothing until then"),
            ),
        }
    }
    found
}

/// One condition as matches: one a method.
fn request_matches(condition: &HttpMatch) -> Result<Vec<RequestMatch>, (String, String)> {
    let path = match condition.path_regex.as_str() {
        "" => None,
        text => Some(PathMatch::Regex(
            regex(text).map_err(|why| ("pathRegex".to_owned(), why))?,
        )),
    };
    let mut headers = Vec::new();
    for (name, text) in &condition.headers {
        let text = regex(text).map_err(|why| (format!("headers[{name}]"), why))?;
        headers.push((name.to_ascii_lowercase(), TextMatch::Regex(text)));
    }
    let one = |method: Option<String>| RequestMatch {
        path: path.clone(),
        method,
        headers: headers.clone(),
        query: Vec::new(),
    };
    if condition.methods.is_empty() || condition.methods.iter().any(|method| method == ANY_METHOD) {
        return Ok(vec![one(None)]);
    }
    Ok(condition
        .methods
        .iter()
        .map(|method| one(Some(method.clone())))
        .collect())
}

/// A regular expression that every proxy takes, or why it is none.
pub(crate) fn regex(text: &str) -> Result<String, String> {
    match regex::Regex::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{text:?} is not a regular expression (RE2 syntax): {error}")),
    }
}
