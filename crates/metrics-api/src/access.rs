//! Who may read the store's own HTTP API: whoever the Kubernetes API lets `get` the path `/api/v1`.

use kube::Client;
use weir_api::status::Status;

use crate::aggregated::{Attributes, Authenticator, Authorizer};

/// The path whose `get` decides (`nonResourceURLs` of a ClusterRole).
const PATH: &str = "/api/v1";

/// Checks bearer tokens of the store's clients.
pub struct StoreAccess {
    authenticator: Authenticator,
    authorizer: Authorizer,
}

impl StoreAccess {
    /// Asks through this client.
    pub fn new(client: Client) -> Self {
        StoreAccess {
            authenticator: Authenticator::new(client.clone()),
            authorizer: Authorizer::new(client),
        }
    }

    /// `Ok` when the value of the `Authorization` header gives access; else what to answer.
    pub async fn check(&self, authorization: Option<&str>) -> Result<(), Status> {
        let token = authorization
            .and_then(|a| a.split_once(' '))
            .filter(|(s, _)| s.eq_ignore_ascii_case("bearer"));
        let (_, token) = token.ok_or_else(Status::unauthorized)?;
        let identity = self.authenticator.token(token.trim()).await?;
        let attributes = Attributes::Path {
            verb: "get".into(),
            path: PATH.into(),
        };
        self.authorizer.authorize(&identity, attributes).await
    }
}
