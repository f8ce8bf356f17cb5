//! The Service by which pods reach the DNS server.

use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::debug;

const NAMESPACE: &str = "kube-system";
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// It is looked after again this often, should somebody have removed it.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Keeps the Service `kube-dns` and its only endpoint.
pub async fn keep(client: Client, cluster_ip: Ipv4Addr, server: Ipv4Addr) {
    loop {
        match ensure_service(&client, cluster_ip, server).await {
            Ok(()) => tokio::time::sleep(CHECK_INTERVAL).await,
            Err(error) => {
                debug!(%error, "Service kube-dns is not there yet");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

async fn ensure_service(client: &Client, cluster_ip: Ipv4Addr, server: Ipv4Addr) -> Result<(), kube::Error> {
    let of = |value| serde_json::from_value(value).map_err(kube::Error::SerdeError);
    let service: Service = of(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": NAMESPACE, "labels": {"k8s-app": "kube-dns"}},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    }))?;
    ensure(&Api::namespaced(client.clone(), NAMESPACE), &service).await?;
    let of = |value| serde_json::from_value(value).map_err(kube::Error::SerdeError);
    let slice: EndpointSlice = of(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kube-dns-node", "namespace": NAMESPACE, "labels": {
            "kubernetes.io/service-name": "kube-dns",
            "endpointslice.kubernetes.io/managed-by": "weir-local",
        }},
        "addressType": "IPv4",
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
        "endpoints": [{"addresses": [server], "conditions": {"ready": true, "serving": true, "terminating": false}}],
    }))?;
    ensure(&Api::namespaced(client.clone(), NAMESPACE), &slice).await
}

async fn ensure<K>(api: &Api<K>, object: &K) -> Result<(), kube::Error>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    match api.create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => api
            .patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(object))
            .await
            .map(drop),
        other => other.map(drop),
    }
}
