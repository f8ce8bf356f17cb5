//! Requests of strangers, by this proxy and by stock Envoy alike.

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    PathWithEscapedSlashesAction as Escaped, StripPortMode,
};
use envoy_types::pb::google::protobuf::BoolValue;

use crate::engines::*;
use crate::sides::*;
use crate::support::*;

/// The target that the server got, or what the client got in its place.
async fn target(engine: &Engine, asked: &str) -> String {
    let answer = Client::connect(engine.address).await.get("svc", asked).await;
    match answer.status {
        200 => {
            let text = answer.text();
            let line = text.lines().find(|l| l.starts_with("get ")).unwrap_or_default();
            line.split(' ').nth(1).unwrap_or_default().to_owned()
        }
        307 => format!("307 {}", answer.header("location").unwrap_or_default()),
        status => status.to_string(),
    }
}

#[tokio::test]
async fn paths_get_one_form() {
    let server = echo("a").await;
    let manager = |action: Escaped| hcm::HttpConnectionManager {
        normalize_path: Some(BoolValue { value: true }),
        merge_slashes: true,
        path_with_escaped_slashes_action: action.into(),
        ..http_with(vec![to(prefix("/"), "a")])
    };
    let rows: &[(Escaped, &str, &str)] = &[
        (Escaped::KeepUnchanged, "/a/./b", "/a/b"),
        (Escaped::KeepUnchanged, "/a/../b?x=/../y", "/b?x=/../y"),
        (Escaped::KeepUnchanged, "/a/b/..", "/a/"),
        (Escaped::KeepUnchanged, "/a/b/.", "/a/b/"),
        (Escaped::KeepUnchanged, "/../../a", "/a"),
        (Escaped::KeepUnchanged, "/a/%2e%2E/b", "/b"),
        (Escaped::KeepUnchanged, "/a/.%2e/b", "/b"),
        (Escaped::KeepUnchanged, "//a///b//", "/a/b/"),
        (Escaped::KeepUnchanged, "/a//../b", "/a/b"),
        (Escaped::KeepUnchanged, "/a\\b\\..\\c", "/a/c"),
        (Escaped::KeepUnchanged, "/a%2Fb%5cc", "/a%2Fb%5cc"),
        (Escaped::KeepUnchanged, "/a%41%7E%2d...", "/aA~-..."),
        (Escaped::KeepUnchanged, "/a{%7b%zz%2", "/a%7B%7b%zz%2"),
        (Escaped::KeepUnchanged, "/a%00", "400"),
        (Escaped::KeepUnchanged, "/", "/"),
        (Escaped::RejectRequest, "/a%2Fb", "400"),
        (Escaped::RejectRequest, "/a%5cb", "400"),
        (Escaped::RejectRequest, "/a?b=%2F", "/a?b=%2F"),
        (Escaped::UnescapeAndRedirect, "/a%2F..%2fb?q=%2F", "307 /b?q=%2F"),
        (Escaped::UnescapeAndRedirect, "/a/../b", "/b"),
        (Escaped::UnescapeAndForward, "/a%2fb%5Cc", "/a/b/c"),
    ];
    for action in [
        Escaped::KeepUnchanged,
        Escaped::RejectRequest,
        Escaped::UnescapeAndRedirect,
        Escaped::UnescapeAndForward,
    ] {
        for engine in engines(&manager(action), &[("a", server.address)]).await {
            let mut wrong = Vec::new();
            for (_, asked, expected) in rows.iter().filter(|(a, ..)| *a == action) {
                let found = target(&engine, asked).await;
                if found.to_lowercase() != expected.to_lowercase() {
                    wrong.push(format!("{asked}: {found} instead of {expected}"));
                }
            }
            assert!(wrong.is_empty(), "{}: {wrong:#?}", engine.name);
        }
    }
}

#[tokio::test]
async fn hosts_lose_their_ports() {
    let server = echo("a").await;
    for any in [true, false] {
        let manager = hcm::HttpConnectionManager {
            strip_port_mode: any.then_some(StripPortMode::StripAnyHostPort(true)),
            strip_matching_host_port: !any,
            strip_trailing_host_dot: true,
            ..http_with(vec![to(prefix("/"), "a")])
        };
        for engine in engines(&manager, &[("a", server.address)]).await {
            let own = format!("svc:{}", engine.address.port());
            let other = if any { "svc" } else { "svc:1" };
            for (asked, expected) in [
                ("svc", "svc"),
                (&*own, "svc"),
                ("svc:1", other),
                ("svc.", "svc"),
                ("[::1]", "[::1]"),
            ] {
                let seen = Client::connect(engine.address).await.get(asked, "/").await.text();
                let line = format!("\r\nhost: {expected}\r\n");
                assert!(seen.contains(&line), "{} {asked}: {seen}", engine.name);
            }
        }
    }
}

/// What the server got of a header, over both versions of HTTP.
async fn told(engine: &Engine, sent: &[(&str, &str)], name: &str) -> Option<String> {
    let lines: String = sent.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let mut client = Client::connect(engine.address).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: svc\r\n{lines}\r\n")).await;
    let one = client.answer("GET").await.text();
    let mut request = http::Request::get("http://svc/");
    for (name, value) in sent {
        request = request.header(*name, *value);
    }
    let sender = connect_two(engine.address).await;
    let reply = ask_two(&sender, request.body(()).unwrap(), b"").await.unwrap();
    let two = String::from_utf8(reply.body).unwrap();
    let of = |text: &str| {
        let lines: Vec<String> = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(n, _)| *n == name)
            .map(|(_, v)| v.to_owned())
            .collect();
        (!lines.is_empty()).then(|| lines.join(" | "))
    };
    let (one, two) = (of(&one), of(&two));
    if name != "x-request-id" {
        assert_eq!(one, two, "{} {name} {sent:?}", engine.name);
    }
    one
}

#[tokio::test]
async fn strangers_are_not_believed_further_than_they_should() {
    let server = echo("a").await;
    let forged = [
        ("x-forwarded-for", "1.1.1.1, 2.2.2.2"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "mine"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-internal", "true"),
    ];
    for (hops, skip, keep) in [(0, false, false), (1, false, true), (2, true, false)] {
        let manager = hcm::HttpConnectionManager {
            use_remote_address: Some(BoolValue { value: true }),
            xff_num_trusted_hops: hops,
            skip_xff_append: skip,
            preserve_external_request_id: keep,
            ..http_with(vec![to(prefix("/"), "a")])
        };
        for engine in engines(&manager, &[("a", server.address)]).await {
            let at = format!("{} {hops}", engine.name);
            let chain = told(&engine, &forged, "x-forwarded-for").await.unwrap();
            let alone = told(&engine, &[], "x-forwarded-for").await;
            match skip {
                true => assert_eq!((&*chain, alone), ("1.1.1.1, 2.2.2.2", None), "{at}"),
                false => {
                    // Envoy names an address of its own for clients on loopback.
                    let last = chain.strip_prefix("1.1.1.1, 2.2.2.2,").unwrap().to_owned();
                    assert!(engine.name != "weir" || last == "127.0.0.1", "{at}: {chain}");
                    assert_eq!(alone, Some(last), "{at}");
                }
            }
            let external = match hops {
                0 => "127.0.0.1",
                1 => "2.2.2.2",
                _ => "1.1.1.1",
            };
            let found = told(&engine, &forged, "x-envoy-external-address").await;
            assert_eq!(found.as_deref(), Some(external), "{at}");
            let proto = if hops == 0 { "http" } else { "https" };
            assert_eq!(
                told(&engine, &forged, "x-forwarded-proto").await.as_deref(),
                Some(proto),
                "{at}"
            );
            assert_eq!(
                told(&engine, &[], "x-forwarded-proto").await.as_deref(),
                Some("http"),
                "{at}"
            );
            let id = told(&engine, &forged, "x-request-id").await.unwrap();
            assert_eq!(id == "mine", keep, "{at}: {id}");
            for gone in ["x-envoy-retry-on", "x-envoy-internal"] {
                assert_eq!(told(&engine, &forged, gone).await, None, "{at}");
            }
            if !skip {
                let mut client = Client::connect(engine.address).await;
                client
                    .send("GET / HTTP/1.1\r\nHost: svc\r\nX-Forwarded-For: \u{e9}\r\n\r\n")
                    .await;
                let seen = client.answer("GET").await.text();
                assert!(seen.contains("x-forwarded-for: \u{e9},"), "{at}: {seen}");
            }
        }
    }
}
