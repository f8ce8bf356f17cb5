//! Serves the pages of many synthetic mesh proxies, for `make bench-metrics`: `bench_targets ADDRESS TARGETS SERIES [DEPLOYMENTS]`.
//!
//! Page `/t/N` has SERIES series of one proxy: histograms of 26 buckets over deployments, counters of requests and responses, all
//! moving with time. `/lines` tells how many samples were served so far. Costs little: what does not change is rendered once.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use weir_series::exposition::encode::push_u64;
use weir_series::names;

const BOUNDS: [&str; 26] = [
    "1", "2", "3", "4", "5", "10", "20", "30", "40", "50", "100", "200", "300", "400", "500", "1000", "2000", "3000",
    "4000", "5000", "10000", "20000", "30000", "40000", "50000", "+Inf",
];
/// Histogram, two responses, one request.
const SERIES_A_DESTINATION: usize = BOUNDS.len() + 2 + 3;

/// A line without its value, and how the value grows.
struct Line {
    text: String,
    /// Per second, in hundredths.
    rate: u64,
}

struct Mesh {
    pages: Vec<Vec<Line>>,
    started: Instant,
    lines: AtomicU64,
}

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| words.get(at).and_then(|w| w.parse().ok()).unwrap_or(default);
    let address = words.first().map_or("127.0.0.1:9300", String::as_str);
    let (targets, series, deployments) = (number(1, 100), number(2, 1000), number(3, 50));
    let listener = TcpListener::bind(address)?;
    let mesh = Arc::new(Mesh {
        pages: (0..targets).map(|target| page(target, series, deployments)).collect(),
        started: Instant::now(),
        lines: AtomicU64::new(0),
    });
    println!("ready {}", mesh.pages.iter().map(Vec::len).sum::<usize>());
    for stream in listener.incoming() {
        let (mesh, stream) = (mesh.clone(), stream?);
        // Ends with its connection.
        std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || serve(&mesh, &stream))?;
    }
    Ok(())
}

fn page(target: usize, series: usize, deployments: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut destination = 0;
    while lines.len() < series {
        let deployment = (target * 7 + destination) % deployments;
        let pod = destination / deployments;
        destination += 1;
        let labels = format!(
            "direction=\"outbound\",authority=\"svc-{deployment}.shop.svc.cluster.local:8080\",dst_namespace=\"shop\",\
             dst_service=\"svc-{deployment}\",dst_deployment=\"deploy-{deployment}\",dst_pod=\"deploy-{deployment}-7d4b9c6f5-{pod:05}\""
        );
        let base = 100 * (1 + (target + deployment) % 20) as u64;
        let mut push = |name: &str, more: &str, rate: u64| {
            let text = format!("{name}{{{labels}{more}}} ");
            lines.push(Line { text, rate });
        };
        for (at, bound) in BOUNDS.iter().enumerate() {
            // Most are fast, some are slow, and each deployment is another.
            let share = ((at + 1) * 4 + deployment % 9).min(100) as u64;
            let share = if *bound == "+Inf" { 100 } else { share.min(99) };
            push(
                names::RESPONSE_LATENCY_MS_BUCKET,
                &format!(",le=\"{bound}\""),
                base * share / 100,
            );
        }
        push(names::RESPONSE_LATENCY_MS_SUM, "", base * 37);
        push(names::RESPONSE_LATENCY_MS_COUNT, "", base);
        push(
            names::RESPONSE_TOTAL,
            ",status_code=\"200\",classification=\"success\"",
            base * 98 / 100,
        );
        push(
            names::RESPONSE_TOTAL,
            ",status_code=\"503\",classification=\"failure\"",
            base - base * 98 / 100,
        );
        push(names::REQUEST_TOTAL, "", base);
        debug_assert_eq!(lines.len() % SERIES_A_DESTINATION, 0);
    }
    // Families stand together, as pages have them.
    lines.sort_by(|a, b| family(&a.text).cmp(family(&b.text)));
    lines.truncate(series);
    lines
}

fn family(text: &str) -> &str {
    let name = text.split('{').next().unwrap_or_default();
    let parts = ["_bucket", "_sum", "_count"];
    parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name)
}

fn serve(mesh: &Mesh, stream: &TcpStream) {
    let mut requests = BufReader::new(stream);
    let mut out = String::new();
    loop {
        let mut first = String::new();
        let mut line = String::new();
        if !matches!(requests.read_line(&mut first), Ok(1..)) {
            return;
        }
        while matches!(requests.read_line(&mut line), Ok(1..)) && line.trim() != "" {
            line.clear();
        }
        out.clear();
        let path = first.split(' ').nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        match path
            .strip_prefix("/t/")
            .and_then(|n| mesh.pages.get(n.parse::<usize>().ok()?))
        {
            Some(page) => render(mesh, page, &mut out),
            None => push_u64(&mut out, mesh.lines.load(Relaxed)),
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\ncontent-length: {}\r\n\r\n",
            out.len()
        );
        let mut stream = stream;
        if stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(out.as_bytes()))
            .is_err()
        {
            return;
        }
    }
}

fn render(mesh: &Mesh, page: &[Line], out: &mut String) {
    #[allow(clippy::cast_possible_truncation)]
    let elapsed_ms = mesh.started.elapsed().as_millis() as u64;
    let mut last = "";
    for line in page {
        let family = family(&line.text);
        if family != last {
            last = family;
            let kind = if line.text.contains("_bucket{") {
                "histogram"
            } else {
                "counter"
            };
            out.push_str(&format!(
                "# HELP {family} As a proxy shows it.\n# TYPE {family} {kind}\n"
            ));
        }
        out.push_str(&line.text);
        push_u64(out, 1000 + line.rate * elapsed_ms / 100_000);
        out.push('\n');
    }
    mesh.lines.fetch_add(page.len() as u64, Relaxed);
}
