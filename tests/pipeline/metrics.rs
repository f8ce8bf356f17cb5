//! What two proxies counted is what TrafficMetrics show: exactly, although nobody stopped to let the scraper look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use weir_api::traffic_metrics::Figures;
use weir_metrics_api::query::{Kind, Scope, Traffic};
use weir_promql::{Engine, Options};
use weir_scrape::config::Job;
use weir_scrape::{Target, Targets, discover};
use weir_series::Labels;
use weir_series::canonical::{Direction, Peer, Recorder, Response, classify};
use weir_tsdb::Tsdb;

const REQUESTS: u32 = 10_000;
/// Every 20th fails.
const FAILURES: u64 = REQUESTS as u64 / 20;
/// Of all requests; longer than the test takes.
const WINDOW: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

fn peer(name: &str) -> Peer {
    Peer {
        namespace: "default".into(),
        pod: format!("{name}-1"),
        owner_kind: "deployment".into(),
        owner: name.into(),
        service: String::new(),
    }
}

/// Serves a recorder's page as the proxy of a pod of the deployment `name`.
async fn proxy(name: &str, recorder: Arc<Recorder>) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, recorder.clone()));
        }
    });
    let pod = format!("{name}-1");
    let labels = [("namespace", "default"), ("pod", &pod), ("deployment", name)];
    Target::new(address, "/metrics", Labels::new(labels))
}

async fn serve(mut stream: TcpStream, recorder: Arc<Recorder>) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
        let mut page = String::new();
        recorder.render(&mut page);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Waits for a scrape of every target that began after now.
async fn scraped(targets: &Targets) {
    let since = now_ms();
    let all = || targets.snapshot().iter().all(|target| target.last_scrape_ms > since);
    let wait = async {
        while !all() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, wait).await;
    assert!(done.is_ok(), "not scraped: {:?}", targets.snapshot());
}

/// A client sends, a server answers; both sides record, while they are being scraped.
async fn traffic(client: &Recorder, server: &Recorder) {
    let to_server = Peer {
        service: "server".into(),
        ..peer("server")
    };
    let sides = [
        client.target(Direction::Outbound, "server:80", &to_server),
        server.target(Direction::Inbound, "server:80", &peer("client")),
    ];
    for n in 1..=REQUESTS {
        let status = if n % 20 == 0 { 500 } else { 200 };
        let response = Response {
            status,
            grpc_status: None,
            classification: classify(status, None, false),
            from_proxy: false,
            latency: Duration::from_millis(if n % 50 == 0 { 150 } else { 7 }),
        };
        for side in &sides {
            side.request();
            side.attempt();
            side.response(&response);
        }
        if n % 1000 == 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

fn assert_exact(figures: &Figures) {
    assert_eq!(figures.success, u64::from(REQUESTS) - FAILURES);
    assert_eq!(figures.failure, FAILURES);
    let between = |value: Option<f64>, low: f64, high: f64| value.is_some_and(|v| v > low && v <= high);
    // The buckets of 7 ms and 150 ms.
    assert!(between(figures.p50_s, 0.005, 0.010), "{figures:?}");
    assert!(between(figures.p99_s, 0.100, 0.200), "{figures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_recorded_is_what_is_shown() {
    let (client, server) = (Recorder::new(1), Recorder::new(1));
    let found = vec![
        proxy("client", client.clone()).await,
        proxy("server", server.clone()).await,
    ];
    let store = Arc::new(Tsdb::new(weir_tsdb::Options::default()));
    let (_discovery, discovered) = discover::fixed(found);
    let (targets, shutdown) = (Targets::new(), CancellationToken::new());
    let config = Job {
        interval: Duration::from_millis(100),
        exact: true,
        ..Job::named("proxies")
    };
    let scraping = weir_scrape::run_job(config, discovered, store.clone(), targets.clone(), shutdown.clone());
    let scraping = tokio::spawn(scraping);
    traffic(&client, &server).await;
    scraped(&targets).await;
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, scraping).await.unwrap().unwrap();
    assert_eq!(targets.snapshot().len(), 2);

    let traffic = Traffic::new(Arc::new(Engine::new(store, Options::default())));
    let (all, at_ms) = (Scope::default(), now_ms());
    for (kind, name) in [(Kind::Pod, "server-1"), (Kind::Deployment, "server")] {
        let key = ("default".to_owned(), name.to_owned());
        let own = traffic.received_by_server(kind, &all, WINDOW, at_ms).await.unwrap();
        let told = traffic.received_by_clients(kind, &all, WINDOW, at_ms).await.unwrap();
        for received in [own, told] {
            assert_eq!(received.keys().collect::<Vec<_>>(), [&key]);
            assert_exact(&received[&key]);
        }
    }
    let edges = traffic.sent(Kind::Deployment, &all, WINDOW, at_ms).await.unwrap();
    let edges: BTreeMap<_, _> = edges.into_iter().map(|e| ((e.from.1, e.to.1), e.figures)).collect();
    assert_eq!(edges.len(), 1, "{edges:?}");
    assert_exact(&edges[&("client".to_owned(), "server".to_owned())]);
}
