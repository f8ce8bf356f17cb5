//! `proxies`: the proxies of the mesh as the control plane sees them; one proxy's log, and a program beside it.

mod visit;

use std::process::ExitCode;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use weir_api::labels;
use weir_api::mesh_status::{GROUP, List, Proxy, VERSION};

use crate::connect::{Connection, escape};
use crate::error::Error;
use crate::table::{Align, Table};
use crate::top::nothing_found;
use crate::watch::{Output, print};
use visit::Action;

/// What is shown of an id, unless there is room: as much as tells one from another.
const ID_CHARS: usize = 12;

/// Where mesh state comes from.
pub fn base_path() -> String {
    format!("/apis/{GROUP}/{VERSION}")
}

/// Arguments of `proxies`.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Proxies {
    #[command(subcommand)]
    action: Option<Action>,
    /// Namespace (default: the context's).
    #[arg(short = 'n', long, value_name = "NAME")]
    namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only those on this Kubernetes node.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Proxies {
    /// Shows the table.
    pub async fn run(self) -> Result<ExitCode, Error> {
        if let Some(action) = self.action {
            return action.run().await;
        }
        let cluster = self.connection.open().await?;
        let namespace = self.namespace.as_deref().unwrap_or(&cluster.namespace);
        let namespace = (!self.all_namespaces).then_some(namespace);
        let path = match namespace {
            Some(namespace) => format!("{}/namespaces/{}/proxies", base_path(), escape(namespace)),
            None => format!("{}/proxies", base_path()),
        };
        let mut answer: Value = cluster.get(&path).await?;
        if let (Some(node), Some(items)) = (&self.node, answer["items"].as_array_mut()) {
            items.retain(|proxy| proxy["status"]["node"] == **node);
        }
        if let Some(text) = self.output.raw(&answer)? {
            print(&text);
            return Ok(ExitCode::SUCCESS);
        }
        let mut list: List<Proxy> =
            serde_json::from_value(answer).map_err(|e| Error::Answer(format!("{path}: {e}")))?;
        if let Ok(pods) = cluster.get::<Pods>(&path_of_pods(namespace)).await {
            complete(&mut list.items, &pods.items);
        }
        if list.items.is_empty() {
            print(&nothing_found("proxies", namespace));
            return Ok(ExitCode::SUCCESS);
        }
        print(&render(&list.items, self.all_namespaces, self.output == Output::Wide));
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(serde::Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

fn path_of_pods(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("/api/v1/namespaces/{}/pods", escape(namespace)),
        None => "/api/v1/pods".to_owned(),
    }
}

/// The control plane need not know the ids that agents give and the names of machines: the pods say them.
fn complete(proxies: &mut [Proxy], pods: &[Pod]) {
    for proxy in proxies {
        let meta = &proxy.metadata;
        let same = |p: &&Pod| p.metadata.name == meta.name && p.metadata.namespace == meta.namespace;
        let Some(pod) = pods.iter().find(same) else { continue };
        if proxy.status.id.is_empty() {
            proxy.status.id = labels::value(&pod.metadata, labels::PROXY)
                .unwrap_or_default()
                .to_owned();
        }
        if let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.as_ref()) {
            proxy.status.node.clone_from(node);
        }
    }
}

fn render(proxies: &[Proxy], namespaces: bool, wide: bool) -> String {
    let mut headings = vec!["POD", "ENGINE", "ID", "CONNECTED", "SYNCED", "NODE"];
    if namespaces {
        headings.insert(0, "NAMESPACE");
    }
    if wide {
        headings.push("REJECTED");
    }
    let columns = headings.len();
    let mut table = Table::new(headings.into_iter().map(|h| (h, Align::Left)));
    for proxy in proxies {
        let (meta, s) = (&proxy.metadata, &proxy.status);
        let lead = namespaces.then(|| meta.namespace.clone().unwrap_or_default());
        let yes_no = |b: bool| if b { "yes" } else { "no" }.to_owned();
        let id = match s.id.as_str() {
            "" => "-".to_owned(),
            id if wide => id.to_owned(),
            id => id.chars().take(ID_CHARS).collect(),
        };
        let cells = [
            meta.name.clone().unwrap_or_default(),
            s.engine.clone(),
            id,
            yes_no(s.connected),
            synced_text(proxy),
            s.node.clone(),
            s.last_rejection.clone(),
        ];
        table.row(lead.into_iter().chain(cells).take(columns));
    }
    table.render()
}

/// `yes`, `no`, or which types lag behind.
pub fn synced_text(proxy: &Proxy) -> String {
    let s = &proxy.status;
    if !s.connected {
        return "-".to_owned();
    }
    let late: Vec<&str> = s
        .synced
        .iter()
        .filter(|(_, ok)| !**ok)
        .map(|(t, _)| t.as_str())
        .collect();
    if late.is_empty() {
        "yes".to_owned()
    } else {
        format!("no ({})", late.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_api::mesh_status::ProxyState;

    #[test]
    fn table() {
        let proxy = |name: &str, status: ProxyState| {
            let mut proxy = Proxy {
                status,
                ..Default::default()
            };
            proxy.metadata.name = Some(name.into());
            proxy.metadata.namespace = Some("default".into());
            proxy
        };
        let synced = |eds| [("cds".to_owned(), true), ("eds".to_owned(), eds)].into();
        let state = |connected, eds| ProxyState {
            engine: "weir".into(),
            id: "4f2a".into(),
            node: "weir-local".into(),
            connected,
            synced: synced(eds),
            ..Default::default()
        };
        let gone = ProxyState {
            engine: "envoy".into(),
            ..Default::default()
        };
        let proxies = [
            proxy("a-1", state(true, true)),
            proxy("b-1", state(true, false)),
            proxy("c-1", gone),
        ];
        let expected = "\
NAMESPACE   POD   ENGINE   ID     CONNECTED   SYNCED     NODE
default     a-1   weir     4f2a   yes         yes        weir-local
default     b-1   weir     4f2a   yes         no (eds)   weir-local
default     c-1   envoy    -      no          -
";
        assert_eq!(render(&proxies, true, false), expected);
    }
}
