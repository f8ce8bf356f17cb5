//! A small mesh, requests of its pods, and what is said of their way; routes beyond what labels make.

use serde_json::{Value, json};
use weir_mesh::Objects;

use super::*;
use crate::lower::Lowered;

/// Two pods of one Service, one of them not ready; a client with a proxy.
fn objects(labels: &Value) -> Vec<Value> {
    let pod = |name: &str, ip: &str, labels: Value| {
        json!({
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
        })
    };
    let endpoint = |name: &str, ip: &str, ready: bool| {
        json!({
            "addresses": [ip], "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "name": name, "namespace": "default"},
        })
    };
    let enabled = json!({"traffic.envoy.enabled": "true"});
    vec![
        json!({
            "kind": "Service",
            "metadata": {"name": "reviews", "namespace": "default", "labels": labels},
            "spec": {"clusterIP": "10.96.0.7", "selector": {"app": "reviews"}, "ports": [{"port": 9080}]},
        }),
        json!({
            "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "reviews-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "reviews"}},
            "ports": [{"port": 9081, "name": ""}],
            "endpoints": [endpoint("reviews-a", "10.244.0.4", true), endpoint("reviews-b", "10.244.0.5", false)],
        }),
        pod("client", "10.244.0.3", enabled.clone()),
        pod("reviews-a", "10.244.0.4", enabled),
        pod("reviews-b", "10.244.0.5", json!({})),
    ]
}

fn explain(labels: &Value, from: &str, parameters: &[(&str, &str)]) -> Result<Explanation, Error> {
    let mut all = Objects::default();
    for object in objects(labels) {
        assert!(all.insert(object).unwrap());
    }
    let (mesh, _) = weir_mesh::build(&all);
    let pod = Key::new("default", from);
    let lowered = Lowered::new(&mesh, &Lowered::default());
    let engine = mesh.pods.get(&pod).map(|pod| pod.engine).unwrap_or_default();
    let snapshot = lowered.snapshot(&mesh, &pod, engine, None).unwrap_or_default();
    let parameters: Vec<_> = parameters
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    request_of_pod(&mesh, &pod, &snapshot, &Request::from_parameters(&parameters)?)
}

fn stages(way: &Explanation) -> Vec<&str> {
    way.steps.iter().map(|step| step.stage.as_str()).collect()
}

#[test]
fn a_request_reaches_its_endpoints() {
    let way = explain(
        &json!({"traffic.port.9080": "http"}),
        "client",
        &[("url", "http://reviews:9080/reviews/0")],
    )
    .unwrap();
    assert_eq!(
        stages(&way),
        ["pod", "address", "listener", "route", "cluster", "endpoint"]
    );
    assert!(
        way.forwarded && way.outcome == "the request reaches an endpoint",
        "{way:?}"
    );
    assert_eq!(way.steps[1].text, "reviews is Service reviews.default: 10.96.0.7:9080");
    assert_eq!(way.steps[2].resource, "lds/10.96.0.7_9080.outbound");
    let endpoint = &way.steps[5];
    assert!(
        endpoint
            .text
            .starts_with("10.244.0.4:9081, pod reviews-a.default, weight 100 (100 %)"),
        "{endpoint:?}"
    );
    assert!(endpoint.details[0].contains("takes it as http"), "{endpoint:?}");
    assert_eq!(
        endpoint.details[1],
        "left out: 10.244.0.5:9081, pod reviews-b.default: it is not ready, or about to go"
    );
}

#[test]
fn a_blocked_request_says_which_label_is_missing() {
    let way = explain(&json!({}), "client", &[("url", "http://reviews:9080/")]).unwrap();
    assert_eq!(stages(&way), ["pod", "address", "listener"]);
    assert!(!way.forwarded && way.outcome.starts_with("blocked"), "{way:?}");
    assert!(
        way.steps[2].details[0].contains("kubectl label service -n default reviews traffic.port.9080=http"),
        "{way:?}"
    );
    let way = explain(
        &json!({"traffic.port.9080": "http"}),
        "client",
        &[("url", "http://reviews/")],
    )
    .unwrap();
    assert!(
        way.steps[2].details[0].contains("no TCP port 80; its TCP ports: 9080"),
        "{way:?}"
    );
}

#[test]
fn all_names_of_a_service_lead_to_it() {
    for host in [
        "reviews",
        "reviews.default",
        "reviews.default.svc",
        "reviews.default.svc.cluster.local",
        "10.96.0.7",
    ] {
        let url = format!("http://{host}:9080/");
        let way = explain(&json!({"traffic.port.9080": "tcp"}), "client", &[("url", &url)]).unwrap();
        assert!(way.forwarded, "{host}: {way:?}");
        assert!(
            way.steps[2].text.contains("takes the connection whole"),
            "{host}: {way:?}"
        );
    }
    let way = explain(&json!({}), "client", &[("url", "http://example.org/")]).unwrap();
    assert!(!way.forwarded && way.outcome.contains("example.org"), "{way:?}");
}

#[test]
fn a_pod_without_a_proxy_is_not_in_the_mesh() {
    let way = explain(&json!({}), "reviews-b", &[("url", "http://reviews:9080/")]).unwrap();
    assert_eq!(stages(&way), ["pod"]);
    assert!(way.outcome.contains("untouched by the mesh"));
}

#[test]
fn what_is_wrong_with_a_question_is_said() {
    let why = |parameters: &[(&str, &str)]| explain(&json!({}), "client", parameters).unwrap_err().to_string();
    assert!(why(&[]).contains("parameter url is missing"));
    assert!(why(&[("url", "ftp://reviews/")]).contains("none of http, https and tcp"));
    assert!(why(&[("url", "http://reviews:99999/")]).contains("1 to 65535"));
    assert!(why(&[("url", "http://")]).contains("names no host"));
    assert!(why(&[("url", "http://reviews/"), ("header", "x")]).contains("write Name: value"));
    assert_eq!(
        explain(&json!({}), "nobody", &[("url", "http://reviews/")]),
        Err(Error::NoPod(Key::new("default", "nobody")))
    );
}

/// Routes beyond what labels make: a redirect for one path, an abort for one header, a split for the rest.
#[test]
fn conditions_faults_and_shares_of_routes() {
    use envoy_types::pb::envoy::config::route::v3 as pb;
    use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
    use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
    use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType};
    use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
    use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
    use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};
    use pb::header_matcher::HeaderMatchSpecifier;
    use pb::route::Action;
    use pb::route_match::PathSpecifier;
    use prost::{Message, Name};

    let all = || {
        Some(FractionalPercent {
            numerator: 100,
            denominator: 0,
        })
    };
    let fault = HttpFault {
        delay: Some(FaultDelay {
            percentage: all(),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(Duration { seconds: 3, nanos: 0 })),
        }),
        abort: Some(FaultAbort {
            percentage: all(),
            error_type: Some(ErrorType::HttpStatus(505)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let fault = Any {
        type_url: HttpFault::type_url(),
        value: fault.encode_to_vec(),
    };
    let prefix = |path: &str| pb::RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix(path.into())),
        ..Default::default()
    };
    let tester = pb::HeaderMatcher {
        name: "x-user".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact("tester".into())),
            ..Default::default()
        })),
        ..Default::default()
    };
    let share = |name: &str, weight| pb::weighted_cluster::ClusterWeight {
        name: name.into(),
        weight: Some(UInt32Value { value: weight }),
        ..Default::default()
    };
    let split = pb::WeightedCluster {
        clusters: vec![share("a", 900), share("b", 100)],
        ..Default::default()
    };
    let forward = || pb::RouteAction {
        cluster_specifier: Some(pb::route_action::ClusterSpecifier::WeightedClusters(split.clone())),
        ..Default::default()
    };
    let redirect = pb::RedirectAction {
        host_redirect: "new.example".into(),
        response_code: 4,
        ..Default::default()
    };
    let route = |name: &str, m, action| pb::Route {
        name: name.into(),
        r#match: Some(m),
        action: Some(action),
        ..Default::default()
    };
    let mut faulty = route(
        "faulty",
        pb::RouteMatch {
            headers: vec![tester],
            ..prefix("/")
        },
        Action::Route(forward()),
    );
    faulty
        .typed_per_filter_config
        .insert("envoy.filters.http.fault".into(), fault);
    let host = pb::VirtualHost {
        name: "service".into(),
        domains: vec!["*.default".into(), "*".into()],
        routes: vec![
            route("old", prefix("/old"), Action::Redirect(redirect)),
            faulty,
            route("rest", prefix("/"), Action::Route(forward())),
        ],
        ..Default::default()
    };
    let routes = pb::RouteConfiguration {
        virtual_hosts: vec![host],
        ..Default::default()
    };
    let explain = |url: &str, headers: &[(&str, &str)]| {
        let (mesh, snapshot) = (Mesh::default(), Snapshot::new());
        let headers = headers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let request = Request {
            method: "GET".into(),
            url: Url::parse(url).unwrap(),
            headers,
        };
        let mut walk = Walk {
            mesh: &mesh,
            snapshot: &snapshot,
            request: &request,
            said: Explanation::default(),
        };
        route::follow(&mut walk, "rds/r", &routes).unwrap();
        walk.said
    };

    let way = explain("http://web.default/old/page", &[]);
    assert_eq!(
        way.outcome,
        "the proxy answers 308: the client is sent to http://new.example/old/page"
    );
    let way = explain("http://web.default/", &[("x-user", "tester")]);
    assert_eq!(
        way.steps[0].details[0],
        "route \"old\" does not apply: path begins with /old does not hold"
    );
    assert_eq!(
        way.steps[1].text,
        "100 % of requests are delayed by 3s; 100 % of requests are answered with status 505 by the proxy"
    );
    assert!(way.outcome.contains("status 505") && !way.forwarded, "{way:?}");
    let way = explain("http://elsewhere/", &[]);
    assert!(
        way.steps[0].text.contains("domain *), route \"rest\": any path"),
        "{way:?}"
    );
    assert_eq!(
        way.steps[0].details[1],
        "route \"faulty\" does not apply: header x-user is \"tester\" does not hold"
    );
    let texts: Vec<&str> = way.steps[1..].iter().map(|s| s.text.as_str()).collect();
    assert_eq!(
        texts,
        ["90 % of requests: a is not there", "10 % of requests: b is not there"]
    );
}
