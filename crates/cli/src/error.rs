//! What went wrong, in words that say what to do next.

use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cluster is configured.
    #[error(
        "no cluster is configured ({0}).\n\
         Start one with `weir up` and `export KUBECONFIG=$PWD/.weir/kubeconfig`, or name one with --kubeconfig FILE."
    )]
    NoCluster(String),
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig{}: {reason}", .path.as_ref().map(|p| format!(" {}", p.display())).unwrap_or_default())]
    Kubeconfig {
        /// Which one, where it was named.
        path: Option<PathBuf>,
        /// Why.
        reason: String,
    },
    /// Nobody answers.
    #[error(
        "cannot reach the Kubernetes API at {url}: {reason}.\nIs the cluster running? `kubectl version` must work."
    )]
    Unreachable {
        /// Where it should be.
        url: String,
        /// Why.
        reason: String,
    },
    /// The API is not there.
    #[error(
        "the cluster has no API {api}: is Weir installed?\n\
         `weir install | kubectl apply -f -` installs it; `kubectl get apiservice {service}` shows its state."
    )]
    NoApi {
        /// Group and version.
        api: String,
        /// Name of its APIService.
        service: String,
    },
    /// The API is there and does not work.
    #[error(
        "the API {api} does not answer: {reason}.\n\
         `kubectl get apiservice {service}` and `kubectl get pods -n weir-system` show why."
    )]
    ApiDown {
        /// Group and version.
        api: String,
        /// Name of its APIService.
        service: String,
        /// What the API server said.
        reason: String,
    },
    /// The server said no.
    #[error("{0}")]
    Refused(String),
    /// The answer makes no sense.
    #[error("the server's answer cannot be read: {0}")]
    Answer(String),
    /// The arguments do not fit together.
    #[error("{0}")]
    Usage(String),
}
