//! `top`: success rate, requests a second and latency, one row a resource.

use std::process::ExitCode;

use serde_json::Value;
use weir_api::traffic_metrics::{TrafficMetrics, TrafficMetricsList};

use crate::connect::{Cluster, Connection};
use crate::error::Error;
use crate::figures;
use crate::resource::{Selection, kind_and_name};
use crate::table::{Align, Table};
use crate::watch::{Output, show};

/// Arguments of `top`.
#[derive(clap::Args, Clone, Debug)]
pub struct Top {
    /// pods, deployments or namespaces; KIND/NAME for one of them.
    kind: String,
    /// Only the one of that name.
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

impl Top {
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
        let path = self
            .selection
            .path(&figures::base_path(), namespace, &kind, name.as_deref().as_slice());
        let answer: Value = cluster.get(&path).await?;
        if let Some(text) = self.output.raw(&answer)? {
            return Ok(text);
        }
        let items = items(answer).map_err(|e| Error::Answer(format!("{path}: {e}")))?;
        if items.is_empty() {
            return Ok(nothing_found(&kind, namespace));
        }
        Ok(render(
            &items,
            self.selection.all_namespaces && kind != "namespaces",
            self.output == Output::Wide,
        ))
    }
}

/// The items of a list, or the one object.
fn items(answer: Value) -> Result<Vec<TrafficMetrics>, serde_json::Error> {
    if answer["kind"] == "TrafficMetrics" {
        return Ok(vec![serde_json::from_value(answer)?]);
    }
    Ok(serde_json::from_value::<TrafficMetricsList>(answer)?.items)
}

/// What kubectl says when a list is empty.
pub fn nothing_found(kind: &str, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("No {kind} found in {namespace} namespace.\n"),
        None => format!("No {kind} found.\n"),
    }
}

fn render(items: &[TrafficMetrics], namespaces: bool, wide: bool) -> String {
    let mut headings = vec![("NAME", Align::Left)];
    if namespaces {
        headings.insert(0, ("NAMESPACE", Align::Left));
    }
    headings.extend(figures::headings(wide));
    let mut table = Table::new(headings);
    for item in items {
        let namespace = namespaces.then(|| item.resource.namespace.clone());
        let lead = namespace.into_iter().chain([item.resource.name.clone()]);
        table.row(lead.chain(figures::cells(item, wide)));
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list() -> Value {
        let item = |name: &str, metrics: Value| {
            json!({
                "kind": "TrafficMetrics", "apiVersion": "metrics.smi-spec.io/v1alpha1", "metadata": {"name": name},
                "timestamp": "2019-04-08T22:25:55Z", "window": "30s",
                "resource": {"kind": "Pod", "namespace": "default", "name": name},
                "edge": {"direction": "from", "side": "server", "resource": {}}, "metrics": metrics,
            })
        };
        let busy = json!([
            {"name": "p99_response_latency", "unit": "seconds", "value": "10m"},
            {"name": "p90_response_latency", "unit": "seconds", "value": "9m"},
            {"name": "p50_response_latency", "unit": "seconds", "value": "1m"},
            {"name": "success_count", "value": "52"}, {"name": "failure_count", "value": "2"},
        ]);
        let idle = json!([{"name": "success_count", "value": "0"}, {"name": "failure_count", "value": "0"}]);
        json!({
            "kind": "TrafficMetricsList", "apiVersion": "metrics.smi-spec.io/v1alpha1", "metadata": {},
            "resource": {"kind": "Pod"},
            "items": [item("foo-6846bf6b-gjmvz", busy), item("vote-bot-0", idle)],
        })
    }

    #[test]
    fn table() {
        let items = items(list()).unwrap();
        let expected = "\
NAME                 SUCCESS      RPS   LATENCY_P99
foo-6846bf6b-gjmvz    96.29%   1.8rps          10ms
vote-bot-0                 -        -             -
";
        assert_eq!(render(&items, false, false), expected);
    }

    #[test]
    fn wide_table_of_all_namespaces() {
        let items = items(list()).unwrap();
        let expected = "\
NAMESPACE   NAME                 SUCCESS      RPS   LATENCY_P99   LATENCY_P90   LATENCY_P50   SUCCEEDED   FAILED
default     foo-6846bf6b-gjmvz    96.29%   1.8rps          10ms           9ms           1ms          52        2
default     vote-bot-0                 -        -             -             -             -           0        0
";
        assert_eq!(render(&items, true, true), expected);
    }
}
