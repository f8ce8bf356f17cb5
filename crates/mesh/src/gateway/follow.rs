//! Splits at the gateway: what leads to an apex leads to its backends, from outside too.
//!
//! Enters: the gateway's rules as Ingresses and HTTPRoutes ask for them, and Services with the rules of their TrafficSplits.
//! Leaves: the gateway's rules with the shares of the splits in them; in front of each, one for every condition of a split.

use std::collections::BTreeMap;

use super::Gateway;
use crate::objects::Key;
use crate::routes::{PathMatch, RequestMatch, Rule, RuleAction, Share, TextMatch, scaled};
use crate::services::Service;
use crate::split;

/// A request's path with its query, as a header.
const PATH: &str = ":path";

/// Follows the splits of every Service that a rule leads to.
pub(crate) fn follow_splits(gateway: &mut Gateway, services: &BTreeMap<Key, Service>) {
    for host in gateway.http.iter_mut().chain(&mut gateway.https) {
        let rules = std::mem::take(&mut host.rules);
        host.rules = rules.into_iter().flat_map(|rule| followed(rule, services)).collect();
    }
}

/// A rule behind those for the requests that splits of its Services are restricted to.
fn followed(rule: Rule, services: &BTreeMap<Key, Service>) -> Vec<Rule> {
    let RuleAction::Forward(shares) = &rule.action else {
        return vec![rule];
    };
    let whole = |share: &Share| splits(share, services).iter().find(|split| split.takes_all());
    let mut found = Vec::new();
    let mut apexes: Vec<&Share> = Vec::new();
    for share in shares.iter().filter(|share| share.weight > 0) {
        if !apexes
            .iter()
            .any(|known| (&known.service, known.port) == (&share.service, share.port))
        {
            apexes.push(share);
        }
    }
    for apex in apexes {
        for split in splits(apex, services).iter().filter(|split| !split.takes_all()) {
            let matches = both(&rule, &split.matches);
            if matches.is_empty() {
                continue;
            }
            let of = |share: &Share| match (&share.service, share.port) == (&apex.service, apex.port) {
                true => Some(split),
                false => whole(share),
            };
            found.push(Rule {
                matches,
                action: RuleAction::Forward(divided(shares, of)),
                ..rule.clone()
            });
        }
    }
    let action = RuleAction::Forward(divided(shares, whole));
    found.push(Rule { action, ..rule });
    found
}

/// The rules of the splits of what a share leads to; none where an HTTPRoute has taken their place.
fn splits<'a>(share: &Share, services: &'a BTreeMap<Key, Service>) -> &'a [Rule] {
    let service = share.service.as_ref().and_then(|key| services.get(key));
    let rules = service.and_then(|service| service.ports.get(&share.port));
    let rules = rules.map(|port| port.rules.as_slice()).unwrap_or_default();
    match rules.iter().all(|rule| rule.origin.kind == split::KIND) {
        true => rules,
        false => &[],
    }
}

/// Shares where each that is split is divided between the backends.
fn divided<'a>(shares: &[Share], split: impl Fn(&Share) -> Option<&'a Rule>) -> Vec<Share> {
    let sum = |shares: &[Share]| shares.iter().map(|s| u64::from(s.weight)).sum::<u64>().max(1);
    if !shares.iter().any(|share| split(share).is_some()) {
        return shares.to_vec();
    }
    let common: u64 = shares
        .iter()
        .filter_map(&split)
        .map(|rule| sum(rule.shares()))
        .fold(1, u64::saturating_mul);
    let mut wanted: Vec<(u64, Share)> = Vec::new();
    for share in shares {
        let Some(rule) = split(share) else {
            wanted.push((u64::from(share.weight).saturating_mul(common), share.clone()));
            continue;
        };
        let whole = sum(rule.shares());
        for part in rule.shares() {
            let weight = u64::from(share.weight)
                .saturating_mul(u64::from(part.weight))
                .saturating_mul(common / whole);
            let filters = share.filters.clone();
            wanted.push((
                weight,
                Share {
                    filters,
                    ..part.clone()
                },
            ));
        }
    }
    let weights = scaled(&wanted.iter().map(|(weight, _)| *weight).collect::<Vec<_>>());
    let weighed = wanted.into_iter().zip(weights);
    weighed.map(|((_, share), weight)| Share { weight, ..share }).collect()
}

/// The requests that satisfy one of either side. A rule without matches takes every request.
fn both(rule: &Rule, split: &[RequestMatch]) -> Vec<RequestMatch> {
    let everything = [RequestMatch::default()];
    let matches = if rule.matches.is_empty() {
        &everything
    } else {
        rule.matches.as_slice()
    };
    // What another path is made from is the path that the rule matched.
    let needed = rule
        .filters
        .rewrite
        .as_ref()
        .is_some_and(|rewrite| rewrite.path.is_some());
    let pairs = matches
        .iter()
        .flat_map(|rule| split.iter().map(move |split| (rule, split)));
    pairs.filter_map(|(rule, split)| meet(rule, split, needed)).collect()
}

/// What satisfies both; `None`: nothing does. `needed`: the rule's path must stay what it is.
fn meet(rule: &RequestMatch, split: &RequestMatch, needed: bool) -> Option<RequestMatch> {
    let mut met = rule.clone();
    met.method = match (&rule.method, &split.method) {
        (Some(one), Some(other)) if one != other => return None,
        (one, other) => one.clone().or_else(|| other.clone()),
    };
    met.headers.extend(split.headers.iter().cloned());
    match (&rule.path, &split.path) {
        (_, None) => {}
        (None, path) if !needed => met.path.clone_from(path),
        (Some(PathMatch::Prefix(prefix)), path) if prefix == "/" && !needed => met.path.clone_from(path),
        // A condition has one path. The other is asked of the header that holds path and query, which a split does not look at.
        (_, Some(PathMatch::Regex(text))) => {
            met.headers
                .push((PATH.to_owned(), TextMatch::Regex(format!("(?:{text})(?:\\?.*)?"))));
        }
        // A split's paths are regular expressions.
        (_, Some(PathMatch::Exact(_) | PathMatch::Prefix(_))) => return None,
    }
    Some(met)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(path: Option<PathMatch>, method: Option<&str>) -> RequestMatch {
        RequestMatch {
            path,
            method: method.map(str::to_owned),
            ..Default::default()
        }
    }

    fn regex(text: &str) -> Option<PathMatch> {
        Some(PathMatch::Regex(text.to_owned()))
    }

    fn prefix(text: &str) -> Option<PathMatch> {
        Some(PathMatch::Prefix(text.to_owned()))
    }

    #[test]
    fn conditions_meet() {
        let root = condition(prefix("/"), None);
        let split = condition(regex("/a/.*"), Some("GET"));
        assert_eq!(meet(&root, &split, false), Some(split.clone()), "the root says nothing");
        assert_eq!(meet(&root, &split, true).unwrap().path, prefix("/"));
        let post = condition(prefix("/"), Some("POST"));
        assert_eq!(meet(&post, &split, false), None, "no method is both");
        let below = meet(&condition(prefix("/a"), None), &split, false).unwrap();
        assert_eq!((below.path, below.method.as_deref()), (prefix("/a"), Some("GET")));
        assert_eq!(
            below.headers,
            [(":path".to_owned(), TextMatch::Regex(r"(?:/a/.*)(?:\?.*)?".to_owned()))]
        );
        let all = [split, root];
        assert_eq!(both(&Rule::default(), &all), all);
    }
}
