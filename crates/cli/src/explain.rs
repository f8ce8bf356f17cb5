//! `explain`: what happens to a request, by the configuration that the pod's proxy is sent.

use std::process::ExitCode;

use serde_json::Value;
use weir_api::mesh_status::Explanation;

use crate::connect::{Connection, escape};
use crate::error::Error;
use crate::proxies::base_path;
use crate::watch::{Output, print};

/// Room for the longest stage, and what separates it from the text.
const STAGE_CHARS: usize = 11;

/// Arguments of `explain`.
#[derive(clap::Args, Clone, Debug)]
pub struct Explain {
    /// The pod that makes the request: POD or POD.NAMESPACE.
    pod: String,
    /// Where it goes, such as http://reviews:9080/reviews/0.
    url: String,
    /// Method of the request.
    #[arg(short = 'X', long = "request", value_name = "METHOD", default_value = "GET")]
    method: String,
    /// A header of the request, `Name: value`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Namespace of the pod (default: the context's).
    #[arg(short = 'n', long, value_name = "NAME")]
    namespace: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Explain {
    /// Shows the steps. The exit code is 1 where the request reaches no endpoint.
    pub async fn run(self) -> Result<ExitCode, Error> {
        let cluster = self.connection.open().await?;
        let (pod, of_name) = match self.pod.rsplit_once('.') {
            Some((pod, namespace)) => (pod, Some(namespace)),
            None => (self.pod.as_str(), None),
        };
        let namespace = of_name.or(self.namespace.as_deref()).unwrap_or(&cluster.namespace);
        let mut path = format!(
            "{}/namespaces/{}/proxies/{}/explain?url={}&method={}",
            base_path(),
            escape(namespace),
            escape(pod),
            escape(&self.url),
            escape(&self.method),
        );
        for header in &self.headers {
            path.push_str("&header=");
            path.push_str(&escape(header));
        }
        let answer: Value = cluster.get(&path).await?;
        let raw = self.output.raw(&answer)?;
        let way: Explanation = serde_json::from_value(answer).map_err(|e| Error::Answer(format!("{path}: {e}")))?;
        print(&raw.unwrap_or_else(|| render(&way, self.output == Output::Wide)));
        Ok(if way.forwarded {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// A paragraph a step; with `resources`, where each one comes from.
fn render(way: &Explanation, resources: bool) -> String {
    let mut out = String::new();
    let mut before = "";
    for step in &way.steps {
        let stage = if step.stage == before { "" } else { &step.stage };
        before = &step.stage;
        out.push_str(&format!("{stage:STAGE_CHARS$}{}\n", step.text));
        let source = (resources && !step.resource.is_empty()).then(|| format!("({})", step.resource));
        for detail in step.details.iter().chain(&source) {
            out.push_str(&format!("{:STAGE_CHARS$}  {detail}\n", ""));
        }
    }
    out.push_str(&format!("\n{}.\n", way.outcome));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_api::mesh_status::Step;

    #[test]
    fn a_paragraph_a_step() {
        let step = |stage: &str, text: &str, details: &[&str]| Step {
            stage: stage.into(),
            text: text.into(),
            details: details.iter().map(|d| (*d).into()).collect(),
            resource: "eds/c".into(),
        };
        let way = Explanation {
            steps: vec![
                step("cluster", "c: ROUND_ROBIN", &["limit for a connection: 1m"]),
                step("endpoint", "10.0.0.1:80", &[]),
                step("endpoint", "10.0.0.2:80", &[]),
            ],
            outcome: "the request reaches an endpoint".into(),
            forwarded: true,
        };
        let expected = "\
cluster    c: ROUND_ROBIN
             limit for a connection: 1m
endpoint   10.0.0.1:80
           10.0.0.2:80

the request reaches an endpoint.
";
        assert_eq!(render(&way, false), expected);
        assert!(render(&way, true).contains("             (eds/c)\n"));
    }
}
