//! The cluster's DNS: names of Services and pods.
//!
//! Enters: queries over UDP and TCP, watches of Services and EndpointSlices. Leaves: answers from a zone that is
//! rebuilt when those change, and, for names outside the cluster, answers of the machine's own resolvers if they can
//! be reached from here. Nothing here knows how addresses are routed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::Api;
use kube::runtime::reflector::store;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::controllers::watch::watch;

mod forward;
mod install;
mod server;
mod zone;

use zone::Zone;

/// Changes within this time become one new zone.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// Where pods find the server, and where the node has it.
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const PORT: u16 = 53;

/// Where to serve, and whom to ask about the rest of the world.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on, over UDP and TCP.
    pub addresses: Vec<SocketAddr>,
    /// Resolvers for names outside the cluster, in order of preference.
    pub upstreams: Vec<SocketAddr>,
    /// The address under which pods know this server: Service `kube-dns` in `kube-system` is kept with it, pointing
    /// at the first of `addresses`. None: no such Service is made.
    pub cluster_ip: Option<Ipv4Addr>,
}

impl Config {
    /// As a node has it: the node's address, the machine's resolvers.
    pub fn of_node() -> Self {
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Self {
            addresses: vec![(SERVER, PORT).into()],
            upstreams: forward::resolvers(&resolv_conf),
            cluster_ip: Some(CLUSTER_IP),
        }
    }
}

/// Why there can be no DNS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("DNS cannot listen on {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
}

/// Serves the node's pods until `shutdown`.
///
/// # Errors
/// When the node's address cannot be listened on.
pub async fn run(client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    serve(client, Config::of_node(), shutdown).await
}

/// Serves until `shutdown`.
///
/// # Errors
/// When an address cannot be listened on. Until the API has answered, queries get SERVFAIL.
pub async fn serve(client: Client, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let zone: Arc<ArcSwapOption<Zone>> = Arc::default();
    let mut tasks = JoinSet::new();
    let answers = Arc::new(server::Answers::new(zone.clone(), config.upstreams));
    for &address in &config.addresses {
        let sockets = server::bind(address)
            .await
            .map_err(|source| Error::Bind { address, source })?;
        tasks.spawn(server::serve(sockets, answers.clone()));
    }
    let changed = Arc::new(Notify::new());
    let (services, mut services_writer) = store();
    let (slices, mut slices_writer) = store();
    {
        let (api, changed) = (Api::<Service>::all(client.clone()), changed.clone());
        tasks.spawn(async move { watch(api, &mut services_writer, |_| changed.notify_one()).await });
    }
    {
        let (api, changed) = (Api::<EndpointSlice>::all(client.clone()), changed.clone());
        tasks.spawn(async move { watch(api, &mut slices_writer, |_| changed.notify_one()).await });
    }
    tasks.spawn(async move {
        if services.wait_until_ready().await.is_err() || slices.wait_until_ready().await.is_err() {
            return;
        }
        loop {
            zone.store(Some(Arc::new(Zone::build(&services.state(), &slices.state()))));
            changed.notified().await;
            tokio::time::sleep(DEBOUNCE).await;
        }
    });
    let server = config.addresses.iter().find_map(|address| match address {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    });
    if let (Some(cluster_ip), Some(server)) = (config.cluster_ip, server) {
        tasks.spawn(install::keep(client, cluster_ip, server));
    }
    shutdown.cancelled().await;
    tasks.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests;
