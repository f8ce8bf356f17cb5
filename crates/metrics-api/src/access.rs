//! Who may read the store's own HTTP API: all of it whoever the Kubernetes API lets `get` the path `/api/v1`; the series of
//! a namespace whoever may `list` the traffic metrics of its pods.

use futures::StreamExt;
use kube::Client;
use weir_api::status::Status;

use crate::aggregated::{Attributes, Authenticator, Authorizer};

/// The path whose `get` decides (`nonResourceURLs` of a ClusterRole).
const PATH: &str = "/api/v1";
/// Namespaces that are asked about for one caller; beyond, it needs the right to all.
const MAX_NAMESPACES: usize = 2000;
/// Questions under way at the same time for one caller.
const MAX_CONCURRENT: usize = 16;

/// What a caller sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Everything.
    All,
    /// The series of these namespaces; at least one.
    Namespaces(Vec<String>),
}

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

    /// What the value of the `Authorization` header gives access to, of the `namespaces` that the store has series of;
    /// else what to answer. The namespaces are awaited for callers only who need them: nobody else causes that work.
    pub async fn check(
        &self,
        authorization: Option<&str>,
        namespaces: impl Future<Output = Result<Vec<String>, Status>>,
    ) -> Result<Seen, Status> {
        let token = authorization
            .and_then(|a| a.split_once(' '))
            .filter(|(s, _)| s.eq_ignore_ascii_case("bearer"));
        let (_, token) = token.ok_or_else(Status::unauthorized)?;
        let identity = self.authenticator.token(token.trim()).await?;
        let path = Attributes::Path {
            verb: "get".into(),
            path: PATH.into(),
        };
        let refused = match self.authorizer.authorize(&identity, path).await {
            Ok(()) => return Ok(Seen::All),
            Err(status) if status.code == 403 => status,
            Err(status) => return Err(status),
        };
        let of = |namespace: String| {
            let identity = &identity;
            async move {
                let allowed = self.authorizer.authorize(identity, traffic_metrics(&namespace)).await;
                (namespace, allowed)
            }
        };
        // Of all namespaces at once, as a ClusterRoleBinding gives it.
        let of_all = match of(String::new()).await.1 {
            Ok(()) => true,
            Err(status) if status.code == 403 => false,
            Err(status) => return Err(status),
        };
        let namespaces = namespaces.await?;
        match of_all {
            true if namespaces.is_empty() => return Err(refused),
            true => return Ok(Seen::Namespaces(namespaces)),
            false => {}
        }
        let asked = futures::stream::iter(namespaces.into_iter().take(MAX_NAMESPACES).map(of));
        let mut asked = asked.buffer_unordered(MAX_CONCURRENT);
        let mut seen = Vec::new();
        while let Some((namespace, allowed)) = asked.next().await {
            match allowed {
                Ok(()) => seen.push(namespace),
                Err(status) if status.code == 403 => {}
                Err(status) => return Err(status),
            }
        }
        if seen.is_empty() {
            return Err(refused);
        }
        seen.sort();
        Ok(Seen::Namespaces(seen))
    }
}

fn traffic_metrics(namespace: &str) -> Attributes {
    Attributes::Resource {
        verb: "list".into(),
        group: weir_api::traffic_metrics::GROUP.into(),
        version: weir_api::traffic_metrics::V1ALPHA1.into(),
        resource: "pods".into(),
        subresource: String::new(),
        namespace: namespace.into(),
        name: String::new(),
    }
}

#[cfg(test)]
mod tests;
