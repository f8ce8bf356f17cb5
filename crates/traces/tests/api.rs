//! The API over HTTP, as clients use it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use weir_traces::Limits;

struct Collector {
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Collector {
    async fn start(spans: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let limits = Limits { spans, bytes: 64 << 20 };
        let task = tokio::spawn(weir_traces::serve(listener, limits, stop.clone()));
        Self { address, stop, task }
    }

    async fn ask(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let length = body.len();
            let head = format!(
                "{method} {target} HTTP/1.1\r\nHost: zipkin\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            // It may have answered before it read everything.
            let _ = stream.write_all(body).await;
            let mut text = Vec::new();
            let _ = stream.read_to_end(&mut text).await;
            String::from_utf8_lossy(&text).into_owned()
        };
        let text = tokio::time::timeout(Duration::from_secs(20), exchange)
            .await
            .expect("an answer in time");
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn post(&self, spans: &Value) -> (u16, String) {
        let headers = "Content-Type: application/json\r\n";
        self.ask("POST", "/api/v2/spans", headers, spans.to_string().as_bytes())
            .await
    }

    async fn get(&self, target: &str) -> Value {
        let (status, body) = self.ask("GET", target, "", b"").await;
        assert_eq!(status, 200, "{target}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

/// A call of `web` to `reviews`, told by both sides.
fn call(trace: &str, failed: bool) -> Value {
    let at = now_us() - 1_000_000;
    let mut spans = json!([
        {"traceId": trace, "id": "1", "kind": "CLIENT", "name": "reviews.default:9080/*", "timestamp": at, "duration": 2000,
         "localEndpoint": {"serviceName": "web"}, "remoteEndpoint": {"serviceName": "reviews"}},
        {"traceId": trace, "id": "2", "parentId": "1", "kind": "SERVER", "name": "Reviews", "timestamp": at + 10, "duration": 1500,
         "localEndpoint": {"serviceName": "reviews"}, "tags": {"http.status_code": "200"}},
    ]);
    if failed {
        spans[1]["tags"] = json!({"error": "true"});
    }
    spans
}

#[tokio::test]
async fn what_is_posted_is_found_by_every_question() {
    let collector = Collector::start(1000).await;
    for (trace, failed) in [("a1", false), ("a2", true)] {
        assert_eq!(collector.post(&call(trace, failed)).await, (202, String::new()));
    }
    // The same again, packed, changes nothing.
    let file = std::process::Command::new("sh")
        .args(["-c", "printf '%s' \"$1\" | gzip -c", "sh", &json!([]).to_string()])
        .output()
        .expect("this test needs the program gzip");
    let headers = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    let (status, why) = collector.ask("POST", "/api/v2/spans", headers, &file.stdout).await;
    assert_eq!(status, 202, "{why}");

    assert_eq!(collector.get("/api/v2/services").await, json!(["reviews", "web"]));
    assert_eq!(
        collector.get("/zipkin/api/v2/spans?serviceName=Reviews").await,
        json!(["reviews"])
    );
    assert_eq!(
        collector.get("/api/v2/remoteServices?serviceName=web").await,
        json!(["reviews"])
    );
    let traces = collector.get("/api/v2/traces?serviceName=web").await;
    assert_eq!(traces.as_array().unwrap().len(), 2);
    assert_eq!(traces[0].as_array().unwrap().len(), 2);
    let failed = collector.get("/api/v2/traces?annotationQuery=error&limit=5").await;
    assert_eq!(failed.as_array().unwrap().len(), 1);
    assert_eq!(failed[0][0]["traceId"], "00000000000000a2");
    assert_eq!(
        collector.get("/api/v2/traces?serviceName=web&spanName=reviews").await,
        json!([])
    );
    assert_eq!(
        collector
            .get("/api/v2/traces?spanName=reviews.default%3A9080%2F*&limit=1")
            .await[0][0]["kind"],
        "CLIENT"
    );
    let one = collector.get("/api/v2/trace/A1").await;
    assert_eq!(
        (&one[1]["parentId"], &one[1]["name"]),
        (&json!("0000000000000001"), &json!("reviews"))
    );
    let many = collector.get("/api/v2/traceMany?traceIds=a1,a2,a3").await;
    assert_eq!(many.as_array().unwrap().len(), 2);
    let end = now_us() / 1000;
    assert_eq!(
        collector
            .get(&format!("/api/v2/dependencies?endTs={end}&lookback=60000"))
            .await,
        json!([{"parent": "web", "child": "reviews", "callCount": 2, "errorCount": 1}])
    );
    assert_eq!(
        collector
            .get(&format!("/api/v2/dependencies?endTs={}", end - 60_000))
            .await,
        json!([])
    );
    assert_eq!(collector.get("/health").await["status"], "UP");
    let (_, metrics) = collector.ask("GET", "/metrics", "", b"").await;
    assert!(metrics.contains("zipkin_collector_spans_total 4\n"), "{metrics}");
    assert!(metrics.contains("zipkin_storage_traces 2\n"), "{metrics}");
    collector.stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), collector.task)
        .await
        .expect("it ends")
        .unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let collector = Collector::start(1000).await;
    let json_type = "Content-Type: application/json\r\n";
    for (method, target, headers, body, expected) in [
        ("POST", "/api/v2/spans", json_type, "{", (400, "no JSON list of spans")),
        (
            "POST",
            "/api/v2/spans",
            json_type,
            r#"[{"traceId":"x","id":"1"}]"#,
            (400, "[0].traceId: "),
        ),
        (
            "POST",
            "/api/v2/spans",
            "Content-Type: application/x-protobuf\r\n",
            "x",
            (415, "application/json"),
        ),
        ("POST", "/api/v2/spans", "Content-Encoding: br\r\n", "x", (415, "gzip")),
        (
            "POST",
            "/api/v2/spans",
            "Content-Encoding: gzip\r\n",
            "xxxxxxxxxxxx",
            (400, "no gzip"),
        ),
        ("GET", "/api/v2/traces?limit=x", "", "", (400, "limit: ")),
        ("GET", "/api/v2/trace/xyz", "", "", (400, "hexadecimal")),
        ("GET", "/api/v2/trace/1", "", "", (404, "not here")),
        ("GET", "/api/v2/traceMany", "", "", (400, "traceIds: ")),
        ("GET", "/api/v2/spans", "", "", (400, "serviceName: ")),
        ("GET", "/api/v2/dependencies", "", "", (400, "endTs: ")),
        ("GET", "/api/v1/traces", "", "", (404, "/api/v2/traces")),
        ("DELETE", "/api/v2/services", "", "", (405, "use GET")),
    ] {
        let (status, why) = collector.ask(method, target, headers, body.as_bytes()).await;
        assert!(
            status == expected.0 && why.contains(expected.1),
            "{method} {target}: {status} {why}"
        );
    }
    let large = vec![b' '; (5 << 20) + 1];
    let (status, why) = collector.ask("POST", "/api/v2/spans", json_type, &large).await;
    assert_eq!(status, 413, "{why}");
}

#[tokio::test]
async fn the_oldest_traces_make_room() {
    let collector = Collector::start(20).await;
    for n in 1..=30 {
        assert_eq!(collector.post(&call(&format!("{n:x}"), false)).await.0, 202);
    }
    let traces = collector.get("/api/v2/traces?limit=100").await;
    assert_eq!(traces.as_array().unwrap().len(), 10);
    assert_eq!(collector.ask("GET", "/api/v2/trace/14", "", b"").await.0, 404);
    assert_eq!(collector.get("/api/v2/trace/15").await.as_array().unwrap().len(), 2);
}

/// Sends the first part of a body that has some more.
async fn begin(address: SocketAddr, first: &[u8], more: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = first.len() + more;
    let head =
        format!("POST /api/v2/spans HTTP/1.1\r\nHost: zipkin\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), first].concat()).await.unwrap();
    stream
}

#[tokio::test]
async fn slow_senders_keep_nobody_from_sending() {
    let spans = call("a1", false).to_string();
    let (first, rest) = spans.as_bytes().split_at(spans.len() / 2);
    // A body has a limited time: where this machine stood still for longer, nothing is seen, and it is tried again.
    for attempt in 0..5 {
        let collector = Collector::start(1000).await;
        let mut slow = Vec::new();
        for _ in 0..32 {
            slow.push(begin(collector.address, first, rest.len()).await);
        }
        assert_eq!(collector.post(&call("a2", false)).await.0, 202);
        let mut statuses = Vec::new();
        for mut stream in slow {
            // It may have been answered already.
            let _ = stream.write_all(rest).await;
            let mut answer = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
            let _ = read.expect("an answer in time");
            statuses.push(
                String::from_utf8_lossy(&answer)
                    .split(' ')
                    .nth(1)
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
        if statuses.iter().all(|status| status == "202") {
            return;
        }
        assert!(
            statuses.iter().all(|status| status == "202" || status == "408"),
            "{statuses:?}"
        );
        println!("attempt {attempt}: {statuses:?}");
    }
    panic!("bodies that came slowly were answered before one that came at once");
}
