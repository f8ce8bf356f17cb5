//! Clusters, their endpoints, and what waits for the request at the other side.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use weir_mesh::{Identity, Key};
use weir_xds::ResourceType;
use weir_xds::snapshot::NO_CLUSTER;

use super::words::{decode, duration, percent};
use super::{Error, Walk};
use crate::lower::BLOCKED;

/// From here on a limit is meant as none.
const NO_LIMIT: u32 = 1_000_000;

/// Goes on with one cluster, or with several that share the requests by weight.
pub(super) fn follow(walk: &mut Walk<'_>, shares: &[(String, u32)]) -> Result<(), Error> {
    let total: u64 = shares.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut reached = 0;
    for (name, weight) in shares {
        let share = if total == 0 {
            0.0
        } else {
            f64::from(*weight) / total as f64 * 100.0
        };
        let lead = if shares.len() > 1 {
            format!("{} of requests: ", percent(share))
        } else {
            String::new()
        };
        reached += usize::from(one(walk, name, &lead)? && share > 0.0);
    }
    walk.said.forwarded = reached > 0;
    if walk.said.outcome.is_empty() {
        walk.end(match (reached, shares.len()) {
            (0, _) => "the request is answered 503 by the proxy: there is no endpoint".to_owned(),
            (reached, all) if reached < all => "requests reach an endpoint, but one share of them has none".to_owned(),
            _ => "the request reaches an endpoint".to_owned(),
        });
    }
    Ok(())
}

/// Says what is known of a cluster; returns whether there is an endpoint.
fn one(walk: &mut Walk<'_>, name: &str, lead: &str) -> Result<bool, Error> {
    let id = format!("cds/{name}");
    if name == NO_CLUSTER {
        walk.say("cluster", format!("{lead}none: the backend does not exist"), &id);
        walk.end("the request is answered 500 by the proxy: its backend does not exist");
        return Ok(false);
    }
    let Some(resource) = walk.snapshot.get(ResourceType::Cluster, name) else {
        walk.say("cluster", format!("{lead}{name} is not there"), &id);
        return Ok(false);
    };
    let cluster: Cluster = decode(&id, &resource.body)?;
    let kind = match &cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind).unwrap_or(DiscoveryType::Static),
        _ => DiscoveryType::Static,
    };
    if name == BLOCKED {
        walk.say("cluster", format!("{lead}{name}: nowhere"), &id);
        walk.end("blocked");
        return Ok(false);
    }
    if kind == DiscoveryType::OriginalDst {
        walk.say(
            "cluster",
            format!("{lead}{name}: to the address that the client chose"),
            &id,
        );
        walk.end("the request goes to the address that the client chose");
        return Ok(true);
    }
    let policy = LbPolicy::try_from(cluster.lb_policy).map_or("unknown", |policy| policy.as_str_name());
    let facts = facts(&cluster);
    walk.say("cluster", format!("{lead}{name}: {policy}"), &id).details = facts;
    endpoints(walk, name)
}

fn facts(cluster: &Cluster) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some(limit) = duration(cluster.connect_timeout.as_ref()) {
        facts.push(format!("limit for a connection: {limit}"));
    }
    for limits in cluster.circuit_breakers.iter().flat_map(|c| &c.thresholds) {
        let of = [
            (&limits.max_connections, "connections"),
            (&limits.max_pending_requests, "waiting requests"),
            (&limits.max_requests, "requests"),
            (&limits.max_retries, "retries"),
        ];
        for (limit, what) in of {
            if let Some(limit) = limit.as_ref().map(|l| l.value).filter(|l| *l < NO_LIMIT) {
                facts.push(format!("at most {limit} {what} at a time; more are answered 503"));
            }
        }
        if let Some(budget) = limits.retry_budget.as_ref().and_then(|b| b.budget_percent.as_ref()) {
            facts.push(format!(
                "retries are at most {} of the requests under way",
                percent(budget.value)
            ));
        }
    }
    if let Some(outlier) = &cluster.outlier_detection {
        let after = outlier.consecutive_gateway_failure.as_ref().map_or(5, |n| n.value);
        let time = duration(outlier.base_ejection_time.as_ref()).unwrap_or_else(|| "30s".to_owned());
        facts.push(format!(
            "an endpoint is left out for {time} after {after} gateway errors in a row"
        ));
    }
    facts
}

fn endpoints(walk: &mut Walk<'_>, name: &str) -> Result<bool, Error> {
    let id = format!("eds/{name}");
    let assignment = match walk.snapshot.get(ResourceType::Endpoint, name) {
        Some(resource) => decode::<ClusterLoadAssignment>(&id, &resource.body)?,
        None => ClusterLoadAssignment::default(),
    };
    let all: Vec<&LbEndpoint> = assignment.endpoints.iter().flat_map(|l| &l.lb_endpoints).collect();
    let weight = |e: &LbEndpoint| e.load_balancing_weight.as_ref().map_or(1, |w| w.value);
    let total: u64 = all.iter().map(|e| u64::from(weight(e))).sum();
    for endpoint in &all {
        let Some((ip, port)) = address(endpoint) else { continue };
        let who = ip.parse().ok().and_then(|ip| walk.mesh.identities.get(&ip));
        let pod = who.map_or(String::new(), |who| format!(", pod {}.{}", who.pod, who.namespace));
        let share = f64::from(weight(endpoint)) / total.max(1) as f64 * 100.0;
        let text = format!("{ip}:{port}{pod}, weight {} ({})", weight(endpoint), percent(share));
        let there = who.map(|who| at_the_pod(walk, who, port));
        walk.say("endpoint", text, &id).details.extend(there.flatten());
    }
    let left_out = left_out(walk, name);
    if all.is_empty() {
        walk.say("endpoint", "none takes traffic", &id).details = left_out;
    } else if let Some(step) = walk.said.steps.last_mut() {
        step.details.extend(left_out);
    }
    Ok(!all.is_empty())
}

fn address(endpoint: &LbEndpoint) -> Option<(String, u16)> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
        return None;
    };
    let Some(Address::SocketAddress(socket)) = &endpoint.address.as_ref()?.address else {
        return None;
    };
    match socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => Some((socket.address.clone(), u16::try_from(port).ok()?)),
        _ => None,
    }
}

/// What a pod's own proxy does with traffic to one of its ports.
fn at_the_pod(walk: &Walk<'_>, who: &Identity, port: u16) -> Option<String> {
    let pod = walk.mesh.pods.get(&Key::new(&*who.namespace, &*who.pod))?;
    if !pod.enabled || pod.host_network {
        return Some("no proxy at the pod: the application takes it directly".to_owned());
    }
    Some(match pod.inbound.get(&port) {
        Some(inbound) => format!(
            "the pod's proxy ({}) takes it as {} and passes it to the application",
            pod.engine, inbound.protocol
        ),
        None => format!(
            "the pod's proxy ({}) passes the connection to the application",
            pod.engine
        ),
    })
}

/// Endpoints of the service that are not in the cluster, and why.
fn left_out(walk: &Walk<'_>, name: &str) -> Vec<String> {
    let mut parts = name.trim_end_matches(".outbound").split('|');
    let (Some(Ok(port)), Some(namespace), Some(service)) =
        (parts.next().map(str::parse::<u16>), parts.next(), parts.next())
    else {
        return Vec::new();
    };
    let service = walk.mesh.services.get(&Key::new(namespace, service));
    let Some(port) = service.and_then(|s| s.ports.get(&port)) else {
        return Vec::new();
    };
    let out = port.endpoints.iter().filter(|e| !e.ready || e.weight == 0);
    out.map(|e| {
        let why = if e.ready {
            "its weight is 0"
        } else {
            "it is not ready, or about to go"
        };
        let pod = e
            .identity
            .as_ref()
            .map_or(String::new(), |who| format!(", pod {}.{}", who.pod, who.namespace));
        format!("left out: {}{pod}: {why}", std::net::SocketAddr::new(e.ip, e.port))
    })
    .collect()
}
