//! Which endpoint answers: policies, hashes, cookies.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::sides::*;
use crate::support::*;

/// Servers that answer with their number, and a proxy in front of them.
async fn servers(count: usize, cluster: &str, route: &str) -> (Vec<Server>, String, u16) {
    let mut servers = Vec::new();
    for number in 0..count {
        servers.push(Server::http(move |_, _| ok(&number.to_string())).await);
    }
    let port = free_port();
    let endpoints: Vec<_> = servers.iter().map(|s| (s.address, 1)).collect();
    let bootstrap = with_cluster(&http_bootstrap(port, &endpoints, route), cluster);
    (servers, bootstrap, port)
}

async fn ask(client: &mut Client, headers: &str) -> Answer {
    client
        .send(format!("GET / HTTP/1.1\r\nHost: svc\r\n{headers}\r\n"))
        .await;
    let answer = client.answer("GET").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

#[tokio::test]
async fn every_policy_uses_every_endpoint() {
    for policy in ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV"] {
        let (_servers, bootstrap, port) = servers(3, &format!("lb_policy: {policy}"), "").await;
        let _proxy = Proxy::start(&bootstrap).await;
        let mut client = Client::connect(local(port)).await;
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..150 {
            *counts.entry(ask(&mut client, "").await.text()).or_default() += 1;
        }
        assert_eq!(counts.len(), 3, "{policy}: {counts:?}");
        if policy == "ROUND_ROBIN" {
            assert!(counts.values().all(|n| *n == 50), "{counts:?}");
        }
    }
}

#[tokio::test]
async fn the_endpoint_that_is_quicker_gets_more_where_latencies_count() {
    let quick = Server::http(|_, _| ok("quick")).await;
    let slow = Server::http(|_, _| {
        std::thread::sleep(Duration::from_millis(20));
        ok("slow")
    })
    .await;
    let port = free_port();
    let cluster = "lb_policy: LEAST_REQUEST\n    metadata: {filter_metadata: {weir: {lb_policy: PEAK_EWMA}}}";
    let text = http_bootstrap(port, &[(quick.address, 1), (slow.address, 1)], "");
    let _proxy = Proxy::start(&with_cluster(&text, cluster)).await;
    let mut client = Client::connect(local(port)).await;
    let mut slow_ones = 0;
    for _ in 0..100 {
        slow_ones += u32::from(ask(&mut client, "").await.text() == "slow");
    }
    assert!((1..20).contains(&slow_ones), "{slow_ones}");
}

#[tokio::test]
async fn one_header_leads_to_one_endpoint_in_every_process() {
    for policy in ["RING_HASH", "MAGLEV"] {
        let route = ", hash_policy: [{header: {header_name: X-User}}]";
        let (_servers, bootstrap, port) = servers(4, &format!("lb_policy: {policy}"), route).await;
        let mut seen: BTreeMap<u32, String> = BTreeMap::new();
        for _process in 0..2 {
            let proxy = Proxy::start(&bootstrap).await;
            let mut client = Client::connect(local(port)).await;
            for user in 0..40 {
                let answer = ask(&mut client, &format!("x-user: {user}\r\n")).await.text();
                assert_eq!(
                    seen.entry(user).or_insert_with(|| answer.clone()),
                    &answer,
                    "{policy} {user}"
                );
            }
            drop(client);
            drop(proxy.end());
        }
        let used: std::collections::BTreeSet<_> = seen.values().collect();
        assert_eq!(used.len(), 4, "{policy}: {seen:?}");
    }
}

#[tokio::test]
async fn whoever_has_no_cookie_gets_one_that_leads_to_the_same_endpoint() {
    let route = ", hash_policy: [{cookie: {name: who, ttl: 60s}}]";
    let (_servers, bootstrap, port) = servers(4, "lb_policy: RING_HASH", route).await;
    let _proxy = Proxy::start(&bootstrap).await;
    for _ in 0..10 {
        let mut client = Client::connect(local(port)).await;
        let first = ask(&mut client, "").await;
        let cookie = first.header("set-cookie").expect("a cookie").to_owned();
        let (pair, rest) = cookie.split_once(';').unwrap();
        assert!(pair.starts_with("who=\"") && pair.ends_with('"'), "{cookie}");
        assert_eq!(rest, " Max-Age=60; HttpOnly");
        let mut other = Client::connect(local(port)).await;
        for _ in 0..3 {
            let again = ask(&mut other, &format!("Cookie: a=b; {pair}\r\n")).await;
            assert_eq!((again.header("set-cookie"), again.text()), (None, first.text()));
        }
    }
}

#[tokio::test]
async fn hashes_and_cookies_work_over_http2() {
    let server = |name: &'static str| Server::http(move |_, _| ok(name));
    let servers = [server("a").await, server("b").await, server("c").await];
    let port = free_port();
    let endpoints: Vec<_> = servers.iter().map(|s| (s.address, 1)).collect();
    let route = ", hash_policy: [{cookie: {name: who, ttl: 0s}}]";
    let text = with_cluster(&http_bootstrap(port, &endpoints, route), "lb_policy: MAGLEV");
    let _proxy = Proxy::start(&text).await;
    for _ in 0..6 {
        let sender = connect_two(local(port)).await;
        let first = ask_two(&sender, request("GET", "/"), b"").await.unwrap();
        let cookie = first.headers["set-cookie"].to_str().unwrap().to_owned();
        assert!(cookie.ends_with("\"; HttpOnly"), "{cookie}");
        let other = connect_two(local(port)).await;
        let mut again = request("GET", "/");
        let pair = cookie.split(';').next().unwrap();
        again.headers_mut().insert("cookie", pair.parse().unwrap());
        let second = ask_two(&other, again, b"").await.unwrap();
        assert_eq!(second.body, first.body);
        assert!(!second.headers.contains_key("set-cookie"));
    }
}
