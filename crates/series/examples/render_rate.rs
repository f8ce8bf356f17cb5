//! How fast a page is written, and how long a slice of it takes: `cargo run --release -p weir-series --example render_rate`.
//!
//! The recorder holds as many HTTP targets as a proxy with ten thousand destinations.

use std::time::{Duration, Instant};

use weir_series::canonical::{Classification, Direction, Peer, Recorder, Response};

const TARGETS: usize = 10_000;
const ROUNDS: u32 = 5;
const SLICE_BYTES: usize = 16 << 10;

fn main() {
    let recorder = Recorder::new(1);
    for n in 0..TARGETS {
        let peer = Peer {
            namespace: "default".to_owned(),
            pod: format!("ratings-v1-7bf98d4c5f-{n:05}"),
            owner_kind: "deployment".to_owned(),
            owner: "ratings-v1".to_owned(),
            service: "ratings".to_owned(),
        };
        let target = recorder.target(Direction::Outbound, "ratings.default.svc:9080", &peer);
        for i in 0..20 {
            target.request();
            target.response(&Response {
                status: 200,
                grpc_status: None,
                classification: Classification::Success,
                from_proxy: false,
                latency: Duration::from_micros(i * 777 + n as u64),
            });
        }
    }
    let mut out = String::new();
    recorder.render(&mut out);
    let started = Instant::now();
    for _ in 0..ROUNDS {
        out.clear();
        recorder.render(&mut out);
    }
    let whole = started.elapsed() / ROUNDS;
    let (mut longest, mut slices) = (Duration::ZERO, 0);
    let begun = Instant::now();
    let mut page = recorder.page();
    let beginning = begun.elapsed();
    loop {
        out.clear();
        let begun = Instant::now();
        let more = page.write(&mut out, SLICE_BYTES);
        longest = longest.max(begun.elapsed());
        slices += 1;
        if !more {
            break;
        }
    }
    out.clear();
    recorder.render(&mut out);
    let rate = out.len() as f64 / whole.as_secs_f64() / 1e6;
    println!("{} bytes in {whole:?}: {rate:.0} MB/s", out.len());
    println!("{slices} slices, the longest {longest:?}, the list of targets {beginning:?}");
}
