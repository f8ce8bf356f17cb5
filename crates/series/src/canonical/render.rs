//! Writes the page of a recorder, family by family.

use super::{Direction, Peer, Target, owner_label, slots::BUCKETS_MS};
use crate::{
    exposition::encode::{push_label, write_header, write_sample},
    names,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Name and help of a family, and where a target keeps its count.
type Counter = (&'static str, &'static str, fn(&Target) -> &AtomicU64);

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

pub(super) fn page(out: &mut String, targets: &[Arc<Target>], start_time_s: f64) {
    write_header(
        out,
        names::PROCESS_START_TIME_SECONDS,
        "gauge",
        "When the proxy started, in seconds since 1970.",
    );
    write_sample(out, names::PROCESS_START_TIME_SECONDS, "", "", start_time_s);

    let http: Vec<&Target> = targets
        .iter()
        .map(Arc::as_ref)
        .filter(|t| t.http.load(Relaxed))
        .collect();
    if !http.is_empty() {
        http_families(out, &http);
    }
    named(out, targets, names::FAULT_TOTAL, names::KIND, "Injected faults.", |t| {
        &t.faults
    });
    named(
        out,
        targets,
        names::OVERFLOW_TOTAL,
        names::REASON,
        "Requests refused because of a limit.",
        |t| &t.overflows,
    );
    if !targets.is_empty() {
        tcp_families(out, targets);
    }
}

fn http_families(out: &mut String, targets: &[&Target]) {
    let counters: [Counter; 3] = [
        (names::REQUEST_TOTAL, "Requests, once per client request.", |t| {
            &t.requests
        }),
        (names::ATTEMPT_TOTAL, "Tries of requests, retries included.", |t| {
            &t.attempts
        }),
        (names::RETRY_TOTAL, "Tries after the first.", |t| &t.retries),
    ];
    for (name, help, counter) in counters {
        write_header(out, name, "counter", help);
        for t in targets {
            write_sample(out, name, &t.labels, "", counter(t).load(Relaxed) as f64);
        }
    }
    responses(out, targets);
    latencies(out, targets);
}

fn responses(out: &mut String, targets: &[&Target]) {
    write_header(
        out,
        names::RESPONSE_TOTAL,
        "counter",
        "Responses that ended, once per client request.",
    );
    let mut more = String::new();
    for t in targets {
        t.responses.each(|kind, count| {
            more.clear();
            let status = kind.status.map(|s| s.to_string());
            push_label(
                &mut more,
                names::STATUS_CODE,
                status.as_deref().unwrap_or(names::STATUS_OTHER),
            );
            push_label(&mut more, names::CLASSIFICATION, kind.classification.as_str());
            if let Some(grpc) = kind.grpc_status {
                push_label(&mut more, names::GRPC_STATUS, &grpc.to_string());
            }
            if kind.from_proxy {
                push_label(&mut more, names::ORIGIN, names::ORIGIN_PROXY);
            }
            write_sample(out, names::RESPONSE_TOTAL, &t.labels, &more, count as f64);
        });
    }
}

fn latencies(out: &mut String, targets: &[&Target]) {
    let help = "Milliseconds to the end of the response, without aborted ones.";
    write_header(out, names::RESPONSE_LATENCY_MS, "histogram", help);
    let mut more = String::new();
    for t in targets {
        let mut total = 0;
        for (i, count) in t.latency.counts().into_iter().enumerate() {
            total += count;
            more.clear();
            let bound = BUCKETS_MS.get(i).map(u64::to_string);
            push_label(&mut more, names::LE, bound.as_deref().unwrap_or("+Inf"));
            write_sample(out, names::RESPONSE_LATENCY_MS_BUCKET, &t.labels, &more, total as f64);
        }
        write_sample(out, names::RESPONSE_LATENCY_MS_SUM, &t.labels, "", t.latency.sum_ms());
        write_sample(out, names::RESPONSE_LATENCY_MS_COUNT, &t.labels, "", total as f64);
    }
}

fn named(
    out: &mut String,
    targets: &[Arc<Target>],
    family: &str,
    label: &str,
    help: &str,
    counters: impl Fn(&Target) -> &super::NamedCounters,
) {
    let mut header = false;
    let mut more = String::new();
    for t in targets {
        counters(t).each(|name, count| {
            if !header {
                write_header(out, family, "counter", help);
                header = true;
            }
            more.clear();
            push_label(&mut more, label, name);
            write_sample(out, family, &t.labels, &more, count as f64);
        });
    }
}

fn tcp_families(out: &mut String, targets: &[Arc<Target>]) {
    let counters: [Counter; 3] = [
        (names::TCP_OPEN_TOTAL, "Connections opened.", |t| &t.tcp_open),
        (names::TCP_READ_BYTES_TOTAL, "Bytes read from the peer.", |t| {
            &t.tcp_read_bytes
        }),
        (names::TCP_WRITE_BYTES_TOTAL, "Bytes written to the peer.", |t| {
            &t.tcp_write_bytes
        }),
    ];
    for (name, help, counter) in counters {
        write_header(out, name, "counter", help);
        for t in targets {
            write_sample(out, name, &t.labels, "", counter(t).load(Relaxed) as f64);
        }
    }
    write_header(out, names::TCP_CLOSE_TOTAL, "counter", "Connections closed.");
    for t in targets {
        for (counter, class) in [(&t.tcp_close_success, "success"), (&t.tcp_close_failure, "failure")] {
            let mut more = String::new();
            push_label(&mut more, names::CLASSIFICATION, class);
            write_sample(
                out,
                names::TCP_CLOSE_TOTAL,
                &t.labels,
                &more,
                counter.load(Relaxed) as f64,
            );
        }
    }
    write_header(out, names::TCP_OPEN_CONNECTIONS, "gauge", "Connections open now.");
    for t in targets {
        // Closed before opened: a connection that comes and goes in between must not make the difference negative.
        let closed = t.tcp_close_success.load(Relaxed) + t.tcp_close_failure.load(Relaxed);
        let open = t.tcp_open.load(Relaxed).saturating_sub(closed);
        write_sample(out, names::TCP_OPEN_CONNECTIONS, &t.labels, "", open as f64);
    }
}
