//! The client's and the servers' counts, compared with each other through the real binary.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

const BOOKINFO: &str = env!("CARGO_BIN_EXE_bookinfo");

/// A running server and the address it printed; killed when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(BOOKINFO)
            .args(arguments)
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self { child, address }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs to the end and returns the last line, as JSON.
fn run(arguments: &[&str]) -> Value {
    let output = Command::new(BOOKINFO).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn ten_thousand_requests_of_which_five_hundred_fail() {
    let details = Server::start(&["details", "--fail", "0.05"]);
    let seen = run(&[
        "client",
        "--target",
        &details.url("/details/0"),
        "--count",
        "10000",
        "--concurrency",
        "16",
        "--keepalive",
        "--report",
        "0",
    ]);
    assert_eq!(seen["sent"], 10_000);
    assert_eq!(seen["status"], serde_json::json!({"200": 9500, "500": 500}));
    assert_eq!(seen["errors"], 0);
    let told = run(&["behaviour", "--port", details.port()]);
    assert_eq!(told["requests"], 10_000);
    assert_eq!(told["failed"], 500);
}

#[test]
fn a_page_is_built_from_all_services_and_behaves_as_ordered() {
    let ratings = Server::start(&["ratings"]);
    let reviews = Server::start(&["reviews", "--version", "v3", "--ratings", &ratings.url("")]);
    let details = Server::start(&["details"]);
    let productpage = Server::start(&[
        "productpage",
        "--details",
        &details.url(""),
        "--reviews",
        &reviews.url(""),
        "--ratings",
        &ratings.url(""),
    ]);
    let client = |path: &str| {
        run(&[
            "client",
            "--target",
            &productpage.url(path),
            "--count",
            "100",
            "--report",
            "0",
        ])
    };
    assert_eq!(client("/productpage")["status"]["200"], 100);
    for (server, requests) in [(&details, 100), (&reviews, 100), (&ratings, 100)] {
        assert_eq!(run(&["behaviour", "--port", server.port()])["requests"], requests);
    }

    run(&[
        "behaviour",
        "--port",
        details.port(),
        "--fail",
        "0.2",
        "--status",
        "503",
    ]);
    let seen = client("/api/v1/products/0");
    assert_eq!(seen["status"], serde_json::json!({"200": 80, "503": 20}));
    assert_eq!(client("/api/v1/products/0/reviews")["status"]["200"], 100);
    assert_eq!(client("/nowhere")["status"]["404"], 100);
}

#[test]
fn a_server_that_is_asked_to_stop_answers_everything() {
    let mut details = Server::start(&["details", "--lame-duck", "1s", "--delay", "20ms"]);
    let client = Command::new(BOOKINFO)
        .args(["client", "--target", &details.url("/details/0"), "--keepalive"])
        .args(["--rate", "200", "--duration", "700ms", "--report", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // In the midst of the load, as the server's own count tells.
    while run(&["behaviour", "--port", details.port()])["requests"]
        .as_u64()
        .unwrap()
        < 20
    {}
    details.terminate();
    let output = client.wait_with_output().unwrap();
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["errors"], 0, "{seen}");
    assert_eq!(seen["status"]["200"], seen["sent"]);
    assert!(details.child.wait().unwrap().success());
}

#[test]
fn errors_are_counted_and_nothing_is_sent_twice() {
    // A port that was free a moment ago and that nobody listens on.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let target = format!("http://{address}/");
    let seen = run(&["client", "--target", &target, "--count", "50", "--report", "0"]);
    assert_eq!(seen["sent"], 50);
    assert_eq!(seen["error"], serde_json::json!({"connect": 50}));
    assert_eq!(seen["status"], serde_json::json!({}));
}

#[test]
fn streams_are_verified_to_the_byte() {
    let echo = Server::start(&["tcp-echo"]);
    let seen = run(&[
        "tcp-client",
        "--target",
        &echo.address,
        "--connections",
        "8",
        "--interval",
        "1ms",
        "--size",
        "5000",
        "--duration",
        "300ms",
        "--report",
        "0",
    ]);
    assert_eq!(seen["opened"], 8);
    assert_eq!(seen["broken"], 0);
    assert_eq!(seen["mismatched"], 0);
    assert!(seen["bytes_verified"].as_u64().unwrap() > 0);
    assert_eq!(seen["bytes_sent"], seen["bytes_verified"]);
}

/// Sends a GET with these header lines and returns status line, headers and body as text.
fn get(server: &Server, path: &str, headers: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_text_on_every_path() {
    let server = Server::start(&["http-text-response", "--text", "jLpYJvXE4mP32AgP42O4Ws"]);
    for path in ["/", "/.well-known/acme-challenge/jLpYJvXE4mP32AgP42O4Ws-iT7", "/a?b=c"] {
        let answer = get(&server, path, "");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\njLpYJvXE4mP32AgP42O4Ws"), "{answer}");
    }
}

/// A trace that comes in goes on: productpage's call shows up at the service behind it with every header of it.
#[test]
fn trace_headers_go_on_to_the_next_service() {
    let echo = Server::start(&["http-echo"]);
    let page = Server::start(&["productpage", "--details", &echo.url("")]);
    let sent = "x-request-id: r1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
        tracestate: a=1\r\nbaggage: k=v\r\nb3: 1-2-1\r\nx-b3-traceid: 1\r\nx-b3-spanid: 2\r\nx-b3-parentspanid: 3\r\n\
        x-b3-sampled: 1\r\nx-b3-flags: 0\r\n";
    let answer = get(&page, "/api/v1/products/0", sent);
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let seen: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert_eq!(seen["path"], "/details/0");
    for line in sent.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        assert_eq!(seen["headers"][name][0], value, "{name}");
    }
}
