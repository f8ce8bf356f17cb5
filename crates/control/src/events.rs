//! Problems as Kubernetes Events on the objects at fault.
//!
//! An Event is written when a problem appears, not while it lasts. Its name follows from the problem, so that a problem
//! that comes again, or that another replica sees too, counts up one Event.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use weir_api::problem::Problem;

/// New problems that may wait to be written; what comes on top is logged only.
const EVENTS_QUEUED: usize = 1024;
/// What an Event's message may hold.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Component that Events are reported by.
const COMPONENT: &str = "weir-control";

/// Takes note of the problems there are and has Events written for new ones.
pub struct Events {
    current: BTreeSet<Problem>,
    queue: mpsc::Sender<Problem>,
}

impl Events {
    /// The recorder and the task that writes what it records, until the recorder is dropped.
    pub fn new(client: Client) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, mut problems) = mpsc::channel::<Problem>(EVENTS_QUEUED);
        let write = async move {
            while let Some(problem) = problems.recv().await {
                if let Err(error) = publish(&client, &problem).await {
                    tracing::warn!(%problem, %error, "Event could not be written");
                }
            }
        };
        (
            Self {
                current: BTreeSet::new(),
                queue,
            },
            write,
        )
    }

    /// The problems as they are now. True when they differ from those before.
    pub fn update(&mut self, problems: &[Problem]) -> bool {
        let problems: BTreeSet<Problem> = problems.iter().cloned().collect();
        if problems == self.current {
            return false;
        }
        for problem in problems.difference(&self.current) {
            tracing::warn!(%problem, "problem");
            if self.queue.try_send(problem.clone()).is_err() {
                tracing::warn!(%problem, "too many Events at once, this one is not written");
            }
        }
        self.current = problems;
        true
    }
}

/// The reason shown for a problem.
fn reason(problem: &Problem) -> &'static str {
    if problem.field.starts_with("metadata.") {
        "InvalidTrafficLabel"
    } else if problem.field.starts_with("data[") {
        "InvalidMeshConfiguration"
    } else if problem.field.starts_with("spec") && problem.object.kind != "Service" {
        "InvalidSpecification"
    } else if problem.field.starts_with("spec.") {
        "TrafficLabelHasNoEffect"
    } else {
        "ConfigurationRejected"
    }
}

/// Name of a problem's Event: the object's, with a hash of what is wrong.
fn name(problem: &Problem) -> String {
    let text = format!("{}\0{}\0{}", problem.object.kind, problem.field, problem.message);
    format!(
        "{}.{}",
        problem.object.name,
        weir_xds::types::version_of(text.as_bytes())
    )
}

fn event(problem: &Problem, now: jiff::Timestamp) -> Event {
    // Events about cluster-wide objects live in `default`.
    let namespace = if problem.object.namespace.is_empty() {
        "default"
    } else {
        &problem.object.namespace
    };
    let mut message = format!("{}: {}", problem.field, problem.message);
    while message.len() > MESSAGE_BYTES_MAX {
        message.pop();
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(name(problem)),
            namespace: Some(namespace.to_owned()),
            ..Default::default()
        },
        involved_object: ObjectReference {
            api_version: some(&problem.object.api_version),
            kind: some(&problem.object.kind),
            namespace: some(&problem.object.namespace),
            name: some(&problem.object.name),
            uid: some(&problem.object.uid),
            ..Default::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(reason(problem).to_owned()),
        message: Some(message),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: None,
        }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(COMPONENT.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Default::default()
    }
}

async fn publish(client: &Client, problem: &Problem) -> Result<(), kube::Error> {
    let event = event(problem, jiff::Timestamp::now());
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    match api.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => return other.map(drop),
    }
    // It is there: seen again. The answer to the first patch tells the count, so that no right to read Events is needed.
    let name = name(problem);
    let patch = async |body| api.patch(&name, &PatchParams::default(), &Patch::Merge(body)).await;
    let seen = patch(serde_json::json!({"lastTimestamp": event.last_timestamp})).await?;
    let count = seen.count.unwrap_or(1).saturating_add(1);
    patch(serde_json::json!({"count": count})).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_api::problem::ObjectRef;

    fn problem(message: &str) -> Problem {
        Problem {
            object: ObjectRef {
                kind: "Service".into(),
                namespace: "default".into(),
                name: "web".into(),
                ..Default::default()
            },
            field: "metadata.labels[traffic.port.80]".into(),
            message: message.into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_event_for_each_new_problem_only() {
        let (queue, mut written) = mpsc::channel(EVENTS_QUEUED);
        let mut events = Events {
            current: BTreeSet::new(),
            queue,
        };
        assert!(events.update(&[problem("a")]));
        assert!(!events.update(&[problem("a")]));
        assert!(events.update(&[problem("a"), problem("b")]));
        assert!(events.update(&[]));
        assert!(events.update(&[problem("a")]), "it came again");
        drop(events);
        let mut seen = Vec::new();
        while let Ok(problem) = written.try_recv() {
            seen.push(problem.message);
        }
        assert_eq!(seen, ["a", "b", "a"]);
    }

    #[test]
    fn an_event_says_object_field_and_remedy() {
        let event = event(&problem("no \"htpp\""), jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(
            event.message.as_deref(),
            Some("metadata.labels[traffic.port.80]: no \"htpp\"")
        );
        assert_eq!(event.reason.as_deref(), Some("InvalidTrafficLabel"));
        assert_eq!(event.involved_object.kind.as_deref(), Some("Service"));
        assert!(event.metadata.name.unwrap().starts_with("web."));
    }
}
