//! The page of a recorder, family by family, in slices: whoever writes it decides how much at a time.

use super::counters::{Family, ResponseKind};
use super::target::{Http, Target, http, tcp};
use super::{Direction, Peer, owner_label};
use crate::exposition::encode::{push_label, push_micros_as_ms, push_u64, write_header, write_sample};
use crate::names;
use std::sync::Arc;

/// The labels of a target: direction, authority, and who the peer is.
pub(super) fn target_labels(direction: Direction, authority: &str, peer: &Peer) -> String {
    let mut labels = String::new();
    push_label(&mut labels, names::DIRECTION, direction.as_str());
    push_label(&mut labels, names::AUTHORITY, authority);
    let (prefix, namespace, pod) = match direction {
        Direction::Outbound => (names::DST_PREFIX, names::DST_NAMESPACE, names::DST_POD),
        Direction::Inbound => (names::SRC_PREFIX, names::SRC_NAMESPACE, names::SRC_POD),
    };
    push_label(&mut labels, namespace, &peer.namespace);
    push_label(&mut labels, pod, &peer.pod);
    if direction == Direction::Outbound {
        push_label(&mut labels, names::DST_SERVICE, &peer.service);
    }
    if let Some(name) = owner_label(prefix, &peer.owner_kind) {
        push_label(&mut labels, &name, &peer.owner);
    }
    labels
}

/// One family: its name, kind, help, and what of it a target shows.
struct Section {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    write: fn(&mut String, &Target),
    /// Whether a target shows anything of it.
    shows: fn(&Target) -> bool,
}

const fn counter(
    name: &'static str,
    help: &'static str,
    write: fn(&mut String, &Target),
    shows: fn(&Target) -> bool,
) -> Section {
    Section {
        name,
        kind: "counter",
        help,
        write,
        shows,
    }
}

const SECTIONS: [Section; 14] = [
    counter(
        names::REQUEST_TOTAL,
        "Requests, once per client request.",
        |out, t| http_cell(out, t, names::REQUEST_TOTAL, http::REQUESTS),
        speaks_http,
    ),
    counter(
        names::ATTEMPT_TOTAL,
        "Tries of requests, retries included.",
        |out, t| http_cell(out, t, names::ATTEMPT_TOTAL, http::ATTEMPTS),
        speaks_http,
    ),
    counter(
        names::RETRY_TOTAL,
        "Tries after the first.",
        |out, t| http_cell(out, t, names::RETRY_TOTAL, http::RETRIES),
        speaks_http,
    ),
    counter(
        names::RESPONSE_TOTAL,
        "Responses that ended, once per client request.",
        responses,
        speaks_http,
    ),
    Section {
        name: names::RESPONSE_LATENCY_MS,
        kind: "histogram",
        help: "Milliseconds to the end of the response, without aborted ones.",
        write: latencies,
        shows: speaks_http,
    },
    counter(
        names::FAULT_TOTAL,
        "Injected faults.",
        |out, t| named(out, t, names::FAULT_TOTAL, names::KIND, Family::Fault),
        |t| t.named(Family::Fault).next().is_some(),
    ),
    counter(
        names::OVERFLOW_TOTAL,
        "Requests refused because of a limit.",
        |out, t| named(out, t, names::OVERFLOW_TOTAL, names::REASON, Family::Overflow),
        |t| t.named(Family::Overflow).next().is_some(),
    ),
    counter(
        names::EJECTION_TOTAL,
        "Times that an endpoint was left out because of its errors.",
        |out, t| named(out, t, names::EJECTION_TOTAL, names::REASON, Family::Ejection),
        |t| t.named(Family::Ejection).next().is_some(),
    ),
    Section {
        name: names::EJECTED_ENDPOINTS,
        kind: "gauge",
        help: "Endpoints that are left out now.",
        write: |out, t| line(out, names::EJECTED_ENDPOINTS, &t.labels, t.is_ejected().into()),
        shows: |t| t.named(Family::Ejection).next().is_some(),
    },
    counter(
        names::TCP_OPEN_TOTAL,
        "Connections opened.",
        |out, t| line(out, names::TCP_OPEN_TOTAL, &t.labels, t.tcp.sum(tcp::OPEN)),
        |_| true,
    ),
    counter(
        names::TCP_READ_BYTES_TOTAL,
        "Bytes read from the peer.",
        |out, t| line(out, names::TCP_READ_BYTES_TOTAL, &t.labels, t.tcp.sum(tcp::READ_BYTES)),
        |_| true,
    ),
    counter(
        names::TCP_WRITE_BYTES_TOTAL,
        "Bytes written to the peer.",
        |out, t| {
            line(
                out,
                names::TCP_WRITE_BYTES_TOTAL,
                &t.labels,
                t.tcp.sum(tcp::WRITE_BYTES),
            )
        },
        |_| true,
    ),
    counter(names::TCP_CLOSE_TOTAL, "Connections closed.", closed, |_| true),
    Section {
        name: names::TCP_OPEN_CONNECTIONS,
        kind: "gauge",
        help: "Connections open now.",
        write: open,
        shows: |_| true,
    },
];

/// A page that is being written. It shows the targets of the moment when it was begun, with their counts of the moment
/// when each is written.
#[derive(Debug)]
pub struct Page {
    targets: Vec<Arc<Target>>,
    start_time_s: f64,
    /// Which of [`SECTIONS`] is next, and which target in it.
    section: usize,
    target: usize,
    headed: bool,
    begun: bool,
}

impl Page {
    pub(super) fn new(targets: Vec<Arc<Target>>, start_time_s: f64) -> Self {
        Page {
            targets,
            start_time_s,
            section: 0,
            target: 0,
            headed: false,
            begun: false,
        }
    }

    /// Appends the next lines, until `out` has grown by `bytes` or a little more; `false`: that was the end.
    pub fn write(&mut self, out: &mut String, bytes: usize) -> bool {
        let enough = out.len().saturating_add(bytes);
        if !self.begun {
            self.begun = true;
            let (name, help) = (
                names::PROCESS_START_TIME_SECONDS,
                "When the proxy started, in seconds since 1970.",
            );
            write_header(out, name, "gauge", help);
            write_sample(out, name, "", "", self.start_time_s);
        }
        while let Some(section) = SECTIONS.get(self.section) {
            while let Some(target) = self.targets.get(self.target) {
                if out.len() >= enough {
                    return true;
                }
                self.target += 1;
                if !(section.shows)(target) {
                    if self.target.is_multiple_of(super::TAKEN_AT_A_TIME) {
                        std::thread::yield_now();
                    }
                    continue;
                }
                if !self.headed {
                    write_header(out, section.name, section.kind, section.help);
                    self.headed = true;
                }
                (section.write)(out, target);
            }
            self.section += 1;
            self.target = 0;
            self.headed = false;
        }
        false
    }
}

fn speaks_http(target: &Target) -> bool {
    target.http().is_some()
}

/// One sample with nothing but the target's labels.
fn line(out: &mut String, name: &str, labels: &str, value: u64) {
    begin(out, name, labels);
    out.push_str("} ");
    push_u64(out, value);
    out.push('\n');
}

/// Name, brace and labels. A target always has its direction, so what follows needs a comma.
fn begin(out: &mut String, name: &str, labels: &str) {
    out.push_str(name);
    out.push('{');
    out.push_str(labels);
}

fn http_cell(out: &mut String, target: &Target, name: &str, cell: usize) {
    if let Some(half) = target.http() {
        line(out, name, &target.labels, half.cells.sum(cell));
    }
}

fn responses(out: &mut String, target: &Target) {
    let Some(half) = target.http() else { return };
    let ok = (&ResponseKind::OK, half.cells.sum(http::OK));
    for (kind, count) in std::iter::once(ok).chain(half.responses.iter()) {
        begin(out, names::RESPONSE_TOTAL, &target.labels);
        push_name(out, names::STATUS_CODE);
        match kind.status {
            Some(status) => push_u64(out, status.into()),
            None => out.push_str(names::STATUS_OTHER),
        }
        out.push('"');
        push_name(out, names::CLASSIFICATION);
        out.push_str(kind.classification.as_str());
        out.push('"');
        if let Some(grpc) = kind.grpc_status {
            push_name(out, names::GRPC_STATUS);
            push_u64(out, grpc.into());
            out.push('"');
        }
        if kind.from_proxy {
            push_name(out, names::ORIGIN);
            out.push_str(names::ORIGIN_PROXY);
            out.push('"');
        }
        out.push_str("} ");
        push_u64(out, count);
        out.push('\n');
    }
}

/// `,name="`
fn push_name(out: &mut String, name: &str) {
    out.push(',');
    out.push_str(name);
    out.push_str("=\"");
}

fn latencies(out: &mut String, target: &Target) {
    let Some(Http { cells, .. }) = target.http() else {
        return;
    };
    let mut total = 0;
    for i in 0..=target.buckets.len() {
        total += cells.sum(http::BUCKETS + i);
        begin(out, names::RESPONSE_LATENCY_MS_BUCKET, &target.labels);
        push_name(out, names::LE);
        match target.buckets.get(i) {
            Some(bound) => push_u64(out, *bound),
            None => out.push_str("+Inf"),
        }
        out.push_str("\"} ");
        push_u64(out, total);
        out.push('\n');
    }
    begin(out, names::RESPONSE_LATENCY_MS_SUM, &target.labels);
    out.push_str("} ");
    push_micros_as_ms(out, cells.sum(http::LATENCY_US));
    out.push('\n');
    line(out, names::RESPONSE_LATENCY_MS_COUNT, &target.labels, total);
}

fn named(out: &mut String, target: &Target, name: &str, label: &str, family: Family) {
    for (value, count) in target.named(family) {
        begin(out, name, &target.labels);
        out.push(',');
        let mut more = String::new();
        push_label(&mut more, label, value);
        out.push_str(&more);
        out.push_str("} ");
        push_u64(out, count);
        out.push('\n');
    }
}

fn closed(out: &mut String, target: &Target) {
    for (cell, class) in [(tcp::CLOSE_SUCCESS, "success"), (tcp::CLOSE_FAILURE, "failure")] {
        begin(out, names::TCP_CLOSE_TOTAL, &target.labels);
        push_name(out, names::CLASSIFICATION);
        out.push_str(class);
        out.push_str("\"} ");
        push_u64(out, target.tcp.sum(cell));
        out.push('\n');
    }
}

fn open(out: &mut String, target: &Target) {
    // Closed before opened: a connection that comes and goes in between must not make the difference negative.
    let closed = target.tcp.sum(tcp::CLOSE_SUCCESS) + target.tcp.sum(tcp::CLOSE_FAILURE);
    let open = target.tcp.sum(tcp::OPEN).saturating_sub(closed);
    line(out, names::TCP_OPEN_CONNECTIONS, &target.labels, open);
}
