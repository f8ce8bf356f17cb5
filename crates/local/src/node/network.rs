//! Addresses and links: the node's bridge, and a pod's network namespace.
//!
//! Enters: a namespace name and an address. Leaves: a namespace file under /run/netns whose eth0 has that address. Pods
//! have /32 addresses and everything goes through the node's routing, so that service address translation sees both
//! directions of every connection.

use std::collections::HashSet;
use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use futures::TryStreamExt;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// The node's address: gateway of every pod, InternalIP of the node.
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// Prefix length of the pod network.
pub const POD_PREFIX: u8 = 16;
pub(super) const BRIDGE: &str = "weir0";
/// Fixed, so that the bridge does not take over the address of a port and invalidate the pods' neighbour tables.
const BRIDGE_MAC: [u8; 6] = [0x0a, 0x58, 10, 244, 0, 1];
/// Kernel settings of the node's network namespace.
const SYSCTLS: [(&str, &str); 8] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/rp_filter", "2"),
    ("net/ipv4/conf/default/rp_filter", "2"),
    ("net/ipv4/neigh/default/gc_thresh1", "1024"),
];

/// Why a link, address or namespace could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{what}: {source}")]
    Netlink {
        what: &'static str,
        source: rtnetlink::Error,
    },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("no link named {0}")]
    NoLink(String),
    #[error("every address of 10.244.0.0/16 is in use")]
    Exhausted,
}

/// Sets up the node's namespace: loopback, bridge, forwarding.
pub async fn set_up_node() -> Result<(), NetworkError> {
    for (key, value) in SYSCTLS {
        let path = Path::new("/proc/sys").join(key);
        if let Err(source) = fs::write(&path, value) {
            // Some are not offered inside a user namespace; without forwarding nothing would work.
            if key.ends_with("ip_forward") {
                return Err(NetworkError::Io {
                    what: format!("write {}", path.display()),
                    source,
                });
            }
            tracing::debug!(key, error = %source, "sysctl not set");
        }
    }
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| NetworkError::Io {
        what: "netlink".into(),
        source,
    })?;
    let driver = tokio::spawn(connection);
    let result = set_up_bridge(&handle).await;
    driver.abort();
    result
}

async fn set_up_bridge(handle: &Handle) -> Result<(), NetworkError> {
    up(handle, link_index(handle, "lo").await?).await?;
    let bridge = LinkBridge::new(BRIDGE).address(BRIDGE_MAC.to_vec()).up().build();
    handle
        .link()
        .add(bridge)
        .execute()
        .await
        .map_err(netlink("add the bridge"))?;
    let index = link_index(handle, BRIDGE).await?;
    let address = handle.address().add(index, IpAddr::V4(NODE_IP), POD_PREFIX);
    address
        .execute()
        .await
        .map_err(netlink("give the bridge its address"))?;
    up(handle, index).await
}

/// Makes a network namespace for a pod, bound to `path`, with `ip` on its eth0.
///
/// # Errors
/// When the kernel refuses; what was made until then is undone.
pub async fn add_pod(path: PathBuf, ip: Ipv4Addr, veth: String) -> Result<(), NetworkError> {
    let undo = path.clone();
    let result = on_own_thread("pod-network", move |runtime| {
        runtime.block_on(make_pod_namespace(&path, ip, &veth))
    })
    .await;
    if result.is_err() {
        remove_pod(&undo);
    }
    result
}

/// Removes the namespace file; the kernel removes links and addresses with the last process.
pub fn remove_pod(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

async fn make_pod_namespace(path: &Path, ip: Ipv4Addr, veth: &str) -> Result<(), NetworkError> {
    let io = |what: &str| {
        let what = what.to_string();
        move |source| NetworkError::Io { what, source }
    };
    let node_ns = File::open("/proc/thread-self/ns/net").map_err(io("open the node's namespace"))?;
    // A netlink socket belongs to the namespace it was made in, whatever its thread does later.
    let (connection, node, _) = rtnetlink::new_connection().map_err(io("netlink"))?;
    tokio::spawn(connection);
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| io("unshare")(e.into()))?;
    let (connection, pod, _) = rtnetlink::new_connection().map_err(io("netlink"))?;
    tokio::spawn(connection);
    File::create(path).map_err(io("create the namespace file"))?;
    let none: Option<&str> = None;
    mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)
        .map_err(|e| io("bind the namespace")(e.into()))?;

    pod.link()
        .add(LinkVeth::new("eth0", veth).build())
        .execute()
        .await
        .map_err(netlink("add the veth pair"))?;
    let outer = link_index(&pod, veth).await?;
    let moved = LinkUnspec::new_with_index(outer)
        .setns_by_fd(node_ns.as_raw_fd())
        .build();
    pod.link()
        .set(moved)
        .execute()
        .await
        .map_err(netlink("move the veth to the node"))?;
    let bridge = link_index(&node, BRIDGE).await?;
    let outer = link_index(&node, veth).await?;
    let port = LinkUnspec::new_with_index(outer).controller(bridge).up().build();
    node.link()
        .set(port)
        .execute()
        .await
        .map_err(netlink("attach the veth to the bridge"))?;

    up(&pod, link_index(&pod, "lo").await?).await?;
    let eth0 = link_index(&pod, "eth0").await?;
    pod.address()
        .add(eth0, IpAddr::V4(ip), 32)
        .execute()
        .await
        .map_err(netlink("give the pod its address"))?;
    up(&pod, eth0).await?;
    let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(NODE_IP, 32)
        .output_interface(eth0)
        .scope(RouteScope::Link)
        .build();
    pod.route()
        .add(gateway)
        .execute()
        .await
        .map_err(netlink("add the route to the gateway"))?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(NODE_IP)
        .output_interface(eth0)
        .onlink()
        .build();
    pod.route()
        .add(default)
        .execute()
        .await
        .map_err(netlink("add the default route"))?;
    Ok(())
}

/// Runs a closure on a thread of its own with a single-threaded runtime: what it does to the thread's namespaces ends
/// with the thread.
pub async fn on_own_thread<T, F>(name: &str, work: F) -> Result<T, NetworkError>
where
    T: Send + 'static,
    F: FnOnce(&tokio::runtime::Runtime) -> Result<T, NetworkError> + Send + 'static,
{
    let (done, result) = tokio::sync::oneshot::channel();
    let failed = |source| NetworkError::Io {
        what: "start a thread".into(),
        source,
    };
    std::thread::Builder::new()
        .name(name.to_string())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let outcome = runtime
                .map_err(|source| NetworkError::Io {
                    what: "start a runtime".into(),
                    source,
                })
                .and_then(|runtime| work(&runtime));
            let _ = done.send(outcome);
        })
        .map_err(failed)?;
    result
        .await
        .map_err(|_| failed(io::Error::other("the thread panicked")))?
}

fn netlink(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    move |source| NetworkError::Netlink { what, source }
}

async fn link_index(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    let mut links = handle.link().get().match_name(name.to_string()).execute();
    let found = links.try_next().await.map_err(netlink("look up a link"))?;
    found
        .map(|link| link.header.index)
        .ok_or_else(|| NetworkError::NoLink(name.to_string()))
}

fn up(handle: &Handle, index: u32) -> impl Future<Output = Result<(), NetworkError>> {
    let request = handle.link().set(LinkUnspec::new_with_index(index).up().build());
    async move { request.execute().await.map_err(netlink("set a link up")) }
}

/// Hands out pod addresses; a freed one is not used again until all others were.
#[derive(Debug, Default)]
pub struct Addresses(Mutex<AddressPool>);

#[derive(Debug, Default)]
struct AddressPool {
    used: HashSet<Ipv4Addr>,
    next: u16,
}

/// 10.244.0.0/24 is the node's own.
const FIRST_HOST: u16 = 0x0100;
const LAST_HOST: u16 = 0xfffe;

impl Addresses {
    /// Takes a free address.
    pub fn take(&self) -> Result<Ipv4Addr, NetworkError> {
        let mut pool = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for _ in FIRST_HOST..=LAST_HOST {
            let host = pool.next.max(FIRST_HOST);
            pool.next = if host >= LAST_HOST { FIRST_HOST } else { host + 1 };
            let [high, low] = host.to_be_bytes();
            let ip = Ipv4Addr::new(10, 244, high, low);
            if low != 0 && low != 255 && pool.used.insert(ip) {
                return Ok(ip);
            }
        }
        Err(NetworkError::Exhausted)
    }

    /// Gives an address back.
    pub fn release(&self, ip: Ipv4Addr) {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .used
            .remove(&ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_distinct_and_go_round_before_reuse() {
        let addresses = Addresses::default();
        let first = addresses.take().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 244, 1, 1));
        addresses.release(first);
        let mut seen = HashSet::new();
        while let Ok(ip) = addresses.take() {
            assert!(seen.insert(ip), "{ip} handed out twice");
        }
        assert!(seen.contains(&first));
        assert_eq!(seen.len(), 255 * 254);
        addresses.release(first);
        assert_eq!(addresses.take().unwrap(), first);
    }
}
