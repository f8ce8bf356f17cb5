//! `envoy.config.route.v3.RouteConfiguration`.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{DataSource, SubstitutionFormatString};
use envoy_types::pb::envoy::config::route::v3 as pb;

use super::retry::retry_policy;
use super::{Decoded, Within, flag, nothing_left, optional_duration, reject};
use crate::config::route::{
    Action, Forward, HashOn, PathMatch, ResponseText, RetryPolicy, Route, RouteTable, TextPart, VirtualHost,
};

/// Envoy's default for whole requests.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Checks and indexes a route configuration.
pub(super) fn table(mut rest: pb::RouteConfiguration) -> Decoded<RouteTable> {
    let name: Arc<str> = take(&mut rest.name).into();
    let mut hosts = Vec::with_capacity(rest.virtual_hosts.len());
    for (i, host) in take(&mut rest.virtual_hosts).into_iter().enumerate() {
        hosts.push(virtual_host(host).within(format_args!("virtual_hosts[{i}]"))?);
    }
    // Clusters are resolved by name at each request, so their existence is never checked here.
    rest.validate_clusters = None;
    rest.max_direct_response_body_size_bytes = None;
    rest.metadata = None;
    nothing_left(&rest)?;
    RouteTable::new(name, hosts).or_else(|e| reject("virtual_hosts", e))
}

fn virtual_host(mut rest: pb::VirtualHost) -> Decoded<VirtualHost> {
    let name = take(&mut rest.name).into();
    let domains = take(&mut rest.domains);
    if domains.is_empty() {
        return reject("domains", "must name at least one host, or \"*\" for any");
    }
    let one_star = |d: &str| match d.matches('*').count() {
        0 => true,
        1 => d.starts_with('*') || d.ends_with('*'),
        _ => false,
    };
    if let Some(odd) = domains.iter().find(|d| d.is_empty() || !one_star(d)) {
        return reject(
            "domains",
            format!("{odd:?} is no host; one * may stand at its beginning or end"),
        );
    }
    let retry = rest
        .retry_policy
        .take()
        .map(retry_policy)
        .transpose()
        .within("retry_policy")?;
    let mut routes = Vec::with_capacity(rest.routes.len());
    for (i, one) in take(&mut rest.routes).into_iter().enumerate() {
        routes.push(Arc::new(
            route(one, retry.as_ref()).within(format_args!("routes[{i}]"))?,
        ));
    }
    rest.metadata = None;
    nothing_left(&rest)?;
    let domains = domains.into_iter().map(|d| d.to_ascii_lowercase().into()).collect();
    Ok(VirtualHost { name, domains, routes })
}

fn route(mut rest: pb::Route, retry: Option<&RetryPolicy>) -> Decoded<Route> {
    let name = take(&mut rest.name).into();
    let path = match rest.r#match.take() {
        Some(m) => path_match(m).within("match")?,
        None => return reject("match", "is missing; right would be {prefix: \"/\"}"),
    };
    let action = match rest.action.take() {
        Some(pb::route::Action::Route(action)) => Action::Forward(forward(action, retry).within("route")?),
        Some(pb::route::Action::DirectResponse(action)) => direct_response(action).within("direct_response")?,
        Some(pb::route::Action::Redirect(_)) => return reject("redirect", "is not supported by this proxy"),
        Some(_) => return reject("action", "must be route or direct_response"),
        None => return reject("action", "is missing; either route or direct_response must be set"),
    };
    rest.metadata = None;
    rest.stat_prefix.clear();
    nothing_left(&rest)?;
    Ok(Route { name, path, action })
}

fn path_match(mut rest: pb::RouteMatch) -> Decoded<PathMatch> {
    use pb::route_match::PathSpecifier;
    let path = match rest.path_specifier.take() {
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(prefix.into()),
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.into()),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => PathMatch::SeparatedPrefix(prefix.into()),
        Some(PathSpecifier::SafeRegex(_)) => return reject("safe_regex", "is not supported by this proxy"),
        Some(_) => return reject("path_specifier", "must be prefix, path or path_separated_prefix"),
        None => {
            return reject(
                "prefix",
                "is missing; one of prefix, path, path_separated_prefix must be set",
            );
        }
    };
    if flag(&rest.case_sensitive, true) {
        rest.case_sensitive = None;
    }
    nothing_left(&rest)?;
    Ok(path)
}

fn direct_response(mut rest: pb::DirectResponseAction) -> Decoded<Action> {
    let number = take(&mut rest.status);
    let status = u16::try_from(number).ok().filter(|s| (200..600).contains(s));
    let Some(status) = status.and_then(|s| http::StatusCode::from_u16(s).ok()) else {
        return reject(
            "status",
            format!("{number} is no status of a response; right would be 200 to 599"),
        );
    };
    let mut body = match rest.body.take() {
        None => ResponseText::Fixed(Bytes::new()),
        Some(source) => ResponseText::Fixed(inline(source).within("body")?),
    };
    if let Some(format) = rest.body_format.take() {
        body = body_format(format).within("body_format")?;
    }
    nothing_left(&rest)?;
    Ok(Action::Respond { status, body })
}

fn inline(source: DataSource) -> Decoded<Bytes> {
    match source.specifier {
        Some(Specifier::InlineString(text)) => Ok(Bytes::from(text)),
        Some(Specifier::InlineBytes(bytes)) => Ok(Bytes::from(bytes)),
        _ => reject("", "must be inline_string or inline_bytes"),
    }
}

/// A text with places for the original destination, in place of the fixed body.
fn body_format(mut rest: SubstitutionFormatString) -> Decoded<ResponseText> {
    let Some(Format::TextFormatSource(source)) = rest.format.take() else {
        return reject("text_format_source", "is missing");
    };
    let text = inline(source).within("text_format_source")?;
    let Ok(text) = std::str::from_utf8(&text) else {
        return reject("text_format_source", "is not UTF-8");
    };
    let mut parts = Vec::new();
    // Every second piece between percent signs names a value; an empty name is the sign itself.
    for (i, piece) in text.split('%').enumerate() {
        parts.push(match (i % 2, piece) {
            (0, text) => TextPart::Text(text.to_owned()),
            (_, "") => TextPart::Text("%".to_owned()),
            (_, "DOWNSTREAM_LOCAL_ADDRESS") => TextPart::Destination,
            (_, "DOWNSTREAM_LOCAL_PORT") => TextPart::DestinationPort,
            (_, other) => {
                let known = "known are DOWNSTREAM_LOCAL_ADDRESS and DOWNSTREAM_LOCAL_PORT";
                return reject("text_format_source", format!("%{other}% is unknown; {known}"));
            }
        });
    }
    if rest.content_type == "text/plain" {
        rest.content_type.clear();
    }
    nothing_left(&rest)?;
    Ok(ResponseText::Parts(parts))
}

fn forward(mut rest: pb::RouteAction, inherited: Option<&RetryPolicy>) -> Decoded<Forward> {
    use pb::route_action::ClusterSpecifier;
    let cluster = match rest.cluster_specifier.take() {
        Some(ClusterSpecifier::Cluster(name)) => name.into(),
        Some(_) => return reject("cluster_specifier", "is not supported by this proxy; name one cluster"),
        None => return reject("cluster", "is missing"),
    };
    let timeout = optional_duration("timeout", &rest.timeout.take())?.unwrap_or(TIMEOUT);
    let retry = match rest.retry_policy.take() {
        Some(policy) => retry_policy(policy).within("retry_policy")?,
        None => inherited.cloned().unwrap_or_default(),
    };
    // Zero switches it off, and there is none here.
    if optional_duration("idle_timeout", &rest.idle_timeout)?.is_some_and(|d| d.is_zero()) {
        rest.idle_timeout = None;
    }
    let mut hash = Vec::new();
    for (i, policy) in take(&mut rest.hash_policy).into_iter().enumerate() {
        hash.push(hash_policy(policy).within(format_args!("hash_policy[{i}]"))?);
    }
    rest.cluster_not_found_response_code = 0;
    nothing_left(&rest)?;
    Ok(Forward {
        cluster,
        timeout: (!timeout.is_zero()).then_some(timeout),
        retry,
        hash: hash.into(),
    })
}

fn hash_policy(mut rest: pb::route_action::HashPolicy) -> Decoded<HashOn> {
    use pb::route_action::hash_policy::PolicySpecifier;
    let terminal = take(&mut rest.terminal);
    let on = match rest.policy_specifier.take() {
        Some(PolicySpecifier::Header(mut header)) => {
            let name = take(&mut header.header_name).to_ascii_lowercase().into();
            nothing_left(&header).within("header")?;
            HashOn::Header { name, terminal }
        }
        Some(PolicySpecifier::Cookie(mut cookie)) => {
            let ttl = optional_duration("cookie.ttl", &cookie.ttl.take())?;
            let (name, path) = (take(&mut cookie.name).into(), take(&mut cookie.path).into());
            nothing_left(&cookie).within("cookie")?;
            HashOn::Cookie {
                name,
                ttl,
                path,
                terminal,
            }
        }
        _ => return reject("policy_specifier", "must be header or cookie"),
    };
    nothing_left(&rest)?;
    Ok(on)
}
