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
    let json = targets.to_json("any", "");
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
