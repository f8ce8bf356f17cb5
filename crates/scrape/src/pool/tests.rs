//! The whole scraper against real sockets, hostile ones among them.

use super::*;
use crate::{TargetStatus, discover, memory::Memory};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use weir_series::Labels;

#[test]
fn beats_are_even() {
    assert_eq!(on_beat(10_007, 5_000, 5_000), 10_000);
    assert_eq!(on_beat(9_990, 5_000, 5_000), 10_000);
    assert_eq!(on_beat(12_345, 5_000, 5_000), 12_345);
}

/// Serves by `answer` on a loopback port; counts the connections.
async fn serve<F, Fut>(answer: F) -> (Target, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|e| panic!("{e}"));
    let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}")).to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, SeqCst);
            tokio::spawn(answer(stream));
        }
    });
    let labels = Labels::new([("instance", address.as_str())]);
    (Target::new(address, "/metrics", labels), connections)
}

/// Answers every request of a connection with a page.
async fn page(mut stream: TcpStream, body: &'static str) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn endless(mut stream: TcpStream, chunk: &'static [u8], pause: Duration) {
    let head = stream
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let mut ok = head.is_ok();
    while ok {
        let size = format!("{:x}\r\n", chunk.len());
        let message = [size.as_bytes(), chunk, b"\r\n"].concat();
        ok = stream.write_all(&message).await.is_ok();
        tokio::time::sleep(pause).await;
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

fn job() -> Job {
    let mut job = Job::named("weir");
    (job.interval, job.timeout) = (Duration::from_millis(200), Duration::from_millis(150));
    (job.limits.body_bytes, job.limits.samples) = (100_000, 1000);
    job.exact = true;
    job
}

#[tokio::test]
async fn hostile_targets_harm_nobody_else() {
    let big: &'static [u8] = vec![b'#'; 60_000].leak();
    let (good, connections) = serve(|s| page(s, "# TYPE c_total counter\nc_total 7\n")).await;
    let (garbage, _) = serve(|s| page(s, "<html>hello</html>")).await;
    let (slow, _) = serve(|s| endless(s, b"a 1\n", Duration::from_millis(10))).await;
    let (large, _) = serve(move |s| endless(s, big, Duration::ZERO)).await;
    let (silent, _) = serve(|s| async move {
        let _stream = s;
        std::future::pending::<()>().await;
    })
    .await;
    let closed = Target::new("127.0.0.1:1".to_owned(), "/metrics", good.labels.clone());
    let all = [&good, &garbage, &slow, &large, &silent, &closed];

    let (sender, list) = discover::fixed(all.map(Clone::clone).to_vec());
    let (memory, targets, shutdown) = (Arc::new(Memory::default()), Targets::new(), CancellationToken::new());
    let running = tokio::spawn(run_job(job(), list, memory.clone(), targets.clone(), shutdown.clone()));

    let status = |target: &Target| -> TargetStatus {
        targets
            .snapshot()
            .into_iter()
            .find(|s| s.url == target.url)
            .unwrap_or_default()
    };
    until("all are judged", || {
        all.iter().all(|t| status(t).health != Health::Unknown)
    })
    .await;
    let series = format!("c_total{{instance=\"{}\"}}", good.address);
    until("the good one is scraped again and again", || {
        memory.samples(&series, 0).len() >= 4
    })
    .await;
    assert_eq!(
        (status(&good).health, status(&good).last_error.as_str()),
        (Health::Up, "")
    );
    assert_eq!(connections.load(SeqCst), 1, "connections are kept alive");
    for (target, part) in [
        (&garbage, "line 1: a metric name"),
        (&slow, "did not end within 0.15 s"),
        (&large, "larger than the 100000 bytes"),
        (&silent, "did not end within 0.15 s"),
        (&closed, "onnection refused"),
    ] {
        let status = status(target);
        assert!(
            status.health == Health::Down && status.last_error.contains(part),
            "{status:?}"
        );
    }
    let up = |t: &Target| memory.samples(&format!("up{{instance=\"{}\"}}", t.labels.get("instance")), 0);
    assert!(up(&garbage).iter().all(|(_, v)| *v == Some(0.0)) && !up(&garbage).is_empty());
    let times: Vec<i64> = memory.samples(&series, 0).iter().map(|(t, _)| *t).collect();
    let on_beat = times.windows(2).skip(1).filter(|w| (w[1] - w[0]) % 200 == 0).count();
    assert!(on_beat + 2 >= times.len() / 2, "{times:?}");

    // A target that goes is scraped a last time, and its series end.
    sender.send_replace(vec![garbage.clone()].into());
    until("the others are gone", || targets.snapshot().len() == 1).await;
    assert_eq!(memory.samples(&series, 0).last().map(|(_, v)| *v), Some(None));
    assert_eq!(up(&good).last().map(|(_, v)| *v), Some(None));

    shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), running).await;
    assert!(ended.is_ok_and(|joined| joined.is_ok()));
    assert!(
        up(&garbage).iter().all(|(_, v)| v.is_some()),
        "a restart of the scraper ends no series"
    );
}

#[tokio::test]
async fn shows_targets_as_prometheus_does() {
    let (good, _) = serve(|s| page(s, "a 1\n")).await;
    let (_sender, list) = discover::fixed(vec![good.clone()]);
    let (targets, shutdown) = (Targets::new(), CancellationToken::new());
    let running = tokio::spawn(run_job(
        job(),
        list,
        Arc::new(Memory::default()),
        targets.clone(),
        shutdown.clone(),
    ));
    until("it is up", || targets.snapshot().iter().any(|t| t.health == Health::Up)).await;
    let json = targets.to_json();
    let target = &json["activeTargets"][0];
    assert_eq!(target["scrapeUrl"], good.url);
    assert_eq!(
        (target["health"].as_str(), target["lastError"].as_str()),
        (Some("up"), Some(""))
    );
    assert_eq!(target["labels"]["instance"], good.address);
    assert_eq!(target["lastSamples"], 1);
    shutdown.cancel();
    assert!(running.await.is_ok());
}

/// Answers with a body that is made while it is sent, and headers of its own.
async fn with_headers(mut stream: TcpStream, headers: &'static str, body: Arc<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
        let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&body).await.is_err() {
            return;
        }
    }
}

async fn page_of(headers: &'static str, body: Vec<u8>) -> Target {
    let body = Arc::new(body);
    serve(move |stream| with_headers(stream, headers, body.clone())).await.0
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut out, content).unwrap_or_else(|e| panic!("{e}"));
    out.finish().unwrap_or_else(|e| panic!("{e}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_bad_page_is_named_and_stays_alone() {
    let lines = |n: usize, line: fn(usize) -> String| (0..n).map(line).collect::<String>().into_bytes();
    let many = lines(300_000, |i| format!("a{{b=\"{i}\"}} 1\n"));
    let long_value = format!("a{{b=\"{}\"}} 1\n", "x".repeat(70_000)).into_bytes();
    let many_labels = format!(
        "a{{{}}} 1\n",
        (0..600).map(|i| format!("l{i}=\"1\",")).collect::<String>()
    )
    .into_bytes();
    let bomb = gzip(&vec![b'#'; 8 << 20]);
    let good = "a NaN\nb +Inf\nc 1\n".to_owned();
    let odd_times = "old 1 1000\nnew 1 3786912000000\nnow 1\n".to_owned();
    // (target, part of its error; "" for none)
    let all = [
        (page_of("", good.into_bytes()).await, ""),
        (page_of("content-encoding: gzip\r\n", gzip(b"zipped 1\n")).await, ""),
        (page_of("", odd_times.into_bytes()).await, ""),
        (
            page_of("", many).await,
            "more than the 100000 samples that sample_limit allows",
        ),
        (
            page_of("", long_value).await,
            "a value of 70000 bytes where label_value_length_limit allows 65536",
        ),
        (
            page_of("", many_labels).await,
            "601 labels where label_limit allows 512",
        ),
        (
            page_of("", b"a 1\nb{c=\"\xff\"} 1\n".to_vec()).await,
            "not UTF-8 in line 2",
        ),
        (
            page_of("content-encoding: gzip\r\n", bomb).await,
            "larger than the 6000000 bytes",
        ),
        (
            page_of("content-encoding: gzip\r\n", b"plain".to_vec()).await,
            "is no gzip",
        ),
        (
            page_of("content-type: text/html\r\n", b"<html>".to_vec()).await,
            "text/html",
        ),
        (
            page_of(
                "content-type: application/openmetrics-text; version=1.0.0\r\n",
                b"a 1\n".to_vec(),
            )
            .await,
            "line 2: the page is cut off",
        ),
        (
            page_of("content-type: application/vnd.google.protobuf\r\n", b"\x05ab".to_vec()).await,
            "line 1: the message is cut off",
        ),
    ];
    let mut job = job();
    (job.interval, job.timeout) = (Duration::from_millis(500), Duration::from_millis(450));
    (job.limits.body_bytes, job.limits.samples) = (6_000_000, 100_000);
    job.exact = false;
    let (_sender, list) = discover::fixed(all.iter().map(|(target, _)| target.clone()).collect());
    let (memory, targets, shutdown) = (Arc::new(Memory::default()), Targets::new(), CancellationToken::new());
    let running = tokio::spawn(run_job(job, list, memory.clone(), targets.clone(), shutdown.clone()));
    let status = |target: &Target| {
        targets
            .snapshot()
            .into_iter()
            .find(|s| s.url == target.url)
            .unwrap_or_default()
    };
    until("all are judged", || {
        all.iter().all(|(t, _)| status(t).health != Health::Unknown)
    })
    .await;
    for (target, part) in &all {
        let status = status(target);
        match *part {
            "" => assert_eq!((status.health, status.last_error.as_str()), (Health::Up, "")),
            part => assert!(
                status.health == Health::Down && status.last_error.contains(part),
                "{part}: {status:?}"
            ),
        }
    }
    let of = |name: &str, at: usize| {
        memory.samples(
            &format!("{name}{{instance=\"{}\"}}", all[at].0.labels.get("instance")),
            0,
        )
    };
    until("values of every kind are stored", || {
        of("a", 0).len() > 1 && of("b", 0).len() > 1 && of("zipped", 1).len() > 1
    })
    .await;
    assert!(of("a", 0)[0].1.is_some_and(f64::is_nan) && of("b", 0)[0].1 == Some(f64::INFINITY));
    assert_eq!(
        of("old", 2).first().map(|(t, _)| *t),
        Some(1000),
        "whether it is too old is the store's to say"
    );
    assert!(of("new", 2).is_empty() && !of("now", 2).is_empty());
    assert!(
        status(&all[2].0)
            .last_warning
            .starts_with("1 of 3 samples were not stored"),
        "{:?}",
        status(&all[2].0)
    );
    shutdown.cancel();
    assert!(running.await.is_ok());
}

#[tokio::test]
async fn many_slow_targets_delay_nobody() {
    let (slow, _) = serve(|s| endless(s, b"a 1\n", Duration::from_millis(20))).await;
    let (good, _) = serve(|s| page(s, "fine 1\n")).await;
    let slow = (0..300).map(|n| Target::new(slow.address.clone(), "/metrics", Labels::new([("n", n.to_string())])));
    let list: Vec<Target> = slow.chain([good.clone()]).collect();
    let (_sender, list) = discover::fixed(list);
    let (memory, targets, shutdown) = (Arc::new(Memory::default()), Targets::new(), CancellationToken::new());
    let mut job = job();
    (job.interval, job.timeout, job.exact) = (Duration::from_secs(1), Duration::from_secs(1), false);
    let running = tokio::spawn(run_job(job, list, memory.clone(), targets, shutdown.clone()));
    let series = format!("fine{{instance=\"{}\"}}", good.address);
    until("the good one is scraped several times", || {
        memory.samples(&series, 0).len() >= 4
    })
    .await;
    let times: Vec<i64> = memory.samples(&series, 0).iter().map(|(t, _)| *t).collect();
    assert!(times.windows(2).all(|w| w[1] - w[0] < 2000), "{times:?}");
    shutdown.cancel();
    assert!(running.await.is_ok());
}

/// Takes its time for values of the series `big` until it is told to go on.
struct Slow {
    memory: Memory,
    big: std::sync::OnceLock<weir_series::SeriesRef>,
    entered: AtomicUsize,
    open: std::sync::Mutex<bool>,
    opened: std::sync::Condvar,
}

impl Append for Slow {
    fn resolve(&self, labels: &Labels) -> Result<weir_series::SeriesRef, weir_series::AppendError> {
        let id = self.memory.resolve(labels)?;
        if labels.metric_name() == "big" {
            self.big.get_or_init(|| id);
        }
        Ok(id)
    }

    fn append(
        &self,
        batch: &[(weir_series::SeriesRef, weir_series::Sample)],
        refused: &mut Vec<(usize, weir_series::AppendError)>,
    ) {
        if batch.iter().any(|(id, _)| self.big.get() == Some(id)) {
            self.entered.fetch_add(1, SeqCst);
            let open = self.open.lock().unwrap_or_else(|e| panic!("{e}"));
            let opened = self.opened.wait_while(open, |open| !*open);
            drop(opened.unwrap_or_else(|e| panic!("{e}")));
        }
        self.memory.append(batch, refused);
    }

    fn append_histograms(
        &self,
        batch: &[(weir_series::SeriesRef, i64, weir_series::Histogram)],
        refused: &mut Vec<(usize, weir_series::AppendError)>,
    ) {
        self.memory.append_histograms(batch, refused);
    }

    fn describe(&self, family: &str, metadata: &weir_series::Metadata) {
        self.memory.describe(family, metadata);
    }

    fn oldest_ms(&self, now_ms: i64) -> i64 {
        self.memory.oldest_ms(now_ms)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_page_that_is_stored_when_its_target_goes_ends_too() {
    let mut body = b"big 1\n".to_vec();
    body.resize(LARGE_PAGE + 100, b'#');
    body.push(b'\n');
    let target = page_of("", body).await;
    let (sender, list) = discover::fixed(vec![target.clone()]);
    let store = Arc::new(Slow {
        memory: Memory::default(),
        big: std::sync::OnceLock::new(),
        entered: AtomicUsize::new(0),
        open: std::sync::Mutex::new(false),
        opened: std::sync::Condvar::new(),
    });
    let (targets, shutdown) = (Targets::new(), CancellationToken::new());
    let mut job = job();
    // Without a last scrape.
    (job.exact, job.interval, job.timeout) = (false, Duration::from_secs(3), Duration::from_secs(3));
    job.limits.body_bytes = 2 * LARGE_PAGE as u64;
    let running = tokio::spawn(run_job(job, list, store.clone(), targets.clone(), shutdown.clone()));
    until("it is being stored", || store.entered.load(SeqCst) > 0).await;
    // Its loop ends now. Where it does not wait for what is stored, the target is off the list before that.
    sender.send_replace(Vec::new().into());
    let _ = tokio::time::timeout(Duration::from_millis(300), async {
        while !targets.snapshot().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    *store.open.lock().unwrap_or_else(|e| panic!("{e}")) = true;
    store.opened.notify_all();
    until("the target is gone", || targets.snapshot().is_empty()).await;
    let big = store
        .memory
        .samples(&format!("big{{instance=\"{}\"}}", target.address), 0);
    assert_eq!(big.len(), 2, "{big:?}");
    assert!(big[0].1 == Some(1.0) && big[1].1.is_none(), "{big:?}");
    shutdown.cancel();
    assert!(running.await.is_ok());
}
