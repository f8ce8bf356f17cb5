//! What access logs say of requests and connections, and what they never do.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use regex::Regex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::sides::*;
use crate::support::*;
use crate::tcp::tcp_bootstrap;

/// The same bootstrap with a log of what its one chain serves.
fn logged(bootstrap: &str) -> String {
    let typed =
        r#"typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}"#;
    let chain = Regex::new("          stat_prefix: .*\n").unwrap();
    assert_eq!(chain.find_iter(bootstrap).count(), 1);
    let log = format!("${{0}}          access_log: [{{name: stdout, {typed}}}]\n");
    chain.replace(bootstrap, log).into_owned()
}

/// The lines so far. Times, which differ, are `T` and `MS`; identifiers that the proxy made are `ID`.
fn lines(directory: &tempfile::TempDir) -> Vec<String> {
    let text = std::fs::read_to_string(directory.path().join("access.log")).unwrap();
    let line = Regex::new(
        r#"^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] ("(?:[^"\\]|\\.)*" \d+ \S+ \d+ \d+) \d+ (\d+|-) (.*)$"#,
    );
    let (line, id) = (
        line.unwrap(),
        Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap(),
    );
    let masked = |text: &str| {
        let parts = line.captures(text).unwrap_or_else(|| panic!("no line: {text:?}"));
        let service = if &parts[2] == "-" { "-" } else { "MS" };
        format!("[T] {} MS {service} {}", &parts[1], id.replace(&parts[3], "ID"))
    };
    text.lines().map(masked).collect()
}

async fn wait_for(proxy: &Proxy, count: usize) {
    let what = format!("{count} lines");
    eventually(&what, async || lines(&proxy.directory).len() >= count).await;
}

#[tokio::test]
async fn each_request_is_one_line() {
    let flaky = AtomicU64::new(0);
    let server = Server::http(move |head, body| match head.split(' ').nth(1).unwrap() {
        "/flaky" if flaky.fetch_add(1, Ordering::Relaxed) == 0 => response(503, "not yet"),
        "/broken" => response(503, "never"),
        "/chunks" => {
            b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n".into()
        }
        "/close" => b"HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello".into(),
        _ => ok(&"x".repeat(body.len() + 1)),
    })
    .await;
    let port = free_port();
    let policy = ", retry_policy: {retry_on: 5xx, num_retries: 1, retry_back_off: {base_interval: 0.001s}}";
    let bootstrap = http_bootstrap(port, &[(server.address, 1)], policy);
    let bootstrap = bootstrap.replace(r#"domains: ["*"]"#, "domains: [another]");
    let proxy = Proxy::start(&logged(&bootstrap)).await;
    let mut client = Client::connect(local(port)).await;
    let mut expected = Vec::new();
    let to = server.address.to_string();
    let mut ask = async |request: &str, status: u16, line: &str| {
        client.send(request).await;
        let method = request.split(' ').next().unwrap();
        assert_eq!(client.answer(method).await.status, status, "{request}");
        expected.push(line.replace("SERVER", &to));
    };
    ask(
        "GET /a?b=c HTTP/1.1\r\nHost: svc\r\nUser-Agent: curl/8\r\n\r\n",
        200,
        r#"[T] "GET /a?b=c HTTP/1.1" 200 - 0 1 MS MS "-" "curl/8" "ID" "svc" "SERVER""#,
    )
    .await;
    let own = "X-Request-Id: my-own\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2";
    ask(
        &format!("POST / HTTP/1.1\r\nHost: svc\r\n{own}\r\nUser-Agent:\r\nContent-Length: 4\r\n\r\nbody"),
        200,
        r#"[T] "POST / HTTP/1.1" 200 - 4 5 MS MS "10.0.0.1,10.0.0.2" "" "my-own" "svc" "SERVER""#,
    )
    .await;
    // Content is counted, not its framing.
    ask(
        "POST /chunks HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
        200,
        r#"[T] "POST /chunks HTTP/1.1" 200 - 7 11 MS MS "-" "-" "ID" "svc" "SERVER""#,
    )
    .await;
    ask(
        "HEAD / HTTP/1.1\r\nHost: svc\r\n\r\n",
        200,
        r#"[T] "HEAD / HTTP/1.1" 200 - 0 0 MS MS "-" "-" "ID" "svc" "SERVER""#,
    )
    .await;
    // Tried twice: one line, and its body once.
    ask(
        "POST /flaky HTTP/1.1\r\nHost: svc\r\nContent-Length: 4\r\n\r\nbody",
        200,
        r#"[T] "POST /flaky HTTP/1.1" 200 - 4 5 MS MS "-" "-" "ID" "svc" "SERVER""#,
    )
    .await;
    ask(
        "GET /broken HTTP/1.1\r\nHost: svc\r\n\r\n",
        503,
        r#"[T] "GET /broken HTTP/1.1" 503 URX 0 5 MS MS "-" "-" "ID" "svc" "SERVER""#,
    )
    .await;
    ask(
        "GET /refused HTTP/1.1\r\nHost: svc\r\n\r\n",
        404,
        r#"[T] "GET /refused HTTP/1.1" 404 - 0 13 MS - "-" "-" "ID" "svc" "-""#,
    )
    .await;
    ask(
        "GET / HTTP/1.1\r\nHost: nobody\r\n\r\n",
        404,
        r#"[T] "GET / HTTP/1.1" 404 NR 0 0 MS - "-" "-" "ID" "nobody" "-""#,
    )
    .await;
    // Neither ends its line, nor its place in it.
    ask(
        "GET /\"%0d%0a\\x HTTP/1.1\r\nHost: svc\r\nUser-Agent: a\" \"b\\ \u{e9}\t[c]\r\n\r\n",
        200,
        r#"[T] "GET /\"%0d%0a\\x HTTP/1.1" 200 - 0 1 MS MS "-" "a\" \"b\\ \xc3\xa9\x09[c]" "ID" "svc" "SERVER""#,
    )
    .await;
    ask(
        "GET /close HTTP/1.0\r\nHost: svc\r\n\r\n",
        200,
        r#"[T] "GET /close HTTP/1.0" 200 - 0 5 MS MS "-" "-" "ID" "svc" "SERVER""#,
    )
    .await;
    let mut client = Client::connect(local(port)).await;
    client
        .send("GET / HTTP/1.1\r\nHost: svc\r\nUser-Agent: a\rb\r\n\r\n")
        .await;
    assert_eq!(client.answer("GET").await.status, 400);
    expected.push(r#"[T] "- - HTTP/1.1" 400 DPE 0 LENGTH MS - "-" "-" "-" "-" "-""#.to_owned());
    // Ending writes what still waits, and there is nothing else.
    let directory = proxy.end();
    let mut found = lines(&directory);
    let malformed = Regex::new("DPE 0 [1-9][0-9]* ").unwrap();
    for line in &mut found {
        *line = malformed.replace(line, "DPE 0 LENGTH ").into_owned();
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_client_that_leaves_is_told_by_its_flag() {
    let server = Server::start(|mut stream| async move {
        let mut sink = vec![0; 1000];
        let n = stream.read(&mut sink).await.unwrap();
        if String::from_utf8_lossy(&sink[..n]).contains("/begin") {
            let begun = b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\nhello";
            stream.write_all(begun).await.unwrap();
        }
        while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let port = free_port();
    let proxy = Proxy::start(&logged(&http_bootstrap(port, &[(server.address, 1)], ""))).await;
    let mut client = Client::connect(local(port)).await;
    client.send("GET /never HTTP/1.1\r\nHost: svc\r\n\r\n").await;
    eventually("it is tried", async || proxy.sum("attempt_total", &[]).await == 1.0).await;
    drop(client);
    wait_for(&proxy, 1).await;
    let mut client = Client::connect(local(port)).await;
    client.send("GET /begin HTTP/1.1\r\nHost: svc\r\n\r\n").await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"hello") {
        let byte = tokio::time::timeout(PATIENCE, client.stream.read_u8()).await;
        seen.push(byte.expect("the beginning of the answer").unwrap());
    }
    drop(client);
    wait_for(&proxy, 2).await;
    let to = server.address;
    assert_eq!(
        lines(&proxy.directory),
        [
            format!(r#"[T] "GET /never HTTP/1.1" 0 DC 0 0 MS - "-" "-" "ID" "svc" "{to}""#),
            format!(r#"[T] "GET /begin HTTP/1.1" 200 DC 0 5 MS MS "-" "-" "ID" "svc" "{to}""#),
        ]
    );
}

#[tokio::test]
async fn http2_has_the_same_lines() {
    let server = serve_two(100, |request, respond| async move {
        let (body, _) = read_body(&mut request.into_body()).await.unwrap();
        let trailers = fields(&[("sum", "1")]);
        answer_two(respond, http::Response::new(()), &body.repeat(2), Some(trailers)).await;
    })
    .await;
    let old = Server::http(|_, body| ok(&"x".repeat(body.len()))).await;
    let (port, old_port) = (free_port(), free_port());
    let bootstrap = |port, server: &Server| logged(&http_bootstrap(port, &[(server.address, 1)], RETRY));
    let proxy = Proxy::start(&upstream_two(&bootstrap(port, &server))).await;
    let before_old = Proxy::start(&bootstrap(old_port, &old)).await;
    let body = vec![b'x'; 100_000];
    for port in [port, old_port] {
        let sender = connect_two(local(port)).await;
        for (path, body) in [("/all", &body[..]), ("/none", b""), ("/refused", b"")] {
            ask_two(&sender, request("POST", path), body).await.unwrap();
        }
    }
    wait_for(&proxy, 3).await;
    wait_for(&before_old, 3).await;
    let expected = |to: std::net::SocketAddr, length| {
        [
            format!(r#"[T] "POST /all HTTP/2" 200 - 100000 {length} MS MS "-" "-" "ID" "svc" "{to}""#),
            format!(r#"[T] "POST /none HTTP/2" 200 - 0 0 MS MS "-" "-" "ID" "svc" "{to}""#),
            r#"[T] "POST /refused HTTP/2" 404 - 0 13 MS - "-" "-" "ID" "svc" "-""#.to_owned(),
        ]
    };
    assert_eq!(lines(&proxy.directory), expected(server.address, 200_000));
    assert_eq!(lines(&before_old.directory), expected(old.address, 100_000));
}

#[tokio::test]
async fn connections_have_lines_of_their_own() {
    let server = Server::start(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(b"thanks").await.unwrap();
    })
    .await;
    let port = free_port();
    let proxy = Proxy::start(&logged(&tcp_bootstrap(port, &[(server.address, 1)]))).await;
    let mut stream = TcpStream::connect(local(port)).await.unwrap();
    stream.write_all(&vec![7; 300_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "thanks");
    wait_for(&proxy, 1).await;
    let to = server.address;
    drop(server);
    // Nobody listens there any more.
    eventually("a refused connection has its line", async || {
        // It may be gone as soon as it is there.
        if let Ok(mut stream) = TcpStream::connect(local(port)).await {
            let _ = stream.read(&mut [0]).await;
        }
        lines(&proxy.directory).last().unwrap().contains(" UF,URX ")
    })
    .await;
    let lines = lines(&proxy.directory);
    let of = |outcome: &str| format!(r#"[T] "- - -" 0 {outcome} MS - "-" "-" "-" "-" "{to}""#);
    assert_eq!(lines.first(), Some(&of("- 300000 6")));
    assert_eq!(lines.last(), Some(&of("UF,URX 0 0")));
}

#[tokio::test]
async fn bytes_of_a_tunnel_are_those_of_its_line() {
    let server = Server::start(|stream| async move {
        let mut stream = tokio::io::BufReader::new(stream);
        let Some((head, _)) = read_request(&mut stream).await else {
            return;
        };
        assert!(head.to_lowercase().contains("upgrade: websocket"), "{head}");
        let switch = "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.get_mut().write_all(switch.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.get_mut().write_all(&all.repeat(2)).await.unwrap();
    })
    .await;
    let port = free_port();
    let proxy = Proxy::start(&logged(&http_bootstrap(port, &[(server.address, 1)], ""))).await;
    let mut client = Client::connect(local(port)).await;
    client
        .send("GET /ws HTTP/1.1\r\nHost: svc\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(client.answer("GET").await.status, 101);
    client.send("12345").await;
    client.stream.get_mut().shutdown().await.unwrap();
    let mut back = String::new();
    client.stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "1234512345");
    wait_for(&proxy, 1).await;
    let to = server.address;
    assert_eq!(
        lines(&proxy.directory),
        [format!(
            r#"[T] "GET /ws HTTP/1.1" 101 - 5 10 MS - "-" "-" "ID" "svc" "{to}""#
        )]
    );
}

#[tokio::test]
async fn probes_of_the_node_have_no_line() {
    let server = Server::http(|_, _| ok("x")).await;
    let port = free_port();
    let bootstrap = http_bootstrap(port, &[(server.address, 1)], "").replace("127.0.0.9", "127.0.0.1");
    let proxy = Proxy::start(&logged(&bootstrap)).await;
    let mut client = Client::connect(local(port)).await;
    client
        .send("GET /probe HTTP/1.1\r\nHost: svc\r\nUser-Agent: kube-probe/1.37\r\n\r\n")
        .await;
    assert_eq!(client.answer("GET").await.status, 200);
    assert_eq!(client.get("svc", "/other").await.status, 200);
    let directory = proxy.end();
    let found = lines(&directory);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("/other"), "{found:?}");
}

#[tokio::test]
async fn an_output_that_takes_nothing_holds_nothing_up() {
    let server = Server::http(|_, _| ok("x")).await;
    let port = free_port();
    let (out, mut reader) = UnixStream::pair().unwrap();
    let bootstrap = logged(&http_bootstrap(port, &[(server.address, 1)], ""));
    let log = File::from(OwnedFd::from(out));
    let proxy = Proxy::logging_to(log, &bootstrap, tempfile::tempdir().unwrap(), Duration::from_secs(1));
    proxy.wait_ready().await;
    let mut client = Client::connect(local(port)).await;
    // More than the queue and the socket hold.
    let path = format!("/{}", "x".repeat(30_000));
    let dropped = async |proxy: &Proxy| {
        let page = get(proxy.metrics, "/stats/prometheus").await.text();
        let line = page.lines().find(|l| l.starts_with("weir_access_log_dropped_total"));
        line.expect("the counter")
            .rsplit(' ')
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert_eq!(dropped(&proxy).await, 0);
    const REQUESTS: usize = 300;
    for _ in 0..REQUESTS {
        assert_eq!(client.get("svc", &path).await.status, 200);
    }
    let lost = usize::try_from(dropped(&proxy).await).unwrap();
    assert!((1..REQUESTS).contains(&lost), "{lost} of {REQUESTS} lines dropped");
    // Those that fitted come whole as soon as somebody reads.
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    eventually("the queue is empty again", async || {
        let before = dropped(&proxy).await;
        assert_eq!(client.get("svc", &path).await.status, 200);
        dropped(&proxy).await == before
    })
    .await;
    proxy.end();
    let text = reading.join().unwrap();
    assert!(
        text.lines().count() >= REQUESTS - lost,
        "{} lines",
        text.lines().count()
    );
    for line in text.lines() {
        assert!(
            line.starts_with('[') && line.contains(&path) && line.ends_with('"'),
            "{} bytes",
            line.len()
        );
    }
    assert!(text.ends_with('\n'));
}
