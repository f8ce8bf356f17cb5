//! Who calls whom, from the spans of traces.
//!
//! Enters: whole traces. Leaves: a count of calls, and of failed ones, for each pair of services. A call is counted once,
//! though both of its sides may tell of it: where the side that was asked tells, its word is taken. As Zipkin has it. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use crate::span::{Kind, Span};

/// Calls from one service to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Who called.
    pub parent: String,
    /// Who was called.
    pub child: String,
    /// How often.
    pub call_count: u64,
    /// How often that went wrong.
    #[serde(skip_serializing_if = "is_zero")]
    pub error_count: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands it over so
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Links, while traces are looked at.
#[derive(Debug, Default)]
pub struct Linker {
    calls: BTreeMap<(String, String), (u64, u64)>,
}

/// A trace as a tree.
struct Tree<'a> {
    spans: Vec<&'a Span>,
    parents: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
}

impl<'a> Tree<'a> {
    fn new(trace: &'a [Arc<Span>]) -> Self {
        let spans: Vec<&Span> = trace.iter().map(Arc::as_ref).collect();
        // The two sides of a call may have one identifier; then the server says so.
        let mut own: HashMap<&str, usize> = HashMap::new();
        let mut shared: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, span) in spans.iter().enumerate() {
            match span.shared {
                Some(true) => shared.entry(&span.id).or_default().push(at),
                _ => {
                    own.entry(&span.id).or_insert(at);
                }
            }
        }
        let parent_of = |at: usize, span: &Span| {
            if span.shared == Some(true)
                && let Some(client) = own.get(&*span.id)
            {
                return Some(*client).filter(|client| *client != at);
            }
            let wanted = span.parent_id.as_deref()?;
            let servers = shared.get(wanted).into_iter().flatten();
            let mut servers = servers.filter(|server| spans[**server].service() == span.service());
            servers
                .next()
                .or_else(|| own.get(wanted))
                .copied()
                .filter(|parent| *parent != at)
        };
        let parents: Vec<_> = spans.iter().enumerate().map(|(at, span)| parent_of(at, span)).collect();
        let mut children = vec![Vec::new(); spans.len()];
        for (at, parent) in parents.iter().enumerate() {
            if let Some(parent) = parent {
                children[*parent].push(at);
            }
        }
        Self {
            spans,
            parents,
            children,
        }
    }

    /// The nearest ancestor that tells of a side of a call.
    fn remote_ancestor(&self, at: usize) -> Option<&'a Span> {
        let mut next = self.parents[at];
        // Wrong identifiers could lead in a circle.
        for _ in 0..self.spans.len() {
            let span = self.spans[next?];
            if span.kind.is_some() {
                return Some(span);
            }
            next = self.parents[next?];
        }
        None
    }
}

impl Linker {
    /// Looks at one trace.
    pub fn add(&mut self, trace: &[Arc<Span>]) {
        let tree = Tree::new(trace);
        let roots = (0..tree.spans.len()).filter(|at| tree.parents[*at].is_none());
        let mut next: VecDeque<usize> = roots.collect();
        while let Some(at) = next.pop_front() {
            next.extend(&tree.children[at]);
            self.look(&tree, at);
        }
    }

    fn look(&mut self, tree: &Tree<'_>, at: usize) {
        let span = tree.spans[at];
        let (service, remote) = (span.service(), span.remote_service());
        let kind = match span.kind {
            Some(kind) => kind,
            // Who knows both sides asked.
            None if service.is_some() && remote.is_some() => Kind::Client,
            None => return,
        };
        let (mut parent, child) = match kind {
            Kind::Server | Kind::Consumer => (remote, service),
            Kind::Client | Kind::Producer => (service, remote),
        };
        let mut failed = span.failed();
        if matches!(kind, Kind::Producer | Kind::Consumer) {
            return self.call(parent, child, failed);
        }
        // The side that was asked tells of it itself.
        if kind == Kind::Client && !tree.children[at].is_empty() {
            return;
        }
        let root = tree.parents[at].is_none();
        if kind == Kind::Server && root && parent.is_none() {
            return;
        }
        if let Some(ancestor) = tree.remote_ancestor(at) {
            if let Some(name) = ancestor.service() {
                // Between the two something was called that did not tell of itself.
                if kind == Kind::Client && service.is_some_and(|service| service != name) {
                    self.call(Some(name), service, false);
                }
                if kind == Kind::Server || parent.is_none() {
                    parent = Some(name);
                }
            }
            let same_call = span.shared == Some(true) || span.parent_id.as_deref() == Some(&*ancestor.id);
            failed |= ancestor.kind == Some(Kind::Client) && same_call && ancestor.failed();
        }
        self.call(parent, child, failed);
    }

    fn call(&mut self, parent: Option<&str>, child: Option<&str>, failed: bool) {
        let (Some(parent), Some(child)) = (parent, child) else {
            return;
        };
        let (calls, errors) = self.calls.entry((parent.to_owned(), child.to_owned())).or_default();
        *calls += 1;
        *errors += u64::from(failed);
    }

    /// What was found, by name.
    pub fn links(self) -> Vec<Link> {
        let link = |((parent, child), (call_count, error_count))| Link {
            parent,
            child,
            call_count,
            error_count,
        };
        self.calls.into_iter().map(link).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spans by (id, parent, kind, service, remote, failed).
    type Row<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, bool);

    fn links(rows: &[Row<'_>], shared: bool) -> Vec<(String, String, u64, u64)> {
        let spans: Vec<String> = rows
            .iter()
            .map(|(id, parent, kind, service, remote, failed)| {
                let mut span = serde_json::json!({"traceId": "a", "id": id, "parentId": parent,
                    "localEndpoint": {"serviceName": service}, "remoteEndpoint": {"serviceName": remote}});
                if !kind.is_empty() {
                    span["kind"] = (*kind).into();
                }
                if *failed {
                    span["tags"] = serde_json::json!({"error": ""});
                }
                if shared && *kind == "SERVER" {
                    span["shared"] = true.into();
                }
                span.to_string()
            })
            .collect();
        let spans = crate::span::read(format!("[{}]", spans.join(",")).as_bytes()).unwrap();
        let spans: Vec<Arc<Span>> = spans.into_iter().map(Arc::new).collect();
        let mut linker = Linker::default();
        linker.add(&spans);
        let links = linker.links();
        links
            .into_iter()
            .map(|l| (l.parent, l.child, l.call_count, l.error_count))
            .collect()
    }

    fn link(parent: &str, child: &str, calls: u64, errors: u64) -> (String, String, u64, u64) {
        (parent.into(), child.into(), calls, errors)
    }

    #[test]
    fn a_call_that_both_sides_tell_of_is_counted_once() {
        let rows = [
            ("1", "", "CLIENT", "web", "reviews", false),
            ("2", "1", "SERVER", "reviews", "web", false),
            ("3", "2", "CLIENT", "reviews", "ratings", true),
            ("4", "3", "SERVER", "ratings", "", false),
        ];
        let expected = [link("reviews", "ratings", 1, 1), link("web", "reviews", 1, 0)];
        assert_eq!(links(&rows, false), expected);
        // Whatever the order in which they come.
        let mut turned = rows;
        turned.reverse();
        assert_eq!(links(&turned, false), expected);
        // With one identifier for both sides.
        let rows = [
            ("1", "", "CLIENT", "web", "reviews", false),
            ("1", "", "SERVER", "reviews", "", false),
            ("2", "1", "CLIENT", "reviews", "ratings", true),
            ("2", "1", "SERVER", "ratings", "", false),
        ];
        assert_eq!(links(&rows, true), expected);
    }

    #[test]
    fn one_side_is_enough_and_gaps_are_filled() {
        assert_eq!(
            links(&[("1", "", "CLIENT", "web", "db", true)], false),
            [link("web", "db", 1, 1)]
        );
        assert_eq!(links(&[("1", "", "SERVER", "web", "", false)], false), []);
        assert_eq!(
            links(&[("1", "", "SERVER", "web", "user", false)], false),
            [link("user", "web", 1, 0)]
        );
        // A local span between the two sides, then one that names the other side only.
        let rows = [
            ("1", "", "SERVER", "web", "", false),
            ("2", "1", "", "web", "", false),
            ("3", "2", "CLIENT", "web", "db", false),
            ("4", "1", "", "web", "cache", false),
        ];
        assert_eq!(
            links(&rows, false),
            [link("web", "cache", 1, 0), link("web", "db", 1, 0)]
        );
        // The server of the first call says nothing, but it called on.
        let rows = [
            ("1", "", "CLIENT", "web", "", false),
            ("2", "1", "CLIENT", "reviews", "ratings", false),
        ];
        assert_eq!(
            links(&rows, false),
            [link("reviews", "ratings", 1, 0), link("web", "reviews", 1, 0)]
        );
        let rows = [
            ("1", "", "PRODUCER", "web", "queue", false),
            ("2", "1", "CONSUMER", "worker", "queue", true),
        ];
        assert_eq!(
            links(&rows, false),
            [link("queue", "worker", 1, 1), link("web", "queue", 1, 0)]
        );
    }

    #[test]
    fn circles_and_orphans_end() {
        let rows = [
            ("1", "2", "", "a", "", false),
            ("2", "1", "", "a", "", false),
            ("3", "9", "CLIENT", "a", "b", false),
        ];
        assert_eq!(links(&rows, false), [link("a", "b", 1, 0)]);
    }
}
