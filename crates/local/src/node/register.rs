//! The Node object: made at the start, kept alive by its lease and its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::network::NODE_IP;
use super::{KUBELET_PORT, NODE_NAME, Node};

/// How often the lease is renewed; clients think a node dead after 40 s.
const LEASE_INTERVAL: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// How often the status is written although nothing changed, counted in renewals of the lease.
const STATUS_EVERY: u32 = 6;

/// Creates the Node and its Lease, then renews them until the node stops.
pub async fn run(node: Arc<Node>) {
    let keep = async {
        let mut round = 0u32;
        loop {
            let outcome = if round == 0 {
                create(&node).await
            } else {
                renew(&node, round).await
            };
            let wait = match outcome {
                Ok(()) => {
                    round = round.saturating_add(1);
                    LEASE_INTERVAL
                }
                Err(error) => {
                    tracing::debug!(%error, "node not registered or renewed");
                    if matches!(&error, kube::Error::Api(status) if status.code == 404) {
                        // Somebody has deleted it: it is made again.
                        round = 0;
                    }
                    Duration::from_millis(500)
                }
            };
            tokio::time::sleep(wait).await;
        }
    };
    node.stopping.run_until_cancelled(keep).await;
}

async fn create(node: &Node) -> Result<(), kube::Error> {
    let api: Api<NodeObject> = Api::all(node.client.clone());
    let labels = BTreeMap::from([
        ("kubernetes.io/hostname", NODE_NAME),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch()),
        ("node-role.kubernetes.io/control-plane", ""),
    ]);
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE_NAME, "labels": labels},
        "spec": {"podCIDR": "10.244.0.0/16", "podCIDRs": ["10.244.0.0/16"], "providerID": "weir://weir-local"}
    });
    let object: NodeObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => drop(other?),
    }
    api.patch_status(
        NODE_NAME,
        &PatchParams::default(),
        &Patch::Merge(json!({"status": status()})),
    )
    .await?;
    let leases: Api<Lease> = Api::namespaced(node.client.clone(), "kube-node-lease");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": NODE_NAME, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": NODE_NAME, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": MicroTime(Timestamp::now())}
    });
    let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
    match leases.create(&PostParams::default(), &lease).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}

async fn renew(node: &Node, round: u32) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(node.client.clone(), "kube-node-lease");
    let patch = json!({"spec": {"renewTime": MicroTime(Timestamp::now())}});
    leases
        .patch(NODE_NAME, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    let api: Api<NodeObject> = Api::all(node.client.clone());
    let old = api.get(NODE_NAME).await?;
    if round.is_multiple_of(STATUS_EVERY) {
        let now = Timestamp::now().to_string();
        let mut conditions =
            serde_json::to_value(old.status.and_then(|status| status.conditions)).map_err(kube::Error::SerdeError)?;
        for condition in conditions.as_array_mut().into_iter().flatten() {
            condition["lastHeartbeatTime"] = json!(now);
        }
        let patch = json!({"status": {"conditions": conditions}});
        api.patch_status(NODE_NAME, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }
    Ok(())
}

fn status() -> Value {
    let cpu = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let capacity = json!({
        "cpu": cpu.to_string(), "memory": format!("{}Ki", memory_bytes() / 1024), "pods": "250",
        "ephemeral-storage": "10Gi"
    });
    let now = Timestamp::now().to_string();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    json!({
        "capacity": capacity, "allocatable": capacity,
        "addresses": [
            {"type": "InternalIP", "address": NODE_IP.to_string()},
            {"type": "Hostname", "address": NODE_NAME}
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status")
        ],
        "nodeInfo": {
            "machineID": read("/etc/machine-id"), "systemUUID": "", "bootID": read("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": read("/proc/sys/kernel/osrelease"), "osImage": os_image(),
            "containerRuntimeVersion": concat!("weir://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": "v1.37.0", "kubeProxyVersion": "v1.37.0",
            "operatingSystem": "linux", "architecture": arch()
        }
    })
}

/// The machine's memory.
pub fn memory_bytes() -> u64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line
        .and_then(|line| line.trim().split(' ').next())
        .and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(1024 * 1024) * 1024
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_string())
        .unwrap_or_default()
}

fn os_image() -> String {
    let text = read("/etc/os-release");
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map(|name| name.trim_matches('"').to_string())
        .unwrap_or_else(|| "Linux".into())
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
