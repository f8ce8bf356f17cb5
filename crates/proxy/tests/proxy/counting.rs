//! What is counted: every series of the proxy, to the last one, after each thing that can happen to a request.
//!
//! One row is one proxy that sees one request. Expected is all that is not zero: `<what> <dst_pod> [<labels>] [x<count>]`,
//! with `-` where no endpoint is named.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::sides::*;
use crate::support::*;

/// Longer than a scrape takes, shorter than anybody's patience: a row that is wrong fails after this.
const SETTLE: Duration = Duration::from_secs(5);

/// What speaks, on either side.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Speaks {
    One,
    Two,
}
use Speaks::{One, Two};

/// What the client does.
#[derive(Clone, Copy, Debug)]
enum Do {
    /// Reads the response, which has this status.
    Read(u16),
    /// Reads a response that breaks off.
    ReadCut,
    /// Leaves once the request is at the endpoint.
    LeaveBeforeHead,
    /// Leaves after the head of the response.
    LeaveInBody,
    /// Uses the connection for something else, and leaves.
    Switch,
}
use Do::{LeaveBeforeHead, LeaveInBody, Read, ReadCut, Switch};

/// Which endpoints there are.
#[derive(Clone, Copy, Debug)]
enum Endpoints {
    /// One that answers.
    Good,
    /// `svc-0`, which nobody can connect to, is tried first; `svc-1` answers.
    DeadFirst,
    /// Nobody can connect to the only one.
    Dead,
    /// None.
    None,
}
use Endpoints::{Dead, DeadFirst, Good};

struct Row {
    what: &'static str,
    client: Speaks,
    server: Speaks,
    endpoints: Endpoints,
    /// Method, path and, for HTTP/1, more of the head.
    request: (&'static str, &'static str, &'static str),
    /// Of the route.
    options: &'static str,
    action: Do,
    expected: &'static str,
}

const LIMIT: &str = ", timeout: 0.3s";
const RETRY_ERRORS: &str = ", retry_policy: {retry_on: \"5xx\", num_retries: 2}";
const REPLAYED: &str = "attempt svc-0 x3, latency svc-0, request svc-0, response svc-0 503 failure, retry svc-0 x2";

const fn row(what: &'static str, client: Speaks, server: Speaks, path: &'static str, action: Do) -> Row {
    Row {
        what,
        client,
        server,
        endpoints: Good,
        request: ("GET", path, ""),
        options: "",
        action,
        expected: "",
    }
}

impl Row {
    const fn counts(mut self, expected: &'static str) -> Self {
        self.expected = expected;
        self
    }

    const fn route(mut self, options: &'static str) -> Self {
        self.options = options;
        self
    }

    const fn at(mut self, endpoints: Endpoints) -> Self {
        self.endpoints = endpoints;
        self
    }

    const fn sends(mut self, method: &'static str, head: &'static str) -> Self {
        self.request = (method, self.request.1, head);
        self
    }

    fn bootstrap(&self, port: u16, good: SocketAddr) -> String {
        let dead = local(free_port());
        let endpoints: &[_] = match self.endpoints {
            Good => &[(good, 1)],
            DeadFirst => &[(dead, 3), (good, 1)],
            Dead => &[(dead, 1)],
            Endpoints::None => &[],
        };
        let limited = self.options.contains("timeout:");
        let options = if limited { "" } else { self.options };
        let mut text = http_bootstrap(port, endpoints, options);
        if limited {
            text = text.replacen(", timeout: 0s", self.options, 1);
        }
        if let Endpoints::None = self.endpoints {
            text = text.replace("      - lb_endpoints:\n", "      - lb_endpoints: []\n");
        }
        if self.what.contains("inbound") {
            text = text.replace("traffic_direction: OUTBOUND", "traffic_direction: INBOUND");
        }
        if self.what.contains("of the node") {
            text = text.replace("127.0.0.9", "127.0.0.1");
        }
        if self.server == Two { upstream_two(&text) } else { text }
    }

    /// What the client saw, where that is not what it should.
    async fn act(&self, address: SocketAddr, proxy: &Proxy) -> Result<(), String> {
        match self.client {
            One => self.act_one(address, proxy).await,
            Two => self.act_two(address, proxy).await,
        }
    }

    async fn act_one(&self, address: SocketAddr, proxy: &Proxy) -> Result<(), String> {
        let (method, path, head) = self.request;
        let mut client = Client::connect(address).await;
        client
            .send(format!("{method} {path} HTTP/1.1\r\nHost: svc\r\n{head}\r\n"))
            .await;
        match self.action {
            Read(status) => {
                let mut answer = client.answer(method).await;
                while answer.status < 200 {
                    answer = client.answer(method).await;
                }
                if answer.status != status {
                    return Err(format!("{answer:?}"));
                }
            }
            ReadCut => {
                if let Some(answer) = client.try_answer(method).await {
                    return Err(format!("a whole {answer:?}"));
                }
            }
            LeaveBeforeHead => self.arrived(proxy).await,
            LeaveInBody => {
                let mut byte = [0; 20];
                client.stream.read_exact(&mut byte).await.unwrap();
            }
            Switch => {
                assert_eq!(client.answer(method).await.status, 101);
                client.send("ping").await;
                let mut echo = [0; 4];
                client.stream.read_exact(&mut echo).await.unwrap();
                assert_eq!(&echo, b"ping");
            }
        }
        Ok(())
    }

    async fn act_two(&self, address: SocketAddr, proxy: &Proxy) -> Result<(), String> {
        let sender = connect_two(address).await;
        let (method, path, _) = self.request;
        let request = request(method, path);
        match self.action {
            Read(status) => {
                let reply = ask_two(&sender, request, b"").await.map_err(|e| e.to_string())?;
                if reply.status != status {
                    return Err(format!("{reply:?}"));
                }
            }
            ReadCut => {
                if let Ok(reply) = ask_two(&sender, request, b"").await {
                    return Err(format!("a whole {reply:?}"));
                }
            }
            LeaveBeforeHead => {
                let begun = sender.clone().send_request(request, true).unwrap();
                self.arrived(proxy).await;
                drop(begun);
                // The connection stays until the reset is sent and seen.
                eventually("the end is counted", async || {
                    proxy.sum("response_total", &[]).await == 1.0
                })
                .await;
            }
            LeaveInBody => {
                let (response, _) = sender.clone().send_request(request, true).unwrap();
                let mut body = response.await.unwrap().into_body();
                assert!(body.data().await.unwrap().is_ok());
                drop(body);
                eventually("the end is counted", async || {
                    proxy.sum("response_total", &[]).await == 1.0
                })
                .await;
            }
            Switch => return Err("HTTP/2 has no upgrades".into()),
        }
        Ok(())
    }

    async fn arrived(&self, proxy: &Proxy) {
        eventually("a try", async || proxy.sum("attempt_total", &[]).await == 1.0).await;
    }
}

/// Endpoints of HTTP/1 by the request's path.
async fn one(stream: TcpStream, hits: Arc<AtomicU64>) {
    let mut stream = BufReader::new(stream);
    while let Some((head, _)) = read_request(&mut stream).await {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let begun = b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\nx";
        let first = hits.fetch_add(1, Ordering::Relaxed) == 0;
        let answer = match path {
            "/missing" => response(404, "nothing here"),
            "/broken" => response(500, "broken"),
            "/flaky" if first => response(503, "later"),
            "/interim" => [b"HTTP/1.1 103 X\r\nLink: </a>\r\n\r\n".to_vec(), ok("x")].concat(),
            "/unchanged" => b"HTTP/1.1 304 X\r\nETag: \"a\"\r\n\r\n".to_vec(),
            "/head" => b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\n".to_vec(),
            "/chunks" => b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n".to_vec(),
            "/nonsense" => b"NONSENSE\r\n\r\n".to_vec(),
            "/reset" => return,
            "/silent" => return wait_for_end(stream).await,
            "/cut" => {
                let _ = stream.get_mut().write_all(begun).await;
                return;
            }
            "/stuck" => {
                let _ = stream.get_mut().write_all(begun).await;
                return wait_for_end(stream).await;
            }
            "/switch" => {
                let switch = b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                let _ = stream.get_mut().write_all(switch).await;
                let (mut read, mut write) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                return;
            }
            _ => ok("x"),
        };
        if stream.get_mut().write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn wait_for_end(mut stream: BufReader<TcpStream>) {
    let mut sink = Vec::new();
    let _ = stream.read_to_end(&mut sink).await;
}

/// Endpoints of HTTP/2 by the request's path.
async fn two(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, hits: Arc<AtomicU64>) {
    let first = hits.fetch_add(1, Ordering::Relaxed) == 0;
    let status = |status: u16| Response::builder().status(status).body(()).unwrap();
    let grpc = || {
        Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .unwrap()
    };
    match request.uri().path() {
        "/missing" => answer_two(respond, status(404), b"nothing here", None).await,
        "/broken" => answer_two(respond, status(500), b"broken", None).await,
        "/flaky" if first => respond.send_reset(Reason::REFUSED_STREAM),
        "/refused" => respond.send_reset(Reason::REFUSED_STREAM),
        "/reset" => respond.send_reset(Reason::INTERNAL_ERROR),
        "/interim" => {
            respond.send_informational(status_only(103)).unwrap();
            answer_two(respond, status(200), b"x", None).await;
        }
        "/unchanged" => answer_two(respond, status(304), b"", None).await,
        "/head" => {
            let mut head = status(200);
            head.headers_mut().insert("content-length", 100.into());
            answer_two(respond, head, b"", None).await;
        }
        "/silent" => {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        }
        "/cut" => {
            let mut stream = respond.send_response(status(200), false).unwrap();
            // More than is buffered here: a reset throws away what was not sent.
            send_body(&mut stream, vec![b'x'; 2 << 20].into(), false).await.unwrap();
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        "/stuck" => {
            let mut stream = respond.send_response(status(200), false).unwrap();
            send_body(&mut stream, Bytes::from_static(b"x"), false).await.unwrap();
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        }
        "/grpc/none" => answer_two(respond, grpc(), b"x", None).await,
        path => match path
            .strip_prefix("/grpc/")
            .map(|rest| (rest, rest.strip_prefix("only/")))
        {
            Some((_, Some(code))) => {
                let mut head = grpc();
                head.headers_mut().insert("grpc-status", code.parse().unwrap());
                answer_two(respond, head, b"", None).await;
            }
            Some((code, None)) => answer_two(respond, grpc(), b"x", Some(fields(&[("grpc-status", code)]))).await,
            None => answer_two(respond, status(200), b"x", None).await,
        },
    }
}

fn status_only(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

/// All that is not zero, in the table's words.
fn counted(page: &str) -> String {
    const SHOWN: [(&str, &str); 9] = [
        ("request_total{", "request"),
        ("response_total{", "response"),
        ("response_latency_ms_count{", "latency"),
        ("attempt_total{", "attempt"),
        ("retry_total{", "retry"),
        ("fault_total{", "fault"),
        ("overflow_total{", "overflow"),
        ("tcp_open_total{", "tcp_open"),
        ("tcp_close_total{", "tcp_close"),
    ];
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        Some(rest.split('"').next().unwrap_or_default().to_owned())
    };
    let mut lines: Vec<String> = Vec::new();
    for line in page.lines() {
        let Some((_, word)) = SHOWN.iter().find(|(begin, _)| line.starts_with(begin)) else {
            continue;
        };
        let count = line.rsplit(' ').next().unwrap();
        if count == "0" {
            continue;
        }
        let mut text = format!("{word} {}", label(line, "dst_pod").unwrap_or_else(|| "-".into()));
        for name in ["status_code", "classification", "grpc_status", "origin"] {
            match (name, label(line, name)) {
                (_, None) => {}
                ("grpc_status", Some(value)) => text += &format!(" grpc={value}"),
                ("origin", Some(value)) => text += &format!(" origin={value}"),
                (_, Some(value)) => text += &format!(" {value}"),
            }
        }
        if count != "1" {
            text += &format!(" x{count}");
        }
        lines.push(text);
    }
    lines.sort();
    lines.join(", ")
}

/// Connections are counted beside requests; the rows that are not about them leave them out.
fn matches(row: &Row, counted: &str) -> bool {
    if row.expected.contains("tcp_") {
        return row.expected == counted;
    }
    row.expected == of_requests(counted)
}

fn of_requests(counted: &str) -> String {
    let requests: Vec<&str> = counted.split(", ").filter(|c| !c.starts_with("tcp_")).collect();
    requests.join(", ")
}

fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    for (client, server) in [(One, One), (Two, Two), (One, Two), (Two, One)] {
        rows.extend(both_versions(client, server));
    }
    rows.extend(of_http1());
    rows.extend(of_http2());
    rows
}

/// What holds whoever speaks what.
fn both_versions(client: Speaks, server: Speaks) -> Vec<Row> {
    let row = |what, path, action| row(what, client, server, path, action);
    vec![
        row("a response", "/", Read(200))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 success, tcp_open svc-0"),
        row("a status of the endpoint that is no failure", "/missing", Read(404))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 404 success"),
        row("an error of the endpoint", "/broken", Read(500))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 500 failure"),
        row("a reply of the proxy's own", "/refused", Read(404))
            .counts("latency -, request -, response - 404 success origin=proxy"),
        row("no endpoint", "/", Read(503))
            .at(Endpoints::None)
            .counts("latency -, request -, response - 503 failure origin=proxy"),
        row("an interim response first", "/interim", Read(200))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 success"),
        row("not modified", "/unchanged", Read(304))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 304 success"),
        row("a response to HEAD", "/head", Read(200))
            .sends("HEAD", "")
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 success"),
        row("a retry elsewhere", "/", Read(200))
            .at(DeadFirst)
            .route(RETRY)
            .counts("attempt svc-0, attempt svc-1, latency svc-1, request svc-1, response svc-1 200 success, retry svc-1, tcp_open svc-1"),
        row("nobody to connect to", "/", Read(503))
            .at(Dead)
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 503 failure"),
        row("nobody to connect to, however often", "/", Read(503))
            .at(Dead)
            .route(RETRY)
            .counts(REPLAYED),
        row("an error, however often", "/broken", Read(500))
            .route(RETRY_ERRORS)
            .counts("attempt svc-0 x3, latency svc-0, request svc-0, response svc-0 500 failure, retry svc-0 x2"),
        row("inbound", "/", Read(200)).counts("attempt -, latency -, request -, response - 200 success, tcp_close - success, tcp_open -"),
        row("inbound, nobody to connect to", "/", Read(503))
            .at(Dead)
            .counts("attempt -, latency -, request -, response - 503 failure, tcp_close - success, tcp_open -"),
        row("broken off before the head", "/reset", Read(503))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 503 failure"),
        row("broken off in the body", "/cut", ReadCut)
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 failure"),
        row("no head in time", "/silent", Read(504))
            .route(LIMIT)
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 504 failure"),
        row("no end in time", "/stuck", ReadCut)
            .route(LIMIT)
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 failure"),
        row("a client that leaves before the head", "/silent", LeaveBeforeHead)
            .counts("attempt svc-0, request svc-0, response svc-0 0 aborted"),
        row("a client that leaves in the body", "/stuck", LeaveInBody)
            .counts("attempt svc-0, request svc-0, response svc-0 200 aborted"),
    ]
}

fn of_http1() -> Vec<Row> {
    vec![
        row("an error, then success", One, One, "/flaky", Read(200))
            .route(RETRY_ERRORS)
            .counts("attempt svc-0 x2, latency svc-0, request svc-0, response svc-0 200 success, retry svc-0"),
        row("an upgrade", One, One, "/switch", Switch)
            .sends("GET", "Connection: upgrade\r\nUpgrade: websocket\r\n")
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 101 success, tcp_close svc-0 success, tcp_open svc-0"),
        row("nonsense from the endpoint", One, One, "/nonsense", Read(502))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 502 failure, tcp_close svc-0 failure, tcp_open svc-0"),
        row("a malformed request", One, One, "/", Read(400))
            .sends("GET", "Host: another\r\n")
            .counts("latency -, request -, response - 400 success origin=proxy"),
        row("a malformed body", One, One, "/silent", Read(400))
            .sends("POST", "Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")
            .counts("attempt svc-0, latency -, request -, response - 400 success origin=proxy"),
        row("a client that leaves in its body", One, One, "/silent", LeaveBeforeHead)
            .sends("POST", "Content-Length: 10\r\n\r\nx")
            .counts("attempt svc-0, request svc-0, response svc-0 0 aborted"),
        row("chunks", One, One, "/chunks", Read(200))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 success"),
        row("a probe of the node, inbound", One, One, "/", Read(200))
            .sends("GET", "User-Agent: kube-probe/1.37\r\n")
            .counts(""),
    ]
}

fn of_http2() -> Vec<Row> {
    let mut rows = vec![
        row("a refused stream, then success", Two, Two, "/flaky", Read(200))
            .route(RETRY)
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 success"),
        row("gRPC", Two, Two, "/grpc/0", Read(200))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 success grpc=0, tcp_open svc-0"),
        row("gRPC without a status", Two, Two, "/grpc/none", Read(200))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 failure"),
        row("gRPC without a body", Two, Two, "/grpc/only/5", Read(200))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 success grpc=5"),
        row("gRPC without a body that fails", Two, Two, "/grpc/only/14", Read(200))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 failure grpc=14"),
        row("gRPC for a client of HTTP/1", One, Two, "/grpc/0", Read(200))
            .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 success grpc=0"),
        row(
            "gRPC that fails, for a client of HTTP/1",
            One,
            Two,
            "/grpc/13",
            Read(200),
        )
        .counts("attempt svc-0, latency svc-0, request svc-0, response svc-0 200 failure grpc=13"),
    ];
    macro_rules! codes {
        ($($code:literal $class:literal),+) => {$(
            rows.push(row(concat!("gRPC status ", $code), Two, Two, concat!("/grpc/", $code), Read(200)).counts(concat!(
                "attempt svc-0, latency svc-0, request svc-0, response svc-0 200 ", $class, " grpc=", $code
            )));
        )+};
    }
    codes!(1 "success", 2 "failure", 3 "success", 4 "failure", 5 "success", 6 "success", 7 "failure", 8 "success");
    codes!(9 "success", 10 "success", 11 "success", 12 "success", 13 "failure", 14 "failure", 15 "failure", 16 "success");
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_of_a_request_is_counted_exactly() {
    let mut wrong = Vec::new();
    let mut proxies = Vec::new();
    for row in table() {
        let hits = Arc::new(AtomicU64::new(0));
        let server = match row.server {
            One => Server::start(move |stream| one(stream, Arc::clone(&hits))).await,
            Two => serve_two(100, move |request, respond| two(request, respond, Arc::clone(&hits))).await,
        };
        let port = free_port();
        let proxy = Proxy::start(&row.bootstrap(port, server.address)).await;
        if let Err(seen) = row.act(local(port), &proxy).await {
            wrong.push(format!(
                "{} ({:?} to {:?}): the client saw {seen}",
                row.what, row.client, row.server
            ));
        }
        let end = Instant::now() + SETTLE;
        loop {
            let counted = counted(&get(proxy.metrics, "/metrics").await.text());
            if matches(&row, &counted) {
                break;
            }
            if Instant::now() > end {
                wrong.push(format!(
                    "{} ({:?} to {:?})\n  expected {}\n  counted  {counted}",
                    row.what, row.client, row.server, row.expected
                ));
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        proxies.push((row, proxy, server));
    }
    // Nothing is counted late, or twice. Idle connections may have been closed.
    for (row, proxy, _server) in &proxies {
        let counted = of_requests(&counted(&get(proxy.metrics, "/metrics").await.text()));
        if of_requests(row.expected) != counted && !wrong.iter().any(|w| w.starts_with(row.what)) {
            wrong.push(format!("{}: later it was {counted}", row.what));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} rows:\n{}",
        wrong.len(),
        proxies.len(),
        wrong.join("\n")
    );
}
