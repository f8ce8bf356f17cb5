//! What is lowered step by step is what is lowered at once, whatever changes in between; and what is for some namespaces
//! reaches these alone.

use proptest::prelude::*;
use serde_json::json;
use weir_api::labels::{ENABLED, EXPORT_TO, PORT_PREFIX};
use weir_mesh::Objects;

use super::tests::any_objects;
use super::*;

/// Objects as they follow each other, with Services for some namespaces and a client in another one.
fn any_history() -> impl Strategy<Value = Vec<Objects>> {
    let exports = prop_oneof![
        3 => Just(None),
        1 => Just(Some(".")),
        1 => Just(Some("other")),
        1 => Just(Some("default, other")),
        1 => Just(Some("none-such"))
    ];
    let consumed = prop::bool::weighted(0.3);
    let step =
        (any_objects(), prop::collection::vec(exports, 6), consumed).prop_map(|(mut objects, exports, consumed)| {
            if consumed {
                objects.insert(consumer_route("s0")).unwrap();
            }
            for (n, exports) in exports.into_iter().enumerate() {
                let service = objects.services.get_mut(&Key::new("default", format!("s{n}")));
                if let (Some(service), Some(exports)) = (service, exports) {
                    let annotations = &mut Arc::make_mut(service).metadata.annotations;
                    annotations
                        .get_or_insert_default()
                        .insert(EXPORT_TO.to_owned(), exports.to_owned());
                }
            }
            for namespace in ["default", "other"] {
                objects
                    .insert(json!({"kind": "Namespace", "metadata": {"name": namespace}}))
                    .unwrap();
            }
            objects
            .insert(
                json!({"kind": "Pod", "metadata": {"namespace": "other", "name": "client", "labels": {ENABLED: "true"}},
                "spec": {"containers": []}, "status": {"phase": "Running", "podIP": "10.244.9.9"}}),
            )
            .unwrap();
            objects
        });
    prop::collection::vec(step, 1..5)
}

/// A route for what namespace `other` sends to a Service: all of it is answered.
fn consumer_route(service: &str) -> serde_json::Value {
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"hostname": "elsewhere"}});
    let parent = json!({"group": "", "kind": "Service", "namespace": "default", "name": service});
    json!({"kind": "HTTPRoute", "metadata": {"namespace": "other", "name": "consumed"},
        "spec": {"parentRefs": [parent], "rules": [{"matches": [{"path": {"value": "/"}}], "filters": [redirect]}]}})
}

/// Brings a kind up to date as a watch does.
fn follow<T: PartialEq>(watched: &mut BTreeMap<Key, Arc<T>>, objects: &BTreeMap<Key, Arc<T>>) {
    watched.retain(|key, _| objects.contains_key(key));
    for (key, object) in objects {
        if watched.get(key) != Some(object) {
            watched.insert(key.clone(), Arc::clone(object));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn step_by_step_is_the_same_as_at_once(history in any_history()) {
        let (mut before, mut lowered) = (Mesh::default(), Lowered::default());
        let mut builder = weir_mesh::Builder::default();
        // Objects that do not change stay the same allocation, as they do in a watch.
        let mut watched = Objects::default();
        let mut snapshots: BTreeMap<(Key, Engine), Snapshot> = BTreeMap::new();
        for objects in &history {
            // A step where nothing changes comes in between.
            for _ in 0..2 {
                watched = Objects {
                    pods: watched.pods,
                    services: watched.services,
                    endpoint_slices: watched.endpoint_slices,
                    namespaces: watched.namespaces,
                    ..objects.clone()
                };
                follow(&mut watched.services, &objects.services);
                follow(&mut watched.pods, &objects.pods);
                follow(&mut watched.endpoint_slices, &objects.endpoint_slices);
                follow(&mut watched.namespaces, &objects.namespaces);
                let (mesh, problems) = builder.build(&watched, &before);
                let (built, found) = weir_mesh::rebuild(objects, &before);
                prop_assert_eq!(&mesh, &built);
                prop_assert_eq!(problems, found);
                let fresh = Lowered::new(&mesh, &Lowered::default());
                let next = Lowered::renew(&mesh, &lowered, &before);
                prop_assert_eq!(fresh.check(), Ok(()));
                prop_assert_eq!(next.check_since(&lowered), Ok(()));
                for key in mesh.pods.keys() {
                    for engine in [Engine::Weir, Engine::Envoy] {
                        let last = snapshots.get(&(key.clone(), engine));
                        let refreshed = last.and_then(|last| next.refresh((&mesh, &before), key, engine, last));
                        let snapshot = refreshed.or_else(|| next.snapshot(&mesh, key, engine, last)).unwrap();
                        let whole = fresh.snapshot(&mesh, key, engine, None).unwrap();
                        prop_assert_eq!(&snapshot, &whole);
                        for ty in ResourceType::ALL {
                            prop_assert_eq!(snapshot.version(ty), whole.version(ty));
                        }
                        prop_assert_eq!(whole.check(), Ok(()));
                        if mesh == before {
                            prop_assert!(last.is_some_and(|last| last.same(&snapshot)), "nothing changed");
                        }
                        snapshots.insert((key.clone(), engine), snapshot);
                    }
                }
                (before, lowered) = (mesh, next);
            }
        }
    }

    /// Every resource of a Service is where the Service is for, and nowhere else.
    #[test]
    fn a_service_reaches_the_namespaces_it_is_for(history in any_history()) {
        let (mesh, _) = weir_mesh::build(&history[0]);
        let lowered = Lowered::new(&mesh, &Lowered::default());
        for (namespace, pod) in [("default", None), ("other", Some("client"))] {
            let key = mesh.pods.keys().find(|k| k.namespace == namespace && pod.is_none_or(|p| p == k.name)).unwrap();
            let snapshot = lowered.snapshot(&mesh, key, Engine::Weir, None).unwrap();
            for destination in destinations(&mesh, None) {
                let reaches = destination.exports.reaches(namespace);
                for ty in [ResourceType::Cluster, ResourceType::Endpoint] {
                    prop_assert_eq!(snapshot.get(ty, &destination.name).is_some(), reaches, "{} {}", ty, destination.name);
                }
                let routed = snapshot.get(ResourceType::Route, &destination.name).is_some();
                prop_assert_eq!(routed, reaches && destination.protocol.has_requests());
            }
            let destinations = destinations(&mesh, None);
            for bound in bound(&mesh, &destinations) {
                let name = listener_name(bound.ip, bound.port);
                prop_assert_eq!(snapshot.get(ResourceType::Listener, &name).is_some(), bound.exports.reaches(namespace));
            }
        }
    }
}

/// Where a route leads to a cluster that is for fewer, whoever has the route gets the cluster too.
#[test]
fn whoever_gets_a_route_gets_its_clusters() {
    use envoy_types::pb::envoy::config::route::v3::route::Action;
    use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
    use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, RouteConfiguration, VirtualHost};
    let to = |name: &str| Exports::To([name.to_owned()].into());
    let mut narrow = spread::narrow([
        ("backend".to_owned(), to("a")),
        ("apex".to_owned(), to("b")),
        ("other".to_owned(), to("a")),
    ]);
    let routes = RouteConfiguration {
        name: "apex".into(),
        virtual_hosts: vec![VirtualHost {
            routes: vec![Route {
                action: Some(Action::Route(RouteAction {
                    cluster_specifier: Some(ClusterSpecifier::Cluster("backend".into())),
                    ..Default::default()
                })),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let apex = Resource::new(ResourceType::Route, "apex", routes.encode_to_vec());
    spread::widen(&mut narrow, [&apex].into_iter());
    assert!(narrow["backend"].reaches("a") && narrow["backend"].reaches("b"));
    assert_eq!((&narrow["apex"], &narrow["other"]), (&to("b"), &to("a")));
    // For everybody: so is what it leads to.
    narrow.remove("apex");
    spread::widen(&mut narrow, [&apex].into_iter());
    assert_eq!(narrow.get("backend"), None);
    let known: Vec<&str> = narrow.keys().map(String::as_str).collect();
    assert_eq!(known, ["other"]);
}

/// A route of consumers reaches the pods of its namespace; all others have the Service as it is.
#[test]
fn a_route_of_consumers_reaches_their_namespace() {
    let of = |with: bool| {
        let mut objects = Objects::default();
        let pod = |namespace: &str| {
            let meta = json!({"namespace": namespace, "name": "client", "labels": {ENABLED: "true"}});
            json!({"kind": "Pod", "metadata": meta, "spec": {"containers": []}, "status": {"phase": "Running", "podIP": "10.244.9.9"}})
        };
        let labels = json!({format!("{PORT_PREFIX}80"): "http"});
        let service = json!({"kind": "Service", "metadata": {"namespace": "default", "name": "web", "labels": labels},
            "spec": {"clusterIP": "10.96.0.20", "selector": {"a": "b"}, "ports": [{"port": 80}]}});
        for object in [pod("default"), pod("other"), pod("third"), service] {
            objects.insert(object).unwrap();
        }
        if with {
            objects.insert(consumer_route("web")).unwrap();
        }
        weir_mesh::build(&objects).0
    };
    let (without, with) = (of(false), of(true));
    let before = Lowered::new(&without, &Lowered::default());
    let lowered = Lowered::renew(&with, &before, &without);
    assert_eq!(lowered.check(), Ok(()));
    let route = |lowered: &Lowered, mesh: &Mesh, namespace: &str| {
        let snapshot = lowered
            .snapshot(mesh, &Key::new(namespace, "client"), Engine::Weir, None)
            .unwrap();
        Arc::clone(snapshot.get(ResourceType::Route, "80|default|web.outbound").unwrap())
    };
    let usual = route(&before, &without, "other");
    for namespace in ["default", "third"] {
        assert_eq!(route(&lowered, &with, namespace), usual, "{namespace}");
    }
    let own = route(&lowered, &with, "other");
    assert_ne!(own, usual);
    assert!(weir_xds::json::resource(&own).to_string().contains("elsewhere"));
    let back = Lowered::renew(&without, &lowered, &with);
    assert_eq!(route(&back, &without, "other"), usual);
}
