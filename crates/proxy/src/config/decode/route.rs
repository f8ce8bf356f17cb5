//! `envoy.config.route.v3.RouteConfiguration`.

mod action;
mod edit;
mod matching;

use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3 as pb;

use super::fault::{self, PerFilter};
use super::retry::retry_policy;
use super::{Decoded, Within, nothing_left, reject};
use crate::config::route::edit::{Edits, Level};
use crate::config::route::{Action, RetryPolicy, Route, RouteTable, Sampling, VirtualHost};

/// What routes take over from where they stand.
#[derive(Default, Clone)]
struct Inherited {
    retry: Option<RetryPolicy>,
    mirrors: Vec<pb::route_action::RequestMirrorPolicy>,
    /// The most specific place first.
    edits: Edits,
    fault: PerFilter,
    /// The least specific changes of headers are made first.
    reversed: bool,
}

impl Inherited {
    /// What a more specific place has, with the changes of headers of this one behind or before its own.
    fn edits(&self, (request, response): (Level, Level)) -> Edits {
        let mut edits = self.edits.clone();
        for (level, list) in [(request, &mut edits.request), (response, &mut edits.response)] {
            if !level.is_empty() {
                let at = if self.reversed { list.len() } else { 0 };
                list.insert(at, Arc::new(level));
            }
        }
        edits
    }
}

/// Checks and indexes a route configuration.
pub(super) fn table(mut rest: pb::RouteConfiguration) -> Decoded<RouteTable> {
    let name: Arc<str> = take(&mut rest.name).into();
    let mut inherited = Inherited {
        mirrors: take(&mut rest.request_mirror_policies),
        fault: fault::per_filter(take(&mut rest.typed_per_filter_config))?,
        reversed: take(&mut rest.most_specific_header_mutations_wins),
        ..Inherited::default()
    };
    let request = edit::request(&mut rest.request_headers_to_add, &mut rest.request_headers_to_remove)?;
    let response = edit::response(&mut rest.response_headers_to_add, &mut rest.response_headers_to_remove)?;
    inherited.edits = inherited.edits((request, response));
    let mut hosts = Vec::with_capacity(rest.virtual_hosts.len());
    for (i, host) in take(&mut rest.virtual_hosts).into_iter().enumerate() {
        hosts.push(virtual_host(host, &inherited).within(format_args!("virtual_hosts[{i}]"))?);
    }
    // Clusters are resolved by name at each request, so their existence is never checked here.
    rest.validate_clusters = None;
    rest.max_direct_response_body_size_bytes = None;
    rest.metadata = None;
    let ignore_port = take(&mut rest.ignore_port_in_host_matching);
    nothing_left(&rest)?;
    let mut table = RouteTable::new(name, hosts).or_else(|e| reject("virtual_hosts", e))?;
    table.ignore_port = ignore_port;
    Ok(table)
}

fn virtual_host(mut rest: pb::VirtualHost, outer: &Inherited) -> Decoded<VirtualHost> {
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
    let request = edit::request(&mut rest.request_headers_to_add, &mut rest.request_headers_to_remove)?;
    let response = edit::response(&mut rest.response_headers_to_add, &mut rest.response_headers_to_remove)?;
    let mut inherited = Inherited {
        edits: outer.edits((request, response)),
        fault: fault::per_filter(take(&mut rest.typed_per_filter_config))?.or(&outer.fault),
        ..outer.clone()
    };
    inherited.retry = rest
        .retry_policy
        .take()
        .map(retry_policy)
        .transpose()
        .within("retry_policy")?;
    if !rest.request_mirror_policies.is_empty() {
        inherited.mirrors = take(&mut rest.request_mirror_policies);
    }
    let mut routes = Vec::with_capacity(rest.routes.len());
    for (i, one) in take(&mut rest.routes).into_iter().enumerate() {
        routes.push(Arc::new(route(one, &inherited).within(format_args!("routes[{i}]"))?));
    }
    rest.metadata = None;
    nothing_left(&rest)?;
    let domains = domains.into_iter().map(|d| d.to_ascii_lowercase().into()).collect();
    Ok(VirtualHost { name, domains, routes })
}

fn route(mut rest: pb::Route, outer: &Inherited) -> Decoded<Route> {
    let name = take(&mut rest.name).into();
    let matching = match rest.r#match.take() {
        Some(m) => matching::route(m).within("match")?,
        None => return reject("match", "is missing; right would be {prefix: \"/\"}"),
    };
    let action = match rest.action.take() {
        Some(pb::route::Action::Route(action)) => Action::Forward(action::forward(action, outer).within("route")?),
        Some(pb::route::Action::DirectResponse(action)) => action::respond(action).within("direct_response")?,
        Some(pb::route::Action::Redirect(action)) => {
            Action::Redirect(Box::new(action::redirect(action).within("redirect")?))
        }
        Some(_) => return reject("action", "must be route, redirect or direct_response"),
        None => {
            return reject(
                "action",
                "is missing; one of route, redirect, direct_response must be set",
            );
        }
    };
    let request = edit::request(&mut rest.request_headers_to_add, &mut rest.request_headers_to_remove)?;
    let response = edit::response(&mut rest.response_headers_to_add, &mut rest.response_headers_to_remove)?;
    let edits = outer.edits((request, response)).some();
    let fault = fault::per_filter(take(&mut rest.typed_per_filter_config))?
        .or(&outer.fault)
        .0;
    let operation = match rest.decorator.take() {
        None => None,
        Some(mut decorator) => {
            // What an endpoint's decorator says is never heard, so there is nothing to propagate.
            decorator.propagate = None;
            let operation = take(&mut decorator.operation);
            nothing_left(&decorator).within("decorator")?;
            Some(operation.into())
        }
    };
    let tracing = rest.tracing.take().map(sampling).transpose().within("tracing")?;
    rest.metadata = None;
    rest.stat_prefix.clear();
    nothing_left(&rest)?;
    Ok(Route {
        name,
        matching,
        action,
        edits,
        fault,
        operation,
        tracing,
    })
}

/// What is not said is all requests, as Envoy has it.
fn sampling(mut rest: pb::Tracing) -> Decoded<Sampling> {
    let share = |name, value: Option<_>| match value {
        None => Ok(crate::config::fault::Percent::ALL),
        some => fault::percent(some).within(name),
    };
    let sampling = Sampling {
        random: share("random_sampling", rest.random_sampling.take())?,
        overall: share("overall_sampling", rest.overall_sampling.take())?,
        client: share("client_sampling", rest.client_sampling.take())?,
    };
    nothing_left(&rest)?;
    Ok(sampling)
}

#[cfg(test)]
mod tests;
