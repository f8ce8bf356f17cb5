//! Virtual host, route, and what the route does.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::PolicySpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RedirectAction, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_rate_limit::LimitType;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use envoy_types::pb::google::protobuf::Any;

use super::words::{decode, duration, fraction, percent, text_matches, whole};
use super::{Error, Request, Walk, cluster};

/// Name of the filter that delays, aborts and slows down.
const FAULT: &str = "envoy.filters.http.fault";
/// Envoy's default for whole requests.
const TIMEOUT_DEFAULT: &str = "15s";

pub(super) fn follow(walk: &mut Walk<'_>, id: &str, routes: &RouteConfiguration) -> Result<(), Error> {
    let request = walk.request;
    let authority = request.authority();
    let Some((host, domain)) = virtual_host(routes, &authority) else {
        walk.say("route", format!("no virtual host is for {authority:?}"), id);
        walk.end("the request is answered 404: nobody serves this host");
        return Ok(());
    };
    let mut passed = Vec::new();
    for (number, route) in host.routes.iter().enumerate() {
        let name = if route.name.is_empty() {
            format!("#{number}")
        } else {
            format!("{:?}", route.name)
        };
        let conditions = route
            .r#match
            .as_ref()
            .map(|m| conditions(m, request))
            .unwrap_or_default();
        if let Some((_, why)) = conditions.iter().find(|(holds, _)| !holds) {
            passed.push(format!("route {name} does not apply: {why} does not hold"));
            continue;
        }
        let because: Vec<String> = conditions.into_iter().map(|(_, text)| text).collect();
        let text = format!(
            "virtual host {:?} (domain {domain}), route {name}: {}",
            host.name,
            because.join(", ")
        );
        walk.say("route", text, id).details = passed;
        return act(walk, id, host, route);
    }
    walk.say(
        "route",
        format!("virtual host {:?} (domain {domain}): no route applies", host.name),
        id,
    )
    .details = passed;
    walk.end("the request is answered 404: no route is for it");
    Ok(())
}

/// The most specific virtual host: exact names, then `*.suffix` and `prefix.*` (the longest), then `*`.
fn virtual_host<'a>(routes: &'a RouteConfiguration, authority: &str) -> Option<(&'a VirtualHost, &'a str)> {
    let authority = authority.to_ascii_lowercase();
    let rank = |domain: &str| -> Option<(u8, usize)> {
        let length = domain.len();
        let domain = domain.to_ascii_lowercase();
        if domain == authority {
            Some((3, length))
        } else if domain == "*" {
            Some((0, 0))
        } else if let Some(suffix) = domain.strip_prefix('*') {
            (authority.len() > suffix.len() && authority.ends_with(suffix)).then_some((2, length))
        } else {
            let prefix = domain.strip_suffix('*')?;
            (authority.len() > prefix.len() && authority.starts_with(prefix)).then_some((1, length))
        }
    };
    let domains = routes
        .virtual_hosts
        .iter()
        .flat_map(|host| host.domains.iter().map(move |d| (host, d.as_str())));
    domains
        .filter_map(|(host, domain)| Some((rank(domain)?, host, domain)))
        .max_by_key(|(rank, ..)| *rank)
        .map(|(_, host, domain)| (host, domain))
}

/// Every condition of a match, in words, and whether it holds.
fn conditions(m: &RouteMatch, request: &Request) -> Vec<(bool, String)> {
    let full = &request.url.path;
    let (path, query) = full.split_once('?').unwrap_or((full, ""));
    let fold = |s: &str| {
        if m.case_sensitive.as_ref().is_some_and(|c| !c.value) {
            s.to_lowercase()
        } else {
            s.to_owned()
        }
    };
    let subject = fold(path);
    let of_path = match &m.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) if prefix == "/" => (true, "any path".to_owned()),
        Some(PathSpecifier::Prefix(prefix)) => {
            (subject.starts_with(&fold(prefix)), format!("path begins with {prefix}"))
        }
        Some(PathSpecifier::Path(exact)) => (subject == fold(exact), format!("path is {exact}")),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            let below = subject
                .strip_prefix(&fold(prefix))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            (below, format!("path is {prefix} or below it"))
        }
        Some(PathSpecifier::SafeRegex(regex)) => (whole(&regex.regex, path), format!("path matches {:?}", regex.regex)),
        _ => (false, "a condition on the path that is not understood here".to_owned()),
    };
    let mut all = vec![of_path];
    all.extend(m.headers.iter().map(|header| header_condition(header, request)));
    all.extend(
        m.query_parameters
            .iter()
            .map(|parameter| query_condition(parameter, query)),
    );
    all
}

fn header_condition(matcher: &HeaderMatcher, request: &Request) -> (bool, String) {
    let name = &matcher.name;
    let value = request.header(name);
    let (holds, text) = match &matcher.header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(text)) => {
            let (holds, words) = text_matches(text, value.as_deref().unwrap_or_default());
            (holds && value.is_some(), format!("header {name} {words}"))
        }
        Some(HeaderMatchSpecifier::PresentMatch(present)) => {
            let words = if *present { "is there" } else { "is not there" };
            (value.is_some() == *present, format!("header {name} {words}"))
        }
        None => (value.is_some(), format!("header {name} is there")),
        _ => (
            false,
            format!("header {name} satisfies a condition that is not understood here"),
        ),
    };
    if matcher.invert_match {
        (!holds, format!("not: {text}"))
    } else {
        (holds, text)
    }
}

fn query_condition(matcher: &QueryParameterMatcher, query: &str) -> (bool, String) {
    let name = &matcher.name;
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let value = pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value);
    match &matcher.query_parameter_match_specifier {
        Some(QueryParameterMatchSpecifier::StringMatch(text)) => {
            let (holds, words) = text_matches(text, value.unwrap_or_default());
            (holds && value.is_some(), format!("query parameter {name} {words}"))
        }
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => (
            value.is_some() == *present,
            format!("query parameter {name} is there: {present}"),
        ),
        None => (value.is_some(), format!("query parameter {name} is there")),
    }
}

fn act(walk: &mut Walk<'_>, id: &str, host: &VirtualHost, route: &Route) -> Result<(), Error> {
    let configured = |name: &str| {
        route
            .typed_per_filter_config
            .get(name)
            .or_else(|| host.typed_per_filter_config.get(name))
    };
    if let Some(any) = configured(FAULT)
        && faults(walk, id, any)?
    {
        return Ok(());
    }
    let added = |action: &str, names: Vec<&str>| (!names.is_empty()).then(|| format!("{action}: {}", names.join(", ")));
    let edits = [
        added("request headers set", names(&route.request_headers_to_add)),
        added(
            "request headers removed",
            route.request_headers_to_remove.iter().map(String::as_str).collect(),
        ),
        added("response headers set", names(&route.response_headers_to_add)),
        added(
            "response headers removed",
            route.response_headers_to_remove.iter().map(String::as_str).collect(),
        ),
    ];
    if let Some(step) = walk.said.steps.last_mut() {
        step.details.extend(edits.into_iter().flatten());
    }
    match &route.action {
        Some(Action::Route(action)) => forward(walk, action),
        Some(Action::Redirect(redirect)) => {
            walk.end(redirection(redirect, walk.request));
            Ok(())
        }
        Some(Action::DirectResponse(answer)) => {
            walk.end(format!("the proxy answers {} by itself", answer.status));
            Ok(())
        }
        _ => {
            walk.end("the route does something that is not understood here");
            Ok(())
        }
    }
}

fn names(options: &[envoy_types::pb::envoy::config::core::v3::HeaderValueOption]) -> Vec<&str> {
    options
        .iter()
        .filter_map(|o| Some(o.header.as_ref()?.key.as_str()))
        .collect()
}

/// Says what faults are injected; true where no request gets past them.
fn faults(walk: &mut Walk<'_>, id: &str, any: &Any) -> Result<bool, Error> {
    let fault: HttpFault = decode(id, &any.value)?;
    let mut said = Vec::new();
    if let Some(delay) = &fault.delay
        && let Some(FaultDelaySecifier::FixedDelay(time)) = &delay.fault_delay_secifier
    {
        let share = percent(fraction(delay.percentage.as_ref()));
        said.push(format!(
            "{share} of requests are delayed by {}",
            duration(Some(time)).unwrap_or_else(|| "0s".to_owned())
        ));
    }
    let mut all_aborted = None;
    if let Some(abort) = &fault.abort {
        let share = fraction(abort.percentage.as_ref());
        let with = match &abort.error_type {
            Some(ErrorType::HttpStatus(status)) => format!("status {status}"),
            Some(ErrorType::GrpcStatus(status)) => format!("gRPC status {status}"),
            _ => "a status that the request names".to_owned(),
        };
        said.push(format!(
            "{} of requests are answered with {with} by the proxy",
            percent(share)
        ));
        if share >= 100.0 {
            all_aborted = Some(with);
        }
    }
    if let Some(limit) = &fault.response_rate_limit
        && let Some(LimitType::FixedLimit(limit)) = &limit.limit_type
    {
        said.push(format!("responses are slowed down to {} KiB/s", limit.limit_kbps));
    }
    if said.is_empty() {
        return Ok(false);
    }
    walk.say("fault", said.join("; "), id);
    if let Some(with) = &all_aborted {
        walk.end(format!(
            "every request is answered with {with} by the proxy: a fault that is injected"
        ));
    }
    Ok(all_aborted.is_some())
}

fn forward(walk: &mut Walk<'_>, action: &RouteAction) -> Result<(), Error> {
    let mut facts = Vec::new();
    let limit = match &action.timeout {
        None => Some(TIMEOUT_DEFAULT.to_owned()),
        some => duration(some.as_ref()),
    };
    facts.push(limit.map_or("no limit for the whole request".to_owned(), |limit| {
        format!("limit for the whole request: {limit}")
    }));
    let of_call = action.max_stream_duration.as_ref();
    if of_call.is_some_and(|longest| longest.grpc_timeout_header_max.is_some()) {
        facts.push("no longer than its own grpc-timeout".to_owned());
    }
    if let Some(retry) = &action.retry_policy {
        let tries = retry.num_retries.as_ref().map_or(1, |n| n.value);
        let per_try =
            duration(retry.per_try_timeout.as_ref()).map_or(String::new(), |t| format!(", each try at most {t}"));
        facts.push(format!(
            "tried again up to {tries} times on {}{per_try}",
            retry.retry_on.replace(',', ", ")
        ));
    }
    facts.extend(rewrites(action));
    for policy in &action.hash_policy {
        facts.extend(match &policy.policy_specifier {
            Some(PolicySpecifier::Header(header)) => {
                Some(format!("the endpoint depends on header {}", header.header_name))
            }
            Some(PolicySpecifier::Cookie(cookie)) => Some(match duration(cookie.ttl.as_ref()) {
                Some(ttl) => format!(
                    "the endpoint depends on cookie {}, which is set for {ttl} where it is absent",
                    cookie.name
                ),
                None => format!("the endpoint depends on cookie {}", cookie.name),
            }),
            _ => None,
        });
    }
    for mirror in &action.request_mirror_policies {
        let share = mirror.runtime_fraction.as_ref().and_then(|f| f.default_value.as_ref());
        let share = share.map_or(100.0, |f| fraction(Some(f)));
        facts.push(format!(
            "{} of requests are also sent to {}, whose answers are thrown away",
            percent(share),
            mirror.cluster
        ));
    }
    if let Some(step) = walk.said.steps.last_mut() {
        step.details.extend(facts);
    }
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => cluster::follow(walk, &[(name.clone(), 1)]),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let shares: Vec<_> = weighted
                .clusters
                .iter()
                .map(|c| (c.name.clone(), c.weight.as_ref().map_or(0, |w| w.value)))
                .collect();
            cluster::follow(walk, &shares)
        }
        _ => {
            walk.end("the route names no cluster that is understood here");
            Ok(())
        }
    }
}

fn rewrites(action: &RouteAction) -> Vec<String> {
    let mut facts = Vec::new();
    if !action.prefix_rewrite.is_empty() {
        facts.push(format!("the matched prefix becomes {}", action.prefix_rewrite));
    }
    if let Some(rewrite) = &action.regex_rewrite {
        let pattern = rewrite.pattern.as_ref().map(|p| p.regex.as_str()).unwrap_or_default();
        facts.push(format!(
            "the path becomes {} where it matches {pattern:?}",
            rewrite.substitution
        ));
    }
    if let Some(HostRewriteSpecifier::HostRewriteLiteral(host)) = &action.host_rewrite_specifier {
        facts.push(format!("the host becomes {host}"));
    }
    facts
}

fn redirection(redirect: &RedirectAction, request: &Request) -> String {
    let status = match redirect.response_code {
        1 => 302,
        2 => 303,
        3 => 307,
        4 => 308,
        _ => 301,
    };
    let scheme = match &redirect.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => "https",
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => scheme,
        _ => &request.url.scheme,
    };
    let host = if redirect.host_redirect.is_empty() {
        &request.url.host
    } else {
        &redirect.host_redirect
    };
    let port = match redirect.port_redirect {
        0 => String::new(),
        port => format!(":{port}"),
    };
    let path = match &redirect.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => path.clone(),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => format!("{prefix}... (in place of the matched prefix)"),
        _ => request.url.path.clone(),
    };
    format!("the proxy answers {status}: the client is sent to {scheme}://{host}{port}{path}")
}
