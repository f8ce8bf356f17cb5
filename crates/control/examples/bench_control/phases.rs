//! What is measured, one after the other, each with a control plane of its own: every Service for everybody; a restart of
//! that control plane under the same clients; every Service for its own namespace alone.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use weir_xds::ResourceType;

use crate::fleet::{Fleet, Taken};
use crate::{Size, cluster, plane};

/// The whole fleet must have everything within this time.
const START_MAX: Duration = Duration::from_secs(120);
/// A change must have reached everybody within this time.
const CHANGE_MAX: Duration = Duration::from_secs(20);
/// So long nothing more comes: it is over.
const QUIET: Duration = Duration::from_millis(500);
/// After a change, what comes within this time counts as caused by it.
const STRAY: Duration = Duration::from_millis(30);
/// Clusters and listeners that every node has beside those of Services.
const OWN_CLUSTERS: usize = 4;
const OWN_LISTENERS: usize = 2;

type Failure = Box<dyn Error>;

/// All phases.
pub async fn run(size: Size) -> Result<(), Failure> {
    plane::stages(&cluster::objects(size, false)?);
    let folder = tempfile::tempdir()?;
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate = certified.cert.pem();
    std::fs::write(folder.path().join("certificate.pem"), &certificate)?;
    std::fs::write(folder.path().join("key.pem"), certified.signing_key.serialize_pem())?;
    let folder = folder.path().display().to_string();

    eprintln!("every Service for every client: {size:?}");
    let mut plane = Plane::start(size, false, &folder, "127.0.0.1:0").await?;
    let mut fleet = Fleet::start(size, &plane.address, &certificate)?;
    let (seconds, bytes) = settle(&mut fleet, &mut plane, size, false).await?;
    figure("control.start", seconds, "s", "< 30");
    #[allow(clippy::cast_precision_loss)]
    figure("control.start_wire_mb", bytes as f64 / 1e6, "MB", "");
    figure("control.start_cpu", plane.cpu_s()?, "s", "");
    let differing = changes(&mut fleet, &mut plane, size, false, "control").await?;
    figure("control.rss", plane.memory_mb("VmRSS:")?, "MB", "< 400");
    figure("control.rss_peak", plane.memory_mb("VmHWM:")?, "MB", "< 400");

    eprintln!("the control plane starts anew, the clients stay");
    let address = plane.address.clone();
    plane.stop().await?;
    let mut plane = Plane::start(size, false, &folder, &address).await?;
    let before = fleet.bytes();
    plane.go().await?;
    // The endpoints that were not ready are ready in the new process: those must come, and nothing else.
    let expected = differing * size.clients;
    let resent = quiet(&mut fleet, Duration::from_secs(15)).await.abs_diff(expected);
    #[allow(clippy::cast_precision_loss)]
    let per_client = (fleet.bytes() - before) as f64 / size.clients as f64;
    figure("control.restart_bytes_per_client", per_client, "B", "");
    #[allow(clippy::cast_precision_loss)]
    figure("control.restart_resources_resent", resent as f64, "resources", "<= 0");
    changes(
        &mut fleet,
        &mut plane,
        Size {
            changes: size.changes.min(20),
            ..size
        },
        false,
        "control.restarted",
    )
    .await?;
    fleet.stop().await;
    plane.stop().await?;

    eprintln!("every Service for its own namespace");
    let mut plane = Plane::start(size, true, &folder, "127.0.0.1:0").await?;
    let mut fleet = Fleet::start(size, &plane.address, &certificate)?;
    let (seconds, bytes) = settle(&mut fleet, &mut plane, size, true).await?;
    figure("control.narrow_start", seconds, "s", "< 30");
    #[allow(clippy::cast_precision_loss)]
    figure("control.narrow_start_wire_mb", bytes as f64 / 1e6, "MB", "");
    changes(&mut fleet, &mut plane, size, true, "control.narrow").await?;
    figure("control.narrow_rss_peak", plane.memory_mb("VmHWM:")?, "MB", "< 400");
    fleet.stop().await;
    plane.stop().await
}

fn figure(name: &str, value: f64, unit: &str, bar: &str) {
    let bar = if bar.is_empty() {
        String::new()
    } else {
        format!(" (bar {bar})")
    };
    println!("FIGURE {name} {value:.2} {unit}{bar}");
}

/// The process with the control plane.
struct Plane {
    child: Child,
    input: ChildStdin,
    address: String,
}

impl Plane {
    async fn start(size: Size, narrow: bool, folder: &str, listen: &str) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["plane", "--certificate", folder, "--listen", listen]);
        command.args([
            "--services",
            &size.services.to_string(),
            "--endpoints",
            &size.endpoints.to_string(),
        ]);
        if narrow {
            command.arg("--narrow");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().ok_or("no standard input")?;
        let output = child.stdout.take().ok_or("no standard output")?;
        let mut lines = BufReader::new(output).lines();
        let first = tokio::time::timeout(START_MAX, lines.next_line())
            .await
            .map_err(|_| "the control plane did not start")?;
        let address = first?.ok_or("the control plane ended at once")?;
        Ok(Self { child, input, address })
    }

    async fn go(&mut self) -> Result<(), Failure> {
        Ok(self.input.write_all(b"go\n").await?)
    }

    async fn flip(&mut self, service: usize, endpoint: usize) -> Result<(), Failure> {
        Ok(self
            .input
            .write_all(format!("{service} {endpoint}\n").as_bytes())
            .await?)
    }

    async fn stop(mut self) -> Result<(), Failure> {
        self.child.kill().await?;
        Ok(())
    }

    fn proc(&self, file: &str) -> Result<String, Failure> {
        let id = self.child.id().ok_or("the control plane ended")?;
        Ok(std::fs::read_to_string(format!("/proc/{id}/{file}"))?)
    }

    fn memory_mb(&self, field: &str) -> Result<f64, Failure> {
        let status = self.proc("status")?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(field))
            .ok_or("no such field")?;
        let kib: f64 = line.split_whitespace().next().ok_or("no number")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// User and system time so far.
    fn cpu_s(&self) -> Result<f64, Failure> {
        let stat = self.proc("stat")?;
        let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }
}

/// How many Services a client sees.
fn visible(size: Size, narrow: bool, client: usize) -> usize {
    let service = client % size.services;
    if narrow {
        (0..size.services)
            .filter(|s| cluster::namespace(*s) == cluster::namespace(service))
            .count()
    } else {
        size.services
    }
}

/// From here until every client has acknowledged everything; and the bytes that took.
async fn settle(fleet: &mut Fleet, plane: &mut Plane, size: Size, narrow: bool) -> Result<(f64, u64), Failure> {
    let started = Instant::now();
    plane.go().await?;
    let mut have: Vec<BTreeMap<ResourceType, HashSet<u64>>> = vec![BTreeMap::new(); size.clients];
    let wanted: Vec<usize> = (0..size.clients)
        .map(|c| 4 * visible(size, narrow, c) + OWN_CLUSTERS + OWN_LISTENERS)
        .collect();
    let (mut complete, mut last, mut told) = (0, started, started);
    let mut by_type: BTreeMap<ResourceType, usize> = BTreeMap::new();
    while complete < size.clients {
        let left = START_MAX
            .checked_sub(started.elapsed())
            .ok_or_else(|| format!("after {START_MAX:?} only {complete} clients have everything"))?;
        let Ok(taken) = tokio::time::timeout(left.min(Duration::from_secs(1)), fleet.taken.recv()).await else {
            continue;
        };
        let taken = taken.ok_or("the fleet ended")?;
        let total = |types: &BTreeMap<ResourceType, HashSet<u64>>| types.values().map(HashSet::len).sum::<usize>();
        *by_type.entry(taken.ty).or_default() += taken.bytes;
        let mine = &mut have[taken.client];
        let before = total(mine);
        mine.entry(taken.ty).or_default().extend(taken.names.iter().map(|name| {
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            hasher.finish()
        }));
        if before < wanted[taken.client] && total(mine) >= wanted[taken.client] {
            complete += 1;
            last = last.max(taken.at);
        }
        if told.elapsed() > Duration::from_secs(2) {
            told = Instant::now();
            eprintln!(
                "  {:5.1} s: {complete} of {} clients have everything",
                started.elapsed().as_secs_f64(),
                size.clients
            );
        }
    }
    let seconds = (last - started).as_secs_f64();
    let strays = quiet(fleet, QUIET).await;
    for (ty, bytes) in by_type {
        eprintln!("  {ty}: {} B for each client", bytes / size.clients);
    }
    eprintln!("  settled after {seconds:.2} s; {strays} resources came later");
    Ok((seconds, fleet.bytes()))
}

/// Waits until nothing comes for a while; how many resources came until then.
async fn quiet(fleet: &mut Fleet, patience: Duration) -> usize {
    let mut resources = 0;
    let started = Instant::now();
    let mut patience = patience;
    while started.elapsed() < START_MAX {
        match tokio::time::timeout(patience, fleet.taken.recv()).await {
            Ok(Some(taken)) => {
                resources += taken.names.len() + taken.removed;
                patience = QUIET.max(patience / 4);
            }
            _ => break,
        }
    }
    resources
}

/// One endpoint after the other goes or comes back.
async fn changes(fleet: &mut Fleet, plane: &mut Plane, size: Size, narrow: bool, name: &str) -> Result<usize, Failure> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pick = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap_or_default() % below
    };
    let each = cluster::endpoints_each(size);
    let mut unready: HashSet<(usize, usize)> = HashSet::new();
    let (mut times, mut per_endpoint, mut strays) = (Vec::new(), Vec::new(), 0);
    let cpu = plane.cpu_s()?;
    let mut told = Instant::now();
    for number in 0..size.changes {
        let (service, endpoint) = (pick(size.services), pick(each));
        if !unready.remove(&(service, endpoint)) {
            unready.insert((service, endpoint));
        }
        let ready = each - unready.iter().filter(|(s, _)| *s == service).count();
        let uses = |client: usize| !narrow || cluster::namespace(client % size.services) == cluster::namespace(service);
        let subscribers = (0..size.clients).filter(|c| uses(*c)).count();
        let suffix = format!("|app-{service:04}.outbound");
        let caused = |t: &Taken| {
            t.ty == ResourceType::Endpoint
                && t.removed == 0
                && uses(t.client)
                && matches!(&t.names[..], [one] if one.ends_with(&suffix))
        };
        let (before, started) = (fleet.bytes(), Instant::now());
        plane.flip(service, endpoint).await?;
        let (mut seen, mut last) = (0, started);
        while seen < subscribers {
            let left = CHANGE_MAX
                .checked_sub(started.elapsed())
                .ok_or_else(|| format!("a change reached only {seen} of {subscribers}"))?;
            let Ok(taken) = tokio::time::timeout(left, fleet.taken.recv()).await else {
                continue;
            };
            let taken = taken.ok_or("the fleet ended")?;
            if caused(&taken) {
                seen += 1;
                last = last.max(taken.at);
            } else {
                strays += 1;
            }
        }
        times.push((last - started).as_secs_f64() * 1e3);
        while let Ok(Some(_)) = tokio::time::timeout(STRAY, fleet.taken.recv()).await {
            strays += 1;
        }
        #[allow(clippy::cast_precision_loss)]
        per_endpoint.push((fleet.bytes() - before) as f64 / (subscribers * ready.max(1)) as f64);
        if told.elapsed() > Duration::from_secs(2) {
            told = Instant::now();
            eprintln!("  {number} of {} changes", size.changes);
        }
    }
    times.sort_by(f64::total_cmp);
    per_endpoint.sort_by(f64::total_cmp);
    let at = |values: &[f64], percent: usize| values[(values.len() * percent / 100).min(values.len() - 1)];
    figure(&format!("{name}.change_p50"), at(&times, 50), "ms", "");
    figure(&format!("{name}.change_p99"), at(&times, 99), "ms", "< 250");
    figure(
        &format!("{name}.change_wire_bytes_p50"),
        at(&per_endpoint, 50),
        "B/endpoint/subscriber",
        "<= 300",
    );
    figure(
        &format!("{name}.change_wire_bytes_p99"),
        at(&per_endpoint, 99),
        "B/endpoint/subscriber",
        "<= 300",
    );
    figure(
        &format!("{name}.change_to_others"),
        f64::from(strays),
        "responses",
        "<= 0",
    );
    #[allow(clippy::cast_precision_loss)]
    figure(
        &format!("{name}.change_cpu"),
        (plane.cpu_s()? - cpu) * 1e3 / size.changes as f64,
        "ms",
        "",
    );
    // One resource a Service, however many of its endpoints differ.
    let differing: HashSet<usize> = unready.into_iter().map(|(service, _)| service).collect();
    Ok(differing.len())
}
