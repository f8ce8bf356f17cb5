//! Which cluster, and requests to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Time for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where `weir up` puts its kubeconfig; used when nothing else names a cluster.
const LOCAL_KUBECONFIG: &str = ".weir/kubeconfig";

/// Which cluster, as kubectl's flags say it.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Connection {
    /// Kubeconfig file to use (default: $KUBECONFIG, ~/.kube/config, .weir/kubeconfig).
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig.
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,
}

/// A cluster to ask.
pub struct Cluster {
    client: kube::Client,
    url: String,
    /// Namespace of the context.
    pub namespace: String,
}

impl Connection {
    /// Reads the configuration; does not connect yet.
    pub async fn open(&self) -> Result<Cluster, Error> {
        self.open_with(Some(ANSWER_TIMEOUT)).await
    }

    /// The same for streams, on which nothing may come for any time.
    pub async fn open_patiently(&self) -> Result<Cluster, Error> {
        self.open_with(None).await
    }

    async fn open_with(&self, answer_timeout: Option<Duration>) -> Result<Cluster, Error> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = answer_timeout;
        // That an aggregated API does not answer is an answer: it is told at once, not after several tries.
        config.default_retry = false;
        let (url, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
        let unusable = |e: kube::Error| Error::Kubeconfig {
            path: self.kubeconfig.clone(),
            reason: e.to_string(),
        };
        let client = kube::Client::try_from(config).map_err(unusable)?;
        Ok(Cluster { client, url, namespace })
    }

    async fn config(&self) -> Result<kube::Config, Error> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..Default::default()
        };
        let error = |path: Option<&Path>| {
            let path = path.map(Path::to_owned);
            move |e: kube::config::KubeconfigError| Error::Kubeconfig {
                path,
                reason: e.to_string(),
            }
        };
        if let Some(path) = &self.kubeconfig {
            let kubeconfig = Kubeconfig::read_from(path).map_err(error(Some(path)))?;
            return kube::Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(error(Some(path)));
        }
        if let Some(kubeconfig) = Kubeconfig::from_env().map_err(error(None))? {
            return kube::Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(error(None));
        }
        match Kubeconfig::read() {
            Ok(kubeconfig) => {
                return kube::Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .map_err(error(None));
            }
            // One that is there and cannot be read is not passed over: it may name another cluster than what comes next.
            Err(kube::config::KubeconfigError::ReadConfig(why, _)) if why.kind() == std::io::ErrorKind::NotFound => {}
            Err(kube::config::KubeconfigError::FindPath) => {}
            Err(why) => return Err(error(None)(why)),
        }
        let local = Path::new(LOCAL_KUBECONFIG);
        if local.exists() {
            let kubeconfig = Kubeconfig::read_from(local).map_err(error(Some(local)))?;
            return kube::Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(error(Some(local)));
        }
        kube::Config::incluster().map_err(|_| {
            Error::NoCluster("$KUBECONFIG is not set, and there is neither ~/.kube/config nor .weir/kubeconfig".into())
        })
    }
}

/// `group/version` and the name of its APIService, from a path below `/apis`.
fn api_of(path: &str) -> (String, String) {
    let mut parts = path.trim_start_matches('/').split(['/', '?']).skip(1);
    let (group, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    (format!("{group}/{version}"), format!("{version}.{group}"))
}

/// Whether an error means that the API behind a path does not work, or what else it says.
fn explain(path: &str, status: &kube::core::Status) -> Error {
    let (api, service) = api_of(path);
    let message = status.message.trim().to_owned();
    match status.code {
        404 if path.starts_with("/apis/") && is_unknown_path(status) => Error::NoApi { api, service },
        502..=504 => Error::ApiDown {
            api,
            service,
            reason: message.trim_end_matches('.').to_owned(),
        },
        401 => Error::Refused("the cluster does not know who you are: check the kubeconfig's user".into()),
        _ => Error::Refused(message),
    }
}

/// Nobody serves the path, as opposed to: the object does not exist.
fn is_unknown_path(status: &kube::core::Status) -> bool {
    let named = status.details.as_ref().is_some_and(|d| !d.name.is_empty());
    !named && !status.message.ends_with("not found") || status.message.contains("404 page not found")
}

impl Cluster {
    /// A client for what [`Cluster::get`] does not do.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The text at a path.
    pub async fn text(&self, path: &str) -> Result<String, Error> {
        let request = http::Request::get(path)
            .body(Vec::new())
            .map_err(|e| Error::Usage(e.to_string()))?;
        let unreachable = |reason: String| Error::Unreachable {
            url: self.url.clone(),
            reason,
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, self.client.request_text(request)).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(kube::Error::Api(status))) => Err(explain(path, &status)),
            Ok(Err(error)) => Err(unreachable(root_cause(&error))),
            Err(_) => Err(unreachable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
        }
    }

    /// The object at a path.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let text = self.text(path).await?;
        serde_json::from_str(&text).map_err(|e| Error::Answer(format!("{path}: {e}")))
    }
}

/// The innermost reason, which says most: "Connection refused" rather than "client error (Connect)".
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Escapes a query parameter's value.
pub fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str, name: &str) -> kube::core::Status {
        let details = serde_json::json!({"name": name});
        serde_json::from_value(serde_json::json!({
            "status": "Failure", "code": code, "message": message, "reason": "x", "details": details,
        }))
        .unwrap()
    }

    #[test]
    fn errors_say_what_to_do() {
        let path = "/apis/metrics.smi-spec.io/v1alpha1/pods?t=30s";
        let text = |s: kube::core::Status| explain(path, &s).to_string();
        let missing = text(status(404, "the server could not find the requested resource", ""));
        assert!(
            missing.contains("kubectl get apiservice v1alpha1.metrics.smi-spec.io"),
            "{missing}"
        );
        let down = text(status(503, "service unavailable.", ""));
        assert!(down.contains("does not answer: service unavailable.\n"), "{down}");
        let absent = text(status(404, "pods.metrics.smi-spec.io \"x\" not found", "x"));
        assert_eq!(absent, "pods.metrics.smi-spec.io \"x\" not found");
    }

    #[test]
    fn escapes() {
        assert_eq!(escape("app=foo,v in (a,b)"), "app%3Dfoo%2Cv%20in%20%28a%2Cb%29");
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let path = PathBuf::from("/does/not/exist");
        let connection = Connection {
            kubeconfig: Some(path),
            context: None,
        };
        let Err(error) = connection.open().await else {
            panic!("opened")
        };
        assert!(error.to_string().contains("/does/not/exist"), "{error}");
    }
}
