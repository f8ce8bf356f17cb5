//! `client`: sends requests and counts, for itself, what it sent and what it saw.
//!
//! Every request sent ends as exactly one status or one error; nothing is sent a second time. Leaves: a line each
//! interval, and a last line of JSON with the totals.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::duration;
use crate::histogram::Histogram;
use crate::shutdown::Shutdown;
use crate::upstream::{Connection, Failure, Outcome, Resolver, Target};

const CONCURRENCY_MAX: usize = 4096;
/// Distinct servers told apart; more are counted as `other`.
const SERVERS_MAX: usize = 64;

#[derive(Args)]
pub struct Options {
    /// Where to send requests; several take turns.
    #[arg(long, env = "BOOKINFO_TARGET", value_delimiter = ',', required = true, value_parser = Target::parse)]
    target: Vec<Target>,
    /// Requests a second; without it as many as the concurrency gives.
    #[arg(long, env = "BOOKINFO_RATE")]
    rate: Option<f64>,
    /// Requests in total; without it and without a duration it never ends.
    #[arg(long)]
    count: Option<u64>,
    /// Requests at the same time, at most.
    #[arg(long, default_value_t = 4)]
    concurrency: usize,
    /// How long to send.
    #[arg(long, value_parser = duration::parse)]
    duration: Option<Duration>,
    /// Use connections again.
    #[arg(long)]
    keepalive: bool,
    /// With --keepalive: how often.
    #[arg(long, default_value_t = 100)]
    keepalive_requests: u32,
    /// How long one request may take.
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    timeout: Duration,
    /// A header to send, as `name: value`.
    #[arg(long = "header", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Time between two report lines; 0 for none.
    #[arg(long, default_value = "1s", value_parser = duration::parse)]
    report: Duration,
    /// Report lines as JSON.
    #[arg(long)]
    json: bool,
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("`{text}` is not a header like `name: value`");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    Ok((
        name.trim().parse().map_err(|_| wrong())?,
        value.trim().parse().map_err(|_| wrong())?,
    ))
}

/// What was sent and seen, since the start or in an interval.
#[derive(Clone, Default)]
struct Counts {
    sent: u64,
    statuses: BTreeMap<u16, u64>,
    failures: BTreeMap<Failure, u64>,
    servers: BTreeMap<String, u64>,
    latency: Histogram,
}

impl Counts {
    fn answered(&mut self, status: u16, server: &str, latency: Duration) {
        *self.statuses.entry(status).or_default() += 1;
        self.latency.record(latency);
        let known = self.servers.contains_key(server) || self.servers.len() < SERVERS_MAX;
        *self
            .servers
            .entry(if known { server } else { "other" }.to_owned())
            .or_default() += 1;
    }

    fn failed(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    fn describe(&self, elapsed: Duration) -> Value {
        let statuses: BTreeMap<String, u64> = self
            .statuses
            .iter()
            .map(|(status, n)| (status.to_string(), *n))
            .collect();
        let failures: BTreeMap<String, u64> = self
            .failures
            .iter()
            .map(|(failure, n)| (failure.to_string(), *n))
            .collect();
        let seconds = elapsed.as_secs_f64();
        let ms = |value: f64| (value * 1e3).round() / 1e3;
        json!({
            "sent": self.sent,
            "status": statuses,
            "error": failures,
            "errors": self.failures.values().sum::<u64>(),
            "server": self.servers,
            "seconds": ms(seconds),
            "rps": ms(self.sent as f64 / seconds.max(1e-9)),
            "latency_ms": {
                "mean": ms(self.latency.mean_ms()),
                "p50": ms(self.latency.quantile_ms(0.5)),
                "p90": ms(self.latency.quantile_ms(0.9)),
                "p95": ms(self.latency.quantile_ms(0.95)),
                "p99": ms(self.latency.quantile_ms(0.99)),
                "max": ms(self.latency.max_ms()),
            },
        })
    }

    fn line(&self, elapsed: Duration, since_start: Duration) -> String {
        let class = |hundred: u16| self.statuses.range(hundred..hundred + 100).map(|(_, n)| n).sum::<u64>();
        format!(
            "{:.0}s sent={} 2xx={} 3xx={} 4xx={} 5xx={} error={} rps={:.1} p50={:.2}ms p99={:.2}ms",
            since_start.as_secs_f64(),
            self.sent,
            class(200),
            class(300),
            class(400),
            class(500),
            self.failures.values().sum::<u64>(),
            self.sent as f64 / elapsed.as_secs_f64().max(1e-9),
            self.latency.quantile_ms(0.5),
            self.latency.quantile_ms(0.99),
        )
    }
}

/// One target, its address looked up now and then.
struct Destination {
    target: Target,
    resolver: Resolver,
}

/// Shared by the workers, all on one thread.
struct Load {
    options: Options,
    destinations: Vec<Destination>,
    headers: HeaderMap,
    start: Instant,
    tickets: Cell<u64>,
    total: RefCell<Counts>,
    interval: RefCell<Counts>,
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    if options.concurrency == 0 || options.concurrency > CONCURRENCY_MAX {
        bail!("--concurrency must be from 1 to {CONCURRENCY_MAX}");
    }
    if options.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e6)) {
        bail!("--rate must be above 0 and at most 1000000 requests a second");
    }
    let shutdown = Shutdown::install()?;
    let destinations = options
        .target
        .iter()
        .map(|target| Destination {
            target: target.clone(),
            resolver: Resolver::new(target),
        })
        .collect();
    let load = Rc::new(Load {
        headers: options.headers.iter().cloned().collect(),
        options,
        destinations,
        start: Instant::now(),
        tickets: Cell::new(0),
        total: RefCell::default(),
        interval: RefCell::default(),
    });
    LocalSet::new().run_until(drive(load.clone(), shutdown)).await;
    let mut summary = load.total.borrow().describe(load.start.elapsed());
    summary["summary"] = true.into();
    say!("{summary}");
    Ok(())
}

/// Runs the workers until they are through, the time is over or a signal comes; then waits for what is in flight.
async fn drive(load: Rc<Load>, mut shutdown: Shutdown) {
    let (stop, stopping) = watch::channel(false);
    let mut workers = JoinSet::new();
    for number in 0..load.options.concurrency {
        workers.spawn_local(work(load.clone(), number, stopping.clone()));
    }
    let reporter = tokio::task::spawn_local(report(load.clone()));
    let over = async {
        match load.options.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = async { while workers.join_next().await.is_some() {} } => {}
        () = over => {}
        () = shutdown.recv() => {}
    }
    let _ = stop.send(true);
    while workers.join_next().await.is_some() {}
    reporter.abort();
}

async fn report(load: Rc<Load>) {
    if load.options.report.is_zero() {
        return;
    }
    let mut ticks = tokio::time::interval(load.options.report);
    let mut last = load.start;
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let counts = load.interval.take();
        if load.options.json {
            say!("{}", counts.describe(last.elapsed()));
        } else {
            say!("{}", counts.line(last.elapsed(), load.start.elapsed()));
        }
        last = Instant::now();
    }
}

async fn work(load: Rc<Load>, number: usize, mut stopping: watch::Receiver<bool>) {
    let mut idle: Vec<Option<Connection>> = load.destinations.iter().map(|_| None).collect();
    loop {
        if *stopping.borrow() {
            return;
        }
        let ticket = load.tickets.get();
        if load.options.count.is_some_and(|count| ticket >= count) {
            return;
        }
        load.tickets.set(ticket + 1);
        if let Some(rate) = load.options.rate {
            let due = load.start + Duration::from_secs_f64(ticket as f64 / rate);
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                // Not sent: the ticket is void, and nobody takes another.
                _ = stopping.wait_for(|stop| *stop) => return,
            }
        }
        let which = (ticket % load.destinations.len() as u64) as usize;
        load.request(&load.destinations[which], &mut idle[which]).await;
        // A fast loop of many workers must leave room for timers and signals.
        if number == 0 {
            tokio::task::yield_now().await;
        }
    }
}

impl Load {
    async fn request(&self, destination: &Destination, idle: &mut Option<Connection>) {
        self.count(|counts| counts.sent += 1);
        let start = Instant::now();
        let exchange = self.exchange(destination, idle.take());
        let result = tokio::time::timeout(self.options.timeout, exchange)
            .await
            .unwrap_or(Err(Failure::Timeout));
        let latency = start.elapsed();
        match result {
            Ok((status, server, connection)) => {
                *idle = connection;
                self.count(|counts| counts.answered(status, &server, latency));
            }
            Err(failure) => self.count(|counts| counts.failed(failure)),
        }
    }

    async fn exchange(
        &self,
        destination: &Destination,
        idle: Option<Connection>,
    ) -> Result<(u16, String, Option<Connection>), Failure> {
        let target = &destination.target;
        let mut request = target
            .get(target.path(), self.headers.clone())
            .map_err(|_| Failure::Broken)?;
        if !self.options.keepalive {
            request
                .headers_mut()
                .insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        let mut connection = match idle.filter(|c| c.fit(self.options.keepalive_requests)) {
            Some(connection) => connection,
            None => destination.resolver.connect().await?,
        };
        loop {
            let first = !connection.used_before();
            match connection.send(request).await {
                Outcome::Answered(response, connection) => {
                    let server = response.headers().get("x-served-by");
                    let server = server.and_then(|v| v.to_str().ok()).unwrap_or("unknown");
                    let connection = connection.filter(|_| self.options.keepalive);
                    return Ok((response.status().as_u16(), server.to_owned(), connection));
                }
                // The connection was closed while idle and nothing was sent: the first sending is still to come.
                Outcome::Unsent(unsent) if !first => {
                    request = unsent;
                    connection = destination.resolver.connect().await?;
                }
                Outcome::Unsent(_) => return Err(Failure::Broken),
                Outcome::Failed(failure) => return Err(failure),
            }
        }
    }

    fn count(&self, change: impl Fn(&mut Counts)) {
        change(&mut self.total.borrow_mut());
        change(&mut self.interval.borrow_mut());
    }
}
