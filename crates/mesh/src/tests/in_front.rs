//! What stands in front of Services: splits as the gateway follows them, routes of other namespaces.

use super::*;

/// A split is followed from outside too.
#[test]
fn an_ingress_follows_the_splits_of_its_backends() {
    let web = |name: &str, ip: &str| {
        service(
            name,
            json!({}),
            json!({"clusterIP": ip, "selector": {"a": "b"}, "ports": [{"port": 80}]}),
        )
    };
    let ingress = json!({"kind": "Ingress", "metadata": {"namespace": "default", "name": "i"}, "spec": {"ingressClassName": "weir",
        "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}});
    let split = |backends: Value| json!({"kind": "TrafficSplit", "metadata": {"namespace": "default", "name": "s"}, "spec": {"service": "web", "backends": backends}});
    let shares = |backends: Value| {
        let list = [
            web("web", "10.96.0.20"),
            web("v1", "10.96.0.21"),
            web("v2", "10.96.0.22"),
            ingress.clone(),
            split(backends),
        ];
        let (mesh, problems) = build(&objects(list));
        assert_eq!(problems, []);
        let shares = mesh.gateway.http[0].rules[0].shares().to_vec();
        let shares = shares
            .into_iter()
            .map(|s| (s.service.unwrap_or_default().name, s.weight));
        shares.collect::<Vec<_>>()
    };
    let named = |name: &str, weight| (name.to_owned(), weight);
    assert_eq!(
        shares(json!([{"service": "v1", "weight": 30}, {"service": "v2", "weight": 10}])),
        [named("v1", 3), named("v2", 1)]
    );
    assert_eq!(shares(json!([{"service": "web", "weight": 1}])), [named("web", 1)]);
}

fn http_service(namespace: &str, name: &str, ip: &str) -> Value {
    let meta = json!({"namespace": namespace, "name": name, "labels": {"traffic.port.80": "http"}});
    json!({"kind": "Service", "metadata": meta, "spec": {"clusterIP": ip, "selector": {"a": "b"}, "ports": [{"port": 80}]}})
}

type Told = (Vec<routes::RequestMatch>, Vec<(String, u32)>);

/// Which requests go where: conditions of a rule, then the names and weights of its shares.
fn told(rules: &[routes::Rule]) -> Vec<Told> {
    let shares = |rule: &routes::Rule| {
        let shares = rule.shares().iter().cloned();
        let named = shares.map(|share| (share.service.unwrap_or_default().name, share.weight));
        named.collect::<Vec<_>>()
    };
    rules.iter().map(|rule| (rule.matches.clone(), shares(rule))).collect()
}

/// What a split says of some requests holds for those that come from outside.
#[test]
fn an_ingress_follows_splits_of_some_requests() {
    let group = json!({"kind": "HTTPRouteGroup", "metadata": {"namespace": "default", "name": "g"},
        "spec": {"matches": [{"name": "m", "methods": ["GET"], "pathRegex": "/a/.*", "headers": {"x": "y"}}]}});
    let split = |name: &str, matches: Value, backend: &str| {
        json!({"kind": "TrafficSplit", "metadata": {"namespace": "default", "name": name},
            "spec": {"service": "web", "matches": matches, "backends": [{"service": backend, "weight": 1}]}})
    };
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let path = |path: &str| json!({"path": path, "pathType": "Prefix", "backend": backend});
    let ingress = json!({"kind": "Ingress", "metadata": {"namespace": "default", "name": "i"}, "spec": {"ingressClassName": "weir",
        "rules": [{"http": {"paths": [path("/"), path("/a/b")]}}]}});
    let list = [
        http_service("default", "web", "10.96.0.20"),
        http_service("default", "v1", "10.96.0.21"),
        http_service("default", "v2", "10.96.0.22"),
        group,
        split("some", json!([{"kind": "HTTPRouteGroup", "name": "g"}]), "v2"),
        split("rest", json!([]), "v1"),
        ingress,
    ];
    let (mesh, problems) = build(&objects(list));
    assert_eq!(texts(&problems), [""; 0]);
    use routes::{PathMatch, RequestMatch, TextMatch};
    let get = |path, mut headers: Vec<(String, TextMatch)>| {
        headers.insert(0, ("x".into(), TextMatch::Regex("y".into())));
        RequestMatch {
            path: Some(path),
            method: Some("GET".into()),
            headers,
            query: vec![],
        }
    };
    let prefix = |text: &str| PathMatch::Prefix(text.into());
    let only = |path| RequestMatch {
        path: Some(path),
        ..Default::default()
    };
    let to = |name: &str| vec![(name.to_owned(), 1)];
    let also = (":path".to_owned(), TextMatch::Regex(r"(?:/a/.*)(?:\?.*)?".into()));
    assert_eq!(
        told(&mesh.gateway.http[0].rules),
        [
            (vec![get(prefix("/a/b"), vec![also])], to("v2")),
            (vec![only(prefix("/a/b"))], to("v1")),
            (vec![get(PathMatch::Regex("/a/.*".into()), vec![])], to("v2")),
            (vec![only(prefix("/"))], to("v1")),
        ]
    );
}

/// A route of another namespace is for the clients there, in the place of the Service's own routes.
#[test]
fn a_route_of_consumers_is_for_their_namespace() {
    let route = |namespace: &str, backend: &str| {
        json!({"kind": "HTTPRoute", "metadata": {"namespace": namespace, "name": "r"}, "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "namespace": "default", "name": "web"}],
            "rules": [{"matches": [{"path": {"value": "/"}}], "backendRefs": [{"name": backend, "namespace": "default", "port": 80}]}]}})
    };
    let list = |consumed: &str| {
        objects([
            http_service("default", "web", "10.96.0.20"),
            http_service("default", "v1", "10.96.0.21"),
            route("default", "v1"),
            route("team-a", consumed),
        ])
    };
    let (mesh, problems) = build(&list("web"));
    assert_eq!(texts(&problems), [""; 0], "its parent may be its backend");
    let port = &mesh.services[&key("web")].ports[&80];
    let names = |rules: &[routes::Rule]| told(rules).into_iter().map(|(_, shares)| shares).collect::<Vec<_>>();
    assert_eq!(names(&port.rules), [[("v1".to_owned(), 1)]]);
    let namespaces: Vec<_> = port.consumers.keys().collect();
    assert_eq!(namespaces, ["team-a"]);
    assert_eq!(names(&port.consumers["team-a"]), [[("web".to_owned(), 1)]]);
    let accepted = &mesh.gateway.verdicts.routes[&Key::new("team-a", "r")][0].1;
    assert!(accepted.iter().all(|verdict| verdict.holds), "{accepted:?}");
    let (_, problems) = build(&list("v1"));
    assert!(
        texts(&problems).iter().any(|text| text.contains("ReferenceGrant")),
        "{problems:?}"
    );
}
