//! Matches, splits, redirects, rewrites and changes of headers, by this proxy and by stock Envoy alike.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction as Append;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier as HeaderIs;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier as QueryIs;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use http::Request;

use crate::engines::*;
use crate::sides::*;
use crate::support::*;

fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: text.into(),
        ..Default::default()
    }
}

fn text(pattern: MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    }
}

fn exact(value: &str) -> matcher::StringMatcher {
    text(MatchPattern::Exact(value.into()))
}

fn on_header(name: &str, is: HeaderIs) -> pb::RouteMatch {
    pb::RouteMatch {
        headers: vec![pb::HeaderMatcher {
            name: name.into(),
            header_match_specifier: Some(is),
            ..Default::default()
        }],
        ..prefix("/")
    }
}

fn on_query(name: &str, is: Option<QueryIs>) -> pb::RouteMatch {
    pb::RouteMatch {
        query_parameters: vec![pb::QueryParameterMatcher {
            name: name.into(),
            query_parameter_match_specifier: is,
        }],
        ..prefix("/")
    }
}

/// A route that answers with its own name.
fn says(name: &str, matching: pb::RouteMatch) -> pb::Route {
    use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
    pb::Route {
        name: name.into(),
        r#match: Some(matching),
        action: Some(pb::route::Action::DirectResponse(pb::DirectResponseAction {
            status: 200,
            body: Some(DataSource {
                specifier: Some(Specifier::InlineString(name.into())),
                ..Default::default()
            }),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Asks over HTTP/1 and HTTP/2; both answers must be the same.
async fn ask(engine: &Engine, method: &str, target: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut client = Client::connect(engine.address).await;
    let lines: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    client
        .send(format!("{method} {target} HTTP/1.1\r\nHost: svc\r\n{lines}\r\n"))
        .await;
    let one = client.answer(method).await;
    let mut request = Request::builder().method(method).uri(format!("http://svc{target}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let sender = connect_two(engine.address).await;
    let two = ask_two(&sender, request.body(()).unwrap(), b"").await.unwrap();
    let two = (two.status, String::from_utf8(two.body).unwrap());
    assert_eq!((one.status, one.text()), two, "{} {target} {headers:?}", engine.name);
    two
}

/// Method, target, headers, and the route that is taken.
type Asked = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
);

#[tokio::test]
async fn the_first_route_that_matches_is_taken() {
    let ignoring_case = |value: &str| matcher::StringMatcher {
        ignore_case: true,
        ..exact(value)
    };
    let inverted = |mut matching: pb::RouteMatch| {
        matching.headers[0].invert_match = true;
        matching
    };
    let any_case = |specifier| pb::RouteMatch {
        case_sensitive: Some(BoolValue { value: false }),
        ..path(specifier)
    };
    let mut missing_is_empty = on_header("x-empty", HeaderIs::StringMatch(exact("")));
    missing_is_empty.headers[0].treat_missing_header_as_empty = true;
    missing_is_empty.path_specifier = Some(PathSpecifier::Path("/empty".into()));
    let mut both = on_header("x-a", HeaderIs::PresentMatch(true));
    both.headers
        .extend(on_header("x-b", HeaderIs::PresentMatch(false)).headers);
    let mut inverted_exact = inverted(on_header("x-inverted", HeaderIs::StringMatch(exact("1"))));
    inverted_exact.path_specifier = Some(PathSpecifier::Prefix("/inverted".into()));
    let routes = vec![
        says("exact", path(PathSpecifier::Path("/exact".into()))),
        says("case", any_case(PathSpecifier::Path("/case".into()))),
        says("separated", path(PathSpecifier::PathSeparatedPrefix("/sep".into()))),
        says("regex", path(PathSpecifier::SafeRegex(regex("/v[0-9]+/[^/]+")))),
        says("empty", missing_is_empty),
        says("inverted", inverted_exact),
        says("both", both),
        says("method", on_header(":method", HeaderIs::StringMatch(exact("DELETE")))),
        says(
            "authority",
            pb::RouteMatch {
                path_specifier: Some(PathSpecifier::Path("/authority".into())),
                ..on_header(":authority", HeaderIs::StringMatch(exact("svc")))
            },
        ),
        says(
            "target",
            on_header(
                ":path",
                HeaderIs::StringMatch(text(MatchPattern::Suffix("?whole".into()))),
            ),
        ),
        says("header", on_header("X-One", HeaderIs::StringMatch(exact("1")))),
        says(
            "header any case",
            on_header("x-case", HeaderIs::StringMatch(ignoring_case("Yes"))),
        ),
        says(
            "header prefix",
            on_header("x-pre", HeaderIs::StringMatch(text(MatchPattern::Prefix("ab".into())))),
        ),
        says(
            "header contains",
            on_header(
                "x-in",
                HeaderIs::StringMatch(text(MatchPattern::Contains("mid".into()))),
            ),
        ),
        says(
            "header regex",
            on_header(
                "x-re",
                HeaderIs::StringMatch(text(MatchPattern::SafeRegex(regex("a|bc")))),
            ),
        ),
        says("header twice", on_header("x-list", HeaderIs::StringMatch(exact("2")))),
        says(
            "header range",
            on_header(
                "x-number",
                HeaderIs::RangeMatch(envoy_types::pb::envoy::r#type::v3::Int64Range { start: 5, end: 8 }),
            ),
        ),
        says(
            "proto",
            pb::RouteMatch {
                path_specifier: Some(PathSpecifier::Path("/proto".into())),
                ..on_header("x-forwarded-proto", HeaderIs::StringMatch(exact("http")))
            },
        ),
        says("query", on_query("q", Some(QueryIs::StringMatch(exact("1"))))),
        says(
            "query regex",
            on_query(
                "r",
                Some(QueryIs::StringMatch(text(MatchPattern::SafeRegex(regex("[0-9]+"))))),
            ),
        ),
        says("query there", on_query("there", Some(QueryIs::PresentMatch(true)))),
        says("query name", on_query("named", None)),
        says(
            "grpc",
            pb::RouteMatch {
                grpc: Some(pb::route_match::GrpcRouteMatchOptions {}),
                ..prefix("/")
            },
        ),
        says("rest", prefix("/")),
    ];
    let expected: &[Asked] = &[
        ("GET", "/exact?x=1", &[], "exact"),
        ("GET", "/Exact", &[], "rest"),
        ("GET", "/CASE", &[], "case"),
        ("GET", "/sep", &[], "separated"),
        ("GET", "/sep/x", &[], "separated"),
        ("GET", "/separate", &[], "rest"),
        ("GET", "/v12/x?/", &[], "regex"),
        ("GET", "/v12/x/y", &[], "rest"),
        ("GET", "/empty", &[], "empty"),
        ("GET", "/empty", &[("x-empty", "1")], "rest"),
        ("GET", "/inverted", &[("x-inverted", "2")], "inverted"),
        ("GET", "/inverted", &[("x-inverted", "1")], "rest"),
        ("GET", "/inverted", &[], "rest"),
        ("GET", "/", &[("x-a", "1")], "both"),
        ("GET", "/", &[("x-a", "1"), ("x-b", "1")], "rest"),
        ("DELETE", "/", &[], "method"),
        ("GET", "/authority", &[], "authority"),
        ("GET", "/p?whole", &[], "target"),
        ("GET", "/", &[("x-one", "1")], "header"),
        ("GET", "/", &[("x-one", "11")], "rest"),
        ("GET", "/", &[("x-case", "yES")], "header any case"),
        ("GET", "/", &[("x-pre", "abc")], "header prefix"),
        ("GET", "/", &[("x-in", "amidst")], "header contains"),
        ("GET", "/", &[("x-re", "bc")], "header regex"),
        ("GET", "/", &[("x-re", "abc")], "rest"),
        ("GET", "/", &[("x-list", "1"), ("x-list", "2")], "header twice"),
        ("GET", "/", &[("x-list", "1,2")], "rest"),
        ("GET", "/", &[("x-number", "7")], "header range"),
        ("GET", "/", &[("x-number", "8")], "rest"),
        ("GET", "/proto", &[], "proto"),
        ("GET", "/?a&q=1", &[], "query"),
        ("GET", "/?q=2&q=1", &[], "rest"),
        ("GET", "/?r=12", &[], "query regex"),
        ("GET", "/?r=1a", &[], "rest"),
        ("GET", "/?there", &[], "query there"),
        ("GET", "/?named=", &[], "query name"),
        ("GET", "/?q=%31", &[], "rest"),
        ("POST", "/", &[("content-type", "application/grpc+proto")], "grpc"),
        ("POST", "/", &[("content-type", "application/grpc-web")], "rest"),
    ];
    for engine in engines(&http_with(routes), &[]).await {
        let mut wrong = Vec::new();
        for (method, target, headers, route) in expected {
            // A call of gRPC is told in gRPC, and in HTTP/2.
            if *route == "grpc" {
                let sender = connect_two(engine.address).await;
                let call = Request::post("http://svc/").header(headers[0].0, headers[0].1);
                let reply = ask_two(&sender, call.body(()).unwrap(), b"").await.unwrap();
                let told = (
                    reply.status,
                    &reply.headers["grpc-status"],
                    &reply.headers["grpc-message"],
                );
                assert_eq!(
                    told,
                    (200, &"2".parse().unwrap(), &"grpc".parse().unwrap()),
                    "{}",
                    engine.name
                );
                continue;
            }
            let (_, body) = ask(&engine, method, target, headers).await;
            if body != *route {
                wrong.push(format!("{target} {headers:?}: {body} instead of {route}"));
            }
        }
        assert!(wrong.is_empty(), "{}: {wrong:#?}", engine.name);
    }
}

fn weight(name: &str, weight: u32) -> pb::weighted_cluster::ClusterWeight {
    pb::weighted_cluster::ClusterWeight {
        name: name.into(),
        weight: Some(UInt32Value { value: weight }),
        ..Default::default()
    }
}

fn split(clusters: Vec<pb::weighted_cluster::ClusterWeight>) -> pb::RouteAction {
    pb::RouteAction {
        cluster_specifier: Some(pb::route_action::ClusterSpecifier::WeightedClusters(
            pb::WeightedCluster {
                clusters,
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

#[tokio::test]
async fn requests_are_split_by_weight_and_each_part_changes_headers() {
    let (a, b) = (echo("a").await, echo("b").await);
    let mut second = weight("b", 3);
    second.request_headers_to_add = vec![header("x-part", "100%%", Append::AppendIfExistsOrAdd)];
    second.response_headers_to_remove = vec!["X-Kept".into()];
    let routes = vec![forward(
        prefix("/"),
        split(vec![weight("a", 1), second, weight("nobody", 0)]),
    )];
    let clusters = [("a", a.address), ("b", b.address), ("nobody", local(free_port()))];
    for engine in engines(&http_with(routes), &clusters).await {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let mut client = Client::connect(engine.address).await;
        for _ in 0..800 {
            let answer = client.get("svc", "/").await;
            let name = answer.header("x-from").unwrap().to_owned();
            let (part, kept) = (
                answer.text().contains("x-part: 100%\r"),
                answer.header("x-kept").is_some(),
            );
            assert_eq!((part, kept), (name == "b", name == "a"), "{}: {answer:?}", engine.name);
            *counts.entry(name).or_default() += 1;
        }
        // Five standard deviations of a fair draw.
        assert!((140..=260).contains(&counts["a"]), "{}: {counts:?}", engine.name);
        assert_eq!(counts["a"] + counts["b"], 800);
        let Some(proxy) = &engine.weir else { continue };
        let page = get(proxy.metrics, "/metrics").await.text();
        for part in ["a", "b", "nobody"] {
            let labels = [&*format!("dst_pod=\"{part}\""), "authority="];
            let counted = sum(&page, "request_total", &labels[..1]);
            assert_eq!(counted, f64::from(*counts.get(part).unwrap_or(&0)), "{part} {page}");
        }
    }
}

#[tokio::test]
async fn headers_hosts_and_paths_are_changed_in_envoys_order() {
    let server = echo("a").await;
    let edited = |matching, action| pb::Route {
        request_headers_to_add: vec![
            header("x-always", "route", Append::AppendIfExistsOrAdd),
            header("x-absent", "route", Append::AddIfAbsent),
            header("x-over", "route", Append::OverwriteIfExistsOrAdd),
            header("x-only-over", "route", Append::OverwriteIfExists),
        ],
        request_headers_to_remove: vec!["x-gone".into(), "X-Request-Id".into()],
        response_headers_to_add: vec![
            header("x-answer", "route", Append::AppendIfExistsOrAdd),
            header("x-kept", "2", Append::OverwriteIfExistsOrAdd),
        ],
        ..forward(matching, action)
    };
    let rewrite = |cluster: &str, prefix: &str| pb::RouteAction {
        prefix_rewrite: prefix.into(),
        ..action(cluster)
    };
    let substitute = pb::RouteAction {
        regex_rewrite: Some(matcher::RegexMatchAndSubstitute {
            pattern: Some(regex("^/re/([^/]+)/(.*)$")),
            substitution: r"/\2/$/\1".into(),
        }),
        host_rewrite_specifier: Some(pb::route_action::HostRewriteSpecifier::HostRewriteLiteral(
            "other:81".into(),
        )),
        ..action("a")
    };
    let host = pb::VirtualHost {
        name: "all".into(),
        domains: vec!["*".into()],
        routes: vec![
            forward(prefix("/re/"), substitute),
            forward(prefix("/cut/"), rewrite("a", "/")),
            forward(
                path(PathSpecifier::PathSeparatedPrefix("/sep".into())),
                rewrite("a", "/new"),
            ),
            forward(path(PathSpecifier::Path("/whole".into())), rewrite("a", "/part")),
            forward(path(PathSpecifier::SafeRegex(regex("/x.*"))), rewrite("a", "/y")),
            edited(prefix("/"), action("a")),
        ],
        request_headers_to_add: vec![header("x-always", "host", Append::AppendIfExistsOrAdd)],
        response_headers_to_add: vec![header("x-answer", "host", Append::AppendIfExistsOrAdd)],
        ..Default::default()
    };
    let table = pb::RouteConfiguration {
        name: "web".into(),
        virtual_hosts: vec![host],
        request_headers_to_add: vec![header("x-always", "table", Append::AppendIfExistsOrAdd)],
        request_headers_to_remove: vec!["x-never".into()],
        ..Default::default()
    };
    for engine in engines(&http_of(table), &[("a", server.address)]).await {
        let mut client = Client::connect(engine.address).await;
        client
            .send("GET /q?x=1 HTTP/1.1\r\nHost: svc\r\nX-Gone: 1\r\nX-Never: 1\r\nX-Always: client\r\nX-Absent: client\r\nX-Over: 1\r\nX-Over: 2\r\n\r\n")
            .await;
        let answer = client.answer("GET").await;
        let seen = answer.text();
        let values = |name: &str| -> Vec<String> {
            let lines = seen.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned()).collect()
        };
        let at = engine.name;
        assert_eq!(values("x-always"), ["client", "route", "host", "table"], "{at}");
        assert_eq!(values("x-absent"), ["client"], "{at}");
        assert_eq!(values("x-over"), ["route"], "{at}");
        for gone in ["x-only-over", "x-gone", "x-never", "x-request-id"] {
            assert!(values(gone).is_empty(), "{at}: {gone} in {seen}");
        }
        assert_eq!(answer.header("x-kept"), Some("2"), "{at}");
        let answers: Vec<&str> = answer
            .head
            .lines()
            .filter(|l| l.to_lowercase().starts_with("x-answer"))
            .collect();
        assert_eq!(answers, ["x-answer: route", "x-answer: host"], "{at}");
        for (target, new, host) in [
            ("/re/one/two?q", "/two/$/one?q", "other:81"),
            ("/cut/x/y?q=1", "/x/y?q=1", "svc"),
            ("/sep", "/new", "svc"),
            ("/sep/x?q", "/new/x?q", "svc"),
            ("/whole?q", "/part?q", "svc"),
            ("/xyz?q", "/y?q", "svc"),
        ] {
            let seen = client.get("svc", target).await.text();
            assert!(
                seen.contains(&format!("get {new} http/1.1\r\n")),
                "{at}: {target} {seen}"
            );
            assert!(seen.contains(&format!("\r\nhost: {host}\r\n")), "{at}: {target} {seen}");
            let old = format!("\r\nx-envoy-original-path: {target}\r\n");
            assert!(seen.contains(&old), "{at}: {target} {seen}");
            let (_, two) = ask_over_two(&engine, target).await;
            for line in [
                &format!("get {new} http/1.1\r\n"),
                &format!("\r\nhost: {host}\r\n"),
                &old,
            ] {
                assert!(two.contains(line), "{at}: {target} {two}");
            }
        }
    }
}

async fn ask_over_two(engine: &Engine, target: &str) -> (http::HeaderMap, String) {
    let sender = connect_two(engine.address).await;
    let reply = ask_two(&sender, request("GET", target), b"").await.unwrap();
    (reply.headers, String::from_utf8(reply.body).unwrap())
}

#[tokio::test]
async fn redirects_lead_where_envoys_lead() {
    use pb::redirect_action::{PathRewriteSpecifier as Path, SchemeRewriteSpecifier as Scheme};
    let redirect = |from: &str, action: pb::RedirectAction| pb::Route {
        r#match: Some(prefix(from)),
        action: Some(pb::route::Action::Redirect(action)),
        response_headers_to_add: vec![header("x-sent", "1", Append::AppendIfExistsOrAdd)],
        ..Default::default()
    };
    let of = || pb::RedirectAction::default();
    let secure = Some(Scheme::HttpsRedirect(true));
    let routes = vec![
        redirect(
            "/secure",
            pb::RedirectAction {
                scheme_rewrite_specifier: secure.clone(),
                ..of()
            },
        ),
        redirect(
            "/host",
            pb::RedirectAction {
                host_redirect: "new.example".into(),
                response_code: 4,
                ..of()
            },
        ),
        redirect(
            "/port",
            pb::RedirectAction {
                port_redirect: 8443,
                scheme_rewrite_specifier: secure,
                response_code: 1,
                ..of()
            },
        ),
        redirect(
            "/path",
            pb::RedirectAction {
                path_rewrite_specifier: Some(Path::PathRedirect("/there".into())),
                response_code: 2,
                ..of()
            },
        ),
        redirect(
            "/query",
            pb::RedirectAction {
                path_rewrite_specifier: Some(Path::PathRedirect("/there?own=1".into())),
                strip_query: true,
                response_code: 3,
                ..of()
            },
        ),
        redirect(
            "/strip",
            pb::RedirectAction {
                strip_query: true,
                ..of()
            },
        ),
        redirect(
            "/old/",
            pb::RedirectAction {
                path_rewrite_specifier: Some(Path::PrefixRewrite("/new/".into())),
                ..of()
            },
        ),
        redirect(
            "/re/",
            pb::RedirectAction {
                path_rewrite_specifier: Some(Path::RegexRewrite(matcher::RegexMatchAndSubstitute {
                    pattern: Some(regex("^/re/(.*)$")),
                    substitution: r"/\1/re".into(),
                })),
                scheme_rewrite_specifier: Some(Scheme::SchemeRedirect("ftp".into())),
                ..of()
            },
        ),
    ];
    for engine in engines(&http_with(routes), &[]).await {
        let mut client = Client::connect(engine.address).await;
        for (host, target, status, location) in [
            ("svc", "/secure?q", 301, "https://svc/secure?q"),
            ("svc:80", "/secure", 301, "https://svc/secure"),
            ("svc:81", "/secure", 301, "https://svc:81/secure"),
            ("[::1]:80", "/secure", 301, "https://[::1]/secure"),
            ("svc:81", "/host/x", 308, "http://new.example/host/x"),
            ("svc:81", "/port", 302, "https://svc:8443/port"),
            ("svc", "/path/x?q=1", 303, "http://svc/there?q=1"),
            ("svc", "/query?q=1", 307, "http://svc/there?own=1"),
            ("svc", "/strip?q=1", 301, "http://svc/strip"),
            ("svc", "/old/x?q=1", 301, "http://svc/new/x?q=1"),
            ("svc", "/re/x?q=1", 301, "ftp://svc/x/re?q=1"),
        ] {
            let answer = client.get(host, target).await;
            let found = (answer.status, answer.header("location").unwrap_or_default());
            assert_eq!(found, (status, location), "{} {host} {target}", engine.name);
            assert_eq!(answer.header("x-sent"), Some("1"), "{}", engine.name);
            assert!(answer.body.is_empty());
            if host == "svc" {
                let (headers, _) = ask_over_two(&engine, target).await;
                assert_eq!(headers["location"], location, "{} over HTTP/2", engine.name);
            }
        }
    }
}
