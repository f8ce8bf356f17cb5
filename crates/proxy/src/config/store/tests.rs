use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::*;

fn raw(ty: ResourceType, name: &str, message: impl Message) -> Raw {
    Raw {
        ty,
        name: name.into(),
        version: "1".into(),
        body: message.encode_to_vec().into(),
    }
}

fn eds_cluster(name: &str) -> Raw {
    let eds = cluster::cluster::DiscoveryType::Eds.into();
    let message = cluster::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(eds)),
        ..Default::default()
    };
    raw(ResourceType::Cluster, name, message)
}

fn assignment(name: &str) -> Raw {
    let message = endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        ..Default::default()
    };
    raw(ResourceType::Endpoint, name, message)
}

fn routes(name: &str, to: &str) -> Raw {
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(to.into())),
        ..Default::default()
    };
    let one = route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    };
    let host = route::VirtualHost {
        domains: vec!["*".into()],
        routes: vec![one],
        ..Default::default()
    };
    let message = route::RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![host],
        ..Default::default()
    };
    raw(ResourceType::Route, name, message)
}

fn web(name: &str, route: &str) -> Raw {
    let rds = hcm::Rds {
        route_config_name: route.into(),
        ..Default::default()
    };
    let manager = hcm::HttpConnectionManager {
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)),
        ..Default::default()
    };
    let any = Any {
        type_url:
            "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
                .into(),
        value: manager.encode_to_vec(),
    };
    let filter = listener::Filter {
        config_type: Some(listener::filter::ConfigType::TypedConfig(any)),
        ..Default::default()
    };
    let message = listener::Listener {
        name: name.into(),
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(core::SocketAddress {
                address: "127.0.0.1".into(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(80)),
                ..Default::default()
            })),
        }),
        filter_chains: vec![listener::FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    };
    raw(ResourceType::Listener, name, message)
}

/// A listener that shows a secret of the control plane.
fn secured(name: &str, route: &str, secret: &str) -> Raw {
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
    let mut message = listener::Listener::decode(web(name, route).body).unwrap();
    let ads = core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource::default());
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![tls::SdsSecretConfig {
                name: secret.into(),
                sds_config: Some(core::ConfigSource {
                    config_source_specifier: Some(ads),
                    ..Default::default()
                }),
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    message.filter_chains[0].transport_socket = Some(core::TransportSocket {
        name: "tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext".into(),
            value: context.encode_to_vec(),
        })),
    });
    raw(ResourceType::Listener, name, message)
}

fn secret(name: &str) -> Raw {
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
    let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let source = |text: String| {
        Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(text)),
            ..Default::default()
        })
    };
    let message = tls::Secret {
        name: name.into(),
        r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: source(made.cert.pem()),
            private_key: source(made.signing_key.serialize_pem()),
            ..Default::default()
        })),
    };
    raw(ResourceType::Secret, name, message)
}

#[test]
fn a_listener_waits_for_its_secret_which_stays_while_it_is_shown() {
    let (mut store, now) = (Store::default(), Instant::now());
    for resource in [
        eds_cluster("c"),
        assignment("c"),
        routes("r", "c"),
        secured("l", "r", "s"),
    ] {
        store.set(resource, now).unwrap();
    }
    assert_eq!(store.wanted(ResourceType::Secret), names(&["s"]));
    assert!(store.settle(now).0.listeners.is_empty());
    store.set(secret("s"), now).unwrap();
    let (active, wait) = store.settle(now);
    assert!(active.listeners.contains_key("l") && wait.is_none());
    let before = Arc::clone(&active.listeners["l"]);
    // Another certificate is no matter of the listener.
    store.set(secret("s"), now).unwrap();
    assert!(Arc::ptr_eq(&before, &store.settle(now).0.listeners["l"]));
    // Nor is one that is taken away, until the listener goes.
    store.remove(ResourceType::Secret, "s");
    store.settle(now);
    assert_eq!(store.raw().filter(|r| r.ty == ResourceType::Secret).count(), 0);
    store.set(secured("l", "r", "s"), now).unwrap();
    assert!(
        !Arc::ptr_eq(&before, &store.settle(now).0.listeners["l"]),
        "it need not wait"
    );
    store.remove(ResourceType::Listener, "l");
    store.settle(now);
    store.set(secured("l", "r", "s"), now).unwrap();
    assert!(store.settle(now).0.listeners.is_empty(), "it waits again");
    // Nothing that nobody shows is kept.
    store.set(secret("t"), now).unwrap();
    store.settle(now);
    assert_eq!(store.raw().filter(|r| r.ty == ResourceType::Secret).count(), 0);
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).into()).collect()
}

#[test]
fn each_resource_waits_for_those_it_refers_to() {
    let (mut store, now) = (Store::default(), Instant::now());
    store.set(eds_cluster("c"), now).unwrap();
    store.answered(ResourceType::Cluster);
    store.set(web("l", "r"), now).unwrap();
    store.answered(ResourceType::Listener);
    assert_eq!(store.wanted(ResourceType::Endpoint), names(&["c"]));
    assert_eq!(store.wanted(ResourceType::Route), names(&["r"]));
    let (active, wait) = store.settle(now);
    assert!(active.clusters.is_empty() && active.listeners.is_empty() && !active.complete);
    assert_eq!(wait, Some(now + WARMING));
    store.set(routes("r", "c"), now).unwrap();
    let (active, _) = store.settle(now);
    assert!(
        active.routes.is_empty() && active.listeners.is_empty(),
        "the cluster is not there yet"
    );
    store.set(assignment("c"), now).unwrap();
    let (active, wait) = store.settle(now);
    assert!(active.complete && wait.is_none());
    assert_eq!(
        (active.clusters.len(), active.routes.len(), active.listeners.len()),
        (1, 1, 1)
    );
}

#[test]
fn what_does_not_come_is_given_up() {
    let (mut store, now) = (Store::default(), Instant::now());
    store.set(eds_cluster("c"), now).unwrap();
    store.set(web("l", "r"), now).unwrap();
    store.answered(ResourceType::Cluster);
    store.answered(ResourceType::Listener);
    let (active, wait) = store.settle(now + WARMING - Duration::from_millis(1));
    assert!(wait.is_some() && !active.complete);
    let (active, wait) = store.settle(now + WARMING);
    assert!(wait.is_none() && active.complete);
    assert!(active.clusters["c"].endpoints.is_empty() && active.listeners.contains_key("l"));
}

#[test]
fn routes_to_a_new_cluster_take_effect_with_it_and_the_old_ones_stay_till_then() {
    let (mut store, now) = (Store::default(), Instant::now());
    for raw in [eds_cluster("old"), assignment("old"), web("l", "r"), routes("r", "old")] {
        store.set(raw, now).unwrap();
    }
    store.settle(now);
    store.set(routes("r", "new"), now).unwrap();
    store.set(eds_cluster("new"), now).unwrap();
    let leads_to = |active: &Active| active.routes["r"].clusters().next().unwrap().to_string();
    assert_eq!(leads_to(&store.settle(now).0), "old");
    store.set(assignment("new"), now).unwrap();
    assert_eq!(leads_to(&store.settle(now).0), "new");
}

#[test]
fn endpoints_and_routes_go_when_nothing_refers_to_them() {
    let (mut store, now) = (Store::default(), Instant::now());
    for raw in [eds_cluster("c"), assignment("c"), web("l", "r"), routes("r", "c")] {
        store.set(raw, now).unwrap();
    }
    store.settle(now);
    assert_eq!(store.raw().count(), 4);
    store.remove(ResourceType::Listener, "l");
    store.remove(ResourceType::Cluster, "c");
    let (active, _) = store.settle(now);
    assert!(active.routes.is_empty() && active.clusters.is_empty());
    assert_eq!(store.raw().count(), 0);
}

#[test]
fn a_refused_resource_leaves_the_one_before_and_the_bootstraps_stay() {
    let (mut store, now) = (Store::default(), Instant::now());
    store.set(eds_cluster("c"), now).unwrap();
    store.set(assignment("c"), now).unwrap();
    let bad = cluster::Cluster {
        name: "c".into(),
        lb_policy: 6,
        ..Default::default()
    };
    assert_eq!(
        store.set(raw(ResourceType::Cluster, "c", bad), now).unwrap_err().field,
        "lb_policy"
    );
    assert!(store.settle(now).0.clusters.contains_key("c"));
    let other = cluster::Cluster {
        name: "another".into(),
        ..Default::default()
    };
    assert_eq!(
        store
            .set(raw(ResourceType::Cluster, "c", other), now)
            .unwrap_err()
            .field,
        "name"
    );

    let fixed = cluster::Cluster {
        name: "fixed".into(),
        ..Default::default()
    }
    .encode_to_vec();
    store.fix(ResourceType::Cluster, "fixed", &fixed, now).unwrap();
    assert!(store.set(eds_cluster("fixed"), now).is_err());
    store.remove(ResourceType::Cluster, "fixed");
    assert!(store.settle(now).0.clusters.contains_key("fixed"));
}

#[test]
fn counters_of_a_cluster_outlive_its_changes() {
    let (mut store, now) = (Store::default(), Instant::now());
    store.set(eds_cluster("c"), now).unwrap();
    store.set(assignment("c"), now).unwrap();
    let (active, _) = store.settle(now);
    ClusterStats::add(&active.clusters["c"].stats.rq_total);
    store.set(eds_cluster("c"), now).unwrap();
    let (active, _) = store.settle(now);
    assert_eq!(
        active.clusters["c"]
            .stats
            .rq_total
            .load(std::sync::atomic::Ordering::Relaxed),
        1
    );
}

/// One address of ten thousand changes: the rest is not even looked at, let alone made again.
#[test]
fn what_did_not_change_is_shared_with_the_configuration_before() {
    const CLUSTERS: usize = 10_000;
    let with = |name: &str, port: u32| {
        let address = core::Address {
            address: Some(core::address::Address::SocketAddress(core::SocketAddress {
                address: "10.0.0.1".into(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
                ..Default::default()
            })),
        };
        let one = endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                address: Some(address),
                ..Default::default()
            })),
            ..Default::default()
        };
        let message = endpoint::ClusterLoadAssignment {
            cluster_name: name.into(),
            endpoints: vec![endpoint::LocalityLbEndpoints {
                lb_endpoints: vec![one],
                ..Default::default()
            }],
            ..Default::default()
        };
        raw(ResourceType::Endpoint, name, message)
    };
    let mut store = Store::default();
    let now = Instant::now();
    for n in 0..CLUSTERS {
        let name = format!("c{n}");
        store.set(eds_cluster(&name), now).unwrap();
        store.set(with(&name, 1), now).unwrap();
    }
    store.set(routes("r", "c7"), now).unwrap();
    store.set(web("l", "r"), now).unwrap();
    let (before, _) = store.settle(now);
    assert_eq!(before.clusters.len(), CLUSTERS);
    store.set(with("c7", 2), now).unwrap();
    let begun = Instant::now();
    let (after, _) = store.settle(now);
    println!("one endpoint of {CLUSTERS}: {:?}", begun.elapsed());
    assert!(after.version > before.version);
    assert!(Arc::ptr_eq(&after.routes, &before.routes) && Arc::ptr_eq(&after.listeners, &before.listeners));
    let made: Vec<_> = after
        .clusters
        .iter()
        .filter(|(name, c)| !Arc::ptr_eq(c, &before.clusters[*name]))
        .map(|(name, _)| &**name)
        .collect();
    assert_eq!(made, ["c7"]);
    let (old, new) = (&before.clusters["c7"], &after.clusters["c7"]);
    assert_eq!(
        (old.endpoints[0].address.port(), new.endpoints[0].address.port()),
        (1, 2)
    );
    assert!(Arc::ptr_eq(&old.stats, &new.stats), "counters go on");
    store.remove(ResourceType::Cluster, "c8");
    let (last, _) = store.settle(now);
    assert_eq!(last.clusters.len(), CLUSTERS - 1);
    assert!(Arc::ptr_eq(&last.clusters["c9"], &before.clusters["c9"]));
}
