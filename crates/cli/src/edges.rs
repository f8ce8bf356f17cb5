//! `edges`: who talks to whom, one row a pair and direction.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::Value;
use weir_api::traffic_metrics::{EdgeDirection, ResourceRef, Side, TrafficMetrics, TrafficMetricsList};

use crate::connect::{Cluster, Connection};
use crate::error::Error;
use crate::figures;
use crate::resource::{Selection, kind_and_name};
use crate::table::{Align, Table};
use crate::watch::{Output, show};

/// The name that stands for all resources.
const ALL: &str = "*";

/// Arguments of `edges`.
#[derive(clap::Args, Clone, Debug)]
pub struct Edges {
    /// pods, deployments or namespaces; KIND/NAME for one of them.
    #[arg(default_value = "deployments")]
    kind: String,
    /// Only the edges of the one of that name.
    name: Option<String>,
    #[command(flatten)]
    selection: Selection,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Show it again every two seconds.
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Edges {
    /// Shows the table.
    pub async fn run(self) -> Result<ExitCode, Error> {
        let cluster = self.connection.open().await?;
        show(self.watch, || self.picture(&cluster)).await
    }

    async fn picture(&self, cluster: &Cluster) -> Result<String, Error> {
        let (kind, name) = kind_and_name(&self.kind, self.name.as_deref());
        if name.is_some() && self.selection.all_namespaces {
            return Err(Error::Usage("a name needs one namespace: leave out -A".into()));
        }
        let namespace = self.selection.namespace(cluster, &kind);
        let rest = [name.as_deref().unwrap_or(ALL), "edges"];
        let path = self.selection.path(&figures::base_path(), namespace, &kind, &rest);
        let answer: Value = cluster.get(&path).await?;
        if let Some(text) = self.output.raw(&answer)? {
            return Ok(text);
        }
        let list: TrafficMetricsList =
            serde_json::from_value(answer).map_err(|e| Error::Answer(format!("{path}: {e}")))?;
        if list.items.is_empty() {
            let window = self.selection.window.as_deref().unwrap_or("30s");
            return Ok(format!("No traffic between {kind} in the last {window}.\n"));
        }
        Ok(render(&list.items, namespace, self.output == Output::Wide))
    }
}

/// Sender and receiver of an item.
fn ends(item: &TrafficMetrics) -> (ResourceRef, ResourceRef) {
    let (own, peer) = (item.resource.clone(), item.edge.resource.clone());
    match item.edge.direction {
        EdgeDirection::To => (own, peer),
        EdgeDirection::From => (peer, own),
    }
}

/// A pair shows once even if both its ends are listed; the sender's measurement goes before the receiver's.
fn render(items: &[TrafficMetrics], namespace: Option<&str>, wide: bool) -> String {
    let mut pairs: BTreeMap<(ResourceRef, ResourceRef), &TrafficMetrics> = BTreeMap::new();
    for item in items {
        let shown = pairs.entry(ends(item)).or_insert(item);
        if item.edge.side < shown.edge.side {
            *shown = item;
        }
    }
    let mut headings = vec![("FROM", Align::Left), ("TO", Align::Left)];
    headings.extend(figures::headings(wide));
    if wide {
        headings.push(("SIDE", Align::Left));
    }
    let mut table = Table::new(headings);
    for ((from, to), item) in pairs {
        let lead = [from, to].map(|end| figures::resource_text(&end, namespace));
        let side = if item.edge.side == Side::Client {
            "client"
        } else {
            "server"
        };
        table.row(
            lead.into_iter()
                .chain(figures::cells(item, wide))
                .chain([side.to_owned()])
                .take(if wide { 10 } else { 5 }),
        );
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(own: &str, direction: &str, side: &str, peer: (&str, &str), success: &str) -> TrafficMetrics {
        serde_json::from_value(json!({
            "kind": "TrafficMetrics", "apiVersion": "metrics.smi-spec.io/v1alpha1",
            "timestamp": "2019-04-08T22:25:55Z", "window": "30s",
            "resource": {"kind": "Deployment", "namespace": "default", "name": own},
            "edge": {
                "direction": direction, "side": side,
                "resource": {"kind": "Deployment", "namespace": peer.0, "name": peer.1},
            },
            "metrics": [{"name": "success_count", "value": success}, {"name": "failure_count", "value": "0"}],
        }))
        .unwrap()
    }

    #[test]
    fn a_pair_shows_once_a_direction() {
        let items = [
            item("productpage", "to", "client", ("default", "reviews"), "60"),
            item("reviews", "from", "server", ("default", "productpage"), "59"),
            item("reviews", "from", "client", ("default", "productpage"), "60"),
            item("reviews", "to", "client", ("default", "productpage"), "3"),
            item("productpage", "from", "server", ("other", "client"), "30"),
        ];
        let expected = "\
FROM           TO            SUCCESS      RPS   LATENCY_P99
productpage    reviews       100.00%   2.0rps             -
reviews        productpage   100.00%   0.1rps             -
other/client   productpage   100.00%   1.0rps             -
";
        assert_eq!(render(&items, Some("default"), false), expected);
    }
}
