//! `metrics.smi-spec.io`: TrafficMetrics of pods, deployments and namespaces, and of the edges between them.
//!
//! A list costs four queries and an edges request six, however many resources there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::Value;
use weir_api::status::Status;
use weir_api::table::{Column, Row, Table};
use weir_api::traffic_metrics::{
    Edge, EdgeDirection, Figures, GROUP, ListSelector, ResourceRef, Side, TrafficMetrics, TrafficMetricsList, V1ALPHA1,
    V1ALPHA2,
};

use crate::aggregated::{Answer, BoxFuture, Group, Handler, Resource, ResourceRequest, Verb, Version};
use crate::inventory::{Inventory, Objects};
use crate::query::{Flow, Key, Kind, Metrics, QueryError, Scope, Traffic};

/// Longest window that can be asked for: what the embedded store keeps.
const WINDOW_MAX: Duration = Duration::from_secs(3600);
/// Shortest window that can be asked for.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// How far behind now figures end. A scrape that is under way has a timestamp but no samples yet; without this, a list
/// asked for in that moment would miss one scrape of some pods and not of others.
const SETTLE: Duration = Duration::from_millis(500);
/// The name that stands for all resources at once, for their edges.
const ALL: &str = "*";

const SUBRESOURCES: &[(&str, &str)] = &[("edges", "TrafficMetricsList")];
const VERBS: &[&str] = &["get", "list"];

/// The group with its resources.
pub fn group(smi: Smi) -> Group {
    let resource = |name, singular, response_kind, namespaced| Resource {
        name,
        singular,
        kind: "TrafficMetrics",
        response_kind,
        namespaced,
        verbs: VERBS,
        short_names: &[],
        subresources: SUBRESOURCES,
    };
    let resources = vec![
        resource("deployments", "deployment", "DeploymentTrafficMetrics", true),
        resource("namespaces", "namespace", "NamespaceTrafficMetrics", false),
        resource("pods", "pod", "PodTrafficMetrics", true),
    ];
    let version = |name| Version {
        name,
        resources: resources.clone(),
    };
    Group {
        name: GROUP,
        versions: vec![version(V1ALPHA1), version(V1ALPHA2)],
        handler: Arc::new(smi),
    }
}

/// Answers the group's requests.
pub struct Smi {
    traffic: Traffic,
    inventory: Inventory,
    window: Duration,
    now: fn() -> jiff::Timestamp,
}

/// What a request comes down to.
struct Question<'a> {
    request: &'a ResourceRequest,
    kind: Kind,
    objects: &'a Objects,
    window: Duration,
    /// End of the window.
    now: jiff::Timestamp,
}

impl Smi {
    /// Figures from `metrics`, names from `inventory`, over `window` unless a client asks for another.
    pub fn new(metrics: Arc<dyn Metrics>, inventory: Inventory, window: Duration) -> Self {
        Smi {
            traffic: Traffic::new(metrics),
            inventory,
            window,
            now: jiff::Timestamp::now,
        }
    }

    /// The same with another clock.
    pub fn with_clock(self, now: fn() -> jiff::Timestamp) -> Self {
        Smi { now, ..self }
    }

    async fn answer(&self, request: ResourceRequest) -> Result<Answer, Status> {
        let (kind, objects) = match request.resource {
            "pods" => (Kind::Pod, &self.inventory.pods),
            "deployments" => (Kind::Deployment, &self.inventory.deployments),
            "namespaces" => (Kind::Namespace, &self.inventory.namespaces),
            _ => return Err(Status::unknown_path()),
        };
        if !objects.is_ready() {
            return Err(Status::service_unavailable(format!(
                "the {} are not listed yet",
                request.resource
            )));
        }
        let window = match request.parameter("t").or_else(|| request.parameter("window")) {
            Some(text) => parse_window(text).map_err(Status::bad_request)?,
            None => self.window,
        };
        let now = (self.now)();
        let now = now.checked_sub(SETTLE).unwrap_or(now);
        let question = Question {
            request: &request,
            kind,
            objects,
            window,
            now,
        };
        let single = request.name.as_deref().filter(|n| *n != ALL);
        if let Some(name) = single
            && objects.get(question.namespace(), name).is_none()
        {
            return Err(Status::not_found(GROUP, request.resource, name));
        }
        match (&request.subresource, request.verb, single) {
            (Some(_), _, _) => self.edges(&question).await,
            (None, Verb::Get, Some(_)) => self.get(&question).await,
            (None, Verb::List, _) => self.list(&question).await,
            _ => Err(Status::not_found(GROUP, request.resource, ALL)),
        }
    }

    async fn get(&self, question: &Question<'_>) -> Result<Answer, Status> {
        let key = (
            question.namespace().to_owned(),
            question.request.name.clone().unwrap_or_default(),
        );
        let item = self
            .items(question, &[key])
            .await?
            .pop()
            .ok_or_else(|| Status::internal("no item"))?;
        let table = received_table(std::slice::from_ref(&item), question.window);
        Ok(Answer {
            object: json(&item)?,
            table: Some(table),
        })
    }

    async fn list(&self, question: &Question<'_>) -> Result<Answer, Status> {
        let request = question.request;
        let keys = question.objects.select(|(namespace, name), labels| {
            question.in_namespace(namespace)
                && request.fields.matches(namespace, name)
                && request.labels.matches(labels)
        });
        let items = self.items(question, &keys).await?;
        let table = received_table(&items, question.window);
        Ok(Answer {
            object: json(&question.list(items))?,
            table: Some(table),
        })
    }

    /// All traffic the resources received: as their own proxies saw it, or, without one, as the senders' did.
    async fn items(&self, question: &Question<'_>, keys: &[Key]) -> Result<Vec<TrafficMetrics>, Status> {
        let (scope, window, at) = (question.scope(), question.window, question.now.as_millisecond());
        let (by_server, by_clients) = futures::try_join!(
            self.traffic.received_by_server(question.kind, &scope, window, at),
            self.traffic.received_by_clients(question.kind, &scope, window, at),
        )
        .map_err(unavailable)?;
        let item = |key: &Key| {
            let (side, figures) = match (by_server.get(key), by_clients.get(key)) {
                (Some(figures), _) => (Side::Server, *figures),
                (None, Some(figures)) => (Side::Client, *figures),
                (None, None) => (Side::Server, Figures::default()),
            };
            let edge = Edge {
                direction: EdgeDirection::From,
                side,
                resource: ResourceRef::default(),
            };
            question.item(key, edge, &figures)
        };
        Ok(keys.iter().map(item).collect())
    }

    /// The pairs that a resource (or, with name `*`, any resource) was part of.
    async fn edges(&self, question: &Question<'_>) -> Result<Answer, Status> {
        let (scope, kind, window, at) = (
            question.scope(),
            question.kind,
            question.window,
            question.now.as_millisecond(),
        );
        let (sent, received, answered) = futures::try_join!(
            self.traffic.sent(kind, &scope, window, at),
            self.traffic.received(kind, &scope, window, at),
            self.traffic.answered(kind, &scope, window, at),
        )
        .map_err(unavailable)?;
        let items = edge_items(question, sent, received, answered);
        let table = edges_table(&items, question.window);
        Ok(Answer {
            object: json(&question.list(items))?,
            table: Some(table),
        })
    }
}

fn edge_items(
    question: &Question<'_>,
    sent: Vec<Flow>,
    received: Vec<Flow>,
    answered: Vec<Flow>,
) -> Vec<TrafficMetrics> {
    let (request, all) = (question.request, question.request.name.as_deref() == Some(ALL));
    // Of all resources at once, the selectors choose; of one that is named they have nothing to choose.
    let chosen = |(namespace, name): &Key| {
        !all || question.objects.get(namespace, name).is_some_and(|labels| {
            question.in_namespace(namespace)
                && request.fields.matches(namespace, name)
                && request.labels.matches(&labels)
        })
    };
    let item = |direction, side, own: &Key, peer: &Key, figures: &Figures| {
        let edge = Edge {
            direction,
            side,
            resource: question.reference(peer),
        };
        chosen(own).then(|| question.item(own, edge, figures))
    };
    // What the sender's proxy saw is told once; the receiver's view fills in for senders without a proxy.
    let measured: BTreeSet<(Key, Key)> = received.iter().map(|f| (f.from.clone(), f.to.clone())).collect();
    let to = sent
        .iter()
        .filter_map(|f| item(EdgeDirection::To, Side::Client, &f.from, &f.to, &f.figures));
    let from = received
        .iter()
        .filter_map(|f| item(EdgeDirection::From, Side::Client, &f.to, &f.from, &f.figures));
    let others = answered
        .iter()
        .filter(|f| !measured.contains(&(f.from.clone(), f.to.clone())));
    let from_others = others.filter_map(|f| item(EdgeDirection::From, Side::Server, &f.to, &f.from, &f.figures));
    let mut items: Vec<TrafficMetrics> = to.chain(from).chain(from_others).collect();
    items.sort_by(|a, b| {
        let key = |i: &TrafficMetrics| (i.resource.clone(), i.edge.direction, i.edge.resource.clone());
        key(a).cmp(&key(b))
    });
    items
}

impl Question<'_> {
    /// Namespace of the objects; a namespace itself has none.
    fn namespace(&self) -> &str {
        if self.kind == Kind::Namespace {
            ""
        } else {
            self.request.namespace.as_deref().unwrap_or_default()
        }
    }

    fn in_namespace(&self, namespace: &str) -> bool {
        self.kind == Kind::Namespace || self.request.namespace.as_deref().is_none_or(|n| n == namespace)
    }

    fn scope(&self) -> Scope {
        let name = self.request.name.clone().filter(|n| n != ALL);
        Scope {
            namespace: self.request.namespace.clone(),
            name,
        }
    }

    fn reference(&self, (namespace, name): &Key) -> ResourceRef {
        let kind = match self.kind {
            Kind::Pod => "Pod",
            Kind::Deployment => "Deployment",
            Kind::Namespace => "Namespace",
        };
        ResourceRef {
            kind: kind.into(),
            namespace: namespace.clone(),
            name: name.clone(),
        }
    }

    fn item(&self, key: &Key, edge: Edge, figures: &Figures) -> TrafficMetrics {
        let version = self.request.version;
        TrafficMetrics {
            kind: "TrafficMetrics".into(),
            api_version: format!("{GROUP}/{version}"),
            metadata: ObjectMeta {
                name: Some(key.1.clone()),
                namespace: (!key.0.is_empty()).then(|| key.0.clone()),
                creation_timestamp: Some(Time(self.now)),
                ..Default::default()
            },
            timestamp: self.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            window: format_window(self.window),
            resource: self.reference(key),
            edge,
            backend: None,
            metrics: figures.to_metrics(version),
        }
    }

    fn list(&self, items: Vec<TrafficMetrics>) -> TrafficMetricsList {
        let name = self.request.name.clone().filter(|n| n != ALL).unwrap_or_default();
        let labels: BTreeMap<String, String> = self.request.labels.match_labels();
        TrafficMetricsList {
            kind: "TrafficMetricsList".into(),
            api_version: format!("{GROUP}/{}", self.request.version),
            metadata: Value::Object(Default::default()),
            resource: self.reference(&(self.namespace().to_owned(), name)),
            selector: (!labels.is_empty()).then_some(ListSelector { match_labels: labels }),
            items,
        }
    }
}

impl Handler for Smi {
    fn handle(&self, request: ResourceRequest) -> BoxFuture<'_, Result<Answer, Status>> {
        Box::pin(self.answer(request))
    }
}

fn unavailable(error: QueryError) -> Status {
    tracing::warn!(%error, "query failed");
    Status::service_unavailable(error.to_string())
}

fn json<T: serde::Serialize>(value: &T) -> Result<Value, Status> {
    serde_json::to_value(value).map_err(Status::internal)
}

fn figure_columns() -> [Column; 7] {
    [
        Column::new("Success", "Share of requests that succeeded."),
        Column::new("RPS", "Requests a second, averaged over the window."),
        Column::new("Latency_P99", "99 of 100 requests took no longer."),
        Column::new("Latency_P90", "9 of 10 requests took no longer.").wide(),
        Column::new("Latency_P50", "Half of the requests took no longer.").wide(),
        Column::new("Succeeded", "Requests that succeeded in the window.").wide(),
        Column::new("Failed", "Requests that failed in the window.").wide(),
    ]
}

fn figure_cells(figures: &Figures, window: Duration) -> [Value; 7] {
    [
        figures.success_text().into(),
        figures.rps_text(window).into(),
        Figures::latency_text(figures.p99_s).into(),
        Figures::latency_text(figures.p90_s).into(),
        Figures::latency_text(figures.p50_s).into(),
        figures.success.to_string().into(),
        figures.failure.to_string().into(),
    ]
}

fn received_table(items: &[TrafficMetrics], window: Duration) -> Table {
    let columns = std::iter::once(Column::name()).chain(figure_columns()).collect();
    let row = |item: &TrafficMetrics| {
        let name = Value::from(item.resource.name.clone());
        Row::new(
            std::iter::once(name)
                .chain(figure_cells(&item.figures(), window))
                .collect(),
            &item.metadata,
        )
    };
    Table::new(columns, items.iter().map(row).collect())
}

fn edges_table(items: &[TrafficMetrics], window: Duration) -> Table {
    let lead = [
        Column::name(),
        Column::new("Direction", "Whether requests go to or come from the peer."),
        Column::new("Peer", "The other end."),
        Column::new("Side", "Who measured.").wide(),
    ];
    let row = |item: &TrafficMetrics| {
        let direction = if item.edge.direction == EdgeDirection::To {
            "to"
        } else {
            "from"
        };
        let side = if item.edge.side == Side::Client {
            "client"
        } else {
            "server"
        };
        let peer = &item.edge.resource;
        let peer = match peer.namespace.as_str() {
            "" => peer.name.clone(),
            namespace => format!("{namespace}/{}", peer.name),
        };
        let lead = [
            item.resource.name.clone().into(),
            direction.into(),
            peer.into(),
            side.into(),
        ];
        Row::new(
            lead.into_iter().chain(figure_cells(&item.figures(), window)).collect(),
            &item.metadata,
        )
    };
    Table::new(
        lead.into_iter().chain(figure_columns()).collect(),
        items.iter().map(row).collect(),
    )
}

/// Parses `30s`, `1m30s`, `500ms` within the limits; the error says what would be right.
fn parse_window(text: &str) -> Result<Duration, String> {
    let window = duration(text).filter(|w| (WINDOW_MIN..=WINDOW_MAX).contains(w));
    window.ok_or_else(|| format!("{text:?} is not a window; write a duration from 1s to 1h, such as 30s or 5m"))
}

fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|d| *d > 0)?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let letters = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let millis = match &unit[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = &unit[letters..];
    }
    Some(total)
}

/// As Kubernetes writes a duration: `30s`, `1m30s`, `1h0m0s`.
fn format_window(window: Duration) -> String {
    let (s, ms) = (window.as_secs(), window.subsec_millis());
    let seconds = if ms == 0 {
        format!("{}s", s % 60)
    } else {
        format!("{}.{ms:03}s", s % 60)
    };
    match (s / 3600, s / 60 % 60) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m}m{seconds}"),
    }
}

#[cfg(test)]
mod tests;
