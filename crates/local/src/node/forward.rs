//! The host's way to Services: connections to a port of the host's go on to a Service's ClusterIP, byte for byte.
//!
//! Enters: listeners that `weir up` has bound on the host, and which Service each stands for. Leaves: connections from the
//! node. It knows nothing of what is spoken on them; an address that no Service has yet closes the connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::env::Lookup;

/// Connections at a time, of each port.
const CONNECTIONS_MAX: usize = 1024;
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A port of the host that leads to a Service's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Where the host listens.
    pub address: SocketAddr,
    /// The Service.
    pub namespace: String,
    pub service: String,
    /// Its port.
    pub port: u16,
    /// The option of `weir up` by which the host's port is chosen, for messages.
    pub option: String,
}

/// Serves one port until `shutdown`.
pub async fn run(node: Arc<Node>, listener: TcpListener, forward: Forward, shutdown: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            let Ok((client, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let target = cluster_address(&node, &forward);
            let of = forward.clone();
            tokio::spawn(async move {
                if let Err(error) = carry(client, target).await {
                    tracing::debug!(service = of.service, namespace = of.namespace, %error, "connection of the host");
                }
                drop(permit);
            });
        }
    };
    shutdown.run_until_cancelled(accept).await;
}

async fn carry(mut client: TcpStream, target: Option<SocketAddr>) -> std::io::Result<()> {
    let target = target.ok_or_else(|| std::io::Error::other("the Service is not there"))?;
    let mut server = timeout(CONNECT_DEADLINE, TcpStream::connect(target)).await??;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// Where the node reaches the Service.
fn cluster_address(node: &Node, forward: &Forward) -> Option<SocketAddr> {
    let services = node.caches.services(&forward.namespace);
    let service = services
        .iter()
        .find(|service| service.metadata.name.as_deref() == Some(&forward.service))?;
    let ip = service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()?;
    Some(SocketAddr::new(ip, forward.port))
}
