//! Spans in memory, trace by trace, with a limit.
//!
//! Enters: spans. Leaves: traces, and the names that occur in them. When there are too many spans or bytes, the trace whose
//! first span came first goes, whole.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::span::Span;

/// Spans of one trace at most; more are not kept.
const TRACE_SPANS_MAX: usize = 10_000;

/// The spans of one trace, as they came. Whoever looks at one holds it: the next span goes to a copy then.
pub type Trace = Arc<Vec<Arc<Span>>>;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Spans at most.
    pub spans: usize,
    /// Bytes at most, about.
    pub bytes: usize,
}

/// Names that occur, with the number of spans that have them.
type Names = BTreeMap<String, usize>;

#[derive(Debug, Default)]
struct Service {
    spans: usize,
    names: Names,
    remotes: Names,
}

#[derive(Debug, Default)]
struct Kept {
    spans: Trace,
    /// Where the span with this hash lies.
    places: HashMap<u64, usize>,
}

/// All that is kept.
#[derive(Debug)]
pub struct Store {
    limits: Limits,
    hashes: RandomState,
    traces: HashMap<String, Kept>,
    /// Traces by the arrival of their first span.
    order: VecDeque<String>,
    services: BTreeMap<String, Service>,
    spans: usize,
    bytes: usize,
    evicted: u64,
}

impl Store {
    /// Nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            hashes: RandomState::new(),
            traces: HashMap::new(),
            order: VecDeque::new(),
            services: BTreeMap::new(),
            spans: 0,
            bytes: 0,
            evicted: 0,
        }
    }

    /// Takes spans. One that is here already, word for word, is not taken again.
    pub fn add(&mut self, spans: Vec<Span>) {
        for span in spans {
            let hash = self.hashes.hash_one(&span);
            let trace = match self.traces.get_mut(&span.trace_id) {
                Some(trace) => trace,
                None => {
                    self.order.push_back(span.trace_id.clone());
                    self.traces.entry(span.trace_id.clone()).or_default()
                }
            };
            if trace.spans.len() >= TRACE_SPANS_MAX {
                self.evicted += 1;
                continue;
            }
            let same = trace.places.get(&hash).and_then(|at| trace.spans.get(*at));
            if same.is_some_and(|known| **known == span) {
                continue;
            }
            let span = Arc::new(span);
            trace.places.insert(hash, trace.spans.len());
            Arc::make_mut(&mut trace.spans).push(Arc::clone(&span));
            self.spans += 1;
            self.bytes += span.size();
            if let Some(name) = span.service() {
                let service = self.services.entry(name.to_owned()).or_default();
                service.spans += 1;
                more(&mut service.names, span.name.as_deref());
                more(&mut service.remotes, span.remote_service());
            }
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        while self.spans > self.limits.spans || self.bytes > self.limits.bytes {
            let Some(oldest) = self.order.pop_front() else { return };
            for span in self.traces.remove(&oldest).unwrap_or_default().spans.iter() {
                self.spans -= 1;
                self.bytes -= span.size();
                self.evicted += 1;
                let Some(name) = span.service() else { continue };
                let Some(service) = self.services.get_mut(name) else {
                    continue;
                };
                service.spans -= 1;
                less(&mut service.names, span.name.as_deref());
                less(&mut service.remotes, span.remote_service());
                if service.spans == 0 {
                    self.services.remove(name);
                }
            }
        }
    }

    /// One trace.
    pub fn trace(&self, id: &str) -> Option<&Trace> {
        self.traces.get(id).map(|kept| &kept.spans)
    }

    /// All traces, the newest first.
    pub fn traces(&self) -> impl Iterator<Item = &Trace> {
        self.order.iter().rev().filter_map(|id| self.trace(id))
    }

    /// Names of services.
    pub fn services(&self) -> Vec<&str> {
        self.services.keys().map(String::as_str).collect()
    }

    /// Names of a service's spans.
    pub fn span_names(&self, service: &str) -> Vec<&str> {
        keys(self.services.get(service).map(|s| &s.names))
    }

    /// Names of the other sides of a service's spans.
    pub fn remote_services(&self, service: &str) -> Vec<&str> {
        keys(self.services.get(service).map(|s| &s.remotes))
    }

    /// How much there is: traces, spans, bytes, and spans that had to go.
    pub fn figures(&self) -> (usize, usize, usize, u64) {
        (self.traces.len(), self.spans, self.bytes, self.evicted)
    }
}

fn more(names: &mut Names, name: Option<&str>) {
    if let Some(name) = name {
        *names.entry(name.to_owned()).or_default() += 1;
    }
}

fn less(names: &mut Names, name: Option<&str>) {
    let Some(name) = name else { return };
    if let Some(count) = names.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            names.remove(name);
        }
    }
}

fn keys(names: Option<&Names>) -> Vec<&str> {
    names.into_iter().flat_map(BTreeMap::keys).map(String::as_str).collect()
}

/// When a trace began, in microseconds: with its root, else with its first span that says when.
pub fn begin(trace: &[Arc<Span>]) -> Option<u64> {
    let root = trace.iter().find(|s| s.parent_id.is_none() && s.timestamp.is_some());
    match root {
        Some(root) => root.timestamp,
        None => trace.iter().filter_map(|s| s.timestamp).min(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(trace: &str, id: &str, service: &str, name: &str) -> Span {
        let text = format!(
            r#"[{{"traceId":"{trace}","id":"{id}","name":"{name}","localEndpoint":{{"serviceName":"{service}"}},
                "remoteEndpoint":{{"serviceName":"r-{service}"}}}}]"#
        );
        crate::span::read(text.as_bytes()).unwrap().remove(0)
    }

    fn store(spans: usize) -> Store {
        Store::new(Limits {
            spans,
            bytes: usize::MAX,
        })
    }

    #[test]
    fn the_oldest_trace_goes_first_and_whole() {
        let mut store = store(4);
        store.add(vec![span("a", "1", "one", "x"), span("b", "1", "two", "y")]);
        store.add(vec![span("a", "2", "one", "z"), span("c", "1", "two", "y")]);
        assert_eq!(store.services(), ["one", "two"]);
        assert_eq!(store.span_names("one"), ["x", "z"]);
        assert_eq!(store.remote_services("two"), ["r-two"]);
        assert_eq!(store.figures().1, 4);
        // The fifth span: trace a goes with both of its own, although one of them came later than b.
        store.add(vec![span("d", "1", "two", "q")]);
        let (traces, spans, bytes, evicted) = store.figures();
        assert_eq!((traces, spans, evicted), (3, 3, 2));
        assert_eq!(store.services(), ["two"]);
        assert!(store.span_names("one").is_empty() && store.trace("000000000000000a").is_none());
        let size: usize = store.traces().flat_map(|trace| trace.iter()).map(|s| s.size()).sum();
        assert_eq!(size, bytes);
        let newest_first: Vec<_> = store.traces().map(|t| t[0].trace_id.trim_start_matches('0')).collect();
        assert_eq!(newest_first, ["d", "c", "b"]);
    }

    #[test]
    fn bytes_count_too_and_nothing_is_kept_twice() {
        let one = span("a", "1", "one", "x");
        let mut store = Store::new(Limits {
            spans: 100,
            bytes: one.size() * 2,
        });
        store.add(vec![one.clone(), one.clone()]);
        assert_eq!(store.figures().1, 1);
        store.add(vec![span("b", "1", "one", "x"), span("c", "1", "one", "x")]);
        assert_eq!((store.figures().0, store.figures().3), (2, 1));
        // One that has no room at all is not kept.
        store.add(vec![span("d", "1", &"long".repeat(1000), "x")]);
        assert_eq!(store.figures(), (0, 0, 0, 4));
        assert!(store.services().is_empty());
    }

    #[test]
    fn a_full_trace_takes_no_more_and_spans_of_one_identifier_are_told_apart() {
        let mut store = store(TRACE_SPANS_MAX * 2);
        // All of one identifier, as the two sides of a call have it.
        let names = (0..TRACE_SPANS_MAX).map(|n| span("a", "1", "one", &format!("n{n}")));
        let all: Vec<Span> = names.collect();
        store.add(all.clone());
        store.add(all);
        assert_eq!((store.figures().0, store.figures().1), (1, TRACE_SPANS_MAX));
        let held = store.trace("000000000000000a").cloned().unwrap();
        let evicted = store.figures().3;
        store.add(vec![span("a", "2", "one", "more"), span("b", "1", "one", "x")]);
        assert_eq!(
            (store.figures().1, store.figures().3),
            (TRACE_SPANS_MAX + 1, evicted + 1)
        );

        // Who looks at a trace sees it as it was.
        let before = store.trace("000000000000000b").cloned().unwrap();
        store.add(vec![span("b", "2", "one", "y")]);
        let after = store.trace("000000000000000b").unwrap();
        assert_eq!((before.len(), after.len(), held.len()), (1, 2, TRACE_SPANS_MAX));
    }
}
