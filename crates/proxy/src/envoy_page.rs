//! The counters under the names that Envoy's users know, so that their dashboards and queries work.
//!
//! Enters: the configuration in force with its counters. Leaves: text in slices. Names, labels and bucket bounds are those
//! of Envoy's own `/stats/prometheus`; what this proxy does not have is left out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weir_series::exposition::encode::{push_label, push_micros_as_ms, push_u64};
use weir_series::names;

use crate::config::stats::{BOUNDS_US, Outcomes};
use crate::config::{Cluster, HttpStats, ListenerStats};
use crate::shared::Shared;

/// Rows that are put in order between two chances for others to run.
const ROWS_AT_A_TIME: usize = 64;

const CLUSTER_NAME: &str = "envoy_cluster_name";
const HTTP_PREFIX: &str = "envoy_http_conn_manager_prefix";
const LISTENER_ADDRESS: &str = "envoy_listener_address";
const CODE: &str = "envoy_response_code";
const CODE_CLASS: &str = "envoy_response_code_class";

/// One metric of all rows of a group.
struct Family<T> {
    name: &'static str,
    kind: &'static str,
    write: fn(&mut Lines<'_>, &T),
}

const fn counter<T>(name: &'static str, write: fn(&mut Lines<'_>, &T)) -> Family<T> {
    let kind = "counter";
    Family { name, kind, write }
}

const fn gauge<T>(name: &'static str, write: fn(&mut Lines<'_>, &T)) -> Family<T> {
    let kind = "gauge";
    Family { name, kind, write }
}

const fn histogram<T>(name: &'static str, write: fn(&mut Lines<'_>, &T)) -> Family<T> {
    let kind = "histogram";
    Family { name, kind, write }
}

const CLUSTER: [Family<Arc<Cluster>>; 40] = [
    gauge("membership_total", |l, c| l.value(c.endpoints.len() as u64)),
    gauge("membership_healthy", |l, c| {
        l.value((c.endpoints.len() - c.members.ejected().min(c.endpoints.len())) as u64);
    }),
    counter("membership_change", |l, c| l.count(&c.stats.membership_change)),
    counter("upstream_rq_total", |l, c| l.count(&c.stats.rq_total)),
    gauge("upstream_rq_active", |l, c| {
        l.difference(&c.stats.rq_total, &c.stats.rq_ended)
    }),
    counter("upstream_rq", |l, c| {
        if let Some(outcomes) = c.stats.outcomes() {
            l.codes(outcomes);
        }
    }),
    counter("upstream_rq_xx", |l, c| l.classes(c.stats.outcomes())),
    counter("upstream_rq_completed", |l, c| l.completed(c.stats.outcomes())),
    counter("upstream_rq_retry", |l, c| l.count(&c.stats.rq_retry)),
    counter("upstream_rq_retry_success", |l, c| l.count(&c.stats.rq_retry_success)),
    counter("upstream_rq_timeout", |l, c| l.count(&c.stats.rq_timeout)),
    counter("upstream_rq_pending_overflow", |l, c| {
        l.count(&c.stats.rq_pending_overflow)
    }),
    gauge("upstream_rq_pending_active", |l, c| {
        l.value(c.breaker.counts()[1].into())
    }),
    counter("upstream_rq_per_try_timeout", |l, c| {
        l.count(&c.stats.rq_per_try_timeout)
    }),
    counter("upstream_rq_retry_overflow", |l, c| l.count(&c.stats.rq_retry_overflow)),
    counter("upstream_rq_retry_limit_exceeded", |l, c| {
        l.count(&c.stats.rq_retry_limit_exceeded)
    }),
    gauge("circuit_breakers_default_cx_open", |l, c| l.full(c, 0)),
    gauge("circuit_breakers_default_rq_pending_open", |l, c| l.full(c, 1)),
    gauge("circuit_breakers_default_rq_open", |l, c| l.full(c, 2)),
    gauge("circuit_breakers_default_rq_retry_open", |l, c| l.full(c, 3)),
    gauge("circuit_breakers_default_remaining_cx", |l, c| l.room(c, 0)),
    gauge("circuit_breakers_default_remaining_pending", |l, c| l.room(c, 1)),
    gauge("circuit_breakers_default_remaining_rq", |l, c| l.room(c, 2)),
    gauge("circuit_breakers_default_remaining_retries", |l, c| l.room(c, 3)),
    gauge("outlier_detection_ejections_active", |l, c| {
        l.watched(c, c.members.ejected() as u64);
    }),
    counter("outlier_detection_ejections_enforced_total", |l, c| {
        l.watched(c, c.stats.ejections().0.iter().sum());
    }),
    counter("outlier_detection_ejections_total", |l, c| {
        l.watched(c, c.stats.ejections().0.iter().sum());
    }),
    counter("outlier_detection_ejections_overflow", |l, c| {
        l.watched(c, c.stats.ejections().1)
    }),
    counter("outlier_detection_ejections_consecutive_5xx", |l, c| {
        l.watched(c, c.stats.ejections().0[0]);
    }),
    counter("outlier_detection_ejections_enforced_consecutive_5xx", |l, c| {
        l.watched(c, c.stats.ejections().0[0]);
    }),
    counter(
        "outlier_detection_ejections_enforced_consecutive_gateway_failure",
        |l, c| {
            l.watched(c, c.stats.ejections().0[1]);
        },
    ),
    counter(
        "outlier_detection_ejections_enforced_consecutive_local_origin_failure",
        |l, c| l.watched(c, c.stats.ejections().0[2]),
    ),
    histogram("upstream_rq_time", |l, c| {
        if let Some(outcomes) = c.stats.outcomes() {
            l.time(outcomes);
        }
    }),
    counter("upstream_cx_total", |l, c| l.count(&c.stats.cx_total)),
    gauge("upstream_cx_active", |l, c| {
        l.difference(&c.stats.cx_total, &c.stats.cx_destroy)
    }),
    counter("upstream_cx_destroy", |l, c| l.count(&c.stats.cx_destroy)),
    counter("upstream_cx_connect_fail", |l, c| l.count(&c.stats.cx_connect_fail)),
    counter("upstream_cx_overflow", |l, c| l.count(&c.stats.cx_overflow)),
    counter("upstream_cx_rx_bytes_total", |l, c| l.count(&c.stats.cx_rx_bytes)),
    counter("upstream_cx_tx_bytes_total", |l, c| l.count(&c.stats.cx_tx_bytes)),
];

const HTTP: [Family<Arc<HttpStats>>; 21] = [
    counter("rq_total", |l, h| l.count(&h.rq_total)),
    counter("no_route", |l, h| l.count(&h.no_route)),
    counter("no_cluster", |l, h| l.count(&h.no_cluster)),
    counter("rq_direct_response", |l, h| l.count(&h.rq_direct_response)),
    counter("fault_delays_injected", |l, h| l.count(&h.fault_delays)),
    counter("fault_aborts_injected", |l, h| l.count(&h.fault_aborts)),
    counter("fault_response_rl_injected", |l, h| l.count(&h.fault_limits)),
    counter("downstream_rq_total", |l, h| l.count(&h.rq_total)),
    gauge("downstream_rq_active", |l, h| {
        let ended = h.outcomes.classes().iter().sum::<u64>() + h.rq_rx_reset.load(Relaxed);
        l.value(h.rq_total.load(Relaxed).saturating_sub(ended));
    }),
    counter("downstream_rq_xx", |l, h| l.classes(Some(&h.outcomes))),
    counter("downstream_rq_completed", |l, h| l.completed(Some(&h.outcomes))),
    counter("downstream_rq_rx_reset", |l, h| l.count(&h.rq_rx_reset)),
    histogram("downstream_rq_time", |l, h| l.time(&h.outcomes)),
    counter("downstream_cx_total", |l, h| l.count(&h.cx_total)),
    gauge("downstream_cx_active", |l, h| l.difference(&h.cx_total, &h.cx_destroy)),
    counter("downstream_cx_destroy", |l, h| l.count(&h.cx_destroy)),
    counter("downstream_cx_rx_bytes_total", |l, h| l.count(&h.cx_rx_bytes)),
    counter("downstream_cx_tx_bytes_total", |l, h| l.count(&h.cx_tx_bytes)),
    counter("downstream_cx_protocol_error", |l, h| l.count(&h.protocol_error)),
    counter("downstream_rq_header_timeout", |l, h| l.count(&h.rq_header_timeout)),
    counter("downstream_rq_max_duration_reached", |l, h| {
        l.count(&h.rq_max_duration_reached)
    }),
];

const LISTENER: [Family<Arc<ListenerStats>>; 5] = [
    counter("downstream_cx_total", |l, s| l.count(&s.cx_total)),
    gauge("downstream_cx_active", |l, s| l.difference(&s.cx_total, &s.cx_destroy)),
    counter("downstream_cx_destroy", |l, s| l.count(&s.cx_destroy)),
    counter("no_filter_chain_match", |l, s| l.count(&s.no_filter_chain_match)),
    counter("downstream_cx_overflow", |l, s| l.count(&s.cx_overflow)),
];

/// Where the lines of one row of one family go.
struct Lines<'a> {
    out: &'a mut String,
    name: &'a str,
    labels: &'a str,
}

impl Lines<'_> {
    fn begin(&mut self, suffix: &str) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        self.out.push('{');
        self.out.push_str(self.labels);
    }

    fn end(&mut self, value: u64) {
        self.out.push_str("} ");
        push_u64(self.out, value);
        self.out.push('\n');
    }

    fn value(&mut self, value: u64) {
        self.begin("");
        self.end(value);
    }

    fn count(&mut self, counter: &AtomicU64) {
        self.value(counter.load(Relaxed));
    }

    /// Whether a cluster has as many as it may of one of the four that are limited.
    fn full(&mut self, cluster: &Cluster, which: usize) {
        if let Some((limit, there)) = limited(cluster, which) {
            self.value(u64::from(there >= limit));
        }
    }

    /// How many more it may have, where that is asked for.
    fn room(&mut self, cluster: &Cluster, which: usize) {
        if let Some((limit, there)) = limited(cluster, which).filter(|_| cluster.spec.limits.track) {
            self.value(limit.saturating_sub(there));
        }
    }

    /// Something about endpoints that are left out, where any may be.
    fn watched(&mut self, cluster: &Cluster, value: u64) {
        if cluster.spec.outlier.is_some() {
            self.value(value);
        }
    }

    /// What began and has not ended. The end is read first: what happens in between must not make it negative.
    fn difference(&mut self, begun: &AtomicU64, ended: &AtomicU64) {
        let ended = ended.load(Relaxed);
        self.value(begun.load(Relaxed).saturating_sub(ended));
    }

    /// One more label with a number.
    fn numbered(&mut self, label: &str, number: u64, value: u64) {
        self.begin("");
        self.out.push(',');
        self.out.push_str(label);
        self.out.push_str("=\"");
        push_u64(self.out, number);
        self.out.push('"');
        self.end(value);
    }

    fn codes(&mut self, outcomes: &Outcomes) {
        for (code, count) in outcomes.codes() {
            self.numbered(CODE, code.into(), count);
        }
    }

    fn classes(&mut self, outcomes: Option<&Outcomes>) {
        let counts = outcomes.map(Outcomes::classes).unwrap_or_default();
        for (class, count) in (1..).zip(counts) {
            self.numbered(CODE_CLASS, class, count);
        }
    }

    fn completed(&mut self, outcomes: Option<&Outcomes>) {
        self.value(outcomes.map_or(0, |o| o.classes().iter().sum()));
    }

    fn time(&mut self, outcomes: &Outcomes) {
        let mut total = 0;
        for (i, count) in outcomes.buckets().into_iter().enumerate() {
            total += count;
            self.begin("_bucket");
            self.out.push_str(",le=\"");
            match BOUNDS_US.get(i) {
                Some(bound) => push_micros_as_ms(self.out, *bound),
                None => self.out.push_str("+Inf"),
            }
            self.out.push('"');
            self.end(total);
        }
        self.begin("_sum");
        self.out.push_str("} ");
        push_micros_as_ms(self.out, outcomes.sum_us());
        self.out.push('\n');
        self.begin("_count");
        self.end(total);
    }
}

/// The limit of connections, pending requests, requests or retries, and how many there are; `None`: there is no limit.
fn limited(cluster: &Cluster, which: usize) -> Option<(u64, u64)> {
    let limits = &cluster.spec.limits;
    let limit = match which {
        0 => limits.connections.map(u64::from),
        1 => limits.pending.map(u64::from),
        2 => limits.requests.map(u64::from),
        _ => limits.retries.map(|r| r.of(cluster.stats.rq_active()).into()),
    };
    Some((limit?, cluster.breaker.counts()[which].into()))
}

/// Rows with the same families.
struct Group<T: 'static> {
    prefix: String,
    /// Rendered label sets, and what stands behind each.
    rows: Vec<(String, T)>,
    families: &'static [Family<T>],
    family: usize,
    row: usize,
    /// Full name of the family, once its header is written.
    name: String,
}

type Writer = Box<dyn FnMut(&mut String, usize) -> bool>;

impl<T> Group<T> {
    fn writer(prefix: String, rows: Vec<(String, T)>, families: &'static [Family<T>]) -> Writer {
        let mut group = Group {
            prefix,
            rows,
            families,
            family: 0,
            row: 0,
            name: String::new(),
        };
        Box::new(move |out, bytes| group.write(out, bytes))
    }

    fn write(&mut self, out: &mut String, bytes: usize) -> bool {
        let enough = out.len().saturating_add(bytes);
        if self.rows.is_empty() {
            return false;
        }
        while let Some(family) = self.families.get(self.family) {
            if self.name.is_empty() {
                self.name = format!("{}{}", self.prefix, family.name);
                header(out, &self.name, family.kind);
            }
            while let Some((labels, row)) = self.rows.get(self.row) {
                if out.len() >= enough {
                    return true;
                }
                let name = &self.name;
                (family.write)(&mut Lines { out, name, labels }, row);
                self.row += 1;
            }
            self.family += 1;
            self.row = 0;
            self.name.clear();
        }
        false
    }
}

fn header(out: &mut String, name: &str, kind: &str) {
    for part in ["# TYPE ", name, " ", kind, "\n"] {
        out.push_str(part);
    }
}

/// Writes the page slice by slice.
pub fn page(shared: &Shared) -> impl FnMut(&mut String, usize) -> bool + use<> {
    let active = shared.active.load_full();
    let mut groups: Vec<Writer> = Vec::new();
    let mut server = String::new();
    server_values(&mut server, shared);
    groups.push(Box::new(move |out, _| {
        out.push_str(&server);
        false
    }));
    let listeners = active.listener_stats.iter().filter_map(|(name, stats)| {
        let listener = active.listeners.get(name).filter(|l| l.bind)?;
        let address = listener.address.to_string().replace(':', "_");
        Some((labels(LISTENER_ADDRESS, &address), Arc::clone(stats)))
    });
    groups.push(Group::writer("envoy_listener_".into(), sorted(listeners), &LISTENER));
    let chains = active
        .http_stats
        .iter()
        .map(|(prefix, stats)| (labels(HTTP_PREFIX, prefix), Arc::clone(stats)));
    groups.push(Group::writer("envoy_http_".into(), sorted(chains), &HTTP));
    // Envoy takes a cluster's name up to its first dot as the label and puts the rest into the metric's name:
    // `9080|default|reviews.outbound` counts in `envoy_cluster_outbound_...`.
    let mut clusters: BTreeMap<&str, Vec<&Arc<Cluster>>> = BTreeMap::new();
    for (number, (name, cluster)) in active.clusters.iter().enumerate() {
        give_way(number);
        let rest = name.split_once('.').map_or("", |(_, rest)| rest);
        clusters.entry(rest).or_default().push(cluster);
    }
    // Different names may come out the same; a family must not stand twice.
    let mut by_prefix: BTreeMap<String, Vec<(String, Arc<Cluster>)>> = BTreeMap::new();
    for (rest, clusters) in clusters {
        let rows = clusters.into_iter().enumerate().map(|(number, cluster)| {
            give_way(number);
            let name = &cluster.spec.name;
            let label = name.split_once('.').map_or(&**name, |(first, _)| first);
            (labels(CLUSTER_NAME, label), Arc::clone(cluster))
        });
        by_prefix.entry(cluster_prefix(rest)).or_default().extend(rows);
    }
    for (prefix, rows) in by_prefix {
        groups.push(Group::writer(prefix, sorted(rows.into_iter()), &CLUSTER));
    }
    let mut at = 0;
    move |out, bytes| {
        let enough = out.len().saturating_add(bytes);
        while let Some(write) = groups.get_mut(at) {
            if write(out, enough.saturating_sub(out.len())) {
                return true;
            }
            at += 1;
        }
        false
    }
}

fn cluster_prefix(rest: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let infix: String = rest.chars().map(clean).collect();
    let separator = if infix.is_empty() { "" } else { "_" };
    format!("envoy_cluster_{infix}{separator}")
}

fn labels(name: &str, value: &str) -> String {
    let mut labels = String::new();
    push_label(&mut labels, name, value);
    labels
}

fn give_way(row: usize) {
    if row.is_multiple_of(ROWS_AT_A_TIME) {
        std::thread::yield_now();
    }
}

/// In the order of their labels. Put in order one by one, giving way in between, for there may be thousands.
fn sorted<T>(rows: impl Iterator<Item = (String, T)>) -> Vec<(String, T)> {
    let mut by_label: BTreeMap<String, Vec<T>> = BTreeMap::new();
    for (number, (labels, row)) in rows.enumerate() {
        by_label.entry(labels).or_default().push(row);
        give_way(number);
    }
    let flat = by_label
        .into_iter()
        .flat_map(|(labels, rows)| rows.into_iter().map(move |row| (labels.clone(), row)));
    flat.collect()
}

fn server_values(out: &mut String, shared: &Shared) {
    // As Envoy numbers them: live, draining, initialising.
    let state = match (shared.life.draining(), shared.ready()) {
        (true, _) => 1,
        (false, true) => 0,
        (false, false) => 2,
    };
    let mut gauges = vec![
        ("envoy_server_live", u64::from(state == 0)),
        ("envoy_server_state", state),
        ("envoy_server_uptime", shared.life.uptime().as_secs()),
        (
            "envoy_server_total_connections",
            shared.connections.load(Relaxed) as u64,
        ),
        (
            "envoy_control_plane_connected_state",
            u64::from(shared.connected.load(Relaxed)),
        ),
        (
            "envoy_cluster_manager_active_clusters",
            shared.active.load().clusters.len() as u64,
        ),
        (
            "envoy_listener_manager_total_listeners_active",
            shared.active.load().listeners.len() as u64,
        ),
    ];
    if let Some(bytes) = resident_bytes() {
        gauges.push(("envoy_server_memory_physical_size", bytes));
    }
    let counters = [
        ("envoy_tracing_spans_sent", shared.traces.sent.load(Relaxed)),
        ("envoy_tracing_spans_dropped", shared.traces.dropped.load(Relaxed)),
        (names::ACCESS_LOG_DROPPED_TOTAL, shared.access_log.dropped()),
    ];
    let gauges = gauges.into_iter().map(|(name, value)| (name, value, "gauge"));
    let counters = counters.into_iter().map(|(name, value)| (name, value, "counter"));
    for (name, value, kind) in gauges.chain(counters) {
        header(out, name, kind);
        let labels = "";
        Lines { out, name, labels }.value(value);
    }
}

/// Memory of this process, as the kernel counts it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests;
