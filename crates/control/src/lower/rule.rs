//! Rules of the model as routes: matches, filters and actions in Envoy's words.
//!
//! It knows what a rule asks for, not whose it is: the same for a Service's own rules and for the gateway's.

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::{
    ClusterWeight, cluster_weight::HostRewriteSpecifier as ClusterHost,
};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, RetryPolicy, Route, RouteAction,
    RouteMatch, WeightedCluster,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use weir_mesh::routes::{
    Filters, HeaderEdits, Mirror, PathMatch, PathRewrite, Redirect, RequestMatch, Rule, RuleAction, Share, TextMatch,
};

use weir_xds::snapshot::NO_CLUSTER;

use super::{cluster_name, duration, number};

/// A rule's routes, one a match, all with this name. What the rule says of tries and time goes on top of `usual`.
pub(super) fn routes<'a>(rule: &'a Rule, name: &'a str, usual: &'a RouteAction) -> impl Iterator<Item = Route> + 'a {
    let everything = [RequestMatch::default()];
    let matches = if rule.matches.is_empty() {
        everything.to_vec()
    } else {
        rule.matches.clone()
    };
    matches.into_iter().map(move |matched| {
        let mut route = Route {
            name: name.to_owned(),
            action: Some(action(rule, &matched, usual)),
            r#match: Some(route_match(&matched)),
            ..Default::default()
        };
        let edits = &rule.filters;
        route.request_headers_to_add = additions(&edits.request_headers);
        route
            .request_headers_to_remove
            .clone_from(&edits.request_headers.remove);
        route.response_headers_to_add = additions(&edits.response_headers);
        route
            .response_headers_to_remove
            .clone_from(&edits.response_headers.remove);
        route
    })
}

fn route_match(matched: &RequestMatch) -> RouteMatch {
    let path = match &matched.path {
        None => PathSpecifier::Prefix("/".to_owned()),
        Some(PathMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        Some(PathMatch::Prefix(prefix)) if prefix == "/" => PathSpecifier::Prefix(prefix.clone()),
        Some(PathMatch::Prefix(prefix)) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
        Some(PathMatch::Regex(text)) => PathSpecifier::SafeRegex(regex(text)),
    };
    let header = |name: &str, text: &TextMatch| HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(string_match(text))),
        ..Default::default()
    };
    let method = matched
        .method
        .as_ref()
        .map(|m| header(":method", &TextMatch::Exact(m.clone())));
    let query = |(name, text): &(String, TextMatch)| QueryParameterMatcher {
        name: name.clone(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(string_match(text))),
    };
    RouteMatch {
        path_specifier: Some(path),
        headers: method
            .into_iter()
            .chain(matched.headers.iter().map(|(name, text)| header(name, text)))
            .collect(),
        query_parameters: matched.query.iter().map(query).collect(),
        ..Default::default()
    }
}

fn string_match(text: &TextMatch) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(match text {
            TextMatch::Exact(text) => MatchPattern::Exact(text.clone()),
            TextMatch::Regex(text) => MatchPattern::SafeRegex(regex(text)),
        }),
        ..Default::default()
    }
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher {
        regex: text.to_owned(),
        ..Default::default()
    }
}

/// Set over add. Values are literal: `%` would begin one of Envoy's variables.
fn additions(edits: &HeaderEdits) -> Vec<HeaderValueOption> {
    let option = |(name, value): &(String, String), action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue {
            key: name.clone(),
            value: value.replace('%', "%%"),
            ..Default::default()
        }),
        append_action: action as i32,
        keep_empty_value: true,
        ..Default::default()
    };
    let set = edits
        .set
        .iter()
        .map(|header| option(header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = edits
        .add
        .iter()
        .map(|header| option(header, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

fn action(rule: &Rule, matched: &RequestMatch, usual: &RouteAction) -> Action {
    match &rule.action {
        RuleAction::Forward(shares) => Action::Route(forward(rule, matched, shares, usual)),
        RuleAction::Redirect(to) => Action::Redirect(redirect(to, matched)),
        RuleAction::Respond { status, body } => Action::DirectResponse(DirectResponseAction {
            status: u32::from(*status),
            body: (!body.is_empty()).then(|| DataSource {
                specifier: Some(Specifier::InlineString(body.clone())),
                ..Default::default()
            }),
            ..Default::default()
        }),
    }
}

fn forward(rule: &Rule, matched: &RequestMatch, shares: &[Share], usual: &RouteAction) -> RouteAction {
    let mut action = RouteAction {
        cluster_specifier: Some(clusters(shares)),
        request_mirror_policies: rule.filters.mirrors.iter().map(mirror).collect(),
        ..usual.clone()
    };
    if shares.iter().any(|share| share.service.is_none()) {
        action.cluster_not_found_response_code = ClusterNotFoundResponseCode::InternalServerError as i32;
    }
    if let Some(timeout) = rule.timeouts.request {
        action.timeout = duration(timeout);
    }
    if let Some(timeout) = rule.timeouts.backend_request {
        let retry = action.retry_policy.get_or_insert_with(RetryPolicy::default);
        // Zero is for ever, which Envoy says by saying nothing.
        retry.per_try_timeout = duration(timeout).filter(|_| !timeout.is_zero());
    }
    if let Some(rewrite) = &rule.filters.rewrite {
        let host = rewrite.hostname.clone().map(HostRewriteSpecifier::HostRewriteLiteral);
        action.host_rewrite_specifier = host.or(action.host_rewrite_specifier);
        match rewrite.path.as_ref().map(|path| new_path(path, matched)) {
            Some(NewPath::Prefix(prefix)) => action.prefix_rewrite = prefix,
            Some(NewPath::Regex(regex)) => action.regex_rewrite = Some(regex),
            None => {}
        }
    }
    action
}

/// One cluster as it is, several by weight.
fn clusters(shares: &[Share]) -> ClusterSpecifier {
    let name = |share: &Share| match &share.service {
        Some(key) => cluster_name(share.port, &key.namespace, &key.name),
        None => NO_CLUSTER.to_owned(),
    };
    if let [share] = shares
        && share.filters == Filters::default()
    {
        return ClusterSpecifier::Cluster(name(share));
    }
    let cluster = |share: &Share| ClusterWeight {
        name: name(share),
        weight: number(share.weight),
        request_headers_to_add: additions(&share.filters.request_headers),
        request_headers_to_remove: share.filters.request_headers.remove.clone(),
        response_headers_to_add: additions(&share.filters.response_headers),
        response_headers_to_remove: share.filters.response_headers.remove.clone(),
        host_rewrite_specifier: share
            .filters
            .rewrite
            .as_ref()
            .and_then(|rewrite| rewrite.hostname.clone())
            .map(ClusterHost::HostRewriteLiteral),
        ..Default::default()
    };
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: shares.iter().map(cluster).collect(),
        ..Default::default()
    })
}

fn mirror(mirror: &Mirror) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster: cluster_name(mirror.port, &mirror.service.namespace, &mirror.service.name),
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: mirror.per_million,
                denominator: DenominatorType::Million as i32,
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn redirect(to: &Redirect, matched: &RequestMatch) -> RedirectAction {
    let path = to.path.as_ref().map(|path| match (path, new_path(path, matched)) {
        // Envoy replaces the whole path itself and keeps the query.
        (PathRewrite::Full(path), _) => PathRewriteSpecifier::PathRedirect(path.clone()),
        (_, NewPath::Prefix(prefix)) => PathRewriteSpecifier::PrefixRewrite(prefix),
        (_, NewPath::Regex(regex)) => PathRewriteSpecifier::RegexRewrite(regex),
    });
    let status = match to.status {
        301 => RedirectResponseCode::MovedPermanently,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    };
    RedirectAction {
        host_redirect: to.hostname.clone().unwrap_or_default(),
        port_redirect: to.port.map_or(0, u32::from),
        response_code: status as i32,
        scheme_rewrite_specifier: to.scheme.clone().map(|scheme| match scheme.as_str() {
            "https" => SchemeRewriteSpecifier::HttpsRedirect(true),
            _ => SchemeRewriteSpecifier::SchemeRedirect(scheme),
        }),
        path_rewrite_specifier: path,
        ..Default::default()
    }
}

/// How Envoy is told another path.
enum NewPath {
    /// Instead of what the prefix matched, letter by letter.
    Prefix(String),
    Regex(RegexMatchAndSubstitute),
}

/// Envoy replaces a prefix letter by letter, the Gateway API segment by segment: they differ where either side is the root.
fn new_path(to: &PathRewrite, matched: &RequestMatch) -> NewPath {
    let whole = |path: &str| NewPath::Regex(substitute("^/.*$".to_owned(), path));
    let (from, to) = match (to, &matched.path) {
        (PathRewrite::Full(path), _) => return whole(path),
        (PathRewrite::Prefix(to), None) => ("/", to),
        (PathRewrite::Prefix(to), Some(PathMatch::Prefix(from))) => (from.as_str(), to),
        // An exact path is a prefix of itself; with regular expressions the specification allows no prefix.
        (PathRewrite::Prefix(to), Some(PathMatch::Exact(_) | PathMatch::Regex(_))) => return whole(to),
    };
    match (from, to.trim_end_matches('/')) {
        ("/", "") => NewPath::Prefix("/".to_owned()),
        // `/x` becomes `<to>/x`: the slash that was matched must come back.
        ("/", to) => NewPath::Prefix(format!("{to}/")),
        // `/from` and `/from/` become `/`, `/from/x` becomes `/x`, never `//x`.
        (from, "") => NewPath::Regex(substitute(format!("^{}/*", literally(from)), "/")),
        (_, to) => NewPath::Prefix(to.to_owned()),
    }
}

fn substitute(pattern: String, with: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(regex(&pattern)),
        substitution: with.replace('\\', "\\\\"),
    }
}

/// A regular expression for this very text.
fn literally(text: &str) -> String {
    let mut found = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            found.push('\\');
        }
        found.push(c);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(path: &str, from: &str, to: &str) -> String {
        let matched = RequestMatch {
            path: Some(PathMatch::Prefix(from.to_owned())),
            ..Default::default()
        };
        match new_path(&PathRewrite::Prefix(to.to_owned()), &matched) {
            NewPath::Prefix(prefix) => format!("{prefix}{}", &path[from.len()..]),
            NewPath::Regex(r) => {
                let pattern = r.pattern.unwrap().regex;
                let to_match = pattern.trim_start_matches('^').trim_end_matches("/*").replace('\\', "");
                let rest = path.strip_prefix(&to_match).unwrap().trim_start_matches('/');
                format!("{}{rest}", r.substitution)
            }
        }
    }

    /// The table of the Gateway API's `ReplacePrefixMatch`.
    #[test]
    fn prefixes_are_replaced_by_segments() {
        for (path, from, to, becomes) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo.v1/bar", "/foo.v1", "/", "/bar"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/bar", "/", "/", "/bar"),
        ] {
            assert_eq!(rewritten(path, from, to), becomes, "{path}: {from} -> {to}");
        }
    }

    #[test]
    fn values_are_literal() {
        let edits = HeaderEdits {
            set: vec![("x-share".into(), "100%".into())],
            add: vec![("x-share".into(), "more".into())],
            remove: vec![],
        };
        let options = additions(&edits);
        assert_eq!(options[0].header.as_ref().unwrap().value, "100%%");
        assert_eq!(
            options[0].append_action,
            HeaderAppendAction::OverwriteIfExistsOrAdd as i32
        );
        assert_eq!(options[1].append_action, HeaderAppendAction::AppendIfExistsOrAdd as i32);
        assert_eq!(literally("/a.b(c)"), r"/a\.b\(c\)");
        assert_eq!(substitute("^/".into(), r"/\1").substitution, r"/\\1");
    }
}
