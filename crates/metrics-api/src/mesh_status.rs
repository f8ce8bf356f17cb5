//! `weir.dev`: the proxies and the problems of the mesh, as the control plane knows them.
//!
//! The state comes through closures, so that this crate knows nothing of the control plane.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use weir_api::mesh_status::{Explanation, GROUP, List, ProblemObject, Proxy, VERSION};
use weir_api::problem::Problem;
use weir_api::status::Status;
use weir_api::table::{Column, Row, Table};

use crate::aggregated::{Answer, BoxFuture, Group, Handler, Resource, ResourceRequest, Version};

/// The resources that the proxy with a node id is sent.
pub type NodeConfig = Arc<dyn Fn(&str) -> Option<Value> + Send + Sync>;

/// What happens to a request of the pod (namespace, name) with these query parameters.
pub type Explain = Arc<dyn Fn(&str, &str, &[(String, String)]) -> Result<Explanation, Unexplained> + Send + Sync>;

/// Why a request is not explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unexplained {
    /// There is no such pod.
    NoPod,
    /// The parameters are wrong: what, and what would be right.
    Wrong(String),
}

/// Where the answers come from. Each closure must be quick: it runs on the server's threads.
#[derive(Clone)]
pub struct MeshStatus {
    /// All proxies; `kind` and `apiVersion` are filled in here.
    pub proxies: Arc<dyn Fn() -> Vec<Proxy> + Send + Sync>,
    /// The resources that the proxy with this node id is sent, as JSON; `None` for a node that is not known.
    pub config: NodeConfig,
    /// The way of a request, in words.
    pub explain: Explain,
    /// All problems.
    pub problems: Arc<dyn Fn() -> Vec<Problem> + Send + Sync>,
}

/// The group with its resources.
pub fn group(status: MeshStatus) -> Group {
    let proxies = Resource {
        name: "proxies",
        singular: "proxy",
        kind: "Proxy",
        response_kind: "Proxy",
        namespaced: true,
        verbs: &["get", "list"],
        short_names: &[],
        subresources: &[("config", "ProxyConfig"), ("explain", "Explanation")],
    };
    let problems = Resource {
        name: "problems",
        singular: "problem",
        kind: "Problem",
        response_kind: "Problem",
        namespaced: false,
        verbs: &["list"],
        short_names: &[],
        subresources: &[],
    };
    let versions = vec![Version {
        name: VERSION,
        resources: vec![proxies, problems],
    }];
    Group {
        name: GROUP,
        versions,
        handler: Arc::new(status),
    }
}

impl MeshStatus {
    fn answer(&self, request: &ResourceRequest) -> Result<Answer, Status> {
        match (request.resource, &request.name, &request.subresource) {
            ("proxies", Some(name), Some(sub)) if sub == "explain" => self.explain(request, name),
            ("proxies", Some(name), Some(_)) => self.config(request, name),
            ("proxies", Some(name), None) => {
                let found = self
                    .proxies(request)
                    .into_iter()
                    .find(|p| p.metadata.name.as_ref() == Some(name));
                let proxy = found.ok_or_else(|| Status::not_found(GROUP, "proxies", name))?;
                let table = proxies_table(std::slice::from_ref(&proxy));
                Ok(Answer {
                    object: json(&proxy)?,
                    table: Some(table),
                })
            }
            ("proxies", None, _) => {
                let proxies = self.proxies(request);
                let table = proxies_table(&proxies);
                Ok(Answer {
                    object: json(&list("ProxyList", proxies))?,
                    table: Some(table),
                })
            }
            ("problems", None, _) => {
                let problems = self.problems(request);
                let table = problems_table(&problems);
                Ok(Answer {
                    object: json(&list("ProblemList", problems))?,
                    table: Some(table),
                })
            }
            _ => Err(Status::unknown_path()),
        }
    }

    fn proxies(&self, request: &ResourceRequest) -> Vec<Proxy> {
        let mut proxies = (self.proxies)();
        proxies.retain(|p| {
            let namespace = p.metadata.namespace.as_deref().unwrap_or_default();
            let name = p.metadata.name.as_deref().unwrap_or_default();
            request.namespace.as_deref().is_none_or(|n| n == namespace)
                && request.fields.matches(namespace, name)
                && request
                    .labels
                    .matches(p.metadata.labels.as_ref().unwrap_or(&Default::default()))
        });
        for proxy in &mut proxies {
            proxy.kind = "Proxy".into();
            proxy.api_version = format!("{GROUP}/{VERSION}");
        }
        proxies.sort_by(|a, b| {
            let key = |p: &Proxy| (p.metadata.namespace.clone(), p.metadata.name.clone());
            key(a).cmp(&key(b))
        });
        proxies
    }

    fn config(&self, request: &ResourceRequest, name: &str) -> Result<Answer, Status> {
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let config = (self.config)(&format!("{name}.{namespace}"));
        let resources = config.ok_or_else(|| Status::not_found(GROUP, "proxies", name))?;
        let object = serde_json::json!({
            "kind": "ProxyConfig",
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "metadata": {"name": name, "namespace": namespace},
            "resources": resources,
        });
        Ok(Answer { object, table: None })
    }

    fn explain(&self, request: &ResourceRequest, name: &str) -> Result<Answer, Status> {
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let explanation = (self.explain)(namespace, name, &request.parameters).map_err(|why| match why {
            Unexplained::NoPod => Status::not_found("", "pods", name),
            Unexplained::Wrong(message) => Status::bad_request(message),
        })?;
        let mut object = json(&explanation)?;
        object["kind"] = "Explanation".into();
        object["apiVersion"] = format!("{GROUP}/{VERSION}").into();
        object["metadata"] = serde_json::json!({"name": name, "namespace": namespace});
        Ok(Answer { object, table: None })
    }

    fn problems(&self, request: &ResourceRequest) -> Vec<ProblemObject> {
        let mut problems = (self.problems)();
        problems.sort();
        let object = |(number, problem): (usize, Problem)| ProblemObject {
            kind: "Problem".into(),
            api_version: format!("{GROUP}/{VERSION}"),
            metadata: ObjectMeta {
                name: Some(format!(
                    "{}-{}-{number}",
                    problem.object.kind.to_lowercase(),
                    problem.object.name
                )),
                ..Default::default()
            },
            problem,
        };
        let objects = problems.into_iter().enumerate().map(object);
        objects
            .filter(|p| {
                request
                    .fields
                    .matches("", p.metadata.name.as_deref().unwrap_or_default())
            })
            .collect()
    }
}

impl Handler for MeshStatus {
    fn handle(&self, request: ResourceRequest) -> BoxFuture<'_, Result<Answer, Status>> {
        let answer = self.answer(&request);
        Box::pin(async move { answer })
    }
}

fn list<T>(kind: &str, items: Vec<T>) -> List<T> {
    let api_version = format!("{GROUP}/{VERSION}");
    List {
        kind: kind.into(),
        api_version,
        metadata: Value::Object(Default::default()),
        items,
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Value, Status> {
    serde_json::to_value(value).map_err(Status::internal)
}

fn proxies_table(proxies: &[Proxy]) -> Table {
    let columns = vec![
        Column::name(),
        Column::new("Engine", "weir or envoy."),
        Column::new("ID", "Id of the running proxy."),
        Column::new("Connected", "Whether it has an open configuration stream."),
        Column::new("Synced", "Whether it acknowledged its newest configuration."),
        Column::new("Node", "Kubernetes node.").wide(),
        Column::new("Rejected", "What it refused last.").wide(),
    ];
    let yes_no = |b: bool| Value::from(if b { "yes" } else { "no" });
    let row = |p: &Proxy| {
        let s = &p.status;
        let cells = vec![
            p.metadata.name.clone().unwrap_or_default().into(),
            s.engine.clone().into(),
            s.id.clone().into(),
            yes_no(s.connected),
            yes_no(s.is_synced()),
            s.node.clone().into(),
            s.last_rejection.clone().into(),
        ];
        Row::new(cells, &p.metadata)
    };
    Table::new(columns, proxies.iter().map(row).collect())
}

fn problems_table(problems: &[ProblemObject]) -> Table {
    let columns = vec![
        Column {
            format: "name".into(),
            ..Column::new("Kind", "Kind of the object at fault.")
        },
        Column::new("Namespace", "Its namespace."),
        Column::new("Name", "Its name."),
        Column::new("Field", "The field at fault."),
        Column::new("Message", "What is wrong and what would be right."),
    ];
    let row = |p: &ProblemObject| {
        let Problem {
            object, field, message, ..
        } = &p.problem;
        let cells = [&object.kind, &object.namespace, &object.name, field, message];
        Row::new(
            cells.into_iter().map(|c| Value::from(c.as_str())).collect(),
            &p.metadata,
        )
    };
    Table::new(columns, problems.iter().map(row).collect())
}
