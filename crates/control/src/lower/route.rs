//! Routes: which host names belong to a destination. Any host is served; only known ones are shown in metrics.

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{DataSource, SubstitutionFormatString};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};

use weir_mesh::routes::Rule;

use super::{BLOCKED, Destination, INBOUND, ROUTE_OTHER, ROUTE_SERVICE, action, no, rule};

/// The routes of a destination: these rules, and to its own endpoints what they leave.
pub(super) fn outbound(destination: &Destination<'_>, rules: &[Rule]) -> RouteConfiguration {
    let policy = destination.policy;
    let usual = action::forward(&destination.name, policy, &policy.timeouts);
    let usual = action::of_protocol(usual, destination.protocol);
    configuration(&destination.name, destination.domains.clone(), |name| {
        let mut routes = ruled(name, rules, &usual);
        for route in &mut routes {
            action::inject(route, &policy.fault);
            action::decorate(route, &destination.operation);
        }
        routes
    })
}

/// The routes of an inbound port: to the application, whatever the host.
pub(super) fn inbound(port: u16, domains: Vec<String>, cluster: &str) -> RouteConfiguration {
    let forward = action::pass_on(cluster);
    configuration(&format!("{INBOUND}_{port}"), domains, |name| {
        vec![route(name, &forward)]
    })
}

/// The rules in their order; then everything by `usual`, unless a rule took all.
fn ruled(name: &str, rules: &[Rule], usual: &RouteAction) -> Vec<Route> {
    let mut routes: Vec<Route> = rules.iter().flat_map(|r| rule::routes(r, name, usual)).collect();
    if !rules.iter().any(Rule::takes_all) {
        routes.push(route(name, usual));
    }
    routes
}

fn configuration(name: &str, domains: Vec<String>, routes: impl Fn(&str) -> Vec<Route>) -> RouteConfiguration {
    let host = |name: &str, domains: Vec<String>| VirtualHost {
        name: name.to_owned(),
        domains,
        routes: routes(name),
        ..Default::default()
    };
    let mut virtual_hosts = vec![host(ROUTE_SERVICE, domains), host(ROUTE_OTHER, vec!["*".to_owned()])];
    virtual_hosts.retain(|host| !host.domains.is_empty());
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        validate_clusters: no(),
        ..Default::default()
    }
}

fn everything() -> Option<RouteMatch> {
    Some(RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    })
}

fn route(name: &str, action: &RouteAction) -> Route {
    Route {
        name: name.to_owned(),
        r#match: everything(),
        action: Some(Action::Route(action.clone())),
        ..Default::default()
    }
}

/// The answer to HTTP requests that lead nowhere: which address, and what to do about it.
pub(super) fn blocked() -> RouteConfiguration {
    let inline = |text: &str| DataSource {
        specifier: Some(Specifier::InlineString(text.to_owned())),
        ..Default::default()
    };
    let answer = DirectResponseAction {
        status: 404,
        body: Some(inline(
            "weir: this address is blocked: label its Service traffic.port.N (http, http2, grpc, tcp or direct) to open its port N\n",
        )),
        body_format: Some(SubstitutionFormatString {
            content_type: "text/plain".to_owned(),
            format: Some(Format::TextFormatSource(inline(
                "weir: %DOWNSTREAM_LOCAL_ADDRESS% is blocked: label its Service traffic.port.%DOWNSTREAM_LOCAL_PORT% (http, http2, grpc, tcp or direct) to open it\n",
            ))),
            ..Default::default()
        }),
    };
    RouteConfiguration {
        name: BLOCKED.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: ROUTE_OTHER.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![Route {
                name: ROUTE_OTHER.to_owned(),
                r#match: everything(),
                action: Some(Action::DirectResponse(answer)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        validate_clusters: no(),
        ..Default::default()
    }
}
