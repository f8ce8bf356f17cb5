//! The listener that takes the connection, and what it does with it.

use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use prost::Name;
use weir_api::labels;
use weir_xds::ResourceType;

use super::destination::Destination;
use super::words::{decode, duration};
use super::{Error, Walk, cluster, route};
use crate::lower::{BLOCKED, OUTBOUND, OUTBOUND_IPV6, listener_name};

/// What a filter chain does.
pub(super) enum Filter {
    Http(Box<HttpConnectionManager>),
    Tcp(Box<TcpProxy>),
}

/// The filter that a chain ends with.
pub(super) fn filter(resource: &str, chain: &FilterChain) -> Result<Option<Filter>, Error> {
    for filter in &chain.filters {
        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
            continue;
        };
        if any.type_url == HttpConnectionManager::type_url() {
            return Ok(Some(Filter::Http(Box::new(decode(resource, &any.value)?))));
        }
        if any.type_url == TcpProxy::type_url() {
            return Ok(Some(Filter::Tcp(Box::new(decode(resource, &any.value)?))));
        }
    }
    Ok(None)
}

pub(super) fn follow(walk: &mut Walk<'_>, destination: &Destination) -> Result<(), Error> {
    let name = listener_name(destination.ip, destination.port);
    let Some(resource) = walk.snapshot.get(ResourceType::Listener, &name) else {
        return nobody(walk, destination);
    };
    let id = format!("lds/{name}");
    let listener: Listener = decode(&id, &resource.body)?;
    let chain = listener
        .filter_chains
        .first()
        .or(listener.default_filter_chain.as_ref());
    match chain.map(|chain| filter(&id, chain)).transpose()?.flatten() {
        Some(Filter::Tcp(tcp)) => {
            walk.say("listener", format!("{name} takes the connection whole (tcp)"), &id);
            tcp_proxy(walk, &tcp)
        }
        Some(Filter::Http(http)) => {
            let step = walk.say(
                "listener",
                format!("{name} takes it: requests are routed one by one"),
                &id,
            );
            if let Some(limit) = duration(http.stream_idle_timeout.as_ref()) {
                step.details
                    .push(format!("a request on which nothing moves for {limit} is given up"));
            }
            http_manager(walk, &id, &http)
        }
        None => {
            walk.say("listener", format!("{name} has no filter that is understood here"), &id);
            walk.end("unknown");
            Ok(())
        }
    }
}

fn tcp_proxy(walk: &mut Walk<'_>, tcp: &TcpProxy) -> Result<(), Error> {
    match &tcp.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => cluster::follow(walk, &[(name.clone(), 1)]),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let shares: Vec<_> = weighted.clusters.iter().map(|c| (c.name.clone(), c.weight)).collect();
            cluster::follow(walk, &shares)
        }
        None => {
            walk.end("the listener names no cluster");
            Ok(())
        }
    }
}

pub(super) fn http_manager(walk: &mut Walk<'_>, id: &str, http: &HttpConnectionManager) -> Result<(), Error> {
    match &http.route_specifier {
        Some(RouteSpecifier::RouteConfig(routes)) => route::follow(walk, id, routes),
        Some(RouteSpecifier::Rds(rds)) => {
            let id = format!("rds/{}", rds.route_config_name);
            match walk.snapshot.get(ResourceType::Route, &rds.route_config_name) {
                Some(resource) => {
                    let routes: RouteConfiguration = decode(&id, &resource.body)?;
                    route::follow(walk, &id, &routes)
                }
                None => {
                    walk.say("route", format!("{id} is not there"), &id);
                    walk.end("the request is answered 404: there are no routes");
                    Ok(())
                }
            }
        }
        _ => {
            walk.end("the listener names no routes");
            Ok(())
        }
    }
}

/// No listener is for this address.
fn nobody(walk: &mut Walk<'_>, destination: &Destination) -> Result<(), Error> {
    let name = if destination.ip.is_ipv4() {
        OUTBOUND
    } else {
        OUTBOUND_IPV6
    };
    let id = format!("lds/{name}");
    let listener = match walk.snapshot.get(ResourceType::Listener, name) {
        Some(resource) => decode::<Listener>(&id, &resource.body)?,
        None => Listener::default(),
    };
    let rest = listener
        .default_filter_chain
        .as_ref()
        .map(|chain| filter(&id, chain))
        .transpose()?
        .flatten();
    let leads_to = match &rest {
        Some(Filter::Tcp(tcp)) => match &tcp.cluster_specifier {
            Some(ClusterSpecifier::Cluster(cluster)) => cluster.clone(),
            _ => String::new(),
        },
        _ => BLOCKED.to_owned(),
    };
    let (port, what) = (destination.port, destination.what.clone());
    let text = format!(
        "no listener is for {}: {name} takes it",
        std::net::SocketAddr::new(destination.ip, port)
    );
    let service = destination.service.as_ref().and_then(|key| walk.mesh.services.get(key));
    let hint = match service {
        Some(service) if !service.ports.contains_key(&port) => {
            let ports: Vec<String> = service.ports.keys().map(u16::to_string).collect();
            let ports = if ports.is_empty() {
                "none".to_owned()
            } else {
                ports.join(", ")
            };
            format!("{what} has no TCP port {port}; its TCP ports: {ports}")
        }
        Some(service) => {
            let key = format!("{}{port}", labels::PORT_PREFIX);
            let (name, namespace) = (&service.name, &service.namespace);
            format!(
                "{what} has no label {key}; to open the port: kubectl label service -n {namespace} {name} {key}=http (or http2, grpc, tcp, direct)"
            )
        }
        None => format!(
            "{what}; ConfigMap weir-mesh (outboundDefault) and the pod's traffic.outbound.skip-* keys decide about such addresses"
        ),
    };
    walk.say("listener", text, &id).details.push(hint);
    if leads_to == BLOCKED || leads_to.is_empty() {
        walk.end("blocked: an HTTP request is answered 404 by the proxy, anything else is reset");
        Ok(())
    } else {
        cluster::follow(walk, &[(leads_to, 1)])
    }
}
