//! The gateway: which hosts it serves in clear text and by TLS, by which rules, with which certificates.
//!
//! Ingresses and Gateways with their HTTPRoutes bring candidates; here they are brought into one order, a list of rules a
//! host. It does not know where a candidate comes from, apart from its age and its name.

mod follow;
#[cfg(test)]
mod several;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Serialize;
use weir_api::mesh_status::{GATEWAY, GATEWAY_NAMESPACE};
use weir_api::problem::ObjectRef;

use crate::certificate::{self, Certificate};
use crate::gateway_api;
use crate::ingress;
use crate::objects::{Key, Objects};
use crate::problems::Problems;
use crate::routes::{PathMatch, RequestMatch, Rule};
use crate::services::Service;
use crate::settings::Settings;
use crate::verdict::Verdicts;

pub(crate) use follow::follow_splits;

/// What every host that nobody else has falls to.
pub const ANY_HOST: &str = "*";

/// The Service of the gateway itself: its address is where clients from outside go.
pub fn gateway_service() -> Key {
    Key::new(GATEWAY_NAMESPACE, GATEWAY)
}

/// Everything that the gateway's proxy does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gateway {
    /// Hosts of requests in clear text, by name.
    pub http: Vec<Host>,
    /// Hosts of requests by TLS, by name.
    pub https: Vec<Host>,
    /// Which certificate is shown to whom.
    pub chains: Vec<Chain>,
    /// The certificates of the chains, by `<namespace>/<secret>`.
    pub certificates: BTreeMap<String, Certificate>,
    /// Ingresses that the gateway serves.
    pub ingresses: BTreeSet<Key>,
    /// What objects of the Gateway API are told about themselves.
    pub verdicts: Verdicts,
}

/// A host and its rules, the first that takes a request first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Host {
    /// A name, `*.name` for all names below it, or `*`.
    pub domain: String,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Who is shown a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// Names (also `*.name`) that clients ask for; empty: all others.
    pub server_names: Vec<String>,
    /// The certificate.
    pub certificate: String,
}

/// Where candidates stand among equals: the older object first, then by name, then as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Age {
    /// Objects without a time of creation are new.
    unknown: bool,
    created: Option<i64>,
    key: Key,
    rule: usize,
}

impl Age {
    pub(crate) fn of(meta: &ObjectMeta, rule: usize) -> Self {
        let created = meta.creation_timestamp.as_ref().map(|Time(at)| at.as_second());
        Self {
            unknown: created.is_none(),
            created,
            key: Key::of(meta),
            rule,
        }
    }
}

/// A rule that competes for the requests of a host. It has one match at most.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) rule: Rule,
    pub(crate) age: Age,
    /// It takes what nobody else takes.
    pub(crate) last: bool,
    /// It also serves more specific hosts, where these have no rule for a request.
    pub(crate) falls_through: bool,
    /// Conditions that say no more than the host does, and so do not make it more specific.
    pub(crate) implied: usize,
}

impl Candidate {
    /// Candidates of a rule, one a match.
    pub(crate) fn each(rule: Rule, age: &Age) -> Vec<Self> {
        let candidate = |matches: Vec<RequestMatch>| Self {
            rule: Rule {
                matches,
                ..rule.clone()
            },
            age: age.clone(),
            last: false,
            falls_through: false,
            implied: 0,
        };
        match rule.matches.is_empty() {
            true => vec![candidate(Vec::new())],
            false => rule.matches.iter().map(|m| candidate(vec![m.clone()])).collect(),
        }
    }

    /// The order of the Gateway API: exact paths, then (regular expressions and) the longest prefixes, a method, the most
    /// headers, the most parameters of the query; then the age.
    fn precedence(&self) -> impl Ord + use<> {
        let nothing = RequestMatch::default();
        let matched = self.rule.matches.first().unwrap_or(&nothing);
        let (kind, length) = match &matched.path {
            Some(PathMatch::Exact(path)) => (0, path.len()),
            Some(PathMatch::Regex(text)) => (1, text.len()),
            Some(PathMatch::Prefix(prefix)) => (2, prefix.len()),
            None => (2, 1),
        };
        let headers = matched.headers.len().saturating_sub(self.implied);
        (
            self.last,
            kind,
            Reverse(length),
            matched.method.is_none(),
            Reverse(headers),
            Reverse(matched.query.len()),
            self.age.clone(),
        )
    }
}

/// Rules in the order in which they are asked.
pub(crate) fn in_order(mut candidates: Vec<Candidate>) -> Vec<Rule> {
    candidates.sort_by_cached_key(Candidate::precedence);
    candidates.into_iter().map(|candidate| candidate.rule).collect()
}

/// Hosts while they are collected.
type Hosts = BTreeMap<String, Vec<Candidate>>;

/// The gateway while it is built.
pub(crate) struct Building<'a> {
    objects: &'a Objects,
    previous: &'a Gateway,
    http: Hosts,
    https: Hosts,
    /// Server name (empty: all others) -> certificate and who asked for it.
    server_names: BTreeMap<String, (String, ObjectRef)>,
    /// Server name of a certificate -> the certificate, and the host of the listener that has several (empty: any host).
    of_certificates: BTreeMap<String, (String, String)>,
    certificates: BTreeMap<String, Certificate>,
    pub(crate) ingresses: BTreeSet<Key>,
}

/// Builds the gateway, and makes its backends destinations.
pub(crate) fn build(
    objects: &Objects,
    services: &mut BTreeMap<Key, Service>,
    settings: &Settings,
    previous: &Gateway,
    problems: &mut Problems,
) -> Gateway {
    let mut building = Building::new(objects, previous);
    ingress::apply(objects, services, &mut building, settings.ingress.https_port, problems);
    let verdicts = gateway_api::apply(objects, services, &mut building, problems);
    Gateway {
        verdicts,
        ..building.finish()
    }
}

impl<'a> Building<'a> {
    pub(crate) fn new(objects: &'a Objects, previous: &'a Gateway) -> Self {
        Self {
            objects,
            previous,
            http: Hosts::new(),
            https: Hosts::new(),
            server_names: BTreeMap::new(),
            of_certificates: BTreeMap::new(),
            certificates: BTreeMap::new(),
            ingresses: BTreeSet::new(),
        }
    }

    /// A candidate for requests in clear text.
    pub(crate) fn http(&mut self, host: &str, candidate: Candidate) {
        self.http.entry(host.to_owned()).or_default().push(candidate);
    }

    /// A candidate for requests by TLS.
    pub(crate) fn https(&mut self, host: &str, candidate: Candidate) {
        self.https.entry(host.to_owned()).or_default().push(candidate);
    }

    /// Shows the Secret's certificate to clients that ask for this name (empty: to all others). `Err`: why it cannot.
    pub(crate) fn certificate(
        &mut self,
        server_name: &str,
        secret: &Key,
        origin: &ObjectRef,
        problems: &mut Problems,
    ) -> Result<(), String> {
        let name = secret.to_string();
        self.load(secret, problems)?;
        match self.server_names.get(server_name) {
            Some((held, _)) if *held == name => {}
            Some((held, by)) => {
                let what = match server_name {
                    "" => "clients that name no host of a certificate",
                    host => host,
                };
                return Err(format!(
                    "{what}: {by} shows the certificate of Secret {held} there already; it stays"
                ));
            }
            None => {
                self.server_names.insert(server_name.to_owned(), (name, origin.clone()));
            }
        }
        Ok(())
    }

    /// The certificates of a listener for `host` (empty: any). Clients are shown the first that is for the name they ask for;
    /// where none is, the first that is for `host` itself, else the first. Why some cannot be shown.
    pub(crate) fn certificates(
        &mut self,
        host: &str,
        secrets: &[Key],
        origin: &ObjectRef,
        problems: &mut Problems,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut usable: Vec<(&Key, Vec<String>)> = Vec::new();
        for secret in secrets {
            match self.load(secret, problems) {
                Ok(names) => usable.push((secret, names)),
                Err(why) => wrong.push(why),
            }
        }
        let for_host = |(_, names): &&(&Key, Vec<String>)| names.iter().any(|name| name == host || covers(name, host));
        let Some((usual, _)) = usable.iter().find(for_host).or(usable.first()) else {
            return wrong;
        };
        wrong.extend(self.certificate(host, usual, origin, problems).err());
        let listener = if host.is_empty() { ANY_HOST } else { host };
        // One alone is shown to everybody anyway.
        for (secret, names) in usable.iter().filter(|_| usable.len() > 1) {
            for name in names.iter().filter(|name| covers(listener, name)) {
                let shown = (secret.to_string(), host.to_owned());
                self.of_certificates.entry(name.clone()).or_insert(shown);
            }
        }
        wrong
    }

    /// Reads a Secret's certificate, if it was not yet: its names.
    fn load(&mut self, secret: &Key, problems: &mut Problems) -> Result<Vec<String>, String> {
        let name = secret.to_string();
        if let Some(known) = self.certificates.get(&name) {
            return Ok(known.names.clone());
        }
        let known = self.previous.certificates.get(&name);
        let certificate = certificate::of_secret(self.objects, secret, known, problems)?;
        let names = certificate.names.clone();
        self.certificates.insert(name, certificate);
        Ok(names)
    }

    /// Names that only certificates speak of give way to hosts that somebody asks for: to the same, and to a wildcard over them
    /// that is narrower than the host of their own listener.
    fn names_of_certificates(&mut self) {
        for (name, (certificate, listener)) in std::mem::take(&mut self.of_certificates) {
            let listener = match listener.as_str() {
                "" => ANY_HOST,
                host => host,
            };
            let taken = self
                .server_names
                .keys()
                .any(|asked| *asked == name || (covers(asked, &name) && covers(listener, asked)));
            if !taken {
                self.server_names.insert(name, (certificate, ObjectRef::default()));
            }
        }
    }

    pub(crate) fn finish(mut self) -> Gateway {
        self.names_of_certificates();
        let mut chains: BTreeMap<(bool, String), Vec<String>> = BTreeMap::new();
        for (server_name, (certificate, _)) in self.server_names {
            let fallback = server_name.is_empty();
            let names = chains.entry((fallback, certificate)).or_default();
            names.extend((!fallback).then_some(server_name));
        }
        let chains: Vec<Chain> = chains
            .into_iter()
            .map(|((_, certificate), server_names)| Chain {
                server_names,
                certificate,
            })
            .collect();
        let mut certificates = self.certificates;
        certificates.retain(|name, _| chains.iter().any(|chain| chain.certificate == *name));
        Gateway {
            http: hosts(self.http),
            https: hosts(self.https),
            chains,
            certificates,
            ingresses: self.ingresses,
            verdicts: Verdicts::default(),
        }
    }
}

/// Brings each host's rules into order, and behind them those of wider hosts that serve it too.
fn hosts(candidates: Hosts) -> Vec<Host> {
    let host = |domain: &String| {
        let mut rules = in_order(candidates[domain].clone());
        let mut wider: Vec<&String> = candidates.keys().filter(|other| covers(other, domain)).collect();
        wider.sort_by_key(|other| Reverse(other.len()));
        for other in wider {
            let through = candidates[other].iter().filter(|c| c.falls_through).cloned();
            rules.extend(in_order(through.collect()));
        }
        if let Some(all) = rules.iter().position(Rule::takes_all) {
            rules.truncate(all + 1);
        }
        Host {
            domain: domain.clone(),
            rules,
        }
    };
    candidates.keys().map(host).collect()
}

/// A wildcard covers each host below it, and narrower wildcards; nothing covers itself.
pub(crate) fn covers(wildcard: &str, host: &str) -> bool {
    if wildcard == host {
        return false;
    }
    match wildcard.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => host.trim_start_matches('*').len() > suffix.len() && host.ends_with(suffix),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::TextMatch;

    fn candidate(path: Option<PathMatch>, more: impl FnOnce(&mut RequestMatch), name: &str) -> Candidate {
        let mut matched = RequestMatch {
            path,
            ..Default::default()
        };
        more(&mut matched);
        let rule = Rule {
            name: name.to_owned(),
            matches: vec![matched],
            ..Default::default()
        };
        Candidate::each(rule, &Age::of(&ObjectMeta::default(), 0)).remove(0)
    }

    fn names(rules: &[Rule]) -> Vec<&str> {
        rules.iter().map(|rule| rule.name.as_str()).collect()
    }

    fn prefix(text: &str) -> Option<PathMatch> {
        Some(PathMatch::Prefix(text.to_owned()))
    }

    #[test]
    fn the_more_specific_comes_first() {
        let header = || ("x".to_owned(), TextMatch::Exact("1".to_owned()));
        let mut default = candidate(None, |_| {}, "default");
        default.last = true;
        let list = vec![
            default,
            candidate(prefix("/"), |_| {}, "root"),
            candidate(prefix("/a"), |_| {}, "short"),
            candidate(prefix("/a"), |m| m.query.push(header()), "query"),
            candidate(prefix("/a"), |m| m.headers.push(header()), "header"),
            candidate(prefix("/a"), |m| m.headers.extend([header(), header()]), "headers"),
            candidate(prefix("/a"), |m| m.method = Some("GET".to_owned()), "method"),
            candidate(prefix("/a/b"), |_| {}, "long"),
            candidate(Some(PathMatch::Regex("/x.*".into())), |_| {}, "regex"),
            candidate(Some(PathMatch::Exact("/a".into())), |_| {}, "exact"),
        ];
        let expected = [
            "exact", "regex", "long", "method", "headers", "header", "query", "short", "root", "default",
        ];
        assert_eq!(names(&in_order(list)), expected);
    }

    #[test]
    fn among_equals_the_older_object_then_the_name_then_the_order_written() {
        let of = |name: &str, second: Option<i64>, rule: usize| {
            let meta = ObjectMeta {
                name: Some(name.to_owned()),
                creation_timestamp: second
                    .map(|s| serde_json::from_value(serde_json::json!(format!("2026-01-01T00:00:{s:02}Z"))).unwrap()),
                ..Default::default()
            };
            let rule_object = Rule {
                name: format!("{name}{rule}"),
                ..Default::default()
            };
            Candidate::each(rule_object, &Age::of(&meta, rule)).remove(0)
        };
        let list = vec![
            of("new", None, 0),
            of("b", Some(2), 0),
            of("a", Some(2), 1),
            of("a", Some(2), 0),
            of("z", Some(1), 0),
        ];
        assert_eq!(names(&in_order(list)), ["z0", "a0", "a1", "b0", "new0"]);
    }

    #[test]
    fn wildcards_cover_what_is_below_them() {
        assert!(covers("*", "a.b"));
        assert!(covers("*", "*.b"));
        assert!(covers("*.b", "a.b"));
        assert!(covers("*.b", "*.a.b"));
        assert!(!covers("*.b", "b"));
        assert!(!covers("*.b", "*.b"));
        assert!(!covers("*.b", "a.xb"));
        assert!(!covers("*", "*"));
        assert!(!covers("a.b", "a.b"));
    }
}
