//! What happens to a request, in words: the way of one request through the configuration that a node is sent.
//!
//! Enters: the mesh, a node's snapshot, a request. Leaves: steps, each with the resource it comes from. It reads the very
//! resources that are sent, as a proxy would; it sends nothing and does not know what a proxy has taken.

mod cluster;
mod destination;
mod listener;
mod route;
mod words;

use weir_api::mesh_status::{Explanation, Step};
use weir_mesh::{Key, Mesh, Pod};
use weir_xds::Snapshot;

pub use destination::Url;

/// A request that somebody wants to know about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, ...
    pub method: String,
    /// Where it goes.
    pub url: Url,
    /// Further headers, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// A request from the parameters of a query: `url`, `method` (GET), `header` (`Name: value`, any number).
    pub fn from_parameters(parameters: &[(String, String)]) -> Result<Self, Error> {
        let of = |name: &'static str| {
            parameters
                .iter()
                .filter(move |(n, _)| n == name)
                .map(|(_, value)| value.as_str())
        };
        let url = of("url").next();
        let url = url.ok_or_else(|| {
            Error::Url("parameter url is missing; write for example url=http://reviews:9080/".to_owned())
        })?;
        let header = |text: &str| {
            let (name, value) = text.split_once(':')?;
            let name = name.trim().to_ascii_lowercase();
            (!name.is_empty()).then(|| (name, value.trim().to_owned()))
        };
        let headers = of("header").map(|text| header(text).ok_or_else(|| Error::Header(text.to_owned())));
        Ok(Self {
            method: of("method").next().unwrap_or("GET").to_ascii_uppercase(),
            url: Url::parse(url)?,
            headers: headers.collect::<Result<_, _>>()?,
        })
    }

    /// The value of a header or of a pseudo-header.
    fn header(&self, name: &str) -> Option<String> {
        match name {
            ":method" => Some(self.method.clone()),
            ":path" => Some(self.url.path.clone()),
            ":scheme" => Some(self.url.scheme.clone()),
            ":authority" | "host" => Some(self.authority()),
            name => {
                let of_name = |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
                self.headers.iter().find(of_name).map(|(_, value)| value.clone())
            }
        }
    }

    /// The host that the request names: its `host` header, else that of the URL.
    fn authority(&self) -> String {
        let of_host = |(n, _): &&(String, String)| n.eq_ignore_ascii_case("host");
        let said = self.headers.iter().find(of_host).map(|(_, value)| value.clone());
        said.unwrap_or_else(|| self.url.authority())
    }
}

/// Why a request cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The URL is not one.
    #[error("{0}")]
    Url(String),
    /// A header is not one.
    #[error("{0:?} is not a header; write Name: value")]
    Header(String),
    /// The pod does not exist.
    #[error("pod {0} does not exist")]
    NoPod(Key),
    /// A resource cannot be read.
    #[error("{resource} cannot be read: {reason}")]
    Unreadable {
        /// Type and name.
        resource: String,
        /// What is wrong.
        reason: String,
    },
}

/// The walk as it goes: what is known, and what was said so far.
struct Walk<'a> {
    mesh: &'a Mesh,
    snapshot: &'a Snapshot,
    request: &'a Request,
    said: Explanation,
}

impl Walk<'_> {
    fn say(&mut self, stage: &str, text: impl Into<String>, resource: &str) -> &mut Step {
        self.said.steps.push(Step {
            stage: stage.to_owned(),
            text: text.into(),
            resource: resource.to_owned(),
            ..Step::default()
        });
        let last = self.said.steps.len() - 1;
        &mut self.said.steps[last]
    }

    fn end(&mut self, outcome: impl Into<String>) {
        self.said.outcome = outcome.into();
    }
}

/// Explains a request that a pod makes. `snapshot` is what the pod's node is sent.
pub fn request_of_pod(mesh: &Mesh, pod: &Key, snapshot: &Snapshot, request: &Request) -> Result<Explanation, Error> {
    let from = mesh.pods.get(pod).ok_or_else(|| Error::NoPod(pod.clone()))?;
    let mut walk = Walk {
        mesh,
        snapshot,
        request,
        said: Explanation::default(),
    };
    if captured(&mut walk, pod, from)
        && let Some(destination) = destination::resolve(&mut walk, pod)
    {
        listener::follow(&mut walk, &destination)?;
    }
    Ok(walk.said)
}

/// Whether the pod's traffic passes a proxy at all.
fn captured(walk: &mut Walk<'_>, key: &Key, pod: &Pod) -> bool {
    if pod.host_network {
        walk.say(
            "pod",
            format!("pod {key} uses its machine's network and is never captured"),
            "",
        );
    } else if !pod.enabled {
        walk.say(
            "pod",
            format!("pod {key} asks for no proxy (traffic.envoy.enabled is not \"true\")"),
            "",
        );
    } else {
        let state = if pod.proxy.is_empty() {
            "its proxy does not run yet, so that traffic is not captured now".to_owned()
        } else {
            format!("proxy {}", pod.proxy.chars().take(12).collect::<String>())
        };
        walk.say("pod", format!("pod {key}, engine {}: {state}", pod.engine), "");
        return true;
    }
    walk.end("the request goes where the cluster's network leads it, untouched by the mesh");
    false
}

#[cfg(test)]
mod tests;
