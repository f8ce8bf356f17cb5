//! The HTTP API over a real socket.

use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use weir_promql::{
    Engine, Options,
    http_api::{self, Access, Api, Authorize},
};
use weir_series::memory::Memory;
use weir_series::remote_write::{self, Version, WriteRequest};
use weir_series::{Append, Labels, Sample, SeriesData};

struct Served {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start(authorize: Authorize) -> Self {
        Self::start_with(authorize, None).await
    }

    async fn start_with(authorize: Authorize, receiver: Option<Arc<dyn Append>>) -> Self {
        let up = |pod: &str| SeriesData {
            labels: Labels::new([("__name__", "up"), ("pod", pod)]),
            samples: (0..10)
                .map(|i| Sample {
                    ts_ms: i * 1000,
                    value: i as f64 / 2.0,
                })
                .collect(),
            ..SeriesData::default()
        };
        let engine = Engine::new(Arc::new(Memory(vec![up("a"), up("b")])), Options::default());
        let api = Api {
            discovered: Arc::new(|| json!([{ "targets": ["10.244.0.5:8900"], "labels": { "pod": "web-0" } }])),
            metrics: Arc::new(|page| page.push_str("weir_own 1\n")),
            receiver,
            ..Api::new(engine)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|e| panic!("{e}"));
        let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(http_api::serve(listener, api, authorize, shutdown.clone()));
        Served {
            address,
            shutdown,
            task,
        }
    }

    async fn ask(&self, request: http::request::Builder, body: &str) -> (u16, String) {
        let stream = TcpStream::connect(self.address).await.unwrap_or_else(|e| panic!("{e}"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        tokio::spawn(connection);
        let request = request
            .header("host", "weir")
            .body(Full::new(bytes::Bytes::from(body.to_owned())));
        let request = request.unwrap_or_else(|e| panic!("{e}"));
        let response = tokio::time::timeout(Duration::from_secs(10), sender.send_request(request)).await;
        let response = response
            .unwrap_or_else(|e| panic!("{e}"))
            .unwrap_or_else(|e| panic!("{e}"));
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .unwrap_or_else(|e| panic!("{e}"))
            .to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn get(&self, path: &str) -> (u16, Json) {
        let (status, body) = self.ask(http::Request::get(path), "").await;
        (
            status,
            serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}")),
        )
    }

    async fn stop(self) {
        self.shutdown.cancel();
        let stopped = tokio::time::timeout(Duration::from_secs(10), self.task).await;
        assert!(stopped.is_ok_and(|joined| joined.is_ok()), "the server did not stop");
    }
}

#[tokio::test]
async fn answers_as_prometheus_does() {
    let served = Served::start(http_api::allow_all()).await;
    let (status, body) = served.get("/api/v1/query?query=up&time=3.5").await;
    let up = |pod: &str, value: &str| json!({ "metric": { "__name__": "up", "pod": pod }, "value": [3.5, value] });
    let expected = json!({ "resultType": "vector", "result": [up("a", "1.5"), up("b", "1.5")] });
    assert_eq!((status, body), (200, json!({ "status": "success", "data": expected })));

    let form = http::Request::post("/api/v1/query_range").header("content-type", "application/x-www-form-urlencoded");
    let (status, body) = served
        .ask(form, "query=sum%28up%29&start=0&end=1970-01-01T00:00:02Z&step=1s")
        .await;
    assert_eq!(status, 200);
    let matrix = r#"{"resultType":"matrix","result":[{"metric":{},"values":[[0,"0"],[1,"1"],[2,"2"]]}]}"#;
    assert_eq!(body, format!(r#"{{"status":"success","data":{matrix}}}"#));

    let (_, body) = served.get("/api/v1/query?query=1&time=1").await;
    assert_eq!(body["data"], json!({ "resultType": "scalar", "result": [1, "1"] }));
    let (_, body) = served.get("/api/v1/series?match[]=up%7Bpod=%22a%22%7D").await;
    assert_eq!(body["data"], json!([{ "__name__": "up", "pod": "a" }]));
    let (_, body) = served.get("/api/v1/labels").await;
    assert_eq!(body["data"], json!(["__name__", "pod"]));
    let (_, body) = served.get("/api/v1/label/pod/values?match[]=up").await;
    assert_eq!(body["data"], json!(["a", "b"]));
    let (_, body) = served.get("/api/v1/targets").await;
    assert_eq!(body["data"]["activeTargets"], json!([]));
    let (status, body) = served.get("/sd/proxies").await;
    assert_eq!((status, body[0]["targets"][0].as_str()), (200, Some("10.244.0.5:8900")));
    let (status, _) = served.get("/api/v1/status/buildinfo").await;
    assert_eq!(status, 200);
    let (_, page) = served.ask(http::Request::get("/metrics"), "").await;
    assert!(
        page.contains("weir_query_total 3\n") && page.contains("weir_own 1\n"),
        "{page}"
    );
    served.stop().await;
}

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let served = Served::start(http_api::allow_all()).await;
    for (path, status, kind, part) in [
        ("/api/v1/query?query=up%7B", 400, "bad_data", "parse error"),
        ("/api/v1/query", 400, "bad_data", "query is missing"),
        (
            "/api/v1/query?query=up&time=now",
            400,
            "bad_data",
            "\\\"now\\\" is not a time",
        ),
        (
            "/api/v1/query_range?query=up&start=0&end=9&step=0",
            400,
            "bad_data",
            "step must be greater",
        ),
        (
            "/api/v1/query_range?query=up&start=0&end=999999&step=1",
            400,
            "bad_data",
            "11000",
        ),
        (
            "/api/v1/query?query=up%2Bon()up&time=3",
            422,
            "execution",
            "many-to-many",
        ),
        ("/api/v1/series", 400, "bad_data", "match[]"),
        ("/api/v1/series?match[]=sum(up)", 400, "bad_data", "series selector"),
        ("/api/v2/query", 404, "not_found", "/api/v2/query"),
    ] {
        let (got, body) = served.get(path).await;
        assert_eq!(
            (got, body["status"].as_str(), body["errorType"].as_str()),
            (status, Some("error"), Some(kind)),
            "{path}"
        );
        let text = body["error"].to_string();
        assert!(text.contains(part), "{path}: {text}");
    }
    let (status, _) = served.ask(http::Request::delete("/api/v1/query"), "").await;
    assert_eq!(status, 405);
    let deep = format!("/api/v1/query?query={}1{}", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(served.get(&deep).await.0, 400);
    let (status, body) = served
        .get(&format!("/api/v1/series?{}", "match[]=a&".repeat(1001)))
        .await;
    assert_eq!((status, body["errorType"].as_str()), (400, Some("bad_data")));
    assert!(body["error"].to_string().contains("more than 1000 match[]"), "{body}");
    let long = format!("/api/v1/query?query=1{}", "%2B1".repeat(500));
    assert_eq!(served.get(&long).await.0, 200);
    served.stop().await;
}

#[tokio::test]
async fn asks_who_may_read() {
    let authorize: Authorize = Arc::new(|token| {
        Box::pin(async move {
            match token.as_deref() {
                Some("good") => Access::Allow,
                Some("early") => Access::Unavailable("nobody can be asked now".into()),
                Some(_) => Access::Forbidden("you may not get /api/v1".into()),
                None => Access::Unauthenticated("a bearer token is needed".into()),
            }
        })
    });
    let served = Served::start(authorize).await;
    let query = || http::Request::get("/api/v1/query?query=1");
    assert_eq!(served.ask(query(), "").await.0, 401);
    let (status, body) = served.ask(query().header("authorization", "Bearer bad"), "").await;
    assert!(
        status == 403 && body.contains("you may not get /api/v1"),
        "{status} {body}"
    );
    let (status, body) = served.ask(query().header("authorization", "Bearer early"), "").await;
    assert!(
        status == 503 && body.contains("nobody can be asked now"),
        "{status} {body}"
    );
    assert_eq!(
        served.ask(query().header("authorization", "bearer good"), "").await.0,
        200
    );
    assert_eq!(served.ask(http::Request::get("/-/ready"), "").await.0, 200);
    served.stop().await;
}

/// Begins to write; what is left of the body comes back with the connection.
async fn begin(address: SocketAddr, body: &[u8]) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap_or_else(|e| panic!("{e}"));
    let head = format!(
        "POST /api/v1/write HTTP/1.1\r\nhost: weir\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let (now, later) = body.split_at(body.len() / 2);
    let part = [head.as_bytes(), now].concat();
    stream.write_all(&part).await.unwrap_or_else(|e| panic!("{e}"));
    (stream, later.to_vec())
}

/// Sends the rest; the status of the answer.
async fn finish((mut stream, rest): (TcpStream, Vec<u8>)) -> String {
    // It may have been answered already.
    let _ = stream.write_all(&rest).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    let _ = read.expect("an answer in time");
    String::from_utf8_lossy(&answer)
        .chars()
        .skip("HTTP/1.1 ".len())
        .take(3)
        .collect()
}

#[tokio::test]
async fn slow_senders_keep_nobody_from_writing() {
    let written = |pod: String| {
        let sample = Sample {
            ts_ms: 1000,
            value: 1.0,
        };
        let series = vec![SeriesData {
            labels: Labels::new([("__name__", "up".to_owned()), ("pod", pod)]),
            samples: vec![sample],
            ..SeriesData::default()
        }];
        let request = WriteRequest {
            series,
            ..WriteRequest::default()
        };
        remote_write::encode(Version::V1, &request)
    };
    // A body has a limited time: where this machine stood still for longer, nothing is seen, and it is tried again.
    for attempt in 0..5 {
        let store = Arc::new(weir_tsdb::Tsdb::new(weir_tsdb::Options::default()));
        let served = Served::start_with(http_api::allow_all(), Some(store)).await;
        let mut slow = Vec::new();
        for at in 0..16 {
            slow.push(begin(served.address, &written(format!("slow-{at}"))).await);
        }
        let whole = begin(served.address, &written("whole".to_owned())).await;
        assert_eq!(finish(whole).await, "204");
        let mut statuses = Vec::new();
        for one in slow {
            statuses.push(finish(one).await);
        }
        served.stop().await;
        if statuses.iter().all(|status| status == "204") {
            return;
        }
        assert!(
            statuses.iter().all(|status| status == "204" || status == "400"),
            "{statuses:?}"
        );
        println!("attempt {attempt}: {statuses:?}");
    }
    panic!("bodies that came slowly were answered before one that came at once");
}
