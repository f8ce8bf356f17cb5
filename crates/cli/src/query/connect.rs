//! Where the metric store is, and requests to it.

use std::path::PathBuf;
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::Value;

use crate::error::Error;

/// Where `weir up` and `kubectl port-forward` put the store.
const URL_DEFAULT: &str = "http://127.0.0.1:9090";
/// Time for one answer: longer than the store gives a query.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Which store.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Store {
    /// Address of the metric store, or of any server with Prometheus's API.
    #[arg(long, env = "WEIR_STORE", value_name = "URL", default_value = URL_DEFAULT, help_heading = "Store")]
    url: String,
    /// File of a bearer token that may get /api/v1, or metrics of some namespaces.
    #[arg(long, value_name = "FILE", help_heading = "Store")]
    token_file: Option<PathBuf>,
    /// The certificates (PEM) that the server's must come from (default: the system's).
    #[arg(long, value_name = "FILE", help_heading = "Store")]
    ca_file: Option<PathBuf>,
}

/// A store to ask.
pub struct Open {
    client: kube::Client,
    url: String,
}

impl Store {
    /// Reads files; does not connect yet.
    pub async fn open(&self) -> Result<Open, Error> {
        let url: http::Uri = self
            .url
            .parse()
            .map_err(|e| Error::Usage(format!("--url {}: {e}; write http://host:port", self.url)))?;
        let mut config = kube::Config::new(url);
        config.read_timeout = Some(ANSWER_TIMEOUT);
        config.default_retry = false;
        if let Some(file) = &self.token_file {
            let token = read(file).await?;
            config.auth_info.token = Some(token.trim().to_owned().into());
        }
        if let Some(file) = &self.ca_file {
            config.root_cert = Some(certificates(&read(file).await?, file)?);
        }
        let client = kube::Client::try_from(config).map_err(|e| Error::Usage(format!("--url {}: {e}", self.url)))?;
        Ok(Open {
            client,
            url: self.url.clone(),
        })
    }
}

async fn read(file: &std::path::Path) -> Result<String, Error> {
    let text = tokio::fs::read_to_string(file).await;
    text.map_err(|e| Error::Usage(format!("cannot read {}: {e}", file.display())))
}

impl Open {
    /// The JSON at a path of the API; its error where it tells one.
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        let unreachable = |why: String| {
            Error::Refused(format!(
                "cannot reach the metric store at {}: {why}.\n\
                 `weir up` has it there; of another cluster, run\n  \
                 kubectl port-forward -n weir-system service/weir-metrics 9090\n\
                 and give a token of somebody bound to the ClusterRole weir-store-reader with --token-file.",
                self.url
            ))
        };
        // A path of the URL itself is put before this one by the client.
        let request = http::Request::get(path).body(kube::client::Body::empty());
        let request = request.map_err(|e| Error::Usage(e.to_string()))?;
        let exchange = async {
            let response = self
                .client
                .send(request)
                .await
                .map_err(|e| crate::connect::root_cause(&e))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok((head.status, body))
        };
        let (status, body) = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(answered) => answered.map_err(unreachable)?,
            Err(_) => return Err(unreachable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
        };
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        match answer {
            Some(answer) if answer["status"] == "success" => Ok(answer),
            Some(answer) if answer["error"].is_string() => {
                Err(Error::Refused(answer["error"].as_str().unwrap_or_default().to_owned()))
            }
            _ => Err(Error::Answer(format!(
                "{} answers {status}, and not as Prometheus does",
                self.url
            ))),
        }
    }
}

/// The certificates of a PEM text, as DER.
fn certificates(text: &str, file: &std::path::Path) -> Result<Vec<Vec<u8>>, Error> {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found.into_iter().map(|c| c.to_vec()).collect()),
        _ => Err(Error::Usage(format!("{} holds no certificate (PEM)", file.display()))),
    }
}
