//! ClusterIP services: the node's address translation from a Service's address to one of its endpoints.
//!
//! Enters: watches of Services and EndpointSlices. Leaves: one nftables table of this network namespace, replaced as a
//! whole and only when it changes, and the route that leads to it. Nothing here knows where endpoints come from.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::Api;
use kube::runtime::reflector::{Store, store};
use rtnetlink::RouteMessageBuilder;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::controllers::watch::watch;

mod nft;
mod rules;

/// Changes within this time become one update.
const DEBOUNCE: Duration = Duration::from_millis(20);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Where Services live, and the link that a process of the node itself sends to them by: its address becomes theirs.
const SERVICE_NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);
const BRIDGE: &str = "weir0";
/// With this the kernel bridges a translated packet where it should route it, and a pod cannot reach itself.
const BRIDGE_FILTERS: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Why services cannot be translated at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the program `nft` is in none of {0}; install the package `nftables`")]
    NoNft(String),
    #[error("could not run nft: {0}")]
    Run(#[source] std::io::Error),
    #[error("nft did not end within {0:?}")]
    Slow(Duration),
    #[error("nft refused the rules: {0}")]
    Refused(String),
    #[error("no route to services: {0}")]
    Route(String),
}

/// Translates until `shutdown`, then removes the table. Must run in the node's network namespace, its bridge up.
///
/// # Errors
/// When there is no `nft`, or the route cannot be made. Rules that cannot be applied are tried again instead.
pub async fn run(client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let nft = nft::find()?;
    add_route().await?;
    route_all();
    let changed = Arc::new(Notify::new());
    let (services, mut services_writer) = store();
    let (slices, mut slices_writer) = store();
    let mut tasks = JoinSet::new();
    {
        let (api, changed) = (Api::<Service>::all(client.clone()), changed.clone());
        tasks.spawn(async move { watch(api, &mut services_writer, |_| changed.notify_one()).await });
    }
    {
        let (api, changed) = (Api::<EndpointSlice>::all(client), changed.clone());
        tasks.spawn(async move { watch(api, &mut slices_writer, |_| changed.notify_one()).await });
    }
    let keep = keep_applied(&nft, &services, &slices, &changed);
    tokio::select! {
        () = keep => {}
        () = shutdown.cancelled() => {}
    }
    tasks.shutdown().await;
    if let Err(error) = nft::apply(&nft, rules::REMOVE).await {
        debug!(%error, "the services' table stays behind");
    }
    Ok(())
}

async fn keep_applied(
    nft: &std::path::Path,
    services: &Store<Service>,
    slices: &Store<EndpointSlice>,
    changed: &Notify,
) {
    // Half a view would refuse connections that the other half allows.
    if services.wait_until_ready().await.is_err() || slices.wait_until_ready().await.is_err() {
        return;
    }
    let mut applied = String::new();
    loop {
        let wanted = rules::render(&rules::table(&services.state(), &slices.state()));
        if wanted != applied {
            match nft::apply(nft, &wanted).await {
                Ok(()) => applied = wanted,
                Err(error) => {
                    warn!(%error, "services are not up to date, trying again");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                    continue;
                }
            }
        }
        changed.notified().await;
        tokio::time::sleep(DEBOUNCE).await;
    }
}

/// Packets of the node itself need a route before they come to be translated.
async fn add_route() -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Route(error.to_string());
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| failed(&error))?;
    let driver = tokio::spawn(connection);
    let add = async {
        let link = handle
            .link()
            .get()
            .match_name(BRIDGE.to_owned())
            .execute()
            .try_next()
            .await;
        let link = link
            .map_err(|error| failed(&error))?
            .ok_or_else(|| failed(&format!("no link {BRIDGE}")))?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(SERVICE_NETWORK.0, SERVICE_NETWORK.1)
            .output_interface(link.header.index)
            .scope(rtnetlink::packet_route::route::RouteScope::Link)
            .build();
        handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(|error| failed(&error))
    };
    let result = add.await;
    driver.abort();
    result
}

/// Lets what pods send to each other be routed, whole, instead of shown to the rules on its way through the bridge.
fn route_all() {
    match std::fs::write(BRIDGE_FILTERS, "0") {
        Ok(()) => {}
        // The kernel has no such filters: as it should be.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => warn!(%error, "{BRIDGE_FILTERS} stays on: pods do not reach themselves by their Service"),
    }
}

#[cfg(test)]
mod tests;
