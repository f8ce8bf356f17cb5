//! `config`: what a proxy is sent, resource by resource.

mod diff;

use std::process::ExitCode;

use serde_json::{Map, Value};
use weir_api::mesh_status::{GATEWAY, GATEWAY_NAMESPACE};

use crate::connect::{Connection, escape};
use crate::error::Error;
use crate::proxies::base_path;
use crate::table::{Align, Table};
use crate::watch::print;

/// Resource types in the order they are shown.
const TYPES: [Type; 5] = [Type::Lds, Type::Rds, Type::Cds, Type::Eds, Type::Sds];

/// A type of resources.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// Clusters.
    Cds,
    /// Endpoints.
    Eds,
    /// Listeners.
    Lds,
    /// Routes.
    Rds,
    /// Certificates; keys are not shown.
    Sds,
}

impl Type {
    fn key(self) -> &'static str {
        match self {
            Type::Cds => "cds",
            Type::Eds => "eds",
            Type::Lds => "lds",
            Type::Rds => "rds",
            Type::Sds => "sds",
        }
    }
}

/// Form of the output.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Form {
    /// The resources as YAML.
    #[default]
    Yaml,
    /// The resources as JSON.
    Json,
    /// One row a resource.
    Summary,
}

/// Arguments of `config`.
#[derive(clap::Args, Clone, Debug)]
pub struct Config {
    /// Node id of the proxy: POD.NAMESPACE, or traffic-ingress for the gateway.
    node: String,
    /// Only resources of this type.
    #[arg(long = "type", value_enum)]
    kind: Option<Type>,
    /// Only the resource of this name.
    #[arg(long)]
    name: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// Show instead how it differs from what the proxy took (ACKed) last; the exit code is 1 where it does.
    #[arg(long, conflicts_with = "output")]
    diff: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Config {
    /// Shows the resources.
    pub async fn run(self) -> Result<ExitCode, Error> {
        let (pod, namespace) = match self.node.rsplit_once('.') {
            Some(place) => place,
            None if self.node == GATEWAY => (GATEWAY, GATEWAY_NAMESPACE),
            None => {
                return Err(Error::Usage(format!(
                    "{:?} is not a node id; write POD.NAMESPACE, such as reviews-v1-abcde.default, or {GATEWAY} for the gateway",
                    self.node
                )));
            }
        };
        let cluster = self.connection.open().await?;
        let path = format!(
            "{}/namespaces/{}/proxies/{}/config",
            base_path(),
            escape(namespace),
            escape(pod)
        );
        let mut answer: Value = cluster.get(&path).await?;
        let pending = answer["resources"]["pending"].take();
        let resources = self.select(answer["resources"].take());
        if let Some(name) = &self.name
            && resources.is_empty()
            && !self.diff
        {
            return Err(Error::Refused(format!(
                "{} is sent no resource of the name {name:?}",
                self.node
            )));
        }
        if self.diff {
            let different = diff::render(&self.node, &resources, &self.select(pending.clone()), &pending)?;
            print(&different.text);
            return Ok(if different.is_empty {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        let unreadable = |e: &dyn std::fmt::Display| Error::Answer(format!("{path}: {e}"));
        match self.output {
            Form::Yaml => print(&serde_saphyr::to_string(&resources).map_err(|e| unreadable(&e))?),
            Form::Json => print(&(serde_json::to_string_pretty(&resources).map_err(|e| unreadable(&e))? + "\n")),
            Form::Summary => print(&summary(&resources)),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Type -> name -> resource, as far as the arguments ask for it.
    fn select(&self, mut all: Value) -> Map<String, Value> {
        let mut selected = Map::new();
        for kind in TYPES.into_iter().filter(|t| self.kind.is_none_or(|k| k == *t)) {
            let Value::Object(mut resources) = all[kind.key()].take() else {
                continue;
            };
            resources.retain(|name, _| self.name.as_ref().is_none_or(|n| n == name));
            // Asked for by name, a type without such a resource is left out.
            if self.name.is_none() || !resources.is_empty() {
                selected.insert(kind.key().to_owned(), resources.into());
            }
        }
        selected
    }
}

fn summary(resources: &Map<String, Value>) -> String {
    let mut table = Table::new(["TYPE", "NAME", "DETAIL"].map(|h| (h, Align::Left)));
    for kind in TYPES {
        for (name, resource) in resources
            .get(kind.key())
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            table.row([kind.key().to_owned(), name.clone(), detail(kind, resource)]);
        }
    }
    table.render()
}

fn detail(kind: Type, resource: &Value) -> String {
    match kind {
        Type::Lds => address(&resource["address"]),
        Type::Cds => text(&resource["type"]),
        Type::Sds => String::new(),
        Type::Rds => {
            let domains = |host: &Value| host["domains"].as_array().and_then(|d| d.first()).map(text);
            let hosts = resource["virtual_hosts"].as_array().into_iter().flatten();
            hosts.filter_map(domains).collect::<Vec<_>>().join(", ")
        }
        Type::Eds => {
            let localities = resource["endpoints"].as_array().into_iter().flatten();
            let endpoints = localities.flat_map(|l| l["lb_endpoints"].as_array().into_iter().flatten());
            let endpoint = |e: &Value| match &e["load_balancing_weight"] {
                Value::Null => address(&e["endpoint"]["address"]),
                weight => format!("{} (weight {weight})", address(&e["endpoint"]["address"])),
            };
            let shown: Vec<String> = endpoints.map(endpoint).collect();
            if shown.is_empty() {
                "no endpoints".to_owned()
            } else {
                shown.join(", ")
            }
        }
    }
}

fn address(address: &Value) -> String {
    let socket = &address["socket_address"];
    match (&socket["address"], &socket["port_value"]) {
        (Value::String(host), port @ Value::Number(_)) => format!("{host}:{port}"),
        _ => String::new(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(kind: Option<Type>, name: Option<&str>) -> Config {
        let (node, name) = ("a.default".to_owned(), name.map(str::to_owned));
        Config {
            node,
            kind,
            name,
            output: Form::Summary,
            diff: false,
            connection: Connection::default(),
        }
    }

    fn resources() -> Value {
        let socket = |host: &str, port: u16| json!({"socket_address": {"address": host, "port_value": port}});
        let cluster = "9080|default|reviews.outbound";
        json!({
            "node": "a.default",
            "cds": {cluster: {"type": "EDS"}, "direct": {"type": "ORIGINAL_DST"}},
            "eds": {cluster: {"endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": socket("10.244.0.5", 9080)}, "load_balancing_weight": 100},
                {"endpoint": {"address": socket("10.244.0.6", 9080)}},
            ]}]}},
            "lds": {"outbound": {"address": socket("0.0.0.0", 15001)}},
            "rds": {cluster: {"virtual_hosts": [{"domains": ["reviews", "reviews:9080"]}, {"domains": ["*"]}]}},
        })
    }

    #[test]
    fn a_row_for_each_resource() {
        let expected = "\
TYPE   NAME                            DETAIL
lds    outbound                        0.0.0.0:15001
rds    9080|default|reviews.outbound   reviews, *
cds    9080|default|reviews.outbound   EDS
cds    direct                          ORIGINAL_DST
eds    9080|default|reviews.outbound   10.244.0.5:9080 (weight 100), 10.244.0.6:9080
";
        assert_eq!(summary(&config(None, None).select(resources())), expected);
    }

    #[test]
    fn by_type_and_name() {
        let keys = |c: Config| {
            let selected = c.select(resources());
            selected
                .iter()
                .map(|(t, r)| (t.clone(), r.as_object().map_or(0, Map::len)))
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(config(Some(Type::Cds), None)), [("cds".to_owned(), 2)]);
        assert_eq!(keys(config(None, Some("direct"))), [("cds".to_owned(), 1)]);
        assert!(keys(config(None, Some("nothing"))).is_empty());
    }
}
